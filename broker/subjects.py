# Where a room's logs live in NATS: its shard, and the subjects of its lanes. Pure: it owns nothing, does no I/O, and
# must never change what it answers, or nodes would write two logs of one room.
#
#   edge.log.<shard>.<room>.must|chat    what owners append, in the stream EDGE_LOG
#   edge.log.<shard>.<room>.room         which numbering the room is in, in the same stream
#   edge.out.<shard>.<room>.<lane>       what the stream took, sent on by the server alone
#   edge.head.<shard>                    the last numbers of lanes that have changed, once a second

import hashlib
import re

STREAM = "EDGE_LOG"
BUCKET = "EDGE"
SHARDS = 256

LOG_ALL = "edge.log.>"
OUT_ALL = "edge.out.>"
LANE_NAMES = ("must", "chat")
ROOM_NAME = "room"

_PLAIN = re.compile(rb"[A-Za-z0-9_-]+")
_OTHER = re.compile(rb"[^A-Za-z0-9_-]")


def shard_of(room: str, shards: int) -> int:
    """The same on every machine and in every release; blake2b, so that no pattern of names gathers in one shard."""
    return int.from_bytes(hashlib.blake2b(room.encode(), digest_size=8).digest()) % shards


def token(room: str) -> str:
    """The room as one token of a subject. Anything but letters, digits, - and _ is written as =XX, byte by byte."""
    raw = room.encode()
    if _PLAIN.fullmatch(raw):
        return room
    return _OTHER.sub(lambda found: b"=%02X" % found[0][0], raw).decode()


class Places:
    """The subjects of one room."""

    __slots__ = ("_place", "room", "shard")

    def __init__(self, room: str, shards: int) -> None:
        self.room = room
        self.shard = shard_of(room, shards)
        self._place = f"{self.shard}.{token(room)}"

    def log(self, lane: int) -> str:
        return f"edge.log.{self._place}.{LANE_NAMES[lane]}"

    def birth(self) -> str:
        return f"edge.log.{self._place}.{ROOM_NAME}"

    def out(self, lane: int) -> str:
        return f"edge.out.{self._place}.{LANE_NAMES[lane]}"


def heads(shard: int) -> str:
    return f"edge.head.{shard}"
