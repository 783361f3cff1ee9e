# The parts of moderation, put together for one worker. It owns them, and knows what the worker does for them.
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from broker.base import Broker
from edge import wire
from edge.ingest.classifier import Classifier
from edge.ingest.pipeline import Pipeline
from edge.moderation.alarms import Alarms
from edge.moderation.cabinet import Cabinet
from edge.moderation.desk import Desk
from edge.moderation.look import Look
from edge.moderation.retraction import Retraction
from edge.moderation.review import Review
from edge.moderation.rules import Ban, Rules
from edge.moderation.trail import Trail


class Hands(NamedTuple):
    """What the worker does: a state for all in a room, the word that comments are gone, a comment for its owner,
    something for one user's sockets everywhere, something for one socket here, a task."""

    announce: Callable[[str, dict[str, Any]], Awaitable[str]]
    retract: Callable[[str, list[str]], Awaitable[str]]
    publish: Callable[[str, wire.Message], Awaitable[str]]
    tell: Callable[[str, str, wire.Message], Awaitable[None]]
    reply: Callable[[int, wire.Message], bool]
    spawn: Callable[[Any], Any]
    banned: Callable[[str, Ban], None]
    retracted: Callable[[str, frozenset[str]], None]


class Office:
    def __init__(
        self, broker: Broker, pipeline: Pipeline, classifier: Classifier | None, hands: Hands, guard: bool
    ) -> None:
        cabinet = Cabinet(broker)
        self.rules = Rules(broker, pipeline, hands.banned, hands.retracted)
        self.trail = Trail(cabinet)
        self.retraction = Retraction(cabinet, hands.retract, hands.announce)
        self.review = Review(cabinet, self.trail, self.retraction, hands.publish, hands.tell)
        self.desk = Desk(cabinet, self.trail, hands.announce, self.retraction)
        self.alarms = Alarms(broker, pipeline, self.trail, hands.announce, hands.reply, hands.spawn, guard)
        self.classifier = classifier
        self.look = None if classifier is None else Look(classifier, self.review, self.rules, hands.spawn)

    async def start(self) -> None:
        """From the return on what is set holds here. Raises Unavailable; may be called again then."""
        await self.rules.start()
        await self.review.start()

    def housekeep(self, known: Callable[[int], object]) -> None:
        """To be called once a second; `known` tells which sockets are still there."""
        self.alarms.housekeep(known)
        if self.look is not None:
            self.look.turn()

    def figures(self) -> dict[str, int]:
        found = self.retraction.took.figures() | {"comments_unmarked": self.review.unmarked}
        return found if self.look is None else found | self.look.figures()

    async def close(self) -> None:
        if self.classifier is not None:
            await self.classifier.close()
