# The room page in a real Chromium, against streams that follow a script: the stream, the lists, the way in.

import json

import pytest

from edge import wire
from edge.errors import EdgeError
from tests.web.chromium import Page
from tests.web.script import HELLO, Site, comment, faint, joined, says, until

IDS = "[...document.querySelectorAll('#comments li:not(.gap)')].map(e => e.dataset.id)"


async def test_a_room_live(page: Page, site: Site) -> None:
    viewer = await joined(page, site)
    assert viewer.path == "/v1/rooms/demo/ws?user=ann"
    assert await page.text("#room") == "demo"
    assert await page.text("#viewer-count") == "1,234"
    viewer.say(**wire.batch(1, 5, [comment("a", "hello"), comment("b", "<b>bold</b><script>x()</script>")], viewers=7))
    await page.until("document.querySelectorAll('#comments li').length === 2")
    assert await page.texts("#comments .text") == ["hello", "<b>bold</b><script>x()</script>"]
    assert await page.texts("#comments .author") == ["Bob", "Bob"]
    assert await page.text("#viewer-count") == "7"
    viewer.say(**wire.score(1, 6, {"home": 1, "away": 0, "text": "Goal!", "minute": 12}))
    await page.until("document.querySelector('.figures')?.innerText === '1 : 0'")
    assert await page.text("#score .event") == "Goal! · minute 12"
    viewer.say(**wire.score(2, 7, {"home": 1, "away": 1}))
    await page.until("document.querySelector('.figures').innerText === '1 : 1'")
    assert await page.texts("#earlier li") == ["1 : 0 Goal! · minute 12"]
    viewer.say(**wire.batch(2, 8, [comment("c")], of=25000))
    await page.until("document.querySelector('#sample').innerText === 'Showing 1 of 25,000 comments'")


async def test_retractions_also_of_what_comes_late(page: Page, site: Site) -> None:
    viewer = await joined(page, site)
    viewer.say(**wire.batch(1, 5, [comment("a"), comment("b"), comment("c")]))
    viewer.say(**wire.retraction(1, 6, ["b", "late"]))
    viewer.say(**wire.batch(2, 7, [comment("late"), comment("d")]))
    await page.until("document.querySelector('[data-id=d]')")
    assert await page.js(IDS) == ["a", "c", "d"]
    for seq in range(2, 13):  # the last 1,000 ids are kept, and no more
        viewer.say(**wire.retraction(seq, 8, [f"x{seq}.{i}" for i in range(100)]))
    viewer.say(**wire.batch(3, 9, [comment("late"), comment("x12.0"), comment("e")]))
    await page.until("document.querySelector('[data-id=e]')")
    assert await page.js(IDS) == ["a", "c", "d", "late", "e"]


