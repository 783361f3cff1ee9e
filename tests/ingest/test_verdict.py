"""What a score asks for, and what a refusal tells."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.ingest.verdict import PUBLISH, Kind, Refusal, Ruling, Thresholds

P, R, S, X = Ruling.PASS, Ruling.REVIEW, Ruling.SHADOW, Ruling.REMOVE


@pytest.mark.parametrize(
    "score, newcomer, offender",
    [
        (0.0, P, P),
        (0.19, P, P),
        (0.2, P, R),
        (0.29, P, R),
        (0.3, R, R),
        (0.46, R, R),
        (0.47, R, S),
        (0.7, R, S),
        (0.701, X, X),
        (1.0, X, X),
    ],
)
def test_thresholds(score: float, newcomer: Ruling, offender: Ruling) -> None:
    thresholds = Thresholds()
    assert thresholds.rule(score) is newcomer
    assert thresholds.rule(score, thresholds.strikes - 1) is newcomer
    assert thresholds.rule(score, thresholds.strikes) is offender


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 5))
def test_a_worse_score_and_more_strikes_are_never_judged_milder(one: float, two: float, strikes: int) -> None:
    thresholds = Thresholds()
    low, high = sorted((one, two))
    assert thresholds.rule(low, strikes) <= thresholds.rule(high, strikes) <= thresholds.rule(high, strikes + 1)


@pytest.mark.parametrize("score", [-0.01, 1.01, math.nan, math.inf, -math.inf])
def test_what_is_no_score(score: float) -> None:
    with pytest.raises(ValueError, match="a score of"):
        Thresholds().rule(score)


@pytest.mark.parametrize(
    "bad",
    [
        {"review": 0.8},
        {"remove": 1.1},
        {"review": -0.1},
        {"review": math.nan},
        {"offender": 0},
        {"offender": 2},
        {"offender": math.nan},
        {"strikes": 0},
    ],
)
def test_what_are_no_thresholds(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="thresholds: "):
        Thresholds(**bad)  # type: ignore[arg-type]


def test_a_refusal_tells_when_to_come_back_and_not_sooner() -> None:
    error = Refusal("slow_mode", "mode", 1.00001, "slowly").error()
    assert error.body() == {"error": "slow_mode", "message": "slowly", "retry_after": 1.001}
    assert "retry_after" not in Refusal("room_closed", "mode").error().body()
    assert Refusal("too_many", "user", 0.00001).error().retry_after == 0.001


def test_kinds_stand_in_the_order_of_severity() -> None:
    assert Kind.PUBLISH < Kind.PENDING < Kind.SHADOW < Kind.REJECTED
    assert PUBLISH.kind is Kind.PUBLISH
