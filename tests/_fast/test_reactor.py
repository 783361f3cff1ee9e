"""The engine as Python sees it: ids that end, names that are found, and an end after which nothing is touched."""

import contextlib
import os
import socket
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from edge._fast.reactor import OPTIONS, Engine
from edge.config import Config
from edge.options import engine_options
from tests._fast.engine import CHAT, DEFLATE, JSON, MSGPACK, MUST, POLL, SSE, Rig, Viewer, nothing_kept

__all__ = ["nothing_kept"]

CHOSEN = engine_options(Config(), anonymous=True, group=False)
# What may be asked of an engine with an id that means nothing (any more), and what it answers then.
BY_ID: dict[str, tuple[Callable[[Engine, int], Any], Any]] = {
    "admit": (lambda engine, id_: engine.admit(id_, b"a"), False),
    "refuse": (lambda engine, id_: engine.refuse(id_, 403, b"forbidden", b"no"), None),
    "reply": (lambda engine, id_: engine.reply(id_, {"t": "ack"}), False),
    "send": (lambda engine, id_: engine.send(id_, 1, b"x"), False),
    "end": (lambda engine, id_: engine.end(id_, 1000, b""), False),
    "renew": (lambda engine, id_: engine.renew(id_, b"claims", 0), False),
    "visible": (lambda engine, id_: engine.visible(id_, False), False),
    "describe": (lambda engine, id_: engine.describe(id_), None),
    "room_of": (lambda engine, id_: engine.room_of(id_), None),
    "address": (lambda engine, id_: engine.address(id_), None),
    "claims": (lambda engine, id_: engine.claims(id_), None),
}


def test_the_options_are_those_of_the_config() -> None:
    assert set(CHOSEN) == OPTIONS


