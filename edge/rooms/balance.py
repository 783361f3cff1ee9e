# Which worker writes which shards: each makes the same plan from what all say, and does its own part of it. Pure: it
# owns nothing. It must never move more than a few shards at once, or a deploy would move them all.
from collections.abc import Collection, Mapping
from typing import NamedTuple

IDLE = 0.25
"""What all shards together weigh, in cores, when nobody says anything: so idle ones are spread evenly, and one that is
busy outweighs many."""
SLACK = 0.1  # of a fair share, above which something is given away
MOVES = 32  # a part of all shards: how many one worker gives away in one go, at least 1. It takes what it can get.

Loads = Mapping[int, float]
"""Shards with the part of a core that each takes."""


class Plan(NamedTuple):
    claim: list[int]
    release: list[int]


def plan(me: str, members: Mapping[str, Loads], shards: int, busy: Collection[int] = ()) -> Plan:
    """`members` is everybody who writes shards, with what they hold now, this worker among them. `busy` are shards that
    have no writer and can't be had just now."""
    held = {shard for loads in members.values() for shard in loads}
    weights = {name: sum(_weight(load, shards) for load in loads.values()) for name, loads in members.items()}
    claim: list[int] = []
    for shard in range(shards):
        if shard in held:
            continue
        least = min(weights, key=lambda name: (weights[name], name))
        weights[least] += _weight(0.0, shards)
        if least == me and shard not in busy:
            claim.append(shard)
    return Plan(claim, _release(me, members[me], weights, shards))


def _release(me: str, mine: Loads, weights: dict[str, float], shards: int) -> list[int]:
    """What this worker has too much of, the heaviest first that leaves both better off than this one is now."""
    share = sum(weights.values()) / len(weights)
    others = {name: weight for name, weight in weights.items() if name != me}
    own = weights[me]
    found: list[int] = []
    for shard in sorted(mine, key=lambda shard: (-mine[shard], shard)):
        if own <= share * (1 + SLACK) or not others or len(found) >= max(1, shards // MOVES):
            break
        weight = _weight(mine[shard], shards)
        least = min(others, key=lambda name: (others[name], name))
        if others[least] + weight < own * (1 - SLACK / 2):
            others[least] += weight
            own -= weight
            found.append(shard)
    return found


def _weight(load: float, shards: int) -> float:
    return load + IDLE / shards
