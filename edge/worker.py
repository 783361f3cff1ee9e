# A worker: one process, one core, one loop. It alone joins the engine, the broker, the rooms and the HTTP application,
# and owns nothing that they could own. It must never block the loop, nor keep a Python object for a socket.
import asyncio
import contextlib
import contextvars
import gc
import logging
import math
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import unquote_plus

import msgspec
import uvloop
from aiohttp import web

import broker
from broker.base import CHAT, MUST, Answers, Broker, BrokerError, Misfit
from edge import wire
from edge._fast import sys as fast_sys
from edge._fast.buckets import Buckets
from edge._fast.reactor import BINARY, Engine
from edge.api.app import build, build_private
from edge.api.serving import runner as http_runner
from edge.auth import Identity, KeyComing, check_name, dev
from edge.auth.setup import open_tokens, stream_times
from edge.auth.turns import Turns
from edge.box import Box
from edge.config import Config
from edge.errors import EdgeError
from edge.ingest.modes import OPEN
from edge.ingest.pipeline import Event, Guarded, Pipeline, Slowed
from edge.known import Known
from edge.moderation.office import Hands, Office
from edge.moderation.rules import Ban
from edge.offers import Done, Offers, ack
from edge.ops import Ops, ends, packed
from edge.options import access, can_migrate, capacity, classifier, data_folder, engine_options, rates, trusted_networks
from edge.outside import Outside
from edge.owner import WANTED, Owner
from edge.paid import Paid
from edge.rates import LEAST, SUBJECT, RoomRates
from edge.reactions import Reactions
from edge.reports import Reports
from edge.scores import retraction, score, state
from edge.speech import Speech
from edge.trouble import Trouble
from edge.watch import Parked, Room, Watch

log = logging.getLogger("edge.worker")

ANYBODY = Identity(user="", name="", scopes=frozenset({"read"}))
HTTP_CONNECTIONS = 384
GOODBYE_S = 2.0
TELL = "tell"
"""What moderators have decided about a comment is told to its author's sockets, on whatever box."""
OPENINGS = 1 << 19
"""Bytes, for 65,536 addresses that open rooms."""
SWEEP_S = 1.0
ABSENT = 10_000
ABSENT_S = 1.0  # that a room which was not there is not looked for again


