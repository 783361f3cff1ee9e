# The broker of one box as its workers see it: LocalBroker, a Broker over a unix socket, and `serve`, the process at
# the other end. It owns one connection, the calls under way on it and the position of each subscription. It must never
# guess how a call ended whose answer it did not see, nor pass a batch on past a hole.

import asyncio
import logging
import os
import random
from collections.abc import Callable
from typing import Any, cast

from broker import envelope
from broker.base import (
    CHAT,
    LANES,
    MUST,
    UNKNOWN,
    BrokerError,
    Closed,
    Entry,
    Full,
    Kind,
    Outcome,
    Sink,
    Tail,
    Unavailable,
    check_append,
    check_lane,
    check_room,
)
from broker.envelope import BadEnvelope, Envelopes, pack
from broker.local_server import SOCKET_PATH_BYTES, serve

__all__ = ["LocalBroker", "serve"]

log = logging.getLogger("broker")

UNSENT_BYTES = 8 * 1024 * 1024
"""With this much unsent, an append is refused as Unavailable: the broker does not read."""
BACKOFF_S = (0.02, 2.0)
REPAIR_AGAIN_S = 1.0

Answer = Callable[[list[Any] | None], None]
"""Called once for each request: with the answer, or with None when the connection was lost before it."""


class Subscription:
    __slots__ = ("heads", "held", "incarnation", "live", "repairing", "room", "sink")

    def __init__(self, room: str, sink: Sink) -> None:
        self.room = room
        self.sink = sink
        self.incarnation = 0  # 0 until the first tail is here
        self.heads = [0, 0]
        self.held: list[tuple[int, int, bytes]] = []  # until the caller of subscribe has its tail
        self.live = False
        self.repairing = False

    def deliver(self, lane: int, seq: int, data: bytes) -> bool:
        """False if there is a hole before this batch."""
        if seq <= self.heads[lane]:
            return True
        if seq != self.heads[lane] + 1:
            return False
        self.heads[lane] = seq
        if self.live:
            self._pass_on(lane, seq, data)
        else:
            self.held.append((lane, seq, data))
        return True

    def release(self) -> None:
        self.live = True
        held, self.held = self.held, []
        for lane, seq, data in held:
            self._pass_on(lane, seq, data)

    def reset(self, tail: Tail) -> None:
        self.incarnation = tail.incarnation
        self.heads = list(tail.heads)
        self.held.clear()
        try:
            self.sink.reset(self.room, tail)
        except Exception:
            log.exception("a subscriber of room %s failed on a reset", self.room)

    def _pass_on(self, lane: int, seq: int, data: bytes) -> None:
        try:
            self.sink.batch(self.room, lane, seq, data)
        except Exception:
            log.exception("a subscriber of room %s failed on lane %d, batch %d", self.room, lane, seq)


class Wire(asyncio.Protocol):
    """One connection: bytes to envelopes, and the news of its end."""

    def __init__(self, owner: "LocalBroker") -> None:
        self.owner = owner
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
                    self.owner._received(parts)
                    continue
                if parts[1:] != [envelope.VERSION]:
                    raise BadEnvelope(f"the broker speaks {parts[1:]}, this worker version {envelope.VERSION}")
                self.greeted = True
                self.owner._connected(self)
        except (BadEnvelope, TypeError, ValueError, IndexError) as bad:
            log.error("the broker sent what is no answer (%s: %s)", type(bad).__name__, bad)
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.owner._lost(self)
        if not self.ended.done():
            self.ended.set_result(None)


