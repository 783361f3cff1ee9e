"""What a room's owner knows again: exactly what it was told, until it is old."""

import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge._fast.said import Said

names = st.sampled_from([f"{start}{n}" for start in ("", "é", "\U0001f642") for n in range(40)])
steps = st.lists(st.none() | names, max_size=300)


@given(steps)
def test_it_is_a_set_of_what_came_since_the_last_calls(steps: list[str | None]) -> None:
    said = Said(1 << 20)
    spans: list[set[str]] = [set(), set(), set()]
    for name in steps:
        if name is None:
            said.age()
            spans = [set(), *spans[:2]]
            continue
        known = any(name in span for span in spans)
        assert (name in said) == known
        assert said.add(name) != known
        if not known:
            spans[0].add(name)
    assert all((name in said) == any(name in span for span in spans) for name in ("", "0", "é7", "x"))


@pytest.mark.parametrize("count", [0, 1, 42, 43, 85, 86, 1_000, 100_000])
def test_it_grows_and_forgets_nothing_on_the_way(count: int) -> None:
    said = Said(1 << 20)
    chance = random.Random(count)
    for number in range(count):
        assert said.add(f"c{number}")
        assert f"c{chance.randrange(number + 1)}" in said
    assert all(f"c{number}" in said for number in range(count))
    assert not any(f"d{number}" in said for number in range(count))
    assert not any(said.add(f"c{number}") for number in range(count))


def test_it_takes_what_is_said_and_gives_it_back() -> None:
    said = Said(1 << 20)
    assert said.bytes == 0
    for number in range(100_000):
        said.add(str(number))
    assert 8 * 100_000 < said.bytes <= 8 * 3 * 131_072
    for _ in range(3):
        said.age()
    assert said.bytes == 0
    assert "0" not in said


def test_past_its_bound_it_ages_by_itself() -> None:
    said = Said(1_000)
    for number in range(10_000):
        assert said.add(str(number))
    assert said.bytes <= 3 * 8 * 2 * 2_048
    known = [number for number in range(10_000) if str(number) in said]
    assert known == list(range(10_000 - len(known), 10_000))
    assert 2_000 <= len(known) <= 3_000


@pytest.mark.parametrize("wrong", [None, b"c1", 1])
def test_an_id_is_text(wrong: object) -> None:
    said = Said(10)
    with pytest.raises(TypeError):
        said.add(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        assert wrong in said  # type: ignore[operator]


def test_it_holds_no_text() -> None:
    said, made = Said(10), "".join(["a", "comment"])
    before = sys.getrefcount(made)
    said.add(made)
    assert sys.getrefcount(made) == before
