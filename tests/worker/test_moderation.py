"""What moderators do, on a real server: modes, words, patterns, bans, the queue, the trail; what outlives kill -9."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.broker.nats_server import nats_server
from tests.ingest.test_classifier_example import KEY as SERVICE_KEY
from tests.ingest.test_classifier_example import Service
from tests.moderators import ask, say, server_at, set_mode, token, told, viewer_of
from tests.raw import UPGRADE, Raw
from tests.server import ROOT, Server, no_complaints, until


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server_at(tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.fixture
def server(strict: Server) -> Iterator[Server]:
    with no_complaints(strict):
        yield strict


def test_a_mode_holds_and_all_are_told(server: Server, room: str) -> None:
    path = f"/v1/rooms/{room}"
    with Raw(server) as viewer:
        viewer.upgrade(room)
        viewer.message("hello")
        assert told(ask(server, "PUT", f"{path}/mode", {"subs_only": True, "slow_seconds": 60}))["mode"]["subs_only"]
        state = viewer.message("state")
        assert state["id"] == "m1"
        assert state["mode"] == {
            "slow_seconds": 60, "subs_only": True, "emote_only": False, "closed": False, "moderation": "post",
        }  # fmt: skip
    until(lambda: say(server, room, "hi", "u1").status == 403)
    assert say(server, room, "hi", "u2").error() == "subs_only"
    assert say(server, room, "hi", "sub", tier=1).status == 201
    slow = say(server, room, "again", "sub", tier=1)
    assert (slow.status, slow.error()) == (429, "slow_mode")
    assert 50 < json.loads(slow.body)["retry_after"] <= 60
    assert told(ask(server, "GET", path))["mode"]["slow_seconds"] == 60
    assert ask(server, "PUT", f"{path}/mode", {}).status == 200
    until(lambda: say(server, room, "hi", "u3").status == 201)
    for bad in ({"slow": 1}, {"slow_seconds": -1}, {"closed": "yes"}, [], b"{"):
        assert ask(server, "PUT", f"{path}/mode", bad).status == 400


def test_words_and_patterns_of_a_room_and_of_all(server: Server, room: str) -> None:
    path = f"/v1/rooms/{room}"
    assert told(ask(server, "PUT", f"{path}/words", [{"text": "mud"}, {"text": "ghost", "action": "shadow"}]))
    assert told(ask(server, "PUT", "/v1/words", [{"text": "swamp"}]))
    assert told(ask(server, "PUT", f"{path}/patterns", [{"text": "buy .{0,9}now"}]))
    until(lambda: say(server, room, "MUD!", "u1").error() == "moderated")
    until(lambda: say(server, room, "5w4mp", "u2").error() == "moderated")
    until(lambda: say(server, room, "Buy it now", "u3").error() == "moderated")
    assert say(server, room + "2", "mud", "u4").status == 201
    with Raw(server) as viewer:
        viewer.upgrade(room)
        viewer.message("hello")
        assert told(say(server, room, "a ghost", "u5"))["status"] == "published"  # as far as its author can see
        assert say(server, room, "a friend", "u6").status == 201
        assert [comment["x"] for comment in viewer.message("batch")["m"]] == ["a friend"]
    assert told(ask(server, "GET", f"{path}/words"))["words"][0]["text"] == "mud"
    bad = ask(server, "PUT", f"{path}/patterns", [{"text": "(a"}])
    assert (bad.status, bad.error()) == (400, "bad_pattern")
    assert ask(server, "PUT", f"{path}/words", [{"text": ""}]).error() == "bad_words"
    assert told(ask(server, "GET", f"{path}/patterns"))["patterns"][0]["text"] == "buy .{0,9}now"
    assert told(ask(server, "PUT", "/v1/words", [])) == {"words": []}


def test_a_list_may_be_long(server: Server, room: str) -> None:
    path = f"/v1/rooms/{room}/words"
    words = [{"text": f"word{number:04}", "action": "reject", "whole": True} for number in range(10_000)]
    assert told(ask(server, "PUT", path, [{"text": word["text"]} for word in words])) == {"words": words}
    assert told(ask(server, "GET", path)) == {"words": words}
    until(lambda: say(server, room, "word9999").status == 403)
    assert ask(server, "PUT", path, [*words, {"text": "more"}]).error() == "bad_words"
    assert (
        ask(server, "PUT", path, [{"text": "x" * 60 + str(number)} for number in range(9_000)]).error() == "too_large"
    )


def test_bans_hold_on_open_sockets_too(server: Server, room: str) -> None:
    path = f"/v1/rooms/{room}/bans"
    with Raw(server) as viewer:
        viewer.get(f"/v1/rooms/{room}/ws?token={token('bad')}", UPGRADE)
        assert viewer.head()[0] == 101
        viewer.message("hello")
        assert told(ask(server, "PUT", f"{path}/bad", {"seconds": 60}))["user"] == "bad"
        until(lambda: say(server, room, "hi", "bad").error() == "banned")
        viewer.say(json.dumps({"op": "comment", "ref": "r1", "x": "hi"}))
        ack = viewer.message("ack")
        assert (ack["status"], ack["error"]) == ("rejected", "banned")
        assert 0 < ack["retry_after"] <= 60
        assert told(ask(server, "PUT", f"{path}/bad"))["until"] is None
        assert viewer.close_code() == 1008
    with Raw(server) as viewer:
        viewer.get(f"/v1/rooms/{room}/ws?token={token('bad')}", UPGRADE)
        assert viewer.head()[0] == 403
    assert say(server, room + "2", "hi", "bad").status == 201
    assert [ban["user"] for ban in told(ask(server, "GET", path))["bans"]] == ["bad"]
    assert ask(server, "DELETE", f"{path}/bad").status == 200
    until(lambda: say(server, room, "hi", "bad").status == 201)
    assert ask(server, "DELETE", f"{path}/bad").status == 404
    assert told(ask(server, "PUT", "/v1/bans/b%C3%A4d", {"shadow": True}))["user"] == "bäd"
    assert ask(server, "DELETE", "/v1/bans/b%C3%A4d").status == 200


def seen_by_a_newcomer(server: Server, room: str, marker: str) -> list[str]:
    """What a fresh viewer is shown, up to the comment that says `marker`."""
    texts: list[str] = []
    with Raw(server) as viewer:
        viewer.upgrade(room)
        viewer.message("hello")
        while marker not in texts:
            texts += [comment["x"] for comment in viewer.message("batch")["m"]]
    return texts


@pytest.mark.parametrize("workers", [1, 2])
def test_a_ban_in_all_rooms_takes_what_was_said_there_and_its_end_gives_back_at_once(
    workers: int, tmp_path: Path, room: str
) -> None:
    rooms = [f"{room}-{number}" for number in range(4)]
    with server_at(tmp_path, server_workers=workers) as server:
        set_mode(server, rooms[3], moderation="pre")
        for name in rooms[:3]:
            with Raw(server) as raw:
                viewer = viewer_of(raw, name, token("ann"))
                for user in ("bad", "bob"):
                    told(say(server, name, f"{user} in {name}", user))
                    viewer.message("batch")
        assert told(say(server, rooms[3], "waits", "bad"))["status"] == "pending"
        told(ask(server, "PUT", "/v1/bans/bad"))
        for name in rooms[:3]:
            until(lambda: seen_by_a_newcomer(server, name, f"bob in {name}") == [f"bob in {name}"])  # noqa: B023
        until(lambda: not told(ask(server, "GET", f"/v1/rooms/{rooms[3]}/review"))["comments"])
        told(ask(server, "DELETE", "/v1/bans/bad"))
        until(lambda: say(server, rooms[0], "again", "bad").status == 201)
        told(say(server, rooms[0], "at once", "bad"))
        until(lambda: "at once" in seen_by_a_newcomer(server, rooms[0], "at once"))


def test_an_author_may_delete_what_they_have_just_said(server: Server, room: str) -> None:
    with Raw(server) as raw:
        viewer = viewer_of(raw, room, token("ann"))
        for number in range(5):
            made = told(say(server, room, f"oops {number}", "bob"))["id"]
            assert told(ask(server, "DELETE", f"/v1/rooms/{room}/comments/{made}", None, token("bob")))["id"] == made
            assert viewer.message("del")["ids"] == [made]
        told(say(server, room, "last", "bob"))
        assert seen_by_a_newcomer(server, room, "last") == ["last"]


def test_who_is_shadowed_sees_their_own_on_all_of_their_sockets_and_nobody_else_does(server: Server, room: str) -> None:
    told(ask(server, "PUT", f"/v1/rooms/{room}/bans/bad", {"shadow": True}))
    with Raw(server) as one, Raw(server) as two, Raw(server) as other, Raw(server) as elsewhere:
        author, second = (viewer_of(raw, room, token("bad")) for raw in (one, two))
        viewer, away = viewer_of(other, room, token("ann")), viewer_of(elsewhere, room + "2", token("bad"))
        author.say(json.dumps({"op": "comment", "ref": "r1", "x": "psst"}))
        ack = author.message("ack")
        assert ack["status"] == "published"
        for raw in (author, second):
            (comment,) = raw.message("own")["m"]
            assert (comment["id"], comment["x"], comment["u"]["id"]) == (ack["id"], "psst", "bad")
        told(say(server, room, "last"))
        told(say(server, room + "2", "last"))
        for raw in (viewer, away, author):
            (message,) = raw.messages("batch")
            assert [comment["x"] for comment in message["m"]] == ["last"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_deleted_comment_leaves_every_place_that_shows_it(workers: int, tmp_path: Path, room: str) -> None:
    path = f"/v1/rooms/{room}/comments"
    with server_at(tmp_path, server_workers=workers) as server, Raw(server) as viewer:
        viewer.upgrade(room)
        since = viewer.message("hello")["since"]
        made = {}
        for name in ("keep", "mine", "theirs"):
            made[name] = told(say(server, room, name, "ann" if name == "mine" else "bob"))["id"]
            assert [comment["id"] for comment in viewer.message("batch")["m"]] == [made[name]]
        assert ask(server, "DELETE", f"{path}/{made['theirs']}", None, token("ann")).error() == "forbidden"
        assert told(ask(server, "DELETE", f"{path}/{made['mine']}", None, token("ann")))["id"] == made["mine"]
        assert viewer.message("del")["ids"] == [made["mine"]]
        assert told(ask(server, "DELETE", f"{path}/{made['theirs']}"))["id"] == made["theirs"]
        assert viewer.message("del")["ids"] == [made["theirs"]]
        told(say(server, room, "last", "bob"))
        viewer.message("batch")
        for _ in range(4):
            assert seen_by_a_newcomer(server, room, "last") == ["keep", "last"]
        with Raw(server) as back:
            back.upgrade(room, f"?since={since}")
            texts: list[str] = []
            while "last" not in texts:
                texts += [comment["x"] for comment in back.message("batch")["m"]]
            assert texts == ["keep", "last"]
        assert ask(server, "DELETE", f"{path}/a.b").status == 404
        assert ask(server, "DELETE", f"{path}/{made['keep']}", None, token("ann", "read")).error() == "forbidden"


def test_what_the_banned_have_said_goes_with_them(server: Server, room: str) -> None:
    with Raw(server) as viewer:
        viewer.upgrade(room)
        viewer.message("hello")
        for user, text in (("bad", "one"), ("ann", "two"), ("bad", "three")):
            told(say(server, room, text, user))
            viewer.message("batch")
        told(ask(server, "PUT", f"/v1/rooms/{room}/bans/bad"))
        assert len(viewer.message("del")["ids"]) == 2
        assert seen_by_a_newcomer(server, room, "two") == ["two"]


def test_the_queue_of_a_room_that_is_looked_at_first(server: Server, room: str) -> None:
    path = f"/v1/rooms/{room}"
    told(ask(server, "PUT", f"{path}/mode", {"moderation": "pre"}))
    until(lambda: told(ask(server, "GET", path))["mode"]["moderation"] == "pre")
    with Raw(server) as viewer:
        viewer.get(f"{path}/ws?token={token('ann')}", UPGRADE)
        assert viewer.head()[0] == 101
        viewer.message("hello")
        first, second = (told(say(server, room, text)) for text in ("good", "bad"))
        assert first["status"] == second["status"] == "pending"
        queue = told(ask(server, "GET", f"{path}/review"))
        assert [it["comment"]["x"] for it in queue["comments"]] == ["good", "bad"]
        assert queue["comments"][0]["reasons"] == ["mode: pre"]
        assert told(ask(server, "POST", f"{path}/review/{first['id']}", {"approve": True}))["status"] == "published"
        ack, batch = viewer.messages("ack", "batch")  # nothing promises which of them is first
        assert ack == {"t": "ack", "id": first["id"], "status": "published"}
        assert [comment["id"] for comment in batch["m"]] == [first["id"]]
        assert told(ask(server, "POST", f"{path}/review/{second['id']}", {"approve": False}))["status"] == "rejected"
        assert viewer.message("ack")["error"] == "moderated"
    assert told(ask(server, "GET", f"{path}/review"))["waiting"] == 0
    assert ask(server, "POST", f"{path}/review/{second['id']}", {"approve": True}).status == 404
    assert ask(server, "POST", f"{path}/review/{second['id']}", {"approve": 1}).error() == "bad_json"
    trail = told(ask(server, "GET", f"{path}/audit"))["audit"]
    assert [line["what"] for line in trail] == ["reject", "approve", "mode"]
    assert {line["who"] for line in trail} == {"mo"}


@pytest.mark.parametrize(
    "method, what",
    [
        ("PUT", "mode"), ("GET", "words"), ("PUT", "words"), ("GET", "patterns"), ("PUT", "patterns"), ("GET", "bans"),
        ("PUT", "bans/x"), ("DELETE", "bans/x"), ("GET", "review"), ("POST", "review/x"), ("GET", "audit"),
    ],
)  # fmt: skip
def test_who_may(method: str, what: str, server: Server, room: str) -> None:
    path = f"/v1/rooms/{room}/{what}"
    for who in (token("ann"), token("mo", "moderate", rooms=["another"])):
        assert ask(server, method, path, {}, who).error() == "forbidden"
    with Raw(server) as raw:
        raw.get(path, method=method)
        assert raw.reply().error() == "unauthorized"
    if what in ("words", "bans", "bans/x", "audit"):
        for who in (token("mo", "moderate"), token("mo", "admin", rooms=["another"])):
            assert ask(server, method, f"/v1/{what}", {}, who).error() == "forbidden"


def test_an_author_is_measured_and_told(tmp_path: Path, room: str) -> None:
    with server_at(tmp_path, comments_per_user=3) as server:
        assert [say(server, room, f"{n}").status for n in range(3)] == [201] * 3
        reply = say(server, room, "more")
        assert (reply.status, reply.error()) == (429, "too_many")
        assert 0 < json.loads(reply.body)["retry_after"] <= 30
        assert say(server, room, "another", "bob").status == 201


def test_an_address_is_measured_however_it_speaks(tmp_path: Path, room: str) -> None:
    with server_at(tmp_path, comments_per_ip=3) as server:
        assert [say(server, room, f"{n}", f"u{n}").status for n in range(2)] == [201] * 2
        with Raw(server) as viewer:
            viewer.get(f"/v1/rooms/{room}/ws?token={token('u3')}", UPGRADE)
            viewer.head()
            viewer.message("hello")
            for ref, status in (
                ("r1", "published"),
                ("r1", "published"),
                ("r2", "rejected"),
            ):  # a retry is measured once
                viewer.say(json.dumps({"op": "comment", "ref": ref, "x": ref}))
                assert viewer.message("ack")["status"] == status
        assert say(server, room, "more", "u4").error() == "too_many"


@pytest.mark.parametrize("workers", [1, 2])
def test_what_moderators_have_set_outlives_kill_9(workers: int, tmp_path: Path, room: str) -> None:
    path = f"/v1/rooms/{room}"
    server = server_at(tmp_path, server_workers=workers)
    try:
        told(ask(server, "PUT", f"{path}/mode", {"moderation": "pre"}))
        told(ask(server, "PUT", f"{path}/words", [{"text": "mud"}]))
        told(ask(server, "PUT", f"{path}/bans/bad", {"seconds": 600}))
        until(lambda: told(say(server, room, "waits"))["status"] == "pending")
    finally:
        server.process.kill()
        server.process.wait()
        server.stop()
    with server_at(tmp_path, server_workers=workers) as server:
        until(lambda: told(ask(server, "GET", path))["mode"]["moderation"] == "pre")
        assert say(server, room, "mud", "u1").error() == "moderated"
        assert say(server, room, "hi", "bad").error() == "banned"
        assert "waits" in [it["comment"]["x"] for it in told(ask(server, "GET", f"{path}/review"))["comments"]]
        assert {line["what"] for line in told(ask(server, "GET", f"{path}/audit"))["audit"]} == {"mode", "words", "ban"}


def test_a_classifier_looks_first_and_its_outage_changes_no_answer(tmp_path: Path, room: str) -> None:
    service = Service()
    path = f"/v1/rooms/{room}"
    settings = {"moderation_classifier_key": SERVICE_KEY, "moderation_classifier_ms": 10_000}
    with server_at(tmp_path, moderation_classifier_url=service.url, **settings) as server:
        try:
            told(ask(server, "PUT", f"{path}/mode", {"moderation": "pre"}))
            until(lambda: told(ask(server, "GET", path))["mode"]["moderation"] == "pre")
            with Raw(server) as viewer:
                viewer.get(f"{path}/ws?token={token('ann')}", UPGRADE)
                assert viewer.head()[0] == 101
                viewer.message("hello")
                good, bad = (told(say(server, room, text)) for text in ("what a lovely goal", "you fucking idiot"))
                assert good["status"] == bad["status"] == "pending"
                acks = {ack["id"]: ack for ack in (viewer.message("ack") for _ in range(2))}
                assert acks[good["id"]]["status"] == "published"
                assert (acks[bad["id"]]["status"], acks[bad["id"]]["error"]) == ("rejected", "moderated")
        finally:
            assert service.end(signal.SIGTERM) == 0
        assert told(say(server, room, "nobody looks"))["status"] == "pending"
        until(lambda: server.figures()["edge_classifier_down_failed_total"] >= 1)  # it asks again each second
        assert [it["comment"]["x"] for it in told(ask(server, "GET", f"{path}/review"))["comments"]] == ["nobody looks"]


def test_what_is_set_at_one_box_holds_at_another_within_a_second(tmp_path: Path, room: str) -> None:
    path = f"/v1/rooms/{room}"
    with (
        nats_server(tmp_path) as nats,
        server_at(tmp_path, broker_url=nats.url) as one,
        server_at(tmp_path, broker_url=nats.url) as two,
    ):
        took: dict[str, list[float]] = {"bans": [], "words": [], "mode": []}

        def holds(what: str, look: Callable[[], object]) -> None:
            began = time.monotonic()
            until(look)
            took[what].append(time.monotonic() - began)

        for number in range(3):
            user, other, seconds = f"bad{number}", f"{room}{number}", number + 1
            with Raw(two) as raw:
                viewer = viewer_of(raw, room, token(user))
                told(ask(one, "PUT", f"{path}/bans/{user}"))
                holds("bans", lambda: viewer.close_code() == 1008)  # noqa: B023
            told(ask(one, "PUT", f"/v1/rooms/{other}/words", [{"text": "mud"}]))
            holds("words", lambda: say(two, other, "mud", "u1").status == 403)  # noqa: B023
            assert say(two, other, "mud", "u1").error() == "moderated"
            told(ask(one, "PUT", f"{path}/mode", {"moderation": "pre", "slow_seconds": seconds}))
            holds("mode", lambda: told(ask(two, "GET", path))["mode"]["slow_seconds"] == seconds)  # noqa: B023
        # The quickest of three: a machine that stops for a while is not what is measured.
        assert {what: min(each) < 1 for what, each in took.items()} == dict.fromkeys(took, True), took
        with Raw(one) as author:
            author.get(f"{path}/ws?token={token('ann')}", UPGRADE)
            author.head()
            author.message("hello")
            made = told(say(two, room, "waits"))["id"]
            assert [it["comment"]["id"] for it in told(ask(one, "GET", f"{path}/review"))["comments"]] == [made]
            told(ask(two, "POST", f"{path}/review/{made}", {"approve": True}))
            ack, batch = author.messages("ack", "batch")
            assert ack["status"] == "published"
            assert [comment["id"] for comment in batch["m"]] == [made]


def test_in_dev_mode_a_folder_that_cannot_be_had_is_done_without(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edge.cli", "serve", "--dev", "--listen", "127.0.0.1:0"]
    command += ["--private-listen", "127.0.0.1:0"]
    started = []
    try:
        for words in (b"", b"another server has it"):
            with (tmp_path / "said").open("wb") as said:
                process = subprocess.Popen(
                    command,
                    cwd=tmp_path,
                    env=os.environ | {"PYTHONPATH": str(ROOT)},
                    stdout=subprocess.PIPE,
                    stderr=said,
                )
            started.append(process)
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"edge: ready on ")
            assert (b"nothing is kept" in (tmp_path / "said").read_bytes()) == bool(words)
            assert words in (tmp_path / "said").read_bytes()
    finally:
        for process in started:
            process.terminate()
            assert process.wait(20) == 0
            assert process.stdout is not None
            process.stdout.close()
