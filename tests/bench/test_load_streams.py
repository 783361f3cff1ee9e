"""The load client's streams: cut at every byte, as SSE, as long poll; right ones pass, each flaw has its name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bench.load import Answer, Load
from tests.bench.fake_server import (
    HELLO,
    PING,
    STREAM,
    UPGRADED,
    FakeServer,
    Last,
    batch,
    event,
    frame,
    frames,
    gap,
    http,
    poll_body,
    score,
)
from tests.bench.watch import END, JOINED, flaws, stats_when, until, watch_sse

# ---- split at every byte ----

WS_STREAM = JOINED + frames([batch(341), score(12), batch(342, "é🙂" * 30)]) + frame(batch(343)[:9], 0x01) + PING + (
    frame(batch(343)[9:], 0x80) + frames([gap("c344", "c350"), batch(351)]) + frame("bye", 0x89)
)  # fmt: skip
SSE_STREAM = STREAM + b"".join([
    b"retry: 3000\n\n", event("i3.m11.c340", HELLO), event("i3.m11.c341", batch(341, "é🙂")),
    event("i3.m12.c341", score(12)), b":\n\n", event("i3.m12.c350", gap("c342", "c350")),
    event("i3.m12.c351", batch(351)), END,
])  # fmt: skip


def splits(stream: bytes, mode: str) -> tuple[Answer, int]:
    """Socket i reads i + 1 bytes at a time, so that every byte of the stream is where some socket's first read ends."""
    with FakeServer(stream) as server, Load(server.port, len(stream), mode, split=True) as load:
        load.ready(30)
        stats = stats_when(load, lambda s: s["pings"] + s["heartbeats"] == 2 * len(stream), 30)
        assert load.positions()["c"] == {"min": 351, "max": 351}
        return stats, len(stream)


def test_websocket_split_at_every_byte() -> None:
    stats, sockets = splits(WS_STREAM, "ws")
    assert (flaws(stats), stats["failed"], stats["closed"]) == ({}, 0, 0)
    assert (stats["lanes"]["c"]["messages"], stats["lanes"]["m"]["messages"]) == (4 * sockets, sockets)
    assert stats["bytes"] == len(WS_STREAM) * sockets


def test_sse_split_at_every_byte() -> None:
    stats, sockets = splits(SSE_STREAM, "sse")
    assert (flaws(stats), stats["failed"], stats["closed"]) == ({}, 0, 0)
    assert (stats["lanes"]["c"]["messages"], stats["lanes"]["m"]["messages"]) == (2 * sockets, sockets)


def test_flaws_are_found_at_every_split_too() -> None:
    stream = (
        UPGRADED + frames([HELLO, batch(342), batch(342), gap("c344", "c350"), '{"t":"batch","id":"c0"}']) + b"\x81\x80"
    )
    with FakeServer(stream) as server, Load(server.port, len(stream), split=True) as load:
        load.ready(30)
        stats = stats_when(load, lambda s: s["closed"] == len(stream), 30)
    assert flaws(stats) == dict.fromkeys(("missed", "repeated", "bad_gap", "bad_id", "masked_frame"), len(stream))


# ---- SSE ----


def test_sse_right() -> None:
    stats = watch_sse(
        event("i3.m11.c341", batch(341)), event("i3.m12.c341", score(12)), event("i3.m12.c350", gap("c342", "c350")),
        event("i3.m12.c351", batch(351)).replace(b"\n", b"\r\n"), b"retry: 500\n\n",
        event("i3.m12.c351", '{"t":"reconnect"}'),
    )  # fmt: skip
    assert flaws(stats) == {}
    assert (stats["hints"], stats["lanes"]["c"]["messages"], stats["lanes"]["m"]["messages"]) == (2, 2, 1)


SSE_WRONG: list[tuple[str, Sequence[bytes], dict[str, int]]] = [
    ("missed", [event("i3.m11.c342", batch(342))], {"missed": 1}),
    ("repeated", [event("i3.m11.c341", batch(341))] * 2, {"repeated": 1}),
    ("swapped", [event("i3.m11.c342", batch(342)), event("i3.m11.c341", batch(341))], {"missed": 1, "out_of_order": 1}),
    ("wrong gap", [event("i3.m11.c350", gap("c342", "c350"))], {"bad_gap": 1}),
    ("vector behind", [event("i3.m11.c340", batch(341))], {"bad_vector": 1}),
    ("vector ahead", [event("i3.m11.c342", batch(341))], {"bad_vector": 1}),
    ("vector's other lane", [event("i3.m12.c341", batch(341))], {"bad_vector": 1}),
    ("vector of a gap", [event("i3.m11.c349", gap("c341", "c350"))], {"bad_vector": 1}),
    ("other incarnation", [event("i4.m11.c341", batch(341))], {"bad_vector": 1}),
    ("malformed vector", [event("i3.m11.c341x", batch(341))], {"bad_vector": 1}),
    ("bare id", [event("c341", batch(341))], {"bad_vector": 1}),
    ("no id", [event("i", batch(341)).split(b"\n", 1)[1]], {"bad_vector": 1}),
    ("wrong name", [event("i3.m11.c341", batch(341), "score")], {"bad_event": 1}),
    ("longer name", [event("i3.m11.c341", batch(341), "batch2")], {"bad_event": 1}),
    ("two names", [b"event: batch\n" + event("i3.m11.c341", batch(341))], {"bad_event": 1}),
    ("two data", [b"data: x\n" + event("i3.m11.c341", batch(341))], {"bad_event": 1}),
    ("no name", [b"id: i3.m11.c341\ndata: " + batch(341).encode() + b"\n\n"], {"bad_event": 1}),
    ("unknown field", [b"what: x\n" + event("i3.m11.c341", batch(341))], {"bad_event": 1}),
    ("two ids", [b"id: i3.m11.c341\n" + event("i3.m11.c341", batch(341))], {"bad_event": 1}),
    ("no data", [b"id: i3.m11.c341\nevent: batch\n\n", event("i3.m11.c341", batch(341))], {"bad_event": 1}),
    ("not json", [event("i3.m11.c341", "nonsense", "batch")], {"bad_payload": 1}),
    ("bad id", [event("i3.m11.c341", '{"t":"batch","id":"c0"}')], {"bad_id": 1}),
]


