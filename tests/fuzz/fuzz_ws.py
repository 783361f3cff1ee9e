# The fuzz target of the frame parser, and the slow reference it is held against: RFC 6455 read a byte at a time, on
# whole input, with UTF-8 as the set of what Python encodes. `one` raises on any disagreement, over several splits of
# the same bytes. Run alone it fuzzes with atheris (python -m tests.fuzz.fuzz_ws [corpus] [-libFuzzer options]); the
# tests call `one` without it.
import ctypes
import random
import sys
from collections.abc import Iterable
from typing import NamedTuple

from edge._fast import ws
from tests._fast.guard import guard

LIMITS = (0, 5, 125, 126, 4096, 70_000, 2**64 - 1)
# Every beginning of a character. (Python's incremental decoder would not do: it waits for a surrogate's third byte.)
CHARACTERS = (chr(c) for c in range(0x80, 0x110000, 64) if not 0xD800 <= c < 0xE000)
BEGUN = {c.encode()[:size] for c in CHARACTERS for size in range(1, len(c.encode()))}
OPS = {1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}


class Told(NamedTuple):
    """A whole message or control frame."""

    op: str
    payload: bytes
    deflated: bool = False


class Outcome(NamedTuple):
    """What a stream of bytes comes to: what it told, the failure, or whether nothing was left half-read."""

    told: list[Told]
    failure: tuple[int, int] | None  # the close code, and how many bytes it took to know
    idle: bool


class FailureError(Exception):
    """The close code that the bytes so far deserve."""


class ShortError(Exception):
    """The bytes have ended inside a frame."""


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def byte(self) -> int:
        if self.at == len(self.data):
            raise ShortError
        self.at += 1
        return self.data[self.at - 1]

    def number(self, size: int) -> int:
        value = 0
        for i in range(size):
            value = value << 8 | self.byte()
            if size == 8 and i == 0 and value > 127:
                raise FailureError(1002)
        return value


def utf8_after(tail: bytes, byte: int) -> bytes | None:
    """What there is of an unfinished character after one byte more; None if no text goes on like this."""
    tail += bytes((byte,))
    if tail in BEGUN:
        return tail
    try:
        tail.decode()
    except UnicodeDecodeError:
        return None
    return b""


class Message:
    def __init__(self, op: int, deflated: bool) -> None:
        self.op, self.deflated, self.size, self.payload = op, deflated, 0, b""
        self._tail = b""

    def add(self, byte: int) -> None:
        self.payload += bytes((byte,))
        if self.op == 1 and not self.deflated:
            tail = utf8_after(self._tail, byte)
            if tail is None:
                raise FailureError(1007)
            self._tail = tail

    def end(self) -> None:
        if self._tail:
            raise FailureError(1007)


def check_first(first: int, open_message: bool, deflate: bool) -> None:
    op, rsv = first & 15, first >> 4 & 7
    if op not in (0, *OPS) or (op >= 8 and not first & 128) or (op < 8 and open_message != (op == 0)):
        raise FailureError(1002)
    if rsv and not (deflate and rsv == 4 and op in (1, 2)):
        raise FailureError(1002)


def read_length(data: Bytes, control: bool) -> int:
    second = data.byte()
    length = second & 127
    if not second & 128 or (control and length > 125):
        raise FailureError(1002)
    if length > 125:
        size = 2 if length == 126 else 8
        length = data.number(size)
        if length <= (125 if size == 2 else 65_535):
            raise FailureError(1002)
    return length


def read_payload(data: Bytes, length: int, message: Message) -> None:
    mask = [data.byte() for _ in range(4)]
    for i in range(length):
        message.add(data.byte() ^ mask[i % 4])


def read_frame(data: Bytes, message: Message | None, limit: int, deflate: bool, told: list[Told]) -> Message | None:
    first = data.byte()
    op = first & 15
    check_first(first, message is not None, deflate)
    length = read_length(data, op >= 8)
    if op >= 8:
        control = Message(op, False)
        read_payload(data, length, control)
        told.append(Told(OPS[op], control.payload))
        return message
    message = message or Message(op, bool(first & 64))
    message.size += length
    if message.size > limit:
        raise FailureError(1009)
    read_payload(data, length, message)
    if not first & 128:
        return message
    message.end()
    told.append(Told(OPS[message.op], message.payload, message.deflated))
    return None


def reference(wire: bytes, limit: int, deflate: bool) -> Outcome:
    data, told, message = Bytes(wire), list[Told](), None
    try:
        while data.at < len(wire):
            message = read_frame(data, message, limit, deflate, told)
    except FailureError as failure:
        return Outcome(told, (failure.args[0], data.at), False)
    except ShortError:
        return Outcome(told, None, False)
    return Outcome(told, None, message is None)


