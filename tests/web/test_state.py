# The room page in a real Chromium, against streams that follow a script: what a room is set to, alarms, and all at once
# that it can say.

import time
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from edge import wire
from tests.web.chromium import Page
from tests.web.script import HELLO, HOUR_MS, MARKUP, Site, Viewer, comment, faint, joined, says, sent, shown

OPEN: dict[str, Any] = {
    "slow_seconds": 0,
    "subs_only": False,
    "emote_only": False,
    "closed": False,
    "moderation": "post",
}


def now_ms() -> int:
    return int(time.time() * 1000)


async def test_the_pinned_comment(page: Page, site: Site) -> None:
    viewer = await joined(page, site)
    viewer.say(t="state", pin=comment("p1", MARKUP))
    await page.until(says("#pin .text", MARKUP))
    assert await page.text("#pin .author") == "Bob"
    viewer.say(**wire.state(1, 5, {"pin": comment("p2", "the second")}))
    await page.until(says("#pin .text", "the second"))
    viewer.say(**wire.state(2, 5, {"mode": OPEN}))  # says nothing of the pin
    viewer.say(**wire.retraction(3, 5, ["p1", "p9"]))
    viewer.say(**wire.score(4, 5, {"home": 1, "away": 0}))
    await page.until("document.querySelector('.figures')")
    assert await page.js(says("#pin .text", "the second"))
    viewer.say(**wire.state(5, 5, {"pin": None}))
    await page.until("document.querySelector('#pin').hidden")
    viewer.say(**wire.state(6, 5, {"pin": comment("p3")}))
    await page.until(shown("#pin"))
    viewer.say(**wire.retraction(7, 5, ["p3"]))
    await page.until("document.querySelector('#pin').hidden")
    assert await page.js("document.title") == "demo: live"


async def test_the_newest_comment_stays_in_sight_when_the_list_gets_shorter(page: Page, site: Site) -> None:
    viewer = await joined(page, site)
    viewer.say(**wire.batch(1, 5, [comment(f"a{i}") for i in range(100)]))
    viewer.say(t="state", pin=comment("p1", "word " * 100), mode=OPEN | {"slow_seconds": 30})
    at_end = "(l => l.scrollHeight - l.scrollTop - l.clientHeight < 2)(document.querySelector('#comments'))"
    await page.until(f"{shown('#pin')} && {at_end}")
    viewer.say(**wire.batch(2, 6, [comment("b")]))
    await page.until(f"document.querySelector('[data-id=b]') && {at_end}")
    assert await page.js("document.querySelector('#newest').hidden")


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ({"slow_seconds": 30}, "Slow mode: 30 s between comments."),
        ({"slow_seconds": 5400, "subs_only": True}, "Slow mode: 1 h 30 min between comments. Subscribers only."),
        ({"emote_only": True, "moderation": "pre"}, "Emotes only. Comments are looked at first."),
    ],
)
async def test_the_mode_in_words(page: Page, site: Site, mode: dict[str, Any], words: str) -> None:
    viewer = await joined(page, site)
    assert not await page.js(shown("#mode"))
    viewer.say(t="state", mode=OPEN | mode)
    await page.until(says("#mode", words))
    viewer.say(**wire.state(1, 5, {"mode": OPEN | mode, "auto": True}))
    await page.until(says("#mode", f"{words} It is for as long as the rush lasts."))
    assert not await page.js("document.querySelector('#text').disabled")
    viewer.say(**wire.state(2, 5, {"mode": OPEN, "auto": False}))
    await page.until("document.querySelector('#mode').hidden")


async def test_a_closed_room_takes_nothing(page: Page, site: Site) -> None:
    viewer = await joined(page, site)
    viewer.say(**wire.batch(1, 5, [comment("a")]))
    await page.until(shown("[data-id=a] .reply"))
    await page.type("#text", "half a thou")
    viewer.say(**wire.state(1, 5, {"mode": OPEN | {"closed": True, "slow_seconds": 30}}))
    await page.until(says("#mode", "Comments are closed."))
    asked = "['#text', '#say button'].map(s => document.querySelector(s).disabled)"
    assert await page.js(asked) == [True, True]
    assert await page.js("document.querySelector('#text').placeholder") == "Comments are closed"
    assert not await page.js(shown("[data-id=a] .reply"))
    viewer.say(**wire.state(2, 5, {"mode": OPEN}))
    await page.until("document.querySelector('#mode').hidden")
    assert await page.js(asked) == [False, False]
    assert (await sent(page, viewer, "ght"))["x"] == "half a thought"


async def test_what_is_set_after_a_break(page: Page, site: Site) -> None:
    viewer = await joined(page, site)
    viewer.say(**wire.state(1, 5, {"mode": OPEN | {"closed": True}, "auto": True}))
    viewer.say(**wire.state(2, 5, {"pin": comment("p1")}))
    await page.until(f"{shown('#mode')} && {shown('#pin')}")
    # Taken up where it was: what has changed comes, and nothing has.
    viewer.cut()
    second = await site.script.viewer(1)
    second.say(**HELLO | {"since": "i3.m2.c0", "resumed": True})
    second.say(**wire.score(3, 5, {"home": 1, "away": 0}))
    await page.until("document.querySelector('.figures')")
    assert await page.js(f"{shown('#mode')} && {shown('#pin')}")
    # Much of it is not there any more: what was told behind `hello` is what holds.
    second.cut()
    third = await site.script.viewer(2)
    third.say(**HELLO | {"since": "i3.m3.c0", "resumed": True})
    third.say(t="state", pin=comment("p2", "the second"))
    third.say(t="gap", **{"from": "m4", "to": "m90"})
    await page.until(f"document.querySelector('#mode').hidden && {says('#pin .text', 'the second')}")
    assert not await page.js("document.querySelector('#text').disabled")
    # As a new viewer, of a room where nothing is set.
    third.cut()
    fourth = await site.script.viewer(3)
    fourth.say(**HELLO | {"since": "i9.m0.c0"})
    await page.until("document.querySelector('#pin').hidden")


