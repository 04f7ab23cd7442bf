"""The file beneath the journal: its schema and versions, who may write it, and what goes wrong with it.

Committed means on the disk: write-ahead log, ``synchronous=FULL``. A process that is killed or a machine that loses
its power loses no transaction that has returned, and never leaves half of one. One process may write, which a lock
on the file ``<path>-lock`` sees to; readers may come at any time, from any process.

Damage. A journal that SQLite cannot read, or whose structure is not that of a journal, is moved aside with its
``-wal``, ``-shm`` and ``-journal`` as ``<path>.corrupt-<time>``, and nothing of it is changed or deleted. Only the
writer does so, and only while it holds the lock; readers leave every file where it is. A file that is not a journal
of this exporter is never moved, never written to and never given another mode.

The header of a file says whose it is: SQLite's magic bytes and our application id. Where the header is destroyed, the rest
of the file decides: it was ours if it is binary and holds a table definition of ours or the resource id of a scale
set. So text, another database and a foreign binary file are not ours. A file of zero bytes alone, and the first bytes
of an SQLite header with nothing behind them, hold nothing worth keeping, and count as damaged journals.

The only home of sqlite3; what goes wrong is an ``OSError`` with a text for people. Knows nothing of what the rows
mean.
"""

import errno
import fcntl
import os
import re
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from sqlite3 import Connection
from time import gmtime, strftime
from urllib.parse import quote

__all__ = [
    "Connection",
    "DamagedError",
    "LossError",
    "Writable",
    "errors_of",
    "readable",
    "refuse_other_file",
]

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
MODE = 0o600
"""Permissions of every file of the journal: Azure's error messages are not for every user of the machine."""
KEPT_ASIDE = 10
"""Maximum number of damaged journals beside the present one; with so many, a damaged file stays where it is."""

_WAL, _SHM, _ROLLBACK = "-wal", "-shm", "-journal"
_COMPANIONS = (_WAL, _SHM, _ROLLBACK)
_LOCK = "-lock"
_HEADER_BYTES = 100
_SCHEMA_FORMAT, _UTF_8 = 4, 1
"""The newest format of the schema, and the number of the text encoding; 0 while the file is empty."""
_ABSURD_VERSION = 1000
"""A version of the schema that no version of the exporter will have."""
_MAGIC = b"SQLite format 3\0"
_CHUNK_BYTES = 1 << 20
_TRACES = (
    b"CREATE TABLE scale_sets (",
    b"CREATE TABLE upgrades (",
    b"/providers/microsoft.compute/virtualmachinescalesets/",
)
"""What a journal holds far from its header: its definitions, and the ids of its scale sets, in lower case."""
_Failure = (sqlite3.Error, UnicodeDecodeError)
"""What sqlite3 raises: UnicodeDecodeError where a message of SQLite's quotes a damaged definition."""
_Identity = tuple[int, int]
"""Device and inode of a file."""
_ABANDONED: list[Connection | None] = []
"""Connections that must not be closed."""


class LossError(OSError):
    """The journal was deleted or replaced while it was in use. The next opening begins it anew or opens the other."""

    def __init__(self, why: str, path: Path, moved_to: Path | None = None) -> None:
        super().__init__(errno.EUCLEAN, why, str(path))
        self.moved_to = moved_to
        """Where the file, or what is left of it, was moved; ``None`` where nothing was moved."""


class DamagedError(LossError):
    """The journal is damaged. If it was moved aside, the next opening begins it anew."""


