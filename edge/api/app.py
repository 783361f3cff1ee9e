# The HTTP application: what it offers, who may ask for it, what a body may hold. It owns no state but the pages, read
# once. It must never listen, or touch a viewer's stream but to hand it over.

import asyncio
import ipaddress
import mimetypes
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from edge import wire
from edge.api.answers import COMMON, answer, answers, common_headers
from edge.api.moderation import Moderation, Office
from edge.api.stream import hand_over
from edge.auth import Identity
from edge.errors import PROBLEMS, EdgeError

PAGES = Path(__file__).parent.parent / "web"
BODY_S = 10.0
MAPPED = bytes(10) + b"\xff\xff"  # IPv4 in IPv6
# Scripts and styles come as files of our own; nothing else runs, loads, frames the page or is posted from it.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Service(Protocol):
    """What the worker does for its HTTP application. Each call may raise an EdgeError, which becomes the answer."""

    body_bytes: int
    """The largest body."""
    cors_origin: str
    """Access-Control-Allow-Origin; empty for none."""

    def identify(self, token: str | None, user: str | None) -> Identity:
        """Who is asking: by token, or in dev by `?user=`. With neither, somebody who may read, where viewing takes no
        token; else `unauthorized`."""
        ...

    async def comment(self, identity: Identity, room: str, body: wire.CommentBody, peer: bytes) -> wire.Message:
        """An ack: `id` and `status`, with `error` and the rest where it was rejected."""
        ...

    async def pay(self, payer: Identity, room: str, body: wire.CommentBody, key: str | None) -> wire.Message:
        """The same for a comment that is paid for: `key` tells payments apart."""
        ...

    def react(self, identity: Identity, room: str, kind: str) -> None:
        """Takes a reaction."""
        ...

    async def score(self, room: str, event: dict[str, Any]) -> str:
        """The event's id on the must lane."""
        ...

    async def snapshot(self, room: str, peer: bytes) -> wire.Message:
        """What is so in a room just now. `peer` is the address that came with the connection, or nothing."""
        ...

    @property
    def office(self) -> Office: ...

    def adopt(self, sock_fd: int, head: bytes, peer: bytes) -> None:
        """Takes a connection whose next request, a stream's, has been read: `head`, and what came behind it. `peer` is
        what came with the connection (serving.Handler.peer). Owns the descriptor unless it raises."""
        ...

    def metrics(self) -> str | bytes: ...

    def healthy(self) -> bool: ...

    def ready(self) -> bool: ...


def build(service: Service) -> web.Application:
    """The public application."""
    app = _application(service)
    public = Public(service)
    app.router.add_get("/", _page("index.html"))
    for file in sorted(PAGES.iterdir()):
        if file.suffix in (".js", ".css", ".svg"):
            app.router.add_get(f"/static/{file.name}", _page(file.name))
    app.router.add_get("/healthz", _check(service.healthy))
    app.router.add_get("/v1/rooms/{room}", public.snapshot)
    app.router.add_post("/v1/rooms/{room}/comments", public.comment)
    app.router.add_post("/v1/rooms/{room}/reactions", public.react)
    app.router.add_post("/v1/rooms/{room}/score", public.score)
    Moderation(service.office, public.speaker, public.body).routes(app.router)
    for kind in ("ws", "sse", "poll"):
        app.router.add_get(f"/v1/rooms/{{room}}/{kind}", public.stream, allow_head=False)
    return app


def build_private(service: Service) -> web.Application:
    """The application of the private listener."""

    async def metrics(request: web.Request) -> web.Response:
        text = service.metrics()
        body = text.encode() if isinstance(text, str) else text
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    app = _application(service)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", _check(service.healthy))
    app.router.add_get("/readyz", _check(service.ready))
    return app


def _application(service: Service) -> web.Application:
    app = web.Application(middlewares=[answers])
    app[COMMON] = common_headers(service.cors_origin)
    return app


