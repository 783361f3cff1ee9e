# A part of `make bench-ingest`: the classifier goes away in the middle of a busy while, and comes back, a few times.
# Shown is how long authors wait for their answers with it and without; the worker's memory; and what became of every
# comment. With and without take turns, and medians are compared, since one hiccup of the machine's disk is longer than
# all that is measured here. It must never take a comment for accounted for that the server has not answered for.
#
# A case is the rooms' mode, what holds while there is no score, and how the classifier goes: `stop` (it takes requests
# and answers none) or `kill` (its port is closed).

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

from bench.ingest_crowd import Crowd, Talk, at_share, encoded
from bench.ingest_judge import Judge
from bench.ingest_server import CLIENT_CPU, IngestServer, pinned
from bench.ingest_texts import comments

CASES = ("pre-hold-stop", "pre-open-stop", "pre-hold-kill", "post-hold-stop", "post-open-stop")
ALL = tuple("-".join(it) for it in product(("pre", "post"), ("hold", "open"), ("stop", "kill")))
PHASES = ("with", "without") * 3 + ("with",)
AIM = 1.2
"""The 99th percentile of an answer's time without the classifier, in those with it: of the phases, the medians."""
AIM_BYTES = 256 << 20
"""That the worker may grow by, from the beginning to the end."""
LEAST_MS = 1.0
"""Below it a percentile is the machine's noise: it is not compared."""
LOOKED_MS = 500.0
"""All three stages at the 99th percentile, in a room that is looked at first, with a classifier that answers."""
SETTLE_S = 60.0
LOOK_S = 0.5


class Phase(NamedTuple):
    p50_ms: float
    p99_ms: float
    worst_ms: float
    rss_mb: float
    late_ms: float
    """What authors were behind their rate, at most. The server is on another core, so it hardly shows in this: where
    both stand still, it was the machine."""


class Memory:
    """The worker's, at most in each phase."""

    def __init__(self, server: IngestServer, phase_s: float) -> None:
        self._server, self._phase_s = server, phase_s
        self._began = self._due = 0.0
        self.most = [0] * len(PHASES)

    def begin(self, now: float) -> None:
        self._began = self._due = now

    def watch(self, now: float) -> None:
        if now >= self._due:
            self._due = now + LOOK_S
            phase = min(len(PHASES) - 1, int((now - self._began) / self._phase_s))
            self.most[phase] = max(self.most[phase], self._server.rss())


class Sums(NamedTuple):
    """What became of all comments. `waiting` is what the queues hold, `shown` what was pending and then published, if
    only for a while."""

    said: int
    answers: dict[str, int]
    verdicts: dict[str, int]
    shown: int
    waiting: int
    retracted: int
    logged: int
    pending: int
    undecided: int
    """Answered `pending`, without a verdict."""

    def lost(self) -> int:
        """Without an answer; told `unknown`; published and not in the log; pending, and neither decided nor in a queue.
        A comment that is shown may be in a queue too, so there may be more in there than are undecided."""
        unanswered = self.said - sum(self.answers.values())
        published = self.answers.get("published", 0) + self.shown
        return (
            unanswered
            + self.answers.get("unknown", 0)
            + abs(published - self.logged)
            + max(0, self.undecided - self.waiting)
        )


def one(case: str, authors: int, rate: float, phase_s: float, rooms: int) -> list[str]:
    mode, policy, how = case.split("-")
    names = [f"room-{number}" for number in range(rooms)]
    count = int(rate * phase_s)
    texts = encoded(comments(count * len(PHASES) + int(rate), mixed=False, seed=5))
    with Judge() as judge, pinned(CLIENT_CPU):
        settings = {"moderation_classifier_url": judge.url, "moderation_classifier_down": policy}
        with IngestServer(**settings) as server:
            for room in names:
                server.ask("PUT", f"/rooms/{room}/mode", {"moderation": mode})
            with Crowd(server.port, names, authors, nap=True) as crowd:
                memory = Memory(server, phase_s)
                warm = crowd.talk(texts[count * len(PHASES) :], rate)
                talk, marks, late = Talk(), [], []
                memory.begin(time.monotonic())
                for number, name in enumerate(PHASES):
                    if name == "without":
                        judge.away(how)
                    elif number:
                        judge.back(how)
                    marks.append(time.monotonic())
                    talk.late_s = 0.0
                    crowd.talk(texts[count * number : count * (number + 1)], rate, memory.watch, talk)
                    late.append(talk.late_s)
                marks.append(time.monotonic())
                crowd.settle(lambda: talk.open == 0)
                sums = settled(server, crowd, [warm, talk], names)
                phases = [
                    phase(talk, begin, end, *of_it)
                    for begin, end, *of_it in zip(marks, marks[1:], memory.most, late, strict=False)
                ]
                figures = server.figures()
    times = ((crowd.verdict_at.get(id_, sent), sent) for id_, sent in zip(talk.ids, talk.sent, strict=True) if id_)
    looked = sorted(told - sent for told, sent in times if told > sent and sent < marks[1])
    return shown(case, phases, sums, figures, looked)


