"""Who may view, speak and publish, on a server without --dev: tokens at the upgrade, in the header, and on a socket."""

import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest

from edge.auth import LEEWAY_S, Tokens
from tests.raw import UPGRADE, Raw, await_heads
from tests.server import Server, no_complaints, until

KEY = "k" * 32
TOKENS = Tokens(KEY)


@pytest.fixture(scope="module")
def strict() -> Iterator[Server]:
    with Server(dev=False, auth_hs256_key=KEY) as server:
        yield server


@pytest.fixture
def server(strict: Server) -> Iterator[Server]:
    with no_complaints(strict):
        yield strict


def token(user: str = "ann", in_s: float = 60, **claims: Any) -> str:
    return TOKENS.mint(user, time.time() + in_s, **claims)


def ask(raw: Raw, stream: str, room: str, query: str = "", headers: str = "") -> None:
    raw.get(f"/v1/rooms/{room}/{stream}{query}", headers + (UPGRADE if stream == "ws" else ""))


BAD = {
    "none at all": "",
    "empty": "?token=",
    "no token": "?token=hello",
    "another's key": "?token=" + Tokens("x" * 32).mint("ann", 2e9),
    "ended": "?token=" + TOKENS.mint("ann", time.time() - LEEWAY_S - 1),
    "not yet": "?token=" + TOKENS.mint("ann", 2e9, nbf=1.9e9),
    "no end": "?token=" + jwt.encode({"sub": "ann", "scope": "read"}, KEY, "HS256"),
    "unsigned": "?token=" + jwt.encode({"sub": "ann", "exp": 2e9, "scope": "read"}, None, "none"),
    "another hash": "?token=" + jwt.encode({"sub": "ann", "exp": 2e9, "scope": "read"}, KEY * 2, "HS512"),
    "a name for --dev": "?user=ann",
}


@pytest.mark.parametrize("stream", ["ws", "sse", "poll"])
@pytest.mark.parametrize("bad", BAD)
def test_who_is_not_let_in(bad: str, stream: str, server: Server, room: str) -> None:
    with Raw(server) as raw:
        ask(raw, stream, room, BAD[bad])
        reply = raw.reply()
        assert (reply.status, reply.error()) == (401, "unauthorized")
        assert reply.headers["www-authenticate"] == "Bearer"
        assert raw.ended()


@pytest.mark.parametrize("headers", ["Authorization: Bearer\r\n", "Authorization: Bearer x.y.z\r\n"])
def test_the_header_goes_before_the_query(headers: str, server: Server, room: str) -> None:
    with Raw(server) as raw:
        ask(raw, "sse", room, f"?token={token()}", headers)
        assert raw.reply().status == 401


@pytest.mark.parametrize("stream", ["ws", "sse", "poll"])
def test_who_may_not_view_this(stream: str, server: Server, room: str) -> None:
    for bad in (token(scopes=["comment", "score"]), token(rooms=["another"])):
        with Raw(server) as raw:
            ask(raw, stream, room, f"?token={bad}")
            reply = raw.reply()
            assert (reply.status, reply.error()) == (403, "forbidden")
            assert raw.ended()
    good = token(scopes=["read"], rooms=[room])
    for query, headers in ((f"?token={good}", ""), ("", f"Authorization: Bearer {good}\r\n")):
        with Raw(server) as raw:
            ask(raw, stream, room, query, headers)
            if stream == "poll":
                with Raw(server) as other:
                    other.post(f"/v1/rooms/{room}/score?token={token(scopes=['score'])}", b"{}")
                    assert other.reply().status == 201
            assert raw.head()[0] == (101 if stream == "ws" else 200)


@pytest.mark.parametrize("end", [9_999_999_999, 1_800_000_000_000, 2**53, 1e300])
def test_a_token_that_hardly_ends(end: float, server: Server, room: str) -> None:
    with Raw(server) as raw:
        raw.upgrade(room, f"?token={TOKENS.mint('ann', end)}")
        raw.say('{"op":"comment","ref":"1","x":"still here"}')
        assert raw.message("ack")["status"] == "published"


