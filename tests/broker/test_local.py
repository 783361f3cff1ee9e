# What a unix socket adds to the contract: broken connections, a broker that restarts, workers that do not read.

import asyncio
import os
import random
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from broker import envelope, local_session
from broker.base import BATCH_BYTES, CHAT, MUST, Broker, Closed, Kind, Last, Unavailable
from broker.envelope import VERSION, Envelopes, pack
from broker.leases import Holding
from broker.local import LocalBroker
from broker.local_server import listen
from broker.local_session import ANSWER_BYTES, UNREAD_BYTES
from broker.local_way import Wire
from tests.broker.boxes import Box, Taken, Viewer, box_of, fill, until


@pytest_asyncio.fixture
async def local(tmp_path: Path) -> AsyncIterator[Box]:
    async with box_of("local", tmp_path) as made:
        yield made


async def restart(box: Box) -> None:
    await box.server.stop()
    await box.start()


def wire_of(worker: Broker) -> Wire:
    assert isinstance(worker, LocalBroker)
    assert worker._way.wire is not None
    return worker._way.wire


async def cut(worker: Broker) -> None:
    """There is no way when this returns; there may be one with the next turn of the loop."""
    wire = wire_of(worker)
    wire.transport.abort()
    await wire.ended


async def test_the_socket_is_private_and_dead_ones_are_replaced(local: Box) -> None:
    assert stat.S_IMODE(os.stat(local.path).st_mode) == 0o600
    with pytest.raises(OSError, match="another broker"):
        listen(local.path)
    with pytest.raises(ValueError):
        listen("x" * 108)
    await local.server.stop()
    assert os.path.basename(local.path) not in os.listdir(os.path.dirname(local.path))
    listen(local.path).close()  # as a killed broker leaves it
    assert os.path.basename(local.path) in os.listdir(os.path.dirname(local.path))
    await local.start()
    assert await local.worker().head("r", CHAT) == 0


async def test_serve_is_a_process_of_its_own(tmp_path: Path) -> None:
    path = str(tmp_path / "served.sock")
    command = (sys.executable, "-c", f"from broker.local import serve; serve({path!r})")
    root = Path(__file__).parent.parent.parent
    process = await asyncio.create_subprocess_exec(*command, cwd=root)
    worker = LocalBroker(path, wait_s=20)
    try:
        viewer = Viewer()
        first = await viewer.join(worker, "r")
        await fill(worker, "r", CHAT, [b"a", b"b"])
        await until(lambda: viewer.heads[CHAT] == 2)
        second = await asyncio.create_subprocess_exec(*command, cwd=root, stderr=asyncio.subprocess.PIPE)
        assert b"another broker" in (await second.communicate())[1]
        assert second.returncode != 0
        process.kill()
        await process.wait()
        assert os.path.basename(path) in os.listdir(tmp_path), "what kill -9 leaves behind"
        process = await asyncio.create_subprocess_exec(*command, cwd=root)
        await until(lambda: viewer.resets, 20)
        assert viewer.resets[0].incarnation > first.incarnation
        process.terminate()
        assert await process.wait() == 0
        assert os.listdir(tmp_path) == []
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await worker.close()


async def test_a_worker_may_start_before_its_broker(tmp_path: Path) -> None:
    box = Box("local", str(tmp_path / "late.sock"))
    worker = box.worker()
    first = asyncio.create_task(worker.append("r", CHAT, b"a", 0))
    viewer = Viewer()
    joined = asyncio.create_task(worker.subscribe("other", viewer))
    await asyncio.sleep(0.01)
    await box.start()
    assert (await first)[:2] == (Kind.STORED, 1)
    assert (await joined).heads == (0, 0)
    await box.stop()


async def test_no_broker_is_unavailable(tmp_path: Path) -> None:
    worker = LocalBroker(str(tmp_path / "none.sock"), wait_s=0.05)
    with pytest.raises(Unavailable):
        await worker.append("r", CHAT, b"", 0)
    with pytest.raises(Unavailable):
        await worker.subscribe("r", Viewer())
    with pytest.raises(Unavailable):
        await worker.head("r", CHAT)
    assert worker._rooms.by_room == {}
    await worker.close()


