"""The front door: who joins from where, who is handed on with every byte unread, and who is turned away."""

import os
import select
import socket

import pytest

from tests._fast.engine import DEFLATE, JSON, MSGPACK, MUST, SSE, ZSTD, Rig, frame, nothing_kept

__all__ = ["nothing_kept"]

STREAMS = [JSON, MSGPACK, ZSTD, DEFLATE, SSE]


# Where a viewer begins.


@pytest.mark.parametrize("enc", STREAMS)
def test_a_fresh_viewer_gets_the_newest_comments(enc: int) -> None:
    with Rig(replay=7) as rig:
        rig.room("a", chat=100)
        for _ in range(20):
            rig.append("a", count=3)
            rig.append("a", MUST)
        viewer = rig.join("a", enc)
        rig.settle()
        assert viewer.got[0][1]["resumed"] is False
        assert viewer.ids["c"] == [118, 119, 120], "as many whole batches as 7 comments take"
        assert viewer.ids["m"] == list(range(14, 21)), "no more scores than comments"


@pytest.mark.parametrize(
    "last, chat, must", [("0", [], []), ("1", [30], [30]), ("12", list(range(19, 31)), list(range(21, 31)))]
)
def test_a_viewer_says_how_much_it_wants(last: str, chat: list[int], must: list[int]) -> None:
    with Rig() as rig:
        rig.room("a")
        for _ in range(30):
            rig.append("a")
            rig.append("a", MUST)
        viewer = rig.join("a", query=f"?last={last}")
        rig.settle()
        assert viewer.ids == {"m": must, "c": chat}


@pytest.mark.parametrize("enc", STREAMS)
def test_a_resume_goes_on_where_it_was(enc: int) -> None:
    with Rig() as rig:
        rig.room("a", incarnation=5)
        for _ in range(15):
            rig.append("a")
            rig.append("a", MUST)
        viewer = rig.join("a", enc, query="?since=i5.m3.c9")
        rig.settle()
        assert viewer.got[0][1] == {"t": "hello", "since": "i5.m3.c9", "viewers": 1, "resumed": True, "state": "live"}
        assert viewer.ids == {"m": list(range(4, 16)), "c": list(range(10, 16))}
        assert viewer.gaps == []


@pytest.mark.parametrize("enc", STREAMS)
def test_a_resume_sends_so_many_bytes_of_chat_and_a_gap_for_the_rest(enc: int) -> None:
    with Rig(resume_bytes=20_000) as rig:
        rig.room("a")
        for _ in range(50):
            rig.append("a", size=1000)
            rig.append("a", MUST, size=1000)
        viewer = rig.join("a", enc, query="?since=i1.m0.c10")
        rig.settle()
        ((lane, first, last),) = viewer.gaps
        assert (lane, first) == ("c", 11)
        assert viewer.ids["c"] == list(range(last + 1, 51))
        sizes = [later - began for (began, _), (later, _) in zip(viewer.got, viewer.got[1:], strict=False)]
        chat = [size for size, (_, message) in zip(sizes, viewer.got, strict=False) if message["t"] == "batch"]
        assert 10_000 < sum(chat) <= 20_000
        assert viewer.ids["m"] == list(range(1, 51)), "must in full"
        assert rig.count("skipped") == last - 10


def test_a_resume_from_before_the_ring() -> None:
    with Rig() as rig:
        rig.room("a", must=40, chat=60)
        rig.append("a")
        rig.append("a", MUST)
        viewer = rig.join("a", query="?since=i1.m2.c3")
        rig.settle()
        assert sorted(viewer.gaps) == [("c", 4, 60), ("m", 3, 40)]
        assert viewer.ids == {"m": [41], "c": [61]}


@pytest.mark.parametrize("since", ["i1.m10.c10", "i1.m4.c900", "i1.m18446744073709551615.c18446744073709551615"])
def test_a_resume_from_ahead_of_what_is_known_here_waits(since: str) -> None:
    """Another edge was faster: what this one learns later is not repeated."""
    with Rig() as rig:
        rig.room("a", must=4, chat=4)
        viewer = rig.join("a", query=f"?since={since}")
        for _ in range(8):
            rig.append("a")
            rig.append("a", MUST)
        rig.settle()
        far = since != "i1.m10.c10"
        assert viewer.ids["c"] == ([] if far else [11, 12])
        assert viewer.gaps == []


def test_a_resume_of_another_numbering_is_none() -> None:
    with Rig() as rig:
        rig.room("a", incarnation=2)
        rig.append("a")
        viewer = rig.join("a", query="?since=i1.m5.c50")
        rig.settle()
        assert viewer.got[0][1]["resumed"] is False
        assert viewer.ids["c"] == [1]


def test_no_hello_where_it_is_off() -> None:
    with Rig(hello=0) as rig:
        rig.room("a")
        viewer = rig.connect("a")
        rig.until(lambda: viewer.status == "101")
        rig.append("a")
        rig.settle()
        assert [message["t"] for _, message in viewer.got] == ["batch"]


def test_frames_behind_the_head_are_read() -> None:
    with Rig() as rig:
        rig.room("a")
        for named in (True, False):
            viewer = rig.connect("a", named=named)
            viewer.sock.sendall(frame(b"at once"))
            heard = len(rig.said) + 1
            rig.until(lambda n=heard: len(rig.said) == n)
        assert [payload for *_, payload in rig.said] == [b"at once"] * 2


# Who is let in.


def test_the_anonymous_join_without_a_question_where_the_room_is_open() -> None:
    with Rig() as rig:
        rig.room("a")
        rig.join("a", named=False)
        assert rig.requests == []
        rig.admits = False
        rig.connect("b", named=False)
        rig.connect("a", named=False, query="?token=secret")
        rig.connect("a", named=False, query="?user=ann")
        rig.until(lambda: len(rig.requests) == 3)
        assert {request[1:] for request in rig.requests} == {
            (b"b", None, None),
            (b"a", b"secret", None),
            (b"a", None, b"ann"),
        }


