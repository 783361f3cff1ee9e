# One process of `make bench-broker`: a node with a broker of its own. It does what JSON lines on stdin tell it, one
# after the other, and answers each with one line. It owns the broker and, when told to `own`, an Owner of shards.
# It must never count what it has not been told by the broker itself, nor hide an error: that ends the whole run.

import asyncio
import gc
import json
import logging
import struct
import sys
import time
from collections.abc import Iterable
from functools import partial
from typing import Any

import msgspec
import uvloop

import broker
from bench.broker_said import Counted, Told, names, quantiles, said
from bench.broker_watch import Watching
from broker.base import CHAT, MUST, BrokerError, Kind
from broker.nats import NatsBroker
from broker.nats_hear import _wants_all
from edge import wire
from edge.errors import EdgeError
from edge.offers import Offers

Answer = dict[str, Any]
STAMP = struct.Struct("<q")
AT_ONCE = 64  # subscriptions and first looks


class Heads:
    """Where the lanes end that this node writes to. A lane that did not take an append is not gone on with."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}
        self.stored = 0
        self.failed: dict[str, int] = {}

    def fail(self, why: str) -> None:
        self.failed[why] = self.failed.get(why, 0) + 1


class Node:
    def __init__(self, url: str) -> None:
        self.broker = broker.open(url)
        self.watching = Watching()
        self.heads = Heads()
        self.owner: Counted | None = None
        self.tasks: set[asyncio.Task[Any]] = set()
        self.offers = Offers(self.broker, self.spawn)
        self.said = 0

    def spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def close(self) -> None:
        if self.owner is not None:
            await self.owner.stop()
        await self.broker.close()

    # What it can be told.

    async def ready(self) -> Answer:
        await self.broker.head("-", MUST)
        gc.collect()
        gc.freeze()  # as a worker does: a full collection takes 20 ms and more, and would be in the figures
        return {"shards": self.broker.shards}

    async def watch(self, prefix: str, count: int, mode: str) -> Answer:
        """Subscribes. `mode` is what the sink does with a batch: see Watching."""
        began = time.monotonic()
        rooms = iter(names(prefix, count))

        async def some() -> None:
            for room in rooms:
                self.watching.begin(room, mode)
                self.watching.start(room, await self.broker.subscribe(room, self.watching))

        await asyncio.gather(*(some() for _ in range(AT_ONCE)))
        return {"seconds": time.monotonic() - began}

    async def seen(self) -> Answer:
        """What has come since this was asked last."""
        return self.watching.report(quantiles)

    async def peek(self) -> Answer:
        """How many have come, and for how many comments they stand; nothing is asked away."""
        return {"batches": self.watching.batches, "stands_for": self.watching.stands_for}

    async def whole(self) -> Answer:
        """How many shards' chat lanes it hears as a whole; -1 while that is being changed."""
        assert isinstance(self.broker, NatsBroker)
        shards = self.broker.hearing[CHAT]._shards.values()  # no figure of the broker's tells it
        settled = all(it.all == _wants_all(it) and not it.switching for it in shards)
        return {"whole": sum(it.all for it in shards) if settled else -1}

    async def figures(self) -> Answer:
        return {**self.broker.figures(), **(self.owner.metrics() if self.owner else {})}

    async def own(self, flush_ms: int, alone: bool) -> Answer:
        """Competes for shards from now on. `alone`: does not wait to hear whether there are others."""
        began = time.monotonic()
        self.owner = Counted(self.broker, flush_ms, (0, 1), alone, self.spawn)
        await self.owner.start(True)
        return {"seconds": time.monotonic() - began, "shards": self.owner.metrics()["owner_shards"]}

    async def counted(self) -> Answer:
        assert self.owner is not None
        return self.owner.counted()

    async def pace(self, prefix: str, count: int, size: int, rate: float, seconds: float) -> Answer:
        """Appends to the chat lanes at `rate` a second, one room after the other, whatever becomes of them."""
        rooms = names(prefix, count)
        await self._look(rooms)
        self.heads.stored, late = 0, 0.0
        loop = asyncio.get_running_loop()
        start, under_way = loop.time(), []
        for number in range(int(rate * seconds)):
            due = start + number / rate
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            late = max(late, loop.time() - due)
            under_way.append(self.spawn(self._append(rooms[number % count], size)))
        await asyncio.gather(*under_way)
        return {"stored": self.heads.stored, "failed": self.heads.failed, "late_ms": late * 1000}

    async def flood(
        self, prefix: str, count: int, size: int, at_once: int, seconds: float, part: int, parts: int
    ) -> Answer:
        """Appends as fast as they are stored: `at_once` are under way, each to a room that no other is at. The rooms
        are one part of all, so that others may do the same beside."""
        rooms, took = names(prefix, count)[part::parts], []
        began = time.monotonic()
        self.heads.stored = 0

        async def one(mine: list[str]) -> None:
            number = 0
            while mine and time.monotonic() - began < seconds:
                room, number = mine[number % len(mine)], number + 1
                sent = time.monotonic_ns()
                if room not in self.heads.of:
                    self.heads.of[room] = await self.broker.head(room, CHAT)
                await self._append(room, size)
                took.append(time.monotonic_ns() - sent)

        await asyncio.gather(*(one(rooms[first::at_once]) for first in range(at_once)))
        passed = time.monotonic() - began
        return {"stored": self.heads.stored, "failed": self.heads.failed, "seconds": passed, **quantiles(took)}

    async def once(self, prefix: str, counts: list[int], size: int) -> Answer:
        """Appends `counts[i]` batches to room i: what the model of hash routing has counted on."""
        rooms = iter(zip(names(prefix, len(counts)), counts, strict=True))
        self.heads.stored = 0

        async def some() -> None:
            for room, count in rooms:
                await self._look([room])
                for _ in range(count):
                    await self._append(room, size)

        await asyncio.gather(*(some() for _ in range(AT_ONCE)))
        return {"stored": self.heads.stored, "failed": self.heads.failed}

    async def speak(self, name: str, prefix: str, count: int, each: int, rate: float, seconds: float) -> Answer:
        """Offers `rate` comments a second, `each` of them at once to one room after the other."""
        rooms, told = names(prefix, count), Told()
        loop = asyncio.get_running_loop()
        start, late = loop.time(), 0.0
        for number in range(int(rate * seconds / each)):
            due = start + number * each / rate
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            late = max(late, loop.time() - due)
            self._say(name, rooms[number % count], each, told)
        await told.all()
        return {**told.answer(), "late_ms": late * 1000, "seconds": loop.time() - start}

    async def shout(self, name: str, prefix: str, count: int, each: int, seconds: float) -> Answer:
        """Offers as fast as it is stored: to each room the next ones when those before are."""
        began, tolds = time.monotonic(), [Told() for _ in range(count)]

        async def one(room: str, told: Told) -> None:
            while time.monotonic() - began < seconds:
                self._say(name, room, each, told)
                await told.all()

        await asyncio.gather(*(one(*it) for it in zip(names(prefix, count), tolds, strict=True)))
        sums = {key: sum(told.counts[key] for told in tolds) for key in tolds[0].counts}
        return {**sums, "seconds": time.monotonic() - began}

    # How.

    def _say(self, name: str, room: str, each: int, told: Told) -> None:
        for _ in range(each):
            self.said += 1
            told.asked()
            try:
                self.offers.take(room, wire.item(room, said(name, self.said)), told.done)
            except EdgeError:
                told.done("rejected")

    async def _look(self, rooms: Iterable[str]) -> None:
        for room in rooms:
            if room not in self.heads.of:
                self.heads.of[room] = await self.broker.head(room, CHAT)

    async def _append(self, room: str, size: int) -> None:
        expected = self.heads.of[room]
        self.heads.of[room] += 1
        batch = STAMP.pack(time.monotonic_ns()) + bytes(size - STAMP.size)
        try:
            outcome = await self.broker.append(room, CHAT, batch, expected)
        except BrokerError as error:
            self.heads.fail(type(error).__name__)
        else:
            if outcome.kind is Kind.STORED:
                self.heads.stored += 1
            else:
                self.heads.fail(outcome.kind.name)


VERBS = (
    "ready",
    "watch",
    "seen",
    "peek",
    "whole",
    "figures",
    "own",
    "counted",
    "pace",
    "flood",
    "once",
    "speak",
    "shout",
)


async def serve(url: str) -> None:
    """Until stdin ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(partial(asyncio.StreamReaderProtocol, reader), sys.stdin)
    node = Node(url)
    try:
        while line := await reader.readline():
            verb, *arguments = json.loads(line)
            try:
                answer = await getattr(node, verb)(*arguments) if verb in VERBS else {"error": f"{verb}?"}
            except Exception as error:
                logging.exception("%s", verb)
                answer = {"error": f"{verb}: {error!r}"}
            sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
            sys.stdout.flush()
    finally:
        await node.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr, format="%(name)s: %(message)s")
    uvloop.run(serve(sys.argv[1]))
