"""What moderators have set, as a worker knows it: which of two bans holds, what is forgotten, what viewers are told."""

import asyncio
import secrets
from typing import Any

import pytest

from edge.ingest.modes import OPEN, Mode
from edge.moderation.desk import Desk
from edge.moderation.news import News
from edge.moderation.rules import EVERYWHERE, Ban
from tests.moderation.parts import MO, NOW, Shaky, json, parts

GOOD, LONG, SHORT, SHADOW = {}, {"seconds": 900}, {"seconds": 60}, {"shadow": True}


@pytest.mark.parametrize(
    "everywhere, here, until, shadow",
    [
        (GOOD, SHORT, None, False),
        (SHORT, GOOD, None, False),
        (SHORT, LONG, NOW + 900, False),
        (LONG, SHORT, NOW + 900, False),
        (SHADOW, SHORT, NOW + 60, False),
        (SHORT, SHADOW, NOW + 60, False),
        (SHADOW, SHADOW, None, True),
    ],
)
async def test_of_two_bans_the_one_that_shows_and_lasts_holds(
    everywhere: dict[str, Any], here: dict[str, Any], until: float | None, shadow: bool
) -> None:
    async with parts() as it:
        await it.desk.ban(MO, EVERYWHERE, "bad", json(everywhere), NOW)
        await it.desk.ban(MO, "r", "bad", json(here), NOW)
        assert it.rules.ban("r", "bad", NOW) == Ban("bad", until, shadow)
        assert it.rules.ban("r", "ann", NOW) is None
        assert it.rules.banned("r") == ({"bad"} if until is None and not shadow else set())


async def test_bans_that_are_over_are_forgotten_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    async with parts() as it:
        for user, body in (("a", SHORT), ("b", LONG), ("c", GOOD)):
            await it.desk.ban(MO, "r", user, json(body), NOW)
        monkeypatch.setattr(secrets, "randbelow", lambda _most: 0)
        await it.desk.ban(MO, "r", "d", json(SHORT), NOW + 61)
        assert {ban.user for ban in it.rules._bans.values()} == {"b", "c", "d"}
        assert it.unbanned == [("r", "a")]
        await it.desk.unban(MO, "r", "c", NOW)
        assert it.unbanned == [("r", "a"), ("r", "c")]


async def test_a_room_that_is_as_any_other_again_is_forgotten() -> None:
    async with parts() as it:
        await it.desk.set_mode(MO, "r", json({"slow_seconds": 5}), NOW)
        await it.desk.set_words(MO, "r", json([{"text": "mud"}]), NOW)
        await it.desk.set_patterns(MO, "r", json([{"text": "mud+"}]), NOW)
        assert "r" in it.pipeline._ruled
        await it.desk.set_mode(MO, "r", json({}), NOW)
        await it.desk.set_words(MO, "r", json([]), NOW)
        await it.desk.set_patterns(MO, "r", json([]), NOW)
        assert it.pipeline.mode("r") is OPEN
        assert not it.pipeline._ruled
        assert not it.rules._rooms
        assert not await it.broker.kept("modes.")


@pytest.mark.parametrize("seed", range(20))
async def test_whoever_sets_it_last_the_last_word_is_what_holds(seed: int) -> None:
    """Two desks, on two boxes; what each says takes its time."""
    broker = Shaky()
    async with parts(broker) as it:
        said: list[dict[str, Any]] = []
        waits = iter([(seed >> n & 1) * 0.002 for n in range(8)])

        async def announce(_room: str, fields: dict[str, Any]) -> str:
            await asyncio.sleep(next(waits, 0))
            said.append(fields)
            return "m1"

        async def first(_key: str, _value: bytes | None) -> None:
            await asyncio.sleep(next(waits, 0))

        broker.first = first
        news = News(it.cabinet, announce, it.pipeline.applied)
        one, other = (Desk(it.cabinet, it.trail, news, it.retraction) for _ in range(2))
        await asyncio.gather(
            one.set_mode(MO, "r", json({"closed": True}), NOW), other.set_mode(MO, "r", json({"slow_seconds": 9}), NOW)
        )
        assert said[-1] == {"mode": json_of(it.rules.mode("r"))}


def json_of(mode: Mode) -> dict[str, Any]:
    return {name: getattr(mode, name) for name in mode.__struct_fields__}


async def test_what_is_told_is_what_holds_where_slow_mode_has_turned_itself_on() -> None:
    async with parts() as it:
        for _ in range(50_000):
            it.pipeline._room("r").auto.offered(1.0)
        it.pipeline._awake["r"] = it.pipeline._room("r")
        it.pipeline.turn(1.0)
        told = await it.desk.set_mode(MO, "r", json({"emote_only": True}), NOW)
        assert told == it.announced[-1] == {"mode": json_of(Mode(slow_seconds=10, emote_only=True)), "auto": True}
        assert it.rules.mode("r") == Mode(slow_seconds=10, emote_only=True)
        (kept,) = await it.broker.kept("modes.")
        assert b"slow_seconds" not in kept.value or b'"slow_seconds":0' in kept.value, "it is not what was set"


async def test_what_failed_half_way_can_be_asked_for_again() -> None:
    async with parts() as it:
        await it.shown(("c1", "ann"))
        await it.desk.pin(MO, "r", json({"id": "c1"}), NOW)
        it.failing.add("announce")
        for _ in range(2):
            with pytest.raises(Exception, match="unavailable"):
                await it.desk.unpin(MO, "r", NOW)
        it.failing.clear()
        assert await it.desk.unpin(MO, "r", NOW) == it.announced[-1] == {"pin": None}
        assert await it.lines() == ["unpin"] * 3 + ["pin"]


async def test_an_empty_list_of_what_is_gone_stops_nobody() -> None:
    async with parts() as it:
        await it.broker.keep("gone.r.0", b"[]", None)
        await it.rules.start()
        assert not it.rules.gone("r")
        await it.retraction.go("r", ["c1"])
        assert it.rules.gone("r") == {"c1"}
        await it.broker.keep("gone.r.0", b"[]", None)
        assert not it.rules.gone("r")