async def test_a_broken_connection_is_repaired_from_the_tail(local: Box) -> None:
    writer, reader = local.worker(), local.worker()
    assert isinstance(reader, LocalBroker)
    viewer = Viewer()
    await viewer.join(reader, "r")
    await fill(writer, "r", CHAT, [b"0"])
    await until(lambda: viewer.heads[CHAT] == 1)
    head = 1
    for _ in range(5):
        assert reader._way.wire is not None
        reader._way.wire.transport.abort()
        for lane in (CHAT, MUST):
            await fill(writer, "r", lane, [b"%d" % (head + i) for i in range(10)])
        head += 10
        await until(lambda head=head: viewer.heads[CHAT] == head and reader.connected)  # type: ignore[misc]
    assert viewer.resets == []
    assert viewer.lanes[CHAT] == [(i + 1, b"%d" % i) for i in range(51)]
    assert reader.figures()["broker_reconnects"] == 5


async def test_more_was_missed_than_is_kept(local: Box) -> None:
    writer, reader = local.worker(), local.worker()
    assert isinstance(reader, LocalBroker)
    viewer = Viewer()
    first = await viewer.join(reader, "r")
    await fill(writer, "r", MUST, [b"m"])
    await until(lambda: viewer.heads[MUST] == 1)
    assert reader._way.wire is not None
    reader._way.wire.transport.abort()
    for i in range(10):  # without waiting in between: the reader must not be back before the end
        local.store.append("r", CHAT, b"x" * BATCH_BYTES, i)
    await until(lambda: viewer.resets)
    assert viewer.heads == [1, 10]
    assert viewer.resets[0].incarnation == first.incarnation
    assert viewer.resets[0].must == [(1, b"m")]
    assert [seq for seq, _ in viewer.resets[0].chat] == [7, 8, 9, 10]
    await fill(writer, "r", CHAT, [b"on"])
    await until(lambda: viewer.heads[CHAT] == 11)
    assert len(viewer.resets) == 1


async def test_a_restarted_broker_numbers_anew(local: Box) -> None:
    worker = local.worker()
    viewer, quiet = Viewer(), Viewer()
    first = await viewer.join(worker, "r")
    await quiet.join(worker, "quiet")
    await fill(worker, "r", CHAT, [b"a", b"b"])
    await restart(local)
    await until(lambda: viewer.resets and quiet.resets)
    assert viewer.resets[0].incarnation > first.incarnation
    assert viewer.resets[0].heads == (0, 0)
    assert (await worker.append("r", CHAT, b"a", 2))[:2] == (Kind.FENCED, 0)
    assert (await worker.append("r", CHAT, b"a", 0))[:2] == (Kind.STORED, 1)
    await until(lambda: viewer.lanes[CHAT] == [(1, b"a")])


async def silent_broker(path: str) -> tuple[asyncio.Server, list[asyncio.StreamWriter], asyncio.Event]:
    """Takes requests and answers none."""
    writers: list[asyncio.StreamWriter] = []
    heard = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(pack(0, VERSION, 1))
        while await reader.read(65536):
            heard.set()
        writer.close()

    return await asyncio.start_unix_server(serve, path), writers, heard


async def test_what_is_in_flight_when_the_way_breaks_is_unknown(tmp_path: Path) -> None:
    path = str(tmp_path / "silent.sock")
    server, writers, heard = await silent_broker(path)
    worker = LocalBroker(path, wait_s=10)
    appends = [asyncio.create_task(worker.append("r", CHAT, b"a", i)) for i in range(3)]
    read = asyncio.create_task(worker.head("r", CHAT))
    await heard.wait()
    server.close()
    for writer in writers:
        writer.transport.abort()
    assert [(await a).kind for a in appends] == [Kind.UNKNOWN] * 3
    assert not read.done()
    assert (await worker.append("r", CHAT, b"a", 0)).kind is Kind.UNKNOWN, "that one has been sent before"
    with pytest.raises(Unavailable):  # and what was never sent is not unknown
        await worker.append("r", CHAT, b"b", 0)
    os.unlink(path)
    box = Box("local", path)
    await box.start()
    assert await read == 0
    await worker.close()
    await box.stop()


async def test_an_append_that_nobody_answers_is_unknown_in_time(tmp_path: Path) -> None:
    path = str(tmp_path / "silent.sock")
    server, writers, heard = await silent_broker(path)
    worker = LocalBroker(path, wait_s=0.5)
    assert (await worker.append("r", CHAT, b"a", 0)).kind is Kind.UNKNOWN
    with pytest.raises(Unavailable):
        await worker.head("r", CHAT)
    heard.clear()
    last = asyncio.create_task(LocalBroker.append(worker, "r", CHAT, b"a", 0))
    await heard.wait()
    await worker.close()
    assert (await last).kind is Kind.UNKNOWN
    assert worker._way._answers == {}
    server.close()
    for writer in writers:
        writer.transport.abort()


