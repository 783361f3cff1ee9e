# The broker's contract, held against every implementation. "Another worker" is a second broker on the same rooms. One
# file, however long: whoever writes another broker reads it as the list of what has been promised.

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import broker
from broker.base import (
    BATCH_BYTES,
    CHAT,
    LEASE_HELD,
    MUST,
    NO_MARK,
    OFFER_BYTES,
    OFFER_ITEMS,
    TAIL_BYTES,
    Broker,
    Closed,
    Full,
    Kind,
    Last,
    Lease,
)
from broker.local import LocalBroker
from broker.memory import Limits, MemoryBroker, Store
from broker.nats import NatsBroker
from tests.broker.boxes import Box, Taken, Viewer, box_of, fill, until


@pytest_asyncio.fixture(params=["memory", "local", "nats"])
async def box(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Box]:
    place = request.getfixturevalue("nats").url if request.param == "nats" else tmp_path
    async with box_of(request.param, place) as made:
        yield made


@pytest_asyncio.fixture(params=["memory", "local", "nats"])
async def brief(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Box]:
    """Where leases run out soon."""
    place = request.getfixturevalue("nats").url if request.param == "nats" else tmp_path
    async with box_of(request.param, place, lease_ttl_s=2.0 if request.param == "nats" else 1.5) as made:
        yield made


