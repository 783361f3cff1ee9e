# The rooms of this worker's viewers: subscribed to for the first, kept a while after the last, and everything that the
# broker says of them handed to the engine. It owns the subscriptions. It must never admit a viewer to a room that the
# engine does not have yet.
import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection
from typing import Any, Protocol

import msgspec

from broker.base import CHAT, MUST, Broker, BrokerError, Tail
from edge.auth import Identity
from edge.errors import EdgeError
from edge.rooms.reactions import EVERY_BATCHES
from edge.scores import Must

log = logging.getLogger("edge.watch")

LINGER_S = 30.0  # before a room that nobody watches any more is let go

Parked = tuple[int, Identity]


class Logs(Protocol):
    """What is used of the engine."""

    def room_open(self, name: bytes, incarnation: int, must: int, chat: int) -> None: ...
    def room_close(self, name: bytes) -> bool: ...
    def room_end(self, name: bytes, code: int, reason: bytes) -> None: ...
    def rooms_unwatched(self) -> list[bytes]: ...
    def append(self, name: bytes, lane: int, seq: int, count: int, canon: bytes) -> int: ...
    def batches(self, name: bytes, lane: int) -> list[tuple[int, bytes]]: ...
    def replace(self, name: bytes, lane: int, seq: int, count: int, canon: bytes) -> bool: ...


class _Batch(msgspec.Struct):
    ts: int = 0
    m: list[msgspec.Raw] = []
    r: dict[str, int] = {}


class _Said(msgspec.Struct):
    id: str


class _Shown(msgspec.Struct):
    m: list[_Said] = []


_decode = msgspec.msgpack.Decoder(_Batch).decode
_shown = msgspec.msgpack.Decoder(_Shown).decode


def without(data: bytes, ids: Collection[str]) -> tuple[int, bytes]:
    """A batch without these comments, and how many are left in it; the very same bytes where it has none of them."""
    try:
        shown = _shown(data).m
    except msgspec.DecodeError:
        return 0, data
    if not any(comment.id in ids for comment in shown):
        return len(shown), data
    batch = msgspec.msgpack.decode(data)
    batch["m"] = [comment for comment in batch["m"] if comment["id"] not in ids]
    return len(batch["m"]), msgspec.msgpack.encode(batch)


class Room:
    """A room that this worker publishes to or watches. While it is `followed` the engine has it, for viewers."""

    __slots__ = ("idle_since", "key", "must", "name", "opening", "parked", "reactions")

    def __init__(self, name: str) -> None:
        self.name = name
        self.key = name.encode()
        self.must = Must(name)
        self.opening: asyncio.Task[None] | None = None
        self.parked: list[Parked] = []
        self.idle_since = 0.0
        self.reactions: dict[str, int] = {}  # totals by kind

    @property
    def followed(self) -> bool:
        return self.must.followed


