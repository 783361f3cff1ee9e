# What nodes of `make bench-broker` say and count: comments, what their authors are told of them, what an owner is
# offered. It owns no connection, and must never count a comment as said before somebody was told of it.

import asyncio
import time
from typing import Any

from edge import wire
from edge.owner import Owner

Answer = dict[str, Any]
TEXT = " so it is a comment of usual length, with a few words in it"
USER = {"id": "user-4711", "name": "a name"}


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def said(prefix: str, number: int) -> wire.Message:
    """One comment, about 150 bytes as JSON. Its text begins with when it was said."""
    return wire.comment(f"{prefix}-{number:x}", USER, f"{time.monotonic_ns()}{TEXT}", time.time_ns() // 1_000_000)


def quantiles(nanoseconds: list[int]) -> Answer:
    """In ms; all of them, not a sample."""
    ordered = sorted(nanoseconds)
    if not ordered:
        return {"count": 0, "p50_ms": 0.0, "p99_ms": 0.0, "max_ms": 0.0}
    at = [ordered[min(len(ordered) - 1, len(ordered) * part // 100)] / 1e6 for part in (50, 99)]
    return {"count": len(ordered), "p50_ms": at[0], "p99_ms": at[1], "max_ms": ordered[-1] / 1e6}


class Counted(Owner):
    """An Owner that also counts what it is offered, and in what time."""

    items = first = first_ns = last_ns = 0

    def offered(self, shard: int, seq: int, items: list[bytes]) -> None:
        super().offered(shard, seq, items)
        self.last_ns = time.monotonic_ns()
        if not self.first_ns:
            self.first, self.first_ns = len(items), self.last_ns
        self.items += len(items)

    def counted(self) -> Answer:
        """Since this was asked last: how many, and how many a second from the first offer to the last."""
        passed_ns, more = self.last_ns - self.first_ns, self.items - self.first
        found = {"items": self.items, "a_second": more / passed_ns * 1e9 if passed_ns else 0.0, "last_ns": self.last_ns}
        self.items = self.first = self.first_ns = self.last_ns = 0
        return found


class Told:
    """What authors have been told of their comments."""

    def __init__(self) -> None:
        self.counts = {"published": 0, "rejected": 0, "unknown": 0}
        self._waiting = 0
        self._all = asyncio.Event()
        self._all.set()

    def asked(self) -> None:
        self._waiting += 1
        self._all.clear()

    def done(self, status: str) -> None:
        self.counts[status] += 1
        self._waiting -= 1
        if not self._waiting:
            self._all.set()

    async def all(self) -> None:
        await self._all.wait()

    def answer(self) -> Answer:
        return dict(self.counts)
