# Short random histories of whole boxes: they are killed and replaced, paused and woken, cut off from NATS, and its
# servers are killed and started. Everything is drawn from one seed, but for what the machine decides. It owns the plan.
# It must never end with anything still broken: what is checked then is what is left when all is well again.

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgpack

from broker.base import CHAT, MUST
from broker.local_server import LocalServer
from tests.broker.gate import Gate, gate_to
from tests.faults.people import Author
from tests.faults.stage import LEASE_S, OPTIONS, Box, Stage, stage
from tests.faults.truth import PUBLISHED, Log

ROOMS = ("one", "two")
AUTHORS = 5
BOXES = 3


class LocalStage(Stage):
    """Boxes on the broker of one box, which lives in this process; nobody takes it away."""

    def __init__(self, path: Path) -> None:
        super().__init__([], "")
        self.server = LocalServer(str(path), lease_ttl_s=LEASE_S)

    def url(self, hosts: str = "") -> str:
        return f"local:{self.server.path}"

    async def log(self) -> Log:
        return {
            (room, letter): {seq: msgpack.unpackb(data) for seq, data in found.lanes[lane].entries}
            for room in ROOMS
            for lane, letter in ((MUST, "m"), (CHAT, "c"))
            if (found := self.server.store.find(room)) is not None
        }


@asynccontextmanager
async def local_stage(folder: Path) -> AsyncIterator[LocalStage]:
    made = LocalStage(folder / "broker")
    await made.server.start()
    try:
        for _ in range(BOXES):
            await made.box()
        yield made
    finally:
        await made.end()
        await made.server.stop()


class Storm:
    def __init__(self, seed: int, it: Stage, gate: Gate | None = None) -> None:
        self.chance = random.Random(seed)
        self.it = it
        self.gate = gate
        self.over = False
        self.told: list[str] = []
        self._is_cut = False
        self._mending: list[asyncio.Task[Any]] = []
        self._faults = [self._pause, self._kill]
        if gate is not None:
            self._faults.append(self._cut)
        if it.servers:
            self._faults.append(self._restart)

    async def run(self, seconds: float) -> None:
        it = self.it
        for number, room in enumerate(ROOMS * 2):
            await it.watch(room, it.boxes[number % BOXES], ("json", "msgpack", "sse")[number % 3])
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        speaking = [it.spawn(self._speak(it.author(ROOMS[number % 2]))) for number in range(AUTHORS)]
        while loop.time() < until:
            await asyncio.sleep(self.chance.uniform(0.1, 1.5))
            await self.chance.choice(self._faults)()
            it.look()
        await asyncio.gather(*self._mending)
        self.over = True
        await asyncio.gather(*speaking)
        await it.settle()

    async def _speak(self, author: Author) -> None:
        chance = random.Random(author.name + str(self.chance.random()))

        def somebody() -> Box | None:
            return None if self.over else chance.choice(self.it.alive() or [self.it.boxes[0]])

        while (box := somebody()) is not None:
            if chance.random() < 0.2:
                await author.score(box)
            else:
                await author.comment(box, somebody)
            await asyncio.sleep(chance.random() * 0.02)

    def _later(self, seconds: float, mend: Any) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            await mend()

        self._mending.append(asyncio.create_task(wait()))

    async def _pause(self) -> None:
        if len(self.it.alive()) < 2:
            return
        box = self.chance.choice(self.it.alive())
        seconds = self.chance.choice([0.3, LEASE_S * 0.7, LEASE_S + 2])
        self._tell(f"box {self.it.boxes.index(box)} sleeps {seconds:.1f} s")
        box.pause()

        async def wake() -> None:
            if box.process.poll() is None:
                box.resume()

        self._later(seconds, wake)

    async def _kill(self) -> None:
        if len(self.it.alive()) < 2 or len(self.it.boxes) > BOXES + 4:
            return
        box = self.chance.choice(self.it.alive())
        self._tell(f"box {self.it.boxes.index(box)} is killed")
        box.kill()
        self._later(self.chance.uniform(0, 1), self.it.box)

    async def _cut(self) -> None:
        gate = self.gate
        if gate is None or self._is_cut:
            return
        seconds = self.chance.choice([0.1, 1.0, LEASE_S + 1])
        self._tell(f"a way is cut for {seconds:.1f} s")
        self._is_cut = True
        await gate.cut()

        async def mend() -> None:
            await gate.open()
            self._is_cut = False

        self._later(seconds, mend)

    async def _restart(self) -> None:
        server = self.chance.choice(self.it.servers)
        if any(other.process is None for other in self.it.servers):
            return
        seconds = self.chance.choice([0.0, 0.5, 3.0])
        self._tell(f"{server.name} is away for {seconds:.1f} s")
        server.kill()

        async def start() -> None:
            await asyncio.to_thread(server.start)

        self._later(seconds, start)

    def _tell(self, what: str) -> None:
        self.told.append(what)


async def storm(kind: str, seed: int, seconds: float, folder: Path) -> Storm:
    """`kind`: nats, cluster or local."""
    async with AsyncExitStack() as stack:
        gate = None
        if kind == "local":
            it: Stage = await stack.enter_async_context(local_stage(folder))
        else:
            cluster = kind == "cluster"
            it = await stack.enter_async_context(stage(folder, BOXES - 1, cluster, OPTIONS))
            gate = await stack.enter_async_context(gate_to(it.servers[0].port))
            await it.box(f"127.0.0.1:{gate.port}")
        made = Storm(seed, it, gate)
        try:
            await made.run(seconds)
        except BaseException:
            print("; ".join(made.told))
            raise
        made.told.append(f"{it.truth.count(PUBLISHED)} acknowledged")
        return made
