# The broker of one box as a process: a Store behind a unix socket. It owns the Store, the sessions of its workers, and
# the socket's path while it runs. It must never take the path from another that serves it.

import asyncio
import errno
import logging
import os
import secrets
import signal
import socket
import sys
import time

import uvloop

from broker import envelope
from broker.base import LEASE_TTL_S, Misfit
from broker.envelope import pack
from broker.leases import Clock
from broker.local_session import Session
from broker.store import Limits, Store

log = logging.getLogger("broker")

SOCKET_PATH_BYTES = 107  # sun_path of unix(7), less its NUL


class LocalServer:
    """`start` listens, `stop` ends every session and removes the path. What is kept is in the folder `data`; `start`
    raises Misfit where it can't be used, and does not listen then."""

    def __init__(
        self,
        path: str,
        limits: Limits | None = None,
        lease_ttl_s: float = LEASE_TTL_S,
        now: Clock = time.monotonic,
        data: str = "",
    ) -> None:
        self.path = path
        self.store = Store(limits, lease_ttl_s, now, data)
        self.born = secrets.randbits(62) + 1  # so that workers know another life of the broker from this one
        self.sessions: set[Session] = set()
        self.cut = 0
        self.unheard = 0
        self.stopped = False
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._packed: tuple[tuple[str, int, int], bytes, bytes] | None = None

    async def start(self) -> None:
        self.store.state.open()
        try:
            listener = listen(self.path)
        except BaseException:
            await self.store.state.close()
            raise
        self._inode = os.stat(self.path).st_ino
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: Session(self), sock=listener, backlog=128)

    async def stop(self) -> None:
        if self._server is None:
            return
        self.stopped = True
        self._server.close()
        await self.store.state.close()
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
            self._packed = (key, data, pack(0, envelope.BATCH, room, lane, seq, data))
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


async def _serve(path: str, limits: Limits | None, data: str) -> None:
    server = LocalServer(path, limits, data=data)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await server.start()
    try:
        await ended.wait()
    finally:
        await server.stop()


def serve(path: str, limits: Limits | None = None, data: str = "") -> int:
    """Serves the broker at `path` until SIGTERM or SIGINT; the exit status. OSError if another broker does already."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_serve(path, limits, data))
        except Misfit as misfit:
            print(f"edge: {misfit}", file=sys.stderr, flush=True)
            return 1
    return 0
