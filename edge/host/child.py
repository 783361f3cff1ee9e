"""One child process: forked, told, reaped.

A fork is safe where it happens here: the parent has one thread, no event loop, and has imported none of what a worker
is made of. And a fork hands on the settings (with their secret) and the listeners without naming them in an argument
list or the environment, where others could read them.

A child owns what its body opens. It must never run on into its parent's code, nor outlive its parent.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from typing import NoReturn

Body = Callable[[Callable[[], None]], int]  # what a child does: is given `ready`, returns its exit status

PAUSE_FIRST_S, PAUSE_MOST_S = 0.5, 10.0  # before a process that ended is started again
TOLD_BY = (signal.SIGTERM, signal.SIGINT)
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class Child:
    """A process that is to be kept running. `pid` is 0 and the descriptors are -1 while there is none."""

    def __init__(self, name: str, body: Body) -> None:
        self.name = name
        self.body = body
        self.pid = 0
        self.pid_fd = -1  # readable once the process has ended
        self.ready_fd = -1  # readable once it is ready, or has ended before it was
        self.ready = False
        self.due = 0.0  # when to start it, while there is none
        self._started = 0.0
        self._pause = PAUSE_FIRST_S

    def start(self, inherited: Iterable[int]) -> None:
        """Forks. The child closes `inherited`: descriptors of the parent's that are none of its business."""
        parent = os.getpid()
        read_fd, write_fd = os.pipe()
        sys.stdout.flush()  # or the child would write the same again
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, TOLD_BY)  # held back until the child has let go of our handlers
        pid = os.fork()
        if pid == 0:
            _become(self.body, parent, [*inherited, read_fd], write_fd)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TOLD_BY)
        os.close(write_fd)
        self.pid, self.pid_fd, self.ready_fd, self.ready = pid, os.pidfd_open(pid), read_fd, False
        self._started = time.monotonic()

    def note_ready(self) -> None:
        """To be called when `ready_fd` is readable."""
        self.ready = bool(os.read(self.ready_fd, 1))
        os.close(self.ready_fd)
        self.ready_fd = -1

    def reap(self) -> int:
        """To be called when `pid_fd` is readable: the exit status, negative for a signal. Sets when the next is due."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.pid_fd)
        if self.ready_fd >= 0:
            os.close(self.ready_fd)
        self.pid, self.pid_fd, self.ready_fd, self.ready = 0, -1, -1, False
        now = time.monotonic()
        if now - self._started > 2 * PAUSE_MOST_S:
            self._pause = PAUSE_FIRST_S
        self.due = now + self._pause
        self._pause = min(2 * self._pause, PAUSE_MOST_S)
        return status

    def tell(self, number: signal.Signals) -> None:
        """Safe at any time while `pid` is set: a process that has ended keeps its number until it is reaped."""
        os.kill(self.pid, number)


def _become(body: Body, parent: int, inherited: list[int], ready_fd: int) -> NoReturn:
    """The rest of a child's life. Never returns: the stack above it is the parent's."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in TOLD_BY:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TOLD_BY)
        os.setpgid(0, 0)  # a Ctrl-C is the parent's to hear; it comes to the child as one SIGTERM
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == parent:  # it could have ended just before
            for fd in inherited:
                os.close(fd)
            status = body(lambda: _say_ready(ready_fd))
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _say_ready(ready_fd: int) -> None:
    os.write(ready_fd, b"r")
    os.close(ready_fd)
