"""An engine in this process on TCP sockets of the loopback, and small clients that read what it says byte by byte.

Nothing runs by itself: a test turns the engine with `turn`, `until` and `settle`. A Rig owns its engine, listener and
viewers, and when it is closed it checks that not one block, byte, mapping or descriptor was kept. A Viewer checks as it
reads that each lane is contiguous but for announced gaps; what it cannot know (the head, who was in time) tests check.
"""

import os
import random
import select
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import msgspec
import pytest
import zstandard
from hypothesis import settings

from edge._fast import sys as fast_sys
from edge._fast.reactor import Engine
from edge.config import Config
from edge.options import engine_options

MUST, CHAT = 0, 1
LETTERS = "mc"
JSON, MSGPACK, ZSTD, DEFLATE, SSE, POLL = range(6)
PROTOCOLS = {MSGPACK: "edge.v1.msgpack", ZSTD: "edge.v1.msgpack.zstd"}
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
DEADLINE_S = 5.0
FREE, HEAD, PARKED, WS, STREAM, POLLING, CLOSING = range(7)  # kinds, as describe() names them

Message = dict[str, Any]
IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")


def bounded(examples: int = 50, *, steps: int = 30) -> settings:
    """Property tests that end: in CI always the same examples, elsewhere others; a failure says how to repeat it."""
    return settings(max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=IN_CI, print_blob=True)


def descriptors() -> set[str]:
    return {f"{fd}:{os.readlink(f'/proc/self/fd/{fd}')}" for fd in os.listdir("/proc/self/fd") if _there(fd)}


def _there(fd: str) -> bool:
    # The listing's own descriptor is gone by the time that it is looked at; what a test runner opens is its own.
    return os.path.islink(f"/proc/self/fd/{fd}") and "socket:" in os.readlink(f"/proc/self/fd/{fd}")


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    """Native memory and sockets are as before the test; import it and it holds for the module."""
    memory, sockets = fast_sys.memory(), descriptors()
    yield
    assert fast_sys.memory() == memory
    assert descriptors() == sockets


