# Lists of words that a comment may not hold, or is looked at for: the first stage of moderation. A list is searched in
# one pass, however long it is. It owns its automaton, which never changes: a changed list is a new one. It must never
# take a list that has a bad entry, in part.
#
# Most texts hold none of the words, and a sieve in front of the automaton knows that of nearly all of them.
#
# What the automaton finds in a skeleton is asked four things: does it stand alone where the entry must; is it spelled
# as the entry is, with no run shorter ("as" is no "ass", "asss" is one; "kiii" is no "kill", "k1ll" is one); has it the
# accents that the entry has; is it a number where the entry is none (455 runs are no insult). Most finds end at the
# first, so the rest is worked out when needed, once for what is there more than once, and not without end: of words
# that are all alike there may be thousands, and a text may have each at each of its characters.
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import ahocorasick
from msgspec import Struct

from edge._fast.plain import runs
from edge._fast.sieve import Sieve
from edge.errors import EdgeError
from edge.ingest.normal import (
    FLAGS,
    SIGNS,
    THIN,
    accented,
    fold,
    in_word,
    is_letter,
    places,
    skeleton,
    source,
    spell,
    thin,
)
from edge.ingest.verdict import Kind
from edge.wire import clean_text

WORDS = 10_000
WORD_CHARS = 64
WORK = 16_000
"""For one text: a find is 1, and to look at one some more. Measured: 0.1 to 0.2 us each."""
_LOOK, _READ = 10, 2
ACTIONS = {"hold": Kind.PENDING, "shadow": Kind.SHADOW, "reject": Kind.REJECTED}

# What a character of an entry may be in a text besides itself. What no letter stands for, as "+", is itself alone.
_STANDS = {"i": "1!|¡", "l": "1!|¡", "1": "il!|¡", "b": "8", "g": "9", "t": "+", "c": "("}
_FLAG = {plain: flag for flag, plain in FLAGS.items()}
# Where a text is in ASCII: the signs behind a letter of a skeleton.
_SIGNS = {"a": "@", "s": "$", "i": "!|", "t": "+", "c": "("}
# What is no letter there, whatever it would make: "(on" is no "con", "Ana!" no "anal".
_NEVER_FIRST, _NEVER_LAST = "(¡", "!"


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
    spelled: str
    accents: tuple[tuple[int, str], ...]
    number: bool


class _Alike(NamedTuple):
    """The words of one skeleton, the most severe first."""

    words: tuple[_Word, ...]
    kind: Kind
    chars: int
    alone: bool  # all of them are whole
    own: str  # a sign without which a text has none of them


class WordList:
    """Raises EdgeError `bad_words`, naming the first entry that is bad."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        if len(entries) > WORDS:
            raise EdgeError("bad_words", f"{len(entries)} entries, and {WORDS} is the limit")
        found: dict[str, list[_Word]] = {}
        for number, entry in enumerate(entries, 1):
            try:
                for bones, word in _words(entry):
                    found.setdefault(bones, []).append(word)
            except EdgeError as bad:
                raise EdgeError("bad_words", f"entry {number}, {entry.text[:WORD_CHARS]!r}: {bad.message}") from None
        every = {bones: _alike(bones, words) for bones, words in found.items()}
        self._kind = max((alike.kind for alike in every.values()), default=Kind.PUBLISH)
        self._automaton: Any = ahocorasick.Automaton()
        for bones, alike in every.items():
            self._automaton.add_word(bones, alike)
        self._automaton.make_automaton()
        self._sieve = Sieve([(bones, alike.alone) for bones, alike in every.items()])

    def find(self, text: str, bones: str) -> Hit | None:
        """The most severe of what is in the text, whose skeleton is `bones`. What takes more than WORK to look at is
        taken for found."""
        if not self._sieve.may(text, bones):
            return None
        best: Hit | None = None
        look: _Look | None = None
        left = WORK
        edge, may_end = -1, True
        for end, alike in self._automaton.iter(bones):
            left -= 1
            if left < 0:
                return best or alike.words[0].hit
            if best is not None and alike.kind <= best.kind:
                continue
            start = end + 1 - alike.chars
            if alike.alone:
                if end != edge:
                    edge, may_end = end, _may_end(bones, end, text)
                if not may_end or not _may_begin(bones, start, text):
                    continue
            if alike.own not in text and text.isascii():
                continue
            look = look or _Look(text)
            found, work = look.worst(alike, start, end, Kind.PUBLISH if best is None else best.kind, left)
            left -= work
            best = found or best
            if best is not None and best.kind is self._kind:
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


def _words(entry: Entry) -> list[tuple[str, _Word]]:
    """One, or some where its skeleton in capitals is another. Each with its skeleton."""
    kind = ACTIONS.get(entry.action)
    if kind is None:
        raise EdgeError("bad_words", f"the action {entry.action!r} is none of {', '.join(ACTIONS)}")
    text = clean_text(entry.text).strip()
    if len(text) > WORD_CHARS:
        raise EdgeError("bad_words", f"{len(text)} characters, and {WORD_CHARS} is the limit")
    if not any(map(is_letter, fold(text))) and entry.whole:
        raise EdgeError("bad_words", "no letter or digit in it, which a whole word has")
    if len(fold(text)) < 2 and fold(text).isascii():
        raise EdgeError("bad_words", "at least two characters are wanted")
    hit = Hit(kind, entry.text)
    if text.isascii():
        return [(skeleton(text), _word(hit, entry.whole, text))]
    written = (text, text.lower(), text.upper(), text.title(), text.capitalize())
    ways = {skeleton(way): way for way in (unicodedata.normalize("NFC", way) for way in reversed(written))}
    return [(bones, _word(hit, entry.whole, way)) for bones, way in ways.items()]


def _word(hit: Hit, whole: bool, text: str) -> _Word:
    plain = source(text)
    spelled, at = spell(plain)
    accents: list[tuple[int, str]] = []
    for index, place in enumerate(places(spelled)) if not text.isascii() else ():
        there = (accented(char) for char in plain[at[place.start] : at[place.end - 1] + 1])
        accents += [(index, accent) for accent in there if accent is not None][:1]
    return _Word(hit, whole, spelled, tuple(accents), _is_number(plain))


def _alike(bones: str, words: list[_Word]) -> _Alike:
    first, *others = sorted(words, key=lambda word: -word.hit.kind)
    own = next((char for char in first.spelled if char in THIN and char != "l"), "")
    if any(own not in word.spelled for word in others):
        own = ""
    return _Alike((first, *others), first.hit.kind, len(bones), all(word.whole for word in words), own)


def _is_number(plain: str) -> bool:
    """In digits alone, with what stands between digits."""
    return any(map(str.isdigit, plain)) and not any(char.isalpha() or char in SIGNS for char in plain)


def _may_begin(bones: str, start: int, text: str) -> bool:
    """Whether a word may, that stands alone. Quick, and right but where a sign stands for a letter or beside one."""
    return not start or not is_letter(bones[start - 1]) or _may_be_signs(bones[start - 1 : start + 1], text)


def _may_end(bones: str, end: int, text: str) -> bool:
    """The same of its end."""
    return end + 1 == len(bones) or not is_letter(bones[end + 1]) or _may_be_signs(bones[end : end + 2], text)


def _may_be_signs(bones: str, text: str) -> bool:
    return not text.isascii() or any(sign in text for bone in bones for sign in _SIGNS.get(bone, ()))


@lru_cache(1024)
def _read_as(spelled: str, number: bool) -> dict[str, int]:
    """For each character of a text which of an entry's it may be, as bits."""
    found: dict[str, int] = {}
    for at, char in enumerate(spelled):
        others = "" if number else _STANDS.get(char, "")
        if len(spelled) > 2 and not number:  # two are a flag
            others += _FLAG.get(char, "")
        for other in char + others:
            found[other] = found.get(other, 0) | 1 << at
    return found


