# The parts of moderation, put together for one worker. It owns them, and knows what the worker does for them.
from collections.abc import Callable
from typing import Any, Protocol

from broker.base import Broker
from edge import wire
from edge.cabinet import Cabinet
from edge.ingest.classifier import Classifier
from edge.ingest.pipeline import Pipeline
from edge.moderation.alarms import Alarms
from edge.moderation.desk import Desk
from edge.moderation.left import Left
from edge.moderation.look import Look
from edge.moderation.news import News
from edge.moderation.retraction import Retraction
from edge.moderation.review import Review
from edge.moderation.rules import Ban, Rules
from edge.moderation.trail import Trail


class Hands(Protocol):
    """What the worker does for moderation."""

    def spawn(self, coroutine: Any, /) -> Any:
        """Starts a task."""

    async def announce(self, room: str, fields: dict[str, Any]) -> str:
        """A state on the room's `must` lane, for all to see."""
        ...

    async def retract(self, room: str, ids: list[str]) -> str:
        """And the word that comments are gone."""
        ...

    async def publish(self, room: str, comment: wire.Message) -> str:
        """Offers a comment; what became of it."""
        ...

    async def tell(self, room: str, user: str, message: wire.Message) -> None:
        """Says something to all sockets of one user in the room, on every box."""

    def writes(self, room: str) -> bool:
        """This worker owns it now."""
        ...

    def reply(self, id_: int, message: wire.Message) -> bool:
        """Says something on one socket here; False where that has gone."""
        ...

    def banned(self, room: str, ban: Ban) -> None:
        """This ban holds from now on, in the room or EVERYWHERE."""

    def unbanned(self, room: str, user: str) -> None:
        """A ban of this user's is no more, in the room or EVERYWHERE."""

    def retracted(self, room: str, ids: frozenset[str]) -> None:
        """These are not shown any more."""


class Office:
    def __init__(
        self, broker: Broker, pipeline: Pipeline, classifier: Classifier | None, hands: Hands, guard: bool
    ) -> None:
        cabinet = Cabinet(broker)
        self.rules = Rules(broker, pipeline, hands.banned, hands.unbanned, hands.retracted)
        self.trail = Trail(cabinet)
        news = News(cabinet, hands.announce, pipeline.applied)
        self.retraction = Retraction(cabinet, hands.retract, news)
        self.review = Review(cabinet, self.trail, self.retraction, hands.publish, hands.tell)
        self.desk = Desk(cabinet, self.trail, news, self.retraction)
        self.alarms = Alarms(
            broker, pipeline, self.trail, hands.announce, hands.reply, hands.spawn, hands.writes, guard
        )
        self.classifier = classifier
        self.look = None if classifier is None else Look(classifier, self.review, self.rules, hands.spawn)
        self.left = Left(self.review, self.look, hands.writes, hands.spawn)

    async def start(self) -> None:
        """From the return on what is set holds here. Raises Unavailable; may be called again then."""
        await self.rules.start()
        await self.review.start()

    def housekeep(self, known: Callable[[int], object], now: float) -> None:
        """To be called once a second, after the pipeline's turn; `known` tells which sockets are still there."""
        self.alarms.housekeep(known, now)
        self.left.turn()

    def figures(self) -> dict[str, int]:
        found = self.retraction.took.figures() | {"comments_unmarked": self.review.unmarked} | self.left.figures()
        return found if self.look is None else found | self.look.figures()

    async def close(self) -> None:
        if self.classifier is not None:
            await self.classifier.close()
