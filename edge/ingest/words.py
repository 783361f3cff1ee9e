# Lists of words that a comment may not hold, or is looked at for: the first stage of moderation. A list is searched in
# one pass, however long it is. It owns its automaton, which never changes: a changed list is a new one. It must never
# take a list that has a bad entry, in part.
#
# Most texts hold none of the words, and a sieve in front of the automaton knows that of nearly all of them.
#
# What the automaton finds in a skeleton is asked four things: does it stand alone where the entry must; is no run
# shorter than the entry's ("as" is no "ass", "asss" is one); has it the accents that the entry has; is it a number
# where the entry is none (455 runs are no insult). Most finds end at the first, so the rest is worked out when needed.
from collections.abc import Sequence
from typing import Any, NamedTuple

import ahocorasick
from msgspec import Struct

from edge._fast.sieve import Sieve
from edge.errors import EdgeError
from edge.ingest.normal import SIGNS, Place, accented, fold, in_word, is_letter, places, skeleton, source
from edge.ingest.verdict import Kind
from edge.wire import clean_text

WORDS = 10_000
WORD_CHARS = 64
ACTIONS = {"hold": Kind.PENDING, "shadow": Kind.SHADOW, "reject": Kind.REJECTED}


class Entry(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One word or phrase as moderators write it. Where it is not `whole` it is found inside of words, too: in writing
    without spaces between words nothing else finds it."""

    text: str
    action: str = "reject"
    whole: bool = True


class Hit(NamedTuple):
    """What an entry asks for, and the entry, for those who moderate."""

    kind: Kind
    entry: str


class _Word(NamedTuple):
    hit: Hit
    whole: bool
    chars: int
    runs: tuple[int, ...] | None  # None where all are 1
    accents: tuple[tuple[int, str], ...]
    number: bool


class WordList:
    """Raises EdgeError `bad_words`, naming the first entry that is bad."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        if len(entries) > WORDS:
            raise EdgeError("bad_words", f"{len(entries)} entries, and {WORDS} is the limit")
        found: dict[str, list[_Word]] = {}
        for number, entry in enumerate(entries, 1):
            try:
                bones, word = _word(entry)
            except EdgeError as bad:
                raise EdgeError("bad_words", f"entry {number}, {entry.text[:WORD_CHARS]!r}: {bad.message}") from None
            found.setdefault(bones, []).append(word)
        self._automaton: Any = ahocorasick.Automaton()
        for bones, words in found.items():
            self._automaton.add_word(bones, tuple(words))
        self._automaton.make_automaton()
        self._sieve = Sieve([(bones, all(word.whole for word in words)) for bones, words in found.items()])

    def find(self, text: str, bones: str) -> Hit | None:
        """The most severe of what is in the text, whose skeleton is `bones`."""
        if not self._sieve.may(text, bones):
            return None
        best: Hit | None = None
        look: _Look | None = None
        for end, words in self._automaton.iter(bones):
            for word in words:
                if best is not None and word.hit.kind <= best.kind:
                    continue
                start = end + 1 - word.chars
                if word.whole and not _may_stand_alone(bones, start, end, text):
                    continue
                look = look or _Look(text)
                if look.holds(word, start, end):
                    best = word.hit
                    if best.kind is Kind.REJECTED:
                        return best
        return best


NO_WORDS = WordList(())


class Words:
    """What everybody's list and the room's find together. Lists are shared: a room's costs what is its own."""

    __slots__ = ("_everywhere", "_here")

    def __init__(self, everywhere: WordList = NO_WORDS, here: WordList = NO_WORDS) -> None:
        self._everywhere = everywhere
        self._here = here

    def find(self, text: str, bones: str) -> Hit | None:
        if self._everywhere is NO_WORDS:
            return self._here.find(text, bones)
        found = self._everywhere.find(text, bones)
        if found is not None and found.kind is Kind.REJECTED:
            return found
        other = self._here.find(text, bones)
        return other if found is None or (other is not None and other.kind > found.kind) else found


def _word(entry: Entry) -> tuple[str, _Word]:
    kind = ACTIONS.get(entry.action)
    if kind is None:
        raise EdgeError("bad_words", f"the action {entry.action!r} is none of {', '.join(ACTIONS)}")
    text = clean_text(entry.text).strip()
    if len(text) > WORD_CHARS:
        raise EdgeError("bad_words", f"{len(text)} characters, and {WORD_CHARS} is the limit")
    bones = skeleton(text)
    if not any(map(is_letter, bones)) and entry.whole:
        raise EdgeError("bad_words", "no letter or digit in it, which a whole word has")
    if len(fold(text)) < 2 and bones.isascii():
        raise EdgeError("bad_words", "at least two characters are wanted")
    plain = source(text)
    there = places(plain)
    runs = tuple(place.run for place in there)
    accents = tuple(
        (index, accent) for index, place in enumerate(there) if (accent := _accent(plain, place)) is not None
    )
    hit = Hit(kind, entry.text)
    word = _Word(hit, entry.whole, len(bones), None if max(runs) == 1 else runs, accents, _is_number(plain))
    return bones, word


def _accent(plain: str, place: Place) -> str | None:
    return next((accent for char in plain[place.start : place.end] if (accent := accented(char)) is not None), None)


def _is_number(plain: str) -> bool:
    """In digits alone, with what stands between digits."""
    return any(map(str.isdigit, plain)) and not any(char.isalpha() or char in SIGNS for char in plain)


def _may_stand_alone(bones: str, start: int, end: int, text: str) -> bool:
    """Quick, and right but where an @ or a $ stands for a letter or beside one."""
    if not ((start and is_letter(bones[start - 1])) or (end + 1 < len(bones) and is_letter(bones[end + 1]))):
        return True
    return not text.isascii() or any(sign in text for sign in SIGNS)


class _Look:
    """One text from nearby: worked out for the first find that needs it, and kept for the others."""

    def __init__(self, text: str) -> None:
        self._source = source(text)
        self._places = places(self._source)

    def holds(self, word: _Word, start: int, end: int) -> bool:
        there = self._places[start : end + 1]
        if word.runs and any(place.run < run for place, run in zip(there, word.runs, strict=True)):
            return False
        plain = self._source
        first, last = there[0], there[-1]
        if _is_number(plain[first.start : last.end]) != word.number:
            return False
        for index, accent in word.accents:
            place = there[index]
            if all(accented(char) != accent for char in plain[place.start : place.end]):
                return False
        if not word.whole:
            return True
        # A run may hold a sign that is itself: in "me@ass" both the @ and the a are one "a".
        runs = word.runs or (1,)
        before = first.start > 0 and in_word(plain[first.start - 1])
        if before and not (plain[first.start] in SIGNS and first.run > runs[0]):
            return False
        after = last.end < len(plain) and in_word(plain[last.end])
        given = before and len(there) == 1  # the one at its start can't be spared twice
        return not after or (plain[last.end - 1] in SIGNS and last.run > runs[-1] + given)
