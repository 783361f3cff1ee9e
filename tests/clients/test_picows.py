"""picows, which the load generators are made with."""

import asyncio
import json
from typing import Any

import msgpack
import pytest
from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from tests.server import PATIENCE_S, Server
from tests.viewers import Publisher, Seat


class Listener(WSListener):  # type: ignore[misc]
    def __init__(self) -> None:
        self.frames: asyncio.Queue[tuple[Any, bytes]] = asyncio.Queue()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.frames.put_nowait((frame.msg_type, frame.get_payload_as_bytes()))

    async def frame(self) -> tuple[Any, bytes]:
        return await asyncio.wait_for(self.frames.get(), PATIENCE_S)


@pytest.mark.parametrize("protocol", ["edge.v1.json", "edge.v1.msgpack"])
async def test_picows(protocol: str, server: Server, room: str, say: Publisher) -> None:
    await say.comments("one", "two")
    transport, listener = await ws_connect(
        Listener,
        f"{server.ws}/v1/rooms/{room}/ws?user=bob",
        extra_headers={"Sec-WebSocket-Protocol": protocol},
        enable_auto_pong=False,
    )
    assert isinstance(listener, Listener)
    assert transport.response.headers["Sec-WebSocket-Protocol"] == protocol
    seat = Seat()

    async def message() -> Any:
        kind, payload = await listener.frame()
        if protocol == "edge.v1.json":
            assert kind == WSMsgType.TEXT
            found = json.loads(payload)
        else:
            assert kind == WSMsgType.BINARY
            found = msgpack.unpackb(payload)
        seat.take(found)
        return found

    assert (await message())["t"] == "hello"
    assert [(await message())["m"][0]["x"] for _ in range(2)] == ["one", "two"]
    for number in range(50):
        op = {"op": "comment", "ref": str(number), "x": f"comment {number}"}
        if protocol == "edge.v1.json":
            transport.send(WSMsgType.TEXT, json.dumps(op).encode())
        else:
            transport.send(WSMsgType.BINARY, msgpack.packb(op))
    acks: set[str] = set()
    texts: list[str] = []
    while len(acks) + len(texts) < 100:
        found = await message()
        if found["t"] == "ack":
            acks.add(found["ref"])
        else:
            texts += [comment["x"] for comment in found["m"]]
    assert texts == [f"comment {number}" for number in range(50)]
    transport.send_ping(b"there?")
    assert await listener.frame() == (WSMsgType.PONG, b"there?")
    transport.send_close(WSCloseCode.OK, b"bye")
    kind, payload = await listener.frame()
    assert (kind, payload[:2]) == (WSMsgType.CLOSE, b"\x03\xe8")
    await asyncio.wait_for(transport.wait_disconnected(), PATIENCE_S)
