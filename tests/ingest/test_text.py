"""What may be written: which texts are taken, whom they mention, what is nothing but emotes."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import EdgeError
from edge.ingest.text import MENTIONS, emote_only, mentions
from edge.wire import TEXT_CHARS, clean_text


@pytest.mark.parametrize(
    "text",
    [
        "what a goal!",
        "Trận đấu tuyệt vời quá, bàn thắng đẹp",
        unicodedata.normalize("NFD", "Trận đấu tuyệt vời quá, bàn thắng đẹp"),
        "नमस्ते दोस्तों, क्या गोल था! स्त्री क्षत्रिय",
        "கிரிக்கெட் ஸ்ரீ",
        "ক্রিকেট শ্রী কর্তৃত্ব",
        "സ്ത്രീ ക്രിക്കറ്റ്",
        "สวัสดี น้ำ ที่นี่",
        "မြွှေ့ ကြွှေ့ မြန်မာ",
        "བསྒྲུབས་ རྒྱུད ཧཱུྃ",
        "ស្ត្រី ក្រុង",
        "שָׁלוֹם בְּרֵאשִׁ֖ית",
        "السَّلَامُ عَلَيْكُمْ",
        "می‌خواهم",
        "👩‍👩‍👧 🏴󠁧󠁢󠁥󠁮󠁧󠁿 1️⃣ ❤️",
        "x" * TEXT_CHARS,
        "가" * TEXT_CHARS,
        "e\u0301" * TEXT_CHARS,
        "a\u0300\u0301\u0302\u0303\u0304",  # one of five makes an à
        "\u200fשלום",
        "\u00a0a",
    ],
)
def test_honest_writing_passes(text: str) -> None:
    assert clean_text(text) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize(
    "text, why",
    [
        ("", "empty"),
        (" \t"[:1], "empty"),
        ("\u3000\u00a0", "empty"),
        ("\u200b\u200d\ufeff", "empty"),
        ("\u3164", "empty"),
        ("\u2800 \U000e0020", "empty"),
        ("x" * 501, "500 characters"),
        ("é" * 501, "500 characters"),
        ("x" * 100_000, "500 characters"),
        ("é" * 100_000, "500 characters"),
        ("e\u0301" * 501, "500 characters"),
        ("a\nb", "U+000A"),
        ("a\x00", "U+0000"),
        ("a\x7f", "U+007F"),
        ("é\x85", "U+0085"),
        ("a\u2028b", "U+2028"),
        ("a\u202eb", "U+202E"),
        ("a\u2066b", "U+2066"),
        ("a\ud800", "U+D800"),
        ("x" + "\u0336" * 5, "marks"),
        ("h" + "\u0489\u0300\u035c\u0321\u0330", "marks"),
        ("क" + "\u093f" * 9, "marks"),
        ("a" + "\U0001d167" * 5, "marks"),
    ],
)
def test_what_is_refused_is_named(text: str, why: str) -> None:
    with pytest.raises(EdgeError) as caught:
        clean_text(text)
    assert caught.value.name == "bad_text"
    assert why in caught.value.message
    assert len(caught.value.message) < 120


@given(st.text(st.characters(codec=None, exclude_categories=()), max_size=600))
def test_a_text_is_refused_or_clean_and_stays_so(text: str) -> None:
    try:
        clean = clean_text(text)
    except EdgeError as bad:
        assert bad.name == "bad_text"
        return
    assert clean_text(clean) == clean == unicodedata.normalize("NFC", text)
    assert 1 <= len(clean) <= TEXT_CHARS
    clean.encode()
    assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in clean)


@pytest.mark.parametrize(
    "text, names",
    [
        ("no one", ()),
        ("@ann", ("ann",)),
        ("hi @ann, and @bob.", ("ann", "bob")),
        ("(@ann) @ann @Ann", ("ann", "Ann")),
        ("@ann_1-b.c!", ("ann_1-b.c",)),
        ("mail me@example.org", ()),
        ("@@ann", ()),
        ("@ ann @", ()),
        ("@दोस्तों @Zoë @山田", ("दोस्तों", "Zoë", "山田")),
        ("@" + "x" * 200, ("x" * 64,)),
        (" ".join(f"@u{number}" for number in range(50)), tuple(f"u{number}" for number in range(MENTIONS))),
    ],
)
def test_mentions(text: str, names: tuple[str, ...]) -> None:
    assert mentions(text) == names


@given(st.text(max_size=200))
def test_mentions_are_in_the_text(text: str) -> None:
    for name in mentions(text):
        assert f"@{name}" in text


@pytest.mark.parametrize(
    "text", ["👏", "👏👏 👏🏽", ":gg:", ":gg::wp: 🔥", "🇫🇷🇧🇷", "1️⃣#⃣", "❤️", "👩‍👩‍👧‍👦 🏳️‍🌈", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", " ⚽ "]
)
def test_emotes(text: str) -> None:
    assert emote_only(text)


@pytest.mark.parametrize(
    "text", ["a", "👏a", "1", "#", ": gg :", "::", ":gg", "🇫", "é", "goal 👏", ":" + "x" * 33 + ":"]
)
def test_no_emotes(text: str) -> None:
    assert not emote_only(text)


@pytest.mark.parametrize(
    "text", ["👩" + "\u200d👩" * 249, ":a:" * 166 + ":", "👏" * 499 + "x", "1️⃣" * 166 + "1", ": :" * 160]
)
def test_long_ones_are_judged_at_once(text: str) -> None:
    """No way to read them twice: a pattern that tries them all would never end here."""
    assert emote_only(text) == (text[0] == "👩")
