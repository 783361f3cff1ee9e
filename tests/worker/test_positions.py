"""What a viewer of each kind gets: on joining, on coming back, after missing more than is sent again."""

import asyncio
from typing import Any

import pytest

from tests.raw import UPGRADE, Raw
from tests.server import Server
from tests.viewers import ALL, SOCKETS, STREAMS, Publisher, viewer

EVENT = {"home": 1, "away": 0, "clock": {"minute": 12.5, "running": True}, "by": ["Müller", None, "مُحمّد", "🙂"]}


@pytest.mark.parametrize("kind", ALL)
async def test_joining_brings_what_was_and_then_what_is(kind: str, server: Server, room: str, say: Publisher) -> None:
    await say.comments("one", "two", "three")
    assert await say.score(**EVENT) == "m1"
    async with viewer(server, kind, room) as one:
        if kind != "poll":
            assert one.hello["resumed"] is False
            assert one.hello["state"] == "live"
            assert one.hello["viewers"] == 1
            assert one.hello["since"].endswith(".m0.c0")
        replay = await one.upto("m1", "c3")
        assert [m["e"] for m in replay if m["t"] == "score"] == [EVENT]
        assert [c["x"] for m in replay if m["t"] == "batch" for c in m["m"]] == ["one", "two", "three"]
        id_ = await say.comment("four")
        batch = await one.until("batch")
        assert batch["m"] == [{"id": id_, "u": {"id": "ann", "name": "ann"}, "x": "four", "ts": batch["m"][0]["ts"]}]
        assert batch["ts"] >= batch["m"][0]["ts"] > 1_600_000_000_000
        assert await say.score(home=2) == "m2"
        assert (await one.until("score"))["e"] == {"home": 2}


async def test_every_encoding_says_the_same(server: Server, room: str, say: Publisher) -> None:
    said = ["plain", 'quotes " and \\', "שלום", "עברית و عربية", "🙂👩‍👩‍👧", "</script>", "x" * 500, "é" * 500]
    await asyncio.gather(*(say.offer(text) for text in said[:4]))
    await say.score(**EVENT, big=2**63, small=-(2**63), pi=3.5e-300)
    seen: list[list[Any]] = []
    for kind in ALL:
        async with viewer(server, kind, room) as one:
            await asyncio.gather(*(say.offer(text, ref=f"{i}") for i, text in enumerate(said[4:])))
            got = []
            while sum(len(m["m"]) for m in got if m["t"] == "batch") < 8 or not any(m["t"] == "score" for m in got):
                got.append(await one.next())
            seen.append(sorted(got, key=lambda m: m["id"]))
    assert all(of_kind == seen[0] for of_kind in seen)
    assert {c["x"] for m in seen[0] if m["t"] == "batch" for c in m["m"]} == set(said)


@pytest.mark.parametrize("kind", STREAMS)
async def test_how_much_is_replayed(kind: str, server: Server, room: str, say: Publisher) -> None:
    head = 12
    for number in range(head):
        await say.comment(f"comment {number}")
        await say.score(number=number)
    for query, must, chat in (({}, 10, 99), ({"last": 3}, 3, 3), ({"last": 0}, 0, 0), ({"last": 999}, 10, 99)):
        async with viewer(server, kind, room, **query) as one:
            assert one.hello["since"].partition(".")[2] == f"m{head - must}.c{max(0, head - chat)}", query
            head += 1
            await say.comment(f"more for {query}")
            await say.score(number=head)
            got = await one.upto(f"m{head}", f"c{head}")
            assert len([m for m in got if m["t"] == "score"]) == must + 1


@pytest.mark.parametrize("kind", ALL)
async def test_coming_back_to_where_one_was(kind: str, server: Server, room: str, say: Publisher) -> None:
    await say.comments("one", "two")
    await say.score(home=1)
    async with viewer(server, kind, room) as one:
        await one.upto("m1", "c2")
        since = one.seat.since
    await say.comments("three", "four")
    await say.score(home=2)
    async with viewer(server, kind, room, since=since) as one:
        if kind != "poll":
            assert one.hello["resumed"] is True
            assert one.hello["since"] == since
        missed = await one.upto("m2", "c4")
        assert [m["id"] for m in missed if m["t"] == "score"] == ["m2"]
        assert [c["x"] for m in missed if m["t"] == "batch" for c in m["m"]] == ["three", "four"]
        at_head = one.seat.since
    async with viewer(server, kind, room, since=at_head) as one:
        await say.comment("five")
        assert (await one.until("batch"))["id"] == "c5"


