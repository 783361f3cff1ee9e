"""One payment is one comment, whichever step fails, and whoever sends it again and when."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from broker.base import Full, Unavailable, Unsettled
from edge import paid, wire
from edge.auth import Identity
from edge.cabinet import Cabinet
from edge.errors import EdgeError
from edge.paid import SURE_S, Paid
from tests.moderation.parts import Shaky
from tests.server import until_async

TILL = Identity("till", "Till", frozenset({"paid"}))


def body(text: str = "take it", **more: Any) -> wire.CommentBody:
    return wire.CommentBody(x=text, paid=wire.Paid(3), u=wire.Author("fan"), **more)


class Room:
    """Knows a comment that it has, as its owner does for a while; and the log, which shows it some time later."""

    def __init__(self) -> None:
        self.broker = Shaky()
        self.now = 1_000_000.0
        self.stored: list[str] = []
        self.fresh: set[str] = set()  # which the owner knows again
        self.log: set[str] = set()
        self.said: list[str] = []
        self.outcome: str | EdgeError = "published"
        self.let = asyncio.Event()
        self.let.set()
        self.paid = Paid(Cabinet(self.broker), self._say, self._shown)

    async def _say(self, author: Identity, _room: str, said: wire.CommentBody, made: str) -> wire.Message:
        assert (author.user, author.tier) == ("fan", 3)
        self.said.append(said.x)
        await self.let.wait()
        if isinstance(self.outcome, EdgeError):
            if self.outcome.ref == "later":  # what had to be looked up first is refused by an ack
                return wire.ack(None, None, "rejected", self.outcome)
            raise self.outcome
        if self.outcome in ("published", "pending", "unknown, and stored") and made not in self.fresh:
            self.stored.append(made)
            self.fresh.add(made)
        return wire.ack(None, made, self.outcome.partition(",")[0])

    async def _shown(self, _room: str, id_: str) -> object:
        return {"id": id_} if id_ in self.log else None

    def wait(self, seconds: float) -> None:
        """The log shows what was stored, and the owner forgets it after a minute."""
        self.now += seconds
        self.log.update(self.stored)
        if seconds > 60:
            self.fresh.clear()

    async def pay(self, said: wire.CommentBody | None = None, key: str | None = "k") -> wire.Message:
        return await self.paid.comment(TILL, "r", said or body(), key)

    async def fails(self, name: str, said: wire.CommentBody | None = None) -> None:
        with pytest.raises(EdgeError) as caught:
            await self.pay(said)
        assert caught.value.name == name, caught.value

    async def kept(self) -> list[str]:
        """What is known of payments: how each has ended."""
        return [msgspec.json.decode(it.value)["status"] for it in await self.broker.kept("paid.r.")]


@asynccontextmanager
async def till(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Room]:
    room = Room()
    monkeypatch.setattr("edge.paid.time.time", lambda: room.now)
    try:
        yield room
    finally:
        await room.broker.close()


AGAIN_S = [0.0, SURE_S - 1, SURE_S + 1, 70.0, 23 * 3600.0]


@pytest.mark.parametrize("again_s", AGAIN_S)
@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("error", [Unavailable("no way"), Unsettled("?"), Full("full")])
@pytest.mark.parametrize("step", ["before", "behind"])
async def test_a_record_that_is_not_kept(
    step: str, error: Exception, done: bool, again_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is lost, and the site posts it again."""
    async with till(monkeypatch) as it:
        keeps = 0

        async def first(_key: str, _value: bytes | None) -> None:
            nonlocal keeps
            keeps += 1
            it.broker.failing = {"paid.": error} if keeps == (1 if step == "before" else 2) else {}

        it.broker.first, it.broker.done = first, done
        await it.fails("unavailable")
        assert len(it.stored) == (0 if step == "before" else 1)
        it.wait(again_s)
        ack = await it.pay()
        assert ack["status"] == "published"
        assert it.stored == [ack["id"]]
        it.wait(again_s)
        assert await it.pay() == ack
        assert it.stored == [ack["id"]]
        assert await it.kept() == ["published"]


