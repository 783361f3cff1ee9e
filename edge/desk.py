# What moderators do: modes, lists, bans, the queue of what waits for them, and the trail of who did what when. All of
# it is kept by the broker before it is answered. It owns nothing. It must never act without a line in the trail.
import contextlib
import json
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec

from broker.base import CHAT, Broker, BrokerError, Gone, Kept, Unsettled
from edge import wire
from edge.auth import Identity
from edge.errors import EdgeError
from edge.ingest import modes
from edge.ingest.patterns import Pattern
from edge.ingest.words import Entry
from edge.rules import BANS, GONE, MODES, PATTERNS, WORDS, Ban, ban_key, patterns_of, rule_key, words_of

PENDING, AUDIT = "pending.", "audit."
RETRACTED = 1_000
"""Comments of a room that are known to be retracted, the last ones: as many as clients remember."""
TRAIL = 1_000
"""Lines of a room's trail that are kept: past it the oldest go."""
GO_TRIES = 16
QUEUE = 10_000
"""Comments of a room that wait: past it the next one is refused."""
BAN_MOST_S = 10 * 365 * 24 * 3600

Announce = Callable[[str, dict[str, Any]], Awaitable[str]]
"""Puts a state on a room's `must` lane, for all to see."""
Retract = Callable[[str, list[str]], Awaitable[str]]
"""Puts the word that comments are gone on a room's `must` lane."""
Publish = Callable[[str, wire.Message], Awaitable[str]]
"""Offers a comment; what became of it."""
Tell = Callable[[str, wire.Message], Awaitable[None]]
"""Says something to all sockets of one user, on every box."""


class _Ban(msgspec.Struct, forbid_unknown_fields=True):
    seconds: Annotated[float, msgspec.Meta(gt=0, le=BAN_MOST_S)] | None = None
    shadow: bool = False


class _Author(msgspec.Struct):
    id: str


class _Said(msgspec.Struct):
    id: str
    u: _Author


class _Batch(msgspec.Struct):
    m: list[_Said] = []


_batch = msgspec.msgpack.Decoder(_Batch).decode


class Waiting(msgspec.Struct):
    """A comment in the queue. `reasons` are for moderators alone."""

    room: str
    user: str
    reasons: tuple[str, ...]
    comment: dict[str, Any]


