# The stage for faults: boxes on a real NATS, viewers that stay through everything, authors who retry as clients do. It
# owns the processes and the tasks, and ends them. It must never help a box along, but by what any client does.

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgpack
import nats
from nats.js.api import AckPolicy, ConsumerConfig

from broker.nats_entry import unpack
from broker.subjects import ROOM_NAME, room_of
from tests.broker.nats_server import NatsServer, nats_cluster, nats_server
from tests.faults.people import Author, Watcher
from tests.faults.truth import PUBLISHED, Log, Truth, check_seen
from tests.server import Server, until_async

LEASE_S = 3
SHARDS = 4
OPTIONS = f"lease={LEASE_S}&shards={SHARDS}"
HEAL_S = 30.0


class Box(Server):
    """A server whose life is in danger."""

    paused = False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        self.paused = True
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        self.paused = False
        os.kill(self.process.pid, signal.SIGCONT)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None and not self.paused

    def figure(self, name: str) -> int:
        found = self.figures()
        return found[f"edge_{name}"] + found[f"edge_{name}_total"]


class Stage:
    def __init__(self, servers: list[NatsServer], options: str = OPTIONS) -> None:
        self.servers = servers
        self.options = options
        self.boxes: list[Box] = []
        self.watchers: list[Watcher] = []
        self.authors: list[Author] = []
        self.truth = Truth()
        self._tasks: list[asyncio.Task[Any]] = []

    @property
    def hosts(self) -> str:
        return ",".join(server.address for server in self.servers)

    def url(self, hosts: str = "") -> str:
        return f"nats://{hosts or self.hosts}?{self.options}"

    async def box(self, hosts: str = "", **settings: object) -> Box:
        made = await asyncio.to_thread(Box, broker_url=self.url(hosts), **settings)
        self.boxes.append(made)
        return made

    def alive(self) -> list[Box]:
        return [box for box in self.boxes if box.alive]

    async def shared_out(self) -> None:
        """Every shard has an owner, and each box has its part."""

        def looks_so() -> bool:
            held = [box.figure("owner_shards") for box in self.alive()]
            return sum(held) == SHARDS and max(held) - min(held) <= 1

        await until_async(looks_so, HEAL_S)

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.append(task)
        return task

    async def watch(self, room: str, box: Box | None = None, kind: str = "json") -> Watcher:
        """A viewer who has joined; at that box for as long as it lives, if one is given."""
        boxes = self.alive if box is None else lambda: [box] if box.process.poll() is None else self.alive()
        made = Watcher(f"viewer {len(self.watchers)}", room, boxes, kind)
        self.watchers.append(made)
        self.spawn(made.run())
        await until_async(lambda: made.seat.incarnation or made.wrong, HEAL_S)
        return made

    def author(self, room: str) -> Author:
        made = Author(self.truth, f"a{len(self.authors)}", room)
        self.authors.append(made)
        return made

    async def owner_of(self, room: str) -> Box:
        """The box whose worker writes the room: the one that has made one more batch of what is said there."""
        author = self.author(room)

        async def wrote() -> Box | None:
            before = {box: box.figure("owner_batches") for box in self.alive()}
            made, status = await author.comment(self.alive()[0])
            if status != PUBLISHED:
                return None
            for watcher in self.watchers:
                if watcher.room == room:
                    await until_async(lambda watcher=watcher: made in watcher.at or watcher.wrong)
            grown = [box for box, count in before.items() if box.figure("owner_batches") > count]
            return grown[0] if len(grown) == 1 else None

        found: Box = await until_async(wrote, HEAL_S)
        return found

    async def log(self) -> Log:
        """All that the stream has, by lane; a lane with two numberings or two batches of one number is refused."""
        client = await nats.connect(
            [f"nats://{it}" for it in self.hosts.split(",")], allow_reconnect=False, error_cb=_quiet
        )
        log: Log = {}
        born: dict[tuple[str, str], int] = {}
        try:
            left = (await client.jetstream().stream_info("EDGE_LOG")).state.messages
            # Nothing is acknowledged, and with the default policy a server gives no more than 1,000 so.
            unacknowledged = ConsumerConfig(ack_policy=AckPolicy.NONE)
            reader = await client.jetstream().pull_subscribe("edge.log.>", config=unacknowledged)
            while left:
                for msg in await reader.fetch(16, 5):
                    left = msg.metadata.num_pending
                    *_, token, name = msg.subject.split(".")
                    entry = unpack(msg.data, msg.metadata.sequence.stream)
                    if name != ROOM_NAME and entry.batch is not None:
                        lane = (room_of(token), name[0])
                        batches = log.setdefault(lane, {})
                        assert born.setdefault(lane, entry.incarnation) == entry.incarnation, f"{lane}: born again"
                        assert entry.number not in batches, f"{lane}: a fork at {entry.number}"
                        batches[entry.number] = msgpack.unpackb(entry.batch)
        finally:
            await client.close()
        return log

    async def settle(self) -> Log:
        """Everything is well again: waits until every viewer has all that there is and all that was stored is written,
        then checks what must hold."""
        log: Log = {}

        async def whole() -> bool:
            nonlocal log
            self.look()
            try:
                log = await self.log()
                self.truth.check(log)
            except (nats.errors.Error, OSError, TimeoutError, AssertionError):
                await asyncio.sleep(0.2)
                return False
            return all(
                (watcher.seat.at[lane] or 0) == len(log.get((watcher.room, lane), ()))
                for watcher in self.watchers
                for lane in "mc"
            )

        try:
            await until_async(whole, HEAL_S)
        except TimeoutError:
            log = await self.log()
            self.truth.check(log)
            heads = {lane: len(found) for lane, found in log.items()}
            raise AssertionError(f"viewers are behind: {[it.seat.since for it in self.watchers]}, {heads}") from None
        self.look()
        for watcher in self.watchers:
            check_seen(watcher.who, watcher.room, watcher.seen, log)
        assert not (lacking := [it for author in self.authors for it in author.lacking]), lacking
        return log

    def look(self) -> None:
        for watcher in self.watchers:
            if watcher.wrong is not None:
                raise watcher.wrong

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for box in self.boxes:
            if box.paused:
                box.resume()
        said = [box.stderr() for box in self.boxes]
        await asyncio.gather(*(asyncio.to_thread(box.stop) for box in self.boxes))
        for text in said:
            assert "Traceback" not in text, text[-6000:]