async def test_append_is_compare_and_set(box: Box) -> None:
    one, two = box.worker(), box.worker()
    assert (await one.append("r", CHAT, b"a", 0))[:2] == (Kind.STORED, 1)
    assert (await two.append("r", CHAT, b"b", 0))[:2] == (Kind.FENCED, 1)
    assert (await two.append("r", CHAT, b"b", 2))[:2] == (Kind.FENCED, 1)
    assert (await two.append("r", CHAT, b"b", 1))[:2] == (Kind.STORED, 2)
    assert (await one.append("r", MUST, b"m", 0))[:2] == (Kind.STORED, 1)
    assert (await one.append("other", CHAT, b"x", 7))[:2] == (Kind.FENCED, 0)
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
                kind, head, _ = await workers[number].append("r", CHAT, data, head)
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
    if box.forgets:
        assert len(box.store) == 0
    viewer = Viewer()
    first = await viewer.join(worker, "r")
    assert first.heads == (0, 0)
    assert first.must == first.chat == []
    await worker.unsubscribe("r")
    if not box.forgets:
        assert (await viewer.join(worker, "r")).incarnation == first.incarnation
        return
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
    await one.leave(1)
    await one.unhear("a")
    calls: list[Awaitable[Any]] = [
        one.append("r", CHAT, b"", 0),
        one.subscribe("s", viewer),
        one.head("r", CHAT),
        one.last("r", CHAT),
        one.tail("r", CHAT, 0),
        one.offer(1, [b"x"]),
        one.consume(1, 0, Taken()),
        one.covered(1, 5),
        one.lease(1),
        one.fence(1, 5),
        one.hear("a", lambda message: None),
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
        rooms = {**box.store._live, **box.store._idle}
        assert sum(room.cost() for room in rooms.values()) == box.store.size
        assert {name: room for shard in box.store._of_shard for name, room in shard.items()} == rooms


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
    assert isinstance(broker.open("nats://127.0.0.1:4222"), NatsBroker)
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
    if box.forgets:
        found = box.store.find("r")
        assert found is not None
        assert len(found.sinks) == 1


SHARD = 3


def rooms_of(worker: Broker, shard: int, count: int) -> list[str]:
    """Rooms of the shard, with names that need some care."""
    names = (f"match {i}.ü/*>" for i in range(100_000))
    return [name for name, _ in zip((n for n in names if worker.shard_of(n) == shard), range(count), strict=False)]


async def two_epochs(box: Box, shard: int) -> tuple[int, int]:
    """Of two leases, the one after the other."""
    found = []
    for _ in range(2):
        lease = await box.worker().lease(shard)
        assert lease is not None
        found.append(lease.epoch)
        await lease.release()
    return found[0], found[1]


async def test_workers_agree_on_the_shards_of_rooms(box: Box) -> None:
    one, two = box.worker(), box.worker()
    assert one.shards == two.shards > 1
    found = [one.shard_of(f"r{i}") for i in range(1000)]
    assert found == [two.shard_of(f"r{i}") for i in range(1000)]
    assert min(found) >= 0
    assert max(found) < one.shards
    assert len(set(found)) > min(one.shards, 1000) / 2


async def test_offers_of_two_are_whole_and_each_in_its_order(box: Box) -> None:
    writers, early, late = [box.worker(), box.worker()], Taken(), Taken()
    await box.worker().consume(SHARD, 0, early)
    joined = asyncio.Event()

    def offer_of(number: int, i: int) -> list[bytes]:
        return [b"%d.%d.%d" % (number, i, part) for part in range(1 + i % 4)]

    async def write(number: int) -> None:
        for i in range(40):
            assert await writers[number].offer(SHARD, offer_of(number, i)) is Kind.STORED
            if i == 20:
                joined.set()

    writing = asyncio.gather(write(0), write(1))
    await joined.wait()
    await box.worker().consume(SHARD, 0, late)
    await writing
    await until(lambda: len(early.offers) == len(late.offers) == 80)
    assert early.offers == late.offers
    for number in range(2):
        own = [items for _, items in early.offers if items[0].startswith(b"%d." % number)]
        assert own == [offer_of(number, i) for i in range(40)]


async def test_the_largest_offers_and_the_smallest(box: Box) -> None:
    worker, taken = box.worker(), Taken()
    offers = [
        [b""],
        [b"x" * OFFER_BYTES],
        [b"y" * (OFFER_BYTES // OFFER_ITEMS)] * OFFER_ITEMS,
        [b"\x00\xff", b"", b"z"],
    ]
    await worker.consume(worker.shards - 1, 0, taken)
    await worker.consume(0, 0, Taken())
    for items in offers:
        assert await worker.offer(worker.shards - 1, items) is Kind.STORED
    await until(lambda: len(taken.offers) == len(offers))
    assert [items for _, items in taken.offers] == offers


async def test_consuming_goes_on_after_a_number(box: Box) -> None:
    worker, first, second = box.worker(), Taken(), Taken()
    for i in range(20):
        await worker.offer(SHARD, [b"%d" % i])
        await worker.offer(SHARD + 1, [b"another shard's"])
    await worker.consume(SHARD, 0, first)
    await until(lambda: len(first.offers) == 20)
    assert first.items == [b"%d" % i for i in range(20)]
    await box.worker().consume(SHARD, first.offers[9][0], second)
    await worker.offer(SHARD, [b"20"])
    await until(lambda: len(second.offers) == 11 and len(first.offers) == 21)
    assert second.offers == first.offers[10:]


async def test_no_hole_and_no_repeat_where_a_taker_joins(box: Box) -> None:
    writer, takers = box.worker(), [Taken() for _ in range(6)]
    running, made = True, 0

    async def write() -> None:
        nonlocal made
        while running:
            await writer.offer(SHARD, [b"%d" % made])
            made += 1
            await asyncio.sleep(0)

    writing = asyncio.create_task(write())
    for number, taken in enumerate(takers):
        await until(lambda number=number: made > 5 * number)  # type: ignore[misc]
        await box.worker().consume(SHARD, 0, taken)
    running = False
    await writing
    for taken in takers:
        await until(lambda taken=taken: len(taken.offers) == made)  # type: ignore[misc]
        assert taken.items == [b"%d" % i for i in range(made)]


async def test_left_means_silence(box: Box) -> None:
    one, two, left, stayed = box.worker(), box.worker(), Taken(), Taken()
    await one.leave(SHARD)
    await one.consume(SHARD, 0, left)
    await two.consume(SHARD, 0, stayed)
    await two.offer(SHARD, [b"a"])
    await until(lambda: left.items == [b"a"])
    await one.leave(SHARD)
    await one.leave(SHARD)
    await two.offer(SHARD, [b"b"])
    await until(lambda: stayed.items == [b"a", b"b"])
    await one.offer(SHARD + 1, [b"elsewhere"])
    assert left.items == [b"a"]
    again = Taken()
    await one.consume(SHARD, left.offers[-1][0], again)
    await until(lambda: again.items == [b"b"])
    for i in range(5):  # and at once, again and again
        await one.leave(SHARD)
        await one.consume(SHARD, again.offers[-1][0], again)
        await two.offer(SHARD, [b"%d" % i])
    await until(lambda: again.items == [b"b", b"0", b"1", b"2", b"3", b"4"])


async def test_a_second_taker_of_a_shard_is_refused(box: Box) -> None:
    worker, taken = box.worker(), Taken()
    await worker.consume(SHARD, 0, taken)
    with pytest.raises(ValueError, match="already"):
        await worker.consume(SHARD, 0, Taken())
    await worker.offer(SHARD, [b"a"])
    await until(lambda: taken.items == [b"a"])


async def test_a_taker_that_raises_harms_nobody(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Taken):
        def offered(self, shard: int, seq: int, items: list[bytes]) -> None:
            super().offered(shard, seq, items)
            items.clear()
            raise RuntimeError("broken")

    one, two, broken, sound = box.worker(), box.worker(), Broken(), Taken()
    await one.offer(SHARD, [b"a"])
    await one.consume(SHARD, 0, broken)
    await two.consume(SHARD, 0, sound)
    assert await one.offer(SHARD, [b"b"]) is Kind.STORED
    await until(lambda: len(broken.offers) == 2 and sound.items == [b"a", b"b"])
    failures = [record for record in caplog.records if record.exc_info]
    assert len(failures) == 2


async def test_what_is_covered_is_not_seen_again(box: Box) -> None:
    one, two, all_of_it, rest = box.worker(), box.worker(), Taken(), Taken()
    epoch, later = await two_epochs(box, SHARD)
    start = (await one.fence(SHARD, epoch)).after
    for i in range(10):
        await one.offer(SHARD, [b"%d" % i])
    await one.consume(SHARD, start, all_of_it)
    await until(lambda: len(all_of_it.offers) == 10)
    seqs = [seq for seq, _ in all_of_it.offers]
    await one.covered(SHARD, seqs[6])
    await one.covered(SHARD, seqs[3])  # never back
    standing = await two.fence(SHARD, later)
    assert standing.after == seqs[6]
    await two.consume(SHARD, standing.after, rest)
    await two.offer(SHARD, [b"10"])
    await until(lambda: len(rest.offers) == 4)
    assert rest.items == [b"7", b"8", b"9", b"10"]
    assert rest.offers[:3] == all_of_it.offers[7:10]


async def test_what_can_never_be_offered_is_a_value_error(box: Box) -> None:
    worker = box.worker()
    for shard, items in (
        (-1, [b"x"]),
        (worker.shards, [b"x"]),
        (SHARD, []),
        (SHARD, [b""] * (OFFER_ITEMS + 1)),
        (SHARD, [b"x" * OFFER_BYTES, b"y"]),
    ):
        with pytest.raises(ValueError):
            await worker.offer(shard, items)
    calls: list[Awaitable[Any]] = [worker.hear(bad, lambda message: None) for bad in ("", ".", "a.", "A", "a b", "a.*")]
    calls += [
        worker.emit("a..b", b""),
        worker.append("r", CHAT, b"", 0, -1),
        worker.append("r", CHAT, b"", 0, 1, (-1, 0)),
    ]
    for shard in (-1, worker.shards):
        calls += [
            worker.consume(shard, 0, Taken()),
            worker.covered(shard, 1),
            worker.lease(shard),
            worker.fence(shard, 1),
        ]
    for call in calls:
        with pytest.raises(ValueError):
            await call
    assert await worker.head("r", CHAT) == 0


@pytest.mark.parametrize("kind", ["memory", "local"])
async def test_offers_are_bounded_and_none_is_forgotten(kind: str, tmp_path: Path) -> None:
    limit = 200_000
    async with box_of(kind, tmp_path, Limits(offers=limit)) as box:
        worker, taken = box.worker(), Taken()
        stored = 0

        async def overfill() -> None:
            nonlocal stored
            for _ in range(100):
                await worker.offer(stored % 2, [b"%d" % stored, b"x" * 10_000])
                stored += 1

        with pytest.raises(Full):
            await overfill()
        assert 15 < stored < 20
        assert box.store.offers.size <= limit
        await worker.consume(0, 0, taken)
        await until(lambda: len(taken.offers) == (stored + 1) // 2)
        assert [items[0] for _, items in taken.offers] == [b"%d" % i for i in range(0, stored, 2)]
        with pytest.raises(Full):  # what is only taken is not covered yet
            await worker.offer(2, [b"x" * 10_000])
        await worker.covered(0, taken.offers[-1][0])
        assert await worker.offer(2, [b"x" * 10_000]) is Kind.STORED
        await worker.covered(1, taken.offers[-1][0] + 1000)
        await worker.covered(2, taken.offers[-1][0] + 1000)
        assert (len(box.store.offers), box.store.offers.size) == (0, 0)


async def test_at_most_one_of_many_has_the_lease(box: Box) -> None:
    workers = [box.worker() for _ in range(4)]
    greatest = 0
    for _ in range(5):
        found = await asyncio.gather(*(worker.lease(SHARD) for worker in workers))
        (won,) = [lease for lease in found if lease is not None]
        assert won.held
        assert (won.shard, won.ttl_s) == (SHARD, box.lease_ttl_s)
        assert won.epoch > greatest
        greatest = won.epoch
        assert [await worker.lease(SHARD) for worker in workers] == [None] * 4
        other = await workers[0].lease(SHARD + 1)
        assert other is not None
        await other.release()
        assert await won.renew()
        await won.release()
        await won.release()
        assert not won.held
        assert not await won.renew()


async def test_a_lease_ends_by_itself_and_another_gets_it(brief: Box) -> None:
    one, two = brief.worker(), brief.worker()
    await two.head("r", CHAT)
    await one.head("r", CHAT)
    began = time.monotonic()
    lost = await one.lease(SHARD)
    given = time.monotonic()
    assert lost is not None
    found: Lease | None = None
    held_s = LEASE_HELD * brief.lease_ttl_s
    async with asyncio.timeout(10):
        while found is None:
            before, held, after = time.monotonic(), lost.held, time.monotonic()
            assert held if after < began + held_s else before < given + held_s or not held
            await asyncio.sleep(0.01)
            found = await two.lease(SHARD)
    assert not lost.held
    assert not await lost.renew()
    assert time.monotonic() >= began + brief.lease_ttl_s
    assert found.epoch > lost.epoch
    await lost.release()  # it has nothing to release any more
    assert await found.renew()
    assert await one.lease(SHARD) is None


async def test_a_lease_lasts_while_it_is_renewed(brief: Box) -> None:
    one, two = brief.worker(), brief.worker()
    lease = await one.lease(SHARD)
    assert lease is not None
    ends = time.monotonic() + 1.4 * brief.lease_ttl_s
    renewals = 0
    while time.monotonic() < ends:
        assert lease.held
        assert await lease.renew()
        assert await two.lease(SHARD) is None
        renewals += 1
        await asyncio.sleep(brief.lease_ttl_s / 10)
    assert renewals > 3
    await lease.release()
    assert await two.lease(SHARD) is not None


async def test_closing_releases(box: Box) -> None:
    one, two = box.worker(), box.worker()
    leases = [await one.lease(shard) for shard in (SHARD, SHARD + 1)]
    await one.close()
    for lease in leases:
        assert lease is not None
        assert not lease.held
        assert await two.lease(lease.shard) is not None


async def test_a_fence_stops_whoever_wrote_before(box: Box) -> None:
    stale, holder = box.worker(), box.worker()
    before, after = await two_epochs(box, SHARD)
    open_, quiet = rooms_of(stale, SHARD, 2)
    for _ in range(7):  # a mark is of offers that there are
        await stale.offer(SHARD, [b"a"])
    for room in (open_, quiet):
        assert (await stale.append(room, CHAT, b"a", 0, before, (7, 1)))[:2] == (Kind.STORED, 1)
    await stale.append(open_, CHAT, b"b", 1, before)
    elsewhere = rooms_of(stale, SHARD + 1, 1)[0]
    assert (await stale.append(elsewhere, CHAT, b"a", 0, before)).kind is Kind.STORED
    standing = await holder.fence(SHARD, after)
    assert standing.rooms == {open_: Last(2, after, (7, 1)), quiet: Last(1, after, (7, 1))}
    # In lanes that the new holder has not written to, with the right number, and with a wrong one.
    assert await stale.append(quiet, CHAT, b"late", 1, before) == (Kind.FENCED, 1, after)
    assert await stale.append(open_, CHAT, b"late", 1, before) == (Kind.FENCED, 2, after)
    assert await stale.head(open_, CHAT) == 2
    assert (await holder.append(open_, CHAT, b"c", 2, after))[:2] == (Kind.STORED, 3)
    assert (await stale.append(elsewhere, CHAT, b"b", 1, before))[:2] == (Kind.STORED, 2)
    assert (await stale.append(quiet, CHAT, b"nobody's", 1))[:2] == (Kind.STORED, 2)
    assert await stale.append(quiet, CHAT, b"late", 2, before) == (Kind.FENCED, 2, after)
    await stale.fence(SHARD, before)  # one that comes late opens nothing
    assert await stale.append(open_, CHAT, b"late", 3, before) == (Kind.FENCED, 3, after)
    assert (await holder.fence(SHARD, after)).rooms == {open_: Last(3, after, (7, 1)), quiet: Last(2, after, (7, 1))}
    assert await holder.tail(open_, CHAT, 0) == [(1, b"a"), (2, b"b"), (3, b"c")]


async def test_a_lane_that_was_not_there_is_fenced_by_the_first_batch(box: Box) -> None:
    stale, holder = box.worker(), box.worker()
    before, after = await two_epochs(box, SHARD)
    (room,) = rooms_of(stale, SHARD, 1)
    assert (await holder.fence(SHARD, after)).rooms == {}
    found = await stale.append(room, CHAT, b"stale", 0, before)
    head = found.head if found.kind is Kind.STORED else 0
    outcome = await holder.append(room, CHAT, b"own", 0, after)
    if head:
        assert outcome[:2] == (Kind.FENCED, 1)
        assert outcome.epoch <= after
        outcome = await holder.append(room, CHAT, b"own", 1, after)
    assert outcome[:2] == (Kind.STORED, head + 1)
    for expected in (head, head + 1):
        assert await stale.append(room, CHAT, b"late", expected, before) == (Kind.FENCED, head + 1, after)


async def test_how_a_lane_ends(box: Box) -> None:
    worker = box.worker()
    epoch, later = await two_epochs(box, worker.shard_of("r"))
    assert await worker.last("r", CHAT) == Last(0, 0, NO_MARK)
    await worker.append("r", CHAT, b"a", 0)
    assert await worker.last("r", CHAT) == Last(1, 0, NO_MARK)
    await worker.append("r", CHAT, b"b", 1, epoch, (2**40, 511))
    assert await worker.last("r", CHAT) == Last(2, epoch, (2**40, 511))
    await worker.append("r", CHAT, b"c", 2, later)
    assert await worker.last("r", CHAT) == Last(3, later, (2**40, 511))
    await worker.offer(worker.shard_of("r"), [b"a", b"b"])  # a fence leaves no mark of offers that there are not
    await worker.append("r", CHAT, b"d", 3, 0, (1, 1))
    assert await worker.last("r", CHAT) == Last(4, later, (1, 1))
    assert await box.worker().last("r", CHAT) == Last(4, later, (1, 1))
    assert await worker.last("r", MUST) == Last(0, 0, NO_MARK)
    assert (await worker.fence(worker.shard_of("r"), later)).rooms == {"r": Last(4, later, (1, 1))}
    await Viewer().join(box.worker(), "r")
    assert await worker.tail("r", CHAT, 1) == [(2, b"b"), (3, b"c"), (4, b"d")]


async def test_the_same_call_again_stores_once(box: Box) -> None:
    worker = box.worker()
    await worker.head("r", CHAT)
    for turns in range(12):
        data = b"%d" % turns
        first = asyncio.create_task(worker.append("r", CHAT, data, turns, 5, (turns, 1)))
        for _ in range(turns):
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        await worker.append("r", CHAT, data, turns, 5, (turns, 1))
        assert await worker.last("r", CHAT) == Last(turns + 1, 5, (turns, 1))
    assert await worker.tail("r", CHAT, 0) == [(i + 1, b"%d" % i) for i in range(12)]


async def test_what_is_emitted_is_heard(box: Box) -> None:
    one, two = box.worker(), box.worker()
    heard: dict[str, list[bytes]] = {"one": [], "two": [], "other": []}

    def broken(message: bytes) -> None:
        heard["two"].append(message)
        raise RuntimeError("broken")

    await one.hear("presence.1", heard["one"].append)
    await two.hear("presence.1", broken)
    await two.hear("presence.12", heard["other"].append)
    with pytest.raises(ValueError, match="already"):
        await one.hear("presence.1", heard["other"].append)

    async def emit_until_heard(subject: str, message: bytes, *names: str) -> None:
        async with asyncio.timeout(5):
            while not all(message in heard[name] for name in names):
                await one.emit(subject, message)
                await asyncio.sleep(0.01)

    await emit_until_heard("presence.1", b"a", "one", "two")
    await emit_until_heard("presence.12", b"\x00", "other")
    assert set(heard["one"]) == set(heard["two"]) == {b"a"}
    await two.unhear("presence.1")
    await two.unhear("presence.1")
    await two.unhear("never")
    await emit_until_heard("presence.1", b"b", "one")
    await emit_until_heard("presence.12", b"c", "other")  # behind b, on the same ways
    assert b"b" not in heard["two"]
    await two.hear("presence.1", heard["two"].append)
    await emit_until_heard("presence.1", b"d", "one", "two")


async def test_figures_are_whole_numbers_that_grow(box: Box) -> None:
    worker = box.worker()
    before = worker.figures()
    await worker.consume(SHARD, 0, Taken())
    await worker.offer(SHARD, [b"a"])
    await fill(worker, "r", CHAT, [b"a", b"b"])
    after = worker.figures()
    assert set(before) <= set(after)
    assert all(type(value) is int and value >= before.get(name, 0) for name, value in after.items())
    assert all(name.startswith("broker_") for name in after)
