"""A comment's way to its room's owner: in order, together, each author told what the broker has said and no more."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from broker.base import OFFER_BYTES, OFFER_ITEMS, Full, Kind, Unavailable
from broker.memory import MemoryBroker
from edge import wire
from edge.errors import EdgeError
from edge.offers import WAITING, Offers, ack
from tests.server import until_async


class Slow(MemoryBroker):
    """Takes an offer when it is let; then `ends` says how it goes, or raises. It takes none at once."""

    offer_now: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.offered: list[list[str]] = []
        self.let = asyncio.Event()
        self.ends: Kind | Exception = Kind.STORED
        self.at_once = 0

    async def offer(self, shard: int, items: Sequence[bytes]) -> Kind:
        self.at_once += 1
        assert self.at_once == 1, "two offers of one shard at once could change places"
        await self.let.wait()
        self.at_once -= 1
        assert len(items) <= OFFER_ITEMS
        assert sum(map(len, items)) <= OFFER_BYTES
        self.offered.append([wire.decode_item(data).id for data in items])
        if isinstance(self.ends, Exception):
            raise self.ends
        return self.ends


def comment(name: str, text: str = "x", room: str = "r") -> bytes:
    return wire.item(room, wire.comment(name, {"id": "ann", "name": "ann"}, text, 1))


def spawn(work: Any) -> asyncio.Task[Any]:
    task = asyncio.get_running_loop().create_task(work)
    TASKS.add(task)
    task.add_done_callback(TASKS.discard)
    return task


TASKS: set[asyncio.Task[Any]] = set()


async def test_what_comes_meanwhile_goes_together_and_in_order() -> None:
    broker = Slow()
    offers = Offers(broker, spawn)
    told: list[tuple[str, str]] = []
    for n in range(700):
        offers.take("r", comment(str(n)), lambda status, n=n: told.append((str(n), status)))  # type: ignore[misc]
        if n == 0:
            await asyncio.sleep(0)
    broker.let.set()
    await until_async(lambda: len(told) == 700)
    assert [len(items) for items in broker.offered] == [1, OFFER_ITEMS, 700 - 1 - OFFER_ITEMS]
    assert [name for items in broker.offered for name in items] == [str(n) for n in range(700)]
    assert told == [(str(n), "published") for n in range(700)]
    assert offers.taken == 700
    assert not offers._queues


async def test_an_offer_is_bounded_in_bytes() -> None:
    broker = Slow()
    broker.let.set()
    offers = Offers(broker, spawn)
    told: list[str] = []
    for n in range(300):
        offers.take("r", comment(str(n), "🙂" * 500), told.append)
    await until_async(lambda: len(told) == 300)
    assert len(broker.offered) > 2


@pytest.mark.parametrize("ends, status", [(Kind.UNKNOWN, "unknown"), (Unavailable("no way"), "rejected")])
async def test_an_author_is_told_what_is_known(ends: Kind | Exception, status: str) -> None:
    broker = Slow()
    broker.ends = ends
    broker.let.set()
    offers = Offers(broker, spawn)
    told: list[str] = []
    offers.take("r", comment("a"), told.append)
    await until_async(lambda: told)
    assert told == [status]
    assert (offers.unknown, offers.refused) == ((1, 0) if status == "unknown" else (0, 1))
    made = ack("ref", "a", status)
    assert made["status"] == status
    assert ("retry_after" in made) == (status == "rejected")


async def test_too_much_is_refused_and_forgotten() -> None:
    broker = Slow()
    offers = Offers(broker, spawn)
    for n in range(WAITING):
        offers.take("r", comment(str(n)), lambda _: None)
    with pytest.raises(EdgeError, match="overloaded"):
        offers.take("r", comment("more"), lambda _: None)
    assert offers.refused == 1
    broker.let.set()
    await until_async(lambda: sum(map(len, broker.offered)) == WAITING)


async def test_a_broker_that_takes_offers_at_once_is_given_those_of_a_turn_together() -> None:
    broker = MemoryBroker()
    given: list[tuple[int, list[str]]] = []
    offer_now = broker.offer_now

    def offered(shard: int, items: Sequence[bytes]) -> None:
        given.append((shard, [wire.decode_item(data).id for data in items]))
        if "full" in given[-1][1]:
            raise Full("no more")
        offer_now(shard, items)

    broker.offer_now = offered  # type: ignore[method-assign]
    offers = Offers(broker, spawn)
    told: list[tuple[str, Any]] = []

    def say(room: str, name: str) -> None:
        offers.take(room, comment(name, room=room), lambda status: told.append((name, status)))

    for n in range(OFFER_ITEMS + 1):
        say("r", str(n))
    assert told == []
    await until_async(lambda: len(told) == OFFER_ITEMS + 1)
    assert [len(items) for _, items in given] == [OFFER_ITEMS, 1]
    assert [name for name, _ in told] == [str(n) for n in range(OFFER_ITEMS + 1)]
    assert {status for _, status in told} == {"published"}
    told.clear()
    say("r", "full")
    await until_async(lambda: len(told) == 1)
    assert told == [("full", "rejected")]
    assert offers.refused == 1
    assert offers.failing(time.monotonic())
    say("r", "later")
    await until_async(lambda: len(told) == 2)
    assert told[1] == ("later", "published")
    await broker.close()
