# The fuzz target of the head parser, and the slow reference it is held against: RFC 9112 as regular expressions over
# whole lines, with nothing of the parser's own way of walking bytes. `one` raises on any disagreement. Run alone it
# fuzzes with atheris (python -m tests.fuzz.fuzz_http [corpus] [-libFuzzer options]); the tests call `one` without it.
import base64
import binascii
import importlib
import re
import sys
from typing import Any

from edge._fast import http
from tests._fast.guard import guard

HEAD_BYTES = 8192
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
TARGET = rb"[\x21-\x7e]"
VALUE = rb"[\t\x20-\x7e\x80-\xff]"
LINE = re.compile(rb"(%s+) (%s+) HTTP/1\.([01])" % (TOKEN, TARGET))
LINE_PART = re.compile(rb"%s*|%s+ %s*|%s+ %s+ (?P<version>.*)" % (TOKEN, TOKEN, TARGET, TOKEN, TARGET), re.DOTALL)
FIELD = re.compile(rb"(%s+):(%s*)" % (TOKEN, VALUE))
FIELD_PART = re.compile(rb"\r|%s*|%s+:%s*\r?" % (TOKEN, TOKEN, VALUE))
HOST = re.compile(rb"[A-Za-z0-9\-._~%!$&'()*+,;=:\[\]]*")
STREAM = re.compile(rb"/v1/rooms/([^/]*)/(ws|sse|poll)")
ROOM = re.compile(rb"[A-Za-z0-9_-]{1,64}")
BEARER = re.compile(rb"bearer(?: +(.*))?", re.IGNORECASE | re.DOTALL)
LANES = {b"must": True, b"must,chat": False, b"chat,must": False}
SPANS = ("room", "token", "since", "user", "ws_key", "ws_ext", "ws_protocol", "origin")

Fields = list[tuple[bytes, bytes]]


class RefusedError(Exception):
    """The status a head is refused with."""


def values(fields: Fields, name: bytes) -> list[bytes]:
    return [value for key, value in fields if key == name]


def words(fields: Fields, name: bytes) -> set[bytes]:
    return {word.strip(b" \t").lower() for value in values(fields, name) for word in value.split(b",")}


def check_frame(fields: Fields, minor: int) -> None:
    hosts, sizes, codings = (values(fields, name) for name in (b"host", b"content-length", b"transfer-encoding"))
    if len(hosts) > 1 or not all(HOST.fullmatch(host) for host in hosts):
        raise RefusedError(400)
    if len(sizes) + len(codings) > 1 or not all(re.fullmatch(rb"[0-9]+", size) for size in sizes):
        raise RefusedError(400)
    if codings and (minor == 0 or codings[0].lower() != b"chunked"):
        raise RefusedError(400)


def read_lines(data: bytes) -> tuple[int, bytes, bytes, int, Fields] | None:
    """The head's length, method, target, minor version and fields; None if more is needed."""
    head, at = data[:HEAD_BYTES], 0
    line: re.Match[bytes] | None = None
    fields: Fields = []
    while (stop := head.find(b"\r\n", at)) >= 0:
        text = head[at:stop]
        at = stop + 2
        if line is None:
            line = LINE.fullmatch(text)
            if line is None:
                raise RefusedError(400)
            continue
        if not text:
            return at, line[1], line[2], int(line[3]), fields
        if len(fields) == 64 and text[:1] != b"\r":
            raise RefusedError(431)
        field = FIELD.fullmatch(text)
        if field is None:
            raise RefusedError(400)
        fields.append((field[1].lower(), field[2].strip(b" \t")))
        check_frame(fields, int(line[3]))
    rest = head[at:]
    if line is None:
        part = LINE_PART.fullmatch(rest)
        whole = (b"HTTP/1.0\r", b"HTTP/1.1\r")
        if part is None or not any(text.startswith(part["version"] or b"") for text in whole):
            raise RefusedError(400)
    elif len(fields) == 64 and rest and rest[:1] != b"\r":
        raise RefusedError(431)
    elif not FIELD_PART.fullmatch(rest):
        raise RefusedError(400)
    if len(data) >= HEAD_BYTES:
        raise RefusedError(414 if line is None else 431)
    return None


