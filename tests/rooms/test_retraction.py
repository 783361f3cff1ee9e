"""What is retracted is shown no more, whatever comes between: at the owner, and at those who hold its batches."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from broker.base import CHAT
from broker.memory import MemoryBroker
from edge import wire
from edge.rooms.shard import SILENT_S, OwnedRoom, OwnedShard, Taken
from edge.rooms.window import CARRIED, Window
from edge.watch import Watch, without
from tests._fast.engine import JSON, MSGPACK, POLL, SSE, Rig, Viewer, bounded, nothing_kept

__all__ = ["nothing_kept"]

Place = tuple[int, int]
ROOMS = ("a", "b")
USERS = ("ann", "bob", "eve")
TICK_S = 1.0
IDLE_S = 60.0


class Said(msgspec.Struct):
    """One item of a stored offer, and what is certain about it."""

    room: str
    id: str
    user: str
    paid: bool
    place: Place
    data: bytes
    counted: bool = True  # by the owner that had it last; else it was known already
    out: bool = False  # retracted or silenced after this owner had it: it must not be taken any more
    crowded: bool = False  # paid, and left out since all that waited was paid for


class Batch(msgspec.Struct):
    ids: list[str]
    of: int
    mark: Place
    data: bytes


class Owners:
    """One after the other, over the same stored offers and the same log."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.offers: list[list[Said]] = []  # number n is at n - 1
        self.log: dict[str, list[Batch]] = {room: [] for room in ROOMS}
        self.gone: dict[str, set[str]] = {room: set() for room in ROOMS}
        self.now = 0.0
        self.after = 0
        self.pending: dict[str, tuple[OwnedRoom, Taken, bytes]] = {}
        self.begin(told=True)

    def begin(self, *, told: bool) -> None:
        """`told`: where the rooms stand is known from the fence."""
        self.pending.clear()
        standing = {room: (len(log), log[-1].mark) for room, log in self.log.items() if log} if told else {}
        self.shard = OwnedShard(0, self.after, standing, 0.0)
        self.out_by: dict[tuple[str, str], OwnedRoom] = {}  # retracted before it came, and at whom
        self.quiet: dict[tuple[str, str], float] = {}
        for seq in range(self.after + 1, len(self.offers) + 1):
            self._give(seq)

    def offer(self, items: list[tuple[str, str, bool]]) -> None:
        seq = len(self.offers) + 1
        made = []
        for index, (room, user, paid) in enumerate(items):
            comment = wire.comment(f"{seq}-{index}", {"id": user, "name": user}, "x", seq)
            data = wire.item(room, comment, paid)
            made.append(Said(room, comment["id"], user, paid, (seq, index), data))
        self.offers.append(made)
        self._give(seq)

    def offer_some(self, count: int, paid: int) -> None:
        """So many, most of them in one room, and `paid` of ten paid for."""
        of, whose = self.random.choices(ROOMS, (4, 1), k=count), self.random.choices(USERS, k=count)
        self.offer([(room, user, self.random.randrange(10) < paid) for room, user in zip(of, whose, strict=True)])

    def _give(self, seq: int) -> None:
        for it in self.offers[seq - 1]:
            if it.place < self._mark(it.room):
                continue  # a batch has it, whether or not this owner knows by now
            room = self.shard.rooms.get(it.room)
            it.counted = room is None or self.out_by.get((it.room, it.id)) is not room
            it.out = self.quiet.get((it.room, it.user), -1.0) > self.now
            it.crowded = False
        self.shard.offered(seq, [it.data for it in self.offers[seq - 1]])
        waiting = {name: self.shard.room(name).window._waiting for name in ROOMS}
        ids = {name: {it.id for it in those} for name, those in waiting.items()}
        for it in self.offers[seq - 1]:
            if it.paid and it.id not in ids[it.room]:
                it.crowded = all(other.paid for other in waiting[it.room])

    def _mark(self, room: str) -> Place:
        return self.log[room][-1].mark if self.log[room] else (0, 0)

    def take(self, name: str) -> None:
        room = self.shard.rooms.get(name)
        if room is None or name in self.pending:
            return
        if not room.primed:
            log = self.log[name]
            room.prime(len(log), self._mark(name), [batch.data for batch in log])
            room.primed = True
        taken = room.take()
        if taken is None:
            return
        data = room.batch(taken, self.now, int(self.now * 1000))
        batch = msgspec.msgpack.decode(data)
        ids = [comment["id"] for comment in batch["m"]]
        said = {it.id: it for offer in self.offers for it in offer}
        assert not [id_ for id_ in ids if said[id_].out]
        assert taken.mark > self._mark(name)
        room.busy = True  # so it does not sleep meanwhile
        self.pending[name] = room, taken, data

    def finish(self, name: str, *, heard: bool = True) -> None:
        """It is in the log. Where that is not heard of any more, the owner has gone."""
        if name not in self.pending:
            return
        room, taken, data = self.pending.pop(name)
        room.busy = False
        ids = [comment["id"] for comment in msgspec.msgpack.decode(data)["m"]]
        self.log[name].append(Batch(ids, taken.of, taken.mark, data))
        if heard:
            room.stored(taken)
            self._low()
        else:
            self.begin(told=self.random.random() < 0.5)

    def retract(self, name: str, ids: list[str]) -> None:
        self.gone[name].update(ids)
        self.shard.retract(name, ids)
        if (room := self.shard.rooms.get(name)) is None:
            return
        for id_ in ids:
            self.out_by[name, id_] = room
        for it in (it for offer in self.offers for it in offer if it.room == name and it.id in ids):
            it.out = True

    def silence(self, name: str, user: str) -> None:
        self.shard.silence(name, {user}, self.now)
        self.quiet[name, user] = self.now + SILENT_S
        for it in (it for offer in self.offers for it in offer if (it.room, it.user) == (name, user)):
            it.out = True

    def cover(self) -> None:
        self.after = max(self.after, self._low())

    def _low(self) -> int:
        low = self.shard.low()
        for it in (it for offer in self.offers[:low] for it in offer):
            assert not it.counted or it.place < self._mark(it.room), (it, low)
        return low

    def sleep(self) -> None:
        self.now += TICK_S
        self.shard.sleep(self.now, IDLE_S)

    def drain(self) -> None:
        for name in ROOMS:
            self.finish(name)
            while (room := self.shard.rooms.get(name)) is not None and room.window:
                self.take(name)
                self.finish(name)
        self.cover()

    def check(self) -> None:
        shown = set()
        for name, log in self.log.items():
            said = [it for offer in self.offers for it in offer if it.room == name]
            before = (0, 0)
            for batch in log:
                inside = [it for it in said if before <= it.place < batch.mark]
                assert batch.mark > before
                assert batch.of == sum(it.counted for it in inside), (name, before, batch.mark)
                assert batch.ids == [it.id for it in inside if it.id in set(batch.ids)], "in their order, and once"
                before = batch.mark
                shown.update(batch.ids)
                left, stripped = without(batch.data, self.gone[name])
                ids = [comment["id"] for comment in msgspec.msgpack.decode(stripped)["m"]]
                assert ids == [id_ for id_ in batch.ids if id_ not in self.gone[name]]
                assert left == len(ids)
            assert not [it.id for it in said if it.counted and it.place >= before]
            assert not [it for it in said if it.paid and it.counted and not (it.id in shown or it.out or it.crowded)]


