# The normaliser for moderation: writes a text as what it would be read as, so that one entry in a list of words stands
# for all its disguises. Nobody is ever shown what it makes. It owns the table of look-alikes, and must never be used
# for anything that is stored or compared as an identity: it throws away what tells honest words apart.
#
# Three forms of a text: its source (joined up again: NFKC, nothing invisible), folded (each character of the source as
# the plain one that it stands for) and its skeleton (folded, what may stand for one letter as that letter, each run of
# one character as one). A list is searched in skeletons; `spell` and `places` lead from there back to the source, for
# the questions that a skeleton can't answer: "kill" and "kiii" have the same.
#
# What is here says what each form is. A comment's are made by edge/_fast/plain.pyx, in one pass, which asks here what a
# character stands for when it meets it, and has those texts read here in which characters may join into others.
import re
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import chain
from typing import NamedTuple

from edge._fast.plain import Plain
from edge.wire import ACCENTS, UNSEEN

GROWTH = 8
"""A folded text has at most this many characters for one of the text's."""
_WIDE = 4  # what NFKC may make of a text; what it makes more of (18 letters of one U+FDFA) is folded one by one
_KNOWN = 32768  # characters whose folding is remembered; then it begins anew

SIGNS = "@$"
"""What may stand for a letter, and more often stands for itself."""
LEET = dict(zip("013457@$", "oieastas", strict=True))
FLAGS = {chr(0x1F1E6 + at): chr(ord("a") + at) for at in range(26)}
"""The letters that flags are made of."""
THIN = dict(zip("l!|¡89+(", "iiiibgtc", strict=True)) | {flag: "i" if a == "l" else a for flag, a in FLAGS.items()}
"""What may stand for a letter, and mostly does not: it is folded to itself, and the letter in skeletons alone. An l is
there an i, for a 1, a ! and a | may be either."""

# What NFKC leaves as it is and the eye takes for a Latin letter. Lower case (of Cherokee, what Unicode folds it to:
# capitals): the others are folded before, but for those capitals that look like another letter than the small one does.
_LOOKALIKES = {
    "a": "аαɑⲁᎪꓮᗩᗅ", "b": "вβьɓⲃᏴᏏꓐᗷᑲ", "c": "сϲɕᴐↄɔⲥᏟꓚᑕᙅ", "d": "ԁɖɗժᎠᏧꓓᗪᗞᑯ", "e": "еεєҽɛǝⲉᎬꓰᗴ", "f": "ƒғꓝᖴ",
    "g": "ɡցɠᏀᏳꓖᘜ", "h": "нһհɦⲏᎻᏂꓧᕼ", "i": "іιıɩɪⲓᎥꓲᛁ", "j": "јϳʝᎫꓙᒍ", "k": "кκҝқⲕᏦꓗᛕ", "l": "ӏլǀⳑᏞꓡᒪ", "m": "мμⲙᎷꓟᗰᛖ",
    "n": "пηոռⲛꓠᑎ", "o": "оοσօ০๐໐ⲟꓳ", "p": "рρҏⲣᏢꓑᑭ", "q": "ԛզᑫ", "r": "гᴦᎡᏒꓣᖇ", "s": "ѕʂꜱᏕᏚꓢᔕ", "t": "тτⲧᎢꓔ",
    "u": "υսʋꓴᑌ", "v": "νѵᴠᏙꓦᐯ", "w": "ԝωᴡѡᎳᏔꓪᗯ", "x": "хχҳⲭꓫ᙭ᚷ", "y": "уүγყⲩᎩᎽꓬ", "z": "ᴢʐⲍᏃꓜᘔ",
}  # fmt: skip
LOOKALIKE = {alike: plain for plain, many in _LOOKALIKES.items() for alike in many}
CAPITAL = {"Η": "h", "Ν": "n", "Υ": "y", "Ζ": "z", "Տ": "s"}
"""So a word in Greek reads otherwise in capitals."""
_LUNATE = {0x3F2: "c", 0x3F9: "c"}  # the Greek sigma that looks like a c: NFKC makes the one of it that looks like an o
_TWO = {"æ": "ae", "œ": "oe"}

# The rest of the Latin letters in disguise say so by their names: ł, ø, small capitals, 🅰.
_LATIN = re.compile(
    r"(?:NEGATIVE (?:CIRCLED|SQUARED) )?(?:MODIFIER LETTER )?LATIN (?:(?:SMALL|CAPITAL) )?LETTER (?:SMALL CAPITAL )?"
    r"([A-Z])(?: WITH .+)?"
)
# What is not seen between letters: zero width, joiners, fillers, selectors, tags; and accents, which say little here.
_DROPPED = f"{ACCENTS}{UNSEEN}\u202a-\u202e\u2066-\u2069\u2800"
_DROP = re.compile(f"[{_DROPPED}]+")
_RUN = re.compile(r"(.)(?=\1)", re.DOTALL)
_RUNS = re.compile(r"(.)\1*", re.DOTALL)
_ASCII = bytes(ord(LEET.get(chr(code).lower(), chr(code).lower())) for code in range(128)) + bytes(range(128, 256))
_ASCII_SPELLED = _ASCII[: ord("1")] + b"1" + _ASCII[ord("1") + 1 :]
_THIN = str.maketrans(THIN | {"1": "i"})


