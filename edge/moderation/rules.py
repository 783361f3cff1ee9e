# What moderators have set, as every worker knows it: modes, pins, words, patterns, bans; and the strikes of authors. It
# is kept by the broker, and watched: a change holds on all boxes within a second. It owns this worker's copy. It must
# never let a bad value from there stop a worker: such a one is told, and what held before goes on.
import logging
from collections.abc import Callable, Set
from math import inf
from typing import Any

import msgspec
from msgspec import Struct

from broker.base import Broker, Gone, Kept
from edge.cabinet import hashed
from edge.errors import EdgeError
from edge.ingest.modes import OPEN, Mode
from edge.ingest.patterns import Pattern, Patterns
from edge.ingest.pipeline import NO_PATTERNS, Pipeline
from edge.ingest.pipeline import Rules as RoomRules
from edge.ingest.words import NO_WORDS, Entry, WordList
from edge.wire import EVERYWHERE

log = logging.getLogger("edge.moderation")

MODES, WORDS, PATTERNS, BANS, GONE = "modes.", "words.", "patterns.", "bans.", "gone."
PINS, STRIKES = "pins.", "strikes."
STRIKES_S = 7 * 24 * 3600.0
"""For how long a removed comment counts against its author."""
STRIKES_KEPT = 8  # of an author, the last
NOTHING: frozenset[str] = frozenset()


class Ban(Struct, frozen=True):
    """`until` is unix time in seconds, None for good. Who is shadowed alone sees what they say."""

    user: str
    until: float | None = None
    shadow: bool = False

    @property
    def out(self) -> bool:
        """Its user is out of the room for good, and knows it: who may not speak for a while, or is alone with it,
        stays."""
        return self.until is None and not self.shadow

    @property
    def weight(self) -> tuple[bool, float]:
        """Of two that hold the one with more is what its user is told: one that shows before one that hides."""
        return not self.shadow, inf if self.until is None else self.until

    def holds(self, now: float) -> bool:
        return self.until is None or now < self.until

    def refusal(self, now: float) -> EdgeError:
        """What its user is told, where it is one that shows."""
        return EdgeError("banned", retry_after=None if self.until is None else max(1.0, round(self.until - now, 3)))


class Strikes(Struct, frozen=True):
    """When comments of theirs were removed."""

    user: str
    times: list[float]


def rule_key(prefix: str, room: str) -> str:
    return f"{prefix}{room}.set"


def gone_key(room: str, part: int) -> str:
    return f"{GONE}{room}.{part}"


def part_of(key: str) -> int:
    return int(key.rpartition(".")[2])


def ban_key(room: str, user: str) -> str:
    return f"{BANS}{room}.{hashed(user)}"


def strike_key(user: str) -> str:
    return rule_key(STRIKES, hashed(user))


def struck(before: bytes | None, user: str, now: float) -> bytes:
    """With one strike more; those that are over are left out."""
    times = [] if before is None else msgspec.json.decode(before, type=Strikes).times
    lately = [then for then in times if then > now - STRIKES_S]
    return msgspec.json.encode(Strikes(user, [*lately, now][-STRIKES_KEPT:]))


def forgiven(strikes: bytes, now: float) -> bool:
    return all(then <= now - STRIKES_S for then in msgspec.json.decode(strikes, type=Strikes).times)


def ended(ban: bytes, now: float) -> bool:
    return not msgspec.json.decode(ban, type=Ban).holds(now)