class Viewer:
    """A client. `offset` counts the bytes it has had; `got` has each message with the offset at which it began."""

    def __init__(self, rig: "Rig", room: str, enc: int, query: str, fields: list[str], rcvbuf: int) -> None:
        self.enc, self.room = enc, room
        self.user: str | None = None
        self.offset = 0
        self.head = b""
        self.bytes = bytearray()
        self.got: list[tuple[int, Message]] = []
        self.raw: list[tuple[int, bytes]] = []  # WebSocket: every frame's opcode and payload
        self.position: dict[str, int] = {}
        self.ids: dict[str, list[int]] = {"m": [], "c": []}
        self.gaps: list[tuple[str, int, int]] = []
        self.vector = ""
        self.close_code: int | None = None
        self.end: str | None = None  # "closed" or "reset", by the other side
        self.reading = True
        self.asked, self.answers = 1, 0  # long polls
        self.sock = socket.socket()
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.connect(rig.listener.getsockname())
        self.sock.setblocking(False)
        self.ask(room, query, fields)

    def ask(self, room: str, query: str = "", fields: list[str] | None = None) -> None:
        way = {SSE: "sse", POLL: "poll"}.get(self.enc, "ws")
        lines = [f"GET /v1/rooms/{room}/{way}{query} HTTP/1.1", "Host: test", *(fields or [])]
        if way == "ws":
            lines += [
                "Upgrade: websocket",
                "Connection: Upgrade",
                "Sec-WebSocket-Version: 13",
                f"Sec-WebSocket-Key: {KEY}",
            ]
            if self.enc in PROTOCOLS:
                lines.append(f"Sec-WebSocket-Protocol: {PROTOCOLS[self.enc]}")
            elif self.enc == DEFLATE:
                lines.append("Sec-WebSocket-Extensions: permessage-deflate")
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode())

    @property
    def id(self) -> int:
        assert self._id is not None
        return self._id

    _id: int | None = None

    # Reading.

    def read(self, limit: int = 1 << 30) -> bool:
        """What is there, at most `limit` bytes of it; whether there was anything."""
        before = self.offset, self.end
        while limit > 0 and self.end is None:
            try:
                data = self.sock.recv(min(limit, 1 << 16))
            except BlockingIOError:
                break
            except ConnectionResetError:
                self.end = "reset"
                break
            if not data:
                self.end = "closed"
                break
            limit -= len(data)
            self.offset += len(data)
            self.bytes += data
        self._parse()
        return before != (self.offset, self.end)

    def _parse(self) -> None:
        if self.enc == POLL:
            while self._poll_answer():
                self.answers += 1
            return
        if not self.head:
            head, mark, rest = self.bytes.partition(b"\r\n\r\n")
            if not mark:
                return
            self.head, self.bytes = bytes(head), rest
        if self.status == "200":
            while self._event():
                pass
        elif self.status == "101":
            while self._frame():
                pass

    @property
    def status(self) -> str:
        return self.head[9:12].decode()

    def _take(self, n: int) -> tuple[int, bytes]:
        began = self.offset - len(self.bytes)
        data = bytes(self.bytes[:n])
        del self.bytes[:n]
        return began, data

    def _frame(self) -> bool:
        if len(self.bytes) < 2:
            return False
        size, at = self.bytes[1], 2
        assert size < 128, "a server masks nothing"
        if size >= 126:
            at = 4 if size == 126 else 10
            size = int.from_bytes(self.bytes[2:at], "big")
        if len(self.bytes) < at + size:
            return False
        began, data = self._take(at + size)
        op, payload = data[0] & 15, data[at:]
        assert data[0] & 0x80
        if data[0] & 0x40:
            assert self.enc == DEFLATE
            payload = zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff")
        self.raw.append((op, payload))
        if op == 8:
            self.close_code = int.from_bytes(payload[:2], "big") if payload else 1005
        elif op < 8:
            assert op == (1 if self.enc in (JSON, DEFLATE) else 2)
            if self.enc == ZSTD:
                payload = zstandard.ZstdDecompressor().decompress(payload)
            self._message(began, msgspec.json.decode(payload) if op == 1 else msgspec.msgpack.decode(payload))
        return True

    def _event(self) -> bool:
        size = self.bytes.find(b"\n\n") + 2
        if size == 1:
            return False
        began, data = self._take(size)
        fields = dict(line.split(": ", 1) for line in data.decode().splitlines() if ": " in line)
        if "data" in fields:
            message = msgspec.json.decode(fields["data"])
            assert fields["event"] == message["t"]
            self.vector = fields.get("id", self.vector)
            self._message(began, message)
            if "id" in fields:
                assert self.vector == f"{self.vector.split('.')[0]}.m{self.position['m']}.c{self.position['c']}"
        return True

    def _poll_answer(self) -> bool:
        head, mark, rest = bytes(self.bytes).partition(b"\r\n\r\n")
        if not mark:
            return False
        fields = dict(line.split(": ", 1) for line in head.decode().splitlines()[1:])
        size = int(fields.get("Content-Length", 0))
        if len(rest) < size:
            return False
        began, _ = self._take(len(head) + 4 + size)
        self.head = head
        if self.status == "200":
            answer = msgspec.json.decode(rest[:size])
            for message in answer["m"]:
                self._message(began, message)
            self._arrive(answer["since"])
        elif self.status == "204":
            self._arrive(fields["Edge-Since"])
        return True

    def _arrive(self, vector: str) -> None:
        self.vector = vector
        for letter, part in zip(LETTERS, vector.split(".")[1:], strict=True):
            assert self.position.setdefault(letter, int(part[1:])) == int(part[1:])

    # What is promised: from where hello says, each lane without holes and without repeats but for announced gaps.

    def _message(self, began: int, message: Message) -> None:
        self.got.append((began, message))
        if message["t"] == "hello":
            assert not self.position
            self._arrive(message["since"])
        elif message["t"] == "gap":
            letter, first, last = message["from"][0], int(message["from"][1:]), int(message["to"][1:])
            if letter in self.position:
                assert first == self.position[letter] + 1
            assert last >= first
            self.position[letter] = last
            self.gaps.append((letter, first, last))
        elif "id" in message:
            letter, seq = message["id"][0], int(message["id"][1:])
            if letter in self.position:
                assert seq == self.position[letter] + 1, f"{message['id']} after {self.position[letter]}"
            self.position[letter] = seq
            self.ids[letter].append(seq)

    def messages(self, t: str) -> list[Message]:
        return [message for _, message in self.got if message["t"] == t]

    # Writing.

    def send(self, data: bytes, op: int = 1, fin: bool = True, rsv1: bool = False) -> None:
        self.sock.sendall(frame(data, op, fin, rsv1))

    def say(self, message: Message) -> None:
        if self.enc in (JSON, DEFLATE):
            self.send(msgspec.json.encode(message))
        else:
            self.send(msgspec.msgpack.encode(message), 2)

    def close(self, *, reset: bool = False) -> None:
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()
        self.end = self.end or "left"
        self.reading = False


