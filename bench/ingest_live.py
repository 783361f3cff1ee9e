# A part of `make bench-ingest`: what a comment costs from socket to log, on a server as it runs: one worker, its broker
# in memory, all limits, 1,000 words and 100 patterns in each room, authors with tokens on sockets of their own. CPU is
# that of the whole process, all threads, user and system, over the steady part, for each comment that was acknowledged
# as published then. It must never count a comment that the log does not account for.
#
# Read the rate along with it: the fewer comments come in one turn of the worker's loop, the more each of them costs.

import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from bench.ingest_crowd import Crowd, Talk, at_share, encoded
from bench.ingest_server import CLIENT_CPU, SERVER_CPU, Cpu, IngestServer, pinned
from bench.ingest_texts import ASCII, MIXED, comments, rules

AIMS_US = {ASCII: 25.0, MIXED: 50.0}
ROOMS = 8
"""So many that all is shown: a room shows 4,000 comments a second, and the rest of them it counts."""
WARM_S, SETTLE_S = 1.0, 10.0
COUNTED = ("owner_comments", "owner_sampled", "comments_taken", "messages", "writes", "replies", "owner_batches")


class Round(NamedTuple):
    kind: str
    rate: float
    user_us: float
    system_us: float
    p50_ms: float
    p99_ms: float
    late_ms: float
    counts: dict[str, int]
    sends: int
    said: int
    published: int
    accounted: int

    @property
    def both_us(self) -> float:
        return self.user_us + self.system_us

    @property
    def lost(self) -> int:
        return self.said - self.accounted


class Meter:
    """What the process has used, and how much was done with it, between two moments of a round."""

    def __init__(self, server: IngestServer, crowd: Crowd, begin: float, end: float) -> None:
        self._server, self._crowd = server, crowd
        self._due = [begin, end]
        self._began: float | None = None
        self._marks: list[tuple[Cpu, int]] = []
        self.talk: Talk | None = None

    def watch(self, now: float) -> None:
        self._began = self._began or now
        if len(self._marks) < 2 and now - self._began >= self._due[len(self._marks)]:
            self.mark()

    def mark(self) -> None:
        done = self._crowd.pongs if self.talk is None else len(self.talk.sent) - self.talk.open
        self._marks.append((self._server.cpu(), done))

    def each_us(self) -> Cpu:
        if len(self._marks) < 2:
            self.mark()
        (before, first), (after, last) = self._marks
        used = after.since(before)
        done = max(1, last - first)
        return Cpu(used.user * 1e6 / done, used.system * 1e6 / done)


def counts(server: IngestServer) -> dict[str, int]:
    found = server.figures()
    return {name: found[f"edge_{name}_total"] for name in COUNTED}


def one(server: IngestServer, crowd: Crowd, kind: str, texts: Sequence[bytes], rate: float) -> Round:
    before, sends = counts(server), crowd.sends
    meter = Meter(server, crowd, *steady(len(texts) / rate))
    meter.talk = talk = Talk()
    crowd.talk(texts, rate, meter.watch, talk)
    cpu = meter.each_us()
    sent_in = crowd.sends - sends
    crowd.settle(lambda: talk.open == 0)
    published = talk.statuses.count("published")
    found: dict[str, int] = {}

    def logged() -> bool:
        found.update({name: value - before[name] for name, value in counts(server).items()})
        return found["owner_comments"] + found["owner_sampled"] >= published

    crowd.settle(logged, SETTLE_S)
    late = talk.latencies()
    if talk.open or published != len(texts):
        others = {status: talk.statuses.count(status) for status in sorted(set(talk.statuses) - {"published"})}
        raise RuntimeError(f"of {len(texts)} comments {published} were published: {others} {crowd.errors[:3]}")
    return Round(
        kind, rate, cpu.user, cpu.system, at_share(late, 0.5) * 1e3, at_share(late, 0.99) * 1e3,
        talk.late_s * 1e3, found, sent_in, len(texts), published, found["owner_comments"] + found["owner_sampled"],
    )  # fmt: skip


def steady(seconds: float) -> tuple[float, float]:
    """From when to when of a round it is measured."""
    warm = min(WARM_S, seconds / 4)
    return warm, seconds - warm / 4


