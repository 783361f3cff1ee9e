# The broker of one box as a process: a Store behind a unix socket. It owns the socket's path while it runs and what
# each worker has subscribed to. It must never wait for a worker: one that does not read is cut off.

import asyncio
import errno
import logging
import os
import signal
import socket
from collections.abc import Callable
from typing import Any, cast

import uvloop

from broker import envelope
from broker.base import BrokerError, Full, Tail
from broker.envelope import BadEnvelope, Envelopes, pack
from broker.memory import Limits, Store

log = logging.getLogger("broker")

ANSWER_BYTES = 1024 * 1024
"""With this much unread by a worker, its next requests wait in the socket: a crowd of tails is sent at its pace."""
UNREAD_BYTES = 16 * 1024 * 1024
"""With this much unread, the worker is cut off. It comes back, subscribes again, and repairs from the tails."""
SOCKET_PATH_BYTES = 107  # sun_path of unix(7), less its NUL


class Session(asyncio.Protocol):
    """One worker's connection."""

    def __init__(self, server: "LocalServer") -> None:
        self.server = server
        self.envelopes = Envelopes()
        self.rooms: set[str] = set()
        self.paused = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # which uvloop's is not, but for its methods
        self.transport.set_write_buffer_limits(high=ANSWER_BYTES)
        self.server.sessions.add(self)
        self.transport.write(pack(0, envelope.VERSION))

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.sessions.discard(self)
        for room in self.rooms:
            self.server.store.detach(room, self)
        self.rooms.clear()

    def pause_writing(self) -> None:
        self.paused = True
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.paused = False
        self.transport.resume_reading()
        self._work()

    def data_received(self, data: bytes) -> None:
        self.envelopes.feed(data)
        self._work()

    def _work(self) -> None:
        try:
            while not self.paused and not self.transport.is_closing():
                request = self.envelopes.take()
                if request is None:
                    return
                self.transport.write(self._answer(request))
        except (BadEnvelope, TypeError, ValueError, LookupError) as bad:
            log.error("a worker sent what is no request (%s: %s), and is cut off", type(bad).__name__, bad)
            self.transport.abort()

    def _answer(self, request: list[Any]) -> bytes:
        number, op, *arguments = request
        try:
            return pack(number, 0, *OPS[op](self, *arguments))
        except (BrokerError, ValueError) as refused:
            return pack(number, 1, "full" if isinstance(refused, Full) else "bad", str(refused))

    def _append(self, room: str, lane: int, batch: bytes, expected: int) -> tuple[int, int]:
        kind, head = self.server.store.append(room, lane, batch, expected)
        return int(kind), head

    def _subscribe(self, room: str, incarnation: int, must: int, chat: int) -> tuple[Any, ...]:
        found = self.server.store.attach(room, self)
        self.rooms.add(room)
        lanes = found.lanes
        resumed = incarnation == found.incarnation and lanes[0].reaches(must) and lanes[1].reaches(chat)
        tail = found.tail(must, chat) if resumed else found.tail()
        return resumed, tail.incarnation, tail.must, tail.chat, *tail.heads

    def _unsubscribe(self, room: str) -> tuple[()]:
        self.rooms.discard(room)
        self.server.store.detach(room, self)
        return ()

    def _head(self, room: str, lane: int) -> tuple[int]:
        return (self.server.store.head(room, lane),)

    def _tail(self, room: str, lane: int, after: int) -> tuple[Any]:
        return (self.server.store.after(room, lane, after),)

    def batch(self, room: str, lane: int, seq: int, data: bytes) -> None:
        """As a Sink of the Store: called inside another session's append, so the end of this one is only begun."""
        if self.transport.is_closing():
            return
        self.transport.write(self.server.packed(room, lane, seq, data))
        if self.transport.get_write_buffer_size() > UNREAD_BYTES:
            log.error("a worker has left %d bytes unread, and is cut off", self.transport.get_write_buffer_size())
            self.server.cut += 1
            self.transport.abort()

    def reset(self, room: str, tail: Tail) -> None:
        raise AssertionError("a Store never resets")


OPS: dict[int, Callable[..., tuple[Any, ...]]] = {
    envelope.APPEND: Session._append,
    envelope.SUBSCRIBE: Session._subscribe,
    envelope.UNSUBSCRIBE: Session._unsubscribe,
    envelope.HEAD: Session._head,
    envelope.TAIL: Session._tail,
}


class LocalServer:
    """`start` listens, `stop` ends every session and removes the path."""

    def __init__(self, path: str, limits: Limits | None = None) -> None:
        self.path = path
        self.store = Store(limits)
        self.sessions: set[Session] = set()
        self.cut = 0
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._packed: tuple[tuple[str, int, int], bytes, bytes] | None = None

    async def start(self) -> None:
        listener = listen(self.path)
        self._inode = os.stat(self.path).st_ino
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: Session(self), sock=listener, backlog=128)

    async def stop(self) -> None:
        if self._server is None:
            return
        self._server.close()
        for session in list(self.sessions):
            session.transport.abort()
        await self._server.wait_closed()
        self._server = None
        try:
            if os.stat(self.path).st_ino == self._inode:  # not another's, that has come after us
                os.unlink(self.path)
        except FileNotFoundError:
            pass

    def packed(self, room: str, lane: int, seq: int, data: bytes) -> bytes:
        """A batch goes to many workers one after the other: it is packed for the first."""
        key = (room, lane, seq)  # and the very bytes: a forgotten room that is made anew has the same numbers again
        if self._packed is None or self._packed[0] != key or self._packed[1] is not data:
            self._packed = (key, data, pack(0, room, lane, seq, data))
        return self._packed[2]


def listen(path: str) -> socket.socket:
    """A listening socket at `path` that only this user may open. What a dead broker left there is replaced."""
    if not path or len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        raise ValueError(f"broker socket {path!r}: 1 to {SOCKET_PATH_BYTES} bytes")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)  # the mode must be right from the first moment, not after a chmod
    try:
        try:
            sock.bind(path)
        except OSError as taken:
            if taken.errno != errno.EADDRINUSE:
                raise
            _remove_dead(path)
            sock.bind(path)
        sock.listen(128)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(mask)
    return sock


def _remove_dead(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except FileNotFoundError:
            return
    raise OSError(errno.EADDRINUSE, "another broker serves this socket", path)


async def _serve(path: str, limits: Limits | None) -> None:
    server = LocalServer(path, limits)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await server.start()
    try:
        await ended.wait()
    finally:
        await server.stop()


def serve(path: str, limits: Limits | None = None) -> None:
    """Serves the broker at `path` until SIGTERM or SIGINT. OSError if another broker does already."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(path, limits))
