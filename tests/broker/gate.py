# A way to NATS that a test can cut: a relay of TCP connections. It owns its listener and what goes through it.

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """Relays what comes to `port` to `target`. `up` holds back what goes to the server while it is cleared, `down`
    what comes from it; only on connections whose client names itself `name`, if that is given."""

    def __init__(self, target: int, name: str = "") -> None:
        self.target = target
        self.name = name
        self.port = 0
        self.up = asyncio.Event()
        self.down = asyncio.Event()
        self.up.set()
        self.down.set()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Ends every connection; nobody gets through until `open`. What is held back is lost."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream, server = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        named = asyncio.Event()
        if not self.name:
            named.set()
        for source, sink, event in ((reader, server, self.up), (upstream, writer, self.down)):
            self._writers.add(sink)
            task = asyncio.create_task(self._relay(source, sink, event, named))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _relay(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, event: asyncio.Event, named: asyncio.Event
    ) -> None:
        try:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    if self.name and b'"name": "%s"' % self.name.encode() in data.replace(b'":"', b'": "'):
                        named.set()
                    if named.is_set():
                        await event.wait()
                    sink.write(data)
                    await sink.drain()
        finally:
            sink.close()
            self._writers.discard(sink)


@asynccontextmanager
async def gate_to(target: int, name: str = "") -> AsyncIterator[Gate]:
    gate = Gate(target, name)
    await gate.open()
    try:
        yield gate
    finally:
        gate.up.set()
        gate.down.set()
        await gate.cut()