def test_everybody_is_asked_about_where_nobody_is_anonymous() -> None:
    with Rig(anonymous=0) as rig:
        rig.room("a")
        rig.admits = False
        viewer = rig.connect("a", named=False)
        rig.until(lambda: rig.requests)
        assert rig.engine.describe(rig.requests[0][0])["room"] is None
        with pytest.raises(KeyError):
            rig.engine.admit(rig.requests[0][0], b"elsewhere")
        assert rig.engine.admit(rig.requests[0][0], b"a")
        rig.until(lambda: viewer.position)


def test_an_address_has_so_many_connections() -> None:
    with Rig(per_ip=3) as rig:
        rig.room("a")
        viewers = [rig.join("a") for _ in range(3)]
        fourth = rig.connect("a")
        rig.until(lambda: fourth.end)
        assert fourth.status == "429"
        rig.leave(fourth)
        rig.leave(viewers[0])
        rig.until(lambda: rig.count("connections") == 2)
        rig.join("a")


@pytest.mark.parametrize("since", ["i1.m1", "x", "i1.m01.c0", "i1.m1.c18446744073709551616"])
def test_a_position_that_is_none(since: str) -> None:
    with Rig() as rig:
        rig.room("a")
        viewer = rig.connect("a", query=f"?since={since}")
        rig.until(lambda: viewer.end)
        assert viewer.status == "400"


# Who is handed on, and comes back.


def test_any_other_request_is_handed_on_unread() -> None:
    request = b"POST /v1/rooms/a/comments HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
    with Rig(per_ip=10) as rig:
        client = socket.create_connection(rig.listener.getsockname())
        for at in range(0, len(request), 9):
            client.sendall(request[at : at + 9])
            rig.turn(2)
        client.sendall(b"hello")
        rig.until(lambda: rig.handed)
        fd, peer = rig.handed[0]
        assert peer == bytes(10) + b"\xff\xff\x7f\0\0\x01"
        with socket.socket(fileno=os.dup(fd)) as there:
            there.setblocking(True)
            got = b""
            while len(got) < len(request) + 5:
                got += there.recv(4096)
        assert got == request + b"hello"
        client.close()


@pytest.mark.parametrize(
    "head, status",
    [
        (b"GET /v1/rooms/a/sse HTTP/1.1\r\nHost: a\r\n\r\n", b"200"),
        (b"GET /v1/rooms/a/sse HTTP/1.1\r\nHost: a\r\n\r\nmore", b"400"),
        (b"GET /v1/rooms/a/sse HTTP/1.1\r\n", b"400"),
        (b"GET /elsewhere HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
        (b"GET /v1/rooms/a/ws HTTP/1.1\r\nHost: a\r\n\r\n", b"426"),
    ],
)
def test_a_request_that_somebody_else_has_read(head: bytes, status: bytes) -> None:
    with Rig() as rig:
        rig.room("a")
        client = socket.create_connection(rig.listener.getsockname())
        there, _ = rig.listener.accept()
        there.setblocking(False)
        rig.engine.adopt(there.detach(), head)
        rig.turn(3)
        assert client.recv(4096)[9:12] == status
        assert rig.count("adopted") == 1
        client.close()


def test_a_head_that_comes_byte_by_byte_costs_nothing_but_its_place() -> None:
    with Rig() as rig:
        rig.room("a")
        viewer = rig.connect("a")
        rig.leave(viewer)
        client = socket.create_connection(rig.listener.getsockname())
        for byte in b"GET /v1/rooms/a/sse HTTP/1.1\r\nHost: a\r\n\r":
            client.sendall(bytes([byte]))
            rig.turn()
        assert rig.count("cold") == 0
        client.sendall(b"\n")
        rig.until(lambda: rig.count("joined_sse") == 1)
        client.close()


def test_a_connection_that_says_nothing_and_goes() -> None:
    with Rig() as rig:
        for data in (b"", b"GET ", b"GET /v1/rooms/a/ws HTTP/1.1\r\n"):
            client = socket.create_connection(rig.listener.getsockname())
            client.sendall(data)
            client.close()
        rig.until(lambda: rig.count("closed_gone") == 3)
        assert rig.count("connections") == 0


def test_the_proxys_word_counts_where_it_is_trusted() -> None:
    loopback = (bytes(10) + b"\xff\xff\x7f\0\0\0", 104)
    with Rig(proxy=1, per_ip=1, trusted=(loopback,)) as rig:
        rig.room("a")
        answers = []
        for n in (1, 2, 1):
            client = rig.dial(
                b"PROXY TCP4 10.0.0.%d 10.9.9.9 5 6\r\nGET /v1/rooms/a/sse HTTP/1.1\r\nHost: a\r\n\r\n" % n
            )
            rig.until(lambda c=client: readable(c))
            answers.append(client.recv(12))
        assert answers == [b"HTTP/1.1 200", b"HTTP/1.1 200", b"HTTP/1.1 429"]


def test_a_proxy_that_is_not_trusted_is_a_client_like_others() -> None:
    elsewhere = (bytes(10) + b"\xff\xff\x0a\0\0\0", 104)
    with Rig(proxy=1, trusted=(elsewhere,)) as rig:
        client = rig.dial(b"PROXY TCP4 10.0.0.1 10.9.9.9 5 6\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        rig.until(lambda: readable(client))
        assert client.recv(12) == b"HTTP/1.1 400"


def readable(client: socket.socket) -> bool:
    return bool(select.select([client], [], [], 0)[0])
