# The broker in one process: a Store of rooms, and MemoryBroker, one caller's view of it. It owns every byte that the
# rooms keep and holds them to Limits. It must never do I/O or wait: a Store's calls are whole when they return.
#
# Its limits: nothing outlives the process. At most `rooms` rooms and about `bytes` bytes in all; past either, the
# coldest room without a subscriber is forgotten; when there is none, the chat tails of the coldest rooms are dropped
# (their numbering stays); when that does not help, a new room or a batch is refused as Full.

import logging
import time
from collections import OrderedDict, deque
from dataclasses import dataclass

from broker.base import (
    CHAT,
    LANES,
    MUST,
    TAIL_BATCHES,
    TAIL_BYTES,
    Closed,
    Entry,
    Full,
    Kind,
    Outcome,
    Sink,
    Tail,
    check_append,
    check_lane,
    check_room,
)

log = logging.getLogger("broker")

ENTRY_COST = 120  # bytes of CPython objects around one batch, and around one room: measured with sys.getsizeof
ROOM_COST = 2400


@dataclass(frozen=True, slots=True)
class Limits:
    rooms: int = 100_000
    bytes: int = 256 * 1024 * 1024


class Lane:
    __slots__ = ("entries", "head", "size")

    def __init__(self) -> None:
        self.head = 0
        self.size = 0  # bytes of batches, without what Python adds
        self.entries: deque[Entry] = deque()

    def cost(self) -> int:
        return self.size + ENTRY_COST * len(self.entries)

    def add(self, batch: bytes, limit: int) -> None:
        self.head += 1
        self.entries.append((self.head, batch))
        self.size += len(batch)
        while self.size > limit or len(self.entries) > TAIL_BATCHES:
            self.size -= len(self.entries.popleft()[1])

    def drop(self) -> None:
        """Keep the numbering and the newest batch."""
        while len(self.entries) > 1:
            self.size -= len(self.entries.popleft()[1])

    def after(self, seq: int) -> list[Entry]:
        missing = self.head - seq
        if missing >= len(self.entries):
            return list(self.entries)
        return [self.entries[i] for i in range(-missing, 0)] if missing > 0 else []

    def reaches(self, seq: int) -> bool:
        """Whether everything above `seq` is still here."""
        return self.head - len(self.entries) <= seq <= self.head


