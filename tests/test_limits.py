"""How much one address may have in a while."""

import pytest

from edge.limits import Buckets


def test_a_burst_and_then_the_rate() -> None:
    buckets = Buckets(10, 60.0)
    assert [buckets.take(b"a", 100.0) for _ in range(10)] == [0.0] * 10
    assert buckets.take(b"a", 100.0) == pytest.approx(6.0)
    assert buckets.take(b"b", 100.0) == 0.0
    assert buckets.take(b"a", 105.9) > 0
    assert buckets.take(b"a", 106.1) == 0.0
    assert buckets.take(b"a", 106.2) > 5
    assert [buckets.take(b"a", 1000.0) for _ in range(11)].count(0.0) == 10  # no more than that is saved up


def test_no_limit() -> None:
    buckets = Buckets(0, 60.0)
    assert not any(buckets.take(b"a", 0.0) for _ in range(1000))


def test_the_table_is_bounded_and_those_who_insist_stay_in_it() -> None:
    buckets = Buckets(1, 60.0, kept=100)
    assert buckets.take(b"insists", 0.0) == 0.0
    for number in range(1000):
        buckets.take(b"%d" % number, 0.0)
        assert buckets.take(b"insists", 0.0) > 0
    assert len(buckets._left) == 100
