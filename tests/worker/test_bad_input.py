"""Bad input on every route of moderators and every op of a socket: each gets its named error, and changes nothing."""

import base64
import contextlib
import hmac
import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge.errors import PROBLEMS
from tests.moderators import KEY, ask, mod, server_at, token, told, viewer_of
from tests.raw import Raw, Reply
from tests.server import Server, no_complaints

BODY_BYTES = 65_536
DEEP = b"[" * 10_000 + b"]" * 10_000
DEEPER = b'{"a":' * 10_000 + b"1" + b"}" * 10_000


class Site:
    """A server that takes tokens of a secret and of a public key, for one audience."""

    def __init__(self, server: Server, pem: str) -> None:
        self.server = server
        self.pem = pem


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("data")
    public = rsa.generate_private_key(65537, 2048).public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    (folder / "key.pem").write_text(pem)
    with server_at(folder, auth_public_keys=folder / "key.pem", limits_body_bytes=BODY_BYTES) as server:
        told(ask(server, "PUT", "/v1/words", [{"text": "swamp"}]))
        yield Site(server, pem)


@pytest.fixture
def server(site: Site, room: str) -> Iterator[Server]:
    """Whatever is tried, the room and what holds everywhere are as before."""
    with no_complaints(site.server):
        before = standing(site.server, room)
        yield site.server
        assert standing(site.server, room) == before


def standing(server: Server, room: str) -> Any:
    path = f"/v1/rooms/{room}"
    asked = [f"{path}/{what}" for what in ("words", "patterns", "bans", "review", "audit?limit=500", "verdicts")]
    asked += ["/v1/words", "/v1/bans", "/v1/audit?limit=500"]
    found = [ask(server, "GET", it) for it in asked]
    assert {reply.status for reply in found} == {200}
    snapshot = told(ask(server, "GET", path))
    return [*(reply.body for reply in found), snapshot["mode"], snapshot["pin"]]


def refused(reply: Reply, *names: str) -> None:
    """By one of these names, as the table has it."""
    name = reply.error()
    assert name in names, reply
    assert reply.status == PROBLEMS[name].status


ROUTES = [
    ("PUT", "mode"), ("PUT", "pin"), ("DELETE", "pin"), ("GET", "words"), ("PUT", "words"), ("GET", "patterns"),
    ("PUT", "patterns"), ("GET", "bans"), ("PUT", "bans/x"), ("DELETE", "bans/x"), ("GET", "review"),
    ("POST", "review/x"), ("GET", "audit"), ("GET", "verdicts"), ("DELETE", "comments/x"),
]  # fmt: skip
EVERYWHERE = [("GET", "words"), ("PUT", "words"), ("GET", "bans"), ("PUT", "bans/x"), ("DELETE", "bans/x"),
              ("GET", "audit")]  # fmt: skip


def paths(room: str) -> list[tuple[str, str]]:
    return [(method, f"/v1/rooms/{room}/{what}") for method, what in ROUTES] + [
        (method, f"/v1/{what}") for method, what in EVERYWHERE
    ]


# Whose token it is.


def signed(header: dict[str, Any], claims: Any, key: str = KEY, digest: str = "sha256") -> str:
    parts = [json.dumps(part).encode() if not isinstance(part, bytes) else part for part in (header, claims)]
    body = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
    sign = hmac.digest(key.encode(), body.encode(), digest)
    return f"{body}.{base64.urlsafe_b64encode(sign).decode().rstrip('=')}"


HS256 = {"alg": "HS256", "typ": "JWT"}


