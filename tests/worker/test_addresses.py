"""Limits by address, and the PROXY protocol, which says whose connection it is."""

import contextlib
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.raw import UPGRADE, Raw
from tests.server import HOST, Server, no_complaints, until

LIMIT = 2
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def v1(address: str) -> bytes:
    family = "TCP6" if ":" in address else "TCP4"
    return f"PROXY {family} {address} {'::1' if ':' in address else '192.0.2.1'} 51234 443\r\n".encode()


def v2(address: str, extra: bytes = b"") -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    body = packed + packed + struct.pack("!HH", 51234, 443) + extra
    return SIGNATURE + struct.pack("!BBH", 0x21, 0x21 if ":" in address else 0x11, len(body)) + body


LOCAL = SIGNATURE + struct.pack("!BBH", 0x20, 0, 0)


@pytest.fixture(scope="module")
def proxied() -> Iterator[Server]:
    with Server(
        server_proxy_protocol=True, server_proxy_trusted=f"{HOST}/32", limits_connections_per_ip=LIMIT
    ) as server:
        yield server


@pytest.fixture
def server(proxied: Server) -> Iterator[Server]:
    with no_complaints(proxied):
        yield proxied


def upgrade(raw: Raw, room: str) -> int:
    raw.get(f"/v1/rooms/{room}/ws", UPGRADE)
    return raw.head()[0]


@pytest.mark.parametrize("header", [v1, v2])
@pytest.mark.parametrize("same, other", [("203.0.113.7", "203.0.113.8"), ("2001:db8::1", "2001:db8:0:1::1")])
def test_the_limit_sees_the_viewer(header: object, same: str, other: str, server: Server, room: str) -> None:
    assert callable(header)
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(Raw(server, first=header(same))) for _ in range(LIMIT)]
        for raw in held:
            assert upgrade(raw, room) == 101
        again = same + "2" if ":" in same else same  # an IPv6 address stands for its /64
        with Raw(server, first=header(again)) as raw:
            raw.get(f"/v1/rooms/{room}/sse")
            reply = raw.reply()
            assert (reply.status, reply.error()) == (429, "too_many")
            assert int(reply.headers["retry-after"]) > 0
            assert raw.ended()
        with Raw(server, first=header(other)) as raw:
            assert upgrade(raw, room) == 101
        # Who leaves makes room.
        held[0].sock.close()

        def let_in() -> bool:
            with Raw(server, first=header(same)) as raw:
                return upgrade(raw, room) == 101

        until(let_in)


def test_a_header_in_pieces_and_in_one_with_the_request(server: Server, room: str) -> None:
    request_ = f"GET /v1/rooms/{room}/ws HTTP/1.1\r\nHost: a\r\n{UPGRADE}\r\n".encode()
    for number, header in enumerate(
        (v1("203.0.113.20"), v2("203.0.113.21", b"\x04\x00\x03abc"), b"PROXY UNKNOWN\r\n", LOCAL)
    ):
        with Raw(server, first=header + request_) as raw:
            assert raw.head()[0] == 101, number
        with Raw(server) as raw:
            for at in range(len(header)):
                raw.send(header[at : at + 1])
            raw.send(request_[:20])
            raw.send(request_[20:])
            assert raw.head()[0] == 101, number


def test_what_is_handed_over_comes_without_its_header(server: Server, room: str) -> None:
    with Raw(server, first=v2("203.0.113.30")) as raw:
        for number in (1, 2):
            raw.post(f"/v1/rooms/{room}/score?user=ann", b"{}")
            assert raw.reply().body == b'{"id":"m%d"}\n' % number


def test_a_trusted_source_must_say(server: Server) -> None:
    for first in (
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PROXY TCP4 x\r\n",
        SIGNATURE[:11] + b"x",
        b"PROXY " + b"x" * 200,
    ):
        with Raw(server, first=first) as raw:
            assert raw.ended()
            assert raw.unread == b""


def test_anybody_else_is_not_believed(server: Server, room: str) -> None:
    """And counts by the address that the connection itself comes from."""
    with Raw(server, source="127.0.0.2", first=v1("203.0.113.40")) as raw:
        raw.get("/")
        reply = raw.reply()
        assert (reply.status, reply.error()) == (400, "bad_request")
    with Raw(server, source="127.0.0.3") as one, Raw(server, source="127.0.0.3") as two:
        assert upgrade(one, room) == upgrade(two, room) == 101
        with Raw(server, source="127.0.0.3") as three:
            assert three.reply().status == 429


def test_a_detour_by_a_page_is_no_way_around_the_limit(server: Server, room: str) -> None:
    """A connection that comes back from the HTTP application counts as whose it is."""
    for first, source in ((v1("203.0.113.50"), ""), (b"", "127.0.0.4")):
        with contextlib.ExitStack() as stack:
            held = [stack.enter_context(Raw(server, source, first)) for _ in range(LIMIT)]
            for raw in held:
                raw.get("/healthz")
                assert raw.reply().status == 200
            held += [stack.enter_context(Raw(server, source, first)) for _ in range(2)]
            for raw in held[LIMIT:]:
                raw.get("/healthz")
                assert raw.reply().status == 200
            statuses = [upgrade(raw, room) for raw in held]
            assert statuses == [101] * LIMIT + [429] * 2


def test_a_poll_that_comes_again_counts_once(server: Server, room: str) -> None:
    with Raw(server, first=v1("203.0.113.60")) as raw:
        raw.post(f"/v1/rooms/{room}/score?user=ann", b"{}")
        assert raw.reply().status == 201
        for _ in range(2 * LIMIT):
            raw.get(f"/v1/rooms/{room}/poll")
            assert raw.reply().status == 200
            raw.get("/healthz")
            assert raw.reply().status == 200
