"""What publishers ask for through the broker."""

import json
from typing import Any

import pytest

from edge import wire
from edge.auth import Identity
from edge.errors import EdgeError
from edge.outside import Outside


class Site:
    def __init__(self) -> None:
        self.said: list[Any] = []

    async def comment(self, author: Identity, room: str, body: wire.CommentBody) -> wire.Message:
        if room == "broken":
            raise RuntimeError("an accident")
        self.said.append((author.public(), room, body.x, body.ref))
        return wire.ack(body.ref, "id1", "published")

    async def score(self, room: str, event: dict[str, Any]) -> str:
        if room == "away":
            raise EdgeError("unavailable", retry_after=1)
        self.said.append((room, event))
        return "m7"


async def test_a_score() -> None:
    site = Site()
    outside = Outside(site.comment, site.score)
    assert json.loads(await outside.score("match", b'{"home": 1}')) == {"id": "m7"}
    assert site.said == [("match", {"home": 1})]
    assert json.loads(await outside.score("away", b"{}"))["error"] == "unavailable"


async def test_a_comment_and_its_author() -> None:
    site = Site()
    outside = Outside(site.comment, site.score)
    body = {"x": " e\u0301", "ref": "r1", "u": {"id": "bot", "name": "The bot", "role": "host", "badges": ["b"]}}
    told = json.loads(await outside.comment("match", json.dumps(body).encode()))
    assert told == {"id": "id1", "status": "published", "ref": "r1"}
    assert site.said == [({"id": "bot", "name": "The bot", "role": "host", "badges": ["b"]}, "match", " \u00e9", "r1")]


@pytest.mark.parametrize(
    "verb, room, body, error",
    [
        ("score", "a.b", b"{}", "bad_room"),
        ("score", "r", b"[]", "bad_json"),
        ("score", "r", b"[" * 10_000, "bad_json"),
        ("comment", "", b"{}", "bad_room"),
        ("comment", "r", b"{", "bad_json"),
        ("comment", "r", b'{"x":"hi"}', "bad_json"),
        ("comment", "r", b'{"x":"hi","u":{}}', "bad_json"),
        ("comment", "r", b'{"x":"","u":{"id":"a"}}', "bad_text"),
        ("comment", "r", b'{"x":"hi","u":{"id":"\\n"}}', "bad_request"),
        ("comment", "r", b'{"x":"hi","u":{"id":"a","badges":["","",""]}}', "bad_json"),
        ("comment", "broken", b'{"x":"hi","u":{"id":"a"}}', "internal"),
    ],
)
async def test_bad_input_is_answered_by_name(verb: str, room: str, body: bytes, error: str) -> None:
    site = Site()
    told = json.loads(await getattr(Outside(site.comment, site.score), verb)(room, body))
    assert told["error"] == error
    assert site.said == []