class Rules:
    """`banned` is called with a room (or EVERYWHERE) and a ban that holds from now on, `unbanned` with a user of whom
    one is no more, `retracted` with comments that are to be shown no more. Times are unix seconds."""

    def __init__(
        self,
        broker: Broker,
        pipeline: Pipeline,
        banned: Callable[[str, Ban], None],
        unbanned: Callable[[str, str], None],
        retracted: Callable[[str, frozenset[str]], None],
    ) -> None:
        self._broker = broker
        self._pipeline = pipeline
        self._banned = banned
        self._unbanned = unbanned
        self._retracted = retracted
        self._gone: dict[str, dict[str, frozenset[str]]] = {}  # by room and key: comments that were retracted
        self._all_gone: dict[str, set[str]] = {}  # the same, by room alone
        self._rooms: dict[str, RoomRules] = {}
        self._bans: dict[tuple[str, str], Ban] = {}  # by room and user
        self._banned_by: dict[str, tuple[str, str]] = {}  # the same, by the key that each is kept under
        self._pins: dict[str, dict[str, Any]] = {}
        self._strikes: dict[str, list[float]] = {}  # by key

    async def start(self) -> None:
        """From the return on what is set holds here. Raises Unavailable; may be called again then."""
        for prefix in (MODES, WORDS, PATTERNS, BANS, GONE, PINS, STRIKES):
            await self._broker.unwatch(prefix)
            for kept in await self._broker.watch(prefix, self._changed):
                self._changed(kept)

    def gone(self, room: str) -> Set[str]:
        return self._all_gone.get(room, NOTHING)

    def mode(self, room: str) -> Mode:
        return self._pipeline.mode(room)

    def pin(self, room: str) -> dict[str, Any] | None:
        return self._pins.get(room)

    def strikes(self, user: str, now: float) -> int:
        """Comments of theirs that were removed lately."""
        return sum(then > now - STRIKES_S for then in self._strikes.get(strike_key(user), ()))

    def ban(self, room: str, user: str, now: float) -> Ban | None:
        """The one that holds for this user in this room, if any."""
        if not self._bans:
            return None
        found = (self._bans.get((where, user)) for where in (EVERYWHERE, room))
        holding = [ban for ban in found if ban is not None and ban.holds(now)]
        return max(holding, key=lambda ban: ban.weight) if holding else None

    def banned(self, room: str) -> set[str]:
        """Who is out of this room for good, and knows it."""
        where = (EVERYWHERE, room)
        return {ban.user for (at, _), ban in self._bans.items() if at in where and ban.out}

    def _changed(self, change: Kept | Gone) -> None:
        value = change.value if isinstance(change, Kept) else None
        kind, _, rest = change.key.partition(".")
        try:
            if kind + "." == BANS:
                self._ban(change.key, value)
            elif kind + "." == GONE:
                self._go(rest.partition(".")[0], change.key, value)
            elif kind + "." == PINS:
                self._pin(rest.partition(".")[0], value)
            elif kind + "." == STRIKES:
                self._strike(change.key, value)
            else:
                self._rule(kind + ".", rest.partition(".")[0], value)
        except (msgspec.DecodeError, msgspec.ValidationError, EdgeError) as bad:
            log.error("what is kept as %s can't be used, and what held before goes on: %s", change.key, bad)

    def _ban(self, key: str, value: bytes | None) -> None:
        if value is None:
            if (at := self._banned_by.pop(key, None)) is not None:
                self._bans.pop(at, None)
                self._unbanned(*at)
            return
        ban, room = msgspec.json.decode(value, type=Ban), key.split(".")[1]
        at = self._banned_by[key] = room, ban.user
        if ban != self._bans.get(at):
            self._bans[at] = ban
            self._banned(room, ban)

    def _go(self, room: str, key: str, value: bytes | None) -> None:
        parts = self._gone.setdefault(room, {})
        before = parts.get(key, NOTHING)
        parts[key] = ids = NOTHING if value is None else frozenset(msgspec.json.decode(value, type=list[str]))
        if not ids:
            del parts[key]
        if before - ids:
            self._all_gone[room] = set().union(*parts.values())
        if not parts:
            del self._gone[room]
            self._all_gone.pop(room, None)
        fresh = ids - self.gone(room)
        if fresh:
            self._all_gone.setdefault(room, set()).update(fresh)
            self._retracted(room, fresh)

    def _pin(self, room: str, value: bytes | None) -> None:
        if value is None:
            self._pins.pop(room, None)
        else:
            self._pins[room] = msgspec.json.decode(value, type=dict[str, Any])

    def _strike(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._strikes.pop(key, None)
        else:
            self._strikes[key] = msgspec.json.decode(value, type=Strikes).times

    def _rule(self, kind: str, room: str, value: bytes | None) -> None:
        if kind == WORDS and room == EVERYWHERE:
            self._pipeline.set_words(words_of(value))
            return
        before = self._rooms.get(room, RoomRules())
        if kind == MODES:
            after = RoomRules(mode_of(value), before.words, before.patterns)
        elif kind == WORDS:
            after = RoomRules(before.mode, words_of(value), before.patterns)
        else:
            after = RoomRules(before.mode, before.words, patterns_of(value))
        if after.mode is OPEN and after.words is NO_WORDS and after.patterns is NO_PATTERNS:
            self._rooms.pop(room, None)
            self._pipeline.set_rules(room, None)
        else:
            self._rooms[room] = after
            self._pipeline.set_rules(room, after)


def mode_of(value: bytes | None) -> Mode:
    found = OPEN if value is None else msgspec.json.decode(value, type=Mode)
    return OPEN if found == OPEN else found


def words_of(value: bytes | None) -> WordList:
    return NO_WORDS if value is None else WordList(msgspec.json.decode(value, type=list[Entry]))


def patterns_of(value: bytes | None) -> Patterns:
    return NO_PATTERNS if value is None else Patterns(msgspec.json.decode(value, type=list[Pattern]))
