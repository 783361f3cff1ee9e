"""The classifier on a real server: what it finds in rooms of either mode, and what that leads to."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.judge import Judge
from tests.moderators import ask, say, server_at, set_mode, token, told, viewer_of
from tests.raw import Raw
from tests.server import Server, until


def judged(folder: Path, judge: Judge, **settings: object) -> Server:
    """It waits for the judge as long as may be set: how late an answer may come is not what is looked at here."""
    return server_at(folder, moderation_classifier_url=judge.url, moderation_classifier_ms=10_000, **settings)


def queue(server: Server, room: str) -> list[Any]:
    return list(told(ask(server, "GET", f"/v1/rooms/{room}/review"))["comments"])


def texts_until(viewer: Raw, last: str) -> list[str]:
    found: list[str] = []
    while last not in found:
        found += [comment["x"] for comment in viewer.message("batch")["m"]]
    return found


def strikes(server: Server, room: str, count: int) -> None:
    """That many comments of `bad` are removed by a moderator."""
    with Raw(server) as raw:
        viewer = viewer_of(raw, room, token("ann"))
        for number in range(count):
            made = told(say(server, room, f"foul {number}", "bad"))["id"]
            viewer.message("batch")
            told(ask(server, "DELETE", f"/v1/rooms/{room}/comments/{made}"))


def test_a_late_verdict_takes_a_comment_away(tmp_path: Path, room: str) -> None:
    with Judge() as judge, judged(tmp_path, judge) as server, Raw(server) as raw:
        viewer = viewer_of(raw, room, token("ann"))
        good, bad, unsure = (told(say(server, room, text, "bob")) for text in ("fine", "score=0.9", "score=0.5"))
        assert {good["status"], bad["status"], unsure["status"]} == {"published"}
        assert viewer.message("del")["ids"] == [bad["id"]]
        until(lambda: len(queue(server, room)) == 1)
        (waiting,) = queue(server, room)
        assert (waiting["comment"]["id"], waiting["shown"], waiting["score"]) == (unsure["id"], True, 0.5)
        with Raw(server) as newcomer:
            told(say(server, room, "last", "bob"))
            assert texts_until(viewer_of(newcomer, room, token("eve")), "last") == ["fine", "score=0.5", "last"]
        assert told(ask(server, "POST", f"/v1/rooms/{room}/review/{unsure['id']}", {"approve": False}))
        assert viewer.message("del")["ids"] == [unsure["id"]]
        figures = server.figures()
        assert figures["edge_look_removed_total"] == 1
        assert figures["edge_retraction_seconds_count"] == figures['edge_retraction_seconds_bucket{le="+Inf"}'] == 2
        lines = ask(server, "GET", f"/v1/rooms/{room}/verdicts").body.splitlines()
        (verdict,) = map(json.loads, lines)
        assert verdict["label"] == "bad"
        assert (verdict["id"], verdict["x"], verdict["by"], verdict["score"]) == (unsure["id"], "score=0.5", "mo", 0.5)


def test_the_author_of_a_late_removal_is_told(tmp_path: Path, room: str) -> None:
    with Judge() as judge, judged(tmp_path, judge) as server, Raw(server) as raw:
        author = viewer_of(raw, room, token("bob"))
        author.say(json.dumps({"op": "comment", "ref": "r1", "x": "score=0.9"}))
        ack = author.message("ack")
        assert ack["status"] == "published"
        late, gone = author.messages("ack", "del")
        assert (late["id"], late["status"], late["error"]) == (ack["id"], "rejected", "moderated")
        assert gone["ids"] == [ack["id"]]
        author.say(json.dumps({"op": "comment", "ref": "r1", "x": "score=0.9"}))
        assert author.message("ack")["error"] == "moderated"


@pytest.mark.parametrize("moderation", ["pre", "post"])
def test_a_repeat_offender_is_measured_by_less(moderation: str, tmp_path: Path, room: str) -> None:
    with Judge() as judge, judged(tmp_path, judge) as server, Raw(server) as raw:
        strikes(server, room, 3)
        set_mode(server, room, moderation=moderation)
        viewer = viewer_of(raw, room, token("ann"))
        with Raw(server) as theirs:
            author = viewer_of(theirs, room, token("bad"))
            hidden = told(say(server, room, "score=0.6", "bad"))
            other = told(say(server, room, "score=0.6 too", "bob"))
            until(lambda: [it["comment"]["id"] for it in queue(server, room)] == [other["id"]])
            if moderation == "pre":  # its author is told that it is published, and nobody has it
                assert author.message("ack") == {"t": "ack", "id": hidden["id"], "status": "published"}
            else:
                while viewer.message("del")["ids"] != [hidden["id"]]:
                    pass  # of the strikes: the lane says them again to who comes
        told(say(server, room, "last", "bob"))
        assert "score=0.6" not in texts_until(viewer, "last") or moderation == "post"


def test_a_ref_that_is_used_again_brings_nothing_past_the_rules(tmp_path: Path, room: str) -> None:
    with server_at(tmp_path) as server, Raw(server) as raw, Raw(server) as elsewhere:
        told(ask(server, "PUT", "/v1/words", [{"text": "mud"}]))
        set_mode(server, room + "2", moderation="pre")
        author, other = viewer_of(raw, room, token("bob")), viewer_of(elsewhere, room + "2", token("bob"))
        author.say(json.dumps({"op": "comment", "ref": "r1", "x": "roses"}))
        assert author.message("ack")["status"] == "published"
        author.say(json.dumps({"op": "comment", "ref": "r1", "x": "mud"}))
        assert author.message("ack")["error"] == "moderated"
        other.say(json.dumps({"op": "comment", "ref": "r1", "x": "roses"}))
        assert other.message("ack")["status"] == "pending"


def test_what_one_author_says_comes_in_its_order(tmp_path: Path, room: str) -> None:
    """The classifier takes its time over the first of two."""
    with Judge(0.2) as judge, judged(tmp_path, judge) as server, Raw(server) as raw:
        set_mode(server, room, moderation="pre")
        viewer = viewer_of(raw, room, token("ann"))
        told(say(server, room, "slow", "bob"))
        until(lambda: "slow" in judge.asked)
        told(say(server, room, "quick", "bob"))
        assert texts_until(viewer, "quick") == ["slow", "quick"]


@pytest.mark.parametrize("policy", ["open", "hold"])
def test_what_was_held_is_looked_at_when_the_classifier_is_back(policy: str, tmp_path: Path, room: str) -> None:
    settings = {"moderation_classifier_down": policy}
    with Judge() as judge, judged(tmp_path, judge, **settings) as server:
        set_mode(server, room, moderation="pre")
        judge.away = True
        with Raw(server) as raw:
            viewer = viewer_of(raw, room, token("ann"))
            good, bad = (told(say(server, room, text, "bob")) for text in ("fine", "score=0.9"))
            assert good["status"] == bad["status"] == "pending"
            left = ("classifier", policy == "open")
            until(lambda: [(it["reasons"][0][:10], it["shown"]) for it in queue(server, room)] == [left] * 2)
            until(lambda: server.figures()["edge_look_backlog"] == 2)
            judge.away = False
            if policy == "open":
                assert viewer.message("del")["ids"] == [bad["id"]]
            until(lambda: not queue(server, room))
            assert server.figures()["edge_look_backlog"] == 0
            told(say(server, room, "last", "bob"))
            assert texts_until(viewer, "last")[-2:] == (["fine", "last"] if policy == "hold" else ["last"])[-2:]


def test_a_retry_of_what_has_been_decided_is_not_put_to_anybody_again(tmp_path: Path, room: str) -> None:
    with server_at(tmp_path) as server, Raw(server) as raw:
        set_mode(server, room, moderation="pre")
        author = viewer_of(raw, room, token("bob"))
        made = {}
        for ref in ("good", "bad"):
            author.say(json.dumps({"op": "comment", "ref": ref, "x": ref}))
            made[ref] = author.message("ack")["id"]
            path = f"/v1/rooms/{room}/review/{made[ref]}"
            told(ask(server, "POST", path, {"approve": ref == "good"}))
            author.message("ack")
        for ref, status in (("good", "published"), ("bad", "rejected")):
            author.say(json.dumps({"op": "comment", "ref": ref, "x": ref}))
            assert author.message("ack")["status"] == status
        assert not queue(server, room)
        author.say(json.dumps({"op": "comment", "ref": "new", "x": "new"}))
        assert author.message("ack")["status"] == "pending"
        told(
            ask(server, "POST", f"/v1/rooms/{room}/review/{queue(server, room)[0]['comment']['id']}", {"approve": True})
        )
        with Raw(server) as newcomer:
            assert texts_until(viewer_of(newcomer, room, token("eve")), "new") == ["good", "new"]
