"""Long polls with the standard library's own HTTP client: one connection, asked again and again."""

import http.client
import json
import threading
from typing import Any

import pytest

from tests.server import HOST, PATIENCE_S, Server, until
from tests.viewers import Seat


class Poller:
    def __init__(self, server: Server, room: str, query: str = "") -> None:
        self.connection = http.client.HTTPConnection(HOST, server.port, timeout=PATIENCE_S)
        self.path = f"/v1/rooms/{room}/poll?{query}"
        self.since = ""
        self.reused = True

    def ask(self) -> list[Any]:
        self.connection.request("GET", f"{self.path}&since={self.since}" if self.since else self.path)
        sock = self.connection.sock
        answer = self.connection.getresponse()
        body = answer.read()
        self.reused = self.reused and self.connection.sock is sock
        assert answer.getheader("Access-Control-Allow-Origin") == "*"
        assert answer.getheader("Cache-Control") == "no-store"
        if answer.status == 204:
            self.since = answer.getheader("Edge-Since") or ""
            return []
        assert answer.status == 200
        assert answer.getheader("Content-Type") == "application/json"
        told = json.loads(body)
        self.since = told["since"]
        return list(told["m"])


def post(server: Server, room: str, what: str, body: Any) -> None:
    connection = http.client.HTTPConnection(HOST, server.port, timeout=PATIENCE_S)
    connection.request("POST", f"/v1/rooms/{room}/{what}?user=ann", json.dumps(body))
    assert connection.getresponse().status == 201
    connection.close()


def say(server: Server, room: str, text: str) -> None:
    """A comment, until it is in a batch."""
    before = head(server, room)
    post(server, room, "comments", {"x": text})
    until(lambda: head(server, room) != before)


def head(server: Server, room: str) -> str:
    connection = http.client.HTTPConnection(HOST, server.port, timeout=PATIENCE_S)
    connection.request("GET", f"/v1/rooms/{room}?user=ann")
    found = json.loads(connection.getresponse().read())["last"]["chat"]
    connection.close()
    return str(found)


def test_nothing_is_missed_between_two_polls(server: Server, room: str) -> None:
    say(server, room, "first")
    pollers = [Poller(server, room) for _ in range(3)]
    for poller in pollers:
        (first,) = poller.ask()
        assert first["id"] == "c1"

    def talk() -> None:
        for number in range(60):
            post(server, room, "comments", {"x": str(number)})
            if number % 3 == 0:
                post(server, room, "score", {"number": number})

    talking = threading.Thread(target=talk)
    talking.start()
    for poller in pollers:
        seat, got = Seat(), 0
        seat.since = poller.since
        while got < 80:
            for message in poller.ask():
                seat.take(message)
                got += len(message.get("m", "1"))
            assert seat.since == poller.since
        assert poller.reused
        poller.connection.close()
    talking.join()


def test_the_scores_alone(server: Server, room: str) -> None:
    poller = Poller(server, room, "lanes=must")
    say(server, room, "hi")
    post(server, room, "score", {"home": 1})
    assert [m["t"] for m in poller.ask()] == ["score"]
    say(server, room, "hi")
    post(server, room, "score", {"home": 2})
    assert [m["e"] for m in poller.ask()] == [{"home": 2}]
    poller.connection.close()


@pytest.mark.parametrize("last, ids", [("", ["c1", "c2", "c3"]), ("last=2", ["c2", "c3"]), ("last=1", ["c3"])])
def test_how_much_a_first_poll_gets(last: str, ids: list[str], server: Server, room: str) -> None:
    for text in ("one", "two", "three"):
        say(server, room, text)
    poller = Poller(server, room, last)
    assert [m["id"] for m in poller.ask()] == ids
    poller.connection.close()


def test_much_comes_in_several_answers(server: Server, room: str) -> None:
    for number in range(80):
        say(server, room, f"{number} " + "\U0001f642" * 490)
    poller, texts, answers = Poller(server, room), [], 0
    while len(texts) < 80:
        answers += 1
        texts += [comment["x"].split()[0] for message in poller.ask() for comment in message["m"]]
    assert texts == [str(number) for number in range(80)]
    assert answers >= 3
    poller.connection.close()
