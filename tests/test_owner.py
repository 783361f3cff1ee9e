"""The owner's side of a worker, on brokers in this process: whatever happens, each offer is covered by one batch."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

import edge.owner
from broker.base import CHAT, UNKNOWN, Full, Kind, Mark, Outcome, Standing, Unavailable
from broker.memory import MemoryBroker, Store
from edge import wire
from edge.owner import MEMBERS
from edge.reports import Reports
from edge.rooms.window import BATCH_COMMENTS, CARRIED
from tests.owners import owner
from tests.server import until_async

ROOM = "match"


def item(name: str, room: str = ROOM) -> bytes:
    return wire.item(room, wire.comment(name, {"id": "ann", "name": "ann"}, name, 1))


def log_of(store: Store, room: str = ROOM) -> list[dict[str, Any]]:
    return [msgspec.msgpack.decode(data) for _, data in store.after(room, CHAT, 0)]


def shown(store: Store, room: str = ROOM) -> list[str]:
    return [comment["id"] for batch in log_of(store, room) for comment in batch["m"]]


def counted(store: Store, room: str = ROOM) -> int:
    return sum(batch.get("of", len(batch["m"])) for batch in log_of(store, room))


async def test_what_is_offered_is_numbered_and_covered() -> None:
    store = Store()
    broker = MemoryBroker(store)
    shard = broker.shard_of(ROOM)
    async with owner(broker):
        for offer in range(10):
            await broker.offer(shard, [item(f"{offer}a"), item(f"{offer}b")])
            await asyncio.sleep(0.004)
        await until_async(lambda: len(shown(store)) == 20)
        assert shown(store) == [f"{offer}{x}" for offer in range(10) for x in "ab"]
        assert [batch["id"] for batch in log_of(store)] == [f"c{n + 1}" for n in range(len(log_of(store)))]
        stamps = [batch["ts"] for batch in log_of(store)]
        assert stamps == sorted(stamps)
        await until_async(lambda: len(store.offers) == 0)  # acknowledged, and forgotten


async def test_a_batch_that_is_due_soon_goes_with_what_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the broker is in this process it needs neither a turn of the loop nor a task."""
    monkeypatch.setattr(edge.owner, "EARLY_S", 9.0)
    store = Store()
    broker = MemoryBroker(store)
    shard = broker.shard_of(ROOM)
    async with owner(broker) as it:
        for offer in range(6):
            broker.offer_now(shard, [item(str(offer))])
        assert shown(store) == [str(offer) for offer in range(6)]
        assert [len(batch["m"]) for batch in log_of(store)] == [2, 2, 2]
        assert not it._timers
        broker.offer_now(shard, [item("last")])
        assert len(it._timers) == 1
        await until_async(lambda: shown(store)[-1] == "last")
        assert not it._timers


async def test_a_flood_is_sampled_and_all_of_it_is_counted() -> None:
    store = Store()
    broker = MemoryBroker(store)
    async with owner(broker):
        flood = 6 * CARRIED
        for start in range(0, flood, 500):
            await broker.offer(broker.shard_of(ROOM), [item(str(n)) for n in range(start, start + 500)])
        await until_async(lambda: counted(store) == flood)
        names = [int(name) for name in shown(store)]
        assert names == sorted(names)
        assert BATCH_COMMENTS < len(names) < flood
        assert all(len(batch["m"]) <= BATCH_COMMENTS for batch in log_of(store))


async def test_counts_of_rooms_are_heard_as_long_as_they_are_written_here() -> None:
    broker = MemoryBroker(Store())
    subject = f"crowd.{broker.shard_of(ROOM)}"
    heard: list[bytes] = []
    async with owner(broker, counted=heard.append):
        await broker.emit(subject, b"1")
    await broker.emit(subject, b"2")
    assert heard == [b"1"]


async def test_items_that_are_none_stop_nobody() -> None:
    store = Store()
    broker = MemoryBroker(store)
    async with owner(broker) as it:
        await broker.offer(
            broker.shard_of(ROOM), [b"\xc1", b"", item("a"), msgspec.msgpack.encode(["x", 1]), item("b")]
        )
        await until_async(lambda: shown(store) == ["a", "b"])
        assert it.metrics()["owner_unreadable"] == 3


async def test_one_who_comes_after_goes_on_where_the_log_stands() -> None:
    store = Store()
    first, second = MemoryBroker(store), MemoryBroker(store)
    shard = first.shard_of(ROOM)
    async with owner(first):
        await first.offer(shard, [item("a"), item("b")])
        await until_async(lambda: shown(store) == ["a", "b"])
    await first.offer(shard, [item("c"), item("b")])  # b is said again, and nobody is there
    async with owner(second):
        await until_async(lambda: shown(store) == ["a", "b", "c"])
        await second.offer(shard, [item("a"), item("d")])
        await until_async(lambda: shown(store) == ["a", "b", "c", "d"])
    assert [batch["id"] for batch in log_of(store)] == [f"c{n + 1}" for n in range(len(log_of(store)))]


