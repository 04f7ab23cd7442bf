"""The file beneath the journal: its schema and versions, who may write it, and what goes wrong with it.

Committed means on the disk: write-ahead log, ``synchronous=FULL``. A process that is killed or a machine that loses
its power loses no transaction that has returned, and never leaves half of one. One process may write, which a lock
on the file ``<path>-lock`` sees to; readers may come at any time, from any process.

The only home of sqlite3; what goes wrong is an ``OSError`` with a text for people. Knows nothing of what the rows
mean.
"""

import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from sqlite3 import Connection
from urllib.parse import quote

__all__ = ["Connection", "Writable", "errors_of", "readable"]

APPLICATION_ID = 0x564D5353
"""Says in the file's header whose it is: "VMSS"."""

MIGRATIONS = (
    """
    CREATE TABLE scale_sets (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,       -- the resource id in lower case
        subscription_id TEXT NOT NULL,
        resource_group TEXT NOT NULL,  -- this and the name as last spelled
        name TEXT NOT NULL,
        found INTEGER NOT NULL,        -- 0 since Azure did not find it
        last_progress REAL             -- times are seconds since the epoch
    );
    CREATE TABLE polls (
        scale_set INTEGER PRIMARY KEY REFERENCES scale_sets ON DELETE CASCADE,
        last_poll REAL,
        last_success REAL,
        failure TEXT,                  -- the reason, NULL after a good poll
        failure_message TEXT NOT NULL
    );
    CREATE TABLE upgrades (
        number INTEGER PRIMARY KEY,
        scale_set INTEGER NOT NULL REFERENCES scale_sets ON DELETE CASCADE,
        start REAL,                    -- NULL where it cannot tell this upgrade from others
        place INTEGER,                 -- in Azure's last answer; NULL when Azure has forgotten it
        first_seen REAL NOT NULL,
        counted INTEGER NOT NULL,      -- 1 when it stands in counts
        facts TEXT NOT NULL,           -- all that is known of it, as JSON
        UNIQUE (scale_set, start)
    );
    CREATE TABLE changes (
        upgrade INTEGER NOT NULL REFERENCES upgrades ON DELETE CASCADE,
        number INTEGER NOT NULL,       -- from 1; clocks may jump
        seen REAL NOT NULL,            -- when the poll ended that found it so
        state TEXT NOT NULL,
        ended REAL,
        successful INTEGER,
        failed INTEGER,
        in_progress INTEGER,
        pending INTEGER,
        rolled_back INTEGER,
        not_rolled_back INTEGER,
        error_code TEXT,
        error_message TEXT,
        PRIMARY KEY (upgrade, number)
    ) WITHOUT ROWID;
    CREATE TABLE counts (
        scale_set INTEGER NOT NULL REFERENCES scale_sets ON DELETE CASCADE,
        state TEXT NOT NULL,
        started_by TEXT NOT NULL,
        upgrades INTEGER NOT NULL,
        PRIMARY KEY (scale_set, state, started_by)
    ) WITHOUT ROWID;
    """,
)
"""What leads from each version of the schema to the next, the first from an empty file. Append, never edit."""

BUSY_SECONDS = 1.0
"""How long to wait for someone at work in the file with tools of SQLite's."""


class Writable:
    """The file, to be written by this process alone, from one thread at a time; made when absent.

    Raises ``OSError`` where it is another exporter's at the moment, of a newer version, no journal, or cannot be had.
    After an ``OSError`` of a transaction the only use left is ``close``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path = path.resolve()
        self._lock = _lock(path)
        self._connection: Connection | None = None
        try:
            with errors_of(path):
                self._connection = db = sqlite3.connect(
                    path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
                )
                version = _version(db, path)
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = FULL")
                db.execute("PRAGMA foreign_keys = ON")
                for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
                    db.executescript(
                        f"BEGIN IMMEDIATE; {script}; PRAGMA application_id = {APPLICATION_ID};"
                        f"PRAGMA user_version = {number}; COMMIT;"
                    )
        except BaseException:
            self.close()
            raise
        self._db = db

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Commit what is written within, all or nothing."""
        with errors_of(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            yield self._db
            self._db.execute("COMMIT")  # who fails before is rolled back by close

    def close(self) -> None:
        """Close the file, and let others write to it."""
        if self._connection is not None:
            with suppress(sqlite3.Error):  # what is committed is on the disk
                self._connection.close()
        os.close(self._lock)


@contextmanager
def readable(path: Path) -> Iterator[Connection]:
    """Read the file as it is at one moment, whoever writes it; raises ``OSError`` where none can be read."""
    path = path.resolve()
    with errors_of(path):
        path.stat()  # SQLite would only say that it cannot open it
        try:
            db = _read_only(path, "mode=ro")
        except sqlite3.OperationalError as error:
            if _code(error) not in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
                raise
            # A disk that is read-only cannot hold the readers' marks; nor can anyone change the file.
            db = _read_only(path, "immutable=1")
    try:
        with errors_of(path):
            if _version(db, path) < len(MIGRATIONS):
                raise OSError(
                    errno.EINVAL,
                    "is empty or of an older version; the exporter renews it when it starts",
                    str(path),
                )
            db.execute("BEGIN")
            yield db
    finally:
        db.close()


def _lock(path: Path) -> int:
    """Return the open file that keeps other exporters out until it is closed, however this process ends.

    It is not the journal itself: SQLite's locks on that would go when any other handle of it is closed.
    """
    file = os.open(path.with_name(f"{path.name}-lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise OSError(errno.EBUSY, "is in use by another exporter", str(path)) from None
    return file


def _version(db: Connection, path: Path) -> int:
    """Return the version of the schema, 0 for an empty file; raises where it is none that we can use."""
    (owner,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if owner != APPLICATION_ID and (owner, version, tables) != (0, 0, 0):
        raise OSError(errno.EINVAL, "is an SQLite database, but not a journal of this exporter", str(path))
    if version > len(MIGRATIONS):
        raise OSError(
            errno.EINVAL,
            f"was written by a newer version of the exporter: schema {version}, this one knows {len(MIGRATIONS)}",
            str(path),
        )
    return int(version)


def _read_only(path: Path, how: str) -> Connection:
    db = sqlite3.connect(
        f"file:{quote(str(path))}?{how}", uri=True, timeout=BUSY_SECONDS, isolation_level=None
    )
    try:
        db.execute("SELECT count(*) FROM sqlite_master")
    except BaseException:
        db.close()
        raise
    return db


_ERRNOS = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_BUSY: errno.EBUSY,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
}


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Make an ``OSError`` of SQLite's errors."""
    try:
        yield
    except sqlite3.Error as error:
        raise OSError(_ERRNOS.get(_code(error), errno.EINVAL), str(error), str(path)) from error


def _code(error: sqlite3.Error) -> int:
    """Return the plain code of an extended one; Python's own errors have none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
