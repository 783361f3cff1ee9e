# The authors of `make bench-ingest`'s live parts: WebSockets with an identity each, on one thread, which say what they
# are given at a set rate, whatever the server does, and note when each comment was answered and how. It owns the
# sockets and the notes. It must never wait for the server before it says the next one: whoever waits measures nothing.
#
# The tabs are hidden (`visible` off), so that no chat is sent to anybody: what is measured is the way in.

import base64
import gc
import os
import select
import socket
import time
from array import array
from collections.abc import Callable, Sequence

import msgspec

from bench.ingest_server import HOST, PATIENCE_S, token

SOURCES = 100
"""Addresses that they come from."""
BITE = 16
"""Comments said between two looks for answers."""
PING = b'{"op":"ping"}'
MASK = bytes(4)  # the server unmasks with it all the same


class Ack(msgspec.Struct):
    t: str
    status: str = ""
    ref: str | None = None
    id: str | None = None
    error: str | None = None


_ack = msgspec.json.Decoder(Ack).decode


class _Gone(msgspec.Struct):
    ids: list[str]


_gone = msgspec.json.Decoder(_Gone).decode


class Talk:
    """What was said in one go, in its order: when each was sent, and what its author was told."""

    def __init__(self) -> None:
        self.sent = array("d")
        self.answered = array("d")  # 0: not yet
        self.statuses: list[str] = []
        self.ids: list[str | None] = []
        self.open = 0
        self.late_s = 0.0  # behind the set rate, at most: this side's fault

    def begin(self, now: float) -> None:
        self.sent.append(now)
        self.answered.append(0.0)
        self.statuses.append("")
        self.ids.append(None)
        self.open += 1

    def end(self, number: int, now: float, ack: Ack) -> None:
        if self.answered[number]:
            raise RuntimeError(f"comment {number} is answered twice: {ack}")
        self.answered[number] = now
        self.statuses[number] = ack.status if ack.error is None else f"{ack.status}: {ack.error}"
        self.ids[number] = ack.id
        self.open -= 1

    def latencies(self, begin: float = float("-inf"), end: float = float("inf")) -> list[float]:
        """In seconds, of those sent from `begin` on and before `end` that were answered, sorted."""
        both = zip(self.sent, self.answered, strict=True)
        return sorted(answered - sent for sent, answered in both if answered and begin <= sent < end)


class _Seat:
    __slots__ = ("out", "rest", "sock", "watches")

    def __init__(self, sock: socket.socket, watches: bool) -> None:
        self.sock = sock
        self.rest = b""
        self.out = b""
        self.watches = watches  # one in a room notes what is retracted there


