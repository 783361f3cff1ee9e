# What has been said in a room since its last batch: comments that wait, in the order of their offers. It owns them
# until the batch that covers them is stored, and accounts for each: one that cannot be shown is counted. It must never
# do I/O or read a clock.
#
# A comment's place is (offer, item). A batch covers all places up to its mark: what it shows of them, and what it only
# counts in `of`. So whoever goes on after it knows exactly what is left.
import random
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

import msgspec

from edge._fast.said import Said

BATCH_BYTES = 32 * 1024 - 1024  # as JSON; the rest is for what is around the comments
BATCH_COMMENTS = 200
CARRIED = 5 * BATCH_COMMENTS
"""That wait at most. A burst is shown over the next few batches; of more than that, a fair sample is."""
KNOWN = 2_097_152
"""Comments of a room that are known again, three times over, if they are no older than two calls of `age`."""

Place = tuple[int, int]


class Taken(NamedTuple):
    """A batch to be. `of` is how many comments it stands for, those that it shows among them."""

    comments: list[msgspec.Raw]
    of: int
    mark: Place


class _Waiting(msgspec.Struct, gc=False):
    """One that is `paid` is never left out for one that is not. `before` is how many have been left out between the
    one before it and this one."""

    id: str
    comment: msgspec.Raw
    size: int
    place: Place
    before: int
    paid: bool


class Window:
    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._waiting: list[_Waiting] = []
        self._after = 0  # left out after the last one that waits
        # Which have been left out before it is known what the log covers: by offer, their items as bits.
        self._left: dict[int, int] | None = {}
        self._seen = 0  # since the sampling began: those that wait and those left out
        self._first: Place | None = None  # nothing from here on is covered; None: all is
        self._end: Place = (0, 0)  # everything below has been seen
        self._said = Said(KNOWN)
        self._chance = chance

    def __bool__(self) -> bool:
        return bool(self._waiting) or self._after > 0

    @property
    def low(self) -> Place | None:
        """Whatever is below has been covered by a batch that is stored; None: all that has been seen."""
        return self._first

    def add(self, place: Place, id_: str, comment: msgspec.Raw, size: int, paid: bool = False) -> bool:
        """False for one that has been said already: whoever sends a comment again does not say it twice."""
        self._end = (place[0], place[1] + 1)
        if not self._said.add(id_):
            return False
        if self._first is None:
            self._first = place
        self._seen += 1
        if len(self._waiting) >= CARRIED:
            chosen = self._chosen(paid)
            if chosen < 0:
                self._after += 1
                self._note(place)
                return True  # it is accounted for all the same
            self._leave_out(chosen)
        self._waiting.append(_Waiting(id_, comment, size, place, self._after, paid))
        self._after = 0
        return True

    def _chosen(self, paid: bool) -> int:
        """Which is left out for one more; -1 for that one itself. All that are not paid for have the same chance."""
        if paid:
            free = [index for index, it in enumerate(self._waiting) if not it.paid]
            return free[int(self._chance() * len(free))] if free else -1
        chosen = int(self._chance() * self._seen)
        return chosen if chosen < len(self._waiting) and not self._waiting[chosen].paid else -1

    def _leave_out(self, index: int) -> None:
        gone = self._waiting.pop(index)
        self._note(gone.place)
        if index < len(self._waiting):
            self._waiting[index].before += gone.before + 1
        else:
            self._after += gone.before + 1

    def covered(self, mark: Place) -> None:
        """What is below this mark is in the log already, what was left out of it too. Nothing below it may follow."""
        below = self._left_below(mark)
        while self._waiting and self._waiting[0].place < mark:
            gone = self._waiting.pop(0)
            below -= gone.before
        if self._waiting:
            self._waiting[0].before -= max(0, below)
        else:
            self._after -= max(0, below)
        self._first = max(self._first or mark, mark) if self else None

    def _note(self, place: Place) -> None:
        if self._left is not None:
            self._left[place[0]] = self._left.get(place[0], 0) | 1 << place[1]

    def _left_below(self, mark: Place) -> int:
        """How many of those that were left out; none of them is asked about again."""
        left, self._left = self._left or {}, None
        offer, item = mark
        whole = sum(bits.bit_count() for number, bits in left.items() if number < offer)
        return whole + (left.get(offer, 0) & ((1 << item) - 1)).bit_count()

    def retract(self, ids: Collection[str]) -> None:
        """These are to be shown no more: where they wait they are only counted, and where they come they are known."""
        for index in self._there(ids):
            self._leave_out(index)

    def said(self, by: Callable[[msgspec.Raw], bool]) -> list[str]:
        """Those that wait, of whom `by` says so."""
        return [it.id for it in self._waiting if by(it.comment)]

    def known(self, ids: Iterable[str]) -> None:
        """These are in the log already: they were said again after a change of owner."""
        for index in self._there(ids):
            gone = self._waiting.pop(index)
            if index < len(self._waiting):
                self._waiting[index].before += gone.before
            else:
                self._after += gone.before
        if not self:
            self._first = None

    def _there(self, ids: Iterable[str]) -> list[int]:
        """Where those of these wait that do, from the end; from now on all of them are known."""
        found = {id_ for id_ in ids if not self._said.add(id_)}
        return [i for i in reversed(range(len(self._waiting))) if self._waiting[i].id in found] if found else []

    def take(self) -> Taken | None:
        """The next batch's comments, as many as make one, in their order; None if nothing waits. `finish` ends it."""
        if not self:
            return None
        size = count = 0
        for it in self._waiting[:BATCH_COMMENTS]:
            size += it.size
            if count and size > BATCH_BYTES:
                break
            count += 1
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        self._left = None
        of = count + sum(it.before for it in taken)
        if self._waiting:
            offer, item = taken[-1].place
            mark = (offer, item + 1)
        else:
            mark = self._end
            of += self._after
            self._after = 0
        self._seen = len(self._waiting) + self._after
        return Taken([it.comment for it in taken], of, mark)

    def finish(self, taken: Taken) -> None:
        """What was taken is in the log."""
        self._first = taken.mark if self else None

    def age(self) -> None:
        """To be called now and then: what was said before the last two calls is forgotten."""
        self._said.age()
