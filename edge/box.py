# What the workers of a box share: memory that is made before they are, and comes to each by its fork. It owns the
# memory, and must know nothing of what is kept in it, but that the limits begin with a secret.
import mmap
import os

from edge.metrics import Board

LIMITS = 8 << 20
"""Bytes, which become memory as they are used: half a million users and addresses at a time."""


class Box:
    def __init__(self, workers: int) -> None:
        self.board = Board(workers)
        self.limits = mmap.mmap(-1, LIMITS)
        self.limits[:8] = os.urandom(8)
