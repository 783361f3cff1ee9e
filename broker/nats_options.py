# What the broker's url, the settings and the environment say of NATS: Options. It owns the url's grammar, does no I/O,
# and must never show a part of a url that may be a password.

import os
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from broker.access import NO_ACCESS, Access
from broker.base import LEASE_TTL_S
from broker.subjects import SHARDS, Streams

MAX_AGE_S = 3 * 24 * 3600
IN_AGE_S = 3600
FORM = "nats://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...][?OPTION=VALUE&...], or tls:// for TLS"

NUMBERS = {
    "shards": ("shards", 1, 65536),
    "replicas": ("replicas", 1, 5),
    "max_age": ("max_age_s", 10, 10**9),
    "groups": ("groups", 1, 64),
    "lease": ("lease_ttl_s", 1, 3600),
    "in_age": ("in_age_s", 10, 10**9),
}
"""Options of the url: the field of Options that each sets, and its bounds."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the url, the settings and the environment say."""

    servers: list[str]
    credentials: dict[str, str] = field(default_factory=dict, repr=False)
    shards: int = SHARDS
    replicas: int = 1
    max_age_s: int = MAX_AGE_S
    groups: int = 1
    lease_ttl_s: int = int(LEASE_TTL_S)
    in_age_s: int = IN_AGE_S
    domain: str = ""
    access: Access = field(default_factory=Access)

    @property
    def tls(self) -> bool:
        """The way must be encrypted, whether the server asks for it or not."""
        return self.access.tls or any(server.startswith("tls:") for server in self.servers)

    @property
    def streams(self) -> Streams:
        return Streams(self.groups)


def parse(url: str, access: Access = NO_ACCESS) -> Options:
    """ValueError says what is wrong, and nothing of a url that may have a password in it. What the url does not say of
    user, password and token is taken from NATS_USER, NATS_PASSWORD and NATS_TOKEN, which belong to no file and no list
    of processes."""
    scheme, _, rest = url.partition("://")
    if scheme not in ("nats", "tls"):
        raise ValueError(f"broker url: write {FORM}")
    rest, _, query = rest.partition("?")
    login, _, hosts = rest.rpartition("@")
    secret = "@" in url
    if "@" in query or "://" in login:
        raise ValueError(f"broker url: one login before the first host, with / ? @ in it as %2F %3F %40; write {FORM}")
    options = _options(query, secret)
    access.check()
    if login and access.creds:
        raise ValueError("broker url: a login in the url and a .creds file: one of them")
    credentials = {} if access.creds else _credentials(login)
    servers = _servers(scheme, hosts, secret)
    found = Options(servers, credentials, access=access, **options)
    if found.groups > found.shards:
        raise ValueError(f"broker url: {found.groups} groups of {found.shards} shards")
    return found


def _options(query: str, secret: bool) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        shown = "that" if secret else repr(text)
        if name == "domain":
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text):
                raise ValueError(f"broker url: domain is letters, digits, - and _, not {shown}")
            given["domain"] = text
            continue
        if name not in NUMBERS:
            known = ", ".join([*NUMBERS, "domain"])
            raise ValueError(f"broker url: unknown option{'' if secret else f' {name!r}'}; known are {known}")
        key, low, high = NUMBERS[name]
        if not text.isascii() or not text.isdigit() or len(text) > 12 or not low <= int(text) <= high:
            raise ValueError(f"broker url: {name} is a number from {low} to {high}, not {shown}")
        given[key] = int(text)
    return given


def _servers(scheme: str, hosts: str, secret: bool) -> list[str]:
    """Each may say its scheme again. Where one says tls, all are asked for it."""
    found = []
    for part in hosts.split(","):
        own, colon, rest = part.partition("://")
        if colon and own not in ("nats", "tls"):
            raise ValueError(f"broker url: write {FORM}")
        found.append(_host(rest if colon else part, secret))
        scheme = "tls" if own == "tls" and colon else scheme
    return [f"{scheme}://{host}" for host in found]


def _host(text: str, secret: bool) -> str:
    host, _, port = text.rpartition(":")
    if not host or quote(host, safe=".:[]-_") != host or not port.isascii() or not port.isdigit():
        raise ValueError(f"broker url: {'what it names' if secret else repr(text)} is no HOST:PORT; write {FORM}")
    if len(port) > 5 or not 0 < int(port) < 65536:
        raise ValueError(f"broker url: {'that' if secret else port} is no port")
    return text


def _credentials(login: str) -> dict[str, str]:
    if login:
        user, colon, password = login.partition(":")
        return {"user": unquote(user), "password": unquote(password)} if colon else {"token": unquote(user)}
    named = {"user": "NATS_USER", "password": "NATS_PASSWORD", "token": "NATS_TOKEN"}
    return {key: os.environ[name] for key, name in named.items() if os.environ.get(name)}