def bad_tokens(pem: str, room: str) -> dict[str, str]:
    now = time.time()
    good = {"sub": "mo", "exp": now + 300, "scope": "read comment moderate admin"}
    unsigned = jwt.encode(good, None, "none")
    return {
        "ended": signed(HS256, {**good, "exp": now - 60}),
        "no end": signed(HS256, {"sub": "mo", "scope": "admin"}),
        "not yet valid": signed(HS256, {**good, "nbf": now + 600}),
        "another key": signed(HS256, good, "K" * 32),
        "alg none": unsigned,
        "alg None": signed({"alg": "None"}, good),
        "alg none, signed": signed({"alg": "none"}, good),
        "the public key as a secret": signed(HS256, good, pem),
        "the public key as a secret, stripped": signed(HS256, good, pem.strip()),
        "alg of the public key, by the secret": signed({"alg": "RS256"}, good),
        "another hash": signed({"alg": "HS512"}, good, digest="sha512"),
        "for somebody else": signed(HS256, {**good, "aud": "somebody else"}),
        "a critical header": signed({**HS256, "crit": ["b64"], "b64": False}, good),
        "nobody": signed(HS256, {**good, "sub": ""}),
        "a name that reorders": signed(HS256, {**good, "sub": "a\u202eb"}),
        "half a surrogate pair": signed(HS256, b'{"sub":"a\\ud800","exp":9999999999,"scope":"admin"}'),
        "a name of the wrong type": signed(HS256, {**good, "sub": 7}),
        "an end of the wrong type": signed(HS256, {**good, "exp": "9999999999"}),
        "an end that is no number": signed(HS256, b'{"sub":"mo","scope":"admin","exp":NaN}'),
        "rooms of the wrong type": signed(HS256, {**good, "rooms": room}),
        "a room that is none": signed(HS256, {**good, "rooms": [room, "a b"]}),
        "a room with half a surrogate pair": signed(HS256, {**good, "rooms": [room, "\ud800"]}),
        "deep claims": signed(HS256, b'{"sub":' + b"[" * 1200 + b"]" * 1200 + b"}"),
        "claims that are a list": signed(HS256, [good]),
        "no claims": signed(HS256, b""),
        "two parts": signed(HS256, good).rpartition(".")[0],
        "four parts": signed(HS256, good) + ".x",
        "cut": signed(HS256, good)[:-3],
        "too long": signed(HS256, {**good, "name": "x" * 4096}),
        "no token at all": "x",
    }


def test_tokens_that_are_none(site: Site, server: Server, room: str) -> None:
    every = paths(room)
    for number, (what, who) in enumerate(bad_tokens(site.pem, room).items()):
        method, path = every[number % len(every)]
        reply = ask(server, method, path, {}, who)
        assert (reply.status, reply.error()) == (401, "unauthorized"), (what, reply)
        assert reply.headers["www-authenticate"] == "Bearer"


def test_every_route_wants_a_token_that_is_for_it(site: Site, server: Server, room: str) -> None:
    ended = bad_tokens(site.pem, room)["ended"]
    other = token("mo", "read", "comment", "moderate", "admin", rooms=["another"])
    less = token("mo", "read", "comment", "paid", "score", "admin")
    for method, path in paths(room):
        refused(ask(server, method, path, {}, ended), "unauthorized")
        refused(ask(server, method, path, {}, other), "forbidden")
        refused(ask(server, method, path, {}, token("mo", "read")), "forbidden")
        if path.startswith("/v1/rooms/"):
            refused(ask(server, method, path, {}, less), "forbidden")
        else:
            refused(ask(server, method, path, {}, token("mo", "moderate", "comment")), "forbidden")
        with Raw(server) as raw:
            raw.get(path, method=method)
            refused(raw.reply(), "unauthorized")
            raw.get(path + "?user=mo", method=method)  # that is for --dev
            refused(raw.reply(), "unauthorized")
            raw.get(path, "Authorization: Basic bW86bW8=\r\n", method)
            refused(raw.reply(), "unauthorized")
            raw.get(path, f"Authorization: Bearer {mod()}\r\nAuthorization: Bearer {mod()}\r\n", method)
            refused(raw.reply(), "bad_request")
            raw.get(f"{path}?token={mod()}&token={mod()}", method=method)
            refused(raw.reply(), "bad_request")


# What is in the body.