moves = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.sampled_from([1, 3, 40, 300]), st.integers(0, 9)),
        st.tuples(st.just("flood"), st.sampled_from([0, 3, 10])),
        st.tuples(st.sampled_from(["take", "finish", "lost"]), st.sampled_from(ROOMS)),
        st.tuples(st.just("retract"), st.sampled_from(ROOMS), st.sampled_from([1, 5, 300])),
        st.tuples(st.just("ahead"), st.sampled_from(ROOMS), st.integers(0, 3)),
        st.tuples(st.just("silence"), st.sampled_from(ROOMS), st.sampled_from(USERS)),
        st.tuples(st.just("owner"), st.booleans()),
        st.sampled_from([("cover",), ("sleep",)]),
    ),
    min_size=8,
    max_size=40,
)


@bounded(40)
@given(moves, st.integers(0, 999))
def test_no_owner_shows_what_was_retracted_and_each_comment_is_accounted_for_once(
    moves: list[tuple[Any, ...]], seed: int
) -> None:
    it = Owners(seed)
    for what, *about in moves:
        if what == "offer":
            it.offer_some(*about)
        elif what == "flood":
            for _ in range(4):
                it.offer_some(400, *about)
        elif what == "lost":
            it.finish(about[0], heard=False)
        elif what == "retract":
            said = [one.id for offer in it.offers for one in offer if one.room == about[0]]
            it.retract(about[0], it.random.sample(said, min(about[1], len(said))))
        elif what == "ahead":  # of what has not come yet
            it.retract(about[0], [f"{len(it.offers) + 1}-{about[1]}"])
        elif what == "owner":
            it.begin(told=about[0])
        else:
            getattr(it, what)(*about)
    it.drain()
    it.check()


