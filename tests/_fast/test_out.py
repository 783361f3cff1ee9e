"""The way out of one socket: what is begun is finished, replies go before batches, a slow viewer costs one frame."""

import msgspec
import pytest

from edge._fast.out import small
from tests._fast.engine import CHAT, CLOSING, DEFLATE, JSON, MSGPACK, MUST, SSE, ZSTD, Rig, Viewer, nothing_kept

__all__ = ["nothing_kept"]

STREAMS = [JSON, MSGPACK, ZSTD, DEFLATE, SSE]


def stalled(**options: int) -> Rig:
    return Rig(sndbuf=16384, **options)


def blocked_viewer(rig: Rig, enc: int = JSON, lane: int = CHAT) -> Viewer:
    rig.room("a")
    viewer = rig.join("a", enc, rcvbuf=4096)
    rig.block(viewer, "a", lane, size=20_000)
    return viewer


@pytest.mark.parametrize("enc", STREAMS)
def test_small_messages_in_each_encoding(enc: int) -> None:
    data, pack = b'{"t":"gap"}', b"\x81\xa1t\xa3gap"
    found = small(enc, data, pack, b"gap")
    assert (
        found
        == {
            JSON: b"\x81\x0b" + data,
            DEFLATE: b"\x81\x0b" + data,
            MSGPACK: b"\x82\x07" + pack,
            ZSTD: b"\x82\x10\x28\xb5\x2f\xfd\x20\x07\x39\x00\x00" + pack,
            SSE: b"event: gap\ndata: " + data + b"\n\n",
        }[enc]
    )


@pytest.mark.parametrize("enc", STREAMS)
def test_a_viewer_that_blocks_briefly_gets_everything(enc: int) -> None:
    with stalled() as rig:
        viewer = blocked_viewer(rig, enc)
        rig.append("a")
        rig.append("a", MUST)
        rig.append("a")
        rig.turn(3)
        viewer.reading = True
        rig.settle()
        assert viewer.gaps == []
        assert rig.position(viewer) == (1, rig.heads["a", CHAT])
        assert viewer.ids["c"] == list(range(1, rig.heads["a", CHAT] + 1))
        assert rig.count("cold") == 0


@pytest.mark.parametrize("enc", STREAMS)
def test_three_batches_missed_are_a_gap_and_the_tail(enc: int) -> None:
    with stalled() as rig:
        viewer = blocked_viewer(rig, enc)
        begun = rig.position(viewer)[CHAT]
        for _ in range(4):
            rig.append("a")
        rig.append("a", MUST)
        rig.turn(3)
        head = rig.heads["a", CHAT]
        viewer.reading = True
        rig.settle()
        assert viewer.gaps == [("c", begun + 1, head - 1)]
        assert viewer.ids == {"m": [1], "c": [*range(1, begun + 1), head]}
        assert (rig.count("skipped"), rig.count("gaps")) == (head - 1 - begun, 1)
        rig.append("a")
        rig.append("a")  # healthy again: nothing is skipped from here on
        rig.settle()
        assert viewer.ids["c"][-3:] == [head, head + 1, head + 2]


def test_must_is_never_skipped() -> None:
    with stalled() as rig:
        viewer = blocked_viewer(rig, lane=MUST)
        for _ in range(20):
            rig.append("a", MUST)
        rig.turn(3)
        viewer.reading = True
        rig.settle()
        assert viewer.ids["m"] == list(range(1, rig.heads["a", MUST] + 1))
        assert viewer.gaps == []


@pytest.mark.parametrize("waiting", [22, 23, 24, 25, 47, 48, 49, 100])
@pytest.mark.parametrize("enc", [JSON, SSE])
def test_as_many_must_batches_as_one_write_holds_and_then_a_gap(waiting: int, enc: int) -> None:
    with stalled() as rig:
        viewer = blocked_viewer(rig, enc)
        for _ in range(waiting):
            rig.append("a", MUST)
        for _ in range(5):
            rig.append("a")
        rig.turn(3)
        viewer.reading = True
        rig.settle()
        assert viewer.ids["m"] == list(range(1, waiting + 1))
        assert len(viewer.gaps) == 1
        assert rig.position(viewer) == (waiting, rig.heads["a", CHAT])


def test_a_stalled_viewer_holds_one_frame_and_no_more() -> None:
    with stalled() as rig:
        viewer = blocked_viewer(rig)
        assert rig.count("cold") == 1
        for _ in range(200):
            rig.append("a", size=20_000)
            rig.turn()
        held = rig.count("held_bytes")
        # The ring, one frame that the viewer is in, and the frames of the newest batches for nobody: none.
        assert held < 256 * 1024 * 1.1 + 20_200
        assert rig.count("cold") == 1
        assert rig.count("encoded_json") <= 40
        viewer.reading = True
        rig.settle()
        assert len(viewer.gaps) == 1
        assert rig.count("cold") == 0


def test_replies_go_before_the_next_batch() -> None:
    with stalled() as rig:
        viewer = blocked_viewer(rig)
        rig.append("a")
        rig.turn()
        assert rig.engine.reply(viewer.id, {"t": "ack", "ref": "r1"})
        assert rig.engine.reply(viewer.id, {"t": "ack", "ref": "r2"})
        begun = rig.position(viewer)[CHAT]
        viewer.reading = True
        rig.settle()
        tail = [(message["t"], message.get("id", message.get("ref"))) for _, message in viewer.got][-4:]
        assert tail == [("batch", f"c{begun}"), ("ack", "r1"), ("ack", "r2"), ("batch", f"c{begun + 1}")]


