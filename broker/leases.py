# Who may write which shard. Leases is the table of them in a Store; Holding is a holder's side of one. They own epochs
# and deadlines, and must never let two hold a shard at once: a holder lets go by its own clock well before the table
# gives the shard to another.

import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from broker.base import LEASE_HELD

Clock = Callable[[], float]
"""Seconds that only grow, and go on while a process is stopped."""


class _Held(NamedTuple):
    epoch: int
    call: int
    until: float


class Leases:
    __slots__ = ("_epoch", "_held", "now", "ttl_s")

    def __init__(self, ttl_s: float, now: Clock) -> None:
        self.ttl_s = ttl_s
        self.now = now
        self._epoch = time.time_ns() // 1_000_000  # greater than any of a Store that has been here before
        self._held: dict[int, _Held] = {}

    def take(self, shard: int, call: int = 0) -> int | None:
        """The new lease's epoch, or None while somebody has it. A `call` names the asking: asked once more under the
        same name, because the first answer was lost, it gives the same lease."""
        now = self.now()
        found = self._held.get(shard)
        if found is not None and found.until > now:
            if not call or found.call != call:
                return None
            epoch = found.epoch
        else:
            epoch = self._epoch = max(time.time_ns() // 1_000_000, self._epoch + 1)
        self._held[shard] = _Held(epoch, call, now + self.ttl_s)
        return epoch

    def renew(self, shard: int, epoch: int) -> bool:
        now = self.now()
        found = self._held.get(shard)
        if found is None or found.epoch != epoch or found.until <= now:
            return False
        self._held[shard] = found._replace(until=now + self.ttl_s)
        return True

    def release(self, shard: int, epoch: int, call: int = 0) -> None:
        """The lease with that epoch, or the one that was taken by that call."""
        found = self._held.get(shard)
        if found is not None and (found.epoch == epoch or (call and found.call == call)):
            del self._held[shard]


class Holding:
    """A Lease. `renew` and `release` carry the two calls to the table, wherever it is; `sent` is when it was asked for,
    by the clock `now`."""

    def __init__(
        self,
        shard: int,
        epoch: int,
        ttl_s: float,
        sent: float,
        now: Clock,
        renew: Callable[["Holding"], Awaitable[bool]],
        release: Callable[["Holding"], Awaitable[None]],
    ) -> None:
        self.shard = shard
        self.epoch = epoch
        self.ttl_s = ttl_s
        self.ttl_s = ttl_s
        self._until = sent + LEASE_HELD * ttl_s
        self._now = now
        self._renew = renew
        self._release = release
        self._ended = False

    @property
    def held(self) -> bool:
        return self._lasts()

    async def renew(self) -> bool:
        if not self.held:
            return False
        sent = self._now()
        accepted = await self._renew(self)
        if not accepted:
            self._ended = True
        if not self._lasts():  # an answer that came too late does not bring back what has been let go
            return False
        self._until = max(self._until, sent + LEASE_HELD * self.ttl_s)
        return True

    def end(self) -> None:
        self._ended = True

    async def release(self) -> None:
        self._ended = True
        await self._release(self)

    def _lasts(self) -> bool:
        if not self._ended and self._now() >= self._until:
            self._ended = True
        return not self._ended
