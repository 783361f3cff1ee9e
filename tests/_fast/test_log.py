"""A log against a model: a dictionary of batches, a set of frames that are kept, and a count of encodings."""

from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edge._fast.log import LogProbe
from tests._fast.engine import CHAT, DEFLATE, JSON, MSGPACK, MUST, POLL, SSE, ZSTD, Rig, bounded, nothing_kept

__all__ = ["nothing_kept"]

WARM = 8
FRAMED = [JSON, MSGPACK, ZSTD, DEFLATE, SSE]


def canon(seq: int, size: int) -> bytes:
    return msgspec.msgpack.encode({"t": "batch", "id": f"c{seq}", "x": "y" * size})


class LogMachine(RuleBasedStateMachine):
    @initialize(
        lane=st.sampled_from([MUST, CHAT]),
        limit=st.sampled_from([100, 1000, 5000]),
        head=st.sampled_from([0, 7, 2**40]),
    )
    def begin(self, lane: int, limit: int, head: int) -> None:
        self.log, self.limit, self.head, self.tail = LogProbe(lane, limit, head), limit, head, head + 1
        self.batches: dict[int, tuple[bytes, int]] = {}
        self.warm: set[tuple[int, int]] = set()
        self.encoded = [0] * len(FRAMED)
        self.kept: bytes | None = None

    def drop_below(self, tail: int) -> None:
        self.tail = tail
        self.batches = {seq: batch for seq, batch in self.batches.items() if seq >= tail}
        self.warm = {(seq, enc) for seq, enc in self.warm if seq >= tail}

    @rule(
        jump=st.sampled_from([1, 1, 1, 1, 1, 1, 2, 50, 0, -3]),
        size=st.sampled_from([0, 20, 80, 300]),
        count=st.integers(0, 5),
    )
    def append(self, jump: int, size: int, count: int) -> None:
        seq = max(0, self.head + jump)
        data = canon(seq, size)
        result = self.log.append(seq, count, data)
        if seq <= self.head:
            assert result == 2
            return
        assert result == (seq != self.head + 1)
        if result:
            self.drop_below(seq)
        while self.batches and sum(len(batch) for batch, _ in self.batches.values()) + len(data) > self.limit:
            self.drop_below(self.tail + 1)
        self.head = seq
        self.batches[seq] = (data, count)
        self.warm = {(seq, enc) for seq, enc in self.warm if seq > self.head - WARM}

    @rule(back=st.integers(0, 12), enc=st.sampled_from([*FRAMED, POLL]))
    def frame(self, back: int, enc: int) -> None:
        seq = self.head - back
        if seq not in self.batches:
            return
        wire = self.log.frame(seq, enc)
        self._encoded(seq, enc)
        if enc == MSGPACK:
            assert wire.endswith(self.batches[seq][0])
        if enc in (JSON, POLL, SSE):
            assert b'"id":"c%d"' % seq in wire

    def _encoded(self, seq: int, enc: int) -> None:
        enc = JSON if enc == POLL else enc
        if (seq, enc) not in self.warm:
            self.encoded[enc] += 1
            self.warm.add((seq, enc))

    @rule(back=st.integers(0, 12), enc=st.sampled_from(FRAMED))
    def keep(self, back: int, enc: int) -> None:
        """A socket in the middle of a frame: the bytes stay, whatever becomes of the log."""
        if self.head - back in self.batches:
            self.log.keep(self.head - back, enc)
            self.kept = self.log.kept_bytes()
            self._encoded(self.head - back, enc)

    @rule()
    def release(self) -> None:
        self.log.release()
        self.kept = None

    @rule(limit=st.sampled_from([0, 50, 500]))
    def trim(self, limit: int) -> None:
        before = len(self.batches)
        while self.batches and sum(len(batch) for batch, _ in self.batches.values()) > limit:
            self.drop_below(self.tail + 1)
        assert self.log.trim(limit) == before - len(self.batches)

    @rule()
    def cool(self) -> None:
        self.log.cool()
        self.warm = set()

    @rule(
        low=st.integers(0, 30),
        comments=st.integers(0, 20),
        limit=st.sampled_from([0, 100, 900, 10**6]),
        enc=st.sampled_from(FRAMED),
    )
    def back(self, low: int, comments: int, limit: int, enc: int) -> None:
        low = max(0, self.head - low)
        found = self.log.back(low, comments, limit, enc)
        assert min(low, self.head) <= found <= self.head
        assert found >= self.tail - 1
        counts = [self.batches[seq][1] for seq in range(found + 1, self.head + 1)]
        assert sum(counts[1:]) < comments or not counts
        self.warm = set(self.log.state()["warm"])
        self.encoded = self.log.state()["encoded"]
        sizes = [len(self.log.frame(seq, enc)) + (80 if enc == SSE else 0) for seq in range(found + 1, self.head + 1)]
        assert sum(sizes) <= limit
        if found > low and found >= self.tail and sum(counts) < comments:
            assert sum(sizes) + len(self.log.frame(found, enc)) + (80 if enc == SSE else 0) > limit
            self._encoded(found, enc)

    @invariant()
    def as_the_model_says(self) -> None:
        if not hasattr(self, "log"):
            return
        state: dict[str, Any] = self.log.state()
        assert (state["head"], state["tail"]) == (self.head, self.tail)
        assert set(state["warm"]) == self.warm
        assert state["encoded"] == self.encoded
        assert state["bytes"] == sum(len(batch) for batch, _ in self.batches.values())
        assert self.log.kept_bytes() == self.kept
        assert len(self.batches) <= state["cap"]
        if not self.batches:
            assert state["cap"] == 0, "an empty ring holds no memory"
        if not self.batches and self.kept is None:
            assert state["held"] == 0
        assert state["held"] >= state["bytes"]

    def teardown(self) -> None:
        self.__dict__.pop("log", None)


