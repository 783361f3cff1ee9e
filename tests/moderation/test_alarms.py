"""Alarms: told once to moderators, said again while they last, over by the word of who writes the room by then; whoever
listens is forgotten. Every worker's comments count for a crowd."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import msgspec
import pytest

from broker.memory import MemoryBroker, Store
from edge import wire
from edge.ingest.crowd import ALARM_S, CALM_S, TARGET_ON
from edge.ingest.limits import Author, Rates
from edge.ingest.modes import AUTO_CALM_S, AUTO_ON
from edge.ingest.pipeline import Pipeline
from edge.moderation import alarms
from edge.moderation.alarms import AGAIN_S, ALARM, FORGET_S, KNOWN, LISTENING, QUIET_S, Alarms
from edge.moderation.crowds import ENTRIES, TARGETS, On
from tests.moderation.parts import NOW, Parts, parts
from tests.server import until_async

ON = {"t": "alarm", "kind": "target", "target": "ann", "on": True}
OFF = ON | {"on": False}
OVER_S = int(CALM_S + 2 * ALARM_S + 3)
UNLIMITED = Rates(user=0, moderator=0, bot=0, address=0, room_per_s=0, all_per_s=0)


class Counting(MemoryBroker):
    """Notes on which subjects something was emitted."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.emitted: list[str] = []
        self.sizes: list[int] = []

    async def emit(self, subject: str, message: bytes) -> None:
        self.emitted.append(subject.split(".")[0])
        self.sizes.append(len(message))
        await super().emit(subject, message)


class Box:
    """A worker's alarms. It writes the rooms that it is told to."""

    def __init__(self, it: Parts, broker: Counting, clock: "Clock", guard: bool) -> None:
        self.it = it
        self.broker = broker
        self.clock = clock
        self.pipeline = Pipeline(UNLIMITED)
        self.rooms: set[str] = set()
        self.told: list[wire.Message] = []
        self.alarms = Alarms(
            broker, self.pipeline, it.trail, it._announce, self._reply, it.spawn, self.rooms.__contains__, guard
        )
        self.alarms.listen("r", 1)

    async def start(self) -> None:
        await self.alarms.start()
        for room in ("r", "r2"):
            shard = self.broker.shard_of(room)
            await self.broker.hear(f"crowd.{shard}", lambda data: self.alarms.crowds.heard(data, self.clock.now))

    def _reply(self, _id: int, message: wire.Message) -> bool:
        self.told.append(message)
        return True

    def say(self, count: int, text: str = "@ann", room: str = "r", *, newcomer: bool = False) -> None:
        for number in range(count):
            voice = self.pipeline.voice(room, Author(f"u{number}", newcomer=newcomer, subscriber=True))
            self.pipeline.check(voice, f"{text} {number}", self.clock.now)

    def guarded(self, room: str = "r") -> bool:
        return self.pipeline.mode(room).subs_only

    def turn(self, known: set[int] | None = None, rates: dict[str, float] | None = None) -> None:
        self.pipeline.turn(self.clock.now, rates or {})
        self.alarms.housekeep(lambda id_: b"r" if known is None or id_ in known else None, self.clock.now)


class Clock:
    now = 1000.0


class Fleet:
    def __init__(self, it: Parts, boxes: list[Box], clock: Clock) -> None:
        self.it = it
        self.boxes = boxes
        self.clock = clock

    async def calm(self) -> None:
        """What was begun is done."""
        await until_async(lambda: all(task.done() for task in self.it.tasks))

    async def turn(self, seconds: int = 1, *boxes: Box, rates: dict[str, float] | None = None) -> None:
        for _ in range(seconds):
            self.clock.now += 1.0
            for box in boxes or self.boxes:
                box.turn(rates=rates)
            await self.calm()

    def states(self) -> list[tuple[bool, int, bool]]:
        """What all in the room were told."""
        said = self.it.announced
        return [(it["mode"]["subs_only"], it["mode"]["slow_seconds"], it["auto"]) for it in said]


