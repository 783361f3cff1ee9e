"""Viewers of every kind, on clients that nobody here wrote: `websockets` for sockets, aiohttp for streams and polls.

Each checks what the protocol promises of positions: on each lane ids are contiguous, but for the gaps that are
announced, and the position it is told is the one it has counted.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import aiohttp
import msgpack
import websockets
import zstandard

from tests.server import PATIENCE_S, Server

SOCKETS = ("json", "msgpack", "zstd", "deflate")
STREAMS = (*SOCKETS, "sse")
ALL = (*STREAMS, "poll")
PROTOCOLS = {
    "json": "edge.v1.json",
    "msgpack": "edge.v1.msgpack",
    "zstd": "edge.v1.msgpack.zstd",
    "deflate": "edge.v1.json",
}

Message = dict[str, Any]


class Seat:
    """Where a viewer is on each lane."""

    def __init__(self) -> None:
        self.incarnation = 0
        self.at: dict[str, int | None] = {"m": None, "c": None}  # None: not known yet (a poll begins without a hello)

    @property
    def since(self) -> str:
        return f"i{self.incarnation}.m{self.at['m'] or 0}.c{self.at['c'] or 0}"

    @since.setter
    def since(self, vector: str) -> None:
        found = re.fullmatch(r"i([1-9]\d*)\.m(0|[1-9]\d*)\.c(0|[1-9]\d*)", vector)
        assert found, vector
        self.incarnation, self.at["m"], self.at["c"] = map(int, found.groups())

    def take(self, message: Message) -> None:
        if message["t"] == "hello":
            self.since = message["since"]
        elif message["t"] == "gap":
            lane, first, last = message["from"][0], int(message["from"][1:]), int(message["to"][1:])
            assert message["to"][0] == lane
            assert last >= first
            assert self.at[lane] in (None, first - 1), f"{message} at {self.since}"
            self.at[lane] = last
        elif message["t"] != "ack" and "id" in message:
            lane, number = message["id"][0], int(message["id"][1:])
            assert lane == ("c" if message["t"] == "batch" else "m")
            assert self.at[lane] in (None, number - 1), f"{message['id']} at {self.since}"
            self.at[lane] = number


class Viewer:
    """`next` gives messages, one at a time, the hello first where there is one."""

    def __init__(self) -> None:
        self.seat = Seat()
        self.hello: Message = {}

    async def next(self) -> Message:
        async with asyncio.timeout(PATIENCE_S):
            message = await self._next()
        self.seat.take(message)
        self._check()
        return message

    async def _next(self) -> Message:
        raise NotImplementedError

    def _check(self) -> None:
        """Where the client is told its position, it is the one that it has counted."""

    async def until(self, kind: str) -> Message:
        while (message := await self.next())["t"] != kind:
            pass
        return message

    async def texts(self, count: int) -> list[str]:
        """The next comments' texts; whatever is on the other lane is passed over."""
        found: list[str] = []
        while len(found) < count:
            message = await self.next()
            assert message["t"] != "gap", message
            if message["t"] == "batch":
                found += [comment["x"] for comment in message["m"]]
        return found

    async def upto(self, *ids: str) -> list[Message]:
        """All messages until these have come, the last of them the last."""
        missing, found = set(ids), []
        while missing:
            found.append(await self.next())
            missing.discard(found[-1].get("id", ""))
        return found


class Socket(Viewer):
    def __init__(self, kind: str, connection: websockets.ClientConnection) -> None:
        super().__init__()
        self.kind = kind
        self.connection = connection

    async def _next(self) -> Message:
        return self.decode(await self.connection.recv())

    def decode(self, data: str | bytes) -> Message:
        if self.kind in ("json", "deflate"):
            assert isinstance(data, str)
            message = json.loads(data)
        else:
            assert isinstance(data, bytes)
            if self.kind == "zstd":
                data = zstandard.ZstdDecompressor().decompress(data)
            message = msgpack.unpackb(data)
        assert isinstance(message, dict)
        return message

    async def say(self, **op: Any) -> None:
        if self.kind in ("json", "deflate"):
            await self.connection.send(json.dumps(op))
        else:
            data = msgpack.packb(op)
            await self.connection.send(zstandard.ZstdCompressor().compress(data) if self.kind == "zstd" else data)


