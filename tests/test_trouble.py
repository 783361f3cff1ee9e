"""Viewers are told when the way to the logs goes, and when it is back."""

import asyncio
import contextlib
from typing import Any

from broker.base import Unavailable
from broker.memory import MemoryBroker
from edge import trouble
from edge.trouble import SLICE, Trouble
from tests.server import until_async


class Engine:
    """Sockets in slots 0 to `count` - 1."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.told: list[dict[str, Any]] = []

    def tell(self, after: int, most: int, message: dict[str, Any], /) -> int:
        assert most <= SLICE
        to = min(after + most, self.count)
        self.told.extend(message for _ in range(after, to))
        return to if to < self.count else -1


class Away(MemoryBroker):
    away: str = ""

    async def head(self, room: str, lane: int) -> int:
        if self.away == "silent":
            await asyncio.sleep(3600)
        if self.away == "refused":
            raise Unavailable("no way")
        return await super().head(room, lane)


async def test_all_are_told_once_when_it_goes_and_once_when_it_is_back(monkeypatch: Any) -> None:
    monkeypatch.setattr(trouble, "LOOK_S", 0.01)
    monkeypatch.setattr(trouble, "ANSWER_S", 0.05)
    monkeypatch.setattr(trouble, "AGAIN_S", 3600.0)
    broker, engine = Away(), Engine(3 * SLICE + 7)
    turns: list[None] = []
    it = Trouble(broker, engine, lambda: turns.append(None), lambda now: broker.away == "deaf")
    watching = asyncio.create_task(it.watch())
    try:
        for times, away in enumerate(("refused", "silent", "deaf"), 1):
            await asyncio.sleep(0.03)
            assert engine.told == []
            broker.away = away
            await until_async(lambda: len(engine.told) == engine.count)
            assert it.now
            assert engine.told == [{"t": "state", "trouble": "broker"}] * engine.count
            engine.told.clear()
            broker.away = ""
            await until_async(lambda: len(engine.told) == engine.count)
            assert not it.now
            assert engine.told == [{"t": "state", "trouble": None}] * engine.count
            assert it.times == times
            engine.told.clear()
        assert len(turns) >= 6 * 4
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


async def test_who_comes_meanwhile_is_told_too(monkeypatch: Any) -> None:
    monkeypatch.setattr(trouble, "LOOK_S", 0.01)
    monkeypatch.setattr(trouble, "AGAIN_S", 0.05)
    broker, engine = Away(), Engine(5)
    broker.away = "refused"
    watching = asyncio.create_task(Trouble(broker, engine, lambda: None, lambda now: False).watch())
    try:
        await until_async(lambda: len(engine.told) >= 15)
        assert all(message["trouble"] == "broker" for message in engine.told)
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
