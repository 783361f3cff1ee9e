# What may become of a comment, as values: refusals, verdicts, and what a classifier's score means. It owns the
# thresholds, and must never know who decided or why they may.
import math
from enum import IntEnum
from typing import NamedTuple

from msgspec import Struct

from edge.errors import EdgeError

REVIEW = 0.3
REMOVE = 0.7
OFFENDER_STRIKES = 3
"""Comments of theirs that were removed lately, from which on an author is a repeat offender."""
OFFENDER = 2 / 3
"""What a repeat offender's thresholds are multiplied by."""


class Refusal(NamedTuple):
    """Why a comment was not taken. `name` is of the table of errors, `which` the part that refused; `retry_after` is
    in seconds, None where waiting does not help."""

    name: str
    which: str
    retry_after: float | None = None
    detail: str | None = None

    def error(self) -> EdgeError:
        # Rounded up, so that who waits just as long as told is not refused once more.
        wait_s = None if self.retry_after is None else math.ceil(self.retry_after * 1000) / 1000
        return EdgeError(self.name, self.detail, retry_after=wait_s)


class Kind(IntEnum):
    """In the order of severity: of two the greater holds."""

    PUBLISH = 0
    PENDING = 1
    """It waits for a verdict, and its author is told so."""
    SHADOW = 2
    """Its author alone sees it, and is told that it is published."""
    REJECTED = 3


class Verdict(NamedTuple):
    """`refusal` is there where it is REJECTED, and only there. `to_review` asks for a moderator's eyes, whatever is
    done now. `reasons` are for moderators and the audit trail, never for the author."""

    kind: Kind
    refusal: Refusal | None = None
    to_review: bool = False
    reasons: tuple[str, ...] = ()


PUBLISH = Verdict(Kind.PUBLISH)


class Ruling(IntEnum):
    """What a score asks for."""

    PASS = 0
    REVIEW = 1
    SHADOW = 2
    REMOVE = 3
    """Reject it where nobody has seen it, hide it where somebody may have."""


class Thresholds(Struct, frozen=True):
    """Above `remove` a comment goes, from `review` on somebody looks at it. Those who were removed `strikes` times are
    measured by lower ones, and what is above the lower `remove` alone is shown to its author only."""

    review: float = REVIEW
    remove: float = REMOVE
    strikes: int = OFFENDER_STRIKES
    offender: float = OFFENDER

    def __post_init__(self) -> None:
        if not 0 <= self.review <= self.remove <= 1:
            raise ValueError("thresholds: 0 <= review <= remove <= 1 is wanted")
        if not 0 < self.offender <= 1 or self.strikes < 1:
            raise ValueError("thresholds: an offender's factor above 0 and at most 1, strikes from 1")

    def rule(self, score: float, strikes: int = 0) -> Ruling:
        """`score` is 0 to 1. Raises ValueError for what is none: a classifier that answers so is broken."""
        if not 0 <= score <= 1:
            raise ValueError(f"a score of {score}")
        if score > self.remove:
            return Ruling.REMOVE
        if strikes >= self.strikes:
            if score > self.remove * self.offender:
                return Ruling.SHADOW
            return Ruling.REVIEW if score >= self.review * self.offender else Ruling.PASS
        return Ruling.REVIEW if score >= self.review else Ruling.PASS
