# What one watcher has been told of what is kept: Watched. It owns which keys that is, and what comes while they are
# being read. It must never tell anything twice, nor an older state after a newer one.

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from broker.base import Gone, Kept, Watcher

log = logging.getLogger("broker")


class _Change(NamedTuple):
    key: str
    value: bytes | None
    revision: int


class Watched:
    """`begin`, then `first` with what has been read since, then `release`; and each time that something may have been
    missed, `begin` and `again`. `changed` at any time, in order for each key. `first` and `again` may be given an older
    state than has been told by `changed` meanwhile, even nothing."""

    __slots__ = ("_early", "_known", "_watcher", "ended", "prefix")

    def __init__(self, prefix: str, watcher: Watcher) -> None:
        self.prefix = prefix
        self._watcher = watcher
        self._known: dict[str, tuple[int, int]] = {}  # revision, and hash: a log that lost its end numbers on anew
        self._early: list[_Change] | None = []  # what comes while it is not told
        self.ended = False

    def begin(self) -> None:
        self._early = []

    def end(self) -> None:
        """Nothing is told any more."""
        self.ended = True

    def changed(self, key: str, value: bytes | None, revision: int) -> None:
        change = _Change(key, value, revision)
        if self._early is None:
            self._tell(change)
        else:
            self._early.append(change)

    def first(self, found: Iterable[Kept]) -> list[Kept]:
        """What is there; `release` lets the watcher have the rest."""
        there = self._merged(found)
        self._known = {it.key: _mark(it) for it in there.values()}
        self._early = []
        return list(there.values())

    def release(self) -> None:
        early, self._early = self._early or [], None
        for change in early:
            self._tell(change)

    def again(self, found: Iterable[Kept]) -> None:
        """Tells what is not as it was told before."""
        there = self._merged(found)
        self._early = None
        for key in [key for key in self._known if key not in there]:
            del self._known[key]
            self._pass_on(Gone(key))
        for it in there.values():
            if self._known.get(it.key) != _mark(it):
                self._known[it.key] = _mark(it)
                self._pass_on(it)

    def _merged(self, found: Iterable[Kept]) -> dict[str, Kept]:
        there = {it.key: it for it in found}
        for key, value, revision in self._early or ():
            if key in there and there[key].revision >= revision:
                continue
            if value is None:
                there.pop(key, None)
            else:
                there[key] = Kept(key, value, revision)
        return there

    def _tell(self, change: _Change) -> None:
        key, value, revision = change
        before = self._known.get(key)
        if value is None:
            if before is not None and before[0] < revision:
                del self._known[key]
                self._pass_on(Gone(key))
        elif before is None or before[0] < revision:
            self._known[key] = (revision, hash(value))
            self._pass_on(Kept(key, value, revision))

    def _pass_on(self, news: Kept | Gone) -> None:
        if self.ended:  # by the watcher itself, perhaps, on the news before
            return
        try:
            self._watcher(news)
        except Exception:
            log.exception("a watcher of %s failed on %s", self.prefix, news.key)


def _mark(it: Kept) -> tuple[int, int]:
    return it.revision, hash(it.value)


async def whole(page: Callable[[str], Awaitable[tuple[list[Kept], bool]]]) -> list[Kept]:
    """All pages of a reading, each after the last key of the one before."""
    found: list[Kept] = []
    more = True
    while more:
        some, more = await page(found[-1].key if found else "")
        found += some
    return found