class Watch:
    """The broker's Sink. `admit` and `refuse` end a viewer's waiting, `spawn` starts a task, `soon` asks for a turn."""

    def __init__(
        self,
        broker: Broker,
        engine: Logs,
        limit: int,
        admit: Callable[[Room, Parked], None],
        refuse: Callable[[Parked, EdgeError], None],
        spawn: Callable[[Any], asyncio.Task[Any]],
        soon: Callable[[], None],
        gone: Callable[[str], Collection[str]],
        said: Callable[[str, int, bytes], None],
    ) -> None:
        self._gone = gone
        self._said = said
        self._broker = broker
        self._engine = engine
        self._limit = limit
        self._admit = admit
        self._refuse = refuse
        self._spawn = spawn
        self._soon = soon
        self._rooms: dict[str, Room] = {}

    def room(self, name: str) -> Room:
        room = self._rooms.get(name)
        if room is None:
            if len(self._rooms) >= self._limit:
                raise EdgeError("overloaded", "there are too many rooms", retry_after=5)
            room = self._rooms[name] = Room(name)
        return room

    def has(self, name: str) -> bool:
        """The room is open, or is being opened: one more viewer costs no read."""
        room = self._rooms.get(name)
        return room is not None and (room.followed or room.opening is not None)

    async def reactions(self, name: str, head: int) -> dict[str, int]:
        """The totals of a room, whether or not somebody here watches it; `head` is where its chat ends."""
        room = self._rooms.get(name)
        if room is not None and room.followed:
            return room.reactions
        found: dict[str, int] = {}
        for _, data in await self._broker.tail(name, CHAT, max(0, head - EVERY_BATCHES)) if head else ():
            with contextlib.suppress(msgspec.DecodeError):
                found |= _decode(data).r
        return found

    def park(self, room: Room, parked: Parked) -> None:
        """The viewer waits until the room is open."""
        room.parked.append(parked)
        if room.opening is None:
            room.opening = self._spawn(self._open(room))

    async def _open(self, room: Room) -> None:
        try:
            tail = await self._broker.subscribe(room.name, self)
            self._fill(room, tail)
            room.must.followed = True
        except (BrokerError, ValueError) as error:
            log.warning("room %s does not open: %s", room.name, error)
        finally:
            room.opening = None
            waiting, room.parked = room.parked, []
        for parked in waiting:
            if room.followed:
                self._admit(room, parked)
            else:
                self._refuse(parked, EdgeError("unavailable", retry_after=2))
        self._soon()

    def _fill(self, room: Room, tail: Tail) -> None:
        first = [
            entries[0][0] - 1 if entries else head
            for entries, head in zip((tail.must, tail.chat), tail.heads, strict=True)
        ]
        room.reactions = {}
        self._engine.room_open(room.key, tail.incarnation, first[MUST], first[CHAT])
        for lane, entries in ((MUST, tail.must), (CHAT, tail.chat)):
            for seq, data in entries:
                self.batch(room.name, lane, seq, data)
        room.must.head = tail.heads[MUST]

    def batch(self, room: str, lane: int, seq: int, data: bytes) -> None:
        it = self._rooms.get(room)
        if it is None:
            return  # let go just now
        if lane == CHAT:
            if gone := self._gone(room):
                data = without(data, gone)[1]
            self._said(room, seq, data)
        try:
            found = _decode(data)
        except msgspec.DecodeError:
            found = _Batch()  # the engine tells its viewers of a gap in its place
        # In a replay a batch of reactions alone counts as a comment does, or there might be any number of those.
        self._engine.append(it.key, lane, seq, max(1, len(found.m)) if lane == CHAT else 1, data)
        it.reactions |= found.r
        if lane == MUST:
            it.must.stamp(found.ts)
            it.must.head = seq
        self._soon()

    def retract(self, room: str, ids: Collection[str]) -> None:
        """These leave what is kept for those who come: who is here is told by the `must` lane."""
        it = self._rooms.get(room)
        if it is None or not it.followed:
            return
        for seq, data in self._engine.batches(it.key, CHAT):
            left, stripped = without(data, ids)
            if stripped is not data:
                self._engine.replace(it.key, CHAT, seq, left, stripped)

    def reset(self, room: str, tail: Tail) -> None:
        """The numbering is a new one: viewers cannot go on from where they are, so they come anew, a few at a time."""
        it = self._rooms.get(room)
        if it is None:
            return
        self._engine.room_end(it.key, 1012, b"the room starts anew")
        self._fill(it, tail)
        self._soon()

    def housekeep(self, now: float) -> None:
        unwatched = {name.decode() for name in self._engine.rooms_unwatched()}
        for name, room in list(self._rooms.items()):
            busy = room.opening or room.parked or room.must.lock.locked()
            if busy or (room.followed and name not in unwatched):
                room.idle_since = 0.0
            elif not room.idle_since:
                room.idle_since = now
            elif now - room.idle_since > LINGER_S:
                del self._rooms[name]
                if room.followed:
                    self._engine.room_close(room.key)
                    self._spawn(self._broker.unsubscribe(name))
