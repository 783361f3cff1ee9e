# A site with the room page whose streams follow a script: what the server would say, the test says. It owns the
# server's end of each of the page's WebSockets.

import asyncio
import json
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from websockets.frames import Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from edge import auth, wire
from edge.auth import Identity
from tests.web.chromium import Page

MARKUP = "<img src=x onerror=document.title='ran'>"
"""For text that must be shown as it stands."""
HOUR_MS = 3_600_000
# Which of these selectors' text has less contrast to its ground than WCAG AA asks for.
FAINT = """(all => {
  const part = x => (x /= 255) <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4;
  const light = c => {
    const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map(part);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = e => {
    const c = getComputedStyle(e).backgroundColor;
    return c === 'rgba(0, 0, 0, 0)' ? behind(e.parentElement) : c;
  };
  const ratio = e => {
    const both = [light(getComputedStyle(e).color), light(behind(e))];
    return (Math.max(...both) + .05) / (Math.min(...both) + .05);
  };
  return all.filter(s => ratio(document.querySelector(s)) < 4.5);
})"""


def faint(*selectors: str) -> str:
    return f"{FAINT}({json.dumps(selectors)})"


async def until(true: Callable[[], Any], deadline_s: float = 15.0) -> None:
    async with asyncio.timeout(deadline_s):
        while not true():  # noqa: ASYNC110 - any condition at all
            await asyncio.sleep(0.005)


class Viewer:
    """The server's end of one WebSocket of the page."""

    def __init__(self, protocol: ServerProtocol, request: Request, writer: asyncio.StreamWriter) -> None:
        self.path = request.path
        self.ops: list[dict[str, Any]] = []
        self.gone = False
        self._protocol = protocol
        self._writer = writer

    def flush(self) -> None:
        for data in self._protocol.data_to_send():
            self._writer.write(data) if data else self._writer.close()

    def say(self, **message: Any) -> None:
        self._protocol.send_text(json.dumps(message).encode())
        self.flush()

    def close(self, code: int) -> None:
        self._protocol.send_close(code)
        self.flush()

    def cut(self) -> None:
        self._writer.transport.abort()

    def take(self, op: str) -> list[dict[str, Any]]:
        return [found for found in self.ops if found["op"] == op]


class Script:
    """A Service whose streams do what the test says: it takes over connections as the engine would."""

    body_bytes = 4096
    cors_origin = "*"
    office: Any = SimpleNamespace(desk=None, review=None, trail=None)

    def __init__(self) -> None:
        self.viewers: list[Viewer] = []
        self.scores: list[dict[str, Any]] = []
        self.reactions = {"fire": 15_000, "heart": 1234, "laugh": 0, "clap": 12, "wow": 0, "sad": 123_456}
        self._tasks: list[asyncio.Task[None]] = []

    def identify(self, token: str | None, user: str | None) -> Identity:
        return auth.dev(user or "nobody")

    async def comment(self, identity: Identity, room: str, body: wire.CommentBody, peer: bytes) -> wire.Message:
        raise NotImplementedError

    def react(self, identity: Identity, room: str, kind: str) -> None:
        raise NotImplementedError

    async def score(self, room: str, event: dict[str, Any]) -> str:
        self.scores.append(event)
        return "m1"

    async def snapshot(self, room: str, peer: bytes) -> wire.Message:
        return {"reactions": self.reactions}

    def metrics(self) -> str:
        return ""

    def healthy(self) -> bool:
        return True

    ready = healthy

    def adopt(self, sock_fd: int, head: bytes, peer: bytes) -> None:
        self._tasks.append(asyncio.create_task(self._stream(socket.socket(fileno=sock_fd), head)))

    async def _stream(self, sock: socket.socket, head: bytes) -> None:
        reader, writer = await asyncio.open_connection(sock=sock)
        protocol = ServerProtocol(subprotocols=["edge.v1.json"])  # type: ignore[list-item]
        protocol.receive_data(head)
        request = protocol.events_received()[0]
        assert isinstance(request, Request)
        protocol.send_response(protocol.accept(request))
        assert protocol.subprotocol == "edge.v1.json"
        viewer = Viewer(protocol, request, writer)
        viewer.flush()
        self.viewers.append(viewer)
        try:
            while data := await reader.read(65536):
                protocol.receive_data(data)
                viewer.ops += [json.loads(e.data) for e in protocol.events_received() if e.opcode is Opcode.TEXT]  # type: ignore[union-attr]
                viewer.flush()
        except ConnectionError:
            pass
        finally:
            viewer.gone = True
            writer.close()

    async def viewer(self, number: int = 0) -> Viewer:
        await until(lambda: len(self.viewers) > number)
        return self.viewers[number]

    async def stop(self) -> None:
        for viewer in self.viewers:
            viewer.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)


class Site:
    def __init__(self, script: Script, url: str) -> None:
        self.script = script
        self.url = url


HELLO = {"t": "hello", "since": "i3.m0.c0", "viewers": 1234, "resumed": False, "state": "live"}


def comment(id_: str, text: str = "", user: str = "bob", ts: int = 1_700_000_000_000, **more: Any) -> wire.Message:
    return wire.comment(id_, {"id": user, "name": user.title()}, text or f"text of {id_}", ts, **more)


async def joined(page: Page, site: Site, query: str = "room=demo&user=ann") -> Viewer:
    await page.go(f"{site.url}/?{query}")
    viewer = await site.script.viewer()
    viewer.say(**HELLO)
    await page.until("document.querySelector('#connection').innerText === 'live'")
    return viewer


def shown(selector: str) -> str:
    return f"document.querySelector({selector!r})?.checkVisibility()"


def says(selector: str, words: str) -> str:
    return f"{shown(selector)} && document.querySelector({selector!r}).innerText === {words!r}"


async def sent(page: Page, viewer: Viewer, text: str) -> dict[str, Any]:
    """What the page has sent for a comment that is typed."""
    before = len(viewer.take("comment"))
    await page.type("#text", text)
    await page.press("Enter")
    await until(lambda: len(viewer.take("comment")) > before)
    return viewer.take("comment")[-1]
