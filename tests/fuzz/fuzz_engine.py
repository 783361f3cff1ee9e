# The fuzz target of the whole engine: a script, read from the input, of what up to six clients and the program above do
# to a real Engine over loopback TCP. Whatever happens, every byte that the engine sends must be HTTP or frames, every
# lane's ids contiguous but for announced gaps, every message told as RFC 6455 (the reference of fuzz_ws) has it, and in
# the end no socket, viewer, user or native byte may be left and every counter must add up. Run alone it fuzzes with
# atheris (python -m tests.fuzz.fuzz_engine [corpus] [-libFuzzer options]); the tests call `one` without it.
import contextlib
import os
import random
import select
import socket
import sys
import time
import zlib
from collections.abc import Callable

import msgpack

from edge._fast import reactor
from edge._fast import sys as fast_sys
from edge.config import Config
from edge.options import engine_options, trusted_networks
from tests.fuzz import fuzz_ws, verdict
from tests.fuzz.client import Client, Script

ROOMS = (b"r0", b"r1")
CLIENTS = 6
PATIENCE_S = 10.0
DEADLINES = "head_ms ping_ms dead_ms blocked_ms heartbeat_ms poll_ms keepalive_ms close_ms".split()
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


class Trial:
    """One engine, its program above, and its clients, from the first byte of a script to the last check."""

    def __init__(self, data: bytes) -> None:
        self.script = Script(data)
        flags, bounds, mood = self.script.byte(), self.script.byte(), self.script.byte()
        # What the program above decides by; not read from the script, whose steps would shift.
        self.whims = iter(random.Random(mood).randbytes(4096) if mood else b"")
        self.anonymous, self.proxy, self.tiny = bool(flags & 1), flags & 30 == 30, bool(flags & 32)
        hasty = flags == 0xEE and zlib.crc32(data) % 8 == 0  # rare, since it takes a second
        self.secret = os.urandom(8).hex().encode()  # so that no input can pretend to be somebody's first message
        self.clients: dict[int, Client] = {}
        self.everybody: list[Client] = []  # those who have left too
        self.whose: dict[int, Client] = {}
        self.parked: list[tuple[int, bytes, bytes]] = []
        self.heads: dict[bytes, list[int]] = {}  # of the rooms that are open
        self.incarnation = 0
        self.bounds = verdict.Bounds((4096, 130, 0, 70_000)[bounds & 3], (16384, 64)[bounds >> 2 & 1], hasty)
        options = engine_options(Config(), self.anonymous, False) | {
            "proxy": int(self.proxy),
            "message_bytes": self.bounds.message_bytes,
            "inflated_bytes": self.bounds.inflated_bytes,
            "reply_bytes": (65536, 256)[bounds >> 3 & 1],
            "chat_ring": (1 << 18, 9000)[bounds >> 4 & 1],
            "must_ring": (1 << 16, 3000)[bounds >> 5 & 1],
            "budget_bytes": (1 << 28, 20_000)[bounds >> 6 & 1],
            "per_ip": (0, 3)[bounds >> 7],
        }
        if hasty:
            options |= dict.fromkeys(DEADLINES, 20)
        self.engine = reactor.Engine(self, 16, 4, 1, options, trusted_networks(("127.0.0.0/8",)))
        self.listener = socket.socket()
        if self.tiny:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Not always one address: thousands of trials leave its ports to connections that are over.
        self.listener.bind((f"127.0.0.{1 + zlib.crc32(data) % 250}", 0))
        self.listener.listen(64)
        self.listener.setblocking(False)
        self.engine.listen(self.listener.fileno())
        for room in ROOMS:
            self.room_open(room)

    # ---- the program above ----

    def whim(self) -> int:
        return next(self.whims, 0)

    def opens(self, requests: list[tuple[int, bytes, bytes | None, bytes | None]]) -> None:
        for id_, room, token, user in requests:
            if token == self.secret and user and len(user) == 3:
                self.whose[id_] = self.everybody[int(user[1:])]
            self.parked.append((id_, room, user or b""))
            if not self.whim() & 1:
                self.decide(-1)

    def handoffs(self, connections: list[tuple[int, bytes]]) -> None:
        for fd, peer in connections:
            with socket.socket(fileno=fd) as sock:
                head = sock.recv(8192)
                if self.whim() & 1:
                    line = b"GET /v1/rooms/r0/ws HTTP/1.1\r\n" if self.whim() & 1 else b""
                    self.engine.adopt(sock.detach(), line + (head.partition(b"\r\n")[2] if line else head), peer)

    def messages(self, messages: list[tuple[int, int, int, bytes]]) -> None:
        for id_, op, encoding, payload in messages:
            if id_ not in self.whose and payload[:-2] == self.secret:
                self.whose[id_] = self.everybody[int(payload[-2:])]
            if id_ in self.whose:
                self.whose[id_].told.append((op, payload))
            what = self.whim()
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
        elif self.whim() & 31 == 31:
            self.engine.refuse(id_, 503, b"overloaded", b"x" * 200, 5)
        else:
            self.engine.admit(id_, room, user, b"claims" * (len(user) & 1))

    def end(self, id_: int) -> None:
        if id_ in self.whose:
            self.whose[id_].cut = True
        self.engine.end(id_, 1008, b"x" * (self.whim() & 127))

    def room_open(self, room: bytes) -> None:
        self.heads[room] = [10, 20]
        self.incarnation += 1
        self.engine.room_open(room, self.incarnation, *self.heads[room])

    # ---- steps: what a script may say ----

    def client(self) -> Client:
        index = self.script.byte() % CLIENTS
        if index not in self.clients:
            self.clients[index] = Client(len(self.everybody), self.listener.getsockname(), self.tiny)
            self.everybody.append(self.clients[index])
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
        query = b"user=u%02d&token=%b" % (client.serial, self.secret) if what & 16 else b"x"
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
            client.room, client.must_only = room, bool(what & 64)
        if stream == b"ws":
            client.frames = bytearray()
            client.deflate = b"permessage" in extension and b"; ;" not in extension and protocol in PROTOCOLS[:2]
            self.send(client, fuzz_ws.frame(0x81, self.secret + b"%02d" % client.serial))

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
        for _ in range(1 + (what >> 4 & 7) if room in self.heads else 0):
            self.heads[room][lane] += 5 if what & 128 else 1
            seq = self.heads[room][lane]
            batch = {"t": "batch" if lane else "score", "id": f"{'mc'[lane]}{seq}", "x": "x" * size}
            self.engine.append(room, lane, seq, 1 + (what & 7), msgpack.packb(batch))

    def step_visible(self) -> None:
        for id_ in self.ids():
            on = bool(self.script.byte() & 1)
            if self.engine.visible(id_, on):
                self.whose[id_].hidden = not on

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
        if room not in self.heads:
            self.room_open(room)
        elif what & 1:
            for client in self.clients.values():
                client.cut |= client.room == room
            self.engine.room_end(room, 1001, b"over")
            del self.heads[room]
        elif self.engine.room_close(room):
            del self.heads[room]

    def step_decide(self) -> None:
        if self.parked:
            self.decide(self.script.byte() % len(self.parked))

    def step_ask(self) -> None:
        for id_ in self.ids():
            self.engine.describe(id_)
            self.engine.room_of(id_)
            self.engine.claims(id_)
            self.engine.renew(id_, b"other", 1)
        for room in self.heads:
            self.engine.descriptors(room)
            self.engine.room_info(room)
        assert sum(len(self.engine.sockets_of(b"u%02d" % client.serial)) for client in self.everybody) <= 16

    def step_read(self) -> None:
        client = self.client()
        while client.read():
            self.engine.tick()

    def step_leave(self) -> None:
        client, what = self.client(), self.script.byte()
        if not what & 4:
            self.turn()
        if what & 3 == 0:
            client.gone = True
            with contextlib.suppress(OSError):
                client.sock.shutdown(socket.SHUT_WR)
        else:
            while client.read():
                pass
            client.close(bool(what & 1))
            self.clients = {index: other for index, other in self.clients.items() if other is not client}

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
        self.eventually(lambda: verdict.check_here(self.clients.values(), self.engine, self.heads, self.bounds))
        self.leave()
        verdict.check_gone(self.everybody, self.engine.counters(), self.bounds)
        for room in self.heads:
            assert self.engine.room_close(room)
        assert self.engine.counters()["held_bytes"] == 0

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
        while (
            self.bounds.hasty and self.here() > self.engine.counters()["viewers_sse"]
        ):  # an event stream may stay for ever
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
