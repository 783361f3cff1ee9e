# The third stage: what the classifier says of a comment, and what that leads to. Where it looks first (`pre`) the
# comment waits meanwhile; where it looks later (`post`) everybody has it already. It owns the comments that are being
# looked at, and those that are to be looked at when the classifier is back; both are bounded. Whatever happens here,
# the author has been answered before.
import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from edge.errors import EdgeError
from edge.ingest.classifier import Classifier, Comment, Down, Score
from edge.ingest.verdict import Kind, Ruling, Thresholds
from edge.moderation.review import Review, Waiting
from edge.moderation.rules import Rules

log = logging.getLogger("edge.moderation")

LOOKING = 10_000
"""Comments that are looked at, at a time: past it one stays as it is, and is counted."""
BACKLOG = 10_000
"""Comments that are looked at later. Past it the oldest is left to the moderators, whose queue all of them are in."""
ACTING = 32
"""Comments that are published, removed or marked at a time: what a classifier that has just gone leaves comes all at
once, and whoever comments meanwhile is not to wait for it."""
AT_ONCE = 32
AGAIN_S = 0.02
"""Of those that are left so many are looked at in so long."""


class Look:
    """`spawn` starts a task."""

    def __init__(self, classifier: Classifier, review: Review, rules: Rules, spawn: Callable[[Any], Any]) -> None:
        self._classifier = classifier
        self._review = review
        self._rules = rules
        self._spawn = spawn
        self._thresholds = Thresholds()
        self._looking = 0
        self._acting = asyncio.Semaphore(ACTING)
        self._draining = False
        self._last: dict[tuple[str, str], asyncio.Future[None]] = {}  # of each author in a room: what is to end before
        self._backlog: deque[Waiting] = deque(maxlen=BACKLOG)
        self.removed = 0
        self.unlooked = 0

    def at(self, waiting: Waiting) -> None:
        """Later, the author's comments in their order."""
        if self._looking >= LOOKING:
            self.unlooked += 1
            return
        self._looking += 1
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        author = (waiting.room, waiting.user)
        before, self._last[author] = self._last.get(author), done
        self._spawn(self._look(waiting, before, done))

    def turn(self) -> None:
        """To be called once a second: what was left while the classifier was away, when it is there again."""
        if self._backlog and not self._draining and not self._classifier.is_open:
            self._draining = True
            self._spawn(self._drain())

    async def _drain(self) -> None:
        """A few at a time: whoever comments meanwhile is not to wait for it."""
        try:
            while self._backlog and not self._classifier.is_open:
                for _ in range(min(AT_ONCE, len(self._backlog))):
                    waiting = self._backlog.popleft()
                    if self._review.waits(waiting.room, waiting.comment["id"]):
                        self.at(waiting)
                await asyncio.sleep(AGAIN_S)
        finally:
            self._draining = False

    def figures(self) -> dict[str, int]:
        found = self._classifier.figures()
        return found | {"look_removed": self.removed, "look_left": self.unlooked, "look_backlog": len(self._backlog)}

    async def _look(self, waiting: Waiting, before: asyncio.Future[None] | None, done: asyncio.Future[None]) -> None:
        made, text = waiting.comment["id"], waiting.comment["x"]
        try:
            found = await self._classifier.classify(Comment(made, text, waiting.room, waiting.user))
            if before is not None:
                await asyncio.wait([before])
            async with self._acting:
                if isinstance(found, Score):
                    await self._scored(waiting, found.value)
                else:
                    self._classifier.settled(made)  # the queue is where it is held
                    await self._unscored(waiting, found)
        except EdgeError as error:
            log.info("comment %s in room %s stays as it is: %s", made, waiting.room, error)
        finally:
            self._looking -= 1
            done.set_result(None)
            author = (waiting.room, waiting.user)
            if self._last.get(author) is done:
                del self._last[author]

    async def _unscored(self, waiting: Waiting, found: Down) -> None:
        waiting.reasons = found.verdict.reasons
        if not waiting.shown and found.verdict.kind is Kind.PUBLISH:
            await self._review.show(waiting)
        elif waiting.shown and not waiting.kept:
            await self._review.mark(waiting)
        self._backlog.append(waiting)

    async def _scored(self, waiting: Waiting, score: float) -> None:
        now = time.time()
        ruling = self._thresholds.rule(score, self._rules.strikes(waiting.user, now))
        waiting.score = round(score, 3)
        if ruling is Ruling.REVIEW:
            waiting.reasons = (f"classifier: {waiting.score}",)
            await self._review.mark(waiting)
        elif ruling is Ruling.PASS:
            if waiting.kept:
                await self._review.settle(waiting, True)
        else:
            self.removed += 1
            if ruling is Ruling.SHADOW:
                await self._review.hide(waiting)
            else:
                await self._review.settle(waiting, False)
                await self._review.strike(waiting.user, now)
