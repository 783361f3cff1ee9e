# What is read from streams of NATS as it comes: Feed, one consumer, and Reading, a shard's offers for one taker. It
# owns the consumers. It must never give a taker one offer twice, nor past a hole, nor go on where the numbers of what
# was given have become another's.
#
# A consumer is made anew whenever anything about it is doubtful: a hole in its numbers, 2 s without a word, another
# connection. What it has given is known here, so nothing is repeated or left out. But a server alone that has lost its
# power may have less than it had given: it numbers on from there, and no number tells any more what was given.

import asyncio
import json
import logging
import random
import secrets
from collections.abc import Callable
from typing import Any

import msgpack
from nats.aio.msg import Msg

from broker.base import Taker
from broker.nats_link import Link, Lost, words
from broker.nats_setup import NS
from broker.nats_way import AGAIN_S, FAILURES, Way
from broker.nats_write import Refused
from broker.subjects import offers

log = logging.getLogger("broker")

HEARTBEAT_S = 1
SILENT_S = 2.0
UNUSED_S = 5  # then the server forgets a consumer that nobody hears
MAKING = 32  # at once
MAKE_S = 1.0
ENDS = 8
"""Answers that must all end too early, of a stream with replicas: a leader that has lost its office can answer for
seconds. One without replicas has nobody else to ask."""
ENDS_S = 1.0


class Feed:
    """One push consumer. `got(message, stream sequence, time in ns, how many are still to come)` is called in order;
    `broken` once, when something is missing: then it has to be stopped, and made anew."""

    def __init__(
        self, link: Link, stream: str, config: dict[str, Any], got: Callable[[Msg, int, int, int], None]
    ) -> None:
        self.over = False
        self.broken: Callable[[], None] = lambda: None
        self.heard_s = asyncio.get_running_loop().time()
        self._link = link
        self._stream = stream
        self._config = config
        self._got = got
        self._name = f"edge_{secrets.token_hex(8)}"
        self._subject = f"_INBOX.{secrets.token_hex(11)}"
        self._count = 0  # of messages, by the consumer's own numbers
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> bool:
        """Whether there is anything to come at once. Down, Lost, NoResponders, Refused: it has to be stopped."""
        await self._link.hear(self._subject, self._heard)
        config = {
            "name": self._name,
            "deliver_subject": self._subject,
            "ack_policy": "none",
            "max_deliver": 1,
            "replay_policy": "instant",
            "idle_heartbeat": HEARTBEAT_S * NS,
            "flow_control": True,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": UNUSED_S * NS,
            **self._config,
        }
        body = json.dumps({"stream_name": self._stream, "config": config, "action": "create"}).encode()
        subject = f"{self._link.api}.CONSUMER.CREATE.{self._stream}.{self._name}"
        if "filter_subject" in config:
            subject += f".{config['filter_subject']}"
        answer = json.loads((await self._link.request(subject, body, MAKE_S)).data)
        if error := answer.get("error"):
            raise Refused(int(error.get("err_code") or 0), str(error.get("description", "")))
        self.heard_s = asyncio.get_running_loop().time()
        return bool(answer.get("num_pending") or answer["delivered"]["consumer_seq"])

    async def stop(self) -> None:
        """No call follows. Never fails."""
        self.over = True
        await self._link.tell(f"{self._link.api}.CONSUMER.DELETE.{self._stream}.{self._name}", b"")
        await self._link.unhear(self._subject, self._heard)

    def _heard(self, msg: Msg) -> None:
        if self.over:
            return
        self.heard_s = asyncio.get_running_loop().time()
        headers = msg.headers or {}
        if not msg.data and headers.get("Status") == "100":
            self._control(msg, headers)
            return
        try:
            # $JS.ACK[.<domain>.<account>].<stream>.<consumer>.<delivered>.<sequence>.<number>.<time>.<pending>[.<...>]
            tokens = msg.reply.split(".")
            at = 5 if len(tokens) == 9 else 7
            seq, number, time_ns, pending = (int(token) for token in tokens[at : at + 4])
        except ValueError:
            log.error("what came from consumer %s of %s is no entry of it", self._name, self._stream)
            return
        if number != self._count + 1:
            self._break()
            return
        self._count = number
        self._got(msg, seq, time_ns, pending)

    def _control(self, msg: Msg, headers: dict[str, str]) -> None:
        # A request is answered at its place in the order, when all before it has been taken: that is the flow control.
        answer = msg.reply or headers.get("Nats-Consumer-Stalled")
        if answer:
            task = asyncio.get_running_loop().create_task(self._link.tell(answer, b""))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        last = headers.get("Nats-Last-Consumer")
        if last is not None and last != str(self._count):
            self._break()

    def _break(self) -> None:
        self.over = True
        self.broken()