def raw(user: str) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode({"u": {"id": user}}))


def test_what_is_on_its_way_of_who_was_banned_is_looked_for_in_a_quiet_room_too() -> None:
    """Nobody watches, nothing waits: the room is remembered as long as its silence lasts."""
    it = Owners(0)
    it.silence("a", "bob")
    for _ in range(int(SILENT_S) - 1):
        it.sleep()
    it.offer([("a", "bob", False), ("a", "ann", False)])
    it.drain()
    assert it.log["a"][-1].ids == ["1-1"]
    assert it.log["a"][-1].of == 2
    for _ in range(int(IDLE_S) + 2):
        it.sleep()
    assert not it.shard.rooms


def test_what_was_left_out_below_the_mark_is_counted_by_the_one_batch() -> None:
    """An owner that learns late where the log ends has counted some of what is in it."""
    window = Window(lambda: 0.99)
    for item in range(CARRIED + 50):
        window.add((1, item), str(item), raw("ann"), 10)
    window.retract([str(item) for item in range(10, 20)])
    window.covered((1, 15))
    found = 0
    while (taken := window.take()) is not None:
        window.finish(taken)
        found += taken.of
    assert found == CARRIED + 50 - 15
    for mark in (CARRIED - 1, CARRIED + 7, CARRIED + 50):
        window = Window(lambda: 0.99)
        for item in range(CARRIED + 50):
            window.add((1, item), str(item), raw("ann"), 10)
        window.retract([str(item) for item in range(CARRIED)])
        window.covered((1, mark))
        taken = window.take()
        assert (0 if taken is None else taken.of) == CARRIED + 50 - mark


# At those who hold the batches: the real engine.


class Box:
    """A worker's copy of one room, with viewers that come and go."""

    def __init__(self, rig: Rig, broker: MemoryBroker) -> None:
        self.rig = rig
        self.broker = broker
        self.gone: set[str] = set()
        self.tasks: list[asyncio.Task[Any]] = []
        self.watch = Watch(
            broker,
            rig.engine,
            8,
            lambda _room, _parked: None,
            lambda _parked, _error: None,
            self._spawn,
            lambda: None,
            lambda _room: self.gone,
            lambda _room, _seq, _data: None,
        )
        self.batches: list[list[str]] = []
        self.told: list[list[str]] = []  # what of each was left when it came

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        self.tasks.append(asyncio.get_running_loop().create_task(work))
        return self.tasks[-1]

    async def open(self) -> None:
        self.watch.park(self.watch.room("r"), (0, None))  # type: ignore[arg-type]
        await self.tasks[-1]

    async def say(self, count: int) -> None:
        number = len(self.batches) + 1
        ids = [f"{number}-{item}" for item in range(count)]
        comments = [wire.comment(id_, {"id": "ann", "name": "Ann"}, "x", number) for id_ in ids]
        batch = wire.batch(number, number, comments, reactions=None if ids else {"fire": number})
        await self.broker.append("r", CHAT, msgspec.msgpack.encode(batch), number - 1)
        self.batches.append(ids)
        self.told.append([id_ for id_ in ids if id_ not in self.gone])
        self.rig.settle()

    def retract(self, ids: set[str]) -> None:
        self.gone |= ids
        self.watch.retract("r", ids)

    async def incarnation(self) -> int:
        info = self.rig.engine.room_info(b"r")
        assert info is not None
        return int(info["incarnation"])