class Worker:
    """The engine's upcalls and the HTTP application's Service, in one place."""

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        link: Broker,
        number: int = 0,
        count: int = 1,
        box: Box | None = None,
    ) -> None:
        self.config = config
        self.loop = loop
        self.broker = link
        self.number = number
        box = box or Box(1)
        self.board = box.board
        self.body_bytes = config.limits.body_bytes
        self.cors_origin = config.server.cors_origin
        self.busy = busy_answer(self.cors_origin)
        self.anonymous = config.auth.anonymous_view or config.server.dev
        self.turns = Turns(loop.call_soon, config.limits.tokens_per_tick, self.soon)
        self.tokens, self.jwks = open_tokens(config.auth, self.turns.resume)
        opens = 0 if config.server.dev else config.limits.opens_per_ip
        self.opening = Buckets(opens, 60.0, bytearray(OPENINGS), secrets.randbits(64))
        self.absent: dict[str, float] = {}  # rooms that were not there when a snapshot was asked for, and when
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
            engine_options(config, self.anonymous, count > 1 and can_migrate()),
            trusted_networks(config.server.proxy_trusted),
            config.server.cors_origin.encode(),
        )
        self.engine.tokens_end(*stream_times(config.auth))
        self.watch = Watch(
            link,
            self.engine,
            config.limits.rooms,
            self._let_in,
            self._turn_away,
            self.spawn,
            self.soon,
            lambda room: self.rules.gone(room),
            lambda room, seq, data: self.known.batch(room, seq, data),
        )
        self.offers = Offers(link, self.spawn)
        self.pipeline = Pipeline(rates(config), memory=box.limits)
        hands = Hands(
            announce=self._announce,
            retract=self._retract,
            publish=self._publish,
            tell=self._tell_user,
            reply=self._reply,
            spawn=self.spawn,
            banned=self._banned,
            retracted=self._retracted,
        )
        settings = config.moderation
        self.office = Office(link, self.pipeline, classifier(config), hands, settings.crowd == "subs_only")
        self.rules = self.office.rules
        alone = config.broker.url == "memory:"
        self.known = Known(link, self.rules.gone, self._is_here, self.spawn, alone)
        self.speech = Speech(
            self.offers,
            self.pipeline,
            self.rules,
            self.office.review,
            self.known,
            self.office.look,
            self.spawn,
            lenient=settings.unknown_mentions == "leave",
        )
        self.paid = Paid(link, self._pay, self.office.retraction.comment)
        self.trouble = Trouble(link, self.engine, self.soon, self.offers.failing)
        kinds = config.rooms.reactions
        self.owner = Owner(link, config.rooms.flush_ms, (number, count), alone, self.spawn, kinds)
        self.reactions = Reactions(link, self.pipeline, self.rules, kinds, self.spawn)
        self.reports = Reports(link, self.owner.name, self.engine.jobs)
        self.room_rates = RoomRates(self.owner.name, link.emit)
        self.ops = Ops(
            self.engine,
            BINARY,
            config.limits.inflated_bytes,
            lambda token: self.identify(token, None),
            self.turns,
            self._offer,
            self.react,
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
        for request in requests:
            self.turns.add(partial(self._open, *request))
        self.soon()

    def _open(self, id_: int, room: bytes, token: bytes | None, user: bytes | None) -> None:
        try:
            identity = self.identify(_text(token), _unquoted(user))
            identity.check("read", room.decode())
            self._check_ban(room.decode(), identity)
            self._check_opening(room.decode(), self.engine.address(id_) or b"")
            self._admit(id_, room.decode(), identity)
        except KeyComing as error:
            if not self.turns.park(partial(self._open, id_, room, token, user)):
                self._refuse(id_, error)
        except EdgeError as error:
            self._refuse(id_, error)
        except Exception:
            log.exception("a stream could not be admitted")
            self._refuse(id_, EdgeError("internal"))

    def _refuse(self, id_: int, error: EdgeError) -> None:
        words = "".join(c for c in error.message if c.isascii() and c.isprintable() and c not in '"\\')
        self.engine.refuse(id_, error.status, error.name.encode(), words.encode()[:200], int(error.retry_after or 0))

    def _check_ban(self, room: str, identity: Identity) -> None:
        ban = self.rules.ban(room, identity.user, time.time()) if identity.user else None
        if ban is not None and ban.until is None and not ban.shadow:
            raise EdgeError("banned")

    def _check_opening(self, room: str, address: bytes) -> None:
        """A room that is not open here takes reads of the log, and is made if it is not there."""
        if address and not self.watch.has(room):
            mapped = address.startswith(bytes(10) + b"\xff\xff")
            wait_s = self.opening.take(address if mapped else address[:8], self.loop.time())  # IPv6 by /64
            if wait_s:
                words = "too many rooms are opened from this address"
                raise EdgeError("too_many", words, retry_after=math.ceil(wait_s))

    def _admit(self, id_: int, name: str, identity: Identity) -> None:
        room = self.watch.room(name)
        if room.followed:
            self._let_in(room, (id_, identity))
        else:
            self.watch.park(room, (id_, identity))

    def _let_in(self, room: Room, parked: Parked) -> None:
        id_, identity = parked
        if identity.user:
            self.engine.admit(id_, room.key, identity.user.encode(), packed(identity), ends(identity))
        else:
            self.engine.admit(id_, room.key)
        if news := self._news(room.name):
            self.engine.reply(id_, {"t": "state", **news})
        if self.trouble.now:
            self.engine.reply(id_, self.trouble.message)
        if "moderate" in identity.scopes:
            self.office.alarms.listen(room.name, id_)

    def _news(self, room: str) -> dict[str, Any]:
        """What is not as in any other room, for who comes."""
        found: dict[str, Any] = {}
        if (mode := self.rules.mode(room)) != OPEN:
            found["mode"] = msgspec.to_builtins(mode)
        if (pin := self.rules.pin(room)) is not None:
            found["pin"] = pin
        return found

    def _turn_away(self, parked: Parked, error: EdgeError) -> None:
        self._refuse(parked[0], error)

    def messages(self, messages: list[tuple[int, int, int, bytes]]) -> None:
        for message in messages:
            self.ops.take(*message)
        self.soon()

    def housekeep(self) -> None:
        self.watch.housekeep(self.loop.time())
        now = time.monotonic()
        for room, event in self.pipeline.turn(now, self.room_rates.elsewhere(now)):
            self._happened(room, event)
        self.office.housekeep(self.engine.room_of)
        self.spawn(self._report())
        self._post()
        self.loop.call_later(1.0, self.housekeep)

    def _happened(self, room: str, event: Event) -> None:
        """In a room, at this worker: all are told of a slow mode, and moderators of the rest."""
        if isinstance(event, Slowed):
            log.warning("room %s: %s", room, event)
            if self.room_rates.speaks(room, time.monotonic()):
                self.spawn(self._announce(room, {"mode": msgspec.to_builtins(event.mode), "auto": event.on}))
        elif isinstance(event, Guarded):
            self.office.alarms.unguarded(room, msgspec.to_builtins(event.mode))
        else:
            self.office.alarms.happened(room, event)

    async def _report(self) -> None:
        with contextlib.suppress(BrokerError):
            await self.reports.turn()
            await self.room_rates.tell(self.pipeline.rates(time.monotonic(), LEAST))

    def _offered(self, message: bytes) -> None:
        with contextlib.suppress(msgspec.DecodeError):
            self.room_rates.heard(message, time.monotonic())

    def _wanted(self, message: bytes) -> None:
        with contextlib.suppress(msgspec.DecodeError):
            self.spawn(self.reports.wanted(msgspec.msgpack.decode(message, type=int)))

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

    async def comment(self, identity: Identity, room: str, body: wire.CommentBody, peer: bytes = b"") -> wire.Message:
        """Its ack, once it is stored."""
        return await self._said(identity, room, body, wire.comment_id(identity.user, body.ref), peer)

    async def _said(
        self, identity: Identity, room: str, body: wire.CommentBody, made: str, peer: bytes
    ) -> wire.Message:
        status = await self._told_once(lambda done: self.speech.say(identity, room, body, made, peer, done))
        return ack(body.ref, made, status)

    async def _pay(self, author: Identity, room: str, body: wire.CommentBody, made: str) -> wire.Message:
        return await self._said(author, room, body, made, b"")  # the address is the site's own

    async def pay(self, payer: Identity, room: str, body: wire.CommentBody, key: str | None) -> wire.Message:
        return await self.paid.comment(payer, room, body, key)

    async def _told_once(self, say: Callable[[Done], None]) -> str | EdgeError:
        """What became of a comment, for one who may have gone by then."""
        told: asyncio.Future[str | EdgeError] = self.loop.create_future()
        say(lambda status: None if told.done() else told.set_result(status))
        return await told

    def _offer(self, id_: int, identity: Identity, room: str, body: wire.CommentBody, made: str, done: Done) -> None:
        self.speech.say(identity, room, body, made, self.engine.address(id_) or b"", done)

    async def _publish(self, room: str, comment: wire.Message) -> str:
        return str(await self._told_once(lambda done: self.offers.take(room, comment, done)))

    def _reply(self, id_: int, message: wire.Message) -> bool:
        self.soon()
        return self.engine.reply(id_, message)

    def _is_here(self, room: str, user: str) -> bool:
        key = room.encode()
        return any(self.engine.room_of(id_) == key for id_ in self.engine.sockets_of(user.encode()))

    async def _announce(self, room: str, fields: dict[str, Any]) -> str:
        return await state(self.broker, self.watch.room(room).must, fields)

    async def _retract(self, room: str, ids: list[str]) -> str:
        return await retraction(self.broker, self.watch.room(room).must, ids)

    def _retracted(self, room: str, ids: frozenset[str]) -> None:
        self.owner.retract(room, ids)
        self.watch.retract(room, ids)

    async def _tell_user(self, room: str, user: str, message: wire.Message) -> None:
        with contextlib.suppress(BrokerError):
            await self.broker.emit(TELL, msgspec.msgpack.encode((room, user, message)))

    def _told(self, data: bytes) -> None:
        try:
            room, user, message = msgspec.msgpack.decode(data, type=tuple[str, str, dict[str, Any]])
        except msgspec.DecodeError as bad:
            log.error("what came on %s is nothing to tell (%s)", TELL, bad)
            return
        if "id" in message and message.get("status") in ("published", "rejected"):
            self.speech.decided(room, message["id"], message["status"] == "published")
        for id_ in self.engine.sockets_of(user.encode()):
            if self.engine.room_of(id_) == room.encode():
                self.engine.reply(id_, message)
        self.soon()

    def _banned(self, room: str, ban: Ban) -> None:
        """Who is out for good is out at once; who may not speak for a while, or is alone with it, stays."""
        if ban.until is not None or ban.shadow:
            return
        for id_ in self.engine.sockets_of(ban.user.encode()):
            if room == wire.EVERYWHERE or self.engine.room_of(id_) == room.encode():
                self.engine.end(id_, 1008, b"banned")
        self.soon()
        if room == wire.EVERYWHERE:
            self.owner.silence_everywhere(ban.user)
        elif self.owner.silence(room, ban.user):
            self.spawn(self._sweep(room, ban.user))

    async def _sweep(self, room: str, user: str) -> None:
        """What the log has got of somebody's between the look of who has banned them and the word of it here."""
        await asyncio.sleep(SWEEP_S)
        with contextlib.suppress(EdgeError):
            said = await self.office.retraction.said_by(room, user)
            await self.office.retraction.go(room, [id_ for id_ in said if id_ not in self.rules.gone(room)])

    def react(self, identity: Identity, room: str, kind: str) -> None:
        self.reactions.take(identity, room, kind)

    async def score(self, identity: Identity, room: str, event: dict[str, Any]) -> str:
        return await score(self.broker, self.watch.room(room).must, event)

    async def snapshot(self, room: str, address: bytes) -> wire.Message:
        info = self.engine.room_info(room.encode())
        since = None
        if info is not None:
            heads = [info["must"], info["chat"]]
            since = f"i{info['incarnation']}.m{heads[MUST]}.c{heads[CHAT]}"
        else:
            heads = await self._heads(room, address)
        said = {"mode": msgspec.to_builtins(self.rules.mode(room)), "pin": self.rules.pin(room)}
        said["reactions"] = await self._totals(room, heads[CHAT])
        last = {"must": f"m{heads[MUST]}", "chat": f"c{heads[CHAT]}"}
        viewers = info["viewers"] if info else 0
        return {"room": room, "state": "live", "viewers": viewers, "since": since, "last": last, **said}

    async def _totals(self, room: str, head: int) -> dict[str, int]:
        """Of all kinds that are taken."""
        try:
            found = await self.watch.reactions(room, head)
        except BrokerError:
            raise EdgeError("unavailable", retry_after=1) from None
        return {kind: found.get(kind, 0) for kind in self.config.rooms.reactions}

    async def _heads(self, room: str, address: bytes) -> list[int]:
        now = self.loop.time()
        if now - self.absent.get(room, -ABSENT_S) < ABSENT_S:
            return [0, 0]
        self._check_opening(room, address)
        try:
            heads = [await self.broker.head(room, lane) for lane in (MUST, CHAT)]
        except BrokerError:
            raise EdgeError("unavailable", retry_after=1) from None
        self.absent.pop(room, None)
        if heads == [0, 0]:
            self.absent[room] = now
            while len(self.absent) > ABSENT:
                del self.absent[next(iter(self.absent))]
        return heads

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
        figures |= self.owner.metrics() | self.broker.figures()
        figures |= {f"comments_{name}": getattr(self.offers, name) for name in ("taken", "refused", "unknown")}
        figures |= {f"comments_{name}": getattr(self.speech, name) for name in ("rejected", "shadowed", "held")}
        figures |= self.office.figures()
        figures |= {f"reactions_{name}": getattr(self.reactions, name) for name in ("taken", "refused")}
        figures["trouble"] = self.trouble.times
        figures["limits_evicted"] = self.pipeline.limits.evicted
        figures |= {f"memory_{name}": value for name, value in fast_sys.memory().items()}
        self.board.post(self.number, figures)

    def healthy(self) -> bool:
        return True

    def ready(self) -> bool:
        """New viewers are welcome, and what they say has somewhere to go."""
        return not self.stopping and self.broker.connected

    # The beginning and the end.

    async def start(self) -> None:
        """Returns when the broker has answered, or is away: then viewers are told. Raises Misfit."""
        try:
            await self.broker.head("-", MUST)
        except Misfit:
            raise
        except BrokerError as error:
            log.warning("no broker yet: %s", error)
        await self.broker.hear(WANTED, self._wanted)
        await self.broker.hear(TELL, self._told)
        await self.broker.hear(SUBJECT, self._offered)
        await self.known.start()
        await self.office.alarms.start()
        if not self.broker.connected or not await self._ruled():  # nobody is let in before what is set holds
            self.spawn(self._rule())
        if isinstance(self.broker, Answers):
            outside = Outside(self.comment, lambda room, event: score(self.broker, self.watch.room(room).must, event))
            await self.broker.answer("score", outside.score)
            await self.broker.answer("comment", outside.comment)
        if self.config.rooms.own:
            await self.owner.start(self.broker.connected)
        self.spawn(self.trouble.watch())
        if self.jwks:
            self.spawn(self.jwks.run())

    async def _rule(self) -> None:
        while not self.stopping and not await self._ruled():  # noqa: ASYNC110 - the broker signals nobody
            await asyncio.sleep(1.0)

    async def _ruled(self) -> bool:
        """What moderators have set is here; the broker keeps it up to date from then on."""
        try:
            await self.office.start()
        except BrokerError as error:
            log.warning("no rules yet: %s", error)
            return False
        return True

    async def stop(self) -> None:
        self.stopping = True
        if self.jwks:
            self.jwks.end()
        self.engine.unlisten()
        self.engine.end_all(1012, b"restart")
        self.soon()
        deadline = self.loop.time() + GOODBYE_S
        while self.engine.counters()["connections"] and self.loop.time() < deadline:  # noqa: ASYNC110 - the engine signals nobody
            await asyncio.sleep(0.02)
        if self.http is not None:
            await self.http.cleanup()
        await self.reactions.tell()
        await self.owner.stop()
        await self.office.close()
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
    config: Config, worker: int, workers: int, listen_fd: int, private_fd: int, box: Box, ready: Callable[[], None]
) -> int:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    link = broker.open(config.broker.url, access(config), data=data_folder(config))
    it = Worker(config, loop, link, worker, workers, box)
    it.http = http_runner(build(it), config.streams.keepalive_seconds)
    await it.http.setup()
    private = None
    if private_fd >= 0:
        private = http_runner(build_private(it))
        await private.setup()
        await web.SockSite(private, socket.socket(fileno=private_fd)).start()
    try:
        await it.start()
    except Misfit as error:
        print(f"edge: {error}", file=sys.stderr, flush=True)
        await it.stop()
        return 1
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
    return 0


def run(
    config: Config,
    *,
    worker: int,
    workers: int,
    listen_fd: int,
    private_fd: int,
    box: Box,
    ready: Callable[[], None],
) -> int:
    """Serves until SIGTERM or SIGINT; the exit status."""
    return uvloop.run(_serve(config, worker, workers, listen_fd, private_fd, box, ready))
