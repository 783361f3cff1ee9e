"""The parent of a server's processes: starts the workers, says when all are ready, brings back one that ends, ends all.

One worker runs in this very process; several are children (child.py), each with a listener of its own. It owns the
listening descriptors for as long as the server runs, and the folder of the box's broker. It never touches a viewer's
socket, and does nothing that could block it for longer than a moment.
"""

import contextlib
import functools
import logging
import os
import selectors
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

from edge.box import Box
from edge.config import Config
from edge.host import listen
from edge.host.child import TOLD_BY, Body, Child
from edge.options import data_folder

log = logging.getLogger("edge.host")

KILL_AFTER_S = 15.0  # from SIGTERM
BROKER_READY_S = 10.0
BROKER_LOOK_S = 0.02  # how often to see whether the broker accepts


class Run(Protocol):
    """A worker: calls `ready` once it accepts, runs until SIGTERM or SIGINT, returns an exit status."""

    def __call__(
        self,
        config: Config,
        *,
        worker: int,
        workers: int,
        listen_fd: int,
        private_fd: int,
        box: Box,
        ready: Callable[[], None],
    ) -> int: ...


def run(config: Config, listeners: list[socket.socket], private: socket.socket, worker_run: Run | None = None) -> int:
    """Serves until told to stop; returns the exit status. Takes over the sockets: one listener a worker."""
    url = listen.url(listeners[0])

    def announce() -> None:
        print(f"edge: ready on {url}\nedge: open {url}/?room=demo", flush=True)

    listen_fds, private_fd = [sock.detach() for sock in listeners], private.detach()
    if len(listen_fds) == 1:
        worker = worker_run or _worker_run()
        return worker(
            config, worker=0, workers=1, listen_fd=listen_fds[0], private_fd=private_fd, box=Box(1), ready=announce
        )

    box = Box(len(listen_fds))
    with _broker_folder(config) as path:
        if path:
            broker = msgspec.structs.replace(config.broker, url=f"local:{path}")
            config = msgspec.structs.replace(config, broker=broker)
        bodies: list[Body] = [
            functools.partial(_work, worker_run, config, number, listen_fds, private_fd, box)
            for number in range(len(listen_fds))
        ]
        return Supervisor(bodies, announce, path, [*listen_fds, private_fd], data_folder(config)).run()


@contextlib.contextmanager
def _broker_folder(config: Config) -> Iterator[str]:
    """Where the box's broker listens, or '' where it needs none. The folder is private: the socket asks for no name."""
    if config.broker.url != "memory:":
        yield ""
        return
    folder = tempfile.mkdtemp(prefix="edge-")  # mode 0700
    try:
        yield f"{folder}/broker"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _worker_run() -> Run:
    from edge.worker import run as worker_run  # only ever in the process that becomes the worker

    return worker_run


def _work(
    worker_run: Run | None,
    config: Config,
    number: int,
    listen_fds: list[int],
    private_fd: int,
    box: Box,
    ready: Callable[[], None],
) -> int:
    """A worker's body. Worker 0 has the private listener."""
    for fd in [*listen_fds, private_fd]:
        if fd != listen_fds[number] and (number or fd != private_fd):
            os.close(fd)
    cores = sorted(os.sched_getaffinity(0))
    if len(listen_fds) <= len(cores):  # a worker that wanders drags its sockets' cache lines along
        os.sched_setaffinity(0, {cores[number]})
    return (worker_run or _worker_run())(
        config,
        worker=number,
        workers=len(listen_fds),
        listen_fd=listen_fds[number],
        private_fd=-1 if number else private_fd,
        box=box,
        ready=ready,
    )


def _serve_broker(path: str, data: str, closing: list[int]) -> int:
    from broker.local import serve

    for fd in closing:
        os.close(fd)
    return serve(path, data=data)


