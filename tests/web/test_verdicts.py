# The room page in a real Chromium, against streams that follow a script: what becomes of a comment behind its answer,
# how long to wait for the next, and what is paid for.

import time

import pytest

from edge import wire
from edge.errors import EdgeError
from tests.web.chromium import Page
from tests.web.script import HOUR_MS, MARKUP, Site, comment, joined, says, sent, shown

IDS = "[...document.querySelectorAll('#comments li')].map(e => e.dataset.id)"


def now_ms() -> int:
    return int(time.time() * 1000)


async def test_comments_that_are_paid_for_stay_in_sight(page: Page, site: Site) -> None:
    viewer = await joined(page, site)
    # A clock of the test's own, and the timers within its reach.
    await page.js(
        "window.shift = 0; window.later = []; const now = Date.now, set = setTimeout;"
        "Date.now = () => now() + shift;"
        "window.setTimeout = (call, ms) => { if (ms > 1e6) later.push(call); return set(call, ms); }"
    )
    strip = "[...document.querySelectorAll('#paid-comments li')].map(e => e.dataset.paid).join()"
    spoken = [comment(f"p{i}", MARKUP, tier=2, pin_until=now_ms() + i * HOUR_MS) for i in (5, 4, 3, 2)]
    old = comment("old", tier=1, pin_until=now_ms() - 1)
    viewer.say(**wire.batch(1, 5, [comment("a", tier=7), *spoken, old]))
    await page.until(f"{strip} === 'p2,p3,p4'")
    assert await page.js("[...document.querySelectorAll('#comments .paid')].length") == 5
    assert await page.text("#paid .text") == MARKUP
    assert await page.texts("[data-id=old] .role") == ["tier 1"]
    viewer.say(**wire.retraction(1, 6, ["p3", "late"]))
    await page.until(f"{strip} === 'p2,p4,p5'")
    viewer.say(**wire.batch(2, 6, [comment("late", tier=1, pin_until=now_ms() + HOUR_MS), comment("b")]))
    await page.until("document.querySelector('[data-id=b]')")
    assert await page.js(strip) == "p2,p4,p5", "taken away before it came"
    # The first one's time is over, then everybody's.
    await page.js(f"shift = {2 * HOUR_MS}; later.at(-1)()")
    await page.until(f"{strip} === 'p4,p5'")
    await page.js(f"shift = {9 * HOUR_MS}; later.at(-1)()")
    await page.until("document.querySelector('#paid').hidden")
    assert await page.js("document.querySelectorAll('#comments .paid').length") == 4
    assert await page.js("document.title") == "demo: live"


async def test_a_verdict_that_comes_later(page: Page, site: Site) -> None:
    viewer = await joined(page, site)
    for id_ in ("one", "two"):
        viewer.say(**wire.ack((await sent(page, viewer, f"text of {id_}"))["ref"], id_, "pending"))
        await page.until(says(f"[data-id={id_}] .verdict", "waits for a moderator"))
        assert not await page.js(shown(f"[data-id={id_}] .reply"))
    viewer.say(**wire.ack(None, "two", "rejected", EdgeError("moderated")))
    words = "was not published: the rules of this room do not allow this text"
    await page.until(says("[data-id=two] .verdict", words))
    viewer.say(**wire.ack(None, "one", "published"))
    await page.until("!document.querySelector('[data-id=one] .verdict')")
    viewer.say(**wire.batch(1, 5, [comment("a"), comment("one", user="ann")]))
    await page.until("document.querySelector('[data-id=a]')")
    assert await page.js(IDS) == ["two", "a", "one"]
    # The verdict comes before the answer, and the comment before its verdict.
    op = await sent(page, viewer, "text of three")
    viewer.say(**wire.ack(None, "three", "rejected", EdgeError("moderated", "not here")))
    viewer.say(**wire.ack(op["ref"], "three", "pending"))
    await page.until(says("[data-id=three] .verdict", "was not published: not here"))
    viewer.say(**wire.ack((await sent(page, viewer, "text of four"))["ref"], "four", "pending"))
    viewer.say(**wire.batch(2, 5, [comment("four", user="ann")]))
    viewer.say(**wire.ack(None, "four", "published"))
    viewer.say(**wire.batch(3, 5, [comment("b")]))
    await page.until("document.querySelector('[data-id=b]')")
    assert (await page.js(IDS))[-3:] == ["three", "four", "b"]
    assert not await page.js("document.querySelector('[data-id=four] .verdict')")
    # Of another tab, or from before.
    viewer.say(**wire.ack(None, "five", "rejected", EdgeError("moderated", "nor this")))
    await page.until(says("#ack", "a comment of yours was not published: nor this"))
    viewer.say(t="ack", status="published")  # the answer to an `auth`
    viewer.say(**wire.ack(None, "six", "published"))
    await page.until(says("#ack", "a comment of yours was published"))