@pytest.mark.parametrize("events, expected", [case[1:] for case in SSE_WRONG], ids=[case[0] for case in SSE_WRONG])
def test_sse_flaws(events: Sequence[bytes], expected: dict[str, int]) -> None:
    assert flaws(watch_sse(*events)) == expected


# ---- long poll ----


class Poll:
    """Answers each question with the next of its bodies; when they are all gone, it stays silent."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)

    def __call__(self, head: str) -> bytes:
        return self.answers.pop(0) if self.answers else b""


def ok(vector: str, *payloads: str, headers: str = "", poll_ms: int = 0) -> bytes:
    return http("200 OK", poll_body(vector, payloads, poll_ms), headers)


def watch_poll(*answers: bytes, **flags: Any) -> tuple[Answer, list[str]]:
    with FakeServer(Poll(*answers)) as server, Load(server.port, mode="poll", **flags) as load:
        load.ready(10)
        stats = stats_when(load, lambda s: s["answers"] == len(answers) or s["closed"] == 1)
        until(lambda: stats["closed"] or len(server.heads) > len(answers))
        return stats, [head.split(" ")[1] for head in server.heads]


@pytest.mark.parametrize("headers", ["", "Connection: close\r\n"])
def test_poll_right(headers: str) -> None:
    answers = [
        ok("i3.m11.c341", batch(341, r"]}\"{ "), headers=headers),
        http("204 No Content", headers=headers),
        ok("i3.m12.c343", batch(342), score(12), batch(343), headers=headers, poll_ms=20),
        ok("i3.m12.c343", headers=headers),
        ok("i3.m12.c350", gap("c344", "c350"), headers=headers),
    ]
    if headers:
        answers = [Last(answer) for answer in answers]
    stats, urls = watch_poll(*answers)
    assert (flaws(stats), stats["closed"], stats["failed"], stats["connected"]) == ({}, 0, 0, 1)
    assert stats["lanes"]["c"]["messages"] == 3
    since = ["", "i3.m11.c341", "i3.m11.c341", "i3.m12.c343", "i3.m12.c343", "i3.m12.c350"]
    assert urls == ["/v1/rooms/bench/poll?last=0" + (f"&since={vector}" if vector else "") for vector in since]


def test_poll_server_hangs_up_between_answers() -> None:
    stats, urls = watch_poll(Last(ok("i3.m11.c341", batch(341), poll_ms=50)), ok("i3.m11.c342", batch(342)))
    assert (flaws(stats), stats["closed"], len(urls)) == ({}, 0, 3)


@pytest.mark.parametrize("second, expected", [
    (ok("i3.m11.c343", batch(343)), {"missed": 1}),
    (ok("i3.m11.c341", batch(341)), {"repeated": 1}),
    (ok("i3.m11.c343", batch(343), batch(342)), {"missed": 1, "out_of_order": 1}),
    (ok("i3.m11.c350", gap("c343", "c350")), {"bad_gap": 1}),
    (ok("i3.m11.c343", batch(342)), {"bad_vector": 1}),
    (ok("i3.m12.c342", batch(342)), {"bad_vector": 1}),
    (ok("i4.m11.c342", batch(342)), {"bad_vector": 1}),
    (ok("nonsense", batch(342)), {"bad_vector": 1}),
    (http("200 OK", "{}"), {"bad_payload": 1}),
    (http("200 OK", ""), {"bad_payload": 1}),
    (http("200 OK", poll_body("i3.m11.c342", [batch(342) + "x"])), {"bad_payload": 1}),
    (http("200 OK", poll_body("i3.m11.c341", ['{"id":"c342"}'])), {"bad_payload": 1}),
])  # fmt: skip
def test_poll_flaws(second: bytes, expected: dict[str, int]) -> None:
    stats, _ = watch_poll(ok("i3.m11.c341", batch(341)), second)
    assert flaws(stats) == expected


def test_poll_answer_split_at_every_byte() -> None:
    answer = ok("i3.m12.c342", batch(341, r"\\\"é"), score(12), batch(342), poll_ms=60000)
    with FakeServer(answer) as server, Load(server.port, len(answer), "poll", split=True) as load:
        load.ready(30)
        stats = stats_when(load, lambda s: s["answers"] == len(answer), 30)
        assert load.positions()["m"] == {"min": 12, "max": 12}
    assert flaws(stats) == {}
    assert stats["lanes"]["c"]["messages"] == 2 * len(answer)


@pytest.mark.parametrize("answer, cause", [
    (http("503 No", "{}"), "503"),
    (b"HTTP/1.1 200 OK\r\n\r\n", "no_length"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "chunked"),
    (http("204 No Content") + b"x", "surplus"),
])  # fmt: skip
def test_poll_answers_that_end_it(answer: bytes, cause: str) -> None:
    stats, _ = watch_poll(ok("i3.m11.c341", batch(341)), answer)
    assert (stats["closes"], flaws(stats)) == ({cause: 1}, {})
