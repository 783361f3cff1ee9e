"""A WebSocket echo server on the engine, for conformance suites: `python -m tests.echo --port N` prints `ready`.

Suites ask for `/`, which the engine hands over like every other address that is no stream's; here it goes straight
back in as a stream's request. So a run also exercises the hand-over in both directions.
"""

import argparse
import asyncio
import socket

import uvloop

from edge._fast.reactor import Engine
from edge.config import Config
from edge.options import engine_options

LARGEST = 32 << 20
ROOM = b"echo"


class Echo:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        options = engine_options(Config(), anonymous=True, group=False)
        options |= {"message_bytes": LARGEST, "inflated_bytes": LARGEST, "reply_bytes": 2 * LARGEST, "hello": 0}
        self.loop = loop
        self.turning = False
        self.engine = Engine(self, 1024, 16, 1, options, [])
        self.engine.room_open(ROOM, 1, 0, 0)
        loop.add_reader(self.engine.fileno(), self.readable)

    def readable(self) -> None:
        if not self.turning:
            self.turn()

    def turn(self) -> None:
        self.turning = self.engine.tick()
        if self.turning:
            self.loop.call_soon(self.turn)

    def opens(self, requests: list[tuple[int, bytes, bytes | None, bytes | None]]) -> None:
        for id_, *_ in requests:
            self.engine.refuse(id_, 404, b"not_found", b"there is one room here")

    def handoffs(self, connections: list[tuple[int, bytes]]) -> None:
        for fd, _peer in connections:
            with socket.socket(fileno=fd) as sock:
                head = sock.recv(8192)
                fields = head.partition(b"\r\n")[2]
                self.engine.adopt(sock.detach(), b"GET /v1/rooms/echo/ws HTTP/1.1\r\n" + fields)
        if not self.turning:
            self.turning = True
            self.loop.call_soon(self.turn)

    def messages(self, messages: list[tuple[int, int, int, bytes]]) -> None:
        for id_, op, _encoding, payload in messages:
            self.engine.send(id_, op, payload)


async def serve(port: int) -> None:
    listener = socket.create_server(("127.0.0.1", port), backlog=128)
    listener.setblocking(False)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    echo = Echo(asyncio.get_running_loop())
    echo.engine.listen(listener.fileno())
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A WebSocket echo server on the engine.")
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(serve(parser.parse_args().port))
