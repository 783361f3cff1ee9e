# A sudden crowd, on one target or of new accounts, as some worker has seen it: every worker tells the moderators who
# are connected there, and where it is set so the room is for subscribers alone as long as it lasts. It owns the alarms
# that this worker has raised, and who moderates here. It must never turn anything on that does not go off by itself.
import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec

from broker.base import Broker
from edge import wire
from edge.errors import EdgeError
from edge.ingest.crowd import Alarm
from edge.ingest.pipeline import Pipeline
from edge.moderation.news import Announce
from edge.moderation.trail import ITSELF, Trail

log = logging.getLogger("edge.moderation")

ALARM = "alarm"
AGAIN_S = 10.0
GUARD_S = 30.0
"""For so long a room stays guarded without a word: a worker that raised an alarm may be gone."""
LISTENING = 100
"""Sockets of moderators that are told, for each room."""


class _Alarm(msgspec.Struct, array_like=True):
    room: str
    kind: str
    target: str
    on: bool
    again: bool = False


class Alarms:
    """`reply` says something on a socket, False where that has gone; `spawn` starts a task. With `guard`, rooms are
    guarded."""

    def __init__(
        self,
        broker: Broker,
        pipeline: Pipeline,
        trail: Trail,
        announce: Announce,
        reply: Callable[[int, wire.Message], bool],
        spawn: Callable[[Any], Any],
        guard: bool,
    ) -> None:
        self._broker = broker
        self._pipeline = pipeline
        self._trail = trail
        self._announce = announce
        self._reply = reply
        self._spawn = spawn
        self._guard = guard
        self._raised: dict[tuple[str, str, str], float] = {}  # ours that are on, and when they were told last
        self._guarding: set[str] = set()  # the rooms of which this worker says that they are guarded
        self._moderators: dict[str, set[int]] = {}

    async def start(self) -> None:
        await self._broker.hear(ALARM, self._heard)

    def listen(self, room: str, id_: int) -> None:
        """A moderator's socket."""
        sockets = self._moderators.setdefault(room, set())
        if len(sockets) < LISTENING:
            sockets.add(id_)

    def housekeep(self, known: Callable[[int], object]) -> None:
        """To be called once a second. `known` are the sockets that are still there."""
        now = time.monotonic()
        for (room, kind, target), told in list(self._raised.items()):
            if now - told >= AGAIN_S:
                self._raised[room, kind, target] = now
                self._tell(_Alarm(room, kind, target, True, again=True))
        for room, sockets in list(self._moderators.items()):
            sockets -= {id_ for id_ in sockets if known(id_) is None}
            if not sockets:
                del self._moderators[room]

    def happened(self, room: str, alarm: Alarm) -> None:
        """At this worker."""
        log.warning("room %s: %s", room, alarm)
        key = (room, alarm.kind, alarm.target)
        if alarm.on:
            self._raised[key] = time.monotonic()
            if self._guard and room not in self._guarding:
                self._guarding.add(room)
                mode = msgspec.structs.replace(self._pipeline.mode(room), subs_only=True)
                self.say(room, {"mode": msgspec.to_builtins(mode), "auto": True})
        else:
            self._raised.pop(key, None)
        self._tell(_Alarm(room, *alarm))
        about = {"kind": alarm.kind, "target": alarm.target, "on": alarm.on}
        self._spawn(self._quietly(self._trail.note(ITSELF, room, time.time(), "alarm", about)))

    def unguarded(self, room: str, mode: dict[str, Any]) -> None:
        """It is over; who has said that it began says so."""
        if room in self._guarding:
            self._guarding.discard(room)
            self.say(room, {"mode": mode, "auto": False})

    def say(self, room: str, fields: dict[str, Any]) -> None:
        """To all in the room; nobody waits for how that goes."""
        self._spawn(self._quietly(self._announce(room, fields)))

    def _tell(self, alarm: _Alarm) -> None:
        self._spawn(self._broker.emit(ALARM, msgspec.msgpack.encode(alarm)))

    async def _quietly(self, work: Any) -> None:
        try:
            await work
        except EdgeError as error:
            log.warning("an alarm is not told: %s", error)

    def _heard(self, message: bytes) -> None:
        try:
            alarm = msgspec.msgpack.decode(message, type=_Alarm)
        except msgspec.DecodeError as bad:
            log.error("what came on %s is no alarm (%s)", ALARM, bad)
            return
        if alarm.on and self._guard:
            self._pipeline.guard(alarm.room, time.monotonic() + GUARD_S)
        if not alarm.again:
            told = {"t": "alarm", "kind": alarm.kind, "target": alarm.target, "on": alarm.on}
            for id_ in self._moderators.get(alarm.room, ()):
                self._reply(id_, told)
