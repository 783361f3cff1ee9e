# What publishers ask who have no token of ours but a login to the broker: a score or a comment, by request. They are
# the site's own programs, so they say who the author is. It owns nothing. It must never let an error out but by name.
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from edge import wire
from edge.auth import Identity, spoken_for
from edge.errors import EdgeError

log = logging.getLogger("edge.outside")

Comment = Callable[[Identity, str, wire.CommentBody], Awaitable[wire.Message]]
Score = Callable[[str, dict[str, Any]], Awaitable[str]]


class _Comment(wire.CommentBody, kw_only=True):
    u: wire.Author


_comment = msgspec.json.Decoder(_Comment).decode


class Outside:
    def __init__(self, comment: Comment, score: Score) -> None:
        self._comment = comment
        self._score = score

    async def score(self, room: str, body: bytes) -> bytes:
        """`{"id"}`, once it is stored; `body` is the event."""
        return await _told(self._scored(room, body))

    async def comment(self, room: str, body: bytes) -> bytes:
        """`{"id", "status"}`; `body` is a comment's, with its author `u`."""
        return await _told(self._commented(room, body))

    async def _scored(self, room: str, body: bytes) -> wire.Message:
        wire.check_room(room)
        return {"id": await self._score(room, wire.decode_event(body))}

    async def _commented(self, room: str, body: bytes) -> wire.Message:
        wire.check_room(room)
        said = wire.decoded(_comment, body)
        said.x = wire.clean_text(said.x)
        ack = await self._comment(spoken_for(said.u), room, said)
        return {key: value for key, value in ack.items() if key != "t"}


async def _told(work: Awaitable[wire.Message]) -> bytes:
    try:
        return msgspec.json.encode(await work)
    except EdgeError as error:
        return msgspec.json.encode(error.body())
    except Exception:
        log.exception("a request from outside")
        return msgspec.json.encode(EdgeError("internal").body())
