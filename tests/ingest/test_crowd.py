"""The same text from many, and sudden crowds."""

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge._fast.sketch import Names, Sketch
from edge.ingest.crowd import (
    ALARM_S,
    CALM_S,
    LONGEST,
    LOUD,
    NEW_ON,
    SAME,
    TARGET_OFF,
    TARGET_ON,
    TARGETS,
    WINDOW_S,
    Counts,
    Crowds,
    Echo,
    alike,
    parts,
)
from edge.ingest.normal import skeleton

sketch = Sketch((3, 5)).names
SPAM = "cheap followers for everybody visit followers example today"


def refused(echo: Echo, texts: list[str], now: float = 0.0, user: str = "u") -> list[bool]:
    return [echo.check(skeleton(text), f"{user}{n}", now) is not None for n, text in enumerate(texts)]


def test_the_same_text_from_many_is_damped() -> None:
    echo = Echo()
    assert refused(echo, [SPAM] * (SAME + 5)) == [False] * SAME + [True] * 5
    refusal = echo.check(skeleton(SPAM), "another", 4.0)
    assert refusal is not None
    assert (refusal.name, refusal.which) == ("repeated", "crowd")
    assert refusal.retry_after == WINDOW_S / 2 - 4
    assert refused(echo, [SPAM], WINDOW_S / 2) == [True]  # the window slides, and does not jump
    assert refused(echo, [SPAM] * (SAME + 1), WINDOW_S, "v") == [False] * SAME + [True]


@pytest.mark.parametrize(
    "vary",
    [
        lambda n: SPAM.upper(),
        lambda n: SPAM + "!" * n,
        lambda n: f"{SPAM} {'xyzw'[n % 4]}{n}bcd",
        lambda n: f"aaaa{n}bb {SPAM}",
        lambda n: SPAM.replace("visit", f"visit{n}"),
        lambda n: SPAM.replace("e", "3" if n % 2 else "е"),
        lambda n: " ".join(random.Random(n).sample(SPAM.split(), len(SPAM.split()))),
        lambda n: SPAM + " 🔥" * n,
    ],
    ids="case signs suffix prefix word look-alikes order emoji".split(),
)
def test_near_identical_is_identical(vary: object) -> None:
    echo = Echo()
    answers = refused(echo, [vary(n) for n in range(30)])  # type: ignore[operator]
    assert answers[:SAME] == [False] * SAME
    assert answers.count(True) >= 10


def test_writing_without_spaces() -> None:
    assert refused(Echo(), ["今すぐ無料で登録してください公式サイト"] * 10) == [False] * SAME + [True] * 2


@pytest.mark.parametrize(
    "text", ["goal!", "GOOOOAL", "what a goal", "go on now we go in to it", "👏👏👏👏👏", "gg wp", "aaaa" * 30]
)
def test_everybody_may_shout(text: str) -> None:
    assert not any(refused(Echo(), [text] * 100))


def test_one_user_is_not_a_crowd() -> None:
    echo = Echo()
    assert not any(echo.check(skeleton(SPAM), "ann", second / 10) for second in range(300))


def test_what_is_said_now_and_then_is_no_crowd() -> None:
    echo = Echo()
    assert not any(echo.check(skeleton(SPAM), f"u{n}", n * WINDOW_S / SAME) for n in range(200))


def test_chat_about_one_thing_is_no_crowd() -> None:
    """Words as often as in a language, all about the same few."""
    rng = random.Random(4)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 9))) for _ in range(1000)]
    weights = [1 / rank for rank in range(2, 1002)]
    texts = [" ".join(rng.choices(words, weights, k=rng.randint(5, 15))) for _ in range(5000)]
    assert sum(refused(Echo(), texts)) <= len(texts) / 1000


texts = st.lists(st.text("abcdefgh", min_size=4, max_size=8), min_size=5, max_size=12, unique=True)


@given(texts, st.data())
def test_texts_that_differ_by_a_word_share_a_name(words: list[str], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(words) - 1))
    rest = words[:at] + words[at + 1 :]
    for other in (rest, [*rest, "zzzz"], [*words, "zzzz"]):
        one, two = sketch(" ".join(words)), sketch(" ".join(other))
        assert one is not None
        assert two is not None
        assert set(one) & set(two)
        assert alike(parts(" ".join(words)), " ".join(other))


@given(st.text("ab c", max_size=80))
def test_names_are_those_of_the_words_whatever_their_order(text: str) -> None:
    assert sketch(text) == sketch(" ".join(reversed(text.split())) or text) or len(max(text.split(), key=len)) >= 12


@given(st.lists(st.tuples(st.integers(1, 200), st.integers()), max_size=400))
def test_a_table_of_names_is_a_dict(puts: list[tuple[int, int]]) -> None:
    names, plain = Names(), dict[int, int]()
    for name, known in puts:
        # Many begin in the same cell, as hashes do now and then.
        names.put(name << 56 | name % 3 + 1, known)
        plain[name << 56 | name % 3 + 1] = known
        assert len(names) == len(plain)
    assert all(names.get(name) == known for name, known in plain.items())
    assert names.get(201 << 56) is None


