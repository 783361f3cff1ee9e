# Keys from a URL that lists them (JWKS): fetched now and then, and when a token names one that is not here. It owns the
# fetch and the keys' age. It must never make anybody wait whose key is here, be driven to fetch by whoever sends
# tokens, or follow the URL elsewhere.
import asyncio
import logging
import random
from collections.abc import Callable

import aiohttp

from edge.auth.keys import Key, jwks_keys
from edge.auth.tokens import Missing

log = logging.getLogger("edge.auth")

FETCH_S = 5.0
AGAIN_S = 10.0  # between two fetches for keys that were not listed
PAUSE_S = 1.0  # after the first fetch in vain; then twice that, and so on
PAUSE_MOST_S = 60.0
BODY_BYTES = 256 * 1024
NAMES = 1_000  # of keys that were asked for since the last fetch; past it one more is nobody's


class Jwks:
    """`took` gets the keys whenever they are others, also none when they are too old; `settled` is called after each
    fetch, however it went. Its task is `run`, which ends after `end` or when it is cancelled."""

    def __init__(
        self,
        url: str,
        every_s: float,
        keep_s: float,
        took: Callable[[list[Key]], None],
        settled: Callable[[], None],
    ) -> None:
        self._url = url
        self._every_s = every_s
        self._keep_s = keep_s
        self._took = took
        self._settled = settled
        self._wanted = asyncio.Event()
        self._body = b""  # what was taken last
        self._fetched = -1.0  # when; of no meaning without a body
        self._tried = -AGAIN_S
        self._fetching = True  # from the start: the first is about to begin
        self._failed = 0  # fetches in vain since the last good one
        self._asked: set[int] = set()  # keys that were not here since the last good fetch: hashes of their names
        self._sought: set[int] = set()  # and before it, or were listed then: these are not listed now
        self._listed: set[int] = set()
        self._ended = False

    def missing(self, kid: str | None) -> Missing:
        """A token wants a key that is not here. Its name is nobody's where a fetch has come back without it; one that
        is heard for the first time may have been listed since."""
        name, full = hash(kid), len(self._asked) >= NAMES
        sought = kid is None or name in self._sought or (full and name not in self._asked)
        if kid is not None and not full:
            self._asked.add(name)
        if self._fetching:
            return "coming"
        if self._failed:  # the next try is set, and nobody can hurry it
            return "away"
        wait_s = self._tried + AGAIN_S - asyncio.get_running_loop().time()
        if wait_s > 0:
            return "unknown" if sought else wait_s
        self._fetching = True
        self._wanted.set()
        return "coming"

    def end(self) -> None:
        self._ended = True
        self._wanted.set()

    async def run(self) -> None:
        while not self._ended:
            self._wanted.clear()
            await self._fetch()
            try:
                async with asyncio.timeout(self._pause_s()):
                    await self._wanted.wait()
            except TimeoutError:
                self._fetching = True

    def _pause_s(self) -> float:
        # Not all workers at the same moment.
        pause = self._every_s * random.uniform(0.9, 1.0)
        if self._failed:
            pause = min(pause, PAUSE_S * 2 ** min(self._failed - 1, 10), PAUSE_MOST_S)
        if self._body:
            age = asyncio.get_running_loop().time() - self._fetched
            pause = min(pause, max(self._keep_s - age, PAUSE_S))
        return pause

    async def _fetch(self) -> None:
        loop = asyncio.get_running_loop()
        self._fetching = True
        try:
            async with asyncio.timeout(FETCH_S):
                body = await self._get()
            self._take(body)
            if self._failed:
                log.info("the keys of tokens are fetched again")
            self._failed = 0
            self._fetched = loop.time()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self._failed += 1
            log.log(
                logging.WARNING if self._failed == 1 else logging.DEBUG,
                "the keys of tokens could not be fetched: %s",
                error or type(error).__name__,
            )
            self._forget(loop.time())
        finally:
            self._tried = loop.time()
            self._fetching = False
        self._settled()

    def _take(self, body: bytes) -> None:
        before = self._listed
        if body != self._body:
            keys = jwks_keys(body)
            self._took(keys)
            self._body = body
            self._listed = {hash(key.kid) for key in keys}
        self._sought, self._asked = self._asked | before, set()

    def _forget(self, now: float) -> None:
        if self._body and now - self._fetched >= self._keep_s:
            log.error("the keys of tokens are too old to be believed: no token that needs them is taken")
            self._body = b""
            self._took([])

    async def _get(self) -> bytes:
        # Not inflated, since it is not asked to be small; redirects are not followed: they might lead to plain HTTP.
        asked = {"Accept": "application/json", "Accept-Encoding": "identity"}
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.get(self._url, headers=asked, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                raise ValueError(f"the answer was {answer.status}")
            body = bytearray()
            async for part in answer.content.iter_chunked(65536):
                body += part
                if len(body) > BODY_BYTES:
                    raise ValueError(f"it has more than {BODY_BYTES} bytes")
            return bytes(body)
