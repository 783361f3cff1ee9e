# The broker that joins boxes: NatsBroker, a Broker over NATS with JetStream. It owns the subscriptions. It must never
# guess how an append ended, nor pass a batch on past a hole.
#
# The log is the stream; what it takes, the server sends on to subscribers (republish). That is fast and no promise, so
# everything heard is checked by its number: a hole, a head that others tell of, and every reconnect make a room
# suspect, and what is missing is read from the stream's leader. Each lane has a connection of its own, so that a flood
# of comments holds no score back, and reads have a third.

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import TypeVar

from nats.aio.msg import Msg

from broker.access import NO_ACCESS, Access
from broker.base import (
    CHAT,
    LANES,
    MUST,
    NO_MARK,
    UNKNOWN,
    Answerer,
    BrokerError,
    Closed,
    Entry,
    Hearer,
    Kept,
    Kind,
    Last,
    Lease,
    Mark,
    Outcome,
    Sink,
    Standing,
    Tail,
    Taker,
    Unavailable,
    Watcher,
    check_append,
    check_keep,
    check_key,
    check_lane,
    check_offer,
    check_prefix,
    check_room,
    check_shard,
    check_subject,
)
from broker.nats_beat import Beat
from broker.nats_emit import Emitting
from broker.nats_entry import BadEntry, unpack
from broker.nats_follow import Following
from broker.nats_hear import Hearing
from broker.nats_lease import Fence, Leases
from broker.nats_offers import Offers
from broker.nats_read import Reader, Seen
from broker.nats_setup import Options, parse
from broker.nats_state import Keeping
from broker.nats_way import AGAIN_S, FAILURES, Way
from broker.nats_write import Wanted, Writer
from broker.subjects import Places, shard_of

log = logging.getLogger("broker")
T = TypeVar("T")

ROLLED_BACK = 8
"""Reads that must all end before what a sink has had. A leader that has lost its office can answer for seconds."""
ROLLED_BACK_S = 1.0
FAREWELL_S = 0.5


