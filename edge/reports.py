# What this worker tells the owners of rooms: how many viewers it has in each, and how long a broadcast to them takes.
# It owns what it has told last. It is only ever news: an owner does without it, and forgets what is not said again.
import zlib
from collections.abc import Callable, Iterable

import msgspec

from broker.base import Broker
from edge.rooms.shard import Report

REFRESH_TURNS = 8  # in which all rooms are told once more, a part in each
ROOMS = 256  # in one message

Jobs = Callable[[], list[tuple[bytes, int, int]]]
"""Rooms that have changed: name, viewers, how long the longest broadcast took in ms."""


class Reports:
    def __init__(self, broker: Broker, worker: str, jobs: Jobs) -> None:
        self._broker = broker
        self._worker = worker
        self._jobs = jobs
        self._viewers: dict[str, int] = {}
        self._turn = 0

    async def turn(self) -> None:
        """To be called once a second."""
        found: dict[str, tuple[str, int, int]] = {}
        self._turn = (self._turn + 1) % REFRESH_TURNS
        for room, viewers in self._viewers.items():
            if zlib.crc32(room.encode()) % REFRESH_TURNS == self._turn:
                found[room] = (room, viewers, 0)
        for name, viewers, sweep_ms in self._jobs():
            room = name.decode()
            found[room] = (room, viewers, sweep_ms)
            if viewers:
                self._viewers[room] = viewers
            else:
                self._viewers.pop(room, None)
        await self._tell(found.values())

    async def wanted(self, shard: int) -> None:
        """The shard has a new owner, who knows nothing yet."""
        rooms = [(room, n, 0) for room, n in self._viewers.items() if self._broker.shard_of(room) == shard]
        await self._tell(rooms)

    async def _tell(self, rooms: Iterable[tuple[str, int, int]]) -> None:
        shards: dict[int, list[tuple[str, int, int]]] = {}
        for room in rooms:
            shards.setdefault(self._broker.shard_of(room[0]), []).append(room)
        for shard, found in shards.items():
            for first in range(0, len(found), ROOMS):
                report = Report(self._worker, found[first : first + ROOMS])
                await self._broker.emit(f"jobs.{shard}", msgspec.msgpack.encode(report))
