# Tokens made by hand, for `edge token`: to try a server with, or for a machine that publishes. It owns nothing. It must
# never make a token that the server would not take.
from collections.abc import Sequence
from typing import Any

import jwt
import msgspec

from edge.auth.identity import BADGES, SCOPES, Claims, identity_of
from edge.auth.keys import Private, algorithm_of
from edge.auth.tokens import TOKEN_CHARS
from edge.errors import EdgeError

HS256 = "HS256"


def mint(claims: dict[str, Any], key: bytes | Private, kid: str | None = None) -> str:
    """A token that says this, signed with a secret or a private key. ValueError says what cannot be said."""
    try:
        identity_of(msgspec.convert(claims, Claims))
        if len(claims.get("badges", ())) > BADGES:
            raise ValueError(f"badges: at most {BADGES}")
    except EdgeError as error:
        raise ValueError(error.message) from None
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
    algorithm = HS256 if isinstance(key, bytes) else algorithm_of(key)
    token = jwt.encode(claims, key, algorithm, headers={"kid": kid} if kid else None)
    if len(token) > TOKEN_CHARS:
        raise ValueError(f"the token has {len(token)} characters, and {TOKEN_CHARS} is the most")
    return token


def check_scopes(scopes: Sequence[str]) -> str:
    """As a claim; ValueError names what is none."""
    for scope in scopes:
        if scope not in SCOPES:
            raise ValueError(f"no such scope: {scope}; there are {', '.join(sorted(SCOPES))}")
    return " ".join(scopes)
