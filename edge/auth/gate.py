# Who is asking, by token, by name in dev mode, or as anybody. It owns nothing. It must never take a name for granted
# outside of dev mode.
import time

from edge.auth.identity import Identity, check_name, dev
from edge.auth.tokens import Tokens
from edge.errors import EdgeError

ANYBODY = Identity(user="", name="", scopes=frozenset({"read"}))


class Gate:
    """With `anonymous`, viewing takes no token; with `names`, a name is enough."""

    def __init__(self, tokens: Tokens | None, *, anonymous: bool, names: bool) -> None:
        self._tokens = tokens
        self._anonymous = anonymous
        self._names = names

    def identify(self, token: str | None, user: str | None) -> Identity:
        if token is not None:
            if self._tokens is None:
                raise EdgeError("unauthorized", "this server has no token key")
            return self._tokens.verify(token, time.time())
        if user is not None:
            if not self._names:
                raise EdgeError("unauthorized", "user= is for --dev; send a token")
            return dev(check_name(user, "user"))
        if not self._anonymous:
            raise EdgeError("unauthorized")
        return ANYBODY
