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
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import uvloop
from aiohttp import web

import broker
from broker.base import MUST, Broker, BrokerError, Misfit
from edge._fast import sys as fast_sys
from edge._fast.reactor import BINARY, Engine
from edge.admission import Admission
from edge.api.app import build, build_private
from edge.api.serving import runner as http_runner
from edge.auth.gate import Gate
from edge.auth.setup import open_tokens, stream_times
from edge.auth.turns import Turns
from edge.box import Box
from edge.config import Config
from edge.errors import EdgeError
from edge.hands import Hands
from edge.ingest.pipeline import Pipeline
from edge.known import Known
from edge.moderation.office import Office
from edge.offers import Offers
from edge.ops import Ops
from edge.options import access, can_migrate, capacity, classifier, data_folder, engine_options, rates, trusted_networks
from edge.owner import WANTED, Owner
from edge.rates import LEAST, SUBJECT, RoomRates
from edge.reactions import Reactions
from edge.reports import Reports
from edge.service import Service
from edge.speaker import speaker
from edge.speech import Speech
from edge.trouble import Trouble
from edge.watch import Watch

log = logging.getLogger("edge.worker")

HTTP_CONNECTIONS = 384
GOODBYE_S = 2.0
PACE_S = 0.005
LOOKS = 8


class Worker:
    """The engine's upcalls, and all the parts."""

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
        self.busy = busy_answer(config.server.cors_origin)
        anonymous = config.auth.anonymous_view or config.server.dev
        self.turns = Turns(loop.call_soon, config.limits.tokens_per_tick, self.soon)
        tokens, self.jwks = open_tokens(config.auth, self.turns.resume)
        self.gate = Gate(tokens, anonymous=anonymous, names=config.server.dev)
        self.tasks: set[asyncio.Task[Any]] = set()
        self.turning = False
        self.paced = False
        self.looks = 1  # at what has come in, in the next turn
        self.heard = 0.0  # when viewers have said something last
        self.next_turn = self.turn  # bound once: a broadcast calls it a thousand times a second
        self.context = contextvars.copy_context()  # the same for all turns: a copy each would be for nothing
        self.stopping = self.closed = False
        self.http: Any = None
        self.http_refused = 0
        self.arriving = 0  # connections on their way to the HTTP application
        self.engine = Engine(
            self,
            capacity(config),
            config.limits.rooms,
            secrets.randbits(64),
            engine_options(config, anonymous, count > 1 and can_migrate()),
            trusted_networks(config.server.proxy_trusted),
            config.server.cors_origin.encode(),
        )
        self.engine.tokens_end(*stream_times(config.auth))
        self.offers = Offers(link, self.spawn)
        self.pipeline = Pipeline(rates(config), memory=box.limits)
        self.hands = Hands(link, self.engine, self.offers, self.spawn, self.soon)
        guard = config.moderation.crowd == "subs_only"
        self.office = Office(link, self.pipeline, classifier(config), self.hands, guard)
        self.trouble = Trouble(link, self.engine, self.soon, self.offers.failing)
        self.admission = Admission(
            self.engine,
            self.gate.identify,
            self.turns,
            self.office.rules,
            self.office.alarms,
            self.trouble,
            0 if config.server.dev else config.limits.opens_per_ip,
            self.soon,
        )
        rules, alone = self.office.rules, config.broker.url == "memory:"
        self.known = Known(link, rules.gone, self.hands.is_here, self.spawn, alone)
        self.watch = Watch(
            link,
            self.engine,
            config.limits.rooms,
            self.admission.let_in,
            self.admission.turn_away,
            self.spawn,
            self.soon,
            rules.gone,
            self.known.batch,
        )
        lenient = config.moderation.unknown_mentions == "leave"
        self.speech = Speech(
            self.offers,
            self.pipeline,
            rules,
            self.office.review,
            self.known,
            self.office.look,
            self.hands.tell,
            self.spawn,
            lenient,
        )
        kinds = config.rooms.reactions
        self.owner = Owner(
            link,
            config.rooms.flush_ms,
            (number, count),
            alone,
            self.spawn,
            kinds,
            rules.gone,
            rules.banned,
            self._counted,
        )
        self.reactions = Reactions(link, self.pipeline, rules, kinds, self.spawn)
        self.reports = Reports(link, self.owner.name, self.engine.jobs)
        self.room_rates = RoomRates(self.owner.name, link.emit)
        self.admission.watch = self.watch
        self.hands.office, self.hands.owner = self.office, self.owner
        self.hands.speech, self.hands.watch = self.speech, self.watch
        meet = partial(speaker, self.pipeline)
        self.service = Service(
            link,
            self.engine,
            self,
            self.gate,
            self.admission,
            self.watch,
            meet,
            self.speech,
            self.reactions,
            self.office,
            kinds,
            body_bytes=config.limits.body_bytes,
            cors_origin=config.server.cors_origin,
        )
        self.ops = Ops(
            self.engine,
            BINARY,
            config.limits.inflated_bytes,
            lambda token: self.gate.identify(token, None),
            self.turns,
            meet,
            self.speech.say,
            self.reactions.take,
            self.soon,
        )
        loop.add_reader(self.engine.fileno(), self.readable)

    # The engine's turns. While sweeps run, a turn is taken once an iteration of the loop; else when there are events.

    def readable(self) -> None:
        if not self.turning:
            self.turn()

    def turn(self) -> None:
        self.turning = True  # who asks for one meanwhile has it: what is left to do makes the next
        try:
            self.turning = self.engine.tick(self.looks)
            self.looks = 0 if self.paced else 1
        except Exception:  # of an upcall: one viewer's trouble must not stop all others
            log.exception("a turn")
            self.turning = True
        if self.turning:
            self.loop.call_soon(self.next_turn, context=self.context)

    # A message that comes by itself is read at once. Where they come faster than one in PACE_S, what has come in so
    # long is read together: a turn of the loop for each costs more than the message (docs/decisions/0013).

    def pace(self) -> None:
        now = time.monotonic()
        if not self.paced and now - self.heard < PACE_S:
            self.paced = True
            self.looks = 0
            self.loop.remove_reader(self.engine.fileno())
            self.loop.call_later(PACE_S, self.paced_turn)
        self.heard = now

    def paced_turn(self) -> None:
        if self.closed:
            return
        self.looks = LOOKS
        self.readable()
        if time.monotonic() - self.heard < 2 * PACE_S:
            self.loop.call_later(PACE_S, self.paced_turn)
        else:
            self.paced = False
            self.looks = 1
            self.loop.add_reader(self.engine.fileno(), self.readable)

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
        self.admission.opens(requests)

    def messages(self, messages: list[tuple[int, int, int, bytes]]) -> None:
        self.pace()
        self.offers.gather()
        try:
            for message in messages:
                self.ops.take(*message)
        finally:
            self.offers.flush()

    def housekeep(self) -> None:
        if self.closed:
            return
        self.loop.call_later(1.0, self.housekeep)  # first: whatever goes wrong in this one, the next one comes
        self.watch.housekeep(self.loop.time())
        now = time.monotonic()
        self.pipeline.turn(now, self.room_rates.elsewhere(now))
        self.office.housekeep(self.engine.room_of, now)
        self.spawn(self._report())
        self._post()

    async def _report(self) -> None:
        with contextlib.suppress(BrokerError):
            await self.reports.turn()
            await self.room_rates.tell(self.pipeline.rates(time.monotonic(), LEAST))

    def _offered(self, message: bytes) -> None:
        with contextlib.suppress(msgspec.DecodeError):
            self.room_rates.heard(message, time.monotonic())

    def _counted(self, message: bytes) -> None:
        self.office.alarms.crowds.heard(message, time.monotonic())

    def _wanted(self, message: bytes) -> None:
        with contextlib.suppress(msgspec.DecodeError):
            shard = msgspec.msgpack.decode(message, type=int)
            self.spawn(self.reports.wanted(shard))
            self.office.alarms.crowds.wanted(shard)

    def metrics(self) -> str:
        self._post()
        return self.board.exposition()

    def ready(self) -> bool:
        """New viewers are welcome, and what they say has somewhere to go."""
        return not self.stopping and self.broker.connected

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
        await self.hands.start()
        await self.broker.hear(SUBJECT, self._offered)
        await self.known.start()
        await self.office.alarms.start()
        if not self.broker.connected or not await self._ruled():  # nobody is let in before what is set holds
            self.spawn(self._rule())
        await self.service.start()
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
        self.closed = True
        self.loop.remove_reader(self.engine.fileno())
        self.engine.close()


def busy_answer(cors_origin: str) -> bytes:
    """What a request gets that there is no place for."""
    body = msgspec.json.encode(EdgeError("overloaded", retry_after=2).body()) + b"\n"
    fields = ["Content-Type: application/json", "Retry-After: 2", "Connection: close", f"Content-Length: {len(body)}"]
    if cors_origin:
        fields.append(f"Access-Control-Allow-Origin: {cors_origin}")
    return "\r\n".join(["HTTP/1.1 503 Service Unavailable", *fields, "", ""]).encode() + body


async def _serve(
    config: Config, worker: int, workers: int, listen_fd: int, private_fd: int, box: Box, ready: Callable[[], None]
) -> int:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    link = broker.open(config.broker.url, access(config), data=data_folder(config))
    it = Worker(config, loop, link, worker, workers, box)
    it.http = http_runner(build(it.service), config.streams.keepalive_seconds)
    await it.http.setup()
    private = None
    if private_fd >= 0:
        private = http_runner(build_private(it.service))
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
    # Of what a comment makes next to nothing outlives it, and looking each time costs 2 us. What does is looked at once
    # more, in lots small enough to be short, and then in full collections alone, which are rare.
    gc.set_threshold(10_000, 4, 1_000)
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
