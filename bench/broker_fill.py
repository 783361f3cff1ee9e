# Fills the log of rooms faster than a node would: entries as nodes write them, sent over plain sockets in blocks of
# one stream, of which the last is answered: what one stream has stored says nothing of another. For `make
# bench-broker`, which looks at what nats-server can do. It must never have more on the way than a stream takes without
# dropping any, and tells what the streams hold by asking them.

import json
import re
import secrets
import socket
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from broker.base import CHAT
from broker.nats_entry import End, pack
from broker.subjects import Places, Streams

BLOCK = 500  # messages
UNDER_WAY = 4  # blocks of a connection: with four, 8,000 of the 10,000 messages that a stream lets wait
ANSWER_S = 60.0
INFO_S = 0.5


class Raw:
    """One connection."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 10)
        self.sock.settimeout(ANSWER_S)
        self.inbox = f"_INBOX.{secrets.token_hex(8)}"
        self.under_way = 0
        self._read = b""
        self.sock.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\n')
        self.sock.sendall(f"SUB {self.inbox} 1\r\nPING\r\n".encode())
        while b"PONG" not in self.sock.recv(65536):
            pass

    def close(self) -> None:
        self.sock.close()

    def send(self, block: bytes) -> None:
        """`block` has to be made for this connection's inbox."""
        while self.under_way >= UNDER_WAY:
            self.take()
        self.sock.sendall(block)
        self.under_way += 1

    def take(self) -> None:
        """Waits for an answer, or several."""
        self._read += self.sock.recv(65536)
        *lines, self._read = self._read.split(b"\r\n")
        for line in lines:
            if line == b"PING":
                self.sock.sendall(b"PONG\r\n")
            elif line.startswith(b"{"):
                if b'"error"' in line:
                    raise RuntimeError(f"NATS took not all of it: {line.decode()}")
                self.under_way -= 1

    def finish(self) -> None:
        while self.under_way:
            self.take()


Entry = tuple[str, str, bytes]  # stream, subject, payload


def entries(
    prefix: str, first: int, last: int, shards: int, size: int, births: bool, groups: int = 1
) -> Iterator[Entry]:
    """Each room's first batch in chat and, with `births`, its birth before that."""
    made, batch, streams = time.time_ns() // 1_000_000, bytes(size), Streams(groups)
    birth, chat = (pack(End(made, 0, 0), 1, 0, None), pack(End(made, 0, 0), 1, 1, batch))
    for number in range(first, last):
        places = Places(f"{prefix}{number}", shards)
        stream = streams.log(places.shard)
        if births:
            yield stream, places.birth(), birth
        yield stream, places.log(CHAT), chat


def blocks(found: Iterator[Entry], inbox: str) -> Iterator[bytes]:
    waiting: defaultdict[str, list[tuple[bytes, bytes]]] = defaultdict(list)
    for stream, subject, payload in found:
        of_one = waiting[stream]
        of_one.append((subject.encode(), payload))
        if len(of_one) == BLOCK:
            yield _block(waiting.pop(stream), inbox)
    for of_one in waiting.values():
        yield _block(of_one, inbox)


def _block(messages: list[tuple[bytes, bytes]], inbox: str) -> bytes:
    *before, (subject, payload) = messages
    parts = [b"PUB %b %d\r\n%b\r\n" % (it, len(of_it), of_it) for it, of_it in before]
    parts.append(b"PUB %b %b %d\r\n%b\r\n" % (subject, inbox.encode(), len(payload), payload))
    return b"".join(parts)


def fill(port: int, prefix: str, rooms: int, shards: int, size: int) -> float:
    """Each room with its birth and one batch; the seconds it took."""
    raw = Raw(port)
    began = time.monotonic()
    try:
        for block in blocks(entries(prefix, 0, rooms, shards, size, births=True), raw.inbox):
            raw.send(block)
        raw.finish()
    finally:
        raw.close()
    return time.monotonic() - began


def rate(
    port: int, prefix: str, rooms: int, shards: int, size: int, connections: int, groups: int
) -> tuple[int, float]:
    """One batch to each of so many rooms over several connections, all made before the clock starts: how many messages
    and in how many seconds. What sends costs next to nothing, so this is what the server does."""
    raws = [Raw(port) for _ in range(connections)]
    try:
        each = rooms // connections
        made = [
            list(blocks(entries(prefix, at * each, (at + 1) * each, shards, size, False, groups), raw.inbox))
            for at, raw in enumerate(raws)
        ]
        began = time.monotonic()
        for turn in zip_longest(*made):
            for raw, block in zip(raws, turn, strict=True):
                if block is not None:
                    raw.send(block)
        for raw in raws:
            raw.finish()
        return each * connections, time.monotonic() - began
    finally:
        for raw in raws:
            raw.close()


def state(port: int, stream: str) -> dict[str, Any] | None:
    """Of a stream; None where it does not answer yet."""
    try:
        raw = Raw(port)
    except OSError:
        return None
    try:
        raw.sock.settimeout(INFO_S)
        raw.sock.sendall(f"PUB $JS.API.STREAM.INFO.{stream} {raw.inbox} 0\r\n\r\n".encode())
        read = b""
        while not (found := re.search(rb"MSG [^\r]+ (\d+)\r\n", read)) or len(read) < found.end() + int(found[1]):
            read += raw.sock.recv(65536)
        answer: dict[str, dict[str, Any]] = json.loads(read[found.end() : found.end() + int(found[1])])
        return answer.get("state")
    except OSError:
        return None
    finally:
        raw.close()


def stored(port: int, groups: int = 1) -> tuple[int, int]:
    """Messages and subjects of all logs."""
    found = [state(port, stream) for stream in Streams(groups).logs()]
    if None in found:
        raise RuntimeError("a log does not answer")
    return sum(it["messages"] for it in found if it), sum(it["num_subjects"] for it in found if it)
