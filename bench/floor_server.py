"""The server of bench/floor.py: a worker as it is, with the bare loops of floor.c in its process, told what to do by
lines of JSON on stdin. It measures its own CPU time; when to measure is the caller's business.

Owns: the worker, the compiled floor.c, the listener of the bare accept loop.
Must never: touch the engine but through what a worker may call.
"""

import argparse
import asyncio
import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from broker.memory import MemoryBroker
from edge import config as edge_config
from edge.api.app import build
from edge.api.serving import runner
from edge.host.listen import open_listeners
from edge.worker import Worker

HERE = Path(__file__).resolve().parent
ROOM = "bench"
ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: edge.v1.json\r\n\r\n"
)


def compile_floor() -> ctypes.CDLL:
    out = HERE.parent / "out" / "floor.so"
    out.parent.mkdir(exist_ok=True)
    source = HERE / "floor.c"
    if not out.exists() or out.stat().st_mtime < source.stat().st_mtime:
        command = ["gcc", "-O2", "-Wall", "-Wextra", "-std=gnu11", "-shared", "-fPIC", "-o", str(out), str(source)]
        subprocess.run(command, check=True)
    floor = ctypes.CDLL(str(out))
    floor.floor_sweep.restype = ctypes.c_long
    floor.floor_sweep.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_char_p, ctypes.c_size_t]
    floor.floor_accept.restype = ctypes.c_uint64
    floor.floor_accept.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_long,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_int,
    ]
    floor.floor_close.argtypes = [ctypes.c_void_p, ctypes.c_long]
    return floor


