"""The queue: what waits, what is decided, and what is left as it was where that does not go well."""

import asyncio
from typing import Any

import msgspec
import pytest

from broker.base import Full, Unavailable, Unsettled
from edge.errors import EdgeError
from edge.moderation import review
from edge.moderation.review import Waiting
from tests.moderation.parts import MO, NOW, Parts, Shaky, held, parts


async def told(it: Parts, waiting: Waiting | str) -> str:
    """What its author is."""
    try:
        return await it.review.hold(held(waiting) if isinstance(waiting, str) else waiting)
    except EdgeError as error:
        return error.name


async def test_a_full_queue_refuses_and_only_in_its_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review, "MOST", 3)
    async with parts() as it:
        assert [await told(it, f"c{number}") for number in range(5)] == ["pending"] * 3 + ["overloaded"] * 2
        assert await it.review.hold(held("c9", room="r2")) == "pending"
        shown = held("c7", shown=True)
        await it.review.mark(shown)
        assert (it.review.unmarked, shown.revision) == (1, 0)
        assert await it.waiting() == ["c0", "c1", "c2"]
        await it.review.decide(MO, "r", "c1", True, NOW)
        assert await it.review.hold(held("c8")) == "pending"


async def test_what_waits_there_already_is_held_once_also_where_the_queue_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its author has not had the answer, and sends it again."""
    monkeypatch.setattr(review, "MOST", 2)
    async with parts() as it:
        for id_ in ("c1", "c2", "c1", "c2"):
            assert await it.review.hold(held(id_)) == "pending"
        assert await it.waiting() == ["c1", "c2"]
        assert await told(it, "c3") == "overloaded"


@pytest.mark.parametrize(
    "error, done, status",
    [
        (Unsettled("?"), False, "unknown"),
        (Unsettled("?"), True, "unknown"),
        (Unavailable("no way"), False, "unavailable"),
        (Full("full"), False, "unavailable"),
        (ValueError("value"), False, "unavailable"),
    ],
)
async def test_an_author_is_told_what_is_certain(error: Exception, done: bool, status: str) -> None:
    broker = Shaky()
    async with parts(broker) as it:
        broker.failing["pending."], broker.done = error, done
        waiting = held("c1")
        assert await told(it, waiting) == status
        assert not waiting.revision
        broker.failing.clear()
        assert await it.waiting() == (["c1"] if done else [])
        assert await it.review.hold(waiting) == "pending"
        assert await it.waiting() == ["c1"]


async def test_of_two_who_decide_at_once_one_does() -> None:
    async with parts() as it:
        await it.review.hold(held("c1"))
        both = (it.review.decide(MO, "r", "c1", approve, NOW) for approve in (True, False))
        found = await asyncio.gather(*both, return_exceptions=True)
        (refused,) = [error for error in found if isinstance(error, EdgeError)]
        assert refused.name in ("stale", "not_found")
        (done,) = [one for one in found if isinstance(one, dict)]
        assert [(ack["id"], ack["status"]) for ack in it.told] == [("c1", done["status"])]
        assert it.published == (["c1"] if done["status"] == "published" else [])


async def test_what_is_decided_is_decided_once() -> None:
    async with parts() as it:
        for id_ in ("c1", "c2"):
            await it.review.hold(held(id_))
        assert await it.review.decide(MO, "r", "c1", True, NOW) == {"id": "c1", "status": "published"}
        for approve in (True, False):
            with pytest.raises(EdgeError, match="not_found"):
                await it.review.decide(MO, "r", "c1", approve, NOW)
        await it.review.decide(MO, "r", "c2", False, NOW + 1)
        assert (it.published, it.retracted) == (["c1"], [])
        assert [(ack["id"], ack["status"]) for ack in it.told] == [("c1", "published"), ("c2", "rejected")]
        assert await it.lines() == ["reject", "approve"]
        assert it.rules.strikes("ann", NOW + 1) == 1
        assert (await it.review.verdicts("r")).count(b"\n") == 2


@pytest.mark.parametrize("id_", ["c1.c", "", "..", "c1.c.x", "=", "x" * 65, "c1\n", "с1", "*"])
async def test_an_id_that_is_none_finds_nothing(id_: str) -> None:
    async with parts() as it:
        await it.review.hold(held("c1"))
        await it.review.hold(held("c2", room="r2"))
        for room, wanted in (("r", id_), ("r", "c2"), ("r2", "c1"), ("r3", "c1")):
            with pytest.raises(EdgeError, match="not_found"):
                await it.review.decide(MO, room, wanted, False, NOW)
        assert (await it.waiting("r"), await it.waiting("r2")) == (["c1"], ["c2"])
        assert not [*await it.lines("r"), *await it.lines("r2"), *it.told]


@pytest.mark.parametrize("status", ["unknown", "rejected", "raises"])
async def test_what_could_not_be_published_waits_on(status: str) -> None:
    async with parts() as it:
        await it.review.hold(held("c1"))
        it.status = status
        if status == "raises":
            it.failing.add("publish")
        with pytest.raises(EdgeError, match="unavailable"):
            await it.review.decide(MO, "r", "c1", True, NOW)
        assert await it.waiting() == ["c1"]
        assert not it.told
        assert await it.lines() == ["approve"], "what is done by hand is noted before"
        it.status = "published"
        it.failing.clear()
        await it.review.decide(MO, "r", "c1", True, NOW)
        assert it.published == ["c1"]


async def test_what_could_not_be_taken_away_waits_on() -> None:
    async with parts() as it:
        await it.review.mark(held("c1", shown=True))
        it.failing.add("retract")
        with pytest.raises(EdgeError, match="unavailable"):
            await it.review.decide(MO, "r", "c1", False, NOW)
        assert await it.waiting() == ["c1"]
        assert not it.told
        it.failing.clear()
        await it.review.decide(MO, "r", "c1", False, NOW)
        assert it.retracted == [["c1"]]
        assert not await it.waiting()


async def test_many_removed_at_once_are_all_counted_against_their_author() -> None:
    async with parts() as it:
        ids = [f"c{number}" for number in range(8)]
        for id_ in ids:
            await it.review.hold(held(id_, "bad"))
        await asyncio.gather(*(it.review.decide(MO, "r", id_, False, NOW) for id_ in ids))
        assert not await it.waiting()
        assert it.rules.strikes("bad", NOW) == 8
        assert len(await it.lines()) == 8


async def test_what_is_hidden_stays_hidden_from_all_but_its_author() -> None:
    async with parts() as it:
        waits, shown = held("c1"), held("c2", shown=True)
        await it.review.hold(waits)
        await it.review.hide(waits)
        await it.review.hide(shown)
        assert await it.gone() == ["c1", "c2"]
        assert it.retracted == [["c2"]], "nobody has the other"
        ack, own = it.told
        assert (ack["id"], ack["status"]) == ("c1", "published")
        assert (own["t"], own["m"]) == ("own", [waits.comment])
        assert not await it.waiting()


async def test_its_author_may_delete_what_the_log_shows_and_nobody_elses() -> None:
    async with parts() as it:
        await it.shown(("c1", "ann"), ("c2", "mo"))
        ann = type(MO)("ann", "Ann", frozenset({"comment"}))
        for id_ in ("c2", "c3", "..", "c1.x"):
            with pytest.raises(EdgeError, match="forbidden"):
                await it.review.delete(ann, "r", id_, NOW)
        with pytest.raises(EdgeError, match="forbidden"):
            await it.review.delete(ann, "r2", "c1", NOW)
        assert not await it.gone()
        await it.review.delete(ann, "r", "c1", NOW)
        assert it.rules.strikes("ann", NOW) == 0, "that is no verdict"
        await it.review.delete(MO, "r", "c2", NOW)
        assert await it.gone() == ["c1", "c2"]
        assert await it.lines() == ["delete", "delete"]


async def test_its_author_may_delete_what_is_on_its_way_to_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review, "LOOKS_S", (0.0, 0.0, 0.0))
    async with parts() as it:
        ann = type(MO)("ann", "Ann", frozenset({"comment"}))
        looks = 0
        comment = it.retraction.comment

        async def late(room: str, id_: str) -> Any:
            nonlocal looks
            looks += 1
            if looks == 3:
                await it.shown(("c1", "ann"))
            return await comment(room, id_)

        monkeypatch.setattr(it.retraction, "comment", late)
        await it.review.delete(ann, "r", "c1", NOW)
        assert await it.gone() == ["c1"]


@pytest.mark.parametrize("who", ["ann", "mo", "bob"])
async def test_what_waits_is_deleted_as_well(who: str) -> None:
    async with parts() as it:
        await it.review.hold(held("c1"))
        somebody = MO if who == "mo" else type(MO)(who, who, frozenset({"comment"}))
        if who == "bob":
            with pytest.raises(EdgeError, match="forbidden"):
                await it.review.delete(somebody, "r", "c1", NOW)
            assert await it.waiting() == ["c1"]
            return
        await it.review.delete(somebody, "r", "c1", NOW)
        assert not await it.waiting()
        assert await it.gone() == ["c1"]
        assert [ack["status"] for ack in it.told] == ["rejected"]
        assert it.rules.strikes("ann", NOW) == (1 if who == "mo" else 0)
        with pytest.raises(EdgeError, match="not_found"):
            await it.review.decide(MO, "r", "c1", True, NOW)


async def test_nothing_of_who_is_banned_waits() -> None:
    async with parts() as it:
        await it.review.hold(held("c1", "bad"))
        await it.review.hold(held("c2", "bad", shown=True))
        await it.review.hold(held("c3"))
        await it.review.drop("r", "bad", NOW)
        assert await it.waiting() == ["c3"]
        assert it.retracted == [["c2"]]
        assert {ack["status"] for ack in it.told} == {"rejected"}
        assert not await it.lines(), "the ban is there"


async def test_however_often_a_comment_is_removed_it_counts_once() -> None:
    async with parts() as it:
        await it.shown(("c1", "bad"), ("c2", "bad"))
        await it.review.hold(held("c1", "bad", shown=True))
        for _ in range(3):
            await it.review.delete(MO, "r", "c1", NOW)
        with pytest.raises(EdgeError, match="not_found"):
            await it.review.decide(MO, "r", "c1", False, NOW)
        assert it.rules.strikes("bad", NOW) == 1
        assert (await it.review.verdicts("r")).count(b"\n") == 1
        await it.review.hold(held("c2", "bad", shown=True))
        await it.review.decide(MO, "r", "c2", True, NOW)
        await it.review.delete(MO, "r", "c2", NOW)
        assert it.rules.strikes("bad", NOW) == 2
        labels = [msgspec.json.decode(line)["label"] for line in (await it.review.verdicts("r")).splitlines()]
        assert labels == ["bad", "bad"], "the last verdict counts"


async def test_what_one_has_decided_another_does_not_decide_again() -> None:
    async with parts() as it:
        await it.review.hold(held("c1"))
        it.failing.add("publish")
        with pytest.raises(EdgeError, match="unavailable"):
            await it.review.decide(MO, "r", "c1", True, NOW)
        it.failing.clear()
        with pytest.raises(EdgeError, match="stale"):
            await it.review.decide(type(MO)("mia", "Mia", MO.scopes), "r", "c1", True, NOW)
        await it.review.decide(MO, "r", "c1", True, NOW)
        assert it.published == ["c1"]
        assert [line["by"] for line in map(msgspec.json.decode, (await it.review.verdicts("r")).splitlines())] == ["mo"]


async def test_a_ban_is_in_the_trail_whatever_becomes_of_the_rest() -> None:
    async with parts() as it:
        await it.shown(("c1", "bad"))
        it.failing.add("retract")
        with pytest.raises(EdgeError, match="unavailable"):
            await it.desk.ban(MO, "r", "bad", b"", NOW)
        ban = it.rules.ban("r", "bad", NOW)
        assert ban is not None
        assert await it.lines() == ["ban"]


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b'{"unlooked":"yes"}', b"\xff"])
async def test_junk_in_the_queue_stops_nobody(junk: bytes) -> None:
    async with parts() as it:
        await it.broker.keep("pending.r.junk", junk, None)
        await it.review.start()
        await it.review.hold(held("c1", unlooked=True))
        assert list(it.review.unlooked["r"]) == ["pending.r.c1"]
