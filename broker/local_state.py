# What is kept, over the way to the broker of this box: Keeping, a worker's end. It owns what this worker watches. It
# must never say more of a keep than the broker has, nor take a watcher back to what was before.

import asyncio
import logging
import random
from collections.abc import Callable

from broker import envelope
from broker.base import (
    BrokerError,
    Closed,
    Full,
    Kept,
    Unavailable,
    Unsettled,
    Watcher,
    check_keep,
    check_key,
    check_prefix,
)
from broker.local_way import Way, result
from broker.watched import Watched, whole

log = logging.getLogger("broker")

AGAIN_S = 1.0


class Keeping:
    def __init__(self, way: Way, new_call: Callable[[], int]) -> None:
        self._way = way
        self._new_call = new_call
        self._watched: dict[str, Watched] = {}
        self._loading: set[Watched] = set()  # those that are being read
        self._tasks: set[asyncio.Task[None]] = set()

    async def keep(self, key: str, value: bytes | None, revision: int | None) -> int:
        """Asked once more where there was no answer: the broker knows it by its call."""
        check_keep(key, value, revision)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._way.wait_s
        request = (envelope.KEEP, key, value, revision, self._new_call())
        answer = await self._way.write(*request)
        if answer is not None:
            return int(result(answer)[0])
        unsettled = Unsettled("the broker of this box has not said how it ended")
        if loop.time() >= deadline:
            raise unsettled
        try:
            return int((await self._way.read(list, *request))[0])
        except (Unavailable, Full, Closed):
            raise unsettled from None

    async def find(self, key: str) -> Kept | None:
        check_key(key)
        found = await self._way.read(list, envelope.FIND, key)
        return Kept(*found) if found else None

    async def kept(self, prefix: str) -> list[Kept]:
        check_prefix(prefix)
        return await whole(lambda after: self._page(prefix, after))

    async def watch(self, prefix: str, watcher: Watcher) -> list[Kept]:
        check_prefix(prefix)
        self._way.open()
        if prefix in self._watched:
            raise ValueError(f"{prefix} is watched already")
        own = self._watched[prefix] = Watched(prefix, watcher)
        self._loading.add(own)
        try:
            found = own.first(await self._read(own))
        except BaseException:
            self._leave(own)
            raise
        finally:
            self._loading.discard(own)
        asyncio.get_running_loop().call_soon(own.release)
        return found

    def unwatch(self, prefix: str) -> None:
        own = self._watched.get(prefix)
        if own is not None:
            self._leave(own)
            self._way.tell(envelope.UNWATCH, prefix)

    def close(self) -> None:
        for own in list(self._watched.values()):
            self._leave(own)

    def way_up(self) -> None:
        """What was missed is read, unless that is being done."""
        for own in self._watched.values():
            if own not in self._loading:
                self._loading.add(own)
                task = asyncio.get_running_loop().create_task(self._read_again(own))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def pushed(self, prefix: str, key: str, value: bytes | None, revision: int) -> None:
        own = self._watched.get(prefix)
        if own is not None:
            own.changed(key, value, revision)

    def _leave(self, own: Watched) -> None:
        own.end()
        if self._watched.get(own.prefix) is own:
            del self._watched[own.prefix]

    async def _read(self, own: Watched) -> list[Kept]:
        """All of it on one connection, that tells of the changes meanwhile."""
        while True:
            own.begin()
            connection = await self._way.read(lambda _: self._way.connects, envelope.WATCH, own.prefix)
            found = await self.kept(own.prefix)
            if self._way.connects == connection:
                return found

    async def _read_again(self, own: Watched) -> None:
        try:
            while not own.ended:
                try:
                    own.again(await self._read(own))
                    return
                except Closed:
                    return
                except BrokerError as failed:
                    log.debug("%s is not read again: %s", own.prefix, failed)
                await asyncio.sleep(random.uniform(0.5, 1) * AGAIN_S)
        finally:
            self._loading.discard(own)

    async def _page(self, prefix: str, after: str) -> tuple[list[Kept], bool]:
        more, *found = await self._way.read(list, envelope.KEPT, prefix, after)
        return [Kept(key, value, revision) for key, value, revision in found], more
