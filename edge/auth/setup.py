# What the settings mean to tokens: the keys that there are, where others come from, and how a stream's token ends.
from collections.abc import Callable

from edge.auth.jwks import Jwks
from edge.auth.keys import Key, Keys, read_keys, secret
from edge.auth.tokens import LEEWAY_S, Tokens
from edge.config import Auth


def open_tokens(auth: Auth, settled: Callable[[], None]) -> tuple[Tokens | None, Jwks | None]:
    """No Tokens where no token could be verified, which only --dev allows. ValueError names a file that is no key."""
    fixed = [secret(auth.hs256_key)] if auth.hs256_key else []
    fixed += read_keys(auth.public_keys)
    if not fixed and not auth.jwks_url:
        return None, None
    if not auth.jwks_url:
        return Tokens(Keys(fixed), audience=auth.audience, issuer=auth.issuer), None

    def took(fetched: list[Key]) -> None:
        tokens.replace(Keys([*fixed, *fetched]))

    jwks = Jwks(auth.jwks_url, auth.jwks_seconds, auth.jwks_keep_seconds, took, settled)
    tokens = Tokens(Keys(fixed), audience=auth.audience, issuer=auth.issuer, missing=jwks.missing)
    return tokens, jwks


def stream_times(auth: Auth) -> tuple[int, int, int]:
    """For Engine.tokens_end: the warning before the end; the first and the last to be closed after it. The leeway comes
    before the grace: as long as a token lets somebody in, nobody is closed for it, or they would come straight back."""
    leeway_ms, grace_ms = int(LEEWAY_S * 1000), auth.grace_seconds * 1000
    return auth.warn_seconds * 1000, leeway_ms + grace_ms // 2, leeway_ms + grace_ms
