"""The documentation against the code: links, names of settings, metrics and errors, and the examples, which are run.

A fence behind `<!-- run -->` is executed against a real server, in the order of its file: sh and python must end well
and print something; js runs in Chromium on the room page, until the condition in its marker is true. A toml fence
behind `<!-- check -->` must pass `edge check`.
"""

import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

import broker
from bench.floor import rows
from edge import config, errors
from edge.ingest.classifier import Classifier
from edge.metrics import exposition
from edge.moderation.look import Look
from tests.server import Server
from tests.web.chromium import browser, find, tab

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
PROTOCOL = (ROOT / "docs/protocol.md").read_text()
README = (ROOT / "README.md").read_text()
KEY = "a-key-for-tests-a-key-for-tests-0"

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FENCE = re.compile(r"<!-- (\w+)(?: until ([^\n]+))? -->\n```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SWITCHES = {"EDGE_SECTION_KEY", "EDGE_DEV_ANYWHERE", "EDGE_DEBUG", "EDGE_SANITIZE"}  # environment that is no setting
STREAMS = {"EDGE_LOG", "EDGE_LOG_0", "EDGE_LOG_1", "EDGE_IN", "EDGE_LEASES", "EDGE_STATE"}  # of NATS, and a bucket

page_named = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


class Example(NamedTuple):
    marker: str
    until: str
    language: str
    text: str


def examples(text: str) -> list[Example]:
    return [Example(*found) for found in FENCE.findall(text)]


def anchors(text: str) -> set[str]:
    """As GitHub makes them."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(text)}


@page_named
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link}: there is no such file"
        if anchor:
            assert anchor in anchors(target.read_text()), f"{link}: there is no such heading"


@page_named
def test_every_setting_named_exists(page: Path) -> None:
    text = page.read_text()
    known = {(setting.section, setting.key) for setting in config.SETTINGS}
    for section, key in re.findall(r"`\[(\w+)\]\s+(\w+)`", text):
        assert (section, key) in known, f"[{section}] {key}"
    environment = {setting.env for setting in config.SETTINGS} | SWITCHES | STREAMS
    assert set(re.findall(r"\bEDGE_[A-Z0-9_]+", text)) <= environment


@page_named
def test_every_flag_named_exists(page: Path) -> None:
    flags = {setting.flag for setting in config.SETTINGS if setting.flag} | {"--config"}
    for line in re.findall(r"(?:edge serve|edge check)[^`\n]*", page.read_text()):
        assert set(re.findall(r"--[a-z-]+", line)) <= flags, line


def test_the_defaults_in_the_protocol_are_those_of_the_settings() -> None:
    defaults = {(setting.section, setting.key): setting.default for setting in config.SETTINGS}
    table = re.findall(r"^\| [^|]+ \| ([^|]+) \| `\[(\w+)\] (\w+)` \|$", PROTOCOL, re.MULTILINE)
    assert len(table) > 10
    for said, section, key in table:
        numbers = re.findall(r"\d+", said)
        value = int(numbers[-1]) * (1024 if said.endswith("KiB") else 1) if numbers else 0
        assert value == defaults[section, key], f"[{section}] {key}: {said}"


@pytest.mark.parametrize("problem", errors.PROBLEMS.values(), ids=lambda problem: problem.name)
def test_every_error_is_in_the_protocol_as_it_is_in_the_code(problem: errors.Problem) -> None:
    assert f"\n| `{problem.name}` | {problem.status} | {problem.message} | {problem.advice} |\n" in PROTOCOL


@pytest.mark.parametrize("close", errors.CLOSES.values(), ids=lambda close: close.name)
def test_every_close_code_is_in_the_protocol_as_it_is_in_the_code(close: errors.Close) -> None:
    assert f"\n| {close.code} | `{close.name}` | {close.meaning} | {close.advice} | " in PROTOCOL


def test_the_modules_of_the_engine_are_those_in_the_architecture() -> None:
    table = ARCHITECTURE.partition("Inside `edge/_fast`")[2].partition("\n## ")[0]
    named = {
        name for row in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert named == {path.stem for path in (ROOT / "edge/_fast").glob("*.p[yx]*") if path.suffix in (".pyx", ".pxd")}


def test_the_rows_of_the_readme_are_the_benchmark_s() -> None:
    table = README.partition("<!-- floor -->")[2].partition("<!-- /floor -->")[0]
    named = re.findall(r"^\| (?:&nbsp;)*([^|]+?) \|", table, re.MULTILINE)
    measured = [name.strip() for name, *_ in rows(defaultdict(lambda: defaultdict(float)))]
    assert [name for name in named if name not in measured] == []
    assert named, "the table is gone"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def test_the_metrics_of_the_architecture_are_those_of_the_server(server: Server) -> None:
    """Both ways, families and labels."""
    figures = {re.sub(r"_seconds_(bucket|sum|count)", "_seconds", name) for name in server.figures()}
    for url in ("local:/nowhere", "nats://nowhere:4222"):  # each broker has some of its own
        figures |= {f"edge_{name}_total" for name in broker.open(url).figures()}
    nobody: Any = None
    look = Look(Classifier("http://nowhere/", ""), nobody, nobody, nobody)
    told = exposition([("", look.figures())])
    figures |= set(re.findall(r"^(edge_\w+) ", told, re.MULTILINE))
    chapter = ARCHITECTURE.partition("## Metrics")[2]
    assert {name.partition("{")[0] for name in figures} == set(re.findall(r"`(edge_\w+)`", chapter)) - {
        "edge_refused",
        "",
    }
    labels = {label for name in figures for label in re.findall(r'\w+="\w+"', name) if label[:2] != "le"}
    assert labels == set(re.findall(r'`(\w+="\w+")`', chapter))
    for page in PAGES:
        named = set(re.findall(r"`(edge_\w+)", page.read_text()))
        assert named <= {name.partition("{")[0] for name in figures}, page


def here(text: str, server: Server) -> str:
    """The example with the addresses of this server in it."""
    return text.replace("127.0.0.1:8080", f"127.0.0.1:{server.port}").replace(
        "127.0.0.1:9080", f"127.0.0.1:{server.private_port}"
    )


RUN = [(page, number) for page in PAGES for number, it in enumerate(examples(page.read_text())) if it.marker == "run"]
AS_PROGRAM = [(page, number) for page, number in RUN if examples(page.read_text())[number].language != "js"]
IN_BROWSER = [at for at in RUN if at not in AS_PROGRAM]


def name_of(value: object) -> str:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else str(value)


@pytest.mark.parametrize("page, number", AS_PROGRAM, ids=name_of)
def test_an_example_runs(server: Server, page: Path, number: int) -> None:
    example = examples(page.read_text())[number]
    program = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-W", "error", "-c"]}[
        example.language
    ]
    ran = subprocess.run([*program, here(example.text, server)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()
    assert '"error"' not in ran.stdout


@pytest.mark.skipif(find() is None, reason="no Chromium on this machine (apt install chromium)")
async def test_the_examples_for_browsers_run(server: Server) -> None:
    assert IN_BROWSER
    with browser() as debugger:
        async with tab(debugger) as page, aiohttp.ClientSession() as session:
            for path, number in IN_BROWSER:
                example = examples(path.read_text())[number]
                body = {"home": 1, "away": 0}
                async with session.post(f"{server.url}/v1/rooms/demo/score?user=desk", json=body) as answer:
                    assert answer.status == 201
                await page.go(f"{server.url}/?room=demo")
                await page.js(here(example.text, server) + ";0")
                await page.until(example.until)
            assert page.troubles == []


@page_named
def test_an_example_of_settings_passes_the_check(page: Path, tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("EDGE_")}
    environ |= {"EDGE_AUTH_HS256_KEY": KEY, "PYTHONPATH": str(ROOT)}
    for example in examples(page.read_text()):
        if example.marker != "check":
            continue
        file = tmp_path / "edge.toml"
        file.write_text(example.text)
        command = [sys.executable, "-m", "edge.cli", "check", "--config", str(file)]
        ran = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60)
        assert ran.returncode == 0, ran.stderr


def status_of(request: urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(request, timeout=15) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code


def test_the_token_that_the_readme_mints_is_good() -> None:
    (example,) = [it for it in examples(README) if it.marker == "mint"]
    environ = os.environ | {"EDGE_AUTH_HS256_KEY": KEY}
    command = [sys.executable, "-c", example.text]
    token = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60, check=True).stdout.strip()
    with Server(dev=False, AUTH_HS256_KEY=KEY) as server:
        request = urllib.request.Request(f"{server.url}/v1/rooms/demo/comments", b'{"x":"signed"}')
        assert status_of(request) == 401
        request.add_header("Authorization", f"Bearer {token}")
        assert status_of(request) == 201


def test_examples_are_found() -> None:
    """A marker that the pattern does not see would be an example that nobody runs."""
    for page in PAGES:
        text = page.read_text()
        assert len(re.findall(r"^<!-- (?:run|check|mint)", text, re.MULTILINE)) == len(examples(text)), page
    assert len(RUN) > 5