class LocalBroker:
    """A Broker over the unix socket at `path`, connected at the first call and again whenever the way breaks.

    Reads and subscriptions wait up to `wait_s` for a connection, and are sent again on a new one. An append waits only
    for the first connection; one that has been sent ends as UNKNOWN after `wait_s` or when the connection is lost."""

    def __init__(self, path: str, wait_s: float = 5.0) -> None:
        if not path or len(os.fsencode(path)) > SOCKET_PATH_BYTES:
            raise ValueError(f"broker socket {path!r}: 1 to {SOCKET_PATH_BYTES} bytes")
        self.path = path
        self.wait_s = wait_s
        self.connects = 0
        self._subscriptions: dict[str, Subscription] = {}
        self._answers: dict[int, Answer] = {}
        self._number = 0
        self._wire: Wire | None = None
        self._ready = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def connected(self) -> bool:
        return self._wire is not None

    async def append(self, room: str, lane: int, batch: bytes, expected: int) -> Outcome:
        check_append(room, lane, batch, expected)
        self._open()
        if not self.connects:
            await self._wait_ready(asyncio.get_running_loop().time() + self.wait_s)
        if self._wire is None:
            raise Unavailable("the broker of this box can't be reached")
        if self._wire.transport.get_write_buffer_size() > UNSENT_BYTES:
            raise Unavailable("the broker of this box does not read")
        number, future = self._call(envelope.APPEND, room, lane, batch, expected)
        try:
            async with asyncio.timeout(self.wait_s):
                answer = await future
        except TimeoutError:
            return UNKNOWN
        finally:
            self._answers.pop(number, None)
        if answer is None:
            return UNKNOWN
        kind, head = result(answer)
        return Outcome(Kind(kind), head)

    async def subscribe(self, room: str, sink: Sink) -> Tail:
        check_room(room)
        self._open()
        if room in self._subscriptions:
            raise ValueError(f"room {room} is subscribed already")
        own = self._subscriptions[room] = Subscription(room, sink)

        def answered(answer: list[Any]) -> Tail:
            # Here, not where the future is awaited: the next envelope may be a batch that follows on this tail.
            _, incarnation, must, chat, *heads = result(answer)
            own.incarnation, own.heads, own.held = incarnation, list(heads), []
            return Tail(incarnation, entries(must), entries(chat), (heads[MUST], heads[CHAT]))

        try:
            tail: Tail = await self._read(answered, envelope.SUBSCRIBE, room, 0, 0, 0)
        except BaseException:
            await self.unsubscribe(room)
            raise
        asyncio.get_running_loop().call_soon(own.release)
        return tail

    async def unsubscribe(self, room: str) -> None:
        own = self._subscriptions.pop(room, None)
        if own is None:
            return
        own.held.clear()
        if self._wire is not None:
            self._send(lambda answer: None, envelope.UNSUBSCRIBE, room)

    async def head(self, room: str, lane: int) -> int:
        check_lane(lane)
        self._open()
        found: int = await self._read(lambda answer: result(answer)[0], envelope.HEAD, room, lane)
        return found

    async def tail(self, room: str, lane: int, after: int) -> list[Entry]:
        check_lane(lane)
        self._open()
        found: list[Entry] = await self._read(
            lambda answer: entries(result(answer)[0]), envelope.TAIL, room, lane, after
        )
        return found

    async def close(self) -> None:
        self._closed = True
        self._subscriptions.clear()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        self._ready.set()  # whoever waits for a connection sees that there will be none

    def _open(self) -> None:
        if self._closed:
            raise Closed("this broker has been closed")
        if self._keeper is None:
            self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def _keep(self) -> None:
        """Holds a connection until it is cancelled."""
        loop = asyncio.get_running_loop()
        pause_s, most_s = BACKOFF_S
        wire: Wire | None = None
        try:
            while True:
                try:
                    _, wire = await loop.create_unix_connection(lambda: Wire(self), self.path)
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
                self._lost(wire)

    def _connected(self, wire: Wire) -> None:
        self._wire = wire
        self.connects += 1
        self._ready.set()
        for own in self._subscriptions.values():
            if own.incarnation:  # the others are still being asked for by their callers
                self._repair(own)

    def _lost(self, wire: Wire) -> None:
        if self._wire is not wire:
            return
        self._wire = None
        self._ready.clear()
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            answer(None)

    def _received(self, parts: list[Any]) -> None:
        number = parts[0]
        if number:
            answer = self._answers.pop(number, None)
            if answer is not None:  # its caller may have given up
                answer(parts[1:])
            return
        _, room, lane, seq, data = parts
        own = self._subscriptions.get(room)
        # Without an incarnation this is the rest of an earlier subscription, which this one's tail will contain.
        if own is not None and own.incarnation and not own.deliver(lane, seq, data):
            self._repair(own)

    def _repair(self, own: Subscription) -> None:
        """Ask for what follows on what the sink has. What is pushed before the answer is in the answer."""

        def answered(answer: list[Any] | None) -> None:
            own.repairing = False
            if self._subscriptions.get(own.room) is not own or answer is None:
                return  # lost: the next connection repairs
            try:
                resumed, incarnation, must, chat, *heads = result(answer)
            except BrokerError as refused:
                log.error("room %s: the broker refuses to subscribe it again: %s", own.room, refused)
                asyncio.get_running_loop().call_later(REPAIR_AGAIN_S, self._repair_again, own)
                return
            if resumed and all(own.deliver(lane, *entry) for lane in LANES for entry in (must, chat)[lane]):
                return
            own.reset(Tail(incarnation, entries(must), entries(chat), (heads[MUST], heads[CHAT])))

        if not own.repairing:
            own.repairing = True
            self._send(answered, envelope.SUBSCRIBE, own.room, own.incarnation, *own.heads)

    def _repair_again(self, own: Subscription) -> None:
        if self._wire is not None and self._subscriptions.get(own.room) is own:
            self._repair(own)

    def _send(self, answer: Answer, op: int, *arguments: Any) -> int:
        assert self._wire is not None
        self._number += 1
        request = pack(self._number, op, *arguments)
        self._answers[self._number] = answer
        self._wire.transport.write(request)
        return self._number

    def _call(self, op: int, *arguments: Any) -> tuple[int, asyncio.Future[list[Any] | None]]:
        future: asyncio.Future[list[Any] | None] = asyncio.get_running_loop().create_future()
        return self._send(lambda answer: None if future.done() else future.set_result(answer), op, *arguments), future

    async def _read(self, use: Callable[[list[Any]], Any], op: int, *arguments: Any) -> Any:
        """Asks until there is an answer or `wait_s` is over, and gives what `use` makes of it, at once as it comes."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.wait_s
        while True:
            await self._wait_ready(deadline)
            future: asyncio.Future[Any] = loop.create_future()

            def answered(answer: list[Any] | None, future: asyncio.Future[Any] = future) -> None:
                if future.done():
                    return
                try:
                    future.set_result(None if answer is None else (use(answer),))
                except Exception as refused:
                    future.set_exception(refused)

            number = self._send(answered, op, *arguments)
            try:
                async with asyncio.timeout_at(deadline):
                    found = await future
            except TimeoutError:
                raise Unavailable(f"the broker of this box has not answered for {self.wait_s:g} s") from None
            finally:
                self._answers.pop(number, None)
            if found is not None:
                return found[0]

    async def _wait_ready(self, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                while self._wire is None and not self._closed:
                    await self._ready.wait()
        except TimeoutError:
            raise Unavailable(f"the broker of this box can't be reached at {self.path}") from None
        if self._closed:
            raise Closed("this broker has been closed")


def result(answer: list[Any]) -> list[Any]:
    """What a request gave, or the error that it ended with."""
    if answer[0] == 0:
        return answer[1:]
    name, text = answer[1:]
    raise Full(text) if name == "full" else ValueError(text)


def entries(found: list[Any]) -> list[Entry]:
    return [(seq, data) for seq, data in found]
