# What happens to NATS itself: servers are killed and started, a cluster loses its leader, a box loses its way there.
# Viewers are told, authors are never lied to, and afterwards everything is there, in order.

import asyncio
import contextlib
import time
from pathlib import Path

import nats
import pytest

from broker.nats import NatsBroker
from edge.scores import Must, score
from tests.broker.gate import gate_to
from tests.broker.nats_server import NatsServer
from tests.faults.people import Watcher
from tests.faults.sieve import sieve_to
from tests.faults.stage import HEAL_S, SHARDS, Stage, burst, first, stage
from tests.faults.truth import PUBLISHED, REJECTED, UNKNOWN, Said
from tests.server import until_async

RESUME_S = 10.0


async def leader_of(it: Stage, stream: str = "EDGE_LOG") -> NatsServer:
    client = await nats.connect([server.url for server in it.servers if server.process], allow_reconnect=False)
    try:
        info = await client.jetstream().stream_info(stream)
    finally:
        await client.close()
    assert info.cluster is not None
    (found,) = [server for server in it.servers if server.name == info.cluster.leader]
    return found


async def whole(it: Stage) -> None:
    """Each stream has a leader, and its followers have all that it has."""
    client = await nats.connect([server.url for server in it.servers], allow_reconnect=False)

    async def looks_whole() -> bool:
        with contextlib.suppress(nats.errors.Error, nats.js.errors.Error):
            streams = await client.jetstream().streams_info()
            return len(streams) == 5 and all(
                stream.cluster.leader and all(peer.current and not peer.offline for peer in stream.cluster.replicas)
                for stream in streams
            )
        return False

    try:
        await until_async(looks_whole, HEAL_S)
    finally:
        await client.close()


async def told(watcher: Watcher, count: int, trouble: str | None) -> None:
    """The viewer's message number `count` about trouble says so."""
    await until_async(lambda: len(watcher.told) >= count or watcher.wrong)
    assert watcher.told[count - 1][1] == trouble


@pytest.mark.slow
async def test_nats_is_killed_and_started(tmp_path: Path) -> None:
    async with stage(tmp_path) as it:
        watchers = [await it.watch("match", box, kind) for box, kind in zip(it.boxes, ("json", "sse"), strict=True)]
        await it.owner_of("match")
        authors = [it.author("match") for _ in range(4)]
        over = False
        talking = asyncio.create_task(burst(authors, 60, lambda: None if over else it.boxes[0]))
        await until_async(lambda: len(it.truth.comments) > 100)
        it.servers[0].kill()
        for watcher in watchers:
            await told(watcher, 1, "broker")
        for box in it.boxes:
            author = it.author("match")
            _, said = await author.comment(box)
            _, scored = await author.score(box)
            assert {said, scored} <= {REJECTED, UNKNOWN}
            assert not author.lacking
        it.servers[0].start()
        started = time.monotonic()
        for watcher in watchers:
            await told(watcher, 2, None)
        back_s = time.monotonic() - started
        said = it.truth.count(PUBLISHED)
        await until_async(lambda: it.truth.count(PUBLISHED) > said + 100)
        over = True
        await talking
        await it.settle()
        assert [watcher.anew for watcher in watchers] == [0, 0]
        print(f"\nstarted again: viewers are told after {back_s:.2f} s; {it.truth.count(PUBLISHED)} acknowledged")


async def lose_leader(it: Stage, stream: str) -> tuple[float, float]:
    """From the leader's SIGKILL to the next score that is stored, and to the next batch of comments."""
    author, speaker = it.author("match"), it.author("match")
    leader = await leader_of(it, stream)
    leader.kill()
    killed = time.monotonic()

    async def stored() -> bool:
        return (await author.score(it.boxes[0]))[1] == PUBLISHED

    async def shown() -> bool:
        made, _ = await speaker.comment(it.boxes[0], lambda: it.boxes[0])
        with contextlib.suppress(TimeoutError):  # of a great backlog only a sample is shown
            return bool(await until_async(lambda: made in it.watchers[1].at or it.watchers[1].wrong, 1.0))
        return False

    waiting = asyncio.create_task(first(shown, 40))
    score_s = await first(stored, 30)
    comment_s = await waiting
    assert comment_s < time.monotonic() - killed + 0.1
    leader.start()
    await whole(it)
    return score_s, comment_s


async def lose_leaders(folder: Path, streams: list[str]) -> list[tuple[float, float]]:
    """One after the other: what each took."""
    async with stage(folder, cluster=True, options=f"shards={SHARDS}") as it:
        watchers = [await it.watch("match", box) for box in it.boxes]
        await it.owner_of("match")
        authors = [it.author("match") for _ in range(4)]
        over = False
        talking = asyncio.create_task(burst(authors, 600, lambda: None if over else it.boxes[0]))
        took = [await lose_leader(it, stream) for stream in streams]
        for watcher in watchers:
            await told(watcher, 2, None)
            assert watcher.told[0][1] == "broker"
        over = True
        await talking
        await it.settle()
        print("\nleader killed: a score, a comment after", *(f"{score:.2f} s, {said:.2f} s;" for score, said in took))
        return took


@pytest.mark.slow
async def test_a_cluster_loses_its_leader(tmp_path: Path) -> None:
    ((score_s, _),) = await lose_leaders(tmp_path, ["EDGE_LOG"])
    assert score_s < RESUME_S


