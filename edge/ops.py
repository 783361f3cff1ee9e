# What a viewer asks on its socket: comments, reactions, visibility, a fresh token, a ping. It owns nothing. It must
# never answer a comment before its fate is known, nor let one viewer's message be another's trouble.
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import msgspec
import zstandard

from edge import wire
from edge.auth import LEEWAY_S, Identity, KeyComing
from edge.auth.turns import Turns
from edge.errors import EdgeError
from edge.offers import Done, ack
from edge.speaker import Speaker

log = logging.getLogger("edge.ops")

Meet = Callable[[Identity, str, bytes], Speaker]
"""Somebody who will speak in a room, from an address."""
Say = Callable[[Speaker, wire.CommentBody, str, Done], None]
"""Takes a comment with an id; what became of it is told later."""
React = Callable[[Identity, str, str], None]
"""Takes a reaction of that kind in a room."""


class Sockets(Protocol):
    """What is used of the engine. A reply is written in its next turn."""

    def reply(self, id_: int, message: dict[str, Any], /) -> bool: ...
    def ack(self, id_: int, ref: str, made: str, status: str, /) -> bool: ...
    def end(self, id_: int, code: int, reason: bytes, /) -> bool: ...
    def visible(self, id_: int, on: bool, /) -> bool: ...
    def room_of(self, id_: int, /) -> bytes | None: ...
    def claims(self, id_: int, /) -> bytes | None: ...
    def address(self, id_: int, /) -> bytes | None: ...
    def hold(self, id_: int, on: bool, /) -> None: ...
    def renew(self, id_: int, claims: bytes, expires: int, /) -> bool: ...


UNDER_WAY = 128
"""Comments of one socket whose fate is open. With more, it is not read until half of them have their acks."""


SPEAKERS = 4096
"""Sockets of which it is remembered who is on them. Past it all are looked up anew: 2 us each, and a system call."""


NOBODY: tuple[bytes, None] = b"", None
_identity = msgspec.msgpack.Decoder(Identity).decode


