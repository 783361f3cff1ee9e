# A comment's way to its room's owner: what is said at this worker goes to the broker by shard, together with whatever
# else has come meanwhile. It owns the comments that wait, and who is to be told. It must never offer anything twice,
# nor tell an author more than the broker has said.
import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from broker.base import OFFER_BYTES, OFFER_ITEMS, AtOnce, Broker, BrokerError, Kind
from edge import wire
from edge.errors import EdgeError

log = logging.getLogger("edge.offers")

FAILED_S = 3.0
WAITING = 10_000  # of one shard, at this worker: past it a comment is refused as overloaded

SHARDS = 16_384
"""Rooms of which it is remembered in which shard they are."""

Done = Callable[[str | EdgeError], None]
"""Told once what became of a comment: `published`, `pending`, `rejected` (it is certainly nowhere) or `unknown`; or, as
an error, why it was not taken."""


class _Queue:
    """Comments of one shard, and for each who is to be told."""

    __slots__ = ("dones", "items", "size", "under_way")

    def __init__(self) -> None:
        self.items: list[bytes] = []
        self.dones: list[Done] = []
        self.size = 0
        self.under_way = False

    def first(self) -> tuple[list[bytes], list[Done]]:
        """As many as make one offer; they are not in the queue any more."""
        count, size = len(self.items), self.size
        if count > OFFER_ITEMS or size > OFFER_BYTES:
            count = size = 0
            for item in self.items[:OFFER_ITEMS]:
                if count and size + len(item) > OFFER_BYTES:
                    break
                size += len(item)
                count += 1
        taken = self.items[:count], self.dones[:count]
        del self.items[:count], self.dones[:count]
        self.size -= size
        return taken


class Offers:
    """One offer a shard is under way at a time, which keeps an author's comments in order. `spawn` starts a task; where
    the broker takes offers at once, none is needed: a task for each cost as much as all the rest here."""

    def __init__(self, broker: Broker, spawn: Callable[[Any], Any]) -> None:
        self._broker = broker
        self._spawn = spawn
        self._at_once = broker if isinstance(broker, AtOnce) else None
        self._queues: dict[int, _Queue] = {}
        self._shards: dict[str, int] = {}  # of rooms
        self._due = False  # all queues are offered in this turn of the loop
        self._gathering = False  # and somebody says when
        self.taken = 0
        self.refused = 0  # comments that are certainly nowhere, because there were too many or the broker could not
        self.unknown = 0
        self._failed = float("-inf")

    def failing(self, now: float) -> bool:
        """What has been offered lately did not get through, as far as is known."""
        return now - self._failed < FAILED_S

    def take(self, room: str, item: bytes, done: Done) -> None:
        """A comment as its item (edge/wire.py). `done` is called later, once it is known."""
        shard = self._shards.get(room)
        if shard is None:
            if len(self._shards) >= SHARDS:
                self._shards.clear()
            shard = self._shards[room] = self._broker.shard_of(room)
        queue = self._queues.get(shard)
        if queue is None:
            queue = self._queues[shard] = _Queue()
        if len(queue.items) >= WAITING:
            self.refused += 1
            raise EdgeError("overloaded", retry_after=2)
        self.taken += 1
        queue.items.append(item)
        queue.dones.append(done)
        queue.size += len(item)
        if self._at_once is not None:
            if not self._due:
                self._due = True
                if not self._gathering:
                    asyncio.get_running_loop().call_soon(self._offer_all, self._at_once)
        elif not queue.under_way:
            queue.under_way = True
            self._spawn(self._send(shard, queue))

    def gather(self) -> None:
        """What is taken from now on goes together, when `flush` is called."""
        self._gathering = True

    def flush(self) -> None:
        self._gathering = False
        if self._due and self._at_once is not None:
            self._offer_all(self._at_once)

    def _offer_all(self, broker: AtOnce) -> None:
        self._due = False
        queues, self._queues = self._queues, {}
        for shard, queue in queues.items():
            while queue.items:
                items, dones = queue.first()
                status = "published"
                try:
                    broker.offer_now(shard, items)
                except (BrokerError, ValueError) as error:
                    self._refused(shard, len(items), error)
                    status = "rejected"
                for done in dones:
                    done(status)

    async def _send(self, shard: int, queue: _Queue) -> None:
        try:
            while queue.items:
                items, dones = queue.first()
                status = await self._offer(shard, items)
                for done in dones:
                    done(status)
        finally:
            queue.under_way = False
            if not queue.items:
                del self._queues[shard]

    async def _offer(self, shard: int, items: list[bytes]) -> str:
        try:
            kind = await self._broker.offer(shard, items)
        except (BrokerError, ValueError) as error:
            self._refused(shard, len(items), error)
            return "rejected"
        if kind is Kind.STORED:
            self._failed = float("-inf")
            return "published"
        self.unknown += len(items)
        self._failed = time.monotonic()
        return "unknown"

    def _refused(self, shard: int, count: int, error: Exception) -> None:
        log.warning("shard %d: %d comments are not taken: %s", shard, count, error)
        self.refused += count
        self._failed = time.monotonic()


def ack(ref: str | None, made: str, status: str | EdgeError) -> wire.Message:
    """What became of a comment, as its author is told."""
    if status == "rejected":
        status = EdgeError("unavailable", retry_after=1)
    if isinstance(status, EdgeError):
        return wire.ack(ref, None, "rejected", status)
    return wire.ack(ref, made, status)


async def outcome(say: Callable[[Done], None]) -> str | EdgeError:
    """What became of a comment, for one who may have gone by then."""
    told: asyncio.Future[str | EdgeError] = asyncio.get_running_loop().create_future()
    say(lambda status: None if told.done() else told.set_result(status))
    return await told
