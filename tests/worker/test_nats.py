"""The server on a real NATS: two boxes that share rooms, and one that does not fit."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nats as nats_py

from tests.broker.nats_server import nats_server
from tests.server import PATIENCE_S, Server
from tests.viewers import publisher, viewer


async def test_two_boxes_share_a_room(tmp_path: Path) -> None:
    with nats_server(tmp_path) as nats, Server(broker_url=nats.url) as one, Server(broker_url=nats.url) as two:
        async with contextlib.AsyncExitStack() as stack:
            viewers = [await stack.enter_async_context(viewer(box, "json", "match")) for box in (one, two)]
            says = [await stack.enter_async_context(publisher(box, "match")) for box in (one, two)]
            for number, say in enumerate(says * 2):
                await say.comment(f"comment {number}")
                await say.score(number=number)
            for each in viewers:
                got = await each.upto("c4", "m4")
                assert [c["x"] for m in got if m["t"] == "batch" for c in m["m"]] == [f"comment {n}" for n in range(4)]
                assert [m["e"]["number"] for m in got if m["t"] == "score"] == list(range(4))


async def test_publishers_with_a_login_to_nats_need_no_other(tmp_path: Path) -> None:
    with nats_server(tmp_path) as nats, Server(broker_url=nats.url) as box:
        client = await nats_py.connect(nats.url, allow_reconnect=False)
        try:
            async with viewer(box, "json", "match") as one:

                async def ask(subject: str, body: bytes) -> Any:
                    return json.loads((await client.request(subject, body, timeout=PATIENCE_S)).data)

                assert await ask("edge.put.score.match", b'{"home":1}') == {"id": "m1"}
                said = await ask("edge.put.comment.match", b'{"u":{"id":"bot","name":"The bot"},"x":"hello"}')
                assert said["status"] == "published"
                assert (await ask("edge.put.comment.match", b'{"x":"hello"}'))["error"] == "bad_json"
                got = await one.upto("m1", "c1")
                assert [m["e"] for m in got if m["t"] == "score"] == [{"home": 1}]
                (comment,) = [c for m in got if m["t"] == "batch" for c in m["m"]]
                assert (comment["id"], comment["u"]["name"], comment["x"]) == (said["id"], "The bot", "hello")
        finally:
            await client.close()


def test_a_box_that_does_not_fit_does_not_start(tmp_path: Path) -> None:
    with nats_server(tmp_path) as nats, Server(broker_url=nats.url):
        command = [sys.executable, "-m", "edge.cli", "serve", "--dev", "--listen", "127.0.0.1:0"]
        command += ["--private-listen", "127.0.0.1:0", "--broker", f"{nats.url}?shards=64"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert ended.returncode == 1
        assert "edge: ready" not in ended.stdout
        assert "this cluster has 256 shards, and this node is set to 64" in ended.stderr
        assert "Traceback" not in ended.stderr
