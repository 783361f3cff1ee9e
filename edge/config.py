"""The settings: each one declared once, below, with its type, default, bounds, words and flag.

The file edge.toml, the environment (EDGE_SECTION_KEY), the flags of `edge serve`, the annotated default file and
`edge check` all come from these declarations. A flag goes before the environment, which goes before the file.
A leaf: it imports nothing of the server, opens no socket, and only `load` reads a file.
"""

import difflib
import ipaddress
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec


class ConfigError(Exception):
    """What is wrong with the settings: one line for each problem, each naming where it stands."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class About(NamedTuple):
    """What a setting is besides its type. `check` returns what was expected where the value does not do, else ''."""

    doc: str
    low: int = 0
    high: int = 0
    check: Callable[[str], str] | None = None
    flag: str = ""  # and the name of its value: "--workers N"
    secret: bool = False


class Setting(NamedTuple):
    """One declared setting, as the command line and the default file see it."""

    section: str
    key: str
    kind: Any
    default: Any
    about: About

    @property
    def env(self) -> str:
        return f"EDGE_{self.section}_{self.key}".upper()

    @property
    def flag(self) -> str:
        return self.about.flag.partition(" ")[0]


def parse_address(text: str) -> tuple[str, int]:
    """`127.0.0.1:8080`, `[::]:8080` or `localhost:0` as host and port; ValueError for anything else."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+|localhost)):([0-9]{1,5})", text)
    if not found or int(found[3]) > 65535:
        raise ValueError(text)
    if found[1]:
        return str(ipaddress.IPv6Address(found[1])), int(found[3])
    return str(ipaddress.IPv4Address("127.0.0.1" if found[2] == "localhost" else found[2])), int(found[3])


