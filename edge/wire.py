# The client protocol, version 1, as types: what clients may say, checked, and what they are told, as plain dicts.
# A leaf: it does no I/O, and all it owns is what it has found out about characters. It must never let anything past
# that a viewer's screen, a MessagePack encoder or a terminal could choke on: each bad input gets an error of
# edge/errors.py, by name.

import math
import os
import re
import unicodedata
from base64 import urlsafe_b64encode
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from edge._fast.digest import Ids
from edge._fast.item import Shown
from edge._fast.scan import Scan
from edge.errors import EdgeError

TEXT_CHARS = 500
EVENT_DEPTH = 16
EVENT_VALUES = 2000
ITEM_BYTES = 16 * 1024

EVERYWHERE = "="
"""In the place of a room's name: what holds in all of them. No room is called so."""

_ROOM = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
# C0, DEL, C1; line and paragraph ends; what reorders the text around it: embeddings, overrides and isolates; halves of
# surrogate pairs, which no encoder takes. LRM, RLM and ALM stay: honest right-to-left text needs them, and they reorder
# nothing by themselves.
_BAD_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
ACCENTS = "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
"""Marks that go with letters of any kind, as a class of a pattern. What is left of them in NFC is rarely writing."""
_ACCENT = re.compile(f"[{ACCENTS}]")
# What Unicode 15 to 18 have added: Python 3.11 knows 14, and whoever reads a comment may know more.
_NEWER = "\u05c8\u05c9\u0897\u0b53\u0b54\u0cf3\u0ece\u1acf-\u1af0"
_NEWER_FAR = (
    "\U00010d69-\U00010d6d\U00010ecb-\U00010ecf\U00010ef0-\U00010eff\U00011241\U000113b8-\U000113c0\U000113c2\U000113c5"
    "\U000113c7-\U000113ca\U000113cc-\U000113d0\U000113d2\U000113e1\U000113e2\U00011b60-\U00011b67\U00011df0"
    "\U00011f00\U00011f01\U00011f03\U00011f34-\U00011f3a\U00011f3e-\U00011f42\U00011f5a"
    "\U00013447-\U00013455\U0001611e-\U0001612f\U0001d127\U0001d128\U0001d250-\U0001d252\U0001d25b\U0001d25c"
    "\U0001d25f\U0001d280\U0001d281\U0001e08f\U0001e4ec-\U0001e4ef\U0001e5ee\U0001e5ef"
    "\U0001e6e3\U0001e6e6\U0001e6ee\U0001e6ef\U0001e6f5"
)
MARKS = "".join(chr(code) for code in range(0x300, 0x10000) if unicodedata.category(chr(code))[0] == "M") + _NEWER
"""All marks of the basic plane, as a class of a pattern: the vowels of Indic scripts, Thai or Burmese among them."""
FAR = _NEWER_FAR + "".join(chr(code) for code in range(0x10000, 0x1F000) if unicodedata.category(chr(code))[0] == "M")
"""All others."""
_MARK, _FAR = re.compile(f"[{MARKS}{FAR}]"), re.compile(f"[{FAR}]")
UNSEEN = (
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2060-\u2065\u206a-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufffb\U0001107f\U00013430-\U00013442\U00016fe4\U0001bca0-\U0001bca3\U0001d159"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""What shows nothing by itself, as a class of a pattern: joiners, selectors, fillers, tags, signs of format. A mark
behind it stands on the letter before it."""
_UNSEEN = re.compile(f"[{UNSEEN}]")
_EMPTY = re.compile(f"[{UNSEEN}\\s\u2800]+")
# So many above or below one letter run into the lines around it: accents, marks of all kinds, those of the rare scripts
# beyond the basic plane. Honest writing has up to 2 of the first (in NFC), up to 6 of all (Burmese, Tibetan), and gets
# by with 4 of the last.
_FINE = 4, 8, 4

Ref = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[\x21-\x7e]+\Z")]
Id = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+\Z")]
Room = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
Reaction = Annotated[str, Meta(min_length=1, max_length=32, pattern=r"^[a-z0-9_]+\Z")]

T = TypeVar("T")
Message = dict[str, Any]
"""One object of the protocol, on its way to clients."""


Name = Annotated[str, Meta(min_length=1, max_length=64)]


class Author(Struct):
    """Whose comment it is, where that is not who sends it."""

    id: Name
    name: Annotated[str, Meta(min_length=1, max_length=256)] | None = None  # 64 in NFC
    role: Annotated[str, Meta(min_length=1, max_length=32)] | None = None
    badges: Annotated[list[Annotated[str, Meta(min_length=1, max_length=32)]], Meta(max_length=8)] = []


class Paid(Struct, forbid_unknown_fields=True):
    """What has been paid for: a tier, and how long the comment stays in sight."""

    tier: Annotated[int, Meta(ge=1, le=1000)]
    pin_seconds: Annotated[int, Meta(ge=0, le=86400)] = 0


class CommentBody(Struct, kw_only=True):
    """A comment as its author sends it: the body of a POST, and what the `comment` op adds its tag to. One that is
    `paid` is sent by the site for its author `u`."""

    x: str
    re: Id | None = None
    ref: Ref | None = None
    paid: Paid | None = None
    u: Author | None = None


class Comment(CommentBody, kw_only=True, tag_field="op", tag="comment"):
    pass


class ReactionBody(Struct):
    k: Reaction


class React(ReactionBody, tag_field="op", tag="react"):
    pass


class Visible(Struct, tag_field="op", tag="visible"):
    on: bool


class Auth(Struct, tag_field="op", tag="auth"):
    token: Annotated[str, Meta(min_length=1, max_length=4096)]


class Ping(Struct, tag_field="op", tag="ping"):
    pass


Op = Comment | React | Visible | Auth | Ping

_json_op = msgspec.json.Decoder(Op)
_msgpack_op = msgspec.msgpack.Decoder(Op)
_json_comment = msgspec.json.Decoder(CommentBody)
_json_reaction = msgspec.json.Decoder(ReactionBody)
_json_event = msgspec.json.Decoder(dict[str, Any])


def decode_op(data: bytes, *, binary: bool = False) -> Op:
    """One message of a WebSocket client: JSON, or MessagePack when it was `binary`."""
    decoder = _msgpack_op if binary else _json_op
    try:
        op: Op = decoder.decode(data)
    except msgspec.ValidationError as bad:
        # Which op it is decides nothing else here, so the words of the decoder are what tells the two apart.
        words = str(bad)
        raise EdgeError("bad_op" if words.endswith("`$.op`") or "field `op`" in words else "bad_json", words) from None
    except (ValueError, RecursionError) as bad:
        raise EdgeError("bad_json", _malformed(bad)) from None
    if isinstance(op, Comment):
        try:
            op.x = clean_text(op.x)
        except EdgeError as bad:
            bad.ref = op.ref
            raise
    return op


def decode_comment(data: bytes) -> CommentBody:
    """The body of POST …/comments."""
    body = decoded(_json_comment.decode, data)
    body.x = clean_text(body.x)
    return body


def decode_reaction(data: bytes) -> str:
    """The kind in the body of POST …/reactions."""
    return decoded(_json_reaction.decode, data).k


def decode_event(data: bytes) -> dict[str, Any]:
    """The body of POST …/score: any JSON object, as deep and as long as every encoding can carry."""
    event = decoded(_json_event.decode, data)
    _check_event(event)
    return event


def decoded(decode: Callable[[bytes], T], data: bytes, problem: str = "bad_json") -> T:
    """What `decode` makes of it, or what is wrong with it: `problem` where it is JSON, but not that."""
    try:
        return decode(data)
    except msgspec.ValidationError as bad:
        raise EdgeError(problem, str(bad)) from None
    except (ValueError, RecursionError) as bad:
        raise EdgeError("bad_json", _malformed(bad)) from None


def _malformed(bad: Exception) -> str:
    """What a decoder has against some bytes, in words."""
    return "nested too deeply" if isinstance(bad, RecursionError) else str(bad)


def _check_event(event: dict[str, Any]) -> None:
    left = EVENT_VALUES
    level: list[Any] = [event]
    for _ in range(EVENT_DEPTH):
        deeper: list[Any] = []
        for value in level:
            left -= 1
            if isinstance(value, dict):
                deeper.extend(value.values())
            elif isinstance(value, list):
                deeper.extend(value)
            elif isinstance(value, int) and not -(2**63) <= value < 2**64:
                raise EdgeError("bad_json", "a number is beyond 64 bits")
            elif isinstance(value, float) and not math.isfinite(value):
                raise EdgeError("bad_json", "a number is not finite")
        if left < 0:
            raise EdgeError("bad_json", f"more than {EVENT_VALUES} values")
        if not deeper:
            return
        level = deeper
    raise EdgeError("bad_json", f"nested deeper than {EVENT_DEPTH}")


def clean_text(text: str) -> str:
    """The text in NFC, or bad_text saying why not."""
    if text.isascii():
        if len(text) <= TEXT_CHARS and text.isprintable() and text.strip():
            return text
    else:
        text = normal(text, TEXT_CHARS)
    if len(text) <= TEXT_CHARS and _scan.fine(text):
        return text
    raise EdgeError("bad_text", f"the text {fault(text, TEXT_CHARS)}")


def normal(text: str, most: int) -> str:
    """In NFC, but for what has more than `most` characters in any case: composing shortens none to a quarter."""
    return unicodedata.normalize("NFC", text) if len(text) <= 4 * most else text


def fault(text: str, most: int) -> str:
    """What is wrong with a text in NFC that everybody will see; empty where nothing is."""
    if len(text) > most:
        return f"has more than {most} characters"
    if _scan.fine(text):
        return ""
    if found := _BAD_TEXT.search(text):
        return f"contains U+{ord(found[0]):04X}, a character that is not to be shown"
    return "is empty" if not text or _EMPTY.fullmatch(text) else "has too many marks on one letter"


def _seen(code: int) -> tuple[bool, bool, bool, bool, bool, bool]:
    """Whether a character is bad, whether it shows anything, whether what follows it stands on what is before it, and
    of which kinds of marks it is."""
    char = chr(code)
    bad, shown, passed = _BAD_TEXT.match(char), not _EMPTY.match(char), _UNSEEN.match(char)
    marks = (_ACCENT.match(char), _MARK.match(char), _FAR.match(char))
    accent, mark, far = ((found is not None and not passed) for found in marks)
    return bad is not None, shown, passed is not None, accent, mark, far


# One pass for a text that nothing is to be said against, which is nearly every one.
_scan = Scan(_seen, _FINE)


def check_room(room: str) -> str:
    if not _ROOM.fullmatch(room):
        raise EdgeError("bad_room")
    return room


def comment_id(author: str, ref: str | None) -> str:
    """The same for the same author and ref, wherever and whenever it is made; one of a kind without a ref."""
    return _ids.of(author, ref) if ref is not None else urlsafe_b64encode(os.urandom(12)).decode()


_ids = Ids(b"edge.comment")


# What travels between workers.


class Item(msgspec.Struct, array_like=True, frozen=True):
    """One comment on its way to its room's owner, who need not look into it. `size` is its length as JSON. One that is
    `paid` for is not left out of a sample."""

    room: str
    id: str
    size: int
    comment: msgspec.Raw
    paid: bool = False


_decode_item = msgspec.msgpack.Decoder(Item).decode


def item(room: str, made: Message, paid: bool = False) -> bytes:
    """`made` is a `comment`."""
    return _pack(Item(room, made["id"], len(_as_json(made)) + 1, msgspec.Raw(_pack(made)), paid))


def shown(user: Mapping[str, Any], tier: int | str | None) -> Shown:
    """What all comments of one author have in common: for the items of those that say nothing but their text."""
    more = b"" if tier is None else _pack(tier)
    size = len(_as_json(user)) + (0 if tier is None else len(_as_json({"tier": tier})) - 1)
    return Shown(_pack(user), more, size)


_pack = msgspec.msgpack.Encoder().encode
_as_json = msgspec.json.Encoder().encode


def decode_item(data: bytes, known: Container[str] = ()) -> Item:
    """Raises ValueError for what is none. The names of `known` rooms have been looked at before."""
    found = _decode_item(data)
    if (found.room not in known and not _ROOM.fullmatch(found.room)) or not 0 < found.size <= ITEM_BYTES:
        raise ValueError("an item without a room, or with no size")
    return found


# What clients are told. `t`, `id` and `ts` come first, in that order, in all that is on a lane.


def comment(
    id_: str,
    user: Mapping[str, Any],
    text: str,
    ts: int,
    *,
    re: str | None = None,
    at: Iterable[str] = (),
    tier: int | str | None = None,
    pin_until: int | None = None,
) -> Message:
    """One entry of a batch's `m`. `user` is {"id", "name", "role"?, "badges"?}."""
    made: Message = {"id": id_, "u": user, "x": text, "ts": ts}
    if re is None and not at and tier is None and pin_until is None:
        return made
    return _with(made, re=re, at=list(at) or None, tier=tier, pin_until=pin_until)


def batch(
    seq: int,
    ts: int,
    comments: Sequence[Message | msgspec.Raw],
    *,
    reactions: Mapping[str, int] | None = None,
    viewers: int | None = None,
    of: int | None = None,
) -> Message:
    """Number `seq` of the chat lane. What is None has not changed; `of` only when `comments` is a sample."""
    made: Message = {"t": "batch", "id": f"c{seq}", "ts": ts, "m": comments}
    return _with(made, r=None if reactions is None else dict(reactions), n=viewers, of=of)


def score(seq: int, ts: int, event: Mapping[str, Any]) -> Message:
    return {"t": "score", "id": f"m{seq}", "ts": ts, "e": dict(event)}


def own(comment: Message) -> Message:
    """To its author's sockets, for nobody else is shown it."""
    return {"t": "own", "m": [comment]}


def retraction(seq: int, ts: int, ids: Iterable[str]) -> Message:
    """The comments `ids` are gone, also where they have not arrived yet."""
    return {"t": "del", "id": f"m{seq}", "ts": ts, "ids": list(ids)}


def state(seq: int, ts: int, fields: Mapping[str, Any]) -> Message:
    return {"t": "state", "id": f"m{seq}", "ts": ts, **fields}


def ack(ref: str | None, id_: str | None, status: str, error: EdgeError | None = None) -> Message:
    """What became of one comment, to its author alone: published, pending, rejected or unknown."""
    if error is None and ref is not None and id_ is not None:
        return {"t": "ack", "ref": ref, "id": id_, "status": status}
    made = _with({"t": "ack"}, ref=ref, id=id_)
    made["status"] = status
    if error is not None:
        made |= error.body()
    return made


def error(problem: EdgeError) -> Message:
    """An answer to a message that is not worth an ack, since it names no ref."""
    return {"t": "error", **problem.body()}


def _with(made: Message, **optional: Any) -> Message:
    for key, value in optional.items():
        if value is not None:
            made[key] = value
    return made
