"""How much one user, address or room may have in a while."""

import ipaddress
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.ingest.limits import KEPT, Buckets, Limits, Networks, Rates, network


def v6(text: str) -> bytes:
    """As the engine has an address: IPv4 as IPv6 has it."""
    address = ipaddress.ip_address(text)
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


ANN = v6("192.0.2.1")


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
    assert len(buckets) == 0


def test_one_in_a_while() -> None:
    buckets = Buckets(1, 5.0)
    assert buckets.take("a", 0.0) == 0.0
    assert buckets.take("a", 4.9) == pytest.approx(0.1)
    assert buckets.take("a", 5.0) == 0.0


def test_who_waits_as_long_as_told_is_let_in() -> None:
    buckets = Buckets(7, 3.0)
    now = 12345.678
    for _ in range(200):
        wait_s = buckets.take("a", now)
        if wait_s:
            now += wait_s
            assert buckets.take("a", now) == 0.0


def test_the_table_is_bounded_and_those_who_insist_stay_in_it() -> None:
    buckets = Buckets(1, 60.0, kept=100)
    assert buckets.take(b"insists", 0.0) == 0.0
    for number in range(1000):
        buckets.take(b"%d" % number, 0.0)
        assert buckets.take(b"insists", 0.0) > 0
        assert len(buckets) <= 100


def test_the_table_keeps_the_half_that_was_heard_last() -> None:
    buckets = Buckets(1, 60.0, kept=100)
    for number in range(1000):
        assert buckets.take(b"%d" % number, 0.0) == 0.0
    assert all(buckets.wait(b"%d" % number, 0.0) for number in range(950, 1000))


class Naive:
    """A bucket as one imagines it: so many in it, and some more as time passes."""

    def __init__(self, size: int, per_s: float) -> None:
        self.size, self.rate, self.left, self.then = size, size / per_s, float(size), 0.0

    def ready(self, now: float) -> bool:
        self.left = min(self.size, self.left + (now - self.then) * self.rate)
        self.then = now
        return self.left >= 1 - 1e-6


# Steps of 1/8 s and rates that are powers of two: so nothing is a matter of rounding.
steps = st.lists(st.tuples(st.integers(0, 40), st.sampled_from("ab")), max_size=200)


@given(st.sampled_from([1, 2, 4, 16]), st.sampled_from([1.0, 4.0, 32.0]), steps)
def test_buckets_are_as_one_imagines_them(size: int, per_s: float, moves: list[tuple[int, str]]) -> None:
    buckets, naive = Buckets(size, per_s), {key: Naive(size, per_s) for key in "ab"}
    now = 1000.0
    for eighths, key in moves:
        now += eighths / 8
        ready = naive[key].ready(now)
        naive[key].left -= ready
        wait_s = buckets.take(key, now)
        assert (wait_s == 0) == ready
        if wait_s:
            assert wait_s == pytest.approx((1 - naive[key].left) / naive[key].rate, abs=1e-6)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 8),
            st.sampled_from(["ann", "bob", "eve"]),
            st.sampled_from([b"", v6("192.0.2.1"), v6("2001:db8::1"), v6("2001:db8::2")]),
            st.sampled_from(["derby", "final"]),
        ),
        max_size=120,
    )
)
def test_all_or_none_are_taken(moves: list[tuple[int, str, bytes, str]]) -> None:
    limits = Limits(Rates(user=4, user_s=8.0, address=8, address_s=16.0, room_per_s=2, all_per_s=4))
    naive: dict[tuple[str, object], Naive] = {}

    def of(which: str, key: object, size: int, per_s: float) -> Naive:
        return naive.setdefault((which, key), Naive(size, per_s))

    now = 0.0
    for eighths, user, address, room in moves:
        now += eighths / 8
        counted = [("user", of("user", user, 4, 8.0))]
        if address:
            counted.append(("address", of("address", network(address), 8, 16.0)))
        counted += [("room", of("room", room, 2, 1.0)), ("all", of("all", "", 4, 1.0))]
        refusing = next((which for which, bucket in counted if not bucket.ready(now)), None)
        if refusing is None:
            for _, bucket in counted:
                bucket.left -= 1
        refusal = limits.check(user, None, (), address, room, now)
        assert (refusal.which if refusal else None) == refusing


def passed(check: Callable[[int], object], most: int) -> int:
    """How many pass before one is refused."""
    return next((number for number in range(most) if check(number) is not None), most)


