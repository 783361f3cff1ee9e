# The broker's benchmark on itself: each part, cut short, gives all its figures and loses nothing; what is lost or said
# twice or could not be measured is told; and the model of hash routing counts as a person would.

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import broker, broker_fill, broker_model, broker_parts, broker_sizes
from bench.broker_parts import Length
from bench.broker_said import quantiles
from bench.broker_stage import Node, nats, nodes
from bench.broker_watch import Watching
from broker.base import CHAT, MUST, Tail
from edge import wire

ROOT = Path(__file__).parent.parent.parent
SHORT = Length(
    rounds=1,
    seconds=0.5,
    offers_s=0.5,
    leases=(),
    idle=(8,),
    idle_s=0.2,
    routed=1_100,
    subjects=(4_000,),
    flood_s=0.3,
    groups=8_000,
)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in broker.PARTS if name not in ("takeover", "routing")])
def test_a_part_gives_its_figures_and_loses_nothing(name: str) -> None:
    found = broker.run(SHORT, [name])
    assert "failed" not in found[name]
    table = broker.rows(found)
    assert all(row.name and row.value for row in table)
    losses = [row.lost for row in table if row.lost is not None]
    assert losses
    assert not any(losses)


@pytest.mark.slow
def test_the_rooms_of_a_killed_owner_go_on_at_another_and_lose_nothing() -> None:
    found = broker_parts.takeover(2, 1, shards=32)
    assert found["lost"] == 0
    assert found["rooms"] > 0
    assert 0.5 < found["first_s"] <= found["median_s"] <= found["last_s"]


@pytest.mark.slow
def test_a_node_hears_for_nobody_what_the_model_counts() -> None:
    found = broker_sizes.routing(SHORT)
    real = found["real"]
    assert real["unwanted_messages"] == real["model_messages"] > 0
    assert real["off"] < 0.01
    assert 0 < real["heard_whole"] < real["shards"]
    assert not [row for row in broker.routing_rows(found) if row.good is False]


def test_what_is_offered_is_taken_in_and_seen() -> None:
    with nats() as server, nodes(server.url(shards=4), 2) as (node, viewer):
        node.ask("own", 5, True)
        viewer.ask("watch", "r", 2, "comments")
        told = node.ask("speak", "a", "r", 2, 3, 300.0, 0.2)
        assert told["published"] == 60
        assert broker_parts._seen(viewer, "stands_for", 60)["stands_for"] == 60
        assert node.ask("counted")["items"] == 60
        assert viewer.ask("seen")["stands_for"] == 0


def test_an_error_of_a_node_is_no_answer() -> None:
    with nats() as server, nodes(server.url(shards=4), 1) as (node,):
        with pytest.raises(RuntimeError, match="nothing"):
            node.ask("nothing")
        with pytest.raises(RuntimeError, match="pace"):
            node.ask("pace", "")
        assert node.ask("figures")["broker_repairs"] == 0


def test_a_node_that_has_ended_is_no_answer() -> None:
    node = Node("memory:")
    node.ask("peek")
    node.kill()
    with pytest.raises((RuntimeError, OSError, ValueError)):
        node.ask("peek")


def filled(groups: int = 1) -> list[broker_fill.Entry]:
    return list(broker_fill.entries("room", 0, 3, 4, 10, births=True, groups=groups))


def test_a_log_that_is_filled_is_one_that_nodes_go_on_with() -> None:
    with nats() as server:
        with nodes(server.url(shards=4), 1):
            pass
        broker_fill.fill(server.port, "room", 700, 4, 10)
        assert broker_fill.stored(server.port) == (1_400, 1_400)
        with nodes(server.url(shards=4), 2) as (writer, viewer):
            viewer.ask("watch", "room", 2, "raw")
            assert writer.ask("pace", "room", 2, 100, 100.0, 0.1)["stored"] == 10
            seen = broker_parts._seen(viewer, "batches", 10)
            assert (seen["batches"], seen["heads"]) == (10, 12)


def test_blocks_ask_for_one_answer_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_fill, "BLOCK", 4)
    made = list(broker_fill.blocks(iter(filled()), "inbox"))
    assert [block.count(b"PUB ") for block in made] == [4, 2]
    assert [block.count(b" inbox ") for block in made] == [1, 1]


def test_a_block_is_of_one_stream_and_its_answer_is_to_the_last_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_fill, "BLOCK", 4)
    sent = filled(groups=4)
    made = list(broker_fill.blocks(iter(sent), "inbox"))
    lines = [re.findall(rb"PUB (\S+) (inbox )?\d+\r\n", block) for block in made]
    assert sorted(subject for block in lines for subject, _ in block) == sorted(it[1].encode() for it in sent)
    streams = {subject.encode(): stream for stream, subject, _ in sent}
    assert len(set(streams.values())) > 1
    for block in lines:
        assert len({streams[subject] for subject, _ in block}) == 1
        assert [bool(answered) for _, answered in block] == [False] * (len(block) - 1) + [True]


# What a viewer sees.


def batch(seq: int, said: int, of: int | None = None) -> bytes:
    user = {"id": "u", "name": "u"}
    comments = [wire.comment(f"c{number}", user, "1 text", 1) for number in range(said)]
    return msgspec.msgpack.encode(wire.batch(seq, 1, comments, of=of))


