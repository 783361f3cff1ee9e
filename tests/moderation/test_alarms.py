"""Alarms: told once to moderators, said again while they last, over by themselves; whoever listens is forgotten."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from broker.memory import MemoryBroker, Store
from edge import wire
from edge.ingest.crowd import Alarm
from edge.ingest.pipeline import Guarded, Pipeline
from edge.moderation import alarms
from edge.moderation.alarms import AGAIN_S, ALARM, GUARD_S, LISTENING, Alarms
from tests.moderation.parts import NOW, Parts, parts
from tests.server import until_async

ON, OFF = Alarm("target", "ann", True), Alarm("target", "ann", False)


class Box:
    """A worker's alarms, with a clock of its own."""

    def __init__(self, it: Parts, guard: bool) -> None:
        self.it = it
        self.now = 1000.0
        self.pipeline = Pipeline()
        self.told: list[tuple[int, wire.Message]] = []
        self.heard: list[Any] = []
        self.alarms = Alarms(it.broker, self.pipeline, it.trail, it._announce, self._reply, it.spawn, guard)

    def _reply(self, id_: int, message: wire.Message) -> bool:
        self.told.append((id_, message))
        return True

    async def calm(self) -> None:
        """What was begun is done."""
        await until_async(lambda: all(task.done() for task in self.it.tasks))

    async def turn(self, seconds: float, known: set[int] | None = None) -> list[tuple[str, Any]]:
        self.now += seconds
        self.alarms.housekeep(lambda id_: b"r" if known is None or id_ in known else None)
        events = self.pipeline.turn(self.now)
        for room, event in events:
            if isinstance(event, Guarded):
                self.alarms.unguarded(room, msgspec.to_builtins(event.mode))
        await self.calm()
        return events


@asynccontextmanager
async def boxes(monkeypatch: pytest.MonkeyPatch, count: int = 1, *, guard: bool = True) -> AsyncIterator[list[Box]]:
    store = Store()
    made: list[Box] = []
    monkeypatch.setattr(alarms, "time", SimpleNamespace(monotonic=lambda: made[0].now, time=lambda: NOW))
    async with parts(MemoryBroker(store)) as it:
        for _ in range(count):
            made.append(Box(it, guard))
        await made[0].alarms.start()
        for other in made[1:]:
            broker = MemoryBroker(store)
            other.alarms._broker = broker
            await other.alarms.start()
        yield made
    await store.state.close()


async def test_moderators_are_told_once_on_every_box_and_the_room_is_guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    async with boxes(monkeypatch, 2) as (one, two):
        one.alarms.listen("r", 1)
        two.alarms.listen("r", 2)
        two.alarms.listen("r2", 3)
        one.alarms.happened("r", ON)
        await one.calm()
        message = {"t": "alarm", "kind": "target", "target": "ann", "on": True}
        assert (one.told, two.told) == ([(1, message)], [(2, message)])
        assert one.pipeline.mode("r").subs_only
        assert two.pipeline.mode("r").subs_only
        assert not two.pipeline.mode("r2").subs_only
        assert [(said["mode"]["subs_only"], said["auto"]) for said in one.it.announced] == [(True, True)]
        one.alarms.happened("r", Alarm("newcomers", "", True))
        await one.calm()
        assert len(one.it.announced) == 1, "it is guarded already"
        assert await one.it.lines("r") == ["alarm", "alarm"]


async def test_it_is_said_again_as_long_as_it_lasts_and_not_to_moderators(monkeypatch: pytest.MonkeyPatch) -> None:
    async with boxes(monkeypatch, 2) as (one, two):
        two.alarms.listen("r", 2)
        one.alarms.happened("r", ON)
        for _ in range(12):
            assert not await one.turn(AGAIN_S)
            two.now = one.now
            await two.turn(0.0)
            assert two.pipeline.mode("r").subs_only
        assert len(two.told) == 1
        one.alarms.happened("r", OFF)
        await one.calm()
        assert [message["on"] for _, message in two.told] == [True, False]
        assert one.pipeline.mode("r").subs_only, "for a while longer"
        await one.turn(GUARD_S)
        two.now = one.now
        await two.turn(0.0)
        assert not one.pipeline.mode("r").subs_only
        assert not two.pipeline.mode("r").subs_only
        assert [said["auto"] for said in one.it.announced] == [True, False], "by who has said that it began, once"
        assert await one.it.lines("r") == ["alarm", "alarm"]
        one.alarms.happened("r", ON)
        await one.calm()
        assert [said["auto"] for said in one.it.announced] == [True, False, True]


async def test_a_worker_that_is_gone_leaves_no_room_guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    async with boxes(monkeypatch, 2) as (one, two):
        one.alarms.happened("r", ON)
        await one.calm()
        two.now = one.now = one.now + GUARD_S - 1
        await two.turn(0.0)
        assert two.pipeline.mode("r").subs_only
        two.now = one.now = one.now + 1
        events = await two.turn(0.0)
        assert [type(event) for _, event in events] == [Guarded]
        assert not two.pipeline.mode("r").subs_only
        assert len(one.it.announced) == 1


async def test_nothing_is_guarded_unless_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    async with boxes(monkeypatch, guard=False) as (one,):
        one.alarms.listen("r", 1)
        one.alarms.happened("r", ON)
        await one.calm()
        assert not one.pipeline.mode("r").subs_only
        assert (len(one.told), one.it.announced) == (1, [])


async def test_what_can_t_be_said_or_kept_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with boxes(monkeypatch) as (one,):
        one.it.failing.add("announce")
        one.alarms.listen("r", 1)
        one.alarms.happened("r", ON)
        one.alarms.happened("r", OFF)
        await one.calm()
        assert all(task.exception() is None for task in one.it.tasks)
        assert [message["on"] for _, message in one.told] == [True, False]
        for junk in (b"", b"\xc1", msgspec.msgpack.encode(["r", "target", 7, True]), msgspec.msgpack.encode({})):
            await one.it.broker.emit(ALARM, junk)
        assert len(one.told) == 2


async def test_listeners_are_bounded_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    async with boxes(monkeypatch, guard=False) as (one,):
        for id_ in range(LISTENING + 50):
            one.alarms.listen("r", id_)
        one.alarms.listen("r2", 1)
        one.alarms.happened("r", ON)
        await one.calm()
        assert len(one.told) == LISTENING
        await one.turn(1.0, known={5, 7})
        assert one.alarms._moderators == {"r": {5, 7}}
        one.told.clear()
        one.alarms.listen("r", 1000)  # there is a place again
        one.alarms.happened("r", OFF)
        await one.calm()
        assert {id_ for id_, _ in one.told} == {5, 7, 1000}
        await one.turn(1.0, known=set())
        assert not one.alarms._moderators
        assert not one.alarms._raised
