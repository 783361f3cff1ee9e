"""Rooms by name, their members, their order of use, and what is let go when memory is short."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from edge._fast.room import RoomsProbe
from tests._fast.engine import CHAT, JSON, MUST, bounded, nothing_kept

__all__ = ["nothing_kept"]

NAMES = [b"r%d" % i for i in range(12)] + [b"x" * 64]
CANON = b"\x81\xa1t\xa5batch"


class RoomsMachine(RuleBasedStateMachine):
    """Names in a table that has seen rooms come and go, and the order in which they were used."""

    def __init__(self) -> None:
        super().__init__()
        self.rooms = RoomsProbe(10, 3)
        self.order: list[bytes] = []

    @rule(name=st.sampled_from(NAMES))
    def open(self, name: bytes) -> None:
        able = name not in self.order and len(self.order) < 10
        assert self.rooms.open(name) == able
        if able:
            self.order.append(name)

    @rule(name=st.sampled_from(NAMES))
    def drop(self, name: bytes) -> None:
        if name in self.order:
            self.rooms.drop(name)
            self.order.remove(name)

    @rule(name=st.sampled_from(NAMES))
    def use(self, name: bytes) -> None:
        if name in self.order:
            self.rooms.use(name)
            self.order.remove(name)
            self.order.append(name)

    @rule()
    def look(self) -> None:
        assert self.rooms.coldest_first() == self.order
        assert self.rooms.count() == len(self.order)
        found = [self.rooms.index(name) for name in NAMES]
        assert [index is not None for index in found] == [name in self.order for name in NAMES]
        assert len({index for index in found if index is not None}) == len(self.order)

    def teardown(self) -> None:
        del self.rooms


TestRooms = RoomsMachine.TestCase
TestRooms.settings = bounded(60, steps=40)


def test_bad_names() -> None:
    rooms = RoomsProbe(4, 1)
    assert not rooms.open(b"")
    assert not rooms.open(b"x" * 65)
    assert rooms.count() == 0


slots = st.integers(0, 200) | st.sampled_from([63, 64, 1023, 1024, 1025, 4095, 4096, 70_000, 1_000_000])


@bounded(100)
@given(steps=st.lists(st.tuples(st.booleans(), slots), max_size=60), probe=slots)
def test_members_are_a_sorted_set(steps: list[tuple[bool, int]], probe: int) -> None:
    rooms = RoomsProbe(1, 1)
    rooms.open(b"a")
    members: set[int] = set()
    for joins, slot in steps:
        if joins and slot not in members:
            rooms.join(b"a", slot)
            members.add(slot)
        elif not joins and slot in members:
            rooms.leave(b"a", slot)
            members.discard(slot)
    assert rooms.viewers(b"a") == len(members)
    assert rooms.next(b"a", probe) == min((slot for slot in members if slot >= probe), default=None)
    walked, at = [], rooms.next(b"a", 0)
    while at is not None:
        walked.append(at)
        at = rooms.next(b"a", at + 1)
    assert walked == sorted(members)


def filled(count: int, size: int = 900) -> RoomsProbe:
    rooms = RoomsProbe(count, 1)
    for i in range(count):
        rooms.open(b"r%d" % i)
        rooms.append(b"r%d" % i, MUST, CANON + b"\0" * size, (JSON,))
        rooms.append(b"r%d" % i, CHAT, CANON + b"\0" * size, (JSON,))
    return rooms


def test_frames_go_first_then_chat_then_must_and_cold_rooms_before_others() -> None:
    rooms = filled(4)
    whole = rooms.held()
    assert rooms.shed(whole) == (True, 0, 0)
    done, cooled, batches = rooms.shed(whole - 10)  # a frame or two of the coldest room are enough
    assert (done, cooled, batches) == (True, 1, 0)
    lows = []
    for budget in (7 * 1300, 5 * 1300, 3 * 1300):
        assert rooms.shed(budget)[0]
        lows.append([rooms.kept(b"r%d" % i) for i in range(4)])
    assert all(must == 1 for must, _ in lows[1]), "must goes last"
    assert lows[1][0][1] == 0
    assert lows[2][3] >= lows[2][0], "the hottest room keeps the longest"


def test_shedding_everything_leaves_nothing() -> None:
    rooms = filled(5)
    assert rooms.shed(0) == (True, 5, 10)
    assert rooms.held() == 0
    assert rooms.shed(0) == (True, 0, 0), "what is empty is not shed again"
