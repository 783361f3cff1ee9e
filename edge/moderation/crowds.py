# A room's crowds over all workers: once a second each tells the owners of rooms what it has taken of them, and who
# writes a room adds that up; who writes it next is told of the last seconds once more. It owns the meters of the rooms
# that are written here. It must never keep them longer than this worker writes the room, nor send to others what is its
# own. It is only ever news: where it is lost, a room is measured by less than was said there.
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from broker.base import Broker, BrokerError
from edge import wire
from edge.ingest.crowd import ALARM_S, LONGEST, Crowds
from edge.ingest.pipeline import ROOMS, Pipeline

log = logging.getLogger("edge.moderation")

TARGETS = 256
"""Of a room, in what is told of it: those that most speak to."""
ENTRIES = 1024
"""Rooms and targets in a message, or as many more as one room has."""

_Count = Annotated[int, Meta(ge=0, le=2**32)]
_Targets = Annotated[dict[Annotated[str, Meta(max_length=LONGEST)], _Count], Meta(max_length=TARGETS)]
Told = tuple[wire.Room, _Count, _Count, _Targets]
"""A room: comments, newcomers' among them, and how many spoke to whom."""


class On(NamedTuple):
    """What is on in a room: "target" with a name that is mentioned or the id of a comment, "newcomers"; "slow" where it
    is slow by itself, "guard" where it is for subscribers alone."""

    room: wire.Room
    kind: str
    target: str = ""


class _Message(msgspec.Struct, array_like=True):
    rooms: list[Told] = []
    left: Annotated[list[On], Meta(max_length=ENTRIES)] = []


class RoomCrowds:
    """`writes` tells whether this worker writes a room; `spawn` starts a task."""

    def __init__(
        self, broker: Broker, pipeline: Pipeline, writes: Callable[[str], bool], spawn: Callable[[Any], Any]
    ) -> None:
        self._broker = broker
        self._pipeline = pipeline
        self._writes = writes
        self._spawn = spawn
        self._shards: dict[int, dict[str, Crowds]] = {}  # of rooms that are written here
        self._taken: deque[tuple[float, dict[int, list[Told]]]] = deque()  # here, by shard, in the last ALARM_S
        self._left: list[On] = []

    def turn(self, now: float) -> set[On]:
        """To be called once a second: what is on in the rooms that are written here."""
        taken: dict[int, list[Told]] = {}
        for name, counts in self._pipeline.counted():
            told = (name, counts.all, counts.new, counts.largest(TARGETS))
            taken.setdefault(self._broker.shard_of(name), []).append(told)
        for shard, rooms in taken.items():
            if self._writes(rooms[0][0]):
                self._add(shard, rooms, now)
            else:
                self._spawn(self._tell(shard, rooms))
        if taken:
            self._taken.append((now, taken))
        while self._taken and self._taken[0][0] <= now - ALARM_S:
            self._taken.popleft()
        found = {On(name, "slow") for name in self._pipeline.slow() if self._writes(name)}
        for shard, crowds in list(self._shards.items()):
            if not self._writes(next(iter(crowds))):
                del self._shards[shard]
                continue
            for name, crowd in list(crowds.items()):
                found.update(On(name, kind, target) for kind, target in crowd.turn(now))
                if crowd.at_rest(now):
                    del crowds[name]
            if not crowds:
                del self._shards[shard]
        return found

    def wanted(self, shard: int) -> None:
        """It has a new owner, who knows nothing yet, or has to begin anew: it is told of the last seconds."""
        self._shards.pop(shard, None)
        rooms = [told for _, taken in self._taken for told in taken.get(shard, ())]
        if rooms:
            self._spawn(self._tell(shard, rooms))

    def heard(self, data: bytes, now: float) -> None:
        """What came on `crowd.<shard>`."""
        try:
            message = msgspec.msgpack.decode(data, type=_Message)
        except msgspec.DecodeError as bad:
            log.error("what came is no count of a room's comments (%s)", bad)
            return
        for told in message.rooms:
            if self._writes(told[0]):
                self._add(self._broker.shard_of(told[0]), [told], now)
        self._left += [it for it in message.left[: ENTRIES - len(self._left)] if self._writes(it.room)]

    def left(self) -> list[On]:
        """What others have reminded this worker of since the last time."""
        found, self._left = self._left, []
        return found

    def remind(self, left: Iterable[On]) -> None:
        """Tells whoever writes these rooms that nobody has said for a while whether this is still on."""
        shards: dict[int, list[On]] = {}
        for it in left:
            shards.setdefault(self._broker.shard_of(it.room), []).append(it)
        for shard, found in shards.items():
            self._spawn(self._emit(shard, _Message(left=found[:ENTRIES])))

    def _add(self, shard: int, rooms: list[Told], now: float) -> None:
        crowds = self._shards.get(shard, {})
        for name, comments, new, targets in rooms:
            if name not in crowds:
                if sum(map(len, self._shards.values())) >= ROOMS:
                    continue
                crowds = self._shards.setdefault(shard, crowds)
                crowds[name] = Crowds()
            crowds[name].add(comments, new, targets, now)

    async def _tell(self, shard: int, rooms: list[Told]) -> None:
        message, entries = _Message(rooms=[]), 0
        for room in rooms:
            message.rooms.append(room)
            entries += 1 + len(room[3])
            if entries >= ENTRIES:
                await self._emit(shard, message)
                message, entries = _Message(rooms=[]), 0
        if message.rooms:
            await self._emit(shard, message)

    async def _emit(self, shard: int, message: _Message) -> None:
        with contextlib.suppress(BrokerError):
            await self._broker.emit(f"crowd.{shard}", msgspec.msgpack.encode(message))
