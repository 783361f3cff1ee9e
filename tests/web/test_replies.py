# The room page in a real Chromium, against streams that follow a script: whom a comment answers and mentions.

from base64 import urlsafe_b64encode

import msgspec

from edge import wire
from edge.errors import EdgeError
from tests.web.chromium import Page
from tests.web.script import MARKUP, Site, comment, joined, says, sent, shown

IDS = "[...document.querySelectorAll('#comments li')].map(e => e.dataset.id)"


async def test_replies_say_what_they_answer(page: Page, site: Site) -> None:
    viewer = await joined(page, site)
    long = "one two three " * 20
    viewer.say(**wire.batch(1, 5, [comment("a", MARKUP), comment("b", long, user="cy"), comment("c", re="a")]))
    viewer.say(**wire.batch(2, 6, [comment("d", re="b"), comment("e", re="elsewhere"), comment("f")]))
    await page.until("document.querySelector('[data-id=f]')")
    words = await page.texts("#comments .re")
    assert words[0] == f"answers Bob: {MARKUP}"
    assert words[1].startswith("answers Cy: one two three one two")
    assert words[1].endswith("…")
    assert len(words[1]) < 80
    assert words[2] == "answers a comment"
    assert await page.js("!document.querySelector('[data-id=f] .re')")
    viewer.say(**wire.retraction(1, 7, ["a"]))
    await page.until("!document.querySelector('[data-id=a]')")
    assert (await page.texts("#comments .re"))[0] == "answers a comment", "what is deleted is not quoted any more"
    assert await page.js("document.title") == "demo: live"


async def test_replying_by_mouse(page: Page, site: Site) -> None:
    viewer = await joined(page, site)
    viewer.say(**wire.batch(1, 5, [comment("a", "what a goal"), comment("b")]))
    await page.until("document.querySelector('[data-id=b]')")
    opacity = "getComputedStyle(document.querySelector('[data-id=a] .reply')).opacity === '{}'"
    await page.until(opacity.format(0))
    await page.hover("[data-id=a] .author")
    await page.until(opacity.format(1))
    await page.click("[data-id=a] .reply")
    await page.until(says("#replying-to", "Replying to Bob: what a goal"))
    assert await page.js("document.activeElement.id") == "text"
    op = await sent(page, viewer, "was it?")
    assert (op["x"], op["re"]) == ("was it?", "a")
    assert isinstance(wire.decode_op(msgspec.json.encode(op)), wire.Comment)
    assert await page.js("document.querySelector('#replying').hidden")
    viewer.say(**wire.ack(op["ref"], "own", "published"))
    await page.until(says("[data-id=own] .re", "answers Bob: what a goal"))
    assert "re" not in await sent(page, viewer, "and to all")
    # It is refused: the words are there again, and what they reply to.
    await page.click("[data-id=b] .reply")
    op = await sent(page, viewer, "once more")
    viewer.say(**wire.ack(op["ref"], None, "rejected", EdgeError("moderated")))
    await page.until(says("#replying-to", "Replying to Bob: text of b"))
    assert await page.js("document.querySelector('#text').value") == "once more"
    await page.click("#replying-stop")
    await page.until("document.querySelector('#replying').hidden")
    await page.click("[data-id=b] .reply")
    viewer.say(**wire.retraction(1, 7, ["b"]))
    await page.until("document.querySelector('#replying').hidden")
    assert await page.text("#ack") == "the comment that you were replying to is gone"
    assert "re" not in await sent(page, viewer, "!")