def given_to(viewer: Viewer) -> dict[int, list[str]]:
    """The ids of comments by number of their batch."""
    found: dict[int, list[str]] = {}
    for _, message in viewer.got:
        if message["t"] == "batch":
            assert int(message["id"].rpartition("c")[2]) not in found
            found[int(message["id"].rpartition("c")[2])] = [comment["id"] for comment in message.get("m", ())]
    return found


looks = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(0, 4)),
        st.tuples(st.just("retract"), st.integers(1, 6)),
        st.tuples(st.just("ahead"), st.integers(0, 3)),
        st.tuples(st.just("join"), st.sampled_from([JSON, MSGPACK, SSE])),
        st.tuples(st.just("resume"), st.sampled_from([JSON, MSGPACK, SSE, POLL]), st.integers(0, 30)),
    ),
    min_size=6,
    max_size=24,
)


@bounded(60)
@given(looks, st.integers(0, 999))
def test_who_comes_is_not_given_what_is_gone_and_is_given_all_else(looks: list[tuple[Any, ...]], seed: int) -> None:
    asyncio.run(_looked(looks, random.Random(seed)))


async def _looked(looks: list[tuple[Any, ...]], chance: random.Random) -> None:
    with Rig() as rig:
        broker = MemoryBroker()
        box = Box(rig, broker)
        await box.open()
        came: list[tuple[Viewer, dict[int, list[str]], int]] = []
        for what, *about in [*looks, ("join", JSON), ("resume", POLL, 0)]:
            if what == "say":
                await box.say(about[0])
            elif what == "retract":
                ids = [id_ for batch in box.batches for id_ in batch]
                box.retract({*chance.sample(ids, min(about[0], len(ids))), "never-said"})
            elif what == "ahead":
                box.retract({f"{len(box.batches) + 1}-{about[0]}"})
            else:
                head = len(box.batches)
                since = 0 if what == "join" else min(about[1], head)
                query = "" if what == "join" else f"?since=i{await box.incarnation()}.m0.c{since}"
                if about[0] == POLL and since == head:
                    continue  # it would wait
                viewer = rig.join("r", about[0], query=query)
                rig.settle()
                wanted = {
                    number: [id_ for id_ in ids if id_ not in box.gone]
                    for number, ids in enumerate(box.batches, 1)
                    if number > since
                }
                assert given_to(viewer) == wanted
                came.append((viewer, wanted, head))
        await box.say(1)
        for viewer, wanted, head in came:
            later = {} if viewer.enc == POLL else dict(enumerate(box.told[head:], head + 1))
            assert given_to(viewer) == wanted | later
        await broker.close()


comments = st.lists(st.sampled_from("abcdefgh"), max_size=8, unique=True)


@given(comments, st.sets(st.sampled_from("abcdefghij")))
def test_without_takes_these_and_leaves_the_rest_as_it_was(ids: list[str], gone: set[str]) -> None:
    batch = wire.batch(3, 7, [wire.comment(id_, {"id": "ann", "name": "Ä"}, id_, 1) for id_ in ids], viewers=4, of=99)
    data = msgspec.msgpack.encode(batch)
    left, stripped = without(data, gone)
    found = msgspec.msgpack.decode(stripped)
    assert found == {**batch, "m": [comment for comment in batch["m"] if comment["id"] not in gone]}
    assert left == len(found["m"])
    assert (stripped is data) == (not gone & set(ids))
    assert without(stripped, gone) == (left, stripped)


def test_without_leaves_alone_what_is_no_batch() -> None:
    looked: Callable[[bytes], tuple[int, bytes]] = lambda data: without(data, {"a"})  # noqa: E731
    for data in (b"", b"\xc1", msgspec.msgpack.encode({"m": 3}), msgspec.msgpack.encode({"t": "batch"})):
        assert looked(data)[1] is data
