# One connection to NATS that is made again whenever it ends. It owns the connection, the requests under way on it and
# what is listened to. It must never send twice what was asked for once, nor tell of a request that it failed when it
# may have arrived.
#
# nats-py's own reconnecting is not used: it sends on what it had not written before, so that a publish that was given
# up is stored later, and some errors end it for good. Here each connection is a new client, and the old one's requests
# end as Lost.

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Callable, Collection
from typing import Any

import nats.errors
from nats.aio.client import RawCredentials
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from broker.access import Keys
from broker.base import Misfit
from broker.nats_client import COMMANDS, PING_S, Connection, end, misfit_of, ping
from broker.nats_client import words as words
from broker.nats_options import Options

log = logging.getLogger("broker")

BACKOFF_S = (0.02, 1.0)
CONNECT_S = 2
FLUSH_S = 2
DRAIN_S = 1.0
PENDING_BYTES = 8 * 1024 * 1024
"""Of one subscription, unread by us. What comes past it is dropped, which shows as a hole and is read from the log."""

Hearer = Callable[[Msg], None]


class Down(Exception):
    """Not connected: nothing was sent."""


class Lost(Exception):
    """Sent, perhaps, and no answer came."""


class NoResponders(Exception):
    """Nobody listens there: the server says so, and nothing was stored."""