def _parsed_by(parse: Callable[[str], object], wanted: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        try:
            parse(text)
        except ValueError:
            return wanted
        return ""

    return check


def _matching(pattern: str, wanted: str) -> Callable[[str], str]:
    return lambda text: "" if re.fullmatch(pattern, text) else wanted


_address = _parsed_by(parse_address, "HOST:PORT, the host an IP address ([..] around IPv6) or localhost")
_network = _parsed_by(ipaddress.ip_network, "networks such as 10.0.0.0/8 or ::1/128")
_broker = _matching(r"memory:|local:.+|(nats|tls)://[^/?\s]+(\?\S*)?", "memory:, local:SOCKET or nats://HOST:PORT")
_origin = _matching(r"|\*|https?://[^\s/]+", "*, an origin such as https://example.com, or nothing")
_service = _matching(r"|https?://[^\s]+", "a URL, or nothing")
_filled = _matching(r".*\S.*", "a name")
_url = _matching(r"|https?://[^\s/@]+(/\S*)?", "https://HOST/PATH, or nothing")
_reaction = _matching(r"[a-z0-9_]{1,32}", "names of 1 to 32 of a-z 0-9 _")
_key = _matching(r"(?s)|.{32,}", "32 characters or more")


REACTIONS = 16  # kinds of them: the totals of all have to go with a batch


class Server(msgspec.Struct, frozen=True):
    listen: Annotated[
        str, About("Where viewers connect and the HTTP API answers.", check=_address, flag="--listen HOST:PORT")
    ] = "127.0.0.1:8080"
    private_listen: Annotated[
        str, About("Metrics, health, admin: keep it on loopback.", check=_address, flag="--private-listen HOST:PORT")
    ] = "127.0.0.1:9080"
    workers: Annotated[int, About("Worker processes: one a core.", 1, 1024, flag="--workers N")] = 1
    data: Annotated[str, About("The folder for this box's files.", check=_filled, flag="--data DIR")] = "data"
    dev: Annotated[bool, About("Development: anybody is who they say, with every scope.", flag="--dev")] = False
    proxy_protocol: Annotated[bool, About("Take the viewer's address from PROXY protocol v1 or v2.")] = False
    proxy_trusted: Annotated[
        tuple[str, ...], About("The networks that a PROXY header is believed from.", check=_network)
    ] = ("127.0.0.1/32", "::1/128")
    cors_origin: Annotated[str, About("Access-Control-Allow-Origin; empty sends none.", check=_origin)] = "*"


class Auth(msgspec.Struct, frozen=True):
    hs256_key: Annotated[
        str, About("The secret that signs tokens: 32 characters or more.", check=_key, secret=True)
    ] = ""
    public_keys: Annotated[
        tuple[str, ...],
        About("PEM files of keys that verify tokens (RS256, ES256, EdDSA), each FILE or KID=FILE.", check=_filled),
    ] = ()
    jwks_url: Annotated[
        str, About("Where such keys are listed; https, but for loopback and --dev. Empty: nowhere.", check=_url)
    ] = ""
    jwks_seconds: Annotated[int, About("How often that is fetched.", 10, 86400)] = 300
    jwks_keep_seconds: Annotated[int, About("How long its keys are good while it cannot be fetched.", 60, 2592000)] = (
        86400
    )
    audience: Annotated[str, About("The `aud` that a token must have; empty asks for none.")] = ""
    issuer: Annotated[str, About("The `iss` that a token must have; empty asks for none.")] = ""
    anonymous_view: Annotated[bool, About("Viewing takes no token.")] = False
    warn_seconds: Annotated[int, About("A stream is told so long before its token ends.", 0, 3600)] = 30
    grace_seconds: Annotated[
        int,
        About("How long it lives on, behind 5 s of leeway: from half of this to all of it, not all at once.", 0, 3600),
    ] = 10

    def __repr__(self) -> str:
        return "Auth(...)"  # a key in a log or a traceback is a key lost


class Broker(msgspec.Struct, frozen=True):
    url: Annotated[
        str,
        About("memory: (this box), local:SOCKET, or nats://HOST:PORT (boxes).", check=_broker, flag="--broker URL"),
    ] = "memory:"
    creds: Annotated[str, About("NATS: a .creds file, with the user's JWT and seed.")] = ""
    tls_ca: Annotated[str, About("NATS: who signs the servers' certificates; TLS is asked for where it is set.")] = ""
    tls_cert: Annotated[str, About("NATS: this box's certificate.")] = ""
    tls_key: Annotated[str, About("NATS: and its key.")] = ""

    def __repr__(self) -> str:
        return "Broker(...)"  # the url may hold a password


class Limits(msgspec.Struct, frozen=True):
    connections: Annotated[int, About("Viewers of a worker; 0: as its descriptors allow.", 0, 1 << 24)] = 0
    connections_per_ip: Annotated[int, About("Viewers of a worker from one address; 0: no limit.", 0, 1 << 24)] = 0
    message_bytes: Annotated[int, About("The largest message of a viewer.", 125, 16 << 20)] = 16384
    inflated_bytes: Annotated[int, About("The most that a compressed one inflates to.", 125, 64 << 20)] = 16384
    reply_bytes: Annotated[int, About("Direct replies that wait for one socket.", 1024, 16 << 20)] = 16384
    memory_mb: Annotated[int, About("Rings and frames of a worker, in MiB.", 1, 1 << 20)] = 256
    resume_bytes: Annotated[int, About("Chat sent on a resume; the rest is a gap.", 0, 64 << 20)] = 204800
    tokens_per_tick: Annotated[int, About("Tokens verified in one turn of the loop.", 1, 4096)] = 32
    rooms: Annotated[int, About("Rooms that a worker holds.", 1, 1 << 24)] = 100000
    opens_per_ip: Annotated[
        int, About("Rooms that one address may open at a worker in a minute; 0: no limit. --dev has none.", 0, 1 << 24)
    ] = 600
    body_bytes: Annotated[int, About("The largest body of an HTTP request.", 1024, 64 << 20)] = 16384


class Streams(msgspec.Struct, frozen=True):
    head_seconds: Annotated[int, About("The time that a request head may take.", 1, 300)] = 5
    ping_seconds: Annotated[int, About("The silence after which a WebSocket gets a ping.", 1, 3600)] = 60
    dead_seconds: Annotated[int, About("The time that its answer may take.", 1, 3600)] = 20
    blocked_seconds: Annotated[int, About("The time that a viewer may read nothing.", 1, 3600)] = 10
    heartbeat_seconds: Annotated[int, About("The silence after which SSE gets a comment line.", 1, 3600)] = 15
    poll_seconds: Annotated[int, About("The time after which an empty long poll is answered.", 1, 300)] = 25
    keepalive_seconds: Annotated[int, About("The time that an idle HTTP connection is kept.", 0, 3600)] = 75
    chat_missed: Annotated[int, About("Batches that a blocked viewer misses before it skips.", 1, 1000)] = 3
    replay: Annotated[int, About("Comments that a joining viewer gets.", 0, 1000)] = 200
    retry_ms: Annotated[int, About("The wait before an SSE client reconnects.", 100, 600000)] = 2000
    slice_us: Annotated[int, About("The longest that a broadcast runs between other events.", 50, 100000)] = 1000
    tick_us: Annotated[int, About("The longest turn of the socket engine.", 100, 100000)] = 2000


class Rooms(msgspec.Struct, frozen=True):
    own: Annotated[bool, About("Compete for shards, and write their rooms: the role `rooms`.")] = True
    flush_ms: Annotated[int, About("The time in which comments are gathered where few are said.", 1, 1000)] = 5
    reactions: Annotated[
        tuple[str, ...],
        About("The kinds of reactions that are taken, 16 at most; the same on all boxes.", check=_reaction),
    ] = ("fire", "heart", "laugh", "clap", "wow", "sad")


class Comments(msgspec.Struct, frozen=True):
    per_user: Annotated[
        int, About("Comments of a user in 30 s; 0: no limit. Each limit is of the box; --dev has none.", 0, 10**6)
    ] = 20
    per_moderator: Annotated[int, About("And of a moderator.", 0, 10**6)] = 100
    per_bot: Annotated[int, About("And of a verified bot.", 0, 10**6)] = 7500
    reactions_per_user: Annotated[int, About("Reactions of a user in 10 s.", 0, 10**6)] = 30
    per_ip: Annotated[int, About("Comments from one address in a minute, IPv6 by /64.", 0, 10**6)] = 100
    carriers: Annotated[
        tuple[str, ...], About("Networks whose addresses many share; they may send 20 times that.", check=_network)
    ] = ()
    per_room: Annotated[int, About("Comments in a room in a second.", 0, 10**7)] = 50000
    per_box: Annotated[int, About("Comments in all rooms in a second.", 0, 10**7)] = 200000


class Moderation(msgspec.Struct, frozen=True):
    unknown_mentions: Annotated[
        Literal["refuse", "leave"], About("A comment that mentions somebody who is not there: refuse it, or take it.")
    ] = "refuse"
    crowd: Annotated[
        Literal["tell", "subs_only"],
        About("A sudden crowd: tell the moderators, and with subs_only let none but subscribers comment meanwhile."),
    ] = "tell"
    classifier_url: Annotated[
        str, About("Asked about comments: first where the mode is pre, else behind. Empty: nobody is.", check=_service)
    ] = ""
    classifier_key: Annotated[str, About("Its bearer token.", secret=True)] = ""
    classifier_ms: Annotated[int, About("The time that its answer may take.", 50, 10000)] = 400
    classifier_down: Annotated[
        Literal["open", "hold"], About("Without an answer: publish, or keep for a moderator.")
    ] = "hold"

    def __repr__(self) -> str:
        return "Moderation(...)"


class Log(msgspec.Struct, frozen=True):
    level: Annotated[Literal["debug", "info", "warning", "error"], About("What is worth a line.")] = "info"


class Config(msgspec.Struct, frozen=True):
    """All settings, checked. Immutable: a change is a new one, by `msgspec.structs.replace`."""

    server: Server = Server()
    auth: Auth = Auth()
    broker: Broker = Broker()
    limits: Limits = Limits()
    streams: Streams = Streams()
    rooms: Rooms = Rooms()
    comments: Comments = Comments()
    moderation: Moderation = Moderation()
    log: Log = Log()


def _declared() -> Iterator[Setting]:
    for section in msgspec.structs.fields(Config):
        hints = get_type_hints(section.type, include_extras=True)
        for field in msgspec.structs.fields(section.type):
            kind, about = get_args(hints[field.name])
            yield Setting(section.name, field.name, kind, field.default, about)


SETTINGS = tuple(_declared())
_BY_NAME = {(setting.section, setting.key): setting for setting in SETTINGS}


def expected(setting: Setting) -> str:
    """What a value of this setting looks like, in words, for errors and the default file."""
    if get_origin(setting.kind) is Literal:
        return "one of " + ", ".join(get_args(setting.kind))
    if setting.kind is int:
        return f"an integer from {setting.about.low} to {setting.about.high}"
    return {bool: "true or false", str: "a string"}.get(setting.kind, "a list of strings")


def _from_text(setting: Setting, text: str) -> Any:
    """A value out of the environment or a flag, in the type that TOML would give it; `text` itself where it is none."""
    if setting.kind is int and re.fullmatch(r"-?[0-9]{1,18}", text):
        return int(text)
    if setting.kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    if get_origin(setting.kind) is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _refusal(setting: Setting, value: Any) -> str:
    """What was expected instead of `value`, or '' where it will do."""
    about, listed = setting.about, get_origin(setting.kind) is tuple
    if listed:
        fits = isinstance(value, list) and all(isinstance(part, str) for part in value)
    elif get_origin(setting.kind) is Literal:
        fits = value in get_args(setting.kind)
    else:
        fits = type(value) is setting.kind and (setting.kind is not int or about.low <= value <= about.high)
    if not fits:
        return expected(setting)
    return next(filter(None, map(about.check, value if listed else [value])), "") if about.check else ""


def _unknown(section: str, key: str) -> str:
    elsewhere = [name for name, other in _BY_NAME if other == key]
    if elsewhere:
        return f"unknown; did you mean [{elsewhere[0]}] {key}?"
    known = [other for name, other in _BY_NAME if name == section]
    return f"unknown; the nearest known one is {difflib.get_close_matches(key, known, 1, 0.0)[0]}"


class _Reader:
    """Gathers values from the three sources, lowest first, and what is wrong with them."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, Any]] = {section.name: {} for section in msgspec.structs.fields(Config)}
        self.sources: dict[tuple[str, str], str] = {}
        self.problems: list[str] = []
        self.file = ""

    def take(self, setting: Setting, value: Any, source: str) -> None:
        if wanted := _refusal(setting, value):
            got = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
            hidden = setting.about.secret or "@" in got  # a url with a login, even where it is misspelt
            self.problems.append(f"{source}: expected {wanted}" + ("" if hidden else f", got {got}"))
            return
        self.values[setting.section][setting.key] = tuple(value) if isinstance(value, list) else value
        self.sources[setting.section, setting.key] = source

    def read_file(self, path: Path) -> None:
        self.file = f"{path}: "
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError([f"{path}: {error.strerror}"]) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError([f"{path}: {error}"]) from None
        for section, table in tables.items():
            if section not in self.values:
                nearest = difflib.get_close_matches(section, self.values, 1, 0.0)[0]
                self.problems.append(f"{path}: [{section}]: unknown; the nearest known one is [{nearest}]")
            elif not isinstance(table, dict):
                self.problems.append(f"{path}: [{section}]: expected a table, got {json.dumps(table, default=str)}")
            else:
                for key, value in table.items():
                    if (setting := _BY_NAME.get((section, key))) is None:
                        self.problems.append(f"{path}: [{section}] {key}: {_unknown(section, key)}")
                    else:
                        self.take(setting, value, f"{path}: [{section}] {key}")

    def config(self) -> Config:
        return Config(**{part.name: part.type(**self.values[part.name]) for part in msgspec.structs.fields(Config)})

    def where(self, section: str, key: str) -> str:
        return self.sources.get((section, key), f"{self.file}[{section}] {key}")


_LOOPBACK = re.compile(r"http://(localhost|127\.[0-9.]+|\[::1\])(:[0-9]+)?(/|$)")


def _contradictions(
    config: Config, where: Callable[[str, str], str], environ: Mapping[str, str], verifies: bool
) -> Iterator[str]:
    """What only shows when settings are read side by side."""
    server, limits, auth = config.server, config.limits, config.auth
    if verifies and not (auth.hs256_key or auth.public_keys or auth.jwks_url or server.dev):
        yield (
            f"{where('auth', 'hs256_key')}: empty; no token can be checked without it, public_keys or jwks_url "
            "(or serve with --dev)"
        )
    if auth.jwks_url.startswith("http://") and not server.dev and not _LOOPBACK.match(auth.jwks_url):
        yield f"{where('auth', 'jwks_url')}: whoever can change plain HTTP could make tokens; https:// is wanted"
    if auth.jwks_keep_seconds < auth.jwks_seconds:
        yield f"{where('auth', 'jwks_keep_seconds')}: expected at least jwks_seconds, {auth.jwks_seconds}"
    host, port = parse_address(server.listen)
    if server.dev and not ipaddress.ip_address(host).is_loopback and environ.get("EDGE_DEV_ANYWHERE") != "1":
        yield f"{where('server', 'listen')}: {host} is not loopback, as --dev wants it (but for EDGE_DEV_ANYWHERE=1)"
    if port and server.private_listen == server.listen:
        yield f"{where('server', 'private_listen')}: {server.listen} is taken by [server] listen"
    kinds = config.rooms.reactions
    if len(kinds) > REACTIONS or len(set(kinds)) < len(kinds):
        yield f"{where('rooms', 'reactions')}: expected at most {REACTIONS} names, each once"
    if limits.inflated_bytes < limits.message_bytes:
        yield f"{where('limits', 'inflated_bytes')}: expected at least message_bytes, {limits.message_bytes}"


def load(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, str], *, verifies: bool = True) -> Config:
    """The settings of a server: defaults, then the file, the environment, the flags. ConfigError lists what is wrong.

    Without a path, ./edge.toml is read where there is one. `flags` holds those given ("--workers": "2"), unparsed.
    With `verifies` it is an error if no token could be verified.
    """
    reader = _Reader()
    if path is not None or Path("edge.toml").exists():
        reader.read_file(path or Path("edge.toml"))
    for setting in SETTINGS:
        if (text := environ.get(setting.env)) is not None:
            reader.take(setting, _from_text(setting, text), setting.env)
        if (text := flags.get(setting.flag)) is not None:
            reader.take(setting, _from_text(setting, text), setting.flag)
    if reader.problems:
        raise ConfigError(reader.problems)
    config = reader.config()
    if problems := list(_contradictions(config, reader.where, environ, verifies)):
        raise ConfigError(problems)
    return config
