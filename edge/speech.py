# What becomes of a comment that somebody says here: bans and rules first, then the offer, the queue, or a refusal. It
# owns the memory of what was said a moment ago, by which a retry is known. It must never tell the author more than is
# certain, nor ask anybody remote before it has answered.
import logging
import time
from collections.abc import Callable
from typing import Any

from edge import wire
from edge.auth import Identity
from edge.desk import Desk, Waiting
from edge.errors import EdgeError
from edge.ingest.classifier import Classifier, Comment, Score
from edge.ingest.modes import Author
from edge.ingest.pipeline import PRE, Facts, Pipeline
from edge.ingest.recent import Recent
from edge.ingest.verdict import Kind, Ruling, Thresholds, Verdict
from edge.offers import Done, Offers
from edge.rules import Rules

log = logging.getLogger("edge.speech")

SHADOW = Verdict(Kind.SHADOW)
SAID = 65_536
"""Comments that are known again when they are sent once more, with the same `ref`."""
HOLDING = 1_000
"""Comments on their way into the queue, at a time; past it they are refused."""


class Speech:
    """`spawn` starts a task."""

    def __init__(
        self,
        offers: Offers,
        pipeline: Pipeline,
        rules: Rules,
        desk: Desk,
        spawn: Callable[[Any], Any],
        classifier: Classifier | None = None,
    ) -> None:
        self._offers = offers
        self._pipeline = pipeline
        self._rules = rules
        self._desk = desk
        self._spawn = spawn
        self._classifier = classifier
        self._thresholds = Thresholds()
        self._said: Recent[str, Verdict] = Recent(SAID)
        self._holding = 0
        self.rejected = 0
        self.shadowed = 0
        self.held = 0

    def say(self, identity: Identity, room: str, body: wire.CommentBody, made: str, address: bytes, done: Done) -> None:
        """`done` is called later, or at once; an EdgeError says why the comment was not taken."""
        now = time.time()
        ban = self._rules.ban(room, identity.user, now)
        if ban is not None and not ban.shadow:
            self.rejected += 1
            wait_s = None if ban.until is None else max(1.0, round(ban.until - now, 3))
            raise EdgeError("banned", retry_after=wait_s)
        # One that is sent again, because its answer was lost, is measured once.
        verdict = self._said.get(made) or self._judge(identity, room, body, address)
        if ban is not None:
            verdict = SHADOW
        self._said.put(made, verdict)
        if verdict.kind is Kind.SHADOW:
            self.shadowed += 1
            done("published")
            return
        comment = wire.comment(made, identity.public(), body.x, int(now * 1000), re=body.re, tier=identity.tier)
        if verdict.kind is Kind.PENDING:
            self._hold(Waiting(room, identity.user, verdict.reasons, comment), done)
        else:
            self._offers.take(room, comment, done)

    def _judge(self, identity: Identity, room: str, body: wire.CommentBody, address: bytes) -> Verdict:
        # In dev mode everybody has every scope, and is measured like anybody all the same: their tokens never end.
        moderates = "moderate" in identity.scopes and identity.exp is not None
        role = "moderator" if moderates else identity.role
        author = Author(identity.user, role, identity.badges, subscriber=identity.tier is not None)
        verdict = self._pipeline.check(Facts(room, author, body.x, address, body.re), time.monotonic())
        if verdict.kind is Kind.REJECTED:
            self.rejected += 1
            assert verdict.refusal is not None
            raise verdict.refusal.error()
        return verdict

    def _hold(self, waiting: Waiting, done: Done) -> None:
        if self._holding >= HOLDING:
            raise EdgeError("overloaded", retry_after=2)
        self._holding += 1
        self.held += 1
        self._spawn(self._held(waiting, done))

    async def _held(self, waiting: Waiting, done: Done) -> None:
        status = "unknown"
        try:
            status = await self._desk.hold(waiting)
        finally:
            self._holding -= 1
            done(status)
        if status == "pending" and self._classifier is not None and waiting.reasons == PRE.reasons:
            await self._classify(self._classifier, waiting)

    async def _classify(self, classifier: Classifier, waiting: Waiting) -> None:
        """Its author has been answered, and it is kept: whatever happens here, it waits for a moderator at worst."""
        made, room = waiting.comment["id"], waiting.room
        found = await classifier.classify(Comment(made, waiting.comment["x"], room, waiting.user))
        try:
            if isinstance(found, Score):
                ruling = self._thresholds.rule(found.value)
                if ruling in (Ruling.PASS, Ruling.REMOVE):
                    await self._desk.decide(None, room, made, ruling is Ruling.PASS, time.time())
            elif found.verdict.kind is Kind.PUBLISH:
                await self._desk.decide(None, room, made, True, time.time())
            else:
                classifier.settled(made)  # the queue is where it is held
        except EdgeError as error:
            log.info("comment %s in room %s waits for a moderator: %s", made, room, error)
