# The fuzz target of the whole engine: a script, read from the input, of what up to six clients and the program above do
# to a real Engine over loopback TCP. Whatever happens, every byte that the engine sends must be HTTP or frames, every
# lane's ids contiguous but for announced gaps, every message told as RFC 6455 (the reference of fuzz_ws) has it, and in
# the end no socket, viewer, user or native byte may be left and every counter must add up. Run alone it fuzzes with
# atheris (python -m tests.fuzz.fuzz_engine [corpus] [-libFuzzer options]); the tests call `one` without it.
import contextlib
import os
import select
import socket
import struct
import sys
import time
import zlib
from collections.abc import Callable

import msgpack

from edge._fast import reactor, ws
from edge._fast import sys as fast_sys
from edge.config import Config
from edge.options import engine_options, trusted_networks
from tests.fuzz import fuzz_ws
from tests.fuzz.transcript import Transcript

ROOMS = (b"r0", b"r1")
CLIENTS = 6
PATIENCE_S = 5.0
DEADLINES = "head_ms ping_ms dead_ms blocked_ms heartbeat_ms poll_ms keepalive_ms close_ms".split()
LINGER_NONE = struct.pack("ii", 1, 0)
# Numbers that clients may claim to have seen.
SEEN = (0, 1, 2, 5, 9, 10, 11, 300, 2**32, 2**63, 2**64 - 2, 2**64 - 1)
EXTENSIONS = (
    b"",
    b"permessage-deflate",
    b"permessage-deflate; client_max_window_bits",
    b"permessage-deflate; ;",
    b"x-none",
)
PROTOCOLS = (b"", b"edge.v1.json", b"edge.v1.msgpack", b"edge.v1.msgpack.zstd", b"chat", b"chat, edge.v1.msgpack")
# What can end a connection, each counted once: together they must account for all that ever came in.
ENDS = (
    "handed_over ended closed_gone closed_dead closed_timeout closed_replies closed_slow closed_behind closed_memory "
    "refused_proxy"
).split()


