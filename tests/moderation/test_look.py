"""What a classifier's scores lead to, and what is left when something on the way fails: nobody who waits for ever."""

import asyncio
import time
from collections.abc import Callable
from typing import cast

import pytest

from broker.base import Unavailable
from edge.errors import EdgeError
from edge.ingest.classifier import Classifier, Comment, Down, Score
from edge.moderation import look
from edge.moderation.look import Look
from edge.moderation.review import Waiting
from tests.moderation.parts import MO, NOW, Parts, Shaky, held, parts
from tests.server import until_async

OPEN = Down("failed", publish=True)
HOLD = Down("failed", publish=False)


class Judge:
    """Answers when it is let, one text after the other or in whatever order; then a score, or none."""

    def __init__(self) -> None:
        self.ready = True
        self.asked: list[str] = []
        self.answers: dict[str, asyncio.Future[Score | Down]] = {}
        self.now: Score | Down | None = None

    async def classify(self, comment: Comment) -> Score | Down:
        self.asked.append(comment.id)
        if self.now is not None:
            return self.now
        self.answers[comment.id] = asyncio.get_running_loop().create_future()
        return await self.answers[comment.id]

    def figures(self) -> dict[str, int]:
        return {}


def looking(it: Parts) -> tuple[Look, Judge]:
    judge = Judge()
    return Look(cast(Classifier, judge), it.review, it.rules, it.spawn), judge


def at_rest(found: Look) -> Callable[[], bool]:
    return lambda: not found._here and not found._last


async def waits(it: Parts, id_: str, user: str = "ann") -> Waiting:
    waiting = held(id_, user)
    await it.review.hold(waiting)
    return waiting


async def test_what_one_author_says_is_settled_in_order_and_others_do_not_wait() -> None:
    async with parts() as it:
        found, judge = looking(it)
        for id_, user in (("a1", "ann"), ("a2", "ann"), ("b1", "bob"), ("a3", "ann")):
            found.at(await waits(it, id_, user))
        await until_async(lambda: len(judge.asked) == 4)
        for id_ in ("a3", "a2", "b1"):
            judge.answers[id_].set_result(Score(0.0))
        await until_async(lambda: it.published == ["b1"])
        judge.answers["a1"].set_result(Score(0.0))
        await until_async(at_rest(found))
        assert it.published == ["b1", "a1", "a2", "a3"]
        assert not await it.waiting()


async def test_what_fails_for_one_holds_up_none_behind_it() -> None:
    async with parts() as it:
        found, judge = looking(it)
        for id_ in ("a1", "a2", "a3"):
            found.at(await waits(it, id_))
        await until_async(lambda: len(judge.asked) == 3)
        it.failing.add("publish")
        judge.answers["a1"].set_result(Score(0.0))
        await until_async(lambda: len(found._here) == 2)
        it.failing.clear()
        judge.answers["a2"].set_result(Score(0.9))
        judge.answers["a3"].set_result(Score(0.0))
        await until_async(at_rest(found))
        assert await it.waiting() == ["a1"], "it is done later"
        assert list(it.review.undone["r"]) == ["pending.r.a1"]
        assert it.published == ["a3"]
        assert [(ack["id"], ack["status"]) for ack in it.told] == [("a2", "rejected"), ("a3", "published")]


@pytest.mark.parametrize("answer", [Score(0.0), Score(0.5), Score(0.9), OPEN, HOLD])
@pytest.mark.parametrize("shown", [False, True])
@pytest.mark.parametrize("failing", ["pending.", "gone.", "strikes.", "publish", "retract"])
async def test_whatever_fails_everything_comes_to_rest(answer: Score | Down, shown: bool, failing: str) -> None:
    broker = Shaky()
    async with parts(broker) as it:
        found, judge = looking(it)
        waiting = held("c1")
        if not shown:
            await it.review.hold(waiting)
        waiting.shown = shown
        broker.failing = {failing: Unavailable("no way")} if "." in failing else {}
        it.failing = {failing}
        judge.now = answer
        found.at(waiting)
        await until_async(at_rest(found))
        broker.failing.clear()
        it.failing.clear()
        assert all(task.done() and task.exception() is None for task in it.tasks)
        if not shown and not it.published and "rejected" not in [ack["status"] for ack in it.told]:
            assert await it.waiting() == ["c1"], "an author who was told that it waits is right"


