"""The server as a whole: several workers on one port, a table that is full, and the end."""

import asyncio
import contextlib
import signal
import time

import pytest

from tests.raw import Raw
from tests.server import Server, until, until_async
from tests.viewers import Viewer, publisher, viewer


async def test_two_workers_are_one_server() -> None:
    with Server("--workers", "2") as server:
        async with contextlib.AsyncExitStack() as stack:
            viewers: list[Viewer] = []

            async def both() -> bool:
                """Each worker has a viewer of each room. Which one takes a connection is the kernel's choice."""
                for kind in ("json", "zstd", "sse"):
                    viewers.append(await stack.enter_async_context(viewer(server, kind, "both")))
                figures = server.figures("0")
                here = sum(figures[f'edge_viewers{{encoding="{kind}"}}'] for kind in ("json", "zstd", "sse"))
                return len(viewers) >= 12 and 0 < here < len(viewers)

            await until_async(both)
            say = await stack.enter_async_context(publisher(server, "both"))
            for number in range(5):
                await say.comment(f"comment {number}")
                await say.score(number=number)
            for one in viewers:
                got = await one.upto("c5", "m5")
                assert [c["x"] for m in got if m["t"] == "batch" for c in m["m"]] == [f"comment {n}" for n in range(5)]
                assert [m["e"]["number"] for m in got if m["t"] == "score"] == list(range(5))
            # A position that one worker gave is good at the other.
            since = viewers[0].seat.since
            await say.comment("meanwhile")
            for _ in range(8):
                async with viewer(server, "json", "both", since=since) as again:
                    assert again.hello["resumed"] is True
                    assert await again.texts(1) == ["meanwhile"]
            # Many at once, by many authors on both: one order for all.
            authors = [await stack.enter_async_context(viewer(server, "json", "both", user=f"u{n}")) for n in range(6)]
            for author in authors:
                for number in range(10):
                    await author.say(op="comment", ref=str(number), x=f"{number}")
            orders = []
            for one in (*viewers[:6], *authors):
                ids: list[str] = []
                while len(ids) < 60:
                    message = await one.until("batch")
                    ids += [c["id"] for c in message["m"] if c["u"]["id"] != "ann"]
                orders.append(ids)
            assert len(set(orders[0])) == 60
            assert all(ids == orders[0] for ids in orders)


async def test_the_end() -> None:
    """SIGTERM: sockets close with 1012, event streams and polls end in good order, and so does the process."""
    with Server() as server:
        async with contextlib.AsyncExitStack() as stack:
            sockets = [await stack.enter_async_context(viewer(server, k, "end")) for k in ("json", "zstd", "deflate")]
            events = await stack.enter_async_context(viewer(server, "sse", "end"))
            with Raw(server) as poll, Raw(server) as idle, Raw(server) as page, Raw(server) as half:
                poll.get("/v1/rooms/end/poll")
                page.get("/healthz")
                assert page.reply().status == 200
                half.send("GET / HT")
                await until_async(lambda: server.figures()['edge_viewers{encoding="poll"}'] == 1)
                server.tell()
                status, headers = await asyncio.to_thread(poll.head)
                assert status == 204
                assert headers["edge-since"].endswith(".m0.c0")
                for raw in (poll, idle, page, half):
                    await asyncio.to_thread(raw.ends)
            for one in sockets:
                await one.connection.wait_closed()
                assert (one.connection.close_code, one.connection.close_reason) == (1012, "restart")
            assert await events.response.content.read() == b""
        began = time.monotonic()
        assert await asyncio.to_thread(server.process.wait, 10) == 0
        assert time.monotonic() - began < 5


def test_the_end_does_not_wait_for_who_does_not_listen() -> None:
    with Server() as server, Raw(server) as raw:
        raw.upgrade("end")
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(10) == 0
        assert raw.close_code() == 1012


def test_a_full_table_makes_others_wait() -> None:
    with Server(limits_connections=4) as server, contextlib.ExitStack() as stack:
        held = [stack.enter_context(Raw(server)) for _ in range(4)]
        for raw in held:
            raw.upgrade("full")
        late = stack.enter_context(Raw(server))
        late.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            late.upgrade("full")
        late.sock.settimeout(15)
        held[0].sock.close()
        assert late.head()[0] == 101
        assert until(lambda: server.figures()["edge_connections"] == 4)


def test_event_streams_do_not_all_come_back_at_once() -> None:
    with Server(streams_retry_ms=1000) as server, contextlib.ExitStack() as stack:
        waits = []
        for _ in range(8):
            raw = stack.enter_context(Raw(server))
            raw.get("/v1/rooms/retry/sse")
            raw.take_to(b"retry: ")
            waits.append(int(raw.take_to(b"\n\n")))
        assert all(1000 <= wait < 2000 for wait in waits)
        assert len(set(waits)) > 1
