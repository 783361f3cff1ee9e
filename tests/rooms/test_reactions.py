"""A room's totals: what was heard, added to what the log says. They never go back, and the newest batches tell all."""

from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.rooms.reactions import EVERY_BATCHES, EVERY_COMMENTS, EVERY_S, MOST, Sums, Totals
from edge.rooms.shard import OwnedRoom, OwnedShard

KINDS = ("fire", "heart", "wow")


def test_nothing_is_said_where_nobody_reacts() -> None:
    totals = Totals(KINDS)
    for n in range(3 * EVERY_BATCHES):
        assert totals.take(EVERY_COMMENTS, float(n)) is None
        assert totals.due is None
    totals.add({"fire": 1})
    assert totals.due is not None
    assert totals.due < 0.0, "the first waits for nothing"


def test_a_batch_says_what_has_changed_and_a_second_later_all() -> None:
    totals = Totals(KINDS)
    assert totals.add({"fire": 2, "heart": 1}) == 3
    assert totals.due is not None
    assert totals.due < 0.0  # at once
    assert totals.take(1, 10.0) == {"fire": 2, "heart": 1}
    assert totals.due is None
    totals.add({"heart": 4})
    assert totals.due == 10.0 + EVERY_S
    assert totals.take(1, 10.2) == {"heart": 5}
    assert totals.take(1, 10.3) is None
    assert totals.due == 10.0 + EVERY_S  # who has missed the last but one is told all once more
    assert totals.take(0, 11.0) == {"fire": 2, "heart": 5}
    assert totals.due is None
    assert totals.take(1, 20.0) is None


def test_a_batch_for_reactions_alone_says_all_whenever_it_is_made() -> None:
    totals = Totals(KINDS)
    totals.add({"fire": 1})
    totals.take(1, 1.0)
    totals.add({"wow": 1})
    assert totals.take(0, 1.1) == {"fire": 1, "wow": 1}
    assert totals.due is None


def test_all_is_said_again_where_comments_go_on() -> None:
    totals = Totals(KINDS)
    totals.add({"fire": 1})
    assert totals.take(1, 0.0) == {"fire": 1}
    said = [totals.take(1, 0.1) for _ in range(2 * EVERY_BATCHES)]
    assert [at for at, found in enumerate(said, 1) if found] == [EVERY_BATCHES, 2 * EVERY_BATCHES]
    assert totals.take(EVERY_COMMENTS, 0.1) == {"fire": 1}
    assert totals.take(EVERY_COMMENTS - 1, 0.1) is None
    assert totals.take(1, 0.1) == {"fire": 1}


def test_the_log_s_totals_are_gone_on_from_however_often_they_are_read() -> None:
    totals = Totals(KINDS)
    totals.add({"fire": 1})
    totals.prime([{"fire": 5}])
    totals.prime([{"fire": 3, "heart": 2, "old": 9}, {}, {"fire": 5}, {"wow": 0, "sad": -1}])
    assert totals.take(1, 0.0) == {"fire": 6, "heart": 2}


def test_the_first_batch_of_an_owner_says_all() -> None:
    totals = Totals(KINDS)
    totals.prime([{"fire": 5}])
    assert totals.due is None
    assert totals.take(1, 0.0) == {"fire": 5}


def test_kinds_that_are_not_taken_are_not_counted() -> None:
    totals = Totals(KINDS)
    assert totals.add({"nothing": 5}) == 0
    assert totals.due is None
    assert totals.add({"nothing": 5, "wow": 1}) == 1
    assert totals.take(0, 0.0) == {"wow": 1}


def test_a_total_ends_where_numbers_do() -> None:
    totals = Totals(KINDS)
    totals.prime([{"fire": MOST}])
    totals.add({"fire": 5})
    assert totals.take(0, 0.0) == {"fire": MOST}


@pytest.mark.parametrize(
    "bad",
    [
        [["room", {"fire": 0}]],
        [["room", {"fire": -1}]],
        [["room", {"fire": 2**32 + 1}]],
        [["room", {"fire": "1"}]],
        [["", {"fire": 1}]],
        [["a room", {"fire": 1}]],
        [["r" * 65, {"fire": 1}]],
        {"room": {"fire": 1}},
    ],
)
def test_sums_that_are_none(bad: object) -> None:
    with pytest.raises(msgspec.DecodeError):
        msgspec.msgpack.decode(msgspec.msgpack.encode([bad]), type=Sums)


