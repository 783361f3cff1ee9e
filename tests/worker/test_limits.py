"""Limits of comments on a real server: they are of the box, whichever of its workers is asked."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import nats as nats_py

from edge.ingest.modes import AUTO_ON
from tests.broker.nats_server import nats_server
from tests.raw import UPGRADE, Raw
from tests.server import Server, until, until_async
from tests.viewers import publisher, viewer
from tests.worker.test_moderation import server_at, token

SOCKETS = 12
EACH = 4
PER_30_S = 20


@contextlib.contextmanager
def at_both(server: Server, room: str, *users: str) -> Iterator[list[Raw]]:
    """A dozen sockets of these users in turn, so spread that each of two workers has four or more."""
    with contextlib.ExitStack() as stack:
        found: list[Raw] = []

        def spread() -> bool:
            having = [server.figures(worker=number)["edge_connections"] for number in "01"]
            if sum(having) != len(found):
                return False  # figures are up to a second old
            if len(found) >= SOCKETS and min(having) >= 4:
                return True
            for _ in range(SOCKETS // 2):
                raw = stack.enter_context(Raw(server))
                raw.get(f"/v1/rooms/{room}/ws?token={token(users[len(found) % len(users)])}", UPGRADE)
                assert raw.head()[0] == 101
                raw.message("hello")
                found.append(raw)
            return False

        until(spread, 60)
        yield found


def said(sockets: list[Raw], each: int) -> tuple[list[Any], float]:
    """What became of so many comments on each of the sockets, and how long they took."""
    began = time.monotonic()
    acks = []
    for number in range(each):
        for at, raw in enumerate(sockets):
            raw.say(json.dumps({"op": "comment", "ref": f"{at}-{number}", "x": f"hello {at} {number}"}))
            acks.append(raw.message("ack"))
    return acks, time.monotonic() - began


def check(acks: list[Any], most: int, took_s: float, every_s: float) -> None:
    """As many as there may be at once passed, and as many more as have come since; the rest were told when to come."""
    passed = [ack for ack in acks if ack["status"] == "published"]
    assert most <= len(passed) <= most + 1 + took_s / every_s
    assert len(passed) < len(acks)
    for ack in acks:
        if ack["status"] != "published":
            assert (ack["status"], ack["error"]) == ("rejected", "too_many")
            assert 0 < ack["retry_after"] <= every_s + 0.001


def test_an_author_with_sockets_at_two_workers_has_one_limit(tmp_path: Path, room: str) -> None:
    with server_at(tmp_path, server_workers=2) as server, at_both(server, room, "ann") as sockets:
        acks, took_s = said(sockets, EACH)
        check(acks, PER_30_S, took_s, 30 / PER_30_S)
        raw = sockets[0]
        raw.say(json.dumps({"op": "comment", "ref": "0-0", "x": "hello 0 0"}))
        assert raw.message("ack")["status"] == "published"  # a retry is not measured again


def test_an_address_has_one_limit_at_all_workers(tmp_path: Path, room: str) -> None:
    users = [f"u{number}" for number in range(30)]
    with (
        server_at(tmp_path, server_workers=2, comments_per_ip=PER_30_S) as server,
        at_both(server, room, *users) as sockets,
    ):
        acks, took_s = said(sockets, EACH)
        check(acks, PER_30_S, took_s, 60 / PER_30_S)


def test_a_worker_that_is_started_again_finds_what_was_taken(tmp_path: Path, room: str) -> None:
    with server_at(tmp_path, server_workers=2, comments_per_ip=1) as server:
        with at_both(server, room, "ann") as sockets:
            began = time.monotonic()
            assert said(sockets, 1)[0][0]["status"] == "published"
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)  # the broker was the first, and the last is a worker
        until(lambda: server.stderr().count("room for") == 3)
        with at_both(server, room, "bob") as sockets:
            statuses = [ack["status"] for ack in said(sockets, 1)[0]]
            assert statuses.count("published") <= (time.monotonic() - began) // 60


async def test_a_room_turns_slow_by_what_all_boxes_are_offered(tmp_path: Path, room: str) -> None:
    with nats_server(tmp_path) as nats, Server(broker_url=nats.url) as box:
        client = await nats_py.connect(nats.url, allow_reconnect=False)
        try:
            async with viewer(box, "json", room) as one, publisher(box, room) as say:
                await say.comment("hello")

                async def slow() -> bool:
                    """Another box is offered that much of rooms, whoever comments in them here."""
                    rates = {room: AUTO_ON + 1000.0, "another": AUTO_ON + 1000.0}
                    await client.publish("edge.emit.rates", b"nothing of the kind")
                    await client.publish("edge.emit.rates", msgspec.msgpack.encode(("other", rates)))
                    async with say.http.get("/v1/rooms/another") as answer:
                        return bool((await answer.json())["mode"]["slow_seconds"])

                await until_async(slow)
                got = await one.upto("m1")
                (state,) = [message for message in got if message["t"] == "state" and message.get("auto")]
                assert state["mode"]["slow_seconds"] == 10
        finally:
            await client.close()