async def test_one_who_comes_after_knows_what_is_gone_and_who_is_out() -> None:
    store = Store()
    broker = MemoryBroker(store)
    shard = broker.shard_of(ROOM)
    theirs = wire.item(ROOM, wire.comment("t", {"id": "bad", "name": "bad"}, "t", 1))
    await broker.offer(shard, [item("a"), theirs, item("b")])
    async with owner(broker, gone=lambda _room: {"a"}, banned=lambda _room: {"bad"}):
        await until_async(lambda: shown(store) == ["b"])
        await broker.offer(shard, [wire.item(ROOM, wire.comment("u", {"id": "bad", "name": "bad"}, "u", 1)), item("c")])
        await until_async(lambda: shown(store) == ["b", "c"])
    assert counted(store) == 5


async def test_what_was_said_a_minute_ago_is_known_after_a_change_of_owner_however_much_came_since() -> None:
    store = Store()
    broker = MemoryBroker(store)
    now_ms = time.time_ns() // 1_000_000
    for n in range(400):
        comments = [msgspec.msgpack.decode(wire.decode_item(item(f"old{n}")).comment)]
        data = msgspec.msgpack.encode(wire.batch(n + 1, now_ms - 30_000 + n, comments))
        assert store.append(ROOM, CHAT, data, n)[0] is Kind.STORED
    async with owner(broker):
        await broker.offer(broker.shard_of(ROOM), [item("old3"), item("old399"), item("new")])
        await until_async(lambda: shown(store)[-1] == "new")
        assert len(log_of(store)) == 401
        assert [comment["id"] for comment in log_of(store)[-1]["m"]] == ["new"]


class Terse(MemoryBroker):
    """Tells of no room when a shard is taken: there are too many."""

    async def fence(self, shard: int, epoch: int) -> Standing:
        return (await super().fence(shard, epoch))._replace(rooms={})


async def test_a_room_that_was_not_told_of_is_looked_up() -> None:
    store = Store()
    first, second = MemoryBroker(store), Terse(store)
    shard = first.shard_of(ROOM)
    async with owner(first) as it:
        it._cover = lambda now: asyncio.sleep(0)  # type: ignore[method-assign, assignment]
        await first.offer(shard, [item("a"), item("b")])
        await until_async(lambda: shown(store) == ["a", "b"])
        it._held[shard].shard.low = lambda: 0  # type: ignore[method-assign]  # as where the checkpoint was not written
    await first.offer(shard, [item("c")])
    async with owner(second) as it:
        await until_async(lambda: shown(store) == ["a", "b", "c"])
        assert it.figures["owner_fenced"] == 0
    assert counted(store) == 3


class Frail(MemoryBroker):
    """Appends fare as `fate` says, which is called for each, with what would happen to it."""

    fate: Callable[["Frail", Callable[[], Outcome]], Outcome] | None = None

    async def append(
        self, room: str, lane: int, batch: bytes, expected: int, epoch: int = 0, mark: Mark = (0, 0)
    ) -> Outcome:
        def real() -> Outcome:
            return self.store.append(room, lane, batch, expected, epoch, mark)

        return self.fate(self, real) if self.fate is not None else real()


async def test_an_owner_that_is_fenced_forgets_and_the_next_one_writes_it() -> None:
    store = Store()
    stale, fresh = Frail(store), MemoryBroker(store)
    shard = stale.shard_of(ROOM)
    async with owner(stale) as old:
        await stale.offer(shard, [item("a")])
        await until_async(lambda: shown(store) == ["a"])
        lease = old._held[shard].lease
        store.fence(shard, lease.epoch + 1)  # as somebody does who has the lease after this one
        await stale.offer(shard, [item("b"), item("c")])
        await until_async(lambda: old.figures["owner_fenced"] == 1)
        assert shown(store) == ["a"]
        assert shard not in old._held
    async with owner(fresh) as new:
        assert new._held[shard].lease.epoch > lease.epoch
        await until_async(lambda: shown(store) == ["a", "b", "c"])
    assert counted(store) == 3


async def test_a_batch_whose_fate_is_unknown_is_stored_once() -> None:
    store = Store()
    broker = Frail(store)
    fates = iter(["lost before", "lost after", "away", "lost after"])

    def fate(_: Frail, real: Callable[[], Outcome]) -> Outcome:
        what = next(fates, "stored")
        if what == "away":
            raise Unavailable("no way")
        if what == "lost before":
            return UNKNOWN
        outcome = real()
        return UNKNOWN if what == "lost after" else outcome

    broker.fate = fate
    async with owner(broker):
        for n in range(5):
            await broker.offer(broker.shard_of(ROOM), [item(str(n))])
            await until_async(lambda n=n: str(n) in shown(store))
        await until_async(lambda: counted(store) == 5)
        assert shown(store) == [str(n) for n in range(5)]