async def test_bounded_and_scrolled(page: Page, site: Site) -> None:
    viewer = await joined(page, site)
    for seq in range(1, 5):
        viewer.say(**wire.batch(seq, 5, [comment(f"{seq}.{i}") for i in range(100)]))
    await page.until("document.querySelector('#comments').lastElementChild?.dataset.id === '4.99'")
    at_end = "(l => l.scrollHeight - l.scrollTop - l.clientHeight < 2)(document.querySelector('#comments'))"
    assert await page.js("document.querySelectorAll('#comments li').length") == 200
    assert await page.js(at_end)
    await page.js("document.querySelector('#comments').scrollTop = 100")
    await page.js("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    viewer.say(**wire.batch(5, 6, [comment("new")]))
    await page.until("!document.querySelector('#newest').hidden")
    assert not await page.js(at_end)
    await page.click("#newest")
    await page.until(f"{at_end} && document.querySelector('#newest').hidden")


async def test_acks(page: Page, site: Site) -> None:
    viewer = await joined(page, site)

    async def send(text: str, number: int) -> str:
        await page.type("#text", text)
        await page.press_enter()
        await until(lambda: len(viewer.take("comment")) == number)
        sent = viewer.take("comment")[-1]
        assert sent["x"] == text
        assert isinstance(wire.decode_op(json.dumps(sent).encode()), wire.Comment)
        return str(sent["ref"])

    ref = await send("hello", 1)
    assert await page.text("#ack") == "sending …"
    viewer.say(**wire.ack(ref, "own1", "published"))
    await page.until("document.querySelector('#ack').dataset.status === 'published'")
    assert await page.texts("#comments .own .text") == ["hello"]
    viewer.say(**wire.batch(1, 5, [comment("own1", "hello", user="ann"), comment("a")]))
    await page.until("document.querySelector('[data-id=a]')")
    assert await page.texts("#comments .text") == ["hello", "text of a"], "one's own comment is shown once"

    viewer.say(**wire.ack(await send("wait", 2), "own2", "pending"))
    await page.until("document.querySelector('#ack').innerText.startsWith('pending')")
    viewer.say(**wire.ack(await send("bad", 3), None, "rejected", EdgeError("too_many", "slowly now", retry_after=70)))
    await page.until("document.querySelector('#ack').innerText.startsWith('rejected: slowly now (try again in 1 min')")
    assert await page.js("document.querySelector('#text').value") == "bad", "the words are not lost"
    await page.js("document.querySelector('#text').value = ''")
    ref = await send("sure?", 4)
    viewer.say(t="ack", ref=ref, status="unknown", retry_after=0.01)
    await until(lambda: len(viewer.take("comment")) == 5)
    assert viewer.take("comment")[-1] == {"op": "comment", "ref": ref, "x": "sure?"}
    assert len({c["ref"] for c in viewer.take("comment")}) == 4


async def test_what_nobody_else_is_shown_is_shown_once(page: Page, site: Site) -> None:
    """One's own, which was sent here or from another device."""
    viewer = await joined(page, site)
    for _ in range(2):
        viewer.say(**wire.own(comment("mine")))
    viewer.say(**wire.own(comment("other")))
    await page.until(says("[data-id=other] .text", "text of other"))
    assert await page.texts("#comments .text") == ["text of mine", "text of other"]
    viewer.say(**wire.retraction(1, 6, ["mine"]))
    await page.until("!document.querySelector('[data-id=mine]')")


async def test_reconnects_where_it_was(page: Page, site: Site) -> None:
    viewer = await joined(page, site)
    viewer.say(**wire.batch(1, 5, [comment("a")]))
    viewer.say(**wire.score(1, 5, {"home": 1, "away": 0}))
    viewer.say(t="gap", **{"from": "c2", "to": "c40"})
    viewer.say(**wire.batch(41, 5, [comment("b")]))
    await page.until("document.querySelector('[data-id=b]')")
    assert "39 updates were skipped here" in await page.texts("#comments .gap")
    await page.type("#text", "in between")
    await page.press_enter()
    await until(lambda: viewer.take("comment"))
    viewer.cut()
    second = await site.script.viewer(1)
    assert second.path == "/v1/rooms/demo/ws?user=ann&since=i3.m1.c41"
    # Not resumed: a replay begins before what has been seen. Nothing is shown twice.
    second.say(**HELLO | {"since": "i3.m0.c39"})
    second.say(**wire.score(1, 5, {"home": 1, "away": 0}))
    second.say(**wire.batch(40, 5, [comment("a")]))
    second.say(**wire.batch(41, 5, [comment("b")]))
    second.say(**wire.batch(42, 5, [comment("c")]))
    await page.until("document.querySelector('[data-id=c]')")
    assert await page.js(IDS) == ["a", "b", "c"]
    assert await page.texts("#earlier li") == []
    await until(lambda: second.take("comment"))
    assert second.take("comment")[0] == viewer.take("comment")[0], "an unanswered comment is sent again, with its ref"
    # Another numbering: its first batch is not a repeat.
    second.close(1012)
    third = await site.script.viewer(2)
    assert third.path.endswith("&since=i3.m1.c42")
    third.say(**HELLO | {"since": "i9.m0.c0"})
    third.say(**wire.batch(1, 5, [comment("d")]))
    await page.until("document.querySelector('[data-id=d]')")
    third.say(t="reconnect", in_ms=10, ticket="T1")
    fourth = await site.script.viewer(3)
    assert "ticket=T1" in fourth.path
    assert "since=i9.m0.c1" in fourth.path
    fourth.say(**HELLO | {"since": "i9.m0.c1"})
    fourth.close(1008)
    await page.until("document.querySelector('#connection').dataset.state === 'refused'")


async def test_backoff_is_full_jitter(page: Page, site: Site) -> None:
    await joined(page, site)
    found = await page.js(
        "import('/static/stream.js').then(({backoff}) => "
        "[backoff(0, () => 1), backoff(1, () => 1), backoff(99, () => 1), backoff(5, () => 0), "
        "Array.from({length: 50}, () => backoff(3)).every(ms => ms >= 0 && ms < 4000)])"
    )
    assert found == [500, 1000, 30000, 0, True]


async def test_a_hidden_tab_says_so(page: Page, site: Site) -> None:
    viewer = await joined(page, site)
    for hidden in ("true", "false"):
        await page.js(
            f"Object.defineProperty(document, 'hidden', {{configurable: true, get: () => {hidden}}});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
    await until(lambda: len(viewer.take("visible")) == 2)
    assert viewer.take("visible") == [{"op": "visible", "on": False}, {"op": "visible", "on": True}]


async def test_publishing_a_score(page: Page, site: Site) -> None:
    await joined(page, site)
    await page.click("#publish summary")
    await page.js("document.querySelector('#home').value = 2")
    await page.type("#what", "Goal")
    await page.press_enter()
    await page.until("document.querySelector('#published').innerText === 'published as m1'")
    assert site.script.scores == [{"home": 2, "away": 0, "text": "Goal"}]


async def test_a_reader_without_a_name(page: Page, site: Site) -> None:
    viewer = await joined(page, site, "room=other")
    assert viewer.path == "/v1/rooms/other/ws"
    assert (
        await page.js("[document.querySelector('#say').hidden, document.querySelector('#publish').hidden]")
        == [True] * 2
    )
    await page.type("#name", "Zoë")
    await page.press_enter()
    second = await site.script.viewer(1)
    assert second.path == "/v1/rooms/other/ws?user=Zo%C3%AB"


async def test_state_is_shown(page: Page, site: Site) -> None:
    viewer = await joined(page, site)
    viewer.say(**wire.state(1, 5, {"state": "closed"}))
    await page.until("document.querySelector('#notice').innerText === 'This room is closed.'")
    viewer.say(**wire.state(2, 5, {"state": "live"}))
    await page.until("document.querySelector('#notice').hidden")
    viewer.say(**wire.state(3, 5, {"mode": {"slow_seconds": 30, "moderation": "post"}}))
    slow = "document.querySelector('#mode').innerText === 'Slow mode: 30 s between comments.'"
    await page.until(slow)
    viewer.say(t="state", trouble="broker")
    await page.until("document.querySelector('#notice').innerText.startsWith('Nothing new is coming in')")
    viewer.say(t="state", auth="ends", in_ms=1000)
    viewer.say(t="state", trouble=None)
    await page.until(slow)
    viewer.say(**wire.state(4, 5, {"mode": {}}))
    await page.until("document.querySelector('#notice').hidden")
    viewer.say(t="error", error="bad_op", message="there is no such operation")
    await page.until("document.querySelector('#ack').innerText === 'there is no such operation'")
    viewer.say(t="from a later version", id="m3")
    viewer.say(**wire.batch(1, 5, [comment("a")]))
    await page.until("document.querySelector('[data-id=a]')")


async def test_reactions_are_sent_and_their_totals_shown(page: Page, site: Site) -> None:
    site.script.reactions = {"fire": 12, "heart": 0, "gg": 3}
    viewer = await joined(page, site)
    await page.until("document.querySelectorAll('#reactions button').length === 3")
    count = "document.querySelector('#reactions [data-kind={}] .count').innerText"
    assert [await page.js(count.format(kind)) for kind in ("fire", "heart", "gg")] == ["12", "0", "3"]
    await page.click("#reactions [data-kind=heart]")
    await until(lambda: viewer.take("react") == [{"op": "react", "k": "heart"}])
    viewer.say(**wire.batch(1, 5, [], reactions={"heart": 15_250}))
    await page.until(count.format("heart") + " === '15K'")
    assert await page.js("document.querySelector('#reactions [data-kind=heart]').title") == "heart: 15,250"
    viewer.say(**wire.batch(2, 6, [comment("a")], reactions={"fire": 11, "wow": 1}))  # older than the snapshot
    await page.until(count.format("wow") + " === '1'")
    assert await page.js(count.format("fire")) == "12"
    viewer.say(t="error", error="too_many", message="too many reactions from you", retry_after=70)
    await page.until("document.querySelector('#ack').innerText.startsWith('too many reactions from you (try again in')")
    # The numbering is another one, and so are the totals.
    site.script.reactions = {"fire": 1}
    viewer.cut()
    again = await site.script.viewer(1)
    again.say(**HELLO | {"since": "i4.m0.c0"})
    await page.until(count.format("fire") + " === '1'")


async def test_who_has_no_name_sees_the_totals_alone(page: Page, site: Site) -> None:
    await joined(page, site, "room=demo")
    await page.until("document.querySelectorAll('#reactions button:disabled').length === 6")


@pytest.mark.parametrize("dark", [False, True])
async def test_fits_a_phone_and_can_be_read(page: Page, site: Site, dark: bool) -> None:
    await page.call("Emulation.setDeviceMetricsOverride", width=320, height=568, deviceScaleFactor=1, mobile=True)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    still = {"name": "prefers-reduced-motion", "value": "reduce"}
    await page.call("Emulation.setEmulatedMedia", features=[scheme, still])
    viewer = await joined(page, site, "room=" + "r" * 64 + "&user=ann")
    viewer.say(**wire.score(1, 5, {"home": 10, "away": 10, "text": "x" * 100}))
    viewer.say(**wire.batch(1, 5, [comment("a", "w" * 500), comment("b", "short")]))
    await page.until("document.querySelector('[data-id=b]') && document.querySelector('#reactions button')")
    assert await page.js("document.documentElement.scrollWidth") == 320
    button = "document.querySelector('#say button').getBoundingClientRect()"
    left, right, bottom = await page.js(f"(r => [r.left, r.right, r.bottom])({button})")
    assert (left >= 0, right <= 320, bottom <= 568) == (True, True, True), "the button is on the screen"
    assert await page.js("document.querySelector('#comments').clientHeight") >= 80
    parts = "#room|#reactions button|#connection|.figures|.event|.text|.author|time|#say button|summary"
    assert await page.js(faint(*parts.split("|"))) == []


async def test_what_a_screen_reader_finds(page: Page, site: Site) -> None:
    await joined(page, site)
    await page.until("document.querySelector('#reactions button')")
    tree = (await page.call("Accessibility.getFullAXTree"))["nodes"]
    found = {(n["role"]["value"], n.get("name", {}).get("value", "")) for n in tree if not n["ignored"]}
    for wanted in (
        ("heading", "demo"),
        ("log", "Comments"),
        ("textbox", "Your comment"),
        ("button", "Send"),
        ("group", "Reactions"),
        ("button", "fire: 15,000"),
        ("region", "Scores"),
    ):
        assert wanted in found
    unnamed = "[...document.querySelectorAll('input')].filter(i => !i.labels.length).map(i => i.id)"
    assert await page.js(unnamed) == []


async def test_the_policy_holds(page: Page, site: Site) -> None:
    await joined(page, site)
    script = "Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'})"
    await page.js(f"document.body.append({script})")
    assert await page.js("window.ran") is None
    assert any("Content Security Policy" in t for t in page.troubles)
    page.troubles.clear()
