"""The settings: what each source may say, which goes first, and how a mistake is named."""

from pathlib import Path

import pytest

from edge import cli, config

KEY = "0123456789abcdef0123456789abcdef"
ENV = {"EDGE_AUTH_HS256_KEY": KEY}
ROOT = Path(__file__).parent.parent


def load(text: str, tmp_path: Path, environ: dict[str, str] = ENV, **flags: str) -> config.Config:
    path = tmp_path / "edge.toml"
    path.write_text(text)
    return config.load(path, environ, {f"--{name.replace('_', '-')}": value for name, value in flags.items()})


def problems(text: str, tmp_path: Path, environ: dict[str, str] = ENV, **flags: str) -> list[str]:
    with pytest.raises(config.ConfigError) as caught:
        load(text, tmp_path, environ, **flags)
    return [line.replace(f"{tmp_path}/", "") for line in caught.value.problems]


def test_the_default_file_holds_the_defaults(tmp_path: Path) -> None:
    assert load(cli.annotated(), tmp_path, {"EDGE_SERVER_DEV": "1"}).limits == config.Config().limits
    for setting in config.SETTINGS:
        assert f"\n{setting.key} = " in cli.annotated()
        assert setting.about.doc.endswith(".")


def test_the_default_file_at_the_root_is_current() -> None:
    assert (ROOT / "edge.toml").read_text() == cli.annotated(), "run: .venv/bin/edge config > edge.toml"


def test_every_default_would_be_accepted(tmp_path: Path) -> None:
    assert load(cli.annotated(), tmp_path).server == config.Config().server


def test_a_flag_goes_before_the_environment_which_goes_before_the_file(tmp_path: Path) -> None:
    text = "[server]\nworkers = 2\n[limits]\nrooms = 5\n"
    environ = ENV | {"EDGE_SERVER_WORKERS": "3"}
    assert load(text, tmp_path).server.workers == 2
    assert load(text, tmp_path, environ).server.workers == 3
    assert load(text, tmp_path, environ, workers="4").server.workers == 4
    assert load(text, tmp_path, environ, workers="4").limits.rooms == 5


def test_the_environment_speaks_every_type(tmp_path: Path) -> None:
    environ = ENV | {
        "EDGE_SERVER_PROXY_PROTOCOL": "true",
        "EDGE_SERVER_PROXY_TRUSTED": "10.0.0.0/8, fd00::/8",
        "EDGE_LIMITS_MESSAGE_BYTES": "8192",
        "EDGE_LOG_LEVEL": "debug",
        "EDGE_SERVER_CORS_ORIGIN": "",
    }
    settings = load("", tmp_path, environ)
    assert settings.server.proxy_protocol is True
    assert settings.server.proxy_trusted == ("10.0.0.0/8", "fd00::/8")
    assert settings.limits.message_bytes == 8192
    assert settings.log.level == "debug"
    assert settings.server.cors_origin == ""


