"""A socket is read when epoll tells of it, or when it may have more than was read: nothing is left unread for ever,
whatever else happens to it meanwhile."""

import random
import socket
from itertools import count

import pytest

from tests._fast.engine import CHAT, JSON, MSGPACK, MUST, SSE, Rig, Viewer, frame, nothing_kept

__all__ = ["nothing_kept"]

STEPS = 600
numbers = count()


def act(rig: Rig, viewer: Viewer, rng: random.Random, sent: dict[Viewer, list[int]], held: set[Viewer]) -> None:
    what = rng.choice(["say", "say", "say", "hold", "stop reading", "append", "reply", "turn"])
    if what == "say" and viewer.enc != SSE and viewer in sent:
        for _ in range(rng.choice([1, 1, 3, 300])):
            number = next(numbers)
            message = frame(b"%d:" % number + b"x" * rng.choice([1, 10, 900]))
            try:
                if viewer.sock.send(message) < len(message):
                    del sent[viewer]  # in the middle of a message: nothing more can be said
            except BlockingIOError:
                return  # nobody reads it now
            if viewer not in sent:
                return
            sent[viewer].append(number)
    elif what == "hold":
        held.symmetric_difference_update({viewer})
        rig.engine.hold(viewer.id, viewer in held)
    elif what == "stop reading":
        viewer.reading = not viewer.reading
    elif what == "append":
        rig.append("r", rng.choice([MUST, CHAT]), size=rng.choice([10, 8000]))
    elif what == "reply":
        rig.engine.reply(viewer.id, {"t": "x"})
    else:
        rig.engine.tick()


@pytest.mark.parametrize("seed", range(3))
def test_all_that_is_said_is_read_and_every_end_is_seen(seed: int) -> None:
    rng = random.Random(seed)
    with Rig(sndbuf=4096) as rig:
        rig.room("r")
        viewers = [rig.join("r", rng.choice([JSON, MSGPACK, SSE]), rcvbuf=rng.choice([0, 2048])) for _ in range(8)]
        sent: dict[Viewer, list[int]] = {viewer: [] for viewer in viewers}
        held: set[Viewer] = set()
        for viewer in viewers:
            viewer.sock.setblocking(False)
        for _ in range(STEPS):
            act(rig, rng.choice(viewers), rng, sent, held)
            for viewer in viewers:
                if viewer.reading and viewer.end is None and rng.random() < 0.3:
                    viewer.read()
        for viewer in viewers:
            rig.engine.hold(viewer.id, False)
            viewer.reading = True

        def heard(viewer: Viewer) -> list[int]:
            return [int(text.split(b":")[0]) for id_, _, _, text in rig.said if id_ == viewer.id]

        rig.until(lambda: all(viewer.end is not None or heard(viewer) == said for viewer, said in sent.items()))
        there = [viewer for viewer in viewers if viewer.end is None]
        for viewer in there:
            if rng.random() < 0.5:
                rig.engine.reply(viewer.id, {"t": "x"})
            if rng.random() < 0.5:
                rig.engine.tick()
            viewer.sock.shutdown(1)
        rig.until(lambda: not any(rig.engine.describe(viewer.id) for viewer in there))


def test_a_turn_that_left_some_is_followed_by_one_that_looks() -> None:
    """A beat may bring more than one turn takes. The others need not wait for the next beat, whoever asks for them."""
    with Rig() as rig:
        rig.engine.tick(8)
        for _ in range(100):
            rig.dialled.append(socket.create_connection(rig.listener.getsockname()))
        assert not rig.engine.tick(0), "nobody has looked"
        assert rig.engine.counters()["accepted"] == 0
        turns = 1
        while rig.engine.tick(8 if turns == 1 else 0):
            turns += 1
        assert rig.engine.counters()["accepted"] == 100
        assert turns >= 3, "each has its share"