@pytest.mark.parametrize(
    "capacity, rooms, options, trusted, wrong",
    [
        (0, 1, CHOSEN, (), "room for a socket"),
        (1, 0, CHOSEN, (), "room for a socket"),
        (1, 1, CHOSEN | {"colour": 1}, (), "colour"),
        (1, 1, {key: value for key, value in CHOSEN.items() if key != "hello"}, (), "hello"),
        (1, 1, CHOSEN, [(b"short", 8)], "trusted"),
        (1, 1, CHOSEN, [(bytes(16), 129)], "trusted"),
        (1, 1, CHOSEN, [(bytes(16), -1)], "trusted"),
        (1, 1, CHOSEN, [(bytes(16), 8)] * 65, "trusted"),
    ],
)
def test_an_engine_that_cannot_be(capacity: int, rooms: int, options: dict[str, int], trusted: Any, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        Engine(None, capacity, rooms, 1, options, trusted)


@pytest.mark.parametrize("name", BY_ID)
def test_an_id_whose_socket_has_gone(name: str) -> None:
    ask, answer = BY_ID[name]
    with Rig() as rig:
        rig.room("a")
        first = rig.join("a")
        rig.leave(first)
        rig.until(lambda: rig.count("connections") == 0)
        assert ask(rig.engine, first.id) == answer
        second = rig.join("a")  # in the very same slot
        assert second.id & 0xFFFFFFFF == first.id & 0xFFFFFFFF
        assert ask(rig.engine, first.id) == answer
        rig.append("a")
        rig.settle()
        assert second.ids["c"] == [1]
        assert len(second.got) == 2


@pytest.mark.parametrize("name", BY_ID)
def test_an_engine_that_is_closed_answers_as_if_nobody_were_there(name: str) -> None:
    ask, answer = BY_ID[name]
    with Rig() as rig:
        rig.room("a")
        viewer = rig.join("a")
        rig.engine.close()
        for id_ in (viewer.id, 0, 1 << 32):
            with contextlib.suppress(KeyError):  # admit: the room has gone as well
                assert ask(rig.engine, id_) == answer


def test_the_rest_of_an_engine_that_is_closed() -> None:
    with Rig() as rig:
        rig.room("a")
        rig.join("a")
        rig.append("a")
        engine = rig.engine
        engine.close()
        engine.close()
        assert engine.tick() is False
        assert engine.fileno() == -1
        assert engine.sockets_of(b"u1") == []
        assert engine.rooms_unwatched() == []
        assert engine.jobs() == []
        assert engine.tell(0, 1, {"t": "state"}) == -1
        assert engine.room_info(b"a") is None
        assert engine.counters()["connections"] == 0
        engine.end_all(1001, b"")
        engine.unlisten()
        for refused in (
            lambda: engine.append(b"a", CHAT, 2, 1, b"\x80"),
            lambda: engine.room_close(b"a"),
            lambda: engine.room_end(b"a", 1000, b""),
            lambda: engine.descriptors(b"a"),
        ):
            with pytest.raises(KeyError):
                refused()
        with pytest.raises(ValueError):
            engine.room_open(b"b", 1, 0, 0)
        with pytest.raises(OSError):
            engine.listen(rig.listener.fileno())
        ours, theirs = socket.socketpair()
        engine.adopt(ours.detach(), b"GET /v1/rooms/a/sse HTTP/1.1\r\nHost: a\r\n\r\n")
        assert theirs.recv(1) == b"", "what it cannot keep it closes"
        theirs.close()


def test_an_upcall_may_close_the_engine() -> None:
    with Rig() as rig:
        rig.room("a")
        viewer = rig.join("a")
        rig.on_message = lambda id_, payload: rig.engine.close()
        viewer.send(b"the end")
        viewer.send((1000).to_bytes(2, "big"), 8)
        rig.append("a")
        assert rig.engine.tick() is False


def test_an_upcall_that_fails_does_not_end_the_turns() -> None:
    def fail(id_: int, payload: bytes) -> None:
        raise LookupError(payload)

    with Rig() as rig:
        rig.room("a")
        viewer, other = rig.join("a"), rig.join("a")
        rig.on_message = fail
        viewer.send(b"oh")
        rig.append("a")
        with pytest.raises(LookupError):
            rig.until(lambda: False)
        rig.settle()
        assert viewer.ids["c"] == other.ids["c"] == [1]


# Names: users and rooms.


def test_a_users_sockets_and_claims() -> None:
    with Rig(close_ms=100) as rig:
        rig.room("a")
        rig.admits = False
        viewers = [rig.connect("a", enc, named=False, query="?user=ann") for enc in (JSON, SSE, MSGPACK)]
        rig.until(lambda: len(rig.requests) == 3)
        ids = [id_ for id_, *_ in rig.requests]
        for n, id_ in enumerate(ids):
            assert rig.engine.claims(id_) is None
            assert rig.engine.admit(id_, b"a", b"ann", b"claims %d" % n, 5)
            assert not rig.engine.admit(id_, b"a", b"ann", b"twice", 5)
        assert sorted(rig.engine.sockets_of(b"ann")) == sorted(ids)
        assert rig.engine.sockets_of(b"bob") == []
        assert rig.engine.renew(ids[1], b"fresh", 9)
        assert [rig.engine.claims(id_) for id_ in ids] == [b"claims 0", b"fresh", b"claims 2"]
        assert rig.engine.end(ids[0], 4003, b"cut off")
        rig.until(lambda: rig.engine.describe(ids[0]) is None)
        assert sorted(rig.engine.sockets_of(b"ann")) == sorted(ids[1:])
        for viewer in viewers:
            rig.leave(viewer)
        rig.until(lambda: rig.count("connections") == 0)
        assert (rig.engine.sockets_of(b"ann"), rig.count("users")) == ([], 0)


def test_who_polls_is_known_while_it_waits_and_no_longer() -> None:
    with Rig() as rig:
        rig.room("a")
        viewer = rig.connect("a", POLL, named=False, query="?user=ann")
        rig.until(lambda: rig.requests)
        id_ = rig.requests[0][0]
        assert rig.engine.sockets_of(b"ann") == [id_]
        for n, user in enumerate(("bob", "ann", "bob"), 1):
            rig.append("a")
            rig.until(lambda n=n: viewer.answers == n)
            assert rig.count("users") == 0
            assert rig.engine.claims(id_) is None
            viewer.ask("a", f"?since={viewer.vector}&user={user}")
            rig.until(lambda n=n: len(rig.requests) == n + 1)
            assert rig.engine.sockets_of(user.encode()) == [id_]
            assert rig.count("users") == 1
        assert viewer.ids["c"] == [1, 2, 3]


def test_an_anonymous_socket_has_no_claims_to_renew() -> None:
    with Rig() as rig:
        rig.room("a")
        viewer = rig.join("a", named=False)
        viewer.send(b"who am I")
        rig.until(lambda: rig.said)
        id_ = rig.said[0][0]
        assert rig.engine.claims(id_) is None
        assert not rig.engine.renew(id_, b"x", 0)
        assert rig.engine.room_of(id_) == b"a"


@pytest.mark.parametrize("again", [True, False])
def test_whoever_has_left_a_room_is_in_none(again: bool) -> None:
    with Rig() as rig:
        rig.room("a")
        polled, ended = rig.join("a", POLL), rig.join("a")
        rig.append("a")
        rig.until(lambda: polled.answers)
        rig.engine.end(ended.id, 1000, b"")
        assert rig.engine.room_close(b"a")
        if again:
            rig.room("b", incarnation=9)  # in the place of the other
        for viewer in (polled, ended):
            described = rig.engine.describe(viewer.id)
            assert described is not None
            assert described["room"] is None
            assert rig.engine.room_of(viewer.id) is None
            assert not rig.engine.visible(viewer.id, True)
        rig.settle()


def test_rooms() -> None:
    with Rig(rooms=2) as rig:
        rig.room("a", incarnation=7, must=3, chat=9)
        rig.room("b")
        for name in (b"a", b"", b"x" * 65, b"third"):
            with pytest.raises(ValueError):
                rig.engine.room_open(name, 1, 0, 0)
        info = rig.engine.room_info(b"a")
        assert info is not None
        assert (info["incarnation"], info["must"], info["chat"], info["chat_tail"]) == (7, 3, 9, 10)
        assert rig.engine.rooms_unwatched() == [b"a", b"b"]
        rig.append("a")
        assert rig.engine.rooms_unwatched() == [b"b", b"a"], "the coldest first"
        viewer = rig.join("b")
        assert rig.engine.rooms_unwatched() == [b"a"]
        assert not rig.engine.room_close(b"b")
        assert rig.engine.room_close(b"a")
        assert viewer.end is None
        with pytest.raises(KeyError):
            rig.append("a")


def test_appends() -> None:
    with Rig() as rig:
        rig.room("a", chat=5)
        viewer = rig.join("a")
        assert viewer.got[0][1]["since"] == "i1.m0.c5"
        assert [rig.append("a", seq=seq) for seq in (6, 6, 4, 7, 10, 9, 11)] == [0, 2, 2, 0, 1, 2, 0]
        rig.settle()
        assert viewer.gaps == [("c", 6, 9)]
        assert viewer.ids["c"] == [10, 11]
        assert rig.append("a", MUST, seq=4) == 1
        rig.settle()
        assert viewer.gaps[1:] == [("m", 1, 3)]
        assert rig.count("holes") == 2
        for lane, canon in ((2, b"\x80"), (-1, b"\x80"), (CHAT, b"")):
            with pytest.raises(ValueError):
                rig.engine.append(b"a", lane, 12, 1, canon)


# What is said by viewers.


def test_messages_come_in_order_and_before_the_goodbye() -> None:
    with Rig() as rig:
        rig.room("a")
        viewer = rig.join("a")
        rig.on_message = lambda id_, payload: rig.engine.reply(id_, {"t": "ack", "ref": payload.decode()})
        for n in range(5):
            viewer.send(b"%d" % n)
        viewer.send((1000).to_bytes(2, "big") + b"done", 8)
        viewer.send(b"too late")
        rig.until(lambda: viewer.end)
        assert [message["ref"] for message in viewer.messages("ack")] == ["0", "1", "2", "3", "4"]
        assert viewer.close_code == 1000
        assert rig.count("closed_client") == 1


@pytest.mark.parametrize(
    "data, code",
    [(b"words " * 100, None), (b"x" * 16384, None), (b"x" * 16385, 1009), (b"\xff", 1007), ("ü".encode()[:1], 1007)],
)
def test_what_a_compressed_message_inflates_to_is_bounded(data: bytes, code: int | None) -> None:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH)
    with Rig() as rig:
        rig.room("a")
        viewer = rig.join("a", DEFLATE)
        viewer.send(body[:-4], rsv1=True)
        if code is None:
            rig.until(lambda: rig.said)
            assert rig.said[0][1:] == (1, DEFLATE, data)
        else:
            rig.until(lambda: viewer.close_code)
            assert (viewer.close_code, rig.said) == (code, [])


