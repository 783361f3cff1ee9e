# What has been said in a room since its last batch. It owns the comments until they are taken, and knows how much of
# them makes one batch. It must never do I/O or read a clock.
from collections import OrderedDict
from collections.abc import Callable

from edge.wire import Message

BATCH_BYTES = 32 * 1024 - 256  # as JSON; the rest is for what is around the comments
BATCH_COMMENTS = 200
RECENT = 4096

Done = Callable[[str], None]
"""Told once what became of a comment: `published`, `rejected` (it is certainly in no log) or `unknown`."""


class Waiting:
    """A comment on its way into a batch, and who is to be told."""

    __slots__ = ("comment", "done", "size")

    def __init__(self, comment: Message, size: int, done: Done) -> None:
        self.comment = comment
        self.size = size
        self.done = [done]

    def tell(self, status: str) -> None:
        for done in self.done:
            done(status)


class Window:
    """Comments that wait for their batch, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, Waiting] = OrderedDict()
        self._under_way: dict[str, Waiting] = {}
        self._recent: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, comment: Message, size: int, done: Done) -> None:
        """The same comment (by its id) may come again: it is in one batch, and each of its senders is told."""
        id_ = comment["id"]
        if id_ in self._recent:
            done("published")
        elif (twin := self._waiting.get(id_) or self._under_way.get(id_)) is not None:
            twin.done.append(done)
        else:
            self._waiting[id_] = Waiting(comment, size, done)

    def take(self) -> list[Waiting]:
        """The next batch's comments, as many as make one."""
        size = 0
        while self._waiting and len(self._under_way) < BATCH_COMMENTS:
            id_, waiting = next(iter(self._waiting.items()))
            size += waiting.size
            if self._under_way and size > BATCH_BYTES:
                break
            self._under_way[id_] = self._waiting.pop(id_)
        return list(self._under_way.values())

    def finish(self, status: str) -> None:
        """What was taken has ended so: its senders are told, and what is published is remembered for a while."""
        ended, self._under_way = self._under_way, {}
        for id_, waiting in ended.items():
            if status == "published":
                self._recent[id_] = None
                if len(self._recent) > RECENT:
                    self._recent.popitem(last=False)
            waiting.tell(status)
