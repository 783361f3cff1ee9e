"""The load client's checker is itself checked: what is right passes, and every flaw is counted under its name, alone.

A scripted server (fake_server.py) sends both. Each stream ends with something that the client counts (a ping, a
comment, an answer), so a test knows when all of it has been read.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.load import Load
from tests.bench.fake_server import (
    HELLO,
    PING,
    UPGRADED,
    FakeServer,
    batch,
    frame,
    frames,
    gap,
    score,
    unmask,
)
from tests.bench.watch import JOINED, flaws, stats_when, until, watch, watch_ws

RIGHT: dict[str, list[str]] = {
    "chat": [batch(341), batch(342), batch(343)],
    "both lanes": [batch(341), score(12), batch(342), score(13)],
    "must of each kind": ['{"t":"del","id":"m12","ids":["x"]}', score(13), '{"t":"state","id":"m14","mode":{}}'],
    "state on join": ['{"t":"state","mode":{}}', score(12), batch(341)],
    "gap": [batch(341), gap("c342", "c350"), batch(351)],
    "gap of one": [gap("c341", "c341"), batch(342)],
    "gap of must": [gap("m12", "m20"), score(21)],
    "two gaps": [gap("c341", "c350"), gap("c351", "c360"), batch(361)],
    "direct replies": [
        '{"t":"ack","ref":"a","id":"x","status":"published"}',
        '{"t":"reconnect","in_ms":5}',
        batch(341),
    ],
    "ids and braces inside a text": [batch(341, r"\"id\":\"c900\" {[}"), batch(342)],
    "other scripts": [batch(341, "ж—語🙂"), batch(342, "é")],
    "with spaces": ['{ "t":"batch", "id":"c341" }', batch(342)],
    "large": [batch(341, "x" * 200), batch(342, "y" * 70000), batch(343)],
}


@pytest.mark.parametrize("payloads", RIGHT.values(), ids=RIGHT.keys())
def test_right_streams_pass(payloads: list[str]) -> None:
    stats = watch_ws(*payloads)
    assert flaws(stats) == {}
    assert stats["frames"] == len(payloads) + 2


def test_what_is_right_is_counted() -> None:
    lanes = watch_ws(batch(341), gap("c342", "c350"), batch(351), score(12), '{"t":"ack"}', '{"t":"reconnect"}')
    assert (lanes["lanes"]["c"]["messages"], lanes["lanes"]["c"]["gaps"], lanes["lanes"]["c"]["gapped"]) == (2, 1, 9)
    assert (lanes["lanes"]["m"]["messages"], lanes["lanes"]["m"]["gaps"], lanes["lanes"]["m"]["gapped"]) == (1, 0, 0)
    assert (lanes["hellos"], lanes["acks"], lanes["hints"], lanes["pings"]) == (1, 1, 1, 1)


WRONG: list[tuple[str, list[str], dict[str, int]]] = [
    ("one missed", [batch(341), batch(343), batch(344)], {"missed": 1}),
    ("first missed", [batch(342)], {"missed": 1}),
    ("a hundred missed", [batch(341), batch(442), batch(443)], {"missed": 100}),
    ("must missed", [score(12), batch(341), score(14)], {"missed": 1}),
    ("twice", [batch(341), batch(341), batch(342)], {"repeated": 1}),
    ("must twice", [score(12), score(12)], {"repeated": 1}),
    ("what hello had", [batch(340), batch(341)], {"repeated": 1}),
    ("older than hello", [batch(339), batch(341)], {"repeated": 1, "out_of_order": 1}),
    ("an old one again", [batch(341), batch(342), batch(341), batch(343)], {"repeated": 1, "out_of_order": 1}),
    ("swapped", [batch(342), batch(341), batch(343)], {"missed": 1, "out_of_order": 1}),
    ("late, and again", [batch(342), batch(341), batch(341)], {"missed": 1, "out_of_order": 2, "repeated": 1}),
    ("late by 63", [batch(404), batch(341)], {"missed": 63, "out_of_order": 1}),
    ("late beyond memory", [batch(405), batch(341)], {"missed": 64, "out_of_order": 1, "repeated": 1}),
    ("gap begins late", [gap("c342", "c350"), batch(351)], {"bad_gap": 1}),
    ("gap begins early", [batch(341), gap("c341", "c350"), batch(351)], {"bad_gap": 1}),
    ("gap ends before it begins", [gap("c341", "c340"), batch(341)], {"bad_gap": 1}),
    ("gap of what has come", [batch(341), batch(342), gap("c341", "c342"), batch(343)], {"bad_gap": 1}),
    ("gap across lanes", [gap("c341", "m12"), batch(341), score(12)], {"bad_gap": 1}),
    ("gap across lanes, upwards", [gap("c341", "m350"), batch(341), score(12)], {"bad_gap": 1}),
    ("gap on the other lane", [gap("m341", "m350")], {"bad_gap": 1}),
    ("gap too short", [gap("c341", "c345"), batch(348)], {"missed": 2}),
    ("gap too long", [gap("c341", "c350"), batch(346), batch(351)], {"out_of_order": 1}),
    ("gap too long by one", [gap("c341", "c350"), batch(350), batch(351)], {"out_of_order": 1}),
    ("gap twice", [gap("c341", "c350"), gap("c341", "c350"), batch(351)], {"bad_gap": 1}),
    ("gap with a bad id", [gap("c341", "350"), batch(341)], {"bad_id": 1}),
    ("gap without an end", ['{"t":"gap","from":"c341"}', batch(341)], {"bad_id": 1}),
    ("lanes mixed up", ['{"t":"batch","id":"m12"}', '{"t":"score","id":"c341"}'], {"bad_id": 2}),
    ("hello twice", [HELLO, batch(341)], {"bad_hello": 1}),
    ("not an object", ["[1]", '"t"', "17", "", 'x"t":"batch","id":"c9"}', batch(341)], {"bad_payload": 5}),
    ("no type", ['{"id":"c341","x":1}', batch(341)], {"bad_payload": 1}),
    ("type too deep", ['{"e":{"t":"batch"},"id":"c341"}', batch(341)], {"bad_payload": 1}),
    ("cut short", [batch(341)[:-1], batch(341)], {"bad_payload": 1}),
    ("two at once", [batch(341) + ",", batch(341)], {"bad_payload": 1}),
]


@pytest.mark.parametrize("payloads, expected", [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_each_flaw_has_its_own_name(payloads: list[str], expected: dict[str, int]) -> None:
    assert flaws(watch_ws(*payloads)) == expected


BAD_IDS = [
    '"c0"',
    '"c01"',
    '"c-1"',
    '"c+1"',
    '"c"',
    '"341"',
    '"x341"',
    '"C341"',
    '"c341x"',
    '"c3 41"',
    '"c18446744073709551616"',
    f'"c{2**64 + 341}"',
]


@pytest.mark.parametrize("text", [f'{{"t":"batch","id":{bad}}}' for bad in [*BAD_IDS, "341", "null", '"c341']] + [
    '{"t":"batch"}', '{"t":"batch","ts":1,"m":[{"id":"c341"}]}', '{"t":"state","id":14}', '{"t":"score","id":"m012"}'
])  # fmt: skip
def test_invalid_ids(text: str) -> None:
    assert flaws(watch_ws(text, batch(341), score(12))) == {"bad_id": 1}


@pytest.mark.parametrize(
    "since", ["", "i3", "i3.m11", "m11.c340", "i3.c340.m11", "i3.m11.c340.", "i3.m011.c340", "i3.m11.c-1"]
)
def test_malformed_hello(since: str) -> None:
    stats = watch_ws(batch(7), batch(8), hello=f'{{"t":"hello","since":"{since}"}}')
    assert flaws(stats) == {"bad_hello": 1}


def test_position_before_hello() -> None:
    assert flaws(watch(UPGRADED + frames([batch(340), HELLO, batch(341)]) + PING)) == {"no_hello": 1}


def test_largest_position() -> None:
    top = 2**64 - 1
    assert flaws(watch_ws(batch(top), hello=f'{{"t":"hello","since":"i0.m0.c{top - 1}"}}')) == {}


@pytest.mark.parametrize(
    "text", [b"\xff", b"\xc0\xaf", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80"]
)
def test_not_utf8(text: bytes) -> None:
    wrong = batch(341, "12345678?").encode().replace(b"?", text)
    assert flaws(watch(JOINED + frame(wrong) + frame(batch(341)) + PING)) == {"bad_utf8": 1}


def test_text_that_ends_inside_a_character() -> None:
    """The header of the next frame would go on with it."""
    assert flaws(watch(JOINED + frame(b'{"t":"x"\xe2\x81') + frame(batch(341)) + PING)) == {"bad_utf8": 1}


class Model:
    """The rules once more, written from the sets of what came and what was passed over."""

    def __init__(self) -> None:
        self.last, self.passed = 1000, set[int]()
        self.counts = dict.fromkeys(("missed", "repeated", "out_of_order", "bad_gap"), 0)

    def message(self, number: int) -> None:
        if number > self.last:
            self.counts["missed"] += number - self.last - 1
            self.passed |= set(range(self.last + 1, number))
            self.last = number
            return
        late = number in self.passed and self.last - number < 64
        self.counts["out_of_order"] += late or number < self.last
        self.counts["repeated"] += not late
        self.passed.discard(number)

    def gap(self, start: int, end: int) -> None:
        self.counts["bad_gap"] += start != self.last + 1 or end < start
        if end > self.last:
            self.passed |= set(range(self.last + 1, end + 1))
            self.last = end


STEP = st.one_of(st.just(1), st.integers(-70, 70), st.integers(-4, 4))
ACTS = st.lists(st.tuples(st.sampled_from("mc"), STEP, st.none() | st.integers(-3, 5)), max_size=40)


@settings(max_examples=60, deadline=None)
@given(st.lists(ACTS, min_size=1, max_size=8))
def test_lanes_agree_with_a_model(scripts: list[list[tuple[str, int, int | None]]]) -> None:
    """Every socket has a stream of its own, of steps and gaps that are right or wrong; the sums must be the model's."""
    streams, models = [], []
    for script in scripts:
        lanes = {"m": Model(), "c": Model()}
        payloads = ['{"t":"hello","since":"i1.m1000.c1000"}']
        for lane, step, size in script:
            model = lanes[lane]
            number = max(1, model.last + step)
            if size is None:
                payloads.append(score(number) if lane == "m" else batch(number))
                model.message(number)
            else:
                payloads.append(gap(f"{lane}{number}", f"{lane}{max(1, number + size)}"))
                model.gap(number, max(1, number + size))
        streams.append(UPGRADED + frames(payloads) + PING)
        models.append(lanes)
    server = FakeServer(lambda head: streams[int(head.split("room-")[1].split("/")[0])])
    with server, Load(server.port, len(streams), rooms=len(streams)) as load:
        load.ready(10)
        stats = stats_when(load, lambda s: s["pings"] == len(streams))
        positions = load.positions()
    for lane in "mc":
        for name in ("missed", "repeated", "out_of_order", "bad_gap"):
            assert stats["lanes"][lane][name] == sum(model[lane].counts[name] for model in models), (lane, name)
        assert positions[lane]["min"] == min(model[lane].last for model in models)
        assert positions[lane]["max"] == max(model[lane].last for model in models)