class Room:
    __slots__ = ("incarnation", "lanes", "sinks")

    def __init__(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self.lanes = (Lane(), Lane())
        self.sinks: list[Sink] = []

    def cost(self) -> int:
        return ROOM_COST + self.lanes[MUST].cost() + self.lanes[CHAT].cost()

    def empty(self) -> bool:
        return not (self.lanes[MUST].head or self.lanes[CHAT].head)

    def tail(self, must: int = 0, chat: int = 0) -> Tail:
        m, c = self.lanes
        return Tail(self.incarnation, m.after(must), c.after(chat), (m.head, c.head))


class Store:
    """The rooms. Any number of callers share one; each passes its own sinks."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.size = 0
        self.forgotten = 0
        self._incarnation = 0
        self._idle: OrderedDict[str, Room] = OrderedDict()  # without a subscriber; the coldest first
        self._live: OrderedDict[str, Room] = OrderedDict()  # with one

    def __len__(self) -> int:
        return len(self._idle) + len(self._live)

    def find(self, room: str) -> Room | None:
        return self._live.get(room) or self._idle.get(room)

    def append(self, room: str, lane: int, batch: bytes, expected: int) -> Outcome:
        check_append(room, lane, batch, expected)
        batch = bytes(batch)
        found = self.find(room)
        head = found.lanes[lane].head if found else 0
        if head != expected:
            return Outcome(Kind.FENCED, head)
        self._make_place(len(batch) + ENTRY_COST, keep=room)
        if found is None:
            found = self._make(room)
            self._idle[room] = found
        (self._live if found.sinks else self._idle).move_to_end(room)
        log_lane = found.lanes[lane]
        before = log_lane.cost()
        log_lane.add(batch, TAIL_BYTES[lane])
        self.size += log_lane.cost() - before
        seq = log_lane.head
        for sink in tuple(found.sinks):
            try:
                sink.batch(room, lane, seq, batch)
            except Exception:
                log.exception("a subscriber of room %s failed on lane %d, batch %d", room, lane, seq)
        return Outcome(Kind.STORED, seq)

    def attach(self, room: str, sink: Sink) -> Room:
        """The sink gets what is appended from now on. Attaching it again changes nothing."""
        check_room(room)
        found = self.find(room) or self._make(room)
        self._idle.pop(room, None)
        self._live[room] = found
        self._live.move_to_end(room)
        if not any(s is sink for s in found.sinks):
            found.sinks.append(sink)
        return found

    def detach(self, room: str, sink: Sink) -> None:
        found = self._live.get(room)
        if found is None:
            return
        found.sinks = [s for s in found.sinks if s is not sink]
        if found.sinks:
            return
        del self._live[room]
        if found.empty():  # a viewer who looked into a room that never was: nothing to remember
            self.size -= found.cost()
        else:
            self._idle[room] = found

    def head(self, room: str, lane: int) -> int:
        check_lane(lane)
        found = self.find(room)
        return found.lanes[lane].head if found else 0

    def after(self, room: str, lane: int, seq: int) -> list[Entry]:
        check_lane(lane)
        found = self.find(room)
        return found.lanes[lane].after(seq) if found else []

    def _make(self, room: str) -> Room:
        if len(self) >= self.limits.rooms:
            if not self._idle:
                raise Full(f"{self.limits.rooms} rooms are open, and each has a viewer")
            self._forget()
        self._make_place(ROOM_COST, keep=room)
        # Strictly greater than any before: a room that is made anew within a millisecond is another numbering.
        self._incarnation = max(time.time_ns() // 1_000_000, self._incarnation + 1)
        self.size += ROOM_COST
        return Room(self._incarnation)

    def _forget(self) -> None:
        _, room = self._idle.popitem(last=False)
        self.size -= room.cost()
        self.forgotten += 1

    def _make_place(self, wanted: int, keep: str) -> None:
        limit = self.limits.bytes - wanted
        if self.size <= limit:
            return
        kept = self._idle.pop(keep, None)  # the room that is being written is not the one to forget
        try:
            while self.size > limit and self._idle:
                self._forget()
        finally:
            if kept is not None:
                self._idle[keep] = kept
        if self.size <= limit:
            return
        for room in self._live.values():  # a sixteenth more than asked, so that the next append need not look again
            if self.size <= limit - limit // 16:
                return
            before = room.cost()
            room.lanes[CHAT].drop()
            self.size -= before - room.cost()
        if self.size > limit:
            raise Full(f"rooms with viewers fill the {self.limits.bytes} bytes of the broker")


class MemoryBroker:
    """A Broker on a Store, its own unless one is given. Every call is done when it returns; none is ever UNKNOWN."""

    def __init__(self, store: Store | None = None) -> None:
        self.store = Store() if store is None else store
        self._sinks: dict[str, Sink] = {}
        self._closed = False

    @property
    def connected(self) -> bool:
        return not self._closed

    async def append(self, room: str, lane: int, batch: bytes, expected: int) -> Outcome:
        self._check()
        return self.store.append(room, lane, batch, expected)

    async def subscribe(self, room: str, sink: Sink) -> Tail:
        self._check()
        if room in self._sinks:
            raise ValueError(f"room {room} is subscribed already")
        # One object may serve many rooms, or two brokers of one Store: the wrapper makes each subscription its own.
        own = _Subscription(sink)
        tail = self.store.attach(room, own).tail()
        self._sinks[room] = own
        return tail

    async def unsubscribe(self, room: str) -> None:
        sink = self._sinks.pop(room, None)
        if sink is not None:
            self.store.detach(room, sink)

    async def head(self, room: str, lane: int) -> int:
        self._check()
        return self.store.head(room, lane)

    async def tail(self, room: str, lane: int, after: int) -> list[Entry]:
        self._check()
        return self.store.after(room, lane, after)

    async def close(self) -> None:
        self._closed = True
        for room in list(self._sinks):
            await self.unsubscribe(room)

    def _check(self) -> None:
        if self._closed:
            raise Closed("this broker has been closed")


class _Subscription:
    __slots__ = ("batch", "reset")

    def __init__(self, sink: Sink) -> None:
        self.batch = sink.batch
        self.reset = sink.reset


assert len(LANES) == len(TAIL_BYTES)
