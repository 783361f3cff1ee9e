"""What must be true of an engine and its clients, however they were used: the checks of the engine's fuzz target."""

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from edge._fast import ws
from tests.fuzz import fuzz_ws
from tests.fuzz.client import Client
from tests.fuzz.transcript import Transcript

# What ends a connection, each counted once; and causes that end it too, but by way of a goodbye where one can be said.
ENDS = "handed_over ended closed_gone closed_dead closed_timeout closed_replies refused_proxy".split()
CAUSES = "closed_slow closed_behind closed_memory".split()
CUTS = [*CAUSES, "closed_replies"]


class Bounds:
    def __init__(self, message_bytes: int, inflated_bytes: int, hasty: bool) -> None:
        self.message_bytes, self.inflated_bytes, self.hasty = message_bytes, inflated_bytes, hasty


def check_here(clients: Iterable[Client], engine: Any, heads: Mapping[bytes, list[int]], bounds: Bounds) -> None:
    """Who is still here has told and read everything; who has ended its side has been seen off."""
    count = engine.counters()
    viewers = sum(engine.room_info(room)["viewers"] for room in heads)
    assert viewers == sum(count[name] for name in count if name.startswith("viewers_"))
    cut = any(count[name] for name in CUTS) or bounds.hasty
    for client in clients:
        assert client.ended or client.reset or not client.gone, "a half-closed connection was not ended"
        transcript = Transcript(client.received)
        assert transcript.whole or client.ended or client.reset
        if transcript.begun and client.room in heads and not (client.ended or client.reset):
            for lane, head in zip("m" if client.must_only or client.hidden else "mc", heads[client.room], strict=False):
                assert transcript.seen[lane] >= head, (transcript.seen, heads)
        check_told(client, transcript, bounds, exact=not (cut or client.cut or client.gone or client.reset))


def check_gone(clients: Iterable[Client], count: Mapping[str, int], bounds: Bounds) -> None:
    """When all have left: what each got made sense, and every counter is where it must be."""
    received = 0
    for client in clients:
        check_told(client, Transcript(client.received), bounds, exact=False)
        received += len(client.received)
    assert received <= count["bytes"] + 256 * sum(count[name] for name in CUTS)  # last words are not counted
    ended, caused = (sum(count[name] for name in names) for names in (ENDS, CAUSES))
    assert ended <= count["accepted"] + count["adopted"] <= ended + caused, count
    for name in ("connections", "cold", "users", *(name for name in count if name.startswith("viewers_"))):
        assert count[name] == 0, (name, count)


def check_told(client: Client, transcript: Transcript, bounds: Bounds, *, exact: bool) -> None:
    """The messages, pongs and close code that the client's frames deserve; or the first of them, if not exact."""
    if client.frames is None or transcript.stream != "ws":
        return
    want = fuzz_ws.reference(bytes(client.frames), bounds.message_bytes, client.deflate)
    told, pongs, code, broken = list[tuple[int, bytes]](), list[bytes](), want.failure and want.failure[0], 0
    for message in want.told:
        payload = inflated(message, bounds.inflated_bytes) if message.deflated else message.payload
        if message.op == "ping":
            pongs.append(message.payload)  # also behind what turns out later to be badly compressed
        elif message.op == "close":
            code = abs(ws.close_code(message.payload))
            break
        elif isinstance(payload, int):
            broken = broken or payload
        elif message.op != "pong" and not broken:
            told.append((1 if message.op == "text" else 2, payload))
    assert client.told == told[: len(client.told)], (client.told, told)
    assert transcript.pongs == pongs[: len(transcript.pongs)], (transcript.pongs, pongs)
    if exact:
        assert (client.told, transcript.close) == (told, broken or code)
        assert broken or transcript.pongs == pongs


def inflated(told: fuzz_ws.Told, limit: int) -> bytes | int:
    """Or the close code that it deserves."""
    try:
        payload = zlib.decompressobj(-15).decompress(told.payload + b"\0\0\xff\xff", limit + 1)
        if len(payload) > limit:
            return 1009
        if told.op == "text":
            payload.decode()
    except (zlib.error, UnicodeDecodeError):
        return 1007
    return payload
