"""The command line, run as a user runs it: what it prints, where, and how it exits."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edge import __version__, cli

KEY = "0123456789abcdef0123456789abcdef"
ROOT = Path(__file__).parent.parent


def edge(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("EDGE_")}
    return subprocess.run(
        [sys.executable, "-m", "edge.cli", *arguments],
        cwd=cwd,
        env=clean | environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_version(tmp_path: Path) -> None:
    assert edge("--version", cwd=tmp_path).stdout == f"edge {__version__}\n"


def test_config_prints_a_file_that_check_accepts(tmp_path: Path) -> None:
    printed = edge("config", cwd=tmp_path)
    assert (printed.returncode, printed.stdout) == (0, cli.annotated())
    (tmp_path / "edge.toml").write_text(printed.stdout)
    assert edge("check", cwd=tmp_path, EDGE_AUTH_HS256_KEY=KEY).returncode == 0
    assert edge("check", "--dev", cwd=tmp_path).returncode == 0


def test_check_says_what_serve_would_refuse(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[limits]\nmessage_bytes = 'x'\n")
    done = edge("check", "--config", "mine.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "edge: mine.toml: [limits] message_bytes: expected an integer from 125 to 16777216, got 'x'\n"
    )
    (tmp_path / "mine.toml").write_text("")
    done = edge("check", "--config", "mine.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("edge: mine.toml: [auth] hs256_key: empty;")


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["serve"], "edge: [auth] hs256_key: empty; "),
        (["serve", "--workers", "x"], "edge: --workers: expected an integer from 1 to 1024, got 'x'"),
        (["serve", "--workers", "0"], "edge: --workers: expected an integer from 1 to 1024, got 0"),
        (["serve", "--listen", "nowhere"], "edge: --listen: expected HOST:PORT, "),
        (["serve", "--dev", "--listen", "0.0.0.0:0"], "edge: --listen: 0.0.0.0 is not loopback, "),
        (["serve", "--config", "none.toml"], "edge: none.toml: No such file or directory"),
        (["serve", "--loud"], "edge: unrecognized arguments: --loud"),
        (["serve", "--listen"], "edge: argument --listen: expected one argument"),
        (["sreve"], "edge: argument serve | check | config: invalid choice: 'sreve'"),
        ([], "edge: the following arguments are required: serve | check | config"),
    ],
)
def test_a_users_mistake_takes_one_line_and_exits_with_2(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = edge(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1


def test_an_address_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for flags in (
            ("--listen", address, "--private-listen", "127.0.0.1:0"),
            ("--listen", "127.0.0.1:0", "--private-listen", address),
            ("--listen", address, "--private-listen", "127.0.0.1:0", "--workers", "2"),
        ):
            done = edge("serve", *flags, cwd=tmp_path, EDGE_AUTH_HS256_KEY=KEY)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr == f"edge: cannot listen on {address}: Address already in use\n"


def test_dev_is_loud(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = edge("serve", "--dev", "--listen", address, "--private-listen", "127.0.0.1:0", cwd=tmp_path)
    assert done.stderr.startswith("edge: *** DEVELOPMENT MODE ***\n")
    assert "every caller is who they claim to be" in done.stderr
