# The client protocol: good input comes through unchanged, every bad input is refused by name.

import re
import unicodedata
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import wire
from edge.errors import EdgeError


def refused(call: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(EdgeError) as caught:
        call(*arguments, **named)
    assert "\n" not in caught.value.message
    return caught.value.name


@pytest.mark.parametrize("binary", [False, True])
def test_ops(binary: bool) -> None:
    def decode(op: dict[str, Any]) -> wire.Op:
        return wire.decode_op(msgpack.packb(op) if binary else msgspec.json.encode(op), binary=binary)

    assert decode({"op": "comment", "ref": "c1", "x": "hi"}) == wire.Comment(x="hi", ref="c1")
    assert decode({"x": "hi", "re": "abc", "op": "comment", "later": [1]}) == wire.Comment(x="hi", re="abc")
    assert decode({"op": "react", "k": "fire"}) == wire.React("fire")
    assert decode({"op": "visible", "on": False}) == wire.Visible(on=False)
    assert decode({"op": "auth", "token": "a.b.c"}) == wire.Auth("a.b.c")
    assert decode({"op": "ping"}) == wire.Ping()
    assert isinstance(decode({"op": "comment", "x": "hi"}), wire.CommentBody)
    assert decode({"op": "comment", "x": "e\u0301"}) == wire.Comment(x="é")


@pytest.mark.parametrize(
    "name, op",
    [
        ("bad_op", {}),
        ("bad_op", {"op": "shout"}),
        ("bad_op", {"op": 5}),
        ("bad_op", {"op": None}),
        ("bad_json", {"op": "comment"}),
        ("bad_json", {"op": "comment", "x": 5}),
        ("bad_json", {"op": "comment", "x": None}),
        ("bad_json", {"op": "comment", "x": ["a"]}),
        ("bad_json", {"op": "comment", "x": "a", "ref": ""}),
        ("bad_json", {"op": "comment", "x": "a", "ref": 1}),
        ("bad_json", {"op": "comment", "x": "a", "ref": "a b"}),
        ("bad_json", {"op": "comment", "x": "a", "ref": "a\n"}),
        ("bad_json", {"op": "comment", "x": "a", "ref": "r" * 65}),
        ("bad_json", {"op": "comment", "x": "a", "re": "<a>"}),
        ("bad_text", {"op": "comment", "x": ""}),
        ("bad_text", {"op": "comment", "x": "a\u202eb"}),
        ("bad_json", {"op": "react"}),
        ("bad_json", {"op": "react", "k": "Fire"}),
        ("bad_json", {"op": "react", "k": "f" * 33}),
        ("bad_json", {"op": "visible", "on": 1}),
        ("bad_json", {"op": "visible"}),
        ("bad_json", {"op": "auth", "token": ""}),
        ("bad_json", {"op": "auth", "token": "t" * 4097}),
    ],
)
def test_bad_ops(name: str, op: dict[str, Any]) -> None:
    assert refused(wire.decode_op, msgspec.json.encode(op)) == name
    assert refused(wire.decode_op, msgpack.packb(op), binary=True) == name


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"comment"',
        b"\xff",
        b'\xef\xbb\xbf{"op":"ping"}',
        b'{"op":"ping"} {}',
        b'{"op":"comment","x":"\xff"}',
        b'{"op":"comment","x":"\\ud800"}',
        b'{"op":"comment","x":"\\udc00a"}',
        b'{"op":"ping","a":NaN}',
        b'{"op":"ping","a":' + b"[" * 100_000,
    ],
)
def test_what_is_no_json(data: bytes) -> None:
    assert refused(wire.decode_op, data) == "bad_json"
    assert refused(wire.decode_comment, data) == "bad_json"
    assert refused(wire.decode_event, data) == "bad_json"
    assert refused(wire.decode_reaction, data) == "bad_json"


def test_reaction_body() -> None:
    assert wire.decode_reaction(b'{"k":"fire","later":1}') == "fire"
    for bad in (b"{}", b'{"k":5}', b'{"k":""}', b'{"k":"Fire"}', b'{"k":"a b"}', b'{"k":["fire"]}', b'"fire"'):
        assert refused(wire.decode_reaction, bad) == "bad_json"


def test_the_last_of_two_keys_counts() -> None:
    assert wire.decode_comment(b'{"x":"a","ref":"r","x":"b","ref":"s"}') == wire.CommentBody(x="b", ref="s")
    assert wire.decode_op(b'{"op":"comment","x":"a","x":"b"}') == wire.Comment(x="b")
    assert refused(wire.decode_comment, b'{"x":"a","x":""}') == "bad_text"
    assert wire.decode_event(b'{"home":1,"home":2}') == {"home": 2}


def test_comment_body() -> None:
    assert wire.decode_comment(b'{"x":"hi","ref":"r","re":"a"}') == wire.CommentBody(x="hi", ref="r", re="a")
    assert refused(wire.decode_comment, b"{}") == "bad_json"
    assert refused(wire.decode_comment, b'{"x":" "}') == "bad_text"


