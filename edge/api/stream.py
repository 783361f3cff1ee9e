# A stream request on a connection that aiohttp owns (a browser reuses the one it fetched the page on; a balancer keeps
# its own): the connection goes back to the engine, with the head that aiohttp has consumed. It owns the duplicate of
# the descriptor until the engine has it. It must never let aiohttp write another byte, nor lose one that was read.

import os
from collections.abc import Callable
from typing import Any, Protocol, cast

from aiohttp import web

from edge.errors import EdgeError

Adopt = Callable[[int, bytes, bytes], None]


class _Connection(Protocol):
    """What is used of aiohttp's RequestHandler that it does not offer in public, and what our own adds to it."""

    peer: bytes
    _messages: Any  # requests that were read behind this one
    _message_tail: bytes  # what was read behind an upgrade

    def close(self) -> None: ...

    def force_close(self) -> None: ...


class Adopted(web.StreamResponse):
    """The answer is the engine's: nothing is written here."""

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


def request_head(request: web.BaseRequest) -> bytes:
    """The head as the client sent it, but for white space around the values."""
    # aiohttp decodes the target like this, so that this brings back every byte.
    target = request.raw_path.encode("utf-8", "surrogateescape")
    version = b"HTTP/%d.%d" % (request.version.major, request.version.minor)
    lines = [b"%b %b %b" % (request.method.encode(), target, version)]
    lines += [b"%b: %b" % header for header in request.raw_headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def hand_over(request: web.BaseRequest, adopt: Adopt) -> web.StreamResponse:
    """Gives the connection to `adopt`, which owns the descriptor once it has returned. If it raises, or the connection
    is not in a state to change hands, aiohttp answers the error and keeps it."""
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client has gone")
    connection = cast(_Connection, request.protocol)
    # An answer that is not out yet would mix with the engine's bytes; a request read behind this one would be lost.
    # Neither happens to a client that waits for its answers.
    if request.body_exists or connection._messages or transport.get_write_buffer_size():
        connection.close()  # once this is answered
        raise EdgeError("bad_request", "a stream request has no body, and nothing is pipelined with it")
    descriptor = os.dup(transport.get_extra_info("socket").fileno())
    try:
        adopt(descriptor, request_head(request) + connection._message_tail, connection.peer)
    except BaseException:
        os.close(descriptor)
        raise
    # Closing does not shut the connection down while the duplicate lives: both loops only take the descriptor out of
    # their epoll and close it. Nothing is read between here and there: both stop reading at once.
    connection._message_tail = b""
    connection.force_close()
    return Adopted()
