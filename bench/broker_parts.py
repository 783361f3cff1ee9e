# The parts of `make bench-broker` in which batches and comments travel: how fast, how many, and how soon another owner
# goes on. Each plays on a nats-server of its own and answers with its figures. It must never report a figure of a round
# in which a batch was missed, repeated or came out of order.

import statistics
import time
from itertools import pairwise
from typing import Any, NamedTuple

from bench.broker_stage import Cpu, Nats, Node, nats, nodes
from bench.floor import until
from broker.subjects import SHARDS

Answer = dict[str, Any]
ROOMS, RATE, SIZE = 50, 200, 2048  # the first part's
COMMENTS = 13  # of 150 bytes, in a batch of that size
FLUSH_MS = 5  # the default of [rooms] flush_ms
CROWDED, EACH, WANTED = 8, 200, 50_000  # the second part's: rooms, comments in an offer, comments a second
HANDED, SPOKEN = 32, 320  # the third part's: rooms, comments a second
DRAIN_S = 30.0


class Length(NamedTuple):
    """How long the parts take."""

    rounds: int
    seconds: float
    offers_s: float
    leases: tuple[tuple[int, int], ...]  # the TTL, and how often an owner is killed with it
    idle: tuple[int, ...]  # shards that an owner has who does nothing
    idle_s: float
    routed: int  # rooms
    subjects: tuple[int, ...]
    flood_s: float
    groups: int  # messages


FULL = Length(9, 3.0, 12.0, ((15, 2), (3, 4)), (64, 256, 512), 5.0, 2_000, (100_000, 1_000_000), 5.0, 200_000)
QUICK = Length(1, 2.0, 2.0, ((3, 1),), (256,), 1.0, 1_200, (100_000,), 1.0, 40_000)


def checked(seen: Answer) -> Answer:
    if seen["flaws"]:
        raise RuntimeError(f"batches were missed, repeated or out of order: {seen['flaws']}")
    return seen


def rounds(found: list[Answer]) -> Answer:
    """The medians of some rounds, and the worst that was seen in any."""
    return {
        "p50_ms": statistics.median(it["p50_ms"] for it in found),
        "p99_ms": statistics.median(it["p99_ms"] for it in found),
        "max_ms": max(it["max_ms"] for it in found),
        "each_p99_ms": [round(it["p99_ms"], 2) for it in found],
        "lost": sum(it["lost"] for it in found),
        "count": sum(it["count"] for it in found),
        "late_ms": max(it["late_ms"] for it in found),
        "cores": found[-1]["cores"],
    }


def batches(length: Length) -> Answer:
    """From the call of append to that of the sink in another process."""
    found = []
    with nats() as server, nodes(server.url(), 2) as (writer, viewer):
        viewer.ask("watch", "live", ROOMS, "raw")
        _seen(viewer, "batches", writer.ask("pace", "live", ROOMS, SIZE, RATE, 0.5)["stored"])
        for _ in range(length.rounds):
            cpu = Cpu(writer=writer.pid, viewer=viewer.pid, nats=server.pid)
            sent = writer.ask("pace", "live", ROOMS, SIZE, RATE, length.seconds)
            if sent["failed"]:
                raise RuntimeError(f"appends failed: {sent['failed']}")
            cores = cpu.cores()
            seen = _seen(viewer, "batches", sent["stored"])
            lost = sent["stored"] - seen["batches"]
            found.append({**seen, "lost": lost, "late_ms": sent["late_ms"], "cores": cores})
    return rounds(found)


def comments(length: Length) -> Answer:
    """From a comment's offer at one process, by its room's owner in a second, to the sink in a third; without the
    time in which the owner gathers more."""
    found = []
    with nats() as server, nodes(server.url(), 3) as (speaker, owner, viewer):
        owner.ask("own", FLUSH_MS, True)
        viewer.ask("watch", "live", ROOMS, "comments")
        warm = speaker.ask("speak", "warm", "live", ROOMS, COMMENTS, COMMENTS * RATE, 0.5)
        _seen(viewer, "stands_for", warm["published"])
        for number in range(length.rounds):
            cpu = Cpu(speaker=speaker.pid, owner=owner.pid, viewer=viewer.pid, nats=server.pid)
            sent = speaker.ask("speak", f"r{number}", "live", ROOMS, COMMENTS, COMMENTS * RATE, length.seconds)
            cores = cpu.cores()
            seen = _seen(viewer, "stands_for", sent["published"])
            seen |= {name: seen[name] - FLUSH_MS for name in ("p50_ms", "p99_ms", "max_ms")}
            lost = sent["published"] - seen["stands_for"] + sent["rejected"] + sent["unknown"]
            found.append({**seen, "lost": lost, "late_ms": sent["late_ms"], "cores": cores})
    return rounds(found)


