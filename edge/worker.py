# A worker: one process, one core, one loop. It alone joins the engine, the broker, the rooms and the HTTP application,
# and owns nothing that they could own. It must never block the loop, nor keep a Python object for a socket.
import asyncio
import contextlib
import contextvars
import gc
import logging
import secrets
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_plus

import msgspec
import uvloop
from aiohttp import web

import broker
from broker.base import CHAT, MUST, Broker, BrokerError, Tail
from edge import wire
from edge._fast import sys as fast_sys
from edge._fast.reactor import BINARY, Engine
from edge.api.app import build, build_private
from edge.api.serving import runner as http_runner
from edge.auth import Identity, Tokens, check_name, dev
from edge.config import Config
from edge.errors import EdgeError
from edge.metrics import Board
from edge.ops import Ops, ends, packed
from edge.options import can_migrate, capacity, engine_options, trusted_networks
from edge.publish import Lanes, Publisher
from edge.rooms.window import Done

log = logging.getLogger("edge.worker")

ANYBODY = Identity(user="", name="", scopes=frozenset({"read"}))
HTTP_CONNECTIONS = 384
LINGER_S = 30.0  # before a room that nobody watches any more is let go
GOODBYE_S = 2.0


class _Batch(msgspec.Struct):
    ts: int = 0
    m: list[msgspec.Raw] = []


