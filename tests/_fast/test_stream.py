"""What comes in on a joined WebSocket: however it is cut, messages are whole, and what is half read is given back."""

import pytest

from tests._fast.engine import JSON, MSGPACK, SSE, Rig, frame, nothing_kept

__all__ = ["nothing_kept"]

# A message in three fragments with controls between them, and two whole ones.
TALK = (
    frame(b"whole")
    + frame(b"one ", fin=False)
    + frame(b"ping", 9)
    + frame(b"two ", 0, fin=False)
    + frame(b"", 10)
    + frame(b"three", 0)
    + frame(b"last" * 40)
)
SAID = [b"whole", b"one two three", b"last" * 40]


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 7, 50])
def test_messages_cut_anywhere(cut: int) -> None:
    with Rig() as rig:
        rig.room("a")
        viewer = rig.join("a")
        for at in range(0, len(TALK), cut):
            viewer.sock.sendall(TALK[at : at + cut])
            rig.turn()
        rig.until(lambda: len(rig.said) == 3)
        assert [payload for *_, payload in rig.said] == SAID
        rig.settle()
        assert viewer.raw[-1] == (10, b"ping")
        assert rig.count("cold") == 0


@pytest.mark.parametrize("at", range(1, len(TALK) - 1, 3))
def test_what_is_half_read_when_it_ends(at: int) -> None:
    with Rig() as rig:
        rig.room("a")
        viewer = rig.join("a")
        viewer.sock.sendall(TALK[:at])
        rig.until(lambda: rig.engine.tick() or True)
        rig.leave(viewer)
        rig.until(lambda: rig.count("connections") == 0)
        assert rig.count("cold") == 0


@pytest.mark.parametrize("cut", [1, 3, 6, 8])
def test_a_pong_that_blocks_with_a_message_half_read(cut: int) -> None:
    """The pongs make the socket's cold part while the parser's state is not in it yet."""
    last = frame(b"whole", 0)
    with Rig(sndbuf=16384) as rig:
        rig.room("a")
        viewer = rig.join("a", rcvbuf=4096)
        viewer.reading = False
        rounds = 0
        while not rig.blocked(viewer):
            viewer.sock.sendall(frame(b"half ", fin=False) + frame(b"p" * 125, 9) * 20 + last[:cut])
            rig.turn(5)
            viewer.sock.sendall(last[cut:])
            rounds += 1
        viewer.reading = True
        rig.until(lambda: len(rig.said) == rounds)
        rig.settle()
        assert {payload for *_, payload in rig.said} == {b"half whole"}
        assert viewer.raw.count((10, b"p" * 125)) == rounds * 20
        assert rig.count("cold") == 0


def test_who_is_held_is_not_read_and_nothing_of_it_is_lost() -> None:
    with Rig() as rig:
        rig.room("a")
        viewer = rig.join("a")
        rig.engine.hold(viewer.id, True)
        viewer.send(b"one")
        viewer.send(b"two")
        rig.append("a")
        rig.settle()
        assert (rig.said, viewer.ids["c"]) == ([], [1])
        rig.engine.hold(viewer.id, False)
        rig.until(lambda: len(rig.said) == 2)
        assert [payload for *_, payload in rig.said] == [b"one", b"two"]


@pytest.mark.parametrize(
    "data, code",
    [
        (b"\x81\x02ab", 1002),
        (frame(b"x" * 16385), 1009),
        (frame(b"x" * 12000, fin=False) + frame(b"x" * 4385, 0), 1009),
        (frame(b"\xff"), 1007),
        (frame(b"x", 3), 1002),
        (frame(b"", 8), 1005),
        (frame(b"\x03\xe8bye", 8), 1000),
        (frame(b"\x03\xed", 8), 1002),
    ],
)
def test_the_end_of_a_conversation(data: bytes, code: int) -> None:
    with Rig() as rig:
        rig.room("a")
        viewer, other = rig.join("a"), rig.join("a")
        viewer.sock.sendall(frame(b"before") + data + frame(b"after"))
        rig.until(lambda: viewer.end)
        assert viewer.close_code == code
        assert [payload for *_, payload in rig.said] == [b"before"]
        assert rig.count("closed_client" if code in (1000, 1005) else "closed_protocol") == 1
        rig.append("a")
        rig.settle()
        assert other.ids["c"] == [1]


def test_a_message_right_before_the_end_is_heard() -> None:
    with Rig() as rig:
        rig.room("a")
        rooms = []
        rig.on_message = lambda id_, payload: rooms.append((rig.engine.room_of(id_), rig.engine.claims(id_)))
        for reset in (False, True):
            viewer = rig.join("a", MSGPACK)
            viewer.send(b"\x80", 2)
            rig.leave(viewer, reset=reset)
            rig.until(lambda: rig.count("connections") == 0)
        assert len(rig.said) >= 1  # a reset may take what it overtakes
        assert rooms[0] == (b"a", b"claims of u1")


@pytest.mark.parametrize("enc", [JSON, SSE])
def test_what_an_event_stream_says_is_thrown_away(enc: int) -> None:
    with Rig() as rig:
        rig.room("a")
        viewer = rig.join("a", enc)
        viewer.sock.sendall(frame(b"x" * 4000) * 30)
        rig.append("a")
        rig.settle()
        rig.until(lambda: len(rig.said) == (30 if enc == JSON else 0))
        assert viewer.ids["c"] == [1]
        assert rig.count("messages") == len(rig.said)
