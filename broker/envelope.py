# What travels on the unix socket between a worker and the broker of its box: a length of four bytes (big endian), then
# a MessagePack array. It owns the bytes of one unfinished envelope. It must never do I/O.
#
#   worker to broker    [id, op, argument...]           id from 1, of the worker's choosing
#   broker to worker    [id, 0, result...]              answers in the order of the requests, but KEEP, FIND and KEPT
#                       [id, 1, error name, text]       refused: nothing was done
#                       [0, push, argument...]          what the worker has asked to be told
#   first of all        [0, VERSION, store]             from the broker: which of its lives this is

from typing import Any

import msgpack

VERSION = 4
ENVELOPE_BYTES = 1024 * 1024
"""Three times a full tail of both lanes. A peer that announces more is not one of ours."""
MESSAGE_BYTES = 256 * 1024
"""The largest message that can be emitted."""

# Requests, and what they are answered with.
APPEND = 1  # room, lane, batch, expected, epoch, mark, call → kind, head, epoch
SUBSCRIBE = 2  # room, incarnation, must, chat → resumed, incarnation, must entries, chat entries, must head, chat head
UNSUBSCRIBE = 3  # room →
LAST = 4  # room, lane → head, epoch, mark
TAIL = 5  # room, lane, after → entries
OFFER = 6  # shard, items →
CONSUME = 7  # shard, after → and from then on its pushes
LEAVE = 8  # shard →
COVERED = 9  # shard, seq →
LEASE = 10  # shard, call → epoch or 0, TTL in seconds
RENEW = 11  # shard, epoch → whether it is still the holder's
RELEASE = 12  # shard, epoch, call → the lease with that epoch, or that this call was given
FENCE = 13  # shard, epoch → after, [room, head, epoch, mark]...
EMIT = 14  # subject, message →
HEAR = 15  # subject →
UNHEAR = 16  # subject →
KEEP = 17  # key, value or nil, revision or nil, call → revision
FIND = 18  # key → key, value, revision; nothing where it is not there
KEPT = 19  # prefix, after → whether there is more, [key, value, revision]...
WATCH = 20  # prefix → and from then on its pushes
UNWATCH = 21  # prefix →

# Pushes.
BATCH = 1  # room, lane, seq, batch
OFFERED = 2  # shard, seq, items
HEARD = 3  # subject, message
CHANGED = 4  # prefix, key, value or nil, revision


class BadEnvelope(Exception):
    pass


def pack(*parts: Any) -> bytes:
    body: bytes = msgpack.packb(parts, use_bin_type=True)
    return len(body).to_bytes(4, "big") + body


class Envelopes:
    """Bytes in, whole envelopes out."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def take(self) -> list[Any] | None:
        """The next envelope, or None until there is more."""
        buffer = self._buffer
        if len(buffer) < 4:
            return None
        size = int.from_bytes(buffer[:4], "big")
        if size > ENVELOPE_BYTES:
            raise BadEnvelope(f"an envelope of {size} bytes")
        if len(buffer) < 4 + size:
            return None
        body = bytes(buffer[4 : 4 + size])
        del buffer[: 4 + size]
        try:
            parts = msgpack.unpackb(body, raw=False, strict_map_key=True)
        except ValueError as bad:  # every exception of msgpack is one
            raise BadEnvelope(str(bad)) from bad
        if not isinstance(parts, list) or not parts:
            raise BadEnvelope("an envelope that is no array")
        return parts
