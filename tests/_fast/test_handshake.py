# The handshake: the accept key against hashlib, offers as a table and against a regular expression, the response as
# bytes.
import base64
import ctypes
import hashlib
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.headers import parse_extension

from edge._fast import handshake
from tests._fast.guard import guard

SAMPLE = b"dGhlIHNhbXBsZSBub25jZQ=="
JSON, MSGPACK, ZSTD = 0, 1, 2
LETTER = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
TOKEN = LETTER + "+"
PARAM = rf'[ \t]*;[ \t]*({TOKEN})(?:[ \t]*=[ \t]*({TOKEN}|"(?:\\?{LETTER})+"))?'
EXTENSION = rf"({TOKEN})((?:{PARAM})*)"
LIST = re.compile(rf"[ \t,]*(?:{EXTENSION}[ \t]*(?:,[ \t,]*(?={TOKEN})|[ \t,]*$))*")


def accept(key: bytes) -> bytes:
    return base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


def test_accept_key_of_the_rfc() -> None:
    assert handshake.accept_key(SAMPLE) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_accept_key_of_many() -> None:
    chance = random.Random(1)
    for _ in range(3000):
        key = base64.b64encode(chance.randbytes(16))
        assert handshake.accept_key(key) == accept(key)


@given(st.binary(min_size=24, max_size=24))
def test_accept_key_of_any_bytes(key: bytes) -> None:
    assert handshake.accept_key(key) == accept(key)


@pytest.mark.parametrize(
    "value, answer",
    [
        (b"", 0),
        (b" , ,", 0),
        (b"permessage-deflate", 1),
        (b"permessage-deflate; client_max_window_bits", 1),  # browsers
        (b"permessage-deflate;client_max_window_bits=8", 1),
        (b"permessage-deflate; client_max_window_bits=15", 1),
        (b'permessage-deflate; client_max_window_bits="10"', 1),
        (b"permessage-deflate; server_no_context_takeover; client_no_context_takeover", 1),
        (b"permessage-deflate; server_max_window_bits=15", 2),
        (b'permessage-deflate; server_max_window_bits="15"; client_max_window_bits', 2),
        (b'permessage-deflate; server_max_window_bits="1\\5"', 2),
        (b" permessage-deflate\t;\tserver_max_window_bits = 15 ", 2),
        (b",, permessage-deflate ,", 1),
        # Declined: another window, a parameter twice, with or without a value as it must not be, or unknown.
        (b"permessage-deflate; server_max_window_bits=14", 0),
        (b"permessage-deflate; server_max_window_bits=8", 0),
        (b"permessage-deflate; server_max_window_bits=16", 0),
        (b"permessage-deflate; server_max_window_bits=7", 0),
        (b"permessage-deflate; server_max_window_bits=015", 0),
        (b"permessage-deflate; server_max_window_bits=150", 0),
        (b"permessage-deflate; server_max_window_bits", 0),
        (b"permessage-deflate; client_max_window_bits=7", 0),
        (b"permessage-deflate; client_max_window_bits=16", 0),
        (b"permessage-deflate; client_max_window_bits=x", 0),
        (b"permessage-deflate; client_max_window_bits; client_max_window_bits", 0),
        (b"permessage-deflate; client_max_window_bits=9; client_max_window_bits=10", 0),
        (b"permessage-deflate; server_max_window_bits=15; server_max_window_bits=15", 0),
        (b"permessage-deflate; server_no_context_takeover; server_no_context_takeover", 0),
        (b"permessage-deflate; server_no_context_takeover=1", 0),
        (b"permessage-deflate; client_no_context_takeover=true", 0),
        (b"permessage-deflate; unknown", 0),
        (b"permessage-deflate; server_no_context", 0),
        (b"x-webkit-deflate-frame", 0),
        (b"permessage-deflate2", 0),
        (b"permessage-bzip2; compress_level=9", 0),
        # In order: the first that we accept.
        (b"permessage-deflate; server_max_window_bits=10, permessage-deflate", 1),
        (b"permessage-deflate; server_max_window_bits=10, permessage-deflate; server_max_window_bits=15", 2),
        (b"permessage-deflate, permessage-deflate; server_max_window_bits=15", 1),
        (b"permessage-deflate; server_max_window_bits=15, permessage-deflate", 2),
        (b'other; a="b", permessage-deflate', 1),
        (b"permessage-deflate; unknown=1, other, permessage-deflate; client_max_window_bits, another", 1),
        # Malformed anywhere is malformed.
        (b";", -1),
        (b"=", -1),
        (b"permessage-deflate;", -1),
        (b"permessage-deflate; ", -1),
        (b"permessage-deflate; ;", -1),
        (b"permessage-deflate; =15", -1),
        (b"permessage-deflate; server_max_window_bits=", -1),
        (b'permessage-deflate; server_max_window_bits=""', -1),
        (b'permessage-deflate; server_max_window_bits="15', -1),
        (b'permessage-deflate; server_max_window_bits="15\\', -1),
        (b'permessage-deflate; server_max_window_bits="1 5"', -1),
        (b'permessage-deflate; server_max_window_bits="15"x', -1),
        (b"permessage-deflate server_max_window_bits=15", -1),
        (b"permessage-deflate other", -1),
        (b"permessage-deflate/1", -1),
        (b"permessage-deflate, ;", -1),
        (b"permessage-deflate, other; a=\xc3\xa9", -1),
        (b"permessage-deflate\0", -1),
        (b"permessage-deflate; a=b=c", -1),
        (b'"permessage-deflate"', -1),
    ],
)
def test_offers(value: bytes, answer: int) -> None:
    assert handshake.offer(value) == answer
    with guard(room=len(value)) as page:
        for size in range(len(value) + 1):
            page.place(value[:size])
            assert handshake.offer(memoryview((ctypes.c_char * size).from_address(page.address))) == judge(
                value[:size].decode("latin-1")
            )