def rss_anon() -> int:
    """This process's own memory, without what it maps of files."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) * 1024


def frame(text: bytes) -> bytes:
    n = len(text)
    head = bytes([0x81, n]) if n < 126 else b"\x81\x7e" + n.to_bytes(2, "big")
    return head + text


def padded(message: dict[str, Any], size: int) -> dict[str, Any]:
    """The message with as much text as makes its frame `size` bytes."""
    message["x"] = ""
    head = 2 if size < 128 else 4
    message["x"] = "x" * max(0, size - head - len(msgspec.json.encode(message)))
    return message


class Measured(Worker):
    """A worker that knows when its sweeps are over."""

    swept: asyncio.Event

    def turn(self) -> None:
        super().turn()
        if not self.turning:
            self.swept.set()


class Server:
    def __init__(self, worker: Measured, floor: ctypes.CDLL) -> None:
        self.worker = worker
        self.floor = floor
        self.seq = [0, 0]
        self.bare_listener = open_listeners("127.0.0.1:0", 1)[0]
        self.bare_fds: Any = None

    def cpu(self) -> dict[str, int]:
        usage = resource.getrusage(resource.RUSAGE_THREAD)
        return {
            "cpu_ns": time.thread_time_ns(),
            "user_ns": int(usage.ru_utime * 1e9),
            "system_ns": int(usage.ru_stime * 1e9),
        }

    def since(self, before: dict[str, int]) -> dict[str, int]:
        return {name: value - before[name] for name, value in self.cpu().items()}

    def publish(self, lane: int, size: int) -> None:
        self.seq[lane] += 1
        name = f"{'mc'[lane]}{self.seq[lane]}"
        kind = ("score", "batch")[lane]
        message = padded({"t": kind, "id": name, "ts": 1, "ts_ns": time.monotonic_ns()}, size)
        self.worker.engine.append(ROOM.encode(), lane, self.seq[lane], 1, msgspec.msgpack.encode(message))
        self.worker.swept.clear()
        self.worker.soon()

    async def sweep(self, size: int) -> dict[str, Any]:
        await asyncio.sleep(0)
        counts = self.worker.engine.counters()
        before = self.cpu()
        self.publish(1, size)
        await self.worker.swept.wait()
        took = self.since(before)
        after = self.worker.engine.counters()
        return took | {
            "frames": after["frames_chat"] - counts["frames_chat"],
            "writes": after["writes"] - counts["writes"],
        }

    async def bare(self, size: int) -> dict[str, Any]:
        fds = self.worker.engine.descriptors(ROOM.encode())
        array = (ctypes.c_int * len(fds))(*fds)
        data = frame(msgspec.json.encode(padded({"t": "floor", "ts": 1, "ts_ns": time.monotonic_ns()}, size)))
        before = self.cpu()
        whole = self.floor.floor_sweep(array, len(fds), data, len(data))
        return self.since(before) | {"frames": whole}

    async def bare_accept(self, count: int) -> dict[str, Any]:
        self.bare_fds = (ctypes.c_int * count)()
        listener = self.bare_listener.fileno()
        cpu = await asyncio.to_thread(self.floor.floor_accept, listener, self.bare_fds, count, ANSWER, len(ANSWER), 60)
        return {"cpu_ns": cpu}

    async def bare_close(self) -> dict[str, Any]:
        self.floor.floor_close(self.bare_fds, len(self.bare_fds))
        return {}

    async def stream(self, lane: int, size: int, hz: float, seconds: float) -> dict[str, Any]:
        counts = self.worker.engine.counters()
        before = self.cpu()
        began = time.monotonic()
        n = 0
        while (due := began + n / hz) < began + seconds:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self.publish(lane, size)
            n += 1
        await self.worker.swept.wait()
        took = time.monotonic() - began
        after = self.worker.engine.counters()
        return self.since(before) | {
            "published": n,
            "seconds": took,
            "deliveries": after["frames_chat"] - counts["frames_chat"],
            "writes": after["writes"] - counts["writes"],
            "skipped": after["skipped"] - counts["skipped"],
        }

    async def overtake(self, size: int) -> dict[str, Any]:
        """A chat broadcast, and a score in the middle of it."""
        self.publish(1, size)
        half = self.worker.engine.counters()["frames_chat"] + len(self.worker.engine.descriptors(ROOM.encode())) // 4
        while self.worker.engine.counters()["frames_chat"] < half:  # noqa: ASYNC110 - the engine signals nobody
            await asyncio.sleep(0)
        chat_left = self.worker.engine.room_info(ROOM.encode())["sweeping"]
        self.publish(0, 200)
        await self.worker.swept.wait()
        return {"chat_was_running": chat_left}

    async def memory(self) -> dict[str, Any]:
        gc.collect()
        counters: dict[str, Any] = self.worker.engine.counters()
        return counters | {"RssAnon": rss_anon()}

    async def times(self) -> dict[str, Any]:
        return self.cpu()

    async def run(self) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            command, *arguments = json.loads(line)
            answer = await getattr(self, command)(*arguments)
            print(json.dumps({"ev": command, **answer}), flush=True)


async def main(arguments: argparse.Namespace) -> None:
    environ = {"EDGE_LIMITS_REPLY_BYTES": "65536"}
    if arguments.key:
        environ["EDGE_AUTH_HS256_KEY"] = arguments.key
    settings = edge_config.load(None, environ, {"--dev": "true"})
    loop = asyncio.get_running_loop()
    worker = Measured(settings, loop, MemoryBroker(), False)
    worker.swept = asyncio.Event()
    worker.http = runner(build(worker))
    await worker.http.setup()
    listener = open_listeners("127.0.0.1:0", 1)[0]
    worker.engine.listen(listener.fileno())
    worker.engine.room_open(ROOM.encode(), 1, 0, 0)
    room = worker._room(ROOM)
    room.followed = True
    gc.collect()
    gc.freeze()
    server = Server(worker, compile_floor())
    ports = {"port": listener.getsockname()[1], "bare_port": server.bare_listener.getsockname()[1]}
    print(json.dumps({"ev": "ready", "pid": os.getpid(), **ports}), flush=True)
    await server.run()
    await worker.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", type=int, default=0)
    parser.add_argument("--key", default="")
    chosen = parser.parse_args()
    os.sched_setaffinity(0, {chosen.cpu})
    uvloop.run(main(chosen))
