# The broker's contract, held against every implementation. "Another worker" is a second broker on the same rooms.

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import broker
from broker.base import BATCH_BYTES, CHAT, MUST, TAIL_BYTES, Closed, Full, Kind
from broker.local import LocalBroker
from broker.memory import Limits, MemoryBroker, Store
from tests.broker.boxes import Box, Viewer, box_of, fill, until


@pytest_asyncio.fixture(params=["memory", "local"])
async def box(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Box]:
    async with box_of(request.param, tmp_path) as made:
        yield made


async def test_append_is_compare_and_set(box: Box) -> None:
    one, two = box.worker(), box.worker()
    assert await one.append("r", CHAT, b"a", 0) == (Kind.STORED, 1)
    assert await two.append("r", CHAT, b"b", 0) == (Kind.FENCED, 1)
    assert await two.append("r", CHAT, b"b", 2) == (Kind.FENCED, 1)
    assert await two.append("r", CHAT, b"b", 1) == (Kind.STORED, 2)
    assert await one.append("r", MUST, b"m", 0) == (Kind.STORED, 1)
    assert await one.append("other", CHAT, b"x", 7) == (Kind.FENCED, 0)
    assert await one.tail("r", CHAT, 0) == [(1, b"a"), (2, b"b")]
    assert await two.tail("r", CHAT, 1) == [(2, b"b")]
    assert await two.tail("r", CHAT, 2) == []
    assert await two.tail("r", CHAT, 9) == []
    assert await two.tail("nowhere", CHAT, 0) == []


async def test_racing_appends_make_one_log(box: Box) -> None:
    workers = [box.worker() for _ in range(3)]
    viewer = Viewer()
    await viewer.join(workers[0], "r")
    stored: list[tuple[int, bytes]] = []

    async def write(number: int) -> None:
        head = 0
        for i in range(40):
            data = b"%d.%d" % (number, i)
            while True:
                kind, head = await workers[number].append("r", CHAT, data, head)
                if kind is Kind.STORED:
                    stored.append((head, data))
                    break

    await asyncio.gather(*(write(n) for n in range(3)))
    await until(lambda: viewer.heads[CHAT] == 120)
    assert sorted(stored) == viewer.lanes[CHAT]
    for number in range(3):
        own = [data for _, data in viewer.lanes[CHAT] if data.startswith(b"%d." % number)]
        assert own == [b"%d.%d" % (number, i) for i in range(40)]


async def test_pipelined_appends_keep_the_order_of_the_calls(box: Box) -> None:
    worker = box.worker()
    await worker.head("r", CHAT)
    outcomes = await asyncio.gather(*(worker.append("r", CHAT, b"%d" % i, i) for i in range(50)))
    assert [o.head for o in outcomes] == list(range(1, 51))
    assert all(o.kind is Kind.STORED for o in outcomes)


async def test_no_hole_and_no_repeat_between_tail_and_first_call(box: Box) -> None:
    writer = box.worker()
    running = True

    async def write_lane(lane: int) -> None:
        head = 0
        while running:
            head = (await writer.append("r", lane, b"%d" % head, head)).head
            await asyncio.sleep(0)

    writers = [asyncio.create_task(write_lane(lane)) for lane in (MUST, CHAT)]
    viewers = []
    for _ in range(20):
        viewer = Viewer()
        await viewer.join(box.worker(), "r")
        viewers.append(viewer)
    running = False
    await asyncio.gather(*writers)
    heads = [await writer.head("r", lane) for lane in (MUST, CHAT)]
    for viewer in viewers:
        await until(lambda viewer=viewer: viewer.heads == heads)  # type: ignore[misc]
        for lane in (MUST, CHAT):
            assert viewer.lanes[lane] == [(n, b"%d" % (n - 1)) for n in range(1, heads[lane] + 1)]


async def test_a_sink_is_called_only_after_its_tail(box: Box) -> None:
    writer, reader = box.worker(), box.worker()
    await reader.head("r", CHAT)
    appends = [asyncio.create_task(writer.append("r", CHAT, b"%d" % i, i)) for i in range(30)]
    viewer = Viewer()
    tail = await reader.subscribe("r", viewer)
    assert viewer.lanes[CHAT] == []
    viewer._start(tail)
    await asyncio.gather(*appends)
    await until(lambda: viewer.heads[CHAT] == 30)


