# What is kept besides logs: the same promises of every broker, and that they hold over kill -9 of any process.

import asyncio
import contextlib
import json
import os
import random
import shutil
import sqlite3
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import nats as nats_py
import pytest
import pytest_asyncio

import broker
from broker import envelope, nats_state, state, state_file
from broker.base import (
    KEY_CHARS,
    VALUE_BYTES,
    Broker,
    BrokerError,
    Closed,
    Full,
    Gone,
    Kept,
    Misfit,
    Unavailable,
    Unsettled,
)
from broker.envelope import pack
from broker.local import LocalBroker
from broker.local_server import LocalServer
from broker.memory import MemoryBroker
from broker.nats import NatsBroker
from broker.nats_link import Lost
from broker.state import State
from tests.broker.boxes import Box, box_of, empty, until
from tests.broker.gate import gate_to
from tests.broker.nats_server import NatsServer, nats_server

ROOT = Path(__file__).parent.parent.parent
KINDS = ("memory", "local", "nats")


@pytest_asyncio.fixture(params=KINDS)
async def box(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Box]:
    place = request.getfixturevalue("nats").url if request.param == "nats" else tmp_path
    async with box_of(request.param, place, data=str(tmp_path / "data")) as made:
        yield made


class Watching:
    """A watcher that keeps what it is told, and refuses what is not news."""

    def __init__(self, grows: bool = True) -> None:
        self.grows = grows
        self.there: dict[str, Kept] = {}
        self.told: list[Kept | Gone] = []

    async def begin(self, worker: Broker, prefix: str) -> list[Kept]:
        found = await worker.watch(prefix, self)
        assert not self.told, "told before it has returned"
        self.there = {it.key: it for it in found}
        assert len(self.there) == len(found)
        return found

    def __call__(self, news: Kept | Gone) -> None:
        if isinstance(news, Gone):
            assert news.key in self.there, news
            del self.there[news.key]
        else:
            before = self.there.get(news.key)
            assert before is None or before.revision < news.revision or not self.grows, (before, news)
            self.there[news.key] = news
        self.told.append(news)

    @property
    def values(self) -> dict[str, bytes]:
        return {it.key: it.value for it in self.there.values()}


async def values(worker: Broker, prefix: str) -> dict[str, bytes]:
    found = await worker.kept(prefix)
    assert len({it.key for it in found}) == len(found)
    return {it.key: it.value for it in found}


async def test_keep_is_compare_and_set(box: Box) -> None:
    one, two = box.worker(), box.worker()
    first = await one.keep("m.a", b"1", 0)
    assert first > 0
    assert await two.keep("m.a", b"2", 0) == 0
    assert await two.keep("m.a", b"2", first + 1000) == 0
    assert await one.keep("m.b", b"x", 7) == 0
    second = await two.keep("m.a", b"2", first)
    assert second > first
    assert await one.keep("m.a", b"3", first) == 0
    assert await one.kept("m.") == [Kept("m.a", b"2", second)]
    third = await one.keep("m.a", b"", None)
    assert third > second
    assert await two.kept("m.") == [Kept("m.a", b"", third)]
    assert await one.keep("m.new", b"n", None) > third


async def test_what_is_removed_is_not_there(box: Box) -> None:
    one, two = box.worker(), box.worker()
    first = await one.keep("m.a", b"1", None)
    assert await two.keep("m.a", None, first + 1) == 0
    removed = await two.keep("m.a", None, first)
    assert removed > first
    assert await one.kept("m.") == []
    assert await one.keep("m.a", b"2", first) == 0
    again = await one.keep("m.a", b"2", 0)
    assert again > removed
    assert await two.keep("m.a", None, None) > again
    assert await two.keep("m.a", None, None) > again, "what is not there may be removed"
    assert await two.keep("m.a", None, 0) > again
    assert await two.keep("m.a", b"3", 0) > again
    assert await one.keep("m.a", b"4", 0) == 0
    assert await values(one, "m.") == {"m.a": b"3"}


async def test_one_key_is_found_as_whoever_changed_it_last_left_it(box: Box) -> None:
    one, two = box.worker(), box.worker()
    assert await two.find("m.a") is None
    for key in ("m.a.b", "m.ab", "m", "a"):
        await one.keep(key, b"another", None)
    assert await two.find("m.a") is None
    for number in range(20):
        value = bytes(VALUE_BYTES) if number == 7 else b"%d" % number
        revision = await one.keep("m.a", value, None)
        assert await two.find("m.a") == Kept("m.a", value, revision)
        assert await one.find("m.a") == Kept("m.a", value, revision)
    assert await two.keep("m.a", b"", revision), "what was found may be expected"
    found = await one.find("m.a")
    assert found is not None
    assert found.value == b""
    await two.keep("m.a", None, found.revision)
    assert await one.find("m.a") is None
    assert await one.find("m.ab") is not None