class Events(Viewer):
    """text/event-stream, read as the HTML standard says."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        super().__init__()
        self.response = response
        self.last_id = ""
        self.retry_ms = 0

    async def _next(self) -> Message:
        name = data = ""
        while True:
            line = (await self.response.content.readline()).decode()
            assert line.endswith("\n"), "the stream has ended"
            field, _, value = line[:-1].partition(": ")
            if field == "id":
                self.last_id = value
            elif field == "event":
                name = value
            elif field == "data":
                data = value
            elif field == "retry":
                self.retry_ms = int(value)
            elif field == "" and data:
                message: Message = json.loads(data)
                assert message["t"] == name
                return message

    def _check(self) -> None:
        assert self.last_id == self.seat.since


class Polls(Viewer):
    """Asks again and again, from where the last answer ended."""

    def __init__(self, http: aiohttp.ClientSession, path: str, query: dict[str, Any]) -> None:
        super().__init__()
        self.http = http
        self.path = path
        self.query = query
        self.waiting: list[Message] = []
        self.answers = 0

    async def _next(self) -> Message:
        if not self.waiting and self.answers:
            assert self.seat.since == self.query["since"], "all up to the position that was told has been given"
        while not self.waiting:
            async with self.http.get(self.path, params=self.query) as answer:
                assert answer.status in (200, 204)
                self.answers += 1
                if answer.status == 204:
                    self.told(answer.headers["Edge-Since"])
                    continue
                body = await answer.json()
            assert body.keys() == {"since", "poll_ms", "m"}
            assert body["m"]
            assert body["poll_ms"] > 0
            self.waiting = body["m"]
            self.query = self.query | {"since": body["since"]}
            self.seat.incarnation = int(body["since"].partition(".")[0][1:])
        if self.answers == 1:
            self.known(self.waiting, self.query["since"])
        return self.waiting.pop(0)

    def told(self, since: str) -> None:
        self.query = self.query | {"since": since}
        self.seat.since = since

    def known(self, messages: list[Message], since: str) -> None:
        """A lane of which the first answer has nothing stands where that answer says."""
        end = Seat()
        end.since = since
        for lane in ("m", "c"):
            if self.seat.at[lane] is None and not any(m.get("id", m.get("from", ""))[0] == lane for m in messages):
                self.seat.at[lane] = end.at[lane]


@asynccontextmanager
async def viewer(server: Server, kind: str, room: str, **query: Any) -> AsyncIterator[Any]:
    """A viewer that has joined: of a stream, the hello has come."""
    path = f"/v1/rooms/{room}/"
    made: Viewer
    if kind in SOCKETS:
        async with websockets.connect(
            f"{server.ws}{path}ws?{urlencode(query)}",
            subprotocols=[websockets.Subprotocol(PROTOCOLS[kind])],
            compression="deflate" if kind == "deflate" else None,
            ping_interval=None,
            max_queue=None,  # what is not read would hold up the goodbye
            open_timeout=PATIENCE_S,
            close_timeout=PATIENCE_S,
            proxy=None,
        ) as connection:
            assert connection.subprotocol == PROTOCOLS[kind]
            made = Socket(kind, connection)
            made.hello = await made.next()
            assert made.hello["t"] == "hello"
            yield made
        return
    timeout = aiohttp.ClientTimeout(total=None, connect=PATIENCE_S)
    async with aiohttp.ClientSession(server.url, timeout=timeout) as http:
        if kind == "poll":
            made = Polls(http, f"{path}poll", query)
            if "since" in query:
                made.seat.since = query["since"]
            yield made
            return
        async with http.get(f"{path}sse", params=query) as response:
            assert response.status == 200
            assert response.content_type == "text/event-stream"
            made = Events(response)
            made.hello = await made.next()
            assert made.hello["t"] == "hello"
            yield made


class Publisher:
    """Says things in a room, by HTTP."""

    def __init__(self, http: aiohttp.ClientSession, room: str, user: str = "ann") -> None:
        self.http = http
        self.room = room
        self.user = user

    async def comment(self, text: str, **body: Any) -> str:
        """Its id, when it is in a batch: the next one is in another."""
        before = await self.head()
        told = await self.offer(text, **body)
        async with asyncio.timeout(PATIENCE_S):
            while await self.head() == before:  # noqa: ASYNC110 - another process makes it true
                await asyncio.sleep(0.002)
        return told

    async def offer(self, text: str, **body: Any) -> str:
        """Its id, when it is stored."""
        query = {"user": self.user}
        async with self.http.post(f"/v1/rooms/{self.room}/comments", params=query, json={"x": text, **body}) as answer:
            told = await answer.json()
            assert answer.status == 201, told
            assert told["status"] == "published"
            return str(told["id"])

    async def head(self) -> int:
        """The number of the newest batch."""
        async with self.http.get(f"/v1/rooms/{self.room}", params={"user": self.user}) as answer:
            return int((await answer.json())["last"]["chat"][1:])

    async def comments(self, *texts: str) -> None:
        for text in texts:
            await self.comment(text)

    async def score(self, **event: Any) -> str:
        async with self.http.post(f"/v1/rooms/{self.room}/score", params={"user": self.user}, json=event) as answer:
            told = await answer.json()
            assert answer.status == 201, told
            return str(told["id"])


@asynccontextmanager
async def publisher(server: Server, room: str, user: str = "ann") -> AsyncIterator[Publisher]:
    async with aiohttp.ClientSession(server.url) as http:
        yield Publisher(http, room, user)
