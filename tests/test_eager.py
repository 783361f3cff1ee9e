"""A task that begins at once, and is none where it never waits."""

import asyncio
from typing import Any

import pytest

from edge.eager import begin


class Spawned:
    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[Any]] = []

    def __call__(self, work: Any) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))


async def test_what_never_waits_is_done_at_once() -> None:
    spawned, done = Spawned(), []

    async def work() -> None:
        done.append(1)

    begin(spawned, work())
    assert done == [1]
    assert not spawned.tasks


async def test_what_waits_goes_on_as_a_task() -> None:
    spawned, told = Spawned(), []
    first: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        told.append(await first)
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(0.01):  # a task has it, from the first wait on
                await asyncio.sleep(9)
        except TimeoutError:
            told.append("late")

    begin(spawned, work())
    assert told == []
    first.set_result("said")
    await spawned.tasks[0]
    assert told == ["said", "late"]


async def test_an_error_is_the_callers_before_the_first_wait_and_the_task_s_after() -> None:
    spawned = Spawned()

    async def work(waits: bool) -> None:
        if waits:
            await asyncio.sleep(0)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        begin(spawned, work(False))
    begin(spawned, work(True))
    with pytest.raises(ValueError, match="no"):
        await spawned.tasks[0]


@pytest.mark.parametrize("later", [False, True])
async def test_it_can_be_cancelled(later: bool) -> None:
    spawned, ended = Spawned(), []

    async def work() -> None:
        try:
            await asyncio.sleep(9)
        finally:
            await asyncio.sleep(0)
            ended.append(1)

    begin(spawned, work())
    if later:
        await asyncio.sleep(0)
    spawned.tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await spawned.tasks[0]
    assert ended == [1]
