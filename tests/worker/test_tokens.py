"""Who may view, speak and publish, on a server without --dev: tokens at the upgrade, in the header, and on a socket;
the end of a token on a stream; keys from files and from a list that changes."""

import base64
import hmac
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge.auth import LEEWAY_S, Tokens
from tests.raw import CLOSE, UPGRADE, Raw, await_heads
from tests.server import Server, no_complaints, until

KEY = "k" * 32
TOKENS = Tokens(KEY)


@pytest.fixture(scope="module")
def strict() -> Iterator[Server]:
    with Server(dev=False, auth_hs256_key=KEY, auth_grace_seconds=1) as server:
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
    "half a surrogate pair in a room": "?token=" + TOKENS.mint("ann", 2e9, rooms=["\ud800"]),
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
def test_two_headers_are_refused(stream: str, server: Server, room: str) -> None:
    bearer = f"Authorization: Bearer {token()}\r\n"
    for headers in (bearer * 2, "Authorization: Basic eA==\r\n" + bearer):
        for first in ("", f"/v1/rooms/{room}"):  # on a connection of its own, and behind what the application answers
            with Raw(server) as raw:
                if first:
                    raw.get(first, bearer)
                    assert raw.reply().status == 200
                ask(raw, stream, room, headers=headers)
                reply = raw.reply()
                assert (reply.status, reply.error()) == (400, "bad_request")


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


def event(raw: Raw, kind: str) -> Any:
    """The data of the next event of a kind."""
    raw.take_to(f"event: {kind}\n".encode())
    return json.loads(raw.take_to(b"\n\n").partition(b"data: ")[2])


def test_a_stream_ends_behind_its_token(server: Server, room: str) -> None:
    in_s = 2.0
    end = int(time.time() + in_s)
    short = TOKENS.mint("ann", end)
    with Raw(server) as ws, Raw(server) as sse, Raw(server) as renewed, Raw(server) as lasting:
        lasting.upgrade(room, f"?token={token()}")
        ask(ws, "ws", room, f"?token={short}")
        ask(sse, "sse", room, f"?token={short}")
        ask(renewed, "ws", room, f"?token={short}")
        for raw, status in ((ws, 101), (sse, 200), (renewed, 101)):
            assert raw.head()[0] == status
        for told in (ws.message("state"), event(sse, "state"), renewed.message("state")):
            assert (told["auth"], told.keys()) == ("ends", {"t", "auth", "in_ms"})
            assert 0 <= told["in_ms"] <= in_s * 1000
        renewed.say(json.dumps({"op": "auth", "token": token()}))
        assert renewed.message("ack")["status"] == "published"
        close = ws.frame_of(CLOSE)
        assert end + LEEWAY_S + 0.5 <= time.time()
        assert (close.code(), close.payload[2:]) == (1008, b"the token has ended")
        assert event(sse, "error") == {"t": "error", "error": "unauthorized", "message": "the token has ended"}
        assert sse.ended()
        for raw in (renewed, lasting):
            raw.say('{"op":"comment","ref":"1","x":"still here"}')
            assert raw.message("ack")["status"] == "published"
        with Raw(server) as again:
            ask(again, "ws", room, f"?token={short}")
            assert again.reply().status == 401, "whoever was closed is not let in again"


def test_who_comes_late_is_told_at_once(server: Server, room: str) -> None:
    with Raw(server) as raw:
        raw.upgrade(room, f"?token={token(in_s=3 - LEEWAY_S)}")
        assert raw.message("state") == {"t": "state", "auth": "ends", "in_ms": 0}


def test_many_fresh_tokens_at_once_are_all_answered_in_order(server: Server, room: str) -> None:
    with Raw(server) as raw:
        raw.upgrade(room, f"?token={token()}")
        fresh = [token(name=f"Ann {i}") for i in range(60)]
        for i, one in enumerate(fresh):
            raw.say(json.dumps({"op": "auth", "token": one if i % 3 else one + "x"}))
        for i in range(len(fresh)):
            answer = raw.message("ack" if i % 3 else "error")
            assert answer.get("status", answer.get("error")) == ("published" if i % 3 else "unauthorized")
        raw.say('{"op":"comment","ref":"1","x":"hi"}')
        assert raw.message("batch")["m"][0]["u"]["name"] == "Ann 59"


