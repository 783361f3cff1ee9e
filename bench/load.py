"""The driver of the native load client (bench/load.c): builds it, starts it, speaks its line protocol.

Owns: the compiled binary under out/, and one child process per Load.
Must never: judge what comes back. Whoever starts a load says what it must show.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "out"
SOURCES = sorted([HERE / "load.c", *HERE.glob("load_*.h")])
Answer = dict[str, Any]


class LoadError(RuntimeError):
    """The load client ended, refused a command, or did not answer in time."""


def build() -> Path:
    """The binary, compiled if it is older than its source. EDGE_SANITIZE=address,undefined makes another, beside it."""
    sanitize = os.environ.get("EDGE_SANITIZE", "")
    target = OUT / ("load-" + sanitize.replace(",", "-") if sanitize else "load")
    if target.exists() and target.stat().st_mtime >= max(source.stat().st_mtime for source in SOURCES):
        return target
    OUT.mkdir(exist_ok=True)
    fresh = target.with_name(f"{target.name}.{os.getpid()}")
    flags = ["-g", f"-fsanitize={sanitize}", "-fno-sanitize-recover=all"] if sanitize else []
    command = ["gcc", "-O2", "-Wall", "-Wextra", "-std=gnu11", *flags, "-o", str(fresh), str(HERE / "load.c")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or done.stderr:
            raise LoadError(f"{' '.join(command)}\n{done.stderr}")
        fresh.rename(target)  # whole or not at all: somebody else may be starting it just now
    finally:
        fresh.unlink(missing_ok=True)
    return target


class Load:
    """One process of viewers. It connects by itself; `ready` waits for that.

    Keywords become flags: stall_rcvbuf=4096 is --stall-rcvbuf 4096, split=True is --split. `load.c --help` lists them.
    `ask` and `answer` are the two halves of every command, so that several processes can wait at the same time.
    """

    def __init__(self, port: int, count: int = 1, mode: str = "ws", **flags: object) -> None:
        command = [str(build()), "--port", str(port), "--count", str(count), "--mode", mode]
        for name, value in flags.items():
            flag = "--" + name.replace("_", "-")
            command += [flag] if value is True else [] if value in (None, False) else [flag, str(value)]
        self.count = count
        self._unread = b""
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

    def ready(self, timeout: float = 60.0) -> Answer:
        """How many have joined, how many failed and of what. Call it once, before anything else."""
        return self.answer("ready", timeout)

    def stats(self) -> Answer:
        return self.command("stats")

    def reset(self) -> None:
        self.command("reset")

    def wait(self, lane: str, position: int, seconds: float) -> Answer:
        """Until every socket that reads is at the position: {"ok", "behind", "lost", "seconds"}."""
        return self.command(f"wait {lane} {position} {seconds}", seconds + 10)

    def positions(self) -> Answer:
        return self.command("positions")

    def stall(self, count: int) -> Answer:
        return self.command(f"stall {count}")

    def unstall(self) -> Answer:
        return self.command("unstall")

    def drop(self, count: int, timeout: float = 60.0) -> Answer:
        """Closes so many and connects them again with their resume vectors: {"reconnected", "failed", "seconds"}."""
        return self.command(f"drop {count}", timeout)

    def reopen(self, timeout: float = 60.0) -> Answer:
        """Connects again what the server closed or never let in."""
        return self.command("reopen", timeout)

    def send(self, text: str) -> Answer:
        return self.command(f"send {text}")

    def command(self, line: str, timeout: float = 30.0) -> Answer:
        self.ask(line)
        return self.answer(line.split()[0], timeout)

    def ask(self, line: str) -> None:
        if "\n" in line:
            raise ValueError("a command is one line")
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line.encode() + b"\n")
        except BrokenPipeError:
            raise LoadError(f"the load client has ended ({self.process.wait()})") from None

    def answer(self, event: str, timeout: float) -> Answer:
        """The next answer, which must be the one to `event`: they come in the order of the commands."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout
        while b"\n" not in self._unread:
            if not select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise LoadError(f"no answer to {event} within {timeout} s")
            chunk = os.read(self.process.stdout.fileno(), 65536)
            if not chunk:
                raise LoadError(f"the load client has ended ({self.process.wait()})")
            self._unread += chunk
        line, self._unread = self._unread.split(b"\n", 1)
        answer: Answer = json.loads(line)
        if answer["ev"] != event:
            raise LoadError(f"asked for {event}, got {answer}")
        return answer

    def close(self) -> int:
        """Ends the process, by force if need be, and says how it ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # gone, or closed before
            self.process.stdin.write(b"\nquit\n")
        self.process.stdin.close()
        try:
            code = self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.process.stdout.close()
        return code

    def __enter__(self) -> Load:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        code = self.close()
        if code and kind is None:
            raise LoadError(f"the load client ended with {code}")
