# nats-py's client for one connection, and what a Link needs of it besides: TLS that is insisted on, an end that always
# comes, a word on how far a login got. It owns the connection. It must never be used for a second one.
#
# Its own end is not enough: it first writes what has not been sent, and waits for a server that reads no more; where
# that write fails it never says that it has ended.

import asyncio
import logging
import re
import ssl
from typing import Any

import nats.errors
from nats.aio.client import Client

from broker.base import Misfit

log = logging.getLogger("broker")

END_S = 2.0
PING_S = 5
LOGIN = "user and password, or the token"
COMMANDS = 1 << 20
"""That may wait for the flusher. Past it even a ping would wait, and nothing would show that the server is gone."""


class Connection(Client):
    def __init__(self, tls: bool) -> None:
        super().__init__()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.logging_in = False  # the login is sent, and not answered yet
        self._tls = tls

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """Before a login is sent: a server that offers no TLS would be told it in the clear."""
        if self._tls and initial_connection:
            if not (info.get("tls_required") or info.get("tls_available")):
                raise nats.errors.Error("nats: the server offers no TLS")
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)

    def _connect_command(self) -> bytes:
        self.logging_in = True
        command: bytes = super()._connect_command()
        return command

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
        except nats.errors.Error:
            self.logging_in = False  # it has been answered
            raise
        if self.is_connected:
            self.logging_in = False

    async def _process_pong(self) -> None:
        """One that nobody waits for any more: the answer to it would end the connection."""
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        """Whatever has not been sent is not sent any more, and nothing is waited for: where TLS was begun and broken
        off, nobody would ever say that the connection has closed."""
        try:
            self._pending: list[bytes] = []
            self._pending_data_size = 0
            writer = getattr(self._transport, "_io_writer", None)
            self._transport = None
            if writer is not None:
                writer.transport.abort()
            await super()._close(status, do_cbs)
        finally:
            if not self.ended.done():
                self.ended.set_result(None)


async def end(client: Connection) -> None:
    """Ends it whole, cancelled or not: half ended it would keep its socket."""
    loop = asyncio.get_running_loop()
    closing = asyncio.ensure_future(client.close())
    deadline = loop.time() + END_S
    cancelled = False
    while not closing.done():
        try:
            await asyncio.wait([closing], timeout=max(0.0, deadline - loop.time()))
        except asyncio.CancelledError:  # again and again, perhaps: each must not put off the deadline
            cancelled = True
        if loop.time() >= deadline:
            closing.cancel()
            deadline = loop.time() + END_S
    if not closing.cancelled() and (failed := closing.exception()) is not None:
        log.debug("a connection did not close: %s", words(failed))
    if cancelled:
        raise asyncio.CancelledError


async def ping(client: Connection, timeout_s: int) -> bool:
    """Whether the server has seen everything that was sent before."""
    try:
        await client.flush(timeout_s)
    except (nats.errors.Error, OSError):
        return False
    return client.is_connected


def words(error: BaseException) -> str:
    """One line about an error."""
    text = str(error).replace("\n", " ").removeprefix("nats: ").strip("'\" ")
    return text or type(error).__name__


def misfit_of(where: str, refused: Exception, creds: str) -> Misfit | None:
    """What a server or its certificate had against us, if waiting does not help."""
    text = words(refused)
    lower = text.lower()
    if isinstance(refused, Misfit):
        return refused
    if isinstance(refused, ssl.SSLCertVerificationError):
        return Misfit(f"NATS at {where}: {refused.verify_message}; check the TLS CA, and the name in the url")
    if isinstance(refused, ssl.SSLError) and (
        "certificate" in lower or "unknown ca" in lower
    ):  # by the server, of ours
        return Misfit(f"NATS at {where}: {text}; check the TLS certificate and its key")
    if isinstance(refused, nats.errors.Error) and "offers no tls" in lower:
        return Misfit(f"NATS at {where}: {text}, and this node is set to it")
    if "authorization violation" in lower or re.search(r"authentication (expired|revoked)", lower):
        return Misfit(f"NATS at {where}: {text}; check {'the .creds file' if creds else LOGIN}")
    return None