def _seen(viewer: Node, what: str, count: int) -> Answer:
    """What the viewer has seen since this was asked last, when it has `count` of `what`, or no more comes."""
    deadline = time.monotonic() + DRAIN_S
    while viewer.ask("peek")[what] < count and time.monotonic() < deadline:
        time.sleep(0.02)
    return checked(viewer.ask("seen"))


def offers(length: Length) -> Answer:
    """Two processes offer comments to one owner: as many as are wanted, and then as many as they can."""
    with nats() as server, nodes(server.url(), 4) as (one, two, owner, viewer):
        took = owner.ask("own", FLUSH_MS, True)
        viewer.ask("watch", "crowd", CROWDED, "comments")
        crowd = Crowd((one, two), owner, viewer, server)
        crowd.run("w", "speak", EACH, WANTED / 2, 0.3)
        paced = crowd.run("p", "speak", EACH, WANTED / 2, length.offers_s)
        flat = crowd.run("f", "shout", EACH, length.offers_s / 2)
        return {"paced": paced, "flat_out": flat, "own_s": took["seconds"], "nats_rss_mb": server.rss_mb()}


class Crowd:
    """Those who offer, the one who owns, and the one who sees what becomes of it."""

    def __init__(self, speakers: tuple[Node, ...], owner: Node, viewer: Node, server: Nats) -> None:
        self.speakers = speakers
        self.owner = owner
        self.viewer = viewer
        self.pids = {f"ingress_{number}": node.pid for number, node in enumerate(speakers, 1)}
        self.pids |= {"owner": owner.pid, "viewer": viewer.pid, "nats": server.pid}

    def run(self, name: str, verb: str, *how: float) -> Answer:
        self.owner.ask("counted")
        cpu, began_ns = Cpu(**self.pids), time.monotonic_ns()
        for number, node in enumerate(self.speakers):
            node.tell(verb, f"{name}{number}", "crowd", CROWDED, *how)
        sent = [node.answer(120) for node in self.speakers]
        cores = cpu.cores()
        totals = {key: sum(it[key] for it in sent) for key in ("published", "rejected", "unknown")}
        seen = _seen(self.viewer, "stands_for", totals["published"])
        taken = self.owner.ask("counted")
        passed = max(it["seconds"] for it in sent)
        return {
            **totals,
            "offered_a_second": totals["published"] / passed,
            "taken_a_second": taken["a_second"],
            "behind_s": max(0.0, (taken["last_ns"] - began_ns) / 1e9 - passed),
            "taken": taken["items"],
            "shown": seen["shown"],
            "p50_ms": seen["p50_ms"],
            "p99_ms": seen["p99_ms"],
            "lost": totals["published"] - seen["stands_for"],
            "late_ms": max(it.get("late_ms", 0.0) for it in sent),
            "cores": cores,
        }


def takeover(ttl_s: int, times: int, shards: int = SHARDS) -> Answer:
    """From the owner's SIGKILL to the first new batch in each of its rooms, by another."""
    found: list[float] = []
    with nats() as server, nodes(url := server.url(lease=ttl_s, shards=shards), 2) as (speaker, viewer):
        viewer.ask("watch", "hand", HANDED, "times")
        lost = 0
        for number in range(times):
            ended, missing = _killed(url, shards, ttl_s, speaker, viewer, f"t{number}")
            found += ended
            lost += missing
    return {
        "ttl_s": ttl_s,
        "kills": times,
        "rooms": len(found),
        "first_s": min(found),
        "median_s": statistics.median(found),
        "last_s": max(found),
        "lost": lost,
    }


def _killed(url: str, shards: int, ttl_s: int, speaker: Node, viewer: Node, name: str) -> tuple[list[float], int]:
    """While comments are said all the time, a little longer than a new owner may take."""
    spoken_s = ttl_s + 4.0
    with nodes(url, 2) as (first, second):
        first.ask("own", FLUSH_MS, False)
        until(lambda: first.ask("figures")["owner_shards"] == shards, ttl_s + 20, "one owner of all shards")
        speaker.tell("speak", name, "hand", HANDED, 10, SPOKEN, spoken_s)
        second.ask("own", FLUSH_MS, False)
        until(lambda: viewer.ask("peek")["stands_for"] > 0, 10, "the first batch")
        first.kill()
        killed = time.monotonic_ns()
        said = speaker.answer(spoken_s + 30)
        seen = _seen(viewer, "stands_for", said["published"])
    gaps = [_gap(times, killed) for times in seen["times"].values()]
    ended = [(after - killed) / 1e9 for before, after in gaps if after - before > 1e9 * ttl_s / 4]
    if not ended:
        raise RuntimeError("the owner that was killed had none of the rooms")
    return ended, said["published"] - seen["stands_for"] + said["rejected"] + said["unknown"]


def _gap(times: list[int], since: int) -> tuple[int, int]:
    """The longest time without a batch after `since`."""
    last = max([it for it in times if it <= since], default=since)
    found = [last, *(it for it in times if it > since)]
    return max(pairwise(found), key=lambda it: it[1] - it[0], default=(since, since))