def frame(data: bytes, op: int = 1, fin: bool = True, rsv1: bool = False) -> bytes:
    """A client's frame, masked with zeros: unmasking has tests of its own."""
    n = len(data)
    size = (
        bytes([0x80 | n])
        if n < 126
        else b"\xfe" + n.to_bytes(2, "big")
        if n < 65536
        else b"\xff" + n.to_bytes(8, "big")
    )
    return bytes([fin << 7 | rsv1 << 6 | op]) + size + bytes(4) + data


class Rig:
    """An engine that listens. As its upcalls it admits whoever comes (`admits`), and notes the rest."""

    def __init__(
        self, *, capacity: int = 256, rooms: int = 64, sndbuf: int = 0, trusted: tuple[Any, ...] = (), **options: int
    ) -> None:
        self.memory, self.sockets = fast_sys.memory(), descriptors()
        self.viewers: list[Viewer] = []
        self.heads: dict[tuple[str, int], int] = {}
        self.requests: list[tuple[int, bytes, bytes | None, bytes | None]] = []
        self.said: list[tuple[int, int, int, bytes]] = []
        self.handed: list[tuple[int, bytes]] = []
        self.admits = True
        self.dialled: list[socket.socket] = []
        self.names = 0
        self.noise = random.Random(1).randbytes(16384).hex()  # what no compressor makes much smaller
        self.on_message: Callable[[int, bytes], object] | None = None
        self.options = engine_options(Config(), anonymous=True, group=False) | options
        self.engine = Engine(self, capacity, rooms, 7, self.options, trusted)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.listener.setblocking(False)
        self.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if sndbuf:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
        self.engine.listen(self.listener.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if error is None:
            assert fast_sys.memory() == self.memory
            assert descriptors() == self.sockets

    def close(self) -> None:
        self.engine.close()
        for viewer in self.viewers:
            viewer.sock.close()
        for sock in self.dialled:
            sock.close()
        for fd, _ in self.handed:
            os.close(fd)
        self.handed = []
        self.listener.close()

    # The engine's upcalls.

    def opens(self, requests: list[tuple[int, bytes, bytes | None, bytes | None]]) -> None:
        self.requests += requests
        for id_, room, _, user in requests:
            for viewer in self.viewers:
                if user and viewer.user == user.decode():
                    viewer._id = id_
            if self.admits:
                self.engine.admit(id_, room, user or b"", b"claims of " + (user or b"nobody"))

    def handoffs(self, connections: list[tuple[int, bytes]]) -> None:
        self.handed += connections

    def messages(self, messages: list[tuple[int, int, int, bytes]]) -> None:
        self.said += messages
        if self.on_message:
            for id_, _, _, payload in messages:
                self.on_message(id_, payload)

    # Turning.

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.engine.tick()

    def until(self, condition: Callable[[], object], seconds: float = DEADLINE_S) -> None:
        """Turn and let viewers read until it holds; fail when it does not in time."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not come about in time"
            busy = self.engine.tick()
            for viewer in self.viewers:
                if viewer.reading:
                    busy |= viewer.read()
            if not busy and not condition():
                readers = [viewer.sock for viewer in self.viewers if viewer.reading and viewer.end is None]
                select.select([self.engine.fileno(), *readers], [], [], 0.02)

    def calm(self) -> bool:
        """Nothing is on its way to anybody who reads."""
        for viewer in self.viewers:
            now = self.engine.describe(viewer._id) if viewer._id else None
            if viewer.reading and now and (now["blocked"] or now["sent"] != viewer.offset):
                return False
        return True

    def settle(self) -> None:
        """Until the engine has no more to do and every viewer that reads has all that was sent to it."""
        end = time.monotonic() + DEADLINE_S
        while True:
            busy = self.engine.tick()
            for viewer in self.viewers:
                if viewer.reading:
                    busy |= viewer.read()
            if not busy and self.calm():
                return
            assert time.monotonic() < end, "it did not settle"

    # Rooms and viewers.

    def room(self, name: str, incarnation: int = 1, must: int = 0, chat: int = 0) -> None:
        self.engine.room_open(name.encode(), incarnation, must, chat)
        self.heads[name, MUST], self.heads[name, CHAT] = must, chat

    def append(self, room: str, lane: int = CHAT, *, size: int = 10, seq: int | None = None, count: int = 1) -> int:
        seq = self.heads[room, lane] + 1 if seq is None else seq
        text = self.noise[:size]
        body: Message = {"x": text} if count == 1 else {"x": text, "m": [0] * count}
        message = {"t": "batch" if lane == CHAT else "score", "id": f"{LETTERS[lane]}{seq}", **body}
        result = self.engine.append(room.encode(), lane, seq, count, msgspec.msgpack.encode(message))
        self.heads[room, lane] = max(seq, self.heads[room, lane])
        return result

    def connect(
        self, room: str, enc: int = JSON, *, query: str = "", fields: list[str] | None = None, named: bool = True,
        rcvbuf: int = 0,
    ) -> Viewer:  # fmt: skip
        """A client that has asked; with a name the engine's user asks for (and so `opens` tells its id)."""
        self.names += named
        user = f"u{self.names}"
        if named:
            query += f"{'&' if query else '?'}user={user}"
        viewer = Viewer(self, room, enc, query, fields or [], rcvbuf)
        viewer.user = user if named else None
        self.viewers.append(viewer)
        return viewer

    def join(self, room: str, enc: int = JSON, **more: Any) -> Viewer:
        """A client that is in its room: it has its head, and hello or what a poll may be told."""
        viewer = self.connect(room, enc, **more)
        if enc == POLL:
            self.until(lambda: viewer._id is not None)
        else:
            self.until(lambda: viewer.position)
        return viewer

    def leave(self, viewer: Viewer, *, reset: bool = False) -> None:
        viewer.close(reset=reset)
        self.viewers.remove(viewer)

    def dial(self, data: bytes) -> socket.socket:
        """A connection that has said so much, and is nobody's viewer."""
        sock = socket.create_connection(self.listener.getsockname())
        self.dialled.append(sock)
        sock.sendall(data)
        return sock

    def count(self, name: str) -> int:
        return int(self.engine.counters()[name])

    def blocked(self, viewer: Viewer) -> bool:
        now = self.engine.describe(viewer.id)
        return now is not None and bool(now["blocked"])

    def block(self, viewer: Viewer, room: str, lane: int = CHAT, *, size: int = 20000) -> int:
        """Append until a viewer that does not read is blocked for good; how many appends that took."""
        viewer.reading = False
        for n in range(1, 1000):
            self.append(room, lane, size=size)
            self.until(lambda: self.position(viewer)[lane] == self.heads[room, lane] or self.blocked(viewer))
            if self._stuck(viewer):
                return n
        raise AssertionError("the kernel takes everything")

    def _stuck(self, viewer: Viewer) -> bool:
        # The peer's kernel acknowledges up to 40 ms late, which makes room once more: blocked is who stays so.
        end = time.monotonic() + 0.06
        while self.blocked(viewer) and time.monotonic() < end:
            select.select([self.engine.fileno()], [], [], 0.02)
            self.turn()
        return self.blocked(viewer)

    def position(self, viewer: Viewer) -> tuple[int, int]:
        now = self.engine.describe(viewer.id)
        assert now is not None
        return now["must"], now["chat"]
