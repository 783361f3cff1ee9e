# What turns itself on in a room, and off again: alarms of a sudden crowd, subscribers alone where that is set, slow
# mode. Who writes the room says so, to moderators or to all. Every worker knows what is on; of what nobody has said a
# word for a while the room's writer says that it is over, whoever had said that it began. It owns what is on, and who
# moderates here. It must never turn anything on that does not go off by itself.
import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec

from broker.base import Broker
from edge import wire
from edge.errors import EdgeError
from edge.ingest.pipeline import Pipeline
from edge.moderation.crowds import On, RoomCrowds
from edge.moderation.news import Announce
from edge.moderation.trail import ITSELF, Trail

log = logging.getLogger("edge.moderation")

ALARM = "alarm"
AGAIN_S = 10.0
QUIET_S = 40.0
"""For so long something stays on without a word: a worker that has raised it may be gone. The next one has the room by
then, and has heard of a crowd that goes on."""
FORGET_S = 300.0
"""For so long after that it is known that somebody has to say that it is over."""
KNOWN = 10_000
LISTENING = 100
"""Sockets of moderators that are told, for each room."""
ALARMS = ("target", "newcomers")
"""Moderators are told of these, and the trail has them. Of the others all in the room are told."""


class _Word(msgspec.Struct, array_like=True):
    it: On
    on: bool
    again: bool = False


class Alarms:
    """`reply` says something on a socket, False where that has gone; `spawn` starts a task; `writes` tells whether this
    worker writes a room. With `guard`, rooms are guarded."""

    def __init__(
        self,
        broker: Broker,
        pipeline: Pipeline,
        trail: Trail,
        announce: Announce,
        reply: Callable[[int, wire.Message], bool],
        spawn: Callable[[Any], Any],
        writes: Callable[[str], bool],
        guard: bool,
    ) -> None:
        self._broker = broker
        self._pipeline = pipeline
        self._trail = trail
        self._announce = announce
        self._reply = reply
        self._spawn = spawn
        self._writes = writes
        self._guard = guard
        self.crowds = RoomCrowds(broker, pipeline, writes, spawn)
        self._raised: dict[On, float] = {}  # what is on in the rooms written here, and when that is said again
        self._known: dict[On, float] = {}  # what is on anywhere, and until when without a further word
        self._remind_due = float("-inf")
        self._moderators: dict[str, set[int]] = {}

    async def start(self) -> None:
        await self._broker.hear(ALARM, self._heard)

    def listen(self, room: str, id_: int) -> None:
        """A moderator's socket."""
        sockets = self._moderators.setdefault(room, set())
        if len(sockets) < LISTENING:
            sockets.add(id_)

    def housekeep(self, known: Callable[[int], object], now: float) -> None:
        """To be called once a second. `known` are the sockets that are still there."""
        self._turn(self.crowds.turn(now), now)
        for room, sockets in list(self._moderators.items()):
            sockets -= {id_ for id_ in sockets if known(id_) is None}
            if not sockets:
                del self._moderators[room]

    def _turn(self, on: set[On], now: float) -> None:
        for it in [it for it in self._raised if it not in on]:
            del self._raised[it]
            if self._writes(it.room):
                self._end(it)
        for it in on:
            if it not in self._raised:
                self._raised[it] = now + AGAIN_S
                self._begin(it, now)
            elif now >= self._raised[it]:
                self._raised[it] = now + AGAIN_S
                self._learn(it, now)
                self._tell(_Word(it, True, again=True))
        for it in self.crowds.left():
            self._known.setdefault(it, now)
        left = [it for it, until in self._known.items() if now >= until and it not in self._raised]
        for it in left:
            if self._writes(it.room):
                self._end(it)
            elif now >= self._known[it] + FORGET_S:
                del self._known[it]
        if now >= self._remind_due:  # one that has not been here for long, and writes the room now, can't know of it
            self._remind_due = now + AGAIN_S
            self.crowds.remind(it for it in left if it in self._known)

    def _begin(self, it: On, now: float) -> None:
        """In a room written here. What is known to be on has been told, by who wrote it before."""
        told, guarded = it in self._known, On(it.room, "guard") in self._known
        self._learn(it, now)
        self._tell(_Word(it, True, again=told))
        if not told:
            self._say(it, True)
        if self._guard and it.kind in ALARMS and not guarded:
            self._say(On(it.room, "guard"), True)

    def _end(self, it: On) -> None:
        self._known.pop(it, None)
        self._tell(_Word(it, False))
        self._say(it, False)

    def _learn(self, it: On, now: float) -> None:
        until = now + QUIET_S
        if it in self._known or len(self._known) < KNOWN:
            self._known[it] = until
        if self._guard and it.kind in ALARMS:
            self._pipeline.guard(it.room, until)
            self._learn(On(it.room, "guard"), now)

    def _say(self, it: On, on: bool) -> None:
        """To all in the room, or into its trail; nobody waits for how that goes."""
        log.warning("room %s: %s is %s", it.room, f"{it.kind} {it.target}".rstrip(), "on" if on else "over")
        self._spawn(self._note(it, on) if it.kind in ALARMS else self._state(it, on))

    async def _note(self, it: On, on: bool) -> None:
        try:
            about = {"kind": it.kind, "target": it.target, "on": on}
            await self._trail.note(ITSELF, it.room, time.time(), "alarm", about)
        except EdgeError as error:
            log.warning("an alarm is not in the trail: %s", error)

    async def _state(self, it: On, on: bool) -> None:
        try:
            await self._announce(it.room, {"mode": msgspec.to_builtins(self._pipeline.mode(it.room)), "auto": on})
        except EdgeError as error:
            log.warning("room %s is not told: %s", it.room, error)
            if not on:
                self._known.setdefault(it, time.monotonic())  # once more in the next turn

    def _tell(self, word: _Word) -> None:
        self._spawn(self._broker.emit(ALARM, msgspec.msgpack.encode(word)))

    def _heard(self, message: bytes) -> None:
        try:
            word = msgspec.msgpack.decode(message, type=_Word)
        except msgspec.DecodeError as bad:
            log.error("what came on %s is no alarm (%s)", ALARM, bad)
            return
        it = word.it
        if word.on:
            self._learn(it, time.monotonic())
        else:
            self._known.pop(it, None)
        if it.kind in ALARMS and not word.again:
            told = {"t": "alarm", "kind": it.kind, "target": it.target, "on": word.on}
            for id_ in self._moderators.get(it.room, ()):
                self._reply(id_, told)
