"""Lists of words: what they find in which disguise, what they leave alone, and what is no list."""

import unicodedata

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import EdgeError
from edge.ingest.normal import LEET, skeleton
from edge.ingest.verdict import Kind
from edge.ingest.words import WORD_CHARS, WORDS, Entry, WordList, Words


def finds(text: str, *entries: Entry | str) -> str | None:
    listed = WordList([Entry(entry) if isinstance(entry, str) else entry for entry in entries])
    text = unicodedata.normalize("NFC", text)
    found = listed.find(text, skeleton(text))
    return found and found.entry


def anywhere(text: str) -> Entry:
    return Entry(text, whole=False)


@pytest.mark.parametrize(
    "text",
    [
        "ass", "you ass!", "ASS", "a$$", "@ss", "a55", "4ss", "asssss", "aaaasss", "a\u200bss", "а𝐬ｓ", "(ass)",
        "ass-hat", "_ass_", "@ass", "hi @ass hi", "$ass", "áss", "\u200bass\u200b", "Ⓐⓢⓢ", "me@ass", "ass$me",
    ],
)  # fmt: skip
def test_a_whole_word_in_disguise(text: str) -> None:
    assert finds(text, "ass") == "ass"


@pytest.mark.parametrize(
    "text",
    [
        "class", "assist", "as", "a s", "455 runs", "455", "4 55", "1455", "pass it", "as soon", "assé", "яass",
        "assⓐ", "ass\u0915", "a\u200bs", "b\u200bass",
    ],
)  # fmt: skip
def test_what_is_no_such_word(text: str) -> None:
    assert finds(text, "ass") is None


def test_a_sign_is_spared_once() -> None:
    assert finds("5@@@5", "aa") is None
    assert finds("5@@@@5", "aa") == "aa"
    assert finds("@@@5", "aa") == "aa"


def test_a_disguised_sign_is_a_letter() -> None:
    assert finds("as$", "ass") == "ass"


def test_anywhere_is_inside_of_words_too() -> None:
    assert finds("unfuckingbelievable", anywhere("fuck")) == "fuck"
    assert finds("unfuckingbelievable", "fuck") is None
    assert finds("fußball", anywhere("ssba")) == "ssba"
    assert finds("今日はバカみたい", anywhere("バカ")) == "バカ"
    assert finds("今日はﾊﾞｶみたい", anywhere("バカ")) == "バカ"
    assert finds("今日は鹿", anywhere("鹿")) == "鹿"


LISTED = ["shit", "bitch", "nigger", "dick", "slut", "kill", "hell", "bullshit", "fuck", "pussy", "anal", "idiot"]


@pytest.mark.parametrize(
    "text, entry",
    [
        (text, entry)
        for entry, texts in {
            "shit": "sh!t sh1t $h!t sh|t shi+ 5h!+ SH!!!T sh¡t ⓢⓗ!ⓣ sh！t SΗIT ꓢꓧꓲꓔ ᏚᎻᎥᎢ 🇸🇭🇮🇹 ᔕᕼIT sh!t!!!",
            "bitch": "b!tch 8itch 8!+(h bi+ch bit(h Ⲃitch 𝟖itch",
            "nigger": "n!gger n|gger ni99er n1993r ΝIGGER n!!g9er",
            "dick": "d!ck d|ck di(k d1(k di((k",
            "slut": "s1ut slu+ s!ut $|u+ ꓢLUT",
            "kill": "ki11 k!ll k1|l k!!l ki!l (kill) kill! k|llll kill!!!1 !kill!",
            "hell": "he11 h3|| hel1 he1l he!l ᕼᗴᒪᒪ hell+",
            "bullshit": "bu11shit bu!!sh!+ bul1$hi+ 8ull5h1+",
            "fuck": "fu(k fuc(k fu((k 🇫🇺🇨🇰 ғuck fu🇨k ᖴᑌᑕK (fuck) fu(k!",
            "pussy": "PUSSΥ ᑭUSSY",
            "anal": "ana1 ana| AN4L",
            "idiot": "!diot 1d!0t |diot no!idiot",
        }.items()
        for text in texts.split()
    ],
)
def test_what_players_write_for_letters(text: str, entry: str) -> None:
    assert finds(text, *LISTED) == entry
    assert finds(f"so, {text} ok", *LISTED) == entry


