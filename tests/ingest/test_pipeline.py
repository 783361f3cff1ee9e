"""A comment's way in as a whole: what is decided, in which order, and what is remembered."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import PROBLEMS, EdgeError
from edge.ingest.crowd import SAME
from edge.ingest.limits import Rates
from edge.ingest.modes import AUTO_OFF, AUTO_ON, OPEN, Author, Mode
from edge.ingest.patterns import Pattern, Patterns
from edge.ingest.pipeline import Pipeline, Rules
from edge.ingest.verdict import PUBLISH, Kind, Verdict
from edge.ingest.words import Entry, WordList
from edge.wire import clean_text

ANN = Author("ann")
MOD = Author("mod", moderates=True)
ADDRESS = bytes(10) + b"\xff\xff\xc0\x00\x02\x01"
UNLIMITED = Rates(user=0, moderator=0, bot=0, address=0, room_per_s=0, all_per_s=0)
WORDS = WordList([Entry("vile"), Entry("meh", "hold"), Entry("sly", "shadow")])
PATTERNS = Patterns([Pattern(r"\d{6}"), Pattern("https?://", "hold"), Pattern("ftp://", "shadow")])


def made(mode: Mode = OPEN, rates: Rates = UNLIMITED) -> Pipeline:
    pipeline = Pipeline(rates)
    pipeline.set_rules("derby", Rules(mode, WORDS, PATTERNS))
    return pipeline


def say(
    pipeline: Pipeline,
    text: str = "hi",
    now: float = 0.0,
    author: Author = ANN,
    room: str = "derby",
    address: bytes = b"",
    **more: Any,
) -> Verdict:
    return pipeline.check(pipeline.voice(room, author, address), text, now, **more)


def name(verdict: Verdict) -> str | None:
    return verdict.refusal and verdict.refusal.name


@pytest.mark.parametrize(
    "text, kind, to_review, reasons",
    [
        ("hello there", Kind.PUBLISH, False, ()),
        ("so V1LE!", Kind.REJECTED, False, ("word: vile",)),
        ("meh", Kind.PENDING, True, ("word: meh",)),
        ("sly", Kind.SHADOW, False, ("word: sly",)),
        ("123456", Kind.REJECTED, False, (r"pattern: \d{6}",)),
        ("http://x", Kind.PENDING, True, ("pattern: https?://",)),
        ("ftp://x", Kind.SHADOW, False, ("pattern: ftp://",)),
        ("meh vile", Kind.REJECTED, False, ("word: vile",)),
        ("meh 123456", Kind.REJECTED, False, (r"pattern: \d{6}",)),
        ("meh ftp://x", Kind.SHADOW, False, ("pattern: ftp://",)),
        ("sly http://x", Kind.SHADOW, False, ("word: sly",)),
        ("meh http://x", Kind.PENDING, True, ("word: meh",)),
    ],
)
def test_words_and_patterns(text: str, kind: Kind, to_review: bool, reasons: tuple[str, ...]) -> None:
    verdict = say(made(), text)
    assert verdict == (kind, verdict.refusal, to_review, reasons)
    assert name(verdict) == ("moderated" if kind is Kind.REJECTED else None)


def test_the_author_is_not_told_which_word_it_was() -> None:
    refusal = say(made(), "vile").refusal
    assert refusal is not None
    assert "vile" not in str(refusal.error())


def test_limits_come_first_and_say_when_to_come_back() -> None:
    pipeline = made(Mode(closed=True), Rates(user=2, user_s=10.0))
    assert [name(say(pipeline, "vile", address=ADDRESS)) for _ in range(3)] == [
        "room_closed",
        "room_closed",
        "too_many",
    ]
    refusal = say(pipeline, "vile").refusal
    assert refusal is not None
    assert refusal.retry_after == pytest.approx(5.0)


def test_the_mode_comes_before_the_words() -> None:
    assert name(say(made(Mode(subs_only=True)), "vile")) == "subs_only"
    assert name(say(made(Mode(emote_only=True)), "vile")) == "emote_only"


def test_moderators_pass_modes_words_and_crowds() -> None:
    pipeline = made(Mode(slow_seconds=60, closed=True, moderation="pre"))
    for _ in range(20):
        assert say(pipeline, "vile 123456 cheap followers for everybody today", author=MOD) is PUBLISH


def test_pre_moderation_holds_what_nothing_else_has_caught() -> None:
    pipeline = made(Mode(moderation="pre"))
    assert say(pipeline, "hi") == Verdict(Kind.PENDING, None, False, ("mode: pre",))
    assert say(pipeline, "sly").kind is Kind.SHADOW
    assert say(pipeline, "meh") == Verdict(Kind.PENDING, None, True, ("word: meh",))
    assert say(pipeline, "vile").kind is Kind.REJECTED


def test_slow_mode_counts_from_what_was_taken() -> None:
    pipeline = made(Mode(slow_seconds=10))
    assert name(say(pipeline, "vile", 0.0)) == "moderated"  # not taken
    assert say(pipeline, "hi", 1.0) is PUBLISH
    verdict = say(pipeline, "hi", 4.0)
    assert name(verdict) == "slow_mode"
    assert verdict.refusal is not None
    assert verdict.refusal.retry_after == 7.0
    assert say(pipeline, "hi", 4.0, author=Author("bob")) is PUBLISH
    assert say(pipeline, "hi", 5.0, paid=True) is PUBLISH
    assert name(say(pipeline, "vile", 5.0, paid=True)) == "moderated"
    assert name(say(pipeline, "hi", 14.9)) == "slow_mode"
    assert say(pipeline, "sly", 15.0).kind is Kind.SHADOW
    assert name(say(pipeline, "hi", 15.1)) == "slow_mode"  # a shadowed author must not be able to tell


def test_the_same_text_from_many_is_refused_for_a_while() -> None:
    pipeline = made()
    text = "cheap followers for everybody visit followers example"
    names = [name(say(pipeline, text, 0.0, Author(f"u{number}"), paid=number > SAME)) for number in range(SAME + 2)]
    assert names == [None] * SAME + ["repeated"] * 2


def test_what_passes_is_counted_with_its_targets_and_newcomers() -> None:
    pipeline = made()
    for number in range(6):
        say(pipeline, f"@bob {number}", number / 100, Author(f"u{number}", newcomer=number < 2), re="c1")
    say(pipeline, "hi", 0.5)
    say(pipeline, "hi", 0.6, room="final")
    found = {room: (counts.all, counts.new, counts.targets) for room, counts in pipeline.counted()}
    assert found == {"derby": (7, 2, {"bob": 6, "c1": 6}), "final": (1, 0, {})}
    assert pipeline.counted() == []
    say(pipeline, "hi", 0.7)
    pipeline.turn(30.0)
    assert [room for room, _ in pipeline.counted()] == ["derby"], "nothing is forgotten before it has been told"
    pipeline.turn(31.0)
    assert pipeline._awake == {}


def test_what_is_refused_makes_no_crowd() -> None:
    pipeline = made()
    for number in range(200):
        say(pipeline, f"@bob vile {number}", number / 100, Author(f"u{number}", newcomer=True))
    assert pipeline.counted() == []


def test_a_room_turns_slow_by_what_it_is_offered_before_the_limits() -> None:
    pipeline = made(rates=Rates(room_per_s=10))
    for number in range(AUTO_ON):
        say(pipeline, "hi", number / AUTO_ON)
    slow = Mode(slow_seconds=10)
    assert pipeline.rates(0.999) == {"derby": AUTO_ON}
    pipeline.turn(0.999)
    assert (pipeline.mode("derby"), pipeline.slow()) == (slow, ["derby"])
    assert pipeline.mode("final") is OPEN
    stricter = Mode(subs_only=True)
    pipeline.set_rules("derby", Rules(stricter))
    assert pipeline.mode("derby") == Mode(slow_seconds=10, subs_only=True)
    pipeline.counted()
    for second in range(2, 30):
        pipeline.turn(float(second))
    assert (pipeline.mode("derby"), pipeline.slow()) == (stricter, [])
    assert pipeline._awake == {}


def test_a_room_is_hot_elsewhere_too() -> None:
    pipeline = made()
    rates = {"derby": float(AUTO_ON), "other": float(AUTO_ON), "big": AUTO_OFF + 1.0, "quiet": 500.0}
    say(pipeline, "hi", 0.5)
    pipeline.turn(0.9, rates)
    assert sorted(pipeline.slow()) == ["derby", "other"], "whoever comes here"
    assert pipeline.mode("other") == Mode(slow_seconds=10)
    assert "quiet" not in pipeline._awake
    for second in range(2, 30):
        pipeline.turn(float(second), {"other": AUTO_OFF + 1.0})
    assert pipeline.slow() == ["other"], "at every worker for the same time"


def test_rates_are_told_of_rooms_that_are_offered_much() -> None:
    pipeline = made()
    for room, count in (("derby", 1), ("final", 100), ("quiet", 99)):
        for _ in range(count):
            say(pipeline, "hi", 0.5, room=room)
    assert pipeline.rates(0.9, 100.0) == {"final": 100.0}
    assert pipeline.rates(0.9) == {"derby": 1.0, "final": 100.0, "quiet": 99.0}
    assert pipeline.rates(3.5, 100.0) == {}


def test_rules_are_the_room_s_own_and_can_be_taken_back() -> None:
    pipeline = made()
    assert say(pipeline, "vile", 0.0, room="final") is PUBLISH
    assert say(pipeline, "vile").kind is Kind.REJECTED
    pipeline.set_rules("derby", None)
    assert say(pipeline, "vile") is PUBLISH


def test_new_rules_forget_nothing_that_was_said() -> None:
    pipeline = made(Mode(slow_seconds=10))
    say(pipeline, "hi", 0.0)
    pipeline.set_rules("derby", Rules(Mode(slow_seconds=20)))
    assert name(say(pipeline, "hi", 15.0)) == "slow_mode"


def test_words_of_all_rooms_hold_in_all_rooms() -> None:
    pipeline = made()
    say(pipeline, "hi", 0.0, room="final")
    pipeline.set_words(WordList([Entry("everywhere")]))
    for room in ("derby", "final", "another"):
        assert say(pipeline, "everywhere", 0.0, room=room).kind is Kind.REJECTED
    assert say(pipeline, "vile").kind is Kind.REJECTED


def test_rooms_without_rules_are_bounded_and_rules_are_never_lost() -> None:
    pipeline = Pipeline(UNLIMITED, rooms=100)
    pipeline.set_rules("derby", Rules(words=WORDS))
    for number in range(1000):
        say(pipeline, "hi", number / 100, room=f"r{number}")
        pipeline.counted()
        pipeline.turn(number / 100)
    assert len(pipeline._others) <= 100
    assert len(pipeline._awake) < 250
    assert say(pipeline, "vile", 99.0).kind is Kind.REJECTED


modes = st.builds(
    Mode,
    slow_seconds=st.integers(0, 5),
    subs_only=st.booleans(),
    emote_only=st.booleans(),
    closed=st.booleans(),
    moderation=st.sampled_from(["pre", "post"]),
)
comments = st.tuples(
    st.sampled_from([ANN, MOD, Author("sue", subscriber=True), Author("new", newcomer=True), Author("bob", bot=True)]),
    st.lists(st.sampled_from("vile meh sly 123456 http:// @ann 👏 hello wonderful everybody".split()), min_size=1),
    st.booleans(),
    st.sampled_from([b"", ADDRESS]),
    st.sampled_from([None, "c1"]),
)


@given(modes, st.lists(comments, max_size=30))
def test_a_verdict_is_whole_whatever_is_said(
    mode: Mode, said: list[tuple[Author, list[str], bool, bytes, str | None]]
) -> None:
    pipeline = made(mode, Rates(user=5, user_s=5.0))
    for second, (author, words, paid, address, re) in enumerate(said):
        verdict = say(pipeline, " ".join(words), float(second), author, paid=paid, address=address, re=re)
        assert (verdict.refusal is not None) == (verdict.kind is Kind.REJECTED)
        if verdict.refusal is not None:
            assert verdict.refusal.name in PROBLEMS
            assert verdict.refusal.error().status in (403, 429)
        assert not verdict.to_review or verdict.kind is Kind.PENDING
        assert (verdict.kind is Kind.PUBLISH) == (not verdict.reasons)
        pipeline.turn(float(second))


@given(st.text(st.one_of(st.sampled_from("aàs5$@ß\u0301\u200bカﾞ\u3099각ﷺ🇫👍क\u093c:. "), st.characters()), max_size=80))
def test_whatever_is_clean_gets_a_verdict(text: str) -> None:
    try:
        clean = clean_text(text)
    except EdgeError:
        return
    entries = [Entry(entry, "hold", whole) for entry in ("as", "às", "ss", "カ", "55", "각") for whole in (True, False)]
    pipeline = Pipeline(UNLIMITED, WordList(entries))
    pipeline.set_rules("derby", Rules(Mode(slow_seconds=1), patterns=Patterns([Pattern(r"zzz+")])))
    assert say(pipeline, clean).kind in (Kind.PUBLISH, Kind.PENDING)


def test_a_room_is_guarded_until_nobody_asks_for_it_any_more() -> None:
    pipeline = Pipeline(Rates())
    assert pipeline.guard("derby", 10.0).subs_only
    assert pipeline.guard("derby", 12.0).subs_only
    pipeline.turn(11.0)
    assert pipeline.mode("derby").subs_only
    pipeline.set_rules("derby", Rules(Mode(slow_seconds=5)))
    assert pipeline.mode("derby") == Mode(slow_seconds=5, subs_only=True)
    pipeline.turn(12.0)
    assert pipeline.mode("derby") == Mode(slow_seconds=5)
