# What must hold whatever breaks, checked on the log, on what viewers got, and on what was answered to those who spoke.
# Pure: it owns what was said. It must never excuse anything by what was broken when.

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
Lane = tuple[str, str]
"""A room, and m or c."""
Log = dict[Lane, dict[int, Message]]

PUBLISHED, UNKNOWN, REJECTED = "published", "unknown", "rejected"


@dataclass
class Said:
    """A comment or a score with the best of the answers that its author has had."""

    room: str
    author: str
    order: int
    status: str = REJECTED

    def told(self, status: str) -> None:
        if status == PUBLISHED or (status == UNKNOWN and self.status == REJECTED):
            self.status = status


@dataclass
class Truth:
    comments: dict[str, Said] = field(default_factory=dict)
    scores: dict[str, Said] = field(default_factory=dict)

    def count(self, status: str) -> int:
        return sum(it.status == status for it in (*self.comments.values(), *self.scores.values()))

    def check(self, log: Log) -> None:
        for lane, batches in log.items():
            check_lane(lane, batches)
        self._check_scores(log)
        for room in {it.room for it in self.comments.values()}:
            self._check_comments(room, log.get((room, "c"), {}))

    def _check_comments(self, room: str, batches: dict[int, Message]) -> None:
        said = {id_: it for id_, it in self.comments.items() if it.room == room}
        shown = [comment["id"] for number in sorted(batches) for comment in batches[number]["m"]]
        assert not (twice := repeated(shown)), f"{room}: shown twice: {twice}"
        assert set(shown) <= said.keys(), f"{room}: nobody said {set(shown) - said.keys()}"
        lied = [id_ for id_ in shown if said[id_].status == REJECTED]
        assert not lied, f"{room}: their authors were told that these are nowhere: {lied}"
        counted = sum(batch.get("of", len(batch["m"])) for batch in batches.values())
        acked = {id_ for id_, it in said.items() if it.status == PUBLISHED}
        unknown = sum(it.status == UNKNOWN for it in said.values())
        assert len(acked) <= counted <= len(acked) + unknown, (
            f"{room}: {counted} accounted for, {len(acked)} acknowledged, {unknown} unknown; "
            f"missing: {sorted(acked - set(shown))[:5]}"
        )
        if counted == len(shown):
            assert acked <= set(shown), f"{room}: lost: {acked - set(shown)}"
        orders = defaultdict(list)
        for id_ in shown:
            if said[id_].status == PUBLISHED:
                orders[said[id_].author].append(said[id_].order)
        for author, order in orders.items():
            assert order == sorted(order), f"{room}: what {author} said is out of order: {order}"

    def _check_scores(self, log: Log) -> None:
        found = Counter(
            (room, message["e"]["key"])
            for (room, lane), batches in log.items()
            for message in batches.values()
            if lane == "m" and message["t"] == "score"
        )
        for key, it in self.scores.items():
            count = found.pop((it.room, key), 0)
            most = 0 if it.status == REJECTED else 1
            least = 1 if it.status == PUBLISHED else 0
            assert least <= count <= most, f"score {key} of {it.room}, {it.status}: {count} times in the log"
        assert not found, f"nobody gave these scores: {found}"


def check_lane(lane: Lane, batches: dict[int, Message]) -> None:
    """One sequence from 1, and a clock that does not go back."""
    numbers = sorted(batches)
    assert numbers == list(range(1, len(numbers) + 1)), f"{lane}: {numbers}"
    last = 0
    for number in numbers:
        message = batches[number]
        assert message["id"] == f"{lane[1]}{number}", f"{lane}: {number} is {message['id']}"
        assert message["ts"] >= last, f"{lane}: at {number} the time goes back by {last - message['ts']} ms"
        last = message["ts"]


def check_seen(who: str, room: str, seen: dict[str, Message], log: Log) -> None:
    """No fork: what a viewer was given under a number is what the log has there."""
    for id_, message in seen.items():
        there = log[room, id_[0]].get(int(id_[1:]))
        assert message == there, f"{who}: {id_} of {room} is {message}, and in the log {there}"


def repeated(ids: list[str]) -> list[str]:
    return [id_ for id_, count in Counter(ids).items() if count > 1]
