# What a comment's text says besides its words: whom it mentions, and whether it is nothing but emotes. It takes clean
# text (edge/wire.py), and must never decide anything by it, but that it mentions too many.
import re

from edge.errors import EdgeError
from edge.wire import MARKS

MENTIONS = 10
"""More than these are refused in one comment: nobody is talked to by a list, and nobody it names is passed over."""
EMOTE_CHARS = 32

# A name's end is a letter or digit, so that the full stop behind a mention isn't part of it. What stands before the @
# keeps mail addresses out.
_LETTER = f"(?:\\w[{MARKS}]*)"
_MENTION = re.compile(f"(?<![\\w.@{MARKS}])@({_LETTER}(?:[.-]*{_LETTER}){{0,63}})")

# Emoji as UTS 51 puts them together: flags, keycaps, and pictures with a skin tone, a tag sequence (the flags of
# England, Scotland and Wales), joined by ZWJ. Python has no table of emoji, so these are the blocks that they are in.
_PICTURE = (
    "[\u00a9\u00ae\u203c\u2049\u2122\u2139\u2194-\u21aa\u231a-\u23ff\u24c2\u25aa-\u25fe\u2600-\u27bf\u2934\u2935"
    "\u2b05-\u2b55\u3030\u303d\u3297\u3299\U0001f000-\U0001f1e5\U0001f200-\U0001f3fa\U0001f400-\U0001faff]"
)
_ONE = f"{_PICTURE}\ufe0f?[\U0001f3fb-\U0001f3ff]?(?:[\U000e0020-\U000e007e]+\U000e007f)?"
_EMOJI = f"(?:[\U0001f1e6-\U0001f1ff]{{2}}|[0-9#*]\ufe0f?\u20e3|{_ONE}(?:\u200d{_ONE})*)"
_EMOTES = re.compile(rf"\s*(?:(?::[A-Za-z0-9_+-]{{1,{EMOTE_CHARS}}}:|{_EMOJI})\s*)+")


def mentions(text: str) -> tuple[str, ...]:
    """The names behind an @, each once, in their order; bad_text where they are too many."""
    if "@" not in text:
        return ()
    found: dict[str, None] = {}
    for match in _MENTION.finditer(text):
        found[match[1]] = None
        if len(found) > MENTIONS:
            raise EdgeError("bad_text", f"the text has more than {MENTIONS} mentions")
    return tuple(found)


def emote_only(text: str) -> bool:
    """Nothing but emoji and :emotes:, with or without space between."""
    return _EMOTES.fullmatch(text) is not None
