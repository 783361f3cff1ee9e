# What a node of `make bench-broker` sees: the broker's Sink that keeps when each batch came and what it stands for. It
# owns the positions, and must never let a hole or a repeat pass: that is a flaw, and the run fails of it.

import time
from collections.abc import Callable
from typing import Any

import msgspec

from broker.base import CHAT, Tail

Answer = dict[str, Any]


class _Said(msgspec.Struct):
    x: str


class _Batch(msgspec.Struct):
    m: list[_Said] = []
    of: int = 0


_decode = msgspec.msgpack.Decoder(_Batch).decode


class _Seen:
    __slots__ = ("early", "head", "mode", "times")

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.head = -1  # until the tail is here
        self.early: list[tuple[int, bytes, int]] = []
        self.times: list[int] = []


class Watching:
    """Of the chat lanes. The modes: `raw`, a batch begins with when it was appended; `comments`, it is an owner's, and
    its first comment says when it was said; `times`, an owner's, and when each came is kept; `count`, it is counted."""

    def __init__(self) -> None:
        self._rooms: dict[str, _Seen] = {}
        self._took: list[int] = []
        self.batches = 0
        self._bytes = 0
        self._shown = 0
        self.stands_for = 0
        self._last_ns = 0
        self._flaws: list[str] = []

    def begin(self, room: str, mode: str) -> None:
        self._rooms[room] = _Seen(mode)

    def start(self, room: str, tail: Tail) -> None:
        """What is in the tail is not news."""
        it = self._rooms[room]
        it.head = tail.heads[CHAT]
        early, it.early = it.early, []
        for seq, data, now in early:
            if seq > it.head:
                self._take(room, it, seq, data, now)

    def batch(self, room: str, lane: int, seq: int, data: bytes) -> None:
        now = time.monotonic_ns()
        it = self._rooms[room]
        if lane != CHAT:
            self._flaws.append(f"{room}: something on lane {lane}")
        elif it.head < 0:
            it.early.append((seq, data, now))
        else:
            self._take(room, it, seq, data, now)

    def reset(self, room: str, tail: Tail) -> None:
        self._flaws.append(f"{room}: the numbering began anew")
        self._rooms[room].head = tail.heads[CHAT]

    def _take(self, room: str, it: _Seen, seq: int, data: bytes, now: int) -> None:
        if seq != it.head + 1:
            self._flaws.append(f"{room}: {seq} after {it.head}")
        it.head = seq
        self.batches += 1
        self._bytes += len(data)
        self._last_ns = now
        if it.mode == "raw":
            self._took.append(now - int.from_bytes(data[:8], "little"))
        elif it.mode in ("comments", "times"):
            found = _decode(data)
            self._shown += len(found.m)
            self.stands_for += found.of or len(found.m)
            if found.m:
                self._took.append(now - int(found.m[0].x.split(" ", 1)[0]))
            if it.mode == "times":
                it.times.append(now)

    def report(self, quantiles: Callable[[list[int]], Answer]) -> Answer:
        found = {
            "batches": self.batches,
            "bytes": self._bytes,
            "shown": self._shown,
            "stands_for": self.stands_for,
            "last_ns": self._last_ns,
            "flaws": self._flaws[:20],
            "times": {room: it.times for room, it in self._rooms.items() if it.times},
            "heads": sum(max(0, it.head) for it in self._rooms.values()),
            **quantiles(self._took),
        }
        self._took, self.batches, self._bytes, self._shown, self.stands_for = [], 0, 0, 0, 0
        for it in self._rooms.values():
            it.times = []
        return found
