# Somebody who speaks in a room: all that is the same for each of their comments there, worked out once. A value.
from msgspec import Struct

from edge import wire
from edge._fast.item import Shown
from edge.auth import Identity
from edge.ingest.modes import Author
from edge.ingest.pipeline import Pipeline, Voice

NEWCOMER = 0.1
"""The reputation below which an account counts as a new one."""


class Speaker(Struct, frozen=True, gc=False):
    identity: Identity
    room: str
    voice: Voice
    shown: Shown
    moderates: bool


def speaker(pipeline: Pipeline, identity: Identity, room: str, address: bytes) -> Speaker:
    """`address` is as the engine has it, or empty where it is not the author's."""
    moderates = identity.moderates
    role = "moderator" if moderates else identity.role
    newcomer = identity.reputation is not None and identity.reputation < NEWCOMER
    author = Author(identity.user, role, identity.badges, subscriber=identity.tier is not None, newcomer=newcomer)
    shown = wire.shown(identity.public(), identity.tier)
    return Speaker(identity, room, pipeline.voice(room, author, address), shown, moderates)