async def test_replying_by_keyboard(page: Page, site: Site) -> None:
    viewer = await joined(page, site)
    viewer.say(**wire.batch(1, 5, [comment(id_, user=f"user-{id_}") for id_ in "abcd"]))
    await page.until("document.querySelector('[data-id=d]')")
    focused = "document.activeElement.closest('[data-id]')?.dataset.id + ' ' + document.activeElement.className"
    await page.js("document.querySelector('#comments').focus()")
    await page.press("Tab")
    assert await page.js(focused) == "d reply"
    for key, id_ in (("ArrowUp", "c"), ("ArrowUp", "b"), ("ArrowDown", "c"), ("Home", "a"), ("ArrowUp", "a")):
        await page.press(key)
        assert await page.js(focused) == f"{id_} reply"
    # Comments come and go meanwhile.
    viewer.say(**wire.batch(2, 6, [comment("e")]))
    viewer.say(**wire.retraction(1, 7, ["b"]))
    await page.until("document.querySelector('[data-id=e]') && !document.querySelector('[data-id=b]')")
    await page.press("ArrowDown")
    assert await page.js(focused) == "c reply"
    assert await page.js("getComputedStyle(document.activeElement).opacity") == "1"
    viewer.say(**wire.retraction(2, 7, ["c"]))
    await page.until("document.activeElement.id === 'comments'")
    await page.press("Tab")
    assert await page.js(focused) == "e reply"
    assert await page.js("document.querySelectorAll('#comments button[tabindex=\"0\"]').length") == 1
    await page.press("Home")
    await page.press("Enter")
    await page.until(says("#replying-to", "Replying to User-A: text of a"))
    assert await page.js("document.activeElement.id") == "text"
    await page.press("Escape")
    await page.until("document.querySelector('#replying').hidden")
    assert await page.js("document.activeElement.id") == "text"


async def test_who_has_no_name_can_not_reply(page: Page, site: Site) -> None:
    viewer = await joined(page, site, "room=demo")
    viewer.say(**wire.batch(1, 5, [comment("a")]))
    await page.until("document.querySelector('[data-id=a]')")
    assert not await page.js(shown("[data-id=a] .reply"))


async def test_mentions(page: Page, site: Site) -> None:
    viewer = await joined(page, site)
    spoken = [
        comment("a", "@ANN, look: <b>@bob</b>", at=["ann", "bob"]),
        comment("b", "hi @Cy_Name. not mail@bob", at=["cy"]),  # one name, one user
        comment("c", "@dee and @nobody", at=["dee"]),  # those who are not known were left
        comment("d", "@ann or not") | {"u": {"id": "u-7", "name": "Robert"}},
        comment("e", "@robert @nobody", at=["u-7"]),  # by the name that he has spoken under
    ]
    viewer.say(**wire.batch(1, 5, spoken))
    await page.until("document.querySelector('[data-id=e]')")
    assert await page.texts("#comments .text") == [it["x"] for it in spoken]
    found = [await page.texts(f"[data-id={id_}] .at") for id_ in "abcde"]
    assert found == [["@ANN", "@bob"], ["@Cy_Name"], ["@dee"], [], ["@robert"]]
    assert await page.js("[...document.querySelectorAll('.to-me')].map(e => e.dataset.id)") == ["a"]
    assert "mentions you" in await page.text("[data-id=a]")
    # One's own comment, before and after it has come in a batch.
    op = await sent(page, viewer, "hi @Bob")
    viewer.say(**wire.ack(op["ref"], "own", "published"))
    await page.until("document.querySelector('[data-id=own]')")
    viewer.say(**wire.batch(2, 6, [comment("f"), comment("own", "hi @Bob", user="ann", at=["bob"]), comment("g")]))
    await page.until("document.querySelector('[data-id=own] .at')")
    assert (await page.js(IDS))[-3:] == ["f", "own", "g"], "where the room has it"


async def test_the_user_of_a_token(page: Page, site: Site) -> None:
    claims = urlsafe_b64encode(msgspec.json.encode({"sub": "zoë", "name": "Zoë Z"})).decode().rstrip("=")
    viewer = await joined(page, site, f"room=demo&token=e30.{claims}.c2ln")
    viewer.say(**wire.batch(1, 5, [comment("a", "hi @zoë", at=["zoë"]), comment("b", user="zoë")]))
    await page.until("document.querySelector('[data-id=a].to-me') && document.querySelector('[data-id=b].own')")
    op = await sent(page, viewer, "hello")
    viewer.say(**wire.ack(op["ref"], "own", "published"))
    await page.until(says("[data-id=own].own .author", "Zoë Z"))
