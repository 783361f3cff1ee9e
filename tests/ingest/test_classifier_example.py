"""The third stage against the service of examples/classifier, a process of its own that is killed and comes back."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from edge.ingest.classifier import WHYS, Classifier, Comment, Down, Policy, Score
from edge.ingest.verdict import Ruling, Thresholds

SERVICE = Path(__file__).parent.parent.parent / "examples" / "classifier" / "service.py"
KEY = "a-key-of-the-test"
PATIENCE_S = 20.0
SLOW_S = 5.0
CLEAN = ["what a goal", "lovely day for a match", "the keeper had no chance", "who scored?", "😂😂😂", "どうも"]
DIRTY = ["you fucking idiot", "go fuck yourself you piece of shit", "this referee is a stupid asshole"]


class Service:
    """The example as a process. It is ready when this returns."""

    def __init__(self, port: int = 0) -> None:
        environ = os.environ | {"CLASSIFIER_KEY": KEY, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(SERVICE), "--port", str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environ, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()  # ends, if need be, with the process
        ready = re.fullmatch(r"classifier: ready on (http://127\.0\.0\.1:(\d+)/classify)\n", line)
        if ready is None:
            self.end(signal.SIGKILL)
        assert ready, line
        self.url, self.port = ready[1], int(ready[2])

    def end(self, number: signal.Signals) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """For those who leave it as it is."""
    made = Service()
    yield made
    assert made.end(signal.SIGTERM) == 0


@asynccontextmanager
async def asker_of(service: Service, **settings: Any) -> AsyncIterator[Classifier]:
    asker = Classifier(service.url, **{"key": KEY, "timeout_s": SLOW_S, **settings})
    try:
        yield asker
    finally:
        await asker.close()


def comment(number: int, text: str = "what a goal") -> Comment:
    return Comment(f"id{number}", text, "derby", f"user{number}")


async def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def balanced(asker: Classifier) -> dict[str, int]:
    figures = {name.removeprefix("classifier_"): value for name, value in asker.figures().items()}
    assert figures["asked"] == figures["scored"] + sum(figures[f"down_{why}"] for why in WHYS)
    assert figures["waiting"] == 0
    return figures


async def test_the_model_tells_clean_from_dirty(service: Service) -> None:
    async with asker_of(service) as asker:
        texts = (CLEAN + DIRTY) * 20
        answers = await asyncio.gather(*(asker.classify(comment(number, text)) for number, text in enumerate(texts)))
        for text, answer in zip(texts, answers, strict=True):
            assert isinstance(answer, Score)
            wanted = Ruling.REMOVE if text in DIRTY else Ruling.PASS
            assert Thresholds().rule(answer.value) is wanted, (text, answer)
        assert balanced(asker)["requests"] <= 4  # 180 comments, 64 at a time


async def test_a_wrong_key_is_a_failure_by_name(service: Service) -> None:
    for key in ("", "another"):
        async with asker_of(service, key=key) as asker:
            answer = await asker.classify(comment(1))
            assert isinstance(answer, Down)
            assert balanced(asker)["failed_status"] == 1


BAD: list[tuple[bytes, int]] = [
    (b"", 400),
    (b"{", 400),
    (b"[]", 400),
    (b"{}", 400),
    (b'{"comments":{}}', 400),
    (b'{"comments":[1]}', 400),
    (b'{"comments":[{"x":1}]}', 400),
    (b'{"comments":[{"id":"1"}]}', 400),
    (b"\xff\xfe\xff", 400),
    (b"[" * 200_000, 400),
    (b'{"comments":[' + b",".join([b'{"x":"a"}'] * 1001) + b"]}", 400),
    (b" " * (5 << 20), 413),
]


@pytest.mark.parametrize("body, status", BAD, ids=range(len(BAD)))
async def test_the_service_refuses_what_it_does_not_understand(service: Service, body: bytes, status: int) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "text/plain; charset=none"}
    sent = BytesIO(body)
    async with aiohttp.ClientSession(headers=headers) as session, session.post(service.url, data=sent) as answer:
        assert answer.status == status


async def test_the_service_takes_odd_texts_and_none_at_all(service: Service) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    odd = b'{"comments":[{"x":""},{"x":"\\ud800"},{"x":"\\u0000"},{"x":"' + b"a" * 100_000 + b'"}]}'
    async with aiohttp.ClientSession() as session:
        for body, count in ((b'{"comments":[]}', 0), (odd, 4)):
            async with session.post(service.url, data=body, headers=headers) as answer:
                scores = (await answer.json())["scores"]
                assert len(scores) == count
                assert all(0 <= score <= 1 for score in scores)


def test_without_a_key_the_service_does_not_listen_beyond_the_machine() -> None:
    environ = {name: value for name, value in os.environ.items() if name != "CLASSIFIER_KEY"}
    command = [sys.executable, str(SERVICE), "--host", "0.0.0.0", "--port", "0"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "classifier: set CLASSIFIER_KEY to listen beyond this machine\n"


class Stream:
    """Comments at a steady rate, whatever becomes of them, and how long each took; and for how long at most this
    process was not at it."""

    def __init__(self, asker: Classifier, per_s: int) -> None:
        self._asker = asker
        self._per_s = per_s
        self.answers: list[tuple[float, Score | Down]] = []  # seconds that it took
        self._asking: set[asyncio.Task[None]] = set()
        self._ending = False
        self.sent = 0
        self.gap_s = 0.0

    async def run(self, seconds: float = PATIENCE_S * 3) -> None:
        began = before = time.monotonic()
        while self._asking or not (self._ending or before - began >= seconds):
            now = time.monotonic()
            self.gap_s = max(self.gap_s, now - before)
            before = now
            while not self._ending and self.sent < min(now - began, seconds) * self._per_s:
                self.sent += 1
                text = DIRTY[0] if self.sent % 10 == 0 else f"{CLEAN[self.sent % len(CLEAN)]} {self.sent}"
                task = asyncio.create_task(self._ask(comment(self.sent, text)))
                self._asking.add(task)
                task.add_done_callback(self._asking.discard)
            await asyncio.sleep(0.002)

    async def _ask(self, asked: Comment) -> None:
        began = time.perf_counter()
        answer = await self._asker.classify(asked)
        self.answers.append((time.perf_counter() - began, answer))

    def end(self) -> None:
        self._ending = True

    def whys(self) -> set[str]:
        return {answer.why for _, answer in self.answers if isinstance(answer, Down)}

    def lately_scored(self) -> bool:
        return len(self.answers) >= 50 and all(isinstance(answer, Score) for _, answer in self.answers[-50:])


@pytest.mark.slow
@pytest.mark.parametrize("policy", list(Policy))
async def test_killed_in_the_middle_and_back_again(policy: Policy) -> None:
    service = Service()
    try:
        async with asker_of(service, timeout_s=0.4, policy=policy) as asker:
            stream = Stream(asker, 300)
            running = asyncio.create_task(stream.run())
            await until(stream.lately_scored)
            before = len(stream.answers)
            service.end(signal.SIGKILL)
            await until(lambda: asker.figures()["classifier_open"])
            await until(lambda: len(stream.answers) > before + 300)
            assert stream.whys() & {"failed", "breaker"}
            service = await asyncio.to_thread(Service, service.port)
            await until(lambda: not asker.figures()["classifier_open"])
            await until(stream.lately_scored)
            stream.end()
            await running
            assert len(stream.answers) == stream.sent  # each is answered, once
            figures = balanced(asker)
            assert figures["asked"] == stream.sent
            assert figures["opened"] >= 1
            without = {answer.publish for _, answer in stream.answers if isinstance(answer, Down)}
            assert without == {policy is Policy.OPEN}
    finally:
        service.end(signal.SIGTERM)


@pytest.mark.slow
async def test_stopped_and_continued() -> None:
    """It takes connections, or the kernel does for it, and answers nothing: the time limit is all there is."""
    service = Service()
    try:
        async with asker_of(service, timeout_s=0.4) as asker:
            stream = Stream(asker, 300)
            running = asyncio.create_task(stream.run())
            await until(stream.lately_scored)
            os.kill(service.process.pid, signal.SIGSTOP)
            await until(lambda: asker.figures()["classifier_open"])
            os.kill(service.process.pid, signal.SIGCONT)
            await until(lambda: not asker.figures()["classifier_open"])
            await until(stream.lately_scored)
            stream.end()
            await running
            assert len(stream.answers) == stream.sent
            assert balanced(asker)["failed_timeout"] >= 1
            assert "late" in stream.whys()
    finally:
        os.kill(service.process.pid, signal.SIGCONT)
        service.end(signal.SIGTERM)


@pytest.mark.slow
async def test_two_thousand_comments_a_second() -> None:
    service = Service()
    try:
        for _ in range(5):
            async with asker_of(service, timeout_s=0.4) as asker:
                await asker.classify(comment(0))
                stream = Stream(asker, 2000)
                await stream.run(3.0)
                figures = balanced(asker)
            if stream.gap_s < 0.1:  # behind a longer one, those of that time ask all at once
                break
        took = sorted(took_s for took_s, _ in stream.answers)
        scored = sum(isinstance(answer, Score) for _, answer in stream.answers)
        half, most = (took[len(took) * share // 100] * 1000 for share in (50, 99))
        print(
            f"\n{stream.sent} comments in 3 s, {scored} scored, p50 {half:.1f} ms, p99 {most:.1f} ms, "
            f"{figures['requests']} requests of {figures['request_us'] / figures['requests'] / 1000:.1f} ms"
        )
        assert stream.sent == 6000
        assert len(stream.answers) == stream.sent
        assert most < 500
        assert scored > 0.9 * stream.sent
    finally:
        service.end(signal.SIGTERM)


def test_a_port_that_is_taken_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, str(SERVICE), "--port", str(taken.getsockname()[1])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "in use" in done.stderr
