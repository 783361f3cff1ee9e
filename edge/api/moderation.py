# The routes of moderators: modes, pins, lists, bans, the queue, the trail. It owns nothing, and must never let anybody
# in who has not the scope for it: `moderate` for a room, `admin` for all of them.
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
from aiohttp import web

from edge import wire
from edge.api.answers import answer
from edge.auth import Identity, check_name
from edge.errors import EdgeError

LIMIT = 50
LIMIT_MOST = 500

Speaker = Callable[[web.Request], Identity]
LIST_BYTES = 1 << 20
"""The largest body that sets a list."""


class Body(Protocol):
    async def __call__(self, request: web.Request, most: int = ..., /) -> bytes: ...


class Desk(Protocol):
    """What moderators set. Each call may raise an EdgeError, which becomes the answer."""

    async def set_mode(self, who: Identity, room: str, body: bytes, now: float) -> wire.Message: ...
    async def pin(self, who: Identity, room: str, body: bytes, now: float) -> wire.Message: ...
    async def unpin(self, who: Identity, room: str, now: float) -> wire.Message: ...
    async def lists(self, kind: str, room: str) -> wire.Message: ...
    async def set_words(self, who: Identity, room: str, body: bytes, now: float) -> wire.Message: ...
    async def set_patterns(self, who: Identity, room: str, body: bytes, now: float) -> wire.Message: ...
    async def bans(self, room: str, now: float) -> wire.Message: ...
    async def ban(self, who: Identity, room: str, user: str, body: bytes, now: float) -> wire.Message: ...
    async def unban(self, who: Identity, room: str, user: str, now: float) -> wire.Message: ...


class Review(Protocol):
    """What they decide about single comments."""

    async def delete(self, who: Identity, room: str, id_: str, now: float) -> wire.Message: ...
    async def queue(self, room: str, limit: int) -> wire.Message: ...
    async def decide(self, who: Identity, room: str, id_: str, approve: bool, now: float) -> wire.Message: ...
    async def verdicts(self, room: str) -> bytes: ...


class Trail(Protocol):
    async def lines(self, room: str, limit: int) -> wire.Message: ...


class Office(Protocol):
    @property
    def desk(self) -> Desk: ...
    @property
    def review(self) -> Review: ...
    @property
    def trail(self) -> Trail: ...


class _Decision(msgspec.Struct, forbid_unknown_fields=True):
    approve: bool


_decision = msgspec.json.Decoder(_Decision).decode


class Moderation:
    def __init__(self, office: Office, speaker: Speaker, body: Body) -> None:
        self._desk = office.desk
        self._review = office.review
        self._trail = office.trail
        self._speaker = speaker
        self._body = body

    def routes(self, router: web.UrlDispatcher) -> None:
        for room in ("/v1/rooms/{room}", "/v1"):
            router.add_get(f"{room}/words", self._list("words"))
            router.add_put(f"{room}/words", self.set_words)
            router.add_get(f"{room}/bans", self.bans)
            router.add_put(f"{room}/bans/{{user}}", self.ban)
            router.add_delete(f"{room}/bans/{{user}}", self.unban)
            router.add_get(f"{room}/audit", self.trail)
        room = "/v1/rooms/{room}"
        router.add_delete(f"{room}/comments/{{id}}", self.delete)
        router.add_put(f"{room}/mode", self.set_mode)
        router.add_put(f"{room}/pin", self.pin)
        router.add_delete(f"{room}/pin", self.unpin)
        router.add_get(f"{room}/patterns", self._list("patterns"))
        router.add_put(f"{room}/patterns", self.set_patterns)
        router.add_get(f"{room}/review", self.queue)
        router.add_post(f"{room}/review/{{id}}", self.decide)
        router.add_get(f"{room}/verdicts", self.verdicts)

    def _who(self, request: web.Request) -> tuple[Identity, str]:
        """The moderator, and the room, or wire.EVERYWHERE."""
        identity = self._speaker(request)
        room = request.match_info.get("room")
        if room is None:
            if "admin" not in identity.scopes or identity.rooms is not None:
                raise EdgeError("forbidden", "this needs the scope admin, for all rooms")
            return identity, wire.EVERYWHERE
        identity.check("moderate", wire.check_room(room))
        return identity, room

    async def set_mode(self, request: web.Request) -> web.Response:
        who, room = self._who(request)
        return answer(await self._desk.set_mode(who, room, await self._body(request), time.time()))

    async def pin(self, request: web.Request) -> web.Response:
        who, room = self._who(request)
        return answer(await self._desk.pin(who, room, await self._body(request), time.time()))

    async def unpin(self, request: web.Request) -> web.Response:
        who, room = self._who(request)
        return answer(await self._desk.unpin(who, room, time.time()))

    def _list(self, kind: str) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def get(request: web.Request) -> web.Response:
            _, room = self._who(request)
            return answer(await self._desk.lists(kind, room))

        return get

    async def set_words(self, request: web.Request) -> web.Response:
        who, room = self._who(request)
        return answer(await self._desk.set_words(who, room, await self._body(request, LIST_BYTES), time.time()))

    async def set_patterns(self, request: web.Request) -> web.Response:
        who, room = self._who(request)
        return answer(await self._desk.set_patterns(who, room, await self._body(request, LIST_BYTES), time.time()))

    async def bans(self, request: web.Request) -> web.Response:
        _, room = self._who(request)
        return answer(await self._desk.bans(room, time.time()))

    async def ban(self, request: web.Request) -> web.Response:
        who, room = self._who(request)
        body = await self._body(request)
        return answer(await self._desk.ban(who, room, _user(request), body, time.time()))

    async def unban(self, request: web.Request) -> web.Response:
        who, room = self._who(request)
        return answer(await self._desk.unban(who, room, _user(request), time.time()))

    async def delete(self, request: web.Request) -> web.Response:
        who, room = self._speaker(request), wire.check_room(request.match_info["room"])
        try:
            who.check("moderate", room)
        except EdgeError:
            who.check("comment", room)  # then it is the author, or nobody
        id_ = request.match_info["id"]
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", id_):
            raise EdgeError("not_found", "there is no such comment")
        return answer(await self._review.delete(who, room, id_, time.time()))

    async def queue(self, request: web.Request) -> web.Response:
        _, room = self._who(request)
        return answer(await self._review.queue(room, _limit(request)))

    async def decide(self, request: web.Request) -> web.Response:
        who, room = self._who(request)
        decision = wire.decoded(_decision, await self._body(request))
        return answer(await self._review.decide(who, room, request.match_info["id"], decision.approve, time.time()))

    async def verdicts(self, request: web.Request) -> web.Response:
        _, room = self._who(request)
        return web.Response(body=await self._review.verdicts(room), content_type="application/x-ndjson")

    async def trail(self, request: web.Request) -> web.Response:
        _, room = self._who(request)
        return answer(await self._trail.lines(room, _limit(request)))


def _user(request: web.Request) -> str:
    try:
        return check_name(request.match_info["user"], "user")
    except EdgeError as bad:
        raise EdgeError("bad_request", bad.message) from None


def _limit(request: web.Request) -> int:
    text: Any = request.query.get("limit", str(LIMIT))
    if not text.isascii() or not text.isdigit() or len(text) > len(str(LIMIT_MOST)) or not 0 < int(text) <= LIMIT_MOST:
        raise EdgeError("bad_request", f"limit: a number from 1 to {LIMIT_MOST}")
    return int(text)
