"""curl, on event streams and on everything that one tries first from a shell."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import pytest

from tests.server import PATIENCE_S, Server, until

Event = dict[str, str]


@contextmanager
def curl(*arguments: str) -> Iterator[IO[str]]:
    command = ["curl", "--silent", "--no-buffer", "--max-time", str(int(2 * PATIENCE_S)), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process.stdout
        finally:
            process.kill()


def ask(*arguments: str) -> str:
    command = ["curl", "--silent", "--show-error", "--max-time", str(int(PATIENCE_S)), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def event(stream: IO[str]) -> Event:
    """The next event of a stream, its fields by name."""
    found: Event = {}
    for line in stream:
        if line == "\n":
            if "data" in found:
                return found
            found = {}
            continue
        assert line.endswith("\n")
        name, _, value = line[:-1].partition(": ")
        assert name not in found
        found[name] = value
    pytest.fail("the stream has ended")


def comment(server: Server, room: str, text: str) -> None:
    told = ask(f"{server.url}/v1/rooms/{room}/comments?user=ann", "--json", json.dumps({"x": text}))
    assert json.loads(told)["status"] == "published"


def test_a_stream_and_its_resumption(server: Server, room: str) -> None:
    url = f"{server.url}/v1/rooms/{room}/sse"
    comment(server, room, "one")
    with curl(url) as stream:
        hello = event(stream)
        assert (hello["event"], json.loads(hello["data"])["resumed"]) == ("hello", False)
        batch = event(stream)
        assert batch["event"] == "batch"
        assert batch["id"].endswith(".m0.c1")
        comment(server, room, "two")
        last = event(stream)
        assert json.loads(last["data"])["m"][0]["x"] == "two"
        ask(f"{server.url}/v1/rooms/{room}/score?user=ann", "--json", '{"home":1}')
        score = event(stream)
        assert (score["event"], json.loads(score["data"])["e"]) == ("score", {"home": 1})
        assert score["id"].endswith(".m1.c2")
    comment(server, room, "three")
    for arguments in (
        (url, "--header", f"Last-Event-ID: {last['id']}"),
        (f"{url}?since={last['id']}",),
        (f"{url}?since={batch['id']}", "--header", f"Last-Event-ID: {last['id']}"),
    ):
        with curl(*arguments) as stream:
            hello = event(stream)
            assert json.loads(hello["data"])["resumed"] is True
            assert hello["id"] == last["id"]
            assert [event(stream)["event"] for _ in range(2)] == ["score", "batch"]


def test_a_stream_ends_with_the_server() -> None:
    with Server() as server, curl(f"{server.url}/v1/rooms/demo/sse", "--write-out", "code %{http_code}\n") as stream:
        assert event(stream)["event"] == "hello"
        server.tell()
        assert stream.read() == "code 200\n"
        assert server.process.wait(PATIENCE_S) == 0


def test_what_is_tried_from_a_shell(server: Server, room: str) -> None:
    url = f"{server.url}/v1/rooms/{room}"
    assert "<!doctype html>" in ask(server.url).lower()
    assert ask(f"{server.url}/healthz") == "ok\n"
    assert json.loads(ask(url))["state"] == "live"
    # A body that curl asks leave for, and one of unknown length.
    long = json.dumps({"x": "long"}).ljust(16000)
    assert json.loads(ask(f"{url}/comments?user=ann", "--data-raw", long, "--header", "Expect: 100-continue"))["id"]
    until(lambda: json.loads(ask(url))["last"]["chat"] == "c1")
    chunked = ("--header", "Transfer-Encoding: chunked", "--data-raw", '{"x":"chunked"}')
    assert json.loads(ask(f"{url}/comments?user=ann", *chunked))["id"]
    until(lambda: json.loads(ask(url))["last"]["chat"] == "c2")
    code = ("--output", "/dev/null", "--write-out", "%{http_code}")
    assert ask(f"{url}/ws", *code) == "426"
    assert ask(f"{url}/sse", "--head", *code) == "405"
    assert ask(f"{url}/nothing", *code) == "404"
    assert ask(f"{url}/poll?lanes=all", *code) == "400"
    # Two requests on one connection, the second a stream's.
    told = ask("--verbose", "--stderr", "-", f"{server.url}/healthz", f"{url}/poll")
    assert "Re-using existing connection" in told or "Reusing existing" in told
    assert '"c2"' in told


def test_a_stream_is_forgotten_when_curl_ends(server: Server, room: str) -> None:
    viewers = 'edge_viewers{encoding="sse"}'
    before = server.figures()[viewers]
    with curl(f"{server.url}/v1/rooms/{room}/sse") as stream:
        event(stream)
        assert server.figures()[viewers] == before + 1
    until(lambda: server.figures()[viewers] == before)
