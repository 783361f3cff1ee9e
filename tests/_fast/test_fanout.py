"""Sweeps: in slices, by slots, must before chat, rooms by turns, each to its head once, whoever comes or goes."""

import pytest

from tests._fast.engine import CHAT, DEFLATE, JSON, MSGPACK, MUST, POLL, SSE, ZSTD, Rig, Viewer, nothing_kept

__all__ = ["nothing_kept"]

VISITS = 8  # in a slice without time: the clock is asked after so many


def crowd(rig: Rig, room: str, many: int, enc: int = JSON) -> list[Viewer]:
    viewers = [rig.connect(room, enc) for _ in range(many)]
    rig.until(lambda: all(viewer.position for viewer in viewers))
    rig.settle()
    return viewers


def reached(rig: Rig, viewers: list[Viewer], lane: int, seq: int) -> list[int]:
    return [i for i, viewer in enumerate(viewers) if rig.position(viewer)[lane] >= seq]


def test_a_slice_visits_some_in_the_order_of_slots_and_the_next_goes_on() -> None:
    with Rig(slice_us=0) as rig:
        rig.room("a")
        viewers = crowd(rig, "a", 40)
        rig.append("a")
        for n in range(1, 6):
            assert rig.engine.tick() is True or n == 5
            assert reached(rig, viewers, CHAT, 1) == list(range(n * VISITS))
        rig.settle()
        assert rig.count("writes") == 40 * 2
        assert rig.count("visits") == 40
        assert rig.count("sweeps") == 1


def test_rooms_share_fairly() -> None:
    with Rig(slice_us=0) as rig:
        rig.room("a")
        rig.room("b")
        many, few = crowd(rig, "a", 100), crowd(rig, "b", 50)
        rig.append("a")
        rig.append("b")
        for _ in range(8):
            rig.engine.tick()
            done = len(reached(rig, many, CHAT, 1)), len(reached(rig, few, CHAT, 1))
            assert abs(done[0] - done[1]) <= VISITS
        assert min(done) >= 3 * VISITS
        rig.settle()


def test_a_score_overtakes_a_broadcast_of_chat() -> None:
    with Rig(slice_us=0) as rig:
        rig.room("a")
        rig.room("b")
        viewers, others = crowd(rig, "a", 60), crowd(rig, "b", 20)
        rig.append("a", CHAT)
        rig.append("b", CHAT)
        rig.turn(2)
        early = set(reached(rig, viewers, CHAT, 1))
        assert 0 < len(early) <= 2 * VISITS
        rig.append("a", MUST)
        rig.turn(8)  # 60 visits: all of them the score's
        assert len(reached(rig, viewers, MUST, 1)) == 60
        rig.settle()
        for i, viewer in enumerate(viewers):
            order = [message["id"] for _, message in viewer.got[1:]]
            assert order == (["c1", "m1"] if i in early else ["m1", "c1"])
        assert all(viewer.ids["c"] == [1] for viewer in others)


def test_who_joins_or_leaves_while_a_sweep_runs() -> None:
    with Rig(slice_us=0) as rig:
        rig.room("a")
        viewers = crowd(rig, "a", 30)
        rig.append("a")
        rig.turn(2)
        for i in (29, 20, 16, 15, 3, 0):  # ahead of the sweep, where it stands, and behind it
            rig.leave(viewers.pop(i), reset=True)
        rig.turn(1)
        fresh = crowd(rig, "a", 6)  # in the slots that have become free
        rig.append("a")
        rig.settle()
        assert all(viewer.ids["c"] == [1, 2] for viewer in viewers)
        assert all(viewer.ids["c"] == [1, 2] for viewer in fresh), "replay, and what came then"


def test_the_head_moves_while_a_sweep_runs() -> None:
    with Rig(slice_us=0) as rig:
        rig.room("a")
        viewers = crowd(rig, "a", 30)
        for _ in range(5):
            rig.append("a")
            rig.turn(2)
        rig.settle()
        assert all(viewer.ids["c"] == [1, 2, 3, 4, 5] for viewer in viewers)
        assert rig.count("sweeps") >= 2
        assert rig.count("frames_chat") == 150
        assert rig.count("writes") < 30 + 150, "what has gathered goes out in one write"


def test_four_batches_are_one_write() -> None:
    with Rig() as rig:
        rig.room("a")
        viewers = crowd(rig, "a", 10)
        before = rig.count("writes")
        for _ in range(4):
            rig.append("a", CHAT)
        rig.settle()
        assert rig.count("writes") - before == 10
        assert all(viewer.ids["c"] == [1, 2, 3, 4] for viewer in viewers)


def test_a_batch_is_encoded_once_for_each_encoding_that_has_a_viewer() -> None:
    with Rig() as rig:
        rig.room("a")
        for enc, many in ((JSON, 5), (MSGPACK, 4), (SSE, 3)):
            crowd(rig, "a", many, enc)
        rig.room("b")
        crowd(rig, "b", 1, ZSTD)
        crowd(rig, "b", 1, DEFLATE)
        rig.append("a", size=5000)
        rig.settle()
        names = ("json", "msgpack", "zstd", "deflate", "sse")
        assert [rig.count(f"encoded_{name}") for name in names] == [1, 1, 0, 0, 1]
        assert [rig.count(f"viewers_{name}") for name in (*names, "poll")] == [5, 4, 1, 1, 3, 0]


@pytest.mark.parametrize("must_only", [False, True])
def test_a_sweep_answers_polls(must_only: bool) -> None:
    with Rig() as rig:
        rig.room("a")
        viewers = [rig.join("a", POLL, query="?lanes=must" if must_only else "") for _ in range(3)]
        rig.append("a", CHAT)
        rig.settle()
        assert [viewer.answers for viewer in viewers] == [0 if must_only else 1] * 3
        rig.append("a", MUST)
        rig.settle()
        assert [viewer.ids["m"] for viewer in viewers] == [[1] if must_only else []] * 3
        assert rig.count("viewers_poll") == 0


def test_a_room_that_closes_leaves_the_queue() -> None:
    with Rig(slice_us=0) as rig:
        for name in "abc":
            rig.room(name)
        viewers = {name: crowd(rig, name, 12) for name in "abc"}
        for name in "abc":
            rig.append(name)
        rig.turn(1)
        rig.engine.room_end(b"b", 4001, b"over")
        assert rig.engine.room_info(b"b") is None
        rig.room("b", incarnation=2)
        rig.settle()
        rig.until(lambda: all(viewer.end for viewer in viewers["b"]))
        assert all(viewer.close_code == 4001 for viewer in viewers["b"])
        assert all(viewer.ids["c"] == [1] for viewer in viewers["a"] + viewers["c"])
        assert rig.engine.room_info(b"b") == rig.engine.room_info(b"b") | {"viewers": 0, "sweeping": False}
