"""The command `edge`: reads its arguments and settings, then runs the server, checks a config, or prints the default.

It says what is wrong on stderr, one line a problem, and exits with 2 where the user's input is at fault, with 1 where
the machine is. It owns no socket for longer than it takes to hand it on.
"""

import argparse
import json
import logging
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from edge import __version__, config

DEV_WARNING = """\
edge: *** DEVELOPMENT MODE ***
edge: *** every caller is who they claim to be (?user=NAME), with every scope: moderator, operator, all of it.
edge: *** never use --dev on a public address.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, where argparse would print its usage first."""
        self.exit(2, f"edge: {message} (see edge --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="edge", description="A live-comment and score-update server.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"edge {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="serve | check | config")
    serve = commands.add_parser("serve", help="run the server", allow_abbrev=False)
    check = commands.add_parser(
        "check", help="validate the settings that `serve` would use, and exit", allow_abbrev=False
    )
    commands.add_parser("config", help="print the annotated default edge.toml")
    for command in (serve, check):
        command.add_argument("--config", metavar="FILE", type=Path, help="settings; ./edge.toml where there is one")
        for setting in filter(lambda setting: setting.flag, config.SETTINGS):
            if setting.kind is bool:
                command.add_argument(setting.flag, action="store_const", const="true", help=setting.about.doc)
            else:
                metavar = setting.about.flag.partition(" ")[2]
                command.add_argument(setting.flag, metavar=metavar, help=f"{setting.about.doc} ({setting.default})")
    return parser


def annotated() -> str:
    """The default file, every setting with its words: what `edge config` prints, and edge.toml at the root."""
    lines = [
        "# The settings of edge and their defaults, as `edge config` prints them; `edge check` validates a file.",
        "# Each can be given in the environment too, as EDGE_SECTION_KEY, which goes before this file.",
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


def _load(arguments: argparse.Namespace) -> config.Config | None:
    given = vars(arguments)
    flags = {setting.flag: given.get(setting.flag[2:].replace("-", "_")) for setting in config.SETTINGS if setting.flag}
    try:
        return config.load(
            arguments.config, os.environ, {flag: text for flag, text in flags.items() if text is not None}
        )
    except config.ConfigError as error:
        for problem in error.problems:
            print(f"edge: {problem}", file=sys.stderr)
        return None


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
    settings = _load(arguments)
    if settings is None:
        return 2
    return 0 if arguments.command == "check" else _serve(settings)


if __name__ == "__main__":
    sys.exit(main())
