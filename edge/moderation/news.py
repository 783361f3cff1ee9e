# What viewers are told of what moderators have set for their room: its mode, its pin. It owns nothing. It must never
# let the last word be an old one: two who set it on two boxes tell it in any order, so each looks again behind its own.
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from edge.cabinet import Cabinet
from edge.ingest.modes import Mode
from edge.moderation.rules import MODES, mode_of, rule_key

Announce = Callable[[str, dict[str, Any]], Awaitable[str]]
"""Puts a state on a room's `must` lane, for all to see."""
Applied = Callable[[str, Mode], Mode]
"""What holds in a room that is set to this mode: slow mode may have turned itself on."""


class News:
    def __init__(self, cabinet: Cabinet, announce: Announce, applied: Applied) -> None:
        self._cabinet = cabinet
        self._announce = announce
        self._applied = applied

    async def tell(self, room: str, prefix: str) -> dict[str, Any]:
        """What is kept there for the room, as it is told."""
        value = await self._kept(room, prefix)
        while True:
            fields = self._mode(room, value) if prefix == MODES else {"pin": value and msgspec.json.decode(value)}
            await self._announce(room, fields)
            before, value = value, await self._kept(room, prefix)
            if value == before:
                return fields

    async def _kept(self, room: str, prefix: str) -> bytes | None:
        kept = await self._cabinet.find(rule_key(prefix, room))
        return None if kept is None else kept.value

    def _mode(self, room: str, value: bytes | None) -> dict[str, Any]:
        mode = mode_of(value)
        applied = self._applied(room, mode)
        fields = {"mode": msgspec.to_builtins(applied)}
        return fields if applied == mode else {**fields, "auto": True}
