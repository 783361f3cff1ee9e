# One entry of a room's log in NATS, as bytes and as values. Pure. It owns the format and must never read a field that
# its version does not promise.
#
#   [version, incarnation, number, writer, call, epoch, offer, item, base, deltas, sizes, batch]
#
# A batch's entry has the batch's own number; one without a batch (batch is nil) repeats the number of the newest batch
# and keeps the lane from ageing out, or raises its epoch. `writer` and `call` name the append, so that its writer knows
# it again. `epoch` is the greatest of any lease that has written or fenced the lane, (`offer`, `item`) the mark of its
# newest batch that had one: every entry carries both on. `base` is the lane's last stream sequence before this entry;
# `deltas` and `sizes` tell where the newest batches before it are, newest first: each delta counts back from the one
# before it, the first from `base`.

from typing import NamedTuple

import msgpack

from broker.base import NO_MARK, Mark

VERSION = 2
PREDECESSORS = 64


class BadEntry(Exception):
    pass


class Place(NamedTuple):
    """Where a batch is in the stream, and how long it is."""

    seq: int
    size: int


class LogEntry(NamedTuple):
    seq: int
    incarnation: int
    number: int
    writer: int
    call: int
    epoch: int
    mark: Mark
    base: int
    deltas: list[int]
    sizes: list[int]
    batch: bytes | None

    def chain(self) -> tuple[Place, ...]:
        """The newest batches up to this entry, its own among them, newest first. Made when asked for: most entries
        only pass by."""
        places = [] if self.batch is None else [Place(self.seq, len(self.batch))]
        at = self.base
        for delta, size in zip(self.deltas, self.sizes, strict=True):
            at -= delta
            places.append(Place(at, size))
        return tuple(places[:PREDECESSORS])

    def end(self) -> "End":
        """The lane's, as long as this is its last entry."""
        return End(self.incarnation, self.number, self.seq, self.chain(), self.epoch, self.mark)


class End(NamedTuple):
    """How a lane ends, as of some moment."""

    incarnation: int
    number: int
    seq: int
    """The stream sequence that an append has to expect: of the subject's last entry, 0 where it has none."""
    chain: tuple[Place, ...] = ()
    epoch: int = 0
    mark: Mark = NO_MARK

    def raised(self, epoch: int, mark: Mark) -> "End":
        """As its next entry has to carry it on. An epoch never falls; without a mark the one before stays."""
        return self._replace(epoch=max(self.epoch, epoch), mark=self.mark if mark == NO_MARK else mark)

    def after(self, seq: int, size: int) -> "End":
        """With one batch more."""
        chain = (Place(seq, size), *self.chain)[:PREDECESSORS]
        return End(self.incarnation, self.number + 1, seq, chain, self.epoch, self.mark)


def pack(end: End, writer: int, call: int, batch: bytes | None) -> bytes:
    """The entry that follows on `end`, with its epoch and mark."""
    deltas, last = [], end.seq
    for place in end.chain:
        deltas.append(last - place.seq)
        last = place.seq
    number = end.number if batch is None else end.number + 1
    sizes = [place.size for place in end.chain]
    fields = (VERSION, end.incarnation, number, writer, call, end.epoch, *end.mark, end.seq, deltas, sizes, batch)
    packed: bytes = msgpack.packb(fields, use_bin_type=True)
    return packed


def unpack(data: bytes, seq: int) -> LogEntry:
    """The entry that the stream holds as `seq`."""
    try:
        version, *fields = msgpack.unpackb(data, raw=False)
        if version != VERSION:
            raise BadEntry(f"an entry of version {version}, and this node reads {VERSION}")
        incarnation, number, writer, call, epoch, offer, item, base, deltas, sizes, batch = fields
        if len(deltas) != len(sizes):
            raise BadEntry("places without sizes")
    except (ValueError, TypeError) as bad:  # every exception of msgpack is a ValueError
        raise BadEntry(f"{type(bad).__name__}: {bad}") from bad
    return LogEntry(seq, incarnation, number, writer, call, epoch, (offer, item), base, deltas, sizes, batch)