class Public:
    """The handlers of /v1."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def snapshot(self, request: web.Request) -> web.Response:
        room = _room(request)
        self._identify(request).check("read", room)
        return answer(await self.service.snapshot(room, _peer(request)))

    async def comment(self, request: web.Request) -> web.Response:
        room = _room(request)
        identity = self.speaker(request)
        if "paid" not in identity.scopes:
            identity.check("comment", room)
        body = wire.decode_comment(await self.body(request))
        ack = await self._taken(request, identity, room, body)
        _check_ack(ack)
        return answer({"id": ack["id"], "status": ack["status"]}, 201)

    async def _taken(self, request: web.Request, identity: Identity, room: str, body: wire.CommentBody) -> wire.Message:
        if body.paid is not None:
            key = _once("Idempotency-Key", request.headers.getall("Idempotency-Key", []))
            return await self.service.pay(identity, room, body, key)
        identity.check("comment", room)
        if body.u is not None:
            raise EdgeError("forbidden", "only a comment that is paid for names its author")
        return await self.service.comment(identity, room, body, _peer(request))

    async def react(self, request: web.Request) -> web.Response:
        room = _room(request)
        identity = self.speaker(request)
        identity.check("comment", room)
        self.service.react(identity, room, wire.decode_reaction(await self.body(request)))
        return answer({}, 202)

    async def score(self, request: web.Request) -> web.Response:
        room = _room(request)
        identity = self.speaker(request)
        identity.check("score", room)
        event = wire.decode_event(await self.body(request))
        return answer({"id": await self.service.score(room, event)}, 201)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        _room(request)
        # The engine reads the target as it is written. One that only decodes to a stream's is none to it.
        if request.raw_path.partition("?")[0] != request.path:
            raise EdgeError("not_found")
        return hand_over(request, self.service.adopt)

    def _identify(self, request: web.Request) -> Identity:
        return self.service.identify(*_credentials(request))

    def speaker(self, request: web.Request) -> Identity:
        """Somebody with a name: viewing may be free, speaking is not."""
        token, user = _credentials(request)
        if token is None and user is None:
            raise EdgeError("unauthorized")
        return self.service.identify(token, user)

    async def body(self, request: web.Request, most: int = 0) -> bytes:
        """As large as is set, or `most`. It is UTF-8, also where what reads it passes over things."""
        most = most or self.service.body_bytes
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise EdgeError("bad_request", "the body is compressed, which is not taken here")
        data = bytearray()
        try:
            async with asyncio.timeout(BODY_S):
                if (request.content_length or 0) <= most:
                    async for part in request.content.iter_any():
                        data += part
                        if len(data) > most:
                            break
                    else:
                        return _checked(bytes(data))
                raise EdgeError("too_large", f"the body has more than {most} bytes")
        except TimeoutError:
            raise EdgeError("timeout", f"the body did not arrive within {BODY_S:g} s") from None


def _checked(body: bytes) -> bytes:
    try:
        body.decode()
    except UnicodeDecodeError:
        raise EdgeError("bad_json", "the body is not UTF-8") from None
    return body


def _check_ack(ack: wire.Message) -> None:
    """Raises what the author is to be told, unless the comment is in."""
    if ack["status"] in ("published", "pending"):
        return
    if ack["status"] == "unknown":
        words = "it is not known whether the comment was stored; send it again with the same ref"
        raise EdgeError("unavailable", words, retry_after=ack.get("retry_after", 1))
    name = ack.get("error")
    raise EdgeError(name if name in PROBLEMS else "forbidden", ack.get("message"), retry_after=ack.get("retry_after"))


def _peer(request: web.Request) -> bytes:
    """The viewer's address in 16 bytes: as it came with the connection (that may be a PROXY header's), else its own."""
    found: bytes = getattr(request.protocol, "peer", b"")
    if found or request.transport is None:
        return found
    name = request.transport.get_extra_info("peername")
    try:
        address = ipaddress.ip_address(name[0].partition("%")[0])
    except (TypeError, ValueError, IndexError, AttributeError):
        return b""
    return MAPPED + address.packed if address.version == 4 else address.packed


def _room(request: web.Request) -> str:
    return wire.check_room(request.match_info["room"])


def _credentials(request: web.Request) -> tuple[str | None, str | None]:
    """The token (the header goes before the query) and the `user` of dev."""
    header = _once("Authorization", request.headers.getall("Authorization", []))
    token = _once("token", request.query.getall("token", []))
    user = _once("user", request.query.getall("user", []))
    if header is not None:
        scheme, _, bearer = header.partition(" ")
        if scheme.lower() == "bearer":  # another scheme is between the client and whoever stands in front
            token = bearer.strip()
    return token, user


def _once(name: str, values: list[str]) -> str | None:
    """Two of them might be read in one way here and in another by whoever checked them before."""
    if len(values) > 1:
        raise EdgeError("bad_request", f"{name} is given more than once")
    return values[0] if values else None


def _page(name: str) -> Callable[[web.Request], Any]:
    body = (PAGES / name).read_bytes()
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    headers = {"Cache-Control": "no-cache", "Referrer-Policy": "no-referrer"}
    if kind == "text/html":
        headers["Content-Security-Policy"] = PAGE_POLICY

    async def page(request: web.Request) -> web.Response:
        charset = None if kind.startswith("image/") else "utf-8"
        return web.Response(body=body, content_type=kind, charset=charset, headers=headers)

    return page


def _check(true: Callable[[], bool]) -> Callable[[web.Request], Any]:
    async def check(request: web.Request) -> web.Response:
        ok = true()
        return web.Response(text="ok\n" if ok else "no\n", status=200 if ok else 503)

    return check
