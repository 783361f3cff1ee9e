# The fence that a shard's new holder puts up in its lanes, in NATS, and where the shard's log stands then. It owns
# nothing. It must never tell of an offer as covered that came after the batch which is said to cover it.
#
# A server alone that has lost its power may have less of EDGE_IN than it had said, and gives the numbers of what is
# lost to what comes next. The marks in the log and the checkpoint may lie beyond its end then: they are brought back to
# where the numbering began anew, or what is offered now would count as covered for as long as it takes to catch up.

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import Any, NamedTuple

from nats.aio.msg import Msg

from broker.base import CHAT, Last, Mark, Standing, Unavailable
from broker.nats_entry import BadEntry, End, unpack
from broker.nats_feed import ENDS, ENDS_S, SILENT_S, Feed, end_of
from broker.nats_link import Link, Lost, words
from broker.nats_offers import Offers
from broker.nats_read import Message, fetch, fetch_again
from broker.nats_way import AGAIN_S, FAILURES, Way
from broker.nats_write import Refused, Writer
from broker.subjects import LANE_NAMES, ROOM_NAME, offers, room_of

log = logging.getLogger("broker")

LIVE_S = 3600.0
OPENING = 64  # lanes at once
ANY: Mark = (2**63, 0)


class _Bounds(NamedTuple):
    """What there can be of the shard's offers: no mark is greater than `mark`, and the checkpoint is `after`."""

    after: int
    mark: Mark = ANY


