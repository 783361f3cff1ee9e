"""The command line, run as a user runs it: what it prints, where, and how it exits."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from edge import __version__, cli
from edge.auth import Identity, Tokens
from edge.auth.keys import Keys, read_keys

KEY = "0123456789abcdef0123456789abcdef"
ROOT = Path(__file__).parent.parent
PEM = (
    Ed25519PrivateKey.from_private_bytes(bytes(32))
    .public_key()
    .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    .decode()
)


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
        (["sreve"], "edge: argument serve | check | config | token: invalid choice: 'sreve'"),
        (["token"], "edge: the following arguments are required: --user"),
        (["token", "--user", "ann"], "edge: no key to sign with: set [auth] hs256_key, or give --key FILE"),
        (["token", "--user", "ann", "--scope", "dance"], "edge: no such scope: dance; there are admin, comment, "),
        (["token", "--user", "ann", "--tier", "x"], "edge: argument --tier: invalid int value: 'x'"),
        (["token", "--user", "ann", "--seconds", "0"], "edge: --seconds: 1 to 10000000000"),
        (["token", "--user", "ann", "--key", "none.pem"], "edge: none.pem: No such file or directory"),
        (["token", "--user", "ann", "--key", "."], "edge: .: Is a directory"),
        (["token", "--user", "ann", "--config", "none.toml"], "edge: none.toml: No such file or directory"),
        ([], "edge: the following arguments are required: serve | check | config | token"),
    ],
)
def test_a_users_mistake_takes_one_line_and_exits_with_2(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = edge(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "setting, value, said",
    [
        ("PUBLIC_KEYS", "none.pem", "[auth] public_keys: none.pem: No such file or directory"),
        ("HS256_KEY", PEM, "[auth] hs256_key: the token key is a public key or a certificate, which is no secret"),
        ("PUBLIC_KEYS", "a=edge.toml", "[auth] public_keys: edge.toml: not a public key in PEM"),
        ("JWKS_URL", "http://example.com/keys", "EDGE_AUTH_JWKS_URL: whoever can change plain HTTP could make tokens"),
        ("JWKS_URL", "http://localhost.example.com/", "EDGE_AUTH_JWKS_URL: whoever can change plain HTTP could make"),
        ("JWKS_URL", "http://127.0.0.1@example.com/", "EDGE_AUTH_JWKS_URL: expected https://HOST/PATH, or nothing"),
        ("JWKS_URL", "ftp://example.com/keys", "EDGE_AUTH_JWKS_URL: expected https://HOST/PATH, or nothing, got"),
        ("JWKS_KEEP_SECONDS", "60", "EDGE_AUTH_JWKS_KEEP_SECONDS: expected at least jwks_seconds, 300"),
    ],
)
def test_keys_that_could_not_be_used(setting: str, value: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text("")
    environ = {f"EDGE_AUTH_{setting}": value} | ({"EDGE_AUTH_HS256_KEY": KEY} if "KEEP" in setting else {})
    done = edge("check", cwd=tmp_path, **environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"edge: {said}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("url", ["https://example.com/keys", "http://127.0.0.1:1/keys", "http://[::1]/keys"])
def test_a_list_of_keys_is_enough(url: str, tmp_path: Path) -> None:
    assert edge("check", cwd=tmp_path, EDGE_AUTH_JWKS_URL=url).returncode == 0


def test_a_token_is_all_that_is_printed(tmp_path: Path) -> None:
    said = "--name Ann --role host --badge a,b --badge c --tier 2 --reputation 0.5 --scope read,score --room one,two"
    (tmp_path / "edge.toml").write_text(f"[auth]\nhs256_key = '{KEY}'\naudience = 'edge'\nissuer = 'site'\n")
    done = edge("token", "--user", "ann", *said.split(), "--seconds", "60", "--kid", "k1", cwd=tmp_path)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    token = done.stdout.strip()
    identity = Tokens(KEY, audience="edge", issuer="site").verify(token, time.time())
    assert identity.exp is not None
    assert 0 < identity.exp - time.time() <= 60
    assert identity == Identity(
        user="ann",
        name="Ann",
        scopes=frozenset({"read", "score"}),
        rooms=frozenset({"one", "two"}),
        role="host",
        badges=("a", "b", "c"),
        tier=2,
        exp=identity.exp,
        reputation=0.5,
    )
    assert jwt.get_unverified_header(token)["kid"] == "k1"
    done = edge("token", "--user", "", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "edge: sub: 1 to 64 printable characters\n")
    plain = Tokens(KEY).verify(edge("token", "--user", "a", cwd=Path("/"), EDGE_AUTH_HS256_KEY=KEY).stdout.strip(), 0)
    assert (plain.scopes, plain.rooms, plain.reputation) == ({"read", "comment"}, None, None)


def test_a_token_signed_with_a_private_key(tmp_path: Path) -> None:
    private = Ed25519PrivateKey.generate()
    sealed = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(private.private_bytes(*sealed))
    (tmp_path / "public.pem").write_bytes(
        private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    done = edge("token", "--user", "ann", "--key", "key.pem", "--kid", "k", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert Tokens(Keys(read_keys([f"k={tmp_path}/public.pem"]))).verify(done.stdout.strip(), time.time()).user == "ann"
    assert edge("check", cwd=tmp_path, EDGE_AUTH_PUBLIC_KEYS="k=public.pem").returncode == 0
    done = edge("check", cwd=tmp_path, EDGE_AUTH_PUBLIC_KEYS="key.pem")
    assert done.stderr == "edge: [auth] public_keys: key.pem: a private key; its public half is wanted\n"
    done = edge("token", "--user", "ann", "--key", "public.pem", cwd=tmp_path)
    assert done.stderr == "edge: public.pem: not a private key in PEM of RSA, P-256 or Ed25519\n"


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
