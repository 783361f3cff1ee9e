"""Rooms that are not open cost reads, and are made where they are not there: one address opens so many in a minute."""

import contextlib
import time
from collections.abc import Iterator

import pytest

from edge.service import ABSENT_S
from tests.raw import UPGRADE, Raw
from tests.server import Server, no_complaints
from tests.worker.test_addresses import v2

LIMIT = 4
KEY = "a-key-for-tests-a-key-for-tests-0"


@pytest.fixture(scope="module")
def strict() -> Iterator[Server]:
    with Server(
        dev=False,
        auth_hs256_key=KEY,
        auth_anonymous_view=True,
        limits_opens_per_ip=LIMIT,
        server_proxy_protocol=True,
    ) as server:
        yield server


@pytest.fixture
def server(strict: Server) -> Iterator[Server]:
    with no_complaints(strict):
        yield strict


def opens(server: Server, stack: contextlib.ExitStack, address: str, room: str) -> int:
    raw = stack.enter_context(Raw(server, first=v2(address)))
    raw.get(f"/v1/rooms/{room}/ws", UPGRADE)
    status, headers = raw.head()
    assert (status == 101) == ("retry-after" not in {name.lower() for name in headers})
    return status


@pytest.mark.parametrize(
    "one, same, other", [("203.0.113.7",) * 2 + ("203.0.113.8",), ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")]
)
def test_an_address_opens_so_many_rooms(one: str, same: str, other: str, server: Server, room: str) -> None:
    with contextlib.ExitStack() as stack:
        assert [opens(server, stack, one, f"{room}{n}") for n in range(LIMIT)] == [101] * LIMIT
        assert opens(server, stack, same, f"{room}new") == 429
        assert opens(server, stack, one, f"{room}0") == 101  # it is open: that costs nothing
        assert opens(server, stack, other, f"{room}new") == 101
        assert opens(server, stack, one, f"{room}new") == 101


def test_snapshots_count_as_well(server: Server, room: str) -> None:
    for address in range(99, 89, -1):
        statuses, took_s = [], 0.0
        with Raw(server, first=v2(f"203.0.113.{address}")) as raw:
            for n in range(LIMIT):
                began = time.monotonic()
                for _ in range(2):  # the second time it is known that there is no such room
                    raw.get(f"/v1/rooms/{room}{address}-{n}")
                    statuses.append(raw.reply().status)
                took_s = max(took_s, time.monotonic() - began)
            raw.get(f"/v1/rooms/{room}new")
            reply = raw.reply()
        if took_s < ABSENT_S:  # or else it was known no more: again, from another address
            break
    assert statuses == [200] * LIMIT * 2
    assert (reply.status, reply.error()) == (429, "too_many")
    with contextlib.ExitStack() as stack:
        assert opens(server, stack, "203.0.113.100", f"{room}new") == 101
        with Raw(server, first=v2(f"203.0.113.{address}")) as raw:
            raw.get(f"/v1/rooms/{room}new")
            assert raw.reply().status == 200
