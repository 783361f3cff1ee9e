# The broker that joins boxes: NatsBroker, a Broker over NATS with JetStream. It owns the subscriptions. It must never
# guess how an append ended, nor pass a batch on past a hole.
#
# The log is the stream; what it takes, the server sends on to subscribers (republish). That is fast and no promise, so
# everything heard is checked by its number: a hole, a head that others tell of, and every reconnect make a room
# suspect, and what is missing is read from the stream's leader. Each lane has a connection of its own, so that a flood
# of comments holds no score back, and reads have a third.

import asyncio
import logging
import random
from functools import partial

from nats.aio.msg import Msg

from broker.base import (
    CHAT,
    LANES,
    MUST,
    UNKNOWN,
    BrokerError,
    Closed,
    Entry,
    Outcome,
    Sink,
    Tail,
    Unavailable,
    check_append,
    check_lane,
    check_room,
)
from broker.nats_beat import Beat
from broker.nats_entry import BadEntry, unpack
from broker.nats_follow import Following
from broker.nats_read import Reader, Seen
from broker.nats_setup import Options, parse
from broker.nats_way import AGAIN_S, FAILURES, Way
from broker.nats_write import Writer
from broker.subjects import Places

log = logging.getLogger("broker")

ROLLED_BACK = 8
"""Reads that must all end before what a sink has had. A leader that has lost its office can answer for seconds."""
ROLLED_BACK_S = 1.0


class NatsBroker:
    """A Broker at `url`, connected at the first call and again whenever the way breaks.

    Calls wait up to `wait_s`: reads and subscriptions for a connection and an answer, an append for the first
    connection, and for its outcome, which is then UNKNOWN."""

    def __init__(self, url: str | Options, wait_s: float = 5.0) -> None:
        options = parse(url) if isinstance(url, str) else url
        self.wait_s = wait_s
        self.repairs = 0
        self.way = way = Way(options, wait_s, self._came_up)
        self.reader = Reader(way.reads, options.shards, options.max_age_s)
        self.writer = Writer((way.links[MUST], way.links[CHAT]), self.reader, way.read, options.max_age_s)
        self._following: dict[str, Following] = {}
        self.beat = Beat(way.links[MUST], self.writer, self._following, options, self._suspect)
        self.writer.stored = self.beat.stored

    @property
    def connected(self) -> bool:
        return self.way.connected

    async def append(self, room: str, lane: int, batch: bytes, expected: int) -> Outcome:
        check_append(room, lane, batch, expected)
        self._open()
        await self.way.first(lane, self.way.deadline())
        try:
            return await self.writer.append(room, lane, bytes(batch), expected, self.wait_s)
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
        check_lane(lane)
        self._open()
        seen = await self.way.read(lambda: self.reader.look(room), self.way.deadline())
        return seen.ends[lane].number

    async def tail(self, room: str, lane: int, after: int) -> list[Entry]:
        check_lane(lane)
        self._open()
        return await self.way.read(lambda: self.reader.tail(room, lane, after), self.way.deadline())

    async def close(self) -> None:
        self.way.closed = self.writer.closed = True
        for own in self._following.values():
            own.close()
        self._following.clear()
        await self.way.close()

    def _open(self) -> None:
        if self.way.begin():
            self.way.spawn(self.beat.run(self.way.spawn))

    def _came_up(self) -> None:
        # What was stored meanwhile was sent on to nobody here, and nothing may follow that shows the hole.
        for own in self._following.values():
            self._suspect(own)

    async def _join(self, own: Following, deadline: float) -> Tail:
        while True:
            await self.way.wait(deadline)
            own.again, own.early = False, []
            hearing = [self.way.links[lane].hear(own.places.out(lane), own.hearers[lane]) for lane in LANES]
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
            await self.way.links[lane].unhear(own.places.out(lane), own.hearers[lane])

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
