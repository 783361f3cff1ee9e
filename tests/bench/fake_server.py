"""A scripted server for the load client's tests: sends what it is told to, right or wrong; keeps what it was sent.

Owns: a thread with an event loop, the listening port, the connections.
Must never: repair or check anything. A flaw has to reach the client byte by byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")

UPGRADED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\r\n"
HELLO = '{"t":"hello","since":"i3.m11.c340","viewers":1,"resumed":false,"state":"live"}'
PING = b"\x89\x00"


class Last(bytes):
    """The connection ends after these bytes."""


def frame(payload: str | bytes, first: int = 0x81) -> bytes:
    data = payload.encode() if isinstance(payload, str) else payload
    if len(data) < 126:
        return bytes([first, len(data)]) + data
    if len(data) < 65536:
        return bytes([first, 126]) + len(data).to_bytes(2, "big") + data
    return bytes([first, 127]) + len(data).to_bytes(8, "big") + data


def frames(payloads: Iterable[str]) -> bytes:
    return b"".join(map(frame, payloads))


def batch(number: int, text: str = "hi") -> str:
    comment = f'{{"id":"x9","u":{{"id":"u","name":"n"}},"x":"{text}","ts":1}}'
    return f'{{"t":"batch","id":"c{number}","ts":1,"m":[{comment}]}}'


def score(number: int) -> str:
    return f'{{"t":"score","id":"m{number}","ts":1,"e":{{"home":1,"id":"m99"}}}}'


def gap(start: str, end: str) -> str:
    return f'{{"t":"gap","from":"{start}","to":"{end}"}}'


def event(vector: str, payload: str, name: str | None = None) -> bytes:
    name = payload.split('"')[3] if name is None else name
    return f"id: {vector}\nevent: {name}\ndata: {payload}\n\n".encode()


def poll_body(vector: str, payloads: Iterable[str], poll_ms: int = 1) -> str:
    return f'{{"since":"{vector}","poll_ms":{poll_ms},"m":[{",".join(payloads)}]}}'


def http(status: str, body: str = "", headers: str = "") -> bytes:
    length = "" if status.startswith("204") else f"Content-Length: {len(body.encode())}\r\n"
    return f"HTTP/1.1 {status}\r\n{length}{headers}\r\n{body}".encode()


class Viewer(asyncio.Protocol):
    """One connection: each request head is answered by what the script says; what is no request is kept."""

    transport: asyncio.Transport

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.received = b""
        self.asking = False
        self.lost = False
        self.upgraded = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.peer: str = transport.get_extra_info("peername")[0]
        self.server.viewers.append(self)

    def data_received(self, data: bytes) -> None:
        self.received += data
        while not self.upgraded and b"\r\n\r\n" in self.received:
            head, self.received = self.received.split(b"\r\n\r\n", 1)
            if not self.asking:
                self.asking = True
                self.server.asking += 1
                self.server.most_asking = max(self.server.most_asking, self.server.asking)
            self.server.heads.append(head.decode())
            answer = self.server.script(head.decode())
            self.upgraded = answer.startswith((UPGRADED, STREAM))
            self.transport.write(answer)
            if isinstance(answer, Last):
                self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.server.asking -= self.asking


class FakeServer:
    """`script` turns a request head into the bytes that answer it. More can be sent later, to everybody at once."""

    def __init__(self, script: Callable[[str], bytes] | bytes) -> None:
        self.script: Callable[[str], bytes] = script if callable(script) else lambda head: script
        self.viewers: list[Viewer] = []
        self.heads: list[str] = []
        self.asking = self.most_asking = 0  # connections at a time that have asked for something and are there still
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> FakeServer:
        self.thread.start()

        async def listen() -> asyncio.Server:
            return await self.loop.create_server(lambda: Viewer(self), "127.0.0.1", 0, backlog=4096)

        self.listener = asyncio.run_coroutine_threadsafe(listen(), self.loop).result(5)
        self.port: int = self.listener.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        async def end() -> None:
            self.listener.close()
            for viewer in self.viewers:
                viewer.transport.abort()
            await asyncio.sleep(0)  # lets the aborts reach connection_lost

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(5)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()

    def call(self, work: Callable[[], T]) -> T:
        """Does the work on the server's own thread."""

        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)

    def send(self, data: bytes, viewers: slice = slice(None)) -> None:
        """To everybody who is still there, or to some of them."""

        def write() -> None:
            for viewer in self.viewers[viewers]:
                if not viewer.lost:
                    viewer.transport.write(data)

        self.call(write)

    def hang_up(self) -> None:
        for viewer in self.viewers:
            self.call(viewer.transport.close)

    def reset(self) -> None:
        for viewer in self.viewers:
            self.call(viewer.transport.abort)

    def unsent(self) -> int:
        """Bytes that wait here because a viewer does not read."""
        return self.call(lambda: sum(v.transport.get_write_buffer_size() for v in self.viewers if not v.lost))


def unmask(data: bytes) -> list[tuple[int, bytes]]:
    """A client's short frames: (first byte, payload). An unmasked or a long one is an error."""
    found = []
    while data:
        length = data[1] & 0x7F
        assert data[1] & 0x80
        assert length < 126
        mask, body = data[2:6], data[6 : 6 + length]
        found.append((data[0], bytes(byte ^ mask[i % 4] for i, byte in enumerate(body))))
        data = data[6 + length :]
    return found


def free_port() -> int:
    """A port that nobody listens on."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        return int(taken.getsockname()[1])