async def end_of(link: Link, stream: str, least: int) -> int:
    """The stream's last sequence, as its leader tells it; less than `least` only where that is certain. Down, Lost,
    NoResponders."""
    asked = 0
    while True:
        answer = json.loads((await link.request(f"{link.api}.STREAM.INFO.{stream}", b"", MAKE_S)).data)
        try:
            end, replicas = int(answer["state"]["last_seq"]), int(answer["config"]["num_replicas"])
        except (KeyError, TypeError, ValueError):
            raise Lost(f"stream {stream} is not told of: {answer.get('error', answer)}") from None
        asked += 1
        if end >= least or replicas == 1 or asked == ENDS:
            return end
        await asyncio.sleep(random.uniform(0.5, 1) * ENDS_S)


class Shared:
    """What the readings of one node have in common."""

    def __init__(self, way: Way, link: Link) -> None:
        self.way = way
        self.link = link
        self.slots = asyncio.Semaphore(MAKING)
        self.bad = 0  # offers that are none
        self.remade = 0


class Reading:
    """One shard that is consumed here. `made` is set once it is, or never will be."""

    def __init__(self, shared: Shared, shard: int, after: int, taker: Taker) -> None:
        self.shard = shard
        self.given = 0
        self.lost = False  # the taker has been told that its numbers mean nothing any more
        self.made = asyncio.Event()
        self.trouble = ""
        self._shared = shared
        self._link = shared.link
        self._stream = shared.way.options.streams.offers(shard)
        self._taker = taker
        self._last = after
        self._feed: Feed | None = None
        self._making = False
        self._again = False
        self._closed = False

    @property
    def certain(self) -> bool:
        """The numbers given are those of the stream as it is now, as far as is known."""
        idle = self._link.connected and not self._making and not self.lost
        return idle and self._feed is not None and not self._feed.over

    async def close(self) -> None:
        self._closed = True
        self.made.set()
        if self._feed is not None:
            await self._feed.stop()

    def remake(self) -> None:
        self._again = True
        if not self._making and not self._closed and not self.lost:
            self._making = True
            self._shared.way.spawn(self._make())

    def watch(self, now: float, late: bool) -> None:
        """`late`: we were away ourselves, and what came meanwhile is still to be read."""
        feed = self._feed
        if feed is None or self._making or not self._link.connected:
            return
        if late:
            feed.heard_s = now
        elif feed.over or now - feed.heard_s > SILENT_S:
            self.remake()

    async def _make(self) -> None:
        pause_s = AGAIN_S
        try:
            while self._again and not self._closed and not self.lost and self._link.connected:
                async with self._shared.slots:
                    self._again = False
                    made = await self._make_once()
                if made:
                    pause_s = AGAIN_S
                else:
                    self._again = True
                    await asyncio.sleep(random.uniform(0.5, 1) * pause_s)
                    pause_s = min(2 * pause_s, 0.5)
        finally:
            self._making = False  # where the connection has ended, its coming up begins this anew

    async def _make_once(self) -> bool:
        if self._feed is not None:
            self._shared.remade += 1
            await self._feed.stop()
        try:
            if await self._goes_on():
                await self._start()
        except (*FAILURES, Refused, ValueError, KeyError) as failed:
            self.trouble = words(failed)
            return False
        self.made.set()
        return True

    async def _goes_on(self) -> bool:
        """Whether the stream still has all that was given: asked before anything more is."""
        end = await end_of(self._link, self._stream, self._last) if self._last else 0
        if end >= self._last or self._closed:
            return not self._closed
        self.lost = True
        log.error(
            "shard %d: NATS has lost offers: %d was given, and its stream ends at %d", self.shard, self._last, end
        )
        try:
            self._taker.reset(self.shard)
        except Exception:
            log.exception("the taker of shard %d failed on a reset", self.shard)
        return False

    async def _start(self) -> None:
        config = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._last + 1,
            "filter_subject": offers(self.shard),
        }
        feed = self._feed = Feed(self._link, self._stream, config, self._got)
        feed.broken = self.remake
        try:
            await feed.start()
        except BaseException:
            feed.over = True
            raise
        finally:
            if self._closed or feed.over:
                await feed.stop()

    def _got(self, msg: Msg, seq: int, *rest: int) -> None:
        if self._closed or seq <= self._last:  # a replica that is behind begins earlier than it was asked to
            return
        self._last = seq
        self.given += 1
        try:
            items = msgpack.unpackb(msg.data)
            if not isinstance(items, list) or not all(isinstance(item, bytes) for item in items):
                raise ValueError("not an array of bytes")
        except ValueError as bad:  # every exception of msgpack is one
            self._shared.bad += 1
            log.error("shard %d: what is stored as %d is no offer (%s)", self.shard, seq, words(bad))
            return
        try:
            self._taker.offered(self.shard, seq, items)
        except Exception:
            log.exception("the taker of shard %d failed on offer %d", self.shard, seq)
