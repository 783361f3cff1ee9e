"""What is said again: measured once, but not for good, and never shown where it was hidden or is gone."""

import asyncio
from typing import Any, cast

import pytest

from edge import speech, wire
from edge.auth import Identity
from edge.errors import EdgeError
from edge.ingest.modes import Mode
from edge.ingest.pipeline import Pipeline, Rules
from edge.ingest.words import Entry, WordList
from edge.known import Known
from edge.moderation.look import Look
from edge.moderation.review import Waiting
from edge.offers import Done, Offers
from edge.speaker import Speaker, speaker
from edge.speech import SAME_S, Speech
from tests.moderation.parts import MO, Parts, Shaky, parts

ANN = Identity("ann", "Ann", frozenset({"comment"}), exp=2e9)


class Offered:
    """What has gone to a room's owner."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def take(self, _room: str, item: bytes, done: Done) -> None:
        self.ids.append(wire.decode_item(item).id)
        done("published")


class Said:
    def __init__(self, it: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.author = ANN
        self.offered = Offered()
        self.pipeline = Pipeline()
        self.rules = it.rules
        known = Known(it.broker, self.rules.gone, lambda _room, _name: False, it.spawn, True)
        self.speech = Speech(
            cast(Offers, self.offered),
            self.pipeline,
            self.rules,
            it.review,
            known,
            cast(Look, None),
            it._tell,
            it.spawn,
        )
        monkeypatch.setattr(speech, "time", self)  # this is the clock

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1_000_000.0 + self.now

    def who(self, room: str) -> Speaker:
        return speaker(self.pipeline, self.author, room, b"")

    def say(self, text: str, ref: str = "r1", room: str = "r") -> Any:
        told: list[Any] = []
        body = wire.CommentBody(x=text, ref=ref)
        try:
            self.speech.say(self.who(room), body, wire.comment_id("ann", ref), told.append)
        except EdgeError as error:
            return error.name
        return told[0] if told else None


async def test_what_is_sent_again_is_measured_once_but_not_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sent again all the time, it would pass rules that were set long after it was measured."""
    async with parts() as it:
        said = Said(it, monkeypatch)
        assert said.say("roses and mud") == "published"
        said.pipeline.set_rules("r", Rules(Mode(closed=True), WordList([Entry("mud")])))
        for _ in range(3):
            said.now += SAME_S / 4
            assert said.say("roses and mud") == "published", "its answer was lost"
        assert said.say("roses and mud", "r2") == "room_closed"
        said.now += SAME_S / 2
        assert said.say("roses and mud") == "room_closed"
        said.pipeline.set_rules("r", None)
        assert said.say("roses") == "published"


