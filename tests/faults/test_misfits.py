# A box that does not fit the cluster says so in one line, and does not start, not even by half.

import subprocess
import sys
from pathlib import Path

import pytest

from tests.broker.nats_server import nats_server
from tests.server import ROOT, Server

PASSWORD = "authorization { user: box, password: secret }"


def serve(url: str, folder: Path, *more: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "edge.cli", "serve", "--dev", "--listen", "127.0.0.1:0", *more]
    command += ["--private-listen", "127.0.0.1:0", "--broker", url]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=folder, env={"PYTHONPATH": str(ROOT)}
    )
    return ended.returncode, ended.stdout, ended.stderr


def refusal(url: str, folder: Path, *more: str) -> str:
    """The one line that says why it did not start."""
    status, said, stderr = serve(url, folder, *more)
    assert status == 1, stderr
    assert "ready" not in said
    assert "Traceback" not in stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith("edge: NATS")]
    assert "secret" not in stderr
    return line


@pytest.mark.slow
def test_another_number_of_shards_and_other_settings(tmp_path: Path) -> None:
    with nats_server(tmp_path) as nats, Server(broker_url=f"{nats.url}?shards=8"):
        line = refusal(f"{nats.url}?shards=16", tmp_path)
        assert line == "edge: NATS: this cluster has 8 shards, and this node is set to 16: set shards=8"
        line = refusal(f"{nats.url}?shards=8&max_age=60", tmp_path)
        assert "EDGE_LOG" in line
        assert "60" in line
        line = refusal(f"{nats.url}?shards=8&lease=4", tmp_path)
        assert "EDGE_LEASES" in line
        assert "TTL" in line
        line = refusal(f"{nats.url}?shards=8&groups=2", tmp_path)
        assert "groups=1" in line


@pytest.mark.slow
def test_wrong_credentials_and_no_jetstream(tmp_path: Path) -> None:
    with nats_server(tmp_path / "locked", settings=PASSWORD) as nats:
        assert "uthorization" in refusal(nats.url, tmp_path)
        assert "uthorization" in refusal(nats.url.replace("//", "//box:secreT@"), tmp_path)
        with Server(broker_url=nats.url.replace("//", "//box:secret@")):
            pass
    with nats_server(tmp_path / "plain", jetstream=False) as nats:
        assert "JetStream is not enabled" in refusal(nats.url, tmp_path)


@pytest.mark.slow
def test_no_worker_starts_where_one_does_not_fit(tmp_path: Path) -> None:
    with nats_server(tmp_path, jetstream=False) as nats:
        status, said, stderr = serve(nats.url, tmp_path, "--workers", "2")
        assert status == 1
        assert said == ""
        assert "Traceback" not in stderr
        assert "JetStream is not enabled" in stderr
