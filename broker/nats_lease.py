# Who writes which shard, in NATS: leases in the bucket EDGE_LEASES, and the fence that a new holder puts up in its
# lanes. It owns this node's leases. It must never believe a lease for longer than is certain, nor give it twice.
#
# All is compare-and-set on the last sequence of the shard's key. An acquisition is a value without an epoch, for its
# epoch is the sequence that it gets; renewals carry it. The bucket forgets a value after the TTL; a release is a marker
# in its place. What was sent without an answer is resolved by reading, and by the next compare-and-set: as long as the
# key holds what this node wrote, it may write there again. They go over the connection of the scores, where no flood of
# comments can make a renewal late.

import asyncio
import contextlib
import json
import logging
import secrets
import time
from typing import Any

from nats.aio.msg import Msg

from broker.base import CHAT, LEASE_HELD, Last, Lease, Standing, Unavailable
from broker.nats_entry import BadEntry, End, unpack
from broker.nats_link import Link, Lost, words
from broker.nats_offers import SILENT_S, Feed, Offers
from broker.nats_read import fetch, fetch_again
from broker.nats_setup import WRONG_LAST
from broker.nats_way import AGAIN_S, FAILURES, Way
from broker.nats_write import ATTEMPT_S, EXPECTED, Refused, Writer, publish
from broker.subjects import LANE_NAMES, LEASES, ROOM_NAME, kv, room_of

log = logging.getLogger("broker")

RELEASE_S = 1.0
LIVE_S = 3600.0
OPENING = 64  # lanes at once


class _Value:
    """What the key of a shard holds."""

    __slots__ = ("epoch", "node", "seq")

    def __init__(self, seq: int, node: str, epoch: int) -> None:
        self.seq = seq  # 0 where there is nothing
        self.node = node  # "" where nobody has it
        self.epoch = epoch


class NatsLease:
    """A Lease. `until_s` is by this process's own clock, which goes on while it is paused."""

    def __init__(self, leases: "Leases", shard: int, seq: int, until_s: float) -> None:
        self._leases = leases
        self._shard = shard
        self._epoch = seq
        self._over = False
        self.seq = seq
        self.until_s = until_s
        self.lock = asyncio.Lock()

    @property
    def shard(self) -> int:
        return self._shard

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def ttl_s(self) -> float:
        return self._leases.ttl_s

    @property
    def held(self) -> bool:
        if time.monotonic() >= self.until_s:
            self._over = True
        return not self._over

    def end(self) -> None:
        self._over = True

    async def renew(self) -> bool:
        return await self._leases.renew(self)

    async def release(self) -> None:
        await self._leases.release(self)


