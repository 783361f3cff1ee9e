"""Token buckets in shared memory: how much there is, what a flood of others can do, and many processes at once."""

import mmap
import os
import struct
import time
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge._fast.buckets import Buckets, Purse

SEED = 0x5EED
LINE = 64


def made(size: int, per_s: float, lines: int = 1024, seed: int = SEED) -> Buckets:
    return Buckets(size, per_s, bytearray(lines * LINE), seed)


def taken(buckets: Buckets, key: bytes | str, now: float, most: int = 1000) -> int:
    """How many there were."""
    return next((count for count in range(most) if buckets.take(key, now)), most)


def test_a_burst_and_then_the_rate() -> None:
    buckets = made(10, 60.0)
    assert taken(buckets, b"a", 100.0) == 10
    assert buckets.take(b"a", 100.0) == pytest.approx(6.0)
    assert buckets.take(b"b", 100.0) == 0.0
    assert buckets.take(b"a", 105.9) > 0
    assert buckets.take(b"a", 106.1) == 0.0
    assert buckets.take(b"a", 106.2) > 5
    assert taken(buckets, b"a", 1000.0) == 10  # no more than that is saved up


def test_no_limit() -> None:
    buckets = Buckets(0, 60.0, bytearray(), SEED)
    assert not any(buckets.take(b"a", 0.0) for _ in range(1000))
    assert buckets.wait(b"a", 0.0) == 0.0
    buckets.give(b"a", 0.0)
    assert Purse(buckets, b"a", buckets, b"a").take(0.0) is None


def test_one_in_a_while() -> None:
    buckets = made(1, 5.0)
    assert buckets.take("a", 0.0) == 0.0
    assert buckets.take("a", 4.9) == pytest.approx(0.1)
    assert buckets.take("a", 5.0) == 0.0


@pytest.mark.parametrize("size, per_s", [(7, 3.0), (1, 1.0), (50_000, 1.0), (200_000, 1.0), (7_500, 30.0), (3, 0.1)])
@pytest.mark.parametrize("start", [0.0, 12345.678, 9_999_999.9, 17_592_186.0])  # the last is just before a round ends
def test_who_waits_as_long_as_told_is_let_in(size: int, per_s: float, start: float) -> None:
    buckets = made(size, per_s)
    now = start
    assert taken(buckets, "a", now, 300_000) == size
    for _ in range(200):
        wait_s = buckets.take("a", now)
        if wait_s:
            now += wait_s
            assert buckets.take("a", now) == 0.0
    assert now > start


def test_waiting_takes_nothing_and_giving_takes_back() -> None:
    buckets = made(2, 10.0)
    assert [buckets.wait("a", 1.0) for _ in range(9)] == [0.0] * 9
    assert taken(buckets, "a", 1.0) == 2
    assert buckets.wait("a", 1.0) == pytest.approx(5.0)
    buckets.give("a", 1.0)
    assert taken(buckets, "a", 1.0) == 1
    for _ in range(5):
        buckets.give("a", 1.0)  # no more than all of it
    assert taken(buckets, "a", 1.0) == 2
    buckets.give("nobody", 1.0)
    assert taken(buckets, "nobody", 1.0) == 2


@pytest.mark.parametrize("size", [150_000, 200_000, 999_999, 10_000_000])
def test_great_rates_are_never_more_than_set(size: int) -> None:
    buckets = made(size, 1.0)
    passed = sum(buckets.take("a", 1000.0 + step / 1_000_000) == 0.0 for step in range(100_000))
    assert passed == 100_000
    left = taken(buckets, "a", 1000.1, 10_000_001)
    assert 0.79 * size <= passed + left <= 1.1 * size + 1


# Times that are wholly arbitrary: what counts is what was let through, in whatever stretch of time.
@given(
    st.integers(1, 12),
    st.sampled_from([0.5, 1.0, 7.3, 30.0, 60.0]),
    st.floats(0, 2e7),
    st.lists(st.floats(0, 12.0), max_size=120),
)
def test_no_stretch_of_time_has_more_than_its_share(size: int, per_s: float, start: float, steps: list[float]) -> None:
    buckets = made(size, per_s)
    now, times = start, []
    for step in steps:
        now += step / size
        if not buckets.take("a", now):
            times.append(now)
    for first, begin in enumerate(times):
        for last in range(first, len(times)):
            most = size + (Fraction(times[last]) - Fraction(begin)) * size / Fraction(per_s)
            assert last - first + 1 <= most + Fraction(1, 10**5)


