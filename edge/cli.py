"""The command `edge`: reads its arguments and settings, then runs the server, checks a config, prints the default, or
makes a token.

It says what is wrong on stderr, one line a problem, and exits with 2 where the user's input is at fault, with 1 where
the machine is. It owns no socket for longer than it takes to hand it on.
"""

import argparse
import json
import logging
import os
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from edge import __version__, config

DEV_WARNING = """\
edge: *** DEVELOPMENT MODE ***
edge: *** every caller is who they claim to be (?user=NAME), with every scope: moderator, operator, all of it.
edge: *** never use --dev on a public address.
"""
SECONDS_MOST = 10_000_000_000


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, where argparse would print its usage first."""
        self.exit(2, f"edge: {message} (see edge --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="edge", description="A live-comment and score-update server.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"edge {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="serve | check | config | token")
    serve = commands.add_parser("serve", help="run the server", allow_abbrev=False)
    check = commands.add_parser(
        "check", help="validate the settings that `serve` would use, and exit", allow_abbrev=False
    )
    commands.add_parser("config", help="print the annotated default edge.toml")
    _token_arguments(commands.add_parser("token", help="make a token, and print it", allow_abbrev=False))
    for command in (serve, check):
        command.add_argument("--config", metavar="FILE", type=Path, help="settings; ./edge.toml where there is one")
        for setting in filter(lambda setting: setting.flag, config.SETTINGS):
            if setting.kind is bool:
                command.add_argument(setting.flag, action="store_const", const="true", help=setting.about.doc)
            else:
                metavar = setting.about.flag.partition(" ")[2]
                command.add_argument(setting.flag, metavar=metavar, help=f"{setting.about.doc} ({setting.default})")
    return parser


def _token_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--user", metavar="ID", required=True, help="who it is for")
    command.add_argument("--name", help="what others see (the ID)")
    command.add_argument("--role")
    command.add_argument("--badge", metavar="BADGE,...", action="append", type=_listed, help="may be given again")
    command.add_argument("--tier", metavar="N", type=int)
    command.add_argument("--reputation", metavar="0..1", type=float)
    command.add_argument("--scope", metavar="SCOPE,...", action="append", type=_listed, help="(read,comment)")
    command.add_argument("--room", metavar="ROOM,...", action="append", type=_listed, help="(every room)")
    command.add_argument("--seconds", metavar="N", type=int, default=3600, help="until it ends (3600)")
    command.add_argument("--key", metavar="FILE", type=Path, help="a private key in PEM ([auth] hs256_key)")
    command.add_argument("--kid", help="the name of that key, which goes into the token")
    command.add_argument("--config", metavar="FILE", type=Path, help="settings; ./edge.toml where there is one")


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def annotated() -> str:
    """The default file, every setting with its words: what `edge config` prints, and edge.toml at the root."""
    lines = [
        "# The settings of edge and their defaults, as `edge config` prints them; `edge check` validates a file.",
        "# Each can be given in the environment too, as EDGE_SECTION_KEY (a list with commas), which goes before this",
        "# file.",
    ]
    section = ""
    for setting in config.SETTINGS:
        if setting.section != section:
            section = setting.section
            lines += ["", f"[{section}]"]
        about = setting.about
        bounds = f" ({about.low} to {about.high})" if setting.kind is int else ""
        flag = f" Flag: {about.flag}" if about.flag else ""
        lines += textwrap.wrap(f"{about.doc}{bounds}{flag}", 118, initial_indent="# ", subsequent_indent="# ")
        lines.append(f"{setting.key} = {json.dumps(setting.default)}")
    return "\n".join(lines) + "\n"


def _load(arguments: argparse.Namespace, *, verifies: bool = True) -> config.Config | None:
    given = vars(arguments)
    flags = {setting.flag: given.get(setting.flag[2:].replace("-", "_")) for setting in config.SETTINGS if setting.flag}
    try:
        settings = config.load(
            arguments.config,
            os.environ,
            {flag: text for flag, text in flags.items() if text is not None},
            verifies=verifies,
        )
        if verifies:
            _check_keys(settings)
        return settings
    except config.ConfigError as error:
        for problem in error.problems:
            print(f"edge: {problem}", file=sys.stderr)
        return None


def _check_keys(settings: config.Config) -> None:
    """What the workers would fail on."""
    if not settings.auth.public_keys and "-----" not in settings.auth.hs256_key:
        return  # most have no more than a secret, and what is below takes a tenth of a second to import
    from edge.auth.keys import read_keys, secret

    try:
        key = "hs256_key"
        if settings.auth.hs256_key:
            secret(settings.auth.hs256_key)
        key = "public_keys"
        read_keys(settings.auth.public_keys)
    except ValueError as error:
        raise config.ConfigError([f"[auth] {key}: {error}"]) from None


def _token(arguments: argparse.Namespace, settings: config.Config) -> int:
    from edge.auth.keys import Private, private_key
    from edge.auth.mint import check_scopes, mint

    def gathered(lists: list[list[str]] | None) -> list[str]:
        return [part for some in lists or () for part in some]

    try:
        if not 1 <= arguments.seconds <= SECONDS_MOST:
            raise ValueError(f"--seconds: 1 to {SECONDS_MOST}")
        claims = {
            "sub": arguments.user,
            "exp": int(time.time()) + arguments.seconds,
            "scope": check_scopes(gathered(arguments.scope) or ["read", "comment"]),
            "name": arguments.name,
            "role": arguments.role,
            "badges": gathered(arguments.badge) or None,
            "tier": arguments.tier,
            "reputation": arguments.reputation,
            "rooms": gathered(arguments.room) or None,
            "aud": settings.auth.audience or None,
            "iss": settings.auth.issuer or None,
        }
        key: bytes | Private
        if arguments.key:
            key = private_key(arguments.key.read_bytes(), str(arguments.key))
        elif settings.auth.hs256_key:
            key = settings.auth.hs256_key.encode()
        else:
            raise ValueError("no key to sign with: set [auth] hs256_key, or give --key FILE")
        print(mint({name: value for name, value in claims.items() if value is not None}, key, arguments.kid))
    except OSError as error:
        print(f"edge: {arguments.key}: {error.strerror}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"edge: {error}", file=sys.stderr)
        return 2
    return 0


def _serve(settings: config.Config) -> int:
    # Imported here: `edge check` and `edge config` must work, and fast, whatever the state of the rest.
    from edge.host import listen, supervisor

    logging.basicConfig(
        level=settings.log.level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    if settings.server.dev:
        print(DEV_WARNING, end="", file=sys.stderr, flush=True)
    try:
        listeners = listen.open_listeners(settings.server.listen, settings.server.workers)
        private = listen.open_listeners(settings.server.private_listen, 1)[0]
    except listen.ListenError as error:
        print(f"edge: {error}", file=sys.stderr)
        return 1
    print(f"edge: metrics and health on {listen.url(private)}", file=sys.stderr, flush=True)
    return supervisor.run(settings, listeners, private)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    if arguments.command == "config":
        sys.stdout.write(annotated())
        return 0
    settings = _load(arguments, verifies=arguments.command != "token")
    if settings is None:
        return 2
    if arguments.command == "token":
        return _token(arguments, settings)
    return 0 if arguments.command == "check" else _serve(settings)


if __name__ == "__main__":
    sys.exit(main())