def read_query(query: bytes) -> dict[str, Any]:
    first: dict[bytes, bytes] = {}
    for pair in query.split(b"&"):
        key, _, value = pair.partition(b"=")
        first.setdefault(key, value)
    found: dict[str, Any] = {key: first.get(key.encode()) for key in ("token", "since", "user")}
    found |= {"last": -1, "lanes_must": False}
    if b"last" in first:
        if not re.fullmatch(rb"[0-9]+", first[b"last"]):
            raise RefusedError(400)
        digits = first[b"last"].lstrip(b"0")
        found["last"] = 1_000_000 if len(digits) > 7 else min(int(digits or b"0"), 1_000_000)
    if b"lanes" in first:
        lanes = re.sub(rb"%2[Cc]", b",", first[b"lanes"])
        if lanes not in LANES:
            raise RefusedError(400)
        found["lanes_must"] = LANES[lanes]
    return found


def check_upgrade(fields: Fields, minor: int) -> dict[str, Any]:
    if minor != 1 or b"websocket" not in words(fields, b"upgrade") or b"upgrade" not in words(fields, b"connection"):
        raise RefusedError(426)
    if values(fields, b"sec-websocket-version") != [b"13"]:
        raise RefusedError(426)
    keys = values(fields, b"sec-websocket-key")
    try:
        good = len(keys) == 1 and len(keys[0]) == 24 and len(base64.b64decode(keys[0], validate=True)) == 16
    except binascii.Error:
        good = False
    if not good:
        raise RefusedError(400)
    first = {"ws_ext": b"sec-websocket-extensions", "ws_protocol": b"sec-websocket-protocol"}
    return {"ws_key": keys[0]} | {key: next(iter(values(fields, name)), None) for key, name in first.items()}


def read_stream(method: bytes, target: bytes, minor: int, fields: Fields) -> dict[str, Any]:
    path, _, query = target.partition(b"?")
    shape = STREAM.fullmatch(path)
    if shape is None or values(fields, b"expect"):
        return {}
    if not ROOM.fullmatch(shape[1]):
        raise RefusedError(404)
    if method == b"OPTIONS":
        return {}
    if method != b"GET":
        raise RefusedError(405)
    if values(fields, b"transfer-encoding") or any(size.strip(b"0") for size in values(fields, b"content-length")):
        raise RefusedError(400)
    if len(values(fields, b"authorization")) > 1:
        raise RefusedError(400)
    found = {"stream": shape[2].decode(), "room": shape[1], **read_query(query)}
    bearers = [match for value in values(fields, b"authorization") if (match := BEARER.fullmatch(value))]
    if bearers:
        found["token"] = bearers[0][1] or b""
    if shape[2] == b"sse":
        found["since"] = next(filter(None, values(fields, b"last-event-id")), found["since"])
    if shape[2] == b"ws":
        found |= check_upgrade(fields, minor)
    return found


def reference(data: bytes) -> dict[str, Any] | int | None:
    """What edge._fast.http.parse_head must say to `data`."""
    try:
        lines = read_lines(data)
        if lines is None:
            return None
        length, method, target, minor, fields = lines
        if minor == 1 and not values(fields, b"host"):
            raise RefusedError(400)
        found = read_stream(method, target, minor, fields)
    except RefusedError as refused:
        return int(refused.args[0])
    connection = words(fields, b"connection")
    keep_alive = b"close" not in connection and (minor == 1 or b"keep-alive" in connection)
    plain = {"stream": "none", "last": -1, "lanes_must": False} | dict.fromkeys(SPANS)
    plain["origin"] = next(iter(values(fields, b"origin")), None)
    return {**plain, **found, "length": length, "minor": minor, "keep_alive": keep_alive}


def check_prefix(data: bytes, size: int, got: object, final: dict[str, Any] | int | None) -> None:
    if isinstance(final, dict):
        assert got == (final if size >= final["length"] else None), (data[:size], got, final)
    else:
        assert got is None or got == final, (data[:size], got, final)


def one(data: bytes) -> None:
    final = http.parse_head(data)
    assert final == reference(data), (data, final, reference(data))
    step = 1 if len(data) <= 600 else len(data) // 300
    refused_at = None
    with guard(data) as page:
        for size in range(0, len(data) + 1, step):
            page.place(data[:size])
            got = http.parse_head_at(page.address, page.length)
            check_prefix(data, size, got, final)
            if isinstance(got, int) and refused_at is None:
                refused_at = size
            assert refused_at is None or isinstance(got, int), (data, refused_at, size)
    if refused_at is not None and step == 1:
        assert reference(data[: refused_at - 1]) is None  # not later than it could be known


def main() -> None:
    atheris = importlib.import_module("atheris")  # only here: the tests do without it
    atheris.instrument_all()  # the reference's branches steer the fuzzer: the compiled ones are out of its sight
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
