"""What a room's owner has not written yet: each comment is accounted for once, whatever is shown of them."""

import random
from collections import Counter

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.rooms.window import BATCH_BYTES, BATCH_COMMENTS, CARRIED, Taken, Window


def raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(text))


def shown(taken: Taken) -> list[str]:
    return [msgspec.msgpack.decode(comment) for comment in taken.comments]


def say(window: Window, offer: int, names: list[str], size: int = 100) -> None:
    for item, name in enumerate(names):
        window.add((offer, item), name, raw(name), size)


def drain(window: Window) -> list[Taken]:
    found = []
    while (taken := window.take()) is not None:
        window.finish(taken)
        found.append(taken)
    return found


def test_a_batch_has_what_was_said_in_order() -> None:
    window = Window()
    assert window.take() is None
    assert window.low is None
    say(window, 5, ["a", "b"])
    say(window, 7, ["c"])
    assert window.low == (5, 0)
    taken = window.take()
    assert taken is not None
    assert (shown(taken), taken.of, taken.mark) == (["a", "b", "c"], 3, (7, 1))
    assert window.low == (5, 0)  # until it is stored
    window.finish(taken)
    assert window.low is None
    assert not window


def test_what_is_said_again_is_shown_once() -> None:
    window = Window()
    say(window, 1, ["a", "a", "b"])
    taken = window.take()
    assert taken is not None
    assert not window.add((2, 0), "a", raw("a"), 10)  # under way
    window.finish(taken)
    assert shown(taken) == ["a", "b"]
    assert not window.add((3, 0), "b", raw("b"), 10)  # in the log
    assert window.take() is None
    assert window.low is None
    window.known(["c"])  # and by whoever wrote before
    assert not window.add((4, 0), "c", raw("c"), 10)


def test_what_another_owner_has_shown_leaves_the_window() -> None:
    window = Window()
    say(window, 1, ["a", "b", "c"])
    window.known(["b", "x"])
    assert [shown(taken) for taken in drain(window)] == [["a", "c"]]
    say(window, 2, ["d"])
    window.known(["d"])
    assert window.low is None
    assert window.take() is None


def test_what_is_below_a_mark_is_in_the_log() -> None:
    window = Window()
    say(window, 5, ["a", "b", "c"])
    window.covered((5, 2))
    assert window.low == (5, 2)
    assert [shown(taken) for taken in drain(window)] == [["c"]]
    say(window, 6, ["d"])
    window.covered((9, 0))
    assert window.low is None
    assert window.take() is None
    window.covered((1, 0))
    say(window, 10, ["d", "e"])  # the log accounts for it, be it as one that is only counted
    assert [shown(taken) for taken in drain(window)] == [["e"]]


def test_batches_are_bounded_in_number_and_bytes() -> None:
    window = Window()
    say(window, 1, [str(n) for n in range(BATCH_COMMENTS + 5)])
    assert [len(taken.comments) for taken in drain(window)] == [BATCH_COMMENTS, 5]
    say(window, 2, ["a", "b", "c"], BATCH_BYTES // 2)
    found = drain(window)
    assert [shown(taken) for taken in found] == [["a", "b"], ["c"]]
    assert [taken.mark for taken in found] == [(2, 2), (2, 3)]
    say(window, 3, ["huge"], BATCH_BYTES * 2)
    assert [shown(taken) for taken in drain(window)] == [["huge"]]


def test_a_flood_is_sampled_fairly_and_says_so() -> None:
    counts: Counter[int] = Counter()
    rounds, flood = 30, 4 * CARRIED
    for seed in range(rounds):
        window = Window(random.Random(seed).random)
        say(window, 1, [str(n) for n in range(flood)])
        found = drain(window)
        names = [int(name) for taken in found for name in shown(taken)]
        assert len(names) == CARRIED
        assert names == sorted(names)
        assert sum(taken.of for taken in found) == flood
        assert found[-1].mark == (1, flood)
        counts.update(name * 4 // flood for name in names)
    # Each quarter of the flood has the same chance: 7,500 of 30,000, with a deviation of about 75.
    assert all(abs(count - rounds * CARRIED / 4) < 400 for count in counts.values()), counts


def test_what_was_said_is_known_for_two_calls_at_least_however_much_is_said_meanwhile() -> None:
    window = Window()
    say(window, 1, ["a"])
    drain(window)
    for age in range(2):
        for offer in range(2, 400):
            say(window, offer, [f"{age} {offer} {n}" for n in range(250)])
            drain(window)
        window.age()
    say(window, 500, ["a", "b"])
    assert [shown(taken) for taken in drain(window)] == [["b"]]
    window.age()
    say(window, 600, ["a", "b"])
    assert [shown(taken) for taken in drain(window)] == [["a"]]


def test_what_was_left_out_is_not_counted_again() -> None:
    window = Window()
    names = [str(n) for n in range(3 * CARRIED)]
    for start in range(0, len(names), 100):
        say(window, start, names[start : start + 100])
    say(window, 10**6, names)
    assert sum(taken.of for taken in drain(window)) == len(names)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_comment_is_accounted_for_by_exactly_one_batch(data: st.DataObject) -> None:
    """Whatever comes between, the batches' ranges of places follow on each other, and `of` counts what is in each."""
    window = Window(random.Random(data.draw(st.integers(0, 999))).random)
    places: list[tuple[tuple[int, int], str]] = []
    batches: list[tuple[list[str], int, tuple[int, int]]] = []
    offer = 0
    for _ in range(data.draw(st.integers(1, 8))):
        for _ in range(data.draw(st.integers(0, 3))):
            offer += data.draw(st.integers(1, 4))
            count = data.draw(st.sampled_from([1, 3, 250, 600]))
            for item in range(count):
                name = f"{offer}.{item}"
                if window.add((offer, item), name, raw(name), data.draw(st.just(150))):
                    places.append(((offer, item), name))
        for _ in range(data.draw(st.integers(0, 3))):
            taken = window.take()
            if taken is None:
                break
            low = window.low
            assert low is not None
            assert low < taken.mark
            window.finish(taken)
            batches.append((shown(taken), taken.of, taken.mark))
    for taken in drain(window):
        batches.append((shown(taken), taken.of, taken.mark))
    before = (0, 0)
    for names, of, mark in batches:
        inside = [name for place, name in places if before <= place < mark]
        assert of == len(inside)
        assert set(names) <= set(inside)
        assert names == [name for name in inside if name in set(names)]
        assert mark > before
        before = mark
    assert sum(of for _, of, _ in batches) == len(places)
    assert window.low is None


def test_what_is_retracted_while_it_waits_is_only_counted() -> None:
    window = Window()
    say(window, 1, ["a", "b", "c"])
    window.retract(["b", "never said"])
    say(window, 2, ["b", "never said"])
    (taken,) = drain(window)
    assert (shown(taken), taken.of, taken.mark) == (["a", "c"], 3, (2, 2))
