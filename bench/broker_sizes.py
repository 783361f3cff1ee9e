# The parts of `make bench-broker` that are about sizes: what hash routing makes a node hear for nobody, what idle
# shards cost, what NATS needs for many rooms. It owns nothing, and must never size up a log that is not whole.

import time
from typing import Any

from bench import broker_fill, broker_model
from bench.broker_parts import FLUSH_MS, Length, checked
from bench.broker_stage import Cpu, Nats, nats, nodes
from bench.floor import until
from broker.nats_hear import MANY
from broker.subjects import SHARDS, STREAM

Answer = dict[str, Any]
FEW_SHARDS = 16  # of the real run
FOLLOWED = FEW_SHARDS * MANY
BATCH = 8192  # its batches: beside them what is around one, which the model does not count, is next to nothing
SMALL = 200  # those that fill the log
FLOODED, AT_ONCE = 50, 25  # rooms, and appends under way at each of two processes
RESTART_S = 120.0


def routing(length: Length) -> Answer:
    """The model, and a real run beside it."""
    found = broker_model.costs()
    lost = broker_model.worst(found)
    return {
        "model": [it._asdict() for it in found],
        "worst": {str(shards): part for shards, part in lost.items()},
        "recommended": broker_model.recommended(found),
        "real": _real(length.routed),
        "idle": {str(shards): _idle(shards, length.idle_s) for shards in length.idle},
    }


def _real(rooms: int) -> Answer:
    """Batches go to all rooms, to large ones more. A node follows the small ones, so many that about half of the
    shards have more of them than MANY."""
    counts = [max(1, round(rooms * size)) for size in reversed(broker_model.zipf(rooms))]
    places = broker_model.shards_of("z", rooms, FEW_SHARDS)
    whole = sum(places[:FOLLOWED].count(shard) > MANY for shard in range(FEW_SHARDS))
    heard, lost = broker_model.unwanted(places, set(range(FOLLOWED)), counts, MANY)
    with nats() as server, nodes(server.url(shards=FEW_SHARDS), 2) as (writer, node):
        node.ask("watch", "z", FOLLOWED, "count")
        until(lambda: node.ask("whole")["whole"] == whole, 10, f"{whole} shards are heard as a whole")
        writer.ask("once", "z", counts, BATCH, wait_s=120)
        until(lambda: node.ask("peek")["batches"] >= heard - lost, 30, "all batches of the rooms that are followed")
        until(lambda: node.ask("figures")["broker_unwanted_messages"] >= lost, 10, "all that it hears for nobody")
        checked(node.ask("seen"))
        figures = node.ask("figures")
    real = figures["broker_unwanted_bytes"] / figures["broker_heard_bytes"]
    return {
        "rooms": rooms,
        "followed": FOLLOWED,
        "shards": FEW_SHARDS,
        "heard_whole": whole,
        "unwanted_messages": figures["broker_unwanted_messages"],
        "model_messages": round(lost),
        "unwanted_part": real,
        "model_part": lost / heard,
        "off": abs(real - lost / heard),
    }


def _idle(shards: int, seconds: float) -> Answer:
    """An owner of all shards who has nothing to do."""
    with nats() as server, nodes(server.url(shards=shards), 1) as (owner,):
        began = time.monotonic()
        owner.ask("own", FLUSH_MS, True)
        until(lambda: owner.ask("figures")["owner_shards"] == shards, 60, f"an owner of {shards} shards")
        took = time.monotonic() - began
        cpu = Cpu(owner=owner.pid, nats=server.pid)
        time.sleep(seconds)
        return {"own_s": took, "cores": cpu.cores()}


def rooms(length: Length) -> Answer:
    return {str(subjects): _filled(subjects, length.flood_s) for subjects in length.subjects}


def _filled(subjects: int, seconds: float) -> Answer:
    """Half of the subjects are rooms' births, half their chat lanes with a batch each."""
    count = subjects // 2
    with nats() as server:
        with nodes(server.url(), 1):
            pass  # it has made the streams
        empty_mb = server.rss_mb()
        fill_s = broker_fill.fill(server.port, "room", count, SHARDS, SMALL)
        messages, found = broker_fill.stored(server.port)
        if (messages, found) != (subjects, subjects):
            raise RuntimeError(f"{subjects} were sent, and the log has {messages} on {found} subjects")
        filled_mb = server.rss_mb()
        known = _flooded(server, "known", FLOODED, seconds)
        cold = _flooded(server, "room", count, seconds)  # rooms that are there and that this node has not seen
        messages, _ = broker_fill.stored(server.port)
        before_mb, disk_mb = server.rss_mb(), server.disk_mb()
        restart = _restarted(server, messages)
        again = _flooded(server, "known", FLOODED, seconds / 2)
        failed = [it["failed"] for it in (known, cold, again) if it["failed"]]
        if failed:
            raise RuntimeError(f"appends failed: {failed}")
    return {
        "empty_mb": empty_mb,
        "filled_mb": filled_mb,
        "before_mb": before_mb,
        "disk_mb": disk_mb,
        "fill_a_second": subjects / fill_s,
        "known": known,
        "cold": cold,
        "restart": restart,
        "again": again,
    }


def _flooded(server: Nats, prefix: str, count: int, seconds: float, **options: int) -> Answer:
    """As fast as two processes can, each with half of the rooms."""
    with nodes(server.url(**options), 2) as both:
        cpu = Cpu(nats=server.pid, one=both[0].pid, two=both[1].pid)
        for number, node in enumerate(both):
            node.tell("flood", prefix, count, SMALL, AT_ONCE, seconds, number, len(both))
        found = [node.answer(seconds + 60) for node in both]
        return {
            "a_second": sum(it["stored"] / it["seconds"] for it in found),
            "p50_ms": max(it["p50_ms"] for it in found),
            "p99_ms": max(it["p99_ms"] for it in found),
            "failed": {why: count for it in found for why, count in it["failed"].items()},
            "cores": cpu.cores(),
        }


def _restarted(server: Nats, messages: int) -> Answer:
    """Killed and started: until the stream tells what it has, and until it has taken an append."""
    server.kill()
    began = time.monotonic()
    server.start()
    accepts_s = time.monotonic() - began
    state: Answer | None = None

    def answers() -> bool:
        nonlocal state
        state = broker_fill.state(server.port, STREAM)
        return state is not None

    until(answers, RESTART_S, "the log answers")
    answers_s = time.monotonic() - began
    assert state is not None
    with nodes(server.url(), 1) as (node,):
        node.ask("pace", "after", 1, SMALL, 10, 0.1)
        return {
            "accepts_s": accepts_s,
            "answers_s": answers_s,
            "lost": messages - state["messages"],
            "rss_mb": server.rss_mb(),
        }


def groups(length: Length) -> Answer:
    """One stream for all shards against four: what nodes get stored, and what the server takes when that costs next to
    nothing to send."""
    found: Answer = {}
    for number in (1, 4):
        with nats() as server:
            nodes_rate = _flooded(server, "group", 400, length.flood_s, groups=number)
            if nodes_rate["failed"]:
                raise RuntimeError(f"appends failed: {nodes_rate['failed']}")
            before, _ = broker_fill.stored(server.port, number)
            cpu = Cpu(nats=server.pid)
            sent, seconds = broker_fill.rate(server.port, "many", length.groups, SHARDS, SMALL, 4, number)
            cores = cpu.cores()
            after, _ = broker_fill.stored(server.port, number)
            found[str(number)] = {
                "nodes": nodes_rate,
                "raw_a_second": sent / seconds,
                "raw_lost": sent - (after - before),
                "cores": cores,
            }
    return found