class _Look:
    """One text from nearby: worked out for the first find that needs it, and kept for the others."""

    def __init__(self, text: str) -> None:
        self._source = source(text)
        self._spelled, self._at = spell(self._source)
        self._thin = thin(self._spelled)
        self._known: dict[tuple[Any, ...], Hit | None] = {}

    def worst(self, alike: _Alike, start: int, end: int, least: Kind, left: int) -> tuple[Hit | None, int]:
        """The worst of these words that is here, if it is worse than `least`; and the work that it was."""
        here = starts, head, tail, stops = runs(self._thin, start, end)
        begins = [self._may_begin(index) for index in range(starts, head)]
        ends = [self._may_end(index) for index in range(tail, stops)]
        work = _LOOK + len(begins) + len(ends)
        if alike.alone and not (any(begins) and any(ends)):
            return None, work
        plain = self._plain(starts, stops)
        key = (id(alike), self._spelled[starts:stops], plain, *begins, *ends, least)
        if key in self._known:
            return self._known[key], work
        number = _is_number(plain)
        work += len(plain)
        found: Hit | None = None
        for word in alike.words:
            if word.hit.kind <= least:
                break
            work += 1
            if len(word.spelled) <= stops - starts and word.number == number:
                work += _READ * (stops - starts + len(word.spelled))
                if work > left or (self._is_read(word, here, begins, ends) and self._has_accents(word, start)):
                    found = word.hit
                    break
        self._known[key] = found
        return found, work

    def _plain(self, start: int, end: int) -> str:
        """The source of what is spelled here."""
        return self._source[self._at[start] : self._at[end - 1] + 1]

    def _may_begin(self, index: int) -> bool:
        """Whether a word may, that stands alone. Signs are between words, but where the word has them: "me@ass" has
        "me" and "ass" in it, "@ss" has "ass"."""
        at = self._at[index]
        return not at or (self._at[index - 1] != at and not in_word(self._source[at - 1]))

    def _may_end(self, index: int) -> bool:
        at = self._at[index]
        return at + 1 == len(self._source) or (self._at[index + 1] != at and not in_word(self._source[at + 1]))

    def _is_read(self, word: _Word, here: tuple[int, int, int, int], begins: list[bool], ends: list[bool]) -> bool:
        """Whether this may be read as the word is spelled, each of its characters as often or more often."""
        starts, head, tail, stops = here
        spelled, readable = word.spelled, _read_as(word.spelled, word.number)
        done = 1 << len(spelled) - 1
        at = 0  # the characters of the word that the last one read may be: bits
        for index in range(starts, stops):
            char = self._spelled[index]
            begun = index < head and (begins[index - starts] or not word.whole)
            if begun and char in _NEVER_FIRST and char != spelled[0]:
                begun = False
            at = (at | at << 1 | begun) & readable.get(char, 0)
            ended = index >= tail and (ends[index - tail] or not word.whole)
            if at & done and ended and (char not in _NEVER_LAST or char == spelled[-1]):
                return True
        return False

    def _has_accents(self, word: _Word, start: int) -> bool:
        for index, accent in word.accents:
            starts, ends, _, _ = runs(self._thin, start + index, start + index)
            if all(accented(char) != accent for char in self._plain(starts, ends)):
                return False
        return True