class Room(Lanes):
    """A room that this worker publishes to or watches. While it is `followed` the engine has it, for viewers."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.key = name.encode()
        self.opening: asyncio.Task[None] | None = None
        self.parked: list[tuple[int, Identity]] = []
        self.idle_since = 0.0


class Worker:
    """The engine's upcalls, the HTTP application's Service and the broker's Sink, in one place."""

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        link: Broker,
        group: bool,
        number: int = 0,
        board: Board | None = None,
    ) -> None:
        self.config = config
        self.loop = loop
        self.broker = link
        self.number = number
        self.board = board or Board(1)
        self.body_bytes = config.limits.body_bytes
        self.cors_origin = config.server.cors_origin
        self.busy = busy_answer(self.cors_origin)
        self.anonymous = config.auth.anonymous_view or config.server.dev
        self.tokens = None
        if config.auth.hs256_key:
            self.tokens = Tokens(
                config.auth.hs256_key, audience=config.auth.audience or None, issuer=config.auth.issuer or None
            )
        self.rooms: dict[str, Room] = {}
        self.opens_waiting: deque[tuple[int, bytes, bytes | None, bytes | None]] = deque()
        self.tasks: set[asyncio.Task[Any]] = set()
        self.turning = False
        self.next_turn = self.turn  # bound once: a broadcast calls it a thousand times a second
        self.context = contextvars.copy_context()  # the same for all turns: a copy each would be for nothing
        self.stopping = False
        self.http: Any = None
        self.http_refused = 0
        self.arriving = 0  # connections on their way to the HTTP application
        self.engine = Engine(
            self,
            capacity(config),
            config.limits.rooms,
            secrets.randbits(64),
            engine_options(config, self.anonymous, group and can_migrate()),
            trusted_networks(config.server.proxy_trusted),
            config.server.cors_origin.encode(),
        )
        self.publisher = Publisher(link, config.streams.flush_ms, self._viewers, self.spawn)
        self.ops = Ops(
            self.engine,
            BINARY,
            config.limits.inflated_bytes,
            lambda token: self.identify(token, None),
            self._offer,
            self.soon,
        )
        loop.add_reader(self.engine.fileno(), self.readable)

    # The engine's turns. While sweeps run, a turn is taken once an iteration of the loop; else when there are events.

    def readable(self) -> None:
        if not self.turning:
            self.turn()

    def turn(self) -> None:
        try:
            self.turning = self.engine.tick()
        except Exception:  # of an upcall: one viewer's trouble must not stop all others
            log.exception("a turn")
            self.turning = True
        if self.turning:
            self.loop.call_soon(self.next_turn, context=self.context)

    def soon(self) -> None:
        if not self.turning:
            self.turning = True
            self.loop.call_soon(self.next_turn, context=self.context)

    def spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        task = self.loop.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    # What the engine tells.

    def handoffs(self, connections: list[tuple[int, bytes]]) -> None:
        for fd, peer in connections:
            sock = socket.socket(fileno=fd)
            if len(self.http.server.connections) + self.arriving >= HTTP_CONNECTIONS:
                with contextlib.suppress(OSError):
                    sock.recv(65536)  # what is unread when it is closed would make a reset of that, and lose the answer
                    sock.send(self.busy)
                self.http_refused += 1
                sock.close()
            else:
                self.arriving += 1
                self.spawn(self._serve_http(sock, peer))

    async def _serve_http(self, sock: socket.socket, peer: bytes) -> None:
        handler = self.http.server()
        handler.peer = peer
        try:
            await self.loop.connect_accepted_socket(lambda: handler, sock)
        except OSError:
            sock.close()
        finally:
            self.arriving -= 1

    def opens(self, requests: list[tuple[int, bytes, bytes | None, bytes | None]]) -> None:
        self.opens_waiting.extend(requests)
        if len(self.opens_waiting) == len(requests):
            self._admit_some()

    def _admit_some(self) -> None:
        # A bounded number each turn: verifying a token takes 30 us and more, and others wait meanwhile.
        for _ in range(min(len(self.opens_waiting), self.config.limits.tokens_per_tick)):
            id_, room, token, user = self.opens_waiting.popleft()
            try:
                identity = self.identify(_text(token), _unquoted(user))
                identity.check("read", room.decode())
                self._admit(id_, room.decode(), identity)
            except EdgeError as error:
                self._refuse(id_, error)
            except Exception:
                log.exception("a stream could not be admitted")
                self._refuse(id_, EdgeError("internal"))
        if self.opens_waiting:
            self.loop.call_soon(self._admit_some)
        self.soon()

    def _refuse(self, id_: int, error: EdgeError) -> None:
        words = "".join(c for c in error.message if c.isascii() and c.isprintable() and c not in '"\\')
        self.engine.refuse(id_, error.status, error.name.encode(), words.encode()[:200], int(error.retry_after or 0))

    def _admit(self, id_: int, name: str, identity: Identity) -> None:
        room = self._room(name)
        if not room.followed:
            room.parked.append((id_, identity))
            if room.opening is None:
                room.opening = self.spawn(self._open(room))
        elif identity.user:
            self.engine.admit(id_, room.key, identity.user.encode(), packed(identity), ends(identity))
        else:
            self.engine.admit(id_, room.key)

    def messages(self, messages: list[tuple[int, int, int, bytes]]) -> None:
        for message in messages:
            self.ops.take(*message)
        self.soon()

    # Rooms: opened for their first viewer, let go a while after the last.

    def _room(self, name: str) -> Room:
        room = self.rooms.get(name)
        if room is None:
            if len(self.rooms) >= self.config.limits.rooms:
                raise EdgeError("overloaded", "there are too many rooms", retry_after=5)
            room = self.rooms[name] = Room(name)
        return room

    async def _open(self, room: Room) -> None:
        try:
            tail = await self.broker.subscribe(room.name, self)
            self._fill(room, tail)
            room.followed = True
        except (BrokerError, ValueError) as error:
            log.warning("room %s does not open: %s", room.name, error)
        finally:
            room.opening = None
            parked, room.parked = room.parked, []
        for id_, identity in parked:
            if room.followed:
                self._admit(id_, room.name, identity)
            else:
                self._refuse(id_, EdgeError("unavailable", retry_after=2))
        self.soon()

    def _fill(self, room: Room, tail: Tail) -> None:
        first = [
            entries[0][0] - 1 if entries else head
            for entries, head in zip((tail.must, tail.chat), tail.heads, strict=True)
        ]
        self.engine.room_open(room.key, tail.incarnation, first[MUST], first[CHAT])
        for lane, entries in ((MUST, tail.must), (CHAT, tail.chat)):
            for seq, data in entries:
                self.batch(room.name, lane, seq, data)
        room.heads = list(tail.heads)

    def batch(self, room: str, lane: int, seq: int, data: bytes) -> None:
        it = self.rooms.get(room)
        if it is None:
            return  # let go just now
        try:
            found = msgspec.msgpack.decode(data, type=_Batch)
        except msgspec.DecodeError:
            found = _Batch()  # the engine tells its viewers of a gap in its place
        it.stamp(lane, found.ts)
        self.engine.append(it.key, lane, seq, len(found.m) if lane == CHAT else 1, data)
        it.heads[lane] = seq
        self.soon()

    def reset(self, room: str, tail: Tail) -> None:
        """The numbering is a new one: viewers cannot go on from where they are, so they come anew, a few at a time."""
        it = self.rooms.get(room)
        if it is None:
            return
        self.engine.room_end(it.key, 1012, b"the room starts anew")
        self._fill(it, tail)
        self.soon()

    def housekeep(self) -> None:
        now = self.loop.time()
        unwatched = {name.decode() for name in self.engine.rooms_unwatched()}
        for name, room in list(self.rooms.items()):
            if room.opening or room.parked or room.busy() or (room.followed and name not in unwatched):
                room.idle_since = 0.0
            elif not room.idle_since:
                room.idle_since = now
            elif now - room.idle_since > LINGER_S:
                del self.rooms[name]
                if room.followed:
                    self.engine.room_close(room.key)
                    self.spawn(self.broker.unsubscribe(name))
        self._post()
        self.loop.call_later(1.0, self.housekeep)

    # What the HTTP application asks, and the ops of viewers.

    def identify(self, token: str | None, user: str | None) -> Identity:
        if token is not None:
            if self.tokens is None:
                raise EdgeError("unauthorized", "this server has no token key")
            return self.tokens.verify(token, time.time())
        if user is not None:
            if not self.config.server.dev:
                raise EdgeError("unauthorized", "user= is for --dev; send a token")
            return dev(check_name(user, "user"))
        if not self.anonymous:
            raise EdgeError("unauthorized")
        return ANYBODY

    async def comment(self, identity: Identity, room: str, body: wire.CommentBody) -> wire.Message:
        return await self.publisher.comment(self._room(room), identity, body)

    async def score(self, identity: Identity, room: str, event: dict[str, Any]) -> str:
        return await self.publisher.score(self._room(room), event)

    def _offer(self, identity: Identity, room: str, body: wire.CommentBody, made: str, done: Done) -> None:
        self.publisher.offer(self._room(room), identity, body, made, done)

    def _viewers(self, lanes: Lanes) -> int | None:
        info = self.engine.room_info(lanes.name.encode())
        return int(info["viewers"]) if info else None

    async def snapshot(self, room: str) -> wire.Message:
        info = self.engine.room_info(room.encode())
        since = None
        if info is not None:
            heads = [info["must"], info["chat"]]
            since = f"i{info['incarnation']}.m{heads[MUST]}.c{heads[CHAT]}"
        else:
            try:
                heads = [await self.broker.head(room, lane) for lane in (MUST, CHAT)]
            except BrokerError:
                raise EdgeError("unavailable", retry_after=1) from None
        last = {"must": f"m{heads[MUST]}", "chat": f"c{heads[CHAT]}"}
        viewers = info["viewers"] if info else 0
        return {"room": room, "state": "live", "viewers": viewers, "since": since, "last": last}

    def adopt(self, sock_fd: int, head: bytes, peer: bytes) -> None:
        self.engine.adopt(sock_fd, head, peer)
        self.soon()

    def metrics(self) -> str:
        self._post()
        return self.board.exposition()

    def _post(self) -> None:
        figures: dict[str, int] = self.engine.counters()
        figures["http_connections"] = len(self.http.server.connections)
        figures["http_refused"] = self.http_refused
        figures["comments_refused"] = self.publisher.refused
        figures |= {f"memory_{name}": value for name, value in fast_sys.memory().items()}
        self.board.post(self.number, figures)

    def healthy(self) -> bool:
        return True

    def ready(self) -> bool:
        """New viewers are welcome, and what they say has somewhere to go."""
        return not self.stopping and self.broker.connected

    # The end.

    async def stop(self) -> None:
        self.stopping = True
        self.engine.unlisten()
        self.engine.end_all(1012, b"restart")
        self.soon()
        deadline = self.loop.time() + GOODBYE_S
        while self.engine.counters()["connections"] and self.loop.time() < deadline:  # noqa: ASYNC110 - the engine signals nobody
            await asyncio.sleep(0.02)
        if self.http is not None:
            await self.http.cleanup()
        await self.broker.close()
        for task in list(self.tasks):
            task.cancel()
        self.loop.remove_reader(self.engine.fileno())
        self.engine.close()


