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
from collections.abc import Callable
from typing import Any

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

log = logging.getLogger("broker")

BACKOFF_S = (0.02, 1.0)
CONNECT_S = 2
PING_S = 5
FLUSH_S = 2.0
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
    """`run` keeps it connected until it is cancelled. `up` is called after each connecting, when everything that is
    listened to is listened to again; `down` when a connection has ended, `refused` when none
    could be made and `trouble` says why."""

    def __init__(
        self,
        name: str,
        servers: list[str],
        credentials: dict[str, str],
        up: Callable[["Link"], None],
        down: Callable[["Link"], None],
        refused: Callable[["Link"], None],
    ) -> None:
        self.name = name
        self.servers = servers
        self.credentials = credentials
        self.trouble = ""  # why the last try to connect failed
        self.slow = 0
        self._first = asyncio.Event()  # there has been a connection
        self._up = up
        self._down = down
        self._refused = refused
        self._client: Client | None = None
        self._ended: asyncio.Future[None] | None = None
        self._inbox = f"_INBOX.{secrets.token_hex(11)}"
        self._answers: dict[str, asyncio.Future[Msg]] = {}
        self._number = 0
        self._hearers: dict[str, tuple[Hearer, Subscription | None]] = {}

    @property
    def connected(self) -> bool:
        return self._client is not None and self._client.is_connected

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
        servers = list(self.servers)
        random.shuffle(servers)
        while True:
            servers.append(server := servers.pop(0))
            try:
                if await self._live(server):
                    pause_s = BACKOFF_S[0]
            except (OSError, TimeoutError, nats.errors.Error, Down, Lost) as refused:
                self.trouble = words(refused)
                log.debug("%s: %s: %s", self.name, server, self.trouble)
                self._refused(self)
            await asyncio.sleep(random.uniform(0, pause_s))
            pause_s = min(pause_s * 2, most_s)

    async def _live(self, server: str) -> bool:
        """One connection, from its beginning to its end; whether it ever was one."""
        client = Client()
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def closed() -> None:
            if not ended.done():
                ended.set_result(None)

        try:
            await client.connect(
                servers=[server],
                name=self.name,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=CONNECT_S,
                ping_interval=PING_S,
                pending_size=0,
                error_cb=self._failed,
                closed_cb=closed,
                **self.credentials,  # type: ignore[arg-type]
            )
            if not client.is_connected:
                return False
            self.trouble = ""
            await self._settle_in(client, ended)
            self._first.set()
            self._up(self)
            await ended
            return True
        finally:
            self._lose(client)
            await _end(client)

    async def _settle_in(self, client: Client, ended: asyncio.Future[None]) -> None:
        await client.subscribe(f"{self._inbox}.*", cb=self._answered)
        self._client, self._ended = client, ended
        for subject, (hearer, _) in list(self._hearers.items()):
            await self._listen(client, subject, hearer)
        await self.flush()

    def _lose(self, client: Client) -> None:
        if self._client is not client:
            return
        self._client = None
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
            with contextlib.suppress(nats.errors.Error):
                await self._client.publish(subject, payload)

    async def hear(self, subject: str, hearer: Hearer) -> None:
        """From the return on, and on each later connection, what comes on `subject` is given to `hearer`. Down or Lost:
        not so."""
        client = self._client
        if client is None:
            raise Down()
        before = self._hearers.get(subject)
        if before is not None:
            await self.unhear(subject, before[0])
        self._hearers[subject] = (hearer, None)
        try:
            await self._listen(client, subject, hearer)
            await self.flush()
        except BaseException:
            await self.unhear(subject, hearer)
            raise

    def hears(self, hearer: Hearer) -> set[str]:
        """The subjects on which it is `hearer` that listens."""
        return {subject for subject, found in self._hearers.items() if found[0] == hearer}

    async def unhear(self, subject: str, hearer: Hearer) -> None:
        """Never fails; does nothing where another has begun to listen there since."""
        found = self._hearers.get(subject)
        if found is None or found[0] != hearer:
            return
        del self._hearers[subject]
        if found[1] is not None:
            with contextlib.suppress(nats.errors.Error):
                await found[1].unsubscribe()

    async def _listen(self, client: Client, subject: str, hearer: Hearer) -> None:
        async def heard(msg: Msg) -> None:
            hearer(msg)

        try:
            subscription = await client.subscribe(
                subject, cb=heard, pending_msgs_limit=0, pending_bytes_limit=PENDING_BYTES
            )
        except nats.errors.Error:
            raise Down() from None
        found = self._hearers.get(subject)
        if found is not None and found[0] == hearer:
            self._hearers[subject] = (hearer, subscription)
        else:  # given up while we were at it
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def flush(self) -> None:
        """The server has seen everything that was sent before."""
        client, ended = self._client, self._ended
        if client is None or ended is None:
            raise Down()
        pong: asyncio.Future[bool] = asyncio.ensure_future(_ping(client))
        try:
            waited: list[asyncio.Future[Any]] = [pong, ended]
            await asyncio.wait(waited, timeout=FLUSH_S, return_when=asyncio.FIRST_COMPLETED)
            if not pong.done() or not pong.result():
                raise Lost()
        finally:
            pong.cancel()


async def _end(client: Client) -> None:
    """Closes it whole, cancelled or not: half closed it would keep its socket."""
    closing = asyncio.ensure_future(client.close())
    cancelled = False
    while not closing.done():
        try:
            if not (await asyncio.wait([closing], timeout=CONNECT_S))[0]:
                closing.cancel()
        except asyncio.CancelledError:
            cancelled = True
    if not closing.cancelled() and (failed := closing.exception()) is not None:
        log.debug("a connection did not close: %s", words(failed))
    if cancelled:
        raise asyncio.CancelledError


async def _ping(client: Client) -> bool:
    try:
        await client.flush(int(FLUSH_S))
    except nats.errors.Error:
        return False
    return True


def words(error: BaseException) -> str:
    """One line about an error."""
    text = str(error).replace("\n", " ").removeprefix("nats: ").strip("'\" ")
    return text or type(error).__name__
