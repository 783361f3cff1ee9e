"""A comment's id: what hashlib makes of the same words."""

from base64 import urlsafe_b64encode
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge._fast.digest import Ids

names = st.text(st.characters(blacklist_categories=["Cs"]), max_size=64) | st.integers(0, 600).map("x".__mul__)


def plain(author: str, ref: str, person: bytes) -> str:
    name = author.encode()
    digest = blake2b(len(name).to_bytes(4, "big") + name + ref.encode(), digest_size=12, person=person).digest()
    return urlsafe_b64encode(digest).decode()


@given(names, names, st.binary(max_size=16))
def test_ids_are_hashlib_s(author: str, ref: str, person: bytes) -> None:
    assert Ids(person).of(author, ref) == plain(author, ref, person)


@pytest.mark.parametrize("size", [0, 123, 124, 125, 251, 252, 253, 379, 508, 509, 5000])
def test_at_the_ends_of_blocks(size: int) -> None:
    assert Ids(b"edge").of("x" * size, "") == plain("x" * size, "", b"edge")


def test_what_is_no_person_and_no_text() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        Ids(bytes(17))
    with pytest.raises(UnicodeEncodeError):
        Ids(b"").of("\ud800", "")
