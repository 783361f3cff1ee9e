# What moderators set: modes, pins, lists, bans. All of it is kept by the broker before it is answered. It owns nothing.
# It must never act without a line in the trail, which comes first: what fails half way can be asked for again.
from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from edge import wire
from edge.auth import Identity
from edge.cabinet import Cabinet
from edge.errors import EdgeError
from edge.ingest import modes
from edge.ingest.patterns import Pattern
from edge.ingest.words import Entry
from edge.moderation.news import News
from edge.moderation.retraction import Retraction
from edge.moderation.rules import (
    BANS,
    MODES,
    PATTERNS,
    PINS,
    WORDS,
    Ban,
    ban_key,
    ended,
    patterns_of,
    rule_key,
    words_of,
)
from edge.moderation.trail import Trail

BAN_MOST_S = 10 * 365 * 24 * 3600


class _Ban(msgspec.Struct, forbid_unknown_fields=True):
    seconds: Annotated[float, msgspec.Meta(gt=0, le=BAN_MOST_S)] | None = None
    shadow: bool = False


class _Pin(msgspec.Struct, forbid_unknown_fields=True):
    id: wire.Id


class Desk:
    def __init__(self, cabinet: Cabinet, trail: Trail, news: News, retraction: Retraction) -> None:
        self._cabinet = cabinet
        self._trail = trail
        self._news = news
        self._retraction = retraction

    async def set_mode(self, who: Identity, room: str, body: bytes, now: float) -> wire.Message:
        mode = msgspec.to_builtins(asked := modes.decode(body))
        await self._trail.note(who.user, room, now, "mode", mode)
        await self._cabinet.keep(rule_key(MODES, room), None if asked == modes.OPEN else msgspec.json.encode(asked))
        return await self._news.tell(room, MODES)

    async def pin(self, who: Identity, room: str, body: bytes, now: float) -> wire.Message:
        """A comment that the room's log shows, as it is there; in the place of the one before. The log shows what was
        retracted still."""
        id_ = wire.decoded(_pin, body).id
        comment = await self._retraction.comment(room, id_)
        if comment is None or await self._retraction.is_gone(room, id_):
            raise EdgeError("unknown_comment")
        await self._trail.note(who.user, room, now, "pin", {"id": id_})
        await self._cabinet.keep(rule_key(PINS, room), msgspec.json.encode(comment))
        return await self._news.tell(room, PINS)

    async def unpin(self, who: Identity, room: str, now: float) -> wire.Message:
        await self._trail.note(who.user, room, now, "unpin", {})
        await self._cabinet.keep(rule_key(PINS, room), None)
        return await self._news.tell(room, PINS)

    async def lists(self, kind: str, room: str) -> wire.Message:
        kept = await self._cabinet.find(rule_key(f"{kind}.", room))
        if kept is None:
            return {kind: []}
        wanted: Any = list[Entry] if kind == "words" else list[Pattern]
        return {kind: [msgspec.structs.asdict(entry) for entry in msgspec.json.decode(kept.value, type=wanted)]}

    async def set_words(self, who: Identity, room: str, body: bytes, now: float) -> wire.Message:
        return await self._set_list(who, room, "words", WORDS, wire.decoded(_words, body, "bad_words"), words_of, now)

    async def set_patterns(self, who: Identity, room: str, body: bytes, now: float) -> wire.Message:
        found = wire.decoded(_patterns, body, "bad_pattern")
        return await self._set_list(who, room, "patterns", PATTERNS, found, patterns_of, now)

    async def _set_list(
        self, who: Identity, room: str, name: str, prefix: str, entries: Any, check: Callable[[bytes], Any], now: float
    ) -> wire.Message:
        value = msgspec.json.encode(entries)
        check(value)  # raises what is wrong with it, by name
        await self._trail.note(who.user, room, now, name, {"entries": len(entries)})
        await self._cabinet.keep(rule_key(prefix, room), value if entries else None)
        return {name: [msgspec.structs.asdict(entry) for entry in entries]}

    async def ban(self, who: Identity, room: str, user: str, body: bytes, now: float) -> wire.Message:
        asked = wire.decoded(_ban, body or b"{}")
        ban = Ban(user, None if asked.seconds is None else now + asked.seconds, asked.shadow)
        told = msgspec.to_builtins(ban)
        await self._trail.note(who.user, room, now, "ban", told)
        await self._cabinet.keep(
            ban_key(room, user), msgspec.json.encode(ban)
        )  # it holds, whatever becomes of the rest
        if ban.out and room != wire.EVERYWHERE:
            await self._retraction.go(room, await self._retraction.said_by(room, user))
        await self._cabinet.sweep(f"{BANS}{room}.", lambda kept: ended(kept, now))
        return dict(told)

    async def bans(self, room: str, now: float) -> wire.Message:
        found = [msgspec.json.decode(it.value, type=Ban) for it in await self._cabinet.all(f"{BANS}{room}.")]
        return {"bans": [msgspec.to_builtins(ban) for ban in found if ban.holds(now)]}

    async def unban(self, who: Identity, room: str, user: str, now: float) -> wire.Message:
        key = ban_key(room, user)
        if await self._cabinet.find(key) is None:
            raise EdgeError("not_found", "this user is not banned here")
        await self._trail.note(who.user, room, now, "unban", {"user": user})
        await self._cabinet.keep(key, None)
        return {"user": user}


_pin = msgspec.json.Decoder(_Pin).decode
_ban = msgspec.json.Decoder(_Ban).decode
_words = msgspec.json.Decoder(list[Entry]).decode
_patterns = msgspec.json.Decoder(list[Pattern]).decode