@pytest.mark.parametrize("kind", STREAMS)
async def test_a_position_of_another_numbering_is_not_taken_up(
    kind: str, server: Server, room: str, say: Publisher
) -> None:
    await say.comments("one", "two")
    async with viewer(server, kind, room, since="i1.m70.c70") as one:
        assert one.hello["resumed"] is False
        assert one.hello["since"].endswith(".m0.c0")
        assert await one.texts(2) == ["one", "two"]


async def test_a_poll_with_a_position_of_another_numbering(server: Server, room: str, say: Publisher) -> None:
    await say.comments("one", "two")
    with Raw(server) as raw:
        raw.get(f"/v1/rooms/{room}/poll?since=i1.m70.c70")
        assert b'"c1"' in raw.reply().body


@pytest.mark.parametrize("kind", SOCKETS)
async def test_a_position_ahead_of_the_room_does_no_harm(kind: str, server: Server, room: str, say: Publisher) -> None:
    await say.comment("one")
    async with viewer(server, kind, room) as one:
        incarnation = one.seat.incarnation
        for number in (7, 2**63, 2**64 - 1):
            async with viewer(server, kind, room, since=f"i{incarnation}.m{number}.c{number}") as ahead:
                await ahead.say(op="visible", on=False)
                await say.comment("two")
                await ahead.say(op="visible", on=True)
                await ahead.say(op="ping")
                await ahead.connection.recv()
        assert await one.texts(2) == ["one", "two"]


@pytest.mark.parametrize("stream", ["ws", "sse", "poll"])
@pytest.mark.parametrize("since", ["x", "i1.m1", "i1.m1.c1x", "i01.m1.c1", "i1.m1.c18446744073709551616"])
def test_what_is_no_position_is_refused(stream: str, since: str, server: Server, room: str) -> None:
    with Raw(server) as raw:
        raw.get(f"/v1/rooms/{room}/{stream}?since={since}", UPGRADE if stream == "ws" else "")
        reply = raw.reply()
        assert (reply.status, reply.error()) == (400, "bad_request")
        assert raw.ended()


async def test_last_event_id_goes_before_since(server: Server, room: str, say: Publisher) -> None:
    await say.comments("one", "two", "three")
    async with viewer(server, "sse", room) as one:
        await one.upto("c3")
        incarnation = one.seat.incarnation
    with Raw(server) as raw:
        raw.get(f"/v1/rooms/{room}/sse?since=i{incarnation}.m0.c0", f"Last-Event-ID: i{incarnation}.m0.c2\r\n")
        assert raw.head()[0] == 200
        raw.take_to(b'"resumed":true')
        assert b'"c3"' in raw.take_to(b"\n\n") + raw.take_to(b"\n\n")
    with Raw(server) as raw:
        raw.get(f"/v1/rooms/{room}/sse?since=i{incarnation}.m0.c1")
        raw.take_to(f"id: i{incarnation}.m0.c1\nevent: hello\n".encode())
        raw.take_to(f"id: i{incarnation}.m0.c2\nevent: batch\n".encode())


@pytest.mark.parametrize("kind", ALL)
async def test_without_chat(kind: str, server: Server, room: str, say: Publisher) -> None:
    await say.comments("one")
    await say.score(home=1)
    async with viewer(server, kind, room, lanes="must") as one:
        assert (await one.next())["id"] == "m1"
        await say.comments("two")
        await say.score(home=2)
        assert (await one.next())["id"] == "m2"
        if kind in SOCKETS:  # a tab that is hidden and shown again stays without
            await one.say(op="visible", on=False)
            await say.comments("three")
            await one.say(op="visible", on=True)
            await one.say(op="ping")
            assert (await one.next())["t"] == "pong"
            await say.comments("four")
            await say.score(home=3)
            assert (await one.next())["id"] == "m3"


@pytest.mark.parametrize("kind", SOCKETS)
async def test_a_hidden_tab(kind: str, server: Server, room: str, say: Publisher) -> None:
    async with viewer(server, kind, room) as one:
        await one.say(op="visible", on=False)
        await one.say(op="ping")
        assert (await one.next())["t"] == "pong"
        await say.comments("one", "two")
        await say.score(home=1)
        assert (await one.next())["id"] == "m1"
        await one.say(op="visible", on=True)
        assert await one.texts(2) == ["one", "two"]
        await one.say(op="visible", on=True)
        await say.comment("three")
        assert await one.texts(1) == ["three"]
