# How often a room gets a batch: at once where little is said, every 50 ms where much is, and less often where the
# workers that hold its viewers need longer for each. It owns what they have reported lately. It must never read a
# clock.

BUSY_S = 0.05
LONGEST_S = 5.0
SWEEPS = 2.0
"""A sweep takes at most half of its window: the other half is for all the rest that a worker does."""
REPORT_S = 3.0  # how long a report counts: workers say again each second what still holds


class Pace:
    __slots__ = ("_last", "_quick_s", "_sweeps")

    def __init__(self, quick_s: float) -> None:
        self._quick_s = quick_s
        self._last = float("-inf")
        self._sweeps: dict[str, tuple[float, float]] = {}  # by worker: when it said so, and how long one took

    def due(self, now: float) -> float:
        """When to make the next batch of what waits now."""
        return max(now + min(self._quick_s, self.window(now)), self.free(now))

    def free(self, now: float) -> float:
        """From when on the last batch is out of the way."""
        return self._last + self.window(now)

    def window(self, now: float) -> float:
        slowest = 0.0
        for worker, (said, sweep_s) in list(self._sweeps.items()):
            if now - said > REPORT_S:
                del self._sweeps[worker]
            else:
                slowest = max(slowest, sweep_s)
        return min(max(BUSY_S, SWEEPS * slowest), LONGEST_S)

    def idle(self, now: float, idle_s: float) -> bool:
        return now - self._last > idle_s

    def made(self, now: float) -> None:
        self._last = now

    def reported(self, now: float, worker: str, sweep_s: float) -> None:
        self._sweeps[worker] = (now, sweep_s)
