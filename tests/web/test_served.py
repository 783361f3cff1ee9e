# The room page in a real Chromium, against the server itself.

from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from tests.server import Server
from tests.web.chromium import Page, tab


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


async def test_two_readers_of_the_real_server(debugger: str, server: Server) -> None:
    live = "document.querySelector('#connection').innerText === 'live'"
    async with tab(debugger) as ann, tab(debugger) as bob, aiohttp.ClientSession(server.url) as http:
        await ann.go(f"{server.url}/?room=two&user=ann")
        await bob.go(f"{server.url}/?room=two&user=bob")
        for page in (ann, bob):
            await page.until(live)
        await ann.type("#text", "hello from ann ❤")
        await ann.press_enter()
        await ann.until("document.querySelector('#ack').dataset.status === 'published'")
        for page in (ann, bob):
            await page.until("document.querySelectorAll('#comments li').length === 1")
            assert await page.texts("#comments .text") == ["hello from ann ❤"]
        for page in (ann, bob):
            await page.click("#reactions [data-kind=fire]")
        for page in (ann, bob):
            await page.until("document.querySelector('#reactions [data-kind=fire] .count').innerText === '2'")
        async with http.post("/v1/rooms/two/comments?user=cy", json={"x": "by post"}) as answer:
            assert answer.status == 201
        for page in (ann, bob):
            await page.until("document.querySelectorAll('#comments li').length === 2")
        await bob.click("#publish summary")
        await bob.js("document.querySelector('#away').value = 3")
        await bob.click("#publish button")
        for page in (ann, bob):
            await page.until("document.querySelector('.figures')?.innerText === '0 : 3'")
        # A third one, who comes later, is shown what there is.
        async with tab(debugger) as late:
            await late.go(f"{server.url}/?room=two&user=dee")
            await late.until("document.querySelector('.figures')?.innerText === '0 : 3'")
            await late.until("document.querySelectorAll('#comments li').length === 2")
            await late.until("document.querySelector('#reactions [data-kind=fire] .count').innerText === '2'")
            assert late.troubles == []
        assert ann.troubles == bob.troubles == []


async def test_an_event_source_on_the_connection_of_the_page(debugger: str, server: Server) -> None:
    """A browser opens its EventSource on a connection that the HTTP application owns by then."""
    async with tab(debugger) as page, aiohttp.ClientSession(server.url) as http:
        await page.go(f"{server.url}/?room=sse&user=ann")
        await page.js(
            "window.got = []; const source = new EventSource('/v1/rooms/sse/sse?user=ann');"
            "for (const t of ['hello', 'score']) source.addEventListener(t, e => got.push([t, JSON.parse(e.data)]))"
        )
        await page.until("got.some(([t]) => t === 'hello')")
        async with http.post("/v1/rooms/sse/score?user=ann", json={"home": 1, "away": 2}) as answer:
            assert answer.status == 201
        await page.until("got.some(([t, d]) => t === 'score' && d.e.away === 2)")
        assert page.troubles == []


async def test_what_a_room_can_say(debugger: str, server: Server) -> None:
    room = "/v1/rooms/says"
    async with tab(debugger) as ann, tab(debugger) as bob, aiohttp.ClientSession(server.url) as http:

        async def ask(method: str, path: str, body: Any = None) -> Any:
            key = {"Idempotency-Key": "order-1"}
            async with http.request(method, f"{room}{path}?user=mo", json=body, headers=key) as answer:
                assert answer.status < 300, await answer.text()
                return await answer.json()

        async def say(page: Page, text: str, status: str) -> None:
            await page.type("#text", text)
            await page.press("Enter")
            await page.until(f"document.querySelector('#ack').dataset.status === '{status}'")

        def has(selector: str, text: str) -> str:
            return f"[...document.querySelectorAll('{selector}')].some(e => e.innerText === '{text}')"

        for page, name in ((ann, "ann"), (bob, "bob")):
            await page.go(f"{server.url}/?room=says&user={name}")
            await page.until("document.querySelector('#connection').innerText === 'live'")
        # Looked at first: one is approved, one is not.
        await ask("PUT", "/mode", {"moderation": "pre"})
        await ann.until(has("#mode", "Comments are looked at first."))
        for number, text in ((1, "what a goal"), (2, "what a shame")):
            await say(ann, text, "pending")
            await ann.until(f"document.querySelectorAll('#comments .verdict').length === {number}")
        ids = await ann.js("[...document.querySelectorAll('#comments li')].map(e => e.dataset.id)")
        for id_, approve in zip(ids, (True, False), strict=True):
            await ask("POST", f"/review/{id_}", {"approve": approve})
        refused = "was not published: the rules of this room do not allow this text"
        await ann.until(f"document.querySelectorAll('.verdict').length === 1 && {has('.verdict', refused)}")
        await bob.until(has("#comments .text", "what a goal"))
        # Pinned, answered, mentioned, paid for.
        await ask("PUT", "/mode", {})
        await ask("PUT", "/pin", {"id": ids[0]})
        for page in (ann, bob):
            await page.until(has("#pin .text", "what a goal"))
        await bob.js(f"document.querySelector('[data-id=\"{ids[0]}\"] .reply').click()")
        await say(bob, "hi @ann", "published")
        await ann.until(f"{has('.to-me .text', 'hi @ann')} && {has('.to-me .re', 'answers ann: what a goal')}")
        await ask("POST", "/comments", {"x": "for all", "paid": {"tier": 2, "pin_seconds": 3600}})
        for page in (ann, bob):
            await page.until(has("#paid .text", "for all"))
        async with tab(debugger) as late:
            await late.go(f"{server.url}/?room=says&user=dee")
            await late.until(f"{has('#pin .text', 'what a goal')} && {has('#paid .text', 'for all')}")
            assert late.troubles == []
        # What is refused is said by the input.
        await say(bob, "hi @nobody-here", "rejected")
        assert await bob.text("#ack") == "rejected: nobody called nobody-here is here"
        await bob.js("document.querySelector('#text').value = ''")
        await ask("PUT", "/mode", {"slow_seconds": 3600})
        await bob.until(has("#mode", "Slow mode: 1 h between comments."))
        await say(bob, "once more", "published")
        await say(bob, "and again", "rejected")
        await bob.until("document.querySelector('#ack').innerText.includes('(try again in ')")
        await ask("DELETE", f"/comments/{ids[0]}")
        for page in (ann, bob):
            await page.until(f"document.querySelector('#pin').hidden && {has('.re', 'answers a comment')}")
        await ask("PUT", "/mode", {"closed": True})
        for page in (ann, bob):
            await page.until("document.querySelector('#text').disabled")
        assert ann.troubles == bob.troubles == []
