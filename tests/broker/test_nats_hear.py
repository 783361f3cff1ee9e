# What a node hears of NATS: rooms by themselves or a shard at once, messages of other nodes, requests of publishers.
# And that a connection to a server that stalls or dies always ends. Against real nats-server processes.

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats as nats_py
import pytest
import pytest_asyncio
from nats.aio.msg import Msg

from broker.base import CHAT, LANES, MUST, Closed, Kind, Unavailable
from broker.nats import NatsBroker
from broker.nats_emit import ANSWERS
from broker.nats_hear import FEW, MANY, Hearing
from broker.nats_link import Lost
from broker.subjects import OUT_ALL, Places, out_all, put, shard_of
from tests.broker.boxes import Viewer, empty, fill, until
from tests.broker.gate import gate_to
from tests.broker.nats_server import NatsServer, nats_server

SHARDS = 8


def rooms_of(shard: int, count: int) -> list[str]:
    found: list[str] = []
    number = 0
    while len(found) < count:
        if shard_of(f"r{number}", SHARDS) == shard:
            found.append(f"r{number}")
        number += 1
    return found


@pytest_asyncio.fixture
async def url(nats: NatsServer) -> AsyncIterator[str]:
    await empty(nats.url)
    yield f"{nats.url}?shards={SHARDS}"
    await empty(nats.url)


@contextlib.asynccontextmanager
async def broker_at(url: str, wait_s: float = 5.0) -> AsyncIterator[NatsBroker]:
    made = NatsBroker(url, wait_s)
    try:
        yield made
    finally:
        async with asyncio.timeout(5):
            await made.close()


@contextlib.asynccontextmanager
async def client_of(url: str) -> AsyncIterator[Any]:
    client = await nats_py.connect(url.partition("?")[0], allow_reconnect=False)
    try:
        yield client
    finally:
        await client.close()


def heard_by(worker: NatsBroker, lane: int) -> set[str]:
    return worker.way.links[lane].hears(worker.hearing[lane]._heard)


async def test_many_rooms_of_a_shard_are_heard_at_once_and_few_by_themselves(url: str) -> None:
    rooms = rooms_of(3, MANY + 2)
    async with broker_at(url) as reader, broker_at(url) as writer:
        viewers = {room: Viewer() for room in rooms}
        for room in rooms[:MANY]:
            await viewers[room].join(reader, room)
        assert all(len(heard_by(reader, lane)) == MANY for lane in LANES)
        for room in rooms[MANY:]:
            await viewers[room].join(reader, room)
        await until(lambda: all(heard_by(reader, lane) == {out_all(3, lane)} for lane in LANES))
        for room in rooms:
            await fill(writer, room, CHAT, [b"a", b"b"])
        await until(lambda: all(it.heads[CHAT] == 2 for it in viewers.values()))
        assert reader.figures()["broker_unwanted_messages"] == 0
        await fill(writer, rooms_of(3, MANY + 3)[-1], CHAT, [b"nobody's"])
        await until(lambda: reader.figures()["broker_unwanted_messages"] == 1)
        assert 8 < reader.figures()["broker_unwanted_bytes"] < 200
        for room in rooms[FEW:]:
            await reader.unsubscribe(room)
        for _ in range(3):  # whatever it might have begun would have ended
            await reader.way.links[CHAT].flush()
        assert heard_by(reader, CHAT) == {out_all(3, CHAT)}
        await reader.unsubscribe(rooms[FEW - 1])
        left = rooms[: FEW - 1]
        await until(lambda: all(len(heard_by(reader, lane)) == len(left) for lane in LANES))
        heard = reader.figures()["broker_heard_bytes"]
        for room in rooms:
            await fill(writer, room, CHAT, [b"c"])
        await until(lambda: all(viewers[room].heads[CHAT] == 3 for room in left))
        figures = reader.figures()
        assert figures["broker_unwanted_messages"] == 1
        assert figures["broker_heard_bytes"] > heard
        assert (figures["broker_repairs"], figures["broker_slow"], figures["broker_reconnects"]) == (0, 0, 0)
        for room in left:
            await reader.unsubscribe(room)
        assert heard_by(reader, CHAT) == heard_by(reader, MUST) == set()