class Naive:
    """A bucket as one imagines it: so many in it, and some more as time passes."""

    def __init__(self, size: int, per_s: float) -> None:
        self.size, self.rate, self.left, self.then = size, size / per_s, float(size), 0.0

    def ready(self, now: float) -> bool:
        self.left = min(self.size, self.left + (now - self.then) * self.rate)
        self.then = now
        return self.left >= 1 - 1e-6


# Steps of 1/8 s and rates that are powers of two: so nothing is a matter of rounding.
steps_of_two = st.lists(st.tuples(st.integers(0, 40), st.sampled_from("ab")), max_size=200)


@given(st.sampled_from([1, 2, 4, 16]), st.sampled_from([1.0, 4.0, 32.0]), steps_of_two)
def test_buckets_are_as_one_imagines_them(size: int, per_s: float, moves: list[tuple[int, str]]) -> None:
    buckets, naive = made(size, per_s), {key: Naive(size, per_s) for key in "ab"}
    now = 1000.0
    for eighths, key in moves:
        now += eighths / 8
        ready = naive[key].ready(now)
        naive[key].left -= ready
        wait_s = buckets.take(key, now)
        assert (wait_s == 0) == ready
        if wait_s:
            assert wait_s == pytest.approx((1 - naive[key].left) / naive[key].rate, abs=1e-6)


@pytest.mark.parametrize("behind_s", [0.001, 1.0, 29.0, 59.0])
def test_a_worker_whose_clock_is_behind_finds_what_was_taken(behind_s: float) -> None:
    buckets = made(3, 30.0)
    assert taken(buckets, "a", 1000.0) == 3
    assert buckets.take("a", 1000.0 - behind_s) > 10.0
    assert buckets.take("a", 1000.0) == pytest.approx(10.0)


def test_keys_are_bytes_or_any_text() -> None:
    buckets = made(1, 60.0)
    keys = ["a", "é", "я", "😀", "\ud800", "", "a" * 1000, b"\xff", b"b"]
    assert [buckets.take(key, 0.0) for key in keys] == [0.0] * len(keys)
    assert all(buckets.take(key, 0.0) > 0 for key in keys)
    for bad in (None, 1, bytearray(b"a")):
        with pytest.raises(TypeError, match="bytes or str"):
            buckets.take(bad, 0.0)  # type: ignore[arg-type]


def test_another_seed_is_another_place() -> None:
    """Who does not know it cannot know which keys share a set: of 64 sets, how many do two seeds agree about?"""
    memory = bytearray(64 * LINE)

    def places(seed: int) -> list[int]:
        found = []
        for number in range(200):
            memory[:] = bytes(len(memory))
            Buckets(1, 60.0, memory, seed).take(b"%d" % number, 1.0)
            found.append(next(at for at in range(64) if any(memory[at * LINE : (at + 1) * LINE])))
        return found

    one, other = places(1), places(2)
    assert one == places(1)
    assert len(set(one)) > 50  # spread over all of them
    assert sum(a == b for a, b in zip(one, other, strict=True)) < 20