# ---- WebSocket frames ----

BAD_FRAMES = {
    "reserved bit": frame(batch(341), 0xC1),
    "reserved opcode": frame(batch(341), 0x83),
    "reserved control": frame("", 0x8B),
    "ping in pieces": b"\x09\x00",
    "long ping": frame("x" * 126, 0x89),
    "length not shortest": b"\x81\x7e\x00\x05" + b"{    ",
    "length far from shortest": b"\x81\x7f" + (200).to_bytes(8, "big") + b" " * 200,
    "too long": b"\x81\x7f" + (2**40).to_bytes(8, "big"),
    "length with its top bit": b"\x81\x7f\x80" + b"\x00" * 7,
    "continuation of nothing": frame("x", 0x80),
    "a message inside another": frame("{", 0x01) + frame(batch(341)),
    "close of one byte": b"\x88\x01\x03",
    "close with a reserved code": frame((1005).to_bytes(2, "big"), 0x88),
    "close with no such code": frame((999).to_bytes(2, "big"), 0x88),
    "close with bad text": frame((1000).to_bytes(2, "big") + b"\xff", 0x88),
}


@pytest.mark.parametrize("bad", BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
def test_corrupt_frames(bad: bytes) -> None:
    """What follows is right, so that nothing but the flaw itself can be what is counted."""
    stats = watch(JOINED + bad + PING)
    assert flaws(stats) == {"bad_frame": 1}
    assert (stats["closes"], stats["pings"]) == ({"protocol": 1}, 0)


def test_a_frame_cut_off_by_another() -> None:
    """What a half-sent frame does to a stream: the next ones are swallowed as text, until something is no header."""
    found = flaws(watch(JOINED + frame(batch(341))[:9] + frame(batch(342)) * 9))
    assert found.keys() <= {"bad_payload", "bad_utf8", "bad_frame", "masked_frame"}
    assert found.get("bad_frame", 0) + found.get("masked_frame", 0) == 1


@pytest.mark.parametrize("first", [0x81, 0x89, 0x88])
def test_masked_frame(first: int) -> None:
    stats = watch(JOINED + bytes([first, 0x82]) + b"\0\0\0\0\x03\xe8" + PING)
    assert flaws(stats) == {"masked_frame": 1}
    assert stats["closes"] == {"protocol": 1}


def test_corrupt_before_hello_is_a_failure() -> None:
    stats = watch(UPGRADED + b"\xff\x00")
    assert flaws(stats) == {"bad_frame": 1}
    assert stats["failures"] == {"join:protocol": 1}


def test_binary_message() -> None:
    assert flaws(watch(JOINED + frame(b"\x81", 0x82) + frame(batch(341)) + PING)) == {"bad_payload": 1}


def test_message_in_pieces_with_a_ping_between() -> None:
    text = batch(341, "x" * 300)
    pieces = frame(text[:1], 0x01) + PING + frame("", 0x00) + frame(text[1:200], 0x00) + frame(text[200:], 0x80)
    with FakeServer(JOINED + pieces + frame(batch(342)) + PING) as server, Load(server.port) as load:
        load.ready(10)
        stats = stats_when(load, lambda s: s["pings"] == 2)
    assert flaws(stats) == {}
    assert stats["lanes"]["c"]["messages"] == 2


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1009, 1012, 1013, 4000])
def test_close_codes(code: int) -> None:
    with FakeServer(JOINED) as server, Load(server.port, 3) as load:
        load.ready(10)
        server.send(frame(code.to_bytes(2, "big") + b"why", 0x88))
        stats = stats_when(load, lambda s: s["closed"] == 3)
        assert (stats["closes"], stats["open"], flaws(stats)) == ({str(code): 3}, 0, {})
        until(lambda: all(viewer.lost for viewer in server.viewers))
        assert [unmask(viewer.received) for viewer in server.viewers] == [[(0x88, code.to_bytes(2, "big"))]] * 3


