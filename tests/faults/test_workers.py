# The workers of one box, and the supervisor that brings back the one that ends: a worker is killed, another paused past
# its lease, and the rooms of both go on.

import os
import signal
import time

import psutil
import pytest

from broker.base import LEASE_TTL_S
from tests.faults.stage import Box, Stage, burst
from tests.faults.truth import Log
from tests.server import until_async

ROOMS = [f"room{number}" for number in range(8)]
TAKEOVER_S = LEASE_TTL_S + 5  # 2 for the shards; an author may sit with the worker that sleeps until that wakes


def seen_by_all(it: Stage) -> Log:
    """What viewers have had from the first batch on; the same under the same number."""
    log: Log = {}
    for watcher in it.watchers:
        assert not watcher.gaps
        for id_, message in watcher.seen.items():
            there = log.setdefault((watcher.room, id_[0]), {}).setdefault(int(id_[1:]), message)
            assert there == message
    return log


@pytest.mark.slow
async def test_a_worker_is_killed_and_another_sleeps() -> None:
    it = Stage([])
    box = Box("--workers", "3")
    it.boxes.append(box)
    try:
        # The broker of the box is started first.
        _, *workers = sorted(psutil.Process(box.process.pid).children(), key=lambda child: child.create_time())
        assert len(workers) == 3
        for room in ROOMS:
            await it.watch(room)
            await it.watch(room)
        authors = [it.author(room) for room in ROOMS]
        until_s = time.monotonic() + TAKEOVER_S
        over = False
        talking = it.spawn(burst(authors, 2 * TAKEOVER_S, lambda: None if over else box))
        await until_async(lambda: all(watcher.batch_at for watcher in it.watchers))
        workers[0].kill()
        os.kill(workers[1].pid, signal.SIGSTOP)
        broken = time.monotonic()
        await until_async(lambda: time.monotonic() > broken + LEASE_TTL_S, TAKEOVER_S)
        os.kill(workers[1].pid, signal.SIGCONT)
        await until_async(lambda: all(after(it, room, broken + 1) for room in ROOMS), until_s - time.monotonic() + 10)
        took_s = [after(it, room, broken + 1) - broken for room in ROOMS]
        over = True
        await talking

        def whole() -> bool:
            it.look()
            try:
                it.truth.check(seen_by_all(it))
            except AssertionError:
                return False
            return True

        await until_async(whole)
        print("\nthe rooms of one box went on after", *(f"{took:.1f}" for took in took_s), "s")
        assert max(took_s) < TAKEOVER_S
        assert "ended by signal 9; again in" in box.stderr()
    except TimeoutError:
        it.look()
        it.truth.check(seen_by_all(it))
        raise
    finally:
        await it.end()


def after(it: Stage, room: str, since: float) -> float:
    """The first batch that any viewer of the room has had since then; 0 for none."""
    came = [at for watcher in it.watchers if watcher.room == room for at in watcher.batch_at if at > since]
    return min(came, default=0.0)
