# Comments that are to be shown no more: by a moderator, by their author, by a verdict that came late, by a ban. First
# it is kept, and from then on nobody who comes is shown them, on any box; then those who are here are told. It owns the
# measure of how long that takes. It must never tell before it is kept.
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from broker.base import CHAT, BrokerError
from edge.errors import EdgeError
from edge.metrics import Histogram
from edge.moderation.cabinet import Cabinet
from edge.moderation.rules import GONE, PINS, rule_key

RETRACTED = 1_000
"""Comments of a room that are known to be retracted, the last ones: as many as clients remember."""
LOOKED_THROUGH = 8 * 1024 * 1024
"""Bytes of a room's log in which a comment is looked for, the newest."""

Tell = Callable[[str, list[str]], Awaitable[str]]
"""Puts the word that comments are gone on a room's `must` lane."""
Announce = Callable[[str, dict[str, Any]], Awaitable[str]]


class _Author(msgspec.Struct):
    id: str


class _Said(msgspec.Struct):
    id: str
    u: _Author


class _Batch(msgspec.Struct):
    m: list[msgspec.Raw] = []


_batch = msgspec.msgpack.Decoder(_Batch).decode
_said = msgspec.msgpack.Decoder(_Said).decode


class Retraction:
    def __init__(self, cabinet: Cabinet, tell: Tell, announce: Announce) -> None:
        self._cabinet = cabinet
        self._tell = tell
        self._announce = announce
        self.took = Histogram("retraction_seconds", (0.01, 0.03, 0.1, 0.3, 1.0, 3.0))

    async def go(self, room: str, ids: Iterable[str]) -> None:
        began = time.monotonic()
        gone = list(ids)
        if not gone:
            return
        await self._cabinet.change(rule_key(GONE, room), lambda before: _with(before, gone))
        await self._tell(room, gone)
        self.took.add(time.monotonic() - began)
        pin = await self._cabinet.find(rule_key(PINS, room))
        if pin is not None and msgspec.json.decode(pin.value)["id"] in gone:
            await self._cabinet.keep(pin.key, None)
            await self._announce(room, {"pin": None})

    async def comment(self, room: str, id_: str) -> dict[str, Any] | None:
        """As the room's log shows it."""
        for raw in await self._log(room):
            if _said(raw).id == id_:
                found: dict[str, Any] = msgspec.msgpack.decode(raw)
                return found
        return None

    async def said_by(self, room: str, user: str) -> list[str]:
        """The comments of a user that the room's log shows."""
        every = (_said(raw) for raw in await self._log(room))
        return [it.id for it in every if it.u.id == user]

    async def _log(self, room: str) -> list[msgspec.Raw]:
        """The comments in it that can be read."""
        try:
            entries = await self._cabinet.broker.tail(room, CHAT, 0, LOOKED_THROUGH)
        except BrokerError:
            raise EdgeError("unavailable", retry_after=1) from None
        found: list[msgspec.Raw] = []
        for _, data in entries:
            with contextlib.suppress(msgspec.DecodeError):
                shown = _batch(data).m
                for raw in shown:
                    _said(raw)
                found += shown
        return found


def _with(before: bytes | None, gone: list[str]) -> bytes | None:
    known = [] if before is None else msgspec.json.decode(before, type=list[str])
    fresh = [id_ for id_ in gone if id_ not in set(known)]
    return msgspec.json.encode([*known, *fresh][-RETRACTED:]) if fresh else before