@pytest.fixture
def watching() -> Watching:
    made = Watching()
    made.begin("r", "comments")
    made.start("r", Tail(1, [], [], (0, 4)))
    return made


def test_comments_that_are_counted_are_counted(watching: Watching) -> None:
    watching.batch("r", CHAT, 5, batch(5, 2))
    watching.batch("r", CHAT, 6, batch(6, 3, of=10))
    seen = watching.report(quantiles)
    assert (seen["batches"], seen["shown"], seen["stands_for"], seen["flaws"]) == (2, 5, 12, [])
    assert watching.report(quantiles)["stands_for"] == 0


@pytest.mark.parametrize("lane, seq", [(CHAT, 4), (CHAT, 6), (CHAT, 1), (MUST, 5)])
def test_a_hole_a_repeat_and_a_wrong_lane_end_the_part(watching: Watching, lane: int, seq: int) -> None:
    watching.batch("r", lane, seq, batch(seq, 1))
    with pytest.raises(RuntimeError, match="out of order"):
        broker_parts.checked(watching.report(quantiles))


def test_a_reset_ends_the_part(watching: Watching) -> None:
    watching.reset("r", Tail(2, [], [], (0, 0)))
    with pytest.raises(RuntimeError, match="out of order"):
        broker_parts.checked(watching.report(quantiles))


def test_what_comes_before_the_tail_is_seen_once() -> None:
    watching = Watching()
    watching.begin("r", "count")
    for seq in (4, 5):
        watching.batch("r", CHAT, seq, b"")
    watching.start("r", Tail(1, [], [], (0, 4)))
    seen = watching.report(quantiles)
    assert (seen["batches"], seen["heads"], seen["flaws"]) == (1, 5, [])


def test_quantiles_are_of_all() -> None:
    found = quantiles([number * 1_000_000 for number in range(100, 0, -1)])
    assert found == {"count": 100, "p50_ms": 51.0, "p99_ms": 100.0, "max_ms": 100.0}
    assert quantiles([])["count"] == 0


def test_a_room_s_longest_silence_is_from_its_last_batch_before() -> None:
    assert broker_parts._gap([1, 5, 6, 30, 31], 10) == (6, 30)
    assert broker_parts._gap([11, 12], 10) == (10, 11)
    assert broker_parts._gap([1], 10) == (10, 10)


# The model.


def test_the_model_counts_as_a_person_would() -> None:
    places = [0, 0, 0, 1, 1, 2]
    weights = [5.0, 1.0, 1.0, 2.0, 2.0, 7.0]
    assert broker_model.unwanted(places, {0, 1, 3}, weights, many=0) == (11.0, 3.0)
    assert broker_model.unwanted(places, {0, 1, 3}, weights, many=1) == (9.0, 1.0)
    assert broker_model.unwanted(places, {0, 1, 3}, weights, many=2) == (8.0, 0.0)
    assert sum(broker_model.zipf(100)) == pytest.approx(1.0)


def test_the_default_number_of_shards_is_what_the_model_recommends() -> None:
    from broker.subjects import SHARDS

    found = broker_model.costs()
    assert broker_model.recommended(found) == SHARDS
    assert all(it.switched <= it.wildcard + 1e-9 for it in found)


# What is printed.


def live(**changed: Any) -> dict[str, Any]:
    figures = {"p50_ms": 1.0, "p99_ms": 5.0, "max_ms": 6.0, "late_ms": 1.0, "lost": 0, "cores": {"nats": 0.1}}
    return {"batches": figures | changed}


def test_an_aim_that_is_missed_and_a_batch_that_is_lost_are_told() -> None:
    assert [row.good for row in broker.rows(live())[:2]] == [True, True]
    assert [row.good for row in broker.rows(live(p50_ms=2.5))[:2]] == [False, True]
    assert [row.good for row in broker.rows(live(lost=1))[:2]] == [True, False]
    assert [row.good for row in broker.rows(live(lost=-1))[:2]] == [True, False]


def test_a_part_that_fails_is_told_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(length: Length) -> dict[str, Any]:
        raise RuntimeError("no way")

    monkeypatch.setitem(broker.PARTS, "offers", (fails, broker.offers_rows))
    monkeypatch.setitem(broker.PARTS, "batches", (lambda length: live()["batches"], broker.PARTS["batches"][1]))
    table = broker.rows(broker.run(SHORT, ["batches", "offers"]))
    assert [row.value for row in table if row.good is False] == ["no way"]
    assert any(row.good for row in table)


def test_the_table_goes_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n")
    broker.publish({"machine": "this", "commit": "abc"}, broker.rows(live()), page)
    text = page.read_text()
    assert text.startswith("before\n<!-- bench -->\n")
    assert text.endswith("<!-- /bench -->\nafter\n")
    assert "| append to viewer, p99 | 5 ms | at most 10 | 0 |" in text
    assert "old" not in text
    page.write_text("none")
    with pytest.raises(RuntimeError, match="no marks"):
        broker.publish({"machine": "this", "commit": "abc"}, [], page)


def test_the_command_writes_what_it_found(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    command = [sys.executable, "-m", "bench.broker", "--quick", "--only", "batches", "--out", str(out)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    found = json.loads(out.read_text())
    assert found["batches"]["count"] == 400, ran.stderr
    assert found["batches"]["lost"] == 0
    assert "append to viewer, p99" in ran.stdout
    assert found["commit"] in ran.stdout
