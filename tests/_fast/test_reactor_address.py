"""Where a viewer is: what a limit per address may go by, and nothing where that is not known."""

import socket

import pytest

from tests._fast.engine import JSON, POLL, SSE, Rig, nothing_kept
from tests._fast.test_peers import packed

__all__ = ["nothing_kept"]

LOOPBACK = packed("127.0.0.1")
BALANCERS = ((packed("127.0.0.0"), 104),)
SSE_HEAD = b"GET /v1/rooms/a/sse?user=ann HTTP/1.1\r\nHost: a\r\n\r\n"


def arrived(rig: Rig) -> int:
    rig.until(lambda: rig.requests)
    return rig.requests[-1][0]


@pytest.mark.parametrize("per_ip", [0, 5])
@pytest.mark.parametrize("enc", [JSON, SSE, POLL])
def test_of_a_viewer_that_is_here_and_of_one_that_waits(per_ip: int, enc: int) -> None:
    with Rig(per_ip=per_ip) as rig:
        rig.room("a")
        assert rig.engine.address(rig.join("a", enc).id) == LOOPBACK
        rig.admits = False
        rig.connect("a", enc)
        rig.until(lambda: len(rig.requests) == 2)
        assert rig.engine.address(arrived(rig)) == LOOPBACK


@pytest.mark.parametrize(
    "said, address",
    [
        (b"PROXY TCP4 10.0.0.7 10.9.9.9 5 6\r\n", packed("10.0.0.7")),
        (b"PROXY TCP6 2001:db8:1:2:3::4 ::1 5 6\r\n", packed("2001:db8:1:2::")),
        (b"PROXY TCP6 ::ffff:10.0.0.7 ::1 5 6\r\n", packed("10.0.0.7")),
        (b"PROXY UNKNOWN\r\n", None),
    ],
)
@pytest.mark.parametrize("per_ip", [0, 5])
def test_behind_a_balancer_it_is_what_the_balancer_says(per_ip: int, said: bytes, address: bytes | None) -> None:
    with Rig(proxy=1, per_ip=per_ip, trusted=BALANCERS) as rig:
        rig.room("a")
        rig.dial(said + SSE_HEAD)
        assert rig.engine.address(arrived(rig)) == address


def test_a_balancer_that_is_not_trusted_is_where_it_is() -> None:
    with Rig(proxy=1, trusted=((packed("10.0.0.0"), 104),)) as rig:
        rig.room("a")
        assert rig.engine.address(rig.join("a").id) == LOOPBACK


@pytest.mark.parametrize(
    "proxy, peer, address",
    [
        (0, b"", LOOPBACK),
        (0, packed("10.0.0.7"), packed("10.0.0.7")),
        (1, b"", None),
        (1, packed("2001:db8::9"), packed("2001:db8::")),
    ],
)
def test_after_a_detour_it_is_what_was_handed_on(proxy: int, peer: bytes, address: bytes | None) -> None:
    with Rig(proxy=proxy, trusted=BALANCERS) as rig:
        rig.room("a")
        rig.dial(b"")
        there, _ = rig.listener.accept()
        there.setblocking(False)
        rig.engine.adopt(there.detach(), SSE_HEAD, peer)
        assert rig.engine.address(arrived(rig)) == address


def ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not ipv6(), reason="not applicable: no IPv6 on this machine")
@pytest.mark.parametrize("per_ip", [0, 5])
@pytest.mark.parametrize("host, address", [("::1", packed("::")), ("127.0.0.1", LOOPBACK)])
def test_on_a_listener_of_both_kinds(per_ip: int, host: str, address: bytes) -> None:
    with Rig(per_ip=per_ip) as rig:
        rig.room("a")
        with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as both:
            both.setblocking(False)
            rig.engine.listen(both.fileno())
            rig.dialled.append(socket.create_connection((host, both.getsockname()[1])))
            rig.dialled[0].sendall(SSE_HEAD)
            assert rig.engine.address(arrived(rig)) == address
            rig.engine.unlisten()


def test_it_is_what_a_connection_that_is_handed_on_goes_by() -> None:
    with Rig(proxy=1, trusted=BALANCERS) as rig:
        rig.room("a")
        rig.dial(b"PROXY TCP6 2001:db8:1:2:3::4 ::1 5 6\r\nPOST /v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        rig.until(lambda: rig.handed)
        rig.dial(b"PROXY TCP6 2001:db8:1:2:ffff::4 ::1 5 6\r\n" + SSE_HEAD)
        assert rig.engine.address(arrived(rig)) == rig.handed[0][1]


def test_other_ends_that_are_nowhere() -> None:
    with Rig() as rig:
        rig.room("a")
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        rig.engine.adopt(ours.detach(), SSE_HEAD)
        assert rig.engine.address(arrived(rig)) is None
        theirs.close()


def test_counting_that_begins_later_leaves_the_earlier_ones_where_they_are() -> None:
    with Rig() as rig:
        rig.room("a")
        early = rig.join("a")
        rig.engine.configure(rig.options | {"per_ip": 2})
        late = rig.join("a")
        assert rig.engine.address(early.id) == rig.engine.address(late.id) == LOOPBACK
