"""What some worker was to do about a comment in the queue, and has not: whoever writes the room does it."""

import asyncio
from collections.abc import Callable

import pytest

from broker.base import Unavailable
from edge.errors import EdgeError
from edge.ingest.classifier import Score
from edge.moderation import left
from edge.moderation.left import PATIENCE, Left
from tests.moderation.parts import MO, NOW, Parts, Shaky, held, parts
from tests.moderation.test_look import HOLD, Judge, at_rest, looking
from tests.server import until_async


def leaving(it: Parts, writes: Callable[[str], bool] = lambda _room: True) -> tuple[Left, Judge]:
    look, judge = looking(it)
    return Left(it.review, look, writes, it.spawn), judge


async def turns(found: Left, count: int = PATIENCE + 1) -> None:
    for _ in range(count):
        found.turn()
        await until_async(lambda: not found._working)
    if found._look is not None:
        await until_async(at_rest(found._look))


async def test_who_writes_the_room_asks_again_about_what_has_no_score() -> None:
    async with parts() as it:
        found, judge = leaving(it, lambda room: room == "r")
        judge.now = Score(0.0)
        for room in ("r", "r2"):
            await it.review.hold(held("c1", room=room, unlooked=True))
        await it.review.hold(held("c2"))
        await turns(found, PATIENCE)
        assert judge.asked == [], "whoever took it may be at it"
        assert found.figures()["look_backlog"] == 1
        await turns(found, 1)
        assert it.published == ["c1"]
        assert await it.waiting() == ["c2"], "a moderator's"
        assert await it.waiting("r2") == ["c1"], "another worker's"
        assert found.figures()["look_backlog"] == 0


async def test_nobody_is_asked_who_rests_and_not_too_often_who_does_not() -> None:
    async with parts() as it:
        found, judge = leaving(it)
        judge.now, judge.ready = HOLD, False
        await it.review.hold(held("c1", unlooked=True))
        await turns(found, 3 * PATIENCE)
        assert judge.asked == []
        judge.ready = True
        await turns(found, PATIENCE)
        assert judge.asked == ["c1"]
        await turns(found, 2)
        assert judge.asked == ["c1", "c1"]
        await it.review.decide(MO, "r", "c1", False, NOW)
        await turns(found)
        assert len(judge.asked) == 2
        assert not it.review.unlooked
        assert not it.review.undone


@pytest.mark.parametrize("approve", [True, False])
@pytest.mark.parametrize("shown", [True, False])
async def test_what_was_decided_and_not_done_is_done(approve: bool, shown: bool) -> None:
    """Whoever decided it could not do it, or is gone."""
    async with parts() as it:
        found = Left(it.review, None, lambda _room: True, it.spawn)
        await it.review.hold(held("c1", shown=shown))
        it.failing = {"publish", "retract"}
        if approve and shown:
            assert await it.review.decide(MO, "r", "c1", approve, NOW)
            return
        if approve or shown:
            with pytest.raises(EdgeError, match="unavailable"):
                await it.review.decide(MO, "r", "c1", approve, NOW)
        else:
            waiting = await it.review.find("pending.r.c1")
            assert waiting is not None
            assert await it.review.claim(waiting, approve)
        with pytest.raises(EdgeError, match="stale"):
            await it.review.decide(MO, "r", "c1", not approve, NOW)
        await turns(found)
        assert await it.waiting() == ["c1"] if approve or shown else not await it.waiting()
        it.failing.clear()
        await turns(found)
        assert not await it.waiting()
        assert it.published == (["c1"] if approve else [])
        assert it.retracted == ([["c1"]] if shown else [])
        assert [ack["status"] for ack in it.told] == ["published" if approve else "rejected"]


async def test_two_who_take_it_up_at_once_do_it_once() -> None:
    async with parts() as it:
        both = [leaving(it), leaving(it)]
        await it.review.hold(held("c1", unlooked=True))
        for found, _ in both:
            for _ in range(PATIENCE + 1):
                found.turn()
        for _, judge in both:
            await until_async(lambda: len(judge.asked) == 1)  # noqa: B023
        for _, judge in both:
            judge.answers["c1"].set_result(Score(0.9))
        for found, _ in both:
            assert found._look is not None
            await until_async(at_rest(found._look))
        assert [ack["status"] for ack in it.told] == ["rejected"]
        assert it.rules.strikes("ann", NOW) <= 1
        assert not await it.waiting()


async def test_many_are_taken_up_in_parts_and_a_broker_that_is_away_ends_none_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(left, "AT_ONCE", 4)
    broker = Shaky()
    async with parts(broker) as it:
        found, judge = leaving(it)
        judge.now = Score(0.9)
        for number in range(10):
            await it.review.hold(held(f"c{number}", f"u{number}", unlooked=True))
        counts: set[int] = set()
        asked = judge.classify

        async def classify(comment: object) -> Score:
            counts.add(len(judge.asked) // 4)
            return await asked(comment)  # type: ignore[arg-type, return-value]

        monkeypatch.setattr(judge, "classify", classify)
        away = True

        async def find(key: str) -> object:
            if away and key == "pending.r.c5":
                raise Unavailable("no way")
            return await Shaky.find(broker, key)

        monkeypatch.setattr(broker, "find", find)
        await turns(found)
        assert 0 < len(judge.asked) < 10
        away = False
        await turns(found)
        assert sorted(set(judge.asked)) == [f"c{number}" for number in range(10)]
        assert counts == {0, 1, 2}
        assert not await it.waiting()
        await asyncio.sleep(0)
        assert not it.review.unlooked
        assert not it.review.undone


async def test_a_turn_costs_what_is_due_and_not_what_is_there() -> None:
    async with parts() as it:
        asked: list[str] = []

        def writes(room: str) -> bool:
            asked.append(room)
            return True

        found, judge = leaving(it, writes)
        judge.ready = False
        for number in range(300):
            await it.review.hold(held(f"c{number}", f"u{number}", unlooked=True))
        asked.clear()
        await turns(found, 3 * PATIENCE)
        assert asked == [], "nobody can be asked"
        judge.ready, judge.now = True, HOLD
        await turns(found, 1)
        assert asked == ["r"]
        assert len(judge.asked) == 300
        await turns(found, PATIENCE)
        assert len(judge.asked) == 300, "and then not again for as long"
        assert found.figures()["look_backlog"] == 300