async def test_a_worker_that_does_not_read_is_cut_off(local: Box) -> None:
    _, writer = await asyncio.open_unix_connection(local.path)
    writer.write(pack(1, 2, "r", 0, 0, 0))
    await until(lambda: local.store.find("r") is not None)
    writer.transport.pause_reading()
    sound = Viewer()
    worker = local.worker()
    await sound.join(worker, "r")
    batch = b"x" * BATCH_BYTES
    batches = 2 * UNREAD_BYTES // BATCH_BYTES
    await fill(worker, "r", CHAT, [batch] * batches)
    assert local.server.cut == 1
    await until(lambda: sound.heads[CHAT] == batches)
    await until(lambda: len(local.server.sessions) == 1)
    assert len(local.store._live["r"].sinks) == 1
    writer.transport.abort()


async def test_a_crowd_of_tails_is_sent_at_the_readers_pace(local: Box) -> None:
    worker = local.worker()
    rooms = [f"r{i}" for i in range(100)]
    for room in rooms:
        for i in range(4):
            local.store.append(room, CHAT, b"x" * BATCH_BYTES, i)
    tails = await asyncio.gather(*(worker.subscribe(room, Viewer()) for room in rooms))
    assert [t.heads for t in tails] == [(0, 4)] * 100
    assert local.server.cut == 0