@asynccontextmanager
async def stage(
    folder: Path, boxes: int = 2, cluster: bool = False, options: str = OPTIONS, settings: str = "", even: bool = True
) -> AsyncIterator[Stage]:
    with nats_cluster(folder) if cluster else nats_server(folder, settings=settings) as found:
        servers = found if isinstance(found, list) else [found]
        made = Stage(servers, f"{options}&replicas=3" if cluster else options)
        try:
            # One after the other: the first makes the streams, and takes its part before the others ask for theirs.
            for _ in range(boxes):
                await made.box()
            if even:
                await made.shared_out()
            yield made
        except BaseException:
            for number, box in enumerate(made.boxes):
                print(
                    f"\nbox {number}, {box.figures() if box.alive else 'which does not run'}:\n{box.stderr()[-4000:]}"
                )
            raise
        finally:
            await made.end()


async def _quiet(error: Exception) -> None:
    """Whoever asks a cluster that is not whole is asked to come again."""


async def burst(authors: list[Author], seconds: float, at: Callable[[], Server | None]) -> None:
    """Each says one thing after the other, for so long, or until there is nobody to say it to."""
    until_s = time.monotonic() + seconds

    async def talk(author: Author) -> None:
        while time.monotonic() < until_s and (box := at()) is not None:
            await author.comment(box, at)

    await asyncio.gather(*map(talk, authors))


async def first(look: Callable[[], Awaitable[Any]], seconds: float) -> float:
    """How long until it is true."""
    began = time.monotonic()
    await until_async(look, seconds)
    return time.monotonic() - began
