# What travels on the unix socket between a worker and the broker of its box: a length of four bytes (big endian), then
# a MessagePack array. It owns the bytes of one unfinished envelope. It must never do I/O.
#
#   worker to broker    [id, op, argument...]           id from 1, of the worker's choosing
#   broker to worker    [id, 0, result...]              answers in the order of the requests
#                       [id, 1, error name, text]       refused: nothing was done
#                       [0, room, lane, seq, batch]     one batch of a subscription
#   first of all        [0, VERSION]                    from the broker

from typing import Any

import msgpack

VERSION = 1
ENVELOPE_BYTES = 1024 * 1024
"""Three times a full tail of both lanes. A peer that announces more is not one of ours."""

APPEND = 1  # room, lane, batch, expected → kind, head
SUBSCRIBE = 2  # room, incarnation, must, chat → resumed, incarnation, must entries, chat entries, must head, chat head
UNSUBSCRIBE = 3  # room →
HEAD = 4  # room, lane → head
TAIL = 5  # room, lane, after → entries


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