@pytest.mark.parametrize(
    "text, problem",
    [
        ("[limits]\nmessage_bytes = 'x'", "[limits] message_bytes: expected an integer from 125 to 16777216, got 'x'"),
        ("[limits]\nmessage_bytes = 124", "[limits] message_bytes: expected an integer from 125 to 16777216, got 124"),
        ("[limits]\nrooms = true", "[limits] rooms: expected an integer from 1 to 16777216, got true"),
        ("[limits]\nrooms = 1.5", "[limits] rooms: expected an integer from 1 to 16777216, got 1.5"),
        ("[limits]\nromms = 1", "[limits] romms: unknown; the nearest known one is rooms"),
        ("[limits]\nlisten = 'x'", "[limits] listen: unknown; did you mean [server] listen?"),
        ("[limit]\nrooms = 1", "[limit]: unknown; the nearest known one is [limits]"),
        ("limits = 3", "[limits]: expected a table, got 3"),
        ("[server]\ndev = 1", "[server] dev: expected true or false, got 1"),
        ("[server]\nproxy_trusted = ['10.0.0.1/8']", "[server] proxy_trusted: expected networks such as 10.0.0.0/8"),
        ("[server]\nproxy_trusted = [1]", "[server] proxy_trusted: expected a list of strings, got [1]"),
        ("[server]\nproxy_trusted = '::1/128'", "[server] proxy_trusted: expected a list of strings, got '::1/128'"),
        ("[server]\ncors_origin = 'x'", "[server] cors_origin: expected *, an origin such as"),
        ("[server]\ndata = ' '", "[server] data: expected a name, got ' '"),
        ("[broker]\nurl = 'redis:'", "[broker] url: expected memory:, local:SOCKET or nats://HOST:PORT, got"),
        ("[log]\nlevel = 'loud'", "[log] level: expected one of debug, info, warning, error, got 'loud'"),
        ("[server]\nworkers = 1979-05-27", '[server] workers: expected an integer from 1 to 1024, got "1979-05-27"'),
        ("[rooms]\nreactions = ['Fire']", "[rooms] reactions: expected names of 1 to 32 of a-z 0-9 _, got"),
        ("[rooms]\nreactions = ['fire', 'fire']", "[rooms] reactions: expected at most 16 names, each once"),
        (f"[rooms]\nreactions = {[f'k{n}' for n in range(17)]}", "[rooms] reactions: expected at most 16 names"),
        ("[limits", "Expected ']' at the end of a table declaration"),
    ],
)
def test_a_mistake_in_the_file_is_named(text: str, problem: str, tmp_path: Path) -> None:
    (line,) = problems(text, tmp_path)
    assert line.startswith(f"edge.toml: {problem}")


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    lines = problems("[limits]\nrooms = 0\n[serve]\n", tmp_path, ENV | {"EDGE_LOG_LEVEL": "loud"}, workers="x")
    assert [line.split(": expected")[0] for line in lines] == [
        "edge.toml: [limits] rooms",
        "edge.toml: [serve]: unknown; the nearest known one is [server]",
        "--workers",
        "EDGE_LOG_LEVEL",
    ]


def test_a_bad_file_name_is_named(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match=r"none\.toml: No such file or directory"):
        config.load(tmp_path / "none.toml", {}, {})
    (tmp_path / "latin.toml").write_bytes(b"\xff")
    with pytest.raises(config.ConfigError, match=r"latin\.toml: .*can't decode"):
        config.load(tmp_path / "latin.toml", {}, {})


def test_no_error_and_no_repr_shows_the_key(tmp_path: Path) -> None:
    (line,) = problems("[auth]\nhs256_key = 'hunter2'", tmp_path, {})
    assert line == "edge.toml: [auth] hs256_key: expected 32 characters or more"
    assert KEY not in repr(load("", tmp_path))


def test_serving_without_a_key_is_refused_but_for_dev(tmp_path: Path) -> None:
    (line,) = problems("", tmp_path, {})
    assert line.startswith("edge.toml: [auth] hs256_key: empty; ")
    assert load("", tmp_path, {}, dev="true").server.dev


@pytest.mark.parametrize("listen", ["0.0.0.0:80", "[::]:80", "10.1.2.3:80"])
def test_dev_stays_on_loopback(listen: str, tmp_path: Path) -> None:
    (line,) = problems("", tmp_path, {}, dev="true", listen=listen)
    assert line.startswith(f"--listen: {listen.rpartition(':')[0].strip('[]')} is not loopback")
    assert load("", tmp_path, {"EDGE_DEV_ANYWHERE": "1"}, dev="true", listen=listen).server.listen == listen


def test_settings_that_contradict_each_other(tmp_path: Path) -> None:
    text = "[server]\nlisten = '127.0.0.1:9080'\n[limits]\nmessage_bytes = 20000"
    assert problems(text, tmp_path) == [
        "edge.toml: [server] private_listen: 127.0.0.1:9080 is taken by [server] listen",
        "edge.toml: [limits] inflated_bytes: expected at least message_bytes, 20000",
    ]


@pytest.mark.parametrize(
    "text, host, port",
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("0.0.0.0:0", "0.0.0.0", 0),
        ("localhost:80", "127.0.0.1", 80),
        ("[::]:8080", "::", 8080),
        ("[::1]:65535", "::1", 65535),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert config.parse_address(text) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":80",
        "80",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "::1:80",
        "[::1]",
        "[x]:1",
        "example.com:80",
        "256.0.0.1:80",
        "127.0.0.1:8080\n",
        "127.0.0.1: 80",
    ],
)
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        config.parse_address(text)
