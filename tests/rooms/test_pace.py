"""How often a room gets a batch."""

import pytest

from edge.rooms.pace import BUSY_S, LONGEST_S, REPORT_S, Pace


def test_a_quiet_room_gets_its_batch_at_once() -> None:
    pace = Pace(0.005)
    assert pace.due(100.0) == pytest.approx(100.005)
    pace.made(100.005)
    assert pace.due(101.0) == pytest.approx(101.005)


def test_a_busy_room_gets_one_every_window() -> None:
    pace = Pace(0.005)
    pace.made(100.0)
    assert pace.due(100.001) == pytest.approx(100.0 + BUSY_S)
    assert pace.due(100.049) == pytest.approx(100.054)  # and gathers for a moment in any case


def test_the_window_is_twice_the_slowest_broadcast_and_comes_back_by_itself() -> None:
    pace = Pace(0.005)
    pace.reported(100.0, "one", 0.3)
    pace.reported(100.0, "two", 0.1)
    assert pace.window(100.5) == pytest.approx(0.6)
    pace.made(100.5)
    assert pace.due(100.6) == pytest.approx(101.1)
    pace.reported(101.0, "one", 0.04)
    assert pace.window(101.5) == pytest.approx(0.2)
    assert pace.window(101.0 + REPORT_S) == pytest.approx(0.08)
    assert pace.window(101.1 + REPORT_S) == BUSY_S
    pace.reported(200.0, "one", 60.0)
    assert pace.window(200.0) == LONGEST_S


def test_idle_is_the_time_since_the_last_batch() -> None:
    pace = Pace(0.005)
    assert pace.idle(0.0, 60.0)
    pace.made(100.0)
    assert not pace.idle(150.0, 60.0)
    assert pace.idle(161.0, 60.0)