def busy_answer(cors_origin: str) -> bytes:
    """What a request gets that there is no place for."""
    body = msgspec.json.encode(EdgeError("overloaded", retry_after=2).body()) + b"\n"
    fields = ["Content-Type: application/json", "Retry-After: 2", "Connection: close", f"Content-Length: {len(body)}"]
    if cors_origin:
        fields.append(f"Access-Control-Allow-Origin: {cors_origin}")
    return "\r\n".join(["HTTP/1.1 503 Service Unavailable", *fields, "", ""]).encode() + body


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode("ascii", "replace")


def _unquoted(raw: bytes | None) -> str | None:
    return None if raw is None else unquote_plus(raw.decode("ascii", "replace"))


async def _serve(
    config: Config, worker: int, group: bool, listen_fd: int, private_fd: int, board: Board, ready: Callable[[], None]
) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    it = Worker(config, loop, broker.open(config.broker.url), group, worker, board)
    it.http = http_runner(build(it), config.streams.keepalive_seconds)
    await it.http.setup()
    private = None
    if private_fd >= 0:
        private = http_runner(build_private(it))
        await private.setup()
        await web.SockSite(private, socket.socket(fileno=private_fd)).start()
    with contextlib.suppress(BrokerError):  # connected from the start, or told later that it is not
        await it.broker.head("-", MUST)
    it.engine.listen(listen_fd)
    it.housekeep()
    # What is there now stays for good: a full collection over it would cost 20 ms and more, and find nothing.
    gc.collect()
    gc.freeze()
    log.info("worker %d: room for %d viewers", worker, it.engine.counters()["capacity"])
    ready()
    await stopping.wait()
    await it.stop()
    if private is not None:
        await private.cleanup()


def run(
    config: Config,
    *,
    worker: int,
    workers: int,
    listen_fd: int,
    private_fd: int,
    board: Board,
    ready: Callable[[], None],
) -> int:
    """Serves until SIGTERM or SIGINT; the exit status."""
    uvloop.run(_serve(config, worker, workers > 1, listen_fd, private_fd, board, ready))
    return 0
