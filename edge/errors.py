"""Every error that a client can meet, in one place: its name, HTTP status, close code, words, and what to do about it.

A leaf: it imports nothing of the server. Names are part of the protocol (the `error` key of an answer and of an `ack`),
so one may be added, but none renamed. Nobody builds an error answer from words of their own.
"""

from typing import NamedTuple


class Problem(NamedTuple):
    """One row of the table. `close` is the WebSocket close code where the error ends the socket, else None."""

    name: str
    status: int
    close: int | None
    message: str
    advice: str


class Close(NamedTuple):
    """A close code that this server sends or understands."""

    code: int
    name: str
    meaning: str
    advice: str


_MEND = "do not repeat the request unchanged"
_LATER = "try again after retry_after seconds, or with growing pauses where none is given"

PROBLEMS: dict[str, Problem] = {
    row.name: row
    for row in (
        Problem("bad_request", 400, 1002, "the request is malformed", _MEND),
        Problem("unauthorized", 401, 1008, "a valid token is needed", "get a fresh token, then connect again"),
        Problem("forbidden", 403, 1008, "the token does not allow this", _MEND),
        Problem("not_found", 404, None, "there is nothing at this address", _MEND),
        Problem("method_not_allowed", 405, None, "this address does not take that method", "see the Allow header"),
        Problem("timeout", 408, 1008, "the request did not arrive in time", "try again"),
        Problem("stale", 409, None, "this changed in the meantime", "read it again, then decide anew"),
        Problem("too_large", 413, 1009, "the message is too large", "send less in one message"),
        Problem("uri_too_long", 414, None, "the address is too long", "shorten the query"),
        Problem("upgrade_required", 426, None, "this address speaks WebSocket 13", "send a WebSocket upgrade"),
        Problem("too_many", 429, 1013, "too many of these from you", _LATER),
        Problem("headers_too_large", 431, None, "the request head is too large", "send fewer or shorter headers"),
        Problem("overloaded", 503, 1013, "the server has as much as it can carry", _LATER),
        Problem("unavailable", 503, 1013, "a part that this needs is not there now", _LATER),
        Problem("bad_json", 400, None, "this is not the JSON that is wanted here", _MEND),
        Problem("bad_text", 400, None, "the text is empty, too long or not plain text", "ask the author to change it"),
        Problem("unknown_comment", 404, None, "this comment is not, or no longer, known in this room", _MEND),
        Problem("unknown_user", 404, None, "somebody who is mentioned is not here", "ask the author to change it"),
        Problem("key_reused", 409, None, "this key has been used for another comment", "take a new key"),
        Problem("bad_words", 400, None, "the list has a bad entry, or too many", "mend the entry that is named"),
        Problem("bad_pattern", 400, None, "a pattern is malformed or too costly", "mend the pattern that is named"),
        Problem("bad_mode", 400, None, "there is no such mode", _MEND),
        Problem("bad_reaction", 400, None, "this reaction is not taken here", "send one of those that are"),
        Problem("moderated", 403, None, "the rules of this room do not allow this text", "ask the author to change it"),
        Problem("repeated", 429, None, "many have just sent this text", "ask the author for other words"),
        Problem("slow_mode", 429, None, "the room is in slow mode", "try again after retry_after seconds"),
        Problem("subs_only", 403, None, "only subscribers may comment here now", "wait for the room's state to change"),
        Problem(
            "emote_only", 403, None, "only emotes may be sent here now", "send emotes, or wait for the state to change"
        ),
        Problem("banned", 403, 1008, "you may not comment here", "wait for retry_after seconds, where it is given"),
        Problem("room_closed", 403, None, "nobody may comment here now", "wait for the room's state to change"),
        Problem("bad_op", 400, None, "there is no such operation", _MEND),
        Problem("bad_room", 400, None, "a room is 1 to 64 of A-Z a-z 0-9 _ -", _MEND),
        Problem("unknown_room", 404, 1008, "there is no such room", _MEND),
        Problem("internal", 500, 1011, "the server made a mistake", _LATER),
    )
}

CLOSES: dict[int, Close] = {
    row.code: row
    for row in (
        Close(1000, "normal", "the viewer left", "nothing"),
        Close(1001, "going_away", "the page or the server goes away", "reconnect, with since"),
        Close(1002, "protocol_error", "a frame broke RFC 6455", "mend the client"),
        Close(1003, "unsupported", "a binary message where text is wanted, or the reverse", "mend the client"),
        Close(1007, "bad_data", "a text message was not UTF-8, or did not inflate", "mend the client"),
        Close(1008, "policy", "bad or ended token, banned, or the head came too slowly", "get a fresh token first"),
        Close(1009, "too_big", "a message was over the limit", "send less in one message"),
        Close(1011, "internal", "the server made a mistake", "reconnect with growing pauses, with since"),
        Close(1012, "restart", "the server restarts", "reconnect with the ticket, or with since"),
        Close(1013, "overloaded", "overloaded, or this viewer reads too slowly", "reconnect later, with since"),
    )
}


class EdgeError(Exception):
    """An error of the table, raised where it is met and written out by whoever holds the socket.

    `detail` replaces the table's message where more can be said; it is shown to the client, so it holds no secrets.
    `ref` is that of the comment which it is about, where that is known by then: its author gets an ack, then.
    """

    def __init__(self, name: str, detail: str | None = None, *, retry_after: float | None = None) -> None:
        self.problem = PROBLEMS[name]
        self.message = detail or self.problem.message
        self.retry_after = retry_after
        self.ref: str | None = None
        super().__init__(f"{name}: {self.message}")

    @property
    def name(self) -> str:
        return self.problem.name

    @property
    def status(self) -> int:
        return self.problem.status

    def body(self) -> dict[str, str | float]:
        """The one-line JSON object of an HTTP answer; the same keys go into a rejected `ack`."""
        body: dict[str, str | float] = {"error": self.name, "message": self.message}
        if self.retry_after is not None:
            body["retry_after"] = self.retry_after
        return body
