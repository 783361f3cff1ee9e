# Where things live in NATS: a room's shard, the subjects of its lanes, the streams and buckets. Pure: it owns nothing,
# does no I/O, and must never change what it answers, or nodes would write two logs of one room.
#
#   edge.log.<shard>.<room>.must|chat    what owners append, in the stream EDGE_LOG
#   edge.log.<shard>.<room>.room         which numbering the room is in, in the same stream
#   edge.out.<shard>.<room>.<lane>       what the stream took, sent on by the server alone
#   edge.in.<shard>                      what was offered to a shard, in the stream EDGE_IN
#   edge.head.<shard>                    the last numbers of lanes that have changed, once a second
#   edge.emit.<subject>                  what nodes tell each other, stored nowhere
#   edge.put.<verb>.<room>               what publishers ask for who are no nodes

import hashlib
import re

STREAM = "EDGE_LOG"
OFFERS = "EDGE_IN"
BUCKET = "EDGE"
LEASES = "EDGE_LEASES"
STATE = "EDGE_STATE"
SHARDS = 256

LOG_ALL = "edge.log.>"
OUT_ALL = "edge.out.>"
IN_ALL = "edge.in.*"
LANE_NAMES = ("must", "chat")
ROOM_NAME = "room"

_PLAIN = re.compile(rb"[A-Za-z0-9_-]+")
_OTHER = re.compile(rb"[^A-Za-z0-9_-]")
_CODED = re.compile(rb"=([0-9A-F]{2})")


def shard_of(room: str, shards: int) -> int:
    """The same on every machine and in every release; blake2b, so that no pattern of names gathers in one shard."""
    return int.from_bytes(hashlib.blake2b(room.encode(), digest_size=8).digest()) % shards


def token(room: str) -> str:
    """The room as one token of a subject. Anything but letters, digits, - and _ is written as =XX, byte by byte."""
    raw = room.encode()
    if _PLAIN.fullmatch(raw):
        return room
    return _OTHER.sub(lambda found: b"=%02X" % found[0][0], raw).decode()


def room_of(token: str) -> str:
    """The room that `token` was made of. ValueError for what `token` never makes: two spellings of one room would be
    two rooms."""
    room = _CODED.sub(lambda found: bytes([int(found[1], 16)]), token.encode()).decode()
    if _token(room) != token:
        raise ValueError(f"{token!r} is no room's token")
    return room


_token = token


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


class Streams:
    """The names of the streams. With more than one group of shards each has streams of its own, so that their leaders
    are spread over the servers."""

    __slots__ = ("groups",)

    def __init__(self, groups: int) -> None:
        self.groups = groups

    def log(self, shard: int) -> str:
        return STREAM if self.groups == 1 else f"{STREAM}_{shard % self.groups}"

    def offers(self, shard: int) -> str:
        return OFFERS if self.groups == 1 else f"{OFFERS}_{shard % self.groups}"

    def logs(self) -> list[str]:
        return [self.log(group) for group in range(self.groups)]

    def all_offers(self) -> list[str]:
        return [self.offers(group) for group in range(self.groups)]

    def log_subjects(self, group: int, shards: int) -> list[str]:
        """What the log of a group takes."""
        return [LOG_ALL] if self.groups == 1 else [f"edge.log.{it}.>" for it in range(group, shards, self.groups)]

    def offer_subjects(self, group: int, shards: int) -> list[str]:
        return [IN_ALL] if self.groups == 1 else [offers(it) for it in range(group, shards, self.groups)]


def heads(shard: int) -> str:
    return f"edge.head.{shard}"


def offers(shard: int) -> str:
    return f"edge.in.{shard}"


def out_all(shard: int, lane: int) -> str:
    """A lane of all rooms of a shard."""
    return f"edge.out.{shard}.*.{LANE_NAMES[lane]}"


def kv(bucket: str, key: str) -> str:
    return f"$KV.{bucket}.{key}"


def emitted(subject: str) -> str:
    return f"edge.emit.{subject}"


def put(verb: str, room: str | None = None) -> str:
    """None: for any room."""
    return f"edge.put.{verb}.{'*' if room is None else token(room)}"
