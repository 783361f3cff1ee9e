# Offers over NATS where a way breaks: servers and connections that go, consumers that vanish, answers that are lost.
# Against real nats-server processes. What every broker promises of offers is in test_contract.py.

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import msgpack
import msgspec
import nats as nats_py
import pytest
import pytest_asyncio
from nats.aio.client import Client
from nats.aio.msg import Msg

from broker.base import CHAT, Broker, Closed, Full, Kind, Last, Outcome, Unavailable
from broker.nats import NatsBroker
from broker.nats_entry import End
from broker.nats_feed import ENDS, Feed, end_of
from broker.nats_link import Link
from broker.nats_write import Writer
from broker.subjects import kv, offers
from edge import wire
from tests.broker.boxes import Box, Taken, box_of, until
from tests.broker.gate import gate_to
from tests.broker.nats_server import NatsServer, nats_cluster, nats_server
from tests.owners import owner

STREAMS = "store/jetstream/$G/streams"


@pytest_asyncio.fixture
async def box(nats: NatsServer) -> AsyncIterator[Box]:
    async with box_of("nats", nats.url) as made:
        yield made


@contextlib.asynccontextmanager
async def broker_at(url: str, wait_s: float = 5.0) -> AsyncIterator[NatsBroker]:
    made = NatsBroker(url, wait_s)
    try:
        yield made
    finally:
        await made.close()


@contextlib.asynccontextmanager
async def client_at(url: str) -> AsyncIterator[Client]:
    client = await nats_py.connect(url, allow_reconnect=False)
    try:
        yield client
    finally:
        await client.close()


async def consumers(client: Client) -> list[str]:
    return [info.name for info in await client.jetstream().consumers_info("EDGE_IN")]


class Offering:
    """Offers numbers one after the other, and knows how each ended."""

    def __init__(self, worker: Broker, shard: int = 1) -> None:
        self.worker = worker
        self.shard = shard
        self.count = 0
        self.stored: list[bytes] = []
        self.unknown: list[bytes] = []

    async def offer(self, many: int = 1) -> None:
        for _ in range(many):
            self.count += 1
            item = b"%d" % self.count
            try:
                kind = await self.worker.offer(self.shard, [item])
            except Unavailable:
                await asyncio.sleep(0.005)
                continue
            (self.stored if kind is Kind.STORED else self.unknown).append(item)

    def check(self, taken: Taken) -> None:
        """Each once, in order, none that was refused, and all that were stored."""
        numbers = [int(item) for item in taken.items]
        assert numbers == sorted(set(numbers))
        assert [item for item in taken.items if item not in self.unknown] == self.stored

    def all_in(self, taken: Taken) -> bool:
        return bool(taken.items) and taken.items[-1] == self.stored[-1]


async def test_servers_and_connections_go_and_nothing_is_left_out_or_given_twice(tmp_path: Path) -> None:
    with nats_server(tmp_path) as server:
        async with gate_to(server.port) as gate, broker_at(server.url, 1.0) as writer, broker_at(gate.url) as reader:
            offering, taken = Offering(writer), Taken()
            await offering.offer(20)
            await reader.consume(1, 0, taken)
            for _ in range(3):
                writing = asyncio.create_task(offering.offer(150))
                before = len(offering.stored)
                await until(lambda before=before: len(offering.stored) > before + 20)  # type: ignore[misc]
                server.kill()
                await asyncio.to_thread(server.start)
                await writing
                await until(lambda: writer.connected)
                await gate.cut()
                await offering.offer(30)
                await gate.open()
                await offering.offer(30)
            await until(lambda: offering.all_in(taken))
            offering.check(taken)
            assert len(offering.stored) > 200


@pytest.mark.slow
async def test_a_cluster_that_loses_a_leader(tmp_path: Path) -> None:
    """That of the offers' stream, with whatever else it leads."""
    with nats_cluster(tmp_path) as servers:
        url = "nats://" + ",".join(server.address for server in servers) + "?replicas=3"
        async with broker_at(url, 20) as writer, broker_at(url, 20) as reader:
            lease = await reader.lease(1)
            assert lease is not None
            offering, taken = Offering(writer), Taken()
            await reader.consume(1, 0, taken)
            await offering.offer(200)
            client = await nats_py.connect([server.url for server in servers], allow_reconnect=False)
            info = await client.jetstream().stream_info("EDGE_IN")
            await client.close()
            assert info.cluster is not None
            (leader,) = [server for server in servers if server.name == info.cluster.leader]
            leader.kill()
            killed = time.monotonic()
            before = len(offering.stored)
            while len(offering.stored) < before + 200:
                await offering.offer()
                assert time.monotonic() < killed + 30
            await until(lambda: offering.all_in(taken), 10)
            offering.check(taken)
            print(f"200 more offers after {time.monotonic() - killed:.1f} s, {len(offering.unknown)} unknown")
            assert await lease.renew() is lease.held


