# `make chaos`: random histories of faults, one after the other, for as long as it is told. It says the seed of each,
# and the command that repeats it. It ends with 1 at the first that breaks a promise.

import argparse
import asyncio
import logging
import random
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

from broker.base import LEASE_TTL_S
from tests.faults.histories import History, quick
from tests.faults.stage import SHARDS
from tests.faults.storms import storm
from tests.faults.test_owner import kill_owner
from tests.faults.test_servers import RESUME_S, lose_leaders

KINDS = ("memory", "nats", "local", "cluster", "lease", "leader")
LENGTH_S = {"memory": 4.0, "nats": 15.0, "local": 12.0, "cluster": 25.0}


async def one(kind: str, seed: int, folder: Path) -> str:
    """What happened, in a few words."""
    if kind == "memory":
        with quick():
            history = History(seed)
            await history.run(LENGTH_S[kind])
        faults = {what: history.told.count(what) for what in sorted(set(history.told))}
        return f"{len(history.truth.comments)} comments, {faults}"
    if kind == "lease":
        took_s = await kill_owner(folder, f"shards={SHARDS}", LEASE_TTL_S)
        assert took_s < LEASE_TTL_S + 2
        return f"a lease of {LEASE_TTL_S:.0f} s: another wrote after {took_s:.2f} s"
    if kind == "leader":
        took = await lose_leaders(folder, ["EDGE_LOG", "EDGE_IN", "EDGE_LOG"])
        assert max(score_s for score_s, _ in took) < RESUME_S, took
        return "; ".join(f"a score after {score_s:.2f} s, a comment after {said_s:.2f} s" for score_s, said_s in took)
    return "; ".join((await storm(kind, seed, LENGTH_S[kind], folder)).told)


def attempt(kind: str, seed: int) -> bool:
    print(f"{kind} {seed}: repeat with: python -m tests.faults.chaos --kind {kind} --seed {seed} --count 1", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="edge-chaos-"))
    try:
        began = time.monotonic()
        told = asyncio.run(one(kind, seed, folder))
        print(f"    {time.monotonic() - began:.1f} s: {told}", flush=True)
    except (AssertionError, TimeoutError):
        traceback.print_exc()
        print(f"{kind} {seed}: FAILED", flush=True)
        return False
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description="Random histories of faults.")
    parser.add_argument("--seed", type=int, default=0, help="of the first history; 0: any")
    parser.add_argument("--seconds", type=float, default=300, help="no history begins after this")
    parser.add_argument("--kind", choices=KINDS, action="append", help="of these alone")
    parser.add_argument("--count", type=int, default=1_000_000, help="of histories, at most")
    given = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)  # that calls go wrong is no news here
    seed = given.seed or random.randrange(1, 10**6)
    kinds = given.kind or KINDS
    until = time.monotonic() + given.seconds
    done = 0
    while done < given.count and time.monotonic() < until:
        if not attempt(kinds[done % len(kinds)], seed + done):
            return 1
        done += 1
    print(f"{done} histories from seed {seed}: all promises kept")
    return 0


if __name__ == "__main__":
    sys.exit(main())
