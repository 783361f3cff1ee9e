# A room's owner is killed, or paused past its lease and woken, in the middle of a burst; NATS is well. Viewers are at
# the other box and at the owner's own.

import asyncio
import time
from pathlib import Path

import pytest

from tests.faults.stage import LEASE_S, OPTIONS, Box, Stage, burst, stage
from tests.faults.truth import PUBLISHED
from tests.server import until_async

SCORE_S = 1.0
ON_ITS_WAY_S = 0.3  # what the owner had sent comes yet


async def scene(it: Stage) -> tuple[Box, Box]:
    """The owner of the room, and the other box; a viewer at each."""
    for box in it.boxes:
        await it.watch("match", box)
    owner = await it.owner_of("match")
    (other,) = [box for box in it.boxes if box is not owner]
    return owner, other


async def next_batch(it: Stage, since: float, seconds: float) -> float:
    """From `since` to the first batch after it."""

    def came() -> list[float]:
        it.look()
        return [at for watcher in it.watchers for at in watcher.batch_at if at > since]

    return float(min(await until_async(came, seconds)) - since)


async def kill_owner(folder: Path, options: str, lease_s: float) -> float:
    """How long nothing came."""
    async with stage(folder, options=options) as it:
        owner, other = await scene(it)
        authors = [it.author("match") for _ in range(8)]
        over = False
        talking = asyncio.create_task(burst(authors, 2 * lease_s + 20, lambda: None if over else other))
        await until_async(lambda: len(it.truth.comments) > 200)
        owner.kill()
        killed = time.monotonic()
        key, status = await it.author("match").score(other)
        assert status == PUBLISHED
        await until_async(lambda: key in it.watchers[it.boxes.index(other)].at, SCORE_S)
        took_s = ON_ITS_WAY_S + await next_batch(it, killed + ON_ITS_WAY_S, lease_s + 10)
        over = True
        await talking
        await it.settle()
        print(f"\nkilled, with a lease of {lease_s} s: a batch after {took_s:.2f} s; {it.truth.count(PUBLISHED)} said")
        return took_s


@pytest.mark.slow
async def test_the_owner_is_killed_in_a_burst(tmp_path: Path) -> None:
    assert await kill_owner(tmp_path, OPTIONS, LEASE_S) < LEASE_S + 2


@pytest.mark.slow
async def test_the_owner_is_paused_past_its_lease_and_wakes(tmp_path: Path) -> None:
    async with stage(tmp_path) as it:
        owner, other = await scene(it)
        authors = [it.author("match") for _ in range(8)]
        over = False
        talking = asyncio.create_task(burst(authors, 60, lambda: None if over else other))
        await until_async(lambda: len(it.truth.comments) > 200)
        owner.pause()
        paused = time.monotonic()
        key, status = await it.author("match").score(other)
        assert status == PUBLISHED
        await until_async(lambda: key in it.watchers[it.boxes.index(other)].at, SCORE_S)
        took_s = ON_ITS_WAY_S + await next_batch(it, paused + ON_ITS_WAY_S, LEASE_S + 10)
        said = len(it.truth.comments)
        await until_async(lambda: len(it.truth.comments) > said + 200)  # the new owner goes on
        owner.resume()
        said = len(it.truth.comments)
        await until_async(lambda: "is let go" in owner.stderr())
        await until_async(lambda: len(it.truth.comments) > said + 200)
        over = True
        await talking
        await it.settle()
        print(f"\npaused: a batch after {took_s:.2f} s; {it.truth.count(PUBLISHED)} said")
        assert took_s < LEASE_S + 2
