"""A fuzzer of our own, for every machine: seeds, mutations, and coverage where the build gives it (see cover.c).

`python -m tests.fuzz.loop TARGET --seconds N` runs it, with --corpus and --crashes to keep what it finds;
--seeds FOLDER only writes the seeds, --replay FILE runs one input. It fuzzes in a child and saves what that dies of.
"""

import argparse
import ctypes
import hashlib
import importlib
import mmap
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.fuzz import seeds

LONGEST = 2048  # of a mutation; a seed may be longer
HANG_S = 60
INTERESTING = (0, 1, 7, 8, 15, 16, 31, 32, 63, 64, 125, 126, 127, 128, 129, 192, 224, 240, 254, 255)
COVERED = hasattr(ctypes.CDLL(None), "cover_new")


class Ran(NamedTuple):
    runs: int
    seconds: float
    edges: int
    features: int
    corpus: int

    def __str__(self) -> str:
        seen = f"{self.edges} edges, {self.features} features, " if COVERED else "no coverage in this build, "
        return (
            f"{self.runs} runs, {self.runs / max(self.seconds, 0.001):.0f}/s, {seen}{self.corpus} inputs in the corpus"
        )


def target(name: str) -> Callable[[bytes], None]:
    one: Callable[[bytes], None] = importlib.import_module(f"tests.fuzz.fuzz_{name}").one
    return one


def mutate(chance: random.Random, pool: list[bytes]) -> bytes:
    data = bytearray(chance.choice(pool))
    for _ in range(1 + chance.getrandbits(chance.randrange(1, 5))):
        at, size = chance.randrange(len(data) + 1), chance.randrange(1, 1 + chance.choice((1, 4, 32)))
        match chance.randrange(8):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(data):
                data[at] = chance.choice(INTERESTING)
            case 2 if at < len(data):
                data[at] = (data[at] + chance.randrange(-16, 17)) % 256
            case 3:
                del data[at : at + size]
            case 4:
                data[at:at] = chance.randbytes(size)
            case 5:  # a piece of itself again
                start = chance.randrange(len(data) + 1)
                data[at:at] = data[start : start + size]
            case 6:  # and one of another
                other = chance.choice(pool)
                start = chance.randrange(len(other) + 1)
                data[at : at + size * chance.randrange(2)] = other[start : start + size * 4]
            case 7:
                data[at:at] = bytes((chance.choice(INTERESTING),)) * size
    return bytes(data[:LONGEST])


def fuzz(
    name: str,
    seconds: float,
    seed: int,
    pool: list[bytes],
    *,
    note: Callable[[bytes], object] = len,
    keep: Path | None = None,
) -> Ran:
    """Runs the pool, then mutations of it and of what they led to. What fails is raised with the input and the seed."""
    one, chance = target(name), random.Random(seed)
    cover = ctypes.CDLL(None) if COVERED else None
    runs, features, began, todo = 0, 0, time.monotonic(), chance.sample(pool, len(pool))
    if cover:
        cover.cover_new()
    while time.monotonic() < began + seconds:
        fresh = not todo
        data = mutate(chance, pool) if fresh else todo.pop()
        note(data)
        try:
            one(data)
        except Exception as error:
            error.add_note(f"fuzzing {name}, seed {seed}, input {data.hex()}")
            raise
        runs += 1
        found = cover.cover_new() if cover else 0
        features += found
        if found and fresh:
            pool.append(data)
            if keep:
                (keep / hashlib.sha1(data).hexdigest()).write_bytes(data)
    return Ran(runs, time.monotonic() - began, cover.cover_edges() if cover else 0, features, len(pool))


def watched(name: str, seconds: float, seed: int, keep: Path, crashes: Path) -> int:
    """Fuzzes in a child that may die of what it finds; its last input is in memory that both see."""
    keep.mkdir(parents=True, exist_ok=True)
    shared = mmap.mmap(-1, 1 << 20)

    def note(data: bytes) -> None:
        shared[:4] = len(data).to_bytes(4, "big")
        shared[4 : 4 + len(data)] = data
        signal.alarm(HANG_S)  # unhandled, it ends the process, wherever that is

    child = os.fork()
    if child == 0:
        pool = list({*seeds.of(name), *(path.read_bytes() for path in keep.iterdir())})
        print(f"fuzz: {name}: {fuzz(name, seconds, seed, sorted(pool), note=note, keep=keep)}", flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        data = shared[4 : 4 + int.from_bytes(shared[:4], "big")]
        path = crashes / f"{name}-{hashlib.sha1(data).hexdigest()[:12]}"
        crashes.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        print(f"fuzz: {name}: FAILED, seed {seed}; again with: tests/fuzz/run.sh replay {name} {path}", flush=True)
    return int(status != 0)


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz one target.")
    parser.add_argument("target", choices=seeds.TARGETS)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--corpus", type=Path, default=Path("out/fuzz/corpus"))
    parser.add_argument("--crashes", type=Path, default=Path("out/fuzz"))
    parser.add_argument("--seeds", type=Path)
    parser.add_argument("--replay", type=Path)
    chosen = parser.parse_args()
    if chosen.seeds:
        chosen.seeds.mkdir(parents=True, exist_ok=True)
        for data in seeds.of(chosen.target):
            (chosen.seeds / hashlib.sha1(data).hexdigest()).write_bytes(data)
    elif chosen.replay:
        target(chosen.target)(chosen.replay.read_bytes())
        print(f"fuzz: {chosen.target}: {chosen.replay} passes")
    else:
        return watched(chosen.target, chosen.seconds, chosen.seed, chosen.corpus, chosen.crashes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
