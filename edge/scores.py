# The way into a room's `must` lane, of scores and of news about the room: by compare-and-set, by whichever worker has
# taken it, without an owner and without a wait. It owns what the lane's last number is believed to be. It must never
# guess how an append has ended.
import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec

from broker.base import MUST, Broker, BrokerError, Kind
from edge import wire
from edge.errors import EdgeError

log = logging.getLogger("edge.scores")

RETRIES = 16
WAIT_S = 8.0
"""A publisher that is told nothing for longer has given up, and asks again."""


class Must:
    """The lane of one room, as far as this worker writes to it. While `followed`, the broker tells of each append."""

    def __init__(self, room: str) -> None:
        self.room = room
        self.head = 0
        self.followed = False
        self.lock = asyncio.Lock()  # one at a time, so that a publisher's scores keep their order
        self._ts = 0

    def stamp(self, now_ms: int) -> int:
        """`ts` for the next entry, or what the last one had: it never goes back, whatever the clocks do."""
        self._ts = max(self._ts, now_ms)
        return self._ts


async def score(broker: Broker, must: Must, event: dict[str, Any]) -> str:
    """The event's id on the must lane."""
    return await _put(broker, must, lambda seq, ts: wire.score(seq, ts, event))


async def state(broker: Broker, must: Must, fields: dict[str, Any]) -> str:
    """The id of the news about the room."""
    return await _put(broker, must, lambda seq, ts: wire.state(seq, ts, fields))


async def retraction(broker: Broker, must: Must, ids: list[str]) -> str:
    """The id of the word that these comments are gone."""
    return await _put(broker, must, lambda seq, ts: wire.retraction(seq, ts, ids))


async def _put(broker: Broker, must: Must, make: Callable[[int, int], wire.Message]) -> str:
    async with must.lock:
        seq = await _append(broker, must, make)
    if not seq:
        raise EdgeError("unavailable", "it is not known whether this was stored", retry_after=1)
    return f"m{seq}"


async def _append(broker: Broker, must: Must, make: Callable[[int, int], wire.Message]) -> int:
    """Compare-and-set until it is stored: its number, or 0 where that is unknown. `make` is given number and ts.

    Raises `unavailable` when it is certainly not stored. How an append ended is never guessed: until it is known, the
    very same call is made again, which cannot store it twice."""
    expected = must.head
    data = b""
    unknown = False
    deadline = time.monotonic() + WAIT_S
    try:
        if not must.followed:
            expected = await broker.head(must.room, MUST)
        for _ in range(RETRIES):
            data = data or msgspec.msgpack.encode(make(expected + 1, must.stamp(time.time_ns() // 1_000_000)))
            outcome = await broker.append(must.room, MUST, data, expected)
            unknown = outcome.kind is Kind.UNKNOWN
            if outcome.kind is Kind.STORED:
                must.head = max(must.head, outcome.head)
                return outcome.head
            if outcome.kind is Kind.FENCED:
                expected, data = outcome.head, b""
            elif time.monotonic() > deadline:
                break
    except (BrokerError, ValueError) as error:
        log.warning("room %s: a score could not be stored: %s", must.room, error)
    if unknown:
        return 0
    raise EdgeError("unavailable", retry_after=1)