@pytest.mark.slow
async def test_a_box_loses_its_way_to_nats(tmp_path: Path) -> None:
    async with stage(tmp_path, boxes=1) as it, gate_to(it.servers[0].port) as gate:
        await it.box(f"127.0.0.1:{gate.port}")
        near, far = it.boxes
        watchers = [await it.watch("match", box) for box in it.boxes]
        await it.owner_of("match")
        authors = [it.author("match") for _ in range(4)]
        over = False
        talking = asyncio.create_task(burst(authors, 60, lambda: None if over else near))
        await until_async(lambda: len(it.truth.comments) > 100)
        await gate.cut()
        await told(watchers[1], 1, "broker")
        _, said = await it.author("match").comment(far)
        assert said in (REJECTED, UNKNOWN)
        scored = [(await it.author("match").score(near))[0] for _ in range(3)]
        await until_async(lambda: all(key in watchers[0].at for key in scored))
        await until_async(lambda: watchers[0].batch_at[-1] > watchers[1].batch_at[-1] + 3)
        await gate.open()
        await told(watchers[1], 2, None)
        await until_async(lambda: all(key in watchers[1].at for key in scored))
        over = True
        await talking
        await it.settle()
        assert not watchers[0].told, "the other box has had its way all the time"
        assert [watcher.anew for watcher in watchers] == [0, 0]


@pytest.mark.slow
async def test_publishers_are_back_before_subscribers(tmp_path: Path) -> None:
    async with stage(tmp_path, boxes=1) as it, gate_to(it.servers[0].port) as gate:
        near = it.boxes[0]
        far = await it.box(f"127.0.0.1:{gate.port}", rooms_own="false")
        watcher = await it.watch("match", far)
        author = it.author("match")
        assert (await author.score(near))[1] == PUBLISHED
        await gate.cut()
        it.servers[0].kill()
        it.servers[0].start()

        async def stored() -> bool:
            return (await author.score(near))[1] == PUBLISHED

        count = 0
        while count < 150:
            count += await stored()
        assert len(watcher.seen) == 1
        await gate.open()
        log = await it.settle()
        assert len(log["match", "m"]) == 151
        assert watcher.anew == 0


@pytest.mark.slow
async def test_a_last_entry_is_lost_on_the_way(tmp_path: Path) -> None:
    async with stage(tmp_path, boxes=1) as it, sieve_to(it.servers[0].port) as sieve:
        near = it.boxes[0]
        far = await it.box(f"127.0.0.1:{sieve.port}", rooms_own="false")
        watcher = await it.watch("match", far)
        author = it.author("match")
        sieve.dropping = True
        key, _ = await author.score(near)
        made, _ = await author.comment(near)
        began = time.monotonic()
        await until_async(lambda: sieve.dropped >= 2, 2.0)
        sieve.dropping = False
        await until_async(lambda: {key, made} <= watcher.at.keys(), 3.0)
        late_s = max(watcher.at[key], watcher.at[made]) - began
        await it.settle()
        assert far.figures()["edge_broker_reconnects_total"] == 0
        print(f"\na last entry that was lost came after {late_s:.2f} s")
        assert late_s < 2.0


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True], ids=["the answer is lost", "it arrives late"])
async def test_a_comment_whose_way_breaks_is_said_once(late: bool, tmp_path: Path) -> None:
    async with stage(tmp_path, boxes=1) as it, gate_to(it.servers[0].port, "edge chat") as gate:
        near = it.boxes[0]
        far = await it.box(f"127.0.0.1:{gate.port}", rooms_own="false")
        watcher = await it.watch("match", near)
        author = it.author("match")
        assert (await author.comment(far))[1] == PUBLISHED
        held = gate.up if late else gate.down
        held.clear()
        status = asyncio.create_task(author.comment(far))
        if late:
            assert (await status)[1] == UNKNOWN
            held.set()  # and now it is stored
        else:
            await until_async(lambda: len(watcher.shown) == 2)
            await gate.cut()
            assert (await status)[1] == UNKNOWN
            held.set()
            await gate.open()
        author.count -= 1  # the same ref once more
        made, again = await author.comment(far, lambda: far)
        assert again == PUBLISHED
        await it.settle()
        assert watcher.shown.count(made) == 1
        assert len(watcher.shown) == 2


@pytest.mark.slow
async def test_a_box_that_reads_too_slowly_is_cut_off_and_repairs(tmp_path: Path) -> None:
    settings = 'max_pending: 1048576\nwrite_deadline: "1s"'
    async with stage(tmp_path, boxes=1, settings=settings) as it:
        near = it.boxes[0]
        far = await it.box(rooms_own="false")
        watchers = [await it.watch("match", box) for box in it.boxes]
        publisher = it.author("match")
        assert (await publisher.score(near))[1] == PUBLISHED
        far.pause()
        log = it.servers[0].folder / "log"
        broker, must = NatsBroker(it.url()), Must("match")
        try:
            while "Slow Consumer" not in log.read_text():
                publisher.count += 1
                key = f"{publisher.name}-{publisher.count}"
                it.truth.scores[key] = said = Said("match", publisher.name, publisher.count)
                made = await score(broker, must, {"key": key, "pad": "x" * 50_000})
                said.told(PUBLISHED)
                # The next one when that has come: a ring has room for one of these, and who is slow has a gap.
                await until_async(lambda: made in watchers[0].seen)  # noqa: B023
        finally:
            await broker.close()
        far.resume()
        await it.settle()
        assert far.figures()["edge_broker_reconnects_total"] > 0
        assert not watchers[0].gaps
        print(f"\n{publisher.count} scores; {len(watchers[1].gaps)} gaps were told where the box could not read")
