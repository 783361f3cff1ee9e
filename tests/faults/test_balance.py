# Shards move: a box joins and leaves under load, a few shards at a time, and nobody who watches sees anything of it; a
# shard that is hot by itself ends up alone on its worker, and its former neighbours are served as before.

import asyncio
import itertools
import secrets
import time
from pathlib import Path

import pytest

from broker.base import OFFER_ITEMS
from broker.nats import NatsBroker
from broker.subjects import shard_of
from edge import wire
from edge.rooms.balance import MOVES
from tests.faults.people import Watcher
from tests.faults.stage import LEASE_S, Stage, stage
from tests.faults.truth import PUBLISHED
from tests.server import until_async

SHARDS = 16
ROOMS = 6
HEAT_S = 0.004
HEAT_UP_S = 5.0
HEATERS = 6
LOOK_S = 0.1  # a look costs each box a little


def held(it: Stage) -> list[int]:
    return [box.figure("owner_shards") for box in it.alive()]


async def evenly(it: Stage) -> list[list[int]]:
    """Until each box has its part: who had how many meanwhile."""
    seen: list[list[int]] = []

    async def even() -> bool:
        await asyncio.sleep(LOOK_S)
        seen.append(held(it))
        return sum(seen[-1]) == SHARDS and max(seen[-1]) < 1.3 * min(seen[-1])

    await until_async(even, 40)
    return seen


@pytest.mark.slow
async def test_a_box_joins_and_leaves(tmp_path: Path) -> None:
    async with stage(tmp_path, options=f"lease={LEASE_S}&shards={SHARDS}", even=False) as it:
        await evenly(it)
        rooms = [f"room{number}" for number in range(ROOMS)]
        for number, room in enumerate(rooms):
            await it.watch(room, it.boxes[number % 2])
        over = False

        async def talk(room: str) -> None:
            author = it.author(room)
            while not over:
                assert (await author.comment(it.boxes[0]))[1] == PUBLISHED
                await asyncio.sleep(0.02)

        talking = [it.spawn(talk(room)) for room in rooms]
        third = await it.box()
        seen = await evenly(it)
        steps = [after[2] - before[2] for before, after in itertools.pairwise(seen)]
        assert max(steps) <= 4 * max(1, SHARDS // MOVES), steps  # two give to one, and a look may miss a turn
        assert (await asyncio.to_thread(third.stop)) == 0
        it.boxes.remove(third)
        await evenly(it)
        over = True
        await asyncio.gather(*talking)
        await it.settle()
        late = [lateness(it, watcher) for watcher in it.watchers]
        slowest_s = max(map(max, late))
        print(f"\na third box came and went: {it.truth.count(PUBLISHED)} comments, the slowest after {slowest_s:.2f} s")
        assert not any(watcher.gaps or watcher.told or watcher.anew for watcher in it.watchers)


def lateness(it: Stage, watcher: Watcher, since: float = 0.0) -> list[float]:
    """From the acknowledgement of each comment to its showing, in seconds; in order."""
    acked = {id_: at for author in it.authors if author.room == watcher.room for id_, at in author.acked_at.items()}
    return sorted(max(0.0, watcher.at[id_] - at) for id_, at in acked.items() if id_ in watcher.at and at > since)


async def heat(broker: NatsBroker, room: str) -> None:
    """Far more than is shown, until it is cancelled."""
    user = {"id": "crowd", "name": "crowd"}
    items = [wire.item(room, wire.comment(secrets.token_hex(8), user, "x", 0)) for _ in range(50 * OFFER_ITEMS)]
    shard = broker.shard_of(room)
    while True:  # whoever says it again after so many others is not known any more
        for first in range(0, len(items), OFFER_ITEMS):
            await broker.offer(shard, items[first : first + OFFER_ITEMS])
            await asyncio.sleep(HEAT_S)


@pytest.mark.slow
async def test_a_hot_shard_ends_up_alone_on_its_worker(tmp_path: Path) -> None:
    shards = 4
    async with stage(tmp_path, options=f"lease={LEASE_S}&shards={shards}") as it:
        hot, *cool = rooms_of_each(shards)
        for room in cool:
            await it.watch(room, it.boxes[0])
        over = False

        async def talk(room: str) -> None:
            author = it.author(room)
            while not over:
                await author.comment(it.boxes[1])
                await asyncio.sleep(0.02)

        talking = [it.spawn(talk(room)) for room in cool]
        began = time.monotonic()
        await until_async(lambda: it.truth.count(PUBLISHED) > 300)
        before = [lateness(it, watcher, began) for watcher in it.watchers]
        broker = NatsBroker(it.url())
        heating = [asyncio.create_task(heat(broker, hot))]

        async def hotter() -> bool:
            """A machine that is busy with other things is late with everything, and then one is not hot enough."""
            if len(heating) < HEATERS and time.monotonic() > began + HEAT_UP_S * len(heating):
                heating.append(asyncio.create_task(heat(broker, hot)))
            return await alone(it)

        began = time.monotonic()
        try:
            await until_async(hotter, 60)
            for extra in heating[1:]:
                extra.cancel()
            began = time.monotonic()
            said = it.truth.count(PUBLISHED)
            await until_async(lambda: it.truth.count(PUBLISHED) > said + 300)
        finally:
            for each in heating:
                each.cancel()
            await asyncio.wait(heating)
            await broker.close()
        over = True
        await asyncio.gather(*talking)
        after = [lateness(it, watcher, began) for watcher in it.watchers]
        print(f"\nneighbours' p99, acknowledged to seen: {p99(before):.0f} ms before, {p99(after):.0f} ms after")
        assert p99(after) < 2 * p99(before) + 100
        it.look()


def p99(found: list[list[float]]) -> float:
    """In milliseconds."""
    every = sorted(value for each in found for value in each)
    return every[len(every) * 99 // 100] * 1000


async def alone(it: Stage) -> bool:
    """Whoever samples has the hot shard, and no other."""
    await asyncio.sleep(LOOK_S)
    hottest = max(it.boxes, key=lambda box: box.figure("owner_sampled"))
    return sorted(held(it)) == [1, 3] and hottest.figure("owner_shards") == 1


def rooms_of_each(shards: int) -> list[str]:
    """One room in each shard."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < shards:
        found.setdefault(shard_of(f"r{number}", shards), f"r{number}")
        number += 1
    return [found[shard] for shard in range(shards)]
