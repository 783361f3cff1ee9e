"""What fuzzing starts from: the golden files of tests/_fast as each target spells them, and scripts for the engine."""

from collections.abc import Callable, Iterator
from pathlib import Path

TARGETS = ("http", "proxy", "ws", "vector", "text", "engine")
GOLDEN = Path(__file__).parent.parent / "_fast" / "golden"
LONGEST = 1500  # a golden file of 64 KB would take seconds: its own tests run it

PROXIES = (
    b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\nGET / HTTP/1.1\r\n",
    b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 65535 0\r\n",
    b"PROXY UNKNOWN whatever it says\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(range(12)),
    b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x2b" + bytes(36) + b"\x02\0\x04host",
    b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
)
VECTORS = (b"i3.m12.c345", b"i18446744073709551615.m18446744073709551615.c18446744073709551616", bytes(range(1, 28)))
TEXTS = (
    "you @ss, 4ss! fuuuck http://x.example",
    "здравствуй мир привет всем сегодня ❤️ 👩‍👩‍👧 🇧🇷",
    "今すぐ無料で登録してください！！公式サイト…",
    "नमस्ते ज़िन्दगी कि क़ किं ਖ਼ লো ো கொ ำ ซึ่งที่",
    "Z\u0361\u034a\u0353a\u0334\u0310\u035al\u0335go \u1e9b\u0323 \u212b \ufb01 \ufdfa ㌖ ½ Σ ΑΣ İ 가각ᄀ\u1161",
    "\u202eabc\u2066 \u200b\u2028\x00\U000e0041\U0001d165\U0001d16e",
)


def of(name: str) -> list[bytes]:
    return sorted({seed for seed in _MAKERS[name]() if len(seed) <= LONGEST})


def _http() -> Iterator[bytes]:
    for path in sorted(GOLDEN.glob("http/*/*.http")):
        yield path.read_bytes()


def _ws_goldens() -> Iterator[tuple[bytes, bool]]:
    from tests._fast.test_ws import GOLDEN as PATHS
    from tests._fast.test_ws import golden

    for path in PATHS:
        case = golden(path)
        yield case.wire, case.deflate


def _ws() -> Iterator[bytes]:
    for wire, deflate in _ws_goldens():
        yield bytes((0x80 + 4 + 64 * deflate, len(wire) & 255)) + wire  # 4 of LIMITS, or as near as the flag lets it be
        yield bytes((0x80 + 2 + 64 * deflate, 7)) + wire


def _engine() -> Iterator[bytes]:
    """Scripts: a byte each for options, for bounds and for the program's mood, then steps."""
    for head in _http():
        if len(head) > LONGEST:
            continue
        yield b"\1\0\0" + raw(0, head) + step("turn") + raw(0, b"\x89\x80\1\2\3\4", 1)
        yield b"\0\0\0" + raw(0, head, 50) + step("turn") + step("decide", 0) + step("turn")
    for wire, deflate in _ws_goldens():
        if len(wire) > LONGEST:
            continue
        yield b"\1\0\0" + step("stream", 0, 16, int(deflate), 0, 0) + step("turn") + raw(0, wire) + step("turn")
        yield b"\1\0\0" + step("stream", 0, 0, int(deflate), 0, 0) + raw(0, wire, 3)
    for proxy in PROXIES:
        yield b"\x1f\0\0" + raw(0, proxy + b"GET /v1/rooms/r0/sse HTTP/1.1\r\nHost: a\r\n\r\n", 9) + step("append", 4)
    for flags in (b"\1\0\0", b"\0\0\0", b"\x21\0\1", b"\x21\x70\2", b"\xee\0\0"):
        yield from _scenes(flags)
    yield from found().values()


def step(name: str, *rest: int, data: bytes = b"") -> bytes:
    from tests.fuzz.fuzz_engine import STEPS

    names = [step.__name__.removeprefix("step_") for step in STEPS]
    return bytes((names.index(name), *rest)) + data


def raw(client: int, data: bytes, cut: int = 0) -> bytes:
    return step("raw", client, len(data) >> 8, len(data) & 255, data=data + bytes((cut,)))


def _scenes(flags: bytes) -> Iterator[bytes]:
    """A viewer of each kind, and what may happen to all of them."""
    kinds = ((0, 0), (1, 0x08), (0, 0x18), (0, 1), (2, 0), (3, 0))
    begun = flags + b"".join(step("stream", i, 16 + kind, enc, 0) for i, (kind, enc) in enumerate(kinds)) + step("turn")
    slow = b"".join(step("append", 0x7E) + step("turn") for _ in range(6))
    yield begun + b"".join(step("append", what) for what in (0x30, 0x36, 0x70, 0xF6)) + step("turn")
    yield begun + slow + b"".join(step("read", i) for i in range(6))
    yield begun + slow + b"".join(step("leave", i, i) + step("append", 0x36) for i in range(6))
    yield begun + b"".join(step("deflated", i, 0x55 + i, 0, data=b"hello") for i in range(4)) + step("turn")
    for name in ("visible", "reply", "ask", "end", "room"):
        yield begun + step("append", 0x36) + b"".join(step(name, i, 1, 0) + step("append", 4) for i in range(4))


def found() -> dict[str, bytes]:
    """What the engine's target has found, each in a few steps."""
    compressed = step("stream", 0, 0, 1, 0, 0) + step("turn")
    return {
        "an end that comes with the head": b"\0\0\0" + step("stream", 0, 16, 0, 0) + step("leave", 0, 4),
        "a poll's end that comes with the head": b"\1\0\0" + step("stream", 0, 3, 0, 0) + step("leave", 0, 4),
        "a message behind one that does not inflate": b"\1\0\0"
        + compressed
        + raw(0, b"\xc1\x81" + bytes(4) + b"\xff" + b"\x81\x81" + bytes(4) + b"a"),
        "scores behind a close frame": b"\1\0\0"
        + step("stream", 0, 0, 0, 0, 0)
        + step("turn")
        + step("append", 0x30)
        + raw(0, b"\x81\x81" + bytes(4) + b"a" + b"\x81\1a"),
        "an empty message, and an empty first fragment": b"\1\0\0"
        + step("stream", 0, 0, 0, 0, 0)
        + raw(0, b"\x81\x80" + bytes(4) + b"\x01\x80" + bytes(4) + b"\x80\x80" + bytes(4)),
    }


_MAKERS: dict[str, Callable[[], Iterator[bytes]]] = {
    "http": _http,
    "proxy": lambda: iter(PROXIES),
    "ws": _ws,
    "vector": lambda: iter(VECTORS),
    "text": lambda: (text.encode() for text in TEXTS),
    "engine": _engine,
}
