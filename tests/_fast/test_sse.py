# Positions, hello and gap against Python's own readers of JSON, MessagePack and zstd, and the sizes that the .pxd
# promises.
import json
import random

import msgpack
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge._fast import sse
from tests.fuzz import fuzz_vector

TOP = 2**64 - 1
POWERS = sorted(
    {0, TOP, *(10**i + d for i in range(20) for d in (-1, 0, 1)), *(2**i + d for i in range(64) for d in (-1, 0))}
)
u64 = st.one_of(st.integers(0, TOP), st.integers(0, 1000), st.sampled_from(POWERS))
vectors = st.tuples(u64, u64, u64)


def text_of(v: tuple[int, int, int]) -> str:
    return f"i{v[0]}.m{v[1]}.c{v[2]}"


def test_numbers() -> None:
    for x in [*range(20_000), *POWERS]:
        assert sse.u64(x) == str(x).encode()


@pytest.mark.parametrize(
    "text, v",
    [
        (b"i3.m12.c345", (3, 12, 345)),
        (b"i0.m0.c0", (0, 0, 0)),
        (b"i1.m0.c10", (1, 0, 10)),
        (b"i18446744073709551615.m18446744073709551615.c18446744073709551615", (TOP, TOP, TOP)),
    ],
)
def test_good_vectors(text: bytes, v: tuple[int, int, int]) -> None:
    assert sse.parse(text) == v
    assert sse.vector(v) == text


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"i",
        b"i3",
        b"i3.m12",
        b"i3.m12.c",
        b"i3.m.c345",
        b"i.m12.c345",
        b"3.12.345",
        b"i3.c345.m12",
        b"m12.i3.c345",
        b"i3.m12.c345 ",
        b" i3.m12.c345",
        b"i3.m12.c345\n",
        b"i3.m12.c345\0",
        b"i3.m12.c345.",
        b"i3.m12.c345.x1",
        b"i3m12c345",
        b"i3..m12.c345",
        b"i3,m12,c345",
        b"I3.M12.C345",
        b"i03.m12.c345",
        b"i3.m00.c345",
        b"i3.m12.c0345",
        b"i+3.m12.c345",
        b"i-3.m12.c345",
        b"i3.m1_2.c345",
        b"i3.m12.c3e5",
        b"i0x3.m12.c345",
        b"i3.m12.c18446744073709551616",
        b"i3.m18446744073709551620.c1",
        b"i99999999999999999999.m1.c1",
        b"i184467440737095516150.m1.c1",
        b"i100000000000000000000.m1.c1",
        "i٣.m12.c345".encode(),
        "i3.m12.c３４５".encode(),
        b"x" * 5000,
        b"i" + b"1" * 5000,
    ],
)
def test_bad_vectors(text: bytes) -> None:
    assert sse.parse(text) is None
    assert fuzz_vector.reference(text) is None


@given(vectors)
def test_vectors_there_and_back(v: tuple[int, int, int]) -> None:
    assert sse.vector(v) == text_of(v).encode()
    assert sse.parse(sse.vector(v)) == v
    assert sse.event_id(v) == f"id: {text_of(v)}\n".encode()


@given(st.binary(max_size=90))
@settings(max_examples=300, deadline=None)
def test_fuzz_target_on_chosen_input(data: bytes) -> None:
    fuzz_vector.one(data)


def test_fuzz_target_on_random_input() -> None:
    chance = random.Random(345)
    for _ in range(1500):
        fuzz_vector.one(chance.randbytes(chance.choice((5, 30, 60))))


def test_damaged_vectors() -> None:
    chance = random.Random(12)
    for _ in range(5000):
        text = bytearray(sse.vector(tuple(chance.choice(POWERS) for _ in range(3))))
        for _ in range(chance.randint(1, 2)):
            text[chance.randrange(len(text))] = chance.choice(b"im.c0123456789")
        assert sse.parse(text) == fuzz_vector.reference(bytes(text))


def test_opening_of_a_stream() -> None:
    head, body = sse.stream_open(2500).split(b"\r\n\r\n")
    assert body == b"retry: 2500\n\n"
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 200 OK",
        b"Content-Type: text/event-stream; charset=utf-8",
        b"Cache-Control: no-store",
        b"X-Accel-Buffering: no",
        b"Access-Control-Allow-Origin: *",
        b"Connection: close",
    ]
    assert sse.stream_open(2500, cap=sse.SIZES["sse_open"] - 1) == b""


@given(st.sampled_from(b"mc"), u64, u64)
def test_gap(letter: int, first: int, last: int) -> None:
    want = {"t": "gap", "from": f"{letter:c}{first}", "to": f"{letter:c}{last}"}
    assert sse.gap(letter, first, last) == json.dumps(want, separators=(",", ":")).encode()
    assert sse.gap_msgpack(letter, first, last) == msgpack.packb(want)


@given(vectors, u64, st.booleans())
@example((0, 0, 0), 0, False)
@example((10**7, 10**7, 10**7), 127, True)  # 28 characters, and with one digit more a pair of forms to choose from
@example((10**8, 10**8, 10**7), 128, True)
@example((10**8, 10**8, 10**8), 255, True)
@example((10**8, 10**8, 10**9), 65_536, True)
def test_hello(since: tuple[int, int, int], viewers: int, resumed: bool) -> None:
    want = {"t": "hello", "since": text_of(since), "viewers": viewers, "resumed": resumed, "state": "live"}
    assert sse.hello(since, viewers, resumed) == json.dumps(want, separators=(",", ":")).encode()
    assert sse.hello_msgpack(since, viewers, resumed) == msgpack.packb(want)


def test_the_longest_of_each_is_what_the_sizes_say() -> None:
    top = (TOP, TOP, TOP)
    longest = {
        "u64": sse.u64(TOP),
        "vector": sse.vector(top),
        "sse_id": sse.event_id(top),
        "sse_open": sse.stream_open(2**32 - 1),
        "gap": sse.gap(ord("c"), TOP, TOP),
        "gap_msgpack": sse.gap_msgpack(ord("c"), TOP, TOP),
        "hello": sse.hello(top, TOP, False),
        "hello_msgpack": sse.hello_msgpack(top, TOP, False),
        "zstd_raw_extra": sse.raw_frame(bytes(65_535))[65_535:],
    }
    assert {name: len(written) for name, written in longest.items()} == sse.SIZES


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 511, 512, 4095, 4096, 32_768, 65_535])
def test_raw_frames_are_zstd(size: int) -> None:
    body = random.Random(size).randbytes(size)
    wire = sse.raw_frame(body)
    assert len(wire) <= size + sse.SIZES["zstd_raw_extra"]
    assert zstandard.frame_content_size(wire) == size
    assert zstandard.ZstdDecompressor().decompress(wire) == body
    stream = zstandard.ZstdDecompressor().decompressobj()
    assert b"".join(stream.decompress(part) for part in (wire[:5], wire[5:8], wire[8:])) == body
    assert stream.eof


@given(st.binary(max_size=2000))
def test_raw_frames_of_any_body(body: bytes) -> None:
    assert zstandard.ZstdDecompressor().decompress(sse.raw_frame(body)) == body


def test_raw_frames_have_an_end() -> None:
    assert sse.raw_frame(bytes(65_536)) == b""
