# Somebody who speaks in a room: all that is the same for each of their comments there, worked out once. A value.
from msgspec import Struct

from edge import wire
from edge._fast.item import Shown
from edge.auth import Identity
from edge.ingest.limits import Author
from edge.ingest.pipeline import Pipeline, Voice

BOT, VERIFIED = "bot", "verified"
"""A verified bot has this role, and this badge. Nobody moderates by a role: that is a scope."""
NEWCOMER = 0.1
"""The reputation below which an account counts as a new one."""


class Speaker(Struct, frozen=True, gc=False):
    identity: Identity
    room: str
    voice: Voice
    shown: Shown


def speaker(pipeline: Pipeline, identity: Identity, room: str, address: bytes) -> Speaker:
    """`address` is as the engine has it, or empty where it is not the author's."""
    bot = identity.role == BOT and VERIFIED in identity.badges
    newcomer = identity.reputation is not None and identity.reputation < NEWCOMER
    author = Author(identity.user, identity.moderates, bot, subscriber=identity.tier is not None, newcomer=newcomer)
    shown = wire.shown(identity.public(), identity.tier)
    return Speaker(identity, room, pipeline.voice(room, author, address), shown)
