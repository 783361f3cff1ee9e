# The way to NATS: three connections, and whether they lead to a cluster that is as this node is set. It owns the
# connections and every task of its broker. It must never let a call through to a cluster that does not fit.

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from broker.access import Keys
from broker.base import Closed, Misfit, Unavailable
from broker.nats_entry import BadEntry
from broker.nats_link import Down, Link, Lost, NoResponders
from broker.nats_setup import Options, ensure

log = logging.getLogger("broker")

AGAIN_S = 0.02
LOOK_AGAIN_S = 0.3
CANCEL_AGAIN_S = 0.5  # a cancelling can be lost in asyncio.wait_for before Python 3.12, when what it waits for is there
FAILURES = (Down, Lost, NoResponders)

T = TypeVar("T")


class Way:
    """`up` is called when a connection that hears the lanes is there again."""

    def __init__(self, options: Options, wait_s: float, up: Callable[[], None]) -> None:
        self.options = options
        self.wait_s = wait_s
        self._keys = Keys(options.access)
        self.links = tuple(
            Link(f"edge {name}", options, self._keys, self._up, self._down, self._refused)
            for name in ("must", "chat", "reads")
        )
        self.reads = self.links[2]
        self.closed = False
        self._came_up = up
        self._tasks: set[asyncio.Task[Any]] = set()
        self._news = asyncio.Event()
        self._begun = False
        self._ended = False
        self._fit = False  # the cluster has been found as it should be, on this connection
        self._ever_fit = False
        self._misfit: Misfit | None = None
        self._told = ""  # the trouble that the log has a line about

    @property
    def connected(self) -> bool:
        return self._fit and all(link.connected for link in self.links)

    @property
    def where(self) -> str:
        return ", ".join(server.partition("://")[2] for server in self.options.servers)

    def deadline(self) -> float:
        return asyncio.get_running_loop().time() + self.wait_s

    def begin(self) -> bool:
        """Connects, unless that has begun: whether it has been now. Raises Closed or Misfit."""
        self.check()
        if self._begun:
            return False
        self._begun = True
        for link in self.links:
            self.spawn(link.run())
        return True

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if self._ended:
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def first(self, lane: int, deadline: float) -> None:
        """There is a way to append; waits for the first one, but for no later one. Raises Unavailable."""
        if not self._ever_fit:
            await self.wait(deadline)
        if not await self.links[lane].first(deadline):
            self.check()
            raise Unavailable(f"NATS can't be reached at {self.where}")

    async def wait(self, deadline: float | None) -> None:
        """There is a way to read. Raises Unavailable, Closed, Misfit."""
        self.check()
        while not self._fit:
            self._news.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._news.wait()
            except TimeoutError:
                why = next((link.trouble for link in self.links if link.trouble), "no answer")
                raise Unavailable(f"NATS can't be reached at {self.where}: {why}") from None
            self.check()

    async def read(self, read: Callable[[], Awaitable[T]], deadline: float) -> T:
        """Asks until there is an answer. Raises Unavailable, Closed, Misfit."""
        while True:
            await self.wait(deadline)
            try:
                async with asyncio.timeout_at(deadline):
                    return await read()
            except TimeoutError:
                raise Unavailable(f"NATS at {self.where} has not answered for {self.wait_s:g} s") from None
            except BadEntry as bad:
                raise Unavailable(f"the log of a room can't be read: {bad}") from None
            except FAILURES:
                await asyncio.sleep(AGAIN_S)

    async def close(self) -> None:
        self.closed = True
        self._news.set()
        while tasks := list(self._tasks):
            self._end()
            await asyncio.wait(tasks, timeout=CANCEL_AGAIN_S)

    def _end(self) -> None:
        self._ended = True
        for link in self.links:
            link.ending = True
        for task in self._tasks:
            task.cancel()

    def check(self) -> None:
        if self.closed:
            raise Closed("this broker has been closed")
        if self._misfit is not None:
            raise self._misfit

    def _up(self, link: Link) -> None:
        if link is self.reads:
            self.spawn(self._make_fit())
        else:
            self._came_up()

    def _down(self, link: Link) -> None:
        if link is self.reads:
            self._fit = False
            if not self.closed and self._misfit is None:
                log.warning("NATS at %s: the connection has ended", self.where)

    def _refused(self, link: Link) -> None:
        if not self._ever_fit and link.misfit is not None:
            self._give_up(link.misfit)
        elif link is self.reads:
            self._tell(link.trouble)

    def _tell(self, trouble: str) -> None:
        """Once, however often it is seen."""
        if trouble != self._told:
            self._told = trouble
            log.warning("NATS at %s: %s", self.where, trouble)

    async def _make_fit(self) -> None:
        """On one connection of the reads: the next has its own."""
        link, connection = self.reads, self.reads.connects
        while link.connected and link.connects == connection and not self.closed:
            try:
                await ensure(link, self.options)
                if not link.connected or link.connects != connection:
                    return
                self._fit = self._ever_fit = True
                self._told = ""
                self._news.set()
                log.info("NATS at %s: connected", self.where)
                return
            except Misfit as misfit:
                if not self._ever_fit:
                    self._give_up(misfit)
                    return
                log.error("%s", misfit)  # who runs already does not end for it, but it does not write either
                link.trouble = str(misfit)
                await asyncio.sleep(self.wait_s)
            except (*FAILURES, ValueError, KeyError, TypeError, AttributeError) as failed:
                link.trouble = str(failed) or "JetStream does not answer"
                self._tell(link.trouble)
            await asyncio.sleep(LOOK_AGAIN_S)

    def _give_up(self, misfit: Misfit) -> None:
        if self._misfit is not None:
            return
        self._misfit = misfit
        log.error("%s", misfit)
        self._news.set()
        self._end()