async def test_alarms(page: Page, site: Site) -> None:
    viewer = await joined(page, site)
    viewer.say(**wire.batch(1, 5, [comment("a", MARKUP)]))
    viewer.say(t="alarm", kind="target", target=MARKUP, on=True)
    viewer.say(t="alarm", kind="target", target="a", on=True)
    viewer.say(t="alarm", kind="newcomers", target="", on=True)
    viewer.say(t="alarm", kind="newcomers", target="", on=True)  # from another worker
    await page.until("document.querySelectorAll('#alarms p').length === 3")
    assert await page.texts("#alarms p > span") == [
        f"A sudden crowd speaks to {MARKUP}.",
        f"A sudden crowd answers Bob: {MARKUP}",
        "A sudden crowd of new accounts is commenting.",
    ]
    viewer.say(t="alarm", kind="newcomers", target="", on=False)
    viewer.say(**wire.retraction(1, 5, ["a"]))
    await page.until("document.querySelectorAll('#alarms p').length === 2")
    await page.until(says("#alarms p:last-child > span", "A sudden crowd answers a comment"))
    await page.click("#alarms button")
    await page.until("document.querySelectorAll('#alarms p').length === 1")
    for number in range(10):
        viewer.say(t="alarm", kind="target", target=f"user-{number}", on=True)
    await page.until("document.querySelector('#alarms').innerText.includes('user-9')")
    assert await page.js("document.querySelectorAll('#alarms p').length") == 3
    assert await page.js("document.title") == "demo: live"


async def everything(page: Page, site: Site, query: str) -> Viewer:
    """A page with all at once that a room can say."""
    viewer = await joined(page, site, query)
    viewer.say(**wire.score(1, 5, {"home": 1, "away": 0, "text": "Goal!"}))
    viewer.say(t="state", mode=OPEN | {"slow_seconds": 30, "moderation": "pre"}, pin=comment("p", "w" * 500))
    viewer.say(t="state", trouble="broker")
    viewer.say(t="alarm", kind="target", target="w" * 64, on=True)
    paid = [comment(f"paid{i}", "thanks " * (1 + 20 * i), tier=2, pin_until=now_ms() + HOUR_MS) for i in range(3)]
    answers = [comment("a", "look @ann", at=["ann"], re="paid0"), comment("b", "w" * 400, re="a")]
    viewer.say(**wire.batch(1, 5, [*paid, *answers]))
    op = await sent(page, viewer, "mine")
    viewer.say(**wire.ack(op["ref"], "own", "pending"))
    await page.until("document.querySelector('[data-id=own] .verdict') && document.querySelector('#reactions button')")
    await page.js("document.querySelector('[data-id=b] .reply').click()")
    await page.until(shown("#replying"))
    return viewer


@pytest.mark.parametrize("dark", [False, True])
async def test_all_at_once_fits_a_phone_and_can_be_read(page: Page, site: Site, dark: bool) -> None:
    await page.call("Emulation.setDeviceMetricsOverride", width=320, height=568, deviceScaleFactor=1, mobile=True)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    still = {"name": "prefers-reduced-motion", "value": "reduce"}
    await page.call("Emulation.setEmulatedMedia", features=[scheme, still])
    await everything(page, site, "room=demo&user=ann")
    assert await page.js("document.documentElement.scrollWidth") == 320
    assert await page.js("document.querySelector('#comments').clientHeight") >= 80
    rows = "#notice|#alarms|#pin|#paid|#chat|#reactions|#mode|#replying|#say|#publish".split("|")
    edges = await page.js(
        f"{msgspec.json.encode(rows).decode()}.map(s => (r => [r.top, r.bottom, r.left, r.right])"
        "(document.querySelector(s).getBoundingClientRect()))"
    )
    for (_, bottom, left, right), (top, *_) in pairwise(edges):
        assert (bottom <= top, left >= 0, right <= 320) == (True, True, True), "nothing lies over another thing"
    parts = "#notice|#alarms span|#pin .text|#pin .author|#paid .text|#paid .author|.to-me .text|.to-me .at|.to-me time"
    parts += "|.to-me .author|.paid .text|.paid .role|.paid time|.re|.verdict|.reply|#mode|#replying-to|.cross"
    assert await page.js(faint(*parts.split("|"))) == []


async def test_what_a_screen_reader_finds_of_it(page: Page, site: Site) -> None:
    await everything(page, site, "room=demo&user=ann")
    tree = (await page.call("Accessibility.getFullAXTree"))["nodes"]
    found = {(n["role"]["value"], n.get("name", {}).get("value", "")) for n in tree if not n["ignored"]}
    for wanted in (
        ("region", "Pinned comment"),
        ("region", "Paid comments"),
        ("button", "Dismiss"),
        ("button", "Reply to Bob"),
        ("button", "Do not reply"),
    ):
        assert wanted in found
    (text,) = (n for n in tree if n.get("name", {}).get("value") == "Your comment" and n["role"]["value"] == "textbox")
    assert "Replying to Bob" in text["description"]["value"]
    await page.press("Escape")
    await page.until("document.querySelector('#replying').hidden")
    tree = (await page.call("Accessibility.getFullAXTree"))["nodes"]
    assert not [n for n in tree if "Replying" in n.get("description", {}).get("value", "")]