def pings(server: IngestServer, crowd: Crowd, rate: float, seconds: float) -> Cpu:
    """What the same sockets cost at the same rate where the answer is there at once: the kernel and the engine."""
    before = crowd.pongs
    meter = Meter(server, crowd, *steady(seconds))
    crowd.ping(int(rate * seconds), rate, meter.watch)
    used = meter.each_us()
    if not crowd.settle(lambda: crowd.pongs - before == int(rate * seconds)):
        raise RuntimeError(f"{crowd.pongs - before} of {int(rate * seconds)} pings are answered")
    return used


def set_rules(server: IngestServer, rooms: Sequence[str]) -> None:
    words, patterns = rules()
    for room in rooms:
        server.ask("PUT", f"/rooms/{room}/words", msgspec.to_builtins(words))
        server.ask("PUT", f"/rooms/{room}/patterns", msgspec.to_builtins(patterns))


def pool(kind: str, count: int) -> Iterator[bytes]:
    """Texts that nobody has said before: what many say alike costs more, and is refused."""
    return iter(encoded(comments(count, mixed=kind == MIXED)))


def run(authors: int, rates: Sequence[float], seconds: float, rounds: int, rooms: int = ROOMS) -> list[str]:
    """What missed its aim, in words."""
    names = [f"room-{number}" for number in range(rooms)]
    needed = sum(int(rate * seconds) for rate in rates) * rounds + int(max(rates))
    pools = {kind: pool(kind, needed) for kind in AIMS_US}
    print(
        f"\nfrom socket to log: {authors} sockets in {rooms} rooms, tabs hidden (no chat is sent out); server on core "
        f"{SERVER_CPU}, authors on core {CLIENT_CPU}\nCPU of the worker for each comment, median of {rounds} rounds of "
        f"{seconds:g} s; ping is the same sockets and rate with pings\n\n"
        "                 a second      CPU     user   system | ping: CPU     user   system |  answer p50     p99  "
        "authors late  comments a send  acks a write  of    lost"
    )
    missed = []
    with IngestServer() as server, pinned(CLIENT_CPU):
        set_rules(server, names)
        with Crowd(server.port, names, authors) as crowd:
            for kind in AIMS_US:
                one(server, crowd, kind, [next(pools[kind]) for _ in range(int(max(rates)) // 2)], max(rates) / 2)
            for rate in rates:
                floor, found = measured(server, crowd, pools, rate, seconds, rounds)
                for kind, aim in AIMS_US.items():
                    missed += shown(kind, aim, rate, floor, [it for it in found if it.kind == kind])
    return missed


def measured(
    server: IngestServer, crowd: Crowd, pools: dict[str, Iterator[bytes]], rate: float, seconds: float, rounds: int
) -> tuple[Cpu, list[Round]]:
    """Rounds of both kinds and of pings in turn: what the machine does besides is the same for all."""
    found, floors = [], []
    for _ in range(rounds):
        for kind, texts in pools.items():
            found.append(one(server, crowd, kind, [next(texts) for _ in range(int(rate * seconds))], rate))
        floors.append(pings(server, crowd, rate, seconds / 2))
    middle = sorted(floors, key=lambda it: it.both)[len(floors) // 2]
    return middle, found


def shown(kind: str, aim: float, rate: float, floor: Cpu, rounds: Sequence[Round]) -> list[str]:
    middle = sorted(rounds, key=lambda it: it.both_us)[len(rounds) // 2]
    a_send = sum(it.said for it in rounds) / sum(it.sends for it in rounds)
    a_write = sum(it.counts["replies"] for it in rounds) / max(1, sum(it.counts["writes"] for it in rounds))
    sampled = sum(it.counts["owner_sampled"] for it in rounds) / sum(it.said for it in rounds)
    lost = sum(it.lost for it in rounds)
    good = middle.both_us <= aim and not lost
    print(
        f"{kind:15}{rate:10,.0f}{middle.both_us:9.1f}{middle.user_us:9.1f}{middle.system_us:9.1f} |"
        f"{floor.both:10.1f}{floor.user:9.1f}{floor.system:9.1f} |"
        f"{statistics.median(it.p50_ms for it in rounds):9.2f} ms{statistics.median(it.p99_ms for it in rounds):8.2f}"
        f"{max(it.late_ms for it in rounds):11.1f} ms{a_send:14.2f}{a_write:14.2f}"
        f"{sampled:7.0%}{lost:6d}   aim {aim:.0f} us {'ok' if good else 'MISSED'}",
        flush=True,
    )
    return [] if good else [f"{kind} at {rate:,.0f} a second: {middle.both_us:.1f} us of {aim:.0f}, {lost} lost"]