class Desk:
    def __init__(self, broker: Broker, announce: Announce, retract: Retract, publish: Publish, tell: Tell) -> None:
        self._broker = broker
        self._announce = announce
        self._retract = retract
        self._publish = publish
        self._tell = tell
        self._waiting: dict[str, set[str]] = {}  # the keys of each room's queue, so that it can be bounded

    async def start(self) -> None:
        """Raises Unavailable; may be called again then."""
        await self._broker.unwatch(PENDING)
        self._waiting.clear()
        for kept in await self._broker.watch(PENDING, self._changed):
            self._changed(kept)

    def _changed(self, change: Kept | Gone) -> None:
        room = change.key.split(".")[1]
        if isinstance(change, Kept):
            self._waiting.setdefault(room, set()).add(change.key)
        elif (keys := self._waiting.get(room)) is not None:
            keys.discard(change.key)
            if not keys:
                del self._waiting[room]

    async def set_mode(self, who: Identity, room: str, body: bytes, now: float) -> wire.Message:
        mode = msgspec.to_builtins(modes.decode(body))
        await self._keep(rule_key(MODES, room), json.dumps(mode).encode())
        await self._note(who, room, now, "mode", mode)
        await self._announce(room, {"mode": mode})
        return {"mode": mode}

    async def lists(self, kind: str, room: str) -> wire.Message:
        kept = await self._find(rule_key(f"{kind}.", room))
        return {kind: [] if kept is None else json.loads(kept.value)}

    async def set_words(self, who: Identity, room: str, body: bytes, now: float) -> wire.Message:
        return await self._set_list(who, room, "words", WORDS, _decoded(body, list[Entry], "bad_words"), words_of, now)

    async def set_patterns(self, who: Identity, room: str, body: bytes, now: float) -> wire.Message:
        found = _decoded(body, list[Pattern], "bad_pattern")
        return await self._set_list(who, room, "patterns", PATTERNS, found, patterns_of, now)

    async def _set_list(
        self, who: Identity, room: str, name: str, prefix: str, entries: Any, check: Callable[[bytes], Any], now: float
    ) -> wire.Message:
        value = msgspec.json.encode(entries)
        check(value)  # raises what is wrong with it, by name
        await self._keep(rule_key(prefix, room), value if entries else None)
        await self._note(who, room, now, name, {"entries": len(entries)})
        return {name: msgspec.to_builtins(entries)}

    async def ban(self, who: Identity, room: str, user: str, body: bytes, now: float) -> wire.Message:
        asked = _decoded(body or b"{}", _Ban, "bad_json")
        ban = Ban(user, None if asked.seconds is None else now + asked.seconds, asked.shadow)
        told = msgspec.to_builtins(ban)
        await self._keep(ban_key(room, user), msgspec.json.encode(ban))
        if not ban.shadow and ban.until is None and room != wire.EVERYWHERE and (ids := await self._said(room, user)):
            await self._go(room, ids)
        await self._note(who, room, now, "ban", told)
        return dict(told)

    async def bans(self, room: str, now: float) -> wire.Message:
        found = [msgspec.json.decode(it.value, type=Ban) for it in await self._all(f"{BANS}{room}.")]
        return {"bans": [msgspec.to_builtins(ban) for ban in found if ban.holds(now)]}

    async def unban(self, who: Identity, room: str, user: str, now: float) -> wire.Message:
        key = ban_key(room, user)
        if await self._find(key) is None:
            raise EdgeError("not_found", "this user is not banned here")
        await self._keep(key, None)
        await self._note(who, room, now, "unban", {"user": user})
        return {"user": user}

    # What was said.

    async def delete(self, who: Identity, room: str, id_: str, now: float) -> wire.Message:
        """By a moderator of the room, or by its author, as far as the log still shows who that was."""
        if "moderate" not in who.scopes and id_ not in await self._said(room, who.user):
            raise EdgeError("forbidden", "this is not a comment of yours that can still be deleted")
        await self._go(room, [id_])
        await self._note(who, room, now, "delete", {"id": id_})
        return {"id": id_}

    async def _go(self, room: str, ids: list[str]) -> None:
        """Kept first: from then on nobody who comes is shown them, on any box. Then those who are here are told."""
        key = rule_key(GONE, room)
        for _ in range(GO_TRIES):
            kept = await self._find(key)
            gone = [] if kept is None else msgspec.json.decode(kept.value, type=list[str])
            fresh = [id_ for id_ in ids if id_ not in set(gone)]
            value = msgspec.json.encode([*gone, *fresh][-RETRACTED:])
            if not fresh or await self._keep(key, value, 0 if kept is None else kept.revision):
                break
        else:
            raise EdgeError("unavailable", "many are being deleted just now", retry_after=1)
        await self._retract(room, ids)

    async def _said(self, room: str, user: str) -> list[str]:
        """The comments of a user that the room's log shows."""
        try:
            entries = await self._broker.tail(room, CHAT, 0)
        except BrokerError:
            raise EdgeError("unavailable", retry_after=1) from None
        found = []
        for _, data in entries:
            with contextlib.suppress(msgspec.DecodeError):
                found += [it.id for it in _batch(data).m if it.u.id == user]
        return found

    # The queue.

    async def hold(self, waiting: Waiting) -> str:
        """Keeps a comment for a moderator; what its author is told."""
        if len(self._waiting.get(waiting.room, ())) >= QUEUE:
            return "rejected"
        key = _pending_key(waiting.room, waiting.comment["id"])
        try:
            await self._broker.keep(key, msgspec.json.encode(waiting), None)
        except Unsettled:
            return "unknown"
        except (BrokerError, ValueError):
            return "rejected"
        return "pending"

    async def queue(self, room: str, limit: int) -> wire.Message:
        kept = await self._all(f"{PENDING}{room}.")
        found = [msgspec.json.decode(it.value, type=Waiting) for it in sorted(kept, key=lambda it: it.revision)]
        shown = [{"comment": it.comment, "user": it.user, "reasons": list(it.reasons)} for it in found[:limit]]
        return {"waiting": len(found), "comments": shown}

    async def decide(self, who: Identity | None, room: str, id_: str, approve: bool, now: float) -> wire.Message:
        """By a moderator; or by the classifier (None), of whom the trail says nothing: it would say nothing else."""
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", id_):
            raise EdgeError("not_found", "this comment does not wait")
        kept = await self._find(_pending_key(room, id_))
        if kept is None:
            raise EdgeError("not_found", "this comment does not wait")
        waiting = msgspec.json.decode(kept.value, type=Waiting)
        status = await self._publish(room, waiting.comment) if approve else "rejected"
        if approve and status != "published":  # it stays in the queue: offered twice it is one comment all the same
            raise EdgeError("unavailable", "it could not be published just now", retry_after=1)
        await self._keep(kept.key, None)
        if who is not None:
            await self._note(who, room, now, "approve" if approve else "reject", {"id": id_, "user": waiting.user})
        error = None if approve else EdgeError("moderated")
        await self._tell(waiting.user, wire.ack(None, id_, status, error))
        return {"id": id_, "status": status}

    # The trail.

    async def trail(self, room: str, limit: int) -> wire.Message:
        kept = sorted(await self._all(f"{AUDIT}{room}."), key=lambda it: it.key, reverse=True)
        return {"audit": [json.loads(it.value) for it in kept[:limit]]}

    async def _note(self, who: Identity, room: str, now: float, what: str, about: Any) -> None:
        line = {"ts": int(now * 1000), "who": who.user, "room": room, "what": what, "about": about}
        key = f"{AUDIT}{room}.{int(now * 1e9):016x}{secrets.token_hex(3)}"
        await self._keep(key, json.dumps(line).encode())
        if secrets.randbelow(64) == 0:  # now and then is enough
            kept = sorted(await self._all(f"{AUDIT}{room}."), key=lambda it: it.key)
            for old in kept[: max(0, len(kept) - TRAIL)]:
                await self._keep(old.key, None)

    async def _keep(self, key: str, value: bytes | None, revision: int | None = None) -> int:
        try:
            return await self._broker.keep(key, value, revision)
        except Unsettled:
            raise EdgeError("unavailable", "it is not known whether this was stored", retry_after=1) from None
        except BrokerError:
            raise EdgeError("unavailable", retry_after=1) from None
        except ValueError as bad:
            raise EdgeError("too_large", str(bad)) from None

    async def _find(self, key: str) -> Kept | None:
        prefix = key.rpartition(".")[0] + "."
        return next((it for it in await self._all(prefix) if it.key == key), None)

    async def _all(self, prefix: str) -> list[Kept]:
        try:
            return await self._broker.kept(prefix)
        except BrokerError:
            raise EdgeError("unavailable", retry_after=1) from None


def _pending_key(room: str, id_: str) -> str:
    return f"{PENDING}{room}.{id_}.c"


def _decoded(body: bytes, kind: Any, problem: str) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as bad:
        raise EdgeError(problem, str(bad)) from None
    except (ValueError, RecursionError) as bad:
        raise EdgeError("bad_json", wire.malformed(bad)) from None
