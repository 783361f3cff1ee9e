"""`make bench-ingest`, a few seconds of it: that it measures what it says, and accounts for every comment."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.ingest_crowd import Ack, Talk, at_share, frame
from bench.ingest_judge import score
from bench.ingest_live import AIMS_US
from bench.ingest_outage import PHASES, Sums
from bench.ingest_texts import comments, rules

ROOT = Path(__file__).parent.parent.parent
SMALL = "--no-aims --authors 20 --rooms 2 --rounds 1 --rates 300 --seconds 1 --rate 200 --phase 1".split()


def bench(*arguments: str) -> str:
    command = [sys.executable, "-m", "bench.ingest", *SMALL, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found, (pattern, text)
    return int(found[1])


def test_live_is_complete_and_loses_nothing() -> None:
    said = bench("--only", "live")
    for kind in AIMS_US:
        row = re.search(rf"^{kind} +300 .*?(\d+)   aim \d+ us (?:ok|MISSED)$", said, re.MULTILINE)
        assert row, said
        assert row[1] == "0", said  # lost


@pytest.mark.slow
@pytest.mark.parametrize("case", ["pre-hold-stop", "pre-open-kill"])
def test_an_outage_is_complete_and_accounts_for_all(case: str) -> None:
    found = bench("--only", "outage", "--cases", case)
    rows = re.findall(r"^  (\w+) +answer p50 +\d+\.\d+ ms, p99 +\d+\.\d+ ms", found, re.MULTILINE)
    assert tuple(rows) == PHASES, found
    said = number(r"said (\d+):", found)
    assert said == 200 * len(PHASES) + 200  # and a second before, to warm up
    assert number(r"(\d+) pending", found) == said
    assert number(r"lost (\d+)", found) == 0
    verdicts = re.search(r"verdicts (.*), published at some time", found)
    assert verdicts, found
    assert sum(map(int, re.findall(r"\d+", verdicts[1]))) + number(r"undecided (\d+)", found) == said
    assert number(r"in the log (\d+)", found) == number(r"published at some time (\d+)", found)


def test_a_part_that_is_none_is_refused() -> None:
    command = [sys.executable, "-m", "bench.ingest", "--only", "live,lively"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "lively" in done.stderr


GOOD = Sums(10, {"published": 4, "pending": 6}, {"published": 3, "rejected": 1}, 3, 2, 0, 7, 6, 2)


@pytest.mark.parametrize(
    "change, lost",
    [
        ({}, 0),
        ({"said": 11}, 1),  # no answer
        ({"answers": {"published": 4, "pending": 5, "unknown": 1}}, 1),
        ({"logged": 6}, 1),
        ({"shown": 4, "logged": 8}, 0),  # published, and retracted after that
        ({"logged": 9}, 2),  # said once, and twice in the log
        ({"waiting": 1}, 1),  # pending, and nowhere
        ({"waiting": 5}, 0),  # what is shown may be in the queue as well
    ],
)
def test_what_is_missing_is_seen(change: dict[str, object], lost: int) -> None:
    assert GOOD._replace(**change).lost() == lost  # type: ignore[arg-type]


def test_a_talk_knows_each_answer_once() -> None:
    talk = Talk()
    talk.begin(1.0)
    talk.begin(2.0)
    talk.end(1, 2.5, Ack("ack", "published", "0-1", "x"))
    assert (talk.open, talk.latencies(), talk.latencies(0.0, 2.0)) == (1, [0.5], [])
    talk.end(0, 1.25, Ack("ack", "rejected", "0-0", None, "overloaded"))
    assert (talk.open, talk.latencies(), talk.statuses) == (0, [0.25, 0.5], ["rejected: overloaded", "published"])
    with pytest.raises(RuntimeError, match="twice"):
        talk.end(0, 3.0, Ack("ack", "published", "0-0", "y"))


def test_frames_are_a_clients() -> None:
    assert frame(b"ab") == b"\x81\x82\0\0\0\0ab"
    assert frame(b"x" * 200)[:8] == b"\x81\xfe\0\xc8\0\0\0\0"
    assert frame(b"", 0x8A) == b"\x8a\x80\0\0\0\0"


def test_shares() -> None:
    assert [at_share([1, 2, 3, 4], share) for share in (0.0, 0.5, 0.99, 1.0)] == [1, 3, 4, 4]
    assert at_share([], 0.5) == 0.0


def test_texts_are_distinct_and_judged_in_parts() -> None:
    for mixed in (False, True):
        texts = comments(2_000, mixed)
        assert len(set(texts)) == 2_000
        assert all(text.isascii() for text in texts) is not mixed
        scores = [score(text) for text in texts]
        assert {0.1, 0.4, 0.9} == set(scores)
    words, patterns = rules()
    assert (len(words), len(patterns)) == (1000, 100)
