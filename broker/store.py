# What a broker of one box keeps: rooms with their logs, offers, leases, and who hears what. It owns every byte that the
# rooms keep and holds them to Limits. It must never do I/O or wait: a Store's calls are whole when they return, but for
# those of its `state`.
#
# Its limits: nothing but the state outlives the process. At most `rooms` rooms and about `bytes` bytes of them in all;
# past either, the coldest room without a subscriber is forgotten; when there is none, the chat tails of the coldest
# rooms are dropped (their numbering stays); when that does not help, a new room or a batch is refused as Full. A room
# that is forgotten takes its mark and its epoch along. Offers are never forgotten before they are covered: past
# `offers` bytes of them, over all shards, the next one is refused as Full.

import logging
import time
from collections import OrderedDict, deque
from dataclasses import dataclass

from broker.base import (
    CHAT,
    LANES,
    LEASE_TTL_S,
    MUST,
    NO_MARK,
    TAIL_BATCHES,
    TAIL_BYTES,
    Entry,
    Full,
    Hearer,
    Kind,
    Last,
    Mark,
    Outcome,
    Sink,
    Standing,
    Tail,
    check_append,
    check_lane,
    check_room,
    check_shard,
    check_subject,
)
from broker.leases import Clock, Leases
from broker.offers import Offers
from broker.state import State
from broker.subjects import shard_of

log = logging.getLogger("broker")

SHARDS = 16
"""Of one box: enough for its few workers to share, and few enough to hold each."""
ENTRY_COST = 120  # bytes of CPython objects around one batch, and around one room: measured with sys.getsizeof
ROOM_COST = 2400
CALL_COST = 44
CALLS = 64  # of a lane's newest batches, who appended them


@dataclass(frozen=True, slots=True)
class Limits:
    rooms: int = 100_000
    bytes: int = 256 * 1024 * 1024
    offers: int = 64 * 1024 * 1024


class Lane:
    __slots__ = ("calls", "entries", "epoch", "head", "mark", "size")

    def __init__(self) -> None:
        self.head = 0
        self.epoch = 0
        self.mark: Mark = NO_MARK
        self.size = 0  # bytes of batches, without what Python adds
        self.entries: deque[Entry] = deque()
        self.calls: list[int] = []  # of the newest batches, up to the head

    def cost(self) -> int:
        return self.size + ENTRY_COST * len(self.entries) + CALL_COST * len(self.calls)

    def last(self) -> Last:
        return Last(self.head, self.epoch, self.mark)

    def is_own(self, seq: int, call: int) -> bool:
        """Whether batch `seq` was appended by this very call."""
        return call != 0 and 0 <= self.head - seq < len(self.calls) and self.calls[seq - self.head - 1] == call

    def add(self, batch: bytes, limit: int, call: int) -> None:
        self.head += 1
        if call or self.calls:
            self.calls.append(call)
            del self.calls[:-CALLS]
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
    __slots__ = ("incarnation", "lanes", "shard", "sinks")

    def __init__(self, incarnation: int, shard: int) -> None:
        self.incarnation = incarnation
        self.shard = shard
        self.lanes = (Lane(), Lane())
        self.sinks: list[Sink] = []

    def cost(self) -> int:
        return ROOM_COST + self.lanes[MUST].cost() + self.lanes[CHAT].cost()

    def empty(self) -> bool:
        return not (self.lanes[MUST].head or self.lanes[CHAT].head)

    def tail(self, must: int = 0, chat: int = 0) -> Tail:
        m, c = self.lanes
        return Tail(self.incarnation, m.after(must), c.after(chat), (m.head, c.head))


NO_LAST = Last(0, 0, NO_MARK)


class Hearing:
    """Who hears which subject."""

    __slots__ = ("_hearers",)

    def __init__(self) -> None:
        self._hearers: dict[str, list[Hearer]] = {}

    def emit(self, subject: str, message: bytes) -> None:
        check_subject(subject)
        for hearer in tuple(self._hearers.get(subject, ())):
            try:
                hearer(message)
            except Exception:
                log.exception("a hearer of %s failed", subject)

    def attach(self, subject: str, hearer: Hearer) -> None:
        check_subject(subject)
        self._hearers.setdefault(subject, []).append(hearer)

    def detach(self, subject: str, hearer: Hearer) -> None:
        left = [h for h in self._hearers.pop(subject, ()) if h is not hearer]
        if left:
            self._hearers[subject] = left