class Writable:
    """The file, to be written by this process alone, from one thread at a time; made when absent.

    Raises ``DamagedError`` where it was damaged, and ``OSError`` where it is another exporter's at the moment, of a
    newer version, no journal, or cannot be had. After an ``OSError`` of any method the only use left is ``close``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path = path.resolve()
        self._connection: Connection | None = None
        self._names = {suffix: str(_beside(path, suffix)) for suffix in ("", _WAL, _SHM, _LOCK)}
        self._used: dict[str, _Identity | None] | None = None
        """Which files are in use; ``None`` while they are opened."""
        self._lock = _lock(path)
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        self._used, self._size = self._identities(), _size(path)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Commit what is written within, all or nothing. The block raises ``DamagedError`` for rows that break the model."""
        self.verify()
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")  # who fails before is rolled back by close
        except DamagedError as error:
            raise self._set_aside(str(error.strerror)) from error
        except _Failure as error:
            if _code(error) in _DAMAGE:
                raise self._set_aside(str(error)) from error
            if _code(error) not in _ERRNOS:
                # Neither the disk nor another process explains it: perhaps an index does not fit its table.
                with suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
                self.check()
            raise _os_error(error, self._path) from error

    def verify(self) -> None:
        """Raise ``LossError`` where a file of the journal was deleted or replaced since it was opened."""
        used, now = self._used, self._identities()
        if used is None:
            return
        if now[""] != used[""]:
            # The log is that of the lost file: SQLite would apply it to the next one.
            left = [suffix for suffix in _COMPANIONS if suffix in now and now[suffix] == used[suffix]]
            raise LossError("was deleted or replaced while in use", self._path, self._move(left))
        changed = [suffix for suffix in used if now[suffix] != used[suffix]]
        if changed:
            self._give_up(changed)
        size = _size(self._path)
        if size < self._size:  # by a tool of SQLite's, or its content was replaced
            self._size = size
            if fault := self._examine_again():
                raise self._set_aside(fault)
            self.check()

    def _give_up(self, changed: list[str]) -> None:
        """Save what a log without a name holds, and raise ``LossError``; do nothing while a reader is in the way."""
        with errors_of(self._path):
            (busy, *_) = self._db.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
        if not busy:
            names = ", ".join(f"{self._path.name}{suffix}" for suffix in changed)
            moved_to = self._move([suffix for suffix in changed if suffix == _WAL])
            raise LossError(f"{names}: was deleted or replaced while in use", self._path, moved_to)

    def check(self) -> None:
        """Read the whole file, about a second for a gigabyte; raise ``DamagedError`` where something is wrong with it."""
        self.verify()
        try:
            # Not through the writer's connection, which has pages in its memory that are sound still.
            with closing(_read_only(self._path)) as db:
                fault = _structural_fault(db) or _deep_fault(db)
        except _Failure as error:
            if _code(error) in _ERRNOS:
                raise _os_error(error, self._path) from error
            fault = str(error)
        if fault:
            raise self._set_aside(fault)

    def close(self) -> None:
        """Close the file, and let others write to it."""
        self._disconnect()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def _db(self) -> Connection:
        if self._connection is None:
            raise ValueError("the journal is closed")
        return self._connection

    def _open(self) -> None:
        if fault := _examine(self._path) or self._connect():
            raise self._set_aside(fault)

    def _connect(self) -> str:
        """Open the file and bring it up to date; return what is wrong with it."""
        path = self._path
        with suppress(FileExistsError):  # SQLite gives the companions the mode of the file
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE))
        try:
            self._connection = db = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            db.text_factory = _decode
            version = _version(db, path)
            if not 0 <= version <= len(MIGRATIONS) or (version == 0 and _tables(db)):
                return f"its schema claims to be version {version}"
            if version == 0:
                # Before the log is switched on, so that the file itself says whose it is from its first page on.
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            for suffix in ("", *_COMPANIONS):
                _tighten(_beside(path, suffix))
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA foreign_keys = ON")
            for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
                db.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")
            return _structural_fault(db)
        except _Failure as error:
            if _code(error) in _DAMAGE:
                return str(error)
            raise _os_error(error, path) from error

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):  # what is committed is on the disk
                self._connection.close()
            self._connection = None

    def _identities(self) -> dict[str, _Identity | None]:
        return {suffix: _identity(name) for suffix, name in self._names.items()}

    def _set_aside(self, fault: str) -> DamagedError:
        """Move the file and its companions aside; return the error that says so.

        Raises ``LossError`` where the file is not the one that was opened, ``OSError`` where it is not ours any more.
        """
        if self._used is not None:
            self.verify()
            self._examine_again()
        why = f"is damaged: {fault}"
        try:
            if _full(self._path):
                there = f"{KEPT_ASIDE} damaged journals {self._path.name}.corrupt-* are there already"
                return DamagedError(f"{why}; {there}: remove some to begin it anew", self._path)
            return DamagedError(why, self._path, self._move(["", *_COMPANIONS]))
        except OSError as error:
            return DamagedError(f"{why}; it cannot be moved aside: {error.strerror}", self._path)

    def _examine_again(self) -> str:
        """Return what is wrong with the file; raise ``OSError`` where its content was replaced by something else."""
        try:
            return _examine(self._path)
        except OSError:
            # To close it would write the log into what is not ours. This happens at most once for each such file:
            # it is refused before it is opened again.
            _ABANDONED.append(self._connection)
            self._connection = None
            raise

    def _move(self, suffixes: list[str]) -> Path | None:
        """Move these files aside, and close the connection; return the name that the journal itself has there.

        In this order: SQLite writes nothing to a file that is not in its place any more, and deletes no log of it. A log
        without its journal is deleted when enough are kept: it would be applied to the next journal.
        """
        there = [suffix for suffix in suffixes if _beside(self._path, suffix).exists()]
        if _full(self._path):
            for suffix in there:
                _beside(self._path, suffix).unlink()
            there = []
        target = _free_name(self._path)
        for suffix in there:
            source = _beside(self._path, suffix)
            _tighten(source)
            source.rename(_beside(target, suffix))
        self._disconnect()
        return _beside(target, there[0]) if there else None