@pytest.mark.parametrize(
    "bad",
    [
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x01\xc1",
        b"\x00\x00\x00\x01\x90",
        b"\x00\x00\x00\x01\x01",
        pack(1),
        pack(1, 99),
        pack(1, 1, "r"),
        pack(1, 1, 5, 1, b"", 0, 0, (0, 0), 0),
        pack(1, 1, "r", 1, b"", "0", 0, (0, 0), 0),
        pack(1, 6, 1, [5]),
        pack(1, 6, 1.5, [b""]),
        pack(1, 7, 1, "0x"),
        pack(1, 10, "1", 1),
        pack(1, 14, "a", 5),
        pack(1, 15, 5),
        b"\x00\x00\x00\x05" + b"\x91" * 5,
    ],
)
async def test_nonsense_ends_the_connection_and_nothing_else(local: Box, bad: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(local.path)
    writer.write(pack(1, 4, "r", 1) + bad + pack(2, 4, "r", 1))
    try:
        answered = await reader.read()
    except ConnectionError:
        answered = b""
    assert pack(1, 0, 0, 0, (0, 0)) in answered or answered == b""
    assert pack(2, 0, 0, 0, (0, 0)) not in answered
    writer.close()
    assert (await local.worker().append("r", CHAT, b"a", 0))[:2] == (Kind.STORED, 1)


async def test_envelopes_at_every_split() -> None:
    whole = pack(1, "ä", b"\x00") + pack(0, 5)
    for cut in range(len(whole) + 1):
        envelopes = Envelopes()
        found = []
        for part in (whole[:cut], whole[cut:]):
            envelopes.feed(part)
            while (parts := envelopes.take()) is not None:
                found.append(parts)
        assert found == [[1, "ä", b"\x00"], [0, 5]]


@pytest.mark.parametrize("seed", range(3))
async def test_short_histories_of_broken_connections(local: Box, seed: int) -> None:
    """Two writers race, connections break at random; readers see one log, and every outcome is true."""
    dice = random.Random(seed)
    writers = [local.worker(), local.worker()]
    readers = [local.worker(), local.worker()]
    viewers = [Viewer(), Viewer()]
    for viewer, reader in zip(viewers, readers, strict=True):
        await viewer.join(reader, "r")
    stored: dict[int, bytes] = {}
    fenced: set[bytes] = set()

    async def write(number: int) -> None:
        worker, head = writers[number], 0
        for i in range(60):
            data = b"%d.%d" % (number, i)
            try:
                kind, found, _ = await worker.append("r", CHAT, data, head)
                if kind is Kind.UNKNOWN:
                    found = await worker.head("r", CHAT)
            except Unavailable:
                await until(lambda: worker.connected)  # type: ignore[attr-defined]
                continue
            if kind is Kind.STORED:
                stored[found] = data
            elif kind is Kind.FENCED:
                fenced.add(data)
            head = found

    async def break_things() -> None:
        for _ in range(25):
            victim = dice.choice(writers + readers)
            assert isinstance(victim, LocalBroker)
            if victim._way.wire is not None:
                victim._way.wire.transport.abort()
            for _ in range(dice.randrange(20)):
                await asyncio.sleep(0)

    await asyncio.gather(write(0), write(1), break_things())
    log = await local.worker().tail("r", CHAT, 0)
    await until(lambda: all(v.heads[CHAT] == len(log) for v in viewers))
    for viewer in viewers:
        assert viewer.lanes[CHAT] == log
        assert viewer.resets == []
    assert all(log[seq - 1] == (seq, data) for seq, data in stored.items())
    assert not fenced & {data for _, data in log}


async def test_a_taker_goes_on_over_broken_connections(local: Box) -> None:
    writer, reader, taken = local.worker(), local.worker(), Taken()
    await reader.consume(1, 0, taken)
    made = 0
    for _ in range(6):
        for i in range(20):
            await writer.offer(1, [b"%d" % made])
            made += 1
            if i == 10:
                wire_of(reader).transport.abort()
        await until(lambda made=made: len(taken.offers) == made and reader.connected)  # type: ignore[misc]
    assert taken.items == [b"%d" % i for i in range(made)]
    await reader.leave(1)
    assert await reader.head("r", CHAT) == 0
    assert local.store.offers._queues[1].takers == []


async def test_what_was_pushed_before_leaving_is_not_taken_for_what_comes_after(local: Box) -> None:
    writer, reader, first, second = local.worker(), local.worker(), Taken(), Taken()
    await reader.consume(1, 0, first)
    for i in range(10):
        await writer.offer(1, [b"%d" % i])
    await until(lambda: len(first.offers) == 10)
    wire_of(reader).transport.pause_reading()
    await writer.offer(1, [b"10"])  # is on its way to the first
    await reader.leave(1)
    consuming = asyncio.create_task(reader.consume(1, first.offers[4][0], second))
    await asyncio.sleep(0)
    wire_of(reader).transport.resume_reading()
    await consuming
    await until(lambda: len(second.offers) == 6)
    assert second.items == [b"%d" % i for i in range(5, 11)]
    assert len(first.offers) == 10


async def test_what_nobody_reads_waits_where_it_is(local: Box) -> None:
    """A worker that reads nothing is not sent much more than it takes, loses nothing, and holds up nobody."""
    slow, writer = local.worker(), local.worker()
    taken, sound = Taken(), Taken()
    await slow.consume(1, 0, taken)
    await writer.consume(1, 0, sound)
    wire_of(slow).transport.pause_reading()
    offers = 40 * 1024 * 1024 // 200_000
    for i in range(offers):
        assert await writer.offer(1, [b"%d" % i, b"x" * 200_000]) is Kind.STORED
    await until(lambda: len(sound.offers) == offers)
    assert len(taken.offers) < offers / 2
    (session,) = [s for s in local.server.sessions if s.behind]
    assert session.transport.get_write_buffer_size() <= ANSWER_BYTES + 2 * 201_000
    wire_of(slow).transport.resume_reading()
    await until(lambda: len(taken.offers) == offers)
    assert taken.offers == sound.offers
    assert session.behind == {}
    assert local.server.cut == 0
    await writer.offer(1, [b"next"])
    await until(lambda: taken.offers[-1][1] == sound.offers[-1][1] == [b"next"])


async def test_a_lease_ends_with_its_connection(local: Box) -> None:
    one, two = local.worker(), local.worker()
    for _ in range(3):
        lease = await one.lease(1)
        assert lease is not None
        assert await two.lease(1) is None
        await cut(one)
        assert not lease.held
        assert not await lease.renew()
        await until(lambda: 1 not in local.store.leases._held)
        other = await two.lease(1)
        assert other is not None
        assert other.epoch > lease.epoch
        assert other.held
        await lease.release()
        assert await one.lease(1) is None  # what is released late is not the other's
        await other.release()


async def test_a_lease_whose_answer_is_lost_is_not_lost(local: Box) -> None:
    one, two = local.worker(), local.worker()
    await one.head("r", CHAT)
    for _ in range(3):
        wire_of(one).transport.pause_reading()
        asking = asyncio.create_task(one.lease(1))
        await until(lambda: 1 in local.store.leases._held)
        wire_of(one).transport.abort()
        lease = await asking
        assert lease is not None
        assert lease.held
        assert await two.lease(1) is None
        await lease.release()


async def test_a_cancelled_lease_is_given_back(local: Box) -> None:
    one, two = local.worker(), local.worker()
    await one.head("r", CHAT)
    for turns in range(8):
        asking = asyncio.create_task(one.lease(1))
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        if not asking.cancelled():
            given = asking.result()
            assert given is not None
            await given.release()
        await one.head("r", CHAT)
        assert local.store.leases._held == {}
    assert await two.lease(1) is not None


async def test_closing_gives_back_a_lease_that_is_being_asked_for(local: Box) -> None:
    two = local.worker()
    for turns in range(6):
        one = local.worker()
        await one.head("r", CHAT)
        asking = asyncio.create_task(one.lease(1))
        for _ in range(turns):
            await asyncio.sleep(0)
        await one.close()
        await asyncio.wait([asking])
        given = None if asking.exception() else asking.result()
        assert given is None or not given.held
        other = await two.lease(1)
        assert other is not None
        await other.release()


async def test_another_life_of_the_broker(local: Box) -> None:
    """Its leases, offers and logs are gone; takers and hearers go on with what comes."""
    one, two, taken = local.worker(), local.worker(), Taken()
    heard: list[bytes] = []
    lease, other = await one.lease(1), await one.lease(2)
    assert lease is not None
    assert other is not None
    await one.consume(1, 0, taken)
    await one.hear("a", heard.append)
    await one.offer(1, [b"before"])
    await fill(one, "r", CHAT, [b"a"])
    await until(lambda: taken.items == [b"before"])
    before = await one.fence(1, lease.epoch)
    await restart(local)
    found = await two.lease(1)
    assert found is not None
    assert found.epoch > lease.epoch
    await until(lambda: one.connected)
    assert not lease.held
    assert not await lease.renew()
    assert not other.held
    standing = await two.fence(1, found.epoch)
    assert standing.after >= taken.offers[-1][0] >= before.after
    assert await two.last("r", CHAT) == Last(0, 0, (0, 0))
    await two.offer(1, [b"after"])
    await until(lambda: taken.items == [b"before", b"after"])
    await two.emit("a", b"x")
    await until(lambda: heard == [b"x"])


async def test_what_is_unknown_and_made_again_is_stored_once(local: Box) -> None:
    one, two, taken = local.worker(), local.worker(), Taken()
    await one.head("r", CHAT)
    for i in range(3):
        wire_of(one).transport.pause_reading()
        appends = [asyncio.create_task(one.append("r", CHAT, b"same", 3 * i + k, 5, (i, k))) for k in range(3)]
        await until(lambda i=i: local.store.last("r", CHAT).head == 3 * i + 3)  # type: ignore[misc]
        wire_of(one).transport.abort()
        assert [(await append).kind for append in appends] == [Kind.UNKNOWN] * 3
        assert (await one.append("r", CHAT, b"same", 3 * i, 5, (i, 0))).kind is Kind.UNKNOWN, "still no way"
        await until(lambda: one.connected)
        assert (await two.append("r", CHAT, b"same", 3 * i, 5, (i, 0))).kind is Kind.FENCED, "another's"
        assert (await one.append("r", CHAT, b"same", 3 * i + 1, 5, (i, 9))).kind is Kind.FENCED, "another mark"
        for k in (0, 2):
            assert (await one.append("r", CHAT, b"same", 3 * i + k, 5, (i, k)))[:2] == (Kind.STORED, 3 * i + k + 1)
        assert (await one.append("r", CHAT, b"same", 3 * i, 5, (i, 0))).kind is Kind.FENCED, "that was resolved"
    assert len(await two.tail("r", CHAT, 0)) == 9
    assert one._unknown == {}  # type: ignore[attr-defined]
    wire_of(one).transport.pause_reading()
    offer = asyncio.create_task(one.offer(1, [b"x"]))
    await until(lambda: len(local.store.offers) == 1)
    wire_of(one).transport.abort()
    assert await offer is Kind.UNKNOWN
    with pytest.raises(Unavailable):
        await one.offer(1, [b"y"])
    await two.consume(1, 0, taken)
    await two.offer(1, [b"z"])
    await until(lambda: taken.items == [b"x", b"z"])
    assert one.figures()["broker_unknown"] == 13


async def test_messages_for_one_who_does_not_read_are_dropped(local: Box) -> None:
    slow, writer = local.worker(), local.worker()
    heard: list[bytes] = []
    sound: list[bytes] = []
    await slow.hear("a", heard.append)
    await writer.hear("a", sound.append)
    for worker in (slow, writer):
        await worker.head("r", CHAT)
    wire_of(slow).transport.pause_reading()
    message = b"x" * envelope.MESSAGE_BYTES
    with pytest.raises(ValueError):
        await writer.emit("a", message + b"x")
    for _ in range(40):
        await writer.emit("a", message)
        await writer.head("r", CHAT)
    await until(lambda: len(sound) == 40)
    assert local.server.unheard > 0
    wire_of(slow).transport.resume_reading()
    await slow.head("r", CHAT)
    assert len(heard) == 40 - local.server.unheard


async def test_a_fence_tells_as_many_rooms_as_fit(local: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = local.worker()
    rooms = [room for room in (f"r{i}" for i in range(200)) if worker.shard_of(room) == 1]
    for room in rooms:
        await worker.append(room, CHAT, b"a", 0)
    monkeypatch.setattr(local_session, "FENCE_BYTES", 4 * (local_session.FENCE_ROOM_BYTES + 4))
    told = (await worker.fence(1, 9)).rooms
    assert set(told) == set(rooms[-4:])
    for room in rooms:
        assert await worker.append(room, CHAT, b"b", 1, 8) == (Kind.FENCED, 1, 9)


async def test_what_a_room_takes_in_the_answer_to_a_fence(local: Box) -> None:
    most = 2**63 - 1
    last = (most, most, (most, most))
    assert len(pack(*[("r", *last)] * 1000)) < 1000 * (local_session.FENCE_ROOM_BYTES + 1)
    assert local_session.FENCE_BYTES + 1024 < envelope.ENVELOPE_BYTES


async def test_closing_beside_a_broker_that_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.local.RELEASE_S", 0.05)
    path = str(tmp_path / "silent.sock")
    server, writers, heard = await silent_broker(path)
    worker = LocalBroker(path)
    calls = [
        asyncio.create_task(call)
        for call in (worker.offer(1, [b"x"]), worker.consume(1, 0, Taken()), worker.lease(1), worker.fence(1, 1))
    ]
    await heard.wait()
    lease = worker._holdings[1] = Holding(1, 5, 15, worker._now(), worker._now, worker._renew, worker._release)
    async with asyncio.timeout(2):
        await worker.close()
        assert await calls[0] is Kind.UNKNOWN
        for call in calls[1:]:
            with pytest.raises(Closed):
                await call
    assert not lease.held
    server.close()
    for writer in writers:
        writer.transport.abort()


@pytest.mark.parametrize("seed", range(3))
async def test_short_histories_of_offers(local: Box, seed: int) -> None:
    """Connections break at random: every offer that was stored is given once, in its author's order, to all takers."""
    dice = random.Random(seed)
    writers, readers = [local.worker(), local.worker()], [local.worker(), local.worker()]
    takers = [Taken(), Taken()]
    for reader, taken in zip(readers, takers, strict=True):
        await reader.consume(1, 0, taken)
    ended: dict[bytes, Kind | None] = {}

    async def write(number: int) -> None:
        for i in range(60):
            data = b"%d.%02d" % (number, i)
            try:
                ended[data] = await writers[number].offer(1, [data, b"more"])
            except Unavailable:
                ended[data] = None
                await until(lambda: writers[number].connected)

    async def break_things() -> None:
        for _ in range(25):
            victim = dice.choice(writers + readers)
            if victim.connected:
                wire_of(victim).transport.abort()
            for _ in range(dice.randrange(20)):
                await asyncio.sleep(0)

    await asyncio.gather(write(0), write(1), break_things())
    await writers[0].offer(1, [b"last"])
    await until(lambda: all(taken.items[-1:] == [b"last"] for taken in takers))
    assert takers[0].offers == takers[1].offers
    log = [items[0] for _, items in takers[0].offers[:-1]]
    assert {data for data, kind in ended.items() if kind is Kind.STORED} <= set(log)
    assert not {data for data, kind in ended.items() if kind is None} & set(log)
    for number in range(2):
        own = [data for data in log if data.startswith(b"%d." % number)]
        assert own == sorted(set(own))