class Store:
    """Any number of callers share one; each passes its own sinks, takers and hearers. `now` is the clock of leases,
    `data` the folder of its state, which is in memory without one. Whoever has made it closes the state."""

    def __init__(
        self,
        limits: Limits | None = None,
        lease_ttl_s: float = LEASE_TTL_S,
        now: Clock = time.monotonic,
        data: str = "",
        shards: int = SHARDS,
    ) -> None:
        self.shards = shards
        self.limits = limits or Limits()
        self.offers = Offers(shards, self.limits.offers)
        self.leases = Leases(lease_ttl_s, now)
        self.hearing = Hearing()
        self.state = State(data)
        self.size = 0
        self.forgotten = 0
        self._incarnation = 0
        self._idle: OrderedDict[str, Room] = OrderedDict()  # without a subscriber; the coldest first
        self._live: OrderedDict[str, Room] = OrderedDict()  # with one
        # All of them again, since one takeover of a shard would else walk over every room: 26 ms for 100,000.
        self._of_shard: tuple[dict[str, Room], ...] = tuple({} for _ in range(shards))

    def __len__(self) -> int:
        return len(self._idle) + len(self._live)

    def find(self, room: str) -> Room | None:
        return self._live.get(room) or self._idle.get(room)

    def append(
        self, room: str, lane: int, batch: bytes, expected: int, epoch: int = 0, mark: Mark = NO_MARK, call: int = 0
    ) -> Outcome:
        """A `call` names the append: the same one once more is STORED where it has been stored before."""
        check_append(room, lane, batch, expected, epoch, mark)
        batch = bytes(batch)
        found = self.find(room)
        last = found.lanes[lane].last() if found else NO_LAST
        if found and found.lanes[lane].is_own(expected + 1, call):
            return Outcome(Kind.STORED, expected + 1)
        if last.head != expected or 0 < epoch < last.epoch:
            return Outcome(Kind.FENCED, last.head, last.epoch)
        self._make_place(len(batch) + ENTRY_COST, keep=room)
        if found is None:
            found = self._make(room)
            self._idle[room] = found
        (self._live if found.sinks else self._idle).move_to_end(room)
        log_lane = found.lanes[lane]
        before = log_lane.cost()
        log_lane.add(batch, TAIL_BYTES[lane], call)
        log_lane.epoch = max(log_lane.epoch, epoch)
        if mark != NO_MARK:
            log_lane.mark = mark
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
            del self._of_shard[found.shard][room]
        else:
            self._idle[room] = found

    def last(self, room: str, lane: int) -> Last:
        check_lane(lane)
        found = self.find(room)
        return found.lanes[lane].last() if found else NO_LAST

    def after(self, room: str, lane: int, seq: int) -> list[Entry]:
        check_lane(lane)
        found = self.find(room)
        return found.lanes[lane].after(seq) if found else []

    def fence(self, shard: int, epoch: int) -> Standing:
        """Every room of the shard that has chat, the newest first."""
        check_shard(shard, self.shards)
        rooms = {}
        for name, room in reversed(self._of_shard[shard].items()):
            lane = room.lanes[CHAT]
            if lane.head:
                lane.epoch = max(lane.epoch, epoch)
                rooms[name] = lane.last()
        return Standing(self.offers.covered(shard), rooms)

    def _make(self, room: str) -> Room:
        if len(self) >= self.limits.rooms:
            if not self._idle:
                raise Full(f"{self.limits.rooms} rooms are open, and each has a viewer")
            self._forget()
        self._make_place(ROOM_COST, keep=room)
        # Strictly greater than any before: a room that is made anew within a millisecond is another numbering.
        self._incarnation = max(time.time_ns() // 1_000_000, self._incarnation + 1)
        self.size += ROOM_COST
        made = Room(self._incarnation, shard_of(room, self.shards))
        self._of_shard[made.shard][room] = made
        return made

    def _forget(self) -> None:
        name, room = self._idle.popitem(last=False)
        del self._of_shard[room.shard][name]
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


assert len(LANES) == len(TAIL_BYTES)
