"""What is said to every stream: once to each, in its own encoding, in slices; nobody loses anything else by it."""

from typing import Any

import pytest

from edge._fast.frame import encode_message
from tests._fast.engine import CHAT, DEFLATE, JSON, MSGPACK, MUST, POLL, SSE, ZSTD, Rig, Viewer, nothing_kept
from tests._fast.test_fanout import crowd

__all__ = ["nothing_kept"]

STREAMS = [JSON, MSGPACK, ZSTD, DEFLATE, SSE]
STATE = {"t": "state", "trouble": "broker"}
STRIDE = 16  # slots that may be passed for each stream that may be told


def tell_all(rig: Rig, most: int = 256, message: dict[str, Any] = STATE) -> list[int]:
    places = [rig.engine.tell(0, most, message)]
    while places[-1] != -1:
        places.append(rig.engine.tell(places[-1], most, message))
        assert places[-1] == -1 or places[-1] > places[-2]
    return places


def slot(viewer: Viewer) -> int:
    return viewer.id & 0xFFFFFFFF


def order(viewer: Viewer) -> list[Any]:
    return [message.get("id", message.get("ref", message["t"])) for _, message in viewer.got]


@pytest.mark.parametrize("message", [STATE, {"t": "state", "trouble": None, "x": "ü" * 70_000}])
def test_streams_of_each_kind_are_told_once(message: dict[str, Any]) -> None:
    with Rig() as rig:
        for name in "ab":
            rig.room(name)
        viewers = [rig.join(name, enc) for name in "ab" for enc in STREAMS]
        hidden = rig.join("a")
        rig.engine.visible(hidden.id, False)
        viewers += [hidden, rig.join("a", query="?lanes=must"), rig.join("b", SSE, query="?lanes=must")]
        assert tell_all(rig, message=message) == [-1]
        rig.settle()
        assert [viewer.messages("state") for viewer in viewers] == [[message]] * len(viewers)


def test_who_is_no_stream_yet_or_any_more_is_not_told() -> None:
    with Rig(close_ms=5000) as rig:
        rig.room("a")
        here, polled, closing = rig.join("a"), rig.join("a", POLL), rig.join("a")
        rig.engine.end(closing.id, 1000, b"")
        rig.admits = False
        parked = rig.connect("a")
        rig.until(lambda: parked._id is not None)
        unasked = rig.dial(b"GET /v1/rooms/a/ws HT")
        rig.until(lambda: rig.count("connections") == 5)
        before = rig.count("replies")
        assert tell_all(rig) == [-1]
        assert rig.count("replies") == before + 1
        rig.settle()
        assert here.messages("state") == [STATE]
        assert not closing.messages("state")
        assert (polled.answers, parked.offset) == (0, 0)
        unasked.setblocking(False)
        with pytest.raises(BlockingIOError):
            unasked.recv(1)
        rig.engine.admit(parked.id, b"a")
        rig.append("a")
        rig.settle()
        assert parked.ids["c"] == polled.ids["c"] == [1]


def test_an_event_stream_stays_where_it_is() -> None:
    with Rig() as rig:
        rig.room("a")
        viewer = rig.join("a", SSE)
        rig.append("a")
        rig.append("a", MUST)
        rig.settle()
        assert viewer.vector == "i1.m1.c1"
        tell_all(rig)
        rig.turn()
        assert viewer.sock.recv(4096) == b'event: state\ndata: {"t":"state","trouble":"broker"}\n\n', "and no id"


def test_an_event_stream_is_told_and_goes_on_by_its_ids() -> None:
    with Rig() as rig:
        rig.room("a")
        viewer = rig.join("a", SSE)
        for n in range(1, 4):
            rig.append("a")
            rig.settle()
            tell_all(rig)
            rig.settle()
            assert viewer.vector == f"i1.m0.c{n}"
        assert order(viewer) == ["hello", "c1", "state", "c2", "state", "c3", "state"]


@pytest.mark.parametrize("most", [1, 7, 8, 20, 21])
def test_a_slice_at_a_time_in_the_order_of_slots(most: int) -> None:
    with Rig() as rig:
        rig.room("a")
        viewers = sorted((rig.join("a") for _ in range(20)), key=slot)
        told, place = 0, 0
        while place != -1:
            place = rig.engine.tell(place, most, STATE)
            told = min(told + most, 20)
            rig.settle()
            assert [len(viewer.messages("state")) for viewer in viewers] == [1] * told + [0] * (20 - told)
            if place == -1:
                assert told == 20
            else:
                assert place == slot(viewers[told - 1]) + 1
        assert rig.engine.tell(slot(viewers[-1]) + 1, most, STATE) == -1
        rig.settle()
        assert len(viewers[-1].messages("state")) == 1


def test_slots_that_have_gone_are_passed_by_so_many_a_call() -> None:
    with Rig() as rig:
        rig.room("a")
        viewers = crowd(rig, "a", 50)
        last = max(viewers, key=slot)
        for viewer in viewers:
            if viewer is not last:
                rig.leave(viewer)
        rig.until(lambda: rig.count("connections") == 1)
        assert slot(last) >= 49
        places = tell_all(rig, 1)
        assert places[:3] == [STRIDE, 2 * STRIDE, 3 * STRIDE]
        rig.settle()
        assert last.messages("state") == [STATE]
        assert tell_all(rig, 1000) == [-1]


