# A broker whose way breaks as NATS's does, over a Store in this process: calls that are not sent, that are done without
# an answer, that arrive late; messages that get lost; a process that is paused. It owns nothing but its own randomness,
# so that a history is repeated by its seed. It must never break a promise of broker.base.

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from broker.base import NO_MARK, UNKNOWN, Hearer, Kind, Lease, Mark, Outcome, Taker, Unavailable
from broker.memory import MemoryBroker, Store

LATE_S = 0.15


class FlakyLease:
    """Its holder may be paused before it acts on it."""

    def __init__(self, broker: "FlakyBroker", lease: Lease) -> None:
        self._broker = broker
        self._lease = lease
        self.shard = lease.shard
        self.epoch = lease.epoch
        self.ttl_s = lease.ttl_s

    @property
    def held(self) -> bool:
        return self._lease.held

    async def renew(self) -> bool:
        await self._broker.way()
        return await self._lease.renew()

    async def release(self) -> None:
        if not self._broker.dead:
            await self._lease.release()


class FlakyBroker(MemoryBroker):
    """`trouble` is the chance that a call goes wrong. While `running` is cleared nothing of its process happens: no
    call goes out, and nothing comes in. Once `dead` nothing ever does."""

    def __init__(self, store: Store, chance: random.Random, trouble: float) -> None:
        super().__init__(store)
        self.chance = chance
        self.trouble = trouble
        self.running = asyncio.Event()
        self.running.set()
        self.dead = False
        self.late: set[asyncio.Task[None]] = set()
        self._calls: dict[tuple[Any, ...], int] = {}

    async def way(self) -> None:
        """To the broker, if there is one just now."""
        await self.running.wait()
        if self.dead:
            await asyncio.Event().wait()
        if self.chance.random() < self.trouble:
            raise Unavailable("not connected")

    def later(self, work: Any) -> None:
        async def arrive() -> None:
            await asyncio.sleep(self.chance.random() * LATE_S)
            work()

        task = asyncio.get_running_loop().create_task(arrive())
        self.late.add(task)
        task.add_done_callback(self.late.discard)

    async def append(
        self, room: str, lane: int, batch: bytes, expected: int, epoch: int = 0, mark: Mark = NO_MARK
    ) -> Outcome:
        await self.way()
        asked = (room, lane, batch, expected, epoch, mark)
        call = self._calls.setdefault(asked, len(self._calls) + 1) | id(self) << 16
        await asyncio.sleep(self.chance.random() * 0.004)
        await self.running.wait()  # a process may be stopped between its last look at its lease and the sending

        def arrive() -> Outcome:
            return self.store.append(*asked, call)

        return UNKNOWN if self._goes_wrong(arrive) else arrive()

    async def offer(self, shard: int, items: Sequence[bytes]) -> Kind:
        await self.way()
        await asyncio.sleep(self.chance.random() * 0.004)

        def arrive() -> None:
            self.store.offers.offer(shard, items)

        if self._goes_wrong(arrive):
            return Kind.UNKNOWN
        arrive()
        return Kind.STORED

    def _goes_wrong(self, arrive: Any) -> bool:
        """Whether it has: it is lost then, or has arrived without an answer, or will yet."""
        if self.chance.random() >= self.trouble:
            return False
        how = self.chance.randrange(3)
        if how == 1:
            arrive()
        elif how == 2:
            self.later(arrive)
        return True

    async def lease(self, shard: int) -> Lease | None:
        await self.way()
        got = await super().lease(shard)
        return None if got is None else FlakyLease(self, got)

    async def consume(self, shard: int, after: int, taker: Taker) -> None:
        await self.way()
        await super().consume(shard, after, _Paused(self, taker))

    async def covered(self, shard: int, seq: int) -> None:
        await self.way()
        await super().covered(shard, seq)

    async def tail(self, room: str, lane: int, after: int, most: int = 0) -> Any:
        await self.way()
        return await super().tail(room, lane, after)

    async def emit(self, subject: str, message: bytes) -> None:
        await self.running.wait()
        if not self.dead and self.chance.random() >= self.trouble:
            await super().emit(subject, message)

    async def hear(self, subject: str, hearer: Hearer) -> None:
        def heard(message: bytes) -> None:
            if self.running.is_set() and not self.dead:
                hearer(message)

        await super().hear(subject, heard)

    async def die(self) -> None:
        """As by kill -9: nothing is given back."""
        self.dead = True
        self.running.set()
        for shard in list(self._takers):
            await self.leave(shard)
        for subject in list(self._hearers):
            await self.unhear(subject)


class _Paused:
    """What comes while the process is paused is taken when it wakes, in order."""

    def __init__(self, broker: FlakyBroker, taker: Taker) -> None:
        self._broker = broker
        self._taker = taker
        self._waiting: list[tuple[int, int, list[bytes]]] = []

    def offered(self, shard: int, seq: int, items: list[bytes]) -> None:
        if self._broker.running.is_set() and not self._waiting:
            self._taker.offered(shard, seq, items)
            return
        self._waiting.append((shard, seq, items))
        if len(self._waiting) == 1:
            task = asyncio.get_running_loop().create_task(self._wake())
            self._broker.late.add(task)
            task.add_done_callback(self._broker.late.discard)

    def reset(self, shard: int) -> None:
        raise AssertionError(f"a store in this process has lost offers of shard {shard}")

    async def _wake(self) -> None:
        await self._broker.running.wait()
        while self._waiting and not self._broker.dead:
            self._taker.offered(*self._waiting.pop(0))
