# The broker's contract: what every broker promises, as types and docstrings. tests/broker/test_contract.py holds
# each of them to it. It owns no state and does no I/O, and must never import anything of edge.

from enum import IntEnum
from typing import NamedTuple, Protocol

MUST = 0
"""The lane of what every viewer must get: scores, retractions, state."""
CHAT = 1
"""The lane of comments."""
LANES = (MUST, CHAT)

BATCH_BYTES = 64 * 1024
"""The largest batch. A tail is at least as long as this in either lane, so the newest batch is always in it."""
TAIL_BYTES = (64 * 1024, 256 * 1024)
"""What a room's tail keeps of each lane, in bytes of batches: no less than what a worker's own log keeps."""
TAIL_BATCHES = 4096
"""And in number, so that tiny batches cannot cost more in bookkeeping than in bytes."""
ROOM_CHARS = 128


class BrokerError(Exception):
    """Something that the broker refused or could not do. Nothing was stored."""


class Unavailable(BrokerError):
    """There is no way to the broker just now. The call was never sent: nothing was stored, trying again is safe."""


class Full(BrokerError):
    """A bound of the broker is reached, and nothing may be forgotten to make place."""


class Closed(BrokerError):
    """This broker has been closed by its own side."""


class Kind(IntEnum):
    STORED = 0
    FENCED = 1
    UNKNOWN = 2


class Outcome(NamedTuple):
    """How an append ended. `head` is the batch's own number when STORED, the lane's last number when FENCED (0 for
    a room that the broker does not hold), and means nothing when UNKNOWN."""

    kind: Kind
    head: int


UNKNOWN = Outcome(Kind.UNKNOWN, 0)

Entry = tuple[int, bytes]
"""A batch with its number."""


class Tail(NamedTuple):
    """The newest batches of a room, oldest first and contiguous within each lane, up to and with its head.

    `incarnation` names the numbering: while it stays the same, a number means the same batch. It is the unix time in
    milliseconds at which the room was made, and greater than any that this broker has given before."""

    incarnation: int
    must: list[Entry]
    chat: list[Entry]
    heads: tuple[int, int]


class Sink(Protocol):
    """Where a subscription's batches go. Both calls are synchronous, must be short, and must not raise (an exception
    is logged and does no harm to the append or to other subscribers)."""

    def batch(self, room: str, lane: int, seq: int, data: bytes) -> None:
        """One accepted append: the number after the last one that this sink has had of the lane."""

    def reset(self, room: str, tail: Tail) -> None:
        """What the sink held of this room no longer leads to what comes next: the numbering is a new one, or more was
        missed than the broker keeps. `tail` replaces it, and calls of `batch` follow on from `tail.heads`."""


class Broker(Protocol):
    """Logs of rooms, shared by workers. A lane of a room is a log of batches, numbered from 1 without holes.

    What it keeps of a lane is its tail (TAIL_BYTES, TAIL_BATCHES). A room that nobody is subscribed to may be
    forgotten altogether, the coldest first; its numbering then starts anew, under a greater incarnation. A room with
    a subscriber is not forgotten while the broker lives.

    A call may be cancelled. A cancelled append may or may not be stored; a cancelled subscribe leaves no subscription.
    """

    @property
    def connected(self) -> bool:
        """There is a way to the logs, as far as is known just now."""
        ...

    async def append(self, room: str, lane: int, batch: bytes, expected: int) -> Outcome:
        """Compare-and-set: stores `batch` as number `expected + 1`, if the lane's last number is `expected` now.

        Atomic: one of several appends that expect the same number is stored, the others are FENCED, and a log never
        forks. Ordered: appends that one caller makes without waiting reach the log in the order of the calls. Every
        subscriber of the room gets it, this caller's own sink too, perhaps before this call has returned.

        STORED: it is in the log, and no reader will see the lane without it while the incarnation lasts.
        FENCED: it is not in the log and never will be.
        UNKNOWN: the way to the broker broke or took too long after sending; it may be in the log, or may yet get
        there. Resolve it by reading (`tail` after `expected`: is the next batch this one?), or by appending it with
        the same `expected` again, which cannot store it twice; never by guessing.

        Raises Unavailable or Full when it is certainly not stored, ValueError for a room, lane, size or number that
        could never be stored."""
        ...

    async def subscribe(self, room: str, sink: Sink) -> Tail:
        """The room's tail, and from then on every accepted append through `sink`, in order within each lane: no hole
        and no repeat between the tail and the first call, nor after. The room is made if the broker does not have it.

        The first call of `sink` comes after this has returned to a caller that awaits it directly (one that awaits it
        through a task sees the two in either order, and has to compare numbers).

        When the way to the broker breaks, the subscription stays. What was missed is repaired from the log before
        anything later is passed on; where it can't be, `sink.reset` is called, once, and says what is there now.

        One subscription for each room: a second is a ValueError. Raises Unavailable or Full, and is then not
        subscribed."""
        ...

    async def unsubscribe(self, room: str) -> None:
        """No call of the sink follows. Unsubscribing a room that is not subscribed does nothing. Never fails."""
        ...

    async def head(self, room: str, lane: int) -> int:
        """The last number of the lane, 0 for a room that the broker does not hold (it is not made by asking). Sees
        every append of this broker object that was STORED or FENCED before. Raises Unavailable."""
        ...

    async def tail(self, room: str, lane: int, after: int) -> list[Entry]:
        """The batches numbered above `after` that are still kept, oldest first, contiguous up to the head. Sees what
        `head` sees. Raises Unavailable."""
        ...

    async def close(self) -> None:
        """Ends every subscription and every call that is under way (appends as UNKNOWN, others as Closed). Later
        calls raise Closed, but for `unsubscribe` and `close`. Stored batches stay in a broker that others share."""
        ...


def check_room(room: str) -> None:
    if not room or len(room) > ROOM_CHARS:
        raise ValueError(f"room: 1 to {ROOM_CHARS} characters, not {len(room)}")


def check_lane(lane: int) -> None:
    if lane not in LANES:
        raise ValueError(f"lane: {MUST} or {CHAT}, not {lane}")


def check_append(room: str, lane: int, batch: bytes, expected: int) -> None:
    check_room(room)
    check_lane(lane)
    if len(batch) > BATCH_BYTES:
        raise ValueError(f"batch: {len(batch)} bytes, and {BATCH_BYTES} is the limit")
    if expected < 0 or expected >= 2**63:
        raise ValueError(f"expected: {expected} is no position")
