"""What viewers say on a WebSocket: each op, in each encoding, and all that is none."""

import asyncio
import contextlib
import json
import time
import unicodedata
import zlib
from typing import Any
from urllib.parse import urlencode

import msgpack
import pytest
import zstandard

from tests.raw import BINARY, CLOSE, PING, PONG, TEXT, UPGRADE, Raw
from tests.server import PATIENCE_S, Server, until
from tests.viewers import SOCKETS, publisher, viewer

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate\r\n"


def deflated(data: bytes) -> bytes:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (squeeze.compress(data) + squeeze.flush(zlib.Z_SYNC_FLUSH))[:-4]


@pytest.mark.parametrize("kind", SOCKETS)
async def test_a_comment_and_its_verdict(kind: str, server: Server, room: str) -> None:
    async with viewer(server, kind, room, user="ann") as ann, viewer(server, kind, room) as bob:
        await ann.say(op="comment", ref="c1", x="hello 🙂")
        got = [await ann.next(), await ann.next()]
        ack, batch = sorted(got, key=lambda m: m["t"])
        assert (ack["t"], ack["ref"], ack["status"]) == ("ack", "c1", "published")
        assert batch["m"][0]["id"] == ack["id"]
        assert batch["m"][0]["x"] == "hello 🙂"
        # Again, as after an ack that was lost: it is the same comment, and nobody sees it twice.
        await ann.say(op="comment", ref="c1", x="hello 🙂")
        assert await ann.until("ack") == ack
        await ann.say(op="comment", ref="c2", x="once more", re=ack["id"])
        assert (await ann.until("ack"))["id"] != ack["id"]
        assert [c["id"] for c in (await bob.until("batch"))["m"]] == [ack["id"]]
        (second,) = (await bob.until("batch"))["m"]
        assert (second["x"], second["re"]) == ("once more", ack["id"])


async def test_many_comments_keep_their_order(server: Server, room: str) -> None:
    async with viewer(server, "json", room, user="ann") as ann, viewer(server, "msgpack", room) as bob:
        said = [f"comment {number}" for number in range(500)]

        async def say() -> None:
            for number, text in enumerate(said):
                await ann.say(op="comment", ref=str(number), x=text)

        async with asyncio.TaskGroup() as group:
            group.create_task(say())
            assert await bob.texts(500) == said
        assert await ann.texts(500) == said


@pytest.mark.parametrize("query", ["", "?user=ann"])
def test_what_is_said_before_the_answer(query: str, server: Server, room: str) -> None:
    """A client that does not wait for the 101: its frames come in one piece with the request."""
    for _ in range(2):  # in a room that has to be opened first, and in one that is open
        with Raw(server) as raw:
            ping = b"\x89\x82\x00\x00\x00\x00hi"
            raw.send(f"GET /v1/rooms/{room}/ws{query} HTTP/1.1\r\nHost: a\r\n{UPGRADE}\r\n".encode() + ping + ping)
            assert raw.head()[0] == 101
            assert raw.message("hello")
            assert [raw.frame_of(PONG).payload for _ in range(2)] == [b"hi", b"hi"]


async def test_names_of_every_script(server: Server, room: str) -> None:
    for name in ("Jörg Ä", "ユーザー", "a+b&c=d%", "x" * 64):
        async with viewer(server, "json", room, user=name) as one:
            await one.say(op="comment", ref="1", x="hi")
            (comment,) = (await one.until("batch"))["m"][-1:]
            while comment["u"]["name"] != name:  # those of the others come first
                (comment,) = (await one.until("batch"))["m"][-1:]
            assert comment["u"] == {"id": name, "name": name}
    for name in ("x" * 65, " ", "bell\x07"):
        with Raw(server) as raw:
            raw.get(f"/v1/rooms/{room}/ws?{urlencode({'user': name})}", UPGRADE)
            reply = raw.reply()
            assert (reply.status, reply.error()) == (401, "unauthorized")