def test_what_a_token_lets_one_say(server: Server, room: str) -> None:
    path = f"/v1/rooms/{room}"
    with Raw(server) as raw:
        for action, body, scope in (("comments", b'{"x":"hi"}', "comment"), ("score", b"{}", "score")):
            raw.post(f"{path}/{action}", body)
            assert raw.reply().error() == "unauthorized"
            raw.post(f"{path}/{action}?token={token(scopes=['read'])}", body)
            assert raw.reply().error() == "forbidden"
            raw.post(f"{path}/{action}", body, f"Authorization: Bearer {token(scopes=[scope])}\r\n")
            assert raw.reply().status == 201
        raw.get(path)
        assert raw.reply().error() == "unauthorized"
        await_heads(raw, f"{path}?token={token()}", "m1", "c1")
    with Raw(server) as raw:
        raw.upgrade(room, f"?token={token(scopes=['read'])}")
        raw.say('{"op":"comment","ref":"1","x":"hi"}')
        ack = raw.message("ack")
        assert (ack["ref"], ack["status"], ack["error"]) == ("1", "rejected", "forbidden")


def test_a_comment_says_who_it_is_of(server: Server, room: str) -> None:
    with Raw(server) as raw:
        raw.upgrade(room, f"?token={token(name='Ann Ä', role='host', badges=['vip'], tier=2)}")
        raw.say('{"op":"comment","ref":"1","x":"hi"}')
        (comment,) = raw.message("batch")["m"]
        assert comment["u"] == {"id": "ann", "name": "Ann Ä", "role": "host", "badges": ["vip"]}
        assert comment["tier"] == 2


def test_a_fresh_token_on_the_same_socket(server: Server, room: str) -> None:
    def auth(fresh: str) -> None:
        raw.say(json.dumps({"op": "auth", "token": fresh}))

    with Raw(server) as raw:
        raw.upgrade(room, f"?token={token(scopes=['read'])}")
        for bad, error in (
            (token("bob"), "forbidden"),
            (token(rooms=["another"]), "forbidden"),
            (token(scopes=["comment"]), "forbidden"),
            (token(in_s=-60), "unauthorized"),
            ("x", "unauthorized"),
        ):
            auth(bad)
            assert raw.message("error")["error"] == error
        raw.say('{"op":"comment","ref":"1","x":"not yet"}')
        assert raw.message("ack")["status"] == "rejected"
        auth(token(scopes=["read", "comment"]))
        assert raw.message("ack")["status"] == "published"
        raw.say('{"op":"comment","ref":"1","x":"now"}')
        assert raw.message("ack")["status"] == "published"


def test_who_has_ended_says_no_more(server: Server, room: str) -> None:
    with Raw(server) as raw:
        raw.upgrade(room, f"?token={token(in_s=2.5 - LEEWAY_S)}")

        def refused() -> bool:
            raw.say('{"op":"comment","ref":"1","x":"once"}')
            ack = raw.message("ack")
            return bool(ack["status"] == "rejected" and ack["error"] == "unauthorized")

        assert not refused()
        until(refused)
        raw.say(json.dumps({"op": "auth", "token": token()}))
        assert raw.message("ack")["status"] == "published"
        assert not refused()


def test_viewing_may_be_free() -> None:
    with Server(dev=False, auth_hs256_key=KEY, auth_anonymous_view=True) as server:
        for stream in ("ws", "sse"):
            with Raw(server) as raw:
                ask(raw, stream, "free")
                assert raw.head()[0] in (101, 200)
            with Raw(server) as raw:
                ask(raw, stream, "free", "?token=x")  # who tries to prove something must prove it
                assert raw.reply().status == 401
            with Raw(server) as raw:
                ask(raw, stream, "free", "?user=ann")
                assert raw.reply().status == 401
        with Raw(server) as raw:
            raw.post("/v1/rooms/free/comments", b'{"x":"hi"}')
            assert raw.reply().error() == "unauthorized"
