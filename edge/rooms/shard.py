# A shard as its owner has it: the rooms that something has been said in, each with its window, its pace, and where its
# log ends. It owns all that the owner knows and has not written; when the shard goes, that is forgotten with it. It
# must never do I/O or read a clock.
from collections.abc import Collection, Iterable, Mapping

import msgspec

from edge import wire
from edge.rooms.pace import Pace
from edge.rooms.reactions import Totals
from edge.rooms.window import Place, Taken, Window

UNKNOWN = (-1, (0, 0))
SAME_S = 60.0
"""A comment that its author sends again within this is the same one."""
PRESENCE_S = 15.0  # how long a worker's count of viewers holds: each says again within this
SILENT_S = 10.0
"""For so long what somebody has said before they were banned may be on its way."""


class Report(msgspec.Struct, array_like=True):
    """What a worker tells of rooms in one shard: name, viewers, how long a broadcast to them takes in ms."""

    worker: str
    rooms: list[tuple[wire.Room, int, int]]


class OwnedRoom:
    __slots__ = (
        "busy",
        "head",
        "mark",
        "name",
        "pace",
        "primed",
        "reacting",
        "silent",
        "totals",
        "ts",
        "viewers",
        "window",
    )

    def __init__(self, name: str, head: int, mark: Place, quick_s: float, kinds: Iterable[str] = ()) -> None:
        self.name = name
        self.head = head  # the last number of the chat lane; below 0 until it has been looked up
        self.mark = mark  # what that covers
        self.primed = False  # where the log ends is known, and what it has shown of late
        self.busy = False  # a batch is due, or on its way
        self.reacting = False  # one for reactions alone will be due, if no other comes before
        self.ts = 0
        self.window = Window()
        self.pace = Pace(quick_s)
        self.totals = Totals(kinds)
        self.silent: dict[str, float] = {}  # users who have just been banned, and until when they are looked for
        self.viewers: dict[str, tuple[float, int]] = {}  # by worker: when it said so, and how many it has

    def prime(self, head: int, mark: Place, batches: list[bytes]) -> int:
        """Where the log ends, and its newest batches, whoever wrote them, oldest first; when the oldest was made."""
        self.head, self.mark = head, mark
        self.window.covered(mark)
        oldest = 0
        reactions = []
        for data in batches:
            try:
                found = _decode(data)
            except msgspec.DecodeError:
                continue
            self.ts = max(self.ts, found.ts)
            oldest = oldest or found.ts
            self.window.known(comment.id for comment in found.m)
            reactions.append(found.r)
        self.totals.prime(reactions)
        return oldest

    def take(self) -> Taken | None:
        """What the next batch covers; nothing more than the last one did, where it is made for reactions alone."""
        taken = self.window.take()
        if taken is None and self.totals.due is not None:
            return Taken([], 0, self.mark)
        return taken

    def reactions_due(self, now: float) -> float | None:
        """When to make a batch for reactions alone, if no other comes before."""
        due = self.totals.due
        return None if due is None else max(due, self.pace.free(now))

    def batch(self, taken: Taken, now: float, now_ms: int) -> bytes:
        """What follows on the head. `ts` never goes back, whatever the clocks do."""
        self.ts = max(self.ts, now_ms)
        of = taken.of if taken.of > len(taken.comments) else None
        reactions = self.totals.take(len(taken.comments), now)
        made = wire.batch(self.head + 1, self.ts, taken.comments, reactions=reactions, viewers=self.count(now), of=of)
        return msgspec.msgpack.encode(made)

    def stored(self, taken: Taken) -> None:
        self.head += 1
        self.mark = taken.mark
        if taken.of:
            self.window.finish(taken)

    def reported(self, now: float, worker: str, viewers: int, sweep_s: float) -> None:
        self.viewers[worker] = (now, viewers)
        if sweep_s:
            self.pace.reported(now, worker, sweep_s)

    def count(self, now: float) -> int | None:
        for worker, (said, _) in list(self.viewers.items()):
            if now - said > PRESENCE_S:
                del self.viewers[worker]
        return sum(count for _, count in self.viewers.values()) if self.viewers else None


