# The broker's contract: what every broker promises, as types and docstrings. tests/broker/test_contract.py holds
# each of them to it. It owns no state and does no I/O, and must never import anything of edge.

import re
from collections.abc import Awaitable, Callable, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol, runtime_checkable

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
OFFER_ITEMS = 512
OFFER_BYTES = 256 * 1024
"""The largest offer, in items and in their bytes together."""
SUBJECT_CHARS = 128
KEY_CHARS = 200
VALUE_BYTES = 256 * 1024
"""The largest value that is kept."""

LEASE_TTL_S = 15.0
LEASE_HELD = 2 / 3
"""Of the TTL, from the sending of the last accepted renewal: how long a holder acts on its lease."""


class BrokerError(Exception):
    """Something that the broker refused or could not do. Nothing was stored, but for Unsettled."""


class Unavailable(BrokerError):
    """There is no way to the broker just now. The call was never sent: nothing was stored, trying again is safe."""


class Full(BrokerError):
    """A bound of the broker is reached, and nothing may be forgotten to make place."""


class Unsettled(BrokerError):
    """The way to the broker broke or took too long after sending, and how it ended could not be read in time: it may be
    stored, or may yet be."""


class Closed(BrokerError):
    """This broker has been closed by its own side."""


class Misfit(BrokerError):
    """What is there is not what this node is set to: other shards, a stream with other settings, no way to log in.
    Waiting does not help; the text says in one line what has to be changed."""


class Kind(IntEnum):
    STORED = 0
    FENCED = 1
    UNKNOWN = 2


class Outcome(NamedTuple):
    """How an append ended. `head` is the batch's own number when STORED, the lane's last number when FENCED (0 for
    a room that the broker does not hold), and means nothing when UNKNOWN. `epoch` is the lane's when FENCED: greater
    than the caller's where somebody with a later lease writes there now."""

    kind: Kind
    head: int
    epoch: int = 0


UNKNOWN = Outcome(Kind.UNKNOWN, 0)

Entry = tuple[int, bytes]
"""A batch with its number."""

Mark = tuple[int, int]
"""How far a room's batches cover its shard's offers: (5, 3) is all of the offers up to 4, and the first 3 items of 5.
So item `i` of offer `n` is covered where (n, i) < mark."""
NO_MARK = (0, 0)


class Last(NamedTuple):
    """How a lane ends: its last number, the greatest epoch that has written or fenced it, its last batch's mark."""

    head: int
    epoch: int
    mark: Mark


class Standing(NamedTuple):
    """Where a shard's log stands, for the one who goes on with it: the offers up to `after` are covered, and what is
    in `rooms` has its chat lane as told. A room that is not there has an empty one, or one to be looked up."""

    after: int
    rooms: dict[str, Last]


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


class Taker(Protocol):
    """Where a shard's offers go. Synchronous, short, and must not raise (an exception is logged)."""

    def offered(self, shard: int, seq: int, items: list[bytes]) -> None:
        """One stored offer: the next after the last one given."""

    def reset(self, shard: int) -> None:
        """The broker has lost offers that it had stored, and numbers them anew: what was covered can't be told by
        number any more. Nothing follows; the taker leaves, and takes the shard again."""


class Lease(Protocol):
    """The right to write a shard's chat. What keeps another from writing in its lanes is not this but `fence`."""

    @property
    def shard(self) -> int: ...
    @property
    def epoch(self) -> int:
        """Greater than that of any lease of the shard before."""
        ...

    @property
    def ttl_s(self) -> float: ...

    @property
    def held(self) -> bool:
        """It may be acted upon now. It ends by itself, by this process's own clock, two thirds of the TTL after the
        last accepted renewal was *sent*: well before anybody else can get it. Once False it stays so."""
        ...

    async def renew(self) -> bool:
        """For another TTL. False: it is not ours any more. Raises Unavailable where that is not known; it may be tried
        again while `held`."""
        ...

    async def release(self) -> None:
        """Others may have it at once. Never fails: where it can't be told, it runs out."""
        ...