# Keys that are public.


def signed(private: EllipticCurvePrivateKey, kid: str, user: str = "ann", in_s: float = 60) -> str:
    claims = {"sub": user, "exp": time.time() + in_s, "scope": "read comment"}
    return jwt.encode(claims, private, "ES256", headers={"kid": kid})


class Lister:
    """A list of keys on the loopback, in threads of its own. While `gate` is shut it does not answer."""

    def __init__(self) -> None:
        self.keys: dict[str, EllipticCurvePrivateKey] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.asked = 0
        lister = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                lister.asked += 1
                lister.gate.wait(10)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(lister.body())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def body(self) -> bytes:
        algorithm = jwt.get_algorithm_by_name("ES256")
        return json.dumps(
            {
                "keys": [
                    algorithm.to_jwk(private.public_key(), as_dict=True) | {"kid": kid}
                    for kid, private in self.keys.items()
                ]
            }
        ).encode()

    def close(self) -> None:
        self.gate.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def lister() -> Iterator[Lister]:
    found = Lister()
    yield found
    found.close()


def test_a_list_of_keys_that_changes(lister: Lister) -> None:
    old, new = generate_private_key(SECP256R1()), generate_private_key(SECP256R1())
    lister.keys["old"] = old
    lister.gate.clear()
    url = f"http://127.0.0.1:{lister.server.server_port}/keys"
    with Server(dev=False, auth_jwks_url=url, auth_hs256_key=KEY, auth_jwks_seconds=10) as server:
        until(lambda: lister.asked)
        with Raw(server) as early, Raw(server) as known, Raw(server) as stranger, Raw(server) as script:
            ask(early, "ws", "a", f"?token={signed(old, 'old')}")
            ask(stranger, "sse", "a", f"?token={signed(new, 'new')}")
            known.upgrade("a", f"?token={token()}")
            known.say(json.dumps({"op": "auth", "token": signed(old, "old")}))
            script.post(f"/v1/rooms/a/comments?token={signed(old, 'old')}", b'{"x":"hi"}')
            reply = script.reply()
            assert (reply.status, reply.error(), reply.headers["retry-after"]) == (503, "unavailable", "1")
            lister.gate.set()
            assert early.head()[0] == 101, "it waited for the keys"
            assert stranger.reply().error() == "unauthorized", "and so did this one, in vain"
            assert known.message("ack")["status"] == "published"
            known.say('{"op":"comment","ref":"1","x":"hi"}')
            assert known.message("ack")["status"] == "published"
            lister.keys = {"new": new}
            until(lambda: lister.asked >= 2)

            def let_in() -> bool:
                with Raw(server) as raw:
                    ask(raw, "sse", "a", f"?token={signed(new, 'new')}")
                    return raw.head()[0] == 200

            until(let_in)
            with Raw(server) as raw:
                ask(raw, "ws", "a", f"?token={signed(old, 'old')}")
                assert raw.reply().status == 401


def test_keys_in_files_and_a_token_that_takes_the_public_key_for_a_secret(tmp_path: Path) -> None:
    private = generate_private_key(SECP256R1())
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(pem)
    head, claims, _ = jwt.encode({"sub": "ann", "exp": 2e9, "scope": "read"}, KEY, "HS256", headers={"kid": "k"}).split(
        "."
    )
    digest = hmac.digest(pem, f"{head}.{claims}".encode(), "sha256")
    confused = f"{head}.{claims}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"
    with Server(dev=False, auth_public_keys=f"k={tmp_path}/key.pem") as server:
        for query, status in (
            (signed(private, "k"), 101),
            (signed(private, "other"), 401),
            (signed(generate_private_key(SECP256R1()), "k"), 401),
            (confused, 401),
            (f"{head}.{claims}.", 401),
            (jwt.encode({"sub": "ann", "exp": 2e9, "scope": "read"}, None, "none", headers={"kid": "k"}), 401),
        ):
            with Raw(server) as raw:
                ask(raw, "ws", "a", f"?token={query}")
                assert raw.head()[0] == status
