"""Who writes which shards: every worker plans for itself, and together the plans must come to rest."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.rooms.balance import MOVES, plan

SHARDS = 256
World = dict[str, dict[int, float]]


def turn(world: World, loads: dict[int, float], shards: int = SHARDS) -> tuple[int, int]:
    """All do their part of the plan; how many shards have been claimed, and released."""
    plans = {name: plan(name, world, shards) for name in world}
    claims = [shard for made in plans.values() for shard in made.claim]
    assert len(claims) == len(set(claims)), "two want the same"
    for name, made in plans.items():
        for shard in made.release:
            del world[name][shard]
        for shard in made.claim:
            world[name][shard] = loads.get(shard, 0.0)
    return len(claims), sum(len(made.release) for made in plans.values())


def settle(world: World, loads: dict[int, float], shards: int = SHARDS) -> int:
    """Turns until nothing moves any more."""
    for turns in range(200):
        if turn(world, loads, shards) == (0, 0):
            return turns
    raise AssertionError({name: len(held) for name, held in world.items()})


@pytest.mark.parametrize("workers", [1, 2, 3, 16])
def test_idle_shards_are_spread_evenly(workers: int) -> None:
    world: World = {f"w{n}": {} for n in range(workers)}
    settle(world, {})
    sizes = [len(held) for held in world.values()]
    assert sum(sizes) == SHARDS
    assert max(sizes) - min(sizes) <= max(2, SHARDS // workers // 5)


def test_one_who_comes_gets_its_share_a_few_at_a_time() -> None:
    world: World = {"a": {}, "b": {}}
    settle(world, {})
    world["new"] = {}
    moved = []
    while (found := turn(world, {})) != (0, 0):
        moved.append(found[1])
        assert len(moved) < 200
    assert max(moved) <= 2 * SHARDS // MOVES
    assert len(world["new"]) >= SHARDS / 3 * 0.8


def test_what_the_dead_had_is_taken_by_those_with_the_least() -> None:
    world: World = {"a": {}, "b": {}, "c": {}}
    settle(world, {})
    del world["c"]
    settle(world, {})
    assert sorted(len(held) for held in world.values())[0] >= SHARDS * 0.45


def test_a_hot_shard_ends_up_alone() -> None:
    loads = {7: 0.6}
    world: World = {"a": {}, "b": {}, "c": {}}
    settle(world, {})
    for held in world.values():
        if 7 in held:
            held[7] = loads[7]
    settle(world, loads)
    assert [set(held) for held in world.values() if 7 in held] == [{7}]
    assert sum(len(held) for held in world.values()) == SHARDS


def test_a_warm_shard_is_not_passed_around() -> None:
    loads = {3: 0.9}
    world: World = {"a": {3: 0.9}, "b": {n: 0.0 for n in range(SHARDS) if n != 3}}
    assert settle(world, loads) == 0


def test_shards_that_cannot_be_had_are_not_asked_for() -> None:
    made = plan("a", {"a": {}}, 4, busy=[0, 1, 3])
    assert made.claim == [2]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_any_loads_come_to_rest(seed: int) -> None:
    chance = random.Random(seed)
    shards = chance.choice([16, 64, 256])
    loads = {n: chance.random() ** 6 for n in range(shards)}
    world: World = {f"w{n}": {} for n in range(chance.randint(1, 8))}
    settle(world, loads, shards)
    assert sum(len(held) for held in world.values()) == shards
    weights = [sum(held.values()) + 0.25 * len(held) / shards for held in world.values()]
    heaviest = max(loads.values()) + 0.25 / shards
    share = sum(weights) / len(weights)
    assert max(weights) <= max(1.1 * share, (share + heaviest) / 0.95) + 1e-9