class Crowd:
    """`count` authors, in turn in each of the rooms. One that may `nap` sleeps a millisecond where there is nothing to
    do, and leaves its core to others; else the times at which it speaks are exact."""

    def __init__(self, port: int, rooms: Sequence[str], count: int, nap: bool = False) -> None:
        self._least_s = 0.001 if nap else 0.0
        self._seats: list[_Seat] = []
        self._of: dict[int, _Seat] = {}
        self._epoll = select.epoll()
        self._talks: list[Talk] = []
        self.pongs = 0
        self.verdicts: dict[str, str] = {}
        """What authors were told later, by the comment's id: the last word."""
        self.verdict_at: dict[str, float] = {}
        """And when they were told of it first."""
        self.shown: set[str] = set()
        """Those that were published at some time, whatever was decided after that."""
        self.retracted: set[str] = set()
        self.errors: list[str] = []
        self.sends = 0
        try:
            for number in range(count):
                self._join(port, rooms[number % len(rooms)], number, number < len(rooms))
        except BaseException:
            self.close()
            raise

    def _join(self, port: int, room: str, number: int, watches: bool) -> None:
        sock = socket.create_connection((HOST, port), PATIENCE_S, (f"127.0.1.{1 + number % SOURCES}", 0))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        who = token(f"user-{number}", name=f"User {number}")
        key = base64.b64encode(os.urandom(16)).decode()
        sock.sendall(
            f"GET /v1/rooms/{room}/ws?last=0 HTTP/1.1\r\nHost: edge\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nAuthorization: Bearer {who}\r\n\r\n".encode()
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            part = sock.recv(4096)
            if not part:
                raise RuntimeError(f"author {number} is not let in: {answer!r}")
            answer += part
        if not answer.startswith(b"HTTP/1.1 101 "):
            raise RuntimeError(f"author {number} is not let in: {answer!r}")
        seat = _Seat(sock, watches)
        self._seats.append(seat)
        self._of[sock.fileno()] = seat
        sock.setblocking(False)
        self._epoll.register(sock, select.EPOLLIN)
        self._put(seat, frame(b'{"op":"visible","on":false}'))
        seat.rest = answer.partition(b"\r\n\r\n")[2]

    def talk(
        self,
        texts: Sequence[bytes],
        rate: float,
        watch: Callable[[float], object] | None = None,
        talk: Talk | None = None,
    ) -> Talk:
        """Says all of these, so many a second; each is JSON. `watch` is called now and then, with the time."""
        talk = talk or Talk()
        self._talks.append(talk)
        about = len(self._talks) - 1

        def say(number: int) -> None:
            ref = len(talk.sent)
            talk.begin(time.monotonic())
            seat = self._seats[ref % len(self._seats)]
            self._put(seat, frame(b'{"op":"comment","ref":"%d-%d","x":%b}' % (about, ref, texts[number])))

        talk.late_s = max(talk.late_s, self._paced(len(texts), rate, say, watch))
        return talk

    def ping(self, count: int, rate: float, watch: Callable[[float], object] | None = None) -> float:
        """The same with pings: how late this side was."""
        message = frame(PING)
        return self._paced(count, rate, lambda n: self._put(self._seats[n % len(self._seats)], message), watch)

    def _paced(
        self, count: int, rate: float, say: Callable[[int], None], watch: Callable[[float], object] | None
    ) -> float:
        said, late_s = 0, 0.0
        gc.disable()  # a collection here would be a wait there, in the figures
        began = time.monotonic()
        while said < count:
            now = time.monotonic()
            if watch is not None:
                watch(now)
            due = min(count, int((now - began) * rate) + 1)
            late_s = max(late_s, now - began - said / rate)
            for _ in range(min(BITE, due - said)):
                say(said)
                said += 1
            self.listen(0.0 if said < due else max(self._least_s, began + said / rate - time.monotonic()))
        gc.enable()
        return late_s

    def settle(self, done: Callable[[], bool], seconds: float = PATIENCE_S) -> bool:
        """Listens until it is so, or for so long; whether it is."""
        deadline = time.monotonic() + seconds
        while not done() and time.monotonic() < deadline:
            self.listen(0.02)
        return done()

    def answered(self) -> bool:
        return all(talk.open == 0 for talk in self._talks)

    def listen(self, seconds: float) -> None:
        # epoll waits in whole milliseconds, rounded up: a shorter wait is a look.
        for fd, events in self._epoll.poll(seconds if seconds >= 0.001 else 0, 64):
            seat = self._of[fd]
            if events & select.EPOLLOUT:
                self._put(seat, b"")
            if events & ~select.EPOLLOUT:
                self._take(seat)

    def _put(self, seat: _Seat, data: bytes) -> None:
        """What the server does not read now waits here: it is said all the same."""
        waited = bool(seat.out)
        data = seat.out + data
        try:
            sent = seat.sock.send(data)
            self.sends += 1
        except BlockingIOError:
            sent = 0
        seat.out = data[sent:]
        if bool(seat.out) != waited:
            self._epoll.modify(seat.sock, select.EPOLLIN | (select.EPOLLOUT if seat.out else 0))

    def _take(self, seat: _Seat) -> None:
        try:
            data = seat.sock.recv(65536)
        except BlockingIOError:
            return
        if not data:
            raise RuntimeError("the server has closed an author's socket")
        now = time.monotonic()
        data = seat.rest + data
        at, size = 0, len(data)
        while size - at >= 2:
            length, head = data[at + 1], 2
            if length >= 126:
                head = 4 if length == 126 else 10
                length = int.from_bytes(data[at + 2 : at + head])
            if size - at < head + length:
                break
            self._hear(seat, data[at], data[at + head : at + head + length], now)
            at += head + length
        seat.rest = data[at:]

    def _hear(self, seat: _Seat, first: int, payload: bytes, now: float) -> None:
        if first == 0x89:
            self._put(seat, frame(payload, 0x8A))
        elif first == 0x88:
            raise RuntimeError(f"the server closes an author's socket: {payload!r}")
        elif payload.startswith(b'{"t":"ack"'):
            self._acked(_ack(payload), now)
        elif payload.startswith(b'{"t":"pong"'):
            self.pongs += 1
        elif payload.startswith(b'{"t":"del"'):
            if seat.watches:
                self.retracted.update(_gone(payload).ids)
        elif payload.startswith(b'{"t":"error"'):
            self.errors.append(payload.decode())

    def _acked(self, ack: Ack, now: float) -> None:
        if ack.ref is not None:
            about, _, number = ack.ref.partition("-")
            self._talks[int(about)].end(int(number), now, ack)
        elif ack.id is not None:
            self.verdicts[ack.id] = ack.status
            self.verdict_at.setdefault(ack.id, time.monotonic())
            if ack.status == "published":
                self.shown.add(ack.id)

    def close(self) -> None:
        for seat in self._seats:
            seat.sock.close()
        self._epoll.close()

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def frame(payload: bytes, first: int = 0x81) -> bytes:
    """As a client sends it."""
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2)
    return bytes((first,)) + length + MASK + payload


def encoded(texts: Sequence[str]) -> list[bytes]:
    return [msgspec.json.encode(text) for text in texts]


def at_share(values: Sequence[float], share: float) -> float:
    """Of sorted values; 0 where there is none."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0
