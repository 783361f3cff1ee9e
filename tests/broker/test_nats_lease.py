# Leases over NATS, and the fence that a new holder puts up: answers that are lost, holders that fall silent, writers
# that are faster. Against a real nats-server. What every broker promises of leases is in test_contract.py.

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import nats as nats_py
import pytest
import pytest_asyncio

from broker.base import CHAT, MUST, NO_MARK, Broker, Kind, Last, Lease, Outcome, Unavailable
from broker.nats import NatsBroker
from broker.nats_entry import End, pack, unpack
from broker.nats_fence import LIVE_S
from broker.nats_lease import NatsLease
from broker.nats_link import Lost
from broker.nats_write import Writer
from broker.subjects import LEASES, Places, kv, shard_of
from tests.broker.boxes import Box, Taken, box_of, fill, until
from tests.broker.gate import gate_to
from tests.broker.nats_server import NatsServer

TTL_S = 3


@pytest_asyncio.fixture
async def box(nats: NatsServer) -> AsyncIterator[Box]:
    async with box_of("nats", nats.url, lease_ttl_s=TTL_S) as made:
        yield made


@contextlib.asynccontextmanager
async def broker_at(url: str, wait_s: float = 5.0) -> AsyncIterator[NatsBroker]:
    made = NatsBroker(f"{url}?lease={TTL_S}", wait_s)
    try:
        yield made
    finally:
        await made.close()


async def leased(worker: NatsBroker, shard: int = 1) -> NatsLease:
    lease = await worker.lease(shard)
    assert isinstance(lease, NatsLease)
    return lease


async def value(url: str, shard: int = 1) -> Any:
    """What the bucket holds: (sequence, value)."""
    client = await nats_py.connect(url, allow_reconnect=False)
    try:
        found = await client.jetstream().get_last_msg(f"KV_{LEASES}", kv(LEASES, str(shard)))
        assert found.seq is not None
        return found.seq, json.loads(found.data) if found.data else None
    finally:
        await client.close()


async def test_three_racers_and_never_two_holders(box: Box) -> None:
    racers = [box.worker() for _ in range(3)]
    holding: list[Lease] = []
    epochs: list[int] = []
    turns = [0, 0, 0]

    async def race(number: int) -> None:
        while len(epochs) < 60:
            lease = await racers[number].lease(1)
            if lease is None:
                await asyncio.sleep(0)
                continue
            holding.append(lease)
            epochs.append(lease.epoch)
            turns[number] += 1
            assert len(holding) == 1
            assert lease.held
            assert await racers[number].lease(1) is None  # nor is it given twice by the same
            if len(epochs) % 3 == 0:
                assert await lease.renew()
            assert len(holding) == 1
            holding.remove(lease)
            await lease.release()
            assert not lease.held

    await asyncio.gather(*(race(number) for number in range(3)))
    assert epochs == sorted(set(epochs))
    assert sum(1 for turn in turns if turn) >= 2


async def test_one_caller_cannot_take_it_from_itself(box: Box) -> None:
    worker = box.worker()
    found = [lease for lease in await asyncio.gather(*(worker.lease(1) for _ in range(10))) if lease is not None]
    assert len(found) == 1
    assert await found[0].renew()


async def test_a_holder_that_falls_silent_stops_by_itself_well_before_another_has_it(box: Box) -> None:
    silent, other = box.worker(), box.worker()
    await other.lease(2)
    before = time.monotonic()
    lease = await silent.lease(1)
    given = time.monotonic()
    assert lease is not None
    assert lease.ttl_s == TTL_S
    held, held_s = True, TTL_S * 2 / 3
    while held:
        assert await other.lease(1) is None
        await asyncio.sleep(0.01)
        earlier, held, later_on = time.monotonic(), lease.held, time.monotonic()
        assert held if later_on < before + held_s else earlier < given + held_s or not held
    assert await other.lease(1) is None
    later = None
    async with asyncio.timeout(3):
        while later is None:
            later = await other.lease(1)
            await asyncio.sleep(0.01)
    print(f"another had it after {time.monotonic() - before:.2f} s")
    assert TTL_S <= time.monotonic() - before <= TTL_S + 1
    assert later.epoch > lease.epoch
    assert not lease.held
    assert not await lease.renew()
    assert later.held