@pytest.mark.parametrize(
    "text",
    [
        "hit! me", "this is cool!", "(k)", "C++", "wow!!!", "100%", "1-1", "8:30", "9/11", "455", "(on the way)",
        "Hei! Ana! Anna!", "hel! kil!", "lil", "class!", "assist! (class) +pass|", "17+", "18+ 7+", "911! 11!!",
        "🇮🇹 🇮🇹🇮🇹", "Go 🇧🇷!", "item(s)", "1+1 = 2", "A+ B+", "kii hei heii", "hello! hello(", "skill! (skills)",
        "wait|what", "¡Hola! ¡on", "(o) (n)", "b+ +", "8 9 + ( ! |", "f(x) = 8x + 9", "2(9+8)", "k(i)ll", "l! !l",
        "hiel", "kali", "killer! shell!", "I'll", "h:ll", "as(", "$ +$ (", "5+ 8+9",
    ],
)  # fmt: skip
def test_punctuation_is_none_of_it(text: str) -> None:
    assert finds(text, "shit", "ass", "hell", "kill", "bit", "it", "con", "anal", "heil", "ill", "bb") is None


def test_an_i_is_no_l_but_what_may_be_either_is() -> None:
    assert finds("lil", "ill") is finds("ill", "lil") is finds("li", "il") is None
    for text in ("ill", "i1l", "111l", "!ll", "il1!", "iiilll", "ill!"):
        assert finds(text, "ill") == "ill", text
    for text in ("lil", "l1l", "1i1", "l!l", "lliill"):
        assert finds(text, "lil") == "lil", text
    for text in ("il", "i1", "iil", "lill", "iiil", "l11"):
        assert finds(text, "ill") is None, text
    assert finds("nazil", "nazi") is finds("nazi1ke", "nazi") is None
    assert finds("nazilike", anywhere("nazi")) == finds("nazi!", "nazi") == "nazi"
    assert finds("alik", anywhere("lik")) == finds("alllllik", anywhere("lik")) == "lik"


def test_a_sign_of_an_entry_s_own_is_itself() -> None:
    for entry, text, other in (
        ("c++", "I like C++!", "ct"), ("18+", "18+ only", "187"), ("(((", "a (((them)))", "ccc"), ("!!", "so!!", "ill"),
        ("gr8", "gr8!", "grb"), ("yahoo!", "yahoo! it is", "yahooi"), ("🇮🇹", "go 🇮🇹", "go it"), ("(on", "(on", "con"),
    ):  # fmt: skip
        assert finds(text, Entry(entry, whole=False)) == entry
        assert finds(other, Entry(entry, whole=False)) is None
    assert finds("he11", "he11") == finds("hell", "he11") == "he11"


def test_flags_are_between_words() -> None:
    assert finds("ass🇧🇷", "ass") == finds("🇧🇷ass🇧🇷", "ass") == "ass"
    assert finds("🇮🇹", "it") is None  # two make a flag


@pytest.mark.parametrize(
    "text", ["ηλίθιος", "ΗΛΊΘΙΟΣ", "Ηλίθιος", "μουνί", "ΜΟΥΝΊ", "χαζή νύφη", "Χαζή Νύφη", "ΧΑΖΉ ΝΎΦΗ"]
)
def test_a_word_in_greek_is_found_in_capitals(text: str) -> None:
    assert finds(f"so {text}!", text.lower()) == text.lower()
    assert finds(f"so {text.lower()}!", text) == text
    assert finds(text.upper(), text.title()) == text.title()


