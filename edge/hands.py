# What a worker does for its moderation: what is said to a room, to a user, to a socket; what a ban and a retraction do
# here. It owns nothing. It must never do to others what is meant for one room.
import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from broker.base import Broker, BrokerError
from edge import wire
from edge.errors import EdgeError
from edge.moderation.office import Office
from edge.moderation.rules import Ban
from edge.offers import Offers, outcome
from edge.owner import Owner
from edge.scores import retraction, state
from edge.speech import Speech
from edge.watch import Watch

log = logging.getLogger("edge.hands")

TELL = "tell"
"""What has been decided about a comment is told to its author's sockets, on whatever box."""
SWEEP_S = 1.0


class Sockets(Protocol):
    """What is used of the engine."""

    def reply(self, id_: int, message: dict[str, Any], /) -> bool: ...
    def end(self, id_: int, code: int, reason: bytes, /) -> bool: ...
    def room_of(self, id_: int, /) -> bytes | None: ...
    def sockets_of(self, user: bytes) -> list[int]: ...


class Hands:
    """`soon` asks for a turn. The parts that need hands themselves are set when they are there."""

    office: Office
    owner: Owner
    speech: Speech
    watch: Watch

    def __init__(
        self,
        broker: Broker,
        engine: Sockets,
        offers: Offers,
        spawn: Callable[[Any], asyncio.Task[Any]],
        soon: Callable[[], None],
    ) -> None:
        self._broker = broker
        self._engine = engine
        self._offers = offers
        self.spawn = spawn
        self._soon = soon

    async def start(self) -> None:
        await self._broker.hear(TELL, self._told)

    async def announce(self, room: str, fields: dict[str, Any]) -> str:
        return await state(self._broker, self.watch.room(room).must, fields)

    async def retract(self, room: str, ids: list[str]) -> str:
        return await retraction(self._broker, self.watch.room(room).must, ids)

    async def publish(self, room: str, comment: wire.Message) -> str:
        return str(await outcome(lambda done: self._offers.take(room, wire.item(room, comment), done)))

    def reply(self, id_: int, message: wire.Message) -> bool:
        self._soon()
        return self._engine.reply(id_, message)

    def writes(self, room: str) -> bool:
        return self.owner.writes(room)

    def is_here(self, room: str, user: str) -> bool:
        return bool(self._sockets(room, user))

    async def tell(self, room: str, user: str, message: wire.Message) -> None:
        with contextlib.suppress(BrokerError):
            await self._broker.emit(TELL, msgspec.msgpack.encode((room, user, message)))

    def _told(self, data: bytes) -> None:
        try:
            room, user, message = msgspec.msgpack.decode(data, type=tuple[str, str, dict[str, Any]])
        except msgspec.DecodeError as bad:
            log.error("what came on %s is nothing to tell (%s)", TELL, bad)
            return
        if "id" in message and message.get("status") in ("published", "rejected"):
            self.speech.decided(room, message["id"], message["status"] == "published")
        for id_ in self._sockets(room, user):
            self._engine.reply(id_, message)
        self._soon()

    def retracted(self, room: str, ids: frozenset[str]) -> None:
        self.owner.retract(room, ids)
        self.watch.retract(room, ids)

    def banned(self, room: str, ban: Ban) -> None:
        """Who is out is out at once."""
        if not ban.out:
            return
        for id_ in self._sockets(room, ban.user):
            self._engine.end(id_, 1008, b"banned")
        self._soon()
        rooms = self.owner.silence(room, ban.user)
        if room == wire.EVERYWHERE:  # a room may have a queue and nothing that was said
            rooms = [*{*rooms, *filter(self.owner.writes, self.office.review.rooms())}]
        if rooms:
            self.spawn(self._sweep(rooms, ban.user))

    def unbanned(self, room: str, user: str) -> None:
        self.owner.unsilence(room, user)

    async def _sweep(self, rooms: list[str], user: str) -> None:
        """What logs and queues have of somebody's: also what has come between the look of who has banned them and the
        word of it here."""
        await asyncio.sleep(SWEEP_S)
        for room in rooms:
            with contextlib.suppress(EdgeError):
                said = await self.office.retraction.said_by(room, user)
                await self.office.retraction.go(room, [id_ for id_ in said if id_ not in self.office.rules.gone(room)])
                await self.office.review.drop(room, user, time.time())

    def _sockets(self, room: str, user: str) -> list[int]:
        found = self._engine.sockets_of(user.encode())
        return [id_ for id_ in found if room == wire.EVERYWHERE or self._engine.room_of(id_) == room.encode()]
