# What nodes keep besides logs, in NATS: the bucket EDGE_STATE. It owns what this node watches, and a consumer for each.
# It must never say of a keep what the stream's leader has not, nor tell a watcher less than is there.
#
# A keep is compare-and-set on the last sequence of its key, and bears the name of its call and the sequence that it
# went out to replace: so whoever reads it knows whose it is, and whether something can have been between. What was
# removed leaves a marker for a while. A watch is made anew whenever anything about it is doubtful, as a shard's is, and
# reads all of its keys again: up to where the leader says that they end, for a replica may serve it that is behind.

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Mapping
from typing import NamedTuple

from nats.aio.msg import Msg

from broker.base import Closed, Full, Kept, Unavailable, Unsettled, Watcher
from broker.nats_feed import SILENT_S, Feed, end_of
from broker.nats_link import Link, Lost, words
from broker.nats_offers import NO_ROOM, STORE_FAILED
from broker.nats_read import fetch, fetch_again
from broker.nats_setup import WRONG_LAST
from broker.nats_way import AGAIN_S, FAILURES, Way
from broker.nats_write import ATTEMPT_S, EXPECTED, IN_FLIGHT, Refused, publish
from broker.subjects import STATE, kv
from broker.watched import Watched

log = logging.getLogger("broker")

STREAM = f"KV_{STATE}"
CALL = "Edge-Call"  # its name, and the sequence that it replaces
MARKER = {"KV-Operation": "DEL", "Nats-TTL": "1h"}
WATCH_S = 0.25
LOOK_S = 0.1
"""How often to ask again where the keys end: what the leader told of may have been replaced or forgotten since."""
PAUSE_S = 0.5


class _Found(NamedTuple):
    """The last that the stream has of a key."""

    seq: int = 0
    there: bool = False
    value: bytes = b""
    call: str = ""
    replaced: int = -1  # by that call

    @property
    def revision(self) -> int:
        return self.seq if self.there else 0


class _Keep:
    """A keep that is under way."""

    __slots__ = ("call", "expected", "key", "revision", "sent", "value")

    def __init__(self, key: str, value: bytes | None, revision: int | None, call: str) -> None:
        self.key = key
        self.value = value
        self.revision = revision
        self.call = call
        self.expected = revision  # sequence; None where it has to be looked up
        self.sent = False  # and not answered: it may be stored, or may yet be

    def settled(self, found: _Found) -> int | None:
        """What the keep has come to; None where it is to be tried, again perhaps. The stream takes it only in the place
        of what was expected: once something else is there instead, it is not and will not be."""
        if found.call == self.call:
            return found.seq
        if self.revision is not None:
            if self.sent and self.expected not in (found.seq, found.replaced):
                raise Unsettled("another has been faster, or has replaced it already")
            if found.revision != self.revision:
                return 0
        self.expected = found.seq
        return None


class Keeping:
    def __init__(self, way: Way, link: Link) -> None:
        self._way = way
        self._link = link
        self._name = secrets.token_hex(8)
        self._calls = 0
        self._watched: dict[str, _Watching] = {}
        self._begun = False

    async def keep(self, key: str, value: bytes | None, revision: int | None, deadline: float) -> int:
        self._calls += 1
        it = _Keep(key, value, revision, f"{self._name}.{self._calls}")
        look, publishing, why = it.expected is None, False, "no answer"
        while not self._way.closed and asyncio.get_running_loop().time() < deadline:
            try:
                publishing = False
                if look:
                    settled = it.settled(await self._last(key))
                    if settled is not None:
                        return settled
                publishing = True
                return await self._publish(it, deadline)
            except Refused as refused:
                why = words(refused)
                it.sent = it.sent or refused.code in IN_FLIGHT
                if refused.code not in (WRONG_LAST, *IN_FLIGHT):
                    full = refused.code in NO_ROOM or (refused.code == STORE_FAILED and "maximum" in why)
                    if full and not it.sent:
                        raise Full(f"NATS keeps nothing: {why}") from None
                    break
                if refused.code != WRONG_LAST:
                    await asyncio.sleep(AGAIN_S)
            except FAILURES as failed:
                why = words(failed)
                it.sent = it.sent or (publishing and isinstance(failed, Lost))
                if not it.sent and not self._link.connected:
                    break
                await asyncio.sleep(AGAIN_S)
            look = True
        if it.sent:
            raise Unsettled(f"NATS has not told how it ended: {why}")
        if self._way.closed:
            raise Closed("this broker has been closed")
        raise Unavailable(f"NATS keeps nothing: {why}")

    async def _publish(self, it: _Keep, deadline: float) -> int:
        headers = {EXPECTED: str(it.expected), CALL: f"{it.call} {it.expected}"}
        if it.value is None:
            headers |= MARKER
        left_s = max(0.05, min(ATTEMPT_S, deadline - asyncio.get_running_loop().time()))
        return await publish(self._link, f"{self._link.kv}{kv(STATE, it.key)}", it.value or b"", left_s, headers)

    async def _last(self, key: str) -> _Found:
        link, which = self._way.reads, {"last_by_subj": kv(STATE, key)}
        found = await fetch(link, STREAM, which) or await fetch_again(link, STREAM, which)
        if found is None:
            return _Found()
        headers = dict(
            line.split(": ", 1) for line in found.hdrs.decode("utf-8", "replace").split("\r\n") if ": " in line
        )
        call, _, replaced = headers.get(CALL, "").partition(" ")
        return _Found(found.seq, not _removed(headers), found.data, call, int(replaced) if replaced.isdecimal() else -1)

    async def find(self, key: str, deadline: float) -> Kept | None:
        found = await self._way.read(lambda: self._last(key), deadline)
        return Kept(key, found.value, found.seq) if found.there else None

    async def kept(self, prefix: str, deadline: float) -> list[Kept]:
        own = _Watching(self._way, self._link, prefix, lambda news: None)
        try:
            await self._way.read(own.read, deadline)
            return own.first()
        finally:
            await own.close()

    async def watch(self, prefix: str, watcher: Watcher, deadline: float) -> list[Kept]:
        if prefix in self._watched:
            raise ValueError(f"{prefix} is watched already")
        own = self._watched[prefix] = _Watching(self._way, self._link, prefix, watcher)
        try:
            await self._way.read(own.read, deadline)
            found = own.first()
            self._way.check()
        except BaseException:
            await self._drop(own)
            raise
        if not self._begun:
            self._begun = True
            self._way.spawn(self._watch())
        asyncio.get_running_loop().call_soon(own.watched.release)
        return found

    async def unwatch(self, prefix: str) -> None:
        own = self._watched.get(prefix)
        if own is not None:
            await self._drop(own)

    async def close(self) -> None:
        for own in list(self._watched.values()):
            await self._drop(own)

    def came_up(self) -> None:
        for own in self._watched.values():
            own.remake()

    async def _drop(self, own: "_Watching") -> None:
        if self._watched.get(own.watched.prefix) is own:
            del self._watched[own.watched.prefix]
        await own.close()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        before = loop.time()
        while not self._way.closed:
            await asyncio.sleep(WATCH_S)
            now = loop.time()
            late, before = now - before > SILENT_S / 2, now
            for own in self._watched.values():
                own.look(now, late)


