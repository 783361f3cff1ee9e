"""aiohttp's client: WebSockets, event streams and polls out of one session, which keeps its connections."""

import asyncio
import json

import aiohttp
import pytest

from tests.server import PATIENCE_S, Server
from tests.viewers import Publisher, Seat


@pytest.mark.parametrize("compress", [0, 15])
async def test_a_websocket(compress: int, server: Server, room: str, say: Publisher) -> None:
    async with (
        aiohttp.ClientSession(server.url) as http,
        http.ws_connect(
            f"/v1/rooms/{room}/ws?user=bob", protocols=["edge.v1.json"], compress=compress, heartbeat=0.05
        ) as socket,
    ):
        assert socket.protocol == "edge.v1.json"
        assert socket.compress == compress
        seat = Seat()
        seat.take(await socket.receive_json(timeout=PATIENCE_S))
        for number in range(10):
            await socket.send_json({"op": "comment", "ref": str(number), "x": "again and again " * 30})
            await say.score(number=number)
            for _ in range(3):
                seat.take(await socket.receive_json(timeout=PATIENCE_S))
        await socket.send_bytes(b"no text")
        assert (await socket.receive(timeout=PATIENCE_S)).data == 1003
        assert socket.close_code == 1003


async def test_everything_on_one_connection(server: Server, room: str) -> None:
    """A session with a single connection: pages, posts and polls take turns on it, between engine and application."""
    single = aiohttp.TCPConnector(limit=1)
    before = server.figures()["edge_accepted_total"]
    async with aiohttp.ClientSession(server.url, connector=single) as http:
        since: dict[str, str] = {}
        for number in range(1, 6):
            async with http.post(f"/v1/rooms/{room}/comments?user=ann", json={"x": f"{number}"}) as answer:
                assert answer.status == 201
            async with http.get(f"/v1/rooms/{room}/poll", params=since) as answer:
                told = await answer.json()
                assert [m["id"] for m in told["m"]] == [f"c{number}"]
                since = {"since": told["since"]}
            async with http.get(f"/v1/rooms/{room}") as answer:
                assert (await answer.json())["last"]["chat"] == f"c{number}"
        assert server.figures()["edge_accepted_total"] == before + 1
        async with http.get(f"/v1/rooms/{room}/sse", params=since) as answer:
            assert b"retry: " in await answer.content.readline()
        assert server.figures()["edge_accepted_total"] == before + 1


async def test_a_hundred_polls_at_once(server: Server, room: str, say: Publisher) -> None:
    async with aiohttp.ClientSession(server.url) as http:

        async def poll() -> list[str]:
            async with http.get(f"/v1/rooms/{room}/poll") as answer:
                return [m["id"] for m in json.loads(await answer.text())["m"]]

        polls = [asyncio.create_task(poll()) for _ in range(100)]
        before = asyncio.get_running_loop().time()
        while server.figures()['edge_viewers{encoding="poll"}'] < 100:
            assert asyncio.get_running_loop().time() < before + PATIENCE_S
            await asyncio.sleep(0.01)
        await say.score(home=1)
        assert await asyncio.gather(*polls) == [["m1"]] * 100
