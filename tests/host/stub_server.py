"""A server of stub workers under the real supervisor: `stub_server.py WORKERS [BEHAVIOUR]`.

A stub answers each connection with one line: its number, its pid, its cores, the broker's url, and whether it has the
private listener. Behaviours: `deaf` ignores SIGTERM, `fails` exits with 3 before it is ready, `stuck` never gets ready.
"""

import functools
import logging
import os
import select
import signal
import socket
import sys
from collections.abc import Callable

from edge.config import Config
from edge.host import listen, supervisor


def stub(
    config: Config,
    *,
    behaviour: str,
    worker: int,
    workers: int,
    listen_fd: int,
    private_fd: int,
    box: object,
    ready: Callable[[], None],
) -> int:
    if behaviour == "fails" and worker == workers - 1:
        return 3
    told, telling = os.pipe()
    number = signal.SIG_IGN if behaviour == "deaf" else lambda *_: os.write(telling, b"t")
    signal.signal(signal.SIGTERM, number)
    listener = socket.socket(fileno=listen_fd)
    if behaviour != "stuck":
        ready()
    while True:
        if told in select.select([listener, told], [], [])[0]:
            return 0
        accepted, _ = listener.accept()
        cores = "+".join(map(str, sorted(os.sched_getaffinity(0))))
        with accepted:
            line = f"{worker} {os.getpid()} {cores} {config.broker.url} {private_fd >= 0}\n"
            accepted.sendall(line.encode())


if __name__ == "__main__":
    logging.basicConfig(level="INFO", format="%(message)s")
    supervisor.KILL_AFTER_S = 1.0
    listeners = listen.open_listeners("127.0.0.1:0", int(sys.argv[1]))
    private = listen.open_listeners("127.0.0.1:0", 1)[0]
    run = functools.partial(stub, behaviour=(sys.argv[2:] or [""])[0])
    sys.exit(supervisor.run(Config(), listeners, private, run))
