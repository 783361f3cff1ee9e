"""A sudden crowd on one target, over whatever workers and boxes it is spread: moderators are told on every box, the
trail has it, and the room can close to all but subscribers by itself; all are told when it is over, even if who raised
the alarm is gone."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from broker.base import LEASE_TTL_S
from edge.ingest.crowd import TARGET_ON
from edge.moderation.alarms import QUIET_S
from tests.broker.nats_server import nats_server
from tests.moderators import ask, mod, say, server_at, token, told, viewer_of
from tests.raw import Raw
from tests.server import Server, until
from tests.worker.test_limits import SOCKETS, at_both

SPEAKERS = 5
EACH = 15  # below what one author may say


def test_a_crowd_on_a_target(tmp_path: Path, room: str) -> None:
    with (
        nats_server(tmp_path) as nats,
        server_at(tmp_path, broker_url=nats.url, moderation_crowd="subs_only") as one,
        server_at(tmp_path, broker_url=nats.url, moderation_crowd="subs_only") as two,
        Raw(two) as here,
        Raw(two) as theirs,
    ):
        moderator, viewer = viewer_of(here, room, mod()), viewer_of(theirs, room, token("eve"))
        told(say(one, room, "hello", "ann"))
        for number in range(EACH):
            for speaker in range(SPEAKERS):  # neither box sees as many as make a crowd
                say(two if number % 2 else one, room, f"@ann {number}", f"u{speaker}")
        assert moderator.message("alarm") == {"t": "alarm", "kind": "target", "target": "ann", "on": True}
        state = viewer.message("state")
        assert (state["mode"]["subs_only"], state["auto"]) == (True, True)
        for box in (one, two):
            until(lambda box=box: say(box, room, "me too", "zoe").status == 403)
        assert told(say(two, room, "me too", "sue", tier=1))["status"] == "published"
        assert told(ask(two, "GET", f"/v1/rooms/{room}"))["mode"]["subs_only"] is True
        (line,) = told(ask(two, "GET", f"/v1/rooms/{room}/audit"))["audit"]
        assert (line["who"], line["what"], line["about"]["target"]) == ("", "alarm", "ann")


def test_moderators_are_told_and_nothing_else_is_done_unless_it_is_set(tmp_path: Path, room: str) -> None:
    with server_at(tmp_path) as server, Raw(server) as raw:
        moderator = viewer_of(raw, room, mod())
        told(say(server, room, "hello", "ann"))
        for number in range(EACH):
            for speaker in range(SPEAKERS):
                told(say(server, room, f"@ann {number}", f"u{speaker}"))
        assert moderator.message("alarm")["target"] == "ann"
        assert told(ask(server, "GET", f"/v1/rooms/{room}"))["mode"]["subs_only"] is False


def on_and_off(moderator: Raw, seconds: float) -> list[bool]:
    """What a moderator is told, up to the end of it."""
    moderator.sock.settimeout(seconds)
    found = [moderator.message("alarm")["on"]]
    while found[-1]:
        found.append(moderator.message("alarm")["on"])
    return found


def trail(server: Server, room: str) -> list[Any]:
    lines = told(ask(server, "GET", f"/v1/rooms/{room}/audit"))["audit"]
    return [line["about"]["on"] for line in reversed(lines) if line["what"] == "alarm"]


def test_a_crowd_that_is_spread_over_the_connections_of_two_workers(tmp_path: Path, room: str) -> None:
    users = [f"u{number}" for number in range(SOCKETS)]
    with (
        server_at(tmp_path, server_workers=2, streams_ping_seconds=120) as server,
        at_both(server, room, *users) as sockets,
        Raw(server) as raw,
    ):
        moderator = viewer_of(raw, room, mod())
        told(say(server, room, "hello", "ann"))
        each = TARGET_ON // len(sockets) + 1
        assert each * (len(sockets) - 4) < TARGET_ON, "neither worker sees as many as make a crowd"
        for number in range(each):
            for at, socket in enumerate(sockets):
                socket.say(json.dumps({"op": "comment", "ref": f"{at}-{number}", "x": f"@ann {at} {number}"}))
        for socket in sockets:
            assert [socket.message("ack")["status"] for _ in range(each)] == ["published"] * each
        assert moderator.message("alarm")["on"] is True
        until(lambda: trail(server, room))
        told(say(server, room, "@ann as well", "ann"))
        assert trail(server, room) == [True], "it is one crowd, and told once"


@pytest.mark.slow
def test_all_are_told_that_it_is_over_when_who_raised_it_is_killed(tmp_path: Path, room: str) -> None:
    with contextlib.ExitStack() as stack:
        nats = stack.enter_context(nats_server(tmp_path))
        boxes = [
            server_at(tmp_path, broker_url=nats.url, moderation_crowd="subs_only", streams_ping_seconds=200)
            for _ in range(2)
        ]
        for box in boxes:
            stack.callback(box.stop)
        moderators = [viewer_of(stack.enter_context(Raw(box)), room, mod()) for box in boxes]
        viewers = [viewer_of(stack.enter_context(Raw(box)), room, token("eve")) for box in boxes]
        until(lambda: min(box.figures()["edge_owner_shards"] for box in boxes) > 100, 60)  # the room stays where it is
        told(say(boxes[0], room, "hello", "ann"))
        for number in range(EACH):
            for speaker in range(SPEAKERS):
                say(boxes[speaker % 2], room, f"@ann {number}", f"u{speaker}")
        for viewer in viewers:
            state = viewer.message("state")
            assert (state["mode"]["subs_only"], state["auto"]) == (True, True)
        (raiser,) = (at for at, box in enumerate(boxes) if "target ann is on" in box.stderr())
        boxes[raiser].process.kill()
        left = 1 - raiser
        moderator, viewer = moderators[left], viewers[left]
        assert on_and_off(moderator, LEASE_TTL_S + QUIET_S + 10) == [True, False]
        viewer.sock.settimeout(moderator.sock.gettimeout())
        state = viewer.message("state")
        assert (state["mode"]["subs_only"], state["auto"]) == (False, False)
        assert told(say(boxes[left], room, "me too", "zoe"))["status"] == "published"
        until(lambda: trail(boxes[left], room) == [True, False])
        assert "Traceback" not in boxes[left].stderr()