class Leases:
    def __init__(self, way: Way, link: Link) -> None:
        self.node = secrets.token_hex(8)
        self.ttl_s = float(way.options.lease_ttl_s)
        self.held_s = self.ttl_s * LEASE_HELD
        self._way = way
        self._link = link
        self._leases: dict[int, NatsLease] = {}
        self._locks: dict[int, asyncio.Lock] = {}

    async def lease(self, shard: int, deadline: float) -> Lease | None:
        await self._way.wait(deadline)
        async with self._locks.setdefault(shard, asyncio.Lock()):  # two here would take each other's for their own
            held = self._leases.get(shard)
            if held is not None and held.held:
                return None
            while True:
                try:
                    found = await self._read(shard)
                    if found.node not in ("", self.node):
                        return None
                    return await self._acquire(shard, found.seq)
                except (*FAILURES, Refused) as failed:  # somebody was faster, or an earlier try of ours got there
                    await self._pause(failed, deadline)

    async def _acquire(self, shard: int, expected: int) -> Lease:
        self._way.check()
        sent_s = time.monotonic()
        seq = await self._write(shard, {"node": self.node}, expected, ATTEMPT_S)
        got = self._leases[shard] = NatsLease(self, shard, seq, sent_s + self.held_s)
        return got

    async def renew(self, lease: NatsLease) -> bool:
        self._way.check()
        deadline_s = time.monotonic() + self._way.wait_s
        async with lease.lock:
            while lease.held:
                sent_s = time.monotonic()
                try:
                    value = {"epoch": lease.epoch, "node": self.node}
                    left_s = max(0.001, min(ATTEMPT_S, lease.until_s - sent_s))
                    lease.seq = await self._write(lease.shard, value, lease.seq, left_s)
                    if lease.held:  # else it has run out while this was on its way, and that is final
                        lease.until_s = sent_s + self.held_s
                        return True
                except (*FAILURES, Refused) as failed:
                    await self._look(lease, failed)
                    if lease.held and time.monotonic() >= deadline_s:
                        raise Unavailable(f"NATS takes no renewal of shard {lease.shard}: {words(failed)}") from None
            self._forget(lease)
            return False

    async def _look(self, lease: NatsLease, failed: Exception) -> None:
        """What has become of a write that was not confirmed. Ends the lease if the key is not ours any more."""
        if not isinstance(failed, Refused):
            await asyncio.sleep(AGAIN_S)
        try:
            found = await self._read(lease.shard)
        except FAILURES:
            await asyncio.sleep(AGAIN_S)
            return
        if (found.node, found.epoch) == (self.node, lease.epoch):
            lease.seq = found.seq
        else:  # whose it is now must be able to keep it: nothing is written on that sequence
            lease.end()

    async def release(self, lease: NatsLease) -> None:
        """Never fails."""
        lease.end()
        self._forget(lease)
        until_s = time.monotonic() + RELEASE_S
        async with lease.lock:
            while (left_s := until_s - time.monotonic()) > 0 and self._link.connected:
                try:
                    await self._write(lease.shard, None, lease.seq, left_s)
                    return
                except (*FAILURES, Refused):
                    with contextlib.suppress(*FAILURES):
                        found = await self._read(lease.shard)
                        if (found.node, found.epoch) != (self.node, lease.epoch):
                            return
                        lease.seq = found.seq
                    await asyncio.sleep(AGAIN_S)

    async def close(self) -> None:
        await asyncio.gather(*(self.release(lease) for lease in list(self._leases.values())))

    def _forget(self, lease: NatsLease) -> None:
        if self._leases.get(lease.shard) is lease:
            del self._leases[lease.shard]

    async def _pause(self, failed: Exception, deadline: float) -> None:
        """Before the next try, if there is time for one."""
        self._way.check()
        if asyncio.get_running_loop().time() >= deadline:
            raise Unavailable(f"NATS gives no lease: {words(failed)}")
        if not isinstance(failed, Refused) or failed.code != WRONG_LAST:
            await asyncio.sleep(AGAIN_S)

    async def _write(self, shard: int, value: dict[str, Any] | None, expected: int, wait_s: float) -> int:
        """None: a marker that it is nobody's."""
        headers = {EXPECTED: str(expected)}
        if value is None:
            headers["KV-Operation"] = "DEL"
        payload = b"" if value is None else json.dumps(value).encode()
        return await publish(self._link, f"{self._link.kv}{kv(LEASES, str(shard))}", payload, wait_s, headers)

    async def _read(self, shard: int) -> _Value:
        stream, which = f"KV_{LEASES}", {"last_by_subj": kv(LEASES, str(shard))}
        found = await fetch(self._link, stream, which) or await fetch_again(self._link, stream, which)
        if found is None or not found.data:
            return _Value(0 if found is None else found.seq, "", 0)
        try:
            value = json.loads(found.data)
            return _Value(found.seq, str(value["node"]), int(value.get("epoch", found.seq)))
        except (ValueError, TypeError, KeyError, AttributeError):
            return _Value(found.seq, "?", 0)  # somebody's, until it is forgotten