class Supervisor:
    """Keeps the workers running, and the box's broker where `broker_path` names its socket, with what it keeps in the
    folder `data`. `run` is its whole life.

    A process that ends before all workers were ready ends the server: that is a mistake in its making, and starting it
    over and over would hide it. One that ends later is started again, after a pause that doubles.
    """

    def __init__(
        self, bodies: list[Body], announce: Callable[[], None], broker_path: str, listening: list[int], data: str
    ) -> None:
        self._workers = [Child(f"worker {number}", body) for number, body in enumerate(bodies)]
        self._broker = Child("broker", lambda _: _serve_broker(broker_path, data, listening)) if broker_path else None
        self._broker_path = broker_path
        self._announce = announce
        self._announced = False
        self._begun = False  # the broker accepts, so that workers may be started
        self._stopping = False
        self._told: set[int] = set()
        self._deadline = 0.0  # for the broker to accept; then, while stopping, for those told to end
        self._status = 0
        self._selector = selectors.PollSelector()  # an epoll would be shared with the children
        self._wake, self._signalled = socket.socketpair()

    def run(self) -> int:
        self._wake.setblocking(False)
        self._signalled.setblocking(False)
        self._selector.register(self._wake, selectors.EVENT_READ, self._on_signal)
        before = [(number, signal.signal(number, lambda *_: None)) for number in TOLD_BY]
        signal.set_wakeup_fd(self._signalled.fileno(), warn_on_full_buffer=False)
        self._deadline = time.monotonic() + BROKER_READY_S
        try:
            while not self._stopping or self._running():
                self._turn()
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before:
                signal.signal(number, handler)
            self._selector.close()
            self._wake.close()
            self._signalled.close()
        return self._status

    def _running(self) -> list[Child]:
        """Those to be ended next: the broker outlives the workers, which still hand their last words to it."""
        workers = [child for child in self._workers if child.pid]
        return workers or ([self._broker] if self._broker and self._broker.pid else [])

    def _turn(self) -> None:
        now = time.monotonic()
        if self._stopping:
            self._press(now)
        else:
            self._keep(now)
        for key, _ in self._selector.select(self._patience(now)):
            key.data()

    def _patience(self, now: float) -> float | None:
        """How long until something is due, with nothing happening."""
        if self._stopping:
            return max(0.0, self._deadline - now)
        if not self._begun:
            return BROKER_LOOK_S
        due = [child.due - now for child in [self._broker, *self._workers] if child and not child.pid]
        return max(0.0, min(due)) if due else None

    def _keep(self, now: float) -> None:
        """Starts what is to be started: the broker, and once that accepts, the workers."""
        if self._broker and not self._broker.pid and now >= self._broker.due:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._broker_path)
            self._start(self._broker)
        if not self._begun:
            self._begun = not self._broker or _accepts(self._broker_path)
            if not self._begun and now > self._deadline:
                self._give_up(f"the broker does not accept after {BROKER_READY_S:.0f} s", 1)
        if self._begun:
            for child in self._workers:
                if not child.pid and now >= child.due:
                    self._start(child)

    def _start(self, child: Child) -> None:
        child.start([key.fd for key in self._selector.get_map().values()] + [self._signalled.fileno()])
        self._selector.register(child.pid_fd, selectors.EVENT_READ, functools.partial(self._on_end, child))
        self._selector.register(child.ready_fd, selectors.EVENT_READ, functools.partial(self._on_ready, child))

    def _on_ready(self, child: Child) -> None:
        if child.ready_fd < 0:
            return  # ended, and reaped in this very turn
        self._selector.unregister(child.ready_fd)
        child.note_ready()
        if not self._announced and not self._stopping and all(worker.ready for worker in self._workers):
            self._announced = True
            self._announce()

    def _on_end(self, child: Child) -> None:
        self._selector.unregister(child.pid_fd)
        if child.ready_fd >= 0:
            self._selector.unregister(child.ready_fd)
        status = child.reap()
        how = f"ended by signal {-status}" if status < 0 else f"exited with status {status}"
        if self._stopping:
            self._status = self._status or int(status not in (0, -signal.SIGTERM))
        elif not self._announced:
            self._give_up(f"{child.name} {how} before the server was ready", status if status > 0 else 1)
        else:
            log.error("%s %s; again in %.1f s", child.name, how, child.due - time.monotonic())

    def _on_signal(self) -> None:
        for _ in self._wake.recv(64):
            if self._stopping:
                self._deadline = 0.0  # asked twice: no more waiting
            self._stopping = True

    def _give_up(self, why: str, status: int) -> None:
        log.error("%s", why)
        self._status = status
        self._stopping = True

    def _press(self, now: float) -> None:
        """While stopping: SIGTERM to each once, and SIGKILL to those that are late."""
        running = self._running()
        fresh = [child for child in running if child.pid not in self._told]
        for child in fresh:
            child.tell(signal.SIGTERM)
            self._told.add(child.pid)
        if fresh:
            self._deadline = now + KILL_AFTER_S
        elif running and now >= self._deadline:
            for child in running:
                log.error("%s did not end in time: killed", child.name)
                child.tell(signal.SIGKILL)
            self._deadline = now + KILL_AFTER_S


def _accepts(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True
