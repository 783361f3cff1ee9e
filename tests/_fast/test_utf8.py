# The UTF-8 checker against what Python encodes: every sequence of up to three bytes, every code point, every split, and
# a failure at the first byte that shows it.
import ctypes
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge._fast import utf8
from tests._fast.guard import guard
from tests.fuzz.fuzz_ws import BEGUN, utf8_after

ALL = "".join(chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000)


def viable(data: bytes) -> bool:
    """Some text begins with data."""
    for size in range(min(3, len(data)) + 1):
        whole, tail = data[: len(data) - size], data[len(data) - size :]
        if not tail or tail in BEGUN:
            try:
                whole.decode()
            except UnicodeDecodeError:
                continue
            return True
    return False


def whole(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def feed(*parts: bytes) -> int:
    """The state after all parts, -1 from the first failure on."""
    state = 0
    for part in parts:
        state = utf8.feed(state, part)
        if state < 0:
            break
    return state


def agrees(data: bytes, state: int) -> bool:
    return (state >= 0) == viable(data) and (state >= 0 and utf8.done(state)) == whole(data)


def test_every_sequence_of_three_bytes() -> None:
    begun = {b"": (0, b"")}
    for _ in range(3):
        longer = {}
        for start, (state, tail) in begun.items():
            for byte in range(256):
                data = start + bytes((byte,))
                after, tail_after = utf8.feed(state, data[-1:]), utf8_after(tail, byte)
                assert (after >= 0) == (tail_after is not None), data
                assert after == utf8.feed(0, data)
                assert after < 0 or utf8.done(after) == (tail_after == b"")
                if tail_after is not None and byte > 127:
                    longer[data] = (after, tail_after)
                else:
                    assert after in (-1, 0)  # nothing to follow up: it has failed, or all begins anew
        begun = longer
    two, three, four = 30 * 64, 16 * 64 * 64 - 2 * 32 * 64, (48 + 3 * 64 + 16) * 64
    assert len(begun) == two * 51 + three + four  # 51 bytes begin a character


def test_four_bytes_at_every_border() -> None:
    borders = (0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2, 0xE0, 0xED, 0xFF)
    for lead in range(0xE0, 0x100):
        for rest in itertools.product(borders, repeat=3):
            data = bytes((lead, *rest))
            assert agrees(data, feed(data)), data
            assert agrees(data, feed(*(data[i : i + 1] for i in range(4)))), data


def test_every_code_point() -> None:
    data = ALL.encode()
    assert utf8.feed(0, data) == 0
    for size in (1, 7, 8, 9, 31, 33, 4096):
        step = max(size, len(data) // 3000)
        state = 0
        for at in range(0, len(data), step):
            state = feed_from(state, data[at : at + size], data[at + size : at + step])
        assert state == 0


def feed_from(state: int, *parts: bytes) -> int:
    for part in parts:
        assert state >= 0
        state = utf8.feed(state, part)
    return state


@pytest.mark.parametrize("size", [2, 3])
def test_every_surrogate_and_overlong_form(size: int) -> None:
    for c in range(0xD800, 0xE000):
        assert feed(chr(c).encode("utf-8", "surrogatepass")) == -1
    for c in range(0x80 if size == 2 else 0x800):
        long = {
            2: bytes((0xC0 | c >> 6, 0x80 | c & 63)),
            3: bytes((0xE0, 0x80 | c >> 6, 0x80 | c & 63)),
        }[size]
        assert feed(long) == -1
        assert feed(bytes((0xF0, 0x80)) + long[-2:]) == -1


def test_a_failed_state_is_refused() -> None:
    with pytest.raises(ValueError):
        utf8.feed(7, b"")
    assert utf8.feed(6, b"plain") == -1  # 6 is the state that has failed


@pytest.mark.parametrize("before", [0, 1, 7, 8, 9, 24, 31, 32, 33, 63, 64, 65])
def test_known_at_the_first_impossible_byte(before: int) -> None:
    for bad in (
        b"\x80",
        b"\xc0",
        b"\xff",
        b"\xe0\x80",
        b"\xed\xa0",
        b"\xf0\x8f",
        b"\xf4\x90",
        b"\xe2\x82a",
        b"\xf0\x9f\x98 ",
    ):
        text = b"a" * before
        assert feed(text + bad[:-1]) >= 0
        assert feed(text + bad) == feed(text, bad) == feed(text + bad[:-1], bad[-1:]) == -1
        assert feed(text + bad + b"a" * 40) == -1


@pytest.mark.parametrize("begun", [b"\xc3", b"\xe2", b"\xe2\x82", b"\xf0\x9f\x98"])
def test_ascii_does_not_finish_a_character(begun: bytes) -> None:
    """However long the run, and wherever it begins: it must not be skipped."""
    for before in range(40):
        for run in (1, 7, 8, 31, 32, 33, 100):
            assert feed(b"a" * before + begun + b"a" * run) == -1
            assert feed(b"a" * before + begun, b"a" * run) == -1


pieces = st.lists(
    st.one_of(
        st.text(max_size=40).map(str.encode), st.binary(max_size=4), st.sampled_from((b"a" * 32, "é".encode() * 9))
    ),
    max_size=6,
)


@given(pieces, st.randoms())
@settings(max_examples=400, deadline=None)
def test_any_text_at_any_split(parts: list[bytes], chance: random.Random) -> None:
    data = b"".join(parts)
    state = feed(data)
    assert agrees(data, state)
    assert feed(*parts) == state
    cuts = sorted(chance.choices(range(len(data) + 1), k=3))
    assert feed(data[: cuts[0]], data[cuts[0] : cuts[1]], data[cuts[1] : cuts[2]], data[cuts[2] :]) == state
    failed = next((i for i in range(len(data)) if not viable(data[: i + 1])), len(data))
    assert feed(data[:failed]) >= 0
    assert (feed(data[: failed + 1]) == -1) == (failed < len(data))


@pytest.mark.parametrize("at_start", [False, True])
def test_nothing_beyond_the_buffer_is_read(at_start: bool) -> None:
    data = ("a" * 70 + "naïve 😀 текст").encode()
    with guard(room=len(data), at_start=at_start) as page:
        for start, stop in itertools.combinations(range(len(data) + 1), 2):
            page.place(data[start:stop])
            state = utf8.feed(0, memoryview((ctypes.c_char * page.length).from_address(page.address)))
            assert (state >= 0) == viable(data[start:stop])