def acceptable(params: list[tuple[str, str]]) -> int:
    names = [name for name, _ in params]
    ranges = {"server_max_window_bits": range(15, 16), "client_max_window_bits": range(8, 16)}
    for name, quoted in params:
        value = re.sub(r'["\\]', "", quoted)
        bare = name in ("server_no_context_takeover", "client_no_context_takeover", "client_max_window_bits")
        if not (bare and not value) and value not in map(str, ranges.get(name, ())):
            return 0
    if len(set(names)) != len(names):
        return 0
    return 2 if "server_max_window_bits" in names else 1


def judge(value: str) -> int:
    """What ws_offer must say, by regular expressions."""
    if not LIST.fullmatch(value):
        return -1
    answers = [
        acceptable(re.findall(PARAM, match[2])) if match[1] == "permessage-deflate" else 0
        for match in re.finditer(EXTENSION, value)
    ]
    return next(filter(None, answers), 0)


words = st.sampled_from(
    ["permessage-deflate"] * 6
    + ["server_max_window_bits", "client_max_window_bits", "server_no_context_takeover", "client_no_context_takeover"]
    * 3
    + [";"] * 12
    + ["="] * 6
    + [",", ", "] * 3
    + ["15", "8", "10", "16", '"15"', '"', "\\", " ", "\t", "x", "é"]
)


@given(st.lists(words, max_size=14).map("".join))
@settings(max_examples=500, deadline=None)
def test_offers_of_any_shape(value: str) -> None:
    assert handshake.offer(value.encode("latin-1")) == judge(value)


param = st.tuples(
    st.sampled_from(
        [
            "server_max_window_bits",
            "client_max_window_bits",
            "server_no_context_takeover",
            "client_no_context_takeover",
            "x",
        ]
    ),
    st.sampled_from(["", "=15", "=15", "=8", "=14", '="15"', "=16"]),
).map("".join)
offers = st.lists(
    st.lists(param, max_size=3).map(lambda params: "; ".join(["permessage-deflate", *params])), max_size=4
)


