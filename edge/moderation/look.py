# The third stage: what the classifier says of a comment, and what that leads to. Where it looks first (`pre`) the
# comment waits meanwhile; where it looks later (`post`) everybody has it already. It owns the comments that are being
# looked at, and no more: one without a score stays in the queue, and is looked at again from there (left.py). Whatever
# happens here, the author has been answered before.
import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from edge.errors import EdgeError
from edge.ingest.classifier import Classifier, Comment, Down, Score
from edge.ingest.verdict import Ruling, Thresholds
from edge.moderation.review import Review, Waiting
from edge.moderation.rules import Rules

log = logging.getLogger("edge.moderation")

LOOKING = 10_000
"""Comments that are looked at, at a time: past it one stays as it is, and is counted."""
ACTING = 32
"""Comments that are published, removed or marked at a time: what a classifier that has just gone leaves comes all at
once, and whoever comments meanwhile is not to wait for it."""


class Look:
    """`spawn` starts a task."""

    def __init__(self, classifier: Classifier, review: Review, rules: Rules, spawn: Callable[[Any], Any]) -> None:
        self._classifier = classifier
        self._review = review
        self._rules = rules
        self._spawn = spawn
        self._thresholds = Thresholds()
        self._acting = asyncio.Semaphore(ACTING)
        self._last: dict[tuple[str, str], asyncio.Future[None]] = {}  # of each author in a room: what is to end before
        self._here: set[tuple[str, str]] = set()  # by room and id, what is being looked at
        self.removed = 0
        self.unlooked = 0

    def at(self, waiting: Waiting) -> None:
        """Later, the author's comments in their order."""
        it = (waiting.room, waiting.comment["id"])
        if it in self._here:
            return
        if len(self._here) >= LOOKING:
            self.unlooked += 1
            return
        self._here.add(it)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        author = (waiting.room, waiting.user)
        before, self._last[author] = self._last.get(author), done
        self._spawn(self._look(waiting, before, done))

    @property
    def ready(self) -> bool:
        """The classifier may be asked just now."""
        return self._classifier.ready

    def figures(self) -> dict[str, int]:
        return self._classifier.figures() | {"look_removed": self.removed, "look_left": self.unlooked}

    async def _look(self, waiting: Waiting, before: asyncio.Future[None] | None, done: asyncio.Future[None]) -> None:
        made, text = waiting.comment["id"], waiting.comment["x"]
        try:
            found = await self._classifier.classify(Comment(made, text, waiting.room, waiting.user))
            if before is not None:
                await asyncio.wait([before])
            async with self._acting:
                if made in self._rules.gone(waiting.room):
                    return
                if isinstance(found, Score):
                    await self._scored(waiting, found.value)
                else:
                    await self._unscored(waiting, found)
        except EdgeError as error:
            log.info("comment %s in room %s stays as it is: %s", made, waiting.room, error)
        finally:
            self._here.discard((waiting.room, made))
            done.set_result(None)
            author = (waiting.room, waiting.user)
            if self._last.get(author) is done:
                del self._last[author]

    async def _unscored(self, waiting: Waiting, found: Down) -> None:
        reasons = (f"classifier: {found.why}",)
        known = waiting.revision and waiting.unlooked and waiting.reasons == reasons
        waiting.reasons, waiting.unlooked = reasons, True
        if not waiting.shown and found.publish:
            await self._review.show(waiting)
        elif not known:
            await self._review.mark(waiting)

    async def _scored(self, waiting: Waiting, score: float) -> None:
        now = time.time()
        ruling = self._thresholds.rule(score, self._rules.strikes(waiting.user, now))
        waiting.score, waiting.unlooked = round(score, 3), False
        if ruling is Ruling.REVIEW:
            waiting.reasons = (f"classifier: {waiting.score}",)
            await self._review.mark(waiting)
        elif ruling is Ruling.PASS:
            if waiting.revision and await self._review.claim(waiting, True):
                await self._review.settle(waiting, now)
        elif await self._review.claim(waiting, False):
            self.removed += 1
            if ruling is Ruling.SHADOW:
                await self._review.hide(waiting)
            else:
                await self._review.settle(waiting, now)
                await self._review.strike(waiting.user, now)
