# What rooms are offered at all workers together: each says its own figures once a second, and adds up what the others
# have said. It owns what was heard in the last seconds, and must never keep more of it than a set number of workers and
# rooms. It is only ever news: where it is lost, a room is measured by less than it is offered.
from collections.abc import Awaitable, Callable
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

SUBJECT = "rates"
LEAST = 100.0
"""Comments a second in a room, from which others are told of it."""
ROOMS = 256
"""In a message: those that are offered most."""
WORKERS = 1024
"""Whose figures are kept."""
FRESH_S = 3.0

Emit = Callable[[str, bytes], Awaitable[None]]
_Rate = Annotated[float, Meta(ge=0, le=1e9)]
_decoder = msgspec.msgpack.Decoder(tuple[str, Annotated[dict[str, _Rate], Meta(max_length=ROOMS)]])


class _Said(NamedTuple):
    when: float
    rates: dict[str, float]


class RoomRates:
    """`worker` is a name that no other worker has."""

    def __init__(self, worker: str, emit: Emit) -> None:
        self._worker = worker
        self._emit = emit
        self._said: dict[str, _Said] = {}

    async def tell(self, rates: dict[str, float]) -> None:
        """Once a second: what this worker's rooms are offered. Nothing is said where nothing is worth it."""
        if rates:
            most = sorted(rates.items(), key=lambda rate: rate[1], reverse=True)[:ROOMS]
            await self._emit(SUBJECT, msgspec.msgpack.encode((self._worker, dict(most))))

    def heard(self, message: bytes, now: float) -> None:
        """Raises msgspec.DecodeError for what is no such message."""
        worker, rates = _decoder.decode(message)
        if worker == self._worker:
            return
        if worker not in self._said and len(self._said) >= WORKERS:
            self._forget(now)
        if worker in self._said or len(self._said) < WORKERS:
            self._said[worker] = _Said(now, rates)

    def elsewhere(self, now: float) -> dict[str, float]:
        """What rooms are offered at other workers, as far as these have said so in the last 3 s."""
        self._forget(now)
        found: dict[str, float] = {}
        for said in self._said.values():
            for room, rate in said.rates.items():
                found[room] = found.get(room, 0.0) + rate
        return found

    def _forget(self, now: float) -> None:
        for worker in [worker for worker, said in self._said.items() if now - said.when > FRESH_S]:
            del self._said[worker]
