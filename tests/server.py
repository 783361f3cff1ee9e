"""A real server for tests: `edge serve` in a process of its own, on ports that it chose itself, ended by SIGTERM.

It owns the process, and shows what that said on stderr when a test fails. It must never outlive the test that asked.
"""

import asyncio
import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")

ROOT = Path(__file__).parent.parent
READY_S = 30.0
END_S = 20.0
PATIENCE_S = 15.0  # for what must come; generous, since the machine is busy
HOST = "127.0.0.1"


class Server:
    """A running server. `environ` is settings in the form EDGE_SECTION_KEY, without EDGE_."""

    def __init__(self, *arguments: str, dev: bool = True, **environ: object) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="edge-test-")
        self._stderr = Path(self._folder.name) / "stderr"
        command = [sys.executable, "-m", "edge.cli", "serve", *(["--dev"] if dev else []), *arguments]
        command += ["--listen", f"{HOST}:0", "--private-listen", f"{HOST}:0"]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("EDGE_")}
        given = {f"EDGE_{name.upper()}": str(value) for name, value in environ.items()}
        with self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                command,
                cwd=self._folder.name,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=kept | given | {"PYTHONPATH": str(ROOT)},
            )
        try:
            self.port, self.private_port = self._await_ready()
        except BaseException:
            self.stop()
            raise
        self.url = f"http://{HOST}:{self.port}"
        self.ws = f"ws://{HOST}:{self.port}"

    def _await_ready(self) -> tuple[int, int]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()  # ends, if need be, with the process
        said = self.stderr()
        ready = re.fullmatch(r"edge: ready on http://127\.0\.0\.1:(\d+)\n", line)
        private = re.search(r"edge: metrics and health on http://127\.0\.0\.1:(\d+)\n", said)
        assert ready, (line, said)
        assert private, said
        return int(ready[1]), int(private[1])

    def stderr(self) -> str:
        return self._stderr.read_text(errors="replace")

    def tell(self) -> None:
        self.process.terminate()

    def stop(self) -> int:
        """Ends it, in whatever state it is; the exit status."""
        try:
            if self.process.poll() is None:
                self.tell()
            return self.process.wait(END_S)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            if self.process.stdout:
                self.process.stdout.close()
            self._folder.cleanup()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        said = self.stderr()
        status = self.stop()
        if kind is None:
            assert status == 0, said
            assert "Traceback" not in said, said

    def connect(self, source: str = "", receive_bytes: int = 0) -> socket.socket:
        """A plain connection; from another address of the loopback network where `source` names one. With
        `receive_bytes`, its buffer is small from the start: this side's kernel takes little that is not read."""
        sock = socket.socket()
        try:
            sock.settimeout(PATIENCE_S)
            if receive_bytes:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            if source:
                sock.bind((source, 0))
            sock.connect((HOST, self.port))
        except BaseException:
            sock.close()
            raise
        return sock

    def figures(self, worker: str = "") -> Counter[str]:
        """What is counted, by Prometheus's name and labels: by one worker, or by all together."""
        with urllib.request.urlopen(f"http://{HOST}:{self.private_port}/metrics", timeout=PATIENCE_S) as answer:
            lines = answer.read().decode().splitlines()
        found: Counter[str] = Counter()
        for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#"):
            whose = re.search(r',?worker="(\d+)"', name)
            if not worker or (whose and whose[1] == worker):
                found[name.replace(whose[0], "").removesuffix("{}") if whose else name] += int(float(value))
        return found

    def await_empty(self) -> None:
        """When everybody has left, nothing is kept for anybody."""
        kept = ("connections", "cold", "users", "http_connections")

        def empty() -> bool:
            found = self.figures()
            return not any(found[f"edge_{name}"] for name in kept) and not any(
                value for name, value in found.items() if name.startswith("edge_viewers")
            )

        until(empty)


@contextlib.contextmanager
def no_complaints(server: Server) -> Iterator[None]:
    """Whatever is done to the server, it must not be an accident to it."""
    before = len(server.stderr())
    yield
    said = server.stderr()[before:]
    assert "Traceback" not in said, said
    assert " ERROR " not in said, said


def until(look: Callable[[], T], seconds: float = PATIENCE_S) -> T:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)
    return found


async def until_async(look: Callable[[], Any], seconds: float = PATIENCE_S) -> Any:
    """The same, where others run on this loop meanwhile. `look` may be a coroutine function."""
    async with asyncio.timeout(seconds):
        while True:
            found = look()
            if isinstance(found, Awaitable):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.01)