async def test_unsubscribed_means_silence(box: Box) -> None:
    one, two = box.worker(), box.worker()
    left, stayed = Viewer(), Viewer()
    await left.join(one, "r")
    await stayed.join(two, "r")
    await fill(two, "r", CHAT, [b"a"])
    await until(lambda: left.heads[CHAT] == 1)
    await one.unsubscribe("r")
    await one.unsubscribe("r")
    await one.unsubscribe("never")
    await fill(two, "r", CHAT, [b"b"])
    await until(lambda: stayed.heads[CHAT] == 2)
    assert await one.head("r", CHAT) == 2
    assert left.lanes[CHAT] == [(1, b"a")]
    assert (await left.join(one, "r")).chat == [(1, b"a"), (2, b"b")]


async def test_leaving_and_coming_back_at_once(box: Box) -> None:
    writer, reader = box.worker(), box.worker()
    viewer = Viewer()
    await viewer.join(reader, "r")
    appends = [asyncio.create_task(writer.append("r", CHAT, b"%d" % i, i)) for i in range(100)]
    for _ in range(10):
        await asyncio.sleep(0)
        await reader.unsubscribe("r")
        await viewer.join(reader, "r")
    await asyncio.gather(*appends)
    await until(lambda: viewer.heads[CHAT] == 100)
    assert viewer.lanes[CHAT] == [(i + 1, b"%d" % i) for i in range(100)]


async def test_a_second_subscription_of_a_room_is_refused(box: Box) -> None:
    worker = box.worker()
    viewer = Viewer()
    await viewer.join(worker, "r")
    with pytest.raises(ValueError, match="already"):
        await worker.subscribe("r", viewer)
    await fill(worker, "r", MUST, [b"m"])
    await until(lambda: viewer.heads[MUST] == 1)


async def test_tails_are_bounded_and_end_at_the_head(box: Box) -> None:
    worker = box.worker()
    big = b"x" * (16 * 1024)
    for lane in (MUST, CHAT):
        await fill(worker, "r", lane, [big] * 20)
    tail = await Viewer().join(box.worker(), "r")
    assert tail.heads == (20, 20)
    assert [sum(len(data) for _, data in found) for found in (tail.must, tail.chat)] == list(TAIL_BYTES)
    await fill(worker, "r", MUST, [b"y" * BATCH_BYTES])
    assert await worker.tail("r", MUST, 0) == [(21, b"y" * BATCH_BYTES)]


async def test_what_can_never_be_stored_is_a_value_error(box: Box) -> None:
    worker = box.worker()
    for room, lane, batch, expected in (
        ("", CHAT, b"", 0),
        ("r" * 129, CHAT, b"", 0),
        ("r", 2, b"", 0),
        ("r", -1, b"", 0),
        ("r", CHAT, b"x" * (BATCH_BYTES + 1), 0),
        ("r", CHAT, b"", -1),
        ("r", CHAT, b"", 2**63),
    ):
        with pytest.raises(ValueError):
            await worker.append(room, lane, batch, expected)
    with pytest.raises(ValueError):
        await worker.head("r", 3)
    with pytest.raises(ValueError):
        await worker.subscribe("", Viewer())
    assert await worker.head("r", CHAT) == 0


async def test_asking_for_a_head_makes_no_room(box: Box) -> None:
    worker = box.worker()
    assert await worker.head("r", MUST) == 0
    assert len(box.store) == 0
    viewer = Viewer()
    first = await viewer.join(worker, "r")
    assert first.heads == (0, 0)
    assert first.must == first.chat == []
    await worker.unsubscribe("r")
    await until(lambda: len(box.store) == 0)
    assert (await viewer.join(worker, "r")).incarnation > first.incarnation


async def test_a_sink_that_raises_harms_nobody(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Viewer):
        def batch(self, room: str, lane: int, seq: int, data: bytes) -> None:
            super().batch(room, lane, seq, data)
            raise RuntimeError("broken")

    broken, sound = Broken(), Viewer()
    one, two = box.worker(), box.worker()
    await broken.join(one, "r")
    await sound.join(two, "r")
    await fill(one, "r", CHAT, [b"a", b"b"])
    await until(lambda: broken.heads[CHAT] == 2 and sound.heads[CHAT] == 2)
    assert "failed on lane 1, batch 2" in caplog.text