class Link:
    """`run` keeps it connected until `ending` is set and it is cancelled. `up` is called after each connecting, when
    everything that is listened to is listened to again; `down` when a connection has ended, `refused` when none could
    be made and `trouble` says why."""

    def __init__(
        self,
        name: str,
        options: Options,
        keys: Keys,
        up: Callable[["Link"], None],
        down: Callable[["Link"], None],
        refused: Callable[["Link"], None],
    ) -> None:
        self.name = name
        self.options = options
        self.api = f"$JS.{options.domain}.API" if options.domain else "$JS.API"
        self.kv = f"$JS.{options.domain}.API." if options.domain else ""  # in front of a bucket's subjects, to publish
        self._keys = keys
        self.trouble = ""  # why the last try to connect failed
        self.misfit: Misfit | None = None  # the same, if waiting does not help
        self.connects = 0
        self.slow = 0
        self.ending = False  # set before `run` is cancelled: wait_for, which nats-py uses, can swallow a cancelling
        self._first = asyncio.Event()  # there has been a connection
        self._up = up
        self._down = down
        self._refused = refused
        self._client: Connection | None = None
        self._settled = False
        self._why: Exception | None = None  # what nats-py has told of last
        self._aloud = False  # the next login asks for an answer of its own
        self._inbox = f"_INBOX.{secrets.token_hex(11)}"
        self._answers: dict[str, asyncio.Future[Msg]] = {}
        self._number = 0
        self._hearers: dict[str, tuple[Hearer, str, Subscription | None]] = {}

    @property
    def connected(self) -> bool:
        """And what is listened to is listened to."""
        return self._settled and self._client is not None and self._client.is_connected

    @property
    def max_payload(self) -> int:
        """Of the server; 0 where there is none."""
        return int(self._client.max_payload) if self._client is not None else 0

    async def first(self, deadline: float) -> bool:
        """Whether it is connected; waits for the first connection, but for no later one."""
        if not self._first.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self._first.wait()
        return self.connected

    async def run(self) -> None:
        try:
            await self._keep()
        finally:
            self._first.set()  # whoever waits for a connection sees that there will be none

    async def _keep(self) -> None:
        pause_s, most_s = BACKOFF_S
        servers = list(self.options.servers)
        random.shuffle(servers)
        while not self.ending:
            servers.append(server := servers.pop(0))
            self._why = None
            try:
                if await self._live(server):
                    pause_s = BACKOFF_S[0]
            except (OSError, TimeoutError, nats.errors.Error, Down, Lost, Misfit) as refused:
                self._tell_of(server, refused)
            except Exception as failed:  # nothing may end this loop but its own end
                log.exception("%s: %s", self.name, server)
                self._tell_of(server, failed)
            await asyncio.sleep(random.uniform(0, pause_s))
            pause_s = min(pause_s * 2, most_s)

    def _tell_of(self, server: str, refused: Exception) -> None:
        if isinstance(refused, nats.errors.NoServersError) and self._why is not None:
            refused = self._why  # what it was that left none
        self.trouble = words(refused)
        self.misfit = misfit_of(server.partition("://")[2], refused, self.options.access.creds)
        log.debug("%s: %s: %s", self.name, server, self.trouble)
        self._refused(self)

    async def _live(self, server: str) -> bool:
        """One connection, from its beginning to its end; whether it ever was one."""
        login = self._login()
        client = Connection(self.options.tls)
        aloud, self._aloud = self._aloud, False
        try:
            try:
                await client.connect(
                    servers=[server],
                    name=self.name,
                    verbose=aloud,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=CONNECT_S,
                    ping_interval=PING_S,
                    pending_size=0,
                    flusher_queue_size=COMMANDS,
                    error_cb=self._failed,
                    **login,
                )
            finally:
                # A refusal can be lost, where the server has closed while a ping was on its way to it. Asked aloud it
                # answers the login before anything else is sent.
                self._aloud = client.logging_in and not aloud
            if not client.is_connected:
                raise Lost("the connection ended at the login")
            if aloud:
                return False  # it was let in, so the way had only broken; an answer to every command costs too much
            await self._settle_in(client)
            if self.ending:
                return True
            self._settled = True
            self.trouble, self.misfit = "", None
            self.connects += 1
            self._first.set()
            self._up(self)
            await client.ended
            return True
        finally:
            self._lose(client)
            await end(client)

    def _login(self) -> dict[str, Any]:
        """Read for each connection: files may have been replaced. Misfit."""
        found: dict[str, Any] = dict(self.options.credentials)
        creds = self._keys.creds()
        if creds:
            found["user_credentials"] = RawCredentials(creds)
        context = self._keys.tls(self.options.tls)
        if context is not None:
            found["tls"] = context
        return found

    async def _settle_in(self, client: Connection) -> None:
        await client.subscribe(f"{self._inbox}.*", cb=self._answered)
        self._client = client
        for subject, (hearer, queue, _) in list(self._hearers.items()):
            await self._listen(client, subject, hearer, queue)
        await self.flush()

    def _lose(self, client: Connection) -> None:
        if self._client is not client:
            return
        self._client, self._settled = None, False
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            if not answer.done():
                answer.set_exception(Lost())
                answer.exception()  # seen: its caller may have gone
        self._down(self)

    async def _failed(self, error: Exception) -> None:
        if isinstance(error, nats.errors.SlowConsumerError):
            self.slow += 1
            return
        self._why = error
        log.debug("%s: %s", self.name, words(error))

    async def _answered(self, msg: Msg) -> None:
        answer = self._answers.pop(msg.subject, None)
        if answer is not None and not answer.done():
            answer.set_result(msg)

    async def request(
        self, subject: str, payload: bytes, timeout_s: float, headers: dict[str, str] | None = None
    ) -> Msg:
        """Down, NoResponders: it has had no effect. Lost: it may have had one, and may have one yet."""
        client = self._client
        if client is None:
            raise Down()
        self._number += 1
        inbox = f"{self._inbox}.{self._number}"
        answer = self._answers[inbox] = asyncio.get_running_loop().create_future()
        try:
            try:
                await client.publish(subject, payload, inbox, headers)
            except (nats.errors.ConnectionClosedError, nats.errors.OutboundBufferLimitError):
                raise Down() from None
            except nats.errors.MaxPayloadError:
                raise Down(f"{len(payload)} bytes are more than the server takes: see its max_payload") from None
            except OSError:
                raise Lost() from None
            async with asyncio.timeout(timeout_s):
                msg: Msg = await answer
        except TimeoutError:
            raise Lost() from None
        finally:
            self._answers.pop(inbox, None)
        if not msg.data and msg.headers and msg.headers.get("Status") == "503":
            raise NoResponders()
        return msg

    async def tell(self, subject: str, payload: bytes) -> None:
        """Fire and forget."""
        if self._client is not None:
            with contextlib.suppress(nats.errors.Error, OSError):
                await self._client.publish(subject, payload)

    async def hear(self, subject: str, hearer: Hearer) -> None:
        """From the return on, and on each later connection, what comes on `subject` is given to `hearer`. Down or Lost:
        not so."""
        await self.hear_all([subject], hearer)

    async def hear_all(self, subjects: Collection[str], hearer: Hearer) -> None:
        """All of them, or none."""
        client = self._client
        if client is None:
            raise Down()
        try:
            for subject in subjects:
                before = self._hearers.get(subject)
                if before is not None:
                    await self.unhear(subject, before[0])
                self._hearers[subject] = (hearer, "", None)
                await self._listen(client, subject, hearer, "")
            await self.flush()
        except BaseException:
            for subject in subjects:
                await self.unhear(subject, hearer)
            raise

    async def keep_hearing(self, subject: str, hearer: Hearer, queue: str = "") -> None:
        """The same, but it stays whatever happens, and begins with the next connection where there is none now."""
        self._hearers[subject] = (hearer, queue, None)
        if self._client is not None:
            with contextlib.suppress(Down, Lost):
                await self._listen(self._client, subject, hearer, queue)
                await self.flush()

    def is_heard(self, subject: str, hearer: Hearer) -> bool:
        found = self._hearers.get(subject)
        return found is not None and found[0] == hearer

    def hears(self, hearer: Hearer) -> set[str]:
        """The subjects on which it is `hearer` that listens."""
        return {subject for subject, found in self._hearers.items() if found[0] == hearer}

    async def unhear(self, subject: str, hearer: Hearer) -> None:
        """Never fails; does nothing where another has begun to listen there since."""
        found = self._hearers.get(subject)
        if found is None or found[0] != hearer:
            return
        del self._hearers[subject]
        if found[2] is not None:
            with contextlib.suppress(nats.errors.Error, OSError):
                await found[2].unsubscribe()

    async def given(self, subjects: list[str]) -> None:
        """What had come on them by now has been given to their hearers: then they may be left and nothing is lost."""
        client, deadline = self._client, asyncio.get_running_loop().time() + DRAIN_S
        left = [found[2] for subject in subjects if (found := self._hearers.get(subject)) is not None]
        while any(it is not None and it.pending_msgs for it in left):
            if not self.connected or self._client is not client or asyncio.get_running_loop().time() > deadline:
                raise Lost()
            await asyncio.sleep(0)

    async def _listen(self, client: Connection, subject: str, hearer: Hearer, queue: str) -> None:
        async def heard(msg: Msg) -> None:
            hearer(msg)

        try:
            subscription = await client.subscribe(
                subject, queue, cb=heard, pending_msgs_limit=0, pending_bytes_limit=PENDING_BYTES
            )
        except (nats.errors.Error, OSError):
            raise Down() from None
        found = self._hearers.get(subject)
        if found is not None and found[0] == hearer:
            self._hearers[subject] = (hearer, queue, subscription)
        else:  # given up while we were at it
            with contextlib.suppress(nats.errors.Error, OSError):
                await subscription.unsubscribe()

    async def flush(self) -> None:
        """The server has seen everything that was sent before."""
        client = self._client
        if client is None:
            raise Down()
        pong: asyncio.Future[bool] = asyncio.ensure_future(ping(client, FLUSH_S))
        try:
            waited: list[asyncio.Future[Any]] = [pong, client.ended]
            await asyncio.wait(waited, timeout=FLUSH_S, return_when=asyncio.FIRST_COMPLETED)
            if not pong.done() or not pong.result():
                raise Lost()
        finally:
            pong.cancel()
