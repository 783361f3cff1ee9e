"""A table that forgets, a meter and a switch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.ingest.meter import Meter, Switch
from edge.ingest.recent import Recent


@given(st.integers(2, 20), st.lists(st.integers(0, 40), max_size=200))
def test_what_was_put_last_is_there_and_the_rest_is_bounded(most: int, keys: list[int]) -> None:
    table: Recent[int, int] = Recent(most)
    for turn, key in enumerate(keys):
        table.put(key, turn)
        assert len(table) <= most
    newest = list(dict.fromkeys(reversed(keys)))[: most // 2]
    for key in newest:
        last = len(keys) - 1 - keys[::-1].index(key)
        assert table.get(key) == last == table.copy()[key]
    for key, turn in table.copy().items():
        assert keys[turn] == key


def test_dropped_and_aged() -> None:
    table: Recent[str, int] = Recent(10)
    table.put("a", 1)
    table.age()
    table.put("b", 2)
    table.drop("b")
    assert table.copy() == {"a": 1}
    table.age()
    assert table.get("a") is None


@given(st.lists(st.integers(0, 30), min_size=1, max_size=100))
def test_a_meter_is_no_further_off_than_its_windows(tenths: list[int]) -> None:
    """Never more than there were in two windows, and no less than there were in the running one."""
    meter = Meter(1.0)
    now, times = 0.0, []
    for step in tenths:
        now += step / 10
        meter.add(now)
        times.append(now)
        assert 1 <= meter.seen(now) <= sum(time > now - 2 - 1e-9 for time in times) + 1e-9


def test_a_meter_of_an_even_rate_says_that_rate() -> None:
    meter = Meter(1.0)
    for tick in range(3000):
        meter.add(tick / 1000)
    assert meter.seen(3.0) == pytest.approx(1000, rel=0.01)
    assert meter.seen(3.5) == pytest.approx(500, rel=0.01)
    assert meter.seen(9.0) == 0


def test_a_switch_does_not_flicker() -> None:
    switch = Switch(10, 5, 3.0)
    assert switch.turn(9.9, 0.0) is None
    assert switch.turn(10, 1.0) is True
    assert switch.turn(20, 2.0) is None
    assert [switch.turn(level, now) for level, now in ((4, 3.0), (6, 4.0), (4, 6.9))] == [None, None, None]
    assert switch.is_on
    assert switch.turn(4.9, 7.0) is False
    assert switch.turn(6, 8.0) is None
    assert not switch.is_on


def test_a_switch_goes_off_below_where_it_goes_on() -> None:
    with pytest.raises(ValueError):
        Switch(5, 6, 1.0)
