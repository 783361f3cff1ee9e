# A task that begins at once, and is none where it never has to wait: making one and waking it up costs more than most
# of what is done in them. What runs so long has no task of its own, so nothing in it may ask for the current one.
import types
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any


def begin(spawn: Callable[[Any], Any], work: Coroutine[Any, Any, None]) -> None:
    """Runs it as far as it goes; `spawn` makes a task of the rest."""
    try:
        waits_for = work.send(None)
    except StopIteration:
        return
    spawn(_goes_on(work, waits_for))


@types.coroutine
def _goes_on(work: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    while True:
        try:
            found = yield waits_for
        except BaseException as error:  # a cancel among them
            go_on = partial(work.throw, error)
        else:
            go_on = partial(work.send, found)
        try:
            waits_for = go_on()
        except StopIteration:
            return
