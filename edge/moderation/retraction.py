# Comments that are to be shown no more: by a moderator, by their author, by a verdict that came late, by a ban. First
# it is kept, and from then on nobody who comes is shown them, on any box; then those who are here are told. It owns
# those that are to go next, and the measure of how long that takes. It must never tell before it is kept.
import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from broker.base import CHAT, BrokerError
from edge.cabinet import Cabinet
from edge.errors import EdgeError
from edge.ingest.recent import Recent
from edge.metrics import Histogram
from edge.moderation.news import News
from edge.moderation.rules import GONE, PINS, gone_key, part_of, rule_key

PART = 500
PARTS = 40
"""Of a room it is known of the last 20,000 comments that they are retracted, in parts of so many: so that one more is
not one more word in a list that is told to every worker as a whole."""
TOLD = 400
"""Comments in one word to viewers: it has to fit into a batch, however long their ids are."""
NEWEST = 4_096
LOOKED_THROUGH = 8 * 1024 * 1024
"""Bytes of a room's log in which a comment is looked for, the newest."""

Tell = Callable[[str, list[str]], Awaitable[str]]
"""Puts the word that comments are gone on a room's `must` lane."""


class _Author(msgspec.Struct):
    id: str


class _Said(msgspec.Struct):
    id: str
    u: _Author


class _Batch(msgspec.Struct):
    m: list[msgspec.Raw] = []


_batch = msgspec.msgpack.Decoder(_Batch).decode
_said = msgspec.msgpack.Decoder(_Said).decode
_ids = msgspec.json.Decoder(list[str]).decode


class _Group:
    """Comments of a room that go together, and those of them that viewers are told. `done` says how that went, and
    `told` when viewers knew."""

    __slots__ = ("done", "ids", "told", "viewers")

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.viewers: list[str] = []
        self.told = 0.0
        self.done: asyncio.Future[EdgeError | None] = asyncio.get_running_loop().create_future()


class Retraction:
    def __init__(self, cabinet: Cabinet, tell: Tell, news: News) -> None:
        self._cabinet = cabinet
        self._tell = tell
        self._news = news
        self._next: dict[str, _Group] = {}  # by room: what goes as soon as what is under way has gone
        self._last: dict[str, _Group] = {}
        self._newest: Recent[str, int] = Recent(NEWEST)  # which part each room has come to, as far as is known
        self.took = Histogram("retraction_seconds", (0.01, 0.03, 0.1, 0.3, 1.0, 3.0))

    async def go(self, room: str, ids: Iterable[str]) -> None:
        began = time.monotonic()
        if gone := list(ids):
            group = await self._together(room, gone, gone)
            self.took.add(group.told - began)

    async def hide(self, room: str, id_: str) -> None:
        """One that nobody has: nobody is told, and it stays so when its author sends it again."""
        await self._together(room, [id_], [])

    async def _together(self, room: str, gone: list[str], viewers: list[str]) -> _Group:
        """With whatever else is to go next: a classifier has verdicts by the dozen, and each by itself would be in the
        way of the others."""
        group = self._next.get(room)
        leads = group is None
        if group is None:
            group = self._next[room] = _Group()
        group.ids += gone
        group.viewers += viewers
        if leads:
            await self._lead(room, group)
        else:
            await asyncio.wait([group.done])
        if (error := group.done.result()) is not None:
            raise EdgeError(error.name, error.message, retry_after=error.retry_after)
        return group

    async def _lead(self, room: str, group: _Group) -> None:
        before = self._last.get(room)
        self._last[room] = group
        error: EdgeError | None = EdgeError("unavailable", retry_after=1)  # where whoever leads is cancelled
        try:
            try:
                if before is not None:
                    await asyncio.wait([before.done])
            finally:
                del self._next[room]
            await self._go(room, group)
            error = None
        except EdgeError as failed:
            error = failed
        finally:
            group.done.set_result(error)
            if self._last.get(room) is group:
                del self._last[room]

    async def _go(self, room: str, group: _Group) -> None:
        gone = list(dict.fromkeys(group.ids))
        await self._keep(room, gone)
        told = list(dict.fromkeys(group.viewers))
        for start in range(0, len(told), TOLD):
            await self._tell(room, told[start : start + TOLD])
        group.told = time.monotonic()
        pin = await self._cabinet.find(rule_key(PINS, room))
        if pin is not None and msgspec.json.decode(pin.value)["id"] in gone:
            await self._cabinet.keep(pin.key, None, pin.revision)
            await self._news.tell(room, PINS)

    async def _keep(self, room: str, ids: list[str]) -> None:
        """Whoever else does so meanwhile. Where another has come further than is known here, its parts are full."""
        part = self._newest.get(room)
        if part is None:
            part = max((part_of(it.key) for it in await self._cabinet.all(f"{GONE}{room}.")), default=0)
        left = ids

        def add(before: bytes | None) -> bytes | None:
            nonlocal left
            there = [] if before is None else _ids(before)
            fresh = [id_ for id_ in ids if id_ not in set(there)]
            more, left = fresh[: PART - len(there)], fresh[PART - len(there) :]
            return msgspec.json.encode([*there, *more]) if more else before

        while True:
            await self._cabinet.change(gone_key(room, part), add)
            self._newest.put(room, part)
            if not left:
                return
            ids, part = left, part + 1
            if part >= PARTS:
                await self._cabinet.keep(gone_key(room, part - PARTS), None)

    async def is_gone(self, room: str, id_: str) -> bool:
        return any(id_ in _ids(it.value) for it in await self._cabinet.all(f"{GONE}{room}."))

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
