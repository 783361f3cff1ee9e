# A way to NATS on which batches get lost while the connection stays: a gate that reads what the server sends, and drops
# what it sends on from the log while told to. It owns what it has not passed on yet. It must never break a message.

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.broker.gate import Gate

LOST = b"edge.out."


class Sieve(Gate):
    def __init__(self, target: int) -> None:
        super().__init__(target)
        self.dropping = False
        self.dropped = 0

    async def _relay(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, event: asyncio.Event, named: asyncio.Event
    ) -> None:
        if event is self.up:
            await super()._relay(source, sink, event, named)
            return
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while line := await source.readline():
                    verb, *words = line.split()
                    body = b""
                    if verb in (b"MSG", b"HMSG"):
                        body = await source.readexactly(int(words[-1]) + 2)
                    if self.dropping and words and words[0].startswith(LOST):
                        self.dropped += 1
                        continue
                    await event.wait()
                    sink.write(line + body)
                    await sink.drain()
        finally:
            sink.close()
            self._writers.discard(sink)


@asynccontextmanager
async def sieve_to(target: int) -> AsyncIterator[Sieve]:
    made = Sieve(target)
    await made.open()
    try:
        yield made
    finally:
        await made.cut()
