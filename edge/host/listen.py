"""The listening sockets of a server: opened once, by the parent, before there is any worker.

A listener is never opened again while the server runs: closing a SO_REUSEPORT listener resets every connection that
waits in its queue, so a worker that comes back gets the very socket that its predecessor had.
"""

import ipaddress
import os
import socket

from edge.config import parse_address

BACKLOG = 65535  # the kernel clips it to net.core.somaxconn
TCP_NOTSENT_LOWAT = 25  # <linux/tcp.h>; the socket module of 3.11 does not name it

# Accepted sockets inherit all of these at no cost of their own. With the kernel's defaults a viewer that stops reading
# holds up to 4.1 MB of kernel memory; with a low-water mark on unsent bytes it is some 50 KB.
_INHERITED = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, 16384),
    (socket.SOL_SOCKET, socket.SO_SNDBUF, 131072),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30000),
)


class ListenError(Exception):
    """An address that cannot be listened on; its text names the address and the cause."""


def _open(host: str, port: int, *, alone: bool) -> socket.socket:
    family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        for level, option, value in _INHERITED:
            sock.setsockopt(level, option, value)
        if not alone:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
        # Two servers of one user with SO_REUSEPORT would share a port without a word. The first socket therefore binds
        # without it, which fails where anybody listens already, and joins the group afterwards.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        return sock
    except BaseException:
        sock.close()
        raise


def open_listeners(address: str, count: int) -> list[socket.socket]:
    """`count` non-blocking listeners on one address, one a worker; port 0 takes a free port, the same for all."""
    host, port = parse_address(address)
    opened: list[socket.socket] = []
    try:
        for _ in range(count):
            opened.append(_open(host, port, alone=not opened))
            port = opened[0].getsockname()[1]
        for sock in opened:
            sock.listen(BACKLOG)
    except OSError as error:
        for sock in opened:
            sock.close()
        raise ListenError(f"cannot listen on {address}: {os.strerror(error.errno or 0)}") from None
    return opened


def url(sock: socket.socket) -> str:
    """Where a listener is, as a browser on this box would name it; a wildcard address becomes its loopback."""
    host, port = sock.getsockname()[:2]
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"http://[{address}]:{port}" if address.version == 6 else f"http://{address}:{port}"
