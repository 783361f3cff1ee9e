"""What may be written: which texts are taken, whom they mention, what is nothing but emotes."""

import unicodedata

import pytest
from hypothesis import given, settings
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
        "👨🏽‍🚀❤️‍🔥🏳️‍🌈🇧🇷" * 20 + "1️⃣#️⃣*️⃣" * 20,
        unicodedata.normalize("NFD", "한글 각본 없는 드라마") * 20,
        "अ॒ग्निमी॑ळे पु॒रोहि॑तं" + "य\u1cd0\u0951\u0903",
        "ක්‍රිකට් ශ්‍රී" + "ক্‌ষ" + "ക്‍",
        "בְּרֵא\u034fשִׁ\u05bd֖ית",
        "ᠮᠣᠩᠭᠣᠯ\u180e\u180b",
        "a" + "\u200d" * 300,
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
        *((char, "empty") for char in "\U0001bca0\ufff9\U0001d173\U0001d159\U00013430\U00016fe4\u2065\U000e0100"),
        ("\ufffb \U0001bca3\u200b\u3000", "empty"),
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
        *(
            ("a" + ("\u0300" * 4 + unseen) * 60, "marks")
            for unseen in "\u200d\u200c\u2060\xad\u115f\u3164\u034f\ufe0f\U000e0100\U000e0061\U00016fe4\U0001d173"
        ),
        (("\u0316" * 4 + "\U00010a0d" * 4) * 40, "marks"),
        ("a" + "\u0316\u093f" * 5, "marks"),
        ("a" + ("\u0316" * 4 + "\U00010efd") * 40, "marks"),  # of Unicode 15
        ("a" + "\U0001e6f5" * 5, "marks"),  # of Unicode 17
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


STACKED = "aक👩 \u0300\u0316\u0489\u093f\u0e38\u1ace\U00010a0d\U0001d165\u200d\u200c\xad\u034f\ufe0f\U000e0100"


@given(st.text(STACKED, max_size=60))
@settings(max_examples=1000)
def test_no_letter_has_many_marks_whatever_is_between_them(text: str) -> None:
    try:
        clean = clean_text(text)
    except EdgeError:
        return
    seen = clean.translate(dict.fromkeys(map(ord, "\u200d\u200c\xad\u034f\ufe0f\U000e0100")))
    marks = 0
    for char in seen:
        marks = marks + 1 if unicodedata.category(char)[0] == "M" else 0
        assert marks <= 8


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
        (" ".join(f"@u{number % MENTIONS}" for number in range(50)), tuple(f"u{number}" for number in range(MENTIONS))),
    ],
)
def test_mentions(text: str, names: tuple[str, ...]) -> None:
    assert mentions(text) == names


@pytest.mark.parametrize("more", ["@ghost {}", "{} @ghost", "{} @ghost @u0"])
def test_more_than_so_many_are_refused(more: str) -> None:
    with pytest.raises(EdgeError, match=f"more than {MENTIONS} mentions") as caught:
        mentions(more.format(" ".join(f"@u{number}" for number in range(MENTIONS))))
    assert caught.value.name == "bad_text"


@given(st.text(max_size=200))
def test_mentions_are_in_the_text(text: str) -> None:
    try:
        names = mentions(text)
    except EdgeError:
        assert text.count("@") > MENTIONS
        return
    assert all(f"@{name}" in text for name in names)


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
