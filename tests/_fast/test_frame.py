"""Each encoding of a batch: what a viewer reads back is the batch, whatever is in it."""

import zlib
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Opcode

from edge._fast.frame import encode, encode_ack, encode_message, framed
from tests._fast.engine import DEFLATE, JSON, MSGPACK, MUST, POLL, SSE, ZSTD, bounded, nothing_kept

__all__ = ["nothing_kept"]

HEADS = {
    JSON: 0x80 | Opcode.TEXT,
    DEFLATE: 0xC0 | Opcode.TEXT,
    MSGPACK: 0x80 | Opcode.BINARY,
    ZSTD: 0x80 | Opcode.BINARY,
}
texts = st.text(max_size=60)
entries = st.dictionaries(texts, texts | st.integers(-(2**63), 2**64 - 1) | st.none(), max_size=3)
messages = st.fixed_dictionaries(
    {"t": st.sampled_from(["batch", "score", "del", "state"]), "id": st.just("c5")},
    optional={"x": texts, "m": st.lists(entries, max_size=30)},
)


def decoded(enc: int, body: bytes) -> Any:
    if enc == MSGPACK:
        return msgspec.msgpack.decode(body)
    if enc == ZSTD:
        return msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(body))
    if enc == DEFLATE:
        body = zlib.decompressobj(-15).decompress(body + b"\0\0\xff\xff")
    if enc == SSE:
        lines = body.decode().split("\n")
        assert len(lines) == 4
        assert lines[2:] == ["", ""]
        message = msgspec.json.decode(lines[1].removeprefix("data: "))
        assert lines[0] == f"event: {message['t']}"
        return message
    return msgspec.json.decode(body)


@bounded(150)
@given(message=messages, enc=st.sampled_from([JSON, MSGPACK, ZSTD, DEFLATE, SSE]))
def test_a_frame_holds_its_batch(message: dict[str, Any], enc: int) -> None:
    wire, at, charged, after = framed(enc, msgspec.msgpack.encode(message), 1, 5)
    assert decoded(enc, wire[at:]) == message
    assert charged >= len(wire)
    assert after == 0
    if enc in HEADS:
        assert wire[0] == HEADS[enc]
        assert at == (2 if len(wire) - at < 126 else 4)
        assert wire[1] == len(wire) - 2 if at == 2 else int.from_bytes(wire[2:4], "big") == len(wire) - 4
    else:
        assert at == 0


def test_deflate_leaves_no_trace_of_what_was_before() -> None:
    """Without context takeover, so that the frame of one batch is good for a socket that saw no other."""
    canon = msgspec.msgpack.encode({"t": "batch", "x": "the same words " * 50})
    first, second = framed(DEFLATE, canon, 1, 1), framed(DEFLATE, canon, 1, 2)
    assert first == second


@pytest.mark.parametrize("canon", [b"\xc1", b"\x81\xa1t", msgspec.msgpack.encode(["no object"]), b"\x80", b"\xa3abc"])
@pytest.mark.parametrize("lane, name", [(MUST, "m7"), (1, "c7")])
def test_what_cannot_be_encoded_becomes_a_gap(canon: bytes, lane: int, name: str) -> None:
    wire, at, _, _ = framed(SSE, canon, lane, 7)
    assert decoded(SSE, wire[at:]) == {"t": "gap", "from": name, "to": name}


def test_a_poll_has_the_text_of_json() -> None:
    canon = msgspec.msgpack.encode({"t": "batch", "id": "c1"})
    assert encode(POLL, canon) == encode(JSON, canon) == b'{"t":"batch","id":"c1"}'


words = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=64)


@given(words, words, words | st.text(max_size=80))
def test_an_ack_is_what_the_long_way_makes(ref: str, made: str, status: str) -> None:
    message = {"t": "ack", "ref": ref, "id": made, "status": status}
    for enc in (JSON, DEFLATE, MSGPACK, ZSTD, SSE):
        assert encode_ack(enc, ref, made, status) == encode_message(enc, message)
