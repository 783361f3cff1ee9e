"""Reactions on real servers: by socket and by POST, as totals in every viewer's batches; limits, bans, bad ones."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from edge.rooms.reactions import EVERY_BATCHES
from tests.broker.nats_server import nats_server
from tests.moderators import ask, server_at, token, told
from tests.raw import UPGRADE, Raw, Reply
from tests.server import Server, no_complaints, until, until_async
from tests.viewers import ALL, Publisher, Viewer, viewer

TAKEN, REFUSED, HEARD = "edge_reactions_taken_total", "edge_reactions_refused_total", "edge_owner_reactions_total"


async def totals(one: Viewer, known: dict[str, int], **wanted: int) -> None:
    """Reads on until these totals are known; none of them goes back on the way."""
    while any(known.get(kind) != count for kind, count in wanted.items()):
        message = await one.next()
        assert message["t"] != "gap", message
        if message["t"] == "batch":
            said = message.get("r", {})
            assert all(known.get(kind, 0) <= count for kind, count in said.items()), (known, said)
            known |= said


async def post(http: aiohttp.ClientSession, room: str, kind: str, user: str = "ann") -> None:
    async with http.post(f"/v1/rooms/{room}/reactions", params={"user": user}, json={"k": kind}) as answer:
        assert (answer.status, await answer.json()) == (202, {})


async def snapshot(http: aiohttp.ClientSession, room: str) -> dict[str, Any]:
    async with http.get(f"/v1/rooms/{room}", params={"user": "ann"}) as answer:
        found: dict[str, Any] = await answer.json()
        return found


def some(found: dict[str, Any]) -> dict[str, int]:
    """The kinds of a snapshot that are there at all; it names all that are taken."""
    assert list(found["reactions"]) == ["fire", "heart", "laugh", "clap", "wow", "sad"]
    return {kind: count for kind, count in found["reactions"].items() if count}


@pytest.mark.parametrize("kind", ALL)
async def test_every_viewer_sees_the_totals(kind: str, server: Server, room: str, say: Publisher) -> None:
    await say.comment("before")
    known: dict[str, int] = {}
    async with viewer(server, kind, room) as one, viewer(server, "json", room, user="bob") as bob:
        assert await one.texts(1) == ["before"]
        await bob.say(op="react", k="fire")
        await post(say.http, room, "heart")
        await totals(one, known, fire=1, heart=1)
        await bob.say(op="react", k="fire")
        await say.offer("with a comment")
        await totals(one, known, fire=2, heart=1)
        assert known == {"fire": 2, "heart": 1}
        assert some(await snapshot(say.http, room)) == known
        await bob.say(op="ping")
        while (message := await bob.next())["t"] != "pong":
            assert message["t"] == "batch", "a reaction that is taken is not answered"


async def test_who_comes_later_knows_all(server: Server, room: str, say: Publisher) -> None:
    await post(say.http, room, "fire")
    await post(say.http, room, "wow")

    async def counted() -> bool:
        return some(await snapshot(say.http, room)) == {"fire": 1, "wow": 1}  # nobody watches

    await until_async(counted)
    assert some(await snapshot(say.http, room + "-other")) == {}
    known: dict[str, int] = {}
    async with viewer(server, "json", room) as late:
        await totals(late, known, fire=1, wow=1)  # in what is replayed
    for n in range(2 * EVERY_BATCHES):
        await say.comment(str(n))
    known = {}
    async with viewer(server, "json", room, last=EVERY_BATCHES) as late:
        await totals(late, known, fire=1, wow=1)
        assert some(await snapshot(say.http, room)) == known
    known = {}
    async with viewer(server, "json", room, last=0) as late:  # nothing is replayed: in what comes
        for n in range(EVERY_BATCHES):
            await say.comment(f"more {n}")
        await totals(late, known, fire=1, wow=1)


async def test_a_replay_of_reactions_alone_is_bounded_as_one_of_comments_is(room: str) -> None:
    with Server(streams_replay=2) as server:
        async with aiohttp.ClientSession(server.url) as http, viewer(server, "json", room) as early:
            for count in range(1, 5):
                await post(http, room, "fire")
                await totals(early, {}, fire=count)
            async with viewer(server, "json", room) as late:
                known: dict[str, int] = {}
                await totals(late, known, fire=4)
                assert late.hello["since"].endswith(".c2")


async def test_two_workers_and_viewers_of_every_kind() -> None:
    with Server("--workers", "2") as server:
        async with contextlib.AsyncExitStack() as stack:
            http = await stack.enter_async_context(aiohttp.ClientSession(server.url))
            viewers = [
                await stack.enter_async_context(viewer(server, kind, "match", user=f"u{n}"))
                for n, kind in enumerate(("json", "msgpack", "sse", "json", "zstd", "sse", "json", "json"))
            ]
            sockets = [one for one in viewers if hasattr(one, "say")]
            for n in range(60):
                await sockets[n % len(sockets)].say(op="react", k="fire")
                await post(http, "match", "clap")
            await until_async(lambda: server.figures()[TAKEN] == 120)

            wanted = await until_async(lambda: shown_to(http, (server,)))
            assert wanted.keys() <= {"fire", "clap"}
            assert sum(wanted.values()) <= 120  # what comes while a shard is on its way to another owner may be lost
            async with asyncio.TaskGroup() as group:
                for one in viewers:
                    group.create_task(totals(one, {}, **wanted))


async def shown_to(http: aiohttp.ClientSession, boxes: tuple[Server, ...]) -> dict[str, int]:
    """What is shown, once it is all that owners have heard."""
    found = some(await snapshot(http, "match"))
    return found if sum(found.values()) == sum(box.figures()[HEARD] for box in boxes) else {}


async def test_two_boxes_share_the_totals(tmp_path: Path) -> None:
    with nats_server(tmp_path) as nats, Server(broker_url=nats.url) as one, Server(broker_url=nats.url) as two:
        async with contextlib.AsyncExitStack() as stack:
            boxes = (one, two)
            viewers = [await stack.enter_async_context(viewer(box, "json", "match", user="ann")) for box in boxes]
            known: list[dict[str, int]] = [{}, {}]
            for count in range(1, 4):
                for at in (0, 1):
                    await viewers[at].say(op="react", k="heart")

                await until_async(lambda count=count: sum(box.figures()[TAKEN] for box in boxes) == 2 * count)
            for at, box in enumerate(boxes):
                async with aiohttp.ClientSession(box.url) as http:
                    found = await until_async(lambda http=http: shown_to(http, boxes))
                assert found.keys() == {"heart"}
                assert 0 < found["heart"] <= 6
                await totals(viewers[at], known[at], **found)


# With tokens.


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server_at(tmp_path_factory.mktemp("data"), comments_reactions_per_user=5, rooms_reactions="fire,gg") as server:
        yield server


@pytest.fixture
def guarded(strict: Server) -> Iterator[Server]:
    with no_complaints(strict):
        yield strict


def react(server: Server, room: str, body: Any, user: str = "ann", *scopes: str) -> Reply:
    return ask(server, "POST", f"/v1/rooms/{room}/reactions", body, token(user, *scopes))


def test_what_is_refused_is_refused_by_name(guarded: Server, room: str) -> None:
    assert told_nothing(react(guarded, room, {"k": "gg"}))
    for body, name in (
        ({"k": "heart"}, "bad_reaction"),
        ({"k": "Fire"}, "bad_json"),
        ({"k": 5}, "bad_json"),
        ({}, "bad_json"),
        ([], "bad_json"),
        (b"", "bad_json"),
        (b"{", "bad_json"),
        (b"\xff", "bad_json"),
        (b"[" * 3000, "bad_json"),
    ):
        reply = react(guarded, room, body)
        assert (reply.status, reply.error()) == (400, name), body
    assert react(guarded, room, b" " * 20_000).status == 413
    reader = react(guarded, room, {"k": "fire"}, "ann", "read")
    assert (reader.status, reader.error()) == (403, "forbidden")
    assert react(guarded, "a.b", {"k": "fire"}).status in (400, 404)
    assert ask(guarded, "GET", f"/v1/rooms/{room}/reactions").status == 405
    elsewhere = ask(
        guarded, "POST", f"/v1/rooms/{room}/reactions", {"k": "fire"}, token("ann", "comment", rooms=["other"])
    )
    assert elsewhere.error() == "forbidden"
    with Raw(guarded) as raw:
        raw.send(f"POST /v1/rooms/{room}/reactions HTTP/1.1\r\nHost: edge\r\nContent-Length: 2\r\n\r\n{{}}")
        assert raw.reply().error() == "unauthorized"


def told_nothing(reply: Reply) -> bool:
    return (reply.status, json.loads(reply.body)) == (202, {})


def joined(raw: Raw, room: str, who: str | None = None) -> Raw:
    raw.get(f"/v1/rooms/{room}/ws" + (f"?token={who}" if who else ""), UPGRADE)
    assert raw.head()[0] == 101
    raw.message("hello")
    return raw


def test_a_socket_is_told_what_was_wrong(guarded: Server, room: str) -> None:
    with Raw(guarded) as raw:
        joined(raw, room)
        raw.say('{"op":"react","k":"fire"}')
        assert raw.message("error")["error"] == "unauthorized"
    with Raw(guarded) as raw:
        joined(raw, room, token("ann", "read"))
        raw.say('{"op":"react","k":"fire"}')
        assert raw.message("error")["error"] == "forbidden"
    with Raw(guarded) as raw:
        joined(raw, room, token("bob"))
        for op, name in (
            ({"op": "react", "k": "heart"}, "bad_reaction"),
            ({"op": "react", "k": ""}, "bad_json"),
            ({"op": "react", "k": None}, "bad_json"),
            ({"op": "react"}, "bad_json"),
        ):
            raw.say(json.dumps(op))
            assert raw.message("error")["error"] == name


def test_a_user_who_reacts_too_much_is_told_when_to_go_on(guarded: Server, room: str) -> None:
    before = guarded.figures()
    with Raw(guarded) as raw:
        joined(raw, room, token("eager"))
        for _ in range(50):  # five in ten seconds, and one more in each two that this takes
            raw.say('{"op":"react","k":"fire"}')
        error = raw.message("error")
        assert error["error"] == "too_many"
        assert 0 < error["retry_after"] <= 2
    over = until(lambda: (reply := react(guarded, room, {"k": "fire"}, "eager")).status == 429 and reply)
    assert over.error() == "too_many"
    assert int(over.headers["retry-after"]) >= 1
    assert told_nothing(react(guarded, room, {"k": "fire"}, "calm"))
    after = guarded.figures()
    assert after[REFUSED] > before[REFUSED]
    assert after[TAKEN] >= before[TAKEN] + 6


def count_of(server: Server, room: str, kind: str) -> int:
    found: dict[str, int] = told(ask(server, "GET", f"/v1/rooms/{room}"))["reactions"]
    assert list(found) == ["fire", "gg"]
    return found[kind]


def test_bans_hold_and_one_who_is_shadowed_counts_nothing(guarded: Server, room: str) -> None:
    path = f"/v1/rooms/{room}/bans"
    told(ask(guarded, "PUT", f"{path}/ghost", {"shadow": True}))
    told(ask(guarded, "PUT", f"{path}/out", {"seconds": 600}))
    told(ask(guarded, "PUT", f"{path}/gone"))
    refused = until(lambda: (reply := react(guarded, room, {"k": "fire"}, "out")).status == 403 and reply)
    assert refused.error() == "banned"
    assert 0 < json.loads(refused.body)["retry_after"] <= 600
    until(lambda: react(guarded, room, {"k": "fire"}, "gone").status == 403)
    with Raw(guarded) as raw:
        joined(raw, room, token("out"))
        raw.say('{"op":"react","k":"fire"}')
        assert raw.message("error")["error"] == "banned"
    seen = guarded.figures()
    for _ in range(5):
        assert told_nothing(react(guarded, room, {"k": "gg"}, "ghost"))
    assert told_nothing(react(guarded, room, {"k": "fire"}, "honest"))
    until(lambda: count_of(guarded, room, "fire") == 1)
    assert count_of(guarded, room, "gg") == 0
    after = guarded.figures()
    assert (after[TAKEN] - seen[TAKEN], after[REFUSED] - seen[REFUSED]) == (1, 0)
    assert react(guarded, room, {"k": "gg"}, "ghost").status in (202, 429)  # limited as anybody is


def test_a_closed_room_takes_no_reactions(guarded: Server, room: str) -> None:
    told(ask(guarded, "PUT", f"/v1/rooms/{room}/mode", {"closed": True}))
    users = (f"u{n}" for n in range(10_000))
    closed = until(lambda: (reply := react(guarded, room, {"k": "fire"}, next(users))).status == 403 and reply)
    assert closed.error() == "room_closed"
    told(ask(guarded, "PUT", f"/v1/rooms/{room}/mode", {}))
    until(lambda: react(guarded, room, {"k": "fire"}, next(users)).status == 202)
