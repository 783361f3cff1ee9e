# What is decided about single comments: those that wait to be shown, and those that are shown and should be looked at.
# A moderator's decisions are kept as examples that a classifier can learn from, and count against who wrote what was
# removed. It owns the count of what waits, by watching. It must never tell an author that a comment waits before it is
# kept, nor do what two have decided, each otherwise: what is in the queue is claimed there before anything is done.
import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import takewhile
from typing import Any

import msgspec

from broker.base import BrokerError, Gone, Kept, Unsettled
from edge import wire
from edge.auth import Identity
from edge.cabinet import Cabinet
from edge.errors import EdgeError
from edge.moderation.retraction import Retraction
from edge.moderation.rules import STRIKES, forgiven, strike_key, struck
from edge.moderation.trail import Trail

log = logging.getLogger("edge.moderation")

PENDING, VERDICTS = "pending.", "verdicts."
MOST = 10_000
"""Comments of a room that wait: past it the next one is refused, or goes unmarked where it is shown already."""
MOST_VERDICTS = 10_000
FULL_S = 30.0
LOOKS_S = (0.0, 0.1, 0.4)
"""Before each look for a comment in the log."""

Publish = Callable[[str, wire.Message], Awaitable[str]]
"""Offers a comment; what became of it."""
Tell = Callable[[str, str, wire.Message], Awaitable[None]]
"""Says something about a room to all sockets of one user in it, on every box."""


class Waiting(msgspec.Struct, omit_defaults=True):
    """A comment that is, or may come, into the queue, at `revision`; 0 where it is not there. `reasons` are for
    moderators alone. With `shown`, everybody has it already. One that is `unlooked` the classifier is to look at.
    `approved` is what has been decided, where that is not done yet, and `by` whom; the classifier has no name."""

    room: str
    user: str
    reasons: tuple[str, ...]
    comment: dict[str, Any]
    shown: bool = False
    score: float | None = None
    unlooked: bool = False
    approved: bool | None = None
    by: str = ""
    revision: int = 0


class _Left(msgspec.Struct):
    unlooked: bool = False
    approved: bool | None = None


class Waits(dict[str, dict[str, int]]):
    """By room the keys of comments, each with the turn since which it waits, in the order of these."""

    def put(self, room: str, key: str, turn: int) -> None:
        self.setdefault(room, {})[key] = turn

    def drop(self, room: str, key: str) -> None:
        found = self.get(room)
        if found is not None and found.pop(key, None) is not None and not found:
            del self[room]

    def since(self, turn: int, writes: Callable[[str], bool], now: int) -> Iterator[str]:
        """Those that wait since then or longer; from `now` on they do so anew."""
        for room in filter(writes, list(self)):
            for key, _ in list(takewhile(lambda it: it[1] <= turn, self[room].items())):
                self.drop(room, key)
                self.put(room, key, now)
                yield key


