# The parts of a Store by themselves: leases on a clock that the test moves, and what was offered, against a model.

import random
import time

import pytest

from broker.base import CHAT, MUST, NO_MARK, Full, Kind, Unavailable
from broker.leases import Holding, Leases
from broker.memory import SHARDS, Limits, MemoryBroker, Store
from broker.offers import ITEM_COST, OFFER_COST, Offers
from broker.store import CALLS
from broker.subjects import shard_of
from tests.broker.boxes import Taken, Viewer


class Clock:
    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


async def test_when_a_lease_ends() -> None:
    clock = Clock()
    store = Store(lease_ttl_s=15, now=clock)
    one, two = MemoryBroker(store), MemoryBroker(store)
    lease = await one.lease(0)
    assert lease is not None
    clock.s += 9.9
    assert lease.held
    assert await lease.renew()
    clock.s += 9.9
    assert lease.held
    clock.s += 0.2
    assert not lease.held
    assert not await lease.renew()  # though nobody else can have it yet
    clock.s += 4.8
    assert await two.lease(0) is None
    clock.s += 0.2
    second = await two.lease(0)
    assert second is not None
    assert second.held
    assert second.epoch > lease.epoch
    await lease.release()
    assert await one.lease(0) is None


async def test_what_has_been_let_go_does_not_come_back() -> None:
    """Not even unseen: nobody asked whether it was held before the answer came."""
    clock = Clock()
    answer_s, accepted = 0.0, True

    async def renew(holding: Holding) -> bool:
        clock.s += answer_s
        if answer_s > 20:
            raise Unavailable("no answer")
        return accepted

    async def release(holding: Holding) -> None: ...

    def fresh() -> Holding:
        return Holding(0, 1, 15, clock.s, clock, renew, release)

    lease = fresh()
    answer_s = 9.0
    assert await lease.renew()
    clock.s += 0.9
    assert lease.held  # from the sending
    clock.s += 0.2
    assert not lease.held
    lease, answer_s = fresh(), 10.5
    assert not await lease.renew()
    assert not lease.held
    lease, answer_s, accepted = fresh(), 0.0, False
    assert not await lease.renew()
    assert not lease.held
    lease, answer_s = fresh(), 21.0
    with pytest.raises(Unavailable):
        await lease.renew()
    assert not lease.held


def test_a_lease_is_given_again_to_the_same_call_only() -> None:
    clock = Clock()
    leases = Leases(15, clock)
    epoch = leases.take(0, 7)
    assert epoch is not None
    clock.s += 10
    assert leases.take(0, 7) == epoch
    assert leases.take(0, 8) is None
    assert leases.take(0) is None
    clock.s += 10
    assert leases.renew(0, epoch)
    leases.release(0, 0, 8)
    assert leases.renew(0, epoch)
    leases.release(0, 0, 7)
    assert not leases.renew(0, epoch)
    later = leases.take(0)
    assert later is not None
    assert later > epoch
    clock.s += 14.9
    assert leases.renew(0, later)
    clock.s += 15
    assert not leases.renew(0, later)  # though nobody else has asked for it
    later = leases.take(0)
    assert later is not None
    leases.release(0, 0, 0)
    assert leases.renew(0, later)


def test_numbers_and_epochs_grow_over_stores() -> None:
    before = Store()
    seqs = [before.offers.offer(3, [b"x"]) for _ in range(100)]
    epochs = [before.leases.take(shard) or 0 for shard in range(SHARDS)]
    assert seqs == sorted(set(seqs))
    assert epochs == sorted(set(epochs))
    # As much later as a process takes to start: numbers run ahead of the clock only while many are made at once.
    deadline = time.monotonic() + 5
    while time.time_ns() // 1_000_000 <= epochs[-1]:
        assert time.monotonic() < deadline
    after = Store()
    assert (after.leases.take(3) or 0) > epochs[3]
    assert after.offers.covered(3) >= seqs[-1]
    assert after.offers.offer(3, [b"x"]) > seqs[-1]