def test_one_text_again_and_again_takes_no_more_memory() -> None:
    names = Names()
    tracemalloc.start()
    try:
        for count in range(10_000):
            for name in range(4):
                names.put(name, (count, "somebody", f"what was said {count}"))
        assert tracemalloc.get_traced_memory()[0] < 10_000
    finally:
        tracemalloc.stop()
    assert [names.get(name)[0] for name in range(4)] == [9_999] * 4


def test_what_an_echo_remembers_is_bounded() -> None:
    echo = Echo(names=1000)
    rng = random.Random(1)
    for n in range(3000):
        echo.check(" ".join("".join(rng.choices("abcdefghij", k=6)) for _ in range(8)), f"u{n}", n / 1e6)
    assert len(echo._young) + len(echo._old) <= 1000


def told(crowds: Crowds, count: int, start: float, rate: float, target: str = "", new: bool = False) -> None:
    for number in range(count):
        crowds.add(1, int(new), {target: 1} if target else {}, start + number / rate)


ANN = [("target", "ann")]


def test_a_sudden_crowd_on_one_target_is_on_until_it_is_over() -> None:
    crowds = Crowds()
    told(crowds, TARGET_ON - 1, 0.0, 100.0, "ann")
    assert crowds.turn(0.6) == []
    told(crowds, 100, 0.6, 100.0, "ann")
    calm = next(second for second in range(2, 100) if crowds.turn(float(second)) != ANN)
    assert CALM_S < calm < CALM_S + 2 * ALARM_S + 2
    assert crowds.at_rest(calm)
    told(crowds, 100, 200.0, 100.0, "ann")
    assert crowds.turn(201.0) == ANN
    assert not crowds.at_rest(300.0)


def test_a_crowd_that_goes_on_and_on_is_one() -> None:
    crowds = Crowds()
    rate = (TARGET_ON + TARGET_OFF) / 2 / ALARM_S
    told(crowds, TARGET_ON, 0.0, 100.0, "ann")
    for second in range(1, 120):
        told(crowds, int(rate), float(second), rate, "ann")
        assert crowds.turn(float(second)) == ANN


def test_slow_talk_and_many_targets_are_no_crowd() -> None:
    crowds = Crowds()
    told(crowds, 500, 0.0, TARGET_ON / ALARM_S / 2, "ann")
    assert crowds.turn(170.0) == []
    for number in range(3 * TARGETS):
        told(crowds, 1, 200 + number / 1000, 1.0, f"u{number}")
    assert crowds.turn(220.0) == []
    assert len(crowds._targets) <= TARGETS


def test_the_targets_of_alarms_are_bounded() -> None:
    crowds = Crowds()
    crowds.add(60 * LOUD, 0, {f"u{number}": TARGET_ON for number in range(LOUD + 10)}, 0.0)
    assert len(crowds.turn(0.0)) == LOUD


def test_newcomers_are_a_crowd_where_they_are_many_of_all() -> None:
    crowds = Crowds()
    told(crowds, NEW_ON - 1, 0.0, 100.0, new=True)
    assert crowds.turn(1.0) == []
    told(crowds, 10, 1.0, 100.0, new=True)
    assert crowds.turn(1.1) == [("newcomers", "")]
    assert not crowds.at_rest(30.0)
    assert crowds.turn(30.0) == [("newcomers", "")]
    assert crowds.turn(31.0 + CALM_S) == []
    big = Crowds()
    for second in range(60):
        big.add(100, 25, {}, float(second))
        assert big.turn(float(second)) == []


def test_a_worker_s_counts_are_bounded_and_the_largest_are_told() -> None:
    counts = Counts()
    counts.said((), True)
    for number in range(TARGETS + 100):
        counts.said((f"u{number}",), False)
    counts.said(("u1", "u7"), False)
    counts.said(("u7", "late", "x" * (LONGEST + 1)), False)
    assert (counts.all, counts.new, len(counts.targets)) == (TARGETS + 103, 1, TARGETS)
    assert counts.largest(2) == {"u7": 3, "u1": 2}
    assert counts.largest(TARGETS) is counts.targets


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(0, 2)), max_size=60))
def test_it_makes_no_difference_how_many_workers_a_crowd_is_spread_over(said: list[tuple[int, int, int]]) -> None:
    alone, together, workers, now = Crowds(), Crowds(), [Counts() for _ in range(3)], 0.0
    one = Counts()
    for comments, worker, target in said:
        for _ in range(10 * comments):
            for counts in (one, workers[worker]):
                counts.said((f"u{target}",), target == 1)
        now += 1.0
        alone.add(one.all, one.new, one.targets, now)
        for counts in workers:
            together.add(counts.all, counts.new, counts.targets, now)
        one, workers = Counts(), [Counts() for _ in range(3)]
        assert alone.turn(now) == together.turn(now)
