"""`make bench-broker`: what the broker and the owners of rooms do over a real nats-server on this machine.

Nodes are processes of their own (broker_node.py), files are in a temporary folder, and each part has a fresh server.
Prints a table with what was aimed at and what was lost, and writes out/broker.json. Ends with 1 when an aim is missed.
The cores that others of the machine took meanwhile are in the table too: the figures were taken in their company.

Owns: nothing that lasts. Must never: report a figure of a round in which a batch was missed or repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bench import broker_parts, broker_sizes
from bench.broker_model import NOTHING
from bench.broker_parts import FULL, QUICK, WANTED, Length
from bench.broker_stage import BINARY
from bench.floor import ROOT, commit
from broker.subjects import SHARDS

Answer = dict[str, Any]
PAGE = ROOT / "docs" / "broker.md"
MARKS = ("<!-- bench -->", "<!-- /bench -->")
TAKEOVER_S = 2.0  # on top of the lease
BEHIND_S = 1.0


class Row(NamedTuple):
    name: str
    value: str
    aim: str = ""
    good: bool | None = None
    lost: int | None = None


def shown(value: float, unit: str = "") -> str:
    """Three digits that mean something, and no exponents."""
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{text} {unit}".strip()


def most(name: str, value: float, unit: str, bar: float) -> Row:
    return Row(name, shown(value, unit), f"at most {shown(bar)}", value <= bar)


def cores(it: Answer) -> str:
    return ", ".join(f"{name} {part:.2f}" for name, part in it.items() if name != "bench")


def live_rows(name: str, it: Answer) -> list[Row]:
    return [
        most(f"{name}, p50", it["p50_ms"], "ms", 2),
        most(f"{name}, p99", it["p99_ms"], "ms", 10)._replace(lost=it["lost"]),
        Row("  the longest of all", shown(it["max_ms"], "ms")),
        Row("  the machine let the sender wait, at most", shown(it["late_ms"], "ms")),
        Row("  cores", cores(it["cores"])),
    ]


def offers_rows(it: Answer) -> list[Row]:
    paced, flat = it["paced"], it["flat_out"]
    taken, refused = paced["taken_a_second"], paced["rejected"] + paced["unknown"]
    return [
        Row("comments a second offered by two processes", shown(paced["offered_a_second"]), lost=paced["lost"]),
        Row("  taken in by one owner", shown(taken), f"{WANTED:,}", taken >= WANTED * 0.98),
        most("  the owner is behind the last by", paced["behind_s"], "s", BEHIND_S),
        most("  refused, or not known", refused, "", 0),
        Row("  of all, shown (the others are counted)", shown(100 * paced["shown"] / max(1, paced["published"]), "%")),
        Row("  said to seen, p50 and p99", f"{shown(paced['p50_ms'])} and {shown(paced['p99_ms'], 'ms')}"),
        Row("  cores", cores(paced["cores"])),
        Row("comments a second, as many as can be", shown(flat["offered_a_second"]), lost=flat["lost"]),
        Row("  taken in by one owner", shown(flat["taken_a_second"])),
        Row("  refused, or not known", shown(flat["rejected"] + flat["unknown"])),
        Row("  cores", cores(flat["cores"])),
    ]


def takeover_rows(it: Answer) -> list[Row]:
    what = f"owner killed, lease of {it['ttl_s']} s: the last room's next batch"
    return [
        most(what, it["last_s"], "s", it["ttl_s"] + TAKEOVER_S)._replace(lost=it["lost"]),
        Row("  the first room's, and the median", f"{shown(it['first_s'])} and {shown(it['median_s'], 's')}"),
        Row("  kills, and rooms handed over", f"{it['kills']}, {it['rooms']}"),
    ]


def routing_rows(it: Answer) -> list[Row]:
    real = it["real"]
    found = [
        Row(f"heard for nobody at worst, {shards} shards", shown(100 * part, "%"))
        for shards, part in it["worst"].items()
    ]
    found += [
        Row("  the fewest shards with at most 1 %", str(it["recommended"]), str(SHARDS), it["recommended"] == SHARDS),
        Row("  heard for nobody in a real run", shown(100 * real["unwanted_part"], "%")),
        Row("  in messages, and as the model has it", f"{real['unwanted_messages']}, {real['model_messages']}"),
        most("  and in the model of it, off by", 100 * real["off"], "%", 100 * NOTHING),
    ]
    for shards, idle in it["idle"].items():
        found.append(Row(f"an idle owner of {shards} shards: cores", cores(idle["cores"])))
        found.append(Row("  it had them after", shown(idle["own_s"], "s")))
    return found


def rooms_rows(found: Answer) -> list[Row]:
    rows = []
    for subjects, it in found.items():
        restart = it["restart"]
        rows += [
            Row(f"log of {int(subjects):,} subjects: NATS, resident", shown(it["filled_mb"], "MB")),
            Row("  after the appends, and on disk", f"{shown(it['before_mb'])} and {shown(it['disk_mb'], 'MB')}"),
            Row("  appends a second to 50 rooms", shown(it["known"]["a_second"])),
            Row("  p50 and p99", f"{shown(it['known']['p50_ms'])} and {shown(it['known']['p99_ms'], 'ms')}"),
            Row("  appends a second to rooms not seen before", shown(it["cold"]["a_second"])),
            Row("  killed and started: it answers after", shown(restart["answers_s"], "s"), lost=restart["lost"]),
            Row("  resident then", shown(restart["rss_mb"], "MB")),
        ]
    return rows


def groups_rows(found: Answer) -> list[Row]:
    rows = []
    for number, it in found.items():
        rows += [
            Row(f"groups={number}: appends a second by two nodes", shown(it["nodes"]["a_second"])),
            Row("  cores", cores(it["nodes"]["cores"])),
            Row("  what the server takes of plain sockets", shown(it["raw_a_second"]), lost=it["raw_lost"]),
            Row("  cores", cores(it["cores"])),
        ]
    return rows


def takeovers(length: Length) -> Answer:
    return {str(ttl_s): broker_parts.takeover(ttl_s, times) for ttl_s, times in length.leases}


PARTS: dict[str, tuple[Callable[[Length], Answer], Callable[[Answer], list[Row]]]] = {
    "batches": (broker_parts.batches, lambda it: live_rows("append to viewer", it)),
    "comments": (broker_parts.comments, lambda it: live_rows("comment to viewer on top of the window", it)),
    "offers": (broker_parts.offers, offers_rows),
    "takeover": (takeovers, lambda found: [row for it in found.values() for row in takeover_rows(it)]),
    "routing": (broker_sizes.routing, routing_rows),
    "rooms": (broker_sizes.rooms, rooms_rows),
    "groups": (broker_sizes.groups, groups_rows),
}


def rows(found: dict[str, Answer]) -> list[Row]:
    """What was measured, figure by figure. Whatever lost something has missed, and so has what could not be done."""
    made: list[Row] = []
    for name, it in found.items():
        made += [Row(name, it["failed"], good=False)] if "failed" in it else PARTS[name][1](it)
    return [row._replace(good=False) if row.lost else row for row in made]


def run(length: Length, only: list[str]) -> dict[str, Answer]:
    """A part that could not be measured says why, and the others go on."""
    found: dict[str, Answer] = {}
    for name, (part, _) in PARTS.items():
        if not only or name in only:
            began = time.monotonic()
            try:
                found[name] = part(length)
            except (RuntimeError, OSError) as error:
                found[name] = {"failed": str(error)}
            print(f"  {name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return found


def machine() -> str:
    assert BINARY is not None
    server = subprocess.run([BINARY, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    python = platform.python_version()
    return f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, Python {python}, {server}"


def publish(result: Answer, table: list[Row], page: Path) -> None:
    """Puts the table between the page's two marks."""
    lines = [
        f"Printed by `make bench-broker` at commit {result['commit']} on {result['machine']}.",
        "",
        "| | measured | aim | lost |",
        "|---|---|---|---|",
    ]
    for row in table:
        lost = "" if row.lost is None else str(row.lost)
        lines.append(f"| {row.name.replace('  ', '&nbsp;&nbsp;')} | {row.value} | {row.aim} | {lost} |")
    before, _, rest = page.read_text().partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    if not after:
        raise RuntimeError(f"{page} has no marks for the table")
    page.write_text(f"{before}{MARKS[0]}\n\n" + "\n".join(lines) + f"\n\n{MARKS[1]}{after}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="about half a minute, for a look")
    parser.add_argument("--only", default="", help=f"parts by name, with commas between: {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "broker.json")
    parser.add_argument("--publish", action="store_true", help="put the table into docs/broker.md")
    arguments = parser.parse_args()
    only = [name for name in arguments.only.split(",") if name]
    if unknown := set(only) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    found = run(QUICK if arguments.quick else FULL, only)
    result = {"machine": machine(), "commit": commit(), **found}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    table = rows(found)
    print(f"{result['machine']}; {result['commit']}; file storage, one replica")
    print(f"{'':<62} {'':>16}  {'aim':<14} {'lost':>6}")
    for row in table:
        verdict = "" if row.good is None else "ok" if row.good else "MISSED"
        lost = "" if row.lost is None else str(row.lost)
        print(f"{row.name:<62} {row.value:>16}  {row.aim:<14} {lost:>6}  {verdict}".rstrip())
    if arguments.publish:
        publish(result, table, PAGE)
    return 0 if all(row.good is not False for row in table) else 1


if __name__ == "__main__":
    sys.exit(main())