class Log:
    """A room's batches: how many comments each shows, and what it says of reactions. Its owner reads no more than the
    newest of them, once, before it writes."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, dict[str, int]]] = []
        self.totals = Totals(KINDS)
        self.primed = False

    def change(self) -> None:
        self.totals, self.primed = Totals(KINDS), False

    def prime(self) -> None:
        if not self.primed:
            self.totals.prime(said for _, said in self.batches[-EVERY_BATCHES:])
        self.primed = True

    def write(self, comments: int, now: float) -> dict[str, int]:
        self.prime()
        self.batches.append((comments, self.totals.take(comments, now) or {}))
        return self.batches[-1][1]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_totals_are_the_sum_of_what_was_heard_by_whichever_owner(data: st.DataObject) -> None:
    """Owners come and go, in an orderly way; nothing is counted twice, and nothing goes back."""
    log = Log()
    heard: Counter[str] = Counter()
    now = 0.0
    for _ in range(data.draw(st.integers(0, 90))):
        what = data.draw(st.sampled_from(["heard"] * 6 + ["few"] * 3 + ["many", "wait", "read", "change"]))
        due = log.totals.due
        if what == "heard":
            kind, count = data.draw(st.sampled_from(KINDS)), data.draw(st.integers(1, 3))
            assert log.totals.add({kind: count}) == count
            heard[kind] += count
        elif what == "read":
            log.prime()
        elif what == "wait":
            now += data.draw(st.sampled_from([0.05, 0.3, 2.0]))
            if due is not None and now >= due:
                assert log.write(0, now) == dict(heard), "all of them, where it is for these alone"
        elif what == "change":
            if due is not None:
                log.write(0, now)
            log.change()
        else:
            log.write(1 if what == "few" else EVERY_COMMENTS + 8, now)
    if log.totals.due is not None:
        log.write(0, now)
    shown: dict[str, int] = {}
    for at, (comments, said) in enumerate(log.batches, 1):
        assert all(shown.get(kind, 0) <= total for kind, total in said.items())
        shown |= said
        newest: dict[str, int] = {}
        for _, known in log.batches[max(0, at - EVERY_BATCHES) : at]:
            newest |= known
        assert newest == shown, "the newest batches tell all"
        assert said == shown or comments < EVERY_COMMENTS, "as does one that many comments are in"
    assert shown == dict(heard)


def decoded(data: bytes) -> dict[str, object]:
    found: dict[str, object] = msgspec.msgpack.decode(data)
    return found


def test_a_batch_for_reactions_alone_covers_no_more_than_the_last() -> None:
    shard = OwnedShard(3, 0, {"match": (7, (5, 2))}, 0.005, KINDS)
    room = shard.room("match")
    room.prime(7, (5, 2), [msgspec.msgpack.encode({"t": "batch", "ts": 50, "m": [], "r": {"fire": 4}})])
    assert room.take() is None
    room.totals.add({"fire": 1})
    taken = room.take()
    assert taken is not None
    assert (taken.comments, taken.of, taken.mark) == ([], 0, (5, 2))
    made = decoded(room.batch(taken, 100.0, 60))
    assert made == {"t": "batch", "id": "c8", "ts": 60, "m": [], "r": {"fire": 5}}
    room.window.add((9, 0), "a", msgspec.Raw(b"\xc0"), 5)  # while it is on its way
    low = shard.low()
    room.stored(taken)
    assert (room.head, room.mark) == (8, (5, 2))
    assert shard.low() == low
    taken = room.take()
    assert taken is not None
    assert (taken.of, taken.mark) == (1, (9, 1))


def test_reactions_alone_are_due_when_the_last_batch_is_out_of_the_way() -> None:
    room = OwnedRoom("match", 0, (0, 0), 0.005, KINDS)
    assert room.reactions_due(5.0) is None
    room.totals.add({"fire": 1})
    assert room.reactions_due(5.0) == float("-inf")
    room.reported(4.0, "edge", 9, 2.0)  # a broadcast takes two seconds there
    room.pace.made(4.5)
    assert room.reactions_due(5.0) == pytest.approx(8.5)


def test_a_room_with_reactions_to_tell_does_not_go_to_sleep() -> None:
    shard = OwnedShard(3, 0, {}, 0.005, KINDS)
    room = shard.room("match")
    room.prime(0, (0, 0), [])
    room.totals.add({"fire": 1})
    shard.sleep(1000.0, 60.0)
    assert shard.room("match") is room
    room.totals.take(0, 1000.0)
    shard.sleep(1000.0, 60.0)
    assert shard.room("match") is not room