async def test_a_consumer_that_is_deleted_is_made_anew(box: Box) -> None:
    async with broker_at(box.path) as worker, client_at(box.path) as client:
        offering, taken = Offering(worker), Taken()
        await worker.consume(1, 0, taken)
        await offering.offer(3)
        await until(lambda: offering.all_in(taken))
        (name,) = await consumers(client)
        await client.jetstream().delete_consumer("EDGE_IN", name)
        await offering.offer(3)
        await until(lambda: offering.all_in(taken), 4.0)
        offering.check(taken)


@pytest.mark.parametrize("lost", [(3,), (1, 2), (7, 8, 20), (20,)])
async def test_what_a_consumer_loses_is_given_before_what_follows(
    box: Box, monkeypatch: pytest.MonkeyPatch, lost: tuple[int, ...]
) -> None:
    """20 is the last one: that it is missing shows only by the heartbeat."""
    heard, left = Feed._heard, list(lost)

    def deaf(feed: Feed, msg: Msg) -> None:
        if msg.data and left and msg.data == msgpack.packb([b"%d" % left[0]]):
            left.pop(0)
        else:
            heard(feed, msg)

    monkeypatch.setattr(Feed, "_heard", deaf)
    async with broker_at(box.path) as worker:
        offering, taken = Offering(worker), Taken()
        await worker.consume(1, 0, taken)
        await offering.offer(20)
        await until(lambda: offering.all_in(taken))
        offering.check(taken)
        assert not left
        assert worker.offers.remade >= 1


async def test_it_goes_on_after_a_number(box: Box) -> None:
    async with broker_at(box.path) as worker, broker_at(box.path) as other:
        offering, first, later = Offering(worker), Taken(), Taken()
        await offering.offer(10)
        await worker.consume(1, 0, first)
        await until(lambda: offering.all_in(first))
        await other.consume(1, first.offers[5][0], later)
        await offering.offer(10)
        await until(lambda: offering.all_in(later))
        assert later.items == [b"%d" % i for i in range(7, 21)]


