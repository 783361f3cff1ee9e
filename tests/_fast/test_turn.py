"""Turns: deadlines come when they are due, however many and however busy, and a door that is full opens again."""

import contextlib
import socket
import time

import pytest

from tests._fast.engine import JSON, POLL, SSE, WS, Rig, nothing_kept

__all__ = ["nothing_kept"]


def test_a_head_that_does_not_end_is_refused() -> None:
    with Rig(head_ms=200) as rig:
        began = time.monotonic()
        sock = rig.dial(b"GET / HT")
        rig.until(lambda: rig.count("refused_408") == 1)
        assert time.monotonic() - began >= 0.2
        assert sock.recv(100).startswith(b"HTTP/1.1 408 ")


def test_many_deadlines_at_once_do_not_wait_for_the_next_step() -> None:
    """A turn's time is bounded; what it leaves undone it says so, and goes on in the next."""
    with Rig(close_ms=200, tick_us=1) as rig:
        rig.room("a")
        viewers = [rig.connect("a") for _ in range(150)]
        rig.until(lambda: all(viewer.position for viewer in viewers))
        rig.engine.end_all(1001, b"")
        rig.until(lambda: rig.count("ended"))
        turns = 0
        while rig.engine.tick():
            turns += 1
        assert rig.count("ended") == 150
        assert 3 < turns < 300


def test_a_request_that_nobody_answers_is_refused() -> None:
    with Rig(head_ms=500) as rig:
        rig.room("a")
        rig.admits = False
        viewer = rig.connect("a")
        rig.until(lambda: viewer.end or viewer.status)
        assert viewer.status == "503"
        assert b"Retry-After: 2" in viewer.head


def test_silence_is_pinged_and_no_answer_is_the_end() -> None:
    with Rig(ping_ms=1000, dead_ms=1000) as rig:
        rig.room("a")
        dead, alive = rig.join("a"), rig.join("a")
        rig.until(lambda: rig.count("pings") >= 2)
        rig.until(lambda: alive.raw[-1] == (9, b""))
        alive.send(b"", 10)
        rig.until(lambda: dead.end and rig.count("pongs"))
        assert (dead.end, rig.count("closed_dead")) == ("reset", 1)
        rig.append("a")
        rig.settle()
        assert alive.ids["c"] == [1]


def test_an_event_stream_has_heartbeats() -> None:
    with Rig(heartbeat_ms=1000) as rig:
        rig.room("a")
        viewer = rig.join("a", SSE)
        before = viewer.offset
        rig.until(lambda: rig.count("heartbeats") == 1)
        rig.settle()
        assert viewer.offset == before + 3
        assert viewer.end is None


def test_a_poll_ends_with_its_time_and_its_connection_after_some_more() -> None:
    with Rig(poll_ms=200, keepalive_ms=300) as rig:
        rig.room("a", must=4, chat=7)
        viewer = rig.join("a", POLL)
        rig.until(lambda: viewer.answers == 1)
        assert viewer.status == "204"
        assert viewer.vector == "i1.m4.c7"
        rig.until(lambda: viewer.end)
        assert rig.count("closed_timeout") == 1


def test_a_goodbye_that_is_not_answered_ends_in_time() -> None:
    with Rig(close_ms=200) as rig:
        rig.room("a")
        viewer = rig.join("a")
        rig.engine.end(viewer.id, 1001, b"")
        rig.until(lambda: rig.engine.describe(viewer.id) is None)
        assert rig.count("ended") == 1
        rig.until(lambda: viewer.end)
        assert viewer.close_code == 1001


def test_a_process_that_stood_still_judges_nobody_by_that() -> None:
    with Rig(blocked_ms=1500, sndbuf=16384) as rig:
        rig.room("a")
        viewer = rig.join("a", rcvbuf=4096)
        rig.block(viewer, "a")
        time.sleep(2.0)  # the stall itself: nothing is turned meanwhile
        began = time.monotonic()
        rig.turn(5)
        assert rig.count("closed_slow") == 0
        rig.until(lambda: rig.count("closed_slow") == 1)
        assert time.monotonic() - began > 0.2


@pytest.mark.parametrize("enc", [JSON, SSE])
def test_an_end_behind_more_than_one_read_is_seen_at_once(enc: int) -> None:
    with Rig(message_bytes=200_000) as rig:
        rig.room("a")
        viewer = rig.join("a", enc)
        for _ in range(4):
            viewer.send(b"x" * 40_000)
        viewer.sock.shutdown(socket.SHUT_WR)
        rig.until(lambda: rig.count("closed_gone") == 1, 1.0)
        assert len(rig.said) == (4 if enc == JSON else 0)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("enc", [JSON, SSE])
def test_an_end_that_comes_with_the_request_is_seen_at_once(enc: int, named: bool) -> None:
    with Rig() as rig:
        rig.room("a")
        viewer = rig.connect("a", enc, named=named)
        viewer.sock.shutdown(socket.SHUT_WR)
        rig.until(lambda: rig.count("closed_gone") == 1, 1.0)


def test_a_full_table_takes_no_more_until_there_is_room() -> None:
    with Rig(capacity=3) as rig:
        rig.room("a")
        first, second, third = (rig.join("a") for _ in range(3))
        fourth = rig.connect("a")
        rig.turn(20)
        assert rig.count("accepted") == 3
        assert rig.count("accept_paused") == 1
        rig.append("a")
        rig.settle()
        rig.leave(second)
        rig.until(lambda: fourth.position)
        assert rig.count("accepted") == 4
        assert first.ids["c"] == third.ids["c"] == fourth.ids["c"] == [1]


def test_a_flood_of_one_socket_leaves_time_for_others() -> None:
    with Rig() as rig:
        rig.room("a")
        loud, quiet = rig.join("a"), rig.join("a")
        loud.sock.setblocking(False)
        flood = b"\x81\x81\0\0\0\0x" * 200_000
        sent = 0
        quiet.send(b"hello")
        while b"hello" not in [payload for *_, payload in rig.said]:
            with contextlib.suppress(BlockingIOError):
                sent += loud.sock.send(flood[sent % 7 :])
            before = len(rig.said)
            rig.engine.tick()
            assert len(rig.said) - before <= 256 + 4096
        assert rig.engine.describe(loud.id)["kind"] == WS
