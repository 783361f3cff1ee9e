# How fast something happens, and a switch that follows it without flickering. Each owns two or three numbers. They must
# never read a clock.


class Meter:
    """How many there were in the last `window_s`, from two counts: of this window, and of the one before in the part
    of it that is still within reach."""

    __slots__ = ("_before", "_count", "_end", "_window_s")

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._end = float("-inf")
        self._count = 0
        self._before = 0

    def add(self, now: float, count: int = 1) -> None:
        if now >= self._end:
            self._roll(now)
        self._count += count

    def seen(self, now: float) -> float:
        if now >= self._end:
            self._roll(now)
        return self._count + self._before * (self._end - now) / self._window_s

    def _roll(self, now: float) -> None:
        late_s = now - self._end
        self._before = self._count if late_s < self._window_s else 0
        self._end = self._end + self._window_s if late_s < self._window_s else now + self._window_s
        self._count = 0


class Switch:
    """On from `on`, off again when it has stayed under `off` for `calm_s`."""

    __slots__ = ("_calm_s", "_loud", "_off", "_on", "is_on")

    def __init__(self, on: float, off: float, calm_s: float) -> None:
        if not off <= on:
            raise ValueError("a switch goes off below where it goes on")
        self._on = on
        self._off = off
        self._calm_s = calm_s
        self._loud = float("-inf")
        self.is_on = False

    def turn(self, level: float, now: float) -> bool | None:
        """What it has just been turned to, None where it stays."""
        if level >= self._on or (self.is_on and level >= self._off):
            self._loud = now
            if not self.is_on:
                self.is_on = True
                return True
        elif self.is_on and now - self._loud >= self._calm_s:
            self.is_on = False
            return False
        return None