@contextmanager
def readable(path: Path) -> Iterator[Connection]:
    """Read the file as it is at one moment, whoever writes it; raises ``OSError`` where none can be read."""
    path = path.resolve()
    with errors_of(path):
        # SQLite would only say that it cannot open it, and delete the log of an empty one.
        if path.stat().st_size == 0:
            raise _outdated(path)
        db = _read_only(path)
    try:
        with errors_of(path):
            version = _version(db, path)
            if 0 <= version < len(MIGRATIONS):
                raise _outdated(path)
            if version != len(MIGRATIONS):
                raise DamagedError(f"is damaged: its schema claims to be version {version}", path)
            db.execute("BEGIN")
            yield db
    finally:
        with suppress(sqlite3.Error):
            db.close()


def refuse_other_file(path: Path) -> None:
    """Raise ``OSError`` where the file is not a journal that this version can use; a damaged or absent one passes.

    Not for a process that has the journal open: it may lose its locks.
    """
    path = path.resolve()
    if _examine(path) or not _size(path):
        return
    with suppress(DamagedError), errors_of(path), closing(_read_only(path)) as db:
        _version(db, path)


def _examine(path: Path) -> str:
    """Return what is wrong with a file that is or was a journal of ours; raise ``OSError`` where it is another.

    A file of another owner is not written to. Reads it without SQLite, which makes this process lose SQLite's locks on
    it: for when it is not open, or about to be moved.
    """
    if path.exists() and not path.is_file():
        raise _other_file("is not a regular file", path)
    if not _size(path):
        return "the file is empty or absent, its log is not" if _size(_beside(path, _WAL)) else ""
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    if _owner(head) == APPLICATION_ID:
        return _header_fault(head)
    try:
        with closing(_read_only(path)) as db:
            if _owner(head) and _structure(db) >= _expected_structure():
                return "its header names another application"
            _version(db, path)  # a log may hold the header that the file does not have yet
    except _Failure as error:
        if _code(error) in _ERRNOS:
            raise _os_error(error, path) from error
        if _was_ours(path):
            return str(error)
        raise _other_file(f"is not a journal of this exporter ({error})", path) from error
    return ""


