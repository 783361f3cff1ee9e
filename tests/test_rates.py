"""What rooms are offered at all workers together."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.rates import FRESH_S, ROOMS, SUBJECT, WORKERS, RoomRates


class Fleet:
    """Workers that hear each other at once, themselves too."""

    def __init__(self, *names: str) -> None:
        self.now = 100.0
        self.messages: list[bytes] = []
        self.workers = {name: RoomRates(name, self.emit) for name in names}

    async def emit(self, subject: str, message: bytes) -> None:
        assert subject == SUBJECT
        self.messages.append(message)
        for worker in self.workers.values():
            worker.heard(message, self.now)


async def test_each_adds_up_what_the_others_say() -> None:
    fleet = Fleet("a", "b", "c")
    await fleet.workers["a"].tell({"derby": 200.0, "final": 150.0})
    await fleet.workers["b"].tell({"derby": 300.0})
    assert fleet.workers["a"].elsewhere(100.0) == {"derby": 300.0}
    assert fleet.workers["b"].elsewhere(100.0) == {"derby": 200.0, "final": 150.0}
    assert fleet.workers["c"].elsewhere(100.0) == {"derby": 500.0, "final": 150.0}


async def test_nothing_is_said_where_nothing_is_worth_it() -> None:
    fleet = Fleet("a", "b")
    await fleet.workers["a"].tell({})
    assert fleet.messages == []


async def test_the_newest_word_holds_and_for_three_seconds() -> None:
    fleet = Fleet("a", "b")
    await fleet.workers["a"].tell({"derby": 200.0})
    fleet.now = 102.0
    await fleet.workers["a"].tell({"final": 500.0})
    assert fleet.workers["b"].elsewhere(102.0 + FRESH_S) == {"final": 500.0}
    assert fleet.workers["b"].elsewhere(102.1 + FRESH_S) == {}
    assert fleet.workers["b"]._said == {}


async def test_a_message_has_the_rooms_with_most_and_is_bounded() -> None:
    fleet = Fleet("a", "b")
    await fleet.workers["a"].tell({f"r{number}": float(number) for number in range(ROOMS + 44)})
    found = fleet.workers["b"].elsewhere(100.0)
    assert sorted(found.values()) == [float(number) for number in range(44, ROOMS + 44)]


def test_the_workers_that_are_known_are_bounded_and_make_room() -> None:
    it = RoomRates("me", Fleet().emit)
    for number in range(WORKERS + 100):
        it.heard(msgspec.msgpack.encode((f"w{number}", {"derby": 1.0})), 100.0)
    assert it.elsewhere(100.0) == {"derby": float(WORKERS)}
    it.heard(msgspec.msgpack.encode(("w0", {"derby": 11.0})), 100.0)  # who is known goes on
    assert it.elsewhere(100.0) == {"derby": WORKERS + 10.0}
    it.heard(msgspec.msgpack.encode(("late", {"derby": 7.0})), 104.0)
    assert it.elsewhere(104.0) == {"derby": 7.0}


@pytest.mark.parametrize(
    "message",
    [
        None,
        "a",
        ("a",),
        ("a", []),
        (1, {"derby": 1.0}),
        ("a", {"derby": "many"}),
        ("a", {"derby": -1.0}),
        ("a", {"derby": 1e10}),
        ("a", {"derby": float("nan")}),
        ("a", {"derby": float("inf")}),
        ("a", {f"r{number}": 1.0 for number in range(ROOMS + 1)}),
    ],
)
def test_what_is_no_such_message_changes_nothing(message: object) -> None:
    it = RoomRates("me", Fleet().emit)
    with pytest.raises(msgspec.DecodeError):
        it.heard(msgspec.msgpack.encode(message), 100.0)
    assert it.elsewhere(100.0) == {}


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.integers(0, 20),
            st.dictionaries(st.sampled_from(["derby", "final"]), st.integers(0, 1000)),
        ),
        max_size=40,
    )
)
def test_the_sum_is_of_the_last_words(moves: list[tuple[str, int, dict[str, int]]]) -> None:
    it = RoomRates("c", Fleet().emit)
    last: dict[str, tuple[float, dict[str, int]]] = {}
    now = 100.0
    for worker, quarters, rates in moves:
        now += quarters / 4
        it.heard(msgspec.msgpack.encode((worker, rates)), now)
        last[worker] = (now, rates)
        fresh = [said for name, (when, said) in last.items() if name != "c" and now - when <= FRESH_S]
        rooms = {room for said in fresh for room in said}
        assert it.elsewhere(now) == {room: sum(said.get(room, 0) for said in fresh) for room in rooms}
