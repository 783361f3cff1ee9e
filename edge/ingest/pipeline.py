# A comment's way in, joined: limits, mode, words, patterns, crowd, cheapest first; the stages that need nobody else. It
# owns what a worker knows of its rooms' rules, and what was said in them lately, both bounded. It must never do I/O or
# read a clock, and knows nothing of sockets, brokers or classifiers.
from collections.abc import Mapping
from mmap import mmap

from msgspec import Struct, structs

from edge._fast.buckets import Purse
from edge.ingest import modes
from edge.ingest.crowd import Counts, Echo
from edge.ingest.limits import Author, Limits, Rates
from edge.ingest.modes import AUTO_OFF, OPEN, AutoSlow, Mode
from edge.ingest.normal import forms
from edge.ingest.patterns import Patterns
from edge.ingest.recent import Recent
from edge.ingest.text import mentions
from edge.ingest.verdict import PUBLISH, Kind, Refusal, Verdict
from edge.ingest.words import NO_WORDS, Hit, WordList, Words

ROOMS = 16_384
SPEAKERS = 65_536
"""Whose last comment is remembered in a room that is slow."""
NO_PATTERNS = Patterns()
NOWHERE: Mapping[str, float] = {}
MODERATED = Refusal("moderated", "rules")
PRE = Verdict(Kind.PENDING, None, False, ("mode: pre",))


class Voice(Struct, frozen=True, gc=False):
    """Somebody in a room, as what they say is measured there."""

    room: str
    author: Author
    purse: Purse


class Rules(Struct, frozen=True):
    """What moderators have set for a room."""

    mode: Mode = OPEN
    words: WordList = NO_WORDS
    patterns: Patterns = NO_PATTERNS


class Room:
    """What of one room is known here: its rules, and what was said in it lately."""

    __slots__ = ("auto", "counts", "echo", "guarded", "mode", "patterns", "rules", "said", "words")

    def __init__(self, everywhere: WordList) -> None:
        self.guarded = 0.0  # until when it is for subscribers alone
        self.auto = AutoSlow()
        self.counts = Counts()
        self.echo = Echo()
        self.said: Recent[str, float] = Recent(SPEAKERS)
        self.rules = Rules()
        self.set(self.rules, everywhere)

    def set(self, rules: Rules, everywhere: WordList) -> None:
        self.rules = rules
        self.words = rules.words if everywhere is NO_WORDS else Words(everywhere, rules.words)
        self.patterns = rules.patterns
        self.apply()

    def apply(self) -> None:
        self.mode = self.applied(self.rules.mode)

    def applied(self, mode: Mode) -> Mode:
        """What holds in a room that is set to this mode."""
        mode = self.auto.applied(mode)
        return structs.replace(mode, subs_only=True) if self.guarded and not mode.subs_only else mode

    def turn(self, now: float, elsewhere: float) -> None:
        turned = self.auto.turn(now, elsewhere)
        if self.guarded and now >= self.guarded:
            self.guarded = 0.0
            turned = True
        if turned is not None:
            self.apply()

    def at_rest(self, now: float) -> bool:
        """Nothing is on that has to go off, and nobody speaks."""
        return not (self.auto.is_on or self.guarded or self.counts.all or self.auto.rate(now))


