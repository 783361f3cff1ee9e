"""Comments that somebody has paid for: who may post them, and that one payment is one comment."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.broker.nats_server import nats_server
from tests.moderators import ask, server_at, set_mode, token, told, viewer_of
from tests.raw import Raw, Reply
from tests.server import Server, no_complaints

BODY = {"x": "take my money", "paid": {"tier": 3, "pin_seconds": 60}, "u": {"id": "fan", "name": "Fan"}}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server_at(tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.fixture
def server(site: Server) -> Iterator[Server]:
    with no_complaints(site):
        yield site


def pay(server: Server, room: str, key: str | None, body: Any = BODY, who: str | None = None) -> Reply:
    with Raw(server) as raw:
        data = json.dumps(body).encode()
        header = "" if key is None else f"Idempotency-Key: {key}\r\n"
        bearer = who or token("till", "paid")
        raw.post(f"/v1/rooms/{room}/comments", data, f"Authorization: Bearer {bearer}\r\n{header}")
        return raw.reply()


def all_shown(server: Server, room: str, last: str) -> list[Any]:
    with Raw(server) as raw:
        viewer = viewer_of(raw, room, token("eve"))
        found: list[Any] = []
        while not found or found[-1]["x"] != last:
            found += viewer.message("batch")["m"]
        return found


def test_one_payment_is_one_comment(server: Server, room: str) -> None:
    first = told(pay(server, room, "k1"))
    assert first["status"] == "published"
    assert told(pay(server, room, "k1")) == first
    assert told(pay(server, room, None, {**BODY, "ref": "k2"}))["id"] != first["id"]
    assert pay(server, room, "k1", {**BODY, "x": "more"}).error() == "key_reused"
    told(pay(server, room, "k3", {**BODY, "x": "last"}))
    found = all_shown(server, room, "last")
    assert [comment["x"] for comment in found] == ["take my money", "take my money", "last"]
    assert found[0]["u"] == {"id": "fan", "name": "Fan"}
    assert found[0]["tier"] == 3
    assert found[0]["pin_until"] == found[0]["ts"] + 60_000
    assert found[0]["id"] == first["id"]


def test_another_payer_and_another_room_have_keys_of_their_own(server: Server, room: str) -> None:
    made = {told(pay(server, room, "k1"))["id"], told(pay(server, room, "k1", who=token("other", "paid")))["id"]}
    told(pay(server, room + "2", "k1"))
    assert len(made) == 2


def test_who_may(server: Server, room: str) -> None:
    for who in (token("ann"), token("till", "paid", rooms=["another"])):
        assert pay(server, room, "k1", who=who).error() == "forbidden"
    assert pay(server, room, "k1", {"x": "a"}).error() == "forbidden"  # one that is not paid needs `comment`
    assert pay(server, room, "k1", {"x": "a", "u": {"id": "fan"}}, token("ann")).error() == "forbidden"
    with Raw(server) as raw:
        author = viewer_of(raw, room, token("till", "read", "comment", "paid"))
        author.say(json.dumps({"op": "comment", "ref": "r", **BODY}))
        assert author.message("ack")["error"] == "forbidden"


@pytest.mark.parametrize(
    "key, change, error",
    [
        (None, {}, "bad_request"),
        ("é", {}, "bad_request"),
        ("k" * 256, {}, "bad_request"),
        ("k", {"paid": {}}, "bad_json"),
        ("k", {"paid": {"tier": 0}}, "bad_json"),
        ("k", {"paid": {"tier": "3"}}, "bad_json"),
        ("k", {"paid": {"tier": 3, "pin_seconds": -1}}, "bad_json"),
        ("k", {"paid": {"tier": 3, "price": 1}}, "bad_json"),
        ("k", {"paid": True}, "bad_json"),
        ("k", {"u": {"name": "Fan"}}, "bad_json"),
        ("k", {"u": {"id": ""}}, "bad_json"),
        ("k", {"u": {"id": "a\u0000"}}, "bad_request"),
        ("k", {"x": "\u202e"}, "bad_text"),
    ],
)
def test_what_is_wrong_is_named(key: str | None, change: Any, error: str, server: Server, room: str) -> None:
    assert pay(server, room, key, {**BODY, **change}).error() == error


def test_slow_mode_is_passed_and_moderation_is_not(server: Server, room: str) -> None:
    path = f"/v1/rooms/{room}"
    told(ask(server, "PUT", f"{path}/words", [{"text": "mud"}]))
    set_mode(server, room, slow_seconds=600)
    assert [told(pay(server, room, f"k{number}"))["status"] for number in range(3)] == ["published"] * 3
    assert pay(server, room, "k4", {**BODY, "x": "mud"}).error() == "moderated"
    assert told(pay(server, room, "k4", {**BODY, "x": "roses"}))["status"] == "published"  # the same payment, reworded
    told(ask(server, "PUT", f"{path}/bans/fan", {"seconds": 60}))
    assert pay(server, room, "k5").error() == "banned"
    set_mode(server, room + "2", moderation="pre")
    first = told(pay(server, room + "2", "k1"))
    assert first["status"] == "pending"
    assert told(pay(server, room + "2", "k1")) == first
    assert told(ask(server, "GET", f"{path}2/review"))["waiting"] == 1


def test_a_payment_is_known_at_another_box_and_after_a_restart(tmp_path: Path, room: str) -> None:
    with nats_server(tmp_path) as nats:
        with server_at(tmp_path, broker_url=nats.url) as one, server_at(tmp_path, broker_url=nats.url) as two:
            first = told(pay(one, room, "k1"))
            assert told(pay(two, room, "k1")) == first
        with server_at(tmp_path, broker_url=nats.url) as later:
            assert told(pay(later, room, "k1")) == first
            told(pay(later, room, "k2", {**BODY, "x": "last"}))
            assert len(all_shown(later, room, "last")) == 2
