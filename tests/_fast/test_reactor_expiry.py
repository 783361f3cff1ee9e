"""The end of a token on a stream: who is warned, who is closed and when, and what it costs those who are far from it.

The wheel is tried against a model with a clock of the test's; the engine with tokens that have ended already, so that
nothing is waited for but the wheel's own step.
"""

import time
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from edge._fast.registry import IDENT_SIZE, ROUND_MS, RegistryProbe
from tests._fast.engine import CHAT, DEFLATE, JSON, MSGPACK, POLL, SSE, ZSTD, Rig, Viewer, bounded, nothing_kept

__all__ = ["nothing_kept"]

STEP_MS = 100
LATE_MS = 2 * STEP_MS  # a time comes at most so much late, and never early
STREAMS = [JSON, MSGPACK, ZSTD, DEFLATE, SSE]
ENDED = {"t": "error", "error": "unauthorized", "message": "the token has ended"}


def unix() -> int:
    return int(time.time())


def test_a_socket_with_a_name_costs_48_bytes_here() -> None:
    assert IDENT_SIZE == 48


class ExpiryMachine(RuleBasedStateMachine):
    """Each ident has a due time or none. What is due comes out once, soon after its time, never before."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = RegistryProbe(3)
        self.idents = [self.registry.add(i, b"u", b"") or 0 for i in range(12)]
        self.due: dict[int, int] = {}
        self.now = 0

    @rule(i=st.integers(0, 11), in_ms=st.integers(0, 1000) | st.integers(0, 3 * ROUND_MS))
    def set(self, i: int, in_ms: int) -> None:
        self.registry.set(self.idents[i], self.now, in_ms)
        self.due[self.idents[i]] = self.now + in_ms

    @rule(i=st.integers(0, 11))
    def stop(self, i: int) -> None:
        self.registry.stop(self.idents[i])
        self.due.pop(self.idents[i], None)

    @rule(i=st.integers(0, 11))
    def come_and_go(self, i: int) -> None:
        self.registry.remove(self.idents[i])
        self.due.pop(self.idents[i], None)
        self.idents[i] = self.registry.add(i, b"u", b"") or 0

    @rule(ms=st.integers(0, 300) | st.integers(0, 3 * ROUND_MS), most=st.just(1 << 31) | st.integers(0, 3))
    def wait(self, ms: int, most: int) -> None:
        self.now += ms
        found, steps = self.registry.due(self.now, most)
        assert steps <= most
        assert len(set(found)) == len(found)
        for ident in found:
            assert self.due.pop(ident) <= self.now
        late = [ident for ident, at in self.due.items() if at + LATE_MS <= self.now]
        if steps < most:  # it was walked to its end
            assert not late
            assert not self.registry.waits(self.now)
        assert self.registry.waits(self.now) or not late

    def teardown(self) -> None:
        for ident in self.idents:
            self.registry.remove(ident)
        del self.registry


TestExpiry = ExpiryMachine.TestCase
TestExpiry.settings = bounded(100, steps=40)


def test_half_a_million_tokens_with_one_end_come_out_a_bounded_number_at_a_time() -> None:
    registry, crowd = RegistryProbe(3), 500_000
    idents = [registry.add(i, b"u", b"") for i in range(crowd)]
    for ident in idents:
        assert ident is not None
        registry.set(ident, 0, 60_000)
    assert registry.due(59_900) == ([], 0)
    found: list[int] = []
    while registry.waits(60_200):
        some, steps = registry.due(60_200, 1000)
        assert len(some) <= steps <= 1000
        found += some
    assert len(found) == len(set(found)) == crowd
    for ident in found:
        registry.remove(ident)


def test_a_token_of_a_week_is_looked_at_once_a_round() -> None:
    registry = RegistryProbe(3)
    ident = registry.add(0, b"u", b"")
    assert ident is not None
    week = 7 * 24 * 3_600_000
    registry.set(ident, 0, week)
    looks = 0
    for now in range(0, week, ROUND_MS // 4):
        found, steps = registry.due(now)
        assert found == []
        looks += steps
    assert looks <= week // ROUND_MS + 1
    assert registry.due(week + LATE_MS) == ([ident], 1)
    registry.remove(ident)


# The engine.


def enter(rig: Rig, enc: int, expires: int, room: str = "a", **more: Any) -> Viewer:
    """A viewer whose token ends then."""
    rig.admits = False
    viewer = rig.connect(room, enc, **more)
    rig.until(lambda: viewer._id is not None)
    assert viewer.user is not None
    assert rig.engine.admit(viewer.id, room.encode(), viewer.user.encode(), b"claims", expires)
    return viewer


def warned(viewer: Viewer) -> list[int]:
    return [message["in_ms"] for message in viewer.messages("state") if message["auth"] == "ends"]


@pytest.mark.parametrize("enc", STREAMS)
def test_warned_then_closed(enc: int) -> None:
    with Rig() as rig:
        rig.room("a")
        rig.engine.tokens_end(30_000, 200, 200)
        viewer = enter(rig, enc, unix() - 1)
        rig.until(lambda: warned(viewer))
        assert warned(viewer) == [0]
        told = time.monotonic()
        rig.append("a")
        rig.until(lambda: viewer.end)
        assert time.monotonic() - told >= 0.15, "the grace begins with the warning, where that came late"
        assert viewer.ids["c"] == [1], "to its end it is a stream like any other"
        assert viewer.end == "closed"
        if enc == SSE:
            assert viewer.got[-1][1] == ENDED
        else:
            assert viewer.raw[-1] == (8, b"\x03\xf0the token has ended")
            assert not viewer.messages("error")
        assert rig.count("closed_server") == 1
        rig.until(lambda: rig.count("connections") == 0 or viewer.close())


@pytest.mark.parametrize("enc", STREAMS)
def test_a_warning_says_how_long_it_is_until_the_end(enc: int) -> None:
    with Rig() as rig:
        rig.room("a")
        rig.engine.tokens_end(30_000, 0, 1)
        end = unix() + 20
        viewer = enter(rig, enc, end)
        rig.until(lambda: warned(viewer))
        (in_ms,) = warned(viewer)
        assert 0 < end * 1000 - time.time() * 1000 <= in_ms <= 20_000
        rig.settle()
        assert viewer.end is None


def test_the_end_itself_is_awaited() -> None:
    with Rig() as rig:
        rig.room("a")
        rig.engine.tokens_end(700, 0, 1)
        end = unix() + 2
        viewer = enter(rig, JSON, end)
        rig.until(lambda: warned(viewer))
        assert end - 0.71 <= time.time()
        assert warned(viewer)[0] <= 700
        assert not viewer.close_code or time.time() >= end
        rig.until(lambda: viewer.close_code)
        assert end <= time.time()
        assert viewer.close_code == 1008


def test_a_fresh_token_in_time_and_within_the_grace() -> None:
    with Rig() as rig:
        rig.room("a")
        rig.engine.tokens_end(30_000, 60_000, 60_000)
        viewer = enter(rig, JSON, unix() + 5)
        rig.until(lambda: warned(viewer))
        assert rig.engine.renew(viewer.id, b"fresh", unix() + 3600)
        rig.engine.tokens_end(30_000, 0, 1)
        rig.turn(3)
        late = enter(rig, JSON, unix() - 1)
        rig.until(lambda: late.close_code)
        assert (viewer.end, len(warned(viewer))) == (None, 1)
        assert rig.engine.claims(viewer.id) == b"fresh"
        assert rig.engine.renew(viewer.id, b"old", unix() - 5)
        rig.until(lambda: viewer.close_code)
        assert len(warned(viewer)) == 2, "each token has a warning of its own"
        assert not rig.engine.renew(viewer.id, b"too late", unix() + 3600)


@pytest.mark.parametrize("expires", [0, 0xFFFFFFFF])
def test_who_is_never_at_an_end_costs_nothing(expires: int) -> None:
    with Rig() as rig:
        rig.room("a")
        rig.engine.tokens_end(1000, 0, 1)
        viewer = enter(rig, JSON, expires)
        nobody = rig.connect("a", named=False)
        past = enter(rig, JSON, unix() - 1)
        rig.until(lambda: past.close_code)
        rig.settle()
        assert (warned(viewer), viewer.end, nobody.end) == ([], None, None)
        assert rig.engine.renew(past.id, b"", 0) is False


def test_a_token_that_is_renewed_by_one_without_an_end_is_not_awaited() -> None:
    with Rig() as rig:
        rig.room("a")
        rig.engine.tokens_end(30_000, 0, 1)
        viewer = enter(rig, JSON, unix() - 1)
        assert rig.engine.renew(viewer.id, b"", 0)
        other = enter(rig, JSON, unix() - 1)
        rig.until(lambda: other.close_code)
        assert (warned(viewer), viewer.end) == ([], None)


def test_a_poll_is_not_told() -> None:
    with Rig() as rig:
        rig.room("a")
        rig.engine.tokens_end(30_000, 0, 1)
        viewer = enter(rig, POLL, unix() - 1)
        other = enter(rig, JSON, unix() - 1)
        rig.until(lambda: other.close_code)
        assert (viewer.answers, viewer.end) == (0, None)
        rig.append("a")
        rig.until(lambda: viewer.answers)
        assert viewer.messages("batch")


def test_until_it_is_asked_for_streams_outlive_their_tokens() -> None:
    with Rig() as rig:
        rig.room("a")
        viewer = enter(rig, JSON, unix() - 1)
        rig.engine.tokens_end(30_000, 0, 1)
        other = enter(rig, JSON, unix() - 1)
        rig.until(lambda: other.close_code)
        assert (warned(viewer), viewer.end) == ([], None)
        for bad in ((0, 2, 1), (0, 0, 1 << 40), (1 << 40, 0, 1)):
            with pytest.raises(ValueError, match="least"):
                rig.engine.tokens_end(*bad)


def test_a_viewer_who_does_not_read_is_told_behind_what_it_is_in_the_middle_of() -> None:
    with Rig(sndbuf=8192, close_ms=5000) as rig:
        rig.room("a")
        rig.engine.tokens_end(30_000, 100, 100)
        viewer = enter(rig, JSON, unix() - 1, rcvbuf=4096)
        viewer.reading = False
        for _ in range(20):
            rig.append("a", CHAT, size=16000)
        rig.until(lambda: rig.engine.describe(viewer.id) is None or rig.engine.describe(viewer.id)["blocked"])  # type: ignore[index]
        rig.until(lambda: rig.count("closed_server") == 1)
        viewer.reading = True
        rig.until(lambda: viewer.close_code)
        assert warned(viewer) == [0]
        assert viewer.raw[-1][1] == b"\x03\xf0the token has ended"


def test_a_turn_warns_and_ends_so_many_and_others_come_in_between() -> None:
    crowd = 200
    with Rig(tick_us=2) as rig:  # no time at all: what one turn does then is the least of it
        rig.room("a")
        rig.engine.tokens_end(30_000, 300, 300)
        viewers = [enter(rig, JSON, unix() + 3600) for _ in range(crowd)]
        rig.admits = True
        asks = rig.join("a")
        rig.settle()
        for viewer in viewers:
            assert rig.engine.renew(viewer.id, b"", unix() - 1)
        for figure in ("replies", "closed_server"):
            first = last = rig.count(figure)
            took: list[int] = []
            heard = 0
            rig.said.clear()
            deadline = time.monotonic() + 5
            while last < first + crowd:
                assert time.monotonic() < deadline
                rig.turn()
                now = rig.count(figure)
                if now > last:
                    took.append(now - last)
                    if len(took) == 1:
                        asks.say({"op": "ping"})
                last = now
                heard = heard or (last - first if rig.said else 0)
            assert max(took) <= 32
            assert len(took) >= crowd // 32
            assert 0 < heard <= crowd // 2, "a message waits for a few of them, not for the crowd"
        rig.until(lambda: all(viewer.close_code == 1008 for viewer in viewers))
        assert asks.end is None


def test_those_who_end_together_leave_one_after_the_other() -> None:
    crowd, least_s, spread_s = 120, 0.2, 1.2
    with Rig() as rig:
        rig.room("a")
        rig.engine.tokens_end(30_000, 200, 1400)
        end, began = unix() - 1, time.monotonic()
        viewers = [enter(rig, JSON, end) for _ in range(crowd)]
        when: dict[Viewer, float] = {}

        def all_closed() -> bool:
            for viewer in viewers:
                if viewer.close_code and viewer not in when:
                    when[viewer] = time.monotonic() - began
            return len(when) == crowd

        rig.until(all_closed)
        # So many by then, and no more: a busy machine makes it later, never earlier.
        for place, at in enumerate(sorted(when.values())):
            assert at >= least_s + spread_s * (place / crowd - 0.05)
        assert max(when.values()) - min(when.values()) > spread_s / 3