async def test_one_of_those_that_race_is_stored(box: Box) -> None:
    workers = [box.worker() for _ in range(3)]
    for worker in workers:
        await worker.kept("r.")
    for number in range(30):
        calls = (it.keep(f"r.{number}", b"%d" % i, 0) for i, it in enumerate(workers))
        made = await asyncio.gather(*calls)
        assert sorted(map(bool, made)) == [False, False, True]
        winner = made.index(max(made))
        assert (await values(workers[0], "r."))[f"r.{number}"] == b"%d" % winner
        changed = await asyncio.gather(*(it.keep(f"r.{number}", b"c", max(made)) for it in workers))
        assert sorted(map(bool, changed)) == [False, False, True]

    async def count(worker: Broker, times: int) -> None:
        while times:
            there = [it for it in await worker.kept("n.") if it.key == "n.count"]
            value, revision = (int(there[0].value), there[0].revision) if there else (0, 0)
            times -= bool(await worker.keep("n.count", b"%d" % (value + 1), revision))

    await asyncio.gather(*(count(worker, 15) for worker in workers))
    assert await values(workers[0], "n.") == {"n.count": b"45"}


async def test_a_prefix_is_whole_words(box: Box) -> None:
    worker = box.worker()
    keys = ["a", "a.b", "a.b.c", "a.bc", "ab.c", "a-b.c", "a=.b", "a_.b", "A.b", "a.0", "a.z.z.z"]
    for key in keys:
        assert await worker.keep(key, key.encode(), 0)
    assert await values(worker, "a.") == {it: it.encode() for it in ("a.b", "a.b.c", "a.bc", "a.0", "a.z.z.z")}
    assert await values(worker, "a.b.") == {"a.b.c": b"a.b.c"}
    assert await values(worker, "A.") == {"A.b": b"A.b"}
    assert await values(worker, "a=.") == {"a=.b": b"a=.b"}
    assert await values(worker, "none.") == {}


async def test_the_bounds(box: Box) -> None:
    worker = box.worker()
    longest = "k" * (KEY_CHARS - 2) + ".k"
    largest = random.Random(1).randbytes(VALUE_BYTES)
    for key, value in ((longest, b"v"), ("big.0", largest), ("big.1", largest), ("big.2", largest), ("big.3", largest)):
        assert await worker.keep(key, value, 0)
    for number in range(300):
        assert await worker.keep(f"big.s{number}", b"", 0)
    found = await values(worker, "big.")
    assert len(found) == 304
    assert all(found[f"big.{number}"] == largest for number in range(4))
    assert await values(worker, "k" * (KEY_CHARS - 2) + ".") == {longest: b"v"}
    watching = Watching()
    assert len(await watching.begin(worker, "big.")) == 304


BAD_KEYS = ["", ".", "a.", ".a", "a..b", "a b", "a*", ">", "a.>", "ä", "a\n", "a/b", "k" * (KEY_CHARS + 1)]


async def test_what_could_never_be_kept(box: Box) -> None:
    worker = box.worker()
    for key in BAD_KEYS:
        with pytest.raises(ValueError):
            await worker.keep(key, b"", 0)
        with pytest.raises(ValueError):
            await worker.find(key)
    for prefix in ("", "a", "a.b", ".", "a..", "*.", "a.>.", "ä.", "a.\n", "k" * KEY_CHARS + "."):
        with pytest.raises(ValueError):
            await worker.kept(prefix)
        with pytest.raises(ValueError):
            await worker.watch(prefix, Watching())
    with pytest.raises(ValueError):
        await worker.keep("k", b"x" * (VALUE_BYTES + 1), 0)
    for revision in (-1, 2**63):
        with pytest.raises(ValueError):
            await worker.keep("k", b"", revision)
    await worker.unwatch("never.")
    assert await worker.keep("k", bytearray(b"b"), 0), "the worker is as it was"