@pytest.mark.parametrize("shown", [True, False])
async def test_what_was_hidden_is_not_shown_when_it_is_sent_again(shown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its author is told that it is published, as before, and so must not find out, either."""
    async with parts() as it:
        said = Said(it, monkeypatch)
        said.pipeline.set_rules("r", Rules(Mode(moderation="post" if shown else "pre")))
        status = said.say("score=0.6")
        made = wire.comment_id("ann", "r1")
        if not shown:
            assert status is None
            await it.tasks[-1]
            assert await it.waiting() == [made]
        waiting = Waiting("r", "ann", (), {"id": made, "x": "score=0.6"}, shown=shown)
        await it.review.hide(waiting)
        said.speech.decided("r", made, True)  # as its author was told
        before = list(said.offered.ids)
        for room in ("r", "r2"):
            said.pipeline.set_rules(room, None)
            assert said.say("score=0.6", room=room) == "published"
        assert said.offered.ids == [*before, made], "in the other room alone"


async def test_what_was_refused_is_measured_again_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with parts() as it:
        said = Said(it, monkeypatch)
        said.pipeline.set_rules("r", Rules(words=WordList([Entry("mud")])))
        found = [said.say("mud") for _ in range(25)]
        assert found == ["moderated"] * 20 + ["too_many"] * 5


async def test_what_is_sent_again_and_again_is_offered_so_often_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    async with parts() as it:
        said = Said(it, monkeypatch)
        found = [said.say("hi") for _ in range(100)]
        assert found == ["published"] * 40 + ["too_many"] * 60, "20 comments, and 20 that are sent again"
        assert len(said.offered.ids) == 40
        assert said.pipeline.rates(said.now) == {"r": 100.0}
        said.pipeline.set_rules("r", Rules(Mode(moderation="pre")))
        said.now += 30
        assert {said.say("mud", "r2") for _ in range(20)} == {None}
        await asyncio.gather(*it.tasks)
        assert [key for key in cast(Shaky, it.broker).keeps if key.startswith("pending.")].count(
            f"pending.r.{wire.comment_id('ann', 'r2')}"
        ) <= 20


@pytest.mark.parametrize("role", ["moderator", "admin", "bot"])
async def test_nobody_moderates_by_what_they_are_called(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with parts() as it:
        said = Said(it, monkeypatch)
        said.author = Identity("ann", "Ann", frozenset({"comment"}), role=role, exp=2e9)
        assert [said.say("hi", f"r{number}") for number in range(21)] == ["published"] * 20 + ["too_many"]
        said.now += 30
        said.pipeline.set_rules("r", Rules(Mode(closed=True), WordList([Entry("mud")])))
        assert said.say("hi", "c") == "room_closed"
        said.pipeline.set_rules("r", Rules(words=WordList([Entry("mud")])))
        assert said.say("mud", "d") == "moderated"


async def test_who_was_refused_behind_the_rules_need_not_wait_in_slow_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    async with parts() as it:
        said = Said(it, monkeypatch)
        said.pipeline.set_rules("r", Rules(Mode(slow_seconds=30)))
        assert said.say("hi @nobody") is None
        await it.tasks[-1]
        assert said.say("hi", "r2") == "published"
        assert said.say("hi again", "r3") == "slow_mode"


async def test_a_ban_holds_for_what_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with parts() as it:
        said = Said(it, monkeypatch)
        assert said.say("hi") == "published"
        await it.desk.ban(MO, "r", "ann", b'{"shadow":true}', said.time())
        assert said.say("hi") == "published"
        assert len(said.offered.ids) == 1
        await asyncio.gather(*it.tasks)
        assert [(message["t"], message["m"][0]["x"]) for message in it.told] == [("own", "hi")]
        await it.desk.ban(MO, "r", "ann", b'{"seconds":5}', said.time())
        assert said.say("hi") == "banned"
        said.now += 6
        assert said.say("hi") == "published"
        assert len(said.offered.ids) == 2


async def test_too_many_behind_one_that_is_looked_up_are_refused_and_all_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(speech, "BEHIND", 3)
    async with parts() as it:
        said = Said(it, monkeypatch)
        told: list[Any] = []
        for number in range(6):
            body = wire.CommentBody(x="@nobody" if number == 0 else "hi", ref=f"r{number}")
            try:
                said.speech.say(said.who("r"), body, wire.comment_id("ann", body.ref), told.append)
            except EdgeError as error:
                assert error.name == "overloaded"
                assert number >= 3  # the first is among those that wait
        await it.tasks[-1]
        assert [getattr(answer, "name", answer) for answer in told] == ["unknown_user"] + ["published"] * 2
        assert not said.speech._behind


async def test_what_was_decided_of_other_words_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same ref with other words is another comment: what a moderator has let through of the first is no pass."""
    async with parts() as it:
        said = Said(it, monkeypatch)
        said.pipeline.set_rules("r", Rules(Mode(moderation="pre")))
        assert said.say("roses") is None
        said.speech.decided("r", wire.comment_id("ann", "r1"), True)
        assert said.say("roses") == "published", "it was let through, and its answer was lost"
        for _ in range(3):
            said.now += SAME_S / 4
            assert said.say("mud") is None, "it waits"
        assert not said.offered.ids[1:]


async def test_two_texts_with_one_ref_are_judged_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async with parts() as it:
        said = Said(it, monkeypatch)
        said.pipeline.set_rules("r", Rules(words=WordList([Entry("mud"), Entry("meh", "hold")])))
        for _ in range(3):
            assert said.say("roses") == "published"
            assert said.say("mud") == "moderated"
            assert said.say("meh") is None
        said.pipeline.set_rules("r", Rules(Mode(closed=True)))
        assert said.say("roses") == "published", "as it was"
        assert said.say("meh") is None
        assert said.say("mud") == "room_closed"
