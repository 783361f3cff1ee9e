# The totals of a room's reactions, as its owner has them: what the log says, and what has been heard since. It owns
# what the next batch says of them. It must never do I/O or read a clock, nor let a total go back.
#
# A batch says the totals of the kinds that have changed since the last one. So that nobody needs more than the newest
# batches to know all, some say all of them: the first of an owner, the one that follows a change by a second, if only
# for that, and where comments go on without a change at least every 16th, and every one with which 32 comments or more
# have come since the last that did. A replay that shows so many comments has one of these in it, and so has any tail.
from collections.abc import Iterable, Mapping
from typing import Annotated

import msgspec

from edge import wire

EVERY_S = 1.0
"""The time from one batch that says all totals to the next that is made for reactions alone."""
EVERY_BATCHES = 16
EVERY_COMMENTS = 32
MOST = 2**53 - 1
"""A total ends here: what is greater is not exact in every client."""

Counts = Mapping[str, int]
"""By kind."""
Count = Annotated[int, msgspec.Meta(ge=1, le=2**32)]


class Sums(msgspec.Struct, array_like=True):
    """What a worker tells of rooms in one shard: how many of each kind have come in since it told last."""

    rooms: list[tuple[wire.Room, dict[str, Count]]]


class Totals:
    __slots__ = ("_batches", "_changed", "_comments", "_heard", "_kinds", "_logged", "_owed", "_whole_at")

    def __init__(self, kinds: Iterable[str]) -> None:
        self._kinds = tuple(kinds)  # no other is counted, or shown
        self._logged: dict[str, int] = {}  # by whoever wrote before
        self._heard: dict[str, int] = {}
        self._changed: dict[str, None] = {}  # since the last batch, in order
        self._owed = False  # some has changed since the last batch that said all
        self._whole_at = float("-inf")  # when that one was made
        self._batches = EVERY_BATCHES  # since that one; the first one says all
        self._comments = 0  # and in them

    def prime(self, batches: Iterable[Counts]) -> None:
        """What the newest batches of the log say, oldest first."""
        found = {kind: count for said in batches for kind, count in said.items()}
        self._logged = {kind: found[kind] for kind in self._kinds if found.get(kind, 0) > 0}

    def add(self, counts: Counts) -> int:
        """Those that are counted."""
        added = 0
        for kind, count in counts.items():
            if kind in self._kinds:
                self._heard[kind] = self._heard.get(kind, 0) + count
                self._changed[kind] = None
                self._owed = True
                added += count
        return added

    @property
    def due(self) -> float | None:
        """When a batch is wanted for these alone; None where nothing is new."""
        return self._whole_at + EVERY_S if self._owed else None

    def take(self, comments: int, now: float) -> dict[str, int] | None:
        """What the next batch says, which shows so many comments; None for nothing. It counts as said from here on:
        where that batch is not stored, all of this is forgotten."""
        self._batches += 1
        self._comments += comments
        often = self._batches >= EVERY_BATCHES or self._comments >= EVERY_COMMENTS
        whole = often or (self._owed and (not comments or now >= self._whole_at + EVERY_S))
        said = self._kinds if whole else self._changed
        found = {kind: total for kind in said if (total := self._total(kind))}
        if whole and found:
            self._whole_at = now
            self._batches = self._comments = 0
            self._owed = False
        self._changed.clear()
        return found or None

    def _total(self, kind: str) -> int:
        return min(self._logged.get(kind, 0) + self._heard.get(kind, 0), MOST)
