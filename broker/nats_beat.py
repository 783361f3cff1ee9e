# Once a second: tells others which lanes this node has changed, hears the same from them, and keeps rooms with viewers
# from ageing out. What a server sends on is no promise, and a lane's last entry has nothing after it that would show
# the hole: this does. It owns the list of changed lanes. It must never take what it hears for more than a reason to
# look.

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any

import msgpack
from nats.aio.msg import Msg

from broker.base import LANES
from broker.nats_entry import End
from broker.nats_follow import Following
from broker.nats_link import Down, Link, Lost
from broker.nats_setup import Options
from broker.nats_write import Writer
from broker.subjects import heads, shard_of

log = logging.getLogger("broker")

BEAT_S = 1.0
BEATS = 3  # that tell of a change, for one of them may be lost like the change itself
BEAT_ROOMS = 256  # in one message
GRACE_S = 0.2  # for a batch that is on its way still when the beat tells of it


class Beat:
    """`suspect` is called with a room that is behind what others tell of."""

    def __init__(
        self,
        link: Link,
        writer: Writer,
        following: dict[str, Following],
        options: Options,
        suspect: Callable[[Following], None],
    ) -> None:
        self._link = link
        self._writer = writer
        self._following = following
        self._options = options
        self._suspect = suspect
        self._changed: dict[str, list[int]] = {}  # room: incarnation, must, chat, beats left

    def stored(self, room: str, lane: int, end: End) -> None:
        changed = self._changed.get(room)
        if changed is None or changed[0] != end.incarnation:
            changed = self._changed[room] = [end.incarnation, 0, 0, BEATS]
        changed[1 + lane] = end.number
        changed[3] = BEATS

    async def run(self, spawn: Callable[[Any], None]) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            try:
                await self._hear()
                await self._tell()
            except (Down, Lost):
                continue
            for own in list(self._following.values()):
                if own.incarnation and self._writer.is_old(own.born):
                    own.born += random.uniform(0.05, 0.1) * self._options.max_age_s  # one look now and then is enough
                    spawn(self._writer.refresh(own.room))

    async def _tell(self) -> None:
        shards: dict[int, list[tuple[str, int, int, int]]] = {}
        for room, changed in list(self._changed.items()):
            incarnation, must, chat, left = changed
            shards.setdefault(shard_of(room, self._options.shards), []).append((room, incarnation, must, chat))
            changed[3] = left - 1
            if left <= 1:
                del self._changed[room]
        for shard, rooms in shards.items():
            for first in range(0, len(rooms), BEAT_ROOMS):
                await self._link.tell(heads(shard), msgpack.packb(rooms[first : first + BEAT_ROOMS]))

    async def _hear(self) -> None:
        wanted = {heads(own.places.shard) for own in self._following.values()}
        heard = self._link.hears(self._told)
        for subject in heard - wanted:
            await self._link.unhear(subject, self._told)
        for subject in wanted - heard:
            await self._link.hear(subject, self._told)

    def _told(self, msg: Msg) -> None:
        try:
            for room, incarnation, *numbers in msgpack.unpackb(msg.data):
                own = self._following.get(room)
                if own is not None and any(own.told(incarnation, lane, numbers[lane]) for lane in LANES):
                    asyncio.get_running_loop().call_later(GRACE_S, self._check, own, incarnation, *numbers)
        except (ValueError, TypeError, IndexError) as bad:
            log.error("what came on %s is no list of heads (%s)", msg.subject, bad)

    def _check(self, own: Following, incarnation: int, *numbers: int) -> None:
        if any(own.told(incarnation, lane, numbers[lane]) for lane in LANES):
            self._suspect(own)
