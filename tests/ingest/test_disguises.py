"""Whatever somebody writes, the list's word is found in its disguises, nothing raises, and it takes its time in the
length of the text."""

import contextlib
import time
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import wire
from edge.errors import EdgeError
from edge.ingest.limits import Limits, Rates
from edge.ingest.modes import Author
from edge.ingest.normal import LEET, LOOKALIKE, collapse, fold, places, skeleton, source
from edge.ingest.patterns import Pattern, Patterns
from edge.ingest.pipeline import Pipeline, Rules
from edge.ingest.text import emote_only, mentions
from edge.ingest.verdict import Kind
from edge.ingest.words import Entry, WordList
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
    for letter in word:
        looks = [letter, letter.upper(), letter * 3, chr(ord(letter) + 0xFEE0), chr(ord(letter) - 97 + 0x1D41A)]
        looks += [alike for alike, plain in LOOKALIKE.items() if plain == letter]
        looks += [digit for digit, plain in LEET.items() if plain == letter and digit.isdigit()]
        looks += [letter + mark for mark in hidden]
        disguised += data.draw(st.sampled_from(looks))
    if disguised[0].isdigit() and all(not char.isalpha() for char in disguised):
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
    assert len(places(plain)) == len(bones)
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