class Pipeline:
    """`everywhere` are the words that hold in all rooms. Rules of a room are set by who has read them, and forgotten
    with it; past `rooms`, a room without rules in which nothing was said lately begins anew."""

    def __init__(
        self,
        rates: Rates | None = None,
        everywhere: WordList = NO_WORDS,
        rooms: int = ROOMS,
        memory: bytearray | mmap | None = None,
    ) -> None:
        self.limits = Limits(rates or Rates(), memory)
        self._everywhere = everywhere
        self._ruled: dict[str, Room] = {}
        self._others: Recent[str, Room] = Recent(rooms)
        self._awake: dict[str, Room] = {}  # where something was said since the last turn, or something is on

    def voice(self, room: str, author: Author, address: bytes = b"") -> Voice:
        """`address` is as the engine has it, or empty where it is not the author's."""
        return Voice(room, author, self.limits.purse(author, address, room))

    def check(self, voice: Voice, text: str, now: float, re: str | None = None, *, paid: bool = False) -> Verdict:
        """What becomes of this comment, decided at once; its text is clean (edge/wire.py). Over a limit it counts in
        the offered rate alone; what is refused for other reasons has been taken from the limits, or trying on would be
        free."""
        name, author = voice.room, voice.author
        room = self._ruled.get(name) or self._room(name)
        self._awake[name] = room
        room.auto.offered(now)
        over = voice.purse.take(now)
        if over is not None:
            refusal = self.limits.refusal(over)
            return Verdict(Kind.REJECTED, refusal, False, (refusal.which,))
        mode = room.mode
        if mode is not OPEN:
            last = room.said.get(author.user) if mode.slow_seconds else None
            held = modes.check(mode, author, text, last, now, paid=paid)
            if held is not None:
                return Verdict(Kind.REJECTED, held, False, (held.name,))
        verdict = PUBLISH if author.moderates else self._moderate(room, author.user, text, now)
        if verdict.kind is not Kind.REJECTED:
            if mode.slow_seconds:
                room.said.put(author.user, now)
            if re is not None or author.newcomer or "@" in text:
                targets = mentions(text) if re is None else (*mentions(text), re)
                room.counts.said(targets, author.newcomer)
            else:
                room.counts.all += 1
        return verdict

    def again(self, voice: Voice, now: float) -> Refusal | None:
        """One that was decided a moment ago, and is sent again: it is offered all the same."""
        room = self._ruled.get(voice.room) or self._room(voice.room)
        self._awake[voice.room] = room
        room.auto.offered(now)
        return self.limits.again(voice.author.user, voice.purse, now)

    def unsaid(self, voice: Voice) -> None:
        """A comment that had passed was refused behind that: who said it need not wait for it."""
        room = self._ruled.get(voice.room) or self._others.get(voice.room)
        if room is not None:
            room.said.drop(voice.author.user)

    def set_rules(self, name: str, rules: Rules | None) -> None:
        """From now on. None where the room has none any more, or is gone."""
        room = self._ruled.pop(name, None) or self._others.get(name) or Room(self._everywhere)
        room.set(rules or Rules(), self._everywhere)
        if rules is None:
            self._others.put(name, room)
        else:
            self._others.drop(name)
            self._ruled[name] = room

    def set_words(self, everywhere: WordList) -> None:
        """Those of all rooms, from now on."""
        self._everywhere = everywhere
        for room in [*self._ruled.values(), *self._others.copy().values()]:
            room.set(room.rules, everywhere)

    def mode(self, name: str) -> Mode:
        """What holds in the room now."""
        room = self._ruled.get(name) or self._others.get(name)
        return OPEN if room is None else room.mode

    def applied(self, name: str, mode: Mode) -> Mode:
        """What would hold in the room, if it were set to this mode."""
        room = self._ruled.get(name) or self._others.get(name)
        return mode if room is None else room.applied(mode)

    def guard(self, name: str, until: float) -> Mode:
        """For subscribers alone, until then at least; what holds in the room now."""
        room = self._ruled.get(name) or self._room(name)
        self._awake[name] = room
        room.guarded = max(room.guarded, until)
        room.apply()
        return room.mode

    def turn(self, now: float, elsewhere: Mapping[str, float] = NOWHERE) -> None:
        """To be called about once a second. `elsewhere` are the rates of rooms at other workers: one that turns slow
        for these does so here, too, whoever comes."""
        for name, rate in elsewhere.items():
            if rate >= AUTO_OFF and name not in self._awake:
                self._awake[name] = self._ruled.get(name) or self._room(name)
        for name, room in list(self._awake.items()):
            room.turn(now, elsewhere.get(name, 0.0))
            if room.at_rest(now):
                del self._awake[name]

    def counted(self) -> list[tuple[str, Counts]]:
        """What has passed since the last time, by room."""
        found = [(name, room) for name, room in self._awake.items() if room.counts.all]
        counts = [(name, room.counts) for name, room in found]
        for _, room in found:
            room.counts = Counts()
        return counts

    def slow(self) -> list[str]:
        """The rooms that are slow by themselves."""
        return [name for name, room in self._awake.items() if room.auto.is_on]

    def rates(self, now: float, least: float = 1.0) -> dict[str, float]:
        """What this worker's rooms are offered, in comments a second: those with so many."""
        found = ((name, room.auto.rate(now)) for name, room in self._awake.items())
        return {name: rate for name, rate in found if rate >= least}

    def _room(self, name: str) -> Room:
        room = self._others.get(name) or Room(self._everywhere)
        self._others.put(name, room)
        return room

    def _moderate(self, room: Room, user: str, text: str, now: float) -> Verdict:
        folded, bones = forms(text)
        hit = room.words.find(text, bones)
        if hit is not None and hit.kind is Kind.REJECTED:
            return _found(hit, "word")
        other = room.patterns.find(text, folded)
        if other is not None and (hit is None or other.kind > hit.kind):
            verdict = _found(other, "pattern")
            if other.kind is Kind.REJECTED:
                return verdict
        else:
            verdict = PUBLISH if hit is None else _found(hit, "word")
        refusal = room.echo.check(bones, user, now)
        if refusal is not None:
            return Verdict(Kind.REJECTED, refusal, False, ("crowd: the same text",))
        return PRE if verdict is PUBLISH and room.mode.moderation == "pre" else verdict


def _found(hit: Hit, what: str) -> Verdict:
    refusal = MODERATED if hit.kind is Kind.REJECTED else None
    return Verdict(hit.kind, refusal, hit.kind is Kind.PENDING, (f"{what}: {hit.entry}",))