class Script:
    """The input, read from its front; past its end everything is zero."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at]

    def byte(self) -> int:
        taken = self.take(1)
        return taken[0] if taken else 0

    def __bool__(self) -> bool:
        return self.at < len(self.data)


class Client:
    def __init__(self, index: int, address: tuple[str, int], tiny: bool) -> None:
        self.index = index
        self.sock = socket.socket()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else small pieces wait for 40 ms
        if tiny:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        self.sock.connect(address)
        self.sock.setblocking(False)
        self.sent = 0
        self.room = b""  # of a stream whose request is the first that was sent
        self.chat = True
        self.frames: bytearray | None = None  # what was sent behind the upgrade
        self.deflate = False
        self.received = b""
        self.told: list[tuple[int, bytes]] = []
        self.ended = self.gone = self.reset = False  # by the server; by itself, one way or both; hard

    def send(self, data: bytes) -> int:
        try:
            size = self.sock.send(data) if data else 0
        except OSError:
            return 0
        self.sent += size
        if self.frames is not None:
            self.frames += data[:size]
        return size

    def read(self) -> bool:
        """Whether there was anything."""
        if self.reset or self.ended:
            return False
        try:
            data = self.sock.recv(1 << 20)
        except BlockingIOError:
            return False
        except OSError:
            data, self.reset = b"", True
        self.received += data
        self.ended = not data
        return True

    def close(self, hard: bool) -> None:
        if hard:
            self.reset = True
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
        self.gone = True
        self.sock.close()


class Trial:
    """One engine, its program above, and its clients, from the first byte of a script to the last check."""

    def __init__(self, data: bytes) -> None:
        self.script = Script(data)
        flags, bounds = self.script.byte(), self.script.byte()
        self.anonymous, self.proxy, self.tiny = bool(flags & 1), flags & 30 == 30, bool(flags & 32)
        self.hasty = flags == 0xEE and zlib.crc32(data) % 8 == 0  # rare, since it takes a second
        self.secret = os.urandom(8).hex().encode()  # so that no input can pretend to be somebody's first message
        self.clients: dict[int, Client] = {}
        self.past: list[Client] = []
        self.whose: dict[int, Client] = {}
        self.parked: list[tuple[int, bytes, bytes]] = []
        self.heads = {room: [0, 0] for room in ROOMS}
        self.disturbed = False  # the program above ended or hid something: a viewer may have less than all
        self.message_bytes, self.inflated_bytes = (4096, 130, 0, 70_000)[bounds & 3], (16384, 64)[bounds >> 2 & 1]
        options = engine_options(Config(), self.anonymous, False) | {
            "proxy": int(self.proxy),
            "message_bytes": self.message_bytes,
            "inflated_bytes": self.inflated_bytes,
            "reply_bytes": (65536, 256)[bounds >> 3 & 1],
            "chat_ring": (1 << 18, 9000)[bounds >> 4 & 1],
            "must_ring": (1 << 16, 3000)[bounds >> 5 & 1],
            "budget_bytes": (1 << 28, 20_000)[bounds >> 6 & 1],
            "per_ip": (0, 3)[bounds >> 7],
        }
        if self.hasty:
            options |= dict.fromkeys(DEADLINES, 20)
        self.engine = reactor.Engine(self, 16, 4, 1, options, trusted_networks(("127.0.0.0/8",)))
        self.listener = socket.socket()
        if self.tiny:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(64)
        self.listener.setblocking(False)
        self.engine.listen(self.listener.fileno())
        for room in ROOMS:
            self.room_open(room)

    # ---- the program above ----

    def opens(self, requests: list[tuple[int, bytes, bytes | None, bytes | None]]) -> None:
        for id_, room, token, user in requests:
            if token == self.secret and user and len(user) == 2:
                self.whose[id_] = self.clients[int(user[1:])]
            self.parked.append((id_, room, user or b""))
            if self.script.byte() & 7:
                self.decide(-1)

    def handoffs(self, connections: list[tuple[int, bytes]]) -> None:
        for fd, _peer in connections:
            with socket.socket(fileno=fd) as sock:
                head = sock.recv(8192)
                if self.script.byte() & 1:
                    line = b"GET /v1/rooms/r0/ws HTTP/1.1\r\n" if self.script.byte() & 1 else b""
                    self.engine.adopt(sock.detach(), line + (head.partition(b"\r\n")[2] if line else head))

    def messages(self, messages: list[tuple[int, int, int, bytes]]) -> None:
        for id_, op, encoding, payload in messages:
            if id_ not in self.whose and payload[:-1] == self.secret:
                self.whose[id_] = self.clients[int(payload[-1:])]
            if id_ in self.whose:
                self.whose[id_].told.append((op, payload))
            what = self.script.byte()
            if what & 3 == 0:
                self.engine.reply(id_, {"t": "ack", "ref": "x" * len(payload), "status": "published"})
            elif what & 3 == 1:  # in the op that transcripts pass over
                self.engine.send(id_, 1 if encoding in reactor.BINARY else 2, payload)
            elif what == 255:
                self.end(id_)

    def decide(self, which: int) -> None:
        id_, room, user = self.parked.pop(which)
        if room not in self.heads:
            self.engine.refuse(id_, 404, b"not_found", b"no \x00 such \xff room")
        elif self.script.byte() & 31 == 31:
            self.engine.refuse(id_, 503, b"overloaded", b"x" * 200, 5)
        else:
            self.engine.admit(id_, room, user, b"claims" * (len(user) & 1))

    def end(self, id_: int) -> None:
        self.disturbed |= self.engine.end(id_, 1008, b"x" * (self.script.byte() & 127))

    def room_open(self, room: bytes) -> None:
        self.heads[room] = [10, 20]
        self.engine.room_open(room, 1, *self.heads[room])

    # ---- steps: what a script may say ----

    def client(self) -> Client:
        index = self.script.byte() % CLIENTS
        if index not in self.clients:
            self.clients[index] = Client(index, self.listener.getsockname(), self.tiny)
        return self.clients[index]

    def send(self, client: Client, data: bytes) -> None:
        """All of it, in pieces of as many bytes as the script says, with a turn of the engine between any two."""
        size = self.script.byte() or len(data)
        if len(data) > 1000:
            size *= 64
        while data:
            taken = client.send(data[:size])
            if not taken:
                return
            data = data[taken:]
            if data:
                self.engine.tick()

    def step_raw(self) -> None:
        client = self.client()
        self.send(client, self.script.take(self.script.byte() << 8 | self.script.byte()))

    def step_frames(self) -> None:
        client = self.client()
        self.send(client, fuzz_ws.frames(self.script.take(self.script.byte())))

    def step_deflated(self) -> None:
        client, what = self.client(), self.script.byte()
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        text = self.script.take(what & 15) * (1 + (what >> 4) ** 2 * 8)
        body = deflate.compress(text) + deflate.flush(zlib.Z_SYNC_FLUSH)
        self.send(client, fuzz_ws.frame(0xC2 if what & 1 else 0xC1, body[:-4]))

    def step_stream(self) -> None:
        client, what, more = self.client(), self.script.byte(), self.script.byte()
        stream = (b"ws", b"ws", b"sse", b"poll")[what & 3]
        room = (b"r0", b"r0", b"r1", b"r9")[what >> 2 & 3]
        query = b"user=u%d&token=%b" % (client.index, self.secret) if what & 16 else b"x"
        if what & 32:
            query += b"&since=i%d.m%d.c%d" % (
                1 + (more & 15 == 15),
                *(SEEN[self.script.byte() % len(SEEN)] for _ in "mc"),
            )
        query += b"&lanes=must" if what & 64 else b""
        query += b"&last=%d" % self.script.byte() if what & 128 else b""
        extension = EXTENSIONS[(more & 7) % len(EXTENSIONS)]
        protocol = PROTOCOLS[(more >> 3 & 7) % len(PROTOCOLS)]
        head = b"GET /v1/rooms/%b/%b?%b HTTP/1.1\r\nHost: a\r\n" % (room, stream, query)
        head += b"Connection: close\r\n" if stream != b"ws" and more & 64 else b""
        if stream == b"ws":
            head += b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            head += b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            head += b"Sec-WebSocket-Extensions: %b\r\n" % extension if extension else b""
            head += b"Sec-WebSocket-Protocol: %b\r\n" % protocol if protocol else b""
        first = client.sent == 0 and not self.proxy
        self.send(client, head + b"\r\n")
        if not first or client.sent < len(head) + 2:
            return
        if stream != b"poll" and room in ROOMS:
            client.room, client.chat = room, not what & 64
        if stream == b"ws":
            client.frames = bytearray()
            client.deflate = b"permessage" in extension and b"; ;" not in extension and protocol in PROTOCOLS[:2]
            self.send(client, fuzz_ws.frame(0x81, self.secret + b"%d" % client.index))

    def step_proxy(self) -> None:
        client, what = self.client(), self.script.byte()
        if what & 1:
            head = b"PROXY TCP4 192.0.2.%d 198.51.100.1 56324 443\r\n" % (what >> 6)
        else:
            head = proxy_header(what)
        client.send(head)

    def step_append(self) -> None:
        what = self.script.byte()
        room, lane, size = ROOMS[what & 1], what >> 1 & 1, (0, 200, 2000, 30_000)[what >> 2 & 3]
        for _ in range(1 + (what >> 4 & 7)):
            self.heads[room][lane] += 5 if what & 128 else 1
            seq = self.heads[room][lane]
            batch = {"t": "batch" if lane else "score", "id": f"{'mc'[lane]}{seq}", "x": "x" * size}
            self.engine.append(room, lane, seq, 1 + (what & 7), msgpack.packb(batch))

    def step_visible(self) -> None:
        self.disturbed = True
        for id_ in self.ids():
            self.engine.visible(id_, bool(self.script.byte() & 1))

    def step_end(self) -> None:
        for id_ in self.ids():
            self.end(id_)

    def step_reply(self) -> None:
        size = self.script.byte()
        for id_ in self.ids():
            for _ in range(1 + size % 5):
                self.engine.reply(id_, {"t": "ack", "ref": "x" * size * 16, "status": "published"})

    def step_room(self) -> None:
        what, room = self.script.byte(), ROOMS[self.script.byte() & 1]
        if what & 3 == 0:
            self.disturbed = True
            self.engine.room_end(room, 1001, b"over")
            self.room_open(room)
        elif self.engine.room_close(room):
            self.room_open(room)

    def step_decide(self) -> None:
        if self.parked:
            self.decide(self.script.byte() % len(self.parked))

    def step_ask(self) -> None:
        for id_ in self.ids():
            self.engine.describe(id_)
            self.engine.room_of(id_)
            self.engine.claims(id_)
            self.engine.renew(id_, b"other", 1)
        for room in ROOMS:
            self.engine.descriptors(room)
            self.engine.room_info(room)
        assert sum(len(self.engine.sockets_of(b"u%d" % i)) for i in range(CLIENTS)) <= 16

    def step_read(self) -> None:
        client = self.client()
        while client.read():
            self.engine.tick()

    def step_leave(self) -> None:
        client, what = self.client(), self.script.byte()
        self.turn()
        if what & 3 == 0:
            client.gone = True
            with contextlib.suppress(OSError):
                client.sock.shutdown(socket.SHUT_WR)
        else:
            while client.read():
                pass
            client.close(bool(what & 1))
            self.past.append(self.clients.pop(client.index))

    def ids(self) -> list[int]:
        ids = list(self.whose)
        return [ids[self.script.byte() % len(ids)]] if ids else []

    def step_turn(self) -> None:
        self.turn()

    # ---- turns and the end ----

    def turn(self) -> None:
        """Turns until the engine has nothing more to do; a second of them is a spin."""
        until = time.monotonic() + PATIENCE_S
        while self.engine.tick() or select.select([self.engine.fileno()], [], [], 0)[0]:
            assert time.monotonic() < until, "the engine spins"

    def settle(self) -> None:
        """Everybody reads, everybody is let in, and the engine turns, until nobody has anything to do."""
        busy = True
        while busy:
            while self.parked:
                self.decide(-1)
            self.turn()
            busy = bool([client for client in self.clients.values() if client.read()])

    def run(self) -> None:
        for _ in range(64):
            if not self.script:
                break
            what = self.script.byte()
            STEPS[(what & 127) % len(STEPS)](self)
            if what & 128:
                self.turn()
        self.eventually(self.check_viewers)
        self.leave()
        self.check_clients()
        self.check_engine()

    def eventually(self, check: Callable[[], None]) -> None:
        """The kernel may take its time between two sockets, so whatever must come may come later, but not never."""
        until = time.monotonic() + PATIENCE_S
        while True:
            self.settle()
            try:
                return check()
            except AssertionError:
                if time.monotonic() > until:
                    raise
            select.select([self.engine.fileno()], [], [], 0.002)

    def leave(self) -> None:
        until = time.monotonic() + PATIENCE_S
        while self.hasty and self.here() > self.engine.counters()["viewers_sse"]:  # an event stream may stay for ever
            self.settle()
            assert time.monotonic() < until, f"deadlines did not end all: {self.engine.counters()}"
            select.select([self.engine.fileno()], [], [], 0.05)
        for client in self.clients.values():
            client.close(bool(self.script.byte() & 1))
        while self.here():
            self.turn()
            while self.parked:  # whoever has left with the request it made stays until it is decided
                self.decide(-1)
            assert time.monotonic() < until, f"connections are stuck: {self.engine.counters()}"

    def here(self) -> int:
        return int(self.engine.counters()["connections"])

    # ---- checks ----

    def check_viewers(self) -> None:
        """Who is still here has told and read everything; who has ended its side has been seen off."""
        count = self.engine.counters()
        viewers = sum(self.engine.room_info(room)["viewers"] for room in ROOMS)
        assert viewers == sum(count[name] for name in count if name.startswith("viewers_"))
        for client in self.clients.values():
            assert client.ended or client.reset or not client.gone, "a half-closed connection was not ended"
            transcript = Transcript(client.received)
            assert transcript.whole or client.ended or client.reset
            here = not (client.ended or client.reset or self.disturbed)
            if transcript.begun and client.room and here:
                heads = dict(zip("mc", self.heads[client.room], strict=True))
                for lane in "mc" if client.chat else "m":
                    assert transcript.seen[lane] >= heads[lane], (transcript.seen, heads)
            cut = any(count[name] for name in ("closed_replies", "closed_slow", "closed_behind", "closed_memory"))
            told_all = not (cut or client.gone or client.reset or self.disturbed or self.hasty)
            self.check_told(client, transcript, told_all)

    def check_clients(self) -> None:
        for client in [*self.past, *self.clients.values()]:
            self.check_told(client, Transcript(client.received), exact=False)
        received = sum(len(client.received) for client in [*self.past, *self.clients.values()])
        count = self.engine.counters()
        assert received <= count["bytes"] + 256 * (
            count["closed_slow"] + count["closed_behind"] + count["closed_memory"]
        )

    def check_told(self, client: Client, transcript: Transcript, exact: bool) -> None:
        """The messages, pongs and close code that the client's frames deserve; or the first of them, if not exact."""
        if client.frames is None or transcript.stream != "ws":
            return
        want = fuzz_ws.reference(bytes(client.frames), self.message_bytes, client.deflate)
        told, pongs, code = list[tuple[int, bytes]](), list[bytes](), want.failure and want.failure[0]
        for message in want.told:
            payload = self.inflated(message) if message.deflated else message.payload
            if isinstance(payload, int) or message.op == "close":
                code = payload if isinstance(payload, int) else abs(ws.close_code(payload))
                break
            if message.op == "ping":
                pongs.append(payload)
            elif message.op != "pong":
                told.append((1 if message.op == "text" else 2, payload))
        assert client.told == told[: len(client.told)], (client.told, told)
        assert transcript.pongs == pongs[: len(transcript.pongs)], (transcript.pongs, pongs)
        if exact:
            assert (client.told, transcript.pongs, transcript.close) == (told, pongs, code)

    def inflated(self, told: fuzz_ws.Told) -> bytes | int:
        """Or the close code that it deserves."""
        try:
            payload = zlib.decompressobj(-15).decompress(told.payload + b"\0\0\xff\xff", self.inflated_bytes + 1)
            if len(payload) > self.inflated_bytes:
                return 1009
            if told.op == "text":
                payload.decode()
        except (zlib.error, UnicodeDecodeError):
            return 1007
        return payload

    def check_engine(self) -> None:
        count = self.engine.counters()
        assert count["accepted"] + count["adopted"] == sum(count[name] for name in ENDS), count
        for name in ("connections", "cold", "users", *(name for name in count if name.startswith("viewers_"))):
            assert count[name] == 0, (name, count)
        for room in ROOMS:
            assert self.engine.room_close(room)
        assert self.engine.counters()["held_bytes"] == 0

    def close(self) -> None:
        for client in self.clients.values():
            client.sock.close()
        self.engine.close()
        self.listener.close()


def proxy_header(what: int) -> bytes:
    body = bytes(10 if what & 2 else 0) + b"\xff\xff" + bytes(24)
    return b"\r\n\r\n\x00\r\nQUIT\n" + bytes((0x21 if what & 4 else 0x20, 0x21, 0, 36)) + body[:36].ljust(36, b"\1")


STEPS: list[Callable[[Trial], None]] = [value for name, value in vars(Trial).items() if name.startswith("step_")]


def one(data: bytes) -> None:
    before = fast_sys.memory()
    trial = Trial(data)
    try:
        trial.run()
    finally:
        trial.close()
    assert fast_sys.memory() == before


def main() -> None:
    import atheris  # type: ignore[import-not-found]

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