def test_ends_without_a_close_frame() -> None:
    for end, name in ((b"", "eof"), (frame(batch(341))[:20], "eof_inside"), (b"\x88\x00", "1005")):
        with FakeServer(JOINED) as server, Load(server.port) as load:
            load.ready(10)
            server.send(end)
            server.hang_up()
            stats = stats_when(load, lambda s: s["closed"] == 1)
        assert (stats["closes"], flaws(stats)) == ({name: 1}, {})


def test_reset_by_the_server() -> None:
    with FakeServer(JOINED) as server, Load(server.port) as load:
        load.ready(10)
        load.send("unread by a paused server")
        server.call(lambda: server.viewers[0].transport.get_extra_info("socket").setsockopt(1, 13, b"\1\0\0\0\0\0\0\0"))
        server.reset()
        assert stats_when(load, lambda s: s["closed"] == 1)["closes"] == {"reset": 1}


def test_pings_are_answered_with_masked_pongs() -> None:
    with FakeServer(JOINED + PING + frame("abc", 0x89) + frame("z" * 125, 0x89)) as server, Load(server.port) as load:
        load.ready(10)
        stats = stats_when(load, lambda s: s["pings"] == 3)
        assert (stats["pongs"], stats["pongs_failed"]) == (3, 0)
        until(lambda: len(server.viewers[0].received) >= 6 * 3 + 3 + 125)
        assert unmask(server.viewers[0].received) == [(0x8A, b""), (0x8A, b"abc"), (0x8A, b"z" * 125)]