def _owner(head: bytes) -> int | None:
    """Return the application id of an SQLite header; ``None`` where it is none."""
    whole = len(head) == _HEADER_BYTES and head.startswith(_MAGIC)
    return int.from_bytes(head[68:72], "big") if whole else None


def _header_fault(head: bytes) -> str:
    """Return what is wrong with a header of ours that SQLite would take for another kind of file, not for damage."""
    versions, schema_format, encoding = head[18:20], head[44:48], head[56:60]
    if versions not in {b"\1\1", b"\2\2"}:
        return "its header has unknown format versions"
    if int.from_bytes(schema_format, "big") > _SCHEMA_FORMAT or int.from_bytes(encoding, "big") > _UTF_8:
        return "its header has an unknown schema format or text encoding"
    return ""


def _was_ours(path: Path) -> bool:
    """Return whether a file without a usable header was a journal, or is blank."""
    found = zeros = False
    blank, before, size = True, b"", 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            size += len(chunk)
            zeros |= b"\0" in chunk
            blank &= not chunk.strip(b"\0")
            joined = before + chunk  # a trace may lie across two chunks
            found |= any(trace in joined for trace in _TRACES)
            before = chunk[-max(map(len, _TRACES)) :]
        file.seek(0)
        head = file.read(_HEADER_BYTES)
    beginning = size < _HEADER_BYTES and _MAGIC.startswith(head[: len(_MAGIC)])
    return blank or beginning or (found and zeros)


def _lock(path: Path) -> int:
    """Return the open file that keeps other exporters out until it is closed, however this process ends.

    It is not the journal itself: SQLite's locks on that would go when any other handle of it is closed.
    """
    name = _beside(path, _LOCK)
    file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise OSError(errno.EBUSY, "is in use by another exporter", str(path)) from None
    _tighten(name)
    return file


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}{suffix}")


def _size(path: Path) -> int:
    """Return the bytes of a file, 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _identity(name: str) -> _Identity | None:
    try:
        found = os.stat(name)  # noqa: PTH116 - each transaction asks
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _tighten(path: Path) -> None:
    """Take a file's permissions from everybody but its owner; what is not ours to change stays."""
    with suppress(FileNotFoundError, PermissionError):
        if stat.S_IMODE(path.stat().st_mode) & ~MODE:
            path.chmod(MODE)


def _full(path: Path) -> bool:
    """Whether as many damaged journals, or logs without one, are kept beside it as may be."""
    pattern = re.compile(
        rf"({re.escape(path.name)}\.corrupt-[0-9TZ]+(?:\.[0-9]+)?)(?:{'|'.join(_COMPANIONS)})?"
    )
    found = (pattern.fullmatch(file.name) for file in path.parent.iterdir())
    return len({match[1] for match in found if match}) >= KEPT_ASIDE


def _free_name(path: Path) -> Path:
    """Return a name for a damaged journal that neither a file nor its companions have."""
    name = f"{path.name}.corrupt-{strftime('%Y%m%dT%H%M%SZ', gmtime())}"
    for number in range(KEPT_ASIDE + 1):
        found = path.with_name(f"{name}.{number}" if number else name)
        if not any(_beside(found, suffix).exists() for suffix in ("", *_COMPANIONS)):
            return found
    raise OSError(errno.EEXIST, f"{name} exists", str(path))


def _decode(text: bytes) -> str:
    """Decode text of the file; bytes that are not UTF-8 become halves of surrogate pairs, which no valid text has."""
    return text.decode(errors="surrogateescape")


def _tables(db: Connection) -> int:
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return int(tables)


