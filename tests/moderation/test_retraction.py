"""Comments that go: many at once, in parts, and when it does not go well."""

import asyncio

import pytest

from broker.base import BATCH_BYTES, Unavailable
from edge.errors import EdgeError
from edge.moderation import retraction
from edge.moderation.retraction import PART, Retraction
from tests.moderation.parts import MO, NOW, Shaky, json, parts


async def test_many_that_go_at_once_all_go() -> None:
    """As many as a classifier's answer may have, and more."""
    async with parts() as it:
        ids = [f"c{number}" for number in range(300)]
        await asyncio.gather(*(it.retraction.go("r", [id_]) for id_ in ids))
        assert sorted(await it.gone()) == sorted(ids)
        told = [id_ for message in it.retracted for id_ in message]
        assert sorted(told) == sorted(ids), "each is told once"
        assert len(it.retracted) < 20, "together"
        assert it.retraction.took.figures()["retraction_seconds_count"] == 300


async def test_who_goes_along_with_others_fails_with_them() -> None:
    broker = Shaky()
    async with parts(broker) as it:
        broker.failing["gone."] = Unavailable("no way")
        found = await asyncio.gather(*(it.retraction.go("r", [f"c{n}"]) for n in range(5)), return_exceptions=True)
        assert {getattr(error, "name", error) for error in found} == {"unavailable"}
        assert not it.retracted
        broker.failing.clear()
        async with asyncio.timeout(5):
            await it.retraction.go("r", ["c1"])
        assert await it.gone() == ["c1"]


async def test_one_that_is_cancelled_holds_nobody_up() -> None:
    broker = Shaky()
    async with parts(broker) as it:
        let = asyncio.Event()

        async def first(_key: str, _value: bytes | None) -> None:
            await let.wait()

        broker.first = first
        going = [asyncio.ensure_future(it.retraction.go("r", [f"c{number}"])) for number in range(4)]
        await asyncio.sleep(0)
        for number in (0, 2):
            going[number].cancel()
        await asyncio.wait([going[0], going[2]])
        let.set()
        async with asyncio.timeout(5):
            await asyncio.gather(*going, return_exceptions=True)
            await it.retraction.go("r", ["c1", "c3"])
        assert {"c1", "c3"} <= set(await it.gone())


async def test_what_is_told_fits_into_batches_and_the_last_are_known() -> None:
    async with parts() as it:
        ids = [f"{number:064}" for number in range(3 * PART + 7)]
        await it.retraction.go("r", ids)
        assert await it.gone() == ids
        assert it.rules.gone("r") == set(ids)
        assert [id_ for message in it.retracted for id_ in message] == ids
        assert max(sum(map(len, message)) + 4 * len(message) for message in it.retracted) < BATCH_BYTES / 2
        before = len(it.retracted)
        await it.retraction.go("r", [])
        assert len(it.retracted) == before


async def test_the_last_of_very_many_are_known_whoever_has_retracted_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retraction, "PART", 10)
    monkeypatch.setattr(retraction, "PARTS", 4)
    async with parts() as it:
        other = Retraction(it.cabinet, it._retract, it.news)  # at another worker, which has not come as far
        ids = []
        for number in range(30):
            ids += [f"c{number}", f"d{number}", f"e{number}"]
            await it.retraction.go("r", ids[-3:-1])
            await other.go("r", ids[-1:])
            await other.go("r", ids[-3:])
        gone = await it.gone()
        assert set(ids[-25:]) <= set(gone) <= set(ids[-40:])
        assert len(gone) <= 40
        assert it.rules.gone("r") == set(gone)
        assert await it.retraction.is_gone("r", ids[-1])
        assert not await it.retraction.is_gone("r", ids[0])
        for kept in await it.broker.kept("gone."):
            await it.broker.keep(kept.key, None, None)
        assert not it.rules.gone("r")
        assert not it.rules._gone


async def test_it_is_kept_before_it_is_told_and_told_again_where_that_failed() -> None:
    async with parts() as it:
        it.failing.add("retract")
        with pytest.raises(EdgeError, match="unavailable"):
            await it.retraction.go("r", ["c1"])
        assert await it.gone() == ["c1"]
        it.failing.clear()
        await it.retraction.go("r", ["c1"])
        assert it.retracted == [["c1"]]
        assert await it.gone() == ["c1"]


async def test_a_pin_goes_with_its_comment_and_does_not_come_back() -> None:
    async with parts() as it:
        await it.shown(("c1", "ann"), ("c2", "ann"))
        await it.desk.pin(MO, "r", json({"id": "c1"}), NOW)
        await it.retraction.go("r", ["c2"])
        assert len(it.announced) == 1
        await it.retraction.go("r", ["c1"])
        assert it.announced[-1] == {"pin": None}
        for id_ in ("c1", "c2"):  # the log shows them still
            with pytest.raises(EdgeError, match="unknown_comment"):
                await it.desk.pin(MO, "r", json({"id": id_}), NOW)
        assert it.announced[-1] == {"pin": None}


async def test_what_a_log_has_besides_is_passed_over() -> None:
    async with parts() as it:
        await it.shown(("c1", "ann"), ("c2", "bob"))
        for junk in (b"\xc1", json({"m": []}), b"\x81\xa1m\x91\xc0"):
            head = await it.broker.head("r", 1)
            await it.broker.append("r", 1, junk, head)
        await it.shown(("c3", "ann"))
        assert await it.retraction.said_by("r", "ann") == ["c1", "c3"]
        found = await it.retraction.comment("r", "c2")
        assert found is not None
        assert found["u"]["id"] == "bob"
        assert await it.retraction.comment("r2", "c2") is None
