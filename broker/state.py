# What a broker of one box keeps besides logs: keys with values, in SQLite. It owns the database while it is open. It
# must never answer before what was kept is on the disk, nor wait for that in the loop: a commit is an fsync, 0.3 ms
# where the disk is idle (1.3 at the 99th percentile) and many where it is not.
#
# So a thread has the database, and whatever is asked while it commits goes together into its next transaction. Without
# a folder the database is in memory, and goes with the process.

import asyncio
import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from broker.base import Closed, Full, Kept, Unavailable, Unsettled, check_keep, check_key, check_prefix
from broker.state_file import connect, lock

log = logging.getLogger("broker")

CALLS = 16384
"""Of how many changes it is remembered who made them, so that one that is asked for again is known."""
WAITING_BYTES = 32 * 1024 * 1024
"""What may wait for the disk. Past it, a keep is refused as Full."""
TOGETHER = 512
PAGE_BYTES = 384 * 1024
"""Of one reading: with one more value it still goes into an envelope."""
ROW_BYTES = 32

Change = Callable[[str, bytes | None, int], None]
"""Key, value, revision. The value is None where it has been removed."""
Page = tuple[list[Kept], bool]
"""Some of what begins with a prefix, and whether there is more after the last of it."""


class _Wanted(NamedTuple):
    key: str
    value: bytes | None
    revision: int | None
    call: int
    done: asyncio.Future[int]

    def cost(self) -> int:
        return len(self.key) + len(self.value or b"") + ROW_BYTES


