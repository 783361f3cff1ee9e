"""What a classifier's scores lead to, and what is left when something on the way fails: nobody who waits for ever."""

import asyncio
import time
from collections.abc import Callable
from typing import cast

import pytest

from broker.base import Unavailable
from edge.errors import EdgeError
from edge.ingest.classifier import Classifier, Comment, Down, Score
from edge.ingest.verdict import Kind, Verdict
from edge.moderation import look
from edge.moderation.look import Look
from edge.moderation.review import Waiting
from tests.moderation.parts import MO, NOW, Parts, Shaky, held, parts
from tests.server import until_async

OPEN = Down("failed", Verdict(Kind.PUBLISH, None, True, ("classifier: failed",)))
HOLD = Down("failed", Verdict(Kind.PENDING, None, True, ("classifier: failed",)))


class Judge:
    """Answers when it is let, one text after the other or in whatever order; then a score, or none."""

    def __init__(self) -> None:
        self.is_open = False
        self.asked: list[str] = []
        self.answers: dict[str, asyncio.Future[Score | Down]] = {}
        self.now: Score | Down | None = None

    async def classify(self, comment: Comment) -> Score | Down:
        self.asked.append(comment.id)
        if self.now is not None:
            return self.now
        self.answers[comment.id] = asyncio.get_running_loop().create_future()
        return await self.answers[comment.id]

    def settled(self, id_: str) -> None:
        pass

    def figures(self) -> dict[str, int]:
        return {}


def looking(it: Parts) -> tuple[Look, Judge]:
    judge = Judge()
    return Look(cast(Classifier, judge), it.review, it.rules, it.spawn), judge


def at_rest(found: Look) -> Callable[[], bool]:
    return lambda: found._looking == 0 and not found._last


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
        await until_async(lambda: found._looking == 2)
        it.failing.clear()
        judge.answers["a2"].set_result(Score(0.9))
        judge.answers["a3"].set_result(Score(0.0))
        await until_async(at_rest(found))
        assert await it.waiting() == ["a1"], "it is left to the moderators"
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
async def test_what_was_left_is_looked_at_again_bounded_and_in_parts(
    down: Down, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look, "AT_ONCE", 4)
    async with parts() as it:
        found, judge = looking(it)
        judge.now = down
        for number in range(10):
            found.at(await waits(it, f"c{number}"))
        await until_async(at_rest(found))
        assert found.figures()["look_backlog"] == 10
        assert len(await it.waiting()) == 10, "moderators have all of them meanwhile"
        assert len(it.published) == (10 if down is OPEN else 0)
        judge.is_open, judge.now = True, Score(0.9)
        found.turn()
        assert found.figures()["look_backlog"] == 10, "not while it is away"
        await it.review.decide(MO, "r", "c1", True, NOW)
        judge.is_open = False
        lefts = {10}
        found.turn()
        found.turn()  # one at a time

        def all_looked_at() -> bool:
            lefts.add(found.figures()["look_backlog"])
            return 0 in lefts

        await until_async(all_looked_at)
        await until_async(at_rest(found))
        assert lefts <= {10, 6, 2, 0}
        assert not await it.waiting()
        assert judge.asked.count("c1") == 1, "somebody has decided that one"
        assert found.removed == 9
        assert sorted(await it.gone()) == ([f"c{n}" for n in range(10) if n != 1] if down is OPEN else [])


async def test_the_oldest_left_go_to_the_moderators() -> None:
    async with parts() as it:
        found, judge = looking(it)
        judge.now = HOLD
        found._backlog = type(found._backlog)(maxlen=3)
        for number in range(5):
            found.at(await waits(it, f"c{number}"))
        await until_async(at_rest(found))
        judge.now = Score(0.0)
        found.turn()
        await until_async(lambda: not found.figures()["look_backlog"])
        await until_async(at_rest(found))
        assert await it.waiting() == ["c0", "c1"]


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
        assert it.told[-1] == {"t": "ack", "id": "bad1", "status": "published"}
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

        async def settle(waiting: Waiting, approve: bool) -> str:
            if waiting.comment["id"] == "a1":
                raise KeyError("a mistake")
            return await settled(waiting, approve)

        monkeypatch.setattr(it.review, "settle", settle)
        judge.now = Score(0.0)
        for id_ in ("a1", "a2"):
            found.at(await waits(it, id_))
        await until_async(at_rest(found))
        assert it.published == ["a2"]
        errors = [task.exception() for task in it.tasks]
        assert sum(isinstance(error, KeyError) for error in errors) == 1
        assert not any(isinstance(error, EdgeError) for error in errors)