@pytest.mark.parametrize(
    "role, badges, most",
    [
        (None, (), 20),
        ("fan", ("verified",), 20),
        ("bot", (), 20),  # not verified
        ("moderator", (), 100),
        ("admin", (), 100),
        ("bot", ("vip", "verified"), 7_500),
    ],
)
def test_users_by_their_role(role: str | None, badges: tuple[str, ...], most: int) -> None:
    limits = Limits(Rates())
    assert passed(lambda _: limits.check("ann", role, badges, ANN, "derby", 0.0), 10_000) == most
    refusal = limits.check("ann", role, badges, ANN, "derby", 0.0)
    assert refusal is not None
    assert (refusal.name, refusal.which) == ("too_many", "user")
    assert refusal.retry_after == pytest.approx(30 / most)
    assert limits.check("ann", role, badges, ANN, "derby", refusal.retry_after) is None


def test_an_address_has_a_hundred_a_minute_whoever_speaks() -> None:
    limits = Limits(Rates())
    assert passed(lambda number: limits.check(f"u{number}", None, (), ANN, "derby", 0.0), 200) == 100
    assert limits.check("other", None, (), v6("192.0.2.2"), "derby", 0.0) is None
    assert limits.check("mod", "moderator", (), ANN, "derby", 0.0) is None
    assert limits.check("site", None, (), b"", "derby", 0.0) is None


def test_an_ipv6_network_is_one_address() -> None:
    limits = Limits(Rates())
    count = passed(lambda n: limits.check(f"u{n}", None, (), v6(f"2001:db8:0:1::{n + 1:x}"), "derby", 0.0), 200)
    assert count == 100
    assert limits.check("other", None, (), v6("2001:db8:0:2::1"), "derby", 0.0) is None


def test_addresses_of_carriers_have_a_multiple() -> None:
    limits = Limits(Rates(carriers=("100.64.0.0/10", "2001:db8::/32"), carrier_times=3))
    for text, most in (("100.127.0.9", 300), ("2001:db8:9::1", 300), ("100.128.0.1", 100), ("2001:db9::1", 100)):
        address = v6(text)
        answers = [limits.check(f"{text} {n}", None, (), address, "derby", 0.0) for n in range(most + 1)]
        assert [answer is None for answer in answers] == [True] * most + [False], text


def test_a_room_and_the_whole_server() -> None:
    limits = Limits(Rates(room_per_s=5, all_per_s=8))
    assert passed(lambda n: limits.check(f"u{n}", None, (), b"", "derby", 0.0), 99) == 5
    refusal = limits.check("ann", None, (), b"", "derby", 0.0)
    assert refusal is not None
    assert refusal.which == "room"
    assert passed(lambda n: limits.check(f"u{n}", None, (), b"", "final", 0.0), 99) == 3
    refusal = limits.check("ann", None, (), b"", "final", 0.0)
    assert refusal is not None
    assert refusal.which == "all"
    assert passed(lambda n: limits.check("ann", None, (), b"", f"r{n}", 1.0), 99) == 8  # nothing was taken from ann


def test_reactions_have_a_limit_of_their_own() -> None:
    limits = Limits(Rates(reactions=3, reactions_s=3.0))
    assert passed(lambda _: limits.react("ann", 0.0), 99) == 3
    refusal = limits.react("ann", 0.0)
    assert refusal is not None
    assert (refusal.name, refusal.which, refusal.retry_after) == ("too_many", "reactions", pytest.approx(1.0))
    assert limits.check("ann", None, (), ANN, "derby", 0.0) is None


def test_a_flood_of_users_and_addresses_costs_bounded_memory() -> None:
    limits = Limits(Rates(kept=1000, room_per_s=0, all_per_s=0))
    for number in range(20_000):
        limits.check(f"u{number}", None, (), v6(f"10.{number >> 8}.{number & 255}.1"), f"r{number}", 0.0)
    assert len(limits._users) <= 1000
    assert len(limits._addresses) <= 1000
    assert KEPT > 1000


@pytest.mark.parametrize("bad", ["10.0.0.0/33", "10.0.0.1/8", "example.org", "", "2001:db8::/129"])
def test_what_is_no_network_is_named(bad: str) -> None:
    with pytest.raises(ValueError, match="is no network") as caught:
        Networks(["10.0.0.0/8", bad])
    assert repr(bad) in str(caught.value)


@given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 128))
def test_networks_hold_what_ipaddress_says(
    one: ipaddress.IPv4Address | ipaddress.IPv6Address,
    other: ipaddress.IPv4Address | ipaddress.IPv6Address,
    length: int,
) -> None:
    net = ipaddress.ip_network((one, min(length, one.max_prefixlen)), strict=False)
    for address in (one, other):
        if address.version == net.version:
            assert (v6(str(address)) in Networks([str(net)])) == (address in net)
    if one.version == 4:
        assert one.packed in Networks([str(net)])
