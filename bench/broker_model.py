# What hash routing costs, by counting: rooms have Zipf's sizes, a node has viewers in some of them, and hears others'
# batches where it listens to a whole shard. Pure but for its own seed. It must never decide differently from
# broker.nats_hear when a shard is heard as a whole; the real run of `make bench-broker` compares the two.

import random
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from broker.nats_hear import MANY
from broker.subjects import shard_of

SEED = 1
NUMBERS = (16, 64, 256, 1024)
ROOMS = (1_000, 10_000)
NOTHING = 0.01


class Cost(NamedTuple):
    shards: int
    rooms: int
    placement: str
    followed: int
    """Rooms that the node has viewers in."""
    wildcard: float
    """Of what it hears, the part that is for none of its viewers, if it heard every shard as a whole."""
    switched: float
    """The same as it is done: by room up to MANY of a shard, and only above that as a whole."""
    subscriptions: int
    """For one lane, as it is done."""


def zipf(rooms: int) -> list[float]:
    """The part of all viewers, and of all bytes, that each room has."""
    sizes = [1 / rank for rank in range(1, rooms + 1)]
    total = sum(sizes)
    return [size / total for size in sizes]


def placements(rooms: int) -> dict[str, set[int]]:
    """Which rooms a node follows. Viewers that come to any node at random are in most of the large rooms and in some
    of the small ones; where a balancer sends a room's viewers to few nodes, a node has all of few rooms."""
    found = {}
    chance = random.Random(SEED)
    upto = list(accumulate(zipf(rooms)))
    for viewers in (1_000, 10_000, 100_000):
        found[f"{viewers:,} viewers at random"] = set(chance.choices(range(rooms), cum_weights=upto, k=viewers))
    for part in (50, 5):
        found[f"one of {part} nodes that share the rooms"] = set(chance.sample(range(rooms), rooms // part))
    return found


def shards_of(prefix: str, rooms: int, shards: int) -> list[int]:
    return [shard_of(f"{prefix}{room}", shards) for room in range(rooms)]


def unwanted(places: Sequence[int], followed: set[int], weights: Sequence[float], many: int) -> tuple[float, float]:
    """What is heard of all that is sent, and how much of that is for nobody, where a shard is heard as a whole above
    `many` followed rooms of it."""
    count: dict[int, int] = {}
    for room in followed:
        count[places[room]] = count.get(places[room], 0) + 1
    whole = {shard for shard, rooms in count.items() if rooms > many}
    wanted = sum(weights[room] for room in followed)
    lost = sum(weights[room] for room, shard in enumerate(places) if shard in whole and room not in followed)
    return wanted + lost, lost


def cost(shards: int, rooms: int, placement: str, followed: set[int]) -> Cost:
    places, weights = shards_of("room-", rooms, shards), zipf(rooms)
    parts = []
    for many in (0, MANY):
        heard, lost = unwanted(places, followed, weights, many)
        parts.append(lost / heard)
    count = [0] * shards
    for room in followed:
        count[places[room]] += 1
    subscriptions = sum(1 if it > MANY else it for it in count)
    return Cost(shards, rooms, placement, len(followed), parts[0], parts[1], subscriptions)


def costs() -> list[Cost]:
    return [
        cost(shards, rooms, placement, followed)
        for rooms in ROOMS
        for placement, followed in placements(rooms).items()
        for shards in NUMBERS
    ]


def worst(found: Sequence[Cost]) -> dict[int, float]:
    """By number of shards, the most that any placement loses as it is done."""
    return {shards: max(it.switched for it in found if it.shards == shards) for shards in NUMBERS}


def recommended(found: Sequence[Cost]) -> int:
    """The fewest shards that lose next to nothing anywhere: each more costs its owner a lease and a consumer."""
    lost = worst(found)
    return next((shards for shards in NUMBERS if lost[shards] <= NOTHING), NUMBERS[-1])
