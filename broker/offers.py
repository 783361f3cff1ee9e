# What was offered to each shard and is not covered yet, in a Store. It owns the items and their numbers, holds them to
# a bound in bytes, and must never drop an offer that is not covered.

import logging
import time
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from broker.base import Full, Taker, check_offer, check_shard

log = logging.getLogger("broker")

OFFER_COST = 200  # bytes of CPython objects around one offer, and around one item: measured with sys.getsizeof
ITEM_COST = 41


class Offer(NamedTuple):
    seq: int
    items: list[bytes]
    cost: int


class Queue:
    """One shard's. `covered` is the last number that nobody need see again."""

    __slots__ = ("_first", "_offers", "covered", "takers")

    def __init__(self, covered: int) -> None:
        self.covered = covered
        self.takers: list[Taker] = []
        self._offers: list[Offer] = []
        self._first = 0  # those before it are gone: a list is cut now and then, not with every offer

    def __len__(self) -> int:
        return len(self._offers) - self._first

    def add(self, offer: Offer) -> None:
        self._offers.append(offer)

    def cover(self, seq: int) -> int:
        """The bytes that this makes free."""
        self.covered = max(self.covered, seq)
        upto = self._find(seq)
        freed = 0
        for at in range(self._first, upto):
            freed += self._offers[at].cost
            self._offers[at] = GONE
        self._first = upto
        if self._first * 2 > len(self._offers):
            del self._offers[: self._first]
            self._first = 0
        return freed

    def after(self, seq: int, most: int) -> list[Offer]:
        """The first of those above `seq`."""
        at = self._find(seq)
        return self._offers[at : at + most]

    def _find(self, seq: int) -> int:
        return bisect_right(self._offers, seq, lo=self._first, key=lambda offer: offer.seq)


GONE = Offer(0, [], 0)


class Offers:
    """Numbers start from the time in microseconds: they grow over restarts too, for as long as there are fewer than a
    million offers a second, and a mark of an earlier Store never covers an offer of a later one."""

    def __init__(self, shards: int, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.size = 0
        self.refused = 0
        self.stored = 0
        self._seq = time.time_ns() // 1000
        self._queues = tuple(Queue(self._seq) for _ in range(shards))

    def __len__(self) -> int:
        return sum(map(len, self._queues))

    def offer(self, shard: int, items: Sequence[bytes]) -> int:
        """Its number. Whoever takes the shard has had it when this returns."""
        cost = OFFER_COST + check_offer(shard, len(self._queues), items) + ITEM_COST * len(items)
        if self.size + cost > self.limit_bytes:
            self.refused += 1
            raise Full(f"{len(self)} offers that nobody has covered fill {self.limit_bytes} bytes")
        queue = self._queues[shard]
        self._seq += 1
        self.stored += 1
        self.size += cost
        offer = Offer(self._seq, list(map(bytes, items)), cost)
        queue.add(offer)
        for taker in tuple(queue.takers):
            give(taker, shard, offer)
        return offer.seq

    def attach(self, shard: int, taker: Taker) -> None:
        """The taker gets what is offered from now on; what is there already is for `after`."""
        self._queue(shard).takers.append(taker)

    def detach(self, shard: int, taker: Taker) -> None:
        queue = self._queue(shard)
        queue.takers = [t for t in queue.takers if t is not taker]

    def after(self, shard: int, seq: int, most: int) -> list[Offer]:
        return self._queue(shard).after(seq, most)

    def covered(self, shard: int) -> int:
        return self._queue(shard).covered

    def cover(self, shard: int, seq: int) -> None:
        # What is not offered yet can't be covered: such a number comes from another Store.
        self.size -= self._queue(shard).cover(min(seq, self._seq))

    def _queue(self, shard: int) -> Queue:
        check_shard(shard, len(self._queues))
        return self._queues[shard]


def give(taker: Taker, shard: int, offer: Offer) -> None:
    try:
        taker.offered(shard, offer.seq, list(offer.items))
    except Exception:
        log.exception("the taker of shard %d failed on offer %d", shard, offer.seq)
