"""Every fuzz target for two seconds: its seeds, then mutations of them. FUZZ_SEED=N does the same again."""

import os
import random

import pytest

from tests.fuzz import fuzz_engine, loop, seeds

SECONDS = 2.0


@pytest.mark.parametrize("name", seeds.TARGETS)
def test_a_target_for_a_moment(name: str) -> None:
    seed = int(os.environ.get("FUZZ_SEED") or random.SystemRandom().randrange(2**32))
    ran = loop.fuzz(name, SECONDS, seed, seeds.of(name))
    print(f"{name}: {ran}; FUZZ_SEED={seed}")
    assert ran.runs >= 5


@pytest.mark.parametrize("name", seeds.found())
def test_what_was_found(name: str) -> None:
    fuzz_engine.one(seeds.found()[name])


@pytest.mark.parametrize("name", seeds.TARGETS)
def test_there_are_seeds(name: str) -> None:
    assert len(seeds.of(name)) >= {"http": 180, "ws": 100, "engine": 400}.get(name, 3)


def test_a_failure_names_the_seed_and_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(data: bytes) -> None:
        raise AssertionError(len(data))

    monkeypatch.setattr("tests.fuzz.fuzz_vector.one", fails)
    with pytest.raises(AssertionError) as caught:
        loop.fuzz("vector", 1.0, 7, [b"abc"])
    assert caught.value.__notes__ == ["fuzzing vector, seed 7, input 616263"]