async def test_renewals_keep_it_and_its_epoch(box: Box) -> None:
    worker, other = box.worker(), box.worker()
    lease = await worker.lease(1)
    assert lease is not None
    epoch, before = lease.epoch, time.monotonic()
    while time.monotonic() - before < TTL_S + 0.5:
        assert await lease.renew()
        assert await other.lease(1) is None
        await asyncio.sleep(0.1)
    assert lease.held
    assert lease.epoch == epoch
    seq, found = await value(box.path)
    assert found["epoch"] == epoch < seq
    await lease.release()
    assert not lease.held
    assert not await lease.renew()
    later = await other.lease(1)  # at once
    assert later is not None
    assert later.epoch > seq


async def test_a_renewal_counts_from_its_sending(box: Box, nats: NatsServer) -> None:
    async with gate_to(nats.port) as gate, broker_at(gate.url) as worker:
        lease = await leased(worker)
        gate.up.clear()
        sent = time.monotonic()
        renewing = asyncio.create_task(lease.renew())
        await until(lambda: time.monotonic() - sent > 0.4)
        gate.up.set()
        assert await renewing
        assert lease.until_s - sent < TTL_S * 2 / 3 + 0.1


async def test_a_renewal_that_comes_too_late_revives_nothing(box: Box, nats: NatsServer) -> None:
    async with gate_to(nats.port) as gate, broker_at(gate.url) as worker:
        lease = await leased(worker)
        lease.until_s = time.monotonic() + 0.3
        gate.up.clear()
        renewing = asyncio.create_task(lease.renew())
        await until(lambda: not lease.held)
        gate.up.set()
        assert not await renewing
        assert not lease.held
        assert not await lease.renew()
        again = await leased(worker)  # which is a new one
        assert again.epoch > lease.epoch
        assert again.held
        assert not lease.held


