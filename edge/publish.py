# How what is said gets into a room's logs: comments gather for a moment and become a batch, a score is a batch at once.
# It owns the rooms' windows and what their lanes' last numbers are believed to be. It must never guess how an append
# has ended.
import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec

from broker.base import CHAT, MUST, Broker, BrokerError, Kind, Outcome
from edge import wire
from edge.auth import Identity
from edge.errors import EdgeError
from edge.rooms.window import Done, Window

log = logging.getLogger("edge.publish")

RETRIES = 16
WAITING_COMMENTS = 10_000  # of one room, at this worker: past it a comment is refused as overloaded


class Lanes:
    """A room, as far as this worker publishes to it. While `followed`, the broker tells of each append to it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.heads = [0, 0]
        self.followed = False
        self.window = Window()
        self.flushing = False
        self.must = asyncio.Lock()  # one score at a time, so that a publisher's scores keep their order
        self._ts = [0, 0]

    def stamp(self, lane: int, now_ms: int) -> int:
        """`ts` for the next batch of a lane, or what the last one had: it never goes back, whatever the clocks do."""
        self._ts[lane] = max(self._ts[lane], now_ms)
        return self._ts[lane]

    def busy(self) -> bool:
        return self.flushing or len(self.window) > 0 or self.must.locked()


class Publisher:
    """Appends to rooms by compare-and-set. `viewers` tells how many a room has here, `spawn` starts a task."""

    def __init__(
        self,
        broker: Broker,
        flush_ms: int,
        viewers: Callable[[Lanes], int | None],
        spawn: Callable[[Any], asyncio.Task[Any]],
    ) -> None:
        self._broker = broker
        self._flush_s = flush_ms / 1000
        self._viewers = viewers
        self._spawn = spawn
        self.refused = 0  # comments that are certainly in no log, because there were too many or the broker could not

    async def comment(self, lanes: Lanes, identity: Identity, body: wire.CommentBody) -> wire.Message:
        """Its ack, once it is in a batch that is stored."""
        told: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def done(status: str) -> None:
            if not told.done():
                told.set_result(status)

        made = wire.comment_id(identity.user, body.ref)
        self.offer(lanes, identity, body, made, done)
        return ack(body.ref, made, await told)

    def offer(self, lanes: Lanes, identity: Identity, body: wire.CommentBody, made: str, done: Done) -> None:
        """Takes a comment with the id `made` into the room's window. `done` is called later, or at once."""
        if len(lanes.window) >= WAITING_COMMENTS:
            self.refused += 1
            raise EdgeError("overloaded", retry_after=2)
        comment = wire.comment(made, identity.public(), body.x, _now_ms(), re=body.re, tier=identity.tier)
        lanes.window.add(comment, len(msgspec.json.encode(comment)) + 1, done)
        if len(lanes.window) and not lanes.flushing:
            lanes.flushing = True
            asyncio.get_running_loop().call_later(self._flush_s, lambda: self._spawn(self._flush(lanes)))

    async def _flush(self, lanes: Lanes) -> None:
        try:
            while taken := lanes.window.take():
                comments = [waiting.comment for waiting in taken]
                viewers = self._viewers(lanes)
                lanes.window.finish(await self._settle(lanes, comments, viewers))
        finally:
            lanes.flushing = False

    async def _settle(self, lanes: Lanes, comments: list[wire.Message], viewers: int | None) -> str:
        try:
            stored = await self._append(lanes, CHAT, lambda seq, ts: wire.batch(seq, ts, comments, viewers=viewers))
        except EdgeError:
            self.refused += len(comments)
            return "rejected"
        return "published" if stored else "unknown"

    async def score(self, lanes: Lanes, event: dict[str, Any]) -> str:
        """The event's id on the must lane."""
        async with lanes.must:
            seq = await self._append(lanes, MUST, lambda seq, ts: wire.score(seq, ts, event))
        if not seq:
            raise EdgeError("unavailable", "it is not known whether this was stored", retry_after=1)
        return f"m{seq}"

    async def _append(self, lanes: Lanes, lane: int, make: Callable[[int, int], wire.Message]) -> int:
        """Compare-and-set until it is stored: its number, or 0 where that is unknown. `make` is given number and ts.

        Raises `unavailable` when it is certainly not stored. What an append ended as is read from the log, never
        guessed: until it is known, the very same batch is tried again, which cannot store it twice."""
        expected = lanes.heads[lane]
        data = b""
        unknown = False
        try:
            if not lanes.followed:
                expected = await self._broker.head(lanes.name, lane)
            for _ in range(RETRIES):
                data = data or msgspec.msgpack.encode(make(expected + 1, lanes.stamp(lane, _now_ms())))
                outcome = await self._broker.append(lanes.name, lane, data, expected)
                unknown = unknown or outcome.kind is Kind.UNKNOWN
                if unknown and outcome.kind is not Kind.STORED:
                    after = await self._broker.tail(lanes.name, lane, expected)
                    if after and after[0] == (expected + 1, data):
                        outcome = Outcome(Kind.STORED, expected + 1)
                    elif after:
                        outcome = Outcome(Kind.FENCED, after[-1][0])
                    else:
                        continue
                if outcome.kind is Kind.STORED:
                    lanes.heads[lane] = max(lanes.heads[lane], outcome.head)
                    return outcome.head
                expected, data, unknown = outcome.head, b"", False
        except (BrokerError, ValueError) as error:
            log.warning("room %s: a batch could not be stored: %s", lanes.name, error)
        if unknown:
            return 0
        raise EdgeError("unavailable", retry_after=1)


def ack(ref: str | None, made: str, status: str) -> wire.Message:
    """What became of a comment, as its author is told."""
    if status == "rejected":
        return wire.ack(ref, None, status, EdgeError("unavailable", retry_after=1))
    return wire.ack(ref, made, status)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
