# How much of something one user, address or room may have in a while: token buckets in bounded tables. Pure: time is
# an argument and never goes back. It must never grow with the number of those who try, nor take anything from one
# bucket for what another refuses.
import ipaddress
from collections.abc import Iterable

from msgspec import Struct

from edge.ingest.verdict import Refusal

KEPT = 65536
"""Keys that a table remembers: past it the one that was heard of least lately begins anew, with a full bucket."""
NEARLY_S = 1e-9  # what adding times up may be wrong by

MODERATORS = frozenset({"moderator", "admin"})
"""The roles that moderate."""
BOT, VERIFIED = "bot", "verified"
"""A verified bot has this role, and this badge."""
MAPPED = bytes(10) + b"\xff\xff"


class Buckets:
    """`size` at once, and that many again in `per_s` seconds. No limit where `size` is 0.

    A bucket is one number: when it will be full again. What it lacks now follows from that.
    """

    __slots__ = ("_every", "_half", "_old", "_slack", "_young")

    def __init__(self, size: int, per_s: float, kept: int = KEPT) -> None:
        self._every = per_s / size if size else 0.0
        self._slack = per_s - self._every + NEARLY_S
        # As in recent.py, and by hand: a comment meets four buckets, twice each.
        self._half = max(1, kept // 2)
        self._young: dict[bytes | str, float] = {}
        self._old: dict[bytes | str, float] = {}

    def take(self, key: bytes | str, now: float) -> float:
        """0 where one is taken; else in how many seconds there will be one."""
        wait_s = self.wait(key, now)
        if not wait_s:
            self.spend(key, now)
        return wait_s

    def wait(self, key: bytes | str, now: float) -> float:
        """0 where there is one to be taken; else in how many seconds there will be."""
        full = self._young.get(key) or self._old.get(key)
        if full is None or full - now <= self._slack:
            return 0.0
        self._put(key, full)  # who insists is not forgotten
        return full - now - self._slack + NEARLY_S

    def spend(self, key: bytes | str, now: float) -> None:
        """Takes the one that `wait` has just found."""
        young = self._young
        full = young.get(key)
        if full is not None:
            young[key] = (full if full > now else now) + self._every
        elif self._every:
            full = self._old.get(key, now)
            self._put(key, (full if full > now else now) + self._every)

    def _put(self, key: bytes | str, full: float) -> None:
        if len(self._young) >= self._half and key not in self._young:
            self._old = self._young
            self._young = {}
        self._young[key] = full

    def __len__(self) -> int:
        """No less than the number of keys."""
        return len(self._young) + len(self._old)


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
    kept: int = KEPT


class Limits:
    """What a worker's comments and reactions are measured by. Each limit is the worker's own."""

    def __init__(self, rates: Rates) -> None:
        kept = rates.kept
        self._users = Buckets(rates.user, rates.user_s, kept)
        self._moderators = Buckets(rates.moderator, rates.user_s, kept)
        self._bots = Buckets(rates.bot, rates.user_s, kept)
        self._addresses = Buckets(rates.address, rates.address_s, kept)
        self._carriers = Buckets(rates.address * rates.carrier_times, rates.address_s, kept)
        self._rooms = Buckets(rates.room_per_s, 1.0, kept)
        self._all = Buckets(rates.all_per_s, 1.0, 2)
        self._reactions = Buckets(rates.reactions, rates.reactions_s, kept)
        self._shared = Networks(rates.carriers) if rates.carriers else None

    def check(
        self, user: str, role: str | None, badges: Iterable[str], address: bytes, room: str, now: float
    ) -> Refusal | None:
        """Takes one comment from every bucket that it counts in, or none from any and says which refuses it.

        `address` is as the engine has it: 16 bytes, or none where it is not the author's. Those of moderators and
        verified bots are not measured: their own limit is what they are trusted with.
        """
        addresses: Buckets | None = None
        users = self._users
        if role in MODERATORS:
            users = self._moderators
        elif role == BOT and VERIFIED in badges:
            users = self._bots
        elif address:
            addresses = self._carriers if self._shared is not None and address in self._shared else self._addresses
            address = network(address)
        if wait_s := users.wait(user, now):
            return Refusal("too_many", "user", wait_s)
        if addresses is not None and (wait_s := addresses.wait(address, now)):
            return Refusal("too_many", "address", wait_s, "too many comments from this address")
        if wait_s := self._rooms.wait(room, now):
            return Refusal("too_many", "room", wait_s, "too many comments in this room")
        if wait_s := self._all.wait("", now):
            return Refusal("too_many", "all", wait_s, "too many comments at this server")
        users.spend(user, now)
        if addresses is not None:
            addresses.spend(address, now)
        self._rooms.spend(room, now)
        self._all.spend("", now)
        return None

    def react(self, user: str, now: float) -> Refusal | None:
        """Takes one reaction of this user."""
        wait_s = self._reactions.take(user, now)
        return Refusal("too_many", "reactions", wait_s, "too many reactions from you") if wait_s else None


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
