# Tokens take their turns: verifying one costs 30 to 200 us, so only so many are verified in a turn of the loop, and the
# rest wait in order. It owns those that wait. It must never let one flood of tokens hold up everybody's broadcasts.
from collections import deque
from collections.abc import Callable

PARKED = 1024

Work = Callable[[], None]
"""Verifies a token, and does what follows. It tells its own errors."""


class Turns:
    """`call_soon` is the loop's; `told` is called when works have run that nobody waited for."""

    def __init__(self, call_soon: Callable[[Callable[[], None]], object], most: int, told: Callable[[], None]) -> None:
        self._call_soon = call_soon
        self._most = self._left = most
        self._told = told
        self._waiting: deque[Work] = deque()
        self._parked: list[Work] = []
        self._armed = False

    def add(self, work: Work) -> bool:
        """Whether it has run already; else it runs in a later turn of the loop, behind those that came before it."""
        if not self._armed:
            self._armed = True
            self._call_soon(self._next)
        if self._waiting or not self._left:
            self._waiting.append(work)
            return False
        self._left -= 1
        work()
        return True

    def park(self, work: Work) -> bool:
        """It runs again after `resume`. False: too many wait for that."""
        if len(self._parked) >= PARKED:
            return False
        self._parked.append(work)
        return True

    def resume(self) -> None:
        parked, self._parked = self._parked, []
        for work in parked:
            self.add(work)
        if parked:
            self._told()

    def _next(self) -> None:
        self._armed = False
        self._left = self._most
        if not self._waiting:
            return
        self._armed = True
        self._call_soon(self._next)
        while self._waiting and self._left:
            self._left -= 1
            self._waiting.popleft()()
        self._told()
