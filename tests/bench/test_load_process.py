"""The load client as a process: who joins and who fails, resuming, waiting, stalling, figures, its own end."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from bench.load import Load, LoadError, build
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
    free_port,
    http,
    score,
    unmask,
)
from tests.bench.watch import JOINED, flaws, stats_when, until

# ---- joining ----


@pytest.mark.parametrize("answer, mode, cause", [
    (http("503 Service Unavailable", "{}"), "ws", "http:503"),
    (http("200 OK"), "ws", "http:200"),
    (UPGRADED.replace(b"s3pP", b"S3pP"), "ws", "upgrade:bad_accept"),
    (UPGRADED.replace(b"Upgrade: websocket", b"Upgrade: h2c"), "ws", "upgrade:no_upgrade"),
    (UPGRADED.replace(b"Connection", b"Sec-WebSocket-Extensions: x\r\nConnection"), "ws", "upgrade:extension"),
    (b"SSH-2.0-OpenSSH\r\n", "ws", "upgrade:not_http"),
    (b"HTTP/1.1 101 S\r\n" + b"X: y\r\n" * 4000, "ws", "upgrade:not_http"),
    (Last(b""), "ws", "head:eof"),
    (Last(UPGRADED[:40]), "ws", "head:eof_inside"),
    (Last(UPGRADED), "ws", "join:eof"),
    (UPGRADED, "ws", "join:timeout"),
    (b"", "ws", "join:timeout"),
    (UPGRADED + frame((1013).to_bytes(2, "big"), 0x88), "ws", "join:1013"),
    (STREAM.replace(b"event-stream", b"html"), "sse", "upgrade:content_type"),
    (STREAM.replace(b"Cache-Control", b"Transfer-Encoding: chunked\r\nX"), "sse", "upgrade:not_a_stream"),
    (Last(STREAM), "sse", "join:eof"),
    (http("429 Too Many"), "sse", "http:429"),
    (http("503 No"), "poll", "http:503"),
    (Last(b""), "poll", "join:eof"),
])  # fmt: skip
def test_failures_by_cause(answer: bytes, mode: str, cause: str) -> None:
    timeout_s = 0.3 if cause == "join:timeout" else 10
    with FakeServer(answer) as server, Load(server.port, 5, mode, timeout=timeout_s) as load:
        ready = load.ready(10)
        assert (ready["connected"], ready["failed"], ready["failures"]) == (0, 5, {cause: 5})
        stats = load.stats()
        assert (stats["failed"], stats["failures"], stats["open"], flaws(stats)) == (5, {cause: 5}, 0, {})


def test_nobody_listens() -> None:
    with Load(free_port(), 3) as load:
        assert load.ready(10)["failures"] == {"connect:ECONNREFUSED": 3}


def test_request() -> None:
    with FakeServer(JOINED) as server:
        with Load(
            server.port, 4, rooms=2, query="user=uINDEX", token="abc", index_base=10, since="i3.m11.c340"
        ) as load:
            assert load.ready(10)["connected"] == 4
        urls = [head.split(" ")[1] for head in server.heads]
        tail = "token=abc&since=i3.m11.c340"
        assert urls == [f"/v1/rooms/room-{i % 2}/ws?last=0&user=u{10 + i}&{tail}" for i in range(4)]
        assert "\r\nSec-WebSocket-Protocol: edge.v1.json" in server.heads[0]
        assert "\r\nSec-WebSocket-Version: 13" in server.heads[0]


def test_tokens_and_paths(tmp_path: Any) -> None:
    (tmp_path / "tokens").write_text("one\ntwo\n")
    with FakeServer(JOINED) as server:
        with Load(
            server.port, 3, path="/x/ROOM/INDEX/RI", room="final", tokens=tmp_path / "tokens", subprotocol=""
        ) as load:
            assert load.ready(10)["connected"] == 3
        assert [head.split(" ")[1] for head in server.heads] == [
            f"/x/final/{i}/RI?token={t}" for i, t in enumerate(["one", "two", "one"])
        ]
        assert "Protocol" not in server.heads[0]


def test_source_addresses() -> None:
    with FakeServer(JOINED) as server, Load(server.port, 6, sources=3) as load:
        assert load.ready(10)["connected"] == 6
        assert sorted({viewer.peer for viewer in server.viewers}) == ["127.0.0.2", "127.0.0.3", "127.0.0.4"]


def test_without_hello() -> None:
    with FakeServer(UPGRADED) as server, Load(server.port, 2, hello="no") as load:
        assert load.ready(10)["connected"] == 2
        server.send(frames([batch(77), batch(78), score(5), batch(80)]) + PING)
        assert flaws(stats_when(load, lambda s: s["pings"] == 2)) == {"missed": 2}


def test_ramp_bounds_what_is_outstanding() -> None:
    with FakeServer(b"") as server, Load(server.port, 10, ramp=7, timeout=1) as load:
        assert load.ready(10)["failed"] == 10
        until(lambda: len(server.heads) == 10)
        assert server.most_asking == 7


# ---- resume ----


def resuming(head: str) -> bytes:
    """Tells everybody who brings a vector that it is right, and goes on from there by one batch."""
    url = head.split(" ")[1]
    vector = url.split("since=")[1] if "since=" in url else ""
    vector = vector or next((line[15:] for line in head.split("\r\n") if line.startswith("Last-Event-ID: ")), "")
    at = vector or "i3.m11.c340"
    position = int(at.split(".c")[1])
    hello = f'{{"t":"hello","since":"{at}","resumed":{"true" if vector else "false"}}}'
    if "/sse" in url:
        return STREAM + event(at, hello) + event(f"{at.split('.c')[0]}.c{position + 1}", batch(position + 1))
    return UPGRADED + frames([hello, batch(position + 1)])


@pytest.mark.parametrize("mode", ["ws", "sse"])
def test_drop_resumes_where_it_was(mode: str) -> None:
    with FakeServer(resuming) as server, Load(server.port, 10, mode) as load:
        load.ready(10)
        assert load.wait("c", 341, 5)["ok"]
        for messages in (16, 22):
            answer = load.drop(6)
            assert (answer["reconnected"], answer["failed"]) == (6, 0)
            assert load.wait("c", 341, 5)["ok"]
            stats = stats_when(load, lambda s: s["lanes"]["c"]["messages"] == messages)  # noqa: B023
            assert (flaws(stats), stats["closed"]) == ({}, 0)
            assert stats["resumed"] == stats["dropped"] == messages - 10
        assert load.positions()["c"] == {"min": 341, "max": 343}
        last = server.heads[-1]
        assert ("Last-Event-ID: i3.m11.c342" if mode == "sse" else "since=i3.m11.c342") in last


@pytest.mark.parametrize("other", ["i4.m11.c341", "i3.m12.c341", "i3.m10.c341", "i3.m11.c340", "i3.m11.c342"])
def test_resume_that_is_answered_with_another_position(other: str) -> None:
    def script(head: str) -> bytes:
        if "since=" not in head:
            return JOINED + frame(batch(341))
        return (
            UPGRADED + frame(f'{{"t":"hello","since":"{other}"}}') + frame(batch(int(other.split(".c")[1]) + 1)) + PING
        )

    with FakeServer(script) as server, Load(server.port) as load:
        load.ready(10)
        assert load.wait("c", 341, 5)["ok"]
        load.drop(1)
        stats = stats_when(load, lambda s: s["pings"] == 1)
        assert (flaws(stats), stats["resumed"]) == ({"bad_resume": 1}, 0)


def test_lost_across_a_resume_is_missed() -> None:
    """The hello repeats the vector, but the replay begins one too late, or one too early."""
    for first, expected in ((343, {"missed": 1}), (341, {"repeated": 1})):

        def script(head: str, first: int = first) -> bytes:
            if "since=" not in head:
                return JOINED + frame(batch(341))
            return UPGRADED + frames(['{"t":"hello","since":"i3.m11.c341"}', batch(first)]) + PING

        with FakeServer(script) as server, Load(server.port) as load:
            load.ready(10)
            assert load.wait("c", 341, 5)["ok"]
            load.drop(1)
            assert flaws(stats_when(load, lambda s: s["pings"] == 1)) == expected


def test_since_from_the_start() -> None:
    with FakeServer(resuming) as server, Load(server.port, 2, since="i9.m5.c70") as load:
        load.ready(10)
        assert load.wait("c", 71, 5)["ok"]
        assert (flaws(load.stats()), load.stats()["resumed"]) == ({}, 2)
    with FakeServer(JOINED + PING) as server, Load(server.port, 2, since="i9.m5.c70") as load:
        load.ready(10)
        assert flaws(stats_when(load, lambda s: s["pings"] == 2)) == {"bad_resume": 2}


def test_reopen_brings_back_what_the_server_closed() -> None:
    with FakeServer(resuming) as server, Load(server.port, 5) as load:
        load.ready(10)
        assert load.wait("c", 341, 5)["ok"]
        server.send(frame((1012).to_bytes(2, "big"), 0x88))
        stats_when(load, lambda s: s["closed"] == 5)
        assert load.reopen()["reconnected"] == 5
        assert load.wait("c", 342, 5)["ok"]
        stats = load.stats()
        assert (flaws(stats), stats["resumed"], stats["open"]) == ({}, 5, 5)


def test_half_a_frame_before_a_drop_is_forgotten() -> None:
    with FakeServer(resuming) as server, Load(server.port) as load:
        load.ready(10)
        assert load.wait("c", 341, 5)["ok"]
        half = frame(batch(342))[:30]
        before = load.stats()["bytes"]
        server.send(half)
        stats_when(load, lambda s: s["bytes"] == before + len(half))
        load.drop(1)
        assert load.wait("c", 342, 5)["ok"]
        assert flaws(load.stats()) == {}


# ---- waiting, stalling, counting ----


def test_wait() -> None:
    with FakeServer(JOINED) as server, Load(server.port, 20) as load:
        load.ready(10)
        early = load.wait("c", 341, 0.05)
        assert (early["ok"], early["behind"], early["lost"]) == (False, 20, 0)
        assert 0.04 < early["seconds"] < 5
        assert load.wait("m", 11, 5)["ok"]
        load.ask("wait c 342 5")
        server.send(frames([batch(341), batch(342)]))
        assert load.answer("wait", 6)["ok"]
        server.send(frame(batch(343)), slice(1))
        assert load.wait("c", 343, 0.05)["behind"] == 19
        assert load.positions()["c"] == {"min": 342, "max": 343}


def test_a_lost_socket_is_behind() -> None:
    """No wait may come true because the ones that would have failed it are gone."""
    with FakeServer(JOINED) as server, Load(server.port, 3) as load:
        load.ready(10)
        load.ask("wait c 341 30")
        server.call(server.viewers[0].transport.close)
        server.send(frame(batch(341)), slice(1, None))
        answer = load.answer("wait", 10)
        assert (answer["ok"], answer["behind"], answer["lost"]) == (False, 1, 1)
        assert load.positions()["sockets"] == 2


def test_commands_are_answered_in_order() -> None:
    with FakeServer(JOINED) as server, Load(server.port) as load:
        for line in ("wait c 341 0.01", "stats", "nonsense", "wait x 1 1", "reset", "positions"):
            load.ask(line)
        load.ready(10)
        for event_name in ("wait", "stats", "error", "error", "reset", "positions"):
            load.answer(event_name, 10)


def test_reset_zeroes_counters_and_keeps_positions() -> None:
    with FakeServer(JOINED + frame(batch(345))) as server, Load(server.port) as load:
        load.ready(10)
        assert load.wait("c", 345, 5)["ok"]
        assert flaws(load.stats()) == {"missed": 4}
        load.reset()
        stats = load.stats()
        assert (flaws(stats), stats["frames"], stats["bytes"], stats["connected"], stats["open"]) == ({}, 0, 0, 0, 1)
        server.send(frame(batch(346)))
        assert load.wait("c", 346, 5)["ok"]
        assert flaws(load.stats()) == {}


def test_stalled_viewers_do_not_read() -> None:
    with FakeServer(JOINED) as server, Load(server.port, 6, stall=2) as load:
        assert load.ready(10)["connected"] == 6
        assert load.stats()["stalled"] == 2
        for number in range(341, 401):
            server.send(frame(batch(number, "x" * 100000)))
        assert load.wait("c", 400, 20)["ok"]
        assert load.positions() == {
            "ev": "positions",
            "sockets": 4,
            "m": {"min": 11, "max": 11},
            "c": {"min": 400, "max": 400},
        }
        assert load.stats()["lanes"]["c"]["messages"] == 4 * 60
        assert server.unsent() > 2 * 2_000_000
        assert load.unstall()["resumed"] == 2
        assert load.wait("c", 400, 20)["ok"]
        stats = load.stats()
        assert (flaws(stats), stats["lanes"]["c"]["messages"], stats["stalled"]) == ({}, 6 * 60, 0)


def test_stalling_later() -> None:
    with FakeServer(JOINED) as server, Load(server.port, 4) as load:
        load.ready(10)
        assert load.stall(3)["stalled"] == 3
        server.send(frame(batch(341)))
        assert load.wait("c", 341, 5)["ok"]
        assert load.stats()["lanes"]["c"]["messages"] == 1
        assert load.unstall()["resumed"] == 3
        assert load.wait("c", 341, 5)["ok"]
        assert load.stats()["lanes"]["c"]["messages"] == 4


def test_send() -> None:
    with FakeServer(JOINED) as server, Load(server.port, 2) as load:
        load.ready(10)
        text = '{"op":"comment","ref":"c1","x":"é"}'
        assert load.send(text)["ok"]
        until(lambda: any(viewer.received for viewer in server.viewers))
        assert [unmask(viewer.received) for viewer in server.viewers] == [[(0x81, text.encode())], []]
    with FakeServer(STREAM + event("i3.m11.c340", HELLO)) as server, Load(server.port, 1, "sse") as load:
        load.ready(10)
        assert not load.send("x")["ok"]


def test_latency() -> None:
    """A hundred stamps, a millisecond apart, arrive in one read: percentiles lie on a line, at most 3.2 % above it."""
    with FakeServer(JOINED + frame('{"t":"score","id":"m12","e":{"ts_ns":5}}')) as server, Load(server.port) as load:
        load.ready(10)
        assert load.wait("m", 12, 5)["ok"]
        start = time.monotonic_ns()
        while time.monotonic_ns() < start + 100_000_000:
            pass
        stamps = [
            f'{{"t":"score","id":"m{13 + i}","ts":1,"e":{{"a_b":1,"ts_ns":{start + i * 1_000_000}}}}}'
            for i in range(100)
        ]
        text = batch(341, rf"ts_ns:{start} and _ts_ns").replace('"ts":1', '"t_s":1')
        quoted = batch(342, rf"{{\"ts_ns\":{start}}}")
        server.send(frames([*stamps, text, quoted, batch(343, "ts_ns none"), score(113), score(114)]))
        assert load.wait("m", 114, 5)["ok"]
        end = time.monotonic_ns()
        stats = load.stats()
    must, chat = stats["lanes"]["m"]["latency"], stats["lanes"]["c"]["latency"]
    assert (must["n"], chat["n"], stats["lanes"]["m"]["replayed"], stats["stamps_ahead"]) == (100, 2, 1, 0)
    delay = must["max_ns"] - 100_000_000
    assert 0 <= delay < end - start
    for name, rank in (("p50_ns", 50), ("p90_ns", 90), ("p99_ns", 99), ("p999_ns", 100)):
        exact = delay + rank * 1_000_000
        assert exact <= must[name] <= exact * 1.033, name
    assert must["mean_ns"] == pytest.approx(delay + 50_500_000, abs=1)
    assert flaws(stats) == {}


def test_a_thousand_sockets() -> None:
    with FakeServer(JOINED) as server, Load(server.port, 1000) as load:
        assert load.ready(30)["connected"] == 1000
        load.reset()
        for number in range(341, 361):
            server.send(frames([batch(number), score(number - 329)]))
        assert load.wait("c", 360, 20)["ok"]
        assert load.wait("m", 31, 20)["ok"]
        stats = load.stats()
    assert (flaws(stats), stats["frames"]) == ({}, 40000)
    assert stats["bytes"] == 1000 * sum(len(frames([batch(n), score(n - 329)])) for n in range(341, 361))


# ---- the process ----


def test_it_ends_with_its_driver() -> None:
    with FakeServer(JOINED) as server:
        load = Load(server.port)
        load.ready(10)
        load.ask("wait c 9999 600")
        assert load.close() == 0
        load = Load(server.port)
        assert load.process.stdin is not None
        load.process.stdin.close()
        assert load.process.wait(10) == 0
        load.close()


@pytest.mark.parametrize("flags", [{"port": 0}, {"nonsense": 1}, {"mode": "udp"}, {"deflate": "yes"}, {"since": "c5"}])
def test_unknown_flags_are_refused(flags: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    load = Load(**{"port": 9, **flags})
    with pytest.raises(LoadError, match=r"has ended \(2\)"):
        load.ready(10)
    load.close()
    assert "load" in capfd.readouterr().err.split(":")[0]


def test_build_is_made_once() -> None:
    binary = build()
    before = binary.stat().st_mtime_ns
    assert build() == binary
    assert binary.stat().st_mtime_ns == before
    assert os.access(binary, os.X_OK)