class OwnedShard:
    """`kinds` are the reactions that are counted."""

    def __init__(
        self,
        number: int,
        after: int,
        rooms: Mapping[str, tuple[int, Place]],
        quick_s: float,
        kinds: Iterable[str] = (),
    ) -> None:
        self.number = number
        self.seen = after  # the last offer that was given
        self.bad = 0
        self._aged = float("-inf")
        self._quick_s = quick_s
        self._kinds = tuple(kinds)
        self._standing = dict(rooms)
        self.rooms: dict[str, OwnedRoom] = {}

    def room(self, name: str) -> OwnedRoom:
        found = self.rooms.get(name)
        if found is None:
            head, mark = self._standing.pop(name, UNKNOWN)
            found = self.rooms[name] = OwnedRoom(name, head, mark, self._quick_s, self._kinds)
        return found

    def offered(self, seq: int, items: list[bytes]) -> set[OwnedRoom]:
        """Takes one offer in; the rooms that have something to say now."""
        touched: set[OwnedRoom] = set()
        for index, data in enumerate(items):
            try:
                item = wire.decode_item(data, self.rooms)
            except ValueError:
                self.bad += 1
                continue
            room = self.rooms.get(item.room) or self.room(item.room)
            place = (seq, index)
            if place < room.mark:
                continue  # the log has it
            if room.window.add(place, item.id, item.comment, item.size, item.paid):
                touched.add(room)
                if room.silent and author_of(item.comment) in room.silent:
                    room.window.retract((item.id,))
        self.seen = max(self.seen, seq)
        return touched

    def retract(self, room: str, ids: Collection[str]) -> None:
        if room in self.rooms:
            self.rooms[room].window.retract(ids)

    def silence(self, name: str, users: Collection[str], now: float) -> None:
        """What waits of these users is not shown, nor what is on its way here."""
        room = self.room(name)
        room.silent |= dict.fromkeys(users, now + SILENT_S)
        room.window.retract(room.window.said(lambda comment: author_of(comment) in users))

    def unsilence(self, name: str | None, user: str) -> None:
        """In this room, or in all."""
        for room in self.rooms.values() if name is None else filter(None, [self.rooms.get(name)]):
            room.silent.pop(user, None)

    def names(self) -> list[str]:
        """Of the rooms in which something has been said, as far as is known."""
        return [*self.rooms, *self._standing]

    def low(self) -> int:
        """The offers up to this one are covered by batches that are stored."""
        lows = [low[0] - 1 for room in self.rooms.values() if (low := room.window.low) is not None]
        return min([self.seen, *lows])

    def sleep(self, now: float, idle_s: float) -> None:
        """Rooms in which nothing has been said for a while need no more than where their log ends; what was said more
        than a minute ago may be said again."""
        if now - self._aged > SAME_S / 2:
            self._aged = now
            for room in self.rooms.values():
                room.window.age()
        for name, room in list(self.rooms.items()):
            if room.silent:
                room.silent = {user: until for user, until in room.silent.items() if now < until}
            waits = room.busy or room.window or room.totals.due is not None or room.silent
            if not waits and not room.count(now) and room.pace.idle(now, idle_s):
                del self.rooms[name]
                self._standing[name] = (room.head, room.mark)


class _Said(msgspec.Struct):
    id: str


class _Batch(msgspec.Struct):
    ts: int = 0
    m: list[_Said] = []
    r: dict[str, int] = {}


class _Author(msgspec.Struct):
    id: str


class _Comment(msgspec.Struct):
    u: _Author


_decode = msgspec.msgpack.Decoder(_Batch).decode
_comment = msgspec.msgpack.Decoder(_Comment).decode


def author_of(comment: msgspec.Raw) -> str:
    """Empty for one that is not as it should be."""
    try:
        return _comment(comment).u.id
    except msgspec.DecodeError:
        return ""
