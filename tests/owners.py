"""An owner in this process, for the tests that watch it at work on a broker of theirs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from broker.base import Broker
from edge.owner import Owner


@asynccontextmanager
async def owner(
    broker: Broker, *, alone: bool = True, reactions: tuple[str, ...] = (), **more: Any
) -> AsyncIterator[Owner]:
    tasks: set[asyncio.Task[Any]] = set()

    def spawn(work: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    made = Owner(broker, 5, (0, 1), alone, spawn, reactions, **more)
    await made.start(True)
    try:
        yield made
    finally:
        await made.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
