"""What is kept, whoever else changes it meanwhile; and the trail, which is kept so."""

import asyncio
import itertools
import json
import secrets

import pytest

from broker.base import Full, Unavailable, Unsettled
from broker.memory import MemoryBroker
from edge.cabinet import TRIES, Cabinet
from edge.errors import EdgeError
from edge.moderation.trail import ITSELF, Trail
from tests.moderation.parts import MO, NOW, Shaky


def add(before: bytes | None, what: str) -> bytes:
    return json.dumps([*json.loads(before or b"[]"), what]).encode()


async def test_two_writers_lose_nothing_of_each_other() -> None:
    broker = MemoryBroker()
    one, two = Cabinet(broker), Cabinet(broker)

    async def write(cabinet: Cabinet, name: str) -> None:
        for number in range(30):
            await cabinet.change("list.a.set", lambda before: add(before, f"{name}{number}"))  # noqa: B023

    await asyncio.gather(write(one, "a"), write(two, "b"))
    kept = await one.find("list.a.set")
    assert kept is not None
    found = json.loads(kept.value)
    assert len(found) == 60
    for name in "ab":
        assert [it for it in found if it[0] == name] == [f"{name}{number}" for number in range(30)]
    await broker.close()


async def test_what_is_changed_all_the_time_is_unavailable_in_the_end() -> None:
    broker = Shaky()

    async def faster(key: str, value: bytes | None) -> None:
        await MemoryBroker.keep(broker, key, secrets.token_bytes(4), None)

    broker.first = faster
    looked: list[bytes | None] = []
    with pytest.raises(EdgeError, match="unavailable") as caught:
        await Cabinet(broker).change("list.a.set", lambda before: looked.append(before) or b"mine")  # type: ignore[func-returns-value]
    assert caught.value.retry_after
    assert len(broker.keeps) == len(looked) == TRIES
    assert len(set(looked)) == TRIES, "each time what is there now is changed"
    await broker.close()


async def test_nothing_is_kept_where_nothing_changes() -> None:
    broker = Shaky()
    cabinet = Cabinet(broker)
    await cabinet.change("list.a.set", lambda before: b"x")
    await cabinet.change("list.a.set", lambda before: before)
    await cabinet.change("list.b.set", lambda before: None)
    assert broker.keeps == ["list.a.set"]
    await cabinet.change("list.a.set", lambda before: None)
    assert await cabinet.find("list.a.set") is None
    await broker.close()


@pytest.mark.parametrize(
    "error, name",
    [
        (Unavailable("no way"), "unavailable"),
        (Unsettled("who knows"), "unavailable"),
        (Full("full"), "unavailable"),
        (ValueError("value"), "too_large"),
    ],
)
async def test_how_it_fails(error: Exception, name: str) -> None:
    broker = Shaky()
    broker.failing["list."] = error
    cabinet = Cabinet(broker)
    with pytest.raises(EdgeError) as caught:
        await cabinet.keep("list.a.set", b"x")
    assert caught.value.name == name
    for call in (cabinet.add("list.a.", NOW, {}, 3), cabinet.change("list.a.set", lambda before: b"x")):
        with pytest.raises(EdgeError):
            await call
    await broker.close()
    with pytest.raises(EdgeError, match="unavailable"):
        await cabinet.all("list.")


async def test_a_list_keeps_its_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = MemoryBroker()
    cabinet = Cabinet(broker)
    drawn = itertools.count()
    monkeypatch.setattr(secrets, "randbelow", lambda most: next(drawn) % most)  # so chance may not forget one of them
    for number in range(300):
        await cabinet.add("list.a.", f"{number:x}", number, 10)
        await cabinet.add("list.ab.", str(number), number, 1000)
    found = [json.loads(it.value) for it in await cabinet.lines("list.a.")]
    assert found == sorted(found)
    assert found[-10:] == list(range(290, 300))
    assert len(found) < 300, "once in a while the old ones go"
    monkeypatch.setattr(secrets, "randbelow", lambda _most: 0)
    await cabinet.add("list.a.", "new", 300, 10)
    assert [json.loads(it.value) for it in await cabinet.lines("list.a.")] == list(range(291, 301))
    assert len(await cabinet.lines("list.ab.")) == 300, "another list's"
    await cabinet.add("list.a.", "new", 301, 10)
    assert [json.loads(it.value) for it in await cabinet.lines("list.a.")][-2:] == [299, 301], "in its place, and last"
    await broker.close()


async def test_the_trail_tells_the_newest_first_of_one_room() -> None:
    broker = MemoryBroker()
    trail = Trail(Cabinet(broker))
    for number in range(5):
        await trail.note(MO.user, "r", NOW + number, "mode", {"slow_seconds": number})
    await trail.note(ITSELF, "r2", NOW, "alarm", {})
    lines = (await trail.lines("r", 3))["audit"]
    assert [line["about"]["slow_seconds"] for line in lines] == [4, 3, 2]
    assert {(line["who"], line["room"], line["what"]) for line in lines} == {("mo", "r", "mode")}
    assert [line["who"] for line in (await trail.lines("r2", 50))["audit"]] == [""]
    assert await trail.lines("r3", 50) == {"audit": []}
    await broker.close()