async def test_a_replica_that_is_behind_repeats_nothing(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked to begin past its own end it begins there, and then gets what has been given already."""
    start = Feed.start

    async def behind(feed: Feed) -> bool:
        feed._config["opt_start_seq"] = max(1, feed._config["opt_start_seq"] - 4)
        return await start(feed)

    monkeypatch.setattr(Feed, "start", behind)
    async with broker_at(box.path) as worker:
        offering, taken = Offering(worker), Taken()
        await offering.offer(10)
        await worker.consume(1, 5, taken)
        await until(lambda: offering.all_in(taken))
        assert taken.items == [b"6", b"7", b"8", b"9", b"10"]


async def test_the_streams_of_groups_are_each_their_own(box: Box) -> None:
    async with broker_at(f"{box.path}?groups=3&shards=7") as worker, client_at(box.path) as client:
        taken = [Taken() for _ in range(7)]
        for shard in range(7):
            assert await worker.offer(shard, [b"a%d" % shard]) is Kind.STORED
            await worker.consume(shard, 0, taken[shard])
            await worker.covered(shard, 1)
            room = next(f"r{number}" for number in range(200) if worker.shard_of(f"r{number}") == shard)
            assert await worker.append(room, 1, b"a", 0, 1) == Outcome(Kind.STORED, 1)
            assert await worker.fence(shard, 2) == (1, {room: Last(1, 2, (0, 0))})
            assert await worker.append(room, 1, b"b", 1, 1) == Outcome(Kind.FENCED, 1, 2)
        await until(lambda: all(it.items == [b"a%d" % shard] for shard, it in enumerate(taken)))
        assert (await client.jetstream().stream_info("EDGE_IN_1")).state.consumer_count == 2
        assert (await client.jetstream().stream_info("EDGE_IN_0")).state.consumer_count == 3


async def test_an_offer_without_an_answer_is_unknown_and_never_sent_again(box: Box, nats: NatsServer) -> None:
    async with gate_to(nats.port) as gate, broker_at(gate.url, 1.0) as worker, broker_at(box.path) as other:
        taken = Taken()
        await other.consume(1, 0, taken)
        assert await worker.offer(1, [b"a"]) is Kind.STORED
        gate.down.clear()
        assert await worker.offer(1, [b"b"]) is Kind.UNKNOWN  # it is there
        await until(lambda: taken.items == [b"a", b"b"])
        gate.up.clear()
        assert await worker.offer(1, [b"c"]) is Kind.UNKNOWN  # and this one never will be
        await gate.cut()
        await until(lambda: not worker.connected)
        with pytest.raises(Unavailable):
            await worker.offer(1, [b"d"])
        gate.up.set()
        gate.down.set()
        await gate.open()
        await until(lambda: worker.connected)
        assert await worker.offer(1, [b"e"]) is Kind.STORED
        await until(lambda: len(taken.items) == 3)
        assert taken.items == [b"a", b"b", b"e"]


async def test_a_refusal_is_full_or_unavailable(box: Box) -> None:
    async with broker_at(box.path) as worker, client_at(box.path) as client:
        assert await worker.offer(1, [b"a"]) is Kind.STORED
        config = (await client.jetstream().stream_info("EDGE_IN")).config
        config.max_msgs = 1
        await client.jetstream().update_stream(config)
        with pytest.raises(Full, match="maximum messages"):
            await worker.offer(1, [b"b"])
        config.max_msgs, config.max_bytes = -1, 100
        await client.jetstream().update_stream(config)
        with pytest.raises(Full, match="maximum bytes"):
            await worker.offer(1, [b"b" * 1000])
        await client.jetstream().delete_stream("EDGE_IN")
        with pytest.raises(Unavailable, match="no leader"):
            await worker.offer(1, [b"b"])


async def test_what_is_no_offer_does_not_stop_the_shard(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    class Fails(Taken):
        def offered(self, shard: int, seq: int, items: list[bytes]) -> None:
            super().offered(shard, seq, items)
            raise ZeroDivisionError("for once")

    async with broker_at(box.path) as worker, client_at(box.path) as client:
        taken = Fails()
        await worker.consume(1, 0, taken)
        for bad in (b"", b"\xc1", b"plain", msgpack.packb({"a": 1}), msgpack.packb([b"a", "text"]), b"\x92\xc4\x01a"):
            await client.jetstream().publish(offers(1), bad)
        assert await worker.offer(1, [b"good"]) is Kind.STORED
        assert await worker.offer(1, [b"better"]) is Kind.STORED
        await until(lambda: taken.items == [b"good", b"better"])
        assert worker.offers.bad == 6
        assert caplog.text.count("is no offer") == 6
        assert worker.offers.remade == 0


async def test_a_backlog_is_taken_under_flow_control(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    tell = Link.tell

    async def telling(link: Link, subject: str, payload: bytes) -> None:
        told.append(subject)
        await tell(link, subject, payload)

    async with broker_at(box.path) as worker, broker_at(box.path) as reader:
        for _ in range(8):
            kinds = await asyncio.gather(*(worker.offer(1, [b"x" * 100_000]) for _ in range(20)))
            assert set(kinds) == {Kind.STORED}
        taken = Taken()
        monkeypatch.setattr(Link, "tell", telling)
        await reader.consume(1, 0, taken)
        await until(lambda: len(taken.offers) == 160)
        assert any(subject.startswith("$JS.FC.") for subject in told)
        assert reader.offers.remade == 0


async def test_a_consumer_for_each_of_256_shards(box: Box) -> None:
    async with broker_at(box.path) as worker, client_at(box.path) as client:
        await worker.head("r", 0)
        taken = [Taken() for _ in range(256)]
        before = time.monotonic()
        await asyncio.gather(*(worker.consume(shard, 0, taken[shard]) for shard in range(256)))
        took_s = time.monotonic() - before
        print(f"256 consumers in {took_s:.2f} s")
        assert took_s < 2.0
        await asyncio.gather(*(worker.offer(shard, [b"%d" % shard]) for shard in range(256)))
        await until(lambda: all(it.items == [b"%d" % shard] for shard, it in enumerate(taken)))
        await worker.leave(255)
        await until_left(client, 255)
        for shard in range(200):
            await worker.leave(shard)
        await worker.close()
        await until_left(client, 0)


async def until_left(client: Client, count: int) -> None:
    """At once, and not after the time that the server keeps what nobody hears."""

    async def left() -> bool:
        return (await client.jetstream().stream_info("EDGE_IN")).state.consumer_count == count

    await until_so(left)


async def until_so(true: Callable[[], Awaitable[bool]], deadline_s: float = 2.0) -> None:
    """`until`, for what has to be asked for."""
    async with asyncio.timeout(deadline_s):
        while not await true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_leaving_and_coming_back(box: Box) -> None:
    async with broker_at(box.path) as worker, client_at(box.path) as client:
        taken = Taken()
        await worker.offer(1, [b"a"])
        for wait in range(12):
            coming = asyncio.create_task(worker.consume(1, 0, taken))
            for _ in range(wait):
                await asyncio.sleep(0)
            coming.cancel()
            await asyncio.wait([coming])
            await worker.leave(1)
        taken.offers.clear()
        await worker.consume(1, 0, taken)
        with pytest.raises(ValueError, match="consumed already"):
            await worker.consume(1, 0, taken)
        await until(lambda: taken.items == [b"a"])
        await until_left(client, 1)
        await worker.leave(1)
        await worker.offer(1, [b"b"])
        await until_left(client, 0)
        assert taken.items == [b"a"]
        assert not worker.offers._link._hearers


async def test_nobody_there_is_unavailable_and_leaves_nothing() -> None:
    async with broker_at("nats://127.0.0.1:1", 0.2) as worker:
        for _ in range(2):
            for call in (worker.consume(1, 0, Taken()), worker.offer(1, [b"a"]), worker.covered(1, 1)):
                with pytest.raises(Unavailable, match="can't be reached"):
                    await call


async def test_what_is_covered_only_grows_and_is_purged(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.nats_offers.PURGE_S", 0.0)
    async with broker_at(box.path) as one, broker_at(box.path) as two, client_at(box.path) as client:
        for shard in (1, 2):
            await Offering(one, shard).offer(10)

        async def kept(shard: int) -> int:
            state = (await client.jetstream().stream_info("EDGE_IN", subjects_filter=offers(shard))).state
            return (state.subjects or {}).get(offers(shard), 0)

        await one.covered(1, 8)
        await two.covered(1, 3)  # who has been paused meanwhile takes nothing back
        await one.covered(1, 2)
        assert (await two.fence(1, 1)).after == 8

        async def purged() -> bool:
            return await kept(1) == 2

        await until_so(purged)
        assert await kept(2) == 10
        await two.covered(1, 10)
        await one.covered(1, 9)
        assert (await one.fence(1, 1)).after == 10
        taken = Taken()
        await one.consume(1, 10, taken)
        await one.offer(1, [b"next"])
        await until(lambda: taken.items == [b"next"])


async def test_what_is_covered_is_recorded_though_answers_get_lost(box: Box, nats: NatsServer) -> None:
    async with gate_to(nats.port) as gate, broker_at(gate.url, 1.0) as worker, broker_at(box.path) as other:
        await Offering(other).offer(7)
        await worker.covered(1, 5)
        gate.down.clear()
        with pytest.raises(Unavailable):
            await worker.covered(1, 6)
        gate.down.set()
        await until(lambda: worker.connected)
        await worker.covered(1, 7)
        assert (await other.fence(1, 1)).after == 7


# A server alone that loses its power: the disk has less than was acknowledged.


async def keep(server: NatsServer) -> None:
    """What the disk will have."""
    server.stop()
    shutil.copytree(server.folder / "store", server.folder / "older")
    await asyncio.to_thread(server.start)


async def lose(server: NatsServer, what: str) -> None:
    """All streams lose what has come since, or one of them alone: each is written to the disk in its own time."""
    server.kill()
    shutil.rmtree(server.folder / what)
    (server.folder / what.replace("store", "older", 1)).rename(server.folder / what)
    await asyncio.to_thread(server.start)


LOST = ["store", f"{STREAMS}/EDGE_IN"]


@pytest.mark.parametrize("what", LOST)
async def test_offers_that_are_lost_are_told_of_once_and_what_follows_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    with nats_server(tmp_path) as server:
        async with broker_at(server.url) as reader, broker_at(server.url) as writer:
            offering, told, idle = Offering(writer), Taken(), Taken()
            await offering.offer(10)
            await reader.consume(1, 0, told)
            await reader.consume(2, 0, idle)
            await until(lambda: offering.all_in(told))
            await keep(server)
            await until(lambda: writer.connected and reader.connected)
            await offering.offer(30)
            await until(lambda: offering.all_in(told))
            assert not told.resets
            await reader.covered(1, 40)
            await lose(server, what)
            offering.stored.clear()
            await until(lambda: writer.connected)
            await offering.offer(10)
            await until(lambda: told.resets)
            with pytest.raises(Unavailable, match="told by number"):
                await reader.covered(1, 40)
            await reader.leave(1)
            taken, later = Taken(), Taken()
            standing = await reader.fence(1, 1)
            await reader.consume(1, standing.after, taken)
            await offering.offer(10)
            await until(lambda: offering.all_in(taken))
            assert [item for item in taken.items if int(item) > 40] == offering.stored
            await reader.covered(1, taken.offers[-1][0])
            standing = await writer.fence(1, 2)
            assert standing.after == taken.offers[-1][0]
            await writer.consume(1, standing.after, later)
            await offering.offer(1)
            await until(lambda: offering.all_in(later))
            assert later.items == offering.stored[-1:]
            assert (told.resets, idle.resets, taken.resets, later.resets) == ([1], [], [], [])
            assert caplog.text.count("shard 1: NATS has lost offers: 40 was given, and its stream ends at") == 1


@pytest.mark.parametrize(
    "replicas, ends, found, asked",
    [
        (1, [7], 7, 1),
        (1, [3], 3, 1),  # nobody else could know better
        (3, [7], 7, 1),
        (3, [3, 3, 8], 8, 3),  # one that has lost its office, and then its successor
        (3, [3] * ENDS, 3, ENDS),
    ],
)
async def test_an_end_that_is_too_early_is_believed_when_it_is_certain(
    monkeypatch: pytest.MonkeyPatch, replicas: int, ends: list[int], found: int, asked: int
) -> None:
    monkeypatch.setattr("broker.nats_feed.ENDS_S", 0.0)
    left = list(ends)

    class Told:
        api = "$JS.API"

        async def request(self, subject: str, payload: bytes, timeout_s: float) -> Msg:
            assert subject == "$JS.API.STREAM.INFO.EDGE_IN"
            answer = {"config": {"num_replicas": replicas}, "state": {"last_seq": left.pop(0)}}
            return Msg(Client(), data=msgspec.json.encode(answer))

    assert await end_of(cast(Link, Told()), "EDGE_IN", 7) == found
    assert len(ends) - len(left) == asked


@pytest.mark.parametrize("late", [False, True])
async def test_marks_beyond_the_end_are_brought_back_to_where_the_numbers_began_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """However much has come before the next holder looks, and in the log as well: who comes after it may look late. And
    whatever the one before still writes, between the next one's reading of the lanes and its own entries."""
    opening = Writer.open
    with nats_server(tmp_path) as server:
        async with broker_at(server.url) as old, broker_at(server.url) as new, broker_at(server.url) as third:
            shards = [old.shard_of(f"r{number}") for number in range(2000)]
            ahead, sound = [f"r{number}" for number, shard in enumerate(shards) if shard == 1][:2]
            offering = Offering(old)
            await offering.offer(10)
            await old.append(sound, CHAT, b"1 to 4", 0, 1, (5, 0))
            await keep(server)
            await until(lambda: old.connected)
            await offering.offer(30)
            await old.append(ahead, CHAT, b"1 to 30", 0, 1, (31, 0))
            await old.covered(1, 3)
            await lose(server, f"{STREAMS}/EDGE_IN")
            await until(lambda: old.connected)
            await offering.offer(5)

            async def open_late(writer: Writer, room: str, *rest: Any) -> End | None:
                if room == ahead and await old.head(ahead, CHAT) == 1:
                    await old.append(ahead, CHAT, b"31", 1, 1, (32, 0))
                return await opening(writer, room, *rest)

            if late:
                monkeypatch.setattr(Writer, "open", open_late)
            standing = await new.fence(1, 2)
            at_end = Last(1 + late, 2, (11, 0))
            assert standing == (3, {ahead: at_end, sound: Last(1, 2, (5, 0))})
            assert await new.last(ahead, CHAT) == at_end
            await offering.offer(30)  # the old mark could be now
            assert (await third.fence(1, 3)).rooms[ahead] == at_end._replace(epoch=3)


@pytest.mark.parametrize("marks", [True, False])
async def test_a_checkpoint_beyond_the_end_leaves_nothing_out(tmp_path: Path, marks: bool) -> None:
    """It may be recorded by a holder who does not know yet: so it is the marks that count."""
    with nats_server(tmp_path) as server:
        async with broker_at(server.url) as old, broker_at(server.url) as new:
            room = next(f"r{number}" for number in range(2000) if old.shard_of(f"r{number}") == 1)
            offering, taken = Offering(old), Taken()
            await offering.offer(10)
            await keep(server)
            await until(lambda: old.connected)
            await offering.offer(30)
            await old.append(room, CHAT, b"all", 0, 1, (41, 0) if marks else (5, 0))
            await lose(server, f"{STREAMS}/EDGE_IN")
            await until(lambda: old.connected)
            await offering.offer(5)
            async with client_at(server.url) as client:
                await client.publish(kv("EDGE", "covered.1"), b"40")
                await client.flush()
            standing = await new.fence(1, 2)
            assert standing.rooms[room].mark == ((11, 0) if marks else (5, 0))
            await new.consume(1, standing.after, taken)
            await until(lambda: offering.all_in(taken))
            assert [n for n, _ in taken.offers] == list(range(1, 16))
            assert (await old.fence(1, 3)).after == 0  # written so


class Said:
    """Comments of a room, and what its log shows of them."""

    def __init__(self, worker: Broker) -> None:
        self.worker = worker
        self.count = 0

    async def say(self, many: int) -> list[str]:
        """Those that are stored."""
        stored = []
        while len(stored) < many:
            self.count += 1
            name = f"n{self.count}"
            item = wire.item("match", wire.comment(name, {"id": "ann", "name": "ann"}, name, 1))
            try:
                if await self.worker.offer(self.worker.shard_of("match"), [item]) is Kind.STORED:
                    stored.append(name)
            except Unavailable:
                await asyncio.sleep(0.005)
        return stored

    async def shows(self, names: list[str]) -> None:
        """In their order, each once."""

        async def shown() -> bool:
            with contextlib.suppress(Unavailable):
                batches = [msgspec.msgpack.decode(data) for _, data in await self.worker.tail("match", CHAT, 0)]
                found = [comment["id"] for batch in batches for comment in batch["m"] if comment["id"] in names]
                assert len(found) == len(set(found))
                return found == names
            return False

        await until_so(shown, 8.0)


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("what", LOST)
async def test_an_owner_whose_offers_are_lost_goes_on_and_so_does_a_new_one(
    tmp_path: Path, what: str, live: bool
) -> None:
    with nats_server(tmp_path) as server:
        url = f"{server.url}?shards=2&lease=3"
        async with contextlib.AsyncExitStack() as box:
            one, two, authors = [await box.enter_async_context(broker_at(url)) for _ in range(3)]
            said = Said(authors)
            owning = contextlib.AsyncExitStack()
            await owning.enter_async_context(owner(one))
            box.push_async_callback(owning.aclose)
            await said.shows(await said.say(10))
            await keep(server)
            await said.shows(await said.say(50))
            if not live:
                await owning.aclose()
            await lose(server, what)
            early = await said.say(5)  # at once: nobody may know yet
            if live:
                await said.shows(early)
                await said.shows(await said.say(5))
                await owning.aclose()
            async with owner(two):
                await said.shows(early + await said.say(5))


async def test_closing_ends_what_is_under_way(box: Box, nats: NatsServer) -> None:
    async with gate_to(nats.port) as gate, broker_at(gate.url) as worker:
        await worker.consume(2, 0, Taken())
        gate.down.clear()
        calls = (worker.consume(1, 0, Taken()), worker.covered(1, 1), worker.fence(1, 1), worker.lease(1))
        tasks = [asyncio.create_task(call) for call in calls]
        offer = asyncio.create_task(worker.offer(1, [b"a"]))
        for _ in range(20):
            await asyncio.sleep(0)
        async with asyncio.timeout(3):
            await worker.close()
            assert await offer is Kind.UNKNOWN
            for task in tasks:
                with pytest.raises(Closed):
                    await task
        with pytest.raises(Closed):
            await worker.offer(1, [b"a"])
