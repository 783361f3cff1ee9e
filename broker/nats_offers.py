# What is offered to shards, in NATS: the streams EDGE_IN. It owns the consumers of the shards that this node reads, and
# what it knows to be covered. It must never send an offer twice, nor give a taker one offer twice or past a hole.
#
# A consumer is made anew whenever anything about it is doubtful: a hole in its numbers, 2 s without a word, another
# connection. What it has given is known here, so nothing is repeated or left out. They have a connection of their own:
# an owner that takes over a backlog of offers must not hold up the reads that joins and appends wait for, and where the
# server cuts it off for reading too slowly, it loses only this.

import asyncio
import contextlib
import json
import logging
import random
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgpack
from nats.aio.msg import Msg

from broker.access import Keys
from broker.base import CHAT, Full, Kind, Taker, Unavailable
from broker.nats_link import Link, Lost, NoResponders, words
from broker.nats_read import fetch, fetch_again
from broker.nats_setup import NS, WRONG_LAST
from broker.nats_way import AGAIN_S, FAILURES, Way
from broker.nats_write import ATTEMPT_S, EXPECTED, Refused, publish
from broker.subjects import BUCKET, kv, offers

log = logging.getLogger("broker")

HEARTBEAT_S = 1
SILENT_S = 2.0
WATCH_S = 0.25
UNUSED_S = 5  # then the server forgets a consumer that nobody hears
MAKING = 32  # at once
MAKE_S = 2.0
CLOSE_S = 0.5
STORE_FAILED = 10077  # its text says what bound is reached
NO_ROOM = (10002, 10023, 10028, 10047)  # of the account, of the servers, of memory, of the disk
PURGE_OFFERS = 1000
PURGE_S = 10.0
"""One of 1,000 offers took 0.7 to 1.6 ms, with 250 of them from among 100,000 of other shards 1 to 5 ms, and an offer
meanwhile 25 ms at most; only the first over blocks that the server had long closed took up to 0.4 s."""


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


class _Reading:
    """One shard that is consumed here."""

    def __init__(self, shard: int, after: int, taker: Taker) -> None:
        self.shard = shard
        self.last = after
        self.taker = taker
        self.given = 0
        self.feed: Feed | None = None
        self.made = asyncio.Event()
        self.making = False
        self.again = False
        self.closed = False
        self.trouble = ""


