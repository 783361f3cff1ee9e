"""Room modes: whom they hold back, what is none, and the slow mode that turns itself on."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import EdgeError
from edge.ingest.modes import AUTO_OFF, AUTO_ON, OPEN, SLOW_MOST_S, Author, AutoSlow, Mode, check, decode

FAN = Author("ann")
SUB = Author("sue", subscriber=True)
MOD = Author("mod", moderates=True)


def refused(mode: Mode, author: Author, text: str = "hi", last: float | None = None, paid: bool = False) -> str | None:
    refusal = check(mode, author, text, last, 100.0, paid=paid)
    return refusal and refusal.name


def test_each_mode() -> None:
    assert refused(OPEN, FAN, last=99.9) is None
    assert refused(Mode(closed=True), SUB) == "room_closed"
    assert refused(Mode(subs_only=True), FAN) == "subs_only"
    assert refused(Mode(subs_only=True), SUB) is None
    assert refused(Mode(emote_only=True), FAN) == "emote_only"
    assert refused(Mode(emote_only=True), FAN, "👏 :gg:") is None
    assert refused(Mode(moderation="pre"), FAN) is None


def test_slow_mode_says_how_long() -> None:
    slow = Mode(slow_seconds=10)
    assert check(slow, FAN, "hi", None, 100.0) is None
    assert check(slow, FAN, "hi", 90.0, 100.0) is None
    refusal = check(slow, FAN, "hi", 93.0, 100.0)
    assert refusal is not None
    assert (refusal.name, refusal.retry_after) == ("slow_mode", 3.0)
    assert check(slow, FAN, "hi", 93.0, 103.0) is None


def test_who_has_paid_need_not_wait_and_that_is_all() -> None:
    assert refused(Mode(slow_seconds=10), FAN, last=99.0, paid=True) is None
    assert refused(Mode(closed=True), FAN, paid=True) == "room_closed"
    assert refused(Mode(subs_only=True), FAN, paid=True) == "subs_only"
    assert refused(Mode(emote_only=True), FAN, paid=True) == "emote_only"


modes = st.builds(
    Mode,
    slow_seconds=st.integers(0, SLOW_MOST_S),
    subs_only=st.booleans(),
    emote_only=st.booleans(),
    closed=st.booleans(),
    moderation=st.sampled_from(["pre", "post"]),
)


@given(modes)
def test_moderators_are_never_held_back(mode: Mode) -> None:
    assert check(mode, MOD, "hi", 100.0, 100.0) is None


@given(modes)
def test_a_mode_is_read_as_it_is_written(mode: Mode) -> None:
    assert decode(msgspec.json.encode(mode)) == mode


@pytest.mark.parametrize(
    "data, name",
    [
        (b"", "bad_json"),
        (b"{", "bad_json"),
        (b"[" * 100_000, "bad_mode"),
        (b'{"x":' * 100_000, "bad_mode|bad_json"),
        (b"\xff", "bad_json"),
        (b"[]", "bad_mode"),
        (b"null", "bad_mode"),
        (b'{"slow_seconds":-1}', "bad_mode"),
        (b'{"slow_seconds":21601}', "bad_mode"),
        (b'{"slow_seconds":1.5}', "bad_mode"),
        (b'{"slow_seconds":"1"}', "bad_mode"),
        (b'{"slow_seconds":true}', "bad_mode"),
        (b'{"slow_seconds":1e400}', "bad_mode|bad_json"),
        (b'{"closed":1}', "bad_mode"),
        (b'{"moderation":"both"}', "bad_mode"),
        (b'{"moderation":null}', "bad_mode"),
        (b'{"slow":1}', "bad_mode"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_no_mode_is_named(data: bytes, name: str) -> None:
    with pytest.raises(EdgeError) as caught:
        decode(data)
    assert caught.value.name in name.split("|")


def offer(auto: AutoSlow, rate: int, start: int, seconds: int) -> list[bool | None]:
    """What each second's turn says, at such a rate from then on."""
    turned = []
    for second in range(start, start + seconds):
        for number in range(rate):
            auto.offered(second + number / rate)
        turned.append(auto.turn(second + 0.999))
    return turned


def test_a_room_turns_slow_by_itself_and_back() -> None:
    auto = AutoSlow()
    assert offer(auto, AUTO_ON - 1000, 0, 3) == [None] * 3
    assert auto.applied(OPEN) is OPEN
    assert offer(auto, AUTO_ON + 1000, 3, 2) == [True, None]
    assert auto.applied(OPEN) == Mode(slow_seconds=auto.slow_seconds)
    assert auto.applied(Mode(subs_only=True)) == Mode(slow_seconds=auto.slow_seconds, subs_only=True)
    stricter = Mode(slow_seconds=60)
    assert auto.applied(stricter) is stricter
    assert offer(auto, AUTO_OFF + 1000, 5, 12) == [None] * 12
    turned = offer(auto, 100, 17, 12)
    assert turned.count(False) == 1
    assert turned[:9] == [None] * 9
    assert not auto.is_on
    assert auto.applied(OPEN) is OPEN


def test_what_other_workers_are_offered_counts() -> None:
    auto = AutoSlow()
    auto.offered(1.0)
    assert auto.turn(1.5, AUTO_ON - 1) is True
    assert auto.rate(1.5) == 1
