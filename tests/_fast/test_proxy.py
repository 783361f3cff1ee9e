# The PROXY parser against a table, a slow reference, guard pages and every split point.
import ipaddress
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge._fast import proxy
from tests.fuzz.fuzz_proxy import SIGNATURE, one, reference

NOWHERE = (0, bytes(16), 0)


def binary(command: int = 0x21, family: int = 0x11, body: bytes = b"", size: int | None = None) -> bytes:
    return SIGNATURE + struct.pack(">BBH", command, family, len(body) if size is None else size) + body


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


V4 = packed("192.0.2.1") + packed("198.51.100.1") + struct.pack(">HH", 56324, 443)
V6 = packed("2001:db8::1") + packed("2001:db8::2") + struct.pack(">HH", 65535, 0)
FOUND4 = (4, packed("192.0.2.1").ljust(16, b"\0"), 56324)
FOUND6 = (6, packed("2001:db8::1"), 65535)
TLV = b"\x02\x00\x03a.b" + b"\x04\x00\x00" + b"\xea\x01\x00" + b"v" * 256

GOOD = {
    "text-4": (b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n", FOUND4),
    "text-4-widest": (
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        (4, b"\xff" * 4 + bytes(12), 65535),
    ),
    "text-4-zeros": (b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", (4, bytes(16), 0)),
    "text-6": (b"PROXY TCP6 2001:db8::1 2001:DB8::2 65535 0\r\n", FOUND6),
    "text-6-widest": (
        b"PROXY TCP6 " + b"ffff:" * 7 + b"ffff " + b"ffff:" * 7 + b"ffff 65535 65535\r\n",
        (6, b"\xff" * 16, 65535),
    ),
    "text-6-mapped": (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", (6, packed("::ffff:192.0.2.1"), 1)),
    "text-unknown": (b"PROXY UNKNOWN\r\n", NOWHERE),
    "text-unknown-with-more": (b"PROXY UNKNOWN whatever  it says \r\n", NOWHERE),
    "text-unknown-107": (b"PROXY UNKNOWN " + b"x" * (107 - 16) + b"\r\n", NOWHERE),
    "binary-4": (binary(body=V4), FOUND4),
    "binary-6": (binary(family=0x21, body=V6), FOUND6),
    "binary-4-tlvs": (binary(body=V4 + TLV), FOUND4),
    "binary-6-tlvs": (binary(family=0x21, body=V6 + TLV), FOUND6),
    "binary-536": (binary(body=V4 + b"\x04" + struct.pack(">H", 521) + bytes(521)), FOUND4),
    "binary-local": (binary(0x20, 0x00), NOWHERE),
    "binary-local-with-address": (binary(0x20, 0x11, V4), NOWHERE),
    "binary-local-any-family": (binary(0x20, 0xFF, b"junk"), NOWHERE),
    "binary-unspecified": (binary(family=0x00, body=b"abc"), NOWHERE),
    "binary-udp": (binary(family=0x12, body=V4), NOWHERE),
    "binary-unix": (binary(family=0x31, body=bytes(216)), NOWHERE),
}

BAD = {
    "http": b"GET / HTTP/1.1\r\n",
    "tls": b"\x16\x03\x01",
    "lower-case": b"proxy TCP4 192.0.2.1 198.51.100.1 1 2\r\n",
    "post": b"POST / HTTP/1.1\r\n",
    "two-spaces": b"PROXY  TCP4 192.0.2.1 198.51.100.1 1 2\r\n",
    "tab": b"PROXY TCP4\t192.0.2.1 198.51.100.1 1 2\r\n",
    "bare-lf": b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2\n",
    "bare-cr": b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2\rX",
    "udp": b"PROXY UDP4 192.0.2.1 198.51.100.1 1 2\r\n",
    "unknown-and-more": b"PROXY UNKNOWNS\r\n",
    "unknown-nul": b"PROXY UNKNOWN \0\r\n",
    "no-words": b"PROXY \r\n",
    "no-addresses": b"PROXY TCP4\r\n",
    "only-a-space": b"PROXY TCP4 \r\n",
    "one-address": b"PROXY TCP4 192.0.2.1\r\n",
    "no-ports": b"PROXY TCP4 192.0.2.1 198.51.100.1\r\n",
    "one-port": b"PROXY TCP4 192.0.2.1 198.51.100.1 1\r\n",
    "space-last": b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2 \r\n",
    "seventh-word": b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2 3\r\n",
    "space-inside": b"PROXY TCP4 192.0.2.1  198.51.100.1 1 2\r\n",
    "port-over": b"PROXY TCP4 192.0.2.1 198.51.100.1 65536 2\r\n",
    "port-long": b"PROXY TCP4 192.0.2.1 198.51.100.1 1 100000\r\n",
    "port-zero-first": b"PROXY TCP4 192.0.2.1 198.51.100.1 01 2\r\n",
    "port-sign": b"PROXY TCP4 192.0.2.1 198.51.100.1 +1 2\r\n",
    "port-letters": b"PROXY TCP4 192.0.2.1 198.51.100.1 http 2\r\n",
    "other-port-letters": b"PROXY TCP4 192.0.2.1 198.51.100.1 1 http\r\n",
    "address-over": b"PROXY TCP4 192.0.2.256 198.51.100.1 1 2\r\n",
    "address-zero-first": b"PROXY TCP4 192.0.02.1 198.51.100.1 1 2\r\n",
    "address-short": b"PROXY TCP4 192.0.2 198.51.100.1 1 2\r\n",
    "address-number": b"PROXY TCP4 3221225985 198.51.100.1 1 2\r\n",
    "other-address": b"PROXY TCP4 192.0.2.1 example.org 1 2\r\n",
    "families-crossed": b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
    "families-crossed-6": b"PROXY TCP6 192.0.2.1 198.51.100.1 1 2\r\n",
    "scope": b"PROXY TCP6 fe80::1%lo fe80::2 1 2\r\n",
    "brackets": b"PROXY TCP6 [::1] [::2] 1 2\r\n",
    "address-endless": b"PROXY TCP6 " + b"0" * 60 + b" ::1 1 2\r\n",
    "text-108": b"PROXY UNKNOWN " + b"x" * (108 - 16) + b"\r\n",
    "text-endless": b"PROXY " + b"x" * 200,
    "signature": b"\r\n\r\n\0\r\nQUIT\r",
    "crlf-http": b"\r\n\r\nGET",
    "version-1": binary(0x11, 0x11, V4),
    "version-3": binary(0x31, 0x11, V4),
    "command": binary(0x22, 0x11, V4),
    "family": binary(0x21, 0x41, V4),
    "protocol": binary(0x21, 0x13, V4),
    "too-long": binary(size=537),
    "too-long-local": binary(0x20, size=65535),
    "no-room-4": binary(body=V4[:-1]),
    "no-room-6": binary(family=0x21, body=V6[:-1]),
    "tlv-head": binary(body=V4 + b"\x01\x00"),
    "tlv-over": binary(body=V4 + b"\x01\x00\x02x"),
    "second-tlv-over": binary(body=V4 + b"\x01\x00\x01x\x02\xff\xff"),
}


@pytest.mark.parametrize("name", GOOD)
def test_good(name: str) -> None:
    data, found = GOOD[name]
    assert proxy.parse_proxy(data) == (len(data), *found)
    assert proxy.parse_proxy(data + b"GET / HTTP/1.1\r\n") == (len(data), *found)
    one(data)
    one(data + b"GET")
    assert proxy.parse_proxy(data[:-1]) is None


@pytest.mark.parametrize("name", BAD)
def test_bad(name: str) -> None:
    assert proxy.parse_proxy(BAD[name]) is False
    one(BAD[name])


def test_nothing_is_not_yet_anything() -> None:
    assert proxy.parse_proxy(b"") is None
    assert reference(b"") is None


@pytest.mark.parametrize("name", [*GOOD, *BAD])
def test_mutations_agree_with_the_reference(name: str) -> None:
    data = BAD[name] if name in BAD else GOOD[name][0]
    rng = random.Random(name)
    for _ in range(25):
        changed = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(changed) + 1)
            piece = rng.choice(
                [b"", b"\r", b"\n", b" ", b"\0", b".", b":", b"0", b"1", b"f", b"\x11", b"\x20", b"\x21", b"\xff"]
            )
            changed[at : at + rng.randint(0, 2)] = piece
        one(bytes(changed))


WORDS = [
    "192.0.2.1",
    "2001:db8::1",
    "::",
    "1.2.3",
    "",
    "x",
    "1:2:3:4:5:6:7:8",
    "1:2:3:4:5:6:7::",
    "::1.2.3.4",
    "1::2::3",
]
PORTS = st.one_of(st.integers(0, 70000).map(str), st.sampled_from(["", "00", "-1", "1x"]))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["TCP4", "TCP6", "UNKNOWN"]), st.sampled_from(WORDS), st.sampled_from(WORDS), PORTS, PORTS)
def test_any_line_agrees_with_the_reference(family: str, source: str, target: str, port: str, other: str) -> None:
    one(f"PROXY {family} {source} {target} {port} {other}\r\n".encode())


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([0x20, 0x21, 0x22]),
    st.sampled_from([0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x41]),
    st.sampled_from([b"", V4, V6]),
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, 12), st.binary(max_size=10)), max_size=4),
    st.integers(-2, 2),
)
def test_any_header_agrees_with_the_reference(
    command: int, family: int, address: bytes, tlvs: list[tuple[int, int, bytes]], more: int
) -> None:
    body = address + b"".join(struct.pack(">BH", kind, size) + value for kind, size, value in tlvs)
    one(binary(command, family, body, max(0, len(body) + more)))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([b"", b"PROXY ", b"PROXY TCP6 ", SIGNATURE]), st.binary(max_size=40))
def test_any_bytes_agree_with_the_reference(start: bytes, data: bytes) -> None:
    one(start + data)