class Review:
    def __init__(self, cabinet: Cabinet, trail: Trail, retraction: Retraction, publish: Publish, tell: Tell) -> None:
        self._cabinet = cabinet
        self._trail = trail
        self._retraction = retraction
        self._publish = publish
        self._tell = tell
        self._waiting: dict[str, set[str]] = {}  # the keys of each room's queue, so that it can be bounded
        self.turns = 0
        self.unlooked = Waits()  # that the classifier is to look at
        self.undone = Waits()  # of which has not been done what was decided
        self.unmarked = 0

    async def start(self) -> None:
        """Raises Unavailable; may be called again then."""
        broker = self._cabinet.broker
        await broker.unwatch(PENDING)
        self._waiting.clear()
        self.unlooked.clear()
        self.undone.clear()
        for kept in await broker.watch(PENDING, self._changed):
            self._changed(kept)

    def _changed(self, change: Kept | Gone) -> None:
        room = room_of(change.key)
        for waits in (self.unlooked, self.undone):
            waits.drop(room, change.key)
        if isinstance(change, Kept):
            self._waiting.setdefault(room, set()).add(change.key)
            try:
                it = _left(change.value)
            except msgspec.DecodeError as bad:
                log.error("what is kept as %s is no comment that waits: %s", change.key, bad)
                return
            if it.approved is not None:
                self.undone.put(room, change.key, self.turns)
            elif it.unlooked:
                self.unlooked.put(room, change.key, self.turns)
        elif (keys := self._waiting.get(room)) is not None:
            keys.discard(change.key)
            if not keys:
                del self._waiting[room]

    async def hold(self, waiting: Waiting) -> str:
        """Keeps a comment for a moderator; what its author is told. One that is there already, since it was sent again,
        stays as it is. Raises what its author is told where there is no room for it, or no broker."""
        key = _key(waiting)
        there = self._waiting.get(waiting.room, ())
        if key in there:
            return "pending"
        if len(there) >= MOST:
            raise EdgeError("overloaded", "too many comments wait for a moderator of this room", retry_after=FULL_S)
        try:
            waiting.revision = await self._cabinet.broker.keep(key, _encoded(waiting), 0)
        except Unsettled:
            return "unknown"
        except (BrokerError, ValueError):
            raise EdgeError("unavailable", retry_after=1) from None
        return "pending"

    async def mark(self, waiting: Waiting) -> None:
        """Into the queue, as it is now, or as it is now in there; for one that nobody waits for an answer about. What
        somebody has decided meanwhile stays."""
        if waiting.revision:
            waiting.revision = await self._cabinet.keep(_key(waiting), _encoded(waiting), waiting.revision)
            return
        try:
            if await self.hold(waiting) == "pending":
                return
        except EdgeError as error:
            log.debug("comment %s is not marked: %s", waiting.comment["id"], error)
        self.unmarked += 1

    async def claim(self, waiting: Waiting, approve: bool, by: str = "") -> bool:
        """Decides about it; False where somebody else has, or is at it."""
        waiting.approved, waiting.by = approve, by
        if waiting.revision:
            waiting.revision = await self._cabinet.keep(_key(waiting), _encoded(waiting), waiting.revision)
            return waiting.revision > 0
        return True

    async def find(self, key: str) -> Waiting | None:
        kept = await self._cabinet.find(key)
        return None if kept is None else _read(kept)

    async def queue(self, room: str, limit: int) -> wire.Message:
        kept = await self._cabinet.all(f"{PENDING}{room}.")
        found = [_read(it) for it in sorted(kept, key=lambda it: it.revision)]
        return {"waiting": len(found), "comments": [_told(it) for it in found[:limit]]}

    async def decide(self, who: Identity, room: str, id_: str, approve: bool, now: float) -> wire.Message:
        waiting = await self.find(_place(room, id_))
        if waiting is None:
            raise EdgeError("not_found", "this comment does not wait")
        if waiting.approved is None:
            if not await self.claim(waiting, approve, who.user):
                raise EdgeError("stale")
        elif waiting.approved is not approve or waiting.by != who.user:
            raise EdgeError("stale", "somebody else has decided about this comment")
        return {"id": id_, "status": await self.settle(waiting, now)}

    async def settle(self, waiting: Waiting, now: float) -> str:
        """What has been decided is noted and done, and its author told; the status. Where something on the way fails
        it can be done once more."""
        room, id_, approve = waiting.room, waiting.comment["id"], bool(waiting.approved)
        if waiting.by:
            about = {"id": id_, "user": waiting.user}
            await self._trail.note(waiting.by, room, now, "approve" if approve else "reject", about)
            await self._record(waiting.by, waiting, now, approve)
        status, error = "published", None
        if approve and not waiting.shown:
            await self._offer(waiting)
        elif not approve:
            status, error = "rejected", EdgeError("moderated")
            if waiting.shown:
                await self._retraction.go(room, [id_])
        if not (approve and waiting.shown):  # then its author has been told already
            await self._tell(room, waiting.user, wire.ack(None, id_, status, error))
        await self._unkeep(waiting)
        return status

    async def show(self, waiting: Waiting) -> None:
        """It is published, and stays in the queue: nobody has looked at it."""
        room, id_ = waiting.room, waiting.comment["id"]
        if await self.claim(waiting, True):
            await self._offer(waiting)
            waiting.shown, waiting.approved = True, None
            await self._tell(room, waiting.user, wire.ack(None, id_, "published"))
            await self.mark(waiting)

    async def _offer(self, waiting: Waiting) -> None:
        """Where that fails it stays in the queue: offered twice it is one comment all the same."""
        if await self._publish(waiting.room, waiting.comment) != "published":
            raise EdgeError("unavailable", "it could not be published just now", retry_after=1)

    def rooms(self) -> Iterable[str]:
        """In which something waits."""
        return self._waiting

    async def drop(self, room: str, user: str, now: float) -> None:
        """Nothing of this user's waits any more."""
        for kept in await self._cabinet.all(f"{PENDING}{room}."):
            waiting = _read(kept)
            if waiting.user == user and waiting.approved is None and await self.claim(waiting, False):
                await self.settle(waiting, now)

    async def hide(self, waiting: Waiting) -> None:
        """Its author is to believe that it is shown, and may send it again. From those who have it already it goes, its
        author among them."""
        room, id_ = waiting.room, waiting.comment["id"]
        if waiting.shown:
            await self._retraction.go(room, [id_])
        else:
            await self._retraction.hide(room, id_)
        if not waiting.shown:
            await self._tell(room, waiting.user, wire.ack(None, id_, "published"))
            await self._tell(room, waiting.user, wire.own(waiting.comment))
        await self._unkeep(waiting)

    async def _unkeep(self, waiting: Waiting) -> None:
        """Last: what is sent again until then is known by its place, and from then on by what its author was told."""
        if waiting.revision:
            await self._cabinet.keep(_key(waiting), None, waiting.revision)
            waiting.revision = 0

    async def delete(self, who: Identity, room: str, id_: str, now: float) -> wire.Message:
        """By a moderator of the room, or by its author, as far as the log still shows who that was, or the queue."""
        moderates = "moderate" in who.scopes
        waiting = await self.find(_place(room, id_))
        it = waiting or await self._said(room, id_, LOOKS_S[:1] if moderates else LOOKS_S)
        own = it is not None and it.user == who.user
        if not moderates and not own:
            raise EdgeError("forbidden", "this is not a comment of yours that can still be deleted")
        if waiting is not None and not await self.claim(waiting, False):
            raise EdgeError("stale")
        await self._trail.note(who.user, room, now, "delete", {"id": id_})
        await self._retraction.go(room, [id_])
        if it is not None and not own:
            await self._record(who.user, it, now, False)
        if waiting is not None:
            await self._tell(room, waiting.user, wire.ack(None, id_, "rejected", EdgeError("moderated")))
            await self._unkeep(waiting)
        return {"id": id_}

    async def _said(self, room: str, id_: str, looks_s: tuple[float, ...]) -> Waiting | None:
        """What the log shows of it: it may be on its way there still."""
        for look_s in looks_s:
            await asyncio.sleep(look_s)
            comment = await self._retraction.comment(room, id_)
            if comment is not None:
                return Waiting(room, comment["u"]["id"], (), comment)
        return None

    async def verdicts(self, room: str) -> bytes:
        """What moderators have decided here: NDJSON, the oldest first."""
        return b"".join(it.value + b"\n" for it in await self._cabinet.lines(f"{VERDICTS}{room}."))

    async def _record(self, by: str, it: Waiting, now: float, good: bool) -> None:
        """Once for each comment, however often that is decided: the last counts."""
        label, name = "good" if good else "bad", it.comment["id"]
        before = await self._cabinet.find(f"{VERDICTS}{it.room}.{name}")
        if before is not None and msgspec.json.decode(before.value)["label"] == label:
            return
        line = {"ts": int(now * 1000), "room": it.room, "id": name, "user": it.user, "x": it.comment["x"]}
        line |= {"label": label, "by": by, "reasons": it.reasons, "score": it.score}
        await self._cabinet.add(f"{VERDICTS}{it.room}.", name, line, MOST_VERDICTS)
        if not good:
            await self.strike(it.user, now)

    async def strike(self, user: str, now: float) -> None:
        """One of their comments has been removed."""
        await self._cabinet.change(strike_key(user), lambda before: struck(before, user, now))
        await self._cabinet.sweep(STRIKES, lambda kept: forgiven(kept, now))


def _told(it: Waiting) -> wire.Message:
    found = {"comment": it.comment, "user": it.user, "reasons": list(it.reasons), "shown": it.shown}
    return found if it.score is None else {**found, "score": it.score}


_left = msgspec.json.Decoder(_Left).decode


def _read(kept: Kept) -> Waiting:
    waiting = msgspec.json.decode(kept.value, type=Waiting)
    waiting.revision = kept.revision
    return waiting


def _encoded(waiting: Waiting) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(waiting, revision=0))


def _key(waiting: Waiting) -> str:
    return _place(waiting.room, waiting.comment["id"])


def _place(room: str, id_: str) -> str:
    return f"{PENDING}{room}.{id_}"


def room_of(key: str) -> str:
    return key.split(".")[1]