async def test_an_accident_costs_nothing_that_was_offered() -> None:
    store = Store()
    broker = Frail(store)
    accidents = iter([True])

    def fate(_: Frail, real: Callable[[], Outcome]) -> Outcome:
        if next(accidents, False):
            raise RuntimeError("an accident")
        return real()

    broker.fate = fate
    async with owner(broker):
        await broker.offer(broker.shard_of(ROOM), [item("a"), item("b")])
        await until_async(lambda: shown(store) == ["a", "b"])
        assert counted(store) == 2


async def test_without_a_lease_that_is_held_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    broker = MemoryBroker(store)
    shard = broker.shard_of(ROOM)
    async with owner(broker) as it:
        held = it._held[shard]
        monkeypatch.setattr(type(held.lease), "held", property(lambda self: False))
        await broker.offer(shard, [item("a")])
        await until_async(lambda: shard not in it._held)
        assert shown(store) == []
        monkeypatch.undo()
        await until_async(lambda: shown(store) == ["a"])  # taken again, and read again


async def test_a_shard_whose_offers_are_lost_is_taken_again(caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    broker = MemoryBroker(store)
    shard = broker.shard_of(ROOM)
    async with owner(broker) as it:
        await broker.offer(shard, [item("a")])
        await until_async(lambda: shown(store) == ["a"])
        held = it._held[shard]
        it.reset(shard)
        it.reset(shard)  # of what is not held any more
        assert not held.ours()
        await until_async(lambda: shard in it._held)
        assert it._held[shard].lease.epoch > held.lease.epoch
        await broker.offer(shard, [item("b")])
        await until_async(lambda: shown(store) == ["a", "b"])
    assert caplog.text.count("offers have been lost by the broker") == 1


async def test_two_share_the_shards_and_one_who_leaves_gives_all() -> None:
    store = Store()
    one, two = MemoryBroker(store), MemoryBroker(store)
    async with owner(one, alone=False) as first:
        assert len(first._held) == one.shards
        async with owner(two, alone=False) as second:
            await until_async(lambda: len(second._held) >= 6)
            assert not set(first._held) & set(second._held)
        await until_async(lambda: len(first._held) == one.shards)
        for shard in range(one.shards):
            await one.offer(shard, [item("a", f"r{shard}")])
        await until_async(lambda: all(shown(store, f"r{shard}") == ["a"] for shard in range(one.shards)))


async def test_viewers_are_counted_over_workers_and_slow_ones_widen_the_window() -> None:
    store = Store()
    broker = MemoryBroker(store)
    changed: list[tuple[bytes, int, int]] = [(ROOM.encode(), 7, 400)]
    async with owner(broker) as it:
        one = Reports(broker, "one", lambda: changed)
        two = Reports(broker, "two", lambda: [(ROOM.encode(), 5, 0), (b"other", 1, 0)])
        await one.turn()
        await two.turn()
        shard = broker.shard_of(ROOM)
        await broker.offer(shard, [item("a")])
        await until_async(lambda: shown(store) == ["a"])
        assert log_of(store)[0]["n"] == 12
        room = it._held[shard].shard.rooms[ROOM]
        now = asyncio.get_running_loop().time()
        assert room.pace.window(now) == pytest.approx(0.8)
        changed[:] = [(ROOM.encode(), 0, 0)]
        await one.turn()
        await broker.offer(shard, [item("b")])
        await until_async(lambda: shown(store) == ["a", "b"])
        assert log_of(store)[1]["n"] == 5


async def test_a_new_owner_is_told_of_the_viewers() -> None:
    broker = MemoryBroker(Store())
    told: list[Any] = []
    reports = Reports(broker, "one", lambda: [(ROOM.encode(), 7, 0)])
    await reports.turn()
    shard = broker.shard_of(ROOM)
    await broker.hear(f"jobs.{shard}", lambda message: told.append(msgspec.msgpack.decode(message)))
    await reports.wanted((shard + 1) % broker.shards)
    assert told == []
    await reports.wanted(shard)
    assert told == [["one", [[ROOM, 7, 0]]]]


async def test_what_is_no_news_of_a_member_or_a_room_is_told_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    broker = MemoryBroker(Store())
    async with owner(broker):
        await broker.emit(MEMBERS, b"\xc1")
        await broker.emit("jobs.0", b"\xc1")
        await until_async(lambda: len(caplog.records) >= 2)
    assert "is no member" in caplog.text
    assert "is no report" in caplog.text


async def test_what_is_full_waits_and_goes_on() -> None:
    store = Store()
    broker = Frail(store)
    full = [True]
    tried = 0

    def fate(_: Frail, real: Callable[[], Outcome]) -> Outcome:
        nonlocal tried
        tried += 1
        if full[0]:
            raise Full("no place")
        return real()

    broker.fate = fate
    async with owner(broker):
        kind = await broker.offer(broker.shard_of(ROOM), [item("a")])
        assert kind is Kind.STORED
        await until_async(lambda: tried >= 2)
        assert shown(store) == []
        full[0] = False
        await until_async(lambda: shown(store) == ["a"])
