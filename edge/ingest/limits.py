# How much of something one user, address or room may have in a while, at a box: token buckets in memory that its
# workers share. Pure: time is an argument, and the memory is given. It must never grow with the number of those who
# try, nor take anything from one bucket for what another refuses.
import ipaddress
from collections.abc import Iterable
from mmap import mmap

from msgspec import Struct

from edge._fast.buckets import Buckets, Purse
from edge.ingest.verdict import Refusal

LINE = 64
ALONE = 1 << 20
"""The bytes of memory of one that shares it with nobody."""
SHARES = {"user": 8, "address": 8, "reactions": 8, "again": 4, "room": 4, "carrier": 2, "moderator": 1, "bot": 1}
"""What part of the memory each kind has: a place of its own, so that many users cannot push out a room."""
MAPPED = bytes(10) + b"\xff\xff"


class Author(Struct, frozen=True, gc=False):
    """What a comment is measured by, of who wrote it: whether they moderate here, are a bot that may say much, have
    subscribed. `newcomer` is up to whoever knows since when they are."""

    user: str
    moderates: bool = False
    bot: bool = False
    subscriber: bool = False
    newcomer: bool = False


class Rates(Struct, frozen=True):
    """How many comments each may send, and in which time; 0 is no limit. `carriers` are networks in which many people
    share an address: each address of theirs may send `carrier_times` as much."""

    user: int = 20
    moderator: int = 100
    bot: int = 7_500
    user_s: float = 30.0
    address: int = 100
    address_s: float = 60.0
    carriers: tuple[str, ...] = ()
    carrier_times: int = 20
    room_per_s: int = 50_000
    all_per_s: int = 200_000
    reactions: int = 30
    reactions_s: float = 10.0


class Limits:
    """What the comments and reactions of a box are measured by.

    `memory` is shared by its workers: 4 KB or more. Its first eight bytes are a secret of who made it, all others are
    zero at first.
    """

    def __init__(self, rates: Rates, memory: bytearray | mmap | None = None) -> None:
        view = memoryview(bytearray(ALONE) if memory is None else memory).cast("B")
        seed = int.from_bytes(view[:8])
        share = (len(view) - 2 * LINE) // LINE // sum(SHARES.values()) * LINE
        at = 2 * LINE

        def of(kind: str, size: int, per_s: float) -> Buckets:
            nonlocal at
            start, at = at, at + SHARES[kind] * share
            return Buckets(size, per_s, view[start:at], seed)

        self._users = of("user", rates.user, rates.user_s)
        self._moderators = of("moderator", rates.moderator, rates.user_s)
        self._bots = of("bot", rates.bot, rates.user_s)
        self._addresses = of("address", rates.address, rates.address_s)
        self._carriers = of("carrier", rates.address * rates.carrier_times, rates.address_s)
        self._rooms = of("room", rates.room_per_s, 1.0)
        self._all = Buckets(rates.all_per_s, 1.0, view[LINE : 2 * LINE], seed)
        self._again = of("again", rates.user, rates.user_s)
        self._reactions = of("reactions", rates.reactions, rates.reactions_s)
        self._shared = Networks(rates.carriers) if rates.carriers else None
        self._words: dict[Buckets, tuple[str, str | None]] = {
            self._addresses: ("address", "too many comments from this address"),
            self._carriers: ("address", "too many comments from this address"),
            self._rooms: ("room", "too many comments in this room"),
            self._all: ("all", "too many comments at this server"),
        }

    def purse(self, author: Author, address: bytes, room: str) -> Purse:
        """What all comments of this author, from there and in that room, are taken from.

        `address` is as the engine has it: 16 bytes, or none where it is not the author's. Those of moderators and
        verified bots are not measured: their own limit is what they are trusted with.
        """
        addresses: tuple[Buckets, bytes] | tuple[()] = ()
        users = self._users
        if author.moderates:
            users = self._moderators
        elif author.bot:
            users = self._bots
        elif address:
            shared = self._shared is not None and address in self._shared
            addresses = (self._carriers if shared else self._addresses), network(address)
        return Purse(users, author.user, *addresses, self._rooms, room, self._all, b"")

    def refusal(self, over: tuple[Buckets, float]) -> Refusal:
        """What a purse's refusal is in words."""
        buckets, wait_s = over
        which, words = self._words.get(buckets, ("user", None))
        return Refusal("too_many", which, wait_s, words)

    def again(self, user: str, purse: Purse, now: float) -> Refusal | None:
        """Takes a comment that is sent again, as it may be where its answer was lost: so many of this user's are free,
        and further ones cost what others do."""
        over = purse.take(now) if self._again.take(user, now) else None
        return None if over is None else self.refusal(over)

    def react(self, user: str, now: float) -> Refusal | None:
        """Takes one reaction of this user."""
        wait_s = self._reactions.take(user, now)
        return Refusal("too_many", "reactions", wait_s, "too many reactions from you") if wait_s else None

    @property
    def evicted(self) -> int:
        """Buckets that this worker has put out of their place before they were full, for want of others."""
        return sum(
            buckets.evicted
            for buckets in (self._users, self._moderators, self._bots, self._again, self._reactions, *self._words)
        )


def network(address: bytes) -> bytes:
    """What of an address stands for its holder: all of an IPv4 one, the /64 of an IPv6 one."""
    return address if len(address) == 4 or address.startswith(MAPPED) else address[:8]


class Networks:
    """A list of networks that an address can be looked for in. Raises ValueError for what is none, naming it."""

    __slots__ = ("_by_length",)

    def __init__(self, networks: Iterable[str]) -> None:
        found: dict[int, set[int]] = {}
        for text in networks:
            try:
                net = ipaddress.ip_network(text)
            except ValueError as bad:
                raise ValueError(f"{text!r} is no network: {bad}") from None
            # IPv4 as IPv6 has it, which is how the engine has it.
            start, length = int(net.network_address), net.prefixlen
            if net.version == 4:
                start, length = int.from_bytes(MAPPED + bytes(4)) | start, length + 96
            found.setdefault(128 - length, set()).add(start >> (128 - length))
        self._by_length = list(found.items())

    def __contains__(self, address: bytes) -> bool:
        number = int.from_bytes(MAPPED + address if len(address) == 4 else address)
        return any(number >> shift in starts for shift, starts in self._by_length)
