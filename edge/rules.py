# What moderators have set, as every worker knows it: modes, words, patterns, bans. It is kept by the broker, and
# watched: a change holds on all boxes within a second. It owns this worker's copy. It must never let a bad value from
# there stop a worker: such a one is told, and what held before goes on.
import logging
from collections.abc import Callable
from hashlib import blake2b

import msgspec
from msgspec import Struct

from broker.base import Broker, Gone, Kept
from edge.errors import EdgeError
from edge.ingest.modes import OPEN, Mode
from edge.ingest.patterns import Pattern, Patterns
from edge.ingest.pipeline import Pipeline
from edge.ingest.pipeline import Rules as RoomRules
from edge.ingest.words import NO_WORDS, Entry, WordList
from edge.wire import EVERYWHERE

log = logging.getLogger("edge.rules")

MODES, WORDS, PATTERNS, BANS, GONE = "modes.", "words.", "patterns.", "bans.", "gone."
NOTHING: frozenset[str] = frozenset()
NO_PATTERNS = Patterns()


class Ban(Struct, frozen=True):
    """`until` is unix time in seconds, None for good. Who is shadowed alone sees what they say."""

    user: str
    until: float | None = None
    shadow: bool = False

    def holds(self, now: float) -> bool:
        return self.until is None or now < self.until


def rule_key(prefix: str, room: str) -> str:
    """With a last word, so that what is kept for one room can be asked for by itself."""
    return f"{prefix}{room}.set"


def ban_key(room: str, user: str) -> str:
    """Names have any characters, and keys few."""
    return f"{BANS}{room}.{blake2b(user.encode(), digest_size=16).hexdigest()}"


class Rules:
    """`banned` is called with a room (or EVERYWHERE) and a ban that holds from now on, `retracted` with comments that
    are to be shown no more. Times are unix seconds."""

    def __init__(
        self,
        broker: Broker,
        pipeline: Pipeline,
        banned: Callable[[str, Ban], None],
        retracted: Callable[[str, frozenset[str]], None],
    ) -> None:
        self._broker = broker
        self._pipeline = pipeline
        self._banned = banned
        self._retracted = retracted
        self._gone: dict[str, frozenset[str]] = {}  # by room: the last comments that were retracted
        self._rooms: dict[str, RoomRules] = {}
        self._bans: dict[str, Ban] = {}  # by key

    async def start(self) -> None:
        """From the return on what is set holds here. Raises Unavailable; may be called again then."""
        for prefix in (MODES, WORDS, PATTERNS, BANS, GONE):
            await self._broker.unwatch(prefix)
            for kept in await self._broker.watch(prefix, self._changed):
                self._changed(kept)

    def gone(self, room: str) -> frozenset[str]:
        return self._gone.get(room, NOTHING)

    def mode(self, room: str) -> Mode:
        return self._pipeline.mode(room)

    def ban(self, room: str, user: str, now: float) -> Ban | None:
        """The one that holds for this user in this room, if any; one that hides goes before one that shows."""
        if not self._bans:
            return None
        found = [self._bans.get(ban_key(where, user)) for where in (EVERYWHERE, room)]
        holding = [ban for ban in found if ban is not None and ban.holds(now)]
        return min(holding, key=lambda ban: ban.shadow) if holding else None

    def _changed(self, change: Kept | Gone) -> None:
        value = change.value if isinstance(change, Kept) else None
        kind, _, rest = change.key.partition(".")
        try:
            if kind + "." == BANS:
                self._ban(change.key, value)
            elif kind + "." == GONE:
                self._go(rest.partition(".")[0], value)
            else:
                self._rule(kind + ".", rest.partition(".")[0], value)
        except (msgspec.DecodeError, msgspec.ValidationError, EdgeError) as bad:
            log.error("what is kept as %s can't be used, and what held before goes on: %s", change.key, bad)

    def _ban(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._bans.pop(key, None)
            return
        ban = self._bans[key] = msgspec.json.decode(value, type=Ban)
        self._banned(key.split(".")[1], ban)

    def _go(self, room: str, value: bytes | None) -> None:
        ids = NOTHING if value is None else frozenset(msgspec.json.decode(value, type=list[str]))
        fresh = ids - self.gone(room)
        self._gone[room] = ids
        if fresh:
            self._retracted(room, fresh)

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
