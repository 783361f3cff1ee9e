"""Which comments have passed lately, and with what words: never another for one of those."""

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from edge._fast.passed import Passed

few = st.sampled_from(["a", "b", "aé", "\U0001f642"])
comments = st.tuples(few, few, few, st.none() | few)


@given(st.lists(comments, max_size=60))
def test_what_is_known_has_passed_just_so(said: list[tuple[str, str, str, str | None]]) -> None:
    passed = Passed(1 << 16)
    at: dict[tuple[str, str, str, str | None], float] = {}
    for number, comment in enumerate(said, 1):
        assert passed.since(*comment) == at.get(comment, -inf)
        passed.put(*comment, float(number))
        at[comment] = float(number)


def test_it_is_bounded_and_the_oldest_go() -> None:
    passed = Passed(4096)
    for number in range(100_000):
        passed.put("derby", str(number), "hi", None, 1.0 + number)
    known = {number for number in range(100_000) if passed.since("derby", str(number), "hi", None) > 0}
    assert len(known) <= 4096
    assert len(known & set(range(100_000 - 1024, 100_000))) >= 1020
    assert len(known & set(range(100_000 - 2048, 100_000))) >= 2000
    assert min(known) > 100_000 - 4096 * 4


def test_nothing_is_known_at_first() -> None:
    assert Passed(1).since("", "", "", None) == -inf