async def test_an_accepted_renewal_of_what_has_run_out_is_false(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    async with broker_at(box.path) as worker:
        lease = await leased(worker)
        write = worker.leases._write

        async def late(*args: Any) -> int:
            seq = await write(*args)
            lease.until_s = time.monotonic()
            return seq

        monkeypatch.setattr(worker.leases, "_write", late)
        assert not await lease.renew()
        assert not lease.held


async def test_a_renewal_that_never_got_there_is_sent_again(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    async with broker_at(box.path) as worker:
        lease = await leased(worker)
        write, sent = worker.leases._write, 0

        async def lost(*args: Any) -> int:
            nonlocal sent
            sent += 1
            if sent == 1:
                raise Lost()
            return await write(*args)

        monkeypatch.setattr(worker.leases, "_write", lost)
        assert await lease.renew()
        assert sent == 2


async def test_a_renewal_without_an_answer_is_resolved_by_reading(box: Box, nats: NatsServer) -> None:
    async with gate_to(nats.port) as gate, broker_at(gate.url, 0.7) as worker:
        lease = await leased(worker)
        gate.down.clear()
        with pytest.raises(Unavailable):
            await lease.renew()
        assert (await value(box.path))[0] > lease.seq  # it got there
        assert lease.held
        gate.down.set()
        await until(lambda: worker.connected)
        assert await lease.renew()
        gate.down.clear()
        with pytest.raises(Unavailable):
            await lease.renew()
        gate.down.set()
        await lease.release()  # this one reads as well
        async with broker_at(box.path) as other:
            assert (await leased(other)).epoch > lease.epoch


async def test_a_lease_without_an_answer_is_had_by_asking_again(
    box: Box, nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with broker_at(box.path) as worker, broker_at(box.path) as other:
        write = worker.leases._write
        sent: list[int] = []

        async def written(*args: Any) -> int:
            sent.append(await write(*args))
            if len(sent) == 1:
                raise Lost()
            return sent[-1]

        monkeypatch.setattr(worker.leases, "_write", written)
        lease = await leased(worker)
        assert lease.epoch == sent[1] > sent[0]
        assert await other.lease(1) is None
        assert await lease.renew()


async def test_what_is_not_ours_any_more_is_told(box: Box) -> None:
    async with broker_at(box.path) as worker, broker_at(box.path) as other:
        lease = await leased(worker)
        client = await nats_py.connect(box.path, allow_reconnect=False)
        await client.jetstream().purge_stream(f"KV_{LEASES}")
        await client.close()
        later = await leased(other)
        assert not await lease.renew()
        assert not lease.held
        await lease.release()  # takes nothing from who has it now
        assert later.held
        assert await later.renew()
        assert await worker.lease(1) is None


async def test_closing_gives_them_back(box: Box) -> None:
    async with broker_at(box.path) as worker, broker_at(box.path) as other:
        leases = [await leased(worker, shard) for shard in range(20)]
        assert await other.lease(7) is None
        await worker.close()
        assert not any(lease.held for lease in leases)
        for shard in range(20):
            assert await other.lease(shard) is not None


async def test_a_value_that_is_none_is_somebodys(box: Box) -> None:
    async with broker_at(box.path) as worker:
        await leased(worker, 2)
        client = await nats_py.connect(box.path, allow_reconnect=False)
        for bad in (b"x", b"[]", b'{"epoch": "x", "node": "a"}'):
            await client.jetstream().publish(kv(LEASES, "1"), bad)
            assert await worker.lease(1) is None
        await client.close()


# The fence.


def rooms_of(shard: int, many: int, form: str = "room %d") -> list[str]:
    found: list[str] = []
    number = 0
    while len(found) < many:
        if shard_of(room := form % number, 256) == shard:
            found.append(room)
        number += 1
    return found


async def offered(worker: Broker, many: int = 10) -> None:
    """A mark is of offers that there are."""
    for _ in range(many):
        assert await worker.offer(1, [b"a"]) is Kind.STORED


async def test_an_older_lease_is_fenced_where_it_has_been_and_by_its_numbers_elsewhere(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = box.worker(), box.worker()
    live, quiet = rooms_of(1, 2)
    await offered(old)
    await fill(old, quiet, CHAT, [b"a"])
    await fill(old, rooms_of(2, 1)[0], CHAT, [b"a"])  # another shard's
    now = SimpleNamespace(time=lambda at=time.time(): at + LIVE_S, monotonic=time.monotonic)  # noqa: B008
    monkeypatch.setattr("broker.nats_fence.time", now)  # an hour after this moment
    assert await old.append(live, CHAT, b"a", 0, 5, (3, 1)) == Outcome(Kind.STORED, 1)
    standing = await new.fence(1, 9)
    assert standing.rooms == {live: Last(1, 9, (3, 1))}
    assert await old.append(live, CHAT, b"b", 1, 5, (4, 0)) == Outcome(Kind.FENCED, 1, 9)
    assert await old.append(live, CHAT, b"b", 1, 8) == Outcome(Kind.FENCED, 1, 9)  # believed now, not read
    assert await old.append(live, CHAT, b"b", 0, 5) == Outcome(Kind.FENCED, 1, 9)
    assert await new.append(quiet, CHAT, b"b", 1, 9) == Outcome(Kind.STORED, 2)
    assert await old.append(quiet, CHAT, b"c", 1, 5) == Outcome(Kind.FENCED, 2, 9)
    assert await new.append(live, CHAT, b"b", 1, 9, (4, 0)) == Outcome(Kind.STORED, 2)
    assert await old.append(live, CHAT, b"c", 2) == Outcome(Kind.STORED, 3)  # no lease, no fence
    assert await old.append(live, MUST, b"goal", 0) == Outcome(Kind.STORED, 1)
    assert await new.last(live, CHAT) == Last(3, 9, (4, 0))
    assert await new.tail(live, CHAT, 0) == [(1, b"a"), (2, b"b"), (3, b"c")]


async def test_epoch_and_mark_outlast_what_has_none(box: Box) -> None:
    async with broker_at(box.path) as worker, broker_at(box.path) as other:
        (room,) = rooms_of(1, 1)
        await offered(worker)
        await worker.append(room, CHAT, b"a", 0, 5, (3, 1))
        await other.append(room, CHAT, b"b", 1)
        assert await worker.last(room, CHAT) == Last(2, 5, (3, 1))
        await worker.append(room, CHAT, b"c", 2, 6)
        assert await other.last(room, CHAT) == Last(3, 6, (3, 1))
        worker.writer._refresh_s = -1.0  # as if it were half way to ageing out
        await worker.writer.refresh(room)
        client = await nats_py.connect(box.path, allow_reconnect=False)
        found = await client.jetstream().get_last_msg("EDGE_LOG", Places(room, 256).log(CHAT))
        await client.close()
        entry = unpack(found.data or b"", found.seq or 0)
        assert (entry.batch, entry.number, entry.epoch, entry.mark) == (None, 3, 6, (3, 1))
        assert await other.last(room, CHAT) == Last(3, 6, (3, 1))
        assert (await other.fence(1, 7)).rooms == {room: Last(3, 7, (3, 1))}
        assert await worker.append(room, CHAT, b"d", 3, 6) == Outcome(Kind.FENCED, 3, 7)
        assert await worker.append(room, CHAT, b"d", 3, 7, (8, 0)) == Outcome(Kind.STORED, 4)
        assert await worker.last(room, CHAT) == Last(4, 7, (8, 0))
        assert [data for _, data in await other.tail(room, CHAT, 0)] == [b"a", b"b", b"c", b"d"]


async def test_writers_that_are_faster_are_fenced_all_the_same(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the fence's reading of the lanes and its own entries."""
    old, new = box.worker(), box.worker()
    rooms = rooms_of(1, 40, "a.b ü%d")
    await offered(old)
    for room in rooms:
        await old.append(room, CHAT, b"a", 0, 5, (1, 1))
    opening = Writer.open

    async def open_late(writer: Writer, room: str, *rest: Any) -> End | None:
        if rooms.index(room) % 2:
            await old.append(room, CHAT, b"b", 1, 5, (2, 2))
        return await opening(writer, room, *rest)

    monkeypatch.setattr(Writer, "open", open_late)
    standing = await new.fence(1, 9)
    for number, room in enumerate(rooms):
        late = number % 2
        assert standing.rooms[room] == Last(1 + late, 9, (2, 2) if late else (1, 1))
        assert await old.append(room, CHAT, b"c", 1 + late, 5) == Outcome(Kind.FENCED, 1 + late, 9)


async def test_who_is_fenced_itself_fences_nobody(box: Box) -> None:
    async with broker_at(box.path) as one, broker_at(box.path) as two:
        (room,) = rooms_of(1, 1)
        await one.append(room, CHAT, b"a", 0, 3)
        await one.fence(1, 9)
        before = (await one.reader.look(room)).ends[CHAT].seq
        assert (await two.fence(1, 7)).rooms == {room: Last(1, 9, NO_MARK)}
        assert (await one.reader.look(room)).ends[CHAT].seq == before
        assert await one.append(room, CHAT, b"b", 1, 9) == Outcome(Kind.STORED, 2)
        assert await two.append(room, CHAT, b"c", 2, 7) == Outcome(Kind.FENCED, 2, 9)


async def test_rooms_that_are_none_or_born_anew_do_not_stop_a_fence(box: Box) -> None:
    async with broker_at(box.path) as worker, broker_at(box.path) as other:
        good, anew, gone, empty = rooms_of(1, 4)
        for room in (good, anew, gone, empty):
            await worker.append(room, CHAT, b"a", 0, 3)
        client = await nats_py.connect(box.path, allow_reconnect=False)
        for room in (anew, gone, empty):
            await client.jetstream().purge_stream("EDGE_LOG", subject=Places(room, 256).birth())
        await client.jetstream().publish("edge.log.1.bad.chat", b"no entry")
        await client.jetstream().publish("edge.log.1.=zz.chat", pack(End(1, 0, 0), 1, 1, b"x"))
        await client.close()
        assert await other.append(anew, CHAT, b"b", 0, 4) == Outcome(Kind.STORED, 1)
        assert await other.append(empty, MUST, b"goal", 0) == Outcome(Kind.STORED, 1)
        client = await nats_py.connect(box.path, allow_reconnect=False)
        await client.jetstream().publish("edge.log.1.last.chat", b"no entry")  # the last that the fence is told
        await client.close()
        at_one = Last(1, 9, NO_MARK)
        assert (await worker.fence(1, 9)).rooms == {good: at_one, anew: at_one, empty: Last(0, 9, NO_MARK)}
        assert await other.append(empty, CHAT, b"b", 0, 4) == Outcome(Kind.FENCED, 0, 9)
        assert await other.append(empty, CHAT, b"b", 0, 9) == Outcome(Kind.STORED, 1)


async def test_a_fence_outlasts_the_numbering(box: Box) -> None:
    async with broker_at(box.path) as worker, broker_at(box.path) as other:
        (room,) = rooms_of(1, 1)
        await worker.append(room, CHAT, b"a", 0, 3)
        await other.fence(1, 9)
        client = await nats_py.connect(box.path, allow_reconnect=False)
        await client.jetstream().purge_stream("EDGE_LOG", subject=Places(room, 256).birth())
        await client.close()
        async with broker_at(box.path) as fresh:
            assert await fresh.append(room, CHAT, b"b", 0, 3) == Outcome(Kind.FENCED, 0, 9)
            assert await fresh.append(room, CHAT, b"b", 0, 9) == Outcome(Kind.STORED, 1)


async def test_the_same_append_again_is_stored_once_though_it_was_fenced_meanwhile(box: Box, nats: NatsServer) -> None:
    async with gate_to(nats.port) as gate, broker_at(gate.url, 1.0) as worker, broker_at(box.path) as other:
        (room,) = rooms_of(1, 1)
        await offered(worker)
        assert await worker.append(room, CHAT, b"a", 0, 5, (1, 0)) == Outcome(Kind.STORED, 1)
        gate.down.clear()
        assert (await worker.append(room, CHAT, b"b", 1, 5, (2, 0))).kind is Kind.UNKNOWN
        gate.down.set()
        assert (await other.fence(1, 9)).rooms == {room: Last(2, 9, (2, 0))}
        await until(lambda: worker.connected)
        assert await worker.append(room, CHAT, b"b", 1, 5, (2, 0)) == Outcome(Kind.STORED, 2)
        assert await worker.append(room, CHAT, b"b", 1, 5, (2, 0)) == Outcome(Kind.FENCED, 2, 9)
        assert await other.tail(room, CHAT, 0) == [(1, b"a"), (2, b"b")]


async def test_another_append_is_not_the_same_for_having_the_same_batch(box: Box, nats: NatsServer) -> None:
    for other_epoch, other_mark in ((6, (2, 0)), (5, (3, 0))):
        async with gate_to(nats.port) as gate, broker_at(gate.url, 1.0) as worker:
            room = f"r{other_epoch}"
            await worker.append(room, CHAT, b"a", 0, 5, (1, 0))
            gate.down.clear()
            assert (await worker.append(room, CHAT, b"b", 1, 5, (2, 0))).kind is Kind.UNKNOWN
            gate.down.set()
            await until(lambda: worker.connected)
            assert await worker.append(room, CHAT, b"b", 1, other_epoch, other_mark) == Outcome(Kind.FENCED, 2, 5)


async def test_what_arrives_after_the_fence_is_not_in_the_log(box: Box, nats: NatsServer) -> None:
    async with gate_to(nats.port) as gate, broker_at(gate.url, 1.0) as worker, broker_at(box.path) as other:
        (room,) = rooms_of(1, 1)
        await worker.append(room, CHAT, b"a", 0, 5)
        gate.up.clear()
        assert (await worker.append(room, CHAT, b"b", 1, 5)).kind is Kind.UNKNOWN
        assert (await other.fence(1, 9)).rooms == {room: Last(1, 9, NO_MARK)}
        gate.up.set()  # and only now does it get there
        await until(lambda: worker.connected)
        assert await worker.append(room, CHAT, b"b", 1, 5) == Outcome(Kind.FENCED, 1, 9)
        assert await other.tail(room, CHAT, 0) == [(1, b"a")]


async def test_a_takeover_goes_on_where_the_log_stands(box: Box) -> None:
    async with broker_at(box.path) as old, broker_at(box.path) as new:
        (room,) = rooms_of(1, 1)
        lease = await leased(old)
        for number in range(6):
            await old.offer(1, [b"%d.%d" % (number, item) for item in range(3)])
        await old.append(room, CHAT, b"0.*", 0, lease.epoch, (2, 0))
        await old.covered(1, 1)
        await old.append(room, CHAT, b"1.*, 2.0", 1, lease.epoch, (3, 1))
        await lease.release()
        later = await leased(new)
        standing = await new.fence(1, later.epoch)
        assert standing == (1, {room: Last(2, later.epoch, (3, 1))})
        taken = Taken()
        await new.consume(1, standing.after, taken)
        await until(lambda: len(taken.offers) == 5)
        left = [
            item
            for seq, items in taken.offers
            for at, item in enumerate(items)
            if (seq, at) >= standing.rooms[room].mark
        ]
        assert left == [b"%d.%d" % (number, at) for number in range(2, 6) for at in range(3)][1:]


async def test_a_fence_over_a_thousand_lanes(box: Box) -> None:
    async with broker_at(box.path) as old, broker_at(box.path) as new:
        rooms = rooms_of(1, 1000)
        await offered(old)
        for first in range(0, 1000, 100):
            await asyncio.gather(*(old.append(room, CHAT, b"x" * 2000, 0, 3, (2, 1)) for room in rooms[first:][:100]))
        before = time.monotonic()
        standing = await new.fence(1, 9)
        took_s = time.monotonic() - before
        print(f"1,000 lanes fenced in {took_s:.3f} s")
        assert took_s < 1.0
        assert standing.rooms == {room: Last(1, 9, (2, 1)) for room in rooms}
        for room in rooms[::97]:
            assert await old.append(room, CHAT, b"y", 1, 3) == Outcome(Kind.FENCED, 1, 9)