@pytest.mark.parametrize("del_first", [True, False])
async def test_a_comment_that_is_taken_back(page: Page, site: Site, del_first: bool) -> None:
    viewer = await joined(page, site)
    viewer.say(**wire.ack((await sent(page, viewer, "rude"))["ref"], "own", "published"))
    viewer.say(**wire.batch(1, 5, [comment("own", "rude", user="ann"), comment("a")]))
    await page.until("document.querySelector('[data-id=a]')")
    gone = wire.retraction(1, 5, ["own"])
    verdict = wire.ack(None, "own", "rejected", EdgeError("moderated", "not here"))
    for message in (gone, verdict) if del_first else (verdict, gone):
        viewer.say(**message)
    viewer.say(**wire.batch(2, 5, [comment("b")]))
    await page.until("document.querySelector('[data-id=b]')")
    assert await page.text("[data-id=own] .verdict") == "was taken away: not here"
    assert await page.js("document.querySelectorAll('[data-id=own]').length") == 1
    assert not await page.js(shown("[data-id=own] .reply"))


async def test_how_long_to_wait_is_counted_down(page: Page, site: Site) -> None:
    viewer = await joined(page, site)
    await page.js(
        "window.shift = 0; window.ticking = new Set(); const now = performance.now.bind(performance);"
        "performance.now = () => now() + shift; const set = setTimeout, clear = clearTimeout;"
        "window.setTimeout = (call, ms, ...more) => {"
        "  const id = set(call, ms, ...more); if (ms === 1000) ticking.add(id); return id; };"
        "window.clearTimeout = (id) => { ticking.delete(id); clear(id); }"
    )
    op = await sent(page, viewer, "again")
    slow = EdgeError("slow_mode", "the room is in slow mode: 600 s between two", retry_after=500)
    viewer.say(**wire.ack(op["ref"], None, "rejected", slow))
    words = "rejected: the room is in slow mode: 600 s between two"
    told = "document.querySelector('#ack')"
    await page.until(f"{told}.innerText.startsWith({words!r} + ' (try again in 8 min')")
    await page.js("shift = 300_000")
    await page.until(f"{told}.innerText.startsWith({words!r} + ' (try again in 3 min') && {told}.ariaLive === 'off'")
    await page.js("shift = 900_000")
    await page.until(f"{told}.innerText === {words!r} + ' (you can try again now)' && {told}.ariaLive === 'polite'")
    # What is said next ends it.
    viewer.say(**wire.ack((await sent(page, viewer, ""))["ref"], None, "rejected", slow))
    await page.until(f"{told}.innerText.includes('try again in')")
    await page.js("ticking.clear()")
    await page.until("ticking.size === 1")
    viewer.say(**wire.ack((await sent(page, viewer, ""))["ref"], None, "rejected", EdgeError("unknown_user")))
    await page.until(says("#ack", "rejected: somebody who is mentioned is not here"))
    assert await page.js("ticking.size") == 0