def test_each_encoding_that_is_there_is_made_once_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted(enc: int, message: dict[str, Any]) -> bytes:
        made.append(enc)
        return encode_message(enc, message)

    monkeypatch.setattr("edge._fast.reactor.encode_message", counted)
    with Rig() as rig:
        rig.room("a")
        crowd(rig, "a", 10)
        crowd(rig, "a", 10, SSE)
        crowd(rig, "a", 1, ZSTD)
        before = rig.count("writes")
        assert tell_all(rig) == [-1]
        assert made == [JSON, ZSTD, SSE]
        rig.settle()
        assert rig.count("writes") == before + 21
        assert rig.count("cold") == 0


def test_what_was_said_before_comes_before() -> None:
    with Rig() as rig:
        rig.room("a")
        viewer = rig.join("a")
        rig.engine.reply(viewer.id, {"t": "ack", "ref": "r1"})
        rig.append("a")
        tell_all(rig)
        rig.engine.reply(viewer.id, {"t": "ack", "ref": "r2"})
        rig.settle()
        assert order(viewer) == ["hello", "r1", "state", "r2", "c1"]


def test_replies_of_this_turn_are_no_reason_to_drop_it() -> None:
    with Rig(reply_bytes=1024) as rig:
        rig.room("a")
        viewer = rig.join("a")
        rig.engine.reply(viewer.id, {"t": "ack", "ref": "r1", "x": "y" * 960})
        tell_all(rig)
        rig.settle()
        assert order(viewer) == ["hello", "r1", "state"]


# Slow viewers.


@pytest.mark.parametrize("enc", STREAMS)
def test_a_blocked_viewer_is_told_behind_its_frame_and_keeps_its_place(enc: int) -> None:
    with Rig(sndbuf=16384) as rig:
        rig.room("a")
        viewer = rig.join("a", enc, rcvbuf=4096)
        rig.block(viewer, "a")
        begun = rig.position(viewer)[CHAT]
        rig.append("a")
        tell_all(rig)
        assert rig.position(viewer)[CHAT] == begun
        assert rig.blocked(viewer)
        viewer.reading = True
        rig.settle()
        assert order(viewer)[-3:] == [f"c{begun}", "state", f"c{begun + 1}"]
        assert viewer.gaps == []
        assert rig.count("cold") == 0


@pytest.mark.parametrize("enc", STREAMS)
def test_what_would_pass_the_bound_is_dropped_and_the_viewer_stays(enc: int) -> None:
    with Rig(sndbuf=16384, reply_bytes=1024) as rig:
        rig.room("a")
        healthy = rig.join("a", enc)
        viewer = rig.join("a", enc, rcvbuf=4096)
        rig.block(viewer, "a")
        rig.engine.reply(viewer.id, {"t": "ack", "ref": "r1"})
        begun, sent = rig.position(viewer)[CHAT], rig.engine.describe(viewer.id)
        for _ in range(100):
            assert tell_all(rig) == [-1]
        assert rig.engine.describe(viewer.id) == sent, "nothing has happened to it"
        assert rig.count("closed_replies") == 0
        rig.append("a")
        viewer.reading = True
        rig.settle()
        assert len(healthy.messages("state")) == 100
        told = len(viewer.messages("state"))
        size = len(encode_message(enc, STATE)) + (0 if enc == SSE else 2)
        assert told == (1024 - len(encode_message(enc, {"t": "ack", "ref": "r1"})) - (0 if enc == SSE else 2)) // size
        assert order(viewer)[-told - 3 :] == [f"c{begun}", "r1", *["state"] * told, f"c{begun + 1}"]
        assert viewer.gaps == []


def test_who_has_gone_is_found_so_and_the_others_are_told() -> None:
    with Rig() as rig:
        rig.room("a")
        viewers = [rig.join("a") for _ in range(3)]
        rig.leave(viewers[1], reset=True)
        assert tell_all(rig, 2)[-1] == -1
        rig.settle()
        rig.until(lambda: rig.count("connections") == 2)
        assert rig.count("closed_gone") == 1
        assert [len(viewer.messages("state")) for viewer in viewers] == [1, 0, 1]


# What cannot be.


def test_a_message_that_cannot_be_encoded_is_told_nobody() -> None:
    with Rig() as rig:
        rig.room("a")
        viewers = [rig.join("a", enc) for enc in STREAMS]
        for wrong in ({"trouble": "broker"}, {"t": "state", "x": object()}):
            with pytest.raises((KeyError, TypeError)):
                rig.engine.tell(0, 256, wrong)
        rig.settle()
        assert [order(viewer) for viewer in viewers] == [["hello"]] * 5


def test_places_and_numbers_that_are_none() -> None:
    with Rig() as rig:
        assert rig.engine.tell(0, 256, STATE) == -1, "nobody was ever here"
        rig.room("a")
        viewer = rig.join("a")
        for after in (1, 256, 0xFFFFFFFF):
            assert rig.engine.tell(after, 0xFFFFFFFF, STATE) == -1
        with pytest.raises(ValueError):
            rig.engine.tell(0, 0, STATE)
        for after, most in ((-1, 1), (0, -1), (1 << 32, 1)):
            with pytest.raises(OverflowError):
                rig.engine.tell(after, most, STATE)
        rig.settle()
        assert order(viewer) == ["hello"]