TestLog = LogMachine.TestCase
TestLog.settings = bounded(60, steps=40)


def test_a_log_keeps_frames_for_the_newest_eight() -> None:
    log = LogProbe(CHAT, 1 << 20, 0)
    for seq in range(1, 101):
        log.append(seq, 1, canon(seq, 50))
        log.frame(seq, JSON)
    assert [seq for seq, _ in log.state()["warm"]] == list(range(93, 101))
    assert log.state()["encoded"] == [100, 0, 0, 0, 0]
    log.frame(3, JSON)  # cold: encoded again, and only until the next append
    log.append(101, 1, canon(101, 50))
    assert [seq for seq, _ in log.state()["warm"]] == list(range(94, 101))
    assert log.state()["encoded"] == [101, 0, 0, 0, 0]


def test_a_batch_beyond_the_bound_stands_alone() -> None:
    log = LogProbe(CHAT, 1000, 0)
    for seq, size in ((1, 100), (2, 5000), (3, 100)):
        log.append(seq, 1, canon(seq, size))
        assert log.state()["tail"] == seq


@pytest.mark.parametrize("lane, tail, bound", [(MUST, "must_tail", 64 * 1024), (CHAT, "chat_tail", 256 * 1024)])
def test_the_rings_of_a_room_are_bounded(lane: int, tail: str, bound: int) -> None:
    with Rig() as rig:
        rig.room("a")
        for _ in range(bound // 1000 + 50):
            rig.append("a", lane, size=1000)
        info = rig.engine.room_info(b"a")
        assert info is not None
        assert bound - 2048 < (rig.heads["a", lane] + 1 - info[tail]) * 1030 < bound + 2048
        assert rig.count("held_bytes") < bound * 1.2
        assert rig.count("encoded_json") == 0, "no frame for an encoding without a viewer"


def test_tiny_batches_are_bounded_in_number() -> None:
    log = LogProbe(CHAT, 262144, 0)
    for seq in range(1, 5001):
        assert log.append(seq, 0, b"\x80") == 0
    assert log.state()["head"] == 5000
    assert log.state()["tail"] == 5000 - 4096 + 1


def test_a_batch_with_less_in_it_takes_its_place() -> None:
    log = LogProbe(1, 10_000, 0)
    for seq in (1, 2, 3):
        assert log.append(seq, 2, canon(seq, 200)) == 0
    before = log.frame(2, 0)
    log.keep(2, 0)
    held = log.state()["bytes"]
    less = canon(2, 50)
    assert log.put(2, 1, less) == 0
    assert log.kept_bytes() == before  # who is in the middle of it goes on
    log.release()
    assert len(log.frame(2, 0)) < len(before)
    assert log.state()["bytes"] == held - len(canon(2, 200)) + len(less)
    assert (log.put(2, 1, canon(2, 51)), log.put(0, 0, b""), log.put(4, 0, b"")) == (-1, -1, -1)
    assert log.trim(0) == 3
    assert log.state()["bytes"] == 0
