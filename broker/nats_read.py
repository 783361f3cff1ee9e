# Reading rooms' logs out of NATS: always from the stream's leader (a replica may not have what was acknowledged), on a
# connection of its own. It owns the reads under way and holds their bytes in flight to a bound. It must never write,
# and never give an answer that was on its way before the caller's own appends had ended.

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from broker.base import BATCH_BYTES, CHAT, LANES, MUST, TAIL_BATCHES, TAIL_BYTES, Entry, Tail
from broker.nats_entry import End, LogEntry, Place, unpack
from broker.nats_link import Link, Lost
from broker.nats_setup import NO_MESSAGE, Options
from broker.subjects import Places, shard_of

GET_S = 0.5  # nobody answers while a stream has no leader: asked again, the next one does at once
FLIGHT_BYTES = 8 * 1024 * 1024
"""A server cuts off a connection with much more than that unread (1,000 tails at once did it)."""
DOUBTS_S = (0.003,)
"""A server says "no message" for whatever its store could not do just then, so it is asked again before that counts: a
lane that seems empty would cost its viewers their place."""
AROUND_BYTES = 1024  # of an answer, besides the batch: headers, the places of predecessors, JSON


class Message(msgspec.Struct):
    seq: int
    time: datetime
    data: bytes = b""
    hdrs: bytes = b""


class _Got(msgspec.Struct):
    message: Message | None = None
    error: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_Got).decode


async def fetch(link: Link, stream: str, which: dict[str, Any]) -> Message | None:
    """What the stream's leader has; None where it has none, or says so. Down, Lost, NoResponders."""
    msg = await link.request(f"{link.api}.STREAM.MSG.GET.{stream}", json.dumps(which).encode(), GET_S)
    try:
        got = _decode(msg.data)
    except msgspec.DecodeError as bad:
        raise Lost(f"an answer that is none: {bad}") from None
    if got.error is not None:
        if got.error.get("err_code") == NO_MESSAGE:
            return None
        raise Lost(str(got.error.get("description", got.error)))
    if got.message is None:
        raise Lost("an answer without a message")
    return got.message


async def fetch_again(link: Link, stream: str, which: dict[str, Any]) -> Message | None:
    """What was not there the first time."""
    for pause_s in DOUBTS_S:
        await asyncio.sleep(pause_s)
        found = await fetch(link, stream, which)
        if found is not None:
            return found
    return None


class Seen(NamedTuple):
    """A room as the leader had it."""

    incarnation: int  # 0: there is no such room
    birth_seq: int  # what a new birth has to expect
    born: float  # unix time of the last birth entry
    ends: tuple[End, End]
    newest: tuple[LogEntry | None, LogEntry | None]
    greatest: int  # of all incarnations in its entries, those that count no more among them

    @property
    def heads(self) -> tuple[int, int]:
        return self.ends[MUST].number, self.ends[CHAT].number


