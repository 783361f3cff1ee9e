# Whether there is a way to the logs, asked again and again, and told to the viewers when it goes and when it is back.
# It owns what they have been told last. It must never hold up a turn: a worker's viewers are told a few at a time.
import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from broker.base import MUST, Broker, BrokerError, Closed
from edge.wire import Message

log = logging.getLogger("edge.trouble")

LOOK_S = 0.5
ANSWER_S = 1.5
"""A read goes through the leader of the stream: where that is lost, it does not answer."""
SLICE = 256
AGAIN_S = 5.0
"""While it lasts, those who have come since are told too: most join without a word to Python."""

ROOM = "-"  # asked about; it need not exist


class Sockets(Protocol):
    """What is used of the engine."""

    def tell(self, after: int, most: int, message: dict[str, Any], /) -> int: ...


class Trouble:
    """`failing` tells of what is on its way in, which may be cut off by itself."""

    def __init__(
        self, broker: Broker, engine: Sockets, soon: Callable[[], None], failing: Callable[[float], bool]
    ) -> None:
        self._broker = broker
        self._failing = failing
        self._engine = engine
        self._soon = soon
        self.now = False
        self.times = 0

    @property
    def message(self) -> Message:
        """It has no place in a lane: it is about this worker, just now."""
        return {"t": "state", "trouble": "broker" if self.now else None}

    async def watch(self) -> None:
        told = 0.0
        while True:
            answers, now = await self._answers(), time.monotonic()
            found = not answers or self._failing(now)
            changed, self.now = found != self.now, found
            if changed:
                self.times += found
                log.warning("viewers are told: %s", "the broker is away" if found else "the broker is back")
            if changed or (found and now - told > AGAIN_S):
                await self._tell()
                told = now
            await asyncio.sleep(LOOK_S)

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._broker.head(ROOM, MUST)
        except Closed:
            return not self.now  # by ourselves, at the end: no news
        except (BrokerError, TimeoutError):
            return False
        return True

    async def _tell(self) -> None:
        at = 0
        while at >= 0:
            at = self._engine.tell(at, SLICE, self.message)
            self._soon()
            await asyncio.sleep(0)
