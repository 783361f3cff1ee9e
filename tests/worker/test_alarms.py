"""A sudden crowd on one target: moderators are told on every box, the trail has it, and the room can close to all but
subscribers by itself."""

from pathlib import Path

from tests.broker.nats_server import nats_server
from tests.moderators import ask, mod, say, server_at, token, told, viewer_of
from tests.raw import Raw
from tests.server import until

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
            for speaker in range(SPEAKERS):
                say(one, room, f"@ann {number}", f"u{speaker}")
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
