# One subscription of a room: what its sink has had, and what came too early. It owns the positions. It does no I/O, and
# must never pass a batch on past a hole, nor one of another numbering.

import logging
from collections.abc import Callable

from nats.aio.msg import Msg

from broker.base import LANES, Entry, Sink, Tail
from broker.nats_entry import LogEntry
from broker.subjects import Places

log = logging.getLogger("broker")

WAITING_BATCHES = 512
"""Of one lane, kept while a hole before them is read from the log. More are dropped, and read as well."""


class Following:
    """`suspect` is called when something is missing, and reads the log, and calls `repaired`."""

    __slots__ = (
        "again", "born", "closed", "early", "heads", "hearers", "held", "incarnation", "live", "places", "repairing",
        "room", "sink", "suspect", "waiting",
    )  # fmt: skip

    def __init__(self, room: str, places: Places, sink: Sink, suspect: Callable[["Following"], None]) -> None:
        self.room = room
        self.places = places
        self.sink = sink
        self.suspect = suspect
        self.hearers: tuple[Callable[[Msg], None], ...] = ()
        self.incarnation = 0  # 0 until the first tail is here
        self.born = 0.0
        self.heads = [0, 0]
        self.early: list[tuple[int, LogEntry]] | None = []  # until the first tail is here; None: too many came
        self.held: list[tuple[int, int, bytes]] = []  # until the caller of subscribe has its tail
        self.waiting: tuple[dict[int, bytes], dict[int, bytes]] = ({}, {})
        self.live = False
        self.closed = False
        self.repairing = False
        self.again = False

    def heard(self, lane: int, entry: LogEntry) -> None:
        """An entry that the log took just now, perhaps not for the first time, perhaps not the next one."""
        if self.closed or entry.incarnation < self.incarnation:
            return
        if not self.incarnation:
            if self.early is not None:
                self.early.append((lane, entry))
                if len(self.early) > WAITING_BATCHES:
                    self.early = None
        elif entry.incarnation > self.incarnation:
            self.suspect(self)
        elif entry.number == self.heads[lane] + 1 and entry.batch is not None:
            self._deliver(lane, entry.number, entry.batch)
            self._drain(lane)
        elif entry.number > self.heads[lane]:
            if entry.batch is not None and len(self.waiting[lane]) < WAITING_BATCHES:
                self.waiting[lane][entry.number] = entry.batch
            self.suspect(self)

    def told(self, incarnation: int, lane: int, number: int) -> bool:
        """Whether this position of somebody else's is past ours."""
        if not self.incarnation or self.closed:
            return False
        return incarnation > self.incarnation or (incarnation == self.incarnation and number > self.heads[lane])

    def start(self, tail: Tail, born: float) -> None:
        self.incarnation, self.born = tail.incarnation, born
        self.heads = list(tail.heads)
        early, self.early = self.early, []
        for lane, entry in early or ():
            self.heard(lane, entry)
        if early is None or self.again:
            self.suspect(self)

    def release(self) -> None:
        """The caller has its tail."""
        self.live = True
        held, self.held = self.held, []
        for lane, seq, data in held:
            self._pass_on(lane, seq, data)

    def repaired(self, tail: Tail, born: float) -> bool:
        """What the log has after our heads. False if it does not lead on from them: it takes a reset."""
        if self.closed:
            return True
        if tail.incarnation != self.incarnation:
            return False
        lanes = (tail.must, tail.chat)
        for lane in LANES:
            first = lanes[lane][0][0] if lanes[lane] else tail.heads[lane] + 1
            if first > self.heads[lane] + 1:
                return False
        self.born = born
        for lane in LANES:
            self._take(lane, lanes[lane])
        return True

    def reset(self, tail: Tail, born: float) -> None:
        if self.closed:
            return
        self.incarnation, self.born = tail.incarnation, born
        self.heads = list(tail.heads)
        self.held.clear()
        for lane in LANES:
            self.waiting[lane].clear()
        try:
            self.sink.reset(self.room, tail)
        except Exception:
            log.exception("a subscriber of room %s failed on a reset", self.room)

    def complete(self) -> bool:
        """Nothing is known to be missing."""
        return not (self.waiting[0] or self.waiting[1])

    def close(self) -> None:
        self.closed = True
        self.held.clear()
        self.early = None
        for lane in LANES:
            self.waiting[lane].clear()

    def _take(self, lane: int, entries: list[Entry]) -> None:
        for seq, data in entries:
            if seq == self.heads[lane] + 1:
                self._deliver(lane, seq, data)
        self._drain(lane)

    def _drain(self, lane: int) -> None:
        waiting = self.waiting[lane]
        if not waiting:
            return
        while (data := waiting.pop(self.heads[lane] + 1, None)) is not None:
            self._deliver(lane, self.heads[lane] + 1, data)
        for number in [number for number in waiting if number <= self.heads[lane]]:
            del waiting[number]

    def _deliver(self, lane: int, seq: int, data: bytes) -> None:
        self.heads[lane] = seq
        if self.live:
            self._pass_on(lane, seq, data)
        else:
            self.held.append((lane, seq, data))

    def _pass_on(self, lane: int, seq: int, data: bytes) -> None:
        if self.closed:
            return
        try:
            self.sink.batch(self.room, lane, seq, data)
        except Exception:
            log.exception("a subscriber of room %s failed on lane %d, batch %d", self.room, lane, seq)
