# The browser, a site that follows a script, and a tab with nothing in it yet.

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from edge import api
from tests.web.chromium import Page, browser, find, tab
from tests.web.script import Script, Site


@pytest.fixture(scope="module")
def debugger() -> Iterator[str]:
    if find() is None:
        pytest.skip("no Chromium on this machine (apt install chromium)")
    with browser() as address:
        yield address


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    script = Script()
    runner = api.runner(api.build(script))
    await runner.setup()
    assert runner.server is not None
    loop = asyncio.get_running_loop()
    server = await loop.create_server(runner.server, "127.0.0.1", 0)
    yield Site(script, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    server.close()
    await script.stop()
    await runner.cleanup()


@pytest_asyncio.fixture
async def page(debugger: str, site: Site) -> AsyncIterator[Page]:
    """Closed before the site is, or the page would complain of a server that has gone."""
    async with tab(debugger) as made:
        yield made
        assert made.troubles == []
