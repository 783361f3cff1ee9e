# The head parser against golden files, a slow reference, guard pages and every split point; and what a refusal looks
# like. golden/http/good holds NAME.http with NAME.json, which names what differs from a plain kept-alive HTTP/1.1
# request for the application; golden/http/bad holds STATUS-NAME.http.
import http.client
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge._fast import http as fast
from tests._fast.guard import guard
from tests.fuzz.fuzz_http import SPANS, check_prefix, one, reference

GOLDEN = Path(__file__).parent / "golden" / "http"
GOOD = sorted((GOLDEN / "good").glob("*.http"))
BAD = sorted((GOLDEN / "bad").glob("*.http"))
ALL = [pytest.param(path, id=path.stem) for path in GOOD + BAD]


def expected(path: Path) -> dict[str, Any]:
    """What a good golden file must give, in full."""
    said = json.loads(path.with_suffix(".json").read_text())
    plain = {"length": path.stat().st_size, "stream": "none", "minor": 1, "keep_alive": True}
    plain |= {"lanes_must": False, "last": -1} | dict.fromkeys(SPANS)
    assert said.keys() <= plain.keys()
    return plain | {key: value.encode() if key in SPANS else value for key, value in said.items()}


def test_golden_files_are_there() -> None:
    assert len(GOOD) > 60
    assert len(BAD) > 120
    assert {path.stem for path in GOOD} == {path.stem for path in (GOLDEN / "good").glob("*.json")}


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in GOOD])
def test_good(path: Path) -> None:
    assert fast.parse_head(path.read_bytes()) == expected(path)


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in BAD])
def test_bad(path: Path) -> None:
    assert fast.parse_head(path.read_bytes()) == int(path.stem.partition("-")[0])


@pytest.mark.parametrize("path", ALL)
def test_every_prefix_at_both_guards(path: Path) -> None:
    data = path.read_bytes()
    final = fast.parse_head(data)
    with guard(data) as end, guard(data, at_start=True) as start:
        for size in range(len(data) + 1):
            end.place(data[:size])
            got = fast.parse_head_at(end.address, size)
            check_prefix(data, size, got, final)
            assert fast.parse_head_at(start.address, size) == got


@pytest.mark.parametrize("path", ALL)
def test_agrees_with_the_reference(path: Path) -> None:
    data = path.read_bytes()
    one(data)
    rng = random.Random(path.name)
    for _ in range(12 if len(data) < 1000 else 2):
        one(mutate(data, rng))


def mutate(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(changed) + 1)
        piece = rng.choice(
            [b"", b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b",", b"\0", b"\x7f", b"\xff", b"/", b"?", b"%", b"0", b"A"]
        )
        changed[at : at + rng.randint(0, 2)] = piece
    return bytes(changed)


# Whatever is refused is refused at the byte that shows it, and one byte less is "more is needed".
@pytest.mark.parametrize(
    "start, last, status",
    [
        (b"", b"\r", 400),
        (b"", b" ", 400),
        (b"", b"\x16", 400),
        (b"GET", b"\n", 400),
        (b"GET ", b" ", 400),
        (b"GET /", b"\x80", 400),
        (b"GET / ", b"h", 400),
        (b"GET / HTTP/", b"2", 400),
        (b"GET / HTTP/1.1", b"\n", 400),
        (b"GET / HTTP/1.1\r", b"H", 400),
        (b"GET / HTTP/1.1\r\n", b" ", 400),
        (b"GET / HTTP/1.1\r\nHost", b" ", 400),
        (b"GET / HTTP/1.1\r\nHost: h\x09", b"\x00", 400),
        (b"GET / HTTP/1.1\r\nHost: h", b"\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r", b"\r", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\n", b"\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r", b"X", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nhost: h\r", b"\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: x\r", b"\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"x:\r\n" * 64, b"x", 431),
        (b"GET / HTTP/1.1\r\nx: " + b"x" * (8191 - 19), b"x", 431),
        (b"GET /" + b"x" * (8191 - 5), b"x", 414),
    ],
)
def test_refused_at_the_byte_that_shows_it(start: bytes, last: bytes, status: int) -> None:
    assert fast.parse_head(start) is None
    assert fast.parse_head(start + last) == status
    assert fast.parse_head(start + last + b"anything\r\n\r\n") == status


def test_every_byte_in_every_place() -> None:
    for template in (b"G%sT / HTTP/1.1\r\nHost: h\r\n\r\n", b"GET /%s HTTP/1.1\r\nHost: h\r\n\r\n"):
        for byte in range(256):
            one(template % bytes([byte]))
    for template in (b"%s: x", b"X: %s", b"Host: %s", b"Content-Length: 1%s", b"Connection: close%s"):
        for byte in range(256):
            one(b"GET / HTTP/1.0\r\n" + template % bytes([byte]) + b"\r\n\r\n")
    for byte in range(256):
        one(b"GET /v1/rooms/a%sb/poll HTTP/1.0\r\n\r\n" % bytes([byte]))
        one(b"GET /v1/rooms/a/poll?last=1%s HTTP/1.0\r\n\r\n" % bytes([byte]))


KEYS = [b"token", b"since", b"last", b"lanes", b"user", b"x", b""]
QUERY = st.lists(
    st.tuples(
        st.sampled_from(KEYS), st.sampled_from([b"", b"=", b"=1", b"=must", b"=must,chat", b"=a%20b", b"=99999999"])
    ),
    max_size=4,
).map(lambda pairs: b"&".join(key + value for key, value in pairs))
PATHS = [
    "/v1/rooms/final/ws",
    "/v1/rooms/final/sse",
    "/v1/rooms/final/poll",
    "/v1/rooms/a.b/ws",
    "/v1/rooms/final",
    "*",
    "/",
]
NAMES = """Host Connection Upgrade Content-Length Transfer-Encoding Expect Authorization Last-Event-ID Origin
Sec-WebSocket-Key Sec-WebSocket-Version Sec-WebSocket-Protocol Sec-WebSocket-Extensions X""".split()
VALUES = """|h|a b|Upgrade|keep-alive, upgrade|close|websocket|h2c, WebSocket|0|5|chunked|100-continue|Bearer t|Basic t
i1.m2.c3|dGhlIHNhbXBsZSBub25jZQ==|13|8""".replace("\n", "|").split("|")
FIELD = st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES), st.sampled_from(["", " ", "\t "]))
UPGRADE = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13")]
UPGRADE += [("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")]


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """Heads that are mostly in order, so that most of them reach the last rule."""
    method = draw(st.sampled_from(["GET", "GET", "GET", "POST", "OPTIONS"]))
    target = draw(st.sampled_from(PATHS)).encode() + draw(
        st.one_of(st.just(b""), QUERY.map(lambda query: b"?" + query))
    )
    fields = [("Host", "h", " ")] if draw(st.integers(0, 7)) else []
    fields += [(name, value, " ") for name, value in UPGRADE if draw(st.integers(0, 7))]
    fields += draw(st.lists(FIELD, max_size=3))
    fields = draw(st.permutations(fields))
    lines = "".join(f"{name}:{space}{value}{space}\r\n" for name, value, space in fields)
    line = f"{method} ".encode() + target + f" HTTP/1.{draw(st.integers(0, 1))}\r\n".encode()
    return line + lines.encode() + b"\r\n"


