# What was left in the queue: comments that some worker was to ask the classifier about, or to do what had been decided
# of, and has not, since the classifier was away, or the broker, or the worker is no more. Who writes the room does it.
# It owns the count of how long each has been there. It must never do what another is at: what is decided is decided
# once, by compare-and-set (review.py).
import asyncio
import logging
import time
from collections.abc import Callable
from itertools import chain, islice
from typing import Any

from edge.errors import EdgeError
from edge.moderation.look import Look
from edge.moderation.review import Review

log = logging.getLogger("edge.moderation")

PATIENCE = 5
"""Turns that one is there before it has been left."""
AT_ONCE = 32
AGAIN_S = 0.02
"""So many are taken up in so long: whoever comments meanwhile is not to wait for it."""
MOST = 1_024
"""In a turn."""


class Left:
    """`writes` tells whether this worker writes a room; `spawn` starts a task."""

    def __init__(
        self, review: Review, look: Look | None, writes: Callable[[str], bool], spawn: Callable[[Any], Any]
    ) -> None:
        self._review = review
        self._look = look
        self._writes = writes
        self._spawn = spawn
        self._working = False

    def turn(self) -> None:
        """To be called once a second."""
        review = self._review
        review.turns += 1
        if self._working:
            return
        waits = [review.undone]
        if self._look is not None and self._look.ready:
            waits.append(review.unlooked)
        since = review.turns - PATIENCE - 1
        due = list(islice(chain(*(it.since(since, self._writes, review.turns) for it in waits)), MOST))
        if due:
            self._working = True
            self._spawn(self._work(due))

    def figures(self) -> dict[str, int]:
        return {"look_backlog": sum(len(keys) for room, keys in self._review.unlooked.items() if self._writes(room))}

    async def _work(self, due: list[str]) -> None:
        try:
            for start in range(0, len(due), AT_ONCE):
                for key in due[start : start + AT_ONCE]:
                    await self._take_up(key)
                await asyncio.sleep(AGAIN_S)
        except EdgeError as error:
            log.info("what was left stays so for a while: %s", error)
        finally:
            self._working = False

    async def _take_up(self, key: str) -> None:
        waiting = await self._review.find(key)
        if waiting is None:
            return
        if waiting.approved is not None:
            await self._review.settle(waiting, time.time())
        elif waiting.unlooked and self._look is not None and self._look.ready:
            self._look.at(waiting)
