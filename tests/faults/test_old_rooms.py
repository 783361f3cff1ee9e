# What a new owner is not told of when it takes a shard over: a room in which nothing was said for an hour. In this
# process, for an hour is long.

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker import nats_fence
from broker.base import CHAT
from broker.nats import NatsBroker
from edge import wire
from edge.offers import Offers
from edge.owner import Owner
from tests.broker.nats_server import nats_server
from tests.server import until_async

ROOM = "match"


class Process:
    def __init__(self, url: str) -> None:
        self.broker = NatsBroker(url)
        self.tasks: set[asyncio.Task[Any]] = set()
        self.owner = Owner(self.broker, 2, (0, 1), False, self.spawn)
        self.offers = Offers(self.broker, self.spawn)

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def start(self) -> None:
        await self.broker.head("-", CHAT)
        await self.owner.start(True)

    async def say(self, text: str) -> None:
        """Until the log shows it."""
        comment = wire.comment(wire.comment_id("ann", text), {"id": "ann", "name": "ann"}, text, 0)
        self.offers.take(ROOM, wire.item(ROOM, comment), lambda status: None)

        async def shown() -> bool:
            found = await self.broker.tail(ROOM, CHAT, 0)
            return any(it["x"] == text for _, data in found for it in msgspec.msgpack.decode(data)["m"])

        await until_async(shown, 8)

    async def stop(self) -> None:
        await self.owner.stop()
        await self.broker.close()
        for task in list(self.tasks):
            task.cancel()


async def test_a_room_in_which_nothing_was_said_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with nats_server(tmp_path) as nats:
        for number in range(3):
            process = Process(f"{nats.url}?shards=1")
            await process.start()
            try:
                await process.say(f"comment {number}")
                assert process.owner.figures["owner_fenced"] == 0
            finally:
                await process.stop()
            monkeypatch.setattr(nats_fence, "LIVE_S", 0.0)