@asynccontextmanager
async def boxes(monkeypatch: pytest.MonkeyPatch, count: int = 1, *, guard: bool = True) -> AsyncIterator[Fleet]:
    """The first one writes the room."""
    store, clock = Store(), Clock()
    monkeypatch.setattr(alarms, "time", SimpleNamespace(monotonic=lambda: clock.now, time=lambda: NOW))
    async with parts(Counting(store)) as it:
        made = [Box(it, Counting(store), clock, guard) for _ in range(count)]
        for box in made:
            await box.start()
        made[0].rooms |= {"r", "r2"}
        yield Fleet(it, made, clock)
    await store.state.close()


async def test_a_crowd_is_counted_over_all_workers_and_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with boxes(monkeypatch, 3) as fleet:
        for box in fleet.boxes:
            box.say(TARGET_ON // 3)
        await fleet.turn(2)
        for box in fleet.boxes:
            assert box.told == [ON]
            assert box.guarded()
            assert not box.guarded("r2")
        assert fleet.states() == [(True, 0, True)]
        fleet.boxes[1].say(100, "hi", newcomer=True)
        await fleet.turn(2)
        assert [message["kind"] for message in fleet.boxes[2].told] == ["target", "newcomers"]
        assert len(fleet.states()) == 1, "it is guarded already"
        assert await fleet.it.lines() == ["alarm", "alarm"]


async def test_newcomers_are_measured_by_all_comments_at_all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    async with boxes(monkeypatch, 3) as fleet:
        one, two, three = fleet.boxes
        for _ in range(10):
            three.say(30, "hi")
            two.say(20, "hi", newcomer=True)
            await fleet.turn()
        assert one.told == []


async def test_a_worker_alone_emits_no_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    async with boxes(monkeypatch, guard=False) as fleet:
        (one,) = fleet.boxes
        one.say(TARGET_ON)
        await fleet.turn()
        assert one.told == [ON]
        assert one.broker.emitted == ["alarm"]
        await fleet.turn(OVER_S)
        assert one.told == [ON, OFF]
        assert "crowd" not in one.broker.emitted
        assert one.alarms.crowds._shards == {}
        assert one.alarms._known == {}


async def test_who_writes_the_room_next_is_told_of_the_last_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    async with boxes(monkeypatch, 3) as fleet:
        one, two, three = fleet.boxes
        shard = one.broker.shard_of("r")
        for box in fleet.boxes:
            box.say(TARGET_ON // 3 - 1)
        await fleet.turn(2)
        one.rooms.clear()
        two.say(3)
        await fleet.turn(1)  # nobody writes the room
        two.rooms.add("r")
        for _ in range(3):  # and as often as it is said, it was said once
            for box in fleet.boxes:
                box.alarms.crowds.wanted(shard)
            await fleet.calm()
        await fleet.turn(1)
        assert (two.told, three.told) == ([ON], [ON])
        (crowds,) = two.alarms.crowds._shards[shard].values()
        assert crowds._all.seen(fleet.clock.now) == TARGET_ON
        await fleet.turn(int(ALARM_S))
        two.broker.emitted.clear()
        two.alarms.crowds.wanted(shard)
        await fleet.calm()
        assert two.broker.emitted == []


async def test_it_is_said_again_as_long_as_it_lasts_and_not_to_moderators(monkeypatch: pytest.MonkeyPatch) -> None:
    async with boxes(monkeypatch, 2) as fleet:
        _, two = fleet.boxes
        for _ in range(12):
            two.say(TARGET_ON)
            await fleet.turn(int(AGAIN_S))
            assert two.guarded()
        assert two.told == [ON]
        await fleet.turn(OVER_S)
        assert two.told == [ON, OFF]
        assert two.guarded(), "for a while longer"
        await fleet.turn(int(QUIET_S))
        assert not any(box.guarded() for box in fleet.boxes)
        assert fleet.states() == [(True, 0, True), (False, 0, False)]
        assert await fleet.it.lines() == ["alarm", "alarm"]
        assert not any(box.alarms._known or box.alarms._raised for box in fleet.boxes)
        two.say(TARGET_ON)
        await fleet.turn(2)
        assert two.told == [ON, OFF, ON]


async def test_the_next_who_writes_the_room_says_that_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    async with boxes(monkeypatch, 3) as fleet:
        one, two, three = fleet.boxes
        one.say(TARGET_ON)
        await fleet.turn(2)
        one.rooms.clear()  # it is gone
        await fleet.turn(int(QUIET_S) + 5, two, three)
        assert not two.guarded()
        assert (two.told, fleet.states()) == ([ON], [(True, 0, True)]), "nobody writes the room"
        two.rooms.add("r")
        await fleet.turn(1, two, three)
        assert (two.told, three.told) == ([ON, OFF], [ON, OFF])
        assert fleet.states() == [(True, 0, True), (False, 0, False)]
        await fleet.turn(60, two, three)
        assert (three.told, len(fleet.states())) == ([ON, OFF], 2)
        assert await fleet.it.lines() == ["alarm", "alarm"]


async def test_one_who_has_come_since_is_reminded(monkeypatch: pytest.MonkeyPatch) -> None:
    async with boxes(monkeypatch, 3) as fleet:
        one, two, three = fleet.boxes
        three.alarms._learn = lambda it, now: None  # type: ignore[method-assign]  # it was not there
        one.say(TARGET_ON)
        await fleet.turn(2)
        one.rooms.clear()
        three.rooms.add("r")
        await fleet.turn(int(QUIET_S) + 12, two, three)
        assert two.told == [ON, OFF]
        assert [it[2] for it in fleet.states()] == [True, False]
        await fleet.turn(60, two, three)
        assert (two.told, len(fleet.states())) == ([ON, OFF], 2)
        assert not two.alarms._known


async def test_a_crowd_that_goes_on_is_no_news_when_another_writes_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    async with boxes(monkeypatch, 2) as fleet:
        one, two = fleet.boxes
        for second in range(80):
            if second == 40:
                one.rooms.clear()
                two.rooms.add("r")
            one.say(TARGET_ON // 10)
            two.say(TARGET_ON // 10)
            await fleet.turn()
        assert (one.told, two.told) == ([ON], [ON])
        assert (one.alarms._raised, one.alarms.crowds._shards) == ({}, {})
        assert two.guarded()
        assert one.guarded()
        await fleet.turn(OVER_S + int(QUIET_S))
        assert two.told == [ON, OFF]
        assert [it[2] for it in fleet.states()] == [True, False]


async def test_what_nobody_asks_about_any_more_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    async with boxes(monkeypatch) as fleet:
        (one,) = fleet.boxes
        one.rooms.clear()
        for number in range(KNOWN + 10):
            one.alarms._learn(On("r", "target", f"u{number}"), fleet.clock.now)
        assert len(one.alarms._known) == KNOWN
        fleet.clock.now += QUIET_S + FORGET_S
        await fleet.turn()
        assert one.alarms._known == {}


async def test_all_are_told_of_a_slow_mode_by_who_writes_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    async with boxes(monkeypatch, 3) as fleet:
        one, two, three = fleet.boxes
        hot = {"r": float(AUTO_ON)}
        await fleet.turn(3, rates=hot)
        assert fleet.states() == [(False, 10, True)]
        one.rooms.clear()
        two.rooms.add("r")
        await fleet.turn(int(QUIET_S) * 2, rates=hot)
        assert fleet.states() == [(False, 10, True)], "it goes on"
        two.rooms.clear()
        await fleet.turn(int(AUTO_CALM_S) + 60)
        assert three.pipeline.slow() == []
        assert len(fleet.states()) == 1, "nobody writes the room"
        three.rooms.add("r")
        await fleet.turn(60)
        assert fleet.states() == [(False, 10, True), (False, 0, False)]
        assert (one.told, await fleet.it.lines()) == ([], [])


async def test_what_is_told_of_rooms_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async with boxes(monkeypatch, 2) as fleet:
        one, two = fleet.boxes
        shard = two.broker.shard_of("r")
        rooms = [name for name in (f"x{n}" for n in range(10_000)) if two.broker.shard_of(name) == shard][:20]
        one.rooms |= {*rooms}
        for room in rooms:
            for number in range(TARGETS + 50):
                two.say(1, f"@{number:064}", room)
            two.say(TARGET_ON, "@ann", room)
        await fleet.turn(2)
        assert len(two.broker.emitted) == 5  # 20 rooms of 257 entries
        assert max(two.broker.sizes) < (ENTRIES + TARGETS + 1) * 70
        assert set(one.alarms._raised) == {On(room, "target", "ann") for room in rooms}


async def test_nothing_is_guarded_unless_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    async with boxes(monkeypatch, guard=False) as fleet:
        (one,) = fleet.boxes
        one.say(TARGET_ON)
        await fleet.turn()
        assert not one.guarded()
        assert (one.told, fleet.states()) == ([ON], [])


async def test_what_can_t_be_said_or_kept_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with boxes(monkeypatch) as fleet:
        (one,) = fleet.boxes
        one.it.failing.add("announce")
        one.say(TARGET_ON)
        await fleet.turn(OVER_S)
        assert all(task.exception() is None for task in one.it.tasks)
        assert one.told == [ON, OFF]
        encode = msgspec.msgpack.encode
        for junk in (b"", b"\xc1", encode([["r", "target", 7], True]), encode({}), encode([["r"], True])):
            await one.broker.emit(ALARM, junk)
        long = {f"u{number}": 1 for number in range(TARGETS + 1)}
        for junk in (
            b"",
            encode({}),
            encode([[["r", 1, 0, long]]]),
            encode([[["r", -1, 0, {}]]]),
            encode([[], [["r"]]]),
        ):
            await one.broker.emit(f"crowd.{one.broker.shard_of('r')}", junk)
        assert (one.told, one.alarms.crowds._shards, one.alarms.crowds.left()) == ([ON, OFF], {}, [])
        await fleet.turn(int(QUIET_S))
        one.it.failing.clear()
        await fleet.turn(2)
        assert fleet.states() == [(False, 0, False)], "it is over, whoever could be told that it was on"
        assert await fleet.it.lines() == ["alarm", "alarm"]


async def test_what_comes_of_a_room_that_another_writes_is_nothing_to_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async with boxes(monkeypatch) as fleet:
        (one,) = fleet.boxes
        one.rooms.clear()
        message = msgspec.msgpack.encode([[["r", 100, 100, {"ann": 100}]], [["r", "target", "ann"]]])
        await one.broker.emit(f"crowd.{one.broker.shard_of('r')}", message)
        await fleet.turn()
        assert (one.alarms.crowds._shards, one.alarms._known, one.told) == ({}, {}, [])


async def test_listeners_are_bounded_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    async with boxes(monkeypatch, guard=False) as fleet:
        (one,) = fleet.boxes
        for id_ in range(LISTENING + 50):
            one.alarms.listen("r", id_)
        one.alarms.listen("r2", 1)
        one.say(TARGET_ON)
        await fleet.turn()
        assert len(one.told) == LISTENING
        one.turn(known={5, 7})
        assert one.alarms._moderators == {"r": {5, 7}}
        one.alarms.listen("r", 1000)  # there is a place again
        assert one.alarms._moderators == {"r": {5, 7, 1000}}
        one.turn(known=set())
        assert not one.alarms._moderators