async def test_a_watcher_is_told_of_each_change(box: Box) -> None:
    one, two = box.worker(), box.worker()
    first = await one.keep("m.a", b"1", 0)
    await one.keep("other.a", b"1", 0)
    mine, others = Watching(), Watching()
    assert await mine.begin(one, "m.") == [Kept("m.a", b"1", first)]
    await others.begin(two, "m.")
    with pytest.raises(ValueError):
        await one.watch("m.", Watching())
    second = await one.keep("m.a", b"2", first)
    third = await two.keep("m.b", b"3", 0)
    await one.keep("other.a", b"2", None)
    assert await one.keep("m.a", b"x", 0) == 0
    await two.keep("m.a", None, second)
    fourth = await two.keep("m.a", b"4", 0)
    expected = [Kept("m.a", b"2", second), Kept("m.b", b"3", third), Gone("m.a"), Kept("m.a", b"4", fourth)]
    for it in (mine, others):
        await until(lambda it=it: len(it.told) >= 4, 1)
        assert it.told == expected
    await one.unwatch("m.")
    await two.keep("m.a", b"5", None)
    await until(lambda: others.values["m.a"] == b"5", 1)
    assert len(mine.told) == 4
    assert len(await Watching().begin(one, "m.")) == 2


async def test_a_failing_watcher_harms_nobody(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    worker = box.worker()

    def fails(news: Kept | Gone) -> None:
        raise RuntimeError("on purpose")

    well = Watching()
    await worker.watch("m.", fails)
    await well.begin(worker, "m.x.")
    assert await worker.keep("m.x.a", b"1", 0)
    await until(lambda: well.values == {"m.x.a": b"1"}, 1)
    await until(lambda: "on purpose" in caplog.text, 1)
    assert await worker.keep("m.x.a", None, None)
    await until(lambda: well.values == {}, 1)


async def test_watching_while_others_write(box: Box) -> None:
    """Nothing is missed between what was there and the first that is told, and each ends as the keeper has it."""
    writer = box.worker()
    rng = random.Random(5)
    over = False

    async def write() -> None:
        while not over:
            key = f"w.{rng.randrange(20)}"
            await writer.keep(key, None if rng.random() < 0.3 else rng.randbytes(8), None)

    writing = asyncio.create_task(write())
    seen = []
    for _ in range(6):
        it = Watching()
        await it.begin(box.worker(), "w.")
        seen.append(it)
        await until(lambda it=it: len(it.told) > 20)
    over = True
    await writing
    final = await values(writer, "w.")
    for it in seen:
        await until(lambda it=it: it.values == final, 1)


async def test_a_closed_broker_keeps_nothing(box: Box) -> None:
    worker, other = box.worker(), box.worker()
    watching = Watching()
    await watching.begin(worker, "m.")
    await worker.close()
    for call in (worker.keep("m.a", b"", 0), worker.find("m.a"), worker.kept("m."), worker.watch("m.", Watching())):
        with pytest.raises(Closed):
            await call
    await worker.unwatch("m.")
    assert await other.keep("m.a", b"1", 0)
    assert await values(other, "m.") == {"m.a": b"1"}
    assert watching.told == []


async def test_closing_amid_keeps(box: Box) -> None:
    worker, other = box.worker(), box.worker()
    await worker.kept("m.")
    calls = [asyncio.ensure_future(worker.keep(f"m.{i}", b"v", 0)) for i in range(50)]
    await asyncio.sleep(0)
    await worker.close()
    async with asyncio.timeout(10):
        done = await asyncio.gather(*calls, return_exceptions=True)
    there = await values(other, "m.")
    for number, outcome in enumerate(done):
        if isinstance(outcome, int):
            assert f"m.{number}" in there
        else:
            assert isinstance(outcome, (Closed, Unsettled)), outcome
            assert not isinstance(outcome, Closed) or f"m.{number}" not in there


# kill -9, of whoever has what is kept.

MOST = 1000
WRITES_ALONE = """
import asyncio, sys
from broker.memory import MemoryBroker

async def main():
    worker = MemoryBroker(data=sys.argv[1])
    numbers = iter(range(int(sys.argv[2])))
    async def some():
        for number in numbers:
            revision = await worker.keep(f"k.{number}", b"%d" % number, 0)
            print(number, revision, flush=True)
    await asyncio.gather(*(some() for _ in range(20)))

asyncio.run(main())
"""


async def test_what_was_acknowledged_outlives_a_lone_worker(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    command = (sys.executable, "-c", WRITES_ALONE, data, str(MOST))
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    lines = [await process.stdout.readline() for _ in range(MOST // 3)]
    process.kill()
    lines += (await process.stdout.read()).split(b"\n")[:-1]  # the last may have been cut off
    await process.wait()
    told = dict(map(int, line.split()) for line in lines)
    assert MOST // 3 <= len(told) < MOST
    worker = MemoryBroker(data=data)
    found = {it.key: it for it in await worker.kept("k.")}
    for number, revision in told.items():
        assert found[f"k.{number}"] == Kept(f"k.{number}", b"%d" % number, revision)
    assert await worker.keep("k.more", b"", 0) > max(told.values())
    await worker.close()


async def keep_over_kills(worker: Broker, kill: Callable[[], Awaitable[None]]) -> dict[str, BrokerError | int]:
    """How each of MOST keeps has ended, with the broker killed when a third of them has."""
    ended: dict[str, BrokerError | int] = {}
    numbers = iter(range(MOST))

    async def some() -> None:
        for number in numbers:
            key = f"k.{number}"
            try:
                ended[key] = await worker.keep(key, key.encode(), 0)
            except (Unavailable, Unsettled) as failed:
                ended[key] = failed
                while isinstance(failed, Unavailable) and not worker.connected:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    writing = asyncio.gather(*(some() for _ in range(20)))
    await until(lambda: len(ended) > MOST // 3, 20)
    await kill()
    async with asyncio.timeout(60):
        await writing
    return ended


async def check_kept(worker: Broker, watching: Watching, ended: dict[str, BrokerError | int]) -> None:
    found = {it.key: it for it in await worker.kept("k.")}
    for key, outcome in ended.items():
        if isinstance(outcome, int):
            assert outcome > 0, key
            assert found[key] == await worker.find(key) == Kept(key, key.encode(), outcome)
        elif isinstance(outcome, Unavailable):
            assert key not in found, outcome
            assert await worker.find(key) is None
    assert sum(isinstance(it, int) for it in ended.values()) > MOST * 2 // 3
    await until(lambda: watching.there == found, 10)


async def serving(path: str, data: str) -> asyncio.subprocess.Process:
    served = f"import sys; from broker.local import serve; sys.exit(serve({path!r}, data={data!r}))"
    return await asyncio.create_subprocess_exec(sys.executable, "-c", served, cwd=ROOT, stderr=asyncio.subprocess.PIPE)


async def test_what_was_acknowledged_outlives_the_broker_of_the_box(tmp_path: Path) -> None:
    path, data = str(tmp_path / "sock"), str(tmp_path / "data")
    process = await serving(path, data)
    worker, other = LocalBroker(path, 20), LocalBroker(path, 20)
    try:
        watching = Watching()
        await watching.begin(other, "k.")

        async def kill() -> None:
            nonlocal process
            process.kill()
            await process.wait()
            process = await serving(path, data)

        await check_kept(worker, watching, await keep_over_kills(worker, kill))
    finally:
        await worker.close()
        await other.close()
        process.terminate()
        _, said = await process.communicate()
    assert (process.returncode, said) == (0, b"")


async def test_what_was_acknowledged_outlives_nats_server(tmp_path: Path) -> None:
    with nats_server(tmp_path) as server:
        worker, other = NatsBroker(server.url, 20), NatsBroker(server.url, 20)
        watching = Watching()
        await watching.begin(other, "k.")

        async def kill() -> None:
            server.kill()
            server.start()

        await check_kept(worker, watching, await keep_over_kills(worker, kill))
        for it in (worker, other):
            await it.close()


# Breaks of the way.


async def test_what_was_missed_of_a_broker_of_the_box_is_told(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    async with box_of("local", tmp_path, data=data) as box:
        worker = box.worker()
        for key in ("m.stays", "m.changes", "m.goes", "m.comes_back"):
            await worker.keep(key, b"1", 0)
        watching = Watching()
        await watching.begin(worker, "m.")
        for _ in range(2):
            watching.told.clear()
            await box.server.stop()
            meanwhile = MemoryBroker(data=data)
            await meanwhile.keep("m.changes", b"2", None)
            await meanwhile.keep("m.changes", b"3", None)
            await meanwhile.keep("m.goes", None, None)
            await meanwhile.keep("m.comes_back", None, None)
            await meanwhile.keep("m.comes_back", b"4", 0)
            await meanwhile.keep("m.comes", b"5", None)
            final = {it.key: it for it in await meanwhile.kept("m.")}
            await meanwhile.close()
            await box.start()
            await until(lambda final=final: watching.there == final)
            assert {it.key for it in watching.told} >= {"m.changes", "m.comes_back", "m.comes"}
            assert "m.stays" not in {it.key for it in watching.told}
            assert len(watching.told) <= 4
        await worker.keep("m.after", b"", 0)
        await until(lambda: "m.after" in watching.there, 1)


async def test_a_broker_of_the_box_without_a_folder_forgets(tmp_path: Path) -> None:
    async with box_of("local", tmp_path) as box:
        worker = box.worker()
        before = await worker.keep("m.a", b"1", 0)
        watching = Watching()
        await watching.begin(worker, "m.")
        await box.server.stop()
        await box.start()
        await until(lambda: watching.told == [Gone("m.a")])
        assert await box.worker().keep("m.a", b"1", before) == 0
        assert await box.worker().keep("m.a", b"1", 0) > before
        await until(lambda: watching.values == {"m.a": b"1"}, 1)


async def test_an_answer_that_is_lost_is_asked_for_again(tmp_path: Path) -> None:
    async with box_of("local", tmp_path, data=str(tmp_path / "data")) as box:
        worker, other = box.worker(), box.worker()
        watching = Watching()
        await watching.begin(other, "m.")
        await worker.kept("m.")
        revision = lost = 0
        for number in range(40):
            await until(lambda: worker.connected)
            value = None if number % 4 == 3 else b"%d" % number
            call = asyncio.ensure_future(worker.keep("m.a", value, revision))
            for _ in range(1 + number % 10):
                await asyncio.sleep(0)
            wire = worker._way.wire
            wire.transport.abort()
            await wire.ended
            lost += not call.done()
            made = await call
            assert made > revision
            revision = made if value is not None else 0
        await until(lambda: len(watching.told) == 40)
        assert lost >= 10


@pytest.mark.parametrize("bad", [("k", 5, 0, 1), (5, b"", 0, 1), ("k", b"", "0", 1), ("k", b"", 0, None), ("k",)])
async def test_a_keep_that_is_none_ends_the_connection(tmp_path: Path, bad: tuple[Any, ...]) -> None:
    async with box_of("local", tmp_path, data=str(tmp_path / "data")) as box:
        worker = box.worker()
        calls = [asyncio.ensure_future(worker.keep(f"m.{i}", b"", 0)) for i in range(5)]
        reader, writer = await asyncio.open_unix_connection(box.path)
        writer.write(pack(1, envelope.KEEP, *bad))
        async with asyncio.timeout(5):
            await reader.read()
        writer.close()
        assert all(await asyncio.gather(*calls))
        assert await worker.keep("m.after", b"", 0)


async def test_a_broker_that_does_not_answer_leaves_it_unsettled(tmp_path: Path) -> None:
    async with box_of("local", tmp_path, data=str(tmp_path / "data")) as box:
        worker = LocalBroker(box.path, 0.5)
        box.brokers.append(worker)
        await worker.kept("m.")
        for session in box.server.sessions:
            session.transport.pause_reading()
        with pytest.raises(Unsettled):
            await worker.keep("m.a", b"", 0)
        await box.server.stop()
        await until(lambda: not worker.connected)
        with pytest.raises(Unavailable):
            await worker.keep("m.a", b"", 0)


async def test_what_was_missed_of_nats_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what was removed so long ago that nothing of it is left."""
    monkeypatch.setattr("broker.nats_state.MARKER", {"KV-Operation": "DEL", "Nats-TTL": "1s"})
    with nats_server(tmp_path) as server:
        async with gate_to(server.port) as gate:
            worker, behind = NatsBroker(server.url), NatsBroker(gate.url)
            for key in ("m.stays", "m.changes", "m.goes", "m.comes_back"):
                await worker.keep(key, b"1", 0)
            watching = Watching()
            await watching.begin(behind, "m.")
            await gate.cut()
            await worker.keep("m.changes", b"2", None)
            await worker.keep("m.goes", None, None)
            await worker.keep("m.comes_back", None, None)
            await worker.keep("m.comes_back", b"4", 0)
            await worker.keep("m.comes", b"5", None)
            client = await nats_py.connect(server.url)

            async def messages() -> int:
                return (await client.jetstream().stream_info("KV_EDGE_STATE")).state.messages

            async with asyncio.timeout(10):
                while await messages() > 4:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            await client.close()
            assert await worker.keep("m.gone_twice", None, 0) > 0
            await gate.open()
            final = {it.key: it for it in await worker.kept("m.")}
            await until(lambda: watching.there == final)
            assert sorted(it.key for it in watching.told) == ["m.changes", "m.comes", "m.comes_back", "m.goes"]
            assert await worker.keep("m.goes", b"6", 0)
            await until(lambda: watching.values.get("m.goes") == b"6", 1)
            await behind.close()
            await worker.close()


async def test_a_server_that_says_nothing_is_left(tmp_path: Path) -> None:
    """The consumer has gone, the connection stays: nothing but silence tells of it."""
    with nats_server(tmp_path) as server:
        worker = NatsBroker(server.url)
        watching = Watching()
        await watching.begin(worker, "m.")
        client = await nats_py.connect(server.url)
        (consumer,) = await client.jetstream().consumers_info("KV_EDGE_STATE")
        await client.jetstream().delete_consumer("KV_EDGE_STATE", consumer.name)
        await worker.keep("m.a", b"1", 0)
        await until(lambda: watching.values == {"m.a": b"1"}, 8)
        await client.close()
        await worker.close()


async def test_a_server_that_has_lost_its_end(tmp_path: Path) -> None:
    """As after a power cut: what was told and is no more is taken back, though the same number is another's now."""
    with nats_server(tmp_path) as server:
        worker = NatsBroker(server.url)
        watching = Watching(grows=False)
        await watching.begin(worker, "m.")
        await worker.keep("m.a", b"1", 0)
        server.stop()
        shutil.copytree(server.folder / "store", tmp_path / "before")
        server.start()
        await until(lambda: worker.connected)
        lost = await worker.keep("m.b", b"2", 0)
        await worker.keep("m.a", b"3", None)
        await until(lambda: watching.values == {"m.a": b"3", "m.b": b"2"})
        server.kill()
        shutil.rmtree(server.folder / "store")
        shutil.move(tmp_path / "before", server.folder / "store")
        server.start()
        await until(lambda: watching.values == {"m.a": b"1"}, 10)
        assert await worker.keep("m.c", b"4", 0) == lost
        await until(lambda: watching.values == {"m.a": b"1", "m.c": b"4"}, 1)
        await worker.close()


Publish = Callable[..., Awaitable[int]]


@pytest_asyncio.fixture
async def lossy(nats: NatsServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[Any], NatsBroker]]:
    """A worker of NATS whose next publish is made by what the test gives."""
    await empty(nats.url)
    publish = nats_state.publish
    made: list[NatsBroker] = []

    def worker(instead: Callable[[Publish], Awaitable[int]], wait_s: float = 5.0) -> NatsBroker:
        times = 0

        async def once(*arguments: Any) -> int:
            nonlocal times
            times += 1
            return await (instead(lambda: publish(*arguments)) if times == 1 else publish(*arguments))

        monkeypatch.setattr(nats_state, "publish", once)
        made.append(NatsBroker(nats.url, wait_s))
        return made[-1]

    yield worker
    for it in made:
        await it.close()


async def raises_lost(*before: Callable[[], Awaitable[Any]]) -> int:
    for call in before:
        await call()
    raise Lost()


@pytest.mark.parametrize("value", [b"v", None])
@pytest.mark.parametrize("expected", [0, None])
async def test_an_unknown_keep_is_found(
    lossy: Any, nats: NatsServer, value: bytes | None, expected: int | None
) -> None:
    worker = lossy(lambda publish: raises_lost(publish))
    revision = await worker.keep("u.a", value, expected)
    assert revision > 0
    assert await worker.kept("u.") == ([] if value is None else [Kept("u.a", value, revision)])
    assert await worker.keep("u.b", b"", None) == revision + 1, "it was stored once"


async def test_an_unknown_keep_that_never_arrived_is_made_again(lossy: Any) -> None:
    worker = lossy(lambda publish: raises_lost())
    revision = await worker.keep("u.a", b"v", 0)
    assert await worker.kept("u.") == [Kept("u.a", b"v", revision)]


async def test_an_unknown_keep_where_another_was_faster(lossy: Any, nats: NatsServer) -> None:
    other = NatsBroker(nats.url)
    worker = lossy(lambda publish: raises_lost(lambda: other.keep("u.a", b"other", 0)))
    assert await worker.keep("u.a", b"v", 0) == 0
    assert await values(other, "u.") == {"u.a": b"other"}
    await other.close()


async def test_an_unknown_keep_that_may_have_been_replaced(lossy: Any, nats: NatsServer) -> None:
    other = NatsBroker(nats.url)
    worker = lossy(lambda publish: raises_lost(publish, lambda: other.keep("u.a", b"other", None)))
    with pytest.raises(Unsettled):
        await worker.keep("u.a", b"v", 0)
    assert await values(other, "u.") == {"u.a": b"other"}
    await other.close()


async def test_an_unknown_keep_that_replaces_whatever_it_is(lossy: Any, nats: NatsServer) -> None:
    other = NatsBroker(nats.url)
    worker = lossy(lambda publish: raises_lost(lambda: other.keep("u.a", b"other", None)))
    revision = await worker.keep("u.a", b"v", None)
    assert await worker.kept("u.") == [Kept("u.a", b"v", revision)]
    await other.close()


async def test_no_way_to_nats(tmp_path: Path) -> None:
    with nats_server(tmp_path) as server:
        worker = NatsBroker(server.url, 1.0)
        await worker.keep("m.a", b"", 0)
        server.kill()
        await until(lambda: not worker.connected)
        with pytest.raises(Unavailable):
            await worker.keep("m.a", b"", 0)
        with pytest.raises(Unavailable):
            await worker.find("m.a")
        with pytest.raises(Unavailable):
            await worker.kept("m.")
        with pytest.raises(Unavailable):
            await worker.watch("m.", Watching())
        server.start()
        await until(lambda: worker.connected)
        assert len(await Watching().begin(worker, "m.")) == 1
        await worker.close()


async def test_a_bucket_that_is_full(nats: NatsServer) -> None:
    await empty(nats.url)
    worker = NatsBroker(nats.url)
    assert await worker.keep("m.a", b"1", 0)
    client = await nats_py.connect(nats.url)
    config = (await client.jetstream().stream_info("KV_EDGE_STATE")).config
    await client.jetstream().update_stream(config.evolve(max_bytes=5000))
    with pytest.raises(Full):
        await worker.keep("m.b", b"x" * 10_000, 0)
    assert await values(worker, "m.") == {"m.a": b"1"}
    await client.close()
    await worker.close()
    await empty(nats.url)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({}, "allow_msg_ttl is false, and this node is set to true"),
        ({"allow_msg_ttl": True, "max_msg_size": 1000}, "max_msg_size is 1000, and this node is set to 263168 or more"),
        ({"allow_msg_ttl": True, "max_age": 10**12}, "TTL in seconds is 1000, and this node is set to 0"),
        ({"allow_msg_ttl": True, "max_msgs_per_subject": 5}, "max_msgs_per_subject is 5, and this node is set to 1"),
    ],
)
async def test_a_bucket_with_other_settings(nats: NatsServer, settings: dict[str, Any], words: str) -> None:
    await empty(nats.url)
    client = await nats_py.connect(nats.url)
    wanted = {"name": "KV_EDGE_STATE", "subjects": ["$KV.EDGE_STATE.>"], "max_msgs_per_subject": 1} | settings
    wanted = {"retention": "limits", "storage": "file", "discard": "new", "num_replicas": 1, **wanted}
    made = await client.request("$JS.API.STREAM.CREATE.KV_EDGE_STATE", json.dumps(wanted).encode())
    assert "error" not in json.loads(made.data)
    await client.close()
    worker = NatsBroker(nats.url)
    with pytest.raises(Misfit, match=words):
        await worker.keep("m.a", b"", 0)
    await worker.close()
    await empty(nats.url)


async def test_an_operator_may_write_with_nats_kv(nats: NatsServer) -> None:
    await empty(nats.url)
    worker = NatsBroker(nats.url)
    watching = Watching()
    await watching.begin(worker, "m.")
    client = await nats_py.connect(nats.url)
    bucket = await client.jetstream().key_value("EDGE_STATE")
    revision = await bucket.put("m.a", b"1")
    await until(lambda: watching.told == [Kept("m.a", b"1", revision)], 1)
    assert (await bucket.get("m.a")).value == b"1"
    second = await worker.keep("m.a", b"2", revision)
    assert (await bucket.get("m.a")).revision == second
    await bucket.purge("m.a")
    await until(lambda: watching.values == {}, 1)
    assert await worker.kept("m.") == []
    assert await worker.find("m.a") is None
    assert await worker.keep("m.a", b"3", 0) > second
    await client.close()
    await worker.close()


# The file.


async def misfit(data: Path) -> str:
    """The one line that every way in ends with, and that a process of its own says."""
    worker = broker.open("memory:", data=str(data))
    said = set()
    reads = worker.head("r", 0), worker.find("a"), worker.kept("a.")
    for call in (*reads, worker.append("r", 1, b"", 0), worker.keep("a", b"", 0)):
        with pytest.raises(Misfit) as refused:
            await call
        said.add(str(refused.value))
    await worker.close()
    path = data.parent / "sock"
    server = LocalServer(str(path), data=str(data))
    with pytest.raises(Misfit) as refused:
        await server.start()
    assert not path.exists()
    said.add(str(refused.value))
    process = await serving(str(path), str(data))
    _, told = await process.communicate()
    assert process.returncode == 1
    (line,) = said
    assert told.decode() == f"edge: {line}\n"
    assert "\n" not in line
    return line


async def test_the_file(tmp_path: Path) -> None:
    data = tmp_path / "some" / "data"
    worker = broker.open("memory:", data=str(data))
    assert not data.exists(), "nothing is read from the disk before the first call"
    revision = await worker.keep("m.a", b"1", 0)
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    for name in os.listdir(data):
        assert stat.S_IMODE((data / name).stat().st_mode) == 0o600, name
    assert str(os.getpid()) in await misfit(data)
    await worker.close()
    assert sorted(os.listdir(data)) == ["edge.db", "edge.lock"]
    again = broker.open("memory:", data=str(data))
    assert await again.kept("m.") == [Kept("m.a", b"1", revision)]
    assert await again.keep("m.a", b"2", revision) == revision + 1
    await again.close()
    await again.close()


async def test_files_that_are_no_databases_of_edge(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    file = data / "edge.db"
    file.write_bytes(b"this is no database, however long " * 100)
    assert "no database" in await misfit(data)
    assert file.read_bytes().startswith(b"this is no")
    file.unlink()
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("CREATE TABLE theirs (a)")
    assert "another application" in await misfit(data)
    file.unlink()
    worker = MemoryBroker(data=str(data))
    await worker.keep("m.a", b"", 0)
    await worker.close()
    with contextlib.closing(sqlite3.connect(file)) as newer:
        newer.execute("PRAGMA user_version = 2")
    assert "version 2, and this edge has 1" in await misfit(data)
    file.unlink()
    file.mkdir()
    assert "edge.db" in await misfit(data)
    plain = tmp_path / "plain"
    plain.write_text("")
    assert "plain" in await misfit(plain)


async def test_a_file_that_was_only_begun(tmp_path: Path) -> None:
    (tmp_path / "edge.db").write_bytes(b"")
    with contextlib.closing(sqlite3.connect(tmp_path / "edge.db")) as begun:
        begun.execute("PRAGMA journal_mode = WAL")
    worker = MemoryBroker(data=str(tmp_path))
    assert await worker.keep("m.a", b"", 0)
    await worker.close()


async def test_a_change_is_known_by_its_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "CALLS", 10)
    it = State(str(tmp_path))
    told: list[tuple[str, bytes | None, int]] = []
    it.attach("m.", lambda *change: told.append(change))
    first = await it.keep("m.a", b"1", 0, 7)
    assert await it.keep("m.a", b"1", 0, 7) == first
    removed = await it.keep("m.a", None, first, 8)
    await it.close()
    it = State(str(tmp_path))
    it.attach("m.", lambda *change: told.append(change))
    assert await it.keep("m.a", None, first, 8) == removed
    assert await it.keep("m.a", b"1", 0, 7) == first
    assert told == [("m.a", b"1", first), ("m.a", None, removed)]
    for number in range(30):
        assert await it.keep(f"m.{number}", b"", 0, 100 + number)
    assert it._db is not None
    assert it._db.execute("SELECT count(*) FROM calls").fetchone() == (10,)
    await it.close()
    with pytest.raises(Closed):
        it.keep("m.a", b"", 0)


async def test_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_file, "MEMORY_BYTES", 256 * 1024)
    it = State()
    assert await it.keep("m.a", b"x" * 100_000, 0)
    assert await it.keep("m.b", b"x" * 100_000, 0)
    with pytest.raises(Full):
        await it.keep("m.c", b"x" * 100_000, 0)
    before, _ = await it.read("m.")
    assert await it.keep("m.a", None, None) > max(kept.revision for kept in before)
    assert await it.keep("m.c", b"x" * 50_000, 0)
    monkeypatch.setattr(state, "WAITING_BYTES", 1000)
    waiting = [it.keep("m.d", b"x" * 400, None) for _ in range(3)]
    with pytest.raises(Full):
        it.keep("m.d", b"x" * 400, None)
    assert len(set(await asyncio.gather(*waiting))) == 3
    await it.close()


async def test_a_disk_that_fails(tmp_path: Path) -> None:
    it = State(str(tmp_path))
    assert await it.keep("m.a", b"1", 0)
    assert it._db is not None
    it._db.execute("PRAGMA query_only = 1")
    for _ in range(2):
        with pytest.raises(Unavailable):
            await it.keep("m.a", b"2", None)
    it._db.execute("PRAGMA query_only = 0")
    assert [kept.value for kept in (await it.read("m."))[0]] == [b"1"]
    assert await it.keep("m.a", b"3", None)
    await it.close()
