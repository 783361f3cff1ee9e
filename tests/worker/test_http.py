"""The front door by hand: what it refuses, what it hands over whole, and connections that change hands both ways."""

import contextlib
import json
import threading

import pytest

from tests.raw import UPGRADE, Raw, await_heads, drip
from tests.server import Server, until
from tests.viewers import Publisher

BODY_BYTES = 16384  # the default of [limits] body_bytes


def comment(text: str, length: int = 0) -> bytes:
    return json.dumps({"x": text}).encode().ljust(length)


@pytest.mark.parametrize(
    "request_, status, error",
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "bad_request"),  # TLS on a port without it
        (b"GET / HTTP/2.0\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "bad_request"),  # no Host
        (b"GET /v1/rooms/r/sse HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", 400, "bad_request"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/rooms/no+such/ws HTTP/1.1\r\nHost: a\r\n\r\n", 404, "not_found"),
        (b"GET /v1/rooms//sse HTTP/1.1\r\nHost: a\r\n\r\n", 404, "not_found"),
        (b"GET /v1/rooms/" + b"r" * 65 + b"/poll HTTP/1.1\r\nHost: a\r\n\r\n", 404, "not_found"),
        (b"GET /v1/rooms/r/sse?last=-1 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/rooms/r/poll?lanes=chat HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
        (b"POST /v1/rooms/r/sse HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 405, "method_not_allowed"),
        (b"HEAD /v1/rooms/r/poll HTTP/1.1\r\nHost: a\r\n\r\n", 405, "method_not_allowed"),
        (b"GET /" + b"a" * 8200 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "uri_too_long"),
        (b"GET /v1/rooms/r/ws HTTP/1.1\r\nHost: a\r\n\r\n", 426, "upgrade_required"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 8200 + b"\r\n\r\n", 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 64 + b"\r\n", 431, "headers_too_large"),
    ],
)
def test_what_the_door_refuses(request_: bytes, status: int, error: str, server: Server) -> None:
    with Raw(server, first=request_) as raw:
        reply = raw.reply()
        assert reply.status == status
        if not request_.startswith(b"HEAD"):
            assert reply.error() == error
        assert "close" in reply.headers["connection"]
        assert reply.headers["access-control-allow-origin"] == "*"
        assert raw.ended()
        if status == 405:
            assert reply.headers["allow"] == "GET"
        if status == 426:
            assert reply.headers["upgrade"] == "websocket"
            assert reply.headers["sec-websocket-version"] == "13"


@pytest.mark.parametrize(
    "headers, status",
    [
        (UPGRADE.replace("13", "8"), 426),
        (UPGRADE.replace("websocket", "h2c"), 426),
        (UPGRADE.replace("dGhl", "dG"), 400),
        (UPGRADE + "Sec-WebSocket-Protocol: graphql-ws\r\n", 400),
        (UPGRADE + "Sec-WebSocket-Extensions: permessage-deflate; =\r\n", 400),
    ],
)
def test_upgrades_that_are_none(headers: str, status: int, server: Server, room: str) -> None:
    with Raw(server) as raw:
        raw.get(f"/v1/rooms/{room}/ws", headers)
        reply = raw.reply()
        assert reply.status == status
        assert reply.error() == ("upgrade_required" if status == 426 else "bad_request")
        assert raw.ended()


def test_the_first_good_protocol_is_taken(server: Server, room: str) -> None:
    with Raw(server) as raw:
        offered = "graphql-ws, edge.v1.msgpack , edge.v1.json"
        assert (
            raw.upgrade(room, headers=f"Sec-WebSocket-Protocol: {offered}\r\n")["sec-websocket-protocol"]
            == "edge.v1.msgpack"
        )
    with Raw(server) as raw:
        assert "sec-websocket-protocol" not in raw.upgrade(room)
        assert raw.frame().message()["t"] == "hello"


def test_what_the_application_answers(server: Server, room: str) -> None:
    """Handed over: pages, snapshots, preflights, and its own refusals; the connection is kept through all of it."""
    with Raw(server) as raw:
        for _ in range(2):
            raw.get("/")
            reply = raw.reply()
            assert reply.status == 200
            assert b"<!doctype html>" in reply.body.lower()
            raw.get("/no/such/page")
            reply = raw.reply()
            assert (reply.status, reply.error()) == (404, "not_found")
            raw.get(f"/v1/rooms/{room}")
            assert json.loads(raw.reply().body)["viewers"] == 0
            raw.get(f"/v1/rooms/{room}/poll", "Access-Control-Request-Method: GET\r\n", "OPTIONS")
            reply = raw.reply()
            assert reply.status == 204
            assert "GET" in reply.headers["access-control-allow-methods"]
            allowed = reply.headers["access-control-allow-headers"].split(", ")
            assert {"Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"} == {*allowed}
            raw.post(f"/v1/rooms/{room}/comments?user=ann", b"{")
            assert raw.reply().error() == "bad_json"
            raw.post(f"/v1/rooms/{room}/comments", comment("hi"))
            reply = raw.reply()
            assert (reply.status, reply.error()) == (401, "unauthorized")
            raw.post(f"/v1/rooms/{room}/comments?user=ann", comment(""))
            assert raw.reply().error() == "bad_text"


def test_streams_and_refusals_may_be_read_from_elsewhere(server: Server, room: str) -> None:
    origin = "Origin: https://example.com\r\n"
    with Raw(server) as raw:
        raw.get(f"/v1/rooms/{room}/sse", origin)
        status, headers = raw.head()
        assert (status, headers["access-control-allow-origin"]) == (200, "*")
        assert headers["cache-control"] == "no-store"
    with Raw(server) as raw:
        raw.post(f"/v1/rooms/{room}/comments?user=ann", comment("hi"), origin)
        assert raw.reply().headers["access-control-allow-origin"] == "*"
        raw.get(f"/v1/rooms/{room}/poll", origin)
        assert raw.reply().headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("origin", ["https://example.com", ""])
def test_the_origin_is_the_one_that_is_set(origin: str) -> None:
    with Server(server_cors_origin=origin) as server:
        found = []
        for request_ in ("GET /v1/rooms/r/sse", "GET /v1/rooms/r/poll?last=x", "GET /v1/rooms/r", "GET /v1/rooms/r/ws"):
            with Raw(server, first=f"{request_} HTTP/1.1\r\nHost: a\r\n\r\n".encode()) as raw:
                found.append(raw.head()[1].get("access-control-allow-origin", ""))
        with Raw(server) as raw:
            raw.post("/v1/rooms/r/comments?user=ann", comment("hi"))
            assert raw.reply().status == 201
            raw.get("/v1/rooms/r/poll")
            found.append(raw.reply().headers.get("access-control-allow-origin", ""))
        assert found == [origin] * 5


# Bodies


def test_a_body_up_to_the_limit(server: Server, room: str) -> None:
    path = f"/v1/rooms/{room}/comments?user=ann"
    with Raw(server) as raw:
        raw.post(path, comment("large", BODY_BYTES))
        assert raw.reply().status == 201
        raw.post(path, comment("small"))
        assert raw.reply().status == 201
        with contextlib.suppress(ConnectionError):  # what is too large is not read to its end
            raw.post(path, comment("too large", BODY_BYTES + 1))
        reply = raw.reply()
        assert (reply.status, reply.error()) == (413, "too_large")


@pytest.mark.parametrize("kind", ["sized", "chunked"])
def test_a_body_that_comes_slowly(kind: str, server: Server, room: str, say: Publisher) -> None:
    body = comment("slow", BODY_BYTES)
    head = f"POST /v1/rooms/{room}/comments?user=ann HTTP/1.1\r\nHost: edge\r\n"
    with Raw(server) as raw:
        if kind == "sized":
            raw.send(f"{head}Content-Length: {len(body)}\r\n\r\n")
            pieces = [body[:1], body[1:2], body[2:300], body[300:9000], body[9000:]]
        else:
            raw.send(f"{head}Transfer-Encoding: chunked\r\n\r\n")
            cuts = [body[:1], body[1:8000], body[8000:]]
            pieces = [b"%x\r\n%b\r\n" % (len(cut), cut) for cut in cuts] + [b"0\r\n\r\n"]
        raw.sock.settimeout(0.05)
        for piece in pieces:
            with pytest.raises(TimeoutError):  # no answer before it is whole
                raw.more()
            raw.send(piece)
        raw.sock.settimeout(15)
        assert raw.reply().status == 201
        await_heads(raw, f"/v1/rooms/{room}", "m0", "c1")


def test_a_chunked_body_over_the_limit(server: Server, room: str) -> None:
    with Raw(server) as raw:
        raw.send(
            f"POST /v1/rooms/{room}/comments?user=ann HTTP/1.1\r\nHost: edge\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        with contextlib.suppress(ConnectionError):
            for _ in range(5):
                raw.send(b"1000\r\n%b\r\n" % (b" " * 4096))
        assert raw.reply().error() == "too_large"


def test_a_head_that_comes_byte_by_byte(server: Server, room: str) -> None:
    """Peeked at again and again, and then handed over whole, or taken whole."""
    with Raw(server) as raw:
        body = comment("drop by drop")
        head = f"POST /v1/rooms/{room}/comments?user=ann HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
        drip(raw, head.encode() + body, 0.001)
        assert raw.reply().status == 201
    with Raw(server) as raw:
        drip(raw, f"GET /v1/rooms/{room}/ws HTTP/1.1\r\nHost: a\r\n{UPGRADE}\r\n".encode(), 0.001)
        assert raw.head()[0] == 101
        assert raw.message("batch")["m"][0]["x"] == "drop by drop"


def test_expect_continue(server: Server, room: str) -> None:
    body = comment("expected")
    with Raw(server) as raw:
        raw.send(
            f"POST /v1/rooms/{room}/comments?user=ann HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        assert raw.take_to(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        raw.send(body)
        assert raw.reply().status == 201


# Connections that are kept, and change hands


@pytest.mark.parametrize("before", ["/", "/healthz", "/no/such/page"])
def test_a_stream_on_a_connection_that_was_handed_over(before: str, server: Server, room: str) -> None:
    for stream in ("ws", "sse"):
        with Raw(server) as raw:
            raw.post(f"/v1/rooms/{room}/comments?user=ann", comment(f"before {stream}"))
            assert raw.reply().status == 201
            raw.get(before)
            raw.reply()
            if stream == "ws":
                raw.upgrade(room, "?user=ann&last=0")
                assert raw.frame().message()["t"] == "hello"
                raw.say('{"op":"comment","ref":"1","x":"and back"}')
                assert raw.message("ack")["status"] == "published"
                raw.say("", 9)
                assert raw.frame_of(10).payload == b""
            else:
                raw.get(f"/v1/rooms/{room}/sse")
                assert raw.head()[0] == 200
                raw.take_to(b"event: hello\n")
                raw.take_to(b'"before sse"')


def test_a_connection_goes_to_and_fro(server: Server, room: str) -> None:
    with Raw(server) as raw:
        since = ""
        for number in range(1, 6):
            raw.post(f"/v1/rooms/{room}/score?user=ann", b'{"number":%d}' % number)
            assert json.loads(raw.reply().body) == {"id": f"m{number}"}
            raw.get(f"/v1/rooms/{room}/poll{since}")
            reply = raw.reply()
            assert reply.headers["connection"] == "keep-alive"
            answer = json.loads(reply.body)
            assert [m["id"] for m in answer["m"]] == [f"m{number}"]
            since = f"?since={answer['since']}"
        raw.upgrade(room, since)
        assert raw.frame().message()["resumed"] is True


def test_pipelined_polls(server: Server, room: str, say: Publisher) -> None:
    request_ = f"GET /v1/rooms/{room}/poll HTTP/1.1\r\nHost: edge\r\n\r\n"
    with Raw(server) as raw:
        raw.post(f"/v1/rooms/{room}/comments?user=ann", comment("one"))
        assert raw.reply().status == 201
        raw.get(f"/v1/rooms/{room}/poll")
        answer = raw.reply()
        raw.send(request_ * 20)
        for _ in range(20):
            assert raw.reply().body == answer.body
    # Behind each other, and before what is the application's.
    since = json.loads(answer.body)["since"]
    waiting = request_.replace("/poll", f"/poll?since={since}")
    with Raw(server) as raw, Raw(server) as other:
        last = f"POST /v1/rooms/{room}/score?user=ann HTTP/1.1\r\nHost: edge\r\nContent-Length: 2\r\n\r\n{{}}"
        raw.send(request_ + waiting + request_ + last)
        assert raw.reply().body == answer.body
        other.post(f"/v1/rooms/{room}/comments?user=ann", comment("two"))
        assert other.reply().status == 201
        assert [m["id"] for m in json.loads(raw.reply().body)["m"]] == ["c2"]
        assert [m["id"] for m in json.loads(raw.reply().body)["m"]] == ["c1", "c2"]
        assert raw.reply().status == 201


def test_connections_that_are_not_kept(server: Server, room: str) -> None:
    with Raw(server) as raw:
        raw.post(f"/v1/rooms/{room}/comments?user=ann", comment("one"))
        raw.reply()
    path = f"/v1/rooms/{room}/poll"
    for first in (f"GET {path} HTTP/1.0\r\n\r\n", f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"):
        with Raw(server, first=first.encode()) as raw:
            reply = raw.reply()
            assert (reply.status, reply.headers["connection"]) == (200, "close")
            assert raw.ended()


def test_many_connections_at_once(server: Server, room: str) -> None:
    """More than the application holds are told so, and those that it holds are served."""
    statuses: list[int] = []

    def ask() -> None:
        with contextlib.ExitStack() as stack:
            held = [stack.enter_context(Raw(server)) for _ in range(100)]
            for raw in held:
                raw.get("/healthz")
            replies = [raw.reply() for raw in held]
            statuses.extend(reply.status for reply in replies)
            barrier.wait(30)
            for reply in replies:
                if reply.status == 503:
                    assert reply.error() == "overloaded"
                    assert reply.headers["retry-after"] == "2"

    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(statuses) == 400
    assert statuses.count(200) <= 384
    assert statuses.count(200) >= 192, "in a burst, a connection may count twice for a moment"

    def served() -> bool:
        with Raw(server) as raw:
            raw.get("/healthz")
            return raw.reply().status == 200

    until(served)