@pytest.mark.parametrize("again_s", AGAIN_S)
@pytest.mark.parametrize("outcome", ["unknown", "unknown, and stored", "rejected"])
async def test_an_outcome_that_is_not_known(outcome: str, again_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    async with till(monkeypatch) as it:
        it.outcome = outcome
        await it.fails("unavailable")
        assert await it.kept() == [""]
        it.outcome = "published"
        await it.fails("key_reused", body("something else"))
        it.wait(again_s)
        ack = await it.pay()
        assert it.stored == [ack["id"]]
        assert await it.kept() == ["published"]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", ["moderated", "banned", "unknown_user", "unknown_comment", "too_many", "room_closed"])
async def test_what_is_refused_may_be_paid_for_in_other_words(
    name: str, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with till(monkeypatch) as it:
        it.outcome = EdgeError(name, retry_after=3)
        it.outcome.ref = "later" if late else None
        await it.fails(name)
        await it.fails(name)
        assert await it.kept() == []
        it.outcome = "published"
        ack = await it.pay(body("roses"))
        assert it.stored == [ack["id"]]
        assert it.said[-1] == "roses"


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", ["unavailable", "overloaded"])
async def test_what_says_nothing_of_the_comment_leaves_its_key(
    name: str, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with till(monkeypatch) as it:
        it.outcome = EdgeError(name)
        it.outcome.ref = "later" if late else None
        with pytest.raises(EdgeError) as caught:
            await it.pay()
        assert caught.value.status == 503
        await it.fails("key_reused", body("other"))
        it.outcome = "pending"
        ack = await it.pay()
        assert ack["status"] == "pending"
        assert await it.pay() == ack
        assert len(it.said) == 2


@pytest.mark.parametrize("same", [True, False])
async def test_two_at_once_with_one_key(same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async with till(monkeypatch) as it:
        it.let.clear()
        posts = [asyncio.ensure_future(it.pay(body() if same else body(f"text {n}"))) for n in range(6)]
        await until_async(lambda: len(it.said) + sum(post.done() for post in posts) == 6)
        assert len(it.said) == (6 if same else 1)
        it.let.set()
        found = await asyncio.gather(*posts, return_exceptions=True)
        acks = [ack for ack in found if isinstance(ack, dict)]
        assert len(acks) == (6 if same else 1)
        assert all(ack == acks[0] for ack in acks)
        assert {error.name for error in found if isinstance(error, EdgeError)} == (set() if same else {"key_reused"})
        assert it.stored == [acks[0]["id"]]


async def test_a_key_is_of_one_payer_and_room_and_whatever_it_looks_like(monkeypatch: pytest.MonkeyPatch) -> None:
    async with till(monkeypatch) as it:
        ids = set()
        payers = [("till", "x k"), ("till x", "k"), ("4 till", "k"), ("till", "k")]
        for user, key in payers:
            ack = await it.paid.comment(Identity(user, user, frozenset({"paid"})), "r", body(), key)
            ids.add(ack["id"])
        for key in ("k.k", "*", ">", "=", "..", "k" * 255, "'; drop", "K"):
            ids.add((await it.pay(key=key))["id"])
        assert len(ids) == len(it.stored) == len(payers) + 8
        for bad in ("", "\x00", "k" * 256, "é", "a\nb", "\ud800", None):
            with pytest.raises(EdgeError, match="bad_request"):
                await it.pay(key=bad)
        with pytest.raises(EdgeError, match="forbidden"):
            await it.paid.comment(Identity("till", "till", frozenset({"paid"}), frozenset({"r2"})), "r", body(), "k")


async def test_what_nobody_posts_again_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    async with till(monkeypatch) as it:
        for number in range(5):
            await it.pay(key=f"old{number}")
        it.now += paid.KEPT_S + 1
        monkeypatch.setattr("edge.cabinet.secrets.randbelow", lambda _most: 0)
        await it.pay(key="new")
        assert len(await it.kept()) == 1
        it.broker.failing["paid."] = Unavailable("no way")
        await it.fails("unavailable")
