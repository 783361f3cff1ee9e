# Writing rooms' logs into NATS: appends by compare-and-set on the lane's last stream sequence, births of rooms, and
# what keeps a room from ageing out. It owns what the lanes' ends are believed to be. It must never call an append
# stored, fenced or neither without an answer that says so: where there is none, it reads the log.

import asyncio
import json
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

from broker.base import CHAT, LANES, MUST, NO_MARK, UNKNOWN, Kind, Mark, Outcome, Unavailable
from broker.nats_entry import End, LogEntry, pack
from broker.nats_link import Down, Link, Lost, NoResponders
from broker.nats_read import Reader, Seen
from broker.nats_setup import WRONG_LAST
from broker.subjects import Places

log = logging.getLogger("broker")

IN_FLIGHT = (10164, 10158)
"""Another append to the same subject is being replicated: its outcome is not known yet, so neither is this one's."""
ATTEMPT_S = 1.0
AGAIN_S = 0.02
LANES_KEPT = 4096  # at some 8 KB each, for where 64 batches are
EXPECTED = "Nats-Expected-Last-Subject-Sequence"

T = TypeVar("T")
Reading = Callable[[Callable[[], Awaitable[T]], float], Awaitable[T]]


class Refused(Exception):
    """JetStream says no, and has stored nothing."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


async def publish(
    link: Link, subject: str, payload: bytes, wait_s: float, headers: dict[str, str] | None = None
) -> int:
    """The stream sequence that it has been stored as. Down, NoResponders, Refused: it is not stored; Lost: it may be,
    or may yet be."""
    msg = await link.request(subject, payload, wait_s, headers)
    try:
        answer = json.loads(msg.data)
        error = answer.get("error")
        if error:
            raise Refused(int(error.get("err_code") or error.get("code") or 0), str(error.get("description", "")))
        return int(answer["seq"])
    except (ValueError, KeyError, AttributeError):
        raise Lost("an answer that is none") from None


class Wanted(NamedTuple):
    """An append, as its caller asks for it."""

    expected: int
    batch: bytes
    epoch: int
    mark: Mark


class _Lane:
    __slots__ = ("born", "end", "lock", "unknown")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.end: End | None = None
        self.born = 0.0
        self.unknown: tuple[Wanted, int] | None = None  # an append that ended so, and its call


class Writer:
    """`links` has the connection of each lane. `reading(read, deadline)` reads until there is an answer."""

    def __init__(self, links: tuple[Link, Link], reader: Reader, reading: Reading[Any], max_age_s: float) -> None:
        self.links = links
        self.reader = reader
        self.name = secrets.randbits(63)
        self.stored: Callable[[str, int, End], None] = lambda room, lane, end: None
        self.closed = False
        self._reading = reading
        self._refresh_s = max_age_s / 2
        self._call = 0
        self._incarnation = 0
        self._lanes: OrderedDict[tuple[str, int], _Lane] = OrderedDict()

    async def append(self, room: str, lane: int, wanted: Wanted, wait_s: float) -> Outcome:
        it = self._lane(room, lane)
        deadline = asyncio.get_running_loop().time() + wait_s
        async with it.lock:  # first come, first sent: the order of the calls is the order of the log
            try:
                outcome = await self._append(it, room, lane, wanted, deadline)
            except BaseException:
                it.end = None
                raise
            finally:
                self.reader.settled(room)
        return outcome

    async def _append(self, it: _Lane, room: str, lane: int, wanted: Wanted, deadline: float) -> Outcome:
        loop = asyncio.get_running_loop()
        expected, batch, epoch, mark = wanted
        subject = Places(room, self.reader.shards).log(lane)
        sent, call = self._call_of(it, wanted)
        why, tries = "", 0
        while not self.closed and loop.time() < deadline:
            try:
                end = await self._end(it, room, lane, expected, deadline)
                if end.number != expected or end.epoch > epoch > 0:
                    if sent and await self._is_own(room, end, expected + 1, call, deadline):
                        return Outcome(Kind.STORED, expected + 1)
                    return Outcome(Kind.FENCED, end.number, end.epoch)
            except Unavailable:
                if sent:
                    break
                raise
            end = end.raised(epoch, mark)
            try:
                seq = await self._publish(lane, subject, end, call, batch, deadline)
            except Down:
                why = "not connected"
                if not sent:
                    break
            except NoResponders:
                why = "the stream has no leader"
            except Lost:
                sent = True
            except Refused as refused:
                why = str(refused)
                sent = sent or refused.code in IN_FLIGHT
                if refused.code not in (WRONG_LAST, *IN_FLIGHT):
                    log.warning("room %s: NATS refuses an append: %s", room, why)
                    break
            else:
                it.end = end.after(seq, len(batch))
                self.stored(room, lane, it.end)
                return Outcome(Kind.STORED, expected + 1)
            it.end = None
            tries += 1
            if tries > 1:  # the first time others may just have been faster, which the next read tells
                await asyncio.sleep(AGAIN_S)
        if sent:
            it.unknown = (wanted, call)
            return UNKNOWN
        raise Unavailable(f"NATS takes no append: {why or 'no answer'}")

    def _call_of(self, it: _Lane, wanted: Wanted) -> tuple[bool, int]:
        """Whether it may have been sent before, and what names it: if the very same append is in the log already, so
        is this one."""
        sent, it.unknown = it.unknown, None
        if sent is not None and sent[0] == wanted:
            it.end = None
            return True, sent[1]
        self._call += 1
        return False, self._call

    async def _end(self, it: _Lane, room: str, lane: int, expected: int, deadline: float) -> End:
        """How the lane ends: as believed, if that is what the caller believes too; else as it is read."""
        if it.end is not None and it.end.number == expected and not self.is_old(it.born):
            return it.end
        seen: Seen = await self._reading(lambda: self.reader.look(room), deadline)
        if not seen.incarnation:
            if expected:
                return seen.ends[lane]
            seen = await self.born(room, seen, deadline)
        elif self.is_old(seen.born):
            await self.refresh(room)
            seen = await self._reading(lambda: self.reader.look(room), deadline)
        it.end, it.born = seen.ends[lane], seen.born
        return it.end

    async def _is_own(self, room: str, end: End, number: int, call: int, deadline: float) -> bool:
        if end.number < number:
            return False
        entry = await self._reading(lambda: self.reader.entry(room, end, number), deadline)
        return entry is not None and (entry.writer, entry.call) == (self.name, call)

    async def born(self, room: str, seen: Seen, deadline: float) -> Seen:
        """The room, made now where `seen` says that it is not there; with empty lanes then, whoever may be writing to
        them already."""
        while not seen.incarnation:
            made = self._incarnation = max(time.time_ns() // 1_000_000, self._incarnation + 1, seen.greatest + 1)
            try:
                seq = await self._birth(room, made, seen.birth_seq, deadline)
                must, chat = (End(made, 0, end.seq, (), end.epoch) for end in seen.ends)
                return Seen(made, seq, time.time(), (must, chat), (None, None), made)
            except (Down, Lost, NoResponders, Refused) as failed:  # whoever was first, the room is read again
                if asyncio.get_running_loop().time() >= deadline or self.closed:
                    raise Unavailable(f"NATS takes no new room: {failed}") from None
                if not isinstance(failed, Refused):
                    await asyncio.sleep(AGAIN_S)
            finally:
                self.reader.settled(room)
            seen = await self._reading(lambda: self.reader.look(room), deadline)
        return seen

    async def open(self, room: str, end: End | None, born: float, epoch: int, wait_s: float) -> End | None:
        """Raises the chat lane's epoch to `epoch`, by an entry without a batch: whoever writes there under a lesser one
        is fenced from the return on. How the lane ends then; None for a room that is not there. `end` is what it is
        believed to be, as of a birth at `born`. Raises Unavailable."""
        it = self._lane(room, CHAT)
        subject = Places(room, self.reader.shards).log(CHAT)
        deadline = asyncio.get_running_loop().time() + wait_s
        async with it.lock:
            it.end = None
            try:
                while True:
                    if end is None:
                        self.reader.settled(room)
                        seen: Seen = await self._reading(lambda: self.reader.look(room), deadline)
                        if not seen.incarnation:
                            return None
                        end, born = seen.ends[CHAT], seen.born
                    if end.epoch > epoch:
                        return end
                    end = end.raised(epoch, NO_MARK)
                    try:
                        seq = await self._publish(CHAT, subject, end, 0, None, deadline)
                        it.end, it.born = end._replace(seq=seq), born
                        return it.end
                    except (Down, Lost, NoResponders, Refused) as failed:
                        if asyncio.get_running_loop().time() >= deadline or self.closed:
                            raise Unavailable(f"room {room} can't be opened: {failed}") from None
                        if not isinstance(failed, Refused) or failed.code != WRONG_LAST:
                            await asyncio.sleep(AGAIN_S)
                    end = None
            finally:
                self.reader.settled(room)

    def is_old(self, born: float) -> bool:
        return time.time() - born > self._refresh_s

    async def refresh(self, room: str) -> None:
        """Keeps the room from ageing out, if it is half way there. What fails of it is tried again by others, later.

        The lanes come first: while the birth entry lasts, what was in the lanes when it was written does too."""
        try:
            seen = await self.reader.look(room)
            if not seen.incarnation or not self.is_old(seen.born):
                return
            places = Places(room, self.reader.shards)
            deadline = asyncio.get_running_loop().time() + ATTEMPT_S
            for lane in LANES:
                if seen.ends[lane].number:
                    try:
                        await self._publish(lane, places.log(lane), seen.ends[lane], 0, None, deadline)
                    except Refused as refused:
                        if refused.code != WRONG_LAST:  # that one means that it has a younger entry just now
                            raise
            await self._birth(room, seen.incarnation, seen.birth_seq, deadline)
        except (Down, Lost, NoResponders, Refused) as failed:
            log.debug("room %s is not refreshed: %s", room, failed)
        finally:
            self.reader.settled(room)

    async def _birth(self, room: str, incarnation: int, birth_seq: int, deadline: float) -> int:
        subject = Places(room, self.reader.shards).birth()
        return await self._publish(MUST, subject, End(incarnation, 0, birth_seq), 0, None, deadline)

    async def _publish(self, lane: int, subject: str, end: End, call: int, batch: bytes | None, deadline: float) -> int:
        """The stream sequence that it has been stored as."""
        left_s = max(0.05, min(ATTEMPT_S, deadline - asyncio.get_running_loop().time()))
        payload = pack(end, self.name, call, batch)
        return await publish(self.links[lane], subject, payload, left_s, {EXPECTED: str(end.seq)})

    def advanced(self, room: str, lane: int, entry: LogEntry) -> None:
        """News of a lane, from its subscription: saves a read before the next append."""
        it = self._lanes.get((room, lane))
        if it is None or it.end is None or it.lock.locked():
            return
        if it.end.incarnation == entry.incarnation and it.end.number <= entry.number and it.end.seq < entry.seq:
            it.end = entry.end()

    def looked(self, room: str, lane: int, seen: Seen) -> None:
        """Somebody has asked how the lane ends, who as a rule appends to it next: saves the same read."""
        it = self._lane(room, lane)
        if seen.incarnation and it.end is None and not it.lock.locked():
            it.end, it.born = seen.ends[lane], seen.born

    def _lane(self, room: str, lane: int) -> _Lane:
        key = (room, lane)
        it = self._lanes.get(key)
        if it is None:
            it = self._lanes[key] = _Lane()
            while len(self._lanes) > LANES_KEPT:
                oldest, other = next(iter(self._lanes.items()))
                if other.lock.locked() or other is it:
                    break
                del self._lanes[oldest]
        self._lanes.move_to_end(key)
        return it
