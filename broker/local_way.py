# A worker's way to the broker of its box: one connection over a unix socket, made again whenever it breaks, and the
# calls under way on it. It must never guess how a call ended whose answer it did not see.

import asyncio
import logging
import os
import random
from collections.abc import Callable
from typing import Any, Protocol, cast

from broker import envelope
from broker.base import BrokerError, Closed, Full, Unavailable, Unsettled
from broker.envelope import BadEnvelope, Envelopes, pack
from broker.local_server import SOCKET_PATH_BYTES

log = logging.getLogger("broker")

UNSENT_BYTES = 8 * 1024 * 1024
"""With this much unsent, a write is refused as Unavailable: the broker does not read."""
BACKOFF_S = (0.02, 2.0)

Answer = Callable[[list[Any] | None], None]
"""Called once for each request: with the answer, or with None when the connection was lost before it."""


class News(Protocol):
    """What the way tells its owner."""

    def way_up(self, store: int) -> None:
        """There is a new connection, to the life `store` of the broker. Called before anything else is sent on it."""
        ...

    def way_down(self) -> None:
        """The connection has ended. Called before any call of it is told."""
        ...

    def way_pushed(self, push: int, arguments: list[Any]) -> None: ...


class Wire(asyncio.Protocol):
    """One connection: bytes to envelopes, and the news of its end."""

    def __init__(self, way: "Way") -> None:
        self.way = way
        self.envelopes = Envelopes()
        self.greeted = False
        self.ended = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # which uvloop's is not, but for its methods

    def data_received(self, data: bytes) -> None:
        self.envelopes.feed(data)
        try:
            while not self.transport.is_closing() and (parts := self.envelopes.take()) is not None:
                if self.greeted:
                    self.way.received(parts)
                    continue
                if parts[1:2] != [envelope.VERSION]:
                    raise BadEnvelope(f"the broker speaks {parts[1:]}, this worker version {envelope.VERSION}")
                self.greeted = True
                self.way.greeted(self, parts[2])
        except (BadEnvelope, TypeError, ValueError, IndexError) as bad:
            log.error("the broker sent what is no answer (%s: %s)", type(bad).__name__, bad)
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.way.lost(self)
        if not self.ended.done():
            self.ended.set_result(None)


class Way:
    """Connected from `open` on, until `close`."""

    def __init__(self, path: str, wait_s: float, news: News) -> None:
        if not path or len(os.fsencode(path)) > SOCKET_PATH_BYTES:
            raise ValueError(f"broker socket {path!r}: 1 to {SOCKET_PATH_BYTES} bytes")
        self.path = path
        self.wait_s = wait_s
        self.connects = 0
        self.closed = False
        self.wire: Wire | None = None
        self._news = news
        self._answers: dict[int, Answer] = {}
        self._number = 0
        self._ready = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    def open(self) -> None:
        if self.closed:
            raise Closed("this broker has been closed")
        if self._keeper is None:
            self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        self.closed = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        self._ready.set()  # whoever waits for a connection sees that there will be none

    def send(self, answer: Answer, op: int, *arguments: Any) -> int:
        assert self.wire is not None
        self._number += 1
        request = pack(self._number, op, *arguments)
        self._answers[self._number] = answer
        self.wire.transport.write(request)
        return self._number

    @property
    def full(self) -> bool:
        return self.wire is not None and self.wire.transport.get_write_buffer_size() > UNSENT_BYTES

    def tell(self, op: int, *arguments: Any) -> None:
        """Sends what needs no answer, if there is a connection."""
        if self.wire is not None:
            self.send(lambda answer: None, op, *arguments)

    async def ask(self, wait_s: float, op: int, *arguments: Any) -> list[Any] | None:
        """Sends it once, on the connection that there is. None: how it ended is not known."""
        future: asyncio.Future[list[Any] | None] = asyncio.get_running_loop().create_future()
        number = self.send(lambda answer: None if future.done() else future.set_result(answer), op, *arguments)
        try:
            async with asyncio.timeout(wait_s):
                return await future
        except TimeoutError:
            return None
        finally:
            self._answers.pop(number, None)

    async def write(self, op: int, *arguments: Any) -> list[Any] | None:
        """As `ask`, after waiting for the very first connection. Raises Unavailable if it has not been sent."""
        self.open()
        if not self.connects:
            await self._wait_ready(asyncio.get_running_loop().time() + self.wait_s)
        if self.wire is None:
            raise Unavailable("the broker of this box can't be reached")
        if self.full:
            raise Unavailable("the broker of this box does not read")
        return await self.ask(self.wait_s, op, *arguments)

    async def read(self, use: Callable[[list[Any]], Any], op: int, *arguments: Any) -> Any:
        """Asks until there is an answer or `wait_s` is over, and gives what `use` makes of it, at once as it comes."""
        self.open()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.wait_s
        while True:
            await self._wait_ready(deadline)
            future: asyncio.Future[Any] = loop.create_future()

            def answered(answer: list[Any] | None, future: asyncio.Future[Any] = future) -> None:
                if future.done():
                    return
                try:
                    future.set_result(None if answer is None else (use(result(answer)),))
                except Exception as refused:
                    future.set_exception(refused)

            number = self.send(answered, op, *arguments)
            try:
                async with asyncio.timeout_at(deadline):
                    found = await future
            except TimeoutError:
                raise Unavailable(f"the broker of this box has not answered for {self.wait_s:g} s") from None
            finally:
                self._answers.pop(number, None)
            if found is not None:
                return found[0]

    def greeted(self, wire: Wire, store: int) -> None:
        self.wire = wire
        self.connects += 1
        self._news.way_up(store)
        self._ready.set()

    def received(self, parts: list[Any]) -> None:
        number = parts[0]
        if not number:
            self._news.way_pushed(parts[1], parts[2:])
            return
        answer = self._answers.pop(number, None)
        if answer is not None:  # its caller may have given up
            answer(parts[1:])

    def lost(self, wire: Wire) -> None:
        if self.wire is not wire:
            return
        self.wire = None
        self._ready.clear()
        self._news.way_down()
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            answer(None)

    async def _keep(self) -> None:
        """Holds a connection until it is cancelled."""
        loop = asyncio.get_running_loop()
        pause_s, most_s = BACKOFF_S
        wire: Wire | None = None
        try:
            while not self.closed:
                try:
                    _, wire = await loop.create_unix_connection(lambda: Wire(self), self.path)
                    if not self.closed:
                        await wire.ended
                    if wire.greeted:
                        pause_s = BACKOFF_S[0]
                except OSError as refused:
                    log.debug("broker socket %s: %s", self.path, refused)
                await asyncio.sleep(random.uniform(0, pause_s))
                pause_s = min(pause_s * 2, most_s)
        finally:
            if wire is not None:
                wire.transport.abort()
                self.lost(wire)

    async def _wait_ready(self, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                while self.wire is None and not self.closed:
                    await self._ready.wait()
        except TimeoutError:
            raise Unavailable(f"the broker of this box can't be reached at {self.path}") from None
        if self.closed:
            raise Closed("this broker has been closed")


REFUSALS: dict[str, type[BrokerError]] = {"full": Full, "away": Unavailable, "unsettled": Unsettled}


def result(answer: list[Any]) -> list[Any]:
    """What a request gave, or the error that it ended with."""
    if answer[0] == 0:
        return answer[1:]
    name, text = answer[1:]
    raise REFUSALS.get(name, ValueError)(text)
