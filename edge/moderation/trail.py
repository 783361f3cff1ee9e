# Who did what when, for each room and for all of them. It owns no state. What is not in it has not been done by hand.
import json
import secrets
from typing import Any

from edge import wire
from edge.cabinet import Cabinet

AUDIT = "audit."
MOST = 1_000
"""Lines of a room that are kept."""
ITSELF = ""
"""Whose doing it is where the server did it: no user has this name."""


class Trail:
    def __init__(self, cabinet: Cabinet) -> None:
        self._cabinet = cabinet

    async def note(self, who: str, room: str, now: float, what: str, about: Any) -> None:
        line = {"ts": int(now * 1000), "who": who, "room": room, "what": what, "about": about}
        await self._cabinet.add(f"{AUDIT}{room}.", secrets.token_hex(8), line, MOST)

    async def lines(self, room: str, limit: int) -> wire.Message:
        kept = await self._cabinet.lines(f"{AUDIT}{room}.")
        return {"audit": [json.loads(it.value) for it in reversed(kept[-limit:])]}
