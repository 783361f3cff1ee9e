# Who writes which shard, in NATS: leases in the bucket EDGE_LEASES. It owns this node's leases. It must never believe a
# lease for longer than is certain, nor give it twice.
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

from broker.base import LEASE_HELD, Lease, Unavailable
from broker.nats_fence import Fence as Fence
from broker.nats_link import Link, words
from broker.nats_read import fetch, fetch_again
from broker.nats_setup import WRONG_LAST
from broker.nats_way import AGAIN_S, FAILURES, Way
from broker.nats_write import ATTEMPT_S, EXPECTED, Refused, publish
from broker.subjects import LEASES, kv

log = logging.getLogger("broker")

RELEASE_S = 1.0


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
