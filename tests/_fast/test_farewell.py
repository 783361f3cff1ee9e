"""The ways in which a connection ends from our side: what was begun is finished, the word is said, then it is over."""

import pytest

from tests._fast.engine import DEFLATE, JSON, MSGPACK, POLL, SSE, ZSTD, Rig, nothing_kept

__all__ = ["nothing_kept"]


@pytest.mark.parametrize("enc", [JSON, MSGPACK, ZSTD, DEFLATE, SSE])
@pytest.mark.parametrize("code, reason", [(1000, b""), (1008, b"banned"), (4999, b"x" * 200)])
def test_an_end_is_said_and_the_peer_ends_it(enc: int, code: int, reason: bytes) -> None:
    with Rig() as rig:
        rig.room("a")
        viewer = rig.join("a", enc)
        rig.append("a")
        rig.settle()
        assert rig.engine.end(viewer.id, code, reason)
        assert rig.engine.end(viewer.id, code, reason), "it is still there, and told only once"
        assert rig.count("closed_server") == 1
        rig.until(lambda: viewer.end)
        assert viewer.end == "closed"
        assert viewer.close_code == (None if enc == SSE else code)
        assert rig.engine.describe(viewer.id) is not None, "its end is waited for"
        rig.leave(viewer)
        rig.until(lambda: rig.count("connections") == 0)
        assert rig.count("ended") == 1


def test_after_the_goodbye_nothing_more_is_sent() -> None:
    with Rig() as rig:
        rig.room("a")
        viewer = rig.join("a")
        rig.engine.end(viewer.id, 1000, b"")
        rig.append("a")
        assert not rig.engine.reply(viewer.id, {"t": "ack"})
        assert not rig.engine.send(viewer.id, 1, b"x")
        rig.until(lambda: viewer.end)
        assert viewer.ids["c"] == []
        assert viewer.raw[-1][0] == 8


def test_what_comes_in_during_the_goodbye_is_thrown_away() -> None:
    with Rig() as rig:
        rig.room("a")
        viewer = rig.join("a")
        rig.engine.end(viewer.id, 1000, b"")
        for _ in range(50):
            viewer.send(b"x" * 4000)
        rig.until(lambda: viewer.end)
        rig.leave(viewer)
        rig.until(lambda: rig.count("connections") == 0)
        assert rig.said == []
        assert rig.count("ended") == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 408, 414, 426, 429, 431, 503, 500])
def test_a_refusal_is_counted_by_its_cause(status: int) -> None:
    with Rig() as rig:
        rig.admits = False
        rig.room("a")
        viewer = rig.connect("a")
        rig.until(lambda: rig.requests)
        rig.engine.refuse(viewer.id, status, b"why", b"because", 7)
        rig.until(lambda: viewer.end)
        assert viewer.status == str(status)
        assert b'"why"' in viewer.bytes
        name = "refused_other" if status == 500 else f"refused_{status}"
        assert rig.count(name) == 1
        assert rig.count("viewers_json") == 0


def test_all_are_told_to_go() -> None:
    with Rig() as rig:
        rig.room("a")
        encs = [JSON, MSGPACK, ZSTD, DEFLATE, SSE, POLL]
        viewers = [rig.join("a", enc) for enc in encs]
        rig.admits = False
        parked = rig.connect("a")
        rig.until(lambda: len(rig.requests) == len(encs) + 1)
        rig.engine.unlisten()
        rig.engine.end_all(1001, b"going away")
        rig.until(lambda: all(viewer.end or viewer.answers for viewer in [*viewers, parked]))
        assert [viewer.close_code for viewer in viewers] == [1001] * 4 + [None] * 2
        assert viewers[5].status == "204"
        info = rig.engine.room_info(b"a")
        assert info is not None
        assert info["viewers"] == 0
