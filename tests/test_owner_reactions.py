"""The owner's side of reactions, on brokers in this process: totals in the chat's batches, whoever writes them."""

import asyncio
import itertools
import zlib

import msgspec
import pytest

from broker.base import CHAT, UNKNOWN, Mark, Outcome
from broker.memory import MemoryBroker, Store
from edge.rooms.reactions import EVERY_BATCHES, Sums
from tests.owners import owner
from tests.server import until_async
from tests.test_owner import ROOM, counted, item, log_of, shown

KINDS = ("fire", "heart", "wow")


async def react(broker: MemoryBroker, room: str = ROOM, **counts: int) -> None:
    await broker.emit(f"react.{broker.shard_of(room)}", msgspec.msgpack.encode(Sums([(room, counts)])))


def totals(store: Store, room: str = ROOM) -> dict[str, int]:
    """As one who has seen all batches knows them. They never go back."""
    known: dict[str, int] = {}
    for batch in log_of(store, room):
        assert all(known.get(kind, 0) <= total for kind, total in batch.get("r", {}).items())
        known |= batch.get("r", {})
    return known


def newest(store: Store, room: str = ROOM) -> dict[str, int]:
    """As one does who has seen no more than the newest."""
    known: dict[str, int] = {}
    for batch in log_of(store, room)[-EVERY_BATCHES:]:
        known |= batch.get("r", {})
    return known


async def test_reactions_alone_make_batches_once_a_second() -> None:
    store = Store()
    broker = MemoryBroker(store)
    async with owner(broker, reactions=KINDS) as it:
        loop = asyncio.get_running_loop()
        began = loop.time()
        sent = 0
        while sent < 100:
            await react(broker, fire=2, heart=1)
            sent += 1
            await asyncio.sleep(0.02)
        await until_async(lambda: totals(store) == {"fire": 2 * sent, "heart": sent})
        passed = loop.time() - began
        batches = log_of(store)
        assert 2 <= len(batches) <= passed + 1
        assert [batch["id"] for batch in batches] == [f"c{n + 1}" for n in range(len(batches))]
        assert all(batch["m"] == [] and "of" not in batch for batch in batches)
        assert all(later["ts"] - batch["ts"] >= 700 for batch, later in itertools.pairwise(batches))
        assert it.figures["owner_reactions"] == 3 * sent


async def test_comments_take_reactions_along_and_are_not_held_up_by_them() -> None:
    store = Store()
    broker = MemoryBroker(store)
    shard = broker.shard_of(ROOM)
    async with owner(broker, reactions=KINDS) as it:
        async with asyncio.timeout(20):  # a second for each, were it to wait as reactions alone do, would be 40
            for n in range(40):
                await react(broker, fire=1)
                await broker.offer(shard, [item(str(n))])
                await until_async(lambda n=n: str(n) in shown(store))
        await until_async(lambda: totals(store) == {"fire": 40})
        assert shown(store) == [str(n) for n in range(40)]
        assert counted(store) == 40
        assert newest(store) == {"fire": 40}
        assert any(batch["m"] and "r" in batch for batch in log_of(store))
        await until_async(lambda: len(store.offers) == 0)  # all offers are covered, whatever came between
        assert it.figures["owner_fenced"] == 0


async def test_a_new_owner_goes_on_from_the_log() -> None:
    store = Store()
    for number in range(1, 4):
        broker = MemoryBroker(store)
        async with owner(broker, reactions=KINDS):
            await react(broker, fire=10)
            await until_async(lambda number=number: totals(store).get("fire") == 10 * number)
            for n in range(2 * EVERY_BATCHES):
                await broker.offer(broker.shard_of(ROOM), [item(f"{number}.{n}")])
                await until_async(lambda number=number, n=n: f"{number}.{n}" in shown(store))
            await react(broker, heart=1)
            await react(broker, heart=1)  # what has not been written is, on leaving
        assert totals(store) == newest(store) == {"fire": 10 * number, "heart": 2 * number}
    async with owner(MemoryBroker(store), reactions=KINDS) as it:
        await MemoryBroker(store).offer(broker.shard_of(ROOM), [item("last")])
        await until_async(lambda: shown(store)[-1] == "last")
        assert log_of(store)[-1]["r"] == {"fire": 30, "heart": 6}, "the first batch of an owner says all"
        assert it.figures["owner_reactions"] == 0


