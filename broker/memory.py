# The broker in one process: MemoryBroker, one caller's view of a Store. It owns what that caller has subscribed to,
# takes, hears, holds and watches. It must never wait: every call is done when it returns, but for what is kept on disk.

import asyncio
from collections.abc import Sequence

from broker.base import (
    NO_MARK,
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
    Watcher,
    check_prefix,
    check_shard,
    check_subject,
)
from broker.leases import Holding
from broker.offers import give
from broker.store import SHARDS, Limits, Store
from broker.subjects import shard_of
from broker.watched import Watched, whole

__all__ = ["SHARDS", "Limits", "MemoryBroker", "Store"]


class MemoryBroker:
    """A Broker on a Store, its own unless one is given, with its state in the folder `data` and so many shards. No call
    is ever UNKNOWN or Unavailable, but for a keep where the disk fails."""

    def __init__(self, store: Store | None = None, data: str = "", shards: int = SHARDS) -> None:
        self.store = Store(data=data, shards=shards) if store is None else store
        self._own_store = store is None
        self._sinks: dict[str, Sink] = {}
        self._takers: dict[int, Taker] = {}
        self._hearers: dict[str, Hearer] = {}
        self._holdings: dict[int, Holding] = {}
        self._watched: dict[str, Watched] = {}
        self._closed = False

    @property
    def connected(self) -> bool:
        return not self._closed

    @property
    def shards(self) -> int:
        return self.store.shards

    def shard_of(self, room: str) -> int:
        return shard_of(room, self.store.shards)

    async def append(
        self, room: str, lane: int, batch: bytes, expected: int, epoch: int = 0, mark: Mark = NO_MARK
    ) -> Outcome:
        self._check()
        return self.store.append(room, lane, batch, expected, epoch, mark)

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
        return self.store.last(room, lane).head

    async def last(self, room: str, lane: int) -> Last:
        self._check()
        return self.store.last(room, lane)

    async def tail(self, room: str, lane: int, after: int, most: int = 0) -> list[Entry]:
        self._check()
        return self.store.after(room, lane, after)

    def offer_now(self, shard: int, items: Sequence[bytes]) -> None:
        self._check()
        self.store.offers.offer(shard, items)

    async def offer(self, shard: int, items: Sequence[bytes]) -> Kind:
        self.offer_now(shard, items)
        return Kind.STORED

    async def consume(self, shard: int, after: int, taker: Taker) -> None:
        self._check()
        check_shard(shard, self.store.shards)
        if shard in self._takers:
            raise ValueError(f"shard {shard} is consumed already")
        own = self._takers[shard] = _Taking(taker)
        # Nothing waits in here, so nothing can be offered between the last of these and the first that is passed on.
        for offer in self.store.offers.after(shard, after, len(self.store.offers)):
            give(own, shard, offer)
        self.store.offers.attach(shard, own)

    async def leave(self, shard: int) -> None:
        taker = self._takers.pop(shard, None)
        if taker is not None:
            self.store.offers.detach(shard, taker)

    async def covered(self, shard: int, seq: int) -> None:
        self._check()
        self.store.offers.cover(shard, seq)

    async def lease(self, shard: int) -> Lease | None:
        self._check()
        check_shard(shard, self.store.shards)
        leases = self.store.leases
        sent = leases.now()
        epoch = leases.take(shard)
        if epoch is None:
            return None
        made = Holding(shard, epoch, leases.ttl_s, sent, leases.now, self._renew, self._release)
        self._holdings[shard] = made
        return made

    async def fence(self, shard: int, epoch: int) -> Standing:
        self._check()
        return self.store.fence(shard, epoch)

    async def keep(self, key: str, value: bytes | None, revision: int | None) -> int:
        self._check()
        return await self.store.state.keep(key, value, revision)

    async def find(self, key: str) -> Kept | None:
        self._check()
        return await self.store.state.find(key)

    async def kept(self, prefix: str) -> list[Kept]:
        self._check()
        check_prefix(prefix)
        return await whole(lambda after: self.store.state.read(prefix, after))

    async def watch(self, prefix: str, watcher: Watcher) -> list[Kept]:
        self._check()
        check_prefix(prefix)
        if prefix in self._watched:
            raise ValueError(f"{prefix} is watched already")
        own = self._watched[prefix] = Watched(prefix, watcher)
        self.store.state.attach(prefix, own.changed)
        try:
            found = own.first(await self.kept(prefix))
            self._check()
        except BaseException:
            self._leave_watched(own)
            raise
        asyncio.get_running_loop().call_soon(own.release)
        return found

    async def unwatch(self, prefix: str) -> None:
        own = self._watched.get(prefix)
        if own is not None:
            self._leave_watched(own)

    async def emit(self, subject: str, message: bytes) -> None:
        self._check()
        self.store.hearing.emit(subject, message)

    async def hear(self, subject: str, hearer: Hearer) -> None:
        self._check()
        check_subject(subject)
        if subject in self._hearers:
            raise ValueError(f"{subject} is heard already")

        def own(message: bytes) -> None:  # one function may hear many subjects, or for two brokers
            hearer(message)

        self._hearers[subject] = own
        self.store.hearing.attach(subject, own)

    async def unhear(self, subject: str) -> None:
        hearer = self._hearers.pop(subject, None)
        if hearer is not None:
            self.store.hearing.detach(subject, hearer)

    def figures(self) -> dict[str, int]:
        store = self.store
        return {
            "broker_rooms_forgotten": store.forgotten,
            "broker_offers": store.offers.stored,
            "broker_offers_full": store.offers.refused,
        }

    async def close(self) -> None:
        self._closed = True
        for room in list(self._sinks):
            await self.unsubscribe(room)
        for shard in list(self._takers):
            await self.leave(shard)
        for subject in list(self._hearers):
            await self.unhear(subject)
        for own in list(self._watched.values()):
            self._leave_watched(own)
        for holding in list(self._holdings.values()):
            await holding.release()
        if self._own_store:
            await self.store.state.close()

    def _leave_watched(self, own: Watched) -> None:
        own.end()
        self.store.state.detach(own.prefix, own.changed)
        if self._watched.get(own.prefix) is own:
            del self._watched[own.prefix]

    async def _renew(self, holding: Holding) -> bool:
        return self.store.leases.renew(holding.shard, holding.epoch)

    async def _release(self, holding: Holding) -> None:
        self.store.leases.release(holding.shard, holding.epoch)
        if self._holdings.get(holding.shard) is holding:
            del self._holdings[holding.shard]

    def _check(self) -> None:
        if self._closed:
            raise Closed("this broker has been closed")
        if self.store.state.unopened:
            self.store.state.open()


class _Subscription:
    __slots__ = ("batch", "reset")

    def __init__(self, sink: Sink) -> None:
        self.batch = sink.batch
        self.reset = sink.reset


class _Taking:
    __slots__ = ("offered",)

    def __init__(self, taker: Taker) -> None:
        self.offered = taker.offered

    def reset(self, shard: int) -> None:
        raise AssertionError("a Store never loses an offer")
