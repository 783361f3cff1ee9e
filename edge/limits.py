# How much of something one address may have in a while: token buckets in a bounded table. Pure: time is an argument. It
# must never grow with the number of those who try.
from collections import OrderedDict

KEPT = 65536
"""Addresses that are remembered: past it the one that was heard of least lately begins anew, with a full bucket."""


class Buckets:
    """`size` at once, and that many again in `per_s` seconds. No limit where `size` is 0."""

    def __init__(self, size: int, per_s: float, kept: int = KEPT) -> None:
        self._size = float(size)
        self._rate = size / per_s
        self._kept = kept
        self._left: OrderedDict[bytes, tuple[float, float]] = OrderedDict()  # how much, and when that was

    def take(self, key: bytes, now: float) -> float:
        """0 where one is taken; else in how many seconds there will be one."""
        if not self._size:
            return 0.0
        left, then = self._left.pop(key, (self._size, now))
        left = min(self._size, left + (now - then) * self._rate)
        wait_s = 0.0
        if left >= 1:
            left -= 1
        else:
            wait_s = (1 - left) / self._rate
        self._left[key] = (left, now)
        if len(self._left) > self._kept:
            self._left.popitem(last=False)
        return wait_s