class NatsBroker:
    """A Broker at `url`, connected at the first call and again whenever the way breaks.

    Calls wait up to `wait_s`: reads and subscriptions for a connection and an answer, an append for the first
    connection, and for its outcome, which is then UNKNOWN."""

    def __init__(self, url: str | Options, wait_s: float = 5.0, access: Access = NO_ACCESS) -> None:
        options = parse(url, access) if isinstance(url, str) else url
        self.wait_s = wait_s
        self.repairs = 0
        self.way = way = Way(options, wait_s, self._came_up)
        self.reader = Reader(way.reads, options)
        self.writer = Writer((way.links[MUST], way.links[CHAT]), self.reader, way.read, options.max_age_s)
        self.hearing = tuple(Hearing(way.links[lane], lane, way.spawn) for lane in LANES)
        self.emitting = Emitting(way.links[MUST], way.spawn)
        self._following: dict[str, Following] = {}
        self.beat = Beat(way.links[MUST], self.writer, self._following, options, self._suspect)
        self.writer.stored = self.beat.stored
        self.offers = Offers(way)
        self.leases = Leases(way, way.links[MUST])
        self._fence = Fence(way, self.offers, self.writer)
        self.keeping = Keeping(way, way.links[MUST])

    @property
    def connected(self) -> bool:
        return self.way.connected

    @property
    def shards(self) -> int:
        return self.reader.shards

    def shard_of(self, room: str) -> int:
        return shard_of(room, self.reader.shards)

    async def append(
        self, room: str, lane: int, batch: bytes, expected: int, epoch: int = 0, mark: Mark = NO_MARK
    ) -> Outcome:
        check_append(room, lane, batch, expected, epoch, mark)
        self._open()
        wanted = Wanted(expected, bytes(batch), epoch, mark)
        try:
            await self.way.first(lane, self.way.deadline())
            return await self.writer.append(room, lane, wanted, self.wait_s)
        except (Unavailable, Closed):
            if self.way.closed:
                return UNKNOWN
            raise

    async def subscribe(self, room: str, sink: Sink) -> Tail:
        check_room(room)
        self._open()
        if room in self._following:
            raise ValueError(f"room {room} is subscribed already")
        own = Following(room, Places(room, self.reader.shards), sink, self._suspect)
        own.hearers = tuple(partial(self._heard, own, lane) for lane in LANES)
        self._following[room] = own
        try:
            tail = await self._join(own, self.way.deadline())
        except BaseException:
            await self._leave(own)
            raise
        asyncio.get_running_loop().call_soon(own.release)
        return tail

    async def unsubscribe(self, room: str) -> None:
        own = self._following.get(room)
        if own is not None:
            await self._leave(own)

    async def head(self, room: str, lane: int) -> int:
        return (await self.last(room, lane)).head

    async def last(self, room: str, lane: int) -> Last:
        check_lane(lane)
        self._open()
        seen = await self.way.read(lambda: self.reader.look(room), self.way.deadline())
        self.writer.looked(room, lane, seen)
        end = seen.ends[lane]
        return Last(end.number, end.epoch, end.mark)

    async def tail(self, room: str, lane: int, after: int, most: int = 0) -> list[Entry]:
        check_lane(lane)
        self._open()
        return await self.way.read(lambda: self.reader.tail(room, lane, after, most), self.way.deadline())

    async def offer(self, shard: int, items: Sequence[bytes]) -> Kind:
        check_offer(shard, self.reader.shards, items)
        self._open()
        try:
            await self.way.first(CHAT, self.way.deadline())
            return await self.offers.offer(shard, items, self.wait_s)
        except (Unavailable, Closed):
            if self.way.closed:
                return Kind.UNKNOWN
            raise

    async def consume(self, shard: int, after: int, taker: Taker) -> None:
        self._open_shard(shard)
        await self._unless_closed(self.offers.consume(shard, after, taker, self.way.deadline()))

    async def leave(self, shard: int) -> None:
        await self.offers.leave(shard)

    async def covered(self, shard: int, seq: int) -> None:
        self._open_shard(shard)
        await self._unless_closed(self.offers.covered(shard, seq, self.way.deadline()))

    async def lease(self, shard: int) -> Lease | None:
        self._open_shard(shard)
        return await self._unless_closed(self.leases.lease(shard, self.way.deadline()))

    async def fence(self, shard: int, epoch: int) -> Standing:
        self._open_shard(shard)
        return await self._unless_closed(self._fence.fence(shard, epoch, self.wait_s))

    async def keep(self, key: str, value: bytes | None, revision: int | None) -> int:
        check_keep(key, value, revision)
        self._open()
        deadline = self.way.deadline()
        await self.way.first(MUST, deadline)
        return await self.keeping.keep(key, value, revision, deadline)

    async def find(self, key: str) -> Kept | None:
        check_key(key)
        self._open()
        return await self.keeping.find(key, self.way.deadline())

    async def kept(self, prefix: str) -> list[Kept]:
        check_prefix(prefix)
        self._open()
        return await self.keeping.kept(prefix, self.way.deadline())

    async def watch(self, prefix: str, watcher: Watcher) -> list[Kept]:
        check_prefix(prefix)
        self._open()
        return await self.keeping.watch(prefix, watcher, self.way.deadline())

    async def unwatch(self, prefix: str) -> None:
        await self.keeping.unwatch(prefix)

    async def emit(self, subject: str, message: bytes) -> None:
        check_subject(subject)
        self._open()
        await self.emitting.emit(subject, message)

    async def hear(self, subject: str, hearer: Hearer) -> None:
        check_subject(subject)
        self._open()
        await self._begun(self.emitting.hear(subject, hearer))

    async def unhear(self, subject: str) -> None:
        await self.emitting.unhear(subject)

    async def answer(self, verb: str, answerer: Answerer) -> None:
        self._open()
        await self._begun(self.emitting.answer(verb, answerer))

    def figures(self) -> dict[str, int]:
        return {
            "broker_heard_bytes": sum(it.heard_bytes for it in self.hearing),
            "broker_unwanted_bytes": sum(it.unwanted_bytes for it in self.hearing),
            "broker_unwanted_messages": sum(it.unwanted_messages for it in self.hearing),
            "broker_repairs": self.repairs,
            "broker_slow": sum(link.slow for link in self.way.links),
            "broker_reconnects": sum(max(0, link.connects - 1) for link in self.way.links),
            "broker_refused_requests": self.emitting.refused,
            "broker_bad_offers": self.offers.bad,
        }

    async def close(self) -> None:
        self.way.closed = self.writer.closed = True
        for own in self._following.values():
            own.close()
        self._following.clear()
        try:
            await asyncio.gather(self.leases.close(), self.offers.close(), self.keeping.close())
            with contextlib.suppress(*FAILURES, TimeoutError):  # what was emitted just now is on its way, not lost
                async with asyncio.timeout(FAREWELL_S):
                    await self.way.links[MUST].flush()
        finally:
            await self.way.close()

    def _open_shard(self, shard: int) -> None:
        check_shard(shard, self.reader.shards)
        self._open()

    async def _unless_closed(self, call: Awaitable[T]) -> T:
        """What a call under way could not do because of the closing is Closed."""
        try:
            return await call
        except Unavailable:
            if self.way.closed:
                raise Closed("this broker has been closed") from None
            raise

    async def _begun(self, hearing: Awaitable[None]) -> None:
        """Waits a while for the first connection: without one it begins with the next."""
        await hearing
        if not self.way.links[MUST].connected:
            await self.way.links[MUST].first(self.way.deadline())
            self.way.check()

    def _open(self) -> None:
        if self.way.begin():
            self.way.spawn(self.beat.run(self.way.spawn))

    def _came_up(self) -> None:
        # What was stored meanwhile was sent on to nobody here, and nothing may follow that shows the hole.
        for hearing in self.hearing:
            hearing.came_up()
        for own in self._following.values():
            self._suspect(own)
        self.keeping.came_up()

    async def _join(self, own: Following, deadline: float) -> Tail:
        while True:
            await self.way.wait(deadline)
            own.again, own.early = False, []
            hearing = [self.hearing[lane].add(own.places, own.hearers[lane]) for lane in LANES]
            failed = [it for it in await asyncio.gather(*hearing, return_exceptions=True) if it is not None]
            if not failed:
                self.reader.settled(own.room)  # only what begins after the server has us will do
                seen, tail = await self._room(own.room, (0, 0), deadline)
                own.start(tail, seen.born)
                return tail
            if not isinstance(failed[0], FAILURES):
                raise failed[0]
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable(f"NATS can't be reached at {self.way.where}")
            await asyncio.sleep(AGAIN_S)

    async def _leave(self, own: Following) -> None:
        own.close()
        if self._following.get(own.room) is own:
            del self._following[own.room]
        for lane in LANES:
            await self.hearing[lane].drop(own.places, own.hearers[lane])

    def _heard(self, own: Following, lane: int, msg: Msg) -> None:
        try:
            entry = unpack(msg.data, int((msg.headers or {})["Nats-Sequence"]))
        except (BadEntry, KeyError, ValueError) as bad:
            log.error("room %s: what came on %s is no entry of a log (%s)", own.room, msg.subject, bad)
            return
        self.writer.advanced(own.room, lane, entry)
        own.heard(lane, entry)

    def _suspect(self, own: Following) -> None:
        if own.repairing or not own.incarnation:
            own.again = True
        elif not own.closed:
            own.repairing = True
            self.way.spawn(self._repair(own))

    async def _repair(self, own: Following) -> None:
        rolled_back = 0
        try:
            while not own.closed:
                own.again = False
                before = (own.heads[MUST], own.heads[CHAT])
                await self.way.wait(None)
                try:
                    rolled_back = await self._repair_once(own, before, rolled_back)
                except BrokerError as failed:
                    log.debug("room %s is behind: %s", own.room, failed)
                    own.again = True
                if not rolled_back and not own.again and own.complete():
                    return
                if rolled_back or own.again:
                    await asyncio.sleep(random.uniform(0.5, 1) * ROLLED_BACK_S if rolled_back else AGAIN_S)
        finally:
            own.repairing = False

    async def _repair_once(self, own: Following, before: tuple[int, int], rolled_back: int) -> int:
        """How often in a row the log has been seen to end before what the sink has had of it."""
        self.repairs += 1
        self.reader.settled(own.room)
        seen, tail = await self._room(own.room, before, self.way.deadline())
        same = tail.incarnation == own.incarnation
        if same and any(tail.heads[lane] < before[lane] for lane in LANES):
            if rolled_back + 1 < ROLLED_BACK:
                return rolled_back + 1
            log.error("room %s: the log has lost what it had stored; its viewers begin anew", own.room)
        elif own.repaired(tail, seen.born):
            return 0
        seen, tail = await self._room(own.room, (0, 0), self.way.deadline())
        own.reset(tail, seen.born)
        return 0

    async def _room(self, room: str, after: tuple[int, int], deadline: float) -> tuple[Seen, Tail]:
        """The room with its lanes above `after`; made, if it is not there."""
        while True:
            seen, tail = await self.way.read(lambda: self.reader.room(room, after), deadline)
            if seen.incarnation:
                return seen, tail
            made = await self.writer.born(room, seen, deadline)
            if made.heads == (0, 0):
                return made, Tail(made.incarnation, [], [], (0, 0))
