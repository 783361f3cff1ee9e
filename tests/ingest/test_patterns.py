"""Sets of patterns: what they match, and which are refused when they are set."""

import random
import re
import string
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import EdgeError
from edge.ingest.normal import fold
from edge.ingest.patterns import _PROBE, PATTERN_CHARS, PATTERN_SIZE, PATTERNS, SET_SIZE, Pattern, Patterns
from edge.ingest.verdict import Kind


def finds(text: str, *patterns: Pattern | str) -> str | None:
    made = Patterns([Pattern(pattern) if isinstance(pattern, str) else pattern for pattern in patterns])
    found = made.find(text, fold(text))
    return found and found.entry


def test_a_pattern_has_no_other_keys() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field `whole`"):
        msgspec.json.decode(b'[{"text":"ghost","whole":false}]', type=list[Pattern])


def test_what_matches() -> None:
    link = r"https?://\S+\.ru\b"
    assert finds("see HTTP://spam.ru now", link) == link
    assert finds("see http://spam.run", link) is None
    assert finds("FREE money", r"(?-i)free") is None
    assert finds("call 555-1234", r"\d{3}-\d{4}") == r"\d{3}-\d{4}"
    assert finds("Какой гол", "КАКОЙ") == "КАКОЙ"
    assert finds("anything") is None


def test_a_disguise_matches_and_so_does_the_text_as_it_is() -> None:
    free = r"free\s+money"
    for text in ("free money", "Fr33 m0ney", "ＦＲＥＥ mоnеу", "f\u200bree  money"):
        assert finds(text, free) == free, text
    assert finds("FR33 money", "(?-i)FR") == "(?-i)FR"


def test_the_most_severe_counts() -> None:
    made = Patterns([Pattern("a", "hold"), Pattern("b", "reject"), Pattern("c", "shadow")])
    for text, kind in (("a", Kind.PENDING), ("ca", Kind.SHADOW), ("cba", Kind.REJECTED), ("b", Kind.REJECTED)):
        found = made.find(text, text)
        assert found is not None
        assert found.kind is kind


@pytest.mark.parametrize(
    "pattern, why",
    [
        (Pattern("(a"), "missing \\)"),
        (Pattern("a)"), "unexpected \\)"),
        (Pattern("[z-a]"), "invalid character class range"),
        (Pattern("a**"), "bad repetition operator"),
        (Pattern("*a"), "no argument for repetition"),
        (Pattern("a{2000}"), "invalid repetition size"),
        (Pattern("((a{100}){100})"), "invalid repetition size"),
        (Pattern(r"(a)\1"), "invalid escape sequence"),
        (Pattern("(?=a)b"), "invalid perl operator"),
        (Pattern("(?<!a)b"), "invalid"),
        (Pattern("a\\"), "trailing"),
        (Pattern(""), "matches nothing at all"),
        (Pattern("a*"), "matches nothing at all"),
        (Pattern("(a|)"), "matches nothing at all"),
        (Pattern("a\ud800"), "surrogate"),
        (Pattern("a" * (PATTERN_CHARS + 1)), f"{PATTERN_CHARS} is the limit"),
        (Pattern("a" * 1_000_000), f"{PATTERN_CHARS} is the limit"),
        (Pattern("(?:abcdefghij){150}"), f"{PATTERN_SIZE} is the limit|too large"),
        (Pattern(r"[\pL\pN]{50}"), f"{PATTERN_SIZE} is the limit|too large"),
        (Pattern("(((((a{10}){10}){10}){10}){10})"), "repetition|limit"),
        (Pattern("a", "explode"), "'explode' is none of hold, shadow, reject"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_bad_pattern_is_named_with_the_reason(pattern: Pattern, why: str) -> None:
    with pytest.raises(EdgeError, match=why) as caught:
        Patterns([Pattern("fine"), pattern])
    assert caught.value.name == "bad_pattern"
    assert caught.value.message.startswith("pattern 2, ")
    assert len(caught.value.message) < 700


def test_a_set_is_bounded() -> None:
    with pytest.raises(EdgeError, match=f"{PATTERNS} is the limit"):
        Patterns([Pattern("fine")] * (PATTERNS + 1))
    with pytest.raises(EdgeError, match=f"more than {SET_SIZE} steps together") as caught:
        Patterns([Pattern("(?:abcdefghij){50}")] * 20)
    assert caught.value.message.startswith("pattern ")
    assert (
        Patterns([Pattern(f"pattern{number}") for number in range(PATTERNS)]).find("pattern199", "pattern199")
        is not None
    )


@given(st.text(st.sampled_from("ab(|)[]*+?{}^$.\\d1,-"), max_size=12))
def test_any_pattern_is_refused_by_name_or_matches_as_python_s_does(pattern: str) -> None:
    try:
        made = Patterns([Pattern(pattern)])
    except EdgeError as bad:
        assert bad.name == "bad_pattern"
        return
    try:
        python = re.compile(pattern, re.IGNORECASE | re.ASCII)
    except (re.error, FutureWarning):
        return  # the two syntaxes differ
    for text in ("ab", "ba1", "aab", "1-1", "bbb", "d"):
        assert (made.find(text, text) is not None) == (python.search(text) is not None), text


def test_nobody_s_pattern_hangs_a_worker() -> None:
    """Patterns that take forever where each way is tried."""
    made = Patterns([Pattern("(a+)+b$"), Pattern("(a|a)*c$"), Pattern("(.*.*)*=x"), Pattern("(a|b)*a(a|b){20}c")])
    rng = random.Random(1)
    start = time.perf_counter()
    for text in ("a" * 500, "".join(rng.choices("ab", k=500)), string.ascii_letters * 9):
        assert made.find(text, text) is None
    assert time.perf_counter() - start < 2


def test_a_text_that_has_the_probe_in_it_is_like_any_other() -> None:
    patterns = Patterns([Pattern("mud")])
    assert patterns.find(f"hi {_PROBE}", None) is None
    hit = patterns.find(f"mud {_PROBE}", None)
    assert hit is not None
    assert hit.entry == "mud"
