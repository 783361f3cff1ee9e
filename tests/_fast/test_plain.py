"""Text in C against its references: every character, whatever may join, and texts of all kinds."""

import random
import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import wire
from edge._fast import sys as fast_sys
from edge._fast.plain import Plain, runs
from edge._fast.scan import Scan
from edge._fast.sieve import Sieve
from edge._fast.sketch import Sketch
from edge.ingest import normal
from edge.ingest.normal import forms, letter, skeleton, whole
from edge.ingest.words import Entry
from tests.fuzz.fuzz_text import (
    KEYS,
    clean_holds,
    cleaned,
    forms_hold,
    list_holds,
    names_hold,
    names_model,
    sieve_holds,
)

# The other planes have nothing in them: of those, some.
EVERY = [chr(code) for code in range(0x40000) if not 0xD800 <= code < 0xE000]
EVERY += map(chr, [*range(0xE0000, 0xE1000), *range(0x40000, 0x110000, 61), 0x10FFFF])
# Of each class of marks, and of what joins or is joined, a few; what grows, what is dropped; a base of each kind.
JOINED, JOINS = normal._joining()
MARKS = [char for char in EVERY[:0x20000] if unicodedata.combining(char) or unicodedata.category(char)[0] == "M"]
CLASSES = list({(unicodedata.combining(char), char in JOINS): char for char in MARKS}.values())
BASES = list("aAé.@4l1!+(8Kſ…ｶ가각ᄀ🅰❤нсΣσİıßẞﬃ㌖ﷺ½①אبمकกြ😀\u1e9b\u212b\u0340\u0344\u0958\ufb1d\u0f73\U0001d160")
DROPPED = list("\u200d\ufe0f\u0301\u0327\xad\U000e0041")
TRICKY = [*CLASSES, *BASES, *DROPPED, *sorted(JOINS), *sorted(JOINED)[::11]]

any_text = st.text(st.one_of(st.sampled_from(TRICKY), st.characters(exclude_categories=("Cs",)), st.characters()))
texts = any_text.map(lambda text: unicodedata.normalize("NFC", text))


def normalized(*parts: str) -> str:
    return unicodedata.normalize("NFC", "".join(parts))


def test_every_character_alone_and_between_letters() -> None:
    for char in EVERY:
        forms_hold(normalized(char))
        forms_hold(normalized("Aa", char, char, "é"))


def test_every_character_is_as_clean_as_the_patterns_say() -> None:
    for char in [*EVERY, *map(chr, range(0xD800, 0xE000))]:
        clean_holds(char)
        clean_holds("a" + char)


def test_what_may_join_is_known_wherever_it_is() -> None:
    pairs = []
    for char in EVERY:
        apart = unicodedata.decomposition(char).split()
        if len(apart) == 2 and apart[0][0] != "<" and unicodedata.normalize("NFC", char) == char:
            pairs.append([chr(int(code, 16)) for code in apart])
    assert len(pairs) > 900
    assert {first for first, _ in pairs} <= JOINED
    assert {second for _, second in pairs} <= JOINS
    for syllable in map(chr, range(0xAC00, 0xD7A4)):
        *start, end = unicodedata.normalize("NFD", syllable)
        assert unicodedata.normalize("NFC", "".join(start)) in JOINED
        assert end in JOINS


@pytest.mark.parametrize("dropped", ["", "\u200d", "\u0301"])
def test_every_pair_of_what_is_tricky(dropped: str) -> None:
    for first in TRICKY:
        for second in TRICKY:
            forms_hold(normalized(first, dropped, second))


def test_every_three_of_some() -> None:
    some = [*CLASSES[::4], *BASES[::3], "\u200d", *sorted(JOINS)[::6]]
    for first in some:
        for second in some:
            for third in some:
                forms_hold(normalized(first, second, third))


@given(texts)
@settings(max_examples=1500, deadline=None)
def test_any_text_reads_as_its_reference(text: str) -> None:
    forms_hold(text)


