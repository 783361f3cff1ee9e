"""A plain comment's item, written in one go: the very bytes that the long way makes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import wire

names = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=64)
users = st.fixed_dictionaries(
    {"id": names, "name": names},
    optional={"role": names, "badges": st.lists(names, min_size=1, max_size=8)},
)
texts = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=500) | st.sampled_from(
    ['"' * 500, "\\" * 31, "x" * 32, "é" * 128, "\U0001f642" * 500, "a" * 255, "a" * 256]
)
rooms = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
ids = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
times = st.integers(0, 2**53) | st.sampled_from([0, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32])
tiers = st.none() | st.integers(-(2**53), 2**53) | names


@given(rooms, ids, users, texts, times, tiers)
def test_it_is_the_same(room: str, made: str, user: wire.Message, text: str, ts: int, tier: int | str | None) -> None:
    comment = wire.comment(made, user, text, ts, tier=tier)
    written = wire.shown(user, tier).item(room, made, text, ts)
    assert written == wire.item(room, comment)
    assert wire.decode_item(written).id == made


def test_what_no_comment_has() -> None:
    shown = wire.shown({"id": "ann", "name": "ann"}, None)
    with pytest.raises(ValueError, match="too long"):
        shown.item("derby", "id", "x" * 70_000, 0)
    with pytest.raises(ValueError, match="too long"):
        shown.item("derby", "i" * 70_000, "x", 0)
    with pytest.raises(UnicodeEncodeError):
        shown.item("derby", "id", "\ud800", 0)
    with pytest.raises(TypeError):
        shown.item("derby", "id", None, 0)  # type: ignore[arg-type]
