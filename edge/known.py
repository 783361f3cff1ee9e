# What has been said in a room of late, and by whom: so that a reply finds its comment and a mention its user. A room is
# looked into from the first time that somebody asks, by reading its log, and followed from there. It owns what it has
# read, bounded in rooms and in each. It must never hold up who does not ask.
import asyncio
import secrets
import unicodedata
from collections.abc import Callable, Collection, Iterable
from typing import Any

import msgspec

from broker.base import CHAT, Broker, BrokerError
from edge.errors import EdgeError
from edge.ingest.recent import Recent

ROOMS = 64
COMMENTS = 8_192
PEOPLE = 4_096
READ_BYTES = 4 * 1024 * 1024
ASKING = 256
"""Comments that wait for an answer at a time: past it one is refused."""
WAITS_S = (0.0, 0.1, 0.4)
"""Before each look: what somebody replies to may be on its way here still."""
ANSWER_S = 0.25
ASK, ANSWER = "who", "here"

Here = Callable[[str, str], bool]
"""Somebody of this name is in the room, at this worker."""


class _Author(msgspec.Struct):
    id: str
    name: str


class _Said(msgspec.Struct):
    id: str
    u: _Author


class _Batch(msgspec.Struct):
    m: list[_Said] = []


class _Ask(msgspec.Struct, array_like=True):
    whom: str
    number: int
    room: str
    names: list[str]


class _Answer(msgspec.Struct, array_like=True):
    number: int
    people: dict[str, str]


_decode = msgspec.msgpack.Decoder(_Batch).decode


class _Room:
    __slots__ = ("comments", "next", "people", "reading", "upto")

    def __init__(self) -> None:
        self.comments: Recent[str, bool] = Recent(COMMENTS)
        self.people: Recent[str, str] = Recent(PEOPLE)  # by name and by id, in small letters: the id
        self.upto = 0  # the last batch that was read
        self.reading: asyncio.Future[bool] | None = None  # how it has gone
        self.next: asyncio.Future[bool] | None = None

    def take(self, seq: int, data: bytes) -> None:
        self.upto = seq
        try:
            said = _decode(data).m
        except msgspec.DecodeError:
            return
        for it in said:
            self.comments.put(it.id, True)
            # As a mention writes them: names and texts are in NFC, ids are whatever their tokens say.
            self.people.put(it.u.name.casefold(), it.u.id)
            self.people.put(unicodedata.normalize("NFC", it.u.id).casefold(), it.u.id)


