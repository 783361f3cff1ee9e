# What the broker's tests share: a box with workers on it, and a sink that refuses a hole or a repeat.

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nats
import psutil
from nats.js.errors import NotFoundError

from broker.base import CHAT, LEASE_TTL_S, MUST, Broker, Entry, Kind, Tail
from broker.local import LocalBroker
from broker.local_server import LocalServer
from broker.memory import Limits, MemoryBroker, Store
from broker.nats import NatsBroker


class Box:
    """One box: `worker()` is one more broker on its rooms. `path` is the socket of a local one, the url of NATS. Leases
    on NATS last whole seconds. `data` is the folder of what a box without NATS keeps."""

    def __init__(
        self,
        kind: str,
        path: str,
        limits: Limits | None = None,
        lease_ttl_s: float = LEASE_TTL_S,
        data: str = "",
    ) -> None:
        self.kind = kind
        self.data = data
        self.lease_ttl_s = lease_ttl_s
        self.path = path
        self.forgets = kind != "nats"  # at once, what nobody has written to or looks at any more
        self.limits = limits
        self.brokers: list[Broker] = []

    async def start(self) -> None:
        if self.kind == "memory":
            self.store = Store(self.limits, self.lease_ttl_s, data=self.data)
        elif self.kind == "nats":
            await empty(self.path)
        else:
            self.server = LocalServer(self.path, self.limits, self.lease_ttl_s, data=self.data)
            await self.server.start()
            self.store = self.server.store

    def worker(self) -> Broker:
        made: Broker
        if self.kind == "memory":
            made = MemoryBroker(self.store)
        elif self.kind == "nats":
            short = self.lease_ttl_s != LEASE_TTL_S
            made = NatsBroker(f"{self.path}?lease={self.lease_ttl_s:.0f}" if short else self.path)
        else:
            made = LocalBroker(self.path)
        self.brokers.append(made)
        return made

    async def stop(self) -> None:
        for made in self.brokers:
            await made.close()
        if self.kind == "local":
            await self.server.stop()
        elif self.kind == "memory":
            await self.store.state.close()


@asynccontextmanager
async def box_of(
    kind: str, place: Path | str, limits: Limits | None = None, lease_ttl_s: float = LEASE_TTL_S, data: str = ""
) -> AsyncIterator[Box]:
    made = Box(kind, place if isinstance(place, str) else str(place / "broker.sock"), limits, lease_ttl_s, data)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def empty(url: str) -> None:
    """Leaves nothing of earlier tests in NATS. A server tells that a stream is deleted while its files are still there,
    and one of the same name that is made then has what was in it (some 1 in 150 times on a busy machine)."""
    client = await nats.connect(url, allow_reconnect=False)
    try:
        for stream in await client.jetstream().streams_info():
            with contextlib.suppress(NotFoundError):
                await client.jetstream().delete_stream(stream.config.name or "")
    finally:
        await client.close()
    streams = _store(url) / "jetstream/$G/streams"
    await until(lambda: not streams.exists() or not any("EDGE" in name for name in os.listdir(streams)))


def _store(url: str) -> Path:
    """Where the server at `url` keeps its streams: it is a child of this process, and its settings tell."""
    port = urlsplit(url).port
    for child in psutil.Process().children():
        command = child.cmdline()
        if "-c" in command and any(it.laddr.port == port for it in child.net_connections("tcp4")):
            return Path(command[command.index("-c") + 1]).parent / "store"
    raise LookupError(f"no nats-server of this process is at {url}")


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


class Taken:
    """A taker that keeps what it is given, and refuses what is not the next."""

    def __init__(self) -> None:
        self.offers: list[tuple[int, list[bytes]]] = []
        self.resets: list[int] = []

    def offered(self, shard: int, seq: int, items: list[bytes]) -> None:
        assert not self.offers or seq > self.offers[-1][0], f"{seq} after {self.offers[-1][0]}"
        assert not self.resets
        self.offers.append((seq, items))

    def reset(self, shard: int) -> None:
        self.resets.append(shard)

    @property
    def items(self) -> list[bytes]:
        return [item for _, items in self.offers for item in items]


async def until(true: Callable[[], Any], deadline_s: float = 5.0) -> None:
    async with asyncio.timeout(deadline_s):
        while not true():  # noqa: ASYNC110 - any condition at all
            await asyncio.sleep(0.002)


async def fill(worker: Broker, room: str, lane: int, batches: list[bytes]) -> None:
    head = await worker.head(room, lane)
    for batch in batches:
        outcome = await worker.append(room, lane, batch, head)
        assert outcome[:2] == (Kind.STORED, head + 1)
        head += 1
