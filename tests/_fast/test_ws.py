# Frames in and out: golden files at every split and against guard pages, random frames from another library's encoder,
# and the fuzz target's own checks. Nothing here opens a socket.
import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from edge._fast import ws
from tests._fast.guard import guard
from tests.fuzz import fuzz_ws
from tests.fuzz.fuzz_ws import Outcome, Told, check, frame, memory, reference

GOLDEN = sorted((Path(__file__).parent / "golden" / "ws").glob("*/*.frames"))


class Golden(NamedTuple):
    wire: bytes
    limit: int
    deflate: bool
    want: Outcome


def unhex(words: list[str]) -> bytes:
    """`61 62*3` is b"abbb"."""
    return b"".join(bytes.fromhex(byte) * int(times or 1) for byte, _, times in (word.partition("*") for word in words))


def golden(path: Path) -> Golden:
    wire, limit, deflate, told = b"", 4096, False, []
    failure, idle = None, False
    for line in path.read_text().splitlines():
        match line.split():
            case ["#", *_]:
                pass
            case ["limit", number]:
                limit = int(number)
            case ["deflate"]:
                deflate = True
            case ["wire", *words]:
                wire += unhex(words)
            case ["tell", op, "deflated", *words]:
                told.append(Told(op, unhex(words), True))
            case ["tell", op, *words]:
                told.append(Told(op, unhex(words)))
            case ["fail", code, at]:
                failure = (int(code), int(at))
            case ["idle" | "half" as end]:
                idle = end == "idle"
            case _:
                raise ValueError(f"{path.name}: {line}")
    return Golden(wire, limit, deflate, Outcome(told, failure, idle))


def cuts_of(size: int) -> Iterator[tuple[int, ...]]:
    """Whole, byte by byte, every split in two, and every split in three of what is short (else around the heads)."""
    yield ()
    places = list(range(1, size)) if size < 300 else [*range(1, 40), *range(40, size, size // 50), size - 1]
    yield tuple(places)
    yield from ((place,) for place in places)
    yield from itertools.combinations([place for place in places if place <= 48 or place >= size - 4], 2)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_golden_at_every_split(path: Path) -> None:
    case = golden(path)
    assert (case.want.failure is None) == (path.parent.name == "good")
    assert reference(case.wire, case.limit, case.deflate) == case.want
    with guard(room=len(case.wire)) as page:
        for cuts in cuts_of(len(case.wire)):
            check(case.wire, cuts, case.limit, case.deflate, case.want, page)


def test_golden_files_are_there() -> None:
    assert len(GOLDEN) > 90


def test_nothing_before_the_buffer_is_touched() -> None:
    wire = frame(0x81, "naïve 😀".encode() * 9)
    with guard(room=len(wire), at_start=True) as page:
        for cuts in cuts_of(len(wire)):
            check(wire, cuts, 4096, False, reference(wire, 4096, False), page)


@pytest.mark.parametrize("length", [*range(18), 31, 32, 33, 63, 64, 65, 100])
def test_unmask_at_every_alignment_and_phase(length: int) -> None:
    payload = bytes(range(length))
    wire = frame(0x82, payload, b"\x81\x42\x24\x18")
    for shift in range(9):
        data = bytearray(bytes(shift) + wire)
        status, used, piece = ws.parse(bytearray(ws.STATE_SIZE), memoryview(data)[shift:], 4096, False)
        assert (status, used, piece) == (1, len(wire), (6, length, 2, True, True, False))
        assert data[shift + 6 :] == payload
    for cut in range(6, len(wire)):
        reader = fuzz_ws.Reader(4096, False)
        assert reader.feed(memoryview(bytearray(wire[:cut]))) == reader.feed(memoryview(bytearray(wire[cut:]))) == 0
        assert reader.told == [Told("binary", payload)]


def test_an_empty_read_takes_nothing() -> None:
    state = bytearray(ws.STATE_SIZE)
    assert ws.parse(state, bytearray(), 4096, False) == (0, 0, None)
    assert ws.idle(state)
    assert ws.STATE_SIZE <= 48


def test_pieces_of_one_read() -> None:
    wire = bytearray(frame(0x01, b"ab") + frame(0x89, b"p") + frame(0x80, b"c") + b"\x81")
    state, view, pieces = bytearray(ws.STATE_SIZE), memoryview(wire), []
    while (answer := ws.parse(state, view, 4096, False))[0]:
        pieces.append(answer[2])
        view = view[answer[1] :]
    assert pieces == [(6, 2, 1, True, False, False), (6, 1, 9, True, True, False), (6, 1, 1, False, True, False)]
    assert not ws.idle(state)


def test_a_limit_that_shrinks_inside_a_message() -> None:
    state = bytearray(ws.STATE_SIZE)
    ws.parse(state, bytearray(frame(0x01, b"Hello")), 4096, False)
    assert ws.parse(state, bytearray(frame(0x89, b"ping")), 3, False)[0] == 1
    assert ws.parse(state, bytearray(frame(0x80, b"")), 3, False)[0] == -1009


fragment = st.binary(max_size=300)
text = st.text(max_size=120).map(str.encode)
message = st.one_of(
    st.tuples(st.just(Opcode.TEXT), text, st.just(False)),
    st.tuples(st.just(Opcode.BINARY), fragment, st.just(False)),
    st.tuples(st.just(Opcode.TEXT), fragment, st.just(True)),
)
control = st.tuples(st.sampled_from((Opcode.PING, Opcode.PONG)), st.binary(max_size=125))


@given(st.lists(st.tuples(message, st.lists(control, max_size=2), st.integers(0, 5)), max_size=4), st.randoms())
@settings(max_examples=150, deadline=None)
def test_what_another_library_sends(messages: list, chance: random.Random) -> None:
    """Messages cut anywhere (inside characters too) by the encoder of `websockets`, control frames between."""
    wire, told = b"", []
    for (op, payload, deflated), controls, cuts in messages:
        edges = sorted([0, len(payload), *(chance.randint(0, len(payload)) for _ in range(cuts))])
        parts = [payload[a:b] for a, b in itertools.pairwise(edges)]
        for i, part in enumerate(parts):
            kind = Opcode.CONT if i else op
            last = i == len(parts) - 1
            sent = Frame(kind, part, fin=last).serialize(mask=True)
            wire += bytes((sent[0] | (0x40 if deflated and not i else 0),)) + sent[1:]
            if last:
                told.append(Told(op.name.lower(), payload, deflated))
            elif controls:
                ping, data = controls.pop()
                wire += Frame(ping, data).serialize(mask=True)
                told.append(Told(ping.name.lower(), data))
    want = Outcome(told, None, True)
    assert reference(wire, 4096, True) == want
    with guard(room=len(wire)) as page:
        check(wire, (), 4096, True, want, page)
        check(wire, range(1, len(wire)), 4096, True, want, page)
        for count in (1, 2, 5, 20):
            check(wire, sorted(chance.choices(range(len(wire) + 1), k=count)), 4096, True, want, page)


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_fuzz_target_on_chosen_input(data: bytes) -> None:
    fuzz_ws.one(data)


def test_fuzz_target_on_damaged_golden_files() -> None:
    chance = random.Random(6455)
    cases = [case for case in map(golden, GOLDEN) if len(case.wire) < 400]
    with guard(room=1000) as page:
        for case in cases * 12:
            wire = bytearray(case.wire + chance.choice(cases).wire)
            for _ in range(chance.randint(0, 3)):
                wire[chance.randrange(len(wire))] = chance.randrange(256)
            want = reference(bytes(wire), case.limit, case.deflate)
            check(bytes(wire), (), case.limit, case.deflate, want, page)
            check(bytes(wire), range(1, len(wire)), case.limit, case.deflate, want, page)


def test_fuzz_target_on_random_input() -> None:
    chance = random.Random(2026)
    for _ in range(3000):
        fuzz_ws.one(chance.randbytes(chance.choice((8, 40, 120, 300))))


# ---- what the server writes ----


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65535, 65536, 70_000])
@pytest.mark.parametrize("op", [Opcode.TEXT, Opcode.BINARY, Opcode.PING, Opcode.PONG])
def test_head_is_what_another_library_writes(op: Opcode, length: int) -> None:
    if op in (Opcode.PING, Opcode.PONG) and length > 125:
        return
    wire = Frame(op, bytes(length)).serialize(mask=False)
    head = wire[: len(wire) - length]
    assert ws.head(op, False, length) == head
    assert ws.head(op, True, length) == bytes((head[0] | 0x40,)) + head[1:]