async def test_a_shard_left_altogether_is_not_heard_any_more(url: str) -> None:
    rooms = rooms_of(3, MANY + 1)
    async with broker_at(url) as reader:
        for room in rooms:
            await reader.subscribe(room, Viewer())
        await until(lambda: heard_by(reader, CHAT) == {out_all(3, CHAT)})
        await asyncio.gather(*(reader.unsubscribe(room) for room in rooms))
        await until(lambda: not heard_by(reader, CHAT) and not heard_by(reader, MUST))


async def test_switching_under_load_loses_nothing(url: str) -> None:
    """Without a repair, that is: what was on its way when one way was left for the other has been given."""
    rooms = rooms_of(3, MANY + 1)
    async with broker_at(url) as reader, broker_at(url) as writer:
        viewer = Viewer()
        await viewer.join(reader, rooms[0])
        going = True

        async def write() -> int:
            head = 0
            while going:
                kind, head, _ = await writer.append(rooms[0], CHAT, b"x" * 100, head)
                assert kind is Kind.STORED
            return head

        writing = asyncio.ensure_future(write())
        for _ in range(5):
            await asyncio.gather(*(reader.subscribe(room, Viewer()) for room in rooms[1:]))
            await until(lambda: heard_by(reader, CHAT) == {out_all(3, CHAT)})
            await asyncio.gather(*(reader.unsubscribe(room) for room in rooms[FEW - 1 :]))
            await until(lambda: len(heard_by(reader, CHAT)) == FEW - 1)
            await asyncio.gather(*(reader.unsubscribe(room) for room in rooms[1 : FEW - 1]))
        going = False
        head = await writing
        await until(lambda: viewer.heads[CHAT] == head)
        assert head > 20
        assert [seq for seq, _ in viewer.lanes[CHAT]] == list(range(1, head + 1))
        assert (reader.repairs, viewer.resets) == (0, [])


