"""A comment that is pinned: everybody is told, who comes is told, and it goes with the comment; it outlives kill -9."""

import os
import signal
from pathlib import Path

from tests.moderators import ask, say, server_at, token, told, viewer_of
from tests.raw import Raw
from tests.server import until
from tests.worker.test_look import texts_until


def test_a_pin(tmp_path: Path, room: str) -> None:
    path = f"/v1/rooms/{room}/pin"
    server = server_at(tmp_path)
    try:
        viewer = viewer_of(Raw(server), room, token("eve"))
        made = told(say(server, room, "read this"))["id"]
        texts_until(viewer, "read this")
        pin = told(ask(server, "PUT", path, {"id": made}))["pin"]
        assert (pin["id"], pin["x"], pin["u"]["id"]) == (made, "read this", "ann")
        assert viewer.message("state")["pin"] == pin
        with Raw(server) as newcomer:
            newcomer.upgrade(room)
            assert newcomer.message("state")["pin"] == pin
        assert told(ask(server, "GET", f"/v1/rooms/{room}"))["pin"] == pin
        viewer.sock.close()
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
    finally:
        server.stop()
    with server_at(tmp_path) as server, Raw(server) as raw:
        until(lambda: told(ask(server, "GET", f"/v1/rooms/{room}"))["pin"] == pin)
        viewer = viewer_of(raw, room, token("eve"))
        assert viewer.message("state")["pin"] == pin
        told(ask(server, "DELETE", f"/v1/rooms/{room}/comments/{made}"))
        assert viewer.message("state")["pin"] is None
        until(lambda: told(ask(server, "GET", f"/v1/rooms/{room}"))["pin"] is None)
        assert told(ask(server, "DELETE", path)) == {"pin": None}
        assert ask(server, "PUT", path, {"id": "nobodysaidthis"}).error() == "unknown_comment"
        assert ask(server, "PUT", path, {"id": 1}).error() == "bad_json"
        assert ask(server, "PUT", path, {"id": made}, token("ann")).error() == "forbidden"
        other = told(say(server, room, "and this"))["id"]
        texts_until(viewer, "and this")
        told(ask(server, "PUT", path, {"id": other}))
        told(ask(server, "DELETE", path))
        said = [viewer.message("state")["pin"] for _ in range(2)]
        assert [pin and pin["id"] for pin in said] == [other, None]
        trail = told(ask(server, "GET", f"/v1/rooms/{room}/audit"))["audit"]
        assert [line["what"] for line in trail] == ["unpin", "pin", "unpin", "delete", "pin"]
