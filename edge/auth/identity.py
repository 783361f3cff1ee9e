# Who somebody is: the claims of a token, and the identity that they become. A value, and the rules for one. It must
# never let a claim through that cannot be shown to every viewer, or kept in a few bytes for a socket.
from typing import Any

from msgspec import Struct

from edge import wire
from edge.errors import EdgeError

SCOPES = frozenset({"read", "comment", "paid", "score", "moderate", "admin"})
BADGES = 8
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
    return Identity(
        user=check_name(claims.sub, "sub"),
        name=check_name(claims.name, "name") if claims.name else claims.sub,
        scopes=SCOPES.intersection(scopes),  # a scope of a later version means nothing here
        rooms=None if claims.rooms is None else frozenset(claims.rooms),
        role=check_name(claims.role, "role") if claims.role else None,
        badges=tuple(check_name(badge, "badges") for badge in claims.badges[:BADGES]),
        tier=claims.tier,
        exp=claims.exp,
        reputation=claims.reputation,
    )


def check_name(name: str, what: str) -> str:
    """Names are shown to every viewer, so they are as harmless as a comment's text."""
    if not 1 <= len(name) <= 64 or not name.isprintable() or name.isspace():
        raise EdgeError("unauthorized", f"{what}: 1 to 64 printable characters")
    return name


def spoken_for(author: wire.Author, tier: int | None = None) -> Identity:
    """Who a program of the site's own says that the author is."""
    try:
        user = check_name(author.id, "u.id")
        name = check_name(author.name, "u.name") if author.name is not None else user
        role = check_name(author.role, "u.role") if author.role is not None else None
        badges = tuple(check_name(badge, "u.badges") for badge in author.badges)
    except EdgeError as bad:
        raise EdgeError("bad_request", bad.message) from None
    return Identity(user, name, role=role, badges=badges, tier=tier)


def dev(user: str) -> Identity:
    """Whoever `user` says, with every scope and without an end: for --dev alone."""
    return Identity(user=check_name(user, "user"), name=user, scopes=SCOPES)
