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

from broker.base import BATCH_BYTES, CHAT, MUST, Kind, Unavailable
from broker.envelope import VERSION, Envelopes, pack
from broker.local import LocalBroker
from broker.local_server import UNREAD_BYTES, listen
from tests.broker.boxes import Box, Viewer, box_of, fill, until


@pytest_asyncio.fixture
async def local(tmp_path: Path) -> AsyncIterator[Box]:
    async with box_of("local", tmp_path) as made:
        yield made


async def restart(box: Box) -> None:
    await box.server.stop()
    await box.start()


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
    assert await first == (Kind.STORED, 1)
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
    assert worker._subscriptions == {}
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
        assert reader._wire is not None
        reader._wire.transport.abort()
        for lane in (CHAT, MUST):
            await fill(writer, "r", lane, [b"%d" % (head + i) for i in range(10)])
        head += 10
        await until(lambda head=head: viewer.heads[CHAT] == head and reader.connected)  # type: ignore[misc]
    assert viewer.resets == []
    assert viewer.lanes[CHAT] == [(i + 1, b"%d" % i) for i in range(51)]
    assert reader.connects == 6


async def test_more_was_missed_than_is_kept(local: Box) -> None:
    writer, reader = local.worker(), local.worker()
    assert isinstance(reader, LocalBroker)
    viewer = Viewer()
    first = await viewer.join(reader, "r")
    await fill(writer, "r", MUST, [b"m"])
    await until(lambda: viewer.heads[MUST] == 1)
    assert reader._wire is not None
    reader._wire.transport.abort()
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
    assert await worker.append("r", CHAT, b"a", 2) == (Kind.FENCED, 0)
    assert await worker.append("r", CHAT, b"a", 0) == (Kind.STORED, 1)
    await until(lambda: viewer.lanes[CHAT] == [(1, b"a")])


async def silent_broker(path: str) -> tuple[asyncio.Server, list[asyncio.StreamWriter], asyncio.Event]:
    """Takes requests and answers none."""
    writers: list[asyncio.StreamWriter] = []
    heard = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(pack(0, VERSION))
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
    with pytest.raises(Unavailable):  # and what was never sent is not unknown
        await worker.append("r", CHAT, b"a", 0)
    os.unlink(path)
    box = Box("local", path)
    await box.start()
    assert await read == 0
    await worker.close()
    await box.stop()


async def test_an_append_that_nobody_answers_is_unknown_in_time(tmp_path: Path) -> None:
    path = str(tmp_path / "silent.sock")
    server, writers, heard = await silent_broker(path)
    worker = LocalBroker(path, wait_s=0.1)
    assert (await worker.append("r", CHAT, b"a", 0)).kind is Kind.UNKNOWN
    with pytest.raises(Unavailable):
        await worker.head("r", CHAT)
    heard.clear()
    last = asyncio.create_task(LocalBroker.append(worker, "r", CHAT, b"a", 0))
    await heard.wait()
    await worker.close()
    assert (await last).kind is Kind.UNKNOWN
    assert worker._answers == {}
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
        pack(1, 1, 5, 1, b"", 0),
        pack(1, 1, "r", 1, b"", "0"),
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
    assert answered.count(pack(2, 0, 0)) == 0
    writer.close()
    assert await local.worker().append("r", CHAT, b"a", 0) == (Kind.STORED, 1)


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
                kind, found = await worker.append("r", CHAT, data, head)
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
            if victim._wire is not None:
                victim._wire.transport.abort()
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
