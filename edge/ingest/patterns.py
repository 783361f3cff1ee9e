# Patterns that a comment may not match, or is looked at for: the second stage of moderation. RE2's alone: they take
# time in the length of the text, whatever they are, so nobody's pattern can hang a worker. It owns the compiled set,
# which never changes: changed patterns are a new one. It must never take patterns of which one does not compile.
#
# How much time for a character is what the bounds are for: the machine behind a set is built while it reads, and a
# text may be written so that every character builds some more of it. Measured: 500 characters written so against a set
# of the full size written so, too, 40 ms; honest chat against 100 honest patterns 0.7 us, for what it needs is built.
from collections.abc import Sequence
from typing import Any, NamedTuple

import re2
from msgspec import Struct

from edge.errors import EdgeError
from edge.ingest.words import ACTIONS, Hit

PATTERNS = 200
PATTERN_CHARS = 500
PATTERN_SIZE = 1_000
"""Steps of RE2's program for one pattern."""
SET_SIZE = 4_000
"""And of all patterns of a room."""
SET_BYTES = 4 << 20
"""The memory that a room's patterns may take while they are searched for."""
_PROBE = "\ue000probe\ue000"


class Pattern(Struct, frozen=True, forbid_unknown_fields=True):
    """One pattern as moderators write it, in RE2's syntax. Case is ignored; `(?-i)` in it minds it."""

    text: str
    action: str = "reject"


class _Set(NamedTuple):
    compiled: Any
    hits: tuple[Hit, ...]


class Patterns:
    """Raises EdgeError `bad_pattern`, naming the first that is bad, and why."""

    def __init__(self, patterns: Sequence[Pattern] = ()) -> None:
        if len(patterns) > PATTERNS:
            raise EdgeError("bad_pattern", f"{len(patterns)} patterns, and {PATTERNS} is the limit")
        hits: list[Hit] = []
        left = SET_SIZE
        for number, pattern in enumerate(patterns, 1):
            try:
                left -= _size(pattern)
                if left < 0:
                    raise EdgeError("bad_pattern", f"with it the patterns take more than {SET_SIZE} steps together")
            except EdgeError as bad:
                words = f"pattern {number}, {pattern.text[:64]!r}: {bad.message}"
                raise EdgeError("bad_pattern", words) from None
            hits.append(Hit(ACTIONS[pattern.action], pattern.text))
        re2.purge()  # it keeps the last 128 single ones, which nobody asks for again
        self._set = _Set(_compile([pattern.text for pattern in patterns]), tuple(hits)) if hits else None

    def find(self, text: str, folded: str | None) -> Hit | None:
        """The most severe of what matches the text, as written or folded (normal.py). A folded text is in lower case,
        which is the same to all but a pattern with `(?-i)`; where folding has done no more, `folded` may be None."""
        if self._set is None:
            return None
        compiled, hits = self._set
        found: list[int] = compiled.Match(text.encode())
        if folded is not None and folded != text.lower():
            found += compiled.Match(folded.encode())
        if not found:
            return None
        real = [hits[index] for index in found if index < len(hits)]  # a text may have the probe in it
        return max(real, key=lambda hit: hit.kind) if real else None


def _options() -> Any:
    options = re2.Options()
    options.case_sensitive = False
    options.never_capture = True
    options.log_errors = False
    options.max_mem = SET_BYTES
    return options


def _size(pattern: Pattern) -> int:
    """How many steps it has, where it is good."""
    if pattern.action not in ACTIONS:
        raise EdgeError("bad_pattern", f"the action {pattern.action!r} is none of {', '.join(ACTIONS)}")
    if len(pattern.text) > PATTERN_CHARS:
        raise EdgeError("bad_pattern", f"{len(pattern.text)} characters, and {PATTERN_CHARS} is the limit")
    try:
        compiled = re2.compile(pattern.text, _options())
    except re2.error as bad:
        raise EdgeError("bad_pattern", _words(bad)) from None
    except UnicodeError:
        raise EdgeError("bad_pattern", "half of a surrogate pair in it") from None
    size = int(compiled.programsize)
    if size > PATTERN_SIZE:
        raise EdgeError("bad_pattern", f"it takes {size} steps, and {PATTERN_SIZE} is the limit")
    if compiled.search("") is not None:
        raise EdgeError("bad_pattern", "it matches every text, for it matches nothing at all")
    return size


def _words(bad: Exception) -> str:
    reason = bad.args[0] if bad.args else ""
    return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)


def _compile(texts: list[str]) -> Any:
    """The set; its last one is a probe, which shows that the memory is enough: a set that has too little of it matches
    nothing, without a word."""
    made = re2.Set.SearchSet(_options())
    for text in texts:
        made.Add(text)
    made.Add(_PROBE)
    try:
        made.Compile()
    except re2.error as bad:
        raise EdgeError("bad_pattern", f"all together: {_words(bad)}") from None
    if len(texts) not in (made.Match(_PROBE) or ()):
        raise EdgeError("bad_pattern", "all together they take too much memory")
    return made._set  # what it wraps: asked for each comment, the wrapper costs as much as the search
