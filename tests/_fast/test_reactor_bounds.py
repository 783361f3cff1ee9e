"""What the engine does at its bounds: the byte budget, and viewers who want no chat for a while."""

import pytest

from tests._fast.engine import CHAT, DEFLATE, JSON, MSGPACK, MUST, SSE, ZSTD, Rig, nothing_kept

__all__ = ["nothing_kept"]

WEBSOCKETS = [JSON, MSGPACK, ZSTD, DEFLATE]


# The byte budget.


def test_rings_are_shed_from_the_coldest_room_on() -> None:
    with Rig(budget_bytes=150_000) as rig:
        for name in "abcd":
            rig.room(name)
            rig.append(name, MUST, size=1000)
            for _ in range(40):
                rig.append(name, size=1000)
        assert rig.count("held_bytes") <= 150_000
        kept = [rig.engine.room_info(name.encode()) for name in "abcd"]
        tails = [info["chat_tail"] for info in kept if info is not None]
        assert tails[0] == 41
        assert tails[3] == 1
        assert [info["must_tail"] for info in kept if info is not None] == [1, 1, 1, 1]
        assert rig.count("shed_batches") >= 40


def test_who_joins_a_room_whose_ring_was_shed_is_not_told_of_what_never_was_his() -> None:
    with Rig(budget_bytes=100_000) as rig:
        rig.room("a")
        rig.room("b")
        viewer = rig.join("a")
        for _ in range(5):
            rig.append("a", size=10)
        rig.settle()
        for _ in range(100):
            rig.append("b", size=2000)
        info = rig.engine.room_info(b"a")
        assert info is not None
        assert info["chat_tail"] == 6
        fresh = rig.join("a")
        resumed = rig.join("a", query="?since=i1.m0.c2")
        rig.append("a", size=10)
        rig.settle()
        assert (viewer.gaps, viewer.ids["c"]) == ([], [1, 2, 3, 4, 5, 6])
        assert (fresh.gaps, fresh.ids["c"]) == ([], [6])
        assert (resumed.gaps, resumed.ids["c"]) == ([("c", 3, 5)], [6])


def test_the_frames_that_joining_viewers_need_are_within_the_budget() -> None:
    with Rig(budget_bytes=150_000) as rig:
        rig.room("a")
        for _ in range(100):
            rig.append("a", size=1000)
        for enc in (JSON, ZSTD, DEFLATE, SSE):
            rig.join("a", enc)
            assert rig.count("held_bytes") <= 150_000
        rig.settle()
        assert all(viewer.ids["c"][-1] == 100 for viewer in rig.viewers)


def test_then_the_longest_blocked_are_closed() -> None:
    with Rig(sndbuf=16384, budget_bytes=300_000) as rig:
        for name in "abc":
            rig.room(name)
        blocked = []
        for name in "abc":
            viewer = rig.join(name, rcvbuf=4096)
            rig.block(viewer, name, size=30_000)
            blocked.append(viewer)
        healthy = rig.join("c")
        # A frame each, of batches that the rings have no more; then less memory than the three take.
        rig.engine.configure(rig.options | {"budget_bytes": 80_000})
        rig.turn()
        assert rig.count("closed_memory") in (1, 2)
        gone = [rig.engine.describe(viewer.id) is None for viewer in blocked]
        assert gone == sorted(gone, reverse=True), "who was blocked first goes first"
        assert rig.count("held_bytes") <= 80_000
        rig.append("c", size=10)
        rig.settle()
        assert healthy.end is None
        assert healthy.ids["c"][-1] == rig.heads["c", CHAT]


def test_a_budget_that_nothing_can_satisfy_still_serves() -> None:
    with Rig(budget_bytes=0) as rig:
        rig.room("a")
        viewer = rig.join("a")
        for _ in range(5):
            rig.append("a")
            rig.append("a", MUST)
            rig.settle()
        assert rig.count("held_bytes") == 0
        assert viewer.position == {"m": 5, "c": 5}
        assert [letter for letter, _, _ in viewer.gaps] != []


# Hidden tabs, and streams without chat.


@pytest.mark.parametrize("enc", WEBSOCKETS)
def test_a_hidden_tab_gets_scores_and_no_chat(enc: int) -> None:
    with Rig() as rig:
        rig.room("a")
        viewer = rig.join("a", enc)
        rig.append("a")
        rig.settle()
        rig.engine.visible(viewer.id, False)
        for lane in (CHAT, MUST, CHAT, MUST):
            rig.append("a", lane)
        rig.settle()
        assert viewer.ids == {"m": [1, 2], "c": [1]}
        rig.engine.visible(viewer.id, True)
        rig.settle()
        assert viewer.ids["c"] == [1, 2, 3]
        assert viewer.gaps == []


@pytest.mark.parametrize("enc", WEBSOCKETS)
def test_a_tab_that_comes_back_gets_the_recent_chat_behind_a_gap(enc: int) -> None:
    with Rig(replay=3) as rig:
        rig.room("a")
        viewer = rig.join("a", enc)
        rig.engine.visible(viewer.id, False)
        for _ in range(10):
            rig.append("a")
        rig.settle()
        for _ in range(2):
            rig.engine.visible(viewer.id, True)
        rig.settle()
        assert viewer.gaps == [("c", 1, 7)]
        assert viewer.ids["c"] == [8, 9, 10]
        assert rig.count("skipped") == 7


def test_a_tab_that_was_blocked_and_hidden_skips_once() -> None:
    """What it missed while it was hidden is counted when it comes back, not again as missed while it was blocked."""
    with Rig(sndbuf=16384) as rig:
        rig.room("a")
        viewer = rig.join("a", rcvbuf=4096)
        rig.block(viewer, "a")
        rig.engine.visible(viewer.id, False)
        for _ in range(5):
            rig.append("a")
        viewer.reading = True
        rig.settle()
        begun = viewer.ids["c"][-1]
        rig.append("a")
        rig.append("a")
        rig.settle()
        rig.engine.visible(viewer.id, True)
        rig.settle()
        assert viewer.gaps == []
        assert viewer.ids["c"] == list(range(1, begun + 8))


def test_a_blocked_tab_that_comes_back_gets_its_gap_behind_its_frame() -> None:
    with Rig(sndbuf=16384, replay=2) as rig:
        rig.room("a")
        viewer = rig.join("a", rcvbuf=4096)
        rig.block(viewer, "a")
        begun = rig.position(viewer)[CHAT]
        rig.engine.visible(viewer.id, False)
        for _ in range(9):
            rig.append("a")
        rig.turn(2)
        rig.engine.visible(viewer.id, True)
        viewer.reading = True
        rig.settle()
        head = rig.heads["a", CHAT]
        assert viewer.ids["c"][:begun] == list(range(1, begun + 1))
        assert viewer.gaps[0][1] == begun + 1
        assert rig.position(viewer)[CHAT] == head


@pytest.mark.parametrize("enc", [*WEBSOCKETS, SSE])
def test_a_stream_without_chat_has_none_ever(enc: int) -> None:
    with Rig() as rig:
        rig.room("a", chat=50)
        viewer = rig.join("a", enc, query="?lanes=must")
        for lane in (CHAT, MUST, CHAT):
            rig.append("a", lane)
        rig.settle()
        rig.engine.visible(viewer.id, False)
        rig.engine.visible(viewer.id, True)
        rig.append("a", CHAT)
        rig.settle()
        assert viewer.ids == {"m": [1], "c": []}
        assert viewer.gaps == []
