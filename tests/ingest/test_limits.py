"""How much one user, address or room may have in a while."""

import ipaddress
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.ingest.limits import Author, Limits, Networks, Rates, network
from edge.ingest.verdict import Refusal
from tests._fast.test_buckets import Naive


def v6(text: str) -> bytes:
    """As the engine has an address: IPv4 as IPv6 has it."""
    address = ipaddress.ip_address(text)
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


ANN = v6("192.0.2.1")


def check(limits: Limits, author: Author, address: bytes, room: str, now: float) -> Refusal | None:
    over = limits.purse(author, address, room).take(now)
    return None if over is None else limits.refusal(over)


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
        refusal = check(limits, Author(user), address, room, now)
        assert (refusal.which if refusal else None) == refusing


def passed(one: Callable[[int], object], most: int) -> int:
    """How many pass before one is refused."""
    return next((number for number in range(most) if one(number) is not None), most)


@pytest.mark.parametrize(
    "author, most", [(Author("ann"), 20), (Author("ann", moderates=True), 100), (Author("ann", bot=True), 7_500)]
)
def test_users_by_what_they_are(author: Author, most: int) -> None:
    limits = Limits(Rates())
    assert passed(lambda _: check(limits, author, ANN, "derby", 0.0), 10_000) == most
    refusal = check(limits, author, ANN, "derby", 0.0)
    assert refusal is not None
    assert (refusal.name, refusal.which) == ("too_many", "user")
    assert refusal.retry_after == pytest.approx(30 / most)
    assert check(limits, author, ANN, "derby", refusal.retry_after) is None


def test_an_address_has_a_hundred_a_minute_whoever_speaks() -> None:
    limits = Limits(Rates())
    assert passed(lambda number: check(limits, Author(f"u{number}"), ANN, "derby", 0.0), 200) == 100
    assert check(limits, Author("other"), v6("192.0.2.2"), "derby", 0.0) is None
    assert check(limits, Author("mod", moderates=True), ANN, "derby", 0.0) is None
    assert check(limits, Author("site"), b"", "derby", 0.0) is None


def test_an_ipv6_network_is_one_address() -> None:
    limits = Limits(Rates())
    count = passed(lambda n: check(limits, Author(f"u{n}"), v6(f"2001:db8:0:1::{n + 1:x}"), "derby", 0.0), 200)
    assert count == 100
    assert check(limits, Author("other"), v6("2001:db8:0:2::1"), "derby", 0.0) is None


def test_addresses_of_carriers_have_a_multiple() -> None:
    limits = Limits(Rates(carriers=("100.64.0.0/10", "2001:db8::/32"), carrier_times=3))
    for text, most in (("100.127.0.9", 300), ("2001:db8:9::1", 300), ("100.128.0.1", 100), ("2001:db9::1", 100)):
        address = v6(text)
        answers = [check(limits, Author(f"{text} {n}"), address, "derby", 0.0) for n in range(most + 1)]
        assert [answer is None for answer in answers] == [True] * most + [False], text


def test_a_room_and_the_whole_server() -> None:
    limits = Limits(Rates(room_per_s=5, all_per_s=8))
    assert passed(lambda n: check(limits, Author(f"u{n}"), b"", "derby", 0.0), 99) == 5
    refusal = check(limits, Author("ann"), b"", "derby", 0.0)
    assert refusal is not None
    assert refusal.which == "room"
    assert passed(lambda n: check(limits, Author(f"u{n}"), b"", "final", 0.0), 99) == 3
    refusal = check(limits, Author("ann"), b"", "final", 0.0)
    assert refusal is not None
    assert refusal.which == "all"
    assert passed(lambda n: check(limits, Author("ann"), b"", f"r{n}", 1.0), 99) == 8  # nothing was taken from ann


