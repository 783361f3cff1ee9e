# What moderation and payments keep with the broker: values under keys, in one place how that fails. It owns nothing. It
# must never answer before the broker has.
import asyncio
import contextlib
import random
import secrets
from collections.abc import Callable
from hashlib import blake2b

import msgspec

from broker.base import Broker, BrokerError, Kept, Unsettled
from edge.errors import EdgeError

TRIES = 16
PAUSE_S = 0.002
SWEEP_EVERY = 64
"""Of so many that are put there, one looks whether old ones have to go."""


def hashed(name: str) -> str:
    """Names have any characters, and keys few."""
    return blake2b(name.encode(), digest_size=16).hexdigest()


class Cabinet:
    def __init__(self, broker: Broker) -> None:
        self.broker = broker

    async def keep(self, key: str, value: bytes | None, revision: int | None = None) -> int:
        """The new revision; 0 where the one that was expected is not there any more."""
        try:
            return await self.broker.keep(key, value, revision)
        except Unsettled:
            raise EdgeError("unavailable", "it is not known whether this was stored", retry_after=1) from None
        except BrokerError:
            raise EdgeError("unavailable", retry_after=1) from None
        except ValueError as bad:
            raise EdgeError("too_large", str(bad)) from None

    async def all(self, prefix: str) -> list[Kept]:
        try:
            return await self.broker.kept(prefix)
        except BrokerError:
            raise EdgeError("unavailable", retry_after=1) from None

    async def find(self, key: str) -> Kept | None:
        try:
            return await self.broker.find(key)
        except BrokerError:
            raise EdgeError("unavailable", retry_after=1) from None
        except ValueError:  # nothing can be under it
            return None

    async def change(self, key: str, change: Callable[[bytes | None], bytes | None]) -> None:
        """Replaces what is under the key by what `change` makes of it, whoever else does so meanwhile; nothing is done
        where that is the same."""
        for tried in range(TRIES):
            if tried:  # two in step would go on so: one always first, the other never
                await asyncio.sleep(random.uniform(0.0, PAUSE_S * tried))
            kept = await self.find(key)
            before = None if kept is None else kept.value
            after = change(before)
            if after == before or await self.keep(key, after, 0 if kept is None else kept.revision):
                return
        raise EdgeError("unavailable", "many are changing this just now", retry_after=1)

    async def add(self, prefix: str, name: str, line: object, most: int) -> None:
        """One more line of a list, or another in the place of the one with this name; past `most` the oldest go."""
        await self.keep(f"{prefix}{name}", msgspec.json.encode(line))
        if secrets.randbelow(SWEEP_EVERY) == 0:
            kept = await self.lines(prefix)
            for old in kept[: max(0, len(kept) - most)]:
                await self.keep(old.key, None)

    async def sweep(self, prefix: str, is_over: Callable[[bytes], bool]) -> None:
        """To be called with each that is put there: now and then those that are over go, if they can."""
        if secrets.randbelow(SWEEP_EVERY) == 0:
            with contextlib.suppress(EdgeError):
                for old in await self.all(prefix):
                    if is_over(old.value):
                        await self.keep(old.key, None, old.revision)

    async def lines(self, prefix: str) -> list[Kept]:
        """Those of a list, the oldest first."""
        return sorted(await self.all(prefix), key=lambda it: it.revision)
