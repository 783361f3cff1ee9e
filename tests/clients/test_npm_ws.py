"""The `ws` package from npm, with and without permessage-deflate."""

import asyncio
import base64
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest

from tests.server import PATIENCE_S, Server
from tests.viewers import Publisher, Seat

HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(
    not (HERE / "node_modules" / "ws").is_dir() or not shutil.which("node"),
    reason="node or the npm package ws is not installed (tests/tools.sh does it)",
)


class Node:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def event(self) -> Any:
        assert self.process.stdout
        async with asyncio.timeout(PATIENCE_S):
            return json.loads(await self.process.stdout.readline())

    def order(self, **order: Any) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(order).encode() + b"\n")

    async def message(self) -> Any:
        event = await self.event()
        if "base64" in event:
            return msgpack.unpackb(base64.b64decode(event["base64"]))
        return json.loads(event["text"])


@asynccontextmanager
async def node(url: str, protocol: str = "", **options: Any) -> AsyncIterator[Node]:
    script = str(HERE / "npm_ws.mjs")
    process = await asyncio.create_subprocess_exec(
        "node",
        script,
        url,
        protocol,
        json.dumps(options),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Node(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


DEFLATE = "permessage-deflate"


@pytest.mark.parametrize(
    "protocol, deflate, agreed",
    [
        ("edge.v1.json", {"threshold": 0}, DEFLATE),
        ("edge.v1.json", {"threshold": 0, "serverNoContextTakeover": True, "clientNoContextTakeover": True}, DEFLATE),
        ("edge.v1.json", {"threshold": 0, "clientMaxWindowBits": True}, DEFLATE),
        ("edge.v1.json", {"threshold": 0, "serverMaxWindowBits": 10}, ""),  # declined
        ("edge.v1.json", False, ""),
        ("edge.v1.msgpack", False, ""),
        ("edge.v1.msgpack", {"threshold": 0}, ""),  # small as it is
        ("", {"threshold": 0}, DEFLATE),
    ],
)
async def test_ws(protocol: str, deflate: Any, agreed: str, server: Server, room: str, say: Publisher) -> None:
    await say.comments("before")
    url = f"{server.ws}/v1/rooms/{room}/ws?user=ann"
    async with node(url, protocol, perMessageDeflate=deflate) as client:
        opened = await client.event()
        assert opened == {"open": protocol, "extensions": agreed}
        seat = Seat()
        seat.take(await client.message())
        seat.take(await client.message())
        text = "a longer comment, said again and again " * 12
        for number in range(5):
            op = {"op": "comment", "ref": str(number), "x": f"{number} {text}".strip()}
            if protocol == "edge.v1.msgpack":
                client.order(base64=base64.b64encode(msgpack.packb(op)).decode())
            else:
                client.order(text=json.dumps(op))
            got = [await client.message(), await client.message()]
            ack, batch = sorted(got, key=lambda m: m["t"])
            assert (ack["ref"], ack["status"]) == (str(number), "published")
            assert batch["m"][0]["x"] == op["x"]
            seat.take(batch)
            await say.score(number=number)
            seat.take(await client.message())
        client.order(ping="are you there?")
        assert await client.event() == {"pong": "are you there?"}
        client.order(close=4001)
        assert await client.event() == {"close": 4001, "reason": ""}


async def test_ws_sees_why(server: Server, room: str) -> None:
    url = f"{server.ws}/v1/rooms/{room}/ws"
    async with node(f"{url}?token=x") as client:
        assert (await client.event()) == {"status": 401}
    async with node(url, "edge.v1.json", perMessageDeflate={"threshold": 0}) as client:
        await client.event()
        await client.message()
        client.order(text=" " * 100_000)  # a few hundred bytes on the wire
        assert await client.event() == {"close": 1009, "reason": "the message is too large"}