async def test_closed(box: Box) -> None:
    one, two = box.worker(), box.worker()
    viewer = Viewer()
    await viewer.join(one, "r")
    await one.close()
    await one.close()
    await fill(two, "r", CHAT, [b"a"])
    await one.unsubscribe("r")
    calls: list[Awaitable[Any]] = [
        one.append("r", CHAT, b"", 0),
        one.subscribe("s", viewer),
        one.head("r", CHAT),
        one.tail("r", CHAT, 0),
    ]
    for call in calls:
        with pytest.raises(Closed):
            await call
    assert viewer.lanes[CHAT] == []


@pytest.mark.parametrize("kind", ["memory", "local"])
async def test_rooms_are_bounded_and_the_coldest_goes_first(kind: str, tmp_path: Path) -> None:
    async with box_of(kind, tmp_path, Limits(rooms=4)) as box:
        worker = box.worker()
        viewer = Viewer()
        await viewer.join(worker, "watched")
        for name in "abc":
            await fill(worker, name, CHAT, [name.encode()])
        before = (await Viewer().join(box.worker(), "b")).incarnation
        await fill(worker, "a", CHAT, [b"again"])
        await fill(worker, "d", CHAT, [b"d"])  # c is the coldest that nobody watches
        assert [await worker.head(name, CHAT) for name in "abcd"] == [2, 1, 0, 1]
        await fill(worker, "c", CHAT, [b"c"])  # and then a
        assert [await worker.head(name, CHAT) for name in "abcd"] == [0, 1, 1, 1]
        assert (await Viewer().join(worker, "c")).incarnation > before
        await Viewer().join(worker, "d")
        with pytest.raises(Full):
            await worker.append("e", CHAT, b"", 0)
        with pytest.raises(Full):
            await worker.subscribe("e", Viewer())
        await fill(worker, "watched", CHAT, [b"still"])
        await until(lambda: viewer.heads[CHAT] == 1)
        await worker.unsubscribe("d")
        await Viewer().join(worker, "e")


@pytest.mark.parametrize("kind", ["memory", "local"])
async def test_bytes_are_bounded_over_all_rooms(kind: str, tmp_path: Path) -> None:
    limit = 512 * 1024
    async with box_of(kind, tmp_path, Limits(bytes=limit)) as box:
        worker = box.worker()
        batch = b"x" * 20_000
        for i in range(40):
            await fill(worker, f"r{i}", CHAT, [batch, batch])
            assert box.store.size <= limit
        assert [await worker.head(f"r{i}", CHAT) for i in (0, 39)] == [0, 2]
        viewer = Viewer()
        for i in range(12):  # now with viewers, so that nothing may be forgotten: tails shrink, numbers stay
            await viewer.join(box.worker(), f"w{i}")
            await fill(worker, f"w{i}", CHAT, [batch] * 6)
            assert box.store.size <= limit
        assert await worker.tail("w0", CHAT, 0) == [(6, batch)]

        async def overfill() -> None:
            for i in range(99):
                await Viewer().join(box.worker(), f"v{i}")
                await worker.append(f"v{i}", MUST, batch, 0)

        with pytest.raises(Full):
            await overfill()
        assert sum(r.cost() for r in [*box.store._live.values(), *box.store._idle.values()]) == box.store.size


async def test_incarnations_only_grow() -> None:
    store = Store()
    broker_ = MemoryBroker(store)
    given = []
    for _ in range(50):
        given.append((await broker_.subscribe("r", Viewer())).incarnation)
        await broker_.unsubscribe("r")
    assert given == sorted(set(given))


async def test_open() -> None:
    assert isinstance(broker.open("memory:"), MemoryBroker)
    assert isinstance(broker.open("local:/tmp/x"), LocalBroker)
    with pytest.raises(ValueError, match="'kafka'"):
        broker.open("kafka://host")
    for bad in ("", "memory", "memory:x", "local", "local:", "local:" + "x" * 108):
        with pytest.raises(ValueError, match="broker"):
            broker.open(bad)


async def test_a_cancelled_subscribe_leaves_nothing(box: Box) -> None:
    worker = box.worker()
    await worker.head("r", CHAT)
    for _ in range(3):
        joining = asyncio.create_task(worker.subscribe("r", Viewer()))
        await asyncio.sleep(0)
        joining.cancel()
        await asyncio.wait([joining])
        await worker.unsubscribe("r")  # where it was done before it could be cancelled
    viewer = Viewer()
    await viewer.join(worker, "r")
    await fill(worker, "r", CHAT, [b"a"])
    await until(lambda: viewer.heads[CHAT] == 1)
    found = box.store.find("r")
    assert found is not None
    assert len(found.sinks) == 1