def test_reactions_have_a_limit_of_their_own() -> None:
    limits = Limits(Rates(reactions=3, reactions_s=3.0))
    assert passed(lambda _: limits.react("ann", 0.0), 99) == 3
    refusal = limits.react("ann", 0.0)
    assert refusal is not None
    assert (refusal.name, refusal.which, refusal.retry_after) == ("too_many", "reactions", pytest.approx(1.0))
    assert check(limits, Author("ann"), ANN, "derby", 0.0) is None


def test_a_flood_of_users_addresses_and_rooms_pushes_out_nothing_that_matters() -> None:
    """In the least memory that there may be, where nearly every newcomer puts another out."""
    limits = Limits(Rates(room_per_s=100, all_per_s=0), bytearray(4096))
    assert passed(lambda _: check(limits, Author("ann"), b"", "final", 0.0), 99) == 20
    assert passed(lambda n: check(limits, Author(f"a{n}"), ANN, "final", 0.0), 200) == 80  # of the room
    assert passed(lambda n: check(limits, Author(f"b{n}"), ANN, "semifinal", 0.0), 200) == 20  # of the address
    for number in range(20_000):
        address = v6(f"10.{number >> 8}.{number & 255}.1")
        assert check(limits, Author(f"u{number}"), address, f"r{number}", 0.0) is None
    assert limits.evicted > 30_000
    for user, address, room, which in (
        ("ann", b"", "other", "user"),
        ("new", ANN, "other", "address"),
        ("new", b"", "final", "room"),
    ):
        refusal = check(limits, Author(user), address, room, 0.0)
        assert refusal is not None
        assert refusal.which == which


def test_those_that_share_memory_share_the_limits() -> None:
    memory = bytearray(8192)
    rates = Rates(user=4, reactions=3, room_per_s=6)
    one, other = Limits(rates, memory), Limits(rates, memory)
    taken = [check((one, other)[n % 2], Author("ann"), b"", "derby", 0.0) is None for n in range(9)]
    assert taken == [True] * 4 + [False] * 5
    assert [check(one, Author("bob"), b"", "derby", 0.0) is None for _ in range(3)] == [True, True, False]
    refusal = check(other, Author("eve"), b"", "derby", 0.0)
    assert refusal is not None
    assert refusal.which == "room"
    assert [(one, other)[n % 2].react("ann", 0.0) is None for n in range(4)] == [True] * 3 + [False]
    assert check(Limits(rates), Author("ann"), b"", "derby", 0.0) is None  # alone


def test_kinds_do_not_meet_though_their_keys_are_the_same() -> None:
    limits = Limits(Rates(user=3, moderator=4, bot=5, reactions=2))
    key = "same"
    assert passed(lambda _: check(limits, Author(key), b"", key, 0.0), 99) == 3
    assert passed(lambda _: check(limits, Author(key, moderates=True), b"", key, 0.0), 99) == 4
    assert passed(lambda _: check(limits, Author(key, bot=True), b"", key, 0.0), 99) == 5
    assert passed(lambda _: limits.react(key, 0.0), 99) == 2


def test_what_is_sent_again_is_free_for_a_while_and_then_costs_what_others_do() -> None:
    limits = Limits(Rates(user=3, user_s=30.0))
    ann, bob = (limits.purse(Author(user), ANN, "derby") for user in ("ann", "bob"))
    assert [limits.again("ann", ann, 0.0) is None for _ in range(8)] == [True] * 6 + [False] * 2
    refusal = limits.again("ann", ann, 0.0)
    assert refusal is not None
    assert (refusal.which, refusal.retry_after) == ("user", pytest.approx(10.0))
    assert limits.again("ann", ann, refusal.retry_after) is None
    assert ann.take(10.0) is not None or ann.take(10.0) is not None
    assert limits.again("bob", bob, 0.0) is None
    free = Limits(Rates(user=0))
    assert all(free.again("ann", free.purse(Author("ann"), b"", "derby"), 0.0) is None for _ in range(100))


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
