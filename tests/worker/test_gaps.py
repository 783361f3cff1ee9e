"""Who missed more than is sent again is told so: a gap, then what is recent, and every score."""

import asyncio
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from tests.raw import TEXT, UPGRADE, Raw
from tests.server import Server, no_complaints
from tests.viewers import ALL, SOCKETS, Publisher, Seat, viewer

RESUME_BYTES = 6000
# What no encoding makes much smaller: about 1.5 KB in a batch of its own, 1 KB compressed.
LONG = "".join(map(chr, random.Random(1).choices(range(0x4E00, 0x9F00), k=480)))


@pytest.fixture(scope="module")
def small() -> Iterator[Server]:
    with Server(limits_resume_bytes=RESUME_BYTES, streams_replay=5) as server:
        yield server


@pytest.fixture
def server(small: Server) -> Iterator[Server]:
    with no_complaints(small):
        yield small


@pytest.mark.parametrize("kind", ALL)
async def test_a_resume_is_bounded_in_chat_and_whole_in_scores(
    kind: str, server: Server, room: str, say: Publisher
) -> None:
    await say.comment("seen")
    async with viewer(server, kind, room) as one:
        await one.upto("c1")
        since = one.seat.since
    for number in range(15):
        await say.comment(f"{number} {LONG}")
        await say.score(number=number, words=LONG)
    async with viewer(server, kind, room, since=since) as one:
        if kind != "poll":
            assert one.hello["resumed"] is True
            assert one.hello["since"] == since
        got = await one.upto("m15", "c16")
        assert [m["e"]["number"] for m in got if m["t"] == "score"] == list(range(15))
        (gap,) = [m for m in got if m["t"] == "gap"]
        assert gap["from"] == "c2"
        sent = [c["x"].split()[0] for m in got if m["t"] == "batch" for c in m["m"]]
        assert sent == [str(number) for number in range(15)][int(gap["to"][1:]) - 1 :]
        assert 3 <= len(sent) <= 6
        await say.comment("more")
        assert await one.texts(1) == ["more"]


@pytest.mark.parametrize("kind", SOCKETS)
async def test_a_tab_that_was_hidden_for_long(kind: str, server: Server, room: str, say: Publisher) -> None:
    async with viewer(server, kind, room) as one:
        await one.say(op="visible", on=False)
        await one.say(op="ping")
        assert (await one.next())["t"] == "pong"
        await say.comments(*(f"comment {number}" for number in range(12)))
        await one.say(op="visible", on=True)
        gap = await one.next()
        assert (gap["t"], gap["from"], gap["to"]) == ("gap", "c1", "c7")
        assert await one.texts(5) == [f"comment {number}" for number in range(7, 12)]


@pytest.mark.parametrize("kind", SOCKETS)
async def test_a_hidden_tab_without_chat_is_told_of_no_gap(
    kind: str, server: Server, room: str, say: Publisher
) -> None:
    async with viewer(server, kind, room, lanes="must") as one:
        await one.say(op="visible", on=False)
        await one.say(op="ping")
        assert (await one.next())["t"] == "pong"
        await say.comments(*(f"comment {number}" for number in range(12)))
        await one.say(op="visible", on=True)
        await say.score(home=1)
        assert (await one.next())["id"] == "m1"


async def flood(server: Server, room: str, count: int) -> None:
    """`count` comments of 2 KB, said on a socket as fast as they are taken; each is published, and in a batch."""
    async with viewer(server, "msgpack", room, last=0, user="ann") as author:
        for start in range(0, count, 40):
            refs = {f"{number}" for number in range(start, min(start + 40, count))}
            for ref in sorted(refs):
                await author.say(op="comment", ref=ref, x="\U0001f642" * 496)
            shown = len(refs)
            while refs or shown:
                message = await author.next()
                if message["t"] == "ack":
                    assert message["status"] == "published"
                    refs.discard(message["ref"])
                elif message["t"] == "batch":
                    shown -= len(message["m"])


@pytest.mark.parametrize("kind", ALL)
async def test_more_was_said_than_is_kept(kind: str, server: Server, room: str, say: Publisher) -> None:
    await say.comment("first")
    async with viewer(server, kind, room) as one:
        await one.upto("c1")
        since = one.seat.since
    await flood(server, room, 200)  # and the room keeps 256 KB
    await say.comment("last")
    async with viewer(server, kind, room, since=since) as one:
        message = await one.next()
        assert (message["t"], message["from"]) == ("gap", "c2")
        while message["t"] != "batch" or message["m"][-1]["x"] != "last":
            message = await one.next()
            assert message["t"] == "batch"


@pytest.mark.parametrize("stream", ["ws", "sse"])
async def test_who_stops_reading_for_a_while(stream: str, server: Server, room: str, say: Publisher) -> None:
    """Blocked, and more than three batches behind: it goes on at the tail, with a gap before that and every score."""
    with Raw(server, receive_bytes=4096) as raw:
        raw.get(f"/v1/rooms/{room}/{stream}", UPGRADE if stream == "ws" else "")
        raw.head()
        before = server.figures()["edge_blocked_total"]
        while server.figures()["edge_blocked_total"] == before:
            await flood(server, room, 20)
        for number in range(5):
            await say.comment(f"missed {number}")
            await say.score(number=number)
        await say.comment("last")
        seat, kinds, last = Seat(), [], ""

        def message() -> Any:
            if stream == "ws":
                return raw.frame_of(TEXT).message()
            raw.take_to(b"data: ")
            return json.loads(raw.take_to(b"\n\n"))

        while last != "last" or seat.at["m"] != 5:
            found = await asyncio.to_thread(message)
            seat.take(found)
            kinds.append(found["t"])
            last = found["m"][-1]["x"] if found["t"] == "batch" else last
        assert kinds[0] == "hello"
        assert kinds.count("gap") == 1
        assert kinds.count("score") == 5


async def test_a_batch_is_bounded(server: Server, room: str) -> None:
    async with viewer(server, "json", room) as one, asyncio.TaskGroup() as group:
        group.create_task(flood(server, room, 120))
        count = 0
        while count < 120:
            batch = await one.until("batch")
            count += len(batch["m"])
            assert len(json.dumps(batch, ensure_ascii=False, separators=(",", ":")).encode()) <= 32 * 1024
