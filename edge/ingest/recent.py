# A table that forgets: it keeps what was put into it lately and is never larger than it was set to be. Two plain
# dicts, the young and the old: an OrderedDict that moves each key to its end costs twice as much. It must never grow
# with the number of those who try.
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """At most `most` entries: surely the half of them that was put last, and of the others some. Putting a key again
    keeps it, reading it does not."""

    __slots__ = ("_half", "_old", "_young")

    def __init__(self, most: int) -> None:
        self._half = max(1, most // 2)
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        found = self._young.get(key)
        return self._old.get(key) if found is None else found

    def put(self, key: K, value: V) -> None:
        young = self._young
        if len(young) >= self._half and key not in young:
            self.age()
            young = self._young
        young[key] = value

    def age(self) -> None:
        """Forgets what has not been put since the last time."""
        self._old = self._young
        self._young = {}

    def drop(self, key: K) -> None:
        self._young.pop(key, None)
        self._old.pop(key, None)

    def __len__(self) -> int:
        """No less than the number of keys: what was put again may count twice."""
        return len(self._young) + len(self._old)

    def copy(self) -> dict[K, V]:
        """A copy, each key once."""
        return {**self._old, **self._young}
