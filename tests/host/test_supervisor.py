"""The supervisor with real processes: the ready lines, a worker that dies, an orderly end, and a forced one."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from broker.local import LocalBroker

ROOT = Path(__file__).parent.parent.parent
STUB = Path(__file__).parent / "stub_server.py"


class Answer(NamedTuple):
    worker: int
    pid: int
    cores: str
    broker: str
    private: bool


class Server:
    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self.process = process
        self.errors = errors
        self.port = 0

    def ask(self) -> Answer:
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as client:
            worker, pid, cores, broker, private = client.makefile().readline().split()
        return Answer(int(worker), int(pid), cores, broker, private == "True")

    def each(self, count: int) -> dict[int, Answer]:
        """One answer from every worker."""
        found: dict[int, Answer] = {}

        def asked() -> bool:
            answer = self.ask()
            found[answer.worker] = answer
            return len(found) == count

        wait_for(asked)
        return found

    def await_ready(self) -> None:
        assert self.process.stdout
        first, second = self.process.stdout.readline(), self.process.stdout.readline()
        ready = re.fullmatch(r"edge: ready on (http://127\.0\.0\.1:(\d+))\n", first)
        assert ready, (first, self.errors.read_text())
        assert second == f"edge: open {ready[1]}/?room=demo\n"
        self.port = int(ready[2])


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextmanager
def started(tmp_path: Path, *arguments: str) -> Iterator[Server]:
    errors = tmp_path / "errors"
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, str(STUB), *arguments],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        ) as process,
    ):
        try:
            yield Server(process, errors)
        finally:
            with suppress(ProcessLookupError):
                process.kill()


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Server]:
    with started(tmp_path, "2") as server:
        server.await_ready()
        yield server


def test_one_worker_is_the_process_itself(tmp_path: Path) -> None:
    with started(tmp_path, "1") as server:
        server.await_ready()
        answer = server.ask()
        assert (answer.pid, answer.broker, answer.private) == (server.process.pid, "memory:", True)
        server.process.terminate()
        assert server.process.wait(10) == 0


def test_several_workers_share_the_port_and_a_broker(two: Server, tmp_path: Path) -> None:
    answers = two.each(2)
    assert [answers[number].private for number in (0, 1)] == [True, False]
    assert answers[0].broker == answers[1].broker
    path = Path(answers[0].broker.removeprefix("local:"))
    assert path.is_socket()
    assert path.parent.stat().st_mode & 0o777 == 0o700
    cores = [answers[number].cores for number in (0, 1)]
    if len(os.sched_getaffinity(0)) >= 2:
        assert cores[0] != cores[1]
        assert "+" not in cores[0] + cores[1]
    two.process.terminate()
    assert two.process.wait(10) == 0
    assert not path.parent.exists()
    assert not any(alive(answer.pid) for answer in answers.values())


def test_a_worker_that_dies_comes_back_to_the_same_listener(two: Server) -> None:
    before = two.each(2)
    os.kill(before[1].pid, signal.SIGKILL)
    after = dict(before)

    def came_back() -> bool:
        # A connection to the dead worker waits in its queue, and is answered by its successor: none is refused.
        answer = two.ask()
        after[answer.worker] = answer
        return after[1].pid != before[1].pid

    wait_for(came_back)
    assert after[0].pid == before[0].pid
    assert after[1].cores == before[1].cores
    assert "worker 1 ended by signal 9; again in 0.5 s" in two.errors.read_text()


def test_the_pause_before_a_restart_doubles(two: Server) -> None:
    pid = two.each(2)[1].pid
    for pause in ("0.5", "1.0", "2.0"):
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda pause=pause: f"worker 1 ended by signal 9; again in {pause} s" in two.errors.read_text())
        pid = two.each(2)[1].pid


def test_a_broker_that_dies_comes_back_to_the_same_path(two: Server) -> None:
    path = two.ask().broker.removeprefix("local:")
    children = Path(f"/proc/{two.process.pid}/task/{two.process.pid}/children").read_text().split()
    (broker,) = {int(pid) for pid in children} - {answer.pid for answer in two.each(2).values()}
    os.kill(broker, signal.SIGKILL)

    def accepts() -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return "broker ended by signal 9" in two.errors.read_text() and probe.connect_ex(path) == 0

    wait_for(accepts)


def test_what_the_broker_keeps_is_in_the_data_folder(two: Server, tmp_path: Path) -> None:
    path = two.ask().broker.removeprefix("local:")

    async def kept(then: bool) -> list[bytes]:
        worker = LocalBroker(path, 20)
        try:
            if then:
                assert await worker.keep("mode.a", b"slow", 0)
            return [it.value for it in await worker.kept("mode.")]
        finally:
            await worker.close()

    assert asyncio.run(kept(True)) == [b"slow"]
    assert (tmp_path / "data/edge.db").is_file()
    children = Path(f"/proc/{two.process.pid}/task/{two.process.pid}/children").read_text().split()
    (broker,) = {int(pid) for pid in children} - {answer.pid for answer in two.each(2).values()}
    os.kill(broker, signal.SIGKILL)
    wait_for(lambda: "broker ended by signal 9" in two.errors.read_text())
    assert asyncio.run(kept(False)) == [b"slow"]


def test_a_data_folder_that_is_none_ends_the_server(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with started(tmp_path, "2") as server:
        assert server.process.wait(20) == 1
        said = server.errors.read_text()
        assert said == (
            "edge: data folder data: File exists\nbroker exited with status 1 before the server was ready\n"
        )


def test_a_worker_that_will_not_end_is_killed(tmp_path: Path) -> None:
    with started(tmp_path, "2", "deaf") as server:
        server.await_ready()
        answers = server.each(2)
        server.process.terminate()
        assert server.process.wait(10) == 1
        assert "worker 0 did not end in time: killed" in server.errors.read_text()
        assert not any(alive(answer.pid) for answer in answers.values())


def test_a_worker_that_never_starts_ends_the_server(tmp_path: Path) -> None:
    with started(tmp_path, "2", "fails") as server:
        assert server.process.wait(20) == 3
        assert server.process.stdout
        assert server.process.stdout.read() == ""
        assert "worker 1 exited with status 3 before the server was ready" in server.errors.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_start_can_be_broken_off(number: signal.Signals, tmp_path: Path) -> None:
    with started(tmp_path, "2", "stuck") as server:
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
        wait_for(lambda: len(children.read_text().split()) == 3)
        server.process.send_signal(number)
        assert server.process.wait(10) == 0


def test_no_worker_outlives_its_parent(two: Server) -> None:
    answers = two.each(2)
    two.process.kill()
    wait_for(lambda: not any(alive(answer.pid) for answer in answers.values()))