@pytest.mark.parametrize("wrong", ["actoin", "whoel", "Text"])
def test_an_entry_has_no_other_keys(wrong: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=f"unknown field `{wrong}`"):
        msgspec.json.decode(msgspec.json.encode([{"text": "ghost", wrong: "shadow"}]), type=list[Entry])


def test_phrases() -> None:
    assert finds("Kill  Yourself now", "kill yourself") == "kill yourself"
    assert finds("k1ll yours3lf", "kill yourself") == "kill yourself"
    assert finds("skill yourself", "kill yourself") is None
    assert finds("killyourself", "kill yourself") is None


def test_runs_are_as_long_as_the_entry_s_or_longer() -> None:
    assert finds("coon", "coon") == "coon"
    assert finds("cooon", "coon") == "coon"
    assert finds("con", "coon") is None
    assert finds("coon", "con") == "con"  # letters said again are a disguise
    assert finds("1988", anywhere("88")) == "88"
    assert finds("1986", anywhere("88")) is None


def test_an_accent_in_the_entry_is_one_in_the_text() -> None:
    assert finds("địt", "địt") == "địt"
    assert finds("ĐỊT", "địt") == "địt"
    assert finds("dit", "địt") is None
    assert finds("đít", "địt") is None
    assert finds("fück", "fuck") == "fuck"
    assert finds("schon", "schön") is None
    assert finds("SCHÖN", "schön") == "schön"
    assert finds("schöön", "schön") == "schön"
    assert finds("scho\u0308n", "schön") == "schön"


def test_numbers_are_numbers_and_words_are_words() -> None:
    assert finds("heil 1488!", "1488") == "1488"
    assert finds("14-88", "1488") is None
    assert finds("iABB", "1488") is None
    assert finds("ia", "14") is None
    assert finds("h311", "hell") == "hell"
    assert finds("h3ii", "hell") is None
    assert finds("me 11 of 1 l", "ll") is None
    assert finds("ll", "11") is finds("17 7+ 7+7 !1", "77") is None
    assert finds("+1", "71") is finds("71+5", "tits") is None
    assert finds("sh17", "shit") == "shit"
    assert finds("4$$", "ass") == "ass"


def test_signs_and_emoji_are_found_anywhere() -> None:
    assert finds("so 🖕 there", anywhere("🖕🖕")) is None
    assert finds("so 🖕🖕🖕 there", anywhere("🖕🖕")) == "🖕🖕"
    assert finds("so 🖕 there", anywhere("🖕")) == "🖕"


def test_other_scripts() -> None:
    assert finds("Какой ДУРАК!", "дурак") == "дурак"
    assert finds("дураки", "дурак") is None
    assert finds("вы दुष्ट हो", "दुष्ट") == "दुष्ट"
    assert finds("दुष्टता", "दुष्ट") is None
    assert finds("दुष्टि", "दुष्ट") is None  # a vowel sign goes with its word


def test_the_most_severe_counts_wherever_it_stands() -> None:
    entries = [Entry("meh", "hold"), Entry("spam", "shadow"), Entry("vile", "reject")]
    listed = WordList(entries)
    for text, kind in (("meh", Kind.PENDING), ("meh spam", Kind.SHADOW), ("spam meh vile meh", Kind.REJECTED)):
        found = listed.find(text, skeleton(text))
        assert found is not None
        assert found.kind is kind
    both = WordList([Entry("meh", "hold"), Entry("MEH", "reject", whole=False)])
    assert both.find("mehs", "mehs") == (Kind.REJECTED, "MEH")
    assert both.find("meh", "meh") == (Kind.REJECTED, "MEH")