class State:
    """Any number of callers share one, in one loop."""

    def __init__(self, folder: str = "") -> None:
        self.folder = folder
        self._db: sqlite3.Connection | None = None
        self._lock_fd = -1
        self._last = 0  # revision
        self._closed = False
        self._thread = ThreadPoolExecutor(1, "state")
        self._waiting: list[_Wanted] = []
        self._waiting_bytes = 0
        self._writing: asyncio.Future[list[tuple[int, bool]]] | None = None
        self._watchers: list[tuple[str, Change]] = []

    @property
    def unopened(self) -> bool:
        """There is a file that has yet to be found fit: so the first call of any kind opens it."""
        return self._db is None and bool(self.folder) and not self._closed

    def open(self) -> None:
        """Once for all; the other calls do it too. Raises Misfit, and does not keep the file then."""
        if self._closed:
            raise Closed("this broker has been closed")
        if self._db is None:
            self._lock_fd = lock(self.folder) if self.folder else -1
            try:
                self._db = connect(self.folder)
            except BaseException:
                self._unlock()
                raise
            self._last = self._db.execute("SELECT max(revision) FROM calls").fetchone()[0]

    def keep(self, key: str, value: bytes | None, revision: int | None, call: int = 0) -> asyncio.Future[int]:
        """A `call` names the change: the same once more gives what it gave before, where it was stored."""
        check_keep(key, value, revision)
        self.open()
        done = asyncio.get_running_loop().create_future()
        wanted = _Wanted(key, None if value is None else bytes(value), revision, call, done)
        if self._waiting_bytes + wanted.cost() > WAITING_BYTES:
            raise Full(f"{WAITING_BYTES} bytes wait for the disk")
        self._waiting_bytes += wanted.cost()
        self._waiting.append(wanted)
        if self._writing is None:
            self._write_next()
        return done

    def find(self, key: str) -> asyncio.Future[Kept | None]:
        check_key(key)
        self.open()
        return asyncio.get_running_loop().run_in_executor(self._thread, self._find, key)

    def read(self, prefix: str, after: str = "") -> asyncio.Future[Page]:
        """A page of what begins with `prefix`, by key, after that of the page before."""
        check_prefix(prefix)
        self.open()
        return asyncio.get_running_loop().run_in_executor(self._thread, self._read, prefix, after)

    def attach(self, prefix: str, change: Change) -> None:
        """`change` is called for each that is committed from now on. What `read` gives may have been told already."""
        check_prefix(prefix)
        self._watchers.append((prefix, change))

    def detach(self, prefix: str, change: Change) -> None:
        self._watchers = [it for it in self._watchers if it != (prefix, change)]

    async def close(self) -> None:
        """When what was asked for before is done. Never fails."""
        while self._writing is not None:
            await asyncio.wait([self._writing])
        if not self._closed:
            self._closed = True
            if self._db is not None:
                await asyncio.get_running_loop().run_in_executor(self._thread, self._shut)
            self._thread.shutdown(wait=False)

    def _write_next(self) -> None:
        together, self._waiting = self._waiting[:TOGETHER], self._waiting[TOGETHER:]
        self._waiting_bytes -= sum(it.cost() for it in together)
        self._writing = asyncio.get_running_loop().run_in_executor(self._thread, self._write, together)
        self._writing.add_done_callback(partial(self._written, together))

    def _written(self, together: list[_Wanted], writing: asyncio.Future[list[tuple[int, bool]]]) -> None:
        self._writing = None
        if self._waiting:
            self._write_next()
        failed = writing.exception()
        if failed is not None:
            for it in together:
                if not it.done.done():
                    it.done.set_exception(type(failed)(*failed.args))
            return
        for it, (revision, changed) in zip(together, writing.result(), strict=True):
            if changed:
                self._tell(it, revision)
            if not it.done.done():
                it.done.set_result(revision)

    def _tell(self, it: _Wanted, revision: int) -> None:
        for prefix, change in tuple(self._watchers):
            if it.key.startswith(prefix):
                try:
                    change(it.key, it.value, revision)
                except Exception:
                    log.exception("who watches %s failed on %s", prefix, it.key)

    # From here on: in the thread.

    def _write(self, together: list[_Wanted]) -> list[tuple[int, bool]]:
        """The revision of each, and whether it has changed anything: one transaction."""
        db, last = self._db, self._last
        assert db is not None
        committing = False
        try:
            db.execute("BEGIN IMMEDIATE")
            found = [self._change(db, it) for it in together]
            db.execute("DELETE FROM calls WHERE revision <= ?", (self._last - CALLS,))
            committing = True
            db.execute("COMMIT")
        except Exception as failed:
            self._last = last
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            if not isinstance(failed, sqlite3.Error):
                raise
            log.error("%s: %s", self.folder or "what is kept", failed)
            if failed.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise Full(f"there is no room for it: {failed}") from None
            raise (Unsettled if committing else Unavailable)(f"it can't be kept: {failed}") from None
        return found

    def _change(self, db: sqlite3.Connection, it: _Wanted) -> tuple[int, bool]:
        if it.call and (made := db.execute("SELECT revision FROM calls WHERE call = ?", (it.call,)).fetchone()):
            return int(made[0]), False
        there = db.execute("SELECT revision FROM kept WHERE key = ?", (it.key,)).fetchone()
        if it.revision is not None and it.revision != (there[0] if there else 0):
            return 0, False
        self._last += 1
        db.execute("INSERT INTO calls VALUES (?, ?)", (self._last, it.call))
        if it.value is None:
            db.execute("DELETE FROM kept WHERE key = ?", (it.key,))
        else:
            db.execute("INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", (it.key, it.value, self._last))
        return self._last, it.value is not None or there is not None

    def _find(self, key: str) -> Kept | None:
        assert self._db is not None
        try:
            row = self._db.execute("SELECT key, value, revision FROM kept WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as failed:
            raise Unavailable(f"what is kept can't be read: {failed}") from None
        return None if row is None else Kept(*row)

    def _read(self, prefix: str, after: str) -> Page:
        assert self._db is not None
        found: list[Kept] = []
        left = PAGE_BYTES
        try:
            rows = self._db.execute(  # "/" is what follows "."
                "SELECT key, value, revision FROM kept WHERE key > ? AND key < ? ORDER BY key",
                (max(prefix, after), prefix[:-1] + "/"),
            )
            for key, value, revision in rows:
                found.append(Kept(key, value, revision))
                left -= len(key) + len(value) + ROW_BYTES
                if left < 0:
                    rows.close()
                    return found, True
        except sqlite3.Error as failed:
            raise Unavailable(f"what is kept can't be read: {failed}") from None
        return found, False

    def _shut(self) -> None:
        assert self._db is not None
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        self._db = None
        self._unlock()

    def _unlock(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1
