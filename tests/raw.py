"""A plain socket that speaks HTTP as the test dictates it, byte for byte, and a little WebSocket.

For what no client library would send: halves of heads, pipelined requests, frames that break the rules.
"""

import json
import os
import struct
import time
from types import TracebackType
from typing import Any, NamedTuple

from tests.server import PATIENCE_S, Server, until

UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def error(self) -> str:
        """The name in a refusal, which is one line of JSON."""
        assert self.headers["content-type"].partition(";")[0] == "application/json"
        assert self.body.count(b"\n") == 1
        assert self.body.endswith(b"\n")
        assert int(self.headers["content-length"]) == len(self.body)
        body = json.loads(self.body)
        assert body["message"]
        return str(body["error"])


class Frame(NamedTuple):
    op: int
    payload: bytes

    def message(self) -> Any:
        return json.loads(self.payload)

    def code(self) -> int:
        assert self.op == CLOSE
        return int(struct.unpack("!H", self.payload[:2])[0])


class Raw:
    """One connection. Whatever is awaited comes within PATIENCE_S, or fails."""

    def __init__(self, server: Server, source: str = "", first: bytes = b"", receive_bytes: int = 0) -> None:
        self.sock = server.connect(source, receive_bytes)
        self.unread = b""
        self.send(first)

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self.sock.close()

    def send(self, data: bytes | str) -> None:
        self.sock.sendall(data.encode() if isinstance(data, str) else data)

    def get(self, target: str, headers: str = "", method: str = "GET") -> None:
        self.send(f"{method} {target} HTTP/1.1\r\nHost: edge\r\n{headers}\r\n")

    def post(self, target: str, body: bytes, headers: str = "") -> None:
        self.send(
            f"POST {target} HTTP/1.1\r\nHost: edge\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body
        )

    def more(self) -> bytes:
        """What comes next, of any length; b"" at the end."""
        data = self.sock.recv(65536)
        self.unread += data
        return data

    def take(self, n: int) -> bytes:
        while len(self.unread) < n:
            assert self.more(), f"the connection ended behind {self.unread!r}"
        taken, self.unread = self.unread[:n], self.unread[n:]
        return taken

    def take_to(self, mark: bytes) -> bytes:
        while mark not in self.unread:
            assert self.more(), f"the connection ended behind {self.unread!r}"
        return self.take(self.unread.index(mark) + len(mark))

    def head(self) -> tuple[int, dict[str, str]]:
        first, *lines = self.take_to(b"\r\n\r\n")[:-4].decode().split("\r\n")
        fields = [line.split(": ", 1) for line in lines]
        headers = {name.lower(): value for name, value in fields}
        assert len(headers) == len(fields), "no header comes twice"
        assert first.startswith("HTTP/1.1 ")
        return int(first.split()[1]), headers

    def reply(self) -> Reply:
        status, headers = self.head()
        return Reply(status, headers, self.take(int(headers.get("content-length", 0))))

    def ended(self) -> bool:
        """Whether nothing but the end comes. A reset is one too: it is how a peer that does not listen is ended."""
        try:
            return self.more() == b""
        except ConnectionResetError:
            return True

    def ends(self) -> None:
        while not self.ended():
            pass

    # WebSocket

    def upgrade(self, room: str, query: str = "", headers: str = "") -> dict[str, str]:
        self.get(f"/v1/rooms/{room}/ws{query}", UPGRADE + headers)
        status, found = self.head()
        assert status == 101
        return found

    def frame(self) -> Frame:
        first, second = self.take(2)
        assert not second & 0x80, "a server's frame is not masked"
        assert first & 0x80, "nor fragmented here"
        n = second & 0x7F
        if n == 126:
            n = struct.unpack("!H", self.take(2))[0]
        elif n == 127:
            n = struct.unpack("!Q", self.take(8))[0]
        return Frame(first & 0x0F, self.take(n))

    def frame_of(self, op: int) -> Frame:
        while (frame := self.frame()).op != op:
            pass
        return frame

    def message(self, kind: str) -> Any:
        """The next message with this `t`."""
        while (found := self.frame_of(TEXT).message())["t"] != kind:
            pass
        return found

    def messages(self, *kinds: str) -> list[Any]:
        """The next message of each of these, in whatever order they come."""
        found: dict[str, Any] = {}
        while len(found) < len(kinds):
            message = self.frame_of(TEXT).message()
            if message["t"] in kinds:
                found.setdefault(message["t"], message)
        return [found[kind] for kind in kinds]

    def say(self, payload: bytes | str, op: int = TEXT, *, fin: bool = True, rsv: int = 0, masked: bool = True) -> None:
        data = payload.encode() if isinstance(payload, str) else payload
        n = len(data)
        head = bytes([(0x80 if fin else 0) | rsv << 4 | op])
        bit = 0x80 if masked else 0
        if n < 126:
            head += bytes([bit | n])
        elif n < 65536:
            head += struct.pack("!BH", bit | 126, n)
        else:
            head += struct.pack("!BQ", bit | 127, n)
        if masked:
            mask = os.urandom(4)
            data = bytes(byte ^ mask[i & 3] for i, byte in enumerate(data))
            head += mask
        self.send(head + data)

    def close_code(self) -> int:
        """Of the close frame that comes, behind which the connection ends."""
        code = self.frame_of(CLOSE).code()
        assert self.ended()
        return code


def await_heads(raw: Raw, target: str, must: str, chat: str) -> None:
    """Until a snapshot says that the room's lanes end so."""

    def last() -> Any:
        raw.get(target)
        return json.loads(raw.reply().body)["last"]

    until(lambda: last() == {"must": must, "chat": chat})


def drip(raw: Raw, data: bytes, every_s: float) -> float:
    """Sends byte by byte until all is sent or something comes back; how long that took."""
    began = time.monotonic()
    raw.sock.settimeout(every_s)
    for at in range(len(data)):
        try:
            raw.sock.sendall(data[at : at + 1])
            if raw.more() is not None:
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    raw.sock.settimeout(PATIENCE_S)
    return time.monotonic() - began
