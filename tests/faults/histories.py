# Short random histories of owners on one store: they are killed, paused past their leases and woken, while their
# messages get lost and the broker's answers too. Everything is drawn from one seed. Times are a sixteenth of what they
# are outside: a lease lasts not a second.

import asyncio
import contextlib
import random
from collections.abc import Iterator
from typing import Any

import msgspec

from broker.base import CHAT, Tail
from broker.memory import MemoryBroker, Store
from edge import owner, wire
from edge.errors import EdgeError
from edge.offers import Offers
from edge.owner import Owner
from tests.faults.flaky import FlakyBroker
from tests.faults.truth import PUBLISHED, REJECTED, UNKNOWN, Log, Message, Said, Truth
from tests.server import until_async

SCALE = 1 / 16
LEASE_S = 0.9
TIMES = ("TICK_S", "LISTEN_S", "GONE_S", "COVER_S", "AGAIN_S", "IDLE_S")
ROOMS = [f"room{number}" for number in range(5)]
AUTHORS = 6
ENDS_S = 20.0


@contextlib.contextmanager
def quick() -> Iterator[None]:
    before = {name: getattr(owner, name) for name in TIMES}
    for name, value in before.items():
        setattr(owner, name, value * SCALE)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


class Worker:
    """An owner with the tasks that it has started: what a process is."""

    def __init__(self, store: Store, chance: random.Random, trouble: float) -> None:
        self.broker = FlakyBroker(store, chance, trouble)
        self.tasks: set[asyncio.Task[Any]] = set()
        self.failures: list[BaseException] = []
        self.owner = Owner(self.broker, 2, (0, 1), False, self.spawn)
        self.offers = Offers(self.broker, self.spawn)

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (failed := task.exception()) is not None:
            self.failures.append(failed)

    @property
    def well(self) -> bool:
        return not self.broker.dead and self.broker.running.is_set()

    async def kill(self) -> None:
        await self.broker.die()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class Sight:
    """A viewer: each batch is the next."""

    def __init__(self) -> None:
        self.head = 0
        self.seen: dict[int, Message] = {}

    def batch(self, room: str, lane: int, seq: int, data: bytes) -> None:
        assert seq == self.head + 1
        self.head = seq
        self.seen[seq] = msgspec.msgpack.decode(data)

    def reset(self, room: str, tail: Tail) -> None:
        raise AssertionError(f"{room} began anew")


class History:
    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.trouble = self.chance.choice([0.0, 0.02, 0.1])
        self.store = Store(lease_ttl_s=LEASE_S)
        self.truth = Truth()
        self.workers: list[Worker] = []
        self.dead: list[Worker] = []
        self.sights = {room: Sight() for room in ROOMS}
        self.reader = MemoryBroker(self.store)
        self.over = False
        self.told: list[str] = []

    async def run(self, seconds: float) -> None:
        for room, sight in self.sights.items():
            await self.reader.subscribe(room, sight)
        for _ in range(3):
            await self._start()
        speaking = [asyncio.create_task(self._speak(f"author{number}")) for number in range(AUTHORS)]
        try:
            async with asyncio.timeout(seconds + ENDS_S):
                await self._break(seconds)
                self.over = True
                await asyncio.gather(*speaking)
                await until_async(self._is_whole, ENDS_S)
        except TimeoutError:
            self.check()  # says what is missing
            raise
        finally:
            for task in speaking:
                task.cancel()
            await asyncio.gather(*speaking, return_exceptions=True)
            for worker in self.workers:
                await worker.kill()
        self.check()

    async def _start(self) -> None:
        made = Worker(self.store, self.chance, self.trouble)
        self.workers.append(made)
        await made.owner.start(True)

    async def _break(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until:
            await asyncio.sleep(self.chance.uniform(0.02, 0.3))
            well = [worker for worker in self.workers if worker.well]
            what = self.chance.choice(["kill", "pause", "wake", "wake", "start", "stop"])
            self.told.append(what)
            if what == "start" and len(self.workers) < 5:
                await self._start()
            elif what == "wake":
                for worker in self.workers:
                    worker.broker.running.set()
            elif what != "start" and len(well) > 1:
                await self._harm(what, self.chance.choice(well))
        for worker in self.workers:
            worker.broker.running.set()
            worker.broker.trouble = 0.0

    async def _harm(self, what: str, worker: Worker) -> None:
        if what == "pause":
            worker.broker.running.clear()
            return
        self.workers.remove(worker)
        self.dead.append(worker)
        if what == "stop":
            await worker.owner.stop()
        await worker.kill()

    async def _speak(self, name: str) -> None:
        """One comment after the other, each again until it is published, but for some that are given up."""
        chance = random.Random(f"{name} {self.chance.random()}")
        count = 0
        while not self.over:
            count += 1
            room = chance.choice(ROOMS)
            ref = f"{name}-{count}"
            made = wire.comment_id(name, ref)
            said = self.truth.comments[made] = Said(room, name, count)
            patient = chance.random() < 0.9
            comment = wire.comment(made, {"id": name, "name": name}, ref, 0)
            said.told(await self._offer(room, comment))
            while patient and said.status != PUBLISHED:
                await asyncio.sleep(0.02)
                said.told(await self._offer(room, comment))
            await asyncio.sleep(chance.random() * 0.01)

    async def _offer(self, room: str, comment: Message) -> str:
        well = [worker for worker in self.workers if worker.well]
        if not well:
            return REJECTED
        told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        try:
            item = wire.item(room, comment)
            self.chance.choice(well).offers.take(room, item, lambda status: told.done() or told.set_result(status))
        except EdgeError:
            return REJECTED
        done, _ = await asyncio.wait([told], timeout=1.0)
        return told.result() if done else UNKNOWN

    def _log(self) -> Log:
        rooms = {room: self.store.find(room) for room in ROOMS}
        return {
            (room, "c"): {seq: msgspec.msgpack.decode(data) for seq, data in found.lanes[CHAT].entries}
            for room, found in rooms.items()
            if found is not None
        }

    def _is_whole(self) -> bool:
        late = any(worker.broker.late for worker in [*self.workers, *self.dead])
        with contextlib.suppress(AssertionError):
            self.truth.check(self._log())
            return not late
        return False

    def check(self) -> None:
        log = self._log()
        self.truth.check(log)
        for room, sight in self.sights.items():
            assert sight.seen == log.get((room, "c"), {}), f"{room}: its viewer has {sight.head}"
        for worker in (*self.workers, *self.dead):
            assert not worker.failures, worker.failures
