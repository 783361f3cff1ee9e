"""What ends by the clock. Every wait is a second or two here, and all of them are waited for at the same time.

A wait is measured from before whatever makes the server set its timer: who looks at it may be late, the server not.
"""

import contextlib
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.raw import PING, PONG, UPGRADE, Raw, drip
from tests.server import Server, until

SECOND = 1.0
KEPT_S = 2  # that a connection is kept for the next request
LEAST = 0.7  # timers are set in steps of 100 ms, and some are spread over a quarter of their time

Scenario = Callable[[Server], None]
SCENARIOS: dict[str, Scenario] = {}


def scenario(run: Scenario) -> Scenario:
    SCENARIOS[run.__name__] = run
    return run


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[str, Future[None]]]:
    waits = ("head", "ping", "dead", "heartbeat", "poll", "blocked")
    settings = {f"streams_{wait}_seconds": 1 for wait in waits} | {"streams_keepalive_seconds": KEPT_S}
    with Server(**settings) as server, ThreadPoolExecutor(32) as pool:
        yield {name: pool.submit(run, server) for name, run in SCENARIOS.items()}


def refused_408(server: Server, first: bytes) -> None:
    began = time.monotonic()
    with Raw(server, first=first) as raw:
        reply = raw.reply()
        assert (reply.status, reply.error()) == (408, "timeout")
        assert raw.ended()
        assert time.monotonic() - began >= LEAST


@scenario
def a_connection_that_says_nothing(server: Server) -> None:
    refused_408(server, b"")


@scenario
def half_a_request_line(server: Server) -> None:
    refused_408(server, b"GET /v1/roo")


@scenario
def a_head_without_its_end(server: Server) -> None:
    refused_408(server, f"GET /v1/rooms/r/ws HTTP/1.1\r\nHost: a\r\n{UPGRADE}".encode())


@scenario
def a_head_that_never_ends(server: Server) -> None:
    """Every byte of it is news, and buys no time."""
    began = time.monotonic()
    with Raw(server, first=b"GET / HTTP/1.1\r\nHost: a\r\n") as raw:
        drip(raw, b"X: " + b"y" * 5000, 0.01)
        assert time.monotonic() - began >= LEAST
        reply = raw.reply()
        assert (reply.status, reply.error()) == (408, "timeout")


@scenario
def a_poll_with_nothing_to_say(server: Server) -> None:
    with Raw(server) as raw:
        for query in ("", "?lanes=must", "?since=i1.m5.c5"):
            began = time.monotonic()
            raw.get(f"/v1/rooms/quiet/poll{query}")
            status, headers = raw.head()
            assert status == 204
            assert "content-length" not in headers
            assert headers["connection"] == "keep-alive"
            assert re.fullmatch(r"i\d+\.m0\.c0", headers["edge-since"])
            assert headers["access-control-expose-headers"] == "Edge-Since"
            assert time.monotonic() - began >= LEAST
        # From that position, nothing is missed.
        with Raw(server) as other:
            other.post("/v1/rooms/quiet/score?user=ann", b"{}")
            assert other.reply().status == 201
        raw.get(f"/v1/rooms/quiet/poll?since={headers['edge-since']}")
        assert b'"m1"' in raw.reply().body


@scenario
def a_connection_that_is_kept_for_nothing(server: Server) -> None:
    """After a poll, whose connection is the engine's, and after a page, whose connection is the application's."""
    with Raw(server) as raw:
        began = time.monotonic()
        raw.get("/v1/rooms/idle/poll")
        assert raw.head()[0] == 204
        assert raw.ended()
        assert time.monotonic() - began >= LEAST + KEPT_S * LEAST
    with Raw(server) as raw:
        began = time.monotonic()
        raw.get("/healthz")
        assert raw.reply().status == 200
        assert raw.ended()
        assert time.monotonic() - began >= KEPT_S * LEAST


@scenario
def a_socket_is_pinged_and_then_given_up(server: Server) -> None:
    with Raw(server) as raw:
        began = time.monotonic()
        raw.upgrade("pings")
        raw.message("hello")
        for number in (1, 2):
            assert raw.frame().payload == b""
            assert time.monotonic() - began >= number * LEAST
            raw.say(b"", PONG)
        assert raw.frame().op == PING
        assert raw.ended(), "an answer that does not come"


@scenario
def a_socket_that_talks_lives(server: Server) -> None:
    """Anything that is heard is a sign of life, also where pings go unanswered."""
    with Raw(server) as raw:
        raw.upgrade("talk")
        raw.message("hello")
        for _ in range(12):
            raw.say('{"op":"ping"}')
            raw.message("pong")
            time.sleep(SECOND / 3)


@scenario
def an_event_stream_has_a_heartbeat(server: Server) -> None:
    with Raw(server) as raw:
        began = time.monotonic()
        raw.get("/v1/rooms/beats/sse")
        raw.take_to(b"event: hello\n")
        raw.take_to(b"\n\n")
        for number in (1, 2):
            assert raw.take(3) == b":\n\n"
            assert time.monotonic() - began >= number * LEAST


@scenario
def who_reads_nothing_is_given_up(server: Server) -> None:
    """A WebSocket and an event stream. Others of the room are served as ever."""
    with contextlib.ExitStack() as stack:
        for stream, headers in (("ws", UPGRADE), ("sse", "")):
            raw = stack.enter_context(Raw(server, receive_bytes=4096))
            raw.get(f"/v1/rooms/stalled/{stream}", headers)
        author = stack.enter_context(Raw(server))
        author.upgrade("stalled", "?user=ann")
        said = 0

        def given_up() -> bool:
            nonlocal said
            for _ in range(16):
                author.say(json.dumps({"op": "comment", "ref": str(said), "x": "\U0001f642" * 496}, ensure_ascii=False))
                said += 1
            for _ in range(16):
                assert author.message("ack")["status"] == "published"
            return server.figures()['edge_closed_total{cause="slow"}'] >= 2

        until(given_up)


@scenario
def half_a_goodbye(server: Server) -> None:
    """A peer that ends its side without a close frame, or behind half a request, has gone."""
    for stream, headers in (("ws", UPGRADE), ("sse", "")):
        for at_once in (False, True):
            with Raw(server) as raw:
                raw.get(f"/v1/rooms/gone/{stream}", headers)
                if not at_once:
                    raw.head()
                raw.sock.shutdown(socket.SHUT_WR)
                raw.ends()
    with Raw(server, first=b"GET / HT") as raw:
        raw.sock.shutdown(socket.SHUT_WR)
        assert raw.ended()
        assert raw.unread == b""


@pytest.mark.parametrize("name", SCENARIOS)
def test_in_time(name: str, outcomes: dict[str, Future[None]]) -> None:
    outcomes[name].result()
