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
    NEW_ON,
    SAME,
    TARGET_OFF,
    TARGET_ON,
    TARGETS,
    WINDOW_S,
    Alarm,
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


def told(crowds: Crowds, count: int, start: float, rate: float, target: str = "", new: bool = False) -> list[Alarm]:
    alarms: list[Alarm] = []
    for number in range(count):
        alarms += crowds.said((target,) if target else (), new, start + number / rate)
    return alarms


def test_a_sudden_crowd_on_one_target_is_told_once_and_when_it_is_over() -> None:
    crowds = Crowds()
    assert told(crowds, TARGET_ON - 1, 0.0, 100.0, "ann") == []
    assert told(crowds, 100, 0.6, 100.0, "ann") == [Alarm("target", "ann", True)]
    assert crowds.is_on
    alarms = [(second, alarm) for second in range(2, 100) for alarm in crowds.turn(float(second))]
    assert [alarm for _, alarm in alarms] == [Alarm("target", "ann", False)]
    assert CALM_S < alarms[0][0] < CALM_S + 2 * ALARM_S + 2
    assert not crowds.is_on
    assert told(crowds, 100, 200.0, 100.0, "ann") == [Alarm("target", "ann", True)]


def test_a_crowd_that_goes_on_and_on_is_one() -> None:
    crowds = Crowds()
    rate = (TARGET_ON + TARGET_OFF) / 2 / ALARM_S
    told(crowds, TARGET_ON, 0.0, 100.0, "ann")
    alarms: list[Alarm] = []
    for second in range(1, 120):
        alarms += told(crowds, int(rate), float(second), rate, "ann") + crowds.turn(float(second))
    assert alarms == []
    assert crowds.is_on


def test_slow_talk_and_many_targets_are_no_crowd() -> None:
    crowds = Crowds()
    assert told(crowds, 500, 0.0, TARGET_ON / ALARM_S / 2, "ann") == []
    for number in range(5000):
        assert told(crowds, 1, 200 + number / 1000, 1.0, f"u{number}") == []
    assert len(crowds._targets) <= TARGETS


def test_newcomers_are_a_crowd_where_they_are_many_of_all() -> None:
    crowds = Crowds()
    assert told(crowds, NEW_ON - 1, 0.0, 100.0, new=True) == []
    assert told(crowds, 10, 1.0, 100.0, new=True) == [Alarm("newcomers", "", True)]
    alarms = [alarm for second in range(2, 100) for alarm in crowds.turn(float(second))]
    assert alarms == [Alarm("newcomers", "", False)]
    big = Crowds()
    for second in range(60):
        for number in range(100):
            assert big.said((), number % 4 == 0, second + number / 100) == []
