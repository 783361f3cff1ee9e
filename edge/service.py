# What the HTTP application, and publishers on the broker, ask of a worker (edge/api/app.py says what each call is). It
# owns the memory of rooms that are not there. It must never answer for a comment before the broker has.
import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from broker.base import CHAT, MUST, Answers, Broker, BrokerError
from edge import wire
from edge.admission import Admission
from edge.auth import Identity
from edge.auth.gate import Gate
from edge.cabinet import Cabinet
from edge.errors import EdgeError
from edge.moderation.office import Office
from edge.offers import ack, outcome
from edge.outside import Outside
from edge.paid import Paid
from edge.reactions import Reactions
from edge.scores import score
from edge.speaker import Speaker
from edge.speech import Speech
from edge.watch import Watch

ABSENT = 10_000
ABSENT_S = 1.0  # that a room which was not there is not looked for again


class Streams(Protocol):
    """What is used of the engine."""

    def adopt(self, fd: int, head: bytes, peer: bytes = ...) -> None: ...
    def room_info(self, name: bytes) -> dict[str, Any] | None: ...


class State(Protocol):
    """What the worker knows of itself."""

    def metrics(self) -> str: ...
    def ready(self) -> bool: ...
    def soon(self) -> None: ...


class Service:
    def __init__(
        self,
        broker: Broker,
        engine: Streams,
        state: State,
        gate: Gate,
        admission: Admission,
        watch: Watch,
        meet: Callable[[Identity, str, bytes], Speaker],
        speech: Speech,
        reactions: Reactions,
        office: Office,
        kinds: tuple[str, ...],
        *,
        body_bytes: int,
        cors_origin: str,
    ) -> None:
        self.body_bytes = body_bytes
        self.cors_origin = cors_origin
        self.office = office
        self.identify = gate.identify
        self.metrics: Callable[[], str] = state.metrics
        self.ready: Callable[[], bool] = state.ready
        self._soon = state.soon
        self._broker = broker
        self._engine = engine
        self._admission = admission
        self._watch = watch
        self._meet = meet
        self._speech = speech
        self._reactions = reactions
        self._paid = Paid(Cabinet(broker), self._pay, office.retraction.comment)
        self._kinds = kinds
        self._absent: dict[str, float] = {}  # rooms that were not there when a snapshot was asked for, and when

    async def start(self) -> None:
        if isinstance(self._broker, Answers):
            outside = Outside(self.comment, self.score)
            await self._broker.answer("score", outside.score)
            await self._broker.answer("comment", outside.comment)

    async def comment(self, identity: Identity, room: str, body: wire.CommentBody, peer: bytes = b"") -> wire.Message:
        return await self._said(identity, room, body, wire.comment_id(identity.user, body.ref), peer)

    async def pay(self, payer: Identity, room: str, body: wire.CommentBody, key: str | None) -> wire.Message:
        return await self._paid.comment(payer, room, body, key)

    async def _pay(self, author: Identity, room: str, body: wire.CommentBody, made: str) -> wire.Message:
        return await self._said(author, room, body, made, b"")  # the address is the site's own

    async def _said(
        self, identity: Identity, room: str, body: wire.CommentBody, made: str, peer: bytes
    ) -> wire.Message:
        who = self._meet(identity, room, peer)
        status = await outcome(lambda done: self._speech.say(who, body, made, done))
        return ack(body.ref, made, status)

    def react(self, identity: Identity, room: str, kind: str) -> None:
        self._reactions.take(identity, room, kind)

    async def score(self, room: str, event: dict[str, Any]) -> str:
        return await score(self._broker, self._watch.room(room).must, event)

    async def snapshot(self, room: str, address: bytes) -> wire.Message:
        info = self._engine.room_info(room.encode())
        since = None
        if info is not None:
            heads = [info["must"], info["chat"]]
            since = f"i{info['incarnation']}.m{heads[MUST]}.c{heads[CHAT]}"
        else:
            heads = await self._heads(room, address)
        rules = self.office.rules
        said = {"mode": msgspec.to_builtins(rules.mode(room)), "pin": rules.pin(room)}
        said["reactions"] = await self._totals(room, heads[CHAT])
        last = {"must": f"m{heads[MUST]}", "chat": f"c{heads[CHAT]}"}
        viewers = info["viewers"] if info else 0
        return {"room": room, "state": "live", "viewers": viewers, "since": since, "last": last, **said}

    async def _totals(self, room: str, head: int) -> dict[str, int]:
        """Of all kinds that are taken."""
        try:
            found = await self._watch.reactions(room, head)
        except BrokerError:
            raise EdgeError("unavailable", retry_after=1) from None
        return {kind: found.get(kind, 0) for kind in self._kinds}

    async def _heads(self, room: str, address: bytes) -> list[int]:
        now = time.monotonic()
        if now - self._absent.get(room, -ABSENT_S) < ABSENT_S:
            return [0, 0]
        self._admission.check_opening(room, address)
        try:
            heads = [await self._broker.head(room, lane) for lane in (MUST, CHAT)]
        except BrokerError:
            raise EdgeError("unavailable", retry_after=1) from None
        self._absent.pop(room, None)
        if heads == [0, 0]:
            self._absent[room] = now
            while len(self._absent) > ABSENT:
                del self._absent[next(iter(self._absent))]
        return heads

    def adopt(self, sock_fd: int, head: bytes, peer: bytes) -> None:
        self._engine.adopt(sock_fd, head, peer)
        self._soon()

    def healthy(self) -> bool:
        return True
