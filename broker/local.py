# The broker of one box as its workers see it: LocalBroker, a Broker over a unix socket, and `serve`, the process at
# the other end. It owns what this worker hears and the leases it holds. It must never say more of a call than its
# answer did.

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from broker import envelope
from broker.base import (
    NO_MARK,
    UNKNOWN,
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
    check_lane,
    check_offer,
    check_room,
    check_shard,
    check_subject,
)
from broker.leases import Clock, Holding
from broker.local_follow import Rooms, Shards, Subscription, Taking, entries
from broker.local_server import serve
from broker.local_state import Keeping
from broker.local_way import Way, result
from broker.store import SHARDS
from broker.subjects import shard_of

__all__ = ["LocalBroker", "serve"]

log = logging.getLogger("broker")

UNKNOWNS = 256
"""Of how many appends that ended as UNKNOWN the call is remembered, so that the same one again is known as the same."""
RELEASE_S = 1.0
CALL_BITS = 24


class LocalBroker:
    """A Broker over the unix socket at `path`, connected at the first call and again whenever the way breaks.

    Reads, subscriptions and leases wait up to `wait_s` for a connection, and are asked again on a new one. An append
    or an offer waits only for the first connection; one that has been sent ends as UNKNOWN after `wait_s` or when the
    connection is lost.

    A broker that has been restarted has lost everything but what it keeps in a folder: rooms are numbered anew, a taker
    goes on with what is offered from then on, leases have ended. `now` is the clock of leases."""

    def __init__(self, path: str, wait_s: float = 5.0, now: Clock = time.monotonic) -> None:
        self.path = path
        self.unknown = 0
        self._way = Way(path, wait_s, self)
        self._rooms = Rooms(self._way)
        self._shards = Shards(self._way)
        self._keeping = Keeping(self._way, self._new_call)
        self._hearers: dict[str, Hearer] = {}
        self._holdings: dict[int, Holding] = {}
        self._asked: dict[int, int] = {}  # leases that are being asked for: their shards, by call
        self._now = now
        self._name = secrets.randbits(62 - CALL_BITS) + 1 << CALL_BITS
        self._call = 0
        self._unknown: OrderedDict[tuple[str, int, int], tuple[bytes, int, Mark, int]] = OrderedDict()

    @property
    def connected(self) -> bool:
        return self._way.wire is not None

    @property
    def shards(self) -> int:
        return SHARDS

    def shard_of(self, room: str) -> int:
        return shard_of(room, SHARDS)

    async def append(
        self, room: str, lane: int, batch: bytes, expected: int, epoch: int = 0, mark: Mark = NO_MARK
    ) -> Outcome:
        check_append(room, lane, batch, expected, epoch, mark)
        known = self._unknown.pop((room, lane, expected), None)
        same = known is not None and known[:3] == (batch, epoch, mark)
        call = known[3] if known is not None and same else self._new_call()
        answer, sent = None, True
        try:
            answer = await self._way.write(envelope.APPEND, room, lane, batch, expected, epoch, mark, call)
        except Unavailable:
            sent = same
            if not sent:
                raise
        finally:
            if answer is None and sent:
                self._unknown[room, lane, expected] = (bytes(batch), epoch, mark, call)
                if len(self._unknown) > UNKNOWNS:
                    self._unknown.popitem(last=False)
        if answer is None:
            self.unknown += 1
            return UNKNOWN
        kind, head, greatest = result(answer)
        return Outcome(Kind(kind), head, greatest)

    async def subscribe(self, room: str, sink: Sink) -> Tail:
        check_room(room)
        self._way.open()
        if room in self._rooms.by_room:
            raise ValueError(f"room {room} is subscribed already")
        own = self._rooms.by_room[room] = Subscription(room, sink)
        try:
            # `start` as the answer comes, not where it is awaited: the next envelope may be a batch that follows it.
            tail: Tail = await self._way.read(own.start, envelope.SUBSCRIBE, room, 0, 0, 0)
        except BaseException:
            await self.unsubscribe(room)
            raise
        asyncio.get_running_loop().call_soon(own.release)
        return tail

    async def unsubscribe(self, room: str) -> None:
        own = self._rooms.by_room.pop(room, None)
        if own is not None:
            own.held.clear()
            self._way.tell(envelope.UNSUBSCRIBE, room)

    async def head(self, room: str, lane: int) -> int:
        return (await self.last(room, lane)).head

    async def last(self, room: str, lane: int) -> Last:
        check_lane(lane)
        head, epoch, mark = await self._way.read(list, envelope.LAST, room, lane)
        return Last(head, epoch, (mark[0], mark[1]))

    async def tail(self, room: str, lane: int, after: int, most: int = 0) -> list[Entry]:
        check_lane(lane)
        return entries((await self._way.read(list, envelope.TAIL, room, lane, after))[0])

    async def offer(self, shard: int, items: Sequence[bytes]) -> Kind:
        check_offer(shard, SHARDS, items)
        answer = await self._way.write(envelope.OFFER, shard, list(items))
        if answer is None:
            self.unknown += 1
            return Kind.UNKNOWN
        result(answer)
        return Kind.STORED

    async def consume(self, shard: int, after: int, taker: Taker) -> None:
        check_shard(shard, SHARDS)
        self._way.open()
        if shard in self._shards.by_shard:
            raise ValueError(f"shard {shard} is consumed already")
        own = self._shards.by_shard[shard] = Taking(shard, after, taker)
        try:
            await self._way.read(own.start, envelope.CONSUME, shard, after)
        except BaseException:
            await self.leave(shard)
            raise

    async def leave(self, shard: int) -> None:
        if self._shards.by_shard.pop(shard, None) is not None:
            self._way.tell(envelope.LEAVE, shard)

    async def covered(self, shard: int, seq: int) -> None:
        check_shard(shard, SHARDS)
        await self._way.read(list, envelope.COVERED, shard, seq)

    async def lease(self, shard: int) -> Lease | None:
        check_shard(shard, SHARDS)
        sent = self._now()  # of the first asking, where it is asked again: too early does no harm
        call = self._new_call()

        def given(answer: list[Any]) -> Holding | None:
            # Here, as the answer comes: the next connection may be to another life of the broker.
            self._way.open()
            epoch, ttl_s = answer
            if not epoch:
                return None
            made = Holding(shard, epoch, ttl_s, sent, self._now, self._renew, self._release)
            self._holdings[shard] = made
            return made

        self._asked[call] = shard
        try:
            made: Holding | None = await self._way.read(given, envelope.LEASE, shard, call)
            if made is not None and not made.held:
                raise Unavailable("the broker of this box has given a lease too late")
        except BaseException:
            self._way.tell(envelope.RELEASE, shard, 0, call)
            raise
        finally:
            del self._asked[call]
        return made

    async def fence(self, shard: int, epoch: int) -> Standing:
        check_shard(shard, SHARDS)
        after, *rooms = await self._way.read(list, envelope.FENCE, shard, epoch)
        return Standing(after, {room: Last(head, last, (mark[0], mark[1])) for room, head, last, mark in rooms})

    async def keep(self, key: str, value: bytes | None, revision: int | None) -> int:
        return await self._keeping.keep(key, value, revision)

    async def find(self, key: str) -> Kept | None:
        return await self._keeping.find(key)

    async def kept(self, prefix: str) -> list[Kept]:
        return await self._keeping.kept(prefix)

    async def watch(self, prefix: str, watcher: Watcher) -> list[Kept]:
        return await self._keeping.watch(prefix, watcher)

    async def unwatch(self, prefix: str) -> None:
        self._keeping.unwatch(prefix)

    async def emit(self, subject: str, message: bytes) -> None:
        check_subject(subject)
        if len(message) > envelope.MESSAGE_BYTES:
            raise ValueError(f"message: {len(message)} bytes, and {envelope.MESSAGE_BYTES} is the limit")
        self._way.open()
        if not self._way.full:
            self._way.tell(envelope.EMIT, subject, message)

    async def hear(self, subject: str, hearer: Hearer) -> None:
        check_subject(subject)
        self._way.open()
        if subject in self._hearers:
            raise ValueError(f"{subject} is heard already")
        self._hearers[subject] = hearer
        self._way.tell(envelope.HEAR, subject)

    async def unhear(self, subject: str) -> None:
        if self._hearers.pop(subject, None) is not None:
            self._way.tell(envelope.UNHEAR, subject)

    def figures(self) -> dict[str, int]:
        return {
            "broker_reconnects": max(0, self._way.connects - 1),
            "broker_repairs": self._rooms.repairs,
            "broker_unknown": self.unknown,
        }

    async def close(self) -> None:
        self._way.closed = True
        self._rooms.by_room.clear()
        self._shards.by_shard.clear()
        self._hearers.clear()
        self._keeping.close()
        told = [holding.release() for holding in list(self._holdings.values())]
        told += [self._tell_release(shard, 0, call) for call, shard in self._asked.items()]
        try:
            await asyncio.gather(*told)
        finally:
            await self._way.close()

    def way_down(self) -> None:
        """A lease ends with its connection, at both ends: so others need not wait for those of a worker that has died,
        and no later life of the broker is asked for one that it does not know."""
        for holding in self._holdings.values():
            holding.end()
        self._holdings.clear()

    def way_up(self, store: int) -> None:
        self._rooms.way_up()
        self._shards.way_up()
        self._keeping.way_up()
        for subject in self._hearers:
            self._way.tell(envelope.HEAR, subject)

    def way_pushed(self, push: int, arguments: list[Any]) -> None:
        if push == envelope.BATCH:
            self._rooms.pushed(*arguments)
        elif push == envelope.OFFERED:
            self._shards.pushed(*arguments)
        elif push == envelope.HEARD:
            self._heard(*arguments)
        elif push == envelope.CHANGED:
            self._keeping.pushed(*arguments)
        else:
            raise ValueError(f"push {push}")

    def _heard(self, subject: str, message: bytes) -> None:
        hearer = self._hearers.get(subject)
        if hearer is None:
            return
        try:
            hearer(message)
        except Exception:
            log.exception("a hearer of %s failed", subject)

    async def _renew(self, holding: Holding) -> bool:
        return bool((await self._way.read(list, envelope.RENEW, holding.shard, holding.epoch))[0])

    async def _release(self, holding: Holding) -> None:
        if self._holdings.get(holding.shard) is holding:
            del self._holdings[holding.shard]
        await self._tell_release(holding.shard, holding.epoch, 0)

    async def _tell_release(self, shard: int, epoch: int, call: int) -> None:
        if self._way.wire is not None:
            await self._way.ask(RELEASE_S, envelope.RELEASE, shard, epoch, call)

    def _new_call(self) -> int:
        self._call += 1
        return self._name | self._call & (1 << CALL_BITS) - 1
