# The classifier of `make bench-ingest`'s outage: a process that answers as examples/classifier does, by a rule instead
# of a model, so that it can be stopped, killed and brought back. It owns that process. It must never judge one text now
# so and now so.

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import zlib
from pathlib import Path

from aiohttp import web

HOST = "127.0.0.1"
ROOT = Path(__file__).resolve().parent.parent
END_S = 10.0
BAD, DOUBTFUL = 5, 10
"""Of a hundred comments: below the first to be removed, below the second to be looked at."""


def score(text: str) -> float:
    lot = zlib.crc32(text.encode()) % 100
    # What is doubtful is so for repeat offenders too: what is hidden from all but its author looks published to them,
    # and could not be told from a loss.
    return 0.9 if lot < BAD else 0.4 if lot < DOUBTFUL else 0.1


async def classify(request: web.Request) -> web.Response:
    body = json.loads(await request.read())
    return web.json_response({"scores": [score(comment["x"]) for comment in body["comments"]]})


async def serve(port: int) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    app = web.Application(client_max_size=4 << 20)
    app.add_routes([web.post("/classify", classify)])
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, HOST, port, reuse_address=True).start()
    print(runner.addresses[0][1], flush=True)
    await ended.wait()
    await runner.cleanup()


class Judge:
    """The process. It is ready when this returns, and again after `back`."""

    def __init__(self) -> None:
        self._process = self._begin(0)
        self.url = f"http://{HOST}:{self.port}/classify"

    def _begin(self, port: int) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "bench.ingest_judge", "--port", str(port)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the classifier does not start ({process.wait()})")
        self.port = int(line)
        return process

    def away(self, how: str) -> None:
        """`stop`: it accepts connections and answers none of them. `kill`: there is nobody."""
        self._process.send_signal(signal.SIGSTOP if how == "stop" else signal.SIGKILL)

    def back(self, how: str) -> None:
        if how == "stop":
            self._process.send_signal(signal.SIGCONT)
        else:
            self.close()
            self._process = self._begin(self.port)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(END_S)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __enter__(self) -> "Judge":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--port", type=int, default=0)
    asyncio.run(serve(arguments.parse_args().port))