class _Watching:
    """One prefix that is watched here."""

    def __init__(self, way: Way, link: Link, prefix: str, watcher: Watcher) -> None:
        self.watched = Watched(prefix, watcher)
        self._way = way
        self._link = link
        self._feed: Feed | None = None
        self._seq = 0  # the last that the consumer has told
        self._greatest = 0  # the same, of all of them
        self._wanted = 0
        self._reached = asyncio.Event()
        self._started = False  # the caller has what was there at first
        self._making = False
        self._again = False

    def first(self) -> list[Kept]:
        self._started = True
        return self.watched.first(())

    async def close(self) -> None:
        self.watched.end()
        self._reached.set()
        if self._feed is not None:
            await self._feed.stop()

    def remake(self) -> None:
        self._again = True
        if self._started and not self._making and not self.watched.ended:
            self._making = True
            self._way.spawn(self._make())

    def look(self, now: float, late: bool) -> None:
        """`late`: we were away ourselves, and what came meanwhile is still to be read."""
        feed = self._feed
        if feed is None or self._making or not self._link.connected:
            return
        if late:
            feed.heard_s = now
        elif feed.over or now - feed.heard_s > SILENT_S:
            self.remake()

    async def read(self) -> None:
        """By a new consumer: all of the keys as the leader has them, into `watched`. Down, Lost, NoResponders."""
        if self._feed is not None:
            await self._feed.stop()
        if self._greatest and await end_of(self._link, STREAM, self._greatest) < self._greatest:
            log.error("NATS has lost some of what was kept; those who watch %s are told", self.watched.prefix)
            self._greatest = 0
        self.watched.begin()
        self._seq = 0
        config = {"deliver_policy": "last_per_subject", "filter_subject": kv(STATE, f"{self.watched.prefix}>")}
        feed = self._feed = Feed(self._link, STREAM, config, self._got)
        feed.broken = self._broken
        try:
            await feed.start()
            await self._reach(feed)
        except BaseException as failed:
            feed.over = True
            if isinstance(failed, (Refused, ValueError, KeyError)):
                raise Lost(words(failed)) from None
            raise
        finally:
            if self.watched.ended or feed.over:
                await feed.stop()

    async def _reach(self, feed: Feed) -> None:
        while self._seq < (end := await self._end()):
            self._wanted = end
            self._reached.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._reached.wait()
            if feed.over or self.watched.ended:
                raise Lost("a consumer has a hole")
            if asyncio.get_running_loop().time() - feed.heard_s > SILENT_S:
                raise Lost("a consumer is silent")

    async def _end(self) -> int:
        """The last sequence of any of the keys."""
        link, which = self._way.reads, {"last_by_subj": kv(STATE, f"{self.watched.prefix}>")}
        found = await fetch(link, STREAM, which) or await fetch_again(link, STREAM, which)
        return 0 if found is None else found.seq

    async def _make(self) -> None:
        pause_s = AGAIN_S
        try:
            while self._again and not self.watched.ended and self._link.connected:
                self._again = False
                try:
                    await self.read()
                    self.watched.again(())
                except FAILURES as failed:
                    log.debug("%s is not watched: %s", self.watched.prefix, words(failed))
                    self._again = True
                    await asyncio.sleep(random.uniform(0.5, 1) * pause_s)
                    pause_s = min(2 * pause_s, PAUSE_S)
        finally:
            self._making = False  # where the connection has ended, its coming up begins this anew

    def _broken(self) -> None:
        self._reached.set()
        self.remake()

    def _got(self, msg: Msg, seq: int, time_ns: int, pending: int) -> None:
        self._seq = seq
        self._greatest = max(self._greatest, seq)
        key = msg.subject.removeprefix(kv(STATE, ""))
        value = None if _removed(msg.headers or {}) else bytes(msg.data)
        self.watched.changed(key, value, seq)
        if seq >= self._wanted:
            self._reached.set()


def _removed(headers: Mapping[str, str]) -> bool:
    return headers.get("KV-Operation") in ("DEL", "PURGE") or "Nats-Marker-Reason" in headers
