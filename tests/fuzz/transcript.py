# What one client got from the engine, byte for byte, read with other people's decoders: HTTP answers one after the
# other, then perhaps frames or events. It raises on whatever a client could not make sense of: broken framing, bytes
# behind a goodbye, an id out of order on its lane.
import json
import re
import zlib
from typing import Any

import msgpack
import zstandard

VECTOR = re.compile(r"i(\d+)\.m(\d+)\.c(\d+)")


class PartError(Exception):
    """The bytes have ended inside something."""


class Transcript:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.stream = ""
        self.begun = False  # hello has come
        self.seen = {"m": 0, "c": 0}
        self.pongs: list[bytes] = []
        self.close: int | None = None  # the code of a WebSocket's close frame
        self.whole = True
        try:
            while self.at < len(data) and not self.stream:
                self._answer()
            while self.at < len(data):
                assert self.close is None, "bytes behind a close frame"
                self._frame() if self.stream == "ws" else self._event()
        except PartError:
            self.whole = False

    def _take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise PartError
        self.at += size
        return self.data[self.at - size : self.at]

    def _until(self, mark: bytes) -> bytes:
        stop = self.data.find(mark, self.at)
        if stop < 0:
            raise PartError
        return self._take(stop + len(mark) - self.at)[: -len(mark)]

    def _answer(self) -> None:
        line, *rest = self._until(b"\r\n\r\n").decode("ascii").split("\r\n")
        status = re.fullmatch(r"HTTP/1\.1 (\d{3}) [A-Za-z -]+", line)
        assert status, line
        fields = dict(re.fullmatch(r"([A-Za-z-]+): ([\x20-\x7e]+)", field).groups() for field in rest)  # type: ignore[union-attr]
        assert len(fields) == len(rest)
        if status[1] == "101":
            self.stream = "ws"
            self.packed = "msgpack" in fields.get("Sec-WebSocket-Protocol", "")
            self.zstd = "zstd" in fields.get("Sec-WebSocket-Protocol", "")
            self.deflate = "permessage-deflate" in fields.get("Sec-WebSocket-Extensions", "")
        elif fields.get("Content-Type", "").startswith("text/event-stream"):
            self.stream = "sse"
            assert re.fullmatch(rb"retry: \d+", self._until(b"\n\n"))
        elif status[1] != "204":
            self._body(status[1], json.loads(self._take(int(fields["Content-Length"]))))

    def _body(self, status: str, body: dict[str, Any]) -> None:
        if status != "200":
            assert body["error"]
            assert isinstance(body["message"], str)
            return
        at: dict[str, int] = {}
        for message in body["m"]:
            lane, first, last = span(message)
            assert at.get(lane, first - 1) == first - 1, body
            at[lane] = last
        since = VECTOR.fullmatch(body["since"])
        assert since
        assert {"m": int(since[2]), "c": int(since[3])}.items() >= at.items()

    def _frame(self) -> None:
        first, second = self._take(2)
        op, size = first & 15, second & 127
        assert first & 0x80, "the engine fragments nothing"
        assert second < 0x80, "a server's frame is not masked"
        assert op in (1, 2, 8, 9, 10)
        assert op < 8 or size < 126
        if size > 125:
            size = int.from_bytes(self._take(2 if size == 126 else 8), "big")
        compressed = bool(first & 0x40)
        assert not first & 0x30
        assert not compressed or (op == 1 and self.deflate)
        payload = self._take(size)
        if op == 8:
            assert len(payload) != 1
            self.close = int.from_bytes(payload[:2], "big") or 1005
            payload[2:].decode()
        elif op == 10:
            self.pongs.append(payload)
        elif op == (2 if self.packed else 1):
            self._message(self._decoded(payload, compressed))

    def _decoded(self, payload: bytes, compressed: bool) -> dict[str, Any]:
        if self.packed:
            payload = zstandard.ZstdDecompressor().decompress(payload) if self.zstd else payload
            unpacked: dict[str, Any] = msgpack.unpackb(payload)
            return unpacked
        if compressed:
            payload = zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff")
        decoded: dict[str, Any] = json.loads(payload)
        return decoded

    def _event(self) -> None:
        event = self._until(b"\n\n").decode()
        if event == ":":
            return
        found = re.fullmatch(r"(?:id: ([^\n]+)\n)?event: ([a-z]+)\ndata: ([^\n]+)", event)
        assert found, event
        message = json.loads(found[3])
        assert message["t"] == found[2]
        self._message(message)
        vector = VECTOR.fullmatch(found[1] or "")
        if vector:
            assert (int(vector[2]), int(vector[3])) == (self.seen["m"], self.seen["c"]), (event, self.seen)
        else:
            assert message["t"] == "ack", event

    def _message(self, message: dict[str, Any]) -> None:
        assert self.begun or message["t"] == "hello"
        if message["t"] == "hello":
            assert not self.begun
            self.begun = True
            since = VECTOR.fullmatch(message["since"])
            assert since
            self.seen = {"m": int(since[2]), "c": int(since[3])}
        elif message["t"] not in ("ack", "reconnect"):
            lane, first, last = span(message)
            assert self.seen[lane] == first - 1, (message, self.seen)
            self.seen[lane] = last


def span(message: dict[str, Any]) -> tuple[str, int, int]:
    """The lane of a message, and the first and last number that it stands for."""
    first, last = (message["from"], message["to"]) if message["t"] == "gap" else (message["id"], message["id"])
    assert first[0] == last[0]
    assert int(first[1:]) <= int(last[1:])
    return first[0], int(first[1:]), int(last[1:])
