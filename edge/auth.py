# Who is speaking: tokens (JWT, HS256) become identities. It owns the key and a bounded memory of what it has verified.
# It must never read a clock (time is an argument), accept another algorithm than its own, or show a token in an error.

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, TypeVar

import jwt
import msgspec
from msgspec import Struct

from edge.errors import EdgeError

T = TypeVar("T")

ALGORITHM = "HS256"
SCOPES = frozenset({"read", "comment", "paid", "score", "moderate", "admin"})
KEY_BYTES = 32  # RFC 7518 3.2: an HS256 key no shorter than its hash
TOKEN_CHARS = 4096
LEEWAY_S = 5.0  # between the clocks of who mints and who verifies
VERIFIED = 10_000
REFUSED = 1_000
REFUSED_S = 10.0


class Identity(Struct, frozen=True):
    """Who a request or a socket speaks for. `rooms` is None where the token is good for every room; `exp` is unix
    time in seconds, None where it never ends (only in dev)."""

    user: str
    name: str
    scopes: frozenset[str] = frozenset()
    rooms: frozenset[str] | None = None
    role: str | None = None
    badges: tuple[str, ...] = ()
    tier: int | None = None
    exp: float | None = None

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


class _Claims(Struct):
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


class _Refusal(Struct, frozen=True):
    message: str
    until: float


class Tokens:
    """Verifies tokens, and mints them for tests. With `audience` or `issuer`, a token must name it."""

    def __init__(self, key: str | bytes, *, audience: str | None = None, issuer: str | None = None) -> None:
        self._key = key.encode() if isinstance(key, str) else key
        if len(self._key) < KEY_BYTES:
            raise ValueError(f"the token key has {len(self._key)} bytes, and {KEY_BYTES} is the least")
        self._audience = audience or None  # empty is how a config file says none
        self._issuer = issuer or None
        # Two memories, so that a flood of bad tokens cannot push the good ones out.
        self._verified: OrderedDict[str, Identity] = OrderedDict()
        self._refused: OrderedDict[str, _Refusal] = OrderedDict()

    def verify(self, token: str, now: float) -> Identity:
        """The token's identity, or `unauthorized` saying what is wrong with it. `now` is unix time in seconds."""
        known = self._verified.get(token)
        if known is not None:
            if known.exp is not None and now < known.exp + LEEWAY_S:
                self._verified.move_to_end(token)
                return known
            del self._verified[token]
            raise EdgeError("unauthorized", "the token has ended")
        refusal = self._refused.get(token)
        if refusal is not None:
            if now < refusal.until:
                raise EdgeError("unauthorized", refusal.message)
            del self._refused[token]
        try:
            identity = self._read(token, now)
        except EdgeError as refused:
            if len(token) <= TOKEN_CHARS:
                _remember(self._refused, token, _Refusal(refused.message, now + REFUSED_S), REFUSED)
            raise
        _remember(self._verified, token, identity, VERIFIED)
        return identity

    def mint(
        self,
        user: str,
        exp: float,
        *,
        scopes: Iterable[str] = ("read", "comment"),
        rooms: Iterable[str] | None = None,
        **claims: Any,
    ) -> str:
        """A token for `user` until `exp`. `claims` are added as they are (name, role, badges, tier, nbf)."""
        made: dict[str, Any] = {"sub": user, "exp": exp, "scope": " ".join(scopes), **claims}
        if rooms is not None:
            made["rooms"] = list(rooms)
        if self._audience is not None:
            made.setdefault("aud", self._audience)
        if self._issuer is not None:
            made.setdefault("iss", self._issuer)
        return jwt.encode(made, self._key, ALGORITHM)

    def _read(self, token: str, now: float) -> Identity:
        if len(token) > TOKEN_CHARS:
            raise EdgeError("unauthorized", f"the token has more than {TOKEN_CHARS} characters")
        try:
            found = jwt.decode(
                token,
                self._key,
                algorithms=[ALGORITHM],
                audience=self._audience,
                issuer=self._issuer,
                options={
                    # Times are checked below, against `now`. A token that names an audience is refused where none is
                    # configured (RFC 7519 4.1.3): it was made for somebody else.
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_iss": self._issuer is not None,
                },
            )
            claims = msgspec.convert(found, _Claims)
        except jwt.InvalidTokenError as bad:
            raise EdgeError("unauthorized", f"the token is not valid: {_words(bad)}") from None
        except msgspec.ValidationError as bad:
            raise EdgeError("unauthorized", f"the token's claims are not valid: {bad}") from None
        except (ValueError, RecursionError):
            raise EdgeError("unauthorized", "the token is not valid: not a JWT") from None
        if not now < claims.exp + LEEWAY_S:
            raise EdgeError("unauthorized", "the token has ended")
        if claims.nbf is not None and not now >= claims.nbf - LEEWAY_S:
            raise EdgeError("unauthorized", "the token is not valid yet")
        return _identity(claims)


def _words(bad: jwt.InvalidTokenError) -> str:
    """PyJWT's words where they are its own; not those that repeat what the token's sender wrote."""
    if isinstance(bad, jwt.InvalidAlgorithmError):
        return f"its algorithm is not {ALGORITHM}"
    if isinstance(bad, jwt.InvalidSignatureError):
        return "wrong signature"
    if isinstance(bad, jwt.InvalidAudienceError):
        return "wrong audience"
    if isinstance(bad, jwt.InvalidIssuerError):
        return "wrong issuer"
    if isinstance(bad, jwt.MissingRequiredClaimError):
        return f"no {bad.claim}"
    return "not a JWT"


def _identity(claims: _Claims) -> Identity:
    scopes = claims.scope.split() if isinstance(claims.scope, str) else claims.scope
    return Identity(
        user=check_name(claims.sub, "sub"),
        name=check_name(claims.name, "name") if claims.name else claims.sub,
        scopes=SCOPES.intersection(scopes),  # a scope of a later version means nothing here
        rooms=None if claims.rooms is None else frozenset(claims.rooms),
        role=check_name(claims.role, "role") if claims.role else None,
        badges=tuple(check_name(badge, "badges") for badge in claims.badges[:8]),
        tier=claims.tier,
        exp=claims.exp,
    )


def check_name(name: str, what: str) -> str:
    """Names are shown to every viewer, so they are as harmless as a comment's text."""
    if not 1 <= len(name) <= 64 or not name.isprintable() or name.isspace():
        raise EdgeError("unauthorized", f"{what}: 1 to 64 printable characters")
    return name


def dev(user: str) -> Identity:
    """Whoever `user` says, with every scope and without an end: for --dev alone."""
    return Identity(user=check_name(user, "user"), name=user, scopes=SCOPES)


def _remember(memory: OrderedDict[str, T], token: str, value: T, most: int) -> None:
    memory[token] = value
    if len(memory) > most:
        memory.popitem(last=False)
