"""Whatever somebody writes, the list's word is found in its disguises, nothing raises, and it takes its time in the
length of the text."""

import contextlib
import time
import unicodedata
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import wire
from edge.errors import EdgeError
from edge.ingest.limits import Limits, Rates
from edge.ingest.modes import Author
from edge.ingest.normal import FLAGS, LEET, LOOKALIKE, THIN, collapse, fold, places, skeleton, source, spell
from edge.ingest.patterns import Pattern, Patterns
from edge.ingest.pipeline import Pipeline, Rules
from edge.ingest.text import emote_only, mentions
from edge.ingest.verdict import Kind
from edge.ingest.words import WORK, Entry, WordList, _Look
from tests._fast.engine import bounded
from tests.ingest.test_limits import check

CPU_S = 0.005
letters = "abcdefghijklmnopqrstuvwxyz"
hidden = ["\u200b", "\u200d", "\u2060", "\xad", "\ufe0f", "\u0336", "\u0301", "\u180b", "\ufff9", "\U0001bca0"]
anything = st.text(st.characters(exclude_categories=()), max_size=80)
around = st.sampled_from(["", " ", "!", "... ", "«", "👍", " \u200b", "\n"])


@bounded(150)
@given(st.text(letters, min_size=2, max_size=12), around, around, st.data())
def test_a_listed_word_is_found_in_every_disguise(word: str, before: str, after: str, data: st.DataObject) -> None:
    disguised = ""
    for at, letter in enumerate(word):
        looks = [letter, letter.upper(), letter * 3, chr(ord(letter) + 0xFEE0), chr(ord(letter) - 97 + 0x1D41A)]
        looks += [alike for alike, plain in LOOKALIKE.items() if plain == letter]
        looks += [digit for digit, plain in LEET.items() if plain == letter and digit.isdigit()]
        looks += [letter + mark for mark in hidden]
        if 0 < at < len(word) - 1:
            looks += [sign for sign, plain in THIN.items() if plain == skeleton(letter) and not sign.isalpha()]
            looks = [sign for sign in looks if FLAGS.get(sign, letter) == letter]
        disguised += data.draw(st.sampled_from(looks))
    if any(map(str.isdigit, disguised)) and not any(map(str.isalpha, disguised)):
        disguised = word  # a number is a number
    text = unicodedata.normalize("NFC", f"{before}{disguised}{after}")
    found = WordList([Entry(word)]).find(text, skeleton(text))
    assert found is not None
    assert (found.kind, found.entry) == (Kind.REJECTED, word)
    inside = unicodedata.normalize("NFC", f"xq{disguised}qx")
    assert WordList([Entry(word, whole=False)]).find(inside, skeleton(inside)) is not None


@bounded(300)
@given(anything)
def test_nothing_raises_whatever_the_text_is(text: str) -> None:
    """Halves of surrogate pairs and what is not in NFC are refused before; nothing breaks by them either."""
    plain, folded = source(text), fold(text)
    assert fold(folded) == folded
    bones = collapse(folded)
    assert len(places(spell(plain)[0])) == len(bones)
    with contextlib.suppress(EdgeError):  # there may be too many of them
        mentions(text)
    emote_only(text)
    if not any("\ud800" <= char <= "\udfff" for char in text):
        WordList([Entry("ab", whole=False), Entry("x1")]).find(text, bones)
        Patterns([Pattern("a.b")]).find(text, folded)


@bounded(200)
@given(st.one_of(anything, st.text("a\u0301\u200b@\ufdfa1 🙂", max_size=80)))
def test_what_is_clean_passes_the_whole_way_in(text: str) -> None:
    try:
        clean = wire.clean_text(text)
    except EdgeError as bad:
        assert bad.name == "bad_text"
        return
    assert wire.clean_text(clean) == clean
    pipeline = Pipeline()
    pipeline.set_rules("r", Rules(words=WordList([Entry("mud")]), patterns=Patterns([Pattern("b.d")])))
    assert pipeline.check(pipeline.voice("r", Author("ann")), clean, 0.0).kind in (Kind.PUBLISH, Kind.REJECTED)


HARD = [
    "a", "aA", "4", "@", "$", "é", "\ufdfa", "㌖", "ﬃ", "𝓯", "각", "क\u093c", "e\u0301", "\u200ba", "ab ", "@a ", "@a.",
    "👨\u200d👩\u200d👧 ", "@a-", ":a", ":a:", "1\ufe0f\u20e3", "🇫🇷", "mud", "mu", "m u d ", "0O", "ı",
    "\u0345α", "bud ",
]  # fmt: skip


