# Tokens (JWT) become identities. It owns the keys in use and a bounded memory of what it has verified. It must never
# read a clock (time is an argument), wait for a key, or show a token in an error.

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar

import jwt
import msgspec
from msgspec import Struct

from edge.auth.identity import Claims, Identity, identity_of
from edge.auth.keys import PUBLIC, Header, Key, Keys, header_of, secret
from edge.errors import EdgeError

T = TypeVar("T")

TOKEN_CHARS = 4096
LEEWAY_S = 5.0  # between the clocks of who mints and who verifies
VERIFIED = 10_000
REFUSED = 1_000
REFUSED_S = 10.0

Missing = Literal["coming", "away", "unknown"] | float
"""What is known of a key that is not here: it is being asked for, nobody could be asked, or it is nobody's. A number is
the seconds until it may be asked for."""


class KeyComing(EdgeError):
    """The keys are being fetched: whoever can wait may ask again when they have come."""

    def __init__(self) -> None:
        super().__init__("unavailable", "the token's key is being fetched", retry_after=1)


class _Refusal(Struct, frozen=True):
    message: str
    until: float


class Tokens:
    """Verifies tokens, and mints them for tests. With `audience` or `issuer`, a token must name it.

    `missing` is asked about keys that are not here, by their names, and may fetch them; `replace` is how they come."""

    def __init__(
        self,
        keys: str | bytes | Keys,
        *,
        audience: str | None = None,
        issuer: str | None = None,
        missing: Callable[[str | None], Missing] | None = None,
    ) -> None:
        self.keys = keys if isinstance(keys, Keys) else Keys([secret(keys)])
        self._audience = audience or None  # empty is how a config file says none
        self._issuer = issuer or None
        self._missing = missing
        # Two memories, so that a flood of bad tokens cannot push the good ones out.
        self._verified: OrderedDict[str, Identity] = OrderedDict()
        self._refused: OrderedDict[str, _Refusal] = OrderedDict()

    def replace(self, keys: Keys) -> None:
        """Other keys from now on. What the old ones said is forgotten: one may be gone because it was stolen."""
        self.keys = keys
        self._verified.clear()
        self._refused.clear()

    def verify(self, token: str, now: float) -> Identity:
        """The token's identity, or `unauthorized` saying what is wrong with it, or `unavailable` where its key is not
        there. `now` is unix time in seconds."""
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
            if refused.name == "unauthorized" and len(token) <= TOKEN_CHARS:
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
        """A token for `user` until `exp`, signed with the secret. `claims` are added as they are (name, nbf, ...)."""
        made: dict[str, Any] = {"sub": user, "exp": exp, "scope": " ".join(scopes), **claims}
        if rooms is not None:
            made["rooms"] = list(rooms)
        if self._audience is not None:
            made.setdefault("aud", self._audience)
        if self._issuer is not None:
            made.setdefault("iss", self._issuer)
        key = next(key for key in self.keys.all if key.algorithm == "HS256")
        return jwt.encode(made, key.material, "HS256")

    def _read(self, token: str, now: float) -> Identity:
        if len(token) > TOKEN_CHARS:
            raise EdgeError("unauthorized", f"the token has more than {TOKEN_CHARS} characters")
        try:
            claims = msgspec.convert(self._decoded(token, header_of(token)), Claims)
        except jwt.InvalidTokenError as bad:
            raise EdgeError("unauthorized", f"the token is not valid: {_words(bad)}") from None
        except msgspec.ValidationError as bad:
            raise EdgeError("unauthorized", f"the token's claims are not valid: {bad}") from None
        except (ValueError, RecursionError, OverflowError):
            raise EdgeError("unauthorized", "the token is not valid: not a JWT") from None
        if not now < claims.exp + LEEWAY_S:
            raise EdgeError("unauthorized", "the token has ended")
        if claims.nbf is not None and not now >= claims.nbf - LEEWAY_S:
            raise EdgeError("unauthorized", "the token is not valid yet")
        return identity_of(claims)

    def _decoded(self, token: str, header: Header) -> dict[str, Any]:
        """What the token says, by whichever of our keys has signed it."""
        keys = self.keys.fitting(header)
        for key in keys:
            try:
                return self._decoded_with(key, token)
            except jwt.InvalidSignatureError:
                continue
        if self.keys.knows(header.kid):
            if not keys:
                raise EdgeError("unauthorized", "the token is not valid: its key is for another algorithm")
            raise jwt.InvalidSignatureError
        self._miss(header)
        if not keys and header.alg in self.keys.algorithms:
            raise EdgeError("unauthorized", "the token is not valid: its key is not known")
        if not keys:
            takes = " or ".join(self.keys.algorithms) or "one that is taken"
            raise EdgeError("unauthorized", f"the token is not valid: its algorithm is not {takes}")
        raise jwt.InvalidSignatureError

    def _miss(self, header: Header) -> None:
        """The key may be one that is not here yet. Returns where it is nobody's."""
        if self._missing is None or header.alg not in PUBLIC:  # a JWKS has no secrets
            return
        what = self._missing(header.kid)
        if what == "coming":
            raise KeyComing
        if what == "away":
            raise EdgeError("unavailable", "the token's key is not known, and cannot be fetched now", retry_after=5)
        if what != "unknown":
            raise EdgeError("unavailable", "the token's key is not known yet", retry_after=math.ceil(what))

    def _decoded_with(self, key: Key, token: str) -> dict[str, Any]:
        return jwt.decode(
            token,
            key.material,
            algorithms=[key.algorithm],
            audience=self._audience,
            issuer=self._issuer,
            options={
                # Times are checked in _read, against `now`. A token that names an audience is refused where none is
                # configured (RFC 7519 4.1.3): it was made for somebody else.
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
                "verify_iss": self._issuer is not None,
            },
        )


def _words(bad: jwt.InvalidTokenError) -> str:
    """PyJWT's words where they are its own; not those that repeat what the token's sender wrote."""
    if isinstance(bad, jwt.InvalidSignatureError):
        return "wrong signature"
    if isinstance(bad, jwt.InvalidAudienceError):
        return "wrong audience"
    if isinstance(bad, jwt.InvalidIssuerError):
        return "wrong issuer"
    if isinstance(bad, jwt.MissingRequiredClaimError):
        return f"no {bad.claim}"
    return "not a JWT"


def _remember(memory: OrderedDict[str, T], token: str, value: T, most: int) -> None:
    memory[token] = value
    if len(memory) > most:
        memory.popitem(last=False)
