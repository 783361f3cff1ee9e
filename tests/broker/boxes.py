# What the broker's tests share: a box with workers on it, and a sink that refuses a hole or a repeat.

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from broker.base import CHAT, MUST, Broker, Entry, Kind, Tail
from broker.local import LocalBroker
from broker.local_server import LocalServer
from broker.memory import Limits, MemoryBroker, Store


class Box:
    """One box: `worker()` is one more broker on its rooms."""

    def __init__(self, kind: str, path: str, limits: Limits | None = None) -> None:
        self.kind = kind
        self.path = path
        self.limits = limits
        self.brokers: list[Broker] = []

    async def start(self) -> None:
        if self.kind == "memory":
            self.store = Store(self.limits)
        else:
            self.server = LocalServer(self.path, self.limits)
            await self.server.start()
            self.store = self.server.store

    def worker(self) -> Broker:
        made: Broker = MemoryBroker(self.store) if self.kind == "memory" else LocalBroker(self.path)
        self.brokers.append(made)
        return made

    async def stop(self) -> None:
        for made in self.brokers:
            await made.close()
        if self.kind == "local":
            await self.server.stop()


@asynccontextmanager
async def box_of(kind: str, tmp_path: Path, limits: Limits | None = None) -> AsyncIterator[Box]:
    made = Box(kind, str(tmp_path / "broker.sock"), limits)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


class Viewer:
    """A sink that keeps what it is given, and refuses a hole or a repeat."""

    def __init__(self) -> None:
        self.lanes: tuple[list[Entry], list[Entry]] = ([], [])
        self.heads = [0, 0]
        self.resets: list[Tail] = []

    async def join(self, worker: Broker, room: str) -> Tail:
        tail = await worker.subscribe(room, self)
        self._start(tail)
        return tail

    def _start(self, tail: Tail) -> None:
        self.heads = list(tail.heads)
        for lane, found in ((MUST, tail.must), (CHAT, tail.chat)):
            self.lanes[lane][:] = found
            assert [seq for seq, _ in found] == list(range(tail.heads[lane] - len(found) + 1, tail.heads[lane] + 1))

    def batch(self, room: str, lane: int, seq: int, data: bytes) -> None:
        assert seq == self.heads[lane] + 1, f"lane {lane}: {seq} after {self.heads[lane]}"
        self.heads[lane] = seq
        self.lanes[lane].append((seq, data))

    def reset(self, room: str, tail: Tail) -> None:
        self.resets.append(tail)
        self._start(tail)


async def until(true: Callable[[], Any], deadline_s: float = 5.0) -> None:
    async with asyncio.timeout(deadline_s):
        while not true():  # noqa: ASYNC110 - any condition at all
            await asyncio.sleep(0.002)


async def fill(worker: Broker, room: str, lane: int, batches: list[bytes]) -> None:
    head = await worker.head(room, lane)
    for batch in batches:
        outcome = await worker.append(room, lane, batch, head)
        assert outcome == (Kind.STORED, head + 1)
        head += 1
