"""What the engine reports of its rooms: viewers and the time of their sweeps, only where there is news, never too much.

Time is the thing measured here, so some tests let it pass, and hold the figure against this process's own clock.
"""

import random
import select
import time

import pytest

from edge._fast import sys as fast_sys
from edge._fast.reactor import Engine
from tests._fast.engine import CHAT, JSON, MUST, POLL, SSE, Rig, Viewer, nothing_kept
from tests._fast.test_fanout import crowd
from tests._fast.test_reactor import CHOSEN

__all__ = ["nothing_kept"]

LOOKS = 32  # rooms that may be looked at for each one that may be reported


def names(rows: list[tuple[bytes, int, int]]) -> list[bytes]:
    return [name for name, _, _ in rows]


def pass_ms(ms: int) -> None:
    end = time.monotonic() + ms / 1000
    while (left := end - time.monotonic()) > 0:
        select.select([], [], [], left)


def elapsed_ms(since: float) -> int:
    return int((time.monotonic() - since) * 1000)


def test_rooms_are_reported_as_viewers_come_and_go() -> None:
    with Rig() as rig:
        for name in "abc":
            rig.room(name)
        assert rig.engine.jobs() == [], "an open room that nobody watches is no news"
        here = [rig.join("b"), rig.join("a", SSE), rig.join("b", POLL), rig.join("b", query="?lanes=must")]
        assert sorted(rig.engine.jobs()) == [(b"a", 1, 0), (b"b", 3, 0)]
        assert rig.engine.jobs() == []
        rig.leave(here[1])
        rig.until(lambda: rig.count("connections") == 3)
        assert rig.engine.jobs() == [(b"a", 0, 0)]
        rig.leave(rig.join("c"))
        rig.until(lambda: rig.count("connections") == 3)
        assert rig.engine.jobs() == [], "who has come and gone in between has changed nothing"


def test_quick_sweeps_are_no_news() -> None:
    with Rig() as rig:
        rig.room("a")
        rig.join("a")
        rig.engine.jobs()
        last = 0
        for _ in range(20):
            began = time.monotonic()
            rig.append("a")
            rig.append("a", MUST)
            rig.settle()
            for name, viewers, ms in rig.engine.jobs():
                assert (name, viewers) == (b"a", 1)
                assert ms != last or ms >= 5, "as quick as the last time"
                assert ms <= elapsed_ms(began)
                last = ms


def test_a_sweep_under_way_and_then_at_its_end_and_then_none() -> None:
    with Rig(slice_us=0) as rig:
        rig.room("a")
        crowd(rig, "a", 20)
        rig.engine.jobs()
        before = time.monotonic()
        rig.append("a")
        began = time.monotonic()
        assert rig.engine.tick()
        rig.engine.jobs()  # too early for news: it must not be forgotten for that
        for _ in range(2):
            pass_ms(20)
            least = elapsed_ms(began)
            ((name, viewers, ms),) = rig.engine.jobs()
            assert (name, viewers) == (b"a", 20)
            assert 20 <= least <= ms <= elapsed_ms(before)
        pass_ms(10)
        while not rig.engine.room_info(b"a")["chat_took_ns"]:  # type: ignore[index]
            rig.turn()
        whole = rig.engine.room_info(b"a")["chat_took_ns"] // 1_000_000  # type: ignore[index]
        assert whole >= ms + 10
        assert rig.engine.jobs() == [(b"a", 20, whole)], "at its end it is the whole of it"
        assert rig.engine.jobs() == [(b"a", 20, 0)], "and there was none since"
        assert rig.engine.jobs() == []
        rig.settle()


def test_a_sweep_that_waits_for_its_first_turn_is_under_way() -> None:
    with Rig(slice_us=0) as rig:
        rig.room("a")
        rig.room("b")
        crowd(rig, "a", 20)
        rig.join("b")
        rig.engine.jobs()
        rig.append("b")
        for _ in range(4):  # scores go first, so the comments of b have to wait
            rig.append("a", MUST)
            rig.turn(1)
        began = time.monotonic()
        rig.engine.jobs()
        pass_ms(10)
        least = elapsed_ms(began)
        ((name, _, ms),) = rig.engine.jobs()
        assert name == b"b"
        assert ms >= least >= 10
        rig.settle()