class Place(NamedTuple):
    """Where a character of a skeleton comes from: what is spelled from `start` up to `end`."""

    start: int
    end: int


class _Table(dict[int, str]):
    """For str.translate: what it has not met it works out, and remembers so many of."""

    def __missing__(self, code: int) -> str:
        if len(self) >= _KNOWN:
            self.clear()
        made = self[code] = _fold_one(chr(code))
        return made


def source(text: str) -> str:
    """The text that folding goes through one by one. `text` is in NFC."""
    if text.isascii():
        return text
    shown = _DROP.sub("", text).translate(_LUNATE)
    wide = unicodedata.normalize("NFKC", shown)
    return wide if len(wide) <= _WIDE * len(shown) else shown


def fold(text: str) -> str:
    """Every letter as the plain one it is, or looks like, or is written for. `text` is in NFC."""
    if text.isascii():
        return text.encode().translate(_ASCII).decode()
    return source(text).translate(_table)


def collapse(folded: str) -> str:
    """The skeleton of what is folded."""
    return _RUN.sub("", folded.translate(_THIN))


def whole(text: str) -> tuple[str | None, str]:
    """The folded text and its skeleton. `text` is in NFC."""
    folded = fold(text)
    return folded, collapse(folded)


def skeleton(text: str) -> str:
    """What texts that read alike have in common. `text` is in NFC."""
    return forms(text)[1]


def spell(source: str) -> tuple[str, Sequence[int]]:
    """The source folded, but for a 1, which may be an i or an l; and where in the source each character comes from."""
    if source.isascii():
        return source.encode().translate(_ASCII_SPELLED).decode(), range(len(source))
    parts = ["1" if char == "1" else _table[ord(char)] for char in source]
    return "".join(parts), [index for index, part in enumerate(parts) for _ in part]


def places(spelled: str) -> list[Place]:
    """For each character of the skeleton where it comes from."""
    return [Place(*match.span()) for match in _RUNS.finditer(thin(spelled))]


def thin(spelled: str) -> str:
    """What may stand for one letter as that letter."""
    return spelled.translate(_THIN)


@lru_cache(4096)
def in_word(char: str) -> bool:
    """Whether this character of a source belongs to a word for sure."""
    return char not in SIGNS and any(map(is_letter, _table[ord(char)]))


def is_letter(folded: str) -> bool:
    return folded.isalnum() or unicodedata.category(folded)[0] == "M"


def accented(char: str) -> str | None:
    """The letter in lower case where it has an accent that folding takes away."""
    lower = unicodedata.normalize("NFC", char.casefold())
    return lower if _DROP.search(unicodedata.normalize("NFKD", lower)) else None


def _fold_one(char: str) -> str:
    apart = unicodedata.normalize("NFKD", char.translate(_LUNATE))
    plain = unicodedata.normalize("NFKD", "".join(CAPITAL.get(one, one) for one in apart).casefold())
    kept = "".join(map(_plain, _DROP.sub("", plain)))
    made = unicodedata.normalize("NFC", kept)
    return made if len(made) <= _WIDE else char


def _plain(char: str) -> str:
    if char in LEET:
        return LEET[char]
    if char in LOOKALIKE:
        return LOOKALIKE[char]
    if char.isascii() or char in _TWO:
        return _TWO.get(char, char)
    named = _LATIN.fullmatch(unicodedata.name(char, ""))
    return named[1].lower() if named else char


_table = _Table()


class Letter(NamedTuple):
    """What there is to know of a character, to fold it where it stands: edge/_fast/plain.pyx says what for."""

    folded: str
    dropped: bool
    lower: bool
    mark: bool
    joins: bool
    joined: bool
    whole: bool
    last: int
    thin: str


def letter(code: int) -> Letter:
    char = chr(code)
    folded = fold(char)
    shown = _LUNATE.get(code, char)
    apart, made = unicodedata.normalize("NFKD", shown), unicodedata.normalize("NFKC", shown)
    joined, joins = _joining()
    mark, second = unicodedata.combining(apart[0]) > 0, apart[0] in joins
    return Letter(
        folded,
        dropped=_DROP.match(char) is not None,
        lower=folded == char.lower() and char != "Σ",  # which has a form of its own at the end of a word
        mark=mark,
        joins=second,
        joined=made[-1] in joined,
        whole=len(made) > _WIDE or (len(apart) > 1 and (mark or second)),
        last=unicodedata.combining(apart[-1]),
        thin=THIN.get(folded, folded),
    )


@cache
def _joining() -> tuple[frozenset[str], frozenset[str]]:
    """In NFC: the characters that another may join, and those others."""
    first = {*map(chr, range(0x1100, 0x1113)), *map(chr, range(0xAC00, 0xD7A4, 28))}  # Hangul has a rule, no table
    second = {*map(chr, range(0x1161, 0x1176)), *map(chr, range(0x11A8, 0x11C3))}
    for char in map(chr, chain(range(0xC0, 0x3100), range(0x10000, 0x17000))):
        one, _, other = unicodedata.decomposition(char).partition(" ")
        if other and one[0] != "<" and unicodedata.normalize("NFC", char) == char:
            first.add(chr(int(one, 16)))
            second.add(chr(int(other, 16)))
    return frozenset(first), frozenset(second)


forms = Plain(letter, whole).read
"""The folded text and its skeleton. In place of the first None where it is what `lower` makes of the text. `text` is in
NFC."""