# Everything that may hang off a socket, and the end of all of it.


def half_of_everything(rig: Rig) -> list[Viewer]:
    rig.room("a")
    rig.admits = True
    blocked = rig.join("a", rcvbuf=4096)
    rig.block(blocked, "a")
    rig.engine.reply(blocked.id, {"t": "ack", "x": "y" * 2000})
    half, polled, closing = rig.join("a"), rig.join("a", POLL), rig.join("a", SSE)
    half.send(b"the first half", fin=False)
    half.sock.sendall(b"\x89")  # and the first byte of a ping
    rig.engine.end(closing.id, 1000, b"")
    rig.admits = False
    parked = rig.connect("a")
    unasked = rig.connect("a", named=False, fields=["X: " + "y" * 4000])
    rig.leave(unasked)
    headless = socket.create_connection(rig.listener.getsockname())
    headless.sendall(b"GET / HT")
    rig.until(lambda: rig.count("connections") >= 6)
    headless.sendall(b"TP/1.1\r\nHost: a\r\n\r\n")
    headless.close()
    return [blocked, half, polled, closing, parked]


def test_nothing_is_kept_at_the_end() -> None:
    with Rig(sndbuf=16384) as rig:
        half_of_everything(rig)  # and what Rig checks when it ends


def test_nothing_is_kept_when_all_are_told_to_go() -> None:
    with Rig(sndbuf=16384, close_ms=100) as rig:
        blocked, half, *_ = half_of_everything(rig)
        rig.engine.end_all(1001, b"going away")
        rig.until(lambda: rig.count("connections") == 0)
        assert half.close_code == 1001
        blocked.reading = True
        rig.until(lambda: blocked.end)
        assert rig.count("cold") == 0


def test_what_is_handed_over_stays_open() -> None:
    with Rig() as rig:
        client = socket.create_connection(rig.listener.getsockname())
        client.sendall(b"POST /v1/rooms/a/comments HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}")
        rig.until(lambda: rig.handed)
        fd, _peer = rig.handed[0]
        with socket.socket(fileno=os.dup(fd)) as there:
            assert there.recv(100).endswith(b"{}")
            there.sendall(b"done")
        assert client.recv(4) == b"done"
        assert (rig.count("handed_over"), rig.count("connections")) == (1, 0)
        client.close()
