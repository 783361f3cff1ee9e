"""The connection table: ids that are never mistaken, the list of the blocked, the timer wheel against due times."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from edge._fast.conn import CONN_SIZE, TURN_MS, TableProbe, buffer_of
from tests._fast.engine import bounded, nothing_kept

__all__ = ["nothing_kept"]

EXACT_MS = 100  # a timer comes at most so much late, and never early


def test_a_connection_is_64_bytes() -> None:
    assert CONN_SIZE == 64


def test_an_id_ends_with_its_connection() -> None:
    table = TableProbe(2)
    first, second = table.open(10), table.open(11)
    assert table.open(12) is None
    assert (table.find(first), table.find(second)) == (10, 11)
    table.give(first & 0xFFFFFFFF)
    assert table.find(first) is None
    third = table.open(13)
    assert third & 0xFFFFFFFF == first & 0xFFFFFFFF
    assert third != first
    assert (table.find(first), table.find(third)) == (None, 13)
    assert table.live() == 2


@pytest.mark.parametrize("id_", [0, 5, 1 << 32, 1 << 63, (1 << 64) - 1, (1 << 32) | 0xFFFFFFFF])
def test_an_id_that_was_never_given(id_: int) -> None:
    table = TableProbe(8)
    table.open(10)
    assert table.find(id_) == (10 if id_ == 1 << 32 else None)


class BlockedMachine(RuleBasedStateMachine):
    """Who is blocked stands in a list, the longest first; leaving the table takes it out, with what hung off it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = TableProbe(16)
        self.slots = [self.table.open(fd) & 0xFFFFFFFF for fd in range(16)]
        self.order: list[int] = []

    @rule(i=st.integers(0, 15))
    def turn(self, i: int) -> None:
        if i in self.order:
            self.table.unblock(i)
            self.order.remove(i)
        else:
            self.table.block(i, 5)
            self.order.append(i)
        assert self.table.blocked() == self.order
        assert self.table.cold() == len(self.order)

    @rule(i=st.integers(0, 15))
    def come_and_go(self, i: int) -> None:
        self.table.give(i)
        assert self.table.open(i) & 0xFFFFFFFF == i
        if i in self.order:
            self.order.remove(i)
        assert self.table.blocked() == self.order

    def teardown(self) -> None:
        del self.table


TestBlocked = BlockedMachine.TestCase
TestBlocked.settings = bounded(30)


class WheelMachine(RuleBasedStateMachine):
    """Each slot's timer is a due time. What is due comes out once, within 100 ms after its time, never before."""

    SLOTS = 12

    @initialize(now=st.integers(0, 5000))
    def begin(self, now: int) -> None:
        self.table = TableProbe(self.SLOTS)
        for fd in range(self.SLOTS):
            self.table.open(fd)
        self.now = now
        self.due_at: dict[int, int] = {}

    @rule(
        slot=st.integers(0, SLOTS - 1), in_ms=st.sampled_from([0, 1, 99, 100, 101, 150, 999, 5000, 60_000, 3_600_000])
    )
    def arm(self, slot: int, in_ms: int) -> None:
        self.table.set(slot, self.now, in_ms)
        self.due_at[slot] = self.now + in_ms

    @rule(slot=st.integers(0, SLOTS - 1))
    def stop(self, slot: int) -> None:
        self.table.stop(slot)
        self.due_at.pop(slot, None)

    @rule(slot=st.integers(0, SLOTS - 1))
    def leave(self, slot: int) -> None:
        self.table.give(slot)
        self.table.open(slot)
        self.due_at.pop(slot, None)

    @rule(ms=st.sampled_from([0, 1, 50, 100, 130, 1000, 10_000, 102_400, 3_000_000]))
    def wait(self, ms: int) -> None:
        self.now += ms
        self._check()

    @rule(turns=st.integers(1, 3), ms=st.integers(0, 2000))
    def stall(self, turns: int, ms: int) -> None:
        """The process stood still for longer than the wheel goes round."""
        self.now += turns * TURN_MS + ms
        self._check()

    @rule(
        ms=st.sampled_from([200, 5000, 2 * TURN_MS]),
        slot=st.integers(0, SLOTS - 1),
        in_ms=st.sampled_from([0, 100, 7000]),
    )
    def arm_before_the_wheel_has_come_to_now(self, ms: int, slot: int, in_ms: int) -> None:
        """As a read does, that comes before the timers in a turn."""
        self.now += ms
        self.arm(slot, in_ms)
        self._check()

    def _check(self) -> None:
        for slot in self.table.due(self.now):
            assert self.due_at.pop(slot) <= self.now, "a timer came early"
        late = [slot for slot, due in self.due_at.items() if due + EXACT_MS <= self.now]
        assert not late, "a timer did not come"

    def teardown(self) -> None:
        self.__dict__.pop("table", None)


TestWheel = WheelMachine.TestCase
TestWheel.settings = bounded(100)


@bounded()
@given(st.lists(st.binary(max_size=300)))
def test_a_buffer_holds_what_was_added(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    data, cap = buffer_of(pieces)
    assert data == whole
    assert len(whole) <= cap <= (max(64, 2 * len(whole)) if whole else 0)