def test_head_of_the_longest_frame() -> None:
    assert ws.head(2, False, 2**63 - 1) == b"\x82\x7f\x7f" + b"\xff" * 7


def test_close_frames() -> None:
    assert ws.close(0) == ws.close(1005, b"not sent") == b"\x88\x00"
    assert ws.close(1000) == b"\x88\x02\x03\xe8"
    assert ws.close(1013, b"try later") == b"\x88\x0b\x03\xf5try later"


@pytest.mark.parametrize("reason", [b"a" * 123, b"a" * 124, b"a" * 300])
def test_close_reason_is_cut(reason: bytes) -> None:
    wire = ws.close(1008, reason)
    assert wire == b"\x88\x7d\x03\xf0" + reason[:123]
    assert len(wire) == ws.CLOSE_MAX


@pytest.mark.parametrize("character", ["é", "€", "😀"])
@pytest.mark.parametrize("before", range(117, 124))
def test_close_reason_is_cut_between_characters(character: str, before: int) -> None:
    reason = "a" * before + character * 3
    sent = ws.close(1000, reason.encode())[4:]
    assert reason.startswith(sent.decode())
    assert 123 - len(character.encode()) < len(sent) <= 123


def wire_code(code: int) -> bool:
    return code in range(1000, 1004) or code in range(1007, 1015) or code in range(3000, 5000)


def test_close_code_of_every_number() -> None:
    for code in range(65536):
        assert ws.close_code(code.to_bytes(2, "big") + b"why") == (code if wire_code(code) else -1002)


def test_close_code_of_bad_payloads() -> None:
    assert ws.close_code(b"") == 1005
    assert ws.close_code(b"\x03") == -1002
    assert ws.close_code(b"\x03\xe8\xff") == -1007
    assert ws.close_code(b"\x03\xe8ok\xe2\x82") == -1007
    assert ws.close_code(b"\x03\xed\xff") == -1002  # the code is looked at first
    payload = b"\x03\xe8" + "schöne Grüße".encode()
    with guard(room=200) as page:
        for size in range(len(payload) + 1):
            want = -1002 if size == 1 else 1000 if size else 1005
            cut = payload[2:size].decode(errors="ignore").encode() != payload[2:size]
            assert ws.close_code(memory(page.place(payload[:size]))) == (-1007 if cut else want)


def test_what_we_close_with_is_what_they_read() -> None:
    for code in filter(wire_code, range(1000, 5000)):
        assert ws.close_code(ws.close(code, "à bientôt".encode())[2:]) == code
