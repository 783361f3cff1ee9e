"""What is known of a room: read when somebody asks, shared by all who ask meanwhile, bounded; and who is where."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from broker.base import CHAT, Entry, Unavailable
from broker.memory import MemoryBroker, Store
from broker.store import Limits
from edge import known, wire
from edge.auth import spoken_for
from edge.errors import EdgeError
from edge.ingest.text import mentions
from edge.known import ANSWER, ASK, Known
from tests.server import until_async


class Slow(MemoryBroker):
    """Counts the readings of logs, which end when they are let, or fail."""

    def __init__(self, store: Store | None = None) -> None:
        super().__init__(store)
        self.reads = 0
        self.at_once = 0
        self.let = asyncio.Event()
        self.let.set()
        self.fails = False

    async def tail(self, room: str, lane: int, after: int, most: int = 0) -> list[Entry]:
        self.reads += 1
        self.at_once += 1
        assert self.at_once == 1
        await asyncio.sleep(0)
        await self.let.wait()
        self.at_once -= 1
        if self.fails:
            raise Unavailable("no way")
        return await super().tail(room, lane, after, most)


class Town:
    def __init__(self, broker: MemoryBroker, *, alone: bool = True) -> None:
        self.broker = broker
        self.gone: set[str] = set()
        self.here: set[str] = set()
        self.tasks: list[asyncio.Task[Any]] = []
        self.known = Known(broker, lambda _room: self.gone, lambda _room, name: name in self.here, self.spawn, alone)

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        self.tasks.append(asyncio.get_running_loop().create_task(work))
        return self.tasks[-1]

    async def look(self, re: str | None = None, *names: str, room: str = "r", lenient: bool = False) -> tuple[str, ...]:
        return await self.known.look(room, re, names, lenient)


@asynccontextmanager
async def town(broker: MemoryBroker | None = None, *, alone: bool = True) -> AsyncIterator[Town]:
    made = Town(broker or Slow(), alone=alone)
    await made.known.start()
    try:
        yield made
    finally:
        await asyncio.gather(*made.tasks, return_exceptions=True)
        await made.broker.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "WAITS_S", (0.0, 0.01, 0.02))


async def say(broker: MemoryBroker, *said: str, user: str = "u1", name: str = "Ann", room: str = "r") -> None:
    head = await broker.head(room, CHAT)
    comments = [wire.comment(id_, {"id": user, "name": name}, "x", 1) for id_ in said]
    await broker.append(room, CHAT, msgspec.msgpack.encode(wire.batch(head + 1, 1, comments)), head)


async def refused(name: str, look: Any) -> str:
    with pytest.raises(EdgeError) as caught:
        await look
    assert caught.value.name == name
    return caught.value.message


async def test_a_reading_is_shared_by_all_who_ask_meanwhile() -> None:
    broker = Slow()
    async with town(broker) as it:
        await say(broker, "c1")
        broker.let.clear()
        first = asyncio.ensure_future(it.look("c1"))
        await until_async(lambda: broker.reads == 1)
        await say(broker, "c2")  # behind the reading that is under way
        others = [asyncio.ensure_future(it.look("c2", "ann")) for _ in range(100)]
        room = it.known._rooms.get("r")
        await until_async(lambda: it.known._waiting == 101 and room is not None and room.next is not None)
        broker.let.set()
        assert await first == ()
        assert await asyncio.gather(*others) == [("u1",)] * 100
        assert broker.reads == 2
        assert it.known.find("r", "c2", ["Ann", "u1"]) == ("u1",)


async def test_a_reading_that_fails_fails_for_all_of_them_and_the_next_does_not() -> None:
    broker = Slow()
    async with town(broker) as it:
        await say(broker, "c1")
        broker.let.clear()
        broker.fails = True
        looks = [asyncio.ensure_future(it.look("c1")) for _ in range(20)]
        await until_async(lambda: broker.reads == 1)
        broker.let.set()
        found = await asyncio.gather(*looks, return_exceptions=True)
        assert {getattr(error, "name", None) for error in found} == {"unavailable"}
        assert broker.reads <= 2
        broker.fails = False
        assert await it.look("c1") == ()


async def test_who_asks_and_goes_holds_nobody_up() -> None:
    broker = Slow()
    async with town(broker) as it:
        await say(broker, "c1")
        broker.let.clear()
        looks = [asyncio.ensure_future(it.look("c1")) for _ in range(4)]
        await until_async(lambda: broker.reads == 1)
        looks[1].cancel()  # who was to read next for the others
        await asyncio.wait([looks[1]])
        broker.let.set()
        async with asyncio.timeout(5):
            await asyncio.gather(*looks, return_exceptions=True)
            assert await it.look("c1") == ()


async def test_what_comes_by_itself_is_followed_and_holes_are_read() -> None:
    async with town() as it:
        await refused("unknown_comment", it.look("c1"))
        batch = msgspec.msgpack.encode(wire.batch(1, 1, [wire.comment("c1", {"id": "u1", "name": "Ann"}, "x", 1)]))
        it.known.batch("r", 3, batch)  # not the next one
        assert it.known.find("r", "c1", []) is None
        it.known.batch("r", 1, b"\xc1")
        it.known.batch("r", 2, batch)
        assert it.known.find("r", "c1", ["ANN"]) == ("u1",)
        it.gone.add("c1")
        assert it.known.find("r", "c1", []) is None
        await refused("unknown_comment", it.look("c1", "ann", lenient=True))


async def test_a_name_is_found_however_its_token_writes_it() -> None:
    broker = Slow()
    async with town(broker) as it:
        author = spoken_for(wire.Author(id="zoe\u0308", name="Rene\u0301"))
        await say(broker, "c1", user=author.user, name=author.name)
        for text in ("@Ren\xe9", "@rene\u0301", "@REN\xc9", "@zo\xeb", "@Zoe\u0308"):
            assert await it.look(None, *mentions(wire.clean_text(text))) == ("zoe\u0308",)


async def test_a_room_that_is_numbered_anew_is_read_anew() -> None:
    broker = Slow(Store(Limits(rooms=1)))
    async with town(broker) as it:
        for number in range(5):
            await say(broker, f"old{number}")
        assert await it.look("old4") == ()
        await say(broker, "c1", room="r2")  # the coldest room is forgotten
        assert await broker.head("r", CHAT) == 0
        await say(broker, "new1", user="u2", name="Bob")
        assert await it.look("new1", "bob") == ("u2",)


async def test_rooms_comments_and_people_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "COMMENTS", 20)
    monkeypatch.setattr(known, "PEOPLE", 20)
    async with town() as it:
        for number in range(50):
            await say(it.broker, f"c{number}", user=f"u{number}", name=f"N{number}")
        assert await it.look("c49", "n49") == ("u49",)
        room = it.known._rooms.get("r")
        assert room is not None
        assert max(len(room.comments), len(room.people)) <= 20
        for number in range(3 * known.ROOMS):
            await it.known._read(f"r{number}")
        assert len(it.known._rooms) <= known.ROOMS


async def test_too_many_who_ask_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "ASKING", 5)
    broker = Slow()
    async with town(broker) as it:
        await say(broker, "c1")
        broker.let.clear()
        looks = [asyncio.ensure_future(it.look("c1")) for _ in range(8)]
        await until_async(lambda: sum(look.done() for look in looks) == 3)
        broker.let.set()
        found = await asyncio.gather(*looks, return_exceptions=True)
        assert [getattr(answer, "name", answer) for answer in found] == [()] * 5 + ["overloaded"] * 3
        assert await it.look("c1") == ()


async def test_others_are_asked_and_those_who_do_not_answer_are_not_waited_for() -> None:
    store = Store()
    one, two = Slow(store), Slow(store)
    async with town(one, alone=False) as here, town(two, alone=False) as there:
        there.here.add("zoe")
        assert await here.look(None, "zoe") == ("zoe",)
        assert await here.look(None, "nobody", "zoe", lenient=True) == ("zoe",)
        assert "nobody" in await refused("unknown_user", here.look(None, "zoe", "nobody"))
        assert not here.known._answers
    await store.state.close()


async def test_answers_that_come_late_or_to_nobody_or_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    one, two = Slow(store), Slow(store)
    asks: list[Any] = []
    await two.hear(ASK, lambda message: asks.append(msgspec.msgpack.decode(message)))
    async with town(one, alone=False) as it:
        await refused("unknown_user", it.look(None, "zoe"))
        assert {tuple(ask[3]) for ask in asks} == {("zoe",)}
        for whom, number, _, names in asks:
            answer = msgspec.msgpack.encode([number, dict.fromkeys(names, "late")])
            for message in (answer, b"\xc1", b"", msgspec.msgpack.encode([number, 7]), answer):
                await two.emit(f"{ANSWER}.{whom}", message)
        assert it.known.find("r", None, ["zoe"]) is None
        asks.clear()
        monkeypatch.setattr(known, "ANSWER_S", 10.0)
        look = asyncio.ensure_future(it.look(None, "zoe", "ann"))
        await until_async(lambda: asks)
        for name, user in (("zoe", "u1"), ("ann", "u2")):  # from two others
            await two.emit(f"{ANSWER}.{asks[0][0]}", msgspec.msgpack.encode([asks[0][1], {name: user}]))
        assert await look == ("u1", "u2")
        for junk in (b"\xc1", b"", msgspec.msgpack.encode([1, 2])):
            await two.emit(ASK, junk)
        assert not it.known._answers
        await two.close()
    await store.state.close()