@pytest.mark.parametrize("enc", STREAMS)
def test_a_reply_is_in_the_viewers_own_encoding(enc: int) -> None:
    with Rig() as rig:
        rig.room("a")
        viewer = rig.join("a", enc)
        assert rig.engine.reply(viewer.id, {"t": "ack", "ref": "ü" * 200})
        rig.settle()
        assert viewer.messages("ack") == [{"t": "ack", "ref": "ü" * 200}]


def test_more_replies_than_may_wait_close() -> None:
    with stalled(reply_bytes=1024) as rig:
        viewer = blocked_viewer(rig)
        answers = [rig.engine.reply(viewer.id, {"t": "ack", "ref": "x" * 100}) for _ in range(20)]
        assert answers[:8] == [True] * 8
        assert answers[-1] is False
        rig.turn()
        assert rig.count("closed_replies") == 1
        assert rig.engine.describe(viewer.id) is None
        rig.until(lambda: viewer.read() or viewer.end)


def test_one_large_reply_is_let_in_whole() -> None:
    with Rig(sndbuf=16384, reply_bytes=1024) as rig:
        rig.room("a")
        viewer = rig.join("a", rcvbuf=4096)
        assert rig.engine.send(viewer.id, 1, msgspec.json.encode({"t": "ack", "x": "y" * 300_000}))
        rig.settle()
        assert len(viewer.messages("ack")[0]["x"]) == 300_000


def test_who_does_not_read_is_not_listened_to() -> None:
    with stalled(reply_bytes=1024) as rig:
        viewer = blocked_viewer(rig)
        for _ in range(200):
            viewer.send(b"p" * 100, 9)
        viewer.send(b"hello")
        rig.turn(20)
        assert rig.count("replies") == 1, "hello alone"
        assert rig.said == []
        viewer.reading = True
        rig.until(lambda: rig.said)
        rig.settle()
        assert viewer.raw.count((10, b"p" * 100)) == 200
        assert rig.count("closed_replies") == 0


def test_the_replies_of_a_turn_are_one_write() -> None:
    with Rig() as rig:
        rig.room("a")
        viewer = rig.join("a")
        rig.settle()
        before = rig.count("writes")
        for n in range(50):
            assert rig.engine.reply(viewer.id, {"t": "ack", "ref": n})
        rig.append("a")
        rig.settle()
        assert rig.count("writes") == before + 1
        refs = [message.get("ref", message.get("id")) for _, message in viewer.got[1:]]
        assert refs == [*range(50), "c1"], "before the next batch"


def test_blocked_for_too_long_is_closed_with_a_reset() -> None:
    with stalled(blocked_ms=200) as rig:
        viewer = blocked_viewer(rig)
        healthy = rig.join("a")
        rig.until(lambda: rig.count("closed_slow") == 1)
        viewer.reading = True
        rig.until(lambda: viewer.end)
        assert viewer.end == "reset"
        rig.append("a")
        rig.settle()
        assert healthy.end is None
        assert rig.count("connections") == 1


def test_a_viewer_that_reads_slowly_is_not_closed() -> None:
    with stalled(blocked_ms=300) as rig:
        viewer = blocked_viewer(rig)
        for _ in range(6):
            rig.until(lambda: viewer.read(3000))
            moved = rig.engine.describe(viewer.id)
            assert moved is not None
            rig.until(
                lambda before=moved["sent"]: viewer.read(2000) and rig.engine.describe(viewer.id)["sent"] > before
            )
            if not rig.blocked(viewer):
                rig.block(viewer, "a")
        assert rig.count("closed_slow") == 0


@pytest.mark.parametrize("enc", [JSON, MSGPACK, ZSTD, DEFLATE])
def test_behind_the_must_ring_is_told_to_come_back(enc: int) -> None:
    with stalled() as rig:
        viewer = blocked_viewer(rig, enc)
        for _ in range(80):
            rig.append("a", MUST, size=1000)
        rig.turn(3)
        assert not viewer.messages("reconnect")
        viewer.reading = True
        rig.until(lambda: viewer.end)
        assert rig.count("closed_behind") == 1
        assert viewer.messages("reconnect")[0]["in_ms"] >= 1000
        assert viewer.close_code == 1013
        assert viewer.end == "closed"
        assert viewer.ids["m"] == []


def test_an_event_stream_behind_the_must_ring_ends() -> None:
    with stalled() as rig:
        viewer = blocked_viewer(rig, SSE)
        for _ in range(80):
            rig.append("a", MUST, size=1000)
        rig.turn(3)
        viewer.reading = True
        rig.until(lambda: viewer.end == "closed")
        assert viewer.messages("reconnect")


def test_a_goodbye_waits_behind_the_frame_that_is_begun() -> None:
    with stalled() as rig:
        viewer = blocked_viewer(rig)
        begun = rig.position(viewer)[CHAT]
        rig.append("a")
        rig.engine.end(viewer.id, 4000, b"bye")
        rig.turn(3)
        assert rig.engine.describe(viewer.id)["kind"] == CLOSING
        viewer.reading = True
        rig.until(lambda: viewer.end)
        assert viewer.ids["c"][-1] == begun
        assert (viewer.close_code, viewer.end) == (4000, "closed")


def test_a_peer_that_resets_while_it_is_blocked() -> None:
    with stalled() as rig:
        viewer = blocked_viewer(rig)
        rig.leave(viewer, reset=True)
        rig.until(lambda: rig.count("connections") == 0)
        assert rig.count("closed_gone") == 1
        assert rig.count("cold") == 0