async def test_past_its_bound_a_comment_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "LOOKING", 3)
    async with parts() as it:
        found, judge = looking(it)
        for number in range(5):
            found.at(await waits(it, f"c{number}"))
        await until_async(lambda: len(judge.asked) == 3)
        assert found.figures()["look_left"] == 2
        for answer in judge.answers.values():
            answer.set_result(Score(0.0))
        await until_async(at_rest(found))
        assert await it.waiting() == ["c3", "c4"]
        judge.now = Score(0.0)
        found.at(await waits(it, "c5"))
        await until_async(lambda: "c5" in it.published)


@pytest.mark.parametrize("down", [OPEN, HOLD])
async def test_one_without_a_score_stays_in_the_queue_and_is_kept_no_more_than_once(down: Down) -> None:
    async with parts() as it:
        found, judge = looking(it)
        judge.now = down
        for _ in range(3):
            waiting = await it.review.find("pending.r.c1") or await waits(it, "c1")
            found.at(waiting)
            await until_async(at_rest(found))
        assert list(it.review.unlooked["r"]) == ["pending.r.c1"]
        assert it.published == (["c1"] if down is OPEN else [])
        keeps = [key for key in cast(Shaky, it.broker).keeps if key.startswith("pending.")]
        assert len(keeps) == (3 if down is OPEN else 2), "held, claimed where it was shown, and marked"


async def test_what_is_looked_at_is_not_looked_at_twice() -> None:
    async with parts() as it:
        found, judge = looking(it)
        waiting = await waits(it, "c1")
        found.at(waiting)
        found.at(waiting)
        await until_async(lambda: len(judge.asked) == 1)
        judge.answers["c1"].set_result(Score(0.0))
        await until_async(at_rest(found))
        assert judge.asked == it.published == ["c1"]


@pytest.mark.parametrize("score", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("approve", [True, False])
async def test_what_a_moderator_decides_meanwhile_holds(approve: bool, score: float) -> None:
    async with parts() as it:
        found, judge = looking(it)
        found.at(await waits(it, "c1"))
        await until_async(lambda: len(judge.asked) == 1)
        await it.review.decide(MO, "r", "c1", approve, NOW)
        judge.answers["c1"].set_result(Score(score))
        await until_async(at_rest(found))
        assert it.published == (["c1"] if approve else [])
        assert [ack["status"] for ack in it.told] == ["published" if approve else "rejected"]
        assert found.removed == 0
        assert not await it.waiting()


async def test_strikes_lower_what_is_measured_by() -> None:
    async with parts() as it:
        found, judge = looking(it)
        now = time.time()
        for number in range(3):
            assert it.rules.strikes("bad", now) == number
            judge.now = Score(0.9)
            found.at(await waits(it, f"c{number}", "bad"))
            await until_async(at_rest(found))
        judge.now = Score(0.6)
        found.at(await waits(it, "bad1", "bad"))
        found.at(await waits(it, "ann1", "ann"))
        await until_async(at_rest(found))
        assert await it.waiting() == ["ann1"]
        assert {"t": "ack", "id": "bad1", "status": "published"} in it.told
        assert "bad1" not in it.published
        assert await it.gone() == ["bad1"], "sent again it is not shown, either"


async def test_a_hundred_bad_ones_in_one_answer_all_go() -> None:
    async with parts() as it:
        found, judge = looking(it)
        ids = [f"c{number}" for number in range(100)]
        for number, id_ in enumerate(ids):
            found.at(held(id_, f"u{number}", shown=True))
        await until_async(lambda: len(judge.asked) == 100)
        for answer in judge.answers.values():
            answer.set_result(Score(0.9))
        await until_async(at_rest(found))
        assert sorted(await it.gone()) == sorted(ids)
        assert found.removed == 100


async def test_a_mistake_of_a_part_leaves_nobody_behind_it_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async with parts() as it:
        found, judge = looking(it)
        settled = it.review.settle

        async def settle(waiting: Waiting, now: float) -> str:
            if waiting.comment["id"] == "a1":
                raise KeyError("a mistake")
            return await settled(waiting, now)

        monkeypatch.setattr(it.review, "settle", settle)
        judge.now = Score(0.0)
        for id_ in ("a1", "a2"):
            found.at(await waits(it, id_))
        await until_async(at_rest(found))
        assert it.published == ["a2"]
        errors = [task.exception() for task in it.tasks]
        assert sum(isinstance(error, KeyError) for error in errors) == 1
        assert not any(isinstance(error, EdgeError) for error in errors)
