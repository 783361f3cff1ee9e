# Streams that ask to be let in: who is it, may they, is the room open here. It owns the count of the rooms that each
# address opens. It must never let anybody in whom a ban keeps out, nor hold up the turn in which they ask.
import logging
import math
import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol
from urllib.parse import unquote_plus

import msgspec

from edge._fast.buckets import Buckets
from edge.auth import Identity, KeyComing
from edge.auth.turns import Turns
from edge.errors import EdgeError
from edge.ingest.limits import network
from edge.ingest.modes import OPEN
from edge.moderation.alarms import Alarms
from edge.moderation.rules import Rules
from edge.ops import ends, packed
from edge.trouble import Trouble
from edge.watch import Parked, Room, Watch

log = logging.getLogger("edge.admission")

OPENINGS = 1 << 19
"""Bytes, for 65,536 addresses that open rooms."""


class Streams(Protocol):
    """What is used of the engine."""

    def admit(self, id_: int, /, room: bytes, user: bytes = ..., claims: bytes = ..., expires: int = ...) -> bool: ...
    def refuse(self, id_: int, /, status: int, error: bytes, message: bytes, retry_after: int = ...) -> None: ...
    def reply(self, id_: int, message: dict[str, Any], /) -> bool: ...
    def address(self, id_: int, /) -> bytes | None: ...


class Admission:
    """`soon` asks for a turn. `watch` is set when there is one: it lets in those who waited for a room."""

    watch: Watch

    def __init__(
        self,
        engine: Streams,
        identify: Callable[[str | None, str | None], Identity],
        turns: Turns,
        rules: Rules,
        alarms: Alarms,
        trouble: Trouble,
        opens_per_ip: int,
        soon: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._identify = identify
        self._turns = turns
        self._rules = rules
        self._alarms = alarms
        self._trouble = trouble
        self._openings = Buckets(opens_per_ip, 60.0, bytearray(OPENINGS), secrets.randbits(64))
        self._soon = soon

    def opens(self, requests: list[tuple[int, bytes, bytes | None, bytes | None]]) -> None:
        for request in requests:
            self._turns.add(partial(self._open, *request))
        self._soon()

    def _open(self, id_: int, room: bytes, token: bytes | None, user: bytes | None) -> None:
        try:
            identity = self._identify(_text(token), _unquoted(user))
            identity.check("read", room.decode())
            self._check_ban(room.decode(), identity)
            self.check_opening(room.decode(), self._engine.address(id_) or b"")
            self._admit(id_, room.decode(), identity)
        except KeyComing as error:
            if not self._turns.park(partial(self._open, id_, room, token, user)):
                self._refuse(id_, error)
        except EdgeError as error:
            self._refuse(id_, error)
        except Exception:
            log.exception("a stream could not be admitted")
            self._refuse(id_, EdgeError("internal"))

    def _refuse(self, id_: int, error: EdgeError) -> None:
        words = "".join(c for c in error.message if c.isascii() and c.isprintable() and c not in '"\\')
        self._engine.refuse(id_, error.status, error.name.encode(), words.encode()[:200], int(error.retry_after or 0))

    def _check_ban(self, room: str, identity: Identity) -> None:
        ban = self._rules.ban(room, identity.user, time.time()) if identity.user else None
        if ban is not None and ban.out:
            raise EdgeError("banned")

    def check_opening(self, room: str, address: bytes) -> None:
        """A room that is not open here takes reads of the log, and is made if it is not there."""
        if address and not self.watch.has(room):
            wait_s = self._openings.take(network(address), time.monotonic())
            if wait_s:
                words = "too many rooms are opened from this address"
                raise EdgeError("too_many", words, retry_after=math.ceil(wait_s))

    def _admit(self, id_: int, name: str, identity: Identity) -> None:
        room = self.watch.room(name)
        if room.followed:
            self.let_in(room, (id_, identity))
        else:
            self.watch.park(room, (id_, identity))

    def let_in(self, room: Room, parked: Parked) -> None:
        id_, identity = parked
        if identity.user:
            self._engine.admit(id_, room.key, identity.user.encode(), packed(identity), ends(identity))
        else:
            self._engine.admit(id_, room.key)
        if news := self._news(room.name):
            self._engine.reply(id_, {"t": "state", **news})
        if self._trouble.now:
            self._engine.reply(id_, self._trouble.message)
        if "moderate" in identity.scopes:
            self._alarms.listen(room.name, id_)

    def _news(self, room: str) -> dict[str, Any]:
        """What is not as in any other room, for who comes."""
        found: dict[str, Any] = {}
        if (mode := self._rules.mode(room)) != OPEN:
            found["mode"] = msgspec.to_builtins(mode)
        if (pin := self._rules.pin(room)) is not None:
            found["pin"] = pin
        return found

    def turn_away(self, parked: Parked, error: EdgeError) -> None:
        self._refuse(parked[0], error)


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode("ascii", "replace")


def _unquoted(raw: bytes | None) -> str | None:
    return None if raw is None else unquote_plus(raw.decode("ascii", "replace"))
