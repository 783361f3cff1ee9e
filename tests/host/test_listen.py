"""The listening sockets: their options, their sharing, and what they refuse."""

import select
import socket

import pytest

from edge.host import listen


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0"])
def test_accepted_sockets_inherit_the_options(address: str) -> None:
    (listener,) = listen.open_listeners(address, 1)
    with listener, socket.create_connection(listener.getsockname()[:2]):
        assert not listener.getblocking()
        assert select.select([listener], [], [], 5)[0]
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert accepted.getsockopt(socket.IPPROTO_TCP, listen.TCP_NOTSENT_LOWAT) == 16384
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30000
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * 131072  # the kernel doubles it


def test_workers_share_one_port() -> None:
    listeners = listen.open_listeners("127.0.0.1:0", 3)
    try:
        assert len({listener.getsockname() for listener in listeners}) == 1
        clients = [socket.create_connection(listeners[0].getsockname()) for _ in range(100)]
        reached = {sock for _ in clients for sock in select.select(listeners, [], [], 5)[0]}
        assert len(reached) == 3  # all three had connections waiting
    finally:
        for sock in [*listeners, *clients]:
            sock.close()


@pytest.mark.parametrize("count", [1, 2])
def test_a_port_of_a_running_server_is_refused(count: int) -> None:
    listeners = listen.open_listeners("127.0.0.1:0", 2)
    address = f"127.0.0.1:{listeners[0].getsockname()[1]}"
    try:
        with pytest.raises(listen.ListenError, match=f"cannot listen on {address}: Address already in use"):
            listen.open_listeners(address, count)
    finally:
        for sock in listeners:
            sock.close()


def test_a_port_can_be_taken_again_at_once() -> None:
    (listener,) = listen.open_listeners("127.0.0.1:0", 1)
    address = listener.getsockname()
    with socket.create_connection(address) as client:
        listener.setblocking(True)
        accepted, _ = listener.accept()
        accepted.close()  # the server's side closes first, and stays in TIME_WAIT
        assert client.recv(1) == b""
    listener.close()
    listen.open_listeners(f"127.0.0.1:{address[1]}", 1)[0].close()


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(listen.ListenError, match=r"cannot listen on 192\.0\.2\.1:80: Cannot assign requested address"):
        listen.open_listeners("192.0.2.1:80", 1)


@pytest.mark.parametrize(
    "address, start",
    [
        ("127.0.0.1:0", "http://127.0.0.1:"),
        ("0.0.0.0:0", "http://127.0.0.1:"),
        ("[::]:0", "http://[::1]:"),
        ("[::1]:0", "http://[::1]:"),
    ],
)
def test_the_url_is_one_that_a_browser_takes(address: str, start: str) -> None:
    (listener,) = listen.open_listeners(address, 1)
    with listener:
        assert listen.url(listener) == f"{start}{listener.getsockname()[1]}"


def test_a_wildcard_listener_takes_both_families() -> None:
    (listener,) = listen.open_listeners("[::]:0", 1)
    with listener, socket.create_connection(("127.0.0.1", listener.getsockname()[1])):
        assert select.select([listener], [], [], 5)[0]