NO_JSON = [
    b"", b"{", b"nul", b'{"a":1}}', b"\xff", b'{"slow_seconds":1,}', b"'a'", DEEP, DEEPER, b'["\xed\xa0\x80"]',
    b'{"x":"\xc3\x28"}', b"\x00", b"{\x00}", b"[1e999999999999]", b"\xef\xbb\xbf{}", b"1 2", b'"\\ud800',
]  # fmt: skip
TAKES = [
    ("PUT", "mode", "bad_mode"), ("PUT", "pin", "bad_json"), ("PUT", "words", "bad_words"),
    ("PUT", "patterns", "bad_pattern"), ("PUT", "bans/x", "bad_json"), ("POST", "review/x", "bad_json"),
]  # fmt: skip


@pytest.mark.parametrize("method, what, wrong", TAKES)
def test_bodies_that_are_none(method: str, what: str, wrong: str, server: Server, room: str) -> None:
    path = f"/v1/rooms/{room}/{what}"
    for body in NO_JSON:
        if body or not what.startswith("bans/"):  # where nothing is {}
            refused(ask(server, method, path, body), "bad_json", wrong)
    for value in (None, True, 0, -1, 1.5, 10**400, "x", "", [[]], [None], [1], {"a": {}}):
        refused(ask(server, method, path, json.dumps(value).encode()), wrong)
    with Raw(server) as raw:
        head = f"{method} {path} HTTP/1.1\r\nHost: edge\r\nAuthorization: Bearer {mod()}\r\n"
        raw.send(f"{head}Content-Length: {(1 << 20) + 1}\r\n\r\n" + "x" * 70_000)
        refused(raw.reply(), "too_large")
    with Raw(server) as raw:
        raw.send(f"{head}Transfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            raw.send("101000\r\n" + "x" * 0x101000 + "\r\n")
        refused(raw.reply(), "too_large")
    with Raw(server) as raw:
        raw.send(f"{head}Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{{}}")
        refused(raw.reply(), "bad_request")


JUNK = [
    "-1", "1.5", "1e400", "-1e400", "NaN", "Infinity", "9" * 400, '"1"', "[]", "{}", "null", '"\\ud800"', '"\\u0000"',
    "true", '"\\u202e"', '""', f'"{"x" * 65}"',
]  # fmt: skip
FIELDS: list[tuple[str, str, str, str, set[str]]] = [  # the route, the error, the body around a value, and what is good
    ("PUT", "mode", "bad_mode", '{"slow_seconds":%s}', set()),
    ("PUT", "mode", "bad_mode", '{"subs_only":%s}', {"true"}),
    ("PUT", "mode", "bad_mode", '{"emote_only":%s}', {"true"}),
    ("PUT", "mode", "bad_mode", '{"closed":%s}', {"true"}),
    ("PUT", "mode", "bad_mode", '{"moderation":%s}', set()),
    ("PUT", "mode", "bad_mode", '{"closed":true,"closed":%s}', {"true"}),
    ("PUT", "mode", "bad_mode", '{"closed":%s,"closed":true}', {"true"}),
    ("PUT", "mode", "bad_mode", '{"other":%s}', set()),
    ("PUT", "pin", "bad_json", '{"id":%s}', {'"1"'}),
    ("PUT", "pin", "bad_json", '{"id":"a","id":%s}', {'"1"'}),
    ("PUT", "pin", "bad_json", '{"id":"a","other":%s}', set()),
    ("PUT", "words", "bad_words", '[{"text":%s}]', set()),
    ("PUT", "words", "bad_words", '[{"text":"mud"},{"text":"mud","action":%s}]', set()),
    ("PUT", "words", "bad_words", '[{"text":"mud","whole":%s}]', {"true"}),
    ("PUT", "words", "bad_words", '[{"text":"mud","text":%s}]', set()),
    ("PUT", "patterns", "bad_pattern", '[{"text":%s}]', {'"1"', '"\\u0000"', '"\\u202e"', f'"{"x" * 65}"'}),
    ("PUT", "patterns", "bad_pattern", '[{"text":"mud","action":%s}]', set()),
    ("PUT", "bans/x", "bad_json", '{"seconds":%s}', {"1.5", "null"}),
    ("PUT", "bans/x", "bad_json", '{"shadow":%s}', {"true"}),
    ("PUT", "bans/x", "bad_json", '{"seconds":0}%.0s', set()),
    ("PUT", "bans/x", "bad_json", '{"seconds":315360001}%.0s', set()),
    ("PUT", "bans/x", "bad_json", '{"user":%s}', set()),
    ("POST", "review/x", "bad_json", '{"approve":%s}', {"true"}),
    ("POST", "review/x", "bad_json", '{"approve":true,"approve":%s}', {"true"}),
    ("POST", "review/x", "bad_json", '{"approve":true,"x":%s}', set()),
]


@pytest.mark.parametrize("method, what, wrong, around, good", FIELDS)
def test_fields_of_the_wrong_kind(
    method: str, what: str, wrong: str, around: str, good: set[str], server: Server, room: str
) -> None:
    for junk in JUNK:
        if junk not in good:
            reply = ask(server, method, f"/v1/rooms/{room}/{what}", (around % junk).encode())
            refused(reply, wrong, "bad_json")


def test_bodies_for_all_rooms(server: Server) -> None:
    for body in (
        b"{",
        b"{}",
        b"[1]",
        b'[{"text":""}]',
        b'[{"text":"\\ud800"}]',
        b'[{"text":"mud"},{"text":"a\\u0000"}]',
    ):
        refused(ask(server, "PUT", "/v1/words", body), "bad_json", "bad_words")
    for body in (b"{", b"[]", b'{"seconds":-1}', b'{"shadow":1}', DEEPER):
        refused(ask(server, "PUT", "/v1/bans/x", body), "bad_json")


# What is in the address.

BAD_ROOMS = [
    "=",
    "a=b",
    "a.b",
    "*",
    "%3E",
    ">",
    "%2e",
    "x" * 65,
    "a%20b",
    "a%00b",
    "%F0%9F%99%82",
    "a%2Fb",
    "%3D",
    "a:b",
]


@pytest.mark.parametrize("bad", BAD_ROOMS)
def test_rooms_that_are_none(bad: str, server: Server) -> None:
    for method, path in paths("ROOM"):
        if path.startswith("/v1/rooms/"):
            refused(ask(server, method, path.replace("ROOM", bad), {}), "bad_room", "not_found", "bad_request")
    refused(ask(server, "POST", f"/v1/rooms/{bad}/comments", {"x": "a"}), "bad_room", "not_found", "bad_request")


@pytest.mark.parametrize("bad", ["..", "%2e%2e", "%2E.", "", "%252e%252e"])
def test_addresses_that_lead_elsewhere(bad: str, server: Server, room: str) -> None:
    """However they are read, they are not the list for all rooms, nor another room's."""
    for method, what in [*EVERYWHERE, ("PUT", "mode"), ("PUT", "patterns")]:
        if method != "GET":
            for path in (f"/v1/rooms/{bad}/{what}", f"/v1/rooms/{room}/{bad}/{bad}/{what}"):
                names = ["bad_room", "not_found", "bad_request", "forbidden", "method_not_allowed"]
                refused(ask(server, method, path, [], token("mo", "moderate", rooms=["another"])), *names)
                who = token("mo", "moderate", rooms=["another", bad, "..", ""])
                refused(ask(server, method, path, [], who), "unauthorized", *names)


BAD_IDS = ["a.b", "..", "%2e%2e", "*", "%3E", "x" * 65, "a%00b", "a%20b", "%FF", "a%2Fb", "a.c", "="]


@pytest.mark.parametrize("bad", BAD_IDS)
def test_ids_that_are_none(bad: str, server: Server, room: str) -> None:
    path = f"/v1/rooms/{room}"
    refused(ask(server, "DELETE", f"{path}/comments/{bad}"), "not_found", "method_not_allowed", "bad_request")
    refused(ask(server, "POST", f"{path}/review/{bad}", {"approve": True}), "not_found", "bad_request")
    refused(ask(server, "POST", f"{path}/review/{bad}", {"approve": False}), "not_found", "bad_request")


def test_a_user_is_who_the_address_says(server: Server, room: str) -> None:
    """What is decoded once is not decoded again: another user could be meant by it."""
    path = f"/v1/rooms/{room}x/bans"
    for written, user in (("b%C3%A4d", "bäd"), ("a%2Fb", "a/b"), ("50%25", "50%"), ("50%2541", "50%41")):
        assert told(ask(server, "PUT", f"{path}/{written}", {"seconds": 60}))["user"] == user
    assert len(told(ask(server, "GET", path))["bans"]) == 4


@pytest.mark.parametrize("bad", ["x" * 65, "%00", "a%0Ab", "%E2%80%AE", "%20", "a%C2%85", "%E2%80%A8", "%ED%A0%80%0A"])
def test_users_that_are_none(bad: str, server: Server, room: str) -> None:
    for path in (f"/v1/rooms/{room}/bans/{bad}", f"/v1/bans/{bad}"):
        refused(ask(server, "PUT", path, {}), "bad_request")
        refused(ask(server, "DELETE", path), "bad_request")


@pytest.mark.parametrize(
    "limit", ["0", "-1", "501", "1.5", "", "x", "%D9%A3", "1e2", "0x10", "9" * 19, "%00", "+1", "1&limit=0x"]
)
def test_limits_that_are_none(limit: str, server: Server, room: str) -> None:
    for path in (f"/v1/rooms/{room}/review", f"/v1/rooms/{room}/audit", "/v1/audit"):
        reply = ask(server, "GET", f"{path}?limit={limit}")
        if limit != "1&limit=0x":  # the first one counts
            refused(reply, "bad_request")


def test_methods_that_are_not_taken(server: Server, room: str) -> None:
    for path in ("mode", "pin", "words", "patterns", "bans", "bans/x", "review", "review/x", "audit", "verdicts"):
        refused(ask(server, "PATCH", f"/v1/rooms/{room}/{path}", {}), "method_not_allowed")
        refused(ask(server, "PUT", f"/v1/rooms/{room}/{path}/x/more", {}), "not_found")


# What is said, by HTTP and on a socket.

LONG = f'"{"x" * 65}"'
PAID = '{"x":"a","paid":{"tier":1}'
COMMENTS: list[tuple[str, set[str]]] = [  # the body around a value, and what is good there
    ('{"x":%s}', {'"1"', LONG}),
    ('{"x":"a","x":%s}', {'"1"', LONG}),
    ('{"x":"a","ref":%s}', {'"1"', "null"}),
    ('{"x":"a","re":%s}', {'"1"', "null"}),
    ('{"x":"a","u":%s}', {"null"}),
    ('{"x":"a","paid":%s}', {"null"}),
    ('{"x":"a","paid":{"tier":%s}}', set()),
    ('{"x":"a","paid":{"tier":1,"pin_seconds":%s}}', set()),
    (PAID + ',"u":{"id":%s}}', {'"1"'}),
    (PAID + ',"u":{"id":"a","name":%s}}', {'"1"', "null"}),
    (PAID + ',"u":{"id":"a","role":%s}}', {'"1"', "null"}),
    (PAID + ',"u":{"id":"a","badges":%s}}', {"[]"}),
    (PAID + ',"u":{"id":"a","badges":[%s]}}', {'"1"'}),
]
TEXTS = ["\x00", "a\u202eb", "", " ", "\u200b\u200d", "a" * 501, "\n", "e" + "\u0301" * 7, "\u2028", "\x7f", "\ufeff"]
REACTIONS = [b"{}", b'{"k":1}', b'{"k":""}', b'{"k":"Fire"}', b'{"k":"nosuch"}', b'{"k":"\\ud800"}', b"[]"]


@pytest.mark.parametrize("around, good", COMMENTS)
def test_comments_that_are_none(around: str, good: set[str], server: Server, room: str) -> None:
    payer = token("till", "read", "comment", "paid")
    for junk in JUNK:
        if junk not in good:
            with Raw(server) as raw:
                key = f"Authorization: Bearer {payer}\r\nIdempotency-Key: k\r\n"
                raw.post(f"/v1/rooms/{room}/comments", (around % junk).encode(), key)
                refused(raw.reply(), "bad_json", "bad_text", "bad_request")


def test_texts_and_reactions_that_are_none(server: Server, room: str) -> None:
    for text in TEXTS:
        refused(ask(server, "POST", f"/v1/rooms/{room}/comments", {"x": text}), "bad_text")
    for body in NO_JSON:
        refused(ask(server, "POST", f"/v1/rooms/{room}/comments", body), "bad_json")
    for body in NO_JSON + REACTIONS:
        refused(ask(server, "POST", f"/v1/rooms/{room}/reactions", body), "bad_json", "bad_reaction")


OPS: list[tuple[str, set[str]]] = [
    ('{"op":"comment","ref":"r","x":%s}', {'"1"', LONG}),
    ('{"op":"comment","ref":%s,"x":"a"}', {'"1"', "null"}),
    ('{"op":"comment","ref":"r","x":"a","re":%s}', {'"1"', "null"}),
    ('{"op":"comment","ref":"r","x":"a","u":%s}', {"null"}),
    ('{"op":"comment","ref":"r","x":"a","paid":%s}', {"null"}),
    ('{"op":"comment","ref":"r","x":"a","paid":{"tier":1,"pin_seconds":%s}}', set()),
    ('{"op":"react","k":%s}', set()),
    ('{"op":"comment","op":"react","k":%s}', set()),
    ('{"op":"visible","on":%s}', {"true"}),
    ('{"op":"auth","token":%s}', set()),
    ('{"op":%s}', set()),
    ('{"op":"ping","op":%s}', set()),
    ("[%s]", set()),
    ("%s", set()),
]
OTHER_OPS = ["", "{", "[]", '"x"', "{}", '{"op":"comment"}', '{"op":"admin"}', "[" * 2000, '{"op":' * 600]
# What is for the site alone.
OTHER_OPS += [
    '{"op":"comment","ref":"r","x":"a","u":{"id":"b"}}',
    '{"op":"comment","ref":"r","x":"a","paid":{"tier":1}}',
]
OTHER_OPS += ['{"op":"comment","ref":"r","x":"a","paid":{"tier":1},"u":{"id":"fan"}}']


def test_ops_that_are_none(server: Server, room: str) -> None:
    """Each gets one answer, an error of the table, and the socket goes on; nobody else sees anything of it."""
    with Raw(server) as raw, Raw(server) as theirs:
        author = viewer_of(raw, room, token("ann", "read", "comment", "paid"))
        viewer = viewer_of(theirs, room, token("eve"))
        tried = [around % junk for around, good in OPS for junk in JUNK if junk not in good]
        others = ("x", token("bob"), token("ann", rooms=["another"]))
        for op in [*tried, *OTHER_OPS, *(json.dumps({"op": "auth", "token": who}) for who in others)]:
            author.say(op)
            author.say('{"op":"ping"}')
            found = author.frame_of(1).message()
            assert found["t"] in ("error", "ack"), (op, found)
            assert found.get("status", "rejected") == "rejected", (op, found)
            assert found["error"] in PROBLEMS, (op, found)
            assert found["error"] not in ("internal", "unavailable"), (op, found)
            assert author.frame_of(1).message() == {"t": "pong"}, op
        author.say(json.dumps({"op": "comment", "ref": "last", "x": "last"}))
        assert author.message("ack")["status"] == "published"
        assert [it["x"] for it in viewer.message("batch")["m"]] == ["last"]
