# The server of `make bench-ingest`'s live parts: `edge serve` as it is, one worker with its broker in memory, pinned to
# a core, in a folder of its own. It owns that process and folder, and must never leave either behind.

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from edge.auth import Tokens

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
KEY = "a-key-of-the-ingest-benchmark-0123456789"
SERVER_CPU, CLIENT_CPU = 0, 1
END_S = 30.0
PATIENCE_S = 30.0
TOKEN_S = 3600.0
FREE: dict[str, object] = {
    # Every limit is worked out, and none of them refuses.
    "comments_per_user": 1_000_000,
    "comments_per_ip": 1_000_000,
    "comments_per_room": 10_000_000,
    "comments_per_box": 10_000_000,
    "limits_body_bytes": 1 << 20,  # a list of words
    "limits_opens_per_ip": 0,
}
_tokens = Tokens(KEY)


class Cpu(NamedTuple):
    """Of a process with all its threads, as the kernel accounts for it: in seconds, or in us for one of something.
    The sum is exact; the two parts are what clock ticks sampled of it."""

    user: float
    system: float

    @property
    def both(self) -> float:
        return self.user + self.system

    def since(self, before: "Cpu") -> "Cpu":
        return Cpu(self.user - before.user, self.system - before.system)


def token(user: str, *scopes: str, **claims: Any) -> str:
    return _tokens.mint(user, time.time() + TOKEN_S, scopes=scopes or ("read", "comment"), **claims)


def pin(core: int, pid: int = 0) -> None:
    """Whatever it was pinned to before. Where there is one core alone, there is nothing to keep apart."""
    if core < (os.cpu_count() or 1):
        os.sched_setaffinity(pid, {core})


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    pin(core)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class IngestServer:
    """`environ` is settings in the form section_key."""

    def __init__(self, **environ: object) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="edge-bench-")
        self._stderr = Path(self._folder.name, "stderr")
        data = Path(self._folder.name, "data")
        command = [sys.executable, "-m", "edge.cli", "serve", "--data", str(data)]
        command += ["--listen", f"{HOST}:0", "--private-listen", f"{HOST}:0"]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("EDGE_")}
        given = {**FREE, "auth_hs256_key": KEY, "server_workers": 1, "broker_url": "memory:", **environ}
        settings = {f"EDGE_{name.upper()}": str(value) for name, value in given.items()}
        with self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                command,
                cwd=self._folder.name,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=kept | settings | {"PYTHONPATH": str(ROOT)},
            )
        try:
            self.port, self._private = self._await_ready()
            pin(SERVER_CPU, self.process.pid)
        except BaseException:
            self.close()
            raise
        self.admin = token("mo", "read", "comment", "moderate", "admin")

    def _await_ready(self) -> tuple[int, int]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        ready = re.fullmatch(r"edge: ready on http://127\.0\.0\.1:(\d+)\n", line)
        private = re.search(r"edge: metrics and health on http://127\.0\.0\.1:(\d+)\n", self.said())
        if ready is None or private is None:
            raise RuntimeError(f"the server does not start: {line}{self.said()}")
        return int(ready[1]), int(private[1])

    def said(self) -> str:
        return self._stderr.read_text(errors="replace")

    def cpu(self) -> Cpu:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        hertz = os.sysconf("SC_CLK_TCK")
        return Cpu(int(fields[11]) / hertz, int(fields[12]) / hertz)

    def rss(self) -> int:
        """Bytes in memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def figures(self) -> dict[str, int]:
        """What the server has counted, by Prometheus's name and labels."""
        with urllib.request.urlopen(f"http://{HOST}:{self._private}/metrics", timeout=PATIENCE_S) as answer:
            lines = answer.read().decode().splitlines()
        return {name: int(float(value)) for name, value in (it.rsplit(" ", 1) for it in lines if it[0] != "#")}

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """As a moderator of all rooms."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.admin}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://{HOST}:{self.port}/v1{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def close(self) -> int:
        """Ends it; the exit status."""
        try:
            if self.process.poll() is None:
                self.process.terminate()
            return self.process.wait(END_S)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            if self.process.stdout:
                self.process.stdout.close()
            self._folder.cleanup()

    def __enter__(self) -> "IngestServer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        said = self.said()
        status = self.close()
        if kind is None and (status or "Traceback" in said):
            raise RuntimeError(f"the server ended with {status}: {said[-4000:]}")