def _version(db: Connection, path: Path) -> int:
    """Return the version of the schema, 0 for an empty file; raises where it is none that we can use."""
    (owner,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if owner != APPLICATION_ID and (owner, version, _tables(db)) != (0, 0, 0):
        raise _other_file("is an SQLite database, but not a journal of this exporter", path)
    if len(MIGRATIONS) < version < _ABSURD_VERSION:
        raise OSError(
            errno.EINVAL,
            f"was written by a newer version of the exporter: schema {version}, this one knows {len(MIGRATIONS)}",
            str(path),
        )
    return int(version)


def _other_file(why: str, path: Path) -> OSError:
    return OSError(errno.EINVAL, f"{why}: move it away, or set another journal.path", str(path))


def _outdated(path: Path) -> OSError:
    return OSError(
        errno.EINVAL, "is empty or of an older version; the exporter renews it when it starts", str(path)
    )


def _structure(db: Connection) -> set[tuple[object, ...]]:
    """Return all tables with their columns, unique indexes and foreign keys; comments and extra indexes do not count."""
    return {
        (aspect, *row)
        for aspect in ("table_xinfo", "foreign_key_list")
        for row in db.execute(
            f"SELECT tables.name, about.* FROM sqlite_master AS tables, pragma_{aspect}(tables.name) AS about"  # noqa: S608
            " WHERE tables.type = 'table'"
        )
    } | {
        ("index", *row)
        for row in db.execute(
            "SELECT tables.name, about.name, about.origin FROM sqlite_master AS tables,"
            " pragma_index_list(tables.name) AS about WHERE tables.type = 'table' AND about.\"unique\""
        )
    }


@cache
def _expected_structure() -> set[tuple[object, ...]]:
    with closing(sqlite3.connect(":memory:")) as db:
        for script in MIGRATIONS:
            db.executescript(script)
        return _structure(db)


def _structural_fault(db: Connection) -> str:
    """Return what is wrong with the tables' definitions."""
    missing = {str(row[1]) for row in _expected_structure() - _structure(db)}
    return f"the definition of {', '.join(sorted(missing))} is not that of a journal" if missing else ""


def _deep_fault(db: Connection) -> str:
    """Return what is wrong anywhere in the file."""
    (found,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        return " ".join(str(found).split())
    orphan = db.execute("PRAGMA foreign_key_check").fetchone()
    return f"a row of {orphan[0]} has no row of {orphan[2]}" if orphan else ""


def _read_only(path: Path) -> Connection:
    """Open the file to be read alone; raises SQLite's errors."""
    try:
        return _read_only_as(path, "mode=ro")
    except sqlite3.OperationalError as error:
        if _code(error) not in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
            raise
        # A disk that is read-only cannot hold the readers' marks; nor can anyone change the file.
        return _read_only_as(path, "immutable=1")


def _read_only_as(path: Path, how: str) -> Connection:
    db = sqlite3.connect(
        f"file:{quote(str(path))}?{how}", uri=True, timeout=BUSY_SECONDS, isolation_level=None
    )
    try:
        db.text_factory = _decode
        _tables(db)
    except BaseException:
        db.close()
        raise
    return db


_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_ERRNOS = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_BUSY: errno.EBUSY,
    sqlite3.SQLITE_LOCKED: errno.EBUSY,
    sqlite3.SQLITE_PROTOCOL: errno.EBUSY,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_NOMEM: errno.ENOMEM,
    sqlite3.SQLITE_INTERRUPT: errno.EINTR,
}
"""Failures of the disk, of memory and of concurrent access: none of them means damage."""


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Make an ``OSError`` of SQLite's errors, a ``DamagedError`` of those that mean damage; nothing is moved."""
    try:
        yield
    except _Failure as error:
        if _code(error) in _DAMAGE:
            raise DamagedError(f"is damaged: {error}", path) from error
        raise _os_error(error, path) from error


def _os_error(error: Exception, path: Path) -> OSError:
    return OSError(_ERRNOS.get(_code(error), errno.EINVAL), str(error), str(path))


def _code(error: Exception) -> int:
    """Return the plain code of an extended one; Python's own errors have none."""
    if isinstance(error, UnicodeDecodeError):
        return sqlite3.SQLITE_CORRUPT
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