@pytest.mark.parametrize("char", [*TRICKY[::9], "\ufdfa", "㌖", "ﬃ", "…", "\U0010ffff", "\U00050000"])
@pytest.mark.parametrize("count", [1, 500, 512, 513, 2000])
def test_the_longest(char: str, count: int) -> None:
    forms_hold(normalized(char * count))
    forms_hold(normalized("ab" * (count // 2), char))
    clean_holds(char * count)
    names_hold(skeleton(normalized(char, "x") * (count // 2)))


def test_the_usual_is_not_read_as_a_whole() -> None:
    """Honest text in many scripts: each is read in one pass."""

    def refuse(text: str) -> tuple[str | None, str]:
        raise AssertionError(ascii(text))

    read = Plain(letter, refuse).read
    for text in (
        "What a GOAL!!! 2-1",
        "¿Dónde está el balón? C'était génial, größer",
        "Привет всем, ёлки",
        "Bàn thắng tuyệt vời quá các bạn ơi",
        "今すぐ無料で！！素晴らしいゴール…ｗｗｗ",
        "진짜 대박이다 ㅋㅋㅋ",
        "नमस्ते ज़िन्दगी कैसे हैं किं",
        "অসাধারণ গোল করেছে বাংলাদেশ",
        "அருமையான கோல் வாழ்த்துக்கள்",
        "ประตูสวยมากครับ ที่สุด",
        "هدف رائع جدًّا مُحَمَّد",
        "שָׁלוֹם עולם",
        "❤️ 👩‍👩‍👧 🇧🇷 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f ½ ™ №",
    ):
        text = normalized(text)
        folded, bones = read(text)
        assert (text.lower() if folded is None else folded, bones) == whole(text)


def test_folded_is_not_made_where_it_is_the_lower_case() -> None:
    for text in ("", "Hello, World!", "hello", "[]^_`{|}~", "今日は"):
        assert forms(text)[0] is None
    for text in ("h3llo", "A@B", "a\u200db", "ОЧЕНЬ", "ΟΔΟΣ"):
        assert forms(text)[0] == normal.fold(text)


def test_a_character_is_asked_for_once() -> None:
    asked: list[int] = []

    def learn(code: int) -> normal.Letter:
        asked.append(code)
        return letter(code)

    read = Plain(learn, whole).read
    for _ in range(3):
        read("жук 😀 \U000e0041 \U0010ffff")
    assert asked == [*range(128), *map(ord, "жук😀\U000e0041")]


def test_what_learning_raises_goes_up_and_leaves_nothing() -> None:
    met = False

    def learn(code: int) -> normal.Letter:
        if code > 127 and not met:
            raise LookupError(code)
        return letter(code)

    read = Plain(learn, whole).read
    with pytest.raises(LookupError):
        read("ж")
    met = True
    assert read("Ж") == (None, "ж")


@given(any_text)
@settings(max_examples=1500, deadline=None)
def test_any_text_is_as_clean_as_the_patterns_say(text: str) -> None:
    clean_holds(text)


PARTED = "aक😀 \u2800\u0301\u0488\u1ace\u093f\u0e38\u3099\U00011047\U0001d165\U00010efd"
UNPARTED = "\u200d\u034f\u115f\ufe0f\U000e0100\U00016fe4"  # which hold no marks apart
marks = st.sampled_from(PARTED + UNPARTED)


@given(st.lists(st.tuples(marks, st.integers(1, 10)), max_size=6))
@settings(max_examples=1500, deadline=None)
def test_runs_of_marks_are_as_long_as_the_patterns_allow(runs: list[tuple[str, int]]) -> None:
    clean_holds("".join(char * count for char, count in runs))
    clean_holds("".join(char * count for char, count in runs)[1:])


def test_the_usual_is_clean_at_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """The patterns are not asked, once each character has been."""
    usual = ("Приве\u0301т 😀", "ग़\u0902", "a" * 499 + "é")
    for text in usual:
        wire.clean_text(text)
    monkeypatch.setattr(wire, "_BAD_TEXT", None)
    for text in usual:
        assert cleaned(wire.clean_text, text) == unicodedata.normalize("NFC", text)


@given(st.text("abcdeж今😀 \u3000\x1f\u2028", max_size=120))
@settings(max_examples=1500, deadline=None)
def test_names_are_the_model_s(bones: str) -> None:
    names_hold(bones)


@given(any_text)
@settings(max_examples=500, deadline=None)
def test_names_of_any_text(text: str) -> None:
    names_hold(text)


def test_words_are_apart_where_python_has_them_apart() -> None:
    for char in EVERY[:0x10000]:
        assert names_model(f"aaaa{char}bbbb{char}cccc{char}dddd") is not None or not char.isspace()
        if char.isspace() or ord(char) < 0x100:
            names_hold(f"aaaa{char}bbbb{char}cccc{char}dddd")
    wide, narrow = "word next more 今日は今日 then", "word next more last then"
    assert {*(Sketch(KEYS).names(wide) or ())} & {*(Sketch(KEYS).names(narrow) or ())}


def test_names_follow_from_the_keys() -> None:
    bones = "cheap followers for everybody visit example"
    one, two = KEYS
    assert Sketch((one - (1 << 64), two)).names(bones) == Sketch(KEYS).names(bones)  # as a hash of Python's may be
    found = {Sketch(keys).names(bones) for keys in (KEYS, (one ^ 1, two), (one, two ^ 2), (two, one))}
    assert len(found) == 4
    every = [name for names in found for name in names or ()]
    assert len(set(every)) == len(every)
    assert all(0 <= name < 1 << 60 for name in every)


words = st.text("ab1l! ж@", min_size=1, max_size=12)


@given(st.text("ab1@$ .жAl!+", max_size=60), st.lists(st.tuples(words, st.booleans()), max_size=8))
@settings(max_examples=2000, deadline=None)
def test_the_sieve_lets_no_word_pass(text: str, listed: list[tuple[str, bool]]) -> None:
    sieve_holds(text, [(skeleton(word), alone) for word, alone in listed])


entry_texts = st.text("ab1lst!+(8sж今@$🇦", min_size=2, max_size=10).filter(lambda text: len(skeleton(text)) > 1)
entries = st.builds(Entry, entry_texts, st.sampled_from(["reject", "hold", "shadow"]), st.booleans())


@given(st.text("aAbB148slti!|+(ж今@$ .\u0301🇦", max_size=60), st.lists(entries, max_size=6))
@settings(max_examples=2000, deadline=None)
def test_a_list_finds_what_it_finds_without_its_sieve(text: str, listed: list[Entry]) -> None:
    listed = [entry for entry in listed if any(map(normal.is_letter, normal.fold(entry.text)))]
    if listed:
        list_holds(normalized(text), listed)


def names(count: int, seed: int, least: int = 4) -> Iterator[str]:
    chance = random.Random(seed)
    for _ in range(count):
        yield skeleton("".join(chance.choices("etaoinshrdlucmfwypgbvk", k=chance.randint(least, 9))))


@pytest.mark.parametrize("count", [1, 100, 1000, 10_000])
def test_the_sieve_keeps_most_of_what_holds_no_word(count: int) -> None:
    sieve = Sieve([(word, True) for word in names(count, 1, least=6)])
    chat = [" ".join(names(10, seed)) for seed in range(1000)]
    assert sum(sieve.may(text, skeleton(text)) for text in chat) < 50
    inside = Sieve([(word, False) for word in names(count, 1, least=8)])
    assert sum(inside.may(text, skeleton(text)) for text in chat) < 100


def test_a_word_that_must_stand_alone_is_looked_for_alone() -> None:
    sieve = Sieve([("as", True), ("heio", True)])
    for text in ("clas", "asist", "pas it", "helos", "shelo", "x0as"):
        assert not sieve.may(text, skeleton(text))
    # Signs, and none that may be the letter beside it.
    for text in ("clasp(", "bask @(c+", "asp|", "a+b pass it", "shelo +(@", "clas$"):
        assert not sieve.may(text, skeleton(text))
    for text in ("as", "as!", "(as)", "an as", "a helo", "helo", "@clas", "a$", "clasж", "жas", "yes!as"):
        assert sieve.may(text, skeleton(text))
    for text in ("!as", "as+as", "|as(", "helo(i)", "i+helo", "helo!it", "as$as"):
        assert sieve.may(text, skeleton(text))


def test_it_keeps_within_its_bounds_and_gives_back_what_it_took() -> None:
    before = fast_sys.memory()
    sieve = Sieve([(f"{number:064}", False) for number in range(10_000)])
    assert fast_sys.memory()["bytes"] - before["bytes"] == 1 << 20
    sieve = Sieve([])
    assert not sieve.may("anything", "anything")
    del sieve
    plain = Plain(letter, whole)
    scan = Scan(wire._seen, (4, 8, 4))
    for char in EVERY:
        plain.read(char)
        scan.fine(char)
    every = fast_sys.memory()["bytes"]
    for char in EVERY[3::101]:
        plain.read(char)
        scan.fine(char)
    assert every == fast_sys.memory()["bytes"] < before["bytes"] + (6 << 20)
    del plain, scan
    assert fast_sys.memory() == before


@given(st.text("aabж今", min_size=1, max_size=30))
def test_runs_are_the_places_of_a_skeleton(text: str) -> None:
    there = normal.places(text)
    for first, one in enumerate(there):
        for last, other in enumerate(there[first:], first):
            assert runs(text, first, last) == (*one, *other)
    for first, last in ((0, len(there)), (len(there), len(there)), (-1, -2), (1, 0)):
        with pytest.raises(IndexError):
            runs(text, first, last)


def test_only_text_is_text() -> None:
    for call in (forms, wire._scan.fine, Sketch(KEYS).names):
        for wrong in (b"bytes", None, 1):
            with pytest.raises(TypeError):
                call(wrong)  # type: ignore[operator]
    with pytest.raises(TypeError):
        Sieve([("a", False)]).may("a", b"a")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Sieve([("a", False)]).may(None, "a")  # type: ignore[arg-type]
    for words in (None, [(b"a", False)], [(None, False)]):
        with pytest.raises(TypeError):
            Sieve(words)  # type: ignore[arg-type]
