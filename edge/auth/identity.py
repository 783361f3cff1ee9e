# Who somebody is: the claims of a token, and the identity that they become. A value, and the rules for one. It must
# never let a claim through that cannot be shown to every viewer, or kept in a few bytes for a socket.
from typing import Any

from msgspec import Struct

from edge import wire
from edge.errors import EdgeError

SCOPES = frozenset({"read", "comment", "paid", "score", "moderate", "admin"})
BADGES = 8
NAME_CHARS = 64
TIER_MOST = 2**53 - 1  # what JavaScript reads exactly


class Identity(Struct, frozen=True):
    """Who a request or a socket speaks for. `rooms` is None where the token is good for every room; `exp` is unix
    time in seconds, None where it never ends (only in dev). `reputation` is from 0 to 1, and nobody is shown it."""

    user: str
    name: str
    scopes: frozenset[str] = frozenset()
    rooms: frozenset[str] | None = None
    role: str | None = None
    badges: tuple[str, ...] = ()
    tier: int | None = None
    exp: float | None = None
    reputation: float | None = None

    @property
    def moderates(self) -> bool:
        """In dev mode everybody has every scope, and is like anybody all the same: their tokens never end."""
        return "moderate" in self.scopes and self.exp is not None

    def check(self, scope: str, room: str) -> None:
        """Raises `forbidden` unless this identity may do what `scope` names in `room`."""
        if scope not in self.scopes:
            raise EdgeError("forbidden", f"this needs the scope {scope}")
        if self.rooms is not None and room not in self.rooms:
            raise EdgeError("forbidden", "the token is not for this room")

    def public(self) -> dict[str, Any]:
        """What others see of the author of a comment: `u`."""
        shown: dict[str, Any] = {"id": self.user, "name": self.name}
        if self.role:
            shown["role"] = self.role
        if self.badges:
            shown["badges"] = list(self.badges)
        return shown


class Claims(Struct):
    """What a token may say of its bearer. `scope` is OAuth's: names with spaces between, or a list of them."""

    sub: str
    exp: float
    nbf: float | None = None
    name: str | None = None
    scope: str | list[str] = ""
    rooms: list[str] | None = None
    role: str | None = None
    badges: list[str] = []
    tier: int | None = None
    reputation: float | None = None


def identity_of(claims: Claims) -> Identity:
    scopes = claims.scope.split() if isinstance(claims.scope, str) else claims.scope
    if claims.tier is not None and not -TIER_MOST <= claims.tier <= TIER_MOST:
        raise EdgeError("unauthorized", "tier: a whole number of at most 53 bits")
    if claims.reputation is not None and not 0 <= claims.reputation <= 1:
        raise EdgeError("unauthorized", "reputation: a number from 0 to 1")
    user = check_name(claims.sub, "sub")
    try:
        rooms = None if claims.rooms is None else frozenset(map(wire.check_room, claims.rooms))
    except EdgeError as bad:
        raise EdgeError("unauthorized", f"rooms: {bad.message}") from None
    return Identity(
        user=user,
        name=check_shown(claims.name, "name") if claims.name else check_shown(user, "sub"),
        scopes=SCOPES.intersection(scopes),  # a scope of a later version means nothing here
        rooms=rooms,
        role=check_shown(claims.role, "role") if claims.role else None,
        badges=tuple(check_shown(badge, "badges") for badge in claims.badges[:BADGES]),
        tier=claims.tier,
        exp=claims.exp,
        reputation=claims.reputation,
    )


def check_name(name: str, what: str) -> str:
    """One by which somebody is known, taken as it stands: bans and limits compare it."""
    if not 1 <= len(name) <= NAME_CHARS or not name.isprintable() or name.isspace():
        raise EdgeError("unauthorized", f"{what}: 1 to {NAME_CHARS} printable characters")
    return name


def check_shown(name: str, what: str) -> str:
    """One that is shown to every viewer, in NFC: by the rules of a comment's text."""
    name = wire.normal(name, NAME_CHARS)
    if wrong := wire.fault(name, NAME_CHARS):
        raise EdgeError("unauthorized", f"{what}: it {wrong}")
    return name


def spoken_for(author: wire.Author, tier: int | None = None) -> Identity:
    """Who a program of the site's own says that the author is."""
    try:
        user = check_name(author.id, "u.id")
        name = check_shown(author.name, "u.name") if author.name is not None else check_shown(user, "u.id")
        role = check_shown(author.role, "u.role") if author.role is not None else None
        badges = tuple(check_shown(badge, "u.badges") for badge in author.badges)
    except EdgeError as bad:
        raise EdgeError("bad_request", bad.message) from None
    return Identity(user, name, role=role, badges=badges, tier=tier)


def dev(user: str) -> Identity:
    """Whoever `user` says, with every scope and without an end: for --dev alone."""
    return Identity(user=check_name(user, "user"), name=check_shown(user, "user"), scopes=SCOPES)