async def test_many_rooms(server: Server, room: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        rooms = [f"{room}-{number}" for number in range(60)]
        joins = (viewer(server, "json" if n % 2 else "sse", name, user="ann") for n, name in enumerate(rooms))
        viewers = [await stack.enter_async_context(join) for join in joins]
        say = await stack.enter_async_context(publisher(server, room))
        for name in reversed(rooms):
            say.room = name
            await say.comment(f"in {name}")
            await say.score(room=name)
        for name, one in zip(rooms, viewers, strict=True):
            got = await one.upto("c1", "m1")
            assert {m["m"][0]["x"] if m["t"] == "batch" else m["e"]["room"] for m in got} == {f"in {name}", name}


async def test_who_is_nobody_cannot_comment(server: Server, room: str) -> None:
    async with viewer(server, "json", room) as one:
        await one.say(op="comment", ref="c1", x="hello")
        ack = await one.next()
        assert (ack["t"], ack["ref"], ack["status"], ack["error"]) == ("ack", "c1", "rejected", "unauthorized")
        await one.say(op="auth", token="x.y.z")
        assert (await one.next())["error"] == "unauthorized"


@pytest.mark.parametrize(
    "op, error",
    [
        ({"op": "nothing"}, "bad_op"),
        ({"x": "no op"}, "bad_op"),
        ({"op": "comment"}, "bad_json"),
        ({"op": "comment", "x": 5}, "bad_json"),
        ({"op": "comment", "x": "hello", "ref": "has space"}, "bad_json"),
        ({"op": "visible"}, "bad_json"),
        ({"op": "visible", "on": "yes"}, "bad_json"),
        ({"op": "react"}, "bad_json"),
        ({"op": "react", "k": "Fire"}, "bad_json"),
        ({"op": "react", "k": "nothing"}, "bad_reaction"),
        ({"op": "auth", "token": ""}, "bad_json"),
        ([], "bad_json"),
        (None, "bad_json"),
        ("ping", "bad_json"),
    ],
)
async def test_what_is_no_op_is_named(op: Any, error: str, server: Server, room: str) -> None:
    for kind in ("json", "msgpack"):
        async with viewer(server, kind, room, user="ann") as one:
            await one.connection.send(json.dumps(op) if kind == "json" else msgpack.packb(op))
            told = await one.next()
            assert (told["t"], told["error"]) == ("error", error), (kind, told)
            assert told["message"]
            await one.say(op="ping")
            assert await one.next() == {"t": "pong"}


@pytest.mark.parametrize("text", ["", " ", "x" * 501, "bell \x07", "turned \u202e round"])
async def test_a_text_that_is_not_to_be_shown(text: str, server: Server, room: str) -> None:
    async with viewer(server, "json", room, user="ann") as one:
        await one.say(op="comment", ref="c1", x=text)
        ack = await one.next()
        assert (ack["t"], ack["ref"], ack["status"], ack["error"]) == ("ack", "c1", "rejected", "bad_text")


@pytest.mark.parametrize("data", [b"{", b"\xff", b"[" * 3000, b'{"op":"ping"}{', b""])
async def test_what_is_not_even_that(data: bytes, server: Server, room: str) -> None:
    for kind in ("json", "msgpack", "zstd"):
        async with viewer(server, kind, room) as one:
            if kind == "json":
                if data == b"\xff":
                    continue
                await one.connection.send(data.decode())
            else:
                await one.connection.send(zstandard.compress(data) if kind == "zstd" and data != b"{" else data)
            assert (await one.next())["error"] == "bad_json"


@pytest.mark.parametrize(
    "protocol, op", [("edge.v1.json", BINARY), ("edge.v1.msgpack", TEXT), ("edge.v1.msgpack.zstd", TEXT)]
)
def test_the_wrong_kind_of_message(protocol: str, op: int, server: Server, room: str) -> None:
    with Raw(server) as raw:
        raw.upgrade(room, headers=f"Sec-WebSocket-Protocol: {protocol}\r\n")
        raw.say('{"op":"ping"}', op)
        assert raw.close_code() == 1003


def test_a_message_that_is_too_large(server: Server, room: str) -> None:
    largest = '{"op":"ping"}'.ljust(16384)
    with Raw(server) as raw:
        raw.upgrade(room)
        raw.say(largest)
        assert raw.message("pong")
        raw.say(largest + " ")
        assert raw.frame_of(CLOSE).payload == (1009).to_bytes(2, "big") + b"the message is too large"
    with Raw(server) as raw:  # in pieces, of which none is too large
        raw.upgrade(room)
        raw.say(largest[:8000], TEXT, fin=False)
        raw.say("still alive", PING)
        assert raw.frame_of(PONG).payload == b"still alive"
        raw.say(largest[8000:16000], 0, fin=False)
        raw.say(largest[16000:], 0)
        assert raw.message("pong")
        for op in (TEXT, 0, 0):
            raw.say(largest[:8000], op, fin=False)
        assert raw.close_code() == 1009
    with Raw(server) as raw:  # at its length, before the rest has come
        raw.upgrade(room)
        raw.send(b"\x81\xff" + (1 << 40).to_bytes(8, "big"))
        assert raw.close_code() == 1009


@pytest.mark.parametrize("text", ["😀" * 500, "\u1112\u1161\u11ab" * 500, "\u1e69" * 500])
def test_the_longest_comment_may_be_written_in_any_way(text: str, server: Server, room: str) -> None:
    with Raw(server) as raw:
        raw.upgrade(room, "?user=ann")
        for form in ("NFC", "NFD"):
            for ascii_ in (True, False):
                said = {"op": "comment", "ref": f"{form}{ascii_}", "x": unicodedata.normalize(form, text)}
                raw.say(json.dumps(said, ensure_ascii=ascii_))
                assert raw.message("ack")["status"] == "published"
        raw.say(json.dumps({"op": "auth", "token": "t" * 4096}))
        assert raw.message("error")["error"] == "unauthorized"


def test_what_a_compressed_message_may_become(server: Server, room: str) -> None:
    with Raw(server) as raw:
        found = raw.upgrade(room, headers=DEFLATE)["sec-websocket-extensions"]
        assert {part.strip() for part in found.split(";")} == {
            "permessage-deflate",
            "server_no_context_takeover",
            "client_no_context_takeover",
        }
        raw.say(deflated(b'{"op":"ping"}'.ljust(16384)), rsv=4)
        assert raw.message("pong")
        raw.say('{"op":"ping"}')  # need not be compressed
        assert raw.message("pong")
        raw.say(deflated(b'{"op":"ping"}'.ljust(16385)), rsv=4)
        assert raw.close_code() == 1009
    for bad, code in ((deflated(b" " * 3_000_000), 1009), (b"\xff" * 20, 1007), (deflated(b"\xc3\x28"), 1007)):
        with Raw(server) as raw:
            raw.upgrade(room, headers=DEFLATE)
            assert len(bad) <= 4096
            raw.say(bad, rsv=4)
            assert raw.close_code() == code
    with Raw(server) as raw:  # not agreed upon
        raw.upgrade(room)
        raw.say(deflated(b'{"op":"ping"}'), rsv=4)
        assert raw.close_code() == 1002


def test_what_a_zstd_message_may_become(server: Server, room: str) -> None:
    ping = msgpack.packb({"op": "ping"})
    squeeze, nameless = zstandard.ZstdCompressor(), zstandard.ZstdCompressor(write_content_size=False)

    def answer(raw: Raw) -> Any:
        return msgpack.unpackb(zstandard.decompress(raw.frame_of(BINARY).payload))

    with Raw(server) as raw:
        raw.upgrade(room, headers="Sec-WebSocket-Protocol: edge.v1.msgpack.zstd\r\n")
        assert answer(raw)["t"] == "hello"
        for good in (squeeze.compress(ping), nameless.compress(ping), ping):  # need not be compressed
            raw.say(good, BINARY)
            assert answer(raw) == {"t": "pong"}
        raw.say(nameless.compress(b"\xc0" * 3_000_000), BINARY)  # does not say how much it will be
        assert answer(raw)["error"] == "bad_json"
        raw.say(squeeze.compress(b"\xc0" * 3_000_000), BINARY)
        assert raw.close_code() == 1009


@pytest.mark.parametrize(
    "code, payload, answer",
    [
        (1000, b"\x03\xe8bye", 1000),
        (1001, b"\x03\xe9", 1001),
        (4000, b"\x0f\xa0", 4000),
        (1005, b"\x03\xed", 1002),  # a code that may not be sent
        (0, b"\x03", 1002),
        (1007, b"\x03\xe8\xff", 1007),
    ],
)
def test_closing(code: int, payload: bytes, answer: int, server: Server, room: str) -> None:
    with Raw(server) as raw:
        raw.upgrade(room, "?user=ann")
        raw.say('{"op":"ping"}')  # its answer comes first
        raw.say(payload, CLOSE)
        assert raw.message("pong")
        assert raw.close_code() == answer


def test_closing_without_a_code(server: Server, room: str) -> None:
    with Raw(server) as raw:
        raw.upgrade(room)
        raw.say(b"", CLOSE)
        assert raw.frame_of(CLOSE).payload == b""
        assert raw.ended()


def test_frames_that_break_the_rules(server: Server, room: str) -> None:
    for at, (first, op, options) in enumerate(
        [
            ("unmasked", TEXT, {"masked": False}),
            ("reserved bit", TEXT, {"rsv": 2}),
            ("reserved opcode", 3, {}),
            ("reserved control opcode", 11, {}),
            ("fragmented ping", PING, {"fin": False}),
            ("long ping" * 20, PING, {}),
            ("continuation of nothing", 0, {}),
        ]
    ):
        with Raw(server) as raw:
            raw.upgrade(room)
            raw.say(first, op, **options)
            assert raw.close_code() == 1002, at


async def test_who_says_much_and_reads_nothing_is_let_go(room: str) -> None:
    """Whoever does not take its answers is not listened to, and after a while let go; the others do not notice."""
    with Server(streams_blocked_seconds=1) as server:
        async with viewer(server, "json", room) as other, publisher(server, room) as say:
            with Raw(server) as raw:
                raw.upgrade(room)
                give_up = time.monotonic() + PATIENCE_S
                with contextlib.suppress(OSError):  # the end; how much the kernel takes before it is its own affair
                    while time.monotonic() < give_up:
                        raw.say("p" * 125, PING)
                until(lambda: server.figures()['edge_closed_total{cause="slow"}'] == 1)
            await say.comment("and on")
            assert await other.texts(1) == ["and on"]


async def test_comments_in_a_burst_are_all_taken(server: Server, room: str) -> None:
    """More at once than may be under way: the socket is read more slowly, and each comment gets its ack."""
    many = 1500
    async with viewer(server, "json", room, user="ann") as ann:
        acks: dict[str, str] = {}
        for n in range(many):
            await ann.say(op="comment", ref=f"r{n}", x=f"number {n}")
        while len(acks) < many:
            message = await ann.next()
            if message["t"] == "ack":
                acks[message["ref"]] = message["status"]
        assert set(acks.values()) == {"published"}
