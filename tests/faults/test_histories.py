# Short random histories, each from a seed that is said when it fails. `make chaos` runs more of them, and longer ones.


from pathlib import Path

import pytest

from tests.faults.histories import History, quick
from tests.faults.storms import storm


@pytest.mark.parametrize("seed", range(1, 6))
async def test_owners_that_die_and_sleep_on_one_store(seed: int) -> None:
    with quick():
        history = History(seed)
        try:
            await history.run(1.5)
        except (TimeoutError, AssertionError):
            print(f"repeat with: python -m tests.faults.chaos --kind memory --seed {seed} --count 1")
            raise
        assert len(history.truth.comments) > 200


@pytest.mark.slow
@pytest.mark.parametrize("kind, seed", [("nats", 11)])
async def test_a_short_storm(kind: str, seed: int, tmp_path: Path) -> None:
    try:
        told = (await storm(kind, seed, 5.0, tmp_path)).told
    except (AssertionError, TimeoutError):
        print(f"repeat with: python -m tests.faults.chaos --kind {kind} --seed {seed} --count 1")
        raise
    print("\n" + "; ".join(told))