async def test_one_who_is_fenced_counts_nothing_twice() -> None:
    store = Store()
    stale, fresh = MemoryBroker(store), MemoryBroker(store)
    shard = stale.shard_of(ROOM)
    async with owner(stale, reactions=KINDS) as old:
        await react(stale, fire=5)
        await until_async(lambda: totals(store) == {"fire": 5})
        store.fence(shard, old._held[shard].lease.epoch + 1)  # as somebody does who has the lease after this one
        await react(stale, fire=5)
        await until_async(lambda: old.figures["owner_fenced"] == 1)
        assert totals(store) == {"fire": 5}
    async with owner(fresh, reactions=KINDS):
        await react(fresh, fire=1)
        await until_async(lambda: totals(store) == {"fire": 6})  # those five are lost, and no more than those


class Doubtful(MemoryBroker):
    """Of the first appends it is not told how they end; made once more, they are known."""

    fates = ("lost", "stored", "lost", "stored")

    async def append(
        self, room: str, lane: int, batch: bytes, expected: int, epoch: int = 0, mark: Mark = (0, 0)
    ) -> Outcome:
        fate, self.fates = self.fates[:1], self.fates[1:]
        if fate == ("lost",):
            return UNKNOWN
        outcome = self.store.append(room, lane, batch, expected, epoch, mark, call=zlib.crc32(batch))
        return UNKNOWN if fate else outcome


async def test_a_batch_of_reactions_whose_fate_is_unknown_is_stored_once() -> None:
    store = Store()
    broker = Doubtful(store)
    async with owner(broker, reactions=KINDS):
        for n in range(1, 4):
            await react(broker, fire=1)
            await until_async(lambda n=n: totals(store) == {"fire": n})
    assert [batch["r"] for batch in log_of(store)] == [{"fire": 1}, {"fire": 2}, {"fire": 3}]
    assert broker.fates == ()


async def test_rooms_of_a_shard_are_counted_apart_and_others_not_at_all() -> None:
    store = Store()
    broker = MemoryBroker(store)
    shard = broker.shard_of(ROOM)
    near = [name for name in (f"r{n}" for n in range(20_000)) if broker.shard_of(name) == shard][:5]
    far = next(name for name in (f"r{n}" for n in range(1000)) if broker.shard_of(name) != shard)
    async with owner(broker, reactions=KINDS) as it:
        sums = [(name, {"fire": n + 1, "other": 5}) for n, name in enumerate(near)]
        await broker.emit(f"react.{shard}", msgspec.msgpack.encode(Sums([(far, {"fire": 1}), *sums])))
        for n, name in enumerate(near):
            await until_async(lambda n=n, name=name: totals(store, name) == {"fire": n + 1})
        assert store.last(far, CHAT).head == 0
        assert it.figures["owner_reactions"] == sum(range(1, len(near) + 1))


async def test_what_is_no_sum_is_told_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    broker = MemoryBroker(store)
    shard = broker.shard_of(ROOM)
    async with owner(broker, reactions=KINDS):
        for bad in (b"\xc1", b"", msgspec.msgpack.encode([[["no room", {"fire": 1}]]])):
            await broker.emit(f"react.{shard}", bad)
        await react(broker, fire=1)
        await until_async(lambda: totals(store) == {"fire": 1})
    assert caplog.text.count("is no sum of reactions") == 3


async def test_with_two_owners_each_reaction_is_counted_by_one() -> None:
    store = Store()
    one, two = MemoryBroker(store), MemoryBroker(store)
    async with owner(one, alone=False, reactions=KINDS) as first, owner(two, alone=False, reactions=KINDS) as second:
        await until_async(lambda: len(second._held) >= 6)
        rooms = {shard: room for room in (f"r{n}" for n in range(4000)) for shard in [one.shard_of(room)]}
        chosen = [rooms[shard] for shard in list(second._held)[:3]] + [rooms[shard] for shard in list(first._held)[:3]]
        for room in chosen:
            for count, broker in enumerate([one, two] * 3):
                before = first.figures["owner_reactions"] + second.figures["owner_reactions"]
                await react(broker, room, fire=count + 1)
                # None while the shard is on its way from one to the other, and then they are lost.
                added = first.figures["owner_reactions"] + second.figures["owner_reactions"] - before
                assert added in (0, count + 1)
    counted_by_any = first.figures["owner_reactions"] + second.figures["owner_reactions"]
    assert 0 < sum(totals(store, room).get("fire", 0) for room in chosen) <= counted_by_any
