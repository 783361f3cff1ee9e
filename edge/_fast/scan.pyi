# What Python may call of the scan of a text.
from collections.abc import Callable

class Scan:
    def __init__(
        self, learn: Callable[[int], tuple[bool, bool, bool, bool, bool, bool]], runs: tuple[int, int, int]
    ) -> None: ...
    def fine(self, text: str) -> bool: ...