async def test_what_has_come_is_given_before_a_way_is_left(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [Places(room, SHARDS) for room in rooms_of(3, MANY + 1)]
    async with broker_at(url) as worker:
        await worker.head("r", CHAT)
        link = worker.way.links[CHAT]
        hearing = Hearing(link, CHAT, worker.way.spawn)
        given: list[bytes] = []

        def hearer(msg: Msg) -> None:
            given.append(msg.data)

        for it in places[:MANY]:
            await hearing.add(it, hearer)
        flush, sent = link.flush, []

        async def flushed() -> None:
            """As if a message had come with the server's answer: nothing of it is given before the next turn."""
            await flush()
            for subject, (_, _, subscription) in link._hearers.items():
                assert subscription is not None
                if subject != left_for:
                    sent.append(msg := Msg(link._client, subject, "", b"%d" % len(sent)))
                    subscription._pending_size += len(msg.data)
                    subscription._pending_queue.put_nowait(msg)

        left_for = out_all(3, CHAT)
        monkeypatch.setattr(link, "flush", flushed)
        await hearing.add(places[MANY], hearer)
        await until(lambda: link.hears(hearing._heard) == {out_all(3, CHAT)})
        assert len(sent) >= 2 * MANY
        assert sorted(given) == sorted(msg.data for msg in sent)
        monkeypatch.undo()
        for it in places[FEW:]:
            await hearing.drop(it, hearer)
        left_for = places[0].out(CHAT)
        given.clear()
        sent.clear()
        monkeypatch.setattr(link, "flush", flushed)
        await hearing.drop(places[FEW - 1], hearer)
        await until(lambda: link.hears(hearing._heard) == {it.out(CHAT) for it in places[: FEW - 1]})
        assert any(msg.subject == out_all(3, CHAT) for msg in sent)
        assert hearing.unwanted_messages == 1
        monkeypatch.undo()


async def test_a_switch_that_fails_is_made_later(url: str, nats: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = rooms_of(3, MANY + 1)
    async with (
        broker_at(url) as writer,
        gate_to(nats.port) as gate,
        broker_at(f"{gate.url}?shards={SHARDS}") as reader,
    ):
        viewers = {room: Viewer() for room in rooms}
        for room in rooms[:MANY]:
            await viewers[room].join(reader, room)
        link = reader.way.links[CHAT]
        hear_all, tried = link.hear_all, 0

        async def failing(subjects: Any, hearer: Any) -> None:
            nonlocal tried
            if out_all(3, CHAT) in subjects:
                tried += 1
                raise Lost()
            await hear_all(subjects, hearer)

        monkeypatch.setattr(link, "hear_all", failing)
        await viewers[rooms[MANY]].join(reader, rooms[MANY])
        await until(lambda: tried == 1)
        await fill(writer, rooms[MANY], CHAT, [b"a"])
        await until(lambda: viewers[rooms[MANY]].heads[CHAT] == 1)
        monkeypatch.undo()
        await gate.cut()
        await gate.open()
        await until(lambda: heard_by(reader, CHAT) == {out_all(3, CHAT)})
        await fill(writer, rooms[0], CHAT, [b"a"])
        await until(lambda: viewers[rooms[0]].heads[CHAT] == 1)
        await until(lambda: reader.figures()["broker_reconnects"] == 3)  # the other connections come when they come


async def test_what_is_emitted_is_heard_by_all_who_hear_it_now(url: str) -> None:
    async with broker_at(url) as one, broker_at(url) as other, broker_at(url) as third:
        heard: list[tuple[str, bytes]] = []
        await one.hear("presence.eu", lambda message: heard.append(("one", message)))
        await other.hear("presence.eu", lambda message: heard.append(("other", message)))
        await other.hear("presence", lambda message: heard.append(("presence", message)))
        with pytest.raises(ValueError, match="is heard already"):
            await one.hear("presence.eu", print)
        await one.emit("presence.eu", b"1")
        await until(lambda: sorted(heard) == [("one", b"1"), ("other", b"1")])
        await one.unhear("presence.eu")
        await one.unhear("presence.eu")
        await third.head("r", CHAT)
        await third.emit("presence.eu", b"2")
        await until(lambda: heard[2:] == [("other", b"2")])
        for bad in ("", "a..b", "a.*", ">", "A", "a" * 129):
            with pytest.raises(ValueError, match="subject"):
                await one.emit(bad, b"")
            with pytest.raises(ValueError, match="subject"):
                await one.hear(bad, print)
    with pytest.raises(Closed):
        await one.emit("presence.eu", b"3")
    with pytest.raises(Closed):
        await one.hear("presence.eu", print)
    await one.unhear("presence.eu")


async def test_hearing_stays_over_a_break_and_over_a_hearer_that_fails(url: str, nats: NatsServer) -> None:
    async with gate_to(nats.port) as gate, broker_at(f"{gate.url}?shards={SHARDS}") as worker, broker_at(url) as other:
        heard: list[bytes] = []

        def hearer(message: bytes) -> None:
            heard.append(message)
            raise RuntimeError("a hearer that fails")

        await worker.hear("a", hearer)
        await other.hear("b", heard.append)
        await other.emit("a", b"1")
        await until(lambda: heard == [b"1"])
        await gate.cut()
        await worker.emit("b", b"lost")
        await gate.open()
        await until(lambda: worker.connected)
        await other.emit("a", b"2")
        await until(lambda: heard == [b"1", b"2"])


async def test_hearing_begins_when_there_is_a_way(nats: NatsServer) -> None:
    async with gate_to(nats.port) as gate, broker_at(nats.url) as other:
        await gate.cut()
        async with broker_at(gate.url, wait_s=0.1) as worker:
            heard: list[bytes] = []
            await worker.hear("a", heard.append)
            await worker.emit("a", b"lost")
            await gate.open()
            await until(lambda: worker.connected)
            await other.head("r", CHAT)
            await other.emit("a", b"1")
            await until(lambda: heard == [b"1"])


async def test_publishers_from_outside_are_answered_once(url: str, nats: NatsServer) -> None:
    async with gate_to(nats.port) as gate, broker_at(f"{gate.url}?shards={SHARDS}") as one, broker_at(url) as other:
        asked: list[tuple[str, bytes]] = []

        async def answerer(room: str, body: bytes) -> bytes:
            if body == b"bad":
                raise RuntimeError("an answerer that fails")
            asked.append((room, body))
            return b"did " + body

        for worker in (one, other):
            await worker.answer("score", answerer)
        with pytest.raises(ValueError, match="is answered already"):
            await one.answer("score", answerer)
        for bad in ("", "a.b", "*", "A"):
            with pytest.raises(ValueError, match="a-z"):
                await one.answer(bad, answerer)
        async with client_of(url) as client:

            async def ask(subject: str, body: bytes) -> bytes:
                return bytes((await client.request(subject, body, timeout=2)).data)

            for number in range(20):
                assert await ask(put("score", "a.b ü"), b"%d" % number) == b"did %d" % number
            assert asked == [("a.b ü", b"%d" % number) for number in range(20)]
            assert json.loads(await ask(put("score", "r"), b"bad")) == {"error": "internal"}
            for token in ("=2e", "=FF", "x" * 129):
                assert json.loads(await ask(f"edge.put.score.{token}", b"1")) == {"error": "bad_room"}
            await client.publish(put("score", "r"), b"no answer wanted")
            await until(lambda: asked[-1] == ("r", b"no answer wanted"))
            await gate.cut()
            await other.close()
            await gate.open()
            await until(lambda: one.connected)
            assert await ask(put("score", "r"), b"again") == b"did again"


async def test_more_requests_than_can_be_answered_are_refused(url: str) -> None:
    async with broker_at(url) as worker, client_of(url) as client:
        free = asyncio.Event()
        under_way = most = 0

        async def answerer(room: str, body: bytes) -> bytes:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await free.wait()
            under_way -= 1
            return b"{}"

        await worker.answer("score", answerer)
        asking = [asyncio.ensure_future(client.request(put("score", "r"), b"", timeout=5)) for _ in range(ANSWERS + 5)]
        await until(lambda: sum(it.done() for it in asking) == 5)
        free.set()
        answers = [json.loads((await it).data) for it in asking]
        assert answers.count({"error": "overloaded"}) == 5
        assert (most, worker.figures()["broker_refused_requests"]) == (ANSWERS, 5)
        assert json.loads((await client.request(put("score", "r"), b"", timeout=5)).data) == {}


async def test_a_publisher_may_ask_and_nothing_else(tmp_path: Path) -> None:
    """As deploy/nats.conf shows it."""
    config = (Path(__file__).parents[2] / "deploy/nats.conf").read_text()
    lines = config.splitlines()
    start = next(i for i, line in enumerate(lines) if "user: publisher" in line)
    for i in range(start - 1, start + 4):
        lines[i] = lines[i].replace("# {", "{").replace("#  ", "").replace("# }", "}")
    server = NatsServer(tmp_path, config="\n".join(lines))
    server.environ |= {"NATS_USER": "edge", "NATS_PASSWORD": "secret", "PUBLISHER_PASSWORD": "public"}
    server.start()
    try:
        async with broker_at(f"nats://edge:secret@{server.address}") as worker:
            viewer = Viewer()
            await viewer.join(worker, "r")

            async def answerer(room: str, body: bytes) -> bytes:
                return b"ok"

            await worker.answer("score", answerer)
            refused: list[str] = []

            async def failed(error: Exception) -> None:
                refused.append(str(error).lower())

            client = await nats_py.connect(
                server.url, user="publisher", password="public", allow_reconnect=False, error_cb=failed,
                inbox_prefix="_INBOX_publisher",
            )  # fmt: skip
            assert (await client.request(put("score", "r"), b"", timeout=2)).data == b"ok"
            place = f"{shard_of('r', 256)}.r"
            for subject in (f"edge.log.{place}.chat", f"edge.out.{place}.chat", "edge.in.1", "$KV.EDGE.shards", "x"):
                before = len(refused)
                await client.publish(subject, b"forged")
                await until(lambda before=before: len(refused) > before)  # type: ignore[misc]
            await client.subscribe(OUT_ALL)
            await until(lambda: "subscription to" in refused[-1])
            await client.close()
            assert all("permissions violation" in it for it in refused)
            node = await nats_py.connect(f"nats://edge:secret@{server.address}", allow_reconnect=False, error_cb=failed)
            await node.publish(f"edge.out.{place}.chat", b"forged")
            await until(lambda: f'publish to "edge.out.{place}.chat"' in refused[-1])
            await node.close()
            assert viewer.heads == [0, 0]
            assert await worker.append("r", CHAT, b"a", 0) == (Kind.STORED, 1, 0)
            await until(lambda: viewer.heads[CHAT] == 1)
    finally:
        server.kill()


async def test_a_server_that_reads_no_more_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even with more on its way to it than any buffer takes."""
    monkeypatch.setattr("broker.nats_link.PING_S", 0.2)
    with nats_server(tmp_path) as server:
        async with broker_at(server.url, wait_s=1.0) as worker:
            await worker.head("r", CHAT)
            link = worker.way.links[CHAT]
            server.pause()
            try:
                asking = [asyncio.ensure_future(link.request("x", b"x" * 60000, 30.0)) for _ in range(400)]
                await until(lambda: not link.connected)
                async with asyncio.timeout(5):
                    ended = await asyncio.gather(*asking, return_exceptions=True)
                assert all(isinstance(it, Lost) for it in ended)
            finally:
                server.resume()
            await until(lambda: worker.connected)
            assert await worker.append("r", CHAT, b"a", 0) == (Kind.STORED, 1, 0)


async def test_a_paused_server_does_not_hold_up_a_close(tmp_path: Path) -> None:
    with nats_server(tmp_path) as server:
        worker = NatsBroker(server.url)
        await worker.head("r", CHAT)
        calls: list[asyncio.Future[Any]] = []
        server.pause()
        try:
            for link in worker.way.links:  # more than any buffer takes
                calls += [asyncio.ensure_future(link.request("x", b"x" * 60000, 30.0)) for _ in range(400)]
            for i in range(100):
                calls.append(asyncio.ensure_future(worker.append(f"r{i}", CHAT, b"x" * 60000, 0)))
                calls.append(asyncio.ensure_future(worker.subscribe(f"r{i}", Viewer())))
            await asyncio.sleep(0)
            async with asyncio.timeout(1.5):
                await worker.close()
                ended = await asyncio.gather(*calls, return_exceptions=True)
        finally:
            server.resume()
        assert all(isinstance(it, Closed | Lost) or it[0] is Kind.UNKNOWN for it in ended)


async def test_a_reset_with_much_to_be_written_is_an_end(nats: NatsServer) -> None:
    await empty(nats.url)
    async with gate_to(nats.port) as gate, broker_at(gate.url) as worker:
        await worker.head("r", CHAT)
        link = worker.way.links[CHAT]
        gate.up.clear()
        client = link._client
        assert client is not None
        asking: list[asyncio.Future[Any]] = []
        while client._pending_data_size < 1_000_000:  # nobody takes it any more
            asking.append(asyncio.ensure_future(link.request("x", b"x" * 60000, 30.0)))
            await asyncio.sleep(0)
            assert len(asking) < 5000
        await gate.cut()
        async with asyncio.timeout(2):
            ended = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(it, Lost) for it in ended)
        gate.up.set()
        await gate.open()
        await until(lambda: worker.connected)
    await empty(nats.url)


@pytest.mark.slow
async def test_it_comes_back_from_every_break(nats: NatsServer) -> None:
    """Resets at any moment, with much to be written: the end of a connection is always seen, by all who wait for it."""
    await empty(nats.url)
    rng = random.Random(7)
    async with gate_to(nats.port) as gate, broker_at(gate.url) as worker:
        viewer = Viewer()
        await viewer.join(worker, "seen")
        going = True

        async def write(room: str) -> None:
            while going:
                with contextlib.suppress(Unavailable):
                    await worker.append(room, CHAT, b"x" * 60000, await worker.head(room, CHAT))

        writing = [asyncio.ensure_future(write(f"r{i}")) for i in range(20)]
        for _ in range(20):
            await asyncio.sleep(rng.uniform(0, 0.1))
            await gate.cut()
            await asyncio.sleep(rng.uniform(0, 0.02))
            await gate.open()
            await until(lambda: worker.connected)
        going = False
        async with asyncio.timeout(10):
            await asyncio.gather(*writing)
        await fill(worker, "seen", CHAT, [b"a"])
        await until(lambda: viewer.heads[CHAT] == 1)
    await empty(nats.url)