@given(offers.map(", ".join))
@settings(max_examples=150, deadline=None)
def test_offers_that_are_well_formed(value: str) -> None:
    assert handshake.offer(value.encode()) == judge(value)
    if value:
        parse_extension(value)  # another library takes it for well formed too


@pytest.mark.parametrize(
    "value, encoding",
    [
        (b"", -1),
        (b"edge.v1.json", JSON),
        (b"edge.v1.msgpack", MSGPACK),
        (b"edge.v1.msgpack.zstd", ZSTD),
        (b"edge.v1.msgpack.zstd, edge.v1.json", ZSTD),
        (b"edge.v1.json,edge.v1.msgpack", JSON),
        (b" chat ,\tedge.v1.msgpack\t, edge.v1.json", MSGPACK),
        (b",,edge.v1.json,", JSON),
        (b"edge.v2.json", -1),
        (b"edge.v1", -1),
        (b"edge.v1.msgpack.zst", -1),
        (b"edge.v1.msgpack.zstdx", -1),
        (b"EDGE.V1.JSON", -1),
        (b"edge.v1.json x", -1),
        (b"edge.v1.json;q=1", -1),
        (b"edge.v1.json x, edge.v1.msgpack", MSGPACK),
        (b'"edge.v1.json"', -1),
        (b"xedge.v1.json", -1),
        (b"x edge.v1.json", -1),
    ],
)
def test_subprotocols(value: bytes, encoding: int) -> None:
    assert handshake.subprotocol(value) == encoding
    known = {b"edge.v1.json": JSON, b"edge.v1.msgpack": MSGPACK, b"edge.v1.msgpack.zstd": ZSTD}
    with guard(room=len(value)) as page:
        for size in range(len(value) + 1):
            page.place(value[:size])
            items = [known.get(item.strip(b" \t"), -1) for item in value[:size].split(b",")]
            want = next((item for item in items if item >= 0), -1)
            assert handshake.subprotocol(memoryview((ctypes.c_char * size).from_address(page.address))) == want


def test_plain_response() -> None:
    assert handshake.upgrade(SAMPLE, -1, 0) == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        b"\r\n"
    )


@pytest.mark.parametrize(
    "encoding, protocol",
    [(-1, None), (JSON, b"edge.v1.json"), (MSGPACK, b"edge.v1.msgpack"), (ZSTD, b"edge.v1.msgpack.zstd"), (3, None)],
)
@pytest.mark.parametrize(
    "offer, extension",
    [
        (-1, None),
        (0, None),
        (1, b"permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
        (2, b"permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15"),
    ],
)
def test_response(encoding: int, protocol: bytes | None, offer: int, extension: bytes | None) -> None:
    response = handshake.upgrade(SAMPLE, encoding, offer)
    status, *lines = response.removesuffix(b"\r\n\r\n").split(b"\r\n")
    fields = dict(line.split(b": ", 1) for line in lines)
    assert status == b"HTTP/1.1 101 Switching Protocols"
    assert fields.pop(b"Upgrade") == b"websocket"
    assert fields.pop(b"Connection") == b"Upgrade"
    assert fields.pop(b"Sec-WebSocket-Accept") == accept(SAMPLE)
    assert fields.pop(b"Sec-WebSocket-Protocol", None) == protocol
    assert fields.pop(b"Sec-WebSocket-Extensions", None) == extension
    assert not fields


def test_the_longest_response_is_what_the_size_says() -> None:
    assert len(handshake.upgrade(SAMPLE, ZSTD, 2)) == handshake.UPGRADE_MAX
    assert handshake.upgrade(SAMPLE, -1, 0, cap=handshake.UPGRADE_MAX - 1) == b""
