"""Replies find their comment and mentions their user, or are refused by name: on one worker, two, and two boxes."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.broker.nats_server import nats_server
from tests.moderators import ask, say, server_at, token, told, viewer_of
from tests.raw import Raw, Reply
from tests.server import Server

Boxes = list[Server]


@pytest.fixture(scope="module", params=["one", "workers", "boxes"])
def boxes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Boxes]:
    """Where a comment goes in and where it is spoken to: the same place, or two."""
    folder = tmp_path_factory.mktemp("data")
    with ExitStack() as stack:
        if request.param == "boxes":
            nats = stack.enter_context(nats_server(folder))
            yield [stack.enter_context(server_at(folder, broker_url=nats.url)) for _ in range(2)]
        else:
            server = stack.enter_context(server_at(folder, server_workers=1 + (request.param == "workers")))
            yield [server, server]


def answer_to(server: Server, room: str, text: str, re: str | None = None, user: str = "bob") -> Reply:
    body = {"x": text} if re is None else {"x": text, "re": re}
    return ask(server, "POST", f"/v1/rooms/{room}/comments", body, token(user, name=user.title()))


def shown(viewer: Raw, id_: str) -> Any:
    while True:
        for comment in viewer.message("batch")["m"]:
            if comment["id"] == id_:
                return comment


def test_a_reply_finds_its_comment_wherever_it_was_said(boxes: Boxes, room: str) -> None:
    one, two = boxes
    with Raw(one) as raw:
        viewer = viewer_of(raw, room, token("eve"))
        for _ in range(4):  # at whichever worker
            first = told(say(one, room, "first"))["id"]
            shown(viewer, first)  # as whoever answers has seen it
            second = told(answer_to(two, room, "second", first))["id"]
            assert shown(viewer, second)["re"] == first
    for re in ("nobodysaidthis", first[:-1] + ("b" if first.endswith("a") else "a")):
        assert answer_to(two, room, "second", re).error() == "unknown_comment"
    assert answer_to(two, room + "2", "second", first).error() == "unknown_comment"
    for bad in (1, "", "a b", "x" * 65, ["a"]):
        reply = ask(two, "POST", f"/v1/rooms/{room}/comments", {"x": "a", "re": bad}, token())
        assert reply.error() == "bad_json"


def test_a_reply_to_what_is_gone_is_refused(boxes: Boxes, room: str) -> None:
    one, two = boxes
    with Raw(one) as raw:
        viewer = viewer_of(raw, room, token("eve"))
        first = told(say(one, room, "first"))["id"]
        shown(viewer, first)
    told(answer_to(two, room, "second", first))
    told(ask(one, "DELETE", f"/v1/rooms/{room}/comments/{first}"))
    assert answer_to(one, room, "third", first).error() == "unknown_comment"


def test_a_mention_finds_who_has_spoken_and_who_is_here(boxes: Boxes, room: str) -> None:
    one, two = boxes
    with Raw(one) as raw, Raw(one) as quiet:
        viewer = viewer_of(raw, room, token("eve"))
        viewer_of(quiet, room, token("zoe"))
        told(ask(one, "POST", f"/v1/rooms/{room}/comments", {"x": "hi"}, token("u17", name="Ann")))
        for _ in range(3):
            made = told(answer_to(two, room, "@ann and @zoe, and @Ann again"))["id"]
            assert shown(viewer, made)["at"] == ["u17", "zoe"]
        assert answer_to(two, room, "@ann @nobody").error() == "unknown_user"
        assert answer_to(two, room + "2", "@zoe").error() == "unknown_user"
        assert "at" not in shown(viewer, told(answer_to(two, room, "mail me@example.com, 5 @ 7"))["id"])


def test_a_mention_more_than_so_many_is_refused_wherever_it_stands(boxes: Boxes, room: str) -> None:
    one, _ = boxes
    for user in range(10):
        told(ask(one, "POST", f"/v1/rooms/{room}/comments", {"x": "hi"}, token(f"u{user}")))
    ten = " ".join(f"@u{user}" for user in range(10))
    told(answer_to(one, room, ten, user="cy"))
    for text in (f"{ten} @ghost", f"@ghost {ten}", f"{ten} @eve"):
        for _ in range(2):
            reply = answer_to(one, room, text, user="cy")
            assert (reply.error(), b"more than 10 mentions" in reply.body) == ("bad_text", True)


def test_what_an_author_says_behind_one_that_is_looked_up_stays_behind_it(boxes: Boxes, room: str) -> None:
    one, two = boxes
    first = told(say(one, room, "first"))["id"]
    with Raw(two) as raw:
        author = viewer_of(raw, room, token("bob"))
        shown(author, first)
        for ref, extra in (("a", {"re": first}), ("b", {}), ("c", {"re": "nobodysaidthis"}), ("d", {})):
            author.say(json.dumps({"op": "comment", "ref": ref, "x": ref, **extra}))
        acks: dict[str, Any] = {}
        texts: list[str] = []
        while len(acks) < 4 or "d" not in texts:
            message = author.frame_of(1).message()
            if message["t"] == "ack":
                acks[message["ref"]] = message.get("error", message["status"])
            elif message["t"] == "batch":
                texts += [comment["x"] for comment in message["m"]]
        assert acks == {"a": "published", "b": "published", "c": "unknown_comment", "d": "published"}
        assert texts == ["a", "b", "d"]


def test_mentions_of_strangers_are_left_where_that_is_set(tmp_path: Path, room: str) -> None:
    with server_at(tmp_path, moderation_unknown_mentions="leave") as server, Raw(server) as raw:
        viewer = viewer_of(raw, room, token("eve"))
        made = told(answer_to(server, room, "@nobody and @eve"))["id"]
        assert shown(viewer, made)["at"] == ["eve"]
