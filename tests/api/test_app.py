# The HTTP application, over sockets that are handed to it as the engine does it. Stream requests on a kept connection
# come out at the other side with every byte, on the same TCP connection.

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from edge import api, auth, wire
from edge.api import app as app_module
from edge.auth import Identity
from edge.errors import EdgeError


class FakeService:
    body_bytes = 2000
    cors_origin = "*"

    def __init__(self) -> None:
        self.tokens = auth.Tokens("k" * 32)
        self.comments: list[tuple[str, str, wire.CommentBody]] = []
        self.scores: list[tuple[str, dict[str, Any]]] = []
        self.reactions: list[tuple[str, str, str]] = []
        self.ack: wire.Message = {"t": "ack", "ref": None, "id": "abc", "status": "published"}
        self.failure: Exception | None = None
        self.adopted: list[tuple[socket.socket, bytes]] = []
        self.up = True
        self.office: Any = SimpleNamespace(desk=None, review=None, trail=None)

    def identify(self, token: str | None, user: str | None) -> Identity:
        if token is not None:
            return self.tokens.verify(token, 1000.0)
        if user is not None:
            return auth.dev(user)
        return Identity(user="", name="", scopes=frozenset({"read"}))

    async def comment(self, identity: Identity, room: str, body: wire.CommentBody, peer: bytes) -> wire.Message:
        if self.failure:
            raise self.failure
        self.comments.append((identity.user, room, body))
        return self.ack

    def react(self, identity: Identity, room: str, kind: str) -> None:
        if self.failure:
            raise self.failure
        self.reactions.append((identity.user, room, kind))

    async def score(self, room: str, event: dict[str, Any]) -> str:
        self.scores.append((room, event))
        return f"m{len(self.scores)}"

    async def snapshot(self, room: str, peer: bytes) -> wire.Message:
        return {"state": "live", "viewers": 3, "last": {"m": "m1", "c": "c2"}}

    def adopt(self, sock_fd: int, head: bytes, peer: bytes) -> None:
        if self.failure:
            raise self.failure
        sock = socket.socket(fileno=sock_fd)
        assert not os.get_blocking(sock_fd)
        sock.setblocking(False)
        self.watchers = watched(os.fstat(sock_fd).st_ino)
        self.adopted.append((sock, head))
        sock.send(b"adopted\n")

    def metrics(self) -> str:
        return "edge_up 1\n"

    def healthy(self) -> bool:
        return self.up

    def ready(self) -> bool:
        return self.up


class Site:
    """An application behind a listener that hands each accepted socket over, as a worker does."""

    def __init__(self, service: FakeService, port: int) -> None:
        self.service = service
        self.port = port
        self.url = f"http://127.0.0.1:{port}"


@asynccontextmanager
async def serve(app: web.Application, service: FakeService, **options: Any) -> AsyncIterator[Site]:
    runner = api.runner(app, **options)
    await runner.setup()
    assert runner.server is not None
    server = runner.server
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)

        async def accept() -> None:
            while True:
                sock, _ = await loop.sock_accept(listener)
                await loop.connect_accepted_socket(server, sock)

        accepting = asyncio.create_task(accept())
        try:
            yield Site(service, listener.getsockname()[1])
        finally:
            accepting.cancel()
            await asyncio.wait([accepting])
            for sock, _ in service.adopted:
                sock.close()
            await runner.cleanup()


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    service = FakeService()
    async with serve(api.build(service), service) as made:
        yield made


@pytest_asyncio.fixture
async def http(site: Site) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(site.url) as session:
        yield session


@pytest_asyncio.fixture
async def raw(site: Site) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    yield reader, writer
    writer.close()


async def refused(answer: aiohttp.ClientResponse, status: int, name: str) -> dict[str, Any]:
    body = await answer.text()
    assert (answer.status, answer.content_type) == (status, "application/json"), body
    assert body.count("\n") == 1
    assert body.endswith("\n")
    found: dict[str, Any] = json.loads(body)
    assert found["error"] == name
    assert found["message"]
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    return found