def test_the_longest_sweep_since_the_last_call() -> None:
    with Rig(slice_us=0) as rig:
        rig.room("a")
        crowd(rig, "a", 12)
        rig.engine.jobs()
        took = []
        for ms in (2, 30, 1):
            rig.append("a")
            rig.turn()
            pass_ms(ms)
            rig.settle()
            took.append(rig.engine.room_info(b"a")["chat_took_ns"] // 1_000_000)  # type: ignore[index]
        assert rig.engine.jobs() == [(b"a", 12, max(took))]
        assert max(took) >= 30


def test_a_long_sweep_is_reported_each_time_though_it_is_as_long_as_the_last() -> None:
    with Rig(slice_us=0) as rig:
        rig.room("a")
        crowd(rig, "a", 12)
        rig.engine.jobs()
        for _ in range(3):
            rig.append("a")
            rig.turn()
            pass_ms(6)
            rig.settle()
            ((_, _, ms),) = rig.engine.jobs()
            assert ms >= 6


def test_scores_are_not_what_is_timed() -> None:
    with Rig(slice_us=0) as rig:
        rig.room("a")
        crowd(rig, "a", 12)
        rig.engine.jobs()
        rig.append("a", MUST)
        rig.turn()
        pass_ms(10)
        assert rig.engine.jobs() == []
        rig.settle()
        rig.join("a")
        assert rig.engine.jobs() == [(b"a", 13, 0)]


@pytest.mark.parametrize("most", [1, 3, 100])
def test_no_more_than_asked_for_and_the_rest_in_the_next_call(most: int) -> None:
    with Rig() as rig:
        wanted = [b"r%d" % n for n in range(10)]
        for name in wanted:
            rig.room(name.decode())
            rig.join(name.decode())
        told = []
        while rows := rig.engine.jobs(most):
            assert len(rows) <= most
            told += names(rows)
        assert told == wanted, "each once, those first whose news is the oldest"


def test_the_default_bound() -> None:
    with Rig(rooms=600, capacity=1024) as rig:
        for n in range(600):
            rig.room(f"r{n}")
        viewers = [rig.connect(f"r{n}", named=False) for n in range(600)]
        rig.until(lambda: all(viewer.position for viewer in viewers))
        assert len(rig.engine.jobs()) == 512
        assert len(rig.engine.jobs()) == 88
        assert rig.engine.jobs() == []


def test_what_is_looked_at_in_a_call_is_bounded_as_well() -> None:
    """Rooms that have been busy without news stand in the list too: a call passes so many of them and no more."""
    with Rig(rooms=80) as rig:
        for n in range(2 * LOOKS + 1):
            rig.room(f"r{n}")
            rig.join(f"r{n}")
        assert len(rig.engine.jobs()) == 2 * LOOKS + 1
        while rig.engine.jobs():
            pass
        for n in range(2 * LOOKS):
            rig.leave(rig.join(f"r{n}"))
        rig.until(lambda: rig.count("connections") == 2 * LOOKS + 1)
        rig.join(f"r{2 * LOOKS}")
        assert [names(rig.engine.jobs(1)) for _ in range(4)] == [[], [], [b"r%d" % (2 * LOOKS)], []]


def test_none_at_all_may_be_asked_for() -> None:
    with Rig() as rig:
        rig.room("a")
        rig.join("a")
        assert rig.engine.jobs(0) == []
        assert rig.engine.jobs() == [(b"a", 1, 0)]
        for wrong in (-1, 1 << 32):
            with pytest.raises(OverflowError):
                rig.engine.jobs(wrong)


def test_a_room_that_closes_is_reported_empty_if_it_was_reported_full() -> None:
    with Rig() as rig:
        for name in "abc":
            rig.room(name)
            rig.join(name)
        rig.engine.jobs()
        rig.room("d")
        rig.join("d")
        for name in (b"a", b"b", b"d"):
            rig.engine.room_end(name, 4001, b"over")
        assert sorted(rig.engine.jobs(1) + rig.engine.jobs(1) + rig.engine.jobs(1)) == [(b"a", 0, 0), (b"b", 0, 0)]
        assert rig.engine.jobs() == []


def test_a_room_that_is_renumbered_is_reported_once_as_it_is() -> None:
    with Rig() as rig:
        rig.room("a")
        rig.join("a")
        rig.join("a")
        rig.engine.jobs()
        rig.engine.room_end(b"a", 1012, b"anew")
        rig.room("a", incarnation=2)
        rig.join("a")
        assert rig.engine.jobs() == [(b"a", 1, 0)]
        rig.engine.room_end(b"a", 1012, b"anew")
        rig.room("a", incarnation=3)
        assert rig.engine.jobs() == [(b"a", 0, 0)]
        rig.join("a")
        rig.engine.jobs()
        rig.engine.room_end(b"a", 1012, b"anew")
        rig.room("a", incarnation=4)
        rig.join("a")
        assert rig.engine.jobs() == [], "nothing is another than what was told"


def test_a_room_that_closes_in_the_middle_of_the_list() -> None:
    with Rig() as rig:
        for name in "abcde":
            rig.room(name)
            rig.join(name)
        for name in (b"c", b"a", b"e"):  # the middle, the first, the last
            rig.engine.room_end(name, 4001, b"over")
        rig.room("f")
        rig.join("f")
        assert names(rig.engine.jobs()) == [b"b", b"d", b"f"]


def test_who_listens_to_the_reports_knows_what_there_is() -> None:
    """Whatever happens, in whatever slices it is asked for: who notes the last word on each room is right."""
    dice = random.Random(11)
    with Rig(slice_us=0, rooms=12) as rig:
        heard: dict[bytes, int] = {}
        here: list[Viewer] = []
        open_ = set()

        def hear(most: int) -> int:
            rows = rig.engine.jobs(most)
            assert len(set(names(rows))) == len(rows) <= most
            heard.update({name: viewers for name, viewers, _ in rows})
            return len(rows)

        for _ in range(400):
            name = f"r{dice.randrange(12)}"
            what = dice.randrange(8)
            if name not in open_:
                rig.room(name, incarnation=dice.randrange(1, 1 << 40))
                open_.add(name)
            elif what < 3:
                here.append(rig.join(name, dice.choice((JSON, SSE))))
            elif what < 5 and here:
                rig.leave(here.pop(dice.randrange(len(here))), reset=dice.random() < 0.5)
                rig.turn(2)
            elif what == 5:
                rig.append(name, dice.choice((MUST, CHAT)))
                rig.turn(dice.randrange(2))
            elif what == 6:
                rig.engine.room_end(name.encode(), 1012, b"anew")
                open_.discard(name)
                for viewer in [viewer for viewer in here if viewer.room == name]:
                    here.remove(viewer)
                    rig.leave(viewer)
            else:
                hear(dice.randrange(1, 4))
        rig.settle()
        rig.until(lambda: rig.count("connections") == len(here))
        for _ in range(100):
            hear(1)
        assert hear(100) == 0
        for n in range(12):
            name = f"r{n}"
            assert heard.get(name.encode(), 0) == sum(viewer.room == name for viewer in here), name


def test_rooms_that_are_quiet_cost_a_call_nothing() -> None:
    """A call without news looks at none of 20,000 rooms: one that looked at them all would take 40 us at the least."""
    memory = fast_sys.memory()
    engine = Engine(None, 1, 20_000, 1, CHOSEN)
    for n in range(20_000):
        engine.room_open(b"r%d" % n, 1, 0, 0)
    began = time.process_time()
    for _ in range(5000):
        assert engine.jobs() == []
    assert time.process_time() - began < 0.1
    engine.close()
    assert engine.jobs() == []
    assert fast_sys.memory() == memory