class Known:
    """`gone` are comments of a room that were retracted. `alone`: there is no other worker."""

    def __init__(
        self,
        broker: Broker,
        gone: Callable[[str], Collection[str]],
        here: Here,
        spawn: Callable[[Any], Any],
        alone: bool,
    ) -> None:
        self._broker = broker
        self._gone = gone
        self._here = here
        self._spawn = spawn
        self._alone = alone
        self._rooms: Recent[str, _Room] = Recent(ROOMS)
        self._name = secrets.token_hex(6)
        self._asked = 0
        self._answers: dict[int, tuple[dict[str, str], asyncio.Event]] = {}
        self._waiting = 0

    async def start(self) -> None:
        if not self._alone:
            await self._broker.hear(ASK, self._whom)
            await self._broker.hear(f"{ANSWER}.{self._name}", self._answered)

    def batch(self, room: str, seq: int, data: bytes) -> None:
        """One that has come, of a room that somebody may have asked about."""
        it = self._rooms.get(room)
        if it is not None and seq == it.upto + 1:
            it.take(seq, data)

    def find(self, room: str, re: str | None, names: Iterable[str]) -> tuple[str, ...] | None:
        """The users of these names; None where not all is known without looking further, the comment `re` too."""
        it = self._rooms.get(room)
        if self._lacks(room, it, re):
            return None
        found = [self._user(room, it, name) for name in names]
        return None if None in found else tuple(dict.fromkeys(user for user in found if user is not None))

    async def look(self, room: str, re: str | None, names: tuple[str, ...], lenient: bool) -> tuple[str, ...]:
        """The same, having looked everywhere; raises `unknown_comment`, and `unknown_user` unless it is `lenient`."""
        if self._waiting >= ASKING:
            raise EdgeError("overloaded", retry_after=1)
        self._waiting += 1
        try:
            return await self._look(room, re, names, lenient)
        finally:
            self._waiting -= 1

    async def _look(self, room: str, re: str | None, names: tuple[str, ...], lenient: bool) -> tuple[str, ...]:
        elsewhere: dict[str, str] = {}
        missing: list[str] = []
        for wait_s in WAITS_S:
            await asyncio.sleep(wait_s)
            it = await self._read(room)
            if self._lacks(room, it, re):
                continue
            missing = [name for name in names if name not in elsewhere and self._user(room, it, name) is None]
            if missing and not elsewhere:
                elsewhere = await self._ask(room, missing)
                missing = [name for name in missing if name not in elsewhere]
            if not missing or lenient:
                users = (elsewhere.get(name) or self._user(room, it, name) for name in names)
                return tuple(dict.fromkeys(user for user in users if user is not None))
        if self._lacks(room, it, re):
            raise EdgeError("unknown_comment", "the comment that this replies to is not known in this room")
        raise EdgeError("unknown_user", f"nobody called {missing[0]} is here")

    def _lacks(self, room: str, it: _Room | None, re: str | None) -> bool:
        """There is no such comment, as far as is known; where none is asked for, none is lacking."""
        return re is not None and (it is None or it.comments.get(re) is None or re in self._gone(room))

    def _user(self, room: str, it: _Room | None, name: str) -> str | None:
        if self._here(room, name):
            return name
        return None if it is None else it.people.get(name.casefold())

    async def _read(self, room: str) -> _Room:
        """The room up to where its log is now. Who asks meanwhile shares the next reading."""
        it = self._rooms.get(room) or _Room()
        self._rooms.put(room, it)
        if it.next is not None:
            mine = it.next
            await asyncio.wait([mine])
        else:
            mine = it.next = asyncio.get_running_loop().create_future()
            await self._read_next(room, it, mine)
        if not mine.result():
            raise EdgeError("unavailable", retry_after=1)
        return it

    async def _read_next(self, room: str, it: _Room, mine: asyncio.Future[bool]) -> None:
        well = False
        try:
            while it.reading is not None:
                await asyncio.wait([it.reading])
            it.reading, it.next = mine, None
            entries = await self._broker.tail(room, CHAT, it.upto, READ_BYTES)
            if not entries and it.upto > await self._broker.head(room, CHAT):  # its numbers began anew
                it.upto = 0
                entries = await self._broker.tail(room, CHAT, 0, READ_BYTES)
            for seq, data in entries:
                if seq > it.upto:
                    it.take(seq, data)
            well = True
        except BrokerError:
            pass
        finally:
            mine.set_result(well)
            if it.reading is mine:
                it.reading = None
            if it.next is mine:
                it.next = None

    # Who is where, among workers.

    async def _ask(self, room: str, names: list[str]) -> dict[str, str]:
        if self._alone:
            return {}
        self._asked += 1
        number, found, all_there = self._asked, dict[str, str](), asyncio.Event()
        self._answers[number] = found, all_there
        try:
            await self._broker.emit(ASK, msgspec.msgpack.encode(_Ask(self._name, number, room, names)))
            async with asyncio.timeout(ANSWER_S):
                while len(found) < len(names):
                    await all_there.wait()
                    all_there.clear()
        except (BrokerError, TimeoutError):
            pass
        finally:
            del self._answers[number]
        return found

    def _whom(self, message: bytes) -> None:
        try:
            ask = msgspec.msgpack.decode(message, type=_Ask)
        except msgspec.DecodeError:
            return
        it = self._rooms.get(ask.room)
        people = {name: user for name in ask.names if (user := self._user(ask.room, it, name)) is not None}
        if people and ask.whom != self._name:
            answer = msgspec.msgpack.encode(_Answer(ask.number, people))
            self._spawn(self._broker.emit(f"{ANSWER}.{ask.whom}", answer))

    def _answered(self, message: bytes) -> None:
        try:
            answer = msgspec.msgpack.decode(message, type=_Answer)
        except msgspec.DecodeError:
            return
        if (asked := self._answers.get(answer.number)) is not None:
            asked[0].update(answer.people)
            asked[1].set()