class _Covered:
    """What is known to be recorded of a shard."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.seq: int | None = None
        self.revision = 0
        self.purging = False
        self.purged_given = 0
        # Not all shards' first ones at once.
        self.purge_at_s = asyncio.get_running_loop().time() + random.uniform(0.5, 1) * PURGE_S


class Offers:
    def __init__(self, way: Way) -> None:
        self.bad = 0  # offers that are none
        self.remade = 0
        self._way = way
        self._streams = way.options.streams
        self._link = Link("edge offers", way.options, Keys(way.options.access), self._up, self._down, lambda link: None)
        self._readings: dict[int, _Reading] = {}
        self._covered: dict[int, _Covered] = {}
        self._slots = asyncio.Semaphore(MAKING)
        self._begun = False
        self._is_up = asyncio.Event()

    async def offer(self, shard: int, items: Sequence[bytes], wait_s: float) -> Kind:
        payload = msgpack.packb([bytes(item) for item in items], use_bin_type=True)
        try:
            await publish(self._way.links[CHAT], offers(shard), payload, wait_s)
        except Lost:
            return Kind.UNKNOWN
        except Refused as refused:
            if refused.code in NO_ROOM or (refused.code == STORE_FAILED and "maximum" in str(refused)):
                raise Full(f"NATS takes no offer: {refused}") from None
            raise Unavailable(f"NATS takes no offer: {refused}") from None
        except FAILURES as failed:
            why = "the stream has no leader" if isinstance(failed, NoResponders) else "not connected"
            raise Unavailable(f"NATS takes no offer: {why}") from None
        return Kind.STORED

    async def link(self, deadline: float) -> Link:
        """The connection of its own, made for the first who needs it. Raises Unavailable, Closed, Misfit."""
        await self._way.wait(deadline)
        self._begin()
        try:
            async with asyncio.timeout_at(deadline):
                await self._is_up.wait()
        except TimeoutError:
            why = self._link.trouble or "no answer"
            raise Unavailable(f"NATS can't be reached at {self._way.where}: {why}") from None
        await self._way.wait(deadline)
        return self._link

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._way.spawn(self._link.run())
            self._way.spawn(self._watch())

    async def consume(self, shard: int, after: int, taker: Taker, deadline: float) -> None:
        if shard in self._readings:
            raise ValueError(f"shard {shard} is consumed already")
        own = self._readings[shard] = _Reading(shard, after, taker)
        try:
            await self._way.wait(deadline)
            self._begin()
            self._remake(own)
            async with asyncio.timeout_at(deadline):
                await own.made.wait()
            await self._way.wait(deadline)  # Closed, where that is what has ended the waiting
        except TimeoutError:
            await self._drop(own)
            raise Unavailable(f"NATS makes no consumer of shard {shard}: {own.trouble or 'no answer'}") from None
        except BaseException:
            await self._drop(own)
            raise

    async def leave(self, shard: int) -> None:
        own = self._readings.get(shard)
        if own is not None:
            await self._drop(own)

    async def _drop(self, own: _Reading) -> None:
        if self._readings.get(own.shard) is own:
            del self._readings[own.shard]
        own.closed = True
        own.made.set()
        if own.feed is not None:
            await own.feed.stop()

    async def close(self) -> None:
        had = list(self._readings.values())
        for own in had:
            await self._drop(own)
        if had:  # else the server keeps them until it finds that nobody hears them
            with contextlib.suppress(TimeoutError, *FAILURES):
                async with asyncio.timeout(CLOSE_S):
                    await self._link.flush()
        self._link.ending = True
        self._is_up.set()

    def _up(self, link: Link) -> None:
        self._is_up.set()
        for own in self._readings.values():
            self._remake(own)

    def _down(self, link: Link) -> None:
        self._is_up.clear()

    def _remake(self, own: _Reading) -> None:
        own.again = True
        if not own.making and not own.closed:
            own.making = True
            self._way.spawn(self._make(own))

    async def _make(self, own: _Reading) -> None:
        pause_s = AGAIN_S
        try:
            while own.again and not own.closed and self._link.connected:  # its coming up begins this anew
                async with self._slots:
                    own.again = False
                    made = await self._make_once(own)
                if made:
                    pause_s = AGAIN_S
                else:
                    own.again = True
                    await asyncio.sleep(random.uniform(0.5, 1) * pause_s)
                    pause_s = min(2 * pause_s, 0.5)
        finally:
            own.making = False

    async def _make_once(self, own: _Reading) -> bool:
        if own.feed is not None:
            self.remade += 1
            await own.feed.stop()
        config = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": own.last + 1,
            "filter_subject": offers(own.shard),
        }
        feed = Feed(self._link, self._streams.offers(own.shard), config, partial(self._got, own))
        feed.broken = lambda: self._remake(own)
        own.feed = feed
        try:
            await feed.start()
        except (*FAILURES, Refused, ValueError, KeyError) as failed:
            own.trouble = words(failed)
            feed.over = True
            return False
        finally:
            if own.closed or feed.over:
                await feed.stop()
        own.made.set()
        return True

    def _got(self, own: _Reading, msg: Msg, seq: int, *rest: int) -> None:
        if own.closed or seq <= own.last:  # a replica that is behind begins earlier than it was asked to
            return
        own.last = seq
        own.given += 1
        try:
            items = msgpack.unpackb(msg.data)
            if not isinstance(items, list) or not all(isinstance(item, bytes) for item in items):
                raise ValueError("not an array of bytes")
        except ValueError as bad:  # every exception of msgpack is one
            self.bad += 1
            log.error("shard %d: what is stored as %d is no offer (%s)", own.shard, seq, words(bad))
            return
        try:
            own.taker.offered(own.shard, seq, items)
        except Exception:
            log.exception("the taker of shard %d failed on offer %d", own.shard, seq)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        before = loop.time()
        while not self._link.ending:
            await asyncio.sleep(WATCH_S)
            now = loop.time()
            late, before = now - before > SILENT_S / 2, now
            for own in self._readings.values():
                feed = own.feed
                if feed is None or own.making or not self._link.connected:
                    continue
                if late:  # we were away ourselves: what came meanwhile is still to be read
                    feed.heard_s = now
                elif feed.over or now - feed.heard_s > SILENT_S:
                    self._remake(own)

    async def covered(self, shard: int, seq: int, deadline: float) -> None:
        it = self._covered.get(shard)
        if it is None:
            it = self._covered[shard] = _Covered()
        async with it.lock:
            if it.seq is None or it.seq < seq:
                await self._record(it, shard, seq, deadline)
        self._purge_now_and_then(it, shard)

    async def _record(self, it: _Covered, shard: int, seq: int, deadline: float) -> None:
        """Compare-and-set, so that a holder who has been paused and wakes takes nothing back."""
        link = self._way.links[CHAT]
        while True:
            try:
                if it.seq is None:
                    it.seq, it.revision = await self._recorded(shard)
                if it.seq >= seq:
                    return
                subject = f"{link.kv}{covered_key(shard)}"
                it.revision = await publish(link, subject, b"%d" % seq, ATTEMPT_S, {EXPECTED: str(it.revision)})
                it.seq = seq
                return
            except (*FAILURES, Refused) as failed:
                it.seq = None
                if self._way.closed or asyncio.get_running_loop().time() >= deadline:
                    await self._way.wait(deadline)
                    raise Unavailable(f"NATS takes no record of shard {shard}: {words(failed)}") from None
                if not isinstance(failed, Refused) or failed.code != WRONG_LAST:
                    await asyncio.sleep(AGAIN_S)

    async def checkpoint(self, shard: int, deadline: float) -> int:
        """Up to where the shard's offers are covered. Raises Unavailable, Closed, Misfit."""
        return (await self._way.read(lambda: self._recorded(shard), deadline))[0]

    async def _recorded(self, shard: int) -> tuple[int, int]:
        which, stream = {"last_by_subj": covered_key(shard)}, f"KV_{BUCKET}"
        found = await fetch(self._way.reads, stream, which) or await fetch_again(self._way.reads, stream, which)
        if found is None:
            return 0, 0
        try:
            return int(found.data), found.seq
        except ValueError:
            raise Unavailable(f"what is covered of shard {shard} is recorded as {found.data[:40]!r}") from None

    def _purge_now_and_then(self, it: _Covered, shard: int) -> None:
        own = self._readings.get(shard)
        given = own.given if own is not None else 0
        now = asyncio.get_running_loop().time()
        if it.purging or (now < it.purge_at_s and abs(given - it.purged_given) < PURGE_OFFERS):
            return
        it.purging, it.purged_given, it.purge_at_s = True, given, now + PURGE_S
        self._way.spawn(self._purge(it, shard))

    async def _purge(self, it: _Covered, shard: int) -> None:
        """What is covered is only in the way: the streams' bound is for what is not. A failure is made good by the
        next time."""
        link = self._way.reads
        body = json.dumps({"filter": offers(shard), "seq": (it.seq or 0) + 1}).encode()
        try:
            await link.request(f"{link.api}.STREAM.PURGE.{self._streams.offers(shard)}", body, MAKE_S)
        except FAILURES as failed:
            log.debug("shard %d is not purged: %s", shard, words(failed))
        finally:
            it.purging = False


def covered_key(shard: int) -> str:
    return kv(BUCKET, f"covered.{shard}")