class Reader:
    """Feeds ws.parse as a socket would, holds it to its contract at every call, and joins the pieces."""

    def __init__(self, limit: int, deflate: bool) -> None:
        self.limit, self.deflate = limit, deflate
        self.state = bytearray(ws.STATE_SIZE)
        self.told: list[Told] = []
        self._open: dict[bool, Told] = {}  # by whether it is a control frame

    def feed(self, data: memoryview) -> int:
        """0, or the code of the failure. Changes data."""
        while data:
            before = bytes(data)
            status, used, piece = ws.parse(self.state, data, self.limit, self.deflate)
            if status < 0:
                return -status
            assert 0 < used <= len(data)
            assert ws.idle(self.state) == (not any(self.state))
            assert (piece is None) == (status == 0)
            start, length = piece[:2] if piece else (0, 0)
            assert data[:start] == before[:start]
            assert data[start + length :] == before[start + length :]
            if piece is None:
                assert used == len(data)
            else:
                assert start + length == used
                self._join(bytes(data[start:used]), *piece[2:])
            data = data[used:]
        return 0

    def _join(self, payload: bytes, op: int, first: bool, last: bool, deflated: bool) -> None:
        assert payload or last
        assert first == ((op >= 8) not in self._open)
        assert True not in self._open or op >= 8  # nothing comes between the pieces of a control frame
        so_far = self._open.pop(op >= 8, Told(OPS[op], b"", deflated))
        assert (so_far.op, so_far.deflated) == (OPS[op], deflated)
        whole = so_far._replace(payload=so_far.payload + payload)
        if last:
            self.told.append(whole)
        else:
            self._open[op >= 8] = whole


def memory(page: guard) -> memoryview:
    return memoryview((ctypes.c_char * page.length).from_address(page.address)).cast("B")


def check(wire: bytes, cuts: Iterable[int], limit: int, deflate: bool, want: Outcome, page: guard) -> None:
    """Feeds wire in reads that end at cuts and at its end, each flush against a guard page."""
    reader, start, code = Reader(limit, deflate), 0, 0
    for stop in (*cuts, len(wire)):
        code = reader.feed(memory(page.place(wire[start:stop])))
        if code:
            assert want.failure is not None, (code, start, stop, wire)
            assert code == want.failure[0], (code, want, wire)
            assert start < want.failure[1] <= stop, (start, stop, want, wire)
            break
        start = stop
    assert bool(code) == (want.failure is not None), (code, want, wire)
    assert reader.told == want.told, (reader.told, want, wire)
    assert code or ws.idle(reader.state) == want.idle, (want, wire)


def mask(payload: bytes, key: bytes) -> bytes:
    return bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


def frame(first: int, payload: bytes, key: bytes = b"\x37\xfa\x21\x3d", form: int = 0, masked: bool = True) -> bytes:
    """A client's frame; form 2 or 8 insists on that many bytes of extended length."""
    form = form or (0 if len(payload) < 126 else 2 if len(payload) < 65536 else 8)
    short = {0: len(payload), 2: 126, 8: 127}[form]
    head = bytes((first, short | masked << 7)) + (len(payload).to_bytes(form, "big") if form else b"")
    return head + (key + mask(payload, key) if masked else payload)


def frames(data: bytes) -> bytes:
    """Frames made of arbitrary bytes, mostly well formed: random bytes alone hardly ever get past a head."""
    wire, at, message_open = b"", 0, False
    while at + 4 <= len(data) and len(wire) < 4096:
        kind, first, size = data[at], data[at + 1], data[at + 2] if data[at] & 64 else data[at + 2] & 15
        if kind < 240:
            first = (0x81, 0x01, 0x82, 0x02, 0x89, 0x8A, 0x88, 0xC1)[first & 7]
            if not first & 8:
                first = first & 0x80 if message_open else first
                message_open = not first & 0x80
        payload = data[at + 4 : at + 4 + size]
        if kind & 32:
            payload = payload.decode("latin-1").encode()
        form = 2 if kind & 15 == 15 else 8 if kind == 16 else 0
        wire += frame(first, payload, bytes((data[at + 3], kind, size, first)), form if size < 126 else 0, kind != 255)
        at += 4 + size
    return wire + data[at:]


def one(data: bytes) -> None:
    if len(data) < 2:
        return
    limit, deflate = LIMITS[data[0] % len(LIMITS)], bool(data[0] & 64)
    wire = data[2:] if data[0] & 128 else frames(data[2:])
    want = reference(wire, limit, deflate)
    cutter = random.Random(data[1])
    with guard(room=max(len(wire), 1)) as page:
        check(wire, (), limit, deflate, want, page)
        check(wire, range(1, len(wire)), limit, deflate, want, page)
        for count in (1, 1, 2, 3, len(wire) // 8):
            cuts = sorted(cutter.choices(range(len(wire) + 1), k=count))
            check(wire, cuts, limit, deflate, want, page)


def main() -> None:
    import atheris  # type: ignore[import-not-found]

    # The compiled parser gives no coverage; the reference does, and it branches where the parser must.
    with atheris.instrument_imports(include=["tests.fuzz"]):
        from tests.fuzz import fuzz_ws

    atheris.Setup(sys.argv, fuzz_ws.one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