def test_both_lists_are_asked() -> None:
    everywhere, here = WordList([Entry("vile", "hold")]), WordList([Entry("vile", "reject"), Entry("meh", "shadow")])
    assert Words(everywhere, here).find("vile", skeleton("vile")) == (Kind.REJECTED, "vile")
    assert Words(here, everywhere).find("vile", skeleton("vile")) == (Kind.REJECTED, "vile")
    assert Words(everywhere).find("meh", "meh") is None
    assert Words(here=here).find("meh", "meh") == (Kind.SHADOW, "meh")
    assert Words(everywhere, here).find("vil", skeleton("vil")) is None
    assert Words().find("vile", skeleton("vile")) is None


@pytest.mark.parametrize(
    "entry, why",
    [
        (Entry(""), "empty"),
        (Entry("  "), "empty"),
        (Entry("\u200b"), "empty"),
        (Entry("a"), "two characters"),
        (Entry("é"), "two characters"),
        (Entry("!", whole=False), "two characters"),
        (Entry("@", whole=False), "two characters"),
        (Entry("!!!"), "no letter"),
        (Entry("🖕"), "no letter"),
        (Entry("x" * (WORD_CHARS + 1)), f"{WORD_CHARS} is the limit"),
        (Entry("x" * 100_000), "the limit|more than"),
        (Entry("a\nb"), "U\\+000A"),
        (Entry("a\u202eb"), "U\\+202E"),
        (Entry("a\ud800"), "U\\+D800"),
        (Entry("vile", "explode"), "'explode' is none of hold, shadow, reject"),
        (Entry("x" + "\u0336" * 5), "marks"),
    ],
)
def test_a_bad_entry_is_named(entry: Entry, why: str) -> None:
    with pytest.raises(EdgeError, match=why) as caught:
        WordList([Entry("fine"), entry])
    assert caught.value.name == "bad_words"
    assert caught.value.message.startswith("entry 2, ")
    assert len(caught.value.message) < 300


def test_a_list_is_bounded() -> None:
    with pytest.raises(EdgeError) as caught:
        WordList([Entry("fine")] * (WORDS + 1))
    assert caught.value.name == "bad_words"
    assert WordList([Entry(f"word{'abcdefghij'[n % 10]}") for n in range(100)]).find("worda", "worda") is not None


@given(st.text("abcdefgirstwxyz", min_size=4, max_size=12), st.data())
def test_an_entry_is_found_in_any_disguise(word: str, data: st.DataObject) -> None:
    back = {plain: sign for sign, plain in LEET.items()}
    disguised = "".join(
        data.draw(
            st.sampled_from(
                [c, c.upper(), c * 3, chr(ord(c) + 0xFEE0), c + "\u200b", c + "\u0335", back.get(c, c) if at else c]
            )
        )
        for at, c in enumerate(word)
    )
    assert finds(f"well, {disguised}!", word) == word
    assert finds(f"wellx{disguised}", anywhere(word)) == word


@given(st.text("abs $@5", max_size=12), st.text("abs", min_size=2, max_size=3))
def test_whole_words_are_those_that_a_naive_reader_finds(text: str, word: str) -> None:
    """On plain texts: words are what stands between signs, an @ or $ read either way."""
    if not text.strip():
        return
    readings = {""}
    for char in text:
        signs = {"@": "@a", "$": "$s", "5": "s"}.get(char, char)
        readings = {before + sign for before in readings for sign in signs}

    def fits(candidate: str) -> bool:
        runs, wanted = groups(candidate), groups(word)
        return [c for c, _ in runs] == [c for c, _ in wanted] and all(
            have >= want for (_, have), (_, want) in zip(runs, wanted, strict=True)
        )

    naive = any(fits(token) for reading in readings for token in reading.replace("@", " ").replace("$", " ").split())
    if finds(text, word) is not None:
        assert naive
    elif naive:
        # What a reader may find and the list does not: a number, and a sign that is a letter on one side and itself
        # on the other, in one run.
        assert "5" in text or "@" in text or "$" in text


def groups(text: str) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for char in text:
        if found and found[-1][0] == char:
            found[-1] = (char, found[-1][1] + 1)
        else:
            found.append((char, 1))
    return found
