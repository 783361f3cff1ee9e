# A comment's way to its room's owner: what is said at this worker goes to the broker by shard, together with whatever
# else has come meanwhile. It owns the comments that wait, and who is to be told. It must never offer anything twice,
# nor tell an author more than the broker has said.
import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from broker.base import OFFER_BYTES, OFFER_ITEMS, Broker, BrokerError, Kind, OffersAtOnce
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
    __slots__ = ("items", "under_way")

    def __init__(self) -> None:
        self.items: deque[tuple[bytes, Done]] = deque()
        self.under_way = False


class Offers:
    """One offer a shard is under way at a time, which keeps an author's comments in order. `spawn` starts a task; where
    the broker takes offers at once, none is needed: a task for each cost as much as all the rest here."""

    def __init__(self, broker: Broker, spawn: Callable[[Any], Any]) -> None:
        self._broker = broker
        self._spawn = spawn
        self._at_once = broker if isinstance(broker, OffersAtOnce) else None
        self._queues: dict[int, _Queue] = {}
        self._shards: dict[str, int] = {}  # of rooms
        self._due = False  # all queues are offered in this turn of the loop
        self.taken = 0
        self.refused = 0  # comments that are certainly nowhere, because there were too many or the broker could not
        self.unknown = 0
        self._failed = float("-inf")

    def failing(self, now: float) -> bool:
        """What has been offered lately did not get through, as far as is known."""
        return now - self._failed < FAILED_S

    def take(self, room: str, comment: wire.Message, done: Done, paid: bool = False) -> None:
        """`done` is called later, once it is known."""
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
        queue.items.append((wire.item(room, comment, paid), done))
        if self._at_once is not None:
            if not self._due:
                self._due = True
                asyncio.get_running_loop().call_soon(self._offer_all, self._at_once)
        elif not queue.under_way:
            queue.under_way = True
            self._spawn(self._send(shard, queue))

    def _offer_all(self, broker: OffersAtOnce) -> None:
        self._due = False
        queues, self._queues = self._queues, {}
        for shard, queue in queues.items():
            while queue.items:
                taken = _first(queue.items)
                status = "published"
                try:
                    broker.offer_now(shard, [item for item, _ in taken])
                except (BrokerError, ValueError) as error:
                    self._refused(shard, len(taken), error)
                    status = "rejected"
                for _, done in taken:
                    done(status)

    async def _send(self, shard: int, queue: _Queue) -> None:
        try:
            while queue.items:
                taken = _first(queue.items)
                status = await self._offer(shard, [item for item, _ in taken])
                for _, done in taken:
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


def _first(items: deque[tuple[bytes, Done]]) -> list[tuple[bytes, Done]]:
    """As many as make one offer."""
    taken: list[tuple[bytes, Done]] = []
    size = 0
    while items and len(taken) < OFFER_ITEMS:
        size += len(items[0][0])
        if taken and size > OFFER_BYTES:
            break
        taken.append(items.popleft())
    return taken


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