@pytest.mark.parametrize(
    "text", ["a", "é", "a" * 500, "e\u0301" * 500, "שלום\u200f!", "👩‍👩‍👧", "x" + "\u0338", "null"]
)
def test_good_text(text: str) -> None:
    assert wire.clean_text(text) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "\u3000", "a" * 501, "é" * 501, "a" * 100_000, "\u0958" * 251),
        *(
            f"a{chr(code)}b"
            for code in (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
        ),
    ],
)
def test_bad_text(text: str) -> None:
    assert refused(wire.clean_text, text) == "bad_text"


@given(st.text())
def test_text_is_clean_or_refused(text: str) -> None:
    try:
        clean = wire.clean_text(text)
    except EdgeError:
        return
    assert 1 <= len(clean) <= 500
    assert clean == unicodedata.normalize("NFC", text) == wire.clean_text(clean)
    assert not any(unicodedata.category(c) == "Cc" for c in clean)


def test_event() -> None:
    event = {"home": 1, "away": 2.5, "by": ["ann", None, True], "deep": {"a": {"b": [-(2**63), 2**64 - 1]}}, "": "ä"}
    assert wire.decode_event(msgspec.json.encode(event)) == event
    assert wire.decode_event(b"{}") == {}
    assert msgpack.unpackb(msgpack.packb(event)) == event


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b"5",
        b'{"a":1e999}',
        b'{"a":%d}' % 2**64,
        b'{"a":-%d}' % (2**63 + 1),
        b'{"a":' + b"9" * 400 + b"}",
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":' + b"[" * 16 + b"1" + b"]" * 16 + b"}",
        b'{"a":' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"a":[' + b"1," * 2000 + b"1]}",
    ],
)
def test_bad_events(data: bytes) -> None:
    assert refused(wire.decode_event, data) == "bad_json"


@pytest.mark.parametrize("room", ["a", "A-z_09", "r" * 64])
def test_room(room: str) -> None:
    assert wire.check_room(room) == room


@pytest.mark.parametrize("room", ["", "r" * 65, "a b", "a/b", "é", "a\n", "a.b", "٣"])
def test_bad_room(room: str) -> None:
    assert refused(wire.check_room, room) == "bad_room"


def test_comment_id() -> None:
    one = wire.comment_id("ann", "c1")
    assert one == wire.comment_id("ann", "c1")
    assert len(one) == 16
    assert re.fullmatch(r"[A-Za-z0-9_-]{16}", one)
    others = {
        wire.comment_id(*pair) for pair in (("ann", "c2"), ("annc", "1"), ("an", "nc1"), ("ann", ""), ("", "annc1"))
    }
    assert len(others | {one}) == 6
    assert wire.comment_id("ann", None) != wire.comment_id("ann", None)
    assert one == "DyzdQlBmQ3voXidT"  # retries of clients that live through an upgrade must keep finding their comment


def test_messages_open_with_type_id_and_time() -> None:
    comment = wire.comment("a", {"id": "u", "name": "U"}, "hi", 5, re="b", at=["b"])
    assert comment == {"id": "a", "u": {"id": "u", "name": "U"}, "x": "hi", "ts": 5, "re": "b", "at": ["b"]}
    assert list(wire.comment("a", {}, "hi", 5)) == ["id", "u", "x", "ts"]
    made = [
        wire.batch(3, 5, [comment], viewers=7, reactions={"fire": 2}, of=900),
        wire.score(3, 5, {"home": 1}),
        wire.retraction(3, 5, ["a"]),
        wire.state(3, 5, {"mode": {}}),
    ]
    assert [list(m)[:3] for m in made] == [["t", "id", "ts"]] * 4
    assert [(m["t"], m["id"]) for m in made] == [("batch", "c3"), ("score", "m3"), ("del", "m3"), ("state", "m3")]
    assert made[0]["m"] == [comment]
    assert {k: made[0][k] for k in ("r", "n", "of")} == {"r": {"fire": 2}, "n": 7, "of": 900}
    assert list(wire.batch(1, 5, [])) == ["t", "id", "ts", "m"]
    assert wire.batch(1, 5, [], viewers=0)["n"] == 0
    assert made[1]["e"] == {"home": 1}


def test_answers() -> None:
    assert wire.ack("c1", "a", "published") == {"t": "ack", "ref": "c1", "id": "a", "status": "published"}
    assert wire.ack("c1", None, "rejected", EdgeError("too_many", retry_after=2)) == {
        "t": "ack",
        "ref": "c1",
        "status": "rejected",
        "error": "too_many",
        "message": "too many of these from you",
        "retry_after": 2,
    }
    assert wire.error(EdgeError("bad_op")) == {"t": "error", "error": "bad_op", "message": "there is no such operation"}
