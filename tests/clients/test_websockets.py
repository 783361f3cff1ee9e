"""The `websockets` library: its threads as well as its coroutines, its compression, its keepalive, its closing."""

import asyncio
import json

import pytest
import websockets
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.sync.client import connect as connect_sync

from tests.server import PATIENCE_S, Server
from tests.viewers import Publisher, Seat, viewer


@pytest.mark.parametrize(
    "factory, compressed",
    [
        (ClientPerMessageDeflateFactory(), True),
        (ClientPerMessageDeflateFactory(client_max_window_bits=True), True),
        (ClientPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True), True),
        (ClientPerMessageDeflateFactory(server_max_window_bits=15), True),
        (ClientPerMessageDeflateFactory(server_max_window_bits=9), False),  # one frame serves all: no smaller windows
    ],
)
async def test_compression(
    factory: ClientPerMessageDeflateFactory, compressed: bool, server: Server, room: str, say: Publisher
) -> None:
    async with websockets.connect(
        f"{server.ws}/v1/rooms/{room}/ws?user=bob", compression=None, extensions=[factory], proxy=None
    ) as connection:
        assert bool(connection.protocol.extensions) == compressed
        seat = Seat()
        seat.take(json.loads(await connection.recv()))
        for number in range(20):
            text = f"{number} is a number, " * 20
            await connection.send(json.dumps({"op": "comment", "ref": str(number), "x": text.strip()}))
            await say.score(number=number)
        seen = {"batch": 0, "score": 0, "ack": 0}
        while seen != {"batch": 20, "score": 20, "ack": 20}:
            message = json.loads(await asyncio.wait_for(connection.recv(), PATIENCE_S))
            seat.take(message)
            seen[message["t"]] += len(message.get("m", "1"))


async def test_pings_and_fragments(server: Server, room: str) -> None:
    async with websockets.connect(
        f"{server.ws}/v1/rooms/{room}/ws", ping_interval=0.01, ping_timeout=PATIENCE_S, proxy=None
    ) as connection:
        await connection.recv()

        async def pieces() -> object:
            for piece in ('{"op"', ":", '"pi', 'ng"}'):
                await (await connection.ping())  # answered in the middle of a message
                yield piece

        await connection.send(pieces())
        assert json.loads(await connection.recv()) == {"t": "pong"}
        await connection.close(4002, "enough")
        assert (connection.close_code, connection.close_reason) == (4002, "")


def test_threads(server: Server, room: str) -> None:
    with connect_sync(f"{server.ws}/v1/rooms/{room}/ws?user=ann", proxy=None) as connection:
        assert json.loads(connection.recv(PATIENCE_S))["t"] == "hello"
        for number in range(3):
            connection.send(json.dumps({"op": "comment", "ref": str(number), "x": "hi"}))
            got = {json.loads(connection.recv(PATIENCE_S))["t"] for _ in range(2)}
            assert got == {"ack", "batch"}


async def test_many_come_and_go(server: Server, room: str, say: Publisher) -> None:
    """A room that is spoken in all the while, and viewers who join, read a little, leave, and come back."""
    over = asyncio.Event()

    async def talk() -> None:
        number = 0
        while not over.is_set():
            number += 1
            await say.comment(f"comment {number}")
            await say.score(number=number)

    async def come_and_go(kind: str) -> None:
        query = {}
        for _ in range(6):
            async with viewer(server, kind, room, **query) as one:
                if query:
                    assert one.hello["resumed"] is True
                    assert one.hello["since"] == query["since"]
                for _ in range(15):
                    assert (await one.next())["t"] in ("batch", "score")
                query = {"since": one.seat.since}

    async with asyncio.TaskGroup() as group:
        talking = group.create_task(talk())
        kinds = [group.create_task(come_and_go(kind)) for kind in ("json", "msgpack", "zstd", "deflate", "sse") * 3]
        await asyncio.wait(kinds)
        over.set()
        await talking