class Kept(NamedTuple):
    """What is kept under a key. Revisions grow with every change of anything that the broker keeps."""

    key: str
    value: bytes
    revision: int


class Gone(NamedTuple):
    """What was kept under the key has been removed."""

    key: str


Watcher = Callable[[Kept | Gone], None]
"""Synchronous, short, and must not raise (an exception is logged)."""
Hearer = Callable[[bytes], None]
Answerer = Callable[[str, bytes], Awaitable[bytes]]


@runtime_checkable
class Answers(Protocol):
    """What some brokers can do besides: answer those who publish without being a node."""

    async def answer(self, verb: str, answerer: Answerer) -> None:
        """A request from outside for a room is answered by `answerer(room, body)`, at one of those that call this."""
        ...


@runtime_checkable
class AtOnce(Protocol):
    """A broker that has all in this process: it takes an offer without a wait, and its coroutines wait for nothing but
    a disk."""

    def offer_now(self, shard: int, items: Sequence[bytes]) -> None:
        """As `offer`, and STORED on the return."""
        ...


class Broker(Protocol):
    """What joins workers: the logs of rooms on their way out, offers on their way in, and who writes which room.

    A lane of a room is a log of batches, numbered from 1 without holes. A room belongs to one of `shards` shards. What
    is offered to a shard waits there, in order, for the holder of the shard's lease, who makes batches of it.

    What it keeps of a lane is its tail (TAIL_BYTES, TAIL_BATCHES). A room that nobody is subscribed to may be
    forgotten altogether, the coldest first; its numbering then starts anew, under a greater incarnation. A room with
    a subscriber is not forgotten while the broker lives.

    A call may be cancelled. A cancelled append may or may not be stored; a cancelled subscribe leaves no subscription.

    Every call raises Misfit where this node can't work with the broker that it has found.
    """

    @property
    def connected(self) -> bool:
        """There is a way to the logs, as far as is known just now."""
        ...

    @property
    def shards(self) -> int: ...

    def shard_of(self, room: str) -> int:
        """The same for all workers that share the rooms."""
        ...

    async def append(
        self, room: str, lane: int, batch: bytes, expected: int, epoch: int = 0, mark: Mark = NO_MARK
    ) -> Outcome:
        """Compare-and-set: stores `batch` as number `expected + 1`, if the lane's last number is `expected` now.

        With an `epoch`, that of a lease, also only if no greater one has written to the lane or fenced it; without one
        (0) anybody may append. `mark` is stored with the batch, atomically, and comes back in Last; without one the
        lane's mark stays what it was.

        Atomic: one of several appends that expect the same number is stored, the others are FENCED, and a log never
        forks. Ordered: appends that one caller makes without waiting reach the log in the order of the calls. Every
        subscriber of the room gets it, this caller's own sink too, perhaps before this call has returned.

        STORED: it is in the log, and no reader will see the lane without it while the incarnation lasts.
        FENCED: it is not in the log and never will be.
        UNKNOWN: the way to the broker broke or took too long after sending; it may be in the log, or may yet get
        there. Resolve it by reading (`tail` after `expected`: is the next batch this one?), or by making the very same
        call again, which cannot store it twice; never by guessing.

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

    async def last(self, room: str, lane: int) -> Last:
        """How the lane ends. Sees what `head` sees. Raises Unavailable."""
        ...

    async def tail(self, room: str, lane: int, after: int, most: int = 0) -> list[Entry]:
        """The batches numbered above `after` that are still kept, oldest first, contiguous up to the head: at least
        TAIL_BYTES of them, and up to `most` bytes where that is more and the broker keeps so many. Sees what `head`
        sees. Readers of the same room share a read. Raises Unavailable."""
        ...

    async def offer(self, shard: int, items: Sequence[bytes]) -> Kind:
        """Stores the items together, as the shard's next offer, durably where the broker is durable.

        Atomic: all items or none. Ordered: offers that one caller makes one after the other are in that order; its
        items are in theirs. STORED: whoever consumes the shard gets it, until it is covered. UNKNOWN: the way broke or
        took too long after sending; it may be there, or may yet get there. It must not be offered again by itself (it
        could then be there twice), but its authors may say it again. Never FENCED.

        Raises Unavailable or Full when it is certainly not stored, ValueError for what could never be."""
        ...

    async def consume(self, shard: int, after: int, taker: Taker) -> None:
        """From here on `taker` gets every stored offer of the shard numbered above `after`, and each later one, in
        order, without a hole or a repeat, until `leave`. Numbers grow, with holes of their own where others' offers
        are numbered in between.

        When the way to the broker breaks, it goes on after the last one given as soon as there is a way again. One
        taker for each shard: a second is a ValueError. Raises Unavailable."""
        ...

    async def leave(self, shard: int) -> None:
        """No call of the taker follows. Never fails; leaving what is not consumed does nothing."""
        ...

    async def covered(self, shard: int, seq: int) -> None:
        """Acknowledges the offers up to `seq`: batches in the log cover them, nobody need see them again, and they may
        be forgotten. Only ever moves forward. Raises Unavailable; calling again later with more is enough."""
        ...

    async def lease(self, shard: int) -> Lease | None:
        """The shard's lease, or None while another has it. At most one holder at any moment; its epoch only grows. It
        is given by whoever asks first, at once after a release, after its TTL where the holder has gone. Raises
        Unavailable."""
        ...

    async def fence(self, shard: int, epoch: int) -> Standing:
        """Where the shard's log stands, for the holder of the lease with that epoch, to be called before it consumes.

        From the return on, an append with a lesser epoch is FENCED in each chat lane of `rooms` that has been written
        to within the last hour: so the previous holder, who may be paused and wake, can't go on there. In others it is
        stopped by its numbers, as soon as this holder has written one batch. Raises Unavailable."""
        ...

    async def keep(self, key: str, value: bytes | None, revision: int | None) -> int:
        """Compare-and-set: stores `value` under `key`, or removes what is there (None), if the key's revision is
        `revision` now: 0 where nothing is there, None for whatever it is. Returns the new revision, or 0 when another
        was faster and nothing was stored. (What the removal of a key returns is not its revision: that is 0 then.)

        Atomic: of several that expect the same revision one is stored. Durable where the broker is durable: what has
        returned survives kill -9 of any process. Whoever watches has it within a second.

        An outcome that the broker did not tell is read from it, until that is certain. Raises Unavailable or Full when
        it is certainly not stored, Unsettled where that could not be found out, ValueError for a key or value that
        could never be stored."""
        ...

    async def find(self, key: str) -> Kept | None:
        """What is kept under this key. Sees every `keep` of it, by anybody, that had returned before. Raises
        Unavailable, and ValueError for a key that could never be kept."""
        ...

    async def kept(self, prefix: str) -> list[Kept]:
        """Everything whose key begins with `prefix`, whole words that end with a dot; in no order. Sees every `keep`,
        by anybody, that had returned before. Each as it was at some moment of the call. Raises Unavailable."""
        ...

    async def watch(self, prefix: str, watcher: Watcher) -> list[Kept]:
        """What `kept` gives, and from then on every change through `watcher`, by this caller too, in order for each
        key. The first call of it comes after this has returned to a caller that awaits it directly.

        It stays when the way to the broker breaks. What was missed is told after that as what is there now: a key that
        was changed several times once, one that was removed as Gone. What is told last counts, whatever its revision: a
        server that has lost the end of its disk takes back what it had told. One watcher for each prefix: a second is a
        ValueError. Raises Unavailable, and does not watch then."""
        ...

    async def unwatch(self, prefix: str) -> None:
        """No call of the watcher follows. Never fails."""
        ...

    async def emit(self, subject: str, message: bytes) -> None:
        """Fire and forget, to every worker that hears the subject now. May be lost; never raises for that."""
        ...

    async def hear(self, subject: str, hearer: Hearer) -> None:
        """What is emitted there from now on, by this worker too. It stays over a break of the way; what is emitted
        meanwhile is lost. One hearer for each subject: a second is a ValueError. May return before there is a way."""
        ...

    async def unhear(self, subject: str) -> None:
        """Never fails."""
        ...

    def figures(self) -> dict[str, int]:
        """Counters of this broker, for metrics: whole numbers that only grow."""
        ...

    async def close(self) -> None:
        """Ends every subscription, lease and call that is under way (appends and offers as UNKNOWN, keeps as Unsettled
        where they may be stored, others as Closed); leases are released where there is a way. Later calls raise
        Closed, but for those that never fail. What is stored stays in a broker that others share."""
        ...


def check_room(room: str) -> None:
    if not room or len(room) > ROOM_CHARS:
        raise ValueError(f"room: 1 to {ROOM_CHARS} characters, not {len(room)}")


def check_lane(lane: int) -> None:
    if lane not in LANES:
        raise ValueError(f"lane: {MUST} or {CHAT}, not {lane}")


def check_shard(shard: int, shards: int) -> None:
    if not 0 <= shard < shards:
        raise ValueError(f"shard: 0 to {shards - 1}, not {shard}")


def check_offer(shard: int, shards: int, items: Sequence[bytes]) -> int:
    """The bytes of all."""
    check_shard(shard, shards)
    if not 0 < len(items) <= OFFER_ITEMS:
        raise ValueError(f"offer: 1 to {OFFER_ITEMS} items, not {len(items)}")
    if (size := sum(map(len, items))) > OFFER_BYTES:
        raise ValueError(f"offer: {size} bytes, and {OFFER_BYTES} is the limit")
    return size


def check_subject(subject: str) -> None:
    if not re.fullmatch(r"[a-z0-9]+(\.[a-z0-9]+)*", subject) or len(subject) > SUBJECT_CHARS:
        raise ValueError(f"subject: words of a-z and 0-9 with dots between, not {subject!r}")


def check_prefix(prefix: str) -> None:
    if not re.fullmatch(r"([A-Za-z0-9_=-]+\.)+", prefix) or len(prefix) > KEY_CHARS:
        raise ValueError(f"prefix: words of letters, digits, _ = and -, each with a dot after it, not {prefix[:60]!r}")


def check_key(key: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_=-]+(\.[A-Za-z0-9_=-]+)*", key) or len(key) > KEY_CHARS:
        raise ValueError(f"key: words of letters, digits, _ = and - with dots between, not {key[:60]!r}")


def check_keep(key: str, value: bytes | None, revision: int | None) -> None:
    check_key(key)
    if value is not None and len(value) > VALUE_BYTES:
        raise ValueError(f"value: {len(value)} bytes, and {VALUE_BYTES} is the limit")
    if revision is not None and not 0 <= revision < 2**63:
        raise ValueError(f"revision: {revision} is none")


def check_append(room: str, lane: int, batch: bytes, expected: int, epoch: int = 0, mark: Mark = NO_MARK) -> None:
    check_room(room)
    check_lane(lane)
    if len(batch) > BATCH_BYTES:
        raise ValueError(f"batch: {len(batch)} bytes, and {BATCH_BYTES} is the limit")
    if expected < 0 or expected >= 2**63:
        raise ValueError(f"expected: {expected} is no position")
    if epoch < 0 or epoch >= 2**63 or min(mark) < 0 or max(mark) >= 2**63:
        raise ValueError(f"epoch {epoch}, mark {mark}: 0 or more")
