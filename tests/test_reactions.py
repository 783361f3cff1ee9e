"""The worker's side of reactions: who may, what is refused by name, and that sums are told instead of reactions."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from broker.memory import MemoryBroker
from edge.auth import Identity
from edge.errors import EdgeError
from edge.ingest.limits import Rates
from edge.ingest.modes import Mode
from edge.ingest.pipeline import Pipeline
from edge.moderation.rules import Ban
from edge.reactions import ROOMS, WAITING, Reactions
from tests.server import until_async

ROOM = "match"
ANN = Identity("ann", "Ann", frozenset({"read", "comment"}), exp=2e9)
MO = Identity("mo", "Mo", frozenset({"read", "comment", "moderate"}), exp=2e9)


class Set:
    """What moderators have set: bans by user, and a mode for all rooms."""

    def __init__(self) -> None:
        self.bans: dict[str, Ban] = {}
        self.closed = False

    def ban(self, room: str, user: str, now: float) -> Ban | None:
        return self.bans.get(user)

    def mode(self, room: str) -> Mode:
        return Mode(closed=self.closed)


class Away(MemoryBroker):
    away = False

    @property
    def connected(self) -> bool:
        return not self.away


class Scene:
    def __init__(self, rates: Rates | None = None) -> None:
        self.broker = Away()
        self.rules = Set()
        self.tasks: set[asyncio.Task[Any]] = set()
        self.told: list[list[Any]] = []
        pipeline = Pipeline(rates or Rates(reactions=0))
        self.reactions = Reactions(self.broker, pipeline, self.rules, ("fire", "heart"), self.spawn)  # type: ignore[arg-type]

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def hear(self, *rooms: str) -> None:
        for shard in {self.broker.shard_of(room) for room in rooms}:
            await self.broker.hear(f"react.{shard}", lambda data: self.told.append(msgspec.msgpack.decode(data)[0]))

    def sums(self) -> dict[tuple[str, str], int]:
        found: dict[tuple[str, str], int] = {}
        for message in self.told:
            for room, sums in message:
                for kind, count in sums.items():
                    found[room, kind] = found.get((room, kind), 0) + count
        return found

    def refused(self, identity: Identity = ANN, kind: str = "fire", room: str = ROOM) -> EdgeError:
        with pytest.raises(EdgeError) as caught:
            self.reactions.take(identity, room, kind)
        return caught.value


@pytest_asyncio.fixture
async def scene() -> AsyncIterator[Scene]:
    made = Scene()
    await made.hear(ROOM, "other")
    yield made
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)
    await made.broker.close()


async def test_sums_are_told_and_nothing_while_nobody_reacts(scene: Scene) -> None:
    assert not scene.tasks
    for n in range(1000):
        scene.reactions.take(ANN, ROOM if n % 4 else "other", "fire" if n % 2 else "heart")
    assert len(scene.tasks) == 1
    await until_async(lambda: sum(scene.sums().values()) == 1000)
    assert scene.sums() == {(ROOM, "fire"): 500, (ROOM, "heart"): 250, ("other", "heart"): 250}
    assert len(scene.told) <= 2
    await until_async(lambda: not scene.tasks)
    scene.reactions.take(ANN, ROOM, "fire")
    await until_async(lambda: scene.sums()[ROOM, "fire"] == 501)
    await until_async(lambda: not scene.tasks)
    assert (scene.reactions.taken, scene.reactions.refused) == (1001, 0)


async def test_sums_are_told_ten_times_a_second_at_most(scene: Scene) -> None:
    began = time.monotonic()
    sent = 0
    while len(scene.told) < 3:
        scene.reactions.take(ANN, ROOM, "fire")
        sent += 1
        await asyncio.sleep(0.005)
    assert time.monotonic() - began >= 0.29
    await scene.reactions.tell()
    assert scene.sums() == {(ROOM, "fire"): sent}
    before = len(scene.told)
    await scene.reactions.tell()  # nothing
    assert len(scene.told) == before


async def test_what_is_no_reaction_is_refused_by_name(scene: Scene) -> None:
    for kind in ("nothing", "", "Fire", "fire "):
        assert scene.refused(kind=kind).name == "bad_reaction"
    assert (scene.reactions.taken, scene.reactions.refused) == (0, 4)
    assert not scene.tasks


async def test_bans_hold_and_a_shadowed_one_is_told_nothing(scene: Scene) -> None:
    scene.rules.bans = {"ann": Ban("ann"), "bob": Ban("bob", time.time() + 60), "eve": Ban("eve", shadow=True)}
    gone = scene.refused()
    assert (gone.name, gone.retry_after) == ("banned", None)
    out = scene.refused(Identity("bob", "Bob", ANN.scopes))
    assert out.name == "banned"
    assert out.retry_after is not None
    assert 0 < out.retry_after <= 60
    scene.reactions.take(Identity("eve", "Eve", ANN.scopes), ROOM, "fire")
    assert (scene.reactions.taken, scene.reactions.refused) == (0, 2)
    assert not scene.tasks


async def test_a_closed_room_takes_none_but_a_moderator_s(scene: Scene) -> None:
    scene.rules.closed = True
    assert scene.refused().name == "room_closed"
    in_dev = Identity("dev", "dev", MO.scopes)  # has every scope, as everybody has there
    assert scene.refused(in_dev).name == "room_closed"
    scene.reactions.take(MO, ROOM, "fire")
    assert scene.refused(Identity("rob", "Rob", ANN.scopes, role="moderator")).name == "room_closed"
    assert scene.reactions.taken == 1


async def test_the_limit_of_a_user_is_told_with_a_time(scene: Scene) -> None:
    strict = Scene(Rates(reactions=3, reactions_s=600.0))
    for _ in range(3):
        strict.reactions.take(ANN, ROOM, "fire")
    over = strict.refused()
    assert over.name == "too_many"
    assert over.retry_after is not None
    assert 0 < over.retry_after <= 200
    strict.rules.bans = {"eve": Ban("eve", shadow=True)}
    eve = Identity("eve", "Eve", ANN.scopes)
    for _ in range(3):
        strict.reactions.take(eve, ROOM, "fire")
    assert strict.refused(eve).name == "too_many"  # or it would tell that they are shadowed
    await until_async(lambda: not strict.tasks)


async def test_what_would_certainly_be_lost_is_refused(scene: Scene) -> None:
    scene.broker.away = True
    assert scene.refused().name == "unavailable"
    scene.broker.away = False
    scene.reactions.take(ANN, ROOM, "fire")
    await until_async(lambda: scene.sums() == {(ROOM, "fire"): 1})


async def test_rooms_that_wait_are_bounded_and_messages_too(scene: Scene) -> None:
    shard = scene.broker.shard_of(ROOM)
    near = [name for name in (f"r{n}" for n in range(200_000)) if scene.broker.shard_of(name) == shard][: ROOMS + 5]
    rooms = near + [f"x{n}" for n in range(WAITING - len(near))]
    for room in rooms:
        scene.reactions.take(ANN, room, "fire")
    assert scene.refused(room="one-more").name == "overloaded"
    scene.reactions.take(ANN, rooms[0], "fire")
    await scene.reactions.tell()
    assert max(len(message) for message in scene.told) == ROOMS
    told = scene.sums()
    assert all((room, "fire") in told for room in near)
    scene.reactions.take(ANN, "one-more", "fire")


async def test_a_broker_that_has_been_closed_harms_nobody(scene: Scene) -> None:
    scene.reactions.take(ANN, ROOM, "fire")
    await scene.broker.close()
    await scene.reactions.tell()
    assert scene.told == []