class Ops:
    def __init__(
        self,
        sockets: Sockets,
        binary: frozenset[int],
        inflated_bytes: int,
        identify: Callable[[str], Identity],
        turns: Turns,
        meet: Meet,
        say: Say,
        react: React,
        soon: Callable[[], None],
    ) -> None:
        self._sockets = sockets
        self._binary = binary
        self._inflated_bytes = inflated_bytes
        self._identify = identify
        self._turns = turns
        self._meet = meet
        self._say = say
        self._react = react
        self._soon = soon  # there is something to write: a turn is wanted
        self._unzstd = zstandard.ZstdDecompressor()
        self._speakers: dict[int, tuple[bytes, Speaker]] = {}  # and the claims that they came with
        self._under_way: dict[int, int] = {}  # only of sockets that have some
        self._proving: dict[int, int] = {}  # fresh tokens that wait for their turn, only of sockets that have some

    def take(self, id_: int, op: int, encoding: int, payload: bytes) -> None:
        """One WebSocket message, with its opcode, on a socket of that encoding."""
        binary = encoding in self._binary
        if (op == 2) != binary:
            self._sockets.end(id_, 1003, b"text for JSON, binary for MessagePack")
            return
        try:
            asked = wire.decode_op(self._unpacked(payload) if binary else payload, binary=binary)
            if isinstance(asked, wire.Comment):  # as most are
                self._comment(id_, asked)
            else:
                self._operate(id_, asked)
        except EdgeError as error:
            if error.problem.close == 1009:
                self._sockets.end(id_, 1009, error.message.encode())
            else:
                about = wire.ack(error.ref, None, "rejected", error) if error.ref else wire.error(error)
                self._sockets.reply(id_, about)
        except Exception:
            log.exception("a message could not be handled")
            self._sockets.reply(id_, wire.error(EdgeError("internal")))

    def _unpacked(self, payload: bytes) -> bytes:
        if payload[:4] != zstandard.FRAME_HEADER:  # as it is: no MessagePack map begins like that
            return payload
        try:
            if zstandard.frame_content_size(payload) > self._inflated_bytes:
                raise EdgeError("too_large")
            return self._unzstd.decompress(payload, self._inflated_bytes)
        except zstandard.ZstdError:
            raise EdgeError("bad_json", "not a zstd frame of a known, allowed size") from None

    def _operate(self, id_: int, op: wire.Visible | wire.Ping | wire.Auth | wire.React) -> None:
        if isinstance(op, wire.Visible):
            self._sockets.visible(id_, op.on)
        elif isinstance(op, wire.Ping):
            self._sockets.reply(id_, {"t": "pong"})
        elif isinstance(op, wire.Auth):
            self._auth(id_, op)
        else:
            speaker = self._speaker(id_, "react")
            self._react(speaker.identity, speaker.room, op.k)

    def _comment(self, id_: int, op: wire.Comment) -> None:
        made = ""  # its id

        def done(status: str | EdgeError) -> None:
            self._settled(id_)
            if status == "published" and op.ref is not None:
                self._sockets.ack(id_, op.ref, made, "published")
            else:
                self._sockets.reply(id_, ack(op.ref, made, status))
            self._soon()

        try:
            speaker = self._speaker(id_, "comment")
            if op.paid is not None or op.u is not None:
                raise EdgeError("forbidden", "a comment that is paid for is posted by the site")
            made = wire.comment_id(speaker.identity.user, op.ref)
            self._begun(id_)
            try:
                self._say(speaker, op, made, done)
            except EdgeError:
                self._settled(id_)
                raise
        except EdgeError as error:
            self._sockets.reply(id_, wire.ack(op.ref, None, "rejected", error))

    def _speaker(self, id_: int, what: str) -> Speaker:
        """Who is on the socket and in which room, if they may speak there."""
        claims = self._sockets.claims(id_)
        before, speaker = self._speakers.get(id_, NOBODY)
        if speaker is None or before != claims:
            room = self._sockets.room_of(id_)
            if claims is None or room is None:
                raise EdgeError("unauthorized", f"to {what}, connect with a token")
            identity = _identity(claims)
            identity.check("comment", room.decode())
            speaker = self._meet(identity, room.decode(), self._sockets.address(id_) or b"")
            if len(self._speakers) >= SPEAKERS:
                self._speakers.clear()
            self._speakers[id_] = claims, speaker
        ends_at = speaker.identity.exp
        if ends_at is not None and time.time() >= ends_at + LEEWAY_S:
            raise EdgeError("unauthorized", "the token has ended")
        return speaker

    def _begun(self, id_: int) -> None:
        count = self._under_way[id_] = self._under_way.get(id_, 0) + 1
        if count == UNDER_WAY:
            self._sockets.hold(id_, True)

    def _settled(self, id_: int) -> None:
        count = self._under_way.pop(id_) - 1
        if count:
            self._under_way[id_] = count
        if count == UNDER_WAY // 2 and id_ not in self._proving:
            self._sockets.hold(id_, False)

    def _auth(self, id_: int, op: wire.Auth) -> None:
        # Behind the others of this turn, where those are many. Meanwhile the socket is not read: what waits is bounded.
        self._proving[id_] = self._proving.get(id_, 0) + 1
        if not self._turns.add(partial(self._prove, id_, op.token)):
            self._sockets.hold(id_, True)

    def _prove(self, id_: int, token: str) -> None:
        try:
            self._renew(id_, token)
            answer: dict[str, Any] = {"t": "ack", "status": "published"}
        except KeyComing as error:
            if self._turns.park(partial(self._prove, id_, token)):
                self._sockets.hold(id_, True)
                return
            answer = wire.error(error)
        except EdgeError as error:
            answer = wire.error(error)
        except Exception:
            log.exception("a token could not be renewed")
            answer = wire.error(EdgeError("internal"))
        count = self._proving.pop(id_) - 1
        if count:
            self._proving[id_] = count
        elif self._under_way.get(id_, 0) < UNDER_WAY:
            self._sockets.hold(id_, False)
        self._sockets.reply(id_, answer)

    def _renew(self, id_: int, token: str) -> None:
        claims = self._sockets.claims(id_)
        room = self._sockets.room_of(id_)
        identity = self._identify(token)
        if claims is None or room is None or _identity(claims).user != identity.user:
            raise EdgeError("forbidden", "a fresh token is for the same user")
        identity.check("read", room.decode())
        if not self._sockets.renew(id_, packed(identity), ends(identity)):
            raise EdgeError("overloaded")


def packed(identity: Identity) -> bytes:
    """An identity as the engine keeps it for a socket."""
    return msgspec.msgpack.encode(identity)


def ends(identity: Identity) -> int:
    """When the token does, as the engine keeps it: a unix second in 32 bits, 0 for never. Some say 9999999999."""
    return int(min(identity.exp, 0xFFFFFFFF)) if identity.exp is not None else 0
