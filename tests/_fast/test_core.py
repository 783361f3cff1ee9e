"""The engine's bookkeeping: who has more to do, who is to be reaped, and that neither grows or is walked through."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from edge._fast.core import CoreProbe
from tests._fast.engine import JSON, Rig, bounded, nothing_kept

__all__ = ["nothing_kept"]

CAPACITY = 5


class ReadyMachine(RuleBasedStateMachine):
    """Whoever is ready comes out once, first come first served; who has gone does not, and its slot's next one may."""

    def __init__(self) -> None:
        super().__init__()
        self.core = CoreProbe(CAPACITY)
        self.live: set[int] = set()
        self.ready: list[int] = []
        self.recycled: set[int] = set()  # slots whose place in the queue is that of one that has gone

    @rule()
    def open(self) -> None:
        if len(self.live) < CAPACITY:
            self.live.add(self.core.open())

    @rule(slot=st.integers(0, CAPACITY - 1))
    def mark(self, slot: int) -> None:
        if slot in self.live:
            self.core.ready(slot)
            if slot not in self.ready:
                self.ready.append(slot)

    @rule(slot=st.integers(0, CAPACITY - 1))
    def kill(self, slot: int) -> None:
        if slot in self.live:
            self.core.kill(slot)
            self.live.discard(slot)
            if slot in self.ready:
                self.ready.remove(slot)
                self.recycled.add(slot)

    @rule()
    def take(self) -> None:
        slot = self.core.take()
        assert (slot is None) == (not self.ready)
        if slot is not None:
            first = next(other for other in self.ready if other not in self.recycled or other == slot)
            assert slot in self.recycled or slot == first
            self.ready.remove(slot)
            self.recycled.discard(slot)
        assert self.core.waiting() <= CAPACITY

    def teardown(self) -> None:
        while self.ready:
            self.take()
        assert self.core.take() is None
        assert self.core.waiting() == 0
        del self.core


TestReady = ReadyMachine.TestCase
TestReady.settings = bounded(100, steps=50)


def test_a_mass_close_is_as_quick_as_its_sockets_are_many() -> None:
    """Each of them is ready as it goes: nobody is searched for."""
    core = CoreProbe(60_000)
    for _ in range(60_000):
        core.ready(core.open())
    for slot in range(60_000):
        core.kill(slot)
    assert core.take() is None
    assert core.waiting() == 0


def test_everybody_leaves_at_once() -> None:
    with Rig(capacity=300) as rig:
        rig.room("a")
        viewers = [rig.connect("a", JSON) for _ in range(200)]
        rig.until(lambda: all(viewer.position for viewer in viewers))
        for viewer in viewers:
            rig.leave(viewer, reset=True)
        rig.until(lambda: rig.count("connections") == 0)
        assert rig.count("closed_gone") == 200
        assert rig.count("viewers_json") == 0
        assert rig.engine.room_info(b"a") is not None
        assert rig.engine.rooms_unwatched() == [b"a"]