@pytest.mark.parametrize("piece", HARD)
def test_five_hundred_characters_of_anything_take_their_time(piece: str) -> None:
    """As CPU of this thread; the best of some, since the first may have tables to fill."""
    text = unicodedata.normalize("NFC", piece * 500)[:500]
    words = WordList([Entry("mud"), Entry("mumumud", whole=False), *(Entry(f"word{number}") for number in range(200))])
    patterns = Patterns([Pattern("(a|b)*c.{0,20}d"), Pattern("(mu){3,9}x")])

    def look() -> None:
        folded = fold(text)
        bones = collapse(folded)
        words.find(text, bones)
        patterns.find(text, folded)
        with contextlib.suppress(EdgeError):  # there may be too many of them
            mentions(text)
        emote_only(text)

    assert best_of(20, look) < CPU_S


ALIKE = [Entry("e" * count) for count in range(2, 65)] + [Entry("é" * count, whole=False) for count in range(2, 64)]
NESTED = [Entry(("il" * 32)[-length:] + "s", "hold", bool(length % 2)) for length in range(2, 64)]
SAME = [Entry(f"{a}{b}{c}{d}s") for a, b, c, d in product("aáàâãäåāăą", repeat=4)]


@pytest.mark.parametrize(
    "entries, text",
    [
        (ALIKE, "aé" * 250),
        (ALIKE, "".join("a" + "e" * count for count in range(1, 40))[:500]),
        (NESTED, "1|" * 250),
        (NESTED, "!1s" * 166),
        ([Entry(("ab" * 32)[-length:], "hold") for length in range(2, 65)], "ab" * 249 + "é"),
        ([Entry(("ix" * 31)[-length:] + "ii", whole=False) for length in range(2, 60)], "|x" * 250),
        ([Entry("㍿" * length, "hold") for length in range(1, 65)], "㍿" * 500),
        (SAME, "".join("b" + "a" * (at % 9 + 1) + "ă" * (at // 9 + 1) + "s" for at in range(60))[:500]),
    ],
)
def test_no_list_takes_long_over_any_text(entries: list[Entry], text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As work that is counted: texts that are read, character by character, and looks at them."""
    words, bones = WordList(entries), skeleton(text)
    assert best_of(5, lambda: words.find(text, bones)) < CPU_S
    read: list[int] = []
    is_read = _Look._is_read

    def counted(look: _Look, word: Any, here: tuple[int, int, int, int], *edges: list[bool]) -> bool:
        read.append(here[3] - here[0])
        return is_read(look, word, here, *edges)

    monkeypatch.setattr(_Look, "_is_read", counted)
    words.find(text, bones)
    assert sum(read) <= WORK / 2
    assert len(read) <= WORK / 5


def test_what_is_the_same_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    monkeypatch.setattr("edge.ingest.words._is_number", lambda plain: bool(looked.append(plain)))
    words = WordList(ALIKE)
    looked.clear()
    assert words.find("aé" * 250, "ae" * 250) is None
    assert looked == ["é", "é"]  # between letters, and at the end


def best_of(times: int, work: Callable[[], None]) -> float:
    took = []
    for _ in range(times):
        began = time.thread_time()
        work()
        took.append(time.thread_time() - began)
    return min(took)


moves = st.lists(st.tuples(st.integers(-2, 12), st.sampled_from(["ann", "bob"])), max_size=150)


@bounded(100)
@given(moves)
def test_nobody_has_more_than_their_share_and_who_waits_as_told_is_let_in(moves: list[tuple[int, str]]) -> None:
    """Also where the clock goes back: that gives nobody anything."""
    size, per_s = 4, 8.0
    limits = Limits(Rates(user=size, user_s=per_s, room_per_s=0, all_per_s=0))
    now = least = most = 1000.0
    taken: dict[str, int] = {"ann": 0, "bob": 0}
    for eighths, user in moves:
        now += eighths / 8
        least, most = min(least, now), max(most, now)
        refusal = check(limits, Author(user), b"", "r", now)
        if refusal is None:
            taken[user] += 1
            assert taken[user] <= size + (most - least) * size / per_s + 1e-6
        else:
            assert refusal.retry_after is not None
            assert 0 < refusal.retry_after <= per_s / size + (most - now) + 1e-6
    for user in taken:
        refusal = check(limits, Author(user), b"", "r", most)
        if refusal is not None:
            assert refusal.retry_after is not None
            assert check(limits, Author(user), b"", "r", most + refusal.retry_after * 0.9) is not None
            assert check(limits, Author(user), b"", "r", most + refusal.retry_after) is None
