"""Long polls: what the cursors have not seen, in one answer, and then a front door again."""

import pytest

from tests._fast.engine import CHAT, HEAD, MUST, POLL, POLLING, Rig, nothing_kept

__all__ = ["nothing_kept"]


def test_an_answer_has_what_is_new_on_both_lanes() -> None:
    with Rig() as rig:
        rig.room("a", must=2, chat=4)
        for lane in (CHAT, MUST, CHAT):
            rig.append("a", lane)
        viewer = rig.join("a", POLL, query="?since=i1.m2.c5")
        rig.until(lambda: viewer.answers)
        assert [message["id"] for _, message in viewer.got] == ["m3", "c6"]
        assert viewer.vector == "i1.m3.c6"
        assert b"Connection: keep-alive" in viewer.head


def test_one_connection_polls_again_and_again() -> None:
    with Rig() as rig:
        rig.room("a")
        viewer = rig.join("a", POLL)
        for n in range(1, 20):
            assert rig.engine.describe(viewer.id)["kind"] == POLLING
            rig.append("a", CHAT if n % 3 else MUST)
            rig.until(lambda n=n: viewer.answers == n)
            assert rig.engine.describe(viewer.id)["kind"] == HEAD
            viewer.ask("a", f"?since={viewer.vector}&user={viewer.user}")
            rig.until(lambda n=n: rig.count("joined_poll") == n + 1)
        assert rig.count("accepted") == 1
        assert len(viewer.ids["c"]) + len(viewer.ids["m"]) == 19


def test_two_requests_at_once_are_answered_in_turn() -> None:
    with Rig() as rig:
        rig.room("a")
        viewer = rig.connect("a", POLL, named=False)
        viewer.ask("a", "?since=i1.m0.c1")
        rig.until(lambda: rig.count("viewers_poll") == 1)
        rig.append("a")
        rig.until(lambda: viewer.answers == 1)
        rig.append("a")
        rig.until(lambda: viewer.answers == 2)
        assert viewer.ids["c"] == [1, 2]


@pytest.mark.parametrize("size, answers", [(10, 1), (20_000, 3)])
def test_a_long_answer_ends_and_the_next_poll_gets_the_rest(size: int, answers: int) -> None:
    with Rig() as rig:
        rig.room("a")
        for _ in range(10):
            rig.append("a", size=size)
        viewer = rig.join("a", POLL)
        for n in range(1, answers + 1):
            rig.until(lambda n=n: viewer.answers == n)
            if n < answers:
                viewer.ask("a", f"?since={viewer.vector}")
        assert viewer.position["c"] == 10


def test_a_gap_is_in_the_answer() -> None:
    with Rig() as rig:
        rig.room("a", must=5, chat=90)
        rig.append("a", MUST)
        rig.append("a")
        viewer = rig.join("a", POLL, query="?since=i1.m1.c50")
        rig.until(lambda: viewer.answers)
        assert viewer.gaps == [("m", 2, 5), ("c", 51, 90)]
        assert viewer.ids == {"m": [6], "c": [91]}


def test_another_incarnation_begins_as_if_fresh() -> None:
    with Rig() as rig:
        rig.room("a", incarnation=2)
        rig.append("a")
        viewer = rig.join("a", POLL, query="?since=i1.m7.c70")
        rig.until(lambda: viewer.answers)
        assert viewer.vector == "i2.m0.c1"
        assert viewer.ids["c"] == [1]


def test_a_poll_that_asked_to_close() -> None:
    with Rig() as rig:
        rig.room("a")
        viewer = rig.join("a", POLL, fields=["Connection: close"])
        rig.append("a")
        rig.until(lambda: viewer.end)
        assert (viewer.end, viewer.answers, viewer.ids["c"]) == ("closed", 1, [1])
        assert b"Connection: close" in viewer.head
        assert rig.count("ended") == 1 or rig.count("connections") == 1


def test_a_poll_whose_room_ends() -> None:
    with Rig() as rig:
        rig.room("a")
        viewer = rig.join("a", POLL)
        rig.engine.room_end(b"a", 1012, b"anew")
        rig.until(lambda: viewer.answers)
        assert viewer.status == "204"
        assert rig.engine.room_info(b"a") is None


def test_a_poller_that_reads_nothing_is_blocked_and_goes_on() -> None:
    with Rig(sndbuf=16384) as rig:
        rig.room("a")
        for _ in range(4):
            rig.append("a", size=30_000)
        viewer = rig.connect("a", POLL, rcvbuf=4096)
        viewer.reading = False
        rig.until(lambda: viewer._id is not None and rig.blocked(viewer))
        viewer.ask("a", "?since=i1.m0.c3&user=x")  # pipelined behind an answer that is on its way
        rig.turn(5)
        viewer.reading = True
        rig.until(lambda: viewer.answers == 1)
        assert viewer.position["c"] >= 3