@settings(max_examples=300, deadline=None)
@given(heads())
def test_any_head_agrees_with_the_reference(data: bytes) -> None:
    one(data)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=40), st.sampled_from([b"", b"GET / HTTP/1.1\r\n", b"GET /v1/rooms/r/poll?"]))
def test_any_bytes_agree_with_the_reference(data: bytes, start: bytes) -> None:
    one(start + data)


def test_the_reference_can_say_everything() -> None:
    said = {reference(path.read_bytes()) for path in BAD}
    assert said == {400, 404, 405, 414, 426, 431}
    assert reference(b"GET ") is None


# ---- refusals


def refuse(status: int, *args: Any, cap: int = 1024) -> bytes:
    with guard(b"\0" * cap) as page:
        size = fast.refusal_at(page.address, cap, status, *args)
        return page.read()[:size]


class Wire(io.BytesIO):
    def makefile(self, *_: Any) -> io.BytesIO:
        return self


def read_response(data: bytes) -> tuple[http.client.HTTPResponse, bytes]:
    response = http.client.HTTPResponse(Wire(data))  # type: ignore[arg-type]
    response.begin()
    return response, response.read()


ERRORS = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    414: "uri_too_long",
    426: "upgrade_required",
    429: "too_many",
    431: "headers_too_large",
    503: "overloaded",
    599: "internal",
}


@pytest.mark.parametrize("status", ERRORS)
def test_refusal_is_a_whole_response(status: int) -> None:
    data = refuse(status)
    response, body = read_response(data)
    assert response.status == (500 if status == 599 else status)
    assert response.reason == http.client.responses[response.status].replace("Request-URI", "URI")
    assert data.endswith(body)
    assert int(response.headers["Content-Length"]) == len(body)
    assert body.endswith(b"}\n")
    assert body.count(b"\n") == 1
    assert json.loads(body).keys() == {"error", "message"}
    assert json.loads(body)["error"] == ERRORS[status]
    assert json.loads(body)["message"]
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert response.headers["Connection"] == ("Upgrade, close" if status == 426 else "close")
    assert response.headers["Allow"] == ("GET" if status == 405 else None)
    assert response.headers["Upgrade"] == ("websocket" if status == 426 else None)
    assert response.headers["Sec-WebSocket-Version"] == ("13" if status == 426 else None)
    assert response.headers["WWW-Authenticate"] == ("Bearer" if status == 401 else None)
    assert response.headers["Retry-After"] is None


def test_refusal_says_what_it_is_told() -> None:
    response, body = read_response(refuse(429, b"slow_down", b"twelve a minute, no more", 4294967295))
    assert response.headers["Retry-After"] == "4294967295"
    assert json.loads(body) == {"error": "slow_down", "message": "twelve a minute, no more", "retry_after": 4294967295}


def test_refusal_breaks_out_of_nothing() -> None:
    response, body = read_response(refuse(400, b'a"b', b"c\\d \x1f~\x7f\xff\x00e"))
    assert json.loads(body) == {"error": "a?b", "message": "c?d ?~??"}
    assert int(response.headers["Content-Length"]) == len(body)


def test_refusal_writes_whole_or_nothing() -> None:
    whole = refuse(426, None, None, 9)
    for cap in range(len(whole)):
        assert refuse(426, None, None, 9, cap=cap) == b""
    assert refuse(426, None, None, 9, cap=len(whole)) == whole
    assert max(len(refuse(status, b"e" * 40, b"m" * 200, 4294967295)) for status in ERRORS) < 768