async def answer_of(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    size = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    return head, await reader.readexactly(size)


async def test_comment(site: Site, http: aiohttp.ClientSession) -> None:
    for content_type in ("application/json", "text/plain", "application/x-www-form-urlencoded"):
        async with http.post(
            "/v1/rooms/demo/comments?user=ann",
            data=b'{"x":"hi","ref":"r1"}',
            headers={"Content-Type": content_type},
        ) as answer:
            assert answer.status == 201
            assert await answer.text() == '{"id":"abc","status":"published"}\n'
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert site.service.comments == [("ann", "demo", wire.CommentBody(x="hi", ref="r1"))] * 3


async def test_tokens(site: Site, http: aiohttp.ClientSession) -> None:
    token = site.service.tokens.mint("bob", 2000, rooms=["demo"])
    body = {"x": "hi"}
    path = "/v1/rooms/demo/comments"
    assert (await http.post(path, json=body, headers={"Authorization": f"Bearer {token}"})).status == 201
    assert (await http.post(f"{path}?token={token}", json=body)).status == 201
    assert (await http.post(f"{path}?token=bad", json=body, headers={"Authorization": f"bearer {token}"})).status == 201
    assert [c[0] for c in site.service.comments] == ["bob"] * 3
    await refused(await http.post(path, json=body), 401, "unauthorized")
    await refused(await http.post(f"{path}?token=bad", json=body), 401, "unauthorized")
    await refused(await http.post(f"{path}?token=", json=body), 401, "unauthorized")
    await refused(await http.post(path, json=body, headers={"Authorization": "Basic eA=="}), 401, "unauthorized")
    await refused(await http.post(path, json=body, headers={"Authorization": "Bearer "}), 401, "unauthorized")
    await refused(await http.post(f"/v1/rooms/other/comments?token={token}", json=body), 403, "forbidden")
    await refused(await http.post(f"/v1/rooms/demo/score?token={token}", json={}), 403, "forbidden")
    await refused(await http.get(f"/v1/rooms/other?token={token}"), 403, "forbidden")
    await refused(await http.post(f"{path}?user=a&user=b", json=body), 400, "bad_request")
    await refused(await http.post(f"{path}?user=", json=body), 401, "unauthorized")
    await refused(await http.post(f"{path}?token=a&token=b", json=body), 400, "bad_request")
    twice = [("Authorization", f"Bearer {token}"), ("Authorization", "Bearer x")]
    await refused(await http.post(path, json=body, headers=twice), 400, "bad_request")
    assert len(site.service.comments) == 3


async def test_score(site: Site, http: aiohttp.ClientSession) -> None:
    async with http.post("/v1/rooms/demo/score?user=ann", json={"home": 1}) as answer:
        assert answer.status == 201
        assert await answer.json() == {"id": "m1"}
    assert site.service.scores == [("demo", {"home": 1})]
    await refused(await http.post("/v1/rooms/demo/score?user=ann", data=b"[]"), 400, "bad_json")


async def test_reaction(site: Site, http: aiohttp.ClientSession) -> None:
    path = "/v1/rooms/demo/reactions"
    async with http.post(f"{path}?user=ann", json={"k": "fire"}) as answer:
        assert (answer.status, await answer.json()) == (202, {})
    assert site.service.reactions == [("ann", "demo", "fire")]
    await refused(await http.post(f"{path}?user=ann", data=b'{"k":"a b"}'), 400, "bad_json")
    await refused(await http.post(path, json={"k": "fire"}), 401, "unauthorized")
    site.service.failure = EdgeError("too_many", retry_after=1.2)
    answer = await http.post(f"{path}?user=ann", json={"k": "fire"})
    assert (await refused(answer, 429, "too_many"))["retry_after"] == 1.2
    assert answer.headers["Retry-After"] == "2"
    site.service.failure = None


async def test_snapshot(http: aiohttp.ClientSession) -> None:
    async with http.get("/v1/rooms/demo") as answer:
        assert answer.status == 200
        assert (await answer.json())["viewers"] == 3


@pytest.mark.parametrize(
    "method, path, body, status, name",
    [
        ("GET", "/nowhere", None, 404, "not_found"),
        ("GET", "/v1/rooms", None, 404, "not_found"),
        ("GET", "/v1/rooms/", None, 404, "not_found"),
        ("GET", "/static/", None, 404, "not_found"),
        ("GET", "/static/..%2f..%2fauth.py", None, 404, "not_found"),
        ("GET", "/metrics", None, 404, "not_found"),
        ("GET", "/readyz", None, 404, "not_found"),
        ("GET", "/v1/rooms/a.b", None, 400, "bad_room"),
        ("GET", "/v1/rooms/" + "a" * 65, None, 400, "bad_room"),
        ("GET", "/v1/rooms/a%2Fb", None, 400, "bad_room"),
        ("GET", "/v1/rooms/%ff", None, 400, "bad_room"),
        ("POST", "/v1/rooms/demo", b"{}", 405, "method_not_allowed"),
        ("DELETE", "/v1/rooms/demo/comments", None, 405, "method_not_allowed"),
        ("POST", "/", b"", 405, "method_not_allowed"),
        ("PATCH", "/", b"", 405, "method_not_allowed"),
        ("POST", "/v1/rooms/demo/ws", b"", 405, "method_not_allowed"),
        ("GET", "/v1/rooms/a.b/ws", None, 400, "bad_room"),
        ("GET", "/v1/rooms/demo/%77s", None, 404, "not_found"),
        ("POST", "/v1/rooms/demo/comments?user=a", b"", 400, "bad_json"),
        ("POST", "/v1/rooms/demo/comments?user=a", b"x=hi", 400, "bad_json"),
        ("POST", "/v1/rooms/demo/comments?user=a", b'{"x":"a2","z":"\xff"}', 400, "bad_json"),
        ("POST", "/v1/rooms/demo/comments?user=a", b'{"x":"a2","\xed\xa0\x80":1}', 400, "bad_json"),
        ("POST", "/v1/rooms/demo/reactions?user=a", b'{"k":"fire","z":"\xc3"}', 400, "bad_json"),
        ("POST", "/v1/rooms/demo/comments?user=a", b'{"x":5}', 400, "bad_json"),
        ("POST", "/v1/rooms/demo/comments?user=a", b'{"x":""}', 400, "bad_text"),
        ("POST", "/v1/rooms/demo/comments?user=a", b"[" * 1900, 400, "bad_json"),
        ("POST", "/v1/rooms/demo/comments?user=a", b" " * 2000, 400, "bad_json"),
        ("POST", "/v1/rooms/demo/comments?user=a", b" " * 2001, 413, "too_large"),
        ("POST", "/v1/rooms/demo/comments?user=a", b" " * 500_000, 413, "too_large"),
        ("POST", "/v1/rooms/a.b/comments?user=a", b'{"x":"hi"}', 400, "bad_room"),
    ],
)
async def test_refusals(http: aiohttp.ClientSession, method: str, path: str, body: Any, status: int, name: str) -> None:
    from yarl import URL

    async with http.request(method, URL(path, encoded=True), data=body, headers={"Accept": "text/html"}) as answer:
        await refused(answer, status, name)
        assert (status == 405) == ("Allow" in answer.headers)


async def test_a_body_over_the_limit_without_a_length(http: aiohttp.ClientSession) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b" " * 1000

    await refused(await http.post("/v1/rooms/demo/comments?user=a", data=chunks()), 413, "too_large")


async def test_compressed_bodies_are_refused(http: aiohttp.ClientSession) -> None:
    headers = {"Content-Encoding": "gzip"}
    answer = await http.post("/v1/rooms/demo/comments?user=a", data=b"\x1f\x8b", headers=headers)
    await refused(answer, 400, "bad_request")


async def test_what_the_service_raises(
    site: Site, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    async def post() -> aiohttp.ClientResponse:
        return await http.post("/v1/rooms/demo/comments?user=a", json={"x": "hi"})

    site.service.failure = EdgeError("too_many", retry_after=2.5)
    answer = await post()
    assert (await refused(answer, 429, "too_many"))["retry_after"] == 2.5
    assert answer.headers["Retry-After"] == "3"
    for failure in (RuntimeError("secret"), TimeoutError("secret"), KeyError("secret")):
        site.service.failure = failure
        assert "secret" not in str(await refused(await post(), 500, "internal"))
    assert caplog.text.count("POST /v1/rooms/demo/comments") == 3
    site.service.failure = None
    site.service.ack = {"t": "ack", "id": "abc", "status": "pending"}
    assert (await post()).status == 201
    site.service.ack = {"t": "ack", "status": "unknown"}
    assert "ref" in (await refused(await post(), 503, "unavailable"))["message"]
    site.service.ack = wire.ack(None, None, "rejected", EdgeError("too_many", "slowly", retry_after=7))
    assert await refused(await post(), 429, "too_many") == {"error": "too_many", "message": "slowly", "retry_after": 7}
    site.service.ack = {"t": "ack", "status": "rejected", "error": "new_in_a_later_version"}
    await refused(await post(), 403, "forbidden")


async def test_preflight(http: aiohttp.ClientSession) -> None:
    for path in ("/v1/rooms/demo/comments", "/v1/rooms/demo/sse", "/v1/anything"):
        async with http.options(path, headers={"Origin": "https://a.example"}) as answer:
            assert answer.status == 204
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
            assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
            assert {"POST", "DELETE"} <= set(answer.headers["Access-Control-Allow-Methods"].split(", "))
    assert (await http.options("/")).status == 405


async def test_one_origin_or_none() -> None:
    for origin, expected in (("https://a.example", "https://a.example"), ("", None)):
        service = FakeService()
        service.cors_origin = origin
        async with serve(api.build(service), service) as site, aiohttp.ClientSession(site.url) as http:
            for path in ("/v1/rooms/demo", "/nowhere"):
                answer = await http.get(path)
                assert answer.headers.get("Access-Control-Allow-Origin") == expected
                assert answer.headers.get("Vary") == ("Origin" if expected else None)


async def test_page(http: aiohttp.ClientSession) -> None:
    async with http.get("/?room=demo") as answer:
        assert (answer.status, answer.content_type, answer.charset) == (200, "text/html", "utf-8")
        policy = answer.headers["Content-Security-Policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        page = await answer.text()
    for path, kind in (("/static/app.js", "text/javascript"), ("/static/app.css", "text/css")):
        assert path in page
        async with http.get(path) as answer:
            assert (answer.status, answer.content_type) == (200, kind)
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert "innerHTML" not in await answer.text()
    assert (await http.head("/")).status == 200


async def test_health_and_the_private_listener(site: Site, http: aiohttp.ClientSession) -> None:
    assert await (await http.get("/healthz")).text() == "ok\n"
    service = site.service
    async with serve(api.build_private(service), service) as private, aiohttp.ClientSession(private.url) as inside:
        async with inside.get("/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert await answer.text() == "edge_up 1\n"
        assert (await inside.get("/readyz")).status == 200
        service.up = False
        assert (await inside.get("/readyz")).status == 503
        assert (await inside.get("/healthz")).status == 503
        await refused(await inside.get("/v1/rooms/demo"), 404, "not_found")
    assert (await http.get("/healthz")).status == 503


Raw = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.mark.parametrize(
    "bad",
    [
        b"NOT HTTP\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/1.1\r\nHost: a\r\nBad Header: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 65 + b"\r\n",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 9000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/rooms/a/comments?user=a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nExpect: miracles\r\n\r\n",
        b"GET /nowhere HTTP/1.1\r\nHost: a\r\nExpect: miracles\r\n\r\n",
    ],
)
async def test_what_does_not_parse_is_refused_in_json(raw: Raw, bad: bytes) -> None:
    reader, writer = raw
    writer.write(bad)
    head, body = await answer_of(reader)
    assert head.startswith(b"HTTP/1.1 400 ") or head.startswith(b"HTTP/1.0 400 "), head
    assert b"application/json" in head
    assert b"Access-Control-Allow-Origin: *" in head
    assert json.loads(body)["error"] == "bad_request"


async def test_a_body_that_never_comes(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "BODY_S", 0.05)
    monkeypatch.setattr("edge.api.serving.LINGERING_S", 0.05)
    reader, writer = raw
    writer.write(b"POST /v1/rooms/demo/comments?user=a HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n{")
    head, body = await answer_of(reader)
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["error"] == "timeout"
    assert b"connection: close" in head.lower()


async def test_the_connection_of_a_body_that_never_comes_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "BODY_S", 0.05)
    monkeypatch.setattr("edge.api.serving.LINGERING_S", 0.05)
    service = FakeService()
    async with serve(api.build(service), service) as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(b"POST /v1/rooms/demo/comments?user=a HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n{")
        async with asyncio.timeout(5):
            assert b"408" in await reader.read()
        writer.close()


async def test_a_silent_connection_is_closed() -> None:
    service = FakeService()
    async with serve(api.build(service), service, keepalive_s=0.1) as site:
        for begun in (b"", b"GET / HT"):
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            writer.write(begun)
            async with asyncio.timeout(5):
                assert await reader.read() == b""
            writer.close()


UPGRADE = (
    b"GET /v1/rooms/demo/ws?last=5&user=%C3%A4 HTTP/1.1\r\n"
    b"Host: a.example:8080\r\n"
    b"upgrade: WebSocket\r\n"
    b"Connection: keep-alive, Upgrade\r\n"
    b"SEC-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
    b"X-Bytes: \xff\xfe caf\xe9\r\n"
    b"X-Twice: 1\r\n"
    b"X-Twice: 2\r\n"
    b"X-Empty: \r\n"
    b"\r\n"
)
SSE = b"GET /v1/rooms/demo/sse HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\nLast-Event-ID: i1.m2.c3\r\n\r\n"
POLL = b"GET /v1/rooms/demo/poll?since=i1.m2.c3 HTTP/1.1\r\nHost: a\r\n\r\n"


async def until(true: Callable[[], Any], deadline_s: float = 5.0) -> None:
    async with asyncio.timeout(deadline_s):
        while not true():  # noqa: ASYNC110 - any condition at all
            await asyncio.sleep(0.002)


def watched(inode: int) -> int:
    """How many epoll instances of this process watch the file `inode`."""
    found = 0
    for entry in os.listdir("/proc/self/fdinfo"):
        try:
            lines = Path(f"/proc/self/fdinfo/{entry}").read_text().splitlines()
        except OSError:
            continue
        found += sum(line.startswith("tfd:") and f"ino:{inode:x} " in line + " " for line in lines)
    return found


@pytest.mark.parametrize("request_", [UPGRADE, SSE, POLL], ids=["ws", "sse", "poll"])
async def test_a_stream_request_on_a_kept_connection_goes_to_the_engine(site: Site, raw: Raw, request_: bytes) -> None:
    reader, writer = raw
    for _ in range(2):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await answer_of(reader))[1] == b"ok\n"
    writer.write(request_)
    assert await reader.readline() == b"adopted\n"
    sock, head = site.service.adopted[0]
    assert head == request_
    assert sock.getpeername() == writer.get_extra_info("sockname")
    # The old descriptor is gone from the loop: nothing of ours watches this socket any more, and aiohttp forgot it.
    assert site.service.watchers == 1
    await until(lambda: watched(os.fstat(sock.fileno()).st_ino) == 0)
    loop = asyncio.get_running_loop()
    for i in range(3):  # and it is an ordinary socket to whoever has it now
        writer.write(b"echo %d\n" % i)
        sock.send(await loop.sock_recv(sock, 100))
        assert await reader.readline() == b"echo %d\n" % i
    sock.shutdown(socket.SHUT_WR)
    assert await reader.read() == b""


async def test_what_came_behind_an_upgrade_is_not_lost(site: Site, raw: Raw) -> None:
    reader, writer = raw
    writer.write(UPGRADE + b"\x81\x85 frames")
    assert await reader.readline() == b"adopted\n"
    assert site.service.adopted[0][1] == UPGRADE + b"\x81\x85 frames"


@pytest.mark.parametrize(
    "bytes_",
    [
        SSE + SSE,
        POLL + b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
        POLL.replace(b"Host", b"Content-Length: 2\r\nHost") + b"{}",
        UPGRADE.replace(b"Host", b"Content-Length: 2\r\nHost") + b"{}",
    ],
)
async def test_pipelined_streams_and_bodies_are_refused(site: Site, raw: Raw, bytes_: bytes) -> None:
    reader, writer = raw
    writer.write(bytes_)
    head, body = await answer_of(reader)
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"] == "bad_request"
    assert await reader.read() == b""
    assert site.service.adopted == []


async def test_an_engine_that_is_full_leaves_the_connection_here(site: Site, raw: Raw) -> None:
    before = len(os.listdir("/proc/self/fd"))
    site.service.failure = EdgeError("overloaded", retry_after=1)
    reader, writer = raw
    for request in (SSE, POLL, UPGRADE, SSE):
        writer.write(request)
        head, body = await answer_of(reader)
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1" in head
        assert json.loads(body)["error"] == "overloaded"
    assert len(os.listdir("/proc/self/fd")) == before
    site.service.failure = None
    writer.write(SSE)
    assert await reader.readline() == b"adopted\n"


async def test_many_hand_overs_leak_nothing(site: Site) -> None:
    for i in range(50):
        if i == 1:  # libuv opens /dev/null once
            before = len(os.listdir("/proc/self/fd"))
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        await answer_of(reader)
        writer.write(SSE)
        assert await reader.readline() == b"adopted\n"
        site.service.adopted.pop()[0].close()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    await until(lambda: len(os.listdir("/proc/self/fd")) <= before)
