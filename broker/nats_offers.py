# What is offered to shards, in NATS: the streams EDGE_IN. It owns the shards that this node reads, and what it knows to
# be covered. It must never send an offer twice, nor remove one that is not covered.
#
# Shards are read over a connection of their own: an owner that takes over a backlog of offers must not hold up the
# reads that joins and appends wait for, and where the server cuts it off for reading too slowly, it loses only this.

import asyncio
import contextlib
import json
import logging
import random
from collections.abc import Sequence

import msgpack

from broker.access import Keys
from broker.base import CHAT, Full, Kind, Taker, Unavailable
from broker.nats_feed import MAKE_S, SILENT_S, Reading, Shared
from broker.nats_link import Link, Lost, NoResponders, words
from broker.nats_read import fetch, fetch_again
from broker.nats_setup import WRONG_LAST
from broker.nats_way import AGAIN_S, FAILURES, Way
from broker.nats_write import ATTEMPT_S, EXPECTED, Refused, publish
from broker.subjects import BUCKET, kv, offers

log = logging.getLogger("broker")

WATCH_S = 0.25
CLOSE_S = 0.5
STORE_FAILED = 10077  # its text says what bound is reached
NO_ROOM = (10002, 10023, 10028, 10047)  # of the account, of the servers, of memory, of the disk
PURGE_OFFERS = 1000
PURGE_S = 10.0
"""One of 1,000 offers took 0.7 to 1.6 ms, with 250 of them from among 100,000 of other shards 1 to 5 ms, and an offer
meanwhile 25 ms at most; only the first over blocks that the server had long closed took up to 0.4 s."""


