# What is counted, as Prometheus reads it, for all workers of a box at once. It owns the words for each figure, and the
# memory that workers share to tell each other theirs. Nobody waits for anybody: what is read is at most a second old.
import mmap
import re
import struct
from collections.abc import Mapping, Sequence

import msgspec

Figures = dict[str, int]

GAUGES = frozenset(
    "connections capacity cold rooms users held_bytes http_connections memory_blocks memory_bytes memory_mapped "
    "owner_shards classifier_waiting classifier_under_way classifier_open look_backlog".split()
)
LABELS = {
    "refused": "status",
    "closed": "cause",
    "joined": "stream",
    "encoded": "encoding",
    "viewers": "encoding",
    "frames": "lane",
}
"""Figures that are one family with a label: the word before the underscore, and what the rest of the name is."""


class Histogram:
    """How long something took, in seconds."""

    def __init__(self, name: str, bounds: Sequence[float]) -> None:
        self._name = name
        self._bounds = bounds
        self._counts = [0] * len(bounds)
        self._count = 0
        self._sum_us = 0

    def add(self, seconds: float) -> None:
        self._count += 1
        self._sum_us += round(seconds * 1e6)
        for place, bound in enumerate(self._bounds):
            self._counts[place] += seconds <= bound

    def figures(self) -> Figures:
        found = {f"{self._name}_bucket_{bound:g}": n for bound, n in zip(self._bounds, self._counts, strict=True)}
        found[f"{self._name}_bucket_+Inf"] = found[f"{self._name}_count"] = self._count
        return found | {f"{self._name}_sum_us": self._sum_us}


class Board:
    """A place in shared memory for each worker's figures. It is made before the workers are."""

    PLACE = 16384
    HEAD = struct.Struct("<II")  # a number that is odd while the figures are written, and their length

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._memory = mmap.mmap(-1, workers * self.PLACE)
        self._written = 0

    def post(self, worker: int, figures: Figures) -> None:
        data = msgspec.msgpack.encode(figures)
        if len(data) > self.PLACE - self.HEAD.size:
            raise ValueError(f"{len(data)} bytes of figures do not fit")
        at = worker * self.PLACE
        self._written += 2
        self.HEAD.pack_into(self._memory, at, self._written - 1, 0)
        self._memory[at + self.HEAD.size : at + self.HEAD.size + len(data)] = data
        self.HEAD.pack_into(self._memory, at, self._written, len(data))

    def read(self, worker: int) -> Figures:
        """What the worker posted last; nothing before it has, or while it is writing."""
        at = worker * self.PLACE
        before, size = self.HEAD.unpack_from(self._memory, at)
        data = self._memory[at + self.HEAD.size : at + self.HEAD.size + size]
        after, _ = self.HEAD.unpack_from(self._memory, at)
        if before % 2 or before != after or not size:
            return {}
        return msgspec.msgpack.decode(data, type=Figures)

    def exposition(self) -> str:
        if self._workers == 1:
            return exposition([("", self.read(0))])
        return exposition([(f'worker="{worker}"', self.read(worker)) for worker in range(self._workers)])


def exposition(workers: Sequence[tuple[str, Mapping[str, int]]]) -> str:
    """The text format, one family for each figure; what comes as `closed_slow` is `edge_closed_total{cause="slow"}`.

    Each worker's figures come with the label that tells them from others', or with none."""
    families: dict[str, list[str]] = {}
    for own, figures in workers:
        for name, value in figures.items():
            if timed := re.fullmatch(r"(\w+_seconds)_(bucket|count|sum_us)_?(.*)", name):
                _add_timed(families, timed[1], timed[2], timed[3], value, own)
                continue
            family, _, rest = name.partition("_")
            label, kind = "", "gauge" if name in GAUGES or family == "viewers" else "counter"
            if name not in GAUGES and family in LABELS:
                name, label = family, f'{LABELS[family]}="{rest}"'
            name = f"edge_{name}" + ("_total" if kind == "counter" else "")
            labels = ",".join(filter(None, (label, own)))
            families.setdefault(name, [f"# TYPE {name} {kind}"]).append(
                f"{name}{{{labels}}} {value}" if labels else f"{name} {value}"
            )
    return "".join("\n".join(lines) + "\n" for lines in families.values())


def _add_timed(families: dict[str, list[str]], family: str, part: str, bound: str, value: int, own: str) -> None:
    """One line of a Histogram."""
    name = f"edge_{family}"
    labels = ",".join(filter(None, (f'le="{bound}"' if bound else "", own)))
    figure = f"{value / 1e6:g}" if part == "sum_us" else f"{value}"
    families.setdefault(name, [f"# TYPE {name} histogram"]).append(
        f"{name}_{part.removesuffix('_us')}{f'{{{labels}}}' if labels else ''} {figure}"
    )
