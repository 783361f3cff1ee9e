# A reaction's way to its room's owner: who may, and whether it is one; then it is a number among others, and the sums
# are told ten times a second. It owns what has not been told. Reactions are approximate: what is lost on that way, with
# this worker or while a shard has no owner, is lost. It must never keep more of one than its count, nor do anything
# while nobody reacts.
import asyncio
import contextlib
import time
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from broker.base import Broker, BrokerError
from edge.auth import Identity
from edge.errors import EdgeError
from edge.ingest.pipeline import Pipeline
from edge.moderation.rules import Rules
from edge.rooms.reactions import Sums

EVERY_S = 0.1
ROOMS = 256  # in one message
WAITING = 10_000
"""Rooms with reactions that have not been told. Past it those in other rooms are refused."""


class Reactions:
    """`kinds` are taken, and no others. `spawn` starts a task."""

    def __init__(
        self,
        broker: Broker,
        pipeline: Pipeline,
        rules: Rules,
        kinds: Collection[str],
        spawn: Callable[[Any], asyncio.Task[Any]],
    ) -> None:
        self._broker = broker
        self._pipeline = pipeline
        self._rules = rules
        self._kinds = frozenset(kinds)
        self._spawn = spawn
        self._sums: dict[str, dict[str, int]] = {}  # by room and kind
        self._telling = False
        self.taken = 0
        self.refused = 0

    def take(self, identity: Identity, room: str, kind: str) -> None:
        """Counts it, unless an EdgeError says why not. Of one who is shadowed nothing is counted, nor told."""
        try:
            counts = self._check(identity, room, kind)
        except EdgeError:
            self.refused += 1
            raise
        if counts:
            self._count(room, kind)

    def _check(self, identity: Identity, room: str, kind: str) -> bool:
        if kind not in self._kinds:
            raise EdgeError("bad_reaction")
        now = time.time()
        ban = self._rules.ban(room, identity.user, now)
        if ban is not None and not ban.shadow:
            raise ban.refusal(now)
        refusal = self._pipeline.limits.react(identity.user, time.monotonic())
        if refusal is not None:
            raise refusal.error()
        if self._rules.mode(room).closed and not identity.moderates:
            raise EdgeError("room_closed")
        if not self._broker.connected:
            raise EdgeError("unavailable", retry_after=1)
        if len(self._sums) >= WAITING and room not in self._sums:
            raise EdgeError("overloaded", retry_after=1)
        return ban is None

    def _count(self, room: str, kind: str) -> None:
        self.taken += 1
        sums = self._sums.setdefault(room, {})
        sums[kind] = sums.get(kind, 0) + 1
        if not self._telling:
            self._telling = True
            self._spawn(self._tell_on())

    async def _tell_on(self) -> None:
        try:
            while self._sums:
                await asyncio.sleep(EVERY_S)
                await self.tell()
        finally:
            self._telling = False

    async def tell(self) -> None:
        """What has come in so far."""
        found, self._sums = self._sums, {}
        shards: dict[int, list[tuple[str, dict[str, int]]]] = {}
        for room, sums in found.items():
            shards.setdefault(self._broker.shard_of(room), []).append((room, sums))
        with contextlib.suppress(BrokerError):
            for shard, rooms in shards.items():
                for first in range(0, len(rooms), ROOMS):
                    message = msgspec.msgpack.encode(Sums(rooms[first : first + ROOMS]))
                    await self._broker.emit(f"react.{shard}", message)