@pytest.mark.parametrize("seed", range(5))
def test_offers_against_a_model(seed: int) -> None:
    dice = random.Random(seed)
    limit = 15_000
    offers = Offers(2, limit)
    model: list[list[tuple[int, list[bytes]]]] = [[], []]
    followers = [Taken(), Taken()]
    given: list[list[tuple[int, list[bytes]]]] = [[], []]
    for shard, taker in enumerate(followers):
        offers.attach(shard, taker)

    def size() -> int:
        kept = [items for shard in model for _, items in shard]
        return sum(OFFER_COST + ITEM_COST * len(items) + sum(map(len, items)) for items in kept)

    refused = 0
    for step in range(1500):
        shard = dice.randrange(2)
        own = model[shard]
        if dice.random() < 0.85:
            items = [bytes(dice.randrange(300)) for _ in range(dice.randrange(1, 6))]
            try:
                seq = offers.offer(shard, items)
            except Full:
                refused += 1
            else:
                own.append((seq, items))
                given[shard].append((seq, items))
        elif own:
            upto = dice.choice(own)[0] - dice.randrange(2)
            offers.cover(shard, upto)
            model[shard] = own = [offer for offer in own if offer[0] > upto]
        after = dice.choice(own)[0] if own else step
        assert [(o.seq, o.items) for o in offers.after(shard, after, 5)] == [o for o in own if o[0] > after][:5]
        assert offers.size == size() <= limit
        assert len(offers) == len(model[0]) + len(model[1])
    assert refused > 10
    assert [taker.offers for taker in followers] == given


def test_covered_is_bounded_by_what_there_is() -> None:
    offers = Offers(2, 10_000)
    seq = offers.offer(0, [b"a"])
    offers.cover(0, seq + 10**9)  # as a worker may say that comes from another Store
    later = offers.offer(0, [b"b"])
    assert [offer.seq for offer in offers.after(0, offers.covered(0), 9)] == [later]


def test_the_same_call_is_known_while_its_batch_is_new() -> None:
    store = Store()
    for i in range(CALLS + 10):
        assert store.append("r", CHAT, b"x", i, call=100 + i).kind is Kind.STORED
    head = CALLS + 10
    for i in range(head):
        again = store.append("r", CHAT, b"x", i, call=100 + i)
        assert again[:2] == ((Kind.STORED, i + 1) if i >= 10 else (Kind.FENCED, head))
    assert store.append("r", CHAT, b"x", head - 1, call=5)[:2] == (Kind.FENCED, head)
    assert store.append("r", CHAT, b"x", head - 1)[:2] == (Kind.FENCED, head)
    assert store.append("r", CHAT, b"x", head)[:2] == (Kind.STORED, head + 1)
    assert store.append("r", CHAT, b"x", head)[:2] == (Kind.FENCED, head + 1)
    assert store.append("r", CHAT, b"x", head - 1, 5, NO_MARK, 100 + head - 1)[:2] == (Kind.STORED, head)
    assert store.size == sum(room.cost() for room in store._idle.values())


async def test_a_fence_reaches_watched_and_unwatched_rooms_of_its_shard() -> None:
    store = Store(Limits(rooms=1000))
    worker = MemoryBroker(store)
    names = [f"r{i}" for i in range(200)]
    own = [name for name in names if shard_of(name, SHARDS) == 5]
    assert 3 < len(own) < 40
    for i, name in enumerate(names):
        if i % 3 == 0:
            await worker.subscribe(name, Viewer())
        if i % 5:
            await worker.append(name, CHAT, b"x", 0)
        await worker.append(name, MUST, b"m", 0, 3)
    rooms = (await worker.fence(5, 9)).rooms
    assert set(rooms) == {name for name in own if names.index(name) % 5}
    for name in names:
        fenced = await worker.append(name, CHAT, b"y", 1, 8)
        assert (fenced.epoch == 9) == (name in rooms)
        assert (await worker.append(name, MUST, b"y", 1, 3)).kind is Kind.STORED