@pytest.mark.parametrize(
    "size, per_s, memory, problem",
    [
        (1, 60.0, bytearray(63), "whole line"),
        (1, 60.0, bytearray(), "whole line"),
        (1, 60.0, memoryview(bytearray(80))[1:], "whole words"),
        (1, 0.0, bytearray(64), "between 0 and a day"),
        (1, -1.0, bytearray(64), "between 0 and a day"),
        (1, float("nan"), bytearray(64), "between 0 and a day"),
        (1, 1e9, bytearray(64), "between 0 and a day"),
    ],
)
def test_what_cannot_be_is_refused(size: int, per_s: float, memory: bytearray, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Buckets(size, per_s, memory, SEED)


def test_memory_must_be_writable_and_is_kept() -> None:
    with pytest.raises((BufferError, ValueError)):
        Buckets(1, 1.0, bytes(64), SEED)
    memory = bytearray(128)
    buckets = Buckets(1, 1.0, memory, SEED)
    with pytest.raises(BufferError):
        memory.clear()
    del buckets
    memory.clear()


# What a flood of others can do.


def test_who_has_taken_much_is_not_pushed_out() -> None:
    buckets = made(10, 60.0, lines=4)
    now = 1000.0
    assert taken(buckets, "insists", now) == 10
    for number in range(20_000):
        now += 0.0002
        buckets.take(b"%d" % number, now)
        assert buckets.take("insists", now) > 0
    assert buckets.evicted > 10_000


def test_who_goes_on_while_others_flood_gets_the_rate_and_no_more() -> None:
    buckets = made(10, 60.0, lines=4)
    got = 0
    for number in range(60_000):
        now = 1000.0 + number / 1000
        buckets.take(b"%d" % number, now)
        got += buckets.take("insists", now) == 0.0
    assert got <= 20


def test_of_equals_the_oldest_goes_and_of_others_which_lacks_least() -> None:
    buckets = made(4, 60.0, lines=1)
    keys = [b"%d" % number for number in range(8)]
    for second, key in enumerate(keys):
        assert buckets.take(key, 100.0 + second) == 0.0
    assert buckets.evicted == 0
    buckets.take(b"new", 110.0)
    assert buckets.evicted == 1
    assert [taken(buckets, key, 110.0, 4) for key in keys[1:]] == [3] * 7
    buckets = made(4, 60.0, lines=1)
    for key in keys:
        assert taken(buckets, key, 100.0, 1 + (key != b"5")) == 1 + (key != b"5")
    buckets.take(b"new", 100.0)
    assert buckets.evicted == 1
    assert [taken(buckets, key, 100.0, 4) for key in keys if key != b"5"] == [2] * 7


def test_what_is_full_again_is_replaced_first() -> None:
    buckets = made(2, 10.0, lines=1)
    for number in range(8):
        buckets.take(b"%d" % number, 100.0 + number)
    for number in range(3):
        assert buckets.take(b"new %d" % number, 107.5) == 0.0  # those of 100, 101 and 102
    assert buckets.evicted == 0
    assert all(taken(buckets, b"%d" % number, 107.5, 2) == 1 for number in range(3, 8))


# Several at once: all are taken, or none.


def test_all_are_taken_or_none() -> None:
    user, room = made(3, 30.0), made(5, 1.0)
    assert [Purse(user, "ann", room, "derby").take(10.0) for _ in range(3)] == [None] * 3
    refused = Purse(user, "ann", room, "derby").take(10.0)
    assert refused is not None
    assert refused[0] is user
    assert refused[1] == pytest.approx(10.0)
    assert [Purse(user, "bob", room, "derby").take(10.0) for _ in range(2)] == [None] * 2
    refused = Purse(user, "bob", room, "derby").take(10.0)
    assert refused is not None
    assert refused[0] is room
    assert refused[1] == pytest.approx(0.2)
    assert taken(user, "bob", 10.0) == 1  # what the room refused was not taken
    assert Purse().take(10.0) is None


def test_what_was_taken_is_given_back_where_a_later_one_refuses() -> None:
    """The same bucket twice in one call: there is one when it is looked at, and none when it is taken."""
    first, twice = made(5, 30.0), made(1, 30.0)
    refused = Purse(first, "ann", twice, "x", twice, "x").take(10.0)
    assert refused is not None
    assert refused[0] is twice
    assert taken(first, "ann", 10.0) == 5
    assert taken(twice, "x", 10.0) == 1


def test_what_is_no_list_of_pairs() -> None:
    buckets = made(1, 1.0)
    with pytest.raises(ValueError, match="pairs"):
        Purse(buckets)
    with pytest.raises(ValueError, match="pairs"):
        Purse(*[buckets, "a"] * 9)
    with pytest.raises(TypeError):
        Purse("a", buckets)
    with pytest.raises(TypeError):
        Purse(buckets, None)  # type: ignore[arg-type]


# Many processes at once, as the workers of a box are: forked, with the memory in common.

PROCESSES = 4


def together(work: Callable[[int], list[int]], processes: int = PROCESSES) -> list[list[int]]:
    """What each of the processes counted. They start at the same moment."""
    gate_read, gate_write = os.pipe()
    children = []
    for number in range(processes):
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            status = 1
            try:
                os.close(gate_write)
                os.read(gate_read, 1)  # ends for all when the gate is closed
                found = work(number)
                with os.fdopen(write, "wb") as out:
                    out.write(struct.pack(f"{len(found)}I", *found))
                status = 0
            finally:
                os._exit(status)
        os.close(write)
        children.append((pid, read))
    os.close(gate_read)
    os.close(gate_write)
    said = []
    for pid, read in children:
        with os.fdopen(read, "rb") as answer:
            data = answer.read()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        said.append(list(struct.unpack(f"{len(data) // 4}I", data)))
    return said


@pytest.mark.parametrize("size", [1, 2, 20])
def test_processes_together_take_no_more_than_there_is(size: int) -> None:
    """With time standing still, and each bucket begun by whoever comes first."""
    keys = [b"%d" % number for number in range(20_000 // size)]
    memory = mmap.mmap(-1, 1 << 20)  # far more than the keys, or one would be pushed out by another

    def work(_: int) -> list[int]:
        buckets = Buckets(size, 60.0, memory, SEED)
        return [taken(buckets, key, 1000.0, size + 1) for key in keys]

    sums = [sum(each) for each in zip(*together(work), strict=True)]
    assert max(sums) == size
    # Two that begin a bucket at the same moment may both be charged for both; but not often.
    assert sum(sums) > 0.9 * size * len(keys)
    assert all(Buckets(size, 60.0, memory, SEED).take(key, 1000.0) > 0 for key in keys[-1000:])


def test_two_that_begin_a_bucket_at_the_same_moment_have_one_between_them() -> None:
    """In lockstep, line by line; and as their clocks differ, they find another place for it each."""
    memory, steps = mmap.mmap(-1, 20_000 * LINE), mmap.mmap(-1, 2 * LINE)
    step, view = memoryview(steps).cast("Q"), memoryview(memory)
    lines = [Buckets(1, 60.0, view[at : at + LINE], SEED) for at in range(0, len(memory), LINE)]
    for buckets in lines:
        for number in range(4):
            buckets.take(b"%d" % number, 940.05 + number / 10)
    deadline = time.monotonic() + 2.0  # where both have to share a core, these are fewer lines

    def work(number: int) -> list[int]:
        mine, other, found = number * 8, 8 - number * 8, []
        for count, buckets in enumerate(lines):
            step[mine] = count + 1
            tries = 0
            while step[other] <= count and time.monotonic() < deadline:
                tries += 1
                if tries > 100:
                    os.sched_yield()
            found.append(int(buckets.take(b"x", 1000.0 + number / 10) == 0.0))
        return found

    sums = [sum(each) for each in zip(*together(work, 2), strict=True)]
    assert max(sums) == 1
    assert sum(sums) > 0  # both may be refused, which is the safe side


def test_a_bucket_that_is_there_twice_is_made_one() -> None:
    memory = bytearray(LINE)
    buckets = Buckets(5, 50.0, memory, SEED)
    assert taken(buckets, "x", 1000.0, 3) == 3
    memory[5 * 8 : 6 * 8] = memory[:8]
    assert buckets.wait("x", 1000.0) == pytest.approx(20.0)  # six of five are taken
    assert buckets.take("x", 1000.0) == pytest.approx(20.0)
    assert [at for at in range(8) if any(memory[at * 8 : at * 8 + 8])] == [0]
    assert buckets.wait("x", 1000.0) == pytest.approx(20.0)
    assert buckets.take("x", 1020.0) == 0.0


def test_processes_that_flood_one_set_push_out_nobody_who_has_taken_much() -> None:
    memory = mmap.mmap(-1, LINE)
    assert taken(Buckets(5, 60.0, memory, SEED), "insists", 1000.0) == 5

    def work(number: int) -> list[int]:
        buckets = Buckets(5, 60.0, memory, SEED)
        found = 0
        for turn in range(20_000):
            now = 1000.0 + turn / 10_000
            buckets.take(b"%d %d" % (number, turn), now)
            found += buckets.take("insists", now) == 0.0
        return [found, buckets.evicted]

    answers = together(work)
    assert [found for found, _ in answers] == [0] * PROCESSES
    assert sum(evicted for _, evicted in answers) > 20_000


def test_processes_take_all_or_none() -> None:
    """What the users' limits let through is what is missing from the room, and nothing else."""
    users_memory, room_memory = mmap.mmap(-1, 1 << 20), mmap.mmap(-1, LINE)
    room = Buckets(50_000, 1.0, room_memory, SEED)
    assert room.take("derby", 1000.0) == 0.0

    def work(_: int) -> list[int]:
        users = Buckets(3, 60.0, users_memory, SEED)
        mine = Buckets(50_000, 1.0, room_memory, SEED)
        return [
            sum(
                Purse(mine, "derby", users, b"%d" % number, mine, "derby").take(1000.0) is None
                for number in range(4000)
            )
        ]

    passed = sum(count for (count,) in together(work))
    assert 0 < passed <= 3 * 4000
    assert taken(room, "derby", 1000.0, 50_001) == 50_000 - 1 - 2 * passed
