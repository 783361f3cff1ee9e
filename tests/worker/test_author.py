"""What one author says keeps its order and is said once, whichever box it goes in through, whoever writes the room."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.broker.nats_server import nats_server
from tests.moderators import server_at, token, viewer_of
from tests.raw import TEXT, Raw
from tests.server import Server, until

LEASE = "?lease=3"
SHARDS = 256


def seen(viewer: Raw, last: str) -> list[str]:
    texts: list[str] = []
    while last not in texts:
        texts += [comment["x"] for comment in viewer.message("batch")["m"]]
    return texts


def say(author: Raw, text: str, ref: str) -> Any:
    """Its ack."""
    author.say(json.dumps({"op": "comment", "ref": ref, "x": text}))
    while True:
        message = author.frame_of(TEXT).message()
        if message["t"] == "ack" and message["ref"] == ref:
            return message


@pytest.mark.parametrize("boxes", [1, 2])
def test_an_author_with_two_sockets(boxes: int, tmp_path: Path, room: str) -> None:
    """On the two workers of a box, or on two boxes: each comment is sent when the one before has its ack."""
    with (
        nats_server(tmp_path) as nats,
        server_at(tmp_path, broker_url=nats.url, server_workers=3 - boxes) as one,
        server_at(tmp_path, broker_url=nats.url) as two,
        Raw(one) as here,
        Raw(two if boxes == 2 else one) as there,
        Raw(one) as watching,
    ):
        authors = [viewer_of(raw, room, token("bob")) for raw in (here, there)]
        viewer = viewer_of(watching, room, token("eve"))
        for number in range(16):
            assert say(authors[number % 2], f"{number}", f"r{number}")["status"] == "published"
        assert seen(viewer, "15") == [f"{number}" for number in range(16)]
        again = [say(author, "3", "r3") for author in authors]
        assert again[0]["id"] == again[1]["id"]
        say(authors[1], "last", "last")
        assert seen(viewer, "last") == ["last"]


def test_a_ref_is_known_after_the_owner_has_gone(tmp_path: Path, room: str) -> None:
    with nats_server(tmp_path) as nats, server_at(tmp_path, broker_url=nats.url + LEASE, rooms_own=False) as edge:
        owner = owner_at(tmp_path, nats.url)
        with Raw(edge) as watching, Raw(edge) as raw:
            viewer, author = viewer_of(watching, room, token("eve")), viewer_of(raw, room, token("bob"))
            try:
                first = say(author, "once", "r1")
                assert seen(viewer, "once") == ["once"]
            finally:
                os.kill(owner.process.pid, signal.SIGKILL)
                owner.process.wait()
                owner.stop()
            with owner_at(tmp_path, nats.url):
                again = say(author, "once", "r1")
                assert (again["id"], again["status"]) == (first["id"], "published")
                say(author, "last", "r2")
                assert seen(viewer, "last") == ["last"]


def owner_at(folder: Path, url: str) -> Server:
    """Another box, which writes all rooms."""
    server = server_at(folder, broker_url=url + LEASE)
    until(lambda: server.figures()["edge_owner_shards"] == SHARDS, 30)
    return server
