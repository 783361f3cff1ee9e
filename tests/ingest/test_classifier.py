"""The third stage against a service that misbehaves in every way a real one can't be made to."""

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from edge.ingest.classifier import FAILURES, WHYS, Breaker, Classifier, Comment, Down, Policy, Score

PATIENCE_S = 10.0
SLOW_S = 5.0  # a time limit that no healthy answer comes near, however busy the machine
Respond = Callable[["Asked"], Awaitable[bytes | None]]


class Asked:
    """One request as the service got it, and the way to answer it byte by byte."""

    def __init__(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        self.head = head.decode().lower()
        self.comments: list[dict[str, str]] = json.loads(body)["comments"]
        self.writer = writer


class Misbehaving:
    """Answers each request by `respond`, whose bytes are sent as they are; None ends the connection."""

    def __init__(self, respond: Respond) -> None:
        self.respond = respond
        self.asked: list[Asked] = []
        self.now_asked = self.most_asked = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/classify"

    async def stop(self) -> None:
        self.server.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.server.wait_closed()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-len"))
                asked = Asked(head, await reader.readexactly(length), writer)
                self.asked.append(asked)
                self.now_asked += 1
                self.most_asked = max(self.most_asked, self.now_asked)
                try:
                    answer = await self.respond(asked)
                finally:
                    self.now_asked -= 1
                if answer is None:
                    return
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


def http(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def scores(asked: Asked, value: float = 0.25) -> bytes:
    return http(json.dumps({"scores": [value] * len(asked.comments)}).encode())


async def well(asked: Asked) -> bytes:
    return scores(asked)


async def never(asked: Asked) -> bytes | None:
    await asyncio.Event().wait()
    return None


@asynccontextmanager
async def both(respond: Respond, **settings: Any) -> AsyncIterator[tuple[Misbehaving, Classifier]]:
    service = Misbehaving(respond)
    await service.start()
    asker = Classifier(service.url, **{"timeout_s": SLOW_S, "linger_s": 0.005, **settings})
    try:
        yield service, asker
    finally:
        await asker.close()
        await service.stop()


async def until(holds: Callable[[], object], what: str = "") -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, what or "it did not come true"
        await asyncio.sleep(0.002)


def comment(number: int = 0) -> Comment:
    return Comment(f"id{number}", f"what a goal {number}", "derby", f"user{number}")


async def ask(asker: Classifier, count: int, first: int = 0) -> list[Score | Down]:
    return await asyncio.gather(*(asker.classify(comment(number)) for number in range(first, first + count)))


def balanced(asker: Classifier) -> dict[str, int]:
    """The figures by their short names, once it is seen that whoever asked was counted as answered exactly once."""
    figures = {name.removeprefix("classifier_"): value for name, value in asker.figures().items()}
    down = sum(figures[f"down_{why}"] for why in WHYS)
    assert figures["asked"] == figures["scored"] + down
    assert figures["waiting"] == 0
    return figures


async def test_each_comment_gets_its_own_score_and_the_request_says_all() -> None:
    async def by_number(asked: Asked) -> bytes:
        return http(json.dumps({"scores": [int(it["id"][2:]) / 100 for it in asked.comments]}).encode())

    async with both(by_number, key="s3cret", batch=16) as (service, asker):
        assert await ask(asker, 100) == [Score(number / 100) for number in range(100)]
        assert service.asked[0].comments[0] == {"id": "id0", "x": "what a goal 0", "room": "derby", "u": "user0"}
        assert "authorization: bearer s3cret" in service.asked[0].head
        assert max(len(asked.comments) for asked in service.asked) == 16
        sent = [it["id"] for asked in service.asked for it in asked.comments]
        assert sorted(sent) == sorted(f"id{number}" for number in range(100))  # each once
        figures = balanced(asker)
        assert figures["scored"] == 100
        assert figures["requests"] == len(service.asked)
        assert figures["request_us"] > 0


async def test_comments_linger_for_others_and_no_longer() -> None:
    async with both(well, linger_s=0.1, batch=1000) as (service, asker):
        began = time.monotonic()
        first = asyncio.ensure_future(asker.classify(comment(1)))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(asker.classify(comment(2)))
        assert await asyncio.gather(first, second) == [Score(0.25)] * 2
        assert time.monotonic() - began >= 0.09
        assert len(service.asked) == 1


async def test_a_full_batch_does_not_linger() -> None:
    async with both(well, linger_s=2.0, batch=8) as (service, asker):
        began = time.monotonic()
        await ask(asker, 8)
        assert time.monotonic() - began < 1.5
        assert [len(asked.comments) for asked in service.asked] == [8]


async def test_no_more_requests_at_once_than_set() -> None:
    gate = asyncio.Event()

    async def gated(asked: Asked) -> bytes:
        await gate.wait()
        return scores(asked)

    async with both(gated, at_once=3, batch=2) as (service, asker):
        asking = asyncio.ensure_future(ask(asker, 20))
        await until(lambda: service.now_asked == 3)
        figures = asker.figures()
        assert figures["classifier_under_way"] == 3
        assert figures["classifier_waiting"] == 14
        gate.set()
        assert await asking == [Score(0.25)] * 20
        assert service.most_asked == 3


async def drip(asked: Asked) -> bytes | None:
    asked.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        asked.writer.write(b" ")
        await asked.writer.drain()
        await asyncio.sleep(0.01)


async def drip_head(asked: Asked) -> bytes | None:
    asked.writer.write(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        asked.writer.write(b"a")
        await asyncio.sleep(0.01)


async def flood(asked: Asked) -> bytes | None:
    asked.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        asked.writer.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
        await asked.writer.drain()


async def cut(asked: Asked) -> bytes | None:
    asked.writer.write(scores(asked)[:-3])
    return None


async def hang_up(asked: Asked) -> bytes | None:
    return None


def says(answer: bytes) -> Respond:
    async def respond(asked: Asked) -> bytes:
        return answer

    return respond


MOVED = http(b"", "302 Found", "Location: http://127.0.0.1:1/\r\n")
FAULTS: list[tuple[str, str, Respond]] = [
    ("hangs", "timeout", never),
    ("drips a body", "timeout", drip),
    ("drips a head", "timeout", drip_head),
    ("hangs up", "broken", hang_up),
    ("is cut off", "broken", cut),
    ("speaks no HTTP", "broken", says(b"220 smtp.example ESMTP\r\n\r\n")),
    ("has a huge head", "broken", says(http(b"", headers="X: " + "a" * 100_000 + "\r\n"))),
    ("500", "status", says(http(b"{}", "500 Internal Server Error"))),
    ("503", "status", says(http(b'{"scores":[0.5]}', "503 Service Unavailable", "Retry-After: 1\r\n"))),
    ("401", "status", says(http(b"", "401 Unauthorized"))),
    ("204", "status", says(b"HTTP/1.1 204 No Content\r\n\r\n")),
    ("elsewhere", "status", says(MOVED)),
    ("floods", "large", flood),
    ("huge", "large", says(http(b'{"scores":[0.5]}' + b" " * 1_000_000))),
    ("empty", "json", says(http(b""))),
    ("html", "json", says(http(b"<html>hello</html>"))),
    ("half", "json", says(http(b'{"scores":[0.5'))),
    ("not UTF-8", "json", says(http(b'\xff{"scores":[0.5]}'))),
    ("deep", "json", says(http(b'{"x":' + b"[" * 1000))),
    ("list", "json", says(http(b"[0.5]"))),
    ("no scores", "json", says(http(b'{"score":[0.5]}'))),
    ("null", "json", says(http(b'{"scores":[null]}'))),
    ("string", "json", says(http(b'{"scores":["0.5"]}'))),
    ("true", "json", says(http(b'{"scores":[true]}'))),
    ("compressed", "json", says(http(b'{"scores":[0.5]}', headers="Content-Encoding: gzip\r\n"))),
    ("too few", "length", says(http(b'{"scores":[]}'))),
    ("too many", "length", says(http(b'{"scores":[0.5,0.5]}'))),
    ("NaN", "score", says(http(b'{"scores":[NaN]}'))),
    ("infinity", "score", says(http(b'{"scores":[-Infinity]}'))),
    ("above", "score", says(http(b'{"scores":[1.0000001]}'))),
    ("below", "score", says(http(b'{"scores":[-0.1]}'))),
]


@pytest.mark.parametrize("name, respond", [pytest.param(*row[1:], id=row[0]) for row in FAULTS])
async def test_a_fault_is_counted_by_its_name_and_the_next_comment_is_served(name: str, respond: Respond) -> None:
    timeout_s = 1.0 if name == "timeout" else SLOW_S
    async with both(respond, timeout_s=timeout_s, linger_s=0.0) as (service, asker):
        began = time.monotonic()
        (answer,) = await ask(asker, 1)
        took_s = time.monotonic() - began
        assert isinstance(answer, Down)
        assert answer.why == ("late" if name == "timeout" else "failed")
        assert answer.publish
        assert took_s < SLOW_S
        assert took_s >= 0.95 or name != "timeout"
        figures = balanced(asker)
        assert {it: figures[f"failed_{it}"] for it in FAILURES} == dict.fromkeys(FAILURES, 0) | {name: 1}
        assert len(service.asked) == 1  # it was not tried again
        service.respond = well
        asker._timeout_s = SLOW_S
        assert await ask(asker, 1, first=1) == [Score(0.25)]


async def test_what_json_allows_is_taken() -> None:
    async with both(says(http(b' {"scores" : [1, 0, 1e-3], "model": "v2"}\n'))) as (_, asker):
        assert await ask(asker, 3) == [Score(1.0), Score(0.0), Score(0.001)]


async def test_nobody_listens() -> None:
    service = Misbehaving(well)
    await service.start()
    await service.stop()
    asker = Classifier(service.url, timeout_s=SLOW_S)
    answers = await ask(asker, 3)
    assert [answer.why for answer in answers if isinstance(answer, Down)] == ["failed"] * 3
    assert balanced(asker)["failed_connect"] == 1
    await asker.close()


async def test_nobody_waits_longer_than_the_time_limit_however_many_ask() -> None:
    async with both(never, timeout_s=2.0, at_once=2, batch=4, breaker=Breaker(row=1000, window=1000)) as (_, asker):
        took: list[float] = []
        whys: list[str] = []  # as they come

        async def timed(number: int) -> None:
            began = time.monotonic()
            answer = await asker.classify(comment(number))
            took.append(time.monotonic() - began)
            assert isinstance(answer, Down)
            whys.append(answer.why)

        await asyncio.gather(*(timed(number) for number in range(100)))
        # 8 are sent at once; the others have left the queue at half time, before those end.
        assert whys == ["waited"] * 92 + ["late"] * 8
        assert min(took) >= 0.95
        assert 1.9 < max(took) < 3.8
        balanced(asker)


async def test_past_the_bound_of_the_queue_the_policy_decides_at_once() -> None:
    async with both(never, at_once=1, batch=1, waiting=5) as (service, asker):
        first = asyncio.ensure_future(ask(asker, 6))
        await until(lambda: service.now_asked == 1 and asker.figures()["classifier_waiting"] == 5)
        began = time.monotonic()
        answers = await ask(asker, 1000, first=6)
        assert time.monotonic() - began < SLOW_S / 4
        assert {answer.why for answer in answers if isinstance(answer, Down)} == {"full"}
        assert asker.figures()["classifier_down_full"] == 1000
        await asker.close()
        assert {answer.why for answer in await first if isinstance(answer, Down)} == {"closed"}
        assert balanced(asker)["down_closed"] == 6


async def test_the_breaker_opens_lets_one_request_try_and_closes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edge.ingest.classifier")
    breaker = Breaker(row=3, rest_s=0.2)
    async with both(says(http(b"", "500 Oh")), at_once=1, batch=1, breaker=breaker) as (service, asker):
        answers = await ask(asker, 50)
        assert [answer.why for answer in answers if isinstance(answer, Down)] == ["failed"] * 3 + ["breaker"] * 47
        assert len(service.asked) == 3
        assert asker.figures()["classifier_open"] == 1
        assert asker.figures()["classifier_opened"] == 1
        gate = asyncio.Event()

        async def gated(asked: Asked) -> bytes:
            await gate.wait()
            return scores(asked)

        service.respond = gated
        await until(lambda: breaker.admits(asyncio.get_running_loop().time()))
        probe = asyncio.ensure_future(ask(asker, 1))
        await until(lambda: service.now_asked == 1)
        (beside,) = await ask(asker, 1)
        assert isinstance(beside, Down)
        assert beside.why == "breaker"
        gate.set()
        assert await probe == [Score(0.25)]
        assert asker.figures()["classifier_open"] == 0
        assert await ask(asker, 20) == [Score(0.25)] * 20
        balanced(asker)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "status: it answers 500" in said[0]
    assert "open" in said[0]
    assert said[1] == "the classifier answers again"


async def test_hold_publishes_nothing() -> None:
    async with both(says(http(b"", "500 Oh")), policy=Policy.HOLD) as (_, asker):
        answers = await ask(asker, 12)
        assert [answer.publish for answer in answers if isinstance(answer, Down)] == [False] * 12
        balanced(asker)


async def test_it_is_ready_but_while_it_rests() -> None:
    breaker = Breaker(row=1, rest_s=0.2)
    async with both(says(http(b"", "500 Oh")), breaker=breaker) as (_, asker):
        assert asker.ready
        await ask(asker, 1)
        assert not asker.ready
        await until(lambda: asker.ready)
        assert asker.figures()["classifier_open"] == 1, "nobody else may ask: who looks again asks for all"
    assert not asker.ready


async def test_whoever_gives_up_is_not_asked_about() -> None:
    gate = asyncio.Event()

    async def gated(asked: Asked) -> bytes | None:
        await gate.wait()
        return None

    async with both(gated, at_once=1, batch=1) as (service, asker):
        sent = asyncio.ensure_future(asker.classify(comment(1)))
        await until(lambda: service.now_asked == 1)
        queued = asyncio.ensure_future(asker.classify(comment(2)))
        await until(lambda: asker.figures()["classifier_waiting"] == 1)
        for task in (sent, queued):
            task.cancel()
        await asyncio.wait((sent, queued))
        gate.set()
        await until(lambda: asker.figures()["classifier_under_way"] == 0)
        assert asker.figures()["classifier_waiting"] == 0
        assert len(service.asked) == 1


async def test_those_who_linger_when_the_breaker_opens_are_answered_at_once() -> None:
    breaker = Breaker(row=1, rest_s=60.0)
    async with both(says(http(b"", "500 Oh")), linger_s=2.0, batch=2, breaker=breaker) as (_, asker):
        began = time.monotonic()
        answers = await ask(asker, 3)
        assert time.monotonic() - began < 1.5
        assert [answer.why for answer in answers if isinstance(answer, Down)] == ["failed", "failed", "breaker"]


async def test_one_request_is_tried_however_many_ask_when_the_rest_is_over() -> None:
    breaker = Breaker(row=1, rest_s=0.05, most_s=60.0)
    async with both(says(http(b"", "500 Oh")), batch=4, breaker=breaker) as (service, asker):
        await ask(asker, 1)
        await until(lambda: breaker.admits(asyncio.get_running_loop().time()))
        service.respond = never
        asking = asyncio.ensure_future(ask(asker, 20, first=1))
        await until(lambda: asker.figures()["classifier_down_breaker"] == 16)
        await until(lambda: service.now_asked == 1)
        assert len(service.asked) == 2
        assert [it["id"] for it in service.asked[1].comments] == ["id1", "id2", "id3", "id4"]
        await asker.close()
        await asking


async def test_closed_in_the_middle_everybody_is_answered() -> None:
    async with both(never, at_once=2, batch=5) as (service, asker):
        asking = asyncio.ensure_future(ask(asker, 30))
        await until(lambda: service.now_asked == 2)
        await asker.close()
        answers = await asking
        assert {answer.why for answer in answers if isinstance(answer, Down)} == {"closed"}
        assert len(answers) == 30
        (late,) = await ask(asker, 1)
        assert isinstance(late, Down)
        assert balanced(asker)["under_way"] == 0


async def test_closed_before_a_request_has_begun() -> None:
    async with both(never, linger_s=0.0) as (_, asker):
        asking = asyncio.ensure_future(asker.classify(comment()))
        await asyncio.sleep(0)  # the request's task is made, and has not run
        await asker.close()
        answer = await asking
        assert isinstance(answer, Down)
        assert answer.why == "closed"


def test_it_keeps_its_times_on_the_loop_of_the_workers() -> None:
    """uvloop's clock and timers are in whole milliseconds: a timer that comes too soon must not spin or stay away."""

    async def run() -> None:
        async with both(never, timeout_s=0.2, linger_s=0.0333, at_once=2, batch=4) as (service, asker):
            pumped = 0
            pump = asker._pump

            def counted() -> None:
                nonlocal pumped
                pumped += 1
                pump()

            asker._pump = counted  # type: ignore[method-assign]
            began = time.monotonic()
            answers = await ask(asker, 30)
            assert 0.19 <= time.monotonic() - began < 2.0
            assert {answer.why for answer in answers if isinstance(answer, Down)} == {"late", "waited"}
            assert asker.figures()["classifier_requests"] == 2
            assert pumped < 20
            service.respond = well
            asker._timeout_s = SLOW_S
            assert await ask(asker, 1) == [Score(0.25)]  # by the timer: it makes no full batch

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


@pytest.mark.parametrize(
    "url, key, settings",
    [
        ("ftp://x/", "", {}),
        ("http:///classify", "", {}),
        ("classify", "", {}),
        ("http://u:p@x/", "", {}),
        ("http://x/", "a\r\nb", {}),
        ("http://x/", "ключ", {}),
        ("http://x/", "", {"at_once": 0}),
        ("http://x/", "", {"batch": 0}),
        ("http://x/", "", {"waiting": 0}),
        ("http://x/", "", {"timeout_s": 0.0, "linger_s": 0.0}),
        ("http://x/", "", {"timeout_s": float("nan")}),
        ("http://x/", "", {"timeout_s": float("inf")}),
        ("http://x/", "", {"linger_s": 0.2}),
        ("http://x/", "", {"linger_s": -0.1}),
        ("http://x/", "", {"policy": "shrug"}),
    ],
)
def test_settings_that_make_no_sense(url: str, key: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Classifier(url, key, **settings)


def fail(breaker: Breaker, times: int, now: float) -> list[bool | None]:
    return [breaker.ended(breaker.start(), False, now) for _ in range(times)]


def test_a_success_between_failures_keeps_the_breaker_closed() -> None:
    breaker = Breaker(row=3, window=1000)
    for _ in range(50):
        assert fail(breaker, 2, 0.0) == [None, None]
        assert breaker.ended(breaker.start(), True, 0.0) is None
    assert fail(breaker, 3, 0.0) == [None, None, True]


def test_a_share_of_failures_opens_the_breaker() -> None:
    breaker = Breaker(row=1000, share=0.5, window=10)
    turned = [breaker.ended(breaker.start(), number % 2 == 0, 0.0) for number in range(10)]
    assert turned == [None] * 9 + [True]
    assert breaker.ended(breaker.start(), True, 10.0) is False
    assert fail(breaker, 9, 10.0) == [None] * 9  # what was before the rest is forgotten
    calm = Breaker(row=1000, share=0.5, window=10)
    assert [calm.ended(calm.start(), number % 3 != 0, 0.0) for number in range(100)] == [None] * 100


def test_the_breaker_rests_longer_each_time_up_to_its_bound() -> None:
    breaker = Breaker(row=1, rest_s=1.0, most_s=4.0)
    now = 100.0
    assert fail(breaker, 1, now) == [True]
    for rest_s in (1.0, 2.0, 4.0, 4.0):
        assert not breaker.admits(now + 0.79 * rest_s)
        now += 1.21 * rest_s
        assert breaker.admits(now)
        era = breaker.start()
        assert not breaker.admits(now + 100)  # one tries, nobody beside it
        assert breaker.ended(era, False, now) is None
    now += 5
    assert breaker.ended(breaker.start(), True, now) is False
    assert breaker.admits(now)
    assert fail(breaker, 1, now) == [True]
    assert breaker.admits(now + 1.21)  # the first rest is a short one again


def test_what_was_begun_before_the_breaker_turned_does_not_count() -> None:
    breaker = Breaker(row=2)
    old = [breaker.start() for _ in range(4)]
    assert breaker.ended(old[0], False, 0.0) is None
    assert breaker.ended(old[1], False, 0.0) is True
    assert breaker.ended(old[2], True, 0.0) is None  # late, and well: it rests all the same
    assert breaker.is_open
    probe = breaker.start()
    assert breaker.ended(old[3], False, 2.0) is None
    assert breaker.ended(probe, True, 2.0) is False
    assert breaker.admits(2.0)


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_the_service_does_each_comment_is_answered_once_and_in_time(seed: int) -> None:
    rng = random.Random(seed)
    faults = [row[2] for row in FAULTS] + [well] * len(FAULTS)

    async def any_of_them(asked: Asked) -> bytes | None:
        return await rng.choice(faults)(asked)

    settings = {"timeout_s": 0.2, "at_once": 3, "batch": 8, "waiting": 100, "policy": Policy.HOLD}
    async with both(any_of_them, breaker=Breaker(rest_s=0.05, most_s=0.2), **settings) as (service, asker):
        took: list[float] = []
        asking: set[asyncio.Task[None]] = set()

        async def timed(number: int) -> None:
            began = time.monotonic()
            await asker.classify(comment(number))
            took.append(time.monotonic() - began)

        for number in range(1500):
            asking.add(asyncio.create_task(timed(number)))
            if rng.random() < 0.1:
                await asyncio.sleep(rng.random() * 0.02)
            assert asker.figures()["classifier_waiting"] <= 100
        await asyncio.gather(*asking)
        figures = balanced(asker)
        assert len(took) == figures["asked"] == 1500
        assert max(took) < 0.2 + 3.0  # a busy machine may be late; a comment that is forgotten never comes
        assert service.most_asked <= 3 + figures["failed_timeout"]  # one that was given up may not know it yet
        sent = [it["id"] for asked in service.asked for it in asked.comments]
        assert len(sent) == len(set(sent))
        assert figures["scored"] > 0
        assert figures["opened"] > 0
