# A task that begins at once, and is none where it never has to wait: making one and waking it up costs more than most
# of what is done in them. What runs so long has no task of its own, so nothing in it may ask for the current one.
from collections.abc import Callable, Coroutine
from typing import Any


def begin(spawn: Callable[[Any], Any], work: Coroutine[Any, Any, None]) -> None:
    """Runs it as far as it goes; `spawn` makes a task of the rest."""
    try:
        waits_for = work.send(None)
    except StopIteration:
        return
    spawn(_Rest(work, waits_for))


class _Rest(Coroutine[Any, Any, None]):
    """A coroutine from its first wait on: who runs it is told of that first."""

    def __init__(self, work: Coroutine[Any, Any, None], waits_for: Any) -> None:
        self._work = work
        self._waits_for = waits_for
        self._begun = False

    def send(self, value: Any) -> Any:
        if self._begun:
            return self._work.send(value)
        self._begun = True
        return self._waits_for

    def throw(self, *error: Any) -> Any:
        self._begun = True
        return self._work.throw(*error)

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Any:
        raise TypeError("it is for a task")