class Flight:
    """Bytes in flight, first come first served."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def take(self, size: int) -> AsyncIterator[None]:
        size = min(size, self.limit)
        if self._waiting or self.size + size > self.limit:
            place = (size, asyncio.get_running_loop().create_future())
            self._waiting.append(place)
            try:
                await place[1]
            except BaseException:
                if place in self._waiting:
                    self._waiting.remove(place)
                elif not place[1].cancelled():
                    self._give(size)
                raise
        else:
            self.size += size
        try:
            yield
        finally:
            self._give(size)

    def _give(self, size: int) -> None:
        self.size -= size
        while self._waiting and self.size + self._waiting[0][0] <= self.limit:
            size, future = self._waiting.popleft()
            if not future.done():
                self.size += size
                future.set_result(None)


class _Read:
    """One read that is under way, when it began, and how many wait for it."""

    __slots__ = ("began", "task", "waiting")

    def __init__(self, began: int, task: asyncio.Task[Any]) -> None:
        self.began = began
        self.task = task
        self.waiting = 0


class _Reads:
    """Those of one room."""

    __slots__ = ("settled", "under_way")

    def __init__(self) -> None:
        self.settled = 0
        self.under_way: dict[tuple[Any, ...], _Read] = {}


class Reader:
    def __init__(self, link: Link, options: Options) -> None:
        self.link = link
        self.shards = options.shards
        self.streams = options.streams
        self.reads = 0
        # Its lanes' last entries are at least as young as the birth entry when that was written, but for the moment
        # between the writes: so it counts for a little less long than they do.
        self.lasts_s = options.max_age_s - min(60.0, options.max_age_s / 10)
        self.flight = Flight(FLIGHT_BYTES)
        self._clock = 0
        self._rooms: dict[str, _Reads] = {}

    def settled(self, room: str) -> None:
        """Reads of this room that have begun by now do not do any more for those who ask from now on."""
        reads = self._rooms.get(room)
        if reads is not None:
            self._clock += 1
            reads.settled = self._clock

    async def look(self, room: str) -> Seen:
        found: Seen = await self._shared(room, ("look",), lambda: self._look(room))
        return found

    async def tail(self, room: str, lane: int, after: int, most: int = 0) -> list[Entry]:
        async def read() -> list[Entry]:
            seen = await self._look(room)
            return await self._batches(self._stream(room), seen, lane, after, most)

        found: list[Entry] = await self._shared(room, ("tail", lane, after, most), read)
        return found

    async def room(self, room: str, after: tuple[int, int] = (0, 0)) -> tuple[Seen, Tail]:
        """Both lanes above `after`, as far as they are kept. The room's incarnation is 0 where it is not there."""

        async def read() -> tuple[Seen, Tail]:
            seen = await self._look(room)
            must, chat = await asyncio.gather(
                *(self._batches(self._stream(room), seen, lane, after[lane]) for lane in LANES)
            )
            return seen, Tail(seen.incarnation, must, chat, seen.heads)

        found: tuple[Seen, Tail] = await self._shared(room, ("room", *after), read)
        return found

    async def entry(self, room: str, end: End, number: int) -> LogEntry | None:
        """The entry of one batch, if it is still kept."""
        stream, chain, newest = self._stream(room), end.chain, end.number
        while chain:
            steps = newest - number
            entry = await self._entry(stream, chain[min(steps, len(chain) - 1)])
            if entry is None or entry.incarnation != end.incarnation or steps < len(chain):
                return entry if entry is not None and entry.number == number else None
            chain, newest = entry.chain(), entry.number
        return None

    async def _shared(self, room: str, key: tuple[Any, ...], read: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        reads = self._rooms.get(room)
        if reads is None:
            reads = self._rooms[room] = _Reads()
        it = reads.under_way.get(key)
        if it is None or it.began < reads.settled:
            self.reads += 1
            it = reads.under_way[key] = _Read(self._clock, asyncio.ensure_future(read()))
            it.task.add_done_callback(lambda done: done.cancelled() or done.exception())
        it.waiting += 1
        try:
            return await asyncio.shield(it.task)
        finally:
            it.waiting -= 1
            if not it.waiting:  # done, or everybody has given up: then it is only in the way of others
                it.task.cancel()
                if reads.under_way.get(key) is it:  # else a later one has taken its place
                    del reads.under_way[key]
                if not reads.under_way and self._rooms.get(room) is reads:
                    del self._rooms[room]

    async def _look(self, room: str) -> Seen:
        places = Places(room, self.shards)
        stream = self.streams.log(places.shard)
        for _ in range(3):
            birth, *lanes = await asyncio.gather(
                self._get(stream, {"last_by_subj": places.birth()}, AROUND_BYTES),
                self._get(stream, {"last_by_subj": places.log(MUST)}),
                self._get(stream, {"last_by_subj": places.log(CHAT)}),
            )
            if birth is None:
                birth = await self._get_at_last(stream, {"last_by_subj": places.birth()}, AROUND_BYTES)
            for lane in LANES:
                if lanes[lane] is None and birth is not None:
                    lanes[lane] = await self._get_at_last(stream, {"last_by_subj": places.log(lane)})
            entries = [unpack(found.data, found.seq) if found else None for found in lanes]
            incarnation, birth_seq, born = 0, 0, 0.0
            greatest = max(entry.incarnation if entry else 0 for entry in entries)
            if birth is not None:
                birth_seq, born = birth.seq, birth.time.timestamp()
                incarnation = unpack(birth.data, birth.seq).incarnation
                if greatest > incarnation:
                    continue  # it was born anew between the answers
                greatest = incarnation
                if time.time() - born >= self.lasts_s:
                    incarnation = 0
            ends: list[End] = []
            newest: list[LogEntry | None] = []
            for found, entry in zip(lanes, entries, strict=True):
                if found and entry and entry.incarnation == incarnation:
                    ends.append(entry.end())
                    newest.append(entry)
                else:  # nothing, or a log of an earlier numbering, which is none of this room's any more
                    ends.append(End(incarnation, 0, found.seq if found else 0, (), entry.epoch if entry else 0))
                    newest.append(None)
            return Seen(incarnation, birth_seq, born, (ends[0], ends[1]), (newest[0], newest[1]), greatest)
        raise Lost("the room's entries do not belong together")

    def _stream(self, room: str) -> str:
        return self.streams.log(shard_of(room, self.shards))

    async def _batches(self, stream: str, seen: Seen, lane: int, after: int, most: int = 0) -> list[Entry]:
        """The newest batches above `after`, within a tail's bounds, oldest first, contiguous up to the end."""
        end, newest = seen.ends[lane], seen.newest[lane]
        left, chain, number = max(TAIL_BYTES[lane], most), end.chain, end.number
        found: list[Entry] = []
        while chain:
            wanted: list[Place] = []
            for place in chain:
                if number - len(wanted) <= after or place.size > left or len(found) + len(wanted) >= TAIL_BATCHES:
                    break
                left -= place.size
                wanted.append(place)
            for entry in await asyncio.gather(*(self._entry(stream, place, newest) for place in wanted)):
                if entry is None or entry.batch is None or (entry.incarnation, entry.number) != (end[0], number):
                    return found[::-1]  # older ones have been dropped
                found.append((number, entry.batch))
                number -= 1
            chain = entry.chain()[1:] if len(wanted) == len(chain) and entry else ()
        return found[::-1]

    async def _entry(self, stream: str, place: Place, known: LogEntry | None = None) -> LogEntry | None:
        if known is not None and known.batch is not None and known.seq == place.seq:
            return known
        which = {"seq": place.seq}
        found = await self._get(stream, which, place.size) or await self._get_at_last(stream, which, place.size)
        return None if found is None else unpack(found.data, found.seq)

    async def _get_at_last(self, stream: str, which: dict[str, Any], size: int = BATCH_BYTES) -> Message | None:
        async with self.flight.take(size * 4 // 3 + AROUND_BYTES):
            return await fetch_again(self.link, stream, which)

    async def _get(self, stream: str, which: dict[str, Any], size: int = BATCH_BYTES) -> Message | None:
        async with self.flight.take(size * 4 // 3 + AROUND_BYTES):
            return await fetch(self.link, stream, which)
