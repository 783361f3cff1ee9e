"""The parts of moderation on a broker in memory, with hands that only note what they were asked to do. A broker here
fails, or is slow, when a test says so."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from broker.base import CHAT
from broker.memory import MemoryBroker
from edge import wire
from edge.auth import Identity
from edge.cabinet import Cabinet
from edge.errors import EdgeError
from edge.ingest.pipeline import Pipeline
from edge.ingest.verdict import PUBLISH
from edge.moderation.desk import Desk
from edge.moderation.news import News
from edge.moderation.retraction import Retraction
from edge.moderation.review import Review, Waiting
from edge.moderation.rules import Rules, part_of
from edge.moderation.trail import Trail

MO = Identity("mo", "Mo", frozenset({"moderate"}))
NOW = 1_000_000.0


class Shaky(MemoryBroker):
    """`failing` is what a keep raises, by what its key begins with; `done` is whether it is done before. `first` is
    awaited before each keep."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: dict[str, Exception] = {}
        self.done = False
        self.first: Callable[[str, bytes | None], Awaitable[None]] | None = None
        self.keeps: list[str] = []

    async def keep(self, key: str, value: bytes | None, revision: int | None) -> int:
        self.keeps.append(key)
        if self.first is not None:
            await self.first(key, value)
        error = next((error for prefix, error in self.failing.items() if key.startswith(prefix)), None)
        if error is not None and not self.done:
            raise error
        found = await super().keep(key, value, revision)
        if error is not None:
            raise error
        return found


class Parts:
    """What an Office has, but for the classifier and the alarms."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker
        self.tasks: list[asyncio.Task[Any]] = []
        self.announced: list[dict[str, Any]] = []
        self.retracted: list[list[str]] = []
        self.published: list[str] = []
        self.told: list[wire.Message] = []
        self.failing: set[str] = set()  # names of hands
        self.status = "published"
        cabinet = self.cabinet = Cabinet(broker)
        self.trail = Trail(cabinet)
        pipeline = Pipeline()
        self.rules = Rules(
            broker,
            pipeline,
            lambda _room, _ban: None,
            lambda *at: self.unbanned.append(at),
            lambda _room, _ids: None,
        )
        self.pipeline = pipeline
        self.unbanned: list[tuple[str, str]] = []
        self.news = News(cabinet, self._announce, pipeline.applied)
        self.retraction = Retraction(cabinet, self._retract, self.news)
        self.review = Review(cabinet, self.trail, self.retraction, self._publish, self._tell)
        self.desk = Desk(cabinet, self.trail, self.news, self.retraction)

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        self.tasks.append(asyncio.get_running_loop().create_task(work))
        return self.tasks[-1]

    def _fail(self, hand: str) -> None:
        if hand in self.failing:
            raise EdgeError("unavailable", f"{hand} fails")

    async def _announce(self, _room: str, fields: dict[str, Any]) -> str:
        self._fail("announce")
        self.announced.append(fields)
        return "m1"

    async def _retract(self, _room: str, ids: list[str]) -> str:
        await asyncio.sleep(0)
        self._fail("retract")
        self.retracted.append(ids)
        return "m1"

    async def _publish(self, _room: str, comment: wire.Message) -> str:
        await asyncio.sleep(0)
        self._fail("publish")
        if self.status == "published":
            self.published.append(comment["id"])
        return self.status

    async def _tell(self, _room: str, _user: str, message: wire.Message) -> None:
        self.told.append(message)

    # What tests look for.

    async def waiting(self, room: str = "r") -> list[str]:
        return [it["comment"]["id"] for it in (await self.review.queue(room, 100))["comments"]]

    async def gone(self, room: str = "r") -> list[str]:
        """In the order in which they went."""
        parts = sorted(await self.broker.kept(f"gone.{room}."), key=lambda it: part_of(it.key))
        return [id_ for it in parts for id_ in msgspec.json.decode(it.value, type=list[str])]

    async def lines(self, room: str = "r") -> list[str]:
        return [line["what"] for line in (await self.trail.lines(room, 500))["audit"]]

    async def shown(self, *said: tuple[str, str], room: str = "r") -> None:
        """A batch of comments, each with its author, is in the room's log."""
        head = await self.broker.head(room, CHAT)
        batch = wire.batch(head + 1, head + 1, [comment(id_, user) for id_, user in said])
        await self.broker.append(room, CHAT, msgspec.msgpack.encode(batch), head)


@asynccontextmanager
async def parts(broker: MemoryBroker | None = None) -> AsyncIterator[Parts]:
    made = Parts(broker or Shaky())
    await made.rules.start()
    await made.review.start()
    try:
        yield made
    finally:
        for task in made.tasks:
            task.cancel()
        await asyncio.gather(*made.tasks, return_exceptions=True)
        await made.broker.close()


def comment(id_: str | None = None, user: str = "ann", text: str = "x") -> wire.Message:
    return wire.comment(id_ or secrets.token_hex(8), {"id": user, "name": user.title()}, text, 1)


def held(id_: str | None = None, user: str = "ann", room: str = "r", text: str = "x", **more: Any) -> Waiting:
    return Waiting(room, user, PUBLISH.reasons, comment(id_, user, text), **more)


def json(body: Any) -> bytes:
    return msgspec.json.encode(body)