class Fence:
    """Goes over the lanes of a shard for its new holder."""

    def __init__(self, way: Way, offers: Offers, writer: Writer) -> None:
        self._way = way
        self._offers = offers
        self._writer = writer

    async def fence(self, shard: int, epoch: int, wait_s: float) -> Standing:
        """Standing has the lanes that were opened here and now: of others, what was read may be late already."""
        deadline = asyncio.get_running_loop().time() + wait_s
        checkpoint = await self._offers.checkpoint(shard, deadline)
        last = await self._last_entries(shard, deadline)
        bounds = await self._bounds(shard, checkpoint, last, wait_s)
        lanes = iter(last.live(self._writer.reader.lasts_s).items())
        rooms: dict[str, Last] = {}

        async def open_some() -> None:
            for room, (end, born) in lanes:
                opened = await self._open(room, end, born, epoch, bounds.mark, wait_s)
                if opened is None:
                    continue
                rooms[room] = Last(opened.number, opened.epoch, opened.mark)
                if opened.epoch > epoch:
                    log.warning("room %s has been written under lease %d, and this is %d", room, opened.epoch, epoch)

        tasks = [asyncio.create_task(open_some()) for _ in range(OPENING)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if bounds.after < checkpoint:
            await self._offers.take_back(shard, bounds.after, asyncio.get_running_loop().time() + wait_s)
        return Standing(bounds.after, rooms)

    async def _open(self, room: str, end: End | None, born: float, epoch: int, mark: Mark, wait_s: float) -> End | None:
        """Its mark is no greater than `mark`, in the log neither, where this lease still writes."""
        if end is not None:
            end = end._replace(mark=min(end.mark, mark))
        while True:
            opened = await self._writer.open(room, end, born, epoch, wait_s)
            if opened is None or opened.mark <= mark:
                return opened
            end = opened._replace(mark=mark)
            if opened.epoch > epoch:
                return end

    async def _bounds(self, shard: int, checkpoint: int, last: "_LastEntries", wait_s: float) -> _Bounds:
        """Read after the marks: a stream that ends before one of them has lost what it had stored."""
        least = max([checkpoint, *(_needs(end.mark) for end, _ in last.chats.values())])
        if not least:
            return _Bounds(checkpoint)
        link, stream = self._way.reads, self._way.options.streams.offers(shard)
        deadline = asyncio.get_running_loop().time() + wait_s + ENDS * ENDS_S
        stream_end = await self._way.read(lambda: end_of(link, stream, least), deadline)
        if stream_end >= least:
            return _Bounds(checkpoint)
        # A batch is younger than all that it covers, and older than all that has come since the stream lost its end: so
        # the first offer that is younger than a mark which can't be is the first of the new numbering.
        written = [at for end, at in last.chats.values() if _needs(end.mark) > stream_end]
        mark, after = ANY, min(checkpoint, stream_end)
        if written:
            which = {"next_by_subj": offers(shard), "start_time": _rfc3339(min(written))}
            found = await self._way.read(lambda: _fetch(link, stream, which), deadline)
            mark = (stream_end + 1 if found is None else found.seq, 0)
            after = min(after, mark[0] - 1)
        if checkpoint > stream_end:
            # When it was recorded says nothing: its holder, perhaps, did not know yet. So all that is kept is read, and
            # the marks tell what of it is covered.
            after = 0
        log.error(
            "shard %d: NATS has lost offers: %d was covered, and its stream ends at %d; %d rooms go on from there",
            shard,
            least,
            stream_end,
            len(written),
        )
        return _Bounds(after, mark)

    async def _last_entries(self, shard: int, deadline: float) -> "_LastEntries":
        while True:
            link = await self._offers.link(deadline)
            last = _LastEntries(shard)
            try:
                async with asyncio.timeout_at(deadline):
                    await last.read(link, self._way.options.streams.log(shard))
                return last
            except TimeoutError:
                raise Unavailable(f"NATS does not tell the lanes of shard {shard}") from None
            except (*FAILURES, Refused) as failed:
                log.debug("the lanes of shard %d are read again: %s", shard, words(failed))
                await asyncio.sleep(AGAIN_S)


def _needs(mark: Mark) -> int:
    """The last offer that it covers anything of."""
    offer, item = mark
    return offer if item else max(0, offer - 1)


async def _fetch(link: Link, stream: str, which: dict[str, Any]) -> Message | None:
    return await fetch(link, stream, which) or await fetch_again(link, stream, which)


def _rfc3339(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat()


class _LastEntries:
    """The last entries of a shard's births and chat lanes, by a consumer that delivers just those. A replica may serve
    it that is behind; what is written by compare-and-set on what it tells shows that."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self.births: dict[str, tuple[End, float]] = {}
        self.chats: dict[str, tuple[End, float]] = {}
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def read(self, link: Link, stream: str) -> None:
        subjects = [f"edge.log.{self.shard}.*.{name}" for name in (ROOM_NAME, LANE_NAMES[CHAT])]
        feed = Feed(link, stream, {"deliver_policy": "last_per_subject", "filter_subjects": subjects}, self._got)
        feed.broken = self._broken
        try:
            if not await feed.start():
                return
            while not self._done.done():
                await asyncio.wait([self._done], timeout=SILENT_S)
                if asyncio.get_running_loop().time() - feed.heard_s > SILENT_S:
                    raise Lost("a consumer is silent")
            self._done.result()
        finally:
            await feed.stop()

    def live(self, lasts_s: float) -> dict[str, tuple[End | None, float]]:
        """How each chat lane ends that has been written to of late, and when its room was born; None where that has to
        be looked up."""
        now = time.time()
        found: dict[str, tuple[End | None, float]] = {}
        for room, (end, written) in self.chats.items():
            if now - written > LIVE_S:
                continue
            birth, born = self.births.get(room, (None, 0.0))
            fits = birth is not None and birth.incarnation == end.incarnation and now - born < lasts_s
            found[room] = (end if fits else None, born)
        return found

    def _broken(self) -> None:
        if not self._done.done():
            self._done.set_exception(Lost("a consumer has a hole"))

    def _got(self, msg: Msg, seq: int, time_ns: int, pending: int) -> None:
        try:
            *_, token, name = msg.subject.split(".")
            room = room_of(token)
            ends = self.births if name == ROOM_NAME else self.chats
            ends[room] = (unpack(msg.data, seq).end(), time_ns / 1e9)
        except (BadEntry, ValueError) as bad:
            log.error("what is stored on %s is no entry of a log (%s)", msg.subject, bad)
        if not pending and not self._done.done():
            self._done.set_result(None)
