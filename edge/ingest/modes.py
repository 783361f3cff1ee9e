# What moderators set a room to: who may speak, how often, and whether somebody looks first. Modes are values; the one
# thing here that changes is the slow mode that turns itself on. It must never hold back a moderator.
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from edge.ingest.limits import Author
from edge.ingest.meter import Meter, Switch
from edge.ingest.text import emote_only
from edge.ingest.verdict import Refusal
from edge.wire import decoded

SLOW_MOST_S = 6 * 3600
AUTO_ON = 20_000
"""Comments a second that a room is offered, from which it turns slow by itself."""
AUTO_OFF = 10_000
AUTO_CALM_S = 10.0
AUTO_SLOW_S = 10


class Mode(Struct, frozen=True, forbid_unknown_fields=True):
    """A room's, as it is set and as all are told it. `pre` shows a comment when it has been looked at, `post` at once.
    `slow_seconds` is the time between two comments of one user; 0 is none."""

    slow_seconds: Annotated[int, Meta(ge=0, le=SLOW_MOST_S)] = 0
    subs_only: bool = False
    emote_only: bool = False
    closed: bool = False
    moderation: Literal["pre", "post"] = "post"


OPEN = Mode()
_mode = msgspec.json.Decoder(Mode).decode


def decode(data: bytes) -> Mode:
    """The body of PUT …/mode, or bad_mode saying what is wrong in it. What it does not name is as in an open room."""
    return decoded(_mode, data, "bad_mode")


def check(
    mode: Mode, author: Author, text: str, last_said: float | None, now: float, *, paid: bool = False
) -> Refusal | None:
    """`last_said` is when this author's last comment in the room was taken; None where that is long ago. Who has paid
    need not wait; all else holds for them, too."""
    if mode is OPEN or author.moderates:
        return None
    if mode.closed:
        return Refusal("room_closed", "mode")
    if mode.subs_only and not author.subscriber:
        return Refusal("subs_only", "mode")
    if mode.emote_only and not emote_only(text):
        return Refusal("emote_only", "mode")
    if mode.slow_seconds and last_said is not None and not paid:
        wait_s = last_said + mode.slow_seconds - now
        if wait_s > 0:
            return Refusal("slow_mode", "mode", wait_s, f"the room is in slow mode: {mode.slow_seconds} s between two")
    return None


class AutoSlow:
    """Slow mode that follows what a room is offered, before any limit: what the limits refuse has cost as much."""

    __slots__ = ("_offered", "_switch", "offered", "slow_seconds")

    def __init__(
        self, on: float = AUTO_ON, off: float = AUTO_OFF, calm_s: float = AUTO_CALM_S, slow_seconds: int = AUTO_SLOW_S
    ) -> None:
        self._offered = Meter(1.0)
        self.offered = self._offered.add  # for each comment, with the time: so it costs one call
        self._switch = Switch(on, off, calm_s)
        self.slow_seconds = slow_seconds

    @property
    def is_on(self) -> bool:
        return self._switch.is_on

    def rate(self, now: float) -> float:
        """Comments in the last second, at this worker."""
        return self._offered.seen(now)

    def turn(self, now: float, elsewhere: float = 0.0) -> bool | None:
        """True where it has just turned itself on, False off, None where it stays. `elsewhere` is the rate at the
        other workers."""
        return self._switch.turn(self.rate(now) + elsewhere, now)

    def applied(self, mode: Mode) -> Mode:
        """The mode that holds now: a slower one that a moderator has set stays."""
        if not self._switch.is_on or mode.slow_seconds >= self.slow_seconds:
            return mode
        return msgspec.structs.replace(mode, slow_seconds=self.slow_seconds)