def phase(talk: Talk, begin: float, end: float, rss: int, late_s: float) -> Phase:
    found = talk.latencies(begin, end)
    worst = found[-1] if found else 0.0
    return Phase(at_share(found, 0.5) * 1e3, at_share(found, 0.99) * 1e3, worst * 1e3, rss / (1 << 20), late_s * 1e3)


def settled(server: IngestServer, crowd: Crowd, talks: Sequence[Talk], rooms: Sequence[str]) -> Sums:
    """When nothing is missing any more, or nothing has changed for a while."""
    last = None
    deadline = time.monotonic() + SETTLE_S
    quiet = 0
    while True:
        sums = counted(server, crowd, talks, rooms)
        quiet = quiet + 1 if sums == last else 0
        last = sums
        if quiet >= 4 and (sums.lost() == 0 or quiet >= 20 or time.monotonic() > deadline):
            return sums
        crowd.settle(lambda: False, LOOK_S)


def counted(server: IngestServer, crowd: Crowd, talks: Sequence[Talk], rooms: Sequence[str]) -> Sums:
    answers: Counter[str] = Counter()
    pending: set[str] = set()
    for talk in talks:
        answers.update(status for status in talk.statuses if status)
        both = zip(talk.statuses, talk.ids, strict=True)
        pending.update(id_ for status, id_ in both if status == "pending" and id_ is not None)
    verdicts = Counter(status for id_, status in crowd.verdicts.items() if id_ in pending)
    waiting = sum(server.ask("GET", f"/rooms/{room}/review?limit=1")["waiting"] for room in rooms)
    figures = server.figures()
    logged = figures["edge_owner_comments_total"] + figures["edge_owner_sampled_total"]
    undecided = len(pending - crowd.verdicts.keys())
    said = sum(len(talk.sent) for talk in talks)
    shown, retracted = len(pending & crowd.shown), len(crowd.retracted)
    return Sums(said, dict(answers), dict(verdicts), shown, waiting, retracted, logged, len(pending), undecided)


def shown(
    case: str, phases: Sequence[Phase], sums: Sums, figures: dict[str, int], looked: Sequence[float]
) -> list[str]:
    mode, policy, how = case.split("-")
    print(f"\nmode {mode}, without a score {policy}, the classifier {'stops' if how == 'stop' else 'is killed'}")
    named = list(zip(PHASES, phases, strict=True))
    for name, it in named:
        print(
            f"  {name:8} answer p50{it.p50_ms:8.2f} ms, p99{it.p99_ms:8.2f} ms, longest{it.worst_ms:8.1f} ms; "
            f"memory {it.rss_mb:6.1f} MiB; authors late by{it.late_ms:6.1f} ms"
        )
    p99 = {kind: statistics.median(it.p99_ms for name, it in named if name == kind) for kind in set(PHASES)}
    ratio = p99["without"] / p99["with"] if p99["with"] else 0.0
    grown = (max(it.rss_mb for it in phases) - phases[0].rss_mb) * (1 << 20)
    lost = sums.lost()
    of_it = "edge_classifier_"
    listed = {
        name.removeprefix(of_it).removesuffix("_total"): value
        for name, value in figures.items()
        if name.startswith(of_it) and value
    }
    print(
        f"  p99 without / with {ratio:.2f} (medians; aim {AIM} where it is above {LEAST_MS:g} ms); memory grew by "
        f"{grown / (1 << 20):.1f} MiB\n"
        f"  said {sums.said}: answered {_listed(sums.answers)}\n"
        f"  of {sums.pending} pending: verdicts {_listed(sums.verdicts)}, published at some time {sums.shown}, "
        f"undecided {sums.undecided}\n  in the queues {sums.waiting}; retracted {sums.retracted}; "
        f"in the log {sums.logged}; lost {lost}\n"
        f"  classifier: {_listed(listed)}",
        flush=True,
    )
    missed = []
    if looked:
        middle, late = at_share(looked, 0.5) * 1e3, at_share(looked, 0.99) * 1e3
        print(
            f"  all three stages, from send to verdict, before the first outage: p50 {middle:.0f} ms, "
            f"p99 {late:.0f} ms (aim {LOOKED_MS:.0f})",
            flush=True,
        )
        missed += [f"{case}: all three stages took {late:.0f} ms"] if late > LOOKED_MS else []
    missed += [f"{case}: {lost} lost"] if lost else []
    if ratio > AIM and p99["without"] > LEAST_MS:
        missed.append(f"{case}: p99 without / with {ratio:.2f}")
    if grown > AIM_BYTES:
        missed.append(f"{case}: memory grew by {grown / (1 << 20):.0f} MiB")
    return missed


def _listed(counts: dict[str, Any]) -> str:
    return ", ".join(f"{value} {name}" for name, value in sorted(counts.items())) or "none"


def run(authors: int, rate: float, phase_s: float, cases: Sequence[str], rooms: int) -> list[str]:
    print(
        f"\nan outage: {rate:,.0f} comments a second by {authors} authors in {rooms} rooms, "
        f"{len(PHASES)} phases of {phase_s:g} s"
    )
    missed = []
    for case in cases:
        missed += one(case, authors, rate, phase_s, rooms)
    return missed