class Fence:
    """Goes over the lanes of a shard for its new holder."""

    def __init__(self, way: Way, offers: Offers, writer: Writer) -> None:
        self._way = way
        self._offers = offers
        self._writer = writer

    async def fence(self, shard: int, epoch: int, wait_s: float) -> Standing:
        """Standing has the lanes that were opened here and now: of others, what was read may be late already."""
        deadline = asyncio.get_running_loop().time() + wait_s
        after = await self._offers.checkpoint(shard, deadline)
        lanes = iter((await self._lanes(shard, deadline)).items())
        rooms: dict[str, Last] = {}

        async def open_some() -> None:
            for room, (end, born) in lanes:
                opened = await self._writer.open(room, end, born, epoch, wait_s)
                if opened is None:
                    continue
                rooms[room] = Last(opened.number, opened.epoch, opened.mark)
                if opened.epoch > epoch:
                    log.warning("room %s has been written under lease %d, and this is %d", room, opened.epoch, epoch)

        tasks = [asyncio.create_task(open_some()) for _ in range(OPENING)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        return Standing(after, rooms)

    async def _lanes(self, shard: int, deadline: float) -> dict[str, tuple[End | None, float]]:
        """How each chat lane ends that has been written to of late, and when its room was born; None where that has to
        be looked up."""
        while True:
            link = await self._offers.link(deadline)
            last = _LastEntries(shard)
            try:
                async with asyncio.timeout_at(deadline):
                    await last.read(link, self._way.options.streams.log(shard))
                return last.live(self._writer.reader.lasts_s)
            except TimeoutError:
                raise Unavailable(f"NATS does not tell the lanes of shard {shard}") from None
            except (*FAILURES, Refused) as failed:
                log.debug("the lanes of shard %d are read again: %s", shard, words(failed))
                await asyncio.sleep(AGAIN_S)


class _LastEntries:
    """The last entries of a shard's births and chat lanes, by a consumer that delivers just those. A replica may serve
    it that is behind; what is written by compare-and-set on what it tells shows that."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self.births: dict[str, tuple[End, float]] = {}
        self.chats: dict[str, tuple[End, float]] = {}
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def read(self, link: Link, stream: str) -> None:
        subjects = [f"edge.log.{self.shard}.*.{name}" for name in (ROOM_NAME, LANE_NAMES[CHAT])]
        feed = Feed(link, stream, {"deliver_policy": "last_per_subject", "filter_subjects": subjects}, self._got)
        feed.broken = self._broken
        try:
            if not await feed.start():
                return
            while not self._done.done():
                await asyncio.wait([self._done], timeout=SILENT_S)
                if asyncio.get_running_loop().time() - feed.heard_s > SILENT_S:
                    raise Lost("a consumer is silent")
            self._done.result()
        finally:
            await feed.stop()

    def live(self, lasts_s: float) -> dict[str, tuple[End | None, float]]:
        now = time.time()
        found: dict[str, tuple[End | None, float]] = {}
        for room, (end, written) in self.chats.items():
            if now - written > LIVE_S:
                continue
            birth, born = self.births.get(room, (None, 0.0))
            fits = birth is not None and birth.incarnation == end.incarnation and now - born < lasts_s
            found[room] = (end if fits else None, born)
        return found

    def _broken(self) -> None:
        if not self._done.done():
            self._done.set_exception(Lost("a consumer has a hole"))

    def _got(self, msg: Msg, seq: int, time_ns: int, pending: int) -> None:
        try:
            *_, token, name = msg.subject.split(".")
            room = room_of(token)
            ends = self.births if name == ROOM_NAME else self.chats
            ends[room] = (unpack(msg.data, seq).end(), time_ns / 1e9)
        except (BadEntry, ValueError) as bad:
            log.error("what is stored on %s is no entry of a log (%s)", msg.subject, bad)
        if not pending and not self._done.done():
            self._done.set_result(None)
