# What one connection hears of the logs: each room that is followed by itself, or a shard's rooms all at once where many
# are. It owns the choice between the two and counts what came for nobody. It must never leave one way before the other
# is there and what came by the first has been given.

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from nats.aio.msg import Msg

from broker.nats_link import Down, Hearer, Link, Lost
from broker.subjects import Places, out_all

log = logging.getLogger("broker")

MANY = 64
"""Rooms of a shard; above it they are heard all at once. A node with viewers in 200 of 10,000 rooms would hear 53 % of
all traffic if it always did that, and a server with a subscription for each room of a busy shard would search long."""
FEW = 32
"""Below it each is heard by itself again."""

Spawn = Callable[[Coroutine[Any, Any, None]], None]


class _Shard:
    __slots__ = ("all", "rooms", "switching")

    def __init__(self) -> None:
        self.rooms: set[str] = set()  # the subjects of those that are followed
        self.all = False  # they are heard by the shard's wildcard
        self.switching = False


class Hearing:
    """One lane's. `spawn` runs what nobody waits for."""

    def __init__(self, link: Link, lane: int, spawn: Spawn) -> None:
        self.heard_bytes = 0
        self.unwanted_bytes = 0
        self.unwanted_messages = 0
        self._link = link
        self._lane = lane
        self._spawn = spawn
        self._hearers: dict[str, Hearer] = {}
        self._shards: dict[int, _Shard] = {}

    async def add(self, places: Places, hearer: Hearer) -> None:
        """From the return on, what the log takes is given to `hearer`. Down or Lost: not so."""
        if not self._link.connected:
            raise Down()
        subject = places.out(self._lane)
        shard = self._shards.setdefault(places.shard, _Shard())
        self._hearers[subject] = hearer
        shard.rooms.add(subject)
        try:
            if not shard.all:
                await self._link.hear(subject, self._heard)
        except BaseException:
            await self.drop(places, hearer)
            raise
        self._look(places.shard)

    async def drop(self, places: Places, hearer: Hearer) -> None:
        """Never fails; does nothing where another is given it since."""
        subject = places.out(self._lane)
        if self._hearers.get(subject) is not hearer:
            return
        del self._hearers[subject]
        shard = self._shards[places.shard]
        shard.rooms.discard(subject)
        if not shard.rooms and not shard.switching:
            del self._shards[places.shard]
            if shard.all:
                await self._link.unhear(out_all(places.shard, self._lane), self._heard)
        self._look(places.shard)
        await self._link.unhear(subject, self._heard)

    def came_up(self) -> None:
        """What could not be switched may be now."""
        for number in list(self._shards):
            self._look(number)

    def _look(self, number: int) -> None:
        shard = self._shards.get(number)
        if shard is not None and not shard.switching and _wants_all(shard) != shard.all:
            shard.switching = True
            self._spawn(self._switch(number, shard))

    async def _switch(self, number: int, shard: _Shard) -> None:
        try:
            while _wants_all(shard) != shard.all:
                await (self._to_rooms if shard.all else self._to_all)(number, shard)
        except (Down, Lost) as failed:
            log.debug("%s: shard %d is heard as before: %s", self._link.name, number, failed)
        finally:
            shard.switching = False
        if not shard.rooms and self._shards.get(number) is shard:
            del self._shards[number]
            if shard.all:
                await self._link.unhear(out_all(number, self._lane), self._heard)

    async def _to_all(self, number: int, shard: _Shard) -> None:
        await self._link.hear(out_all(number, self._lane), self._heard)
        shard.all = True
        await self._leave(shard.rooms)

    async def _to_rooms(self, number: int, shard: _Shard) -> None:
        """Those that are added meanwhile count on the wildcard, so it ends when none is left without."""
        link, wildcard = self._link, out_all(number, self._lane)
        try:
            while left := [subject for subject in shard.rooms if not link.is_heard(subject, self._heard)]:
                if _wants_all(shard):
                    await self._leave(shard.rooms)
                    return
                await link.hear_all(left, self._heard)
        except BaseException:
            for subject in list(shard.rooms):
                await link.unhear(subject, self._heard)
            raise
        shard.all = False
        try:
            await link.given([wildcard])
        finally:
            await link.unhear(wildcard, self._heard)

    async def _leave(self, subjects: set[str]) -> None:
        leaving = list(subjects)
        try:
            await self._link.given(leaving)
        finally:
            for subject in leaving:
                await self._link.unhear(subject, self._heard)

    def _heard(self, msg: Msg) -> None:
        size = len(msg.data)
        self.heard_bytes += size
        hearer = self._hearers.get(msg.subject)
        if hearer is None:
            self.unwanted_bytes += size
            self.unwanted_messages += 1
        else:
            hearer(msg)


def _wants_all(shard: _Shard) -> bool:
    return len(shard.rooms) > (FEW - 1 if shard.all else MANY)
