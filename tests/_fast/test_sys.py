"""Slots against a set, and the hash's spread: what tables and bitmaps rest on."""

import heapq
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge._fast.sys import SlotsProbe, hash_of, memory
from tests._fast.engine import bounded, nothing_kept

__all__ = ["nothing_kept"]


@bounded()
@given(cap=st.sampled_from([1, 2, 63, 64, 65, 128, 4095, 4096, 4097, 5000]), data=st.data())
def test_the_lowest_free_slot_is_taken_first(cap: int, data: st.DataObject) -> None:
    slots = SlotsProbe(cap)
    free, taken = [*range(cap)], set[int]()
    for most in data.draw(st.lists(st.integers(0, cap + 1), min_size=1, max_size=6)):
        for _ in range(most):
            slot = slots.take()
            assert slot == (heapq.heappop(free) if free else None)
            if slot is not None:
                taken.add(slot)
        assert slots.free() == cap - len(taken) == len(free)
        for slot in data.draw(st.lists(st.sampled_from(sorted(taken)), unique=True)) if taken else ():
            slots.give(slot)
            taken.discard(slot)
            heapq.heappush(free, slot)


def test_slots_across_words_of_words() -> None:
    slots = SlotsProbe(9000)
    assert [slots.take() for _ in range(9001)] == [*range(9000), None]
    for slot in (8999, 4096, 4095, 64, 63, 0):
        slots.give(slot)
    assert [slots.take() for _ in range(7)] == [0, 63, 64, 4095, 4096, 8999, None]


def test_memory_counts_what_is_mapped() -> None:
    before = memory()
    slots = SlotsProbe(1 << 20)
    assert memory()["mapped"] > before["mapped"]
    assert memory()["blocks"] == before["blocks"]
    del slots
    assert memory() == before


@pytest.mark.parametrize("bits", [0, 29, 32, 48])
def test_a_hash_spreads_names_that_differ_little(bits: int) -> None:
    # 4,096 names into 256 buckets: 16 each; a bad hash puts hundreds into one.
    found = Counter(hash_of(b"room-%d" % i, 7) >> bits & 255 for i in range(4096))
    assert max(found.values()) < 48
    assert len(found) > 240


def test_a_hash_depends_on_its_secret() -> None:
    assert len({hash_of(b"room", seed) for seed in range(1000)}) == 1000
    assert hash_of(b"", 1) != hash_of(b"\0", 1) != hash_of(b"\0\0", 1)
