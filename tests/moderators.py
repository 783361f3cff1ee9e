"""A server with tokens, and what moderators, authors and viewers ask of it."""

import json
import time
from pathlib import Path
from typing import Any

from edge.auth import Tokens
from tests.raw import UPGRADE, Raw, Reply
from tests.server import Server, until

KEY = "k" * 32
TOKENS = Tokens(KEY)


def server_at(folder: Path, **environ: object) -> Server:
    return Server(dev=False, auth_hs256_key=KEY, auth_anonymous_view=True, server_data=folder, **environ)


def token(user: str = "ann", *scopes: str, **claims: Any) -> str:
    return TOKENS.mint(user, time.time() + 300, scopes=list(scopes or ("read", "comment")), **claims)


def mod(user: str = "mo") -> str:
    return token(user, "read", "comment", "moderate", "admin")


def ask(server: Server, method: str, path: str, body: Any = None, who: str | None = None) -> Reply:
    with Raw(server) as raw:
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        raw.send(
            f"{method} {path} HTTP/1.1\r\nHost: edge\r\nAuthorization: Bearer {who or mod()}\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        )
        raw.send(data)
        return raw.reply()


def say(server: Server, room: str, text: str, user: str = "ann", **claims: Any) -> Reply:
    who = token(user, "read", "comment", **claims)
    return ask(server, "POST", f"/v1/rooms/{room}/comments", {"x": text}, who)


def told(reply: Reply) -> Any:
    assert reply.status in (200, 201), reply
    return json.loads(reply.body)


def viewer_of(raw: Raw, room: str, who: str) -> Raw:
    """A WebSocket with that token, which has been let in."""
    raw.get(f"/v1/rooms/{room}/ws?token={who}", UPGRADE)
    assert raw.head()[0] == 101
    raw.message("hello")
    return raw


def set_mode(server: Server, room: str, **mode: Any) -> None:
    """It holds at whoever answers, on the return."""
    told(ask(server, "PUT", f"/v1/rooms/{room}/mode", mode))
    until(lambda: mode.items() <= told(ask(server, "GET", f"/v1/rooms/{room}"))["mode"].items())
