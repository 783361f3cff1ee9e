"""`make bench-floor`: what the engine costs beside the bare system calls, on the same sockets, in one run.

The server (floor_server.py) has one core, the load client the other. Every comparison alternates A and B round by
round and reports the median of the paired ratios: two processes differ by 10 % on such machines for no reason. Prints
a table, writes out/floor.json, and ends with 1 when a figure misses its bar.

Owns: the processes it starts. Must never: report a figure of a round in which a message was missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.load import Load

ROOT = Path(__file__).resolve().parent.parent
KEY = "bench-key-bench-key-bench-key-bench-key"
SERVER_CPU, CLIENT_CPU = 0, 1
Answer = dict[str, Any]


class Server:
    """The measured worker, and its answers."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "bench.floor_server", "--cpu", str(SERVER_CPU), "--key", KEY]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self.hello = self.answer()
        self.port: int = self.hello["port"]
        self.chat = self.must = 0

    def answer(self) -> Answer:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server has ended ({self.process.wait()})")
        answer: Answer = json.loads(line)
        return answer

    def tell(self, *command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def ask(self, *command: Any) -> Answer:
        self.tell(*command)
        return self.answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(20)


def until(condition: Any, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not within {seconds} s")
        time.sleep(0.01)


def checked(stats: Answer) -> Answer:
    """The load client's counters, if no position was missed, repeated or out of order."""
    if any(stats["flaws"].values()):
        raise RuntimeError(f"the viewers saw flaws: {stats['flaws']} {stats.get('examples')}")
    return stats


def frames(server: Server, load: Load, size: int, rounds: int) -> Answer:
    """CPU per frame: the engine's sweep against the bare loop over send, on the same sockets, alternating."""
    ratios, engine, bare, user_ns, count = [], [], [], 0, 0
    noise = load.stats()["others"]

    def run_bare() -> float:
        nonlocal noise
        took = server.ask("bare", size)
        noise += took["frames"]
        until(lambda: load.stats()["others"] >= noise, 30, "the bare loop's frames at the viewers")
        return float(took["cpu_ns"] / took["frames"])

    def run_engine() -> float:
        nonlocal user_ns, count
        took = server.ask("sweep", size)
        server.chat += 1
        if not load.wait("c", server.chat, 30)["ok"]:
            raise RuntimeError("a batch did not reach every viewer")
        user_ns += took["user_ns"]
        count += took["frames"]
        return float(took["cpu_ns"] / took["frames"])

    for number in range(rounds + 2):
        if number % 2:
            b, e = run_bare(), run_engine()
        else:
            e, b = run_engine(), run_bare()
        if number >= 2:  # the first rounds warm caches, windows and the allocator of both
            ratios.append(e / b)
            engine.append(e)
            bare.append(b)
    checked(load.stats())
    return {
        "ratio": statistics.median(ratios),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "engine_us": statistics.median(engine) / 1000,
        "bare_us": statistics.median(bare) / 1000,
        "user_us": user_ns / count / 1000,
    }


def memory(server: Server, count: int) -> Answer:
    """User memory for each idle socket that has joined a room, anonymous and with an identity."""
    found = {}
    before = server.ask("memory")  # of an empty table: its pages stay when viewers leave
    for kind, query in (("anonymous", ""), ("identity", "user=viewer-INDEX")):
        with Load(server.port, count, cpu=CLIENT_CPU, query=query) as load:
            ready = load.ready(120)
            if ready["failed"]:
                raise RuntimeError(f"not all joined: {ready}")
            found[kind] = (server.ask("memory")["RssAnon"] - before["RssAnon"]) / count
        gone(server)
    return found


def gone(server: Server) -> None:
    until(lambda: server.ask("memory")["connections"] == 0, 60, "the viewers' leaving")


def joins(server: Server, count: int, rounds: int) -> Answer:
    """Accept, upgrade and join, against a bare loop that accepts, reads and answers; and what a token adds."""
    ratios, engine, bare = [], [], []

    def run_engine(**flags: Any) -> float:
        before = server.ask("times")["cpu_ns"]
        with Load(server.port, count, cpu=CLIENT_CPU, sources=8, **flags) as load:
            ready = load.ready(120)
            cpu = server.ask("times")["cpu_ns"] - before
            if ready["failed"]:
                raise RuntimeError(f"not all joined: {ready}")
        gone(server)
        return float(cpu / count / 1000)

    def run_bare() -> float:
        server.tell("bare_accept", count)
        with Load(server.hello["bare_port"], count, cpu=CLIENT_CPU, sources=8, hello="no") as load:
            ready = load.ready(120)
            took = server.answer()
            if ready["failed"] or not took["cpu_ns"]:
                raise RuntimeError(f"the bare loop failed: {ready}")
            server.ask("bare_close")
        return float(took["cpu_ns"] / count / 1000)

    for number in range(rounds + 1):
        e, b = (run_engine(), run_bare()) if number % 2 else (run_bare(), run_engine())[::-1]
        if number:
            ratios.append(e / b)
            engine.append(e)
            bare.append(b)
    with tokens_file(min(count, 4000)) as path:
        fresh = run_engine(tokens=path)
        cached = run_engine(tokens=path)
    return {
        "ratio": statistics.median(ratios),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "engine_us": statistics.median(engine),
        "bare_us": statistics.median(bare),
        "token_first_us": fresh - statistics.median(engine),
        "token_again_us": cached - statistics.median(engine),
    }


@contextlib.contextmanager
def tokens_file(count: int) -> Iterator[str]:
    from edge.auth import Tokens

    tokens = Tokens(KEY)
    with tempfile.NamedTemporaryFile("w", suffix=".tokens") as file:
        file.writelines(tokens.mint(f"viewer-{i}", time.time() + 3600) + "\n" for i in range(count))
        file.flush()
        yield file.name


def ask_health(sock: socket.socket) -> float:
    began = time.perf_counter()
    sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
    if b"200 OK" not in sock.recv(4096):
        raise RuntimeError("/healthz did not answer 200")
    return (time.perf_counter() - began) * 1000


def health(server: Server, load: Load, seconds: float) -> Answer:
    """/healthz on new and on kept connections while one broadcast follows the other; and a score that overtakes."""
    try:
        # The prober shares its core with the viewers' process; what is measured is the server.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        priority = "SCHED_FIFO"
    except PermissionError:
        priority = "normal"
    os.sched_setaffinity(0, {CLIENT_CPU})
    fresh: list[float] = []
    kept: list[float] = []
    address = ("127.0.0.1", server.port)
    # From an address of its own: beside 15,000 connections of one pair of addresses the kernel looks 5 ms for a free
    # port.
    source = ("127.0.0.99", 0)
    try:
        server.tell("stream", 1, 200, 8.0, seconds)
        with socket.create_connection(address, source_address=source) as steady:
            ask_health(steady)
            deadline = time.monotonic() + seconds - 0.5
            while time.monotonic() < deadline:
                began = time.perf_counter()
                with socket.create_connection(address, source_address=source) as one:
                    ask_health(one)
                    fresh.append((time.perf_counter() - began) * 1000)
                kept.append(ask_health(steady))
                time.sleep(0.005)
        streamed = server.answer()
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    server.chat += streamed["published"]
    load.wait("c", server.chat, 30)
    overtaken, score_ms, chat_ms = 0, [], []
    for _ in range(5):
        load.reset()
        ran = server.ask("overtake", 4096)
        server.chat += 1
        server.must += 1
        if not (load.wait("c", server.chat, 30)["ok"] and load.wait("m", server.must, 30)["ok"]):
            raise RuntimeError("not every viewer has both")
        lanes = checked(load.stats())["lanes"]
        score_ms.append(lanes["m"]["latency"]["max_ns"] / 1e6)
        chat_ms.append(lanes["c"]["latency"]["max_ns"] / 1e6)
        overtaken += ran["chat_was_running"] and score_ms[-1] < chat_ms[-1]
    return {
        "fresh_p99_ms": statistics.quantiles(fresh, n=100)[98],
        "kept_p99_ms": statistics.quantiles(kept, n=100)[98],
        "asked": len(fresh),
        "prober": priority,
        "overtaken": f"{overtaken} of 5",
        "score_last_ms": statistics.median(score_ms),
        "chat_last_ms": statistics.median(chat_ms),
    }


def kernel_kib(port: int) -> list[float]:
    """What the kernel holds for each of the server's sockets whose send queue is not empty, in KiB: wmem of ss -tm."""
    shown = subprocess.run(
        ["ss", "-tmnH", "state", "established", f"( sport = :{port} )"], capture_output=True, text=True, check=True
    ).stdout
    held = []
    for queue, memory_text in zip(shown.splitlines()[::2], shown.splitlines()[1::2], strict=False):
        if int(queue.split()[1]):
            fields = dict(re.findall(r"([a-z_]+?)(\d+)", memory_text))
            held.append((int(fields["w"]) + int(fields["f"])) / 1024)
    return held


def stalled(server: Server, viewers: int, count: int, seconds: float) -> Answer:
    """Viewers that never read, beside others that do: the others' delivery p99 with and without, and what is held."""
    hz, size, part = 20.0, 2048, 6.0

    def p99(load: Load, duration: float) -> float:
        load.reset()
        server.chat += server.ask("stream", 1, size, hz, duration)["published"]
        load.wait("c", server.chat, 30)
        return float(checked(load.stats())["lanes"]["c"]["latency"]["p99_ns"] / 1e6)

    with Load(server.port, viewers, cpu=CLIENT_CPU) as load:
        load.ready(120)
        p99(load, part)
        pairs, kernel, held = [], [], []
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            without = p99(load, part)
            with Load(server.port, count, stall=count, stall_rcvbuf=4096, cpu=CLIENT_CPU) as sleepers:
                sleepers.ready(120)
                with_them = p99(load, part)
                kernel += kernel_kib(server.port)
                held.append(server.ask("memory"))
            until(lambda: server.ask("memory")["connections"] == viewers, 60, "the sleepers' leaving")
            pairs.append(with_them / without)
        # Long enough for them to be closed for their slowness, with memory looked at all the while.
        with Load(server.port, count, stall=count, stall_rcvbuf=4096, cpu=CLIENT_CPU) as sleepers:
            sleepers.ready(120)
            for _ in range(int(seconds / part)):
                p99(load, part)
                held.append(server.ask("memory"))
            slow = held[-1]["closed_slow"]
    gone(server)
    rss = [answer["RssAnon"] for answer in held]
    return {
        "ratio": statistics.median(pairs),
        "ratios": [round(pair, 3) for pair in pairs],
        "kernel_kib_max": max(kernel),
        "kernel_kib_median": statistics.median(kernel),
        "stalled_seen": len(kernel) // max(1, len(pairs)),
        "rss_growth_kib": (rss[-1] - rss[0]) / 1024,
        "closed_slow": slow,
    }


def flood(server: Server, load: Load, count: int, seconds: float) -> Answer:
    """20 batches a second to everybody on one core: more than it can send one by one, so sweeps carry several."""
    load.reset()
    streamed = server.ask("stream", 1, 200, 20.0, seconds)
    server.chat += streamed["published"]
    if not load.wait("c", server.chat, 60)["ok"]:
        raise RuntimeError("not every batch reached every viewer")
    stats = checked(load.stats())
    if streamed["deliveries"] != streamed["published"] * count or streamed["skipped"]:
        raise RuntimeError(f"batches were skipped: {streamed}")
    return {
        "published": streamed["published"],
        "deliveries": streamed["deliveries"],
        "system_calls": streamed["writes"],
        "deliveries_a_second": streamed["deliveries"] / streamed["seconds"],
        "cpu_us_a_delivery": streamed["cpu_ns"] / streamed["deliveries"] / 1000,
        "received": stats["lanes"]["c"]["messages"],
        "latency_p99_ms": stats["lanes"]["c"]["latency"]["p99_ns"] / 1e6,
    }


def shown(value: float, unit: str) -> str:
    """Three digits that mean something, and no exponents."""
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{text} {unit}".strip()


def rows(found: dict[str, Answer]) -> list[tuple[str, str, str, bool | None]]:
    """What was measured, figure by figure: name, value, bar, whether it holds."""
    out: list[tuple[str, str, str, bool | None]] = []

    def row(name: str, value: float, unit: str, bar: float | None) -> None:
        out.append(
            (name, f"{value:.3g} {unit}", "" if bar is None else f"<= {bar:g}", None if bar is None else value <= bar)
        )

    for size in ("200", "4096"):
        it = found[f"frames_{size}"]
        row(f"CPU per frame of {size} bytes, engine / bare loop", it["ratio"], "x", 1.05)
        row("  the engine's", it["engine_us"], "us", None)
        row("  the bare loop's", it["bare_us"], "us", None)
        row("  user time", it["user_us"], "us", 0.2)
    row("memory of an idle anonymous viewer", found["memory"]["anonymous"], "bytes", 128)
    row("memory of an idle viewer with an identity", found["memory"]["identity"], "bytes", None)
    it = found["joins"]
    row("accept + upgrade + join, engine / bare accept-and-answer", it["ratio"], "x", 1.4)
    row("  the engine's", it["engine_us"], "us", None)
    row("  the bare loop's", it["bare_us"], "us", None)
    row("  a token verified for the first time adds", it["token_first_us"], "us", None)
    row("  a token seen before adds", it["token_again_us"], "us", None)
    it = found["health"]
    row("/healthz in a broadcast, new connection, p99", it["fresh_p99_ms"], "ms", 20)
    row("/healthz in a broadcast, kept connection, p99", it["kept_p99_ms"], "ms", 10)
    out.append(("a score overtakes a chat broadcast", it["overtaken"], "5 of 5", it["overtaken"] == "5 of 5"))
    row("  the last viewer has the score after", it["score_last_ms"], "ms", None)
    row("  the last viewer has the chat after", it["chat_last_ms"], "ms", None)
    it = found["stalled"]
    row("delivery p99 with 1,000 stalled viewers / without", it["ratio"], "x", 1.2)
    row("  the kernel's memory of a stalled socket, at most", it["kernel_kib_max"], "KiB", 64)
    row("  growth of the server's memory meanwhile", it["rss_growth_kib"], "KiB", 1024)
    it = found["flood"]
    row("20 batches/s to all: deliveries a second", it["deliveries_a_second"], "", None)
    row("  deliveries (every one arrived)", it["deliveries"], "", None)
    row("  system calls", it["system_calls"], "", None)
    row("  CPU per delivery", it["cpu_us_a_delivery"], "us", None)
    return out


def publish(result: Answer, table: list[tuple[str, str, str, bool | None]], page: Path) -> None:
    """Puts the table between the page's two marks: what the README says was printed by this command."""
    lines = [
        f"Measured at commit {result['commit']} on {result['machine']}: {result['viewers']:,} WebSockets,",
        "server on one core and viewers on the other. User time is what the kernel's clock ticks sampled of it.",
        "",
        "| | measured | to be reached |",
        "|---|---|---|",
    ]
    for name, value, bar, _ in table:
        lines.append(f"| {name.replace('  ', '&nbsp;&nbsp;')} | {value} | {bar.replace('<=', 'at most')} |")
    text = page.read_text()
    before, _, rest = text.partition("<!-- floor -->")
    _, _, after = rest.partition("<!-- /floor -->")
    if not after:
        raise RuntimeError(f"{page} has no marks for the table")
    page.write_text(f"{before}<!-- floor -->\n\n" + "\n".join(lines) + f"\n\n<!-- /floor -->{after}")


def commit() -> str:
    described = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=ROOT)
    return described.stdout.strip() or "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--viewers", type=int, default=15_000)
    parser.add_argument("--rounds", type=int, default=21, help="paired rounds for each frame size")
    parser.add_argument("--seconds", type=float, default=60.0, help="of batches to stalled viewers")
    parser.add_argument("--only", default="", help="parts by name, with commas between")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "floor.json")
    parser.add_argument("--publish", action="store_true", help="put the table into README.md")
    arguments = parser.parse_args()
    viewers = min(arguments.viewers, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 1024)
    found: dict[str, Any] = {}
    server = Server()

    def part(name: str, *run: Any) -> None:
        if not arguments.only or name.partition("_")[0] in arguments.only.split(","):
            began = time.monotonic()
            found[name] = run[0](*run[1:])
            print(f"  {name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    try:
        part("memory", memory, server, viewers)
        part("joins", joins, server, min(viewers, 10_000), 11)
        with Load(server.port, viewers, cpu=CLIENT_CPU) as load:
            load.ready(120)
            part("frames_200", frames, server, load, 200, arguments.rounds)
            part("frames_4096", frames, server, load, 4096, arguments.rounds)
            part("health", health, server, load, 10.0)
            part("flood", flood, server, load, viewers, 10.0)
        gone(server)
        part("stalled", stalled, server, min(viewers, 4000), 1000, arguments.seconds)
    finally:
        server.close()
    machine = f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    result = {"machine": machine, "commit": commit(), "viewers": viewers, **found}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.only:
        print(json.dumps(result, indent=1))
        return 0
    cores = f"server on core {SERVER_CPU}, viewers on core {CLIENT_CPU}"
    print(f"{viewers} WebSockets, {cores}; {machine}; {result['commit']}")
    table = rows(found)
    for name, value, bar, good in table:
        print(f"{name:<62} {value:>16}  {bar:>8}  {'' if good is None else 'ok' if good else 'MISSED'}")
    if arguments.publish:
        publish(result, table, ROOT / "README.md")
    return 0 if all(good is not False for *_, good in table) else 1


if __name__ == "__main__":
    sys.exit(main())
