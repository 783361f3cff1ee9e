# The file of State: <folder>/edge.db, an SQLite database, and the lock beside it. It owns nothing once it has given
# them. It must never change a file that is not edge's own, nor one that another process has open.

import fcntl
import os
import sqlite3
import time

from broker.base import Misfit

FILE = "edge.db"
LOCK = "edge.lock"
APPLICATION = 0x65646765
VERSION = 1
SCHEMA = f"""
BEGIN;
CREATE TABLE kept (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL);
CREATE TABLE calls (revision INTEGER PRIMARY KEY, call INTEGER NOT NULL);
CREATE UNIQUE INDEX calls_call ON calls (call) WHERE call != 0;
INSERT INTO calls VALUES ({{first}}, 0);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
COMMIT;
"""
MEMORY_BYTES = 64 * 1024 * 1024
"""Of a database without a file."""
BUSY_S = 5.0


def lock(folder: str) -> int:
    """A lock that ends with the process, on a file of its own: SQLite's locks would end with any descriptor of its."""
    path = os.path.join(folder, LOCK)
    try:
        os.makedirs(folder, 0o700, exist_ok=True)
        lock_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as failed:
        raise Misfit(f"data folder {folder}: {failed.strerror}") from None
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock_fd, 0)
        os.pwrite(lock_fd, b"%d\n" % os.getpid(), 0)
    except OSError:
        other = os.pread(lock_fd, 20, 0).decode("ascii", "replace").strip() or "?"
        os.close(lock_fd)
        raise Misfit(f"data folder {folder}: process {other} has it open; give each server its own") from None
    return lock_fd


def connect(folder: str) -> sqlite3.Connection:
    """In memory where there is no folder."""
    path = os.path.join(folder, FILE) if folder else ""
    try:
        if path:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(path or ":memory:", BUSY_S, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as failed:
        raise Misfit(f"{path}: {getattr(failed, 'strerror', failed)}") from None
    try:
        _fit(db, path)
    except sqlite3.Error as failed:
        db.close()
        raise Misfit(f"{path}: {failed}: this is no database that edge can use") from None
    except BaseException:
        db.close()
        raise
    return db


def _fit(db: sqlite3.Connection, path: str) -> None:
    application, version, tables = (
        db.execute(asked).fetchone()[0]
        for asked in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    )
    if (application, version, tables) != (0, 0, 0):
        if application != APPLICATION:
            raise Misfit(f"{path}: this database is another application's")
        if version != VERSION:
            raise Misfit(f"{path}: it is of version {version}, and this edge has {VERSION}")
    if path:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
    else:
        page_bytes = db.execute("PRAGMA page_size").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {MEMORY_BYTES // page_bytes}")
    if not tables:  # greater than any revision of a database that was here before
        db.executescript(SCHEMA.format(first=time.time_ns() // 1_000_000))
