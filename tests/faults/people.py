# Who is there while things break: viewers that come again with their position, and authors who say again what was not
# acknowledged. It owns what they have seen and what they were told. It must never do what a client would not.

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
import websockets

from edge.wire import comment_id
from tests.faults.truth import PUBLISHED, REJECTED, UNKNOWN, Message, Said, Truth
from tests.server import Server
from tests.viewers import Seat, viewer

ANSWER_S = 10.0
GONE = (OSError, TimeoutError, aiohttp.ClientError, websockets.WebSocketException, AssertionError)
"""What a client sees of a box that has gone. An AssertionError: the helpers of tests say so of a half answer."""


class Watcher:
    """A viewer that comes again with its position when its box goes. `seen` has what it was given, by id; `at` when
    each comment and score first came, `batch_at` when batches did; `told` the news of trouble, with when."""

    def __init__(self, who: str, room: str, boxes: Callable[[], Sequence[Server]], kind: str = "json") -> None:
        self.who = who
        self.room = room
        self.kind = kind
        self.seat = Seat()
        self.seen: dict[str, Message] = {}
        self.at: dict[str, float] = {}
        self.batch_at: list[float] = []
        self.told: list[tuple[float, Any]] = []
        self.gaps: list[Message] = []
        self.anew = 0
        self.wrong: AssertionError | None = None
        self._boxes = boxes
        self._turn = 0

    async def run(self) -> None:
        while self.wrong is None:
            boxes = self._boxes()
            if boxes:
                self._turn += 1
                with contextlib.suppress(*GONE):
                    await self._stay(boxes[self._turn % len(boxes)])
            await asyncio.sleep(0.05)

    async def _stay(self, box: Server) -> None:
        query = {"since": self.seat.since} if self.seat.incarnation else {}
        async with viewer(box, self.kind, self.room, **query) as one:
            if query and not one.hello["resumed"]:
                self.anew += 1
                self.seen.clear()  # another numbering, or too far behind
            elif query and one.hello["since"] != query["since"]:
                self.wrong = AssertionError(f"{self.who}: resumed at {one.hello['since']}, not {query['since']}")
            self.seat = one.seat
            while self.wrong is None:
                message = await one._next()
                try:
                    one.seat.take(message)
                    self._take(message)
                except AssertionError as wrong:
                    self.wrong = wrong

    def _take(self, message: Message) -> None:
        now = time.monotonic()
        if message["t"] == "gap":
            self.gaps.append(message)
        elif "id" not in message:
            if message["t"] == "state" and (not self.told or self.told[-1][1] != message["trouble"]):
                self.told.append((now, message["trouble"]))
        else:
            before = self.seen.setdefault(message["id"], message)
            assert before == message, f"{self.who}: {message['id']} was {before}, and is {message}"
            if before is message and message["t"] == "batch":
                self.batch_at.append(now)
            for key in (message.get("e", {}).get("key", ""), *(it["id"] for it in message.get("m", ()))):
                self.at.setdefault(key, now)

    @property
    def shown(self) -> list[str]:
        return [it["id"] for message in self.seen.values() for it in message.get("m", ())]


class Author:
    """One who speaks in a room at one box, a comment at a time. `again`: what is not acknowledged is said again, with
    the same ref."""

    def __init__(self, truth: Truth, name: str, room: str) -> None:
        self.truth = truth
        self.name = name
        self.room = room
        self.count = 0
        self.acked_at: dict[str, float] = {}
        self.lacking: list[str] = []  # refusals that did not say when to come again

    async def comment(self, box: Server, again: Callable[[], Server | None] = lambda: None) -> tuple[str, str]:
        """Its id and status."""
        self.count += 1
        ref = f"{self.name}-{self.count}"
        made = comment_id(self.name, ref)
        said = self.truth.comments[made] = Said(self.room, self.name, self.count)
        body = {"x": f"comment {ref}", "ref": ref}
        at: Server | None = box
        while at is not None:
            said.told(await self._post(at, "comments", body))
            if said.status == PUBLISHED:
                self.acked_at[made] = time.monotonic()
                break
            at = again()
            await asyncio.sleep(0.05)
        return made, said.status

    async def score(self, box: Server) -> tuple[str, str]:
        self.count += 1
        key = f"{self.name}-{self.count}"
        said = self.truth.scores[key] = Said(self.room, self.name, self.count)
        said.told(await self._post(box, "score", {"key": key}))
        return key, said.status

    async def _post(self, box: Server, what: str, body: dict[str, Any]) -> str:
        url = f"{box.url}/v1/rooms/{self.room}/{what}"
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as http,
                http.post(url, params={"user": self.name}, json=body) as answer,
            ):
                told = await answer.json()
                if answer.status == 201:
                    return PUBLISHED
                assert answer.status == 503, told
                if "Retry-After" not in answer.headers:
                    self.lacking.append(str(told))
                return UNKNOWN if "not known" in told["message"] else REJECTED
        except aiohttp.ClientConnectorError:
            return REJECTED
        except (OSError, TimeoutError, aiohttp.ClientError):
            return UNKNOWN
