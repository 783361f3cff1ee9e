"""Connections counted by address: IPv4 whole, IPv6 by its /64."""

import ipaddress
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from edge._fast.peers import PeersProbe
from tests._fast.engine import bounded, nothing_kept

__all__ = ["nothing_kept"]


def packed(text: str) -> bytes:
    address = ipaddress.ip_address(text)
    return bytes(10) + b"\xff\xff" + address.packed if address.version == 4 else address.packed


def counted(*addresses: str) -> list[int]:
    peers = PeersProbe(64, 9)
    found = [peers.enter(packed(text)) for text in addresses]
    return [entry[1] for entry in found if entry is not None]


def test_ipv4_addresses_count_each_for_itself() -> None:
    assert counted("10.0.0.1", "10.0.0.2", "10.0.0.1", "10.1.0.1", "10.0.0.1") == [1, 1, 2, 1, 3]


def test_ipv6_addresses_count_by_their_network() -> None:
    assert counted("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "2001:db8::ffff:1:2:3") == [1, 2, 1, 3]


def test_the_two_kinds_do_not_mix() -> None:
    assert counted("::1", "0.0.0.1", "::ffff:0.0.0.1", "255.255.0.1") == [1, 1, 2, 1]


addresses = st.sampled_from(["10.0.0.1", "10.0.0.2", "::1", "2001:db8::1", "2001:db8::2", "2001:db8:1::1", "fe80::1"])


@bounded(100)
@given(st.lists(st.tuples(st.booleans(), addresses), max_size=60))
def test_as_many_as_came_less_those_that_left(steps: list[tuple[bool, str]]) -> None:
    peers = PeersProbe(8, 2)
    here: list[tuple[int, str]] = []
    counts: Counter[str] = Counter()
    for comes, text in steps:
        network = text if ":" not in text else str(ipaddress.ip_network(f"{text}/64", strict=False))
        if comes:
            found = peers.enter(packed(text))
            counts[network] += 1
            assert found is not None
            assert found[1] == counts[network]
            here.append((found[0], network))
        elif here:
            index, network = here.pop(len(here) // 2)
            peers.leave(index)
            counts[network] -= 1
        assert peers.free() == 8 - sum(count > 0 for count in counts.values())


def test_a_full_table_says_so() -> None:
    peers = PeersProbe(2, 1)
    assert [peers.enter(packed(f"10.0.0.{i}")) is None for i in (1, 2, 3, 2)] == [False, False, True, False]
