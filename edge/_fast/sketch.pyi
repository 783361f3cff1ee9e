# What Python may call of the sketch of a text.
LONG: int
LEAST_WORDS: int
UNSPACED: int
GRAM: int

class Sketch:
    def __init__(self, keys: tuple[int, int]) -> None: ...
    def names(self, bones: str) -> tuple[int, int, int, int] | None: ...
