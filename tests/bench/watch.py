"""Watching the load client watch a scripted server: what it counted, and that nothing else was.

Owns: nothing. Must never: sleep; it asks for the counters again until they say what it waits for, or a deadline passes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bench.load import Answer, Load
from tests.bench.fake_server import HELLO, PING, STREAM, UPGRADED, FakeServer, event, frame, frames

JOINED = UPGRADED + frame(HELLO)
END = b":end\n\n"


def until(true: Callable[[], object], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline


def stats_when(load: Load, reached: Callable[[Answer], bool], seconds: float = 10.0) -> Answer:
    deadline = time.monotonic() + seconds
    while True:
        stats = load.stats()
        if reached(stats) or time.monotonic() > deadline:
            assert reached(stats), stats
            return stats


def flaws(stats: Answer) -> dict[str, int]:
    found = {name: number for name, number in stats["flaws"].items() if number}
    assert stats["flawed"] == sum(found.values())
    assert bool(stats["examples"]) == bool(found)
    for name in ("missed", "repeated", "out_of_order", "bad_gap"):
        assert sum(stats["lanes"][lane][name] for lane in "mc") == found.get(name, 0)
    return found


def watch(answer: bytes, **flags: Any) -> Answer:
    """What one viewer counts who is sent this; a stream that ends by itself ends with a ping or a comment of ours."""
    with FakeServer(answer) as server, Load(server.port, **flags) as load:
        load.ready(10)
        return stats_when(load, lambda s: s["pings"] + s["heartbeats"] + s["closed"] + s["failed"] >= 1)


def watch_ws(*payloads: str, hello: str = HELLO) -> Answer:
    return watch(UPGRADED + frames([hello, *payloads]) + PING)


def watch_sse(*events: bytes) -> Answer:
    return watch(STREAM + event("i3.m11.c340", HELLO) + b"".join(events) + END, mode="sse")