class _Covered:
    """What is known to be recorded of a shard."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.seq: int | None = None
        self.revision = 0
        self.purging = False
        self.purged_given = 0
        # Not all shards' first ones at once.
        self.purge_at_s = asyncio.get_running_loop().time() + random.uniform(0.5, 1) * PURGE_S


class Offers:
    def __init__(self, way: Way) -> None:
        self._way = way
        self._streams = way.options.streams
        self._link = Link("edge offers", way.options, Keys(way.options.access), self._up, self._down, lambda link: None)
        self._shared = Shared(way, self._link)
        self._readings: dict[int, Reading] = {}
        self._covered: dict[int, _Covered] = {}
        self._begun = False
        self._is_up = asyncio.Event()

    @property
    def bad(self) -> int:
        return self._shared.bad

    @property
    def remade(self) -> int:
        return self._shared.remade

    async def offer(self, shard: int, items: Sequence[bytes], wait_s: float) -> Kind:
        payload = msgpack.packb([bytes(item) for item in items], use_bin_type=True)
        try:
            await publish(self._way.links[CHAT], offers(shard), payload, wait_s)
        except Lost:
            return Kind.UNKNOWN
        except Refused as refused:
            if refused.code in NO_ROOM or (refused.code == STORE_FAILED and "maximum" in str(refused)):
                raise Full(f"NATS takes no offer: {refused}") from None
            raise Unavailable(f"NATS takes no offer: {refused}") from None
        except FAILURES as failed:
            why = "the stream has no leader" if isinstance(failed, NoResponders) else "not connected"
            raise Unavailable(f"NATS takes no offer: {why}") from None
        return Kind.STORED

    async def link(self, deadline: float) -> Link:
        """The connection of its own, made for the first who needs it. Raises Unavailable, Closed, Misfit."""
        await self._way.wait(deadline)
        self._begin()
        try:
            async with asyncio.timeout_at(deadline):
                await self._is_up.wait()
        except TimeoutError:
            why = self._link.trouble or "no answer"
            raise Unavailable(f"NATS can't be reached at {self._way.where}: {why}") from None
        await self._way.wait(deadline)
        return self._link

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._way.spawn(self._link.run())
            self._way.spawn(self._watch())

    async def consume(self, shard: int, after: int, taker: Taker, deadline: float) -> None:
        if shard in self._readings:
            raise ValueError(f"shard {shard} is consumed already")
        own = self._readings[shard] = Reading(self._shared, shard, after, taker)
        try:
            await self._way.wait(deadline)
            self._begin()
            own.remake()
            async with asyncio.timeout_at(deadline):
                await own.made.wait()
            await self._way.wait(deadline)  # Closed, where that is what has ended the waiting
        except TimeoutError:
            await self._drop(own)
            raise Unavailable(f"NATS makes no consumer of shard {shard}: {own.trouble or 'no answer'}") from None
        except BaseException:
            await self._drop(own)
            raise

    async def leave(self, shard: int) -> None:
        own = self._readings.get(shard)
        if own is not None:
            await self._drop(own)

    async def _drop(self, own: Reading) -> None:
        if self._readings.get(own.shard) is own:
            del self._readings[own.shard]
        await own.close()

    async def close(self) -> None:
        had = list(self._readings.values())
        for own in had:
            await self._drop(own)
        if had:  # else the server keeps them until it finds that nobody hears them
            with contextlib.suppress(TimeoutError, *FAILURES):
                async with asyncio.timeout(CLOSE_S):
                    await self._link.flush()
        self._link.ending = True
        self._is_up.set()

    def _up(self, link: Link) -> None:
        self._is_up.set()
        for own in self._readings.values():
            own.remake()

    def _down(self, link: Link) -> None:
        self._is_up.clear()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        before = loop.time()
        while not self._link.ending:
            await asyncio.sleep(WATCH_S)
            now = loop.time()
            late, before = now - before > SILENT_S / 2, now
            for own in self._readings.values():
                own.watch(now, late)

    async def covered(self, shard: int, seq: int, deadline: float) -> None:
        await self._certain(shard, deadline)
        it = self._known(shard)
        async with it.lock:
            if it.seq is None or it.seq < seq:
                await self._record(it, shard, seq, deadline)
        self._purge_now_and_then(it, shard)

    async def _certain(self, shard: int, deadline: float) -> None:
        """Until then the stream may have lost its end, and other offers have the numbers that were given here. Raises
        Unavailable, Closed, Misfit."""
        while (own := self._readings.get(shard)) is not None and not own.certain:
            await self._way.wait(deadline)
            if own.lost or asyncio.get_running_loop().time() >= deadline:
                raise Unavailable(f"what is offered to shard {shard} can't be told by number just now")
            await asyncio.sleep(AGAIN_S)

    async def checkpoint(self, shard: int, deadline: float) -> int:
        """Up to where the shard's offers are covered. Raises Unavailable, Closed, Misfit."""
        it = self._known(shard)
        async with it.lock:  # others may have taken it back since
            seq, it.revision = await self._way.read(lambda: self._recorded(shard), deadline)
            it.seq = seq
            return seq

    async def take_back(self, shard: int, seq: int, deadline: float) -> None:
        """No more than the offers up to `seq` are covered: what is recorded is of numbers that have been lost. Raises
        Unavailable, Closed, Misfit."""
        it = self._known(shard)
        async with it.lock:
            await self._record(it, shard, seq, deadline, back=True)

    def _known(self, shard: int) -> _Covered:
        it = self._covered.get(shard)
        if it is None:
            it = self._covered[shard] = _Covered()
        return it

    async def _record(self, it: _Covered, shard: int, seq: int, deadline: float, back: bool = False) -> None:
        """Compare-and-set, so that a holder who has been paused and wakes takes nothing back unknowingly."""
        link = self._way.links[CHAT]
        while True:
            try:
                if it.seq is None:
                    it.seq, it.revision = await self._recorded(shard)
                if it.seq <= seq if back else it.seq >= seq:
                    return
                subject = f"{link.kv}{covered_key(shard)}"
                it.revision = await publish(link, subject, b"%d" % seq, ATTEMPT_S, {EXPECTED: str(it.revision)})
                it.seq = seq
                return
            except (*FAILURES, Refused) as failed:
                it.seq = None
                if self._way.closed or asyncio.get_running_loop().time() >= deadline:
                    await self._way.wait(deadline)
                    raise Unavailable(f"NATS takes no record of shard {shard}: {words(failed)}") from None
                if not isinstance(failed, Refused) or failed.code != WRONG_LAST:
                    await asyncio.sleep(AGAIN_S)

    async def _recorded(self, shard: int) -> tuple[int, int]:
        which, stream = {"last_by_subj": covered_key(shard)}, f"KV_{BUCKET}"
        found = await fetch(self._way.reads, stream, which) or await fetch_again(self._way.reads, stream, which)
        if found is None:
            return 0, 0
        try:
            return int(found.data), found.seq
        except ValueError:
            raise Unavailable(f"what is covered of shard {shard} is recorded as {found.data[:40]!r}") from None

    def _purge_now_and_then(self, it: _Covered, shard: int) -> None:
        own = self._readings.get(shard)
        given = own.given if own is not None else 0
        now = asyncio.get_running_loop().time()
        if it.purging or (now < it.purge_at_s and abs(given - it.purged_given) < PURGE_OFFERS):
            return
        it.purging, it.purged_given, it.purge_at_s = True, given, now + PURGE_S
        self._way.spawn(self._purge(it, shard))

    async def _purge(self, it: _Covered, shard: int) -> None:
        """What is covered is only in the way: the streams' bound is for what is not. A failure is made good by the
        next time."""
        link = self._way.reads
        body = json.dumps({"filter": offers(shard), "seq": (it.seq or 0) + 1}).encode()
        try:
            await link.request(f"{link.api}.STREAM.PURGE.{self._streams.offers(shard)}", body, MAKE_S)
        except FAILURES as failed:
            log.debug("shard %d is not purged: %s", shard, words(failed))
        finally:
            it.purging = False


def covered_key(shard: int) -> str:
    return kv(BUCKET, f"covered.{shard}")
