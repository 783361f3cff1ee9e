# `make bench-ingest`: what a comment costs on its way in, part by part. `pipeline`: stages 1 and 2 by themselves.
# `live`: from socket to log, on a server. `outage`: what becomes of comments and answers while the classifier is away.
# It ends with 1 where a figure misses its aim. It must never print a figure without what it was measured on.

import argparse
import os
import platform
import sys

from bench import ingest_live, ingest_outage, ingest_pipeline
from bench.floor import commit

PARTS = ("pipeline", "live", "outage")


def main() -> int:
    arguments = argparse.ArgumentParser(description="what a comment costs on its way in")
    arguments.add_argument("--only", default=",".join(PARTS), help="parts by name, with commas between")
    arguments.add_argument("--no-aims", action="store_true", help="end with 0 whatever is found")
    arguments.add_argument("--comments", type=int, default=20_000, help="pipeline: texts")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--authors", type=int, default=500, help="live, outage: sockets")
    arguments.add_argument("--rooms", type=int, default=ingest_live.ROOMS, help="live, outage")
    arguments.add_argument("--rates", default="5000,10000,20000", help="live: comments a second, with commas between")
    arguments.add_argument("--seconds", type=float, default=4.0, help="live: of a round")
    arguments.add_argument("--rate", type=float, default=2000.0, help="outage: comments a second")
    arguments.add_argument("--phase", type=float, default=5.0, help="outage: seconds of each time with it, and without")
    arguments.add_argument("--cases", default=",".join(ingest_outage.CASES), help="outage: with commas between")
    options = arguments.parse_args()
    parts = options.only.split(",")
    if unknown := set(parts) - set(PARTS):
        arguments.error(f"--only {','.join(unknown)}: there are {', '.join(PARTS)}")
    if unknown := set(options.cases.split(",")) - set(ingest_outage.ALL):
        arguments.error(f"--cases {','.join(unknown)}: there are {', '.join(ingest_outage.ALL)}")
    system = f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{system}; {commit()}", flush=True)
    missed: list[str] = []
    if "pipeline" in parts:
        missed += ingest_pipeline.run(options.comments, options.rounds)
    if "live" in parts:
        rates = [float(rate) for rate in options.rates.split(",")]
        missed += ingest_live.run(options.authors, rates, options.seconds, options.rounds, options.rooms)
    if "outage" in parts:
        cases = options.cases.split(",")
        missed += ingest_outage.run(options.authors, options.rate, options.phase, cases, options.rooms)
    for words in missed:
        print(f"MISSED {words}")
    return 1 if missed and not options.no_aims else 0


if __name__ == "__main__":
    sys.exit(main())
