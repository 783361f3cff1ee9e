"""The normaliser for moderation: one form for all disguises, and the way back from it."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.ingest.normal import (
    _KNOWN,
    CAPITAL,
    FLAGS,
    GROWTH,
    LEET,
    LOOKALIKE,
    THIN,
    _fold_one,
    _Table,
    accented,
    collapse,
    fold,
    in_word,
    places,
    skeleton,
    source,
    spell,
)

# Of all planes, and more of what is tricky: marks, fillers, kana with their dots, jamo, presentation forms, signs.
tricky = st.sampled_from(
    "aeiosSkK013457@$ .\u0301\u0323\u0336\u3099\u309a\u200b\u200d\ufe0fがカﾞｶ각각ﷺ㌖ßẞſﬃĳǆİıŉΐσςΣ½①⒜🅰🇫क\u093cऩ\u1e9b"
)
texts = st.text(st.one_of(tricky, st.characters(exclude_categories=("Cs",))), max_size=60).map(
    lambda text: unicodedata.normalize("NFC", text)
)


@given(texts)
def test_folding_once_is_enough(text: str) -> None:
    once = fold(text)
    assert fold(once) == once
    bones = skeleton(text)
    assert skeleton(bones) == bones == collapse(once)


@given(texts)
def test_it_grows_within_its_bound(text: str) -> None:
    assert len(skeleton(text)) <= len(fold(text)) <= GROWTH * len(text)


@pytest.mark.parametrize("char", ["\ufdfa", "㌖", "ﬃ", "\u1fb7", "ß"])
def test_what_grows_most_grows_within_its_bound(char: str) -> None:
    assert len(fold(char * 500)) <= GROWTH * 500


@given(texts)
def test_the_way_back(text: str) -> None:
    """Places lie in their order, and what is in one folds to its character, so many times."""
    plain, bones = source(text), skeleton(text)
    spelled, at = spell(plain)
    there = places(spelled)
    assert spelled.replace("1", "i") == fold(text)
    assert len(at) == len(spelled)
    assert all(
        char in ("1" if plain[index] == "1" else _fold_one(plain[index]))
        for char, index in zip(spelled, at, strict=True)
    )
    assert list(at) == sorted(at)
    assert len(there) == len(bones)
    assert [place.start for place in there] == [0, *(place.end for place in there)][: len(there)]
    assert not there or there[-1].end == len(spelled)
    for place, bone in zip(there, bones, strict=True):
        assert place.start < place.end
        assert skeleton(spelled[place.start : place.end]) == bone


def test_every_character_folds_to_what_stays() -> None:
    for code in range(0x20, 0x20000):
        if not (0xD800 <= code < 0xE000 or 0x3400 <= code < 0xA000 or 0xAC00 <= code < 0xD7A0):
            folded = _fold_one(chr(code))
            assert "".join(map(_fold_one, folded)) == folded, hex(code)
            assert len(folded) <= 4


def test_ascii_is_folded_the_same_on_its_fast_path() -> None:
    for code in range(128):
        assert fold(chr(code)) == _fold_one(chr(code)) == chr(code).lower().translate(str.maketrans(LEET))


@pytest.mark.parametrize("alike", LOOKALIKE)
def test_every_look_alike_leads_to_its_letter(alike: str) -> None:
    for written in (alike, alike.upper(), alike + "\u0336", alike + "\u0301"):
        looks = CAPITAL.get(written) or LOOKALIKE[alike]
        assert fold(unicodedata.normalize("NFC", written)) == looks
        assert skeleton(unicodedata.normalize("NFC", written)) == skeleton(looks)


def test_a_capital_reads_as_it_looks() -> None:
    for capital, looks in CAPITAL.items():
        assert fold(capital) == fold(unicodedata.normalize("NFC", capital + "\u0301")) == looks
        assert fold(capital.lower()) != looks


def test_what_seldom_stands_for_a_letter_does_in_skeletons_alone() -> None:
    for sign, letter in THIN.items():
        assert fold(sign) == fold(sign + sign)[0] == sign
        assert skeleton(sign) == skeleton(letter) == letter


words = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=20)


@given(words, st.data())
def test_all_tricks_lead_to_one_form(word: str, data: st.DataObject) -> None:
    """Letter by letter, any of them, all at once."""
    disguised = ""
    for letter in word:
        looks = [letter, letter.upper(), chr(ord(letter) + 0xFEE0), chr(ord(letter) - ord("a") + 0x1D41A)]
        looks += [chr(ord(letter) - ord("a") + start) for start in (0x1D4EA, 0x24D0, 0x1F150, 0x1F170)]
        looks += [alike for alike, plain in (LOOKALIKE | LEET | FLAGS).items() if plain == letter]
        looks += [sign for sign, plain in THIN.items() if plain == skeleton(letter)]
        looks += [letter + "\u0336", letter + "\u0301", "\u200b" + letter, letter * 3, letter + "\ufe0f"]
        disguised += data.draw(st.sampled_from(looks))
    assert skeleton(unicodedata.normalize("NFC", disguised)) == skeleton(word)


@pytest.mark.parametrize(
    "text, read",
    [
        ("Hello, World", "heio, worid"),
        ("5H1T @nd 7r0ll $3x", "shit and troi sex"),
        ("fuuuuuck", "fuck"),
        ("рауреl", "paypei"),  # all but the last are Cyrillic
        ("ΒΕΤΑ ΚΟΧ", "beta kox"),
        ("SΗIT ΝO PUSSΥ νo", "shit no pusy vo"),  # Eta, Nu, Upsilon; a small Nu
        ("k1ll k!ll k|ll", "ki ki ki"),
        ("8ad ni99er shi+ fu(k", "bad niger shit fuck"),
        ("🇫🇺🇨🇰 🇱🇱", "fuck i"),
        ("ꓢꓧꓲꓔ ꓮꓐꓚꓓꓰꓝꓖꓙꓗꓟꓠꓳꓑꓣꓦꓪꓫꓬꓜ", "shit abcdefgjkmnoprvwxyz"),
        ("ᏚᎻᎥᎢ ꭺꮟ", "shit ab"),
        ("ⲤⲎⲞⲔⲈ", "choke"),
        ("ᗩᗷᑕᗪᗴᖴᘜᕼᒍKᗰᑎOᑭᑫᖇᔕTᑌᐯᗯ᙭ᘔ", "abcdefghjkmnopqrstuvwxz"),
        ("ᛕᚷ ғоԁ ԼԱՏ", "kx fod iաs"),
        ("ｆｕｃｋ", "fuck"),
        ("𝓯𝓾𝓬𝓴 𝕗𝕦𝕔𝕜 𝐟𝐮𝐜𝐤", "fuck fuck fuck"),
        ("🅵🆄🅲🅺 ⓕⓤⓒⓚ", "fuck fuck"),
        ("ᴀꜱꜱ", "as"),
        ("f\u200bu\u00adc\u2060k", "fuck"),
        ("f̶u̷c̸k̵", "fuck"),
        ("fück fūçķ łøđ", "fuck fuck iod"),
        ("Straße STRASSE", "strase strase"),
        ("ﬁne ĳs Æon", "fine ijs aeon"),
        ("١٢٣", "١٢٣"),  # other digits than ours stand for no letters
        ("ｶﾞｯﾂ", "ガッツ"),
        ("नमस्ते", "नमस्ते"),
        ("한국어", "한국어"),
        ("👍👍👍", "👍"),
        ("!!!  ...", "i ."),
        ("", ""),
    ],
)
def test_it_reads_as_a_reader_would(text: str, read: str) -> None:
    assert skeleton(unicodedata.normalize("NFC", text)) == read


def test_words_and_accents() -> None:
    assert all(map(in_word, "aZ5éжあक\u093fⓐ"))
    assert not any(map(in_word, " .-_@$!👍"))
    assert [accented(char) for char in "éÉeđйk"] == ["é", "é", None, None, "й", None]


def test_what_is_remembered_is_bounded() -> None:
    table = _Table()
    for code in range(0x3400, 0x3400 + _KNOWN + 100):
        assert table[code]
    assert len(table) <= _KNOWN
    assert sys.getsizeof(table) < 4 << 20
