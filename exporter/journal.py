"""The journal: an SQLite file that remembers each upgrade ever seen, and what was last known of each scale set.

Theory of operation. Snapshots go in, snapshots come out. A written snapshot brings the upgrades of its history up to
date: an upgrade is known by its scale set and its start time, its last known facts stand in ``upgrades``, and each
change of state, counts, end or error is a row of ``changes``. What Azure tells of at the moment has a ``place``, so
that the very history can be read back. An upgrade without a start time, or with one that an earlier entry of the
same answer has, cannot be told from others: it is kept just as long as Azure tells of it, without its changes.

A finished upgrade (Completed, Cancelled, Faulted) is counted once, in the state in which it was first seen finished,
and the counts outlive the upgrades that are pruned: they only ever go up.

A row that breaks the model (a bad byte in a text, a state that does not exist, facts that are not JSON) costs its scale
set what is read back, never that of others; the next write puts it right. Only where a write depends on such a row, the
whole file counts as damaged.

What ``write`` has returned from is on the disk. What goes wrong is an ``OSError`` with a text for people. Everything
here blocks. Knows nothing of polls, of the event loop or of what is to be done when a disk is full.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from enum import Enum
from itertools import groupby
from math import inf
from pathlib import Path
from sys import intern
from typing import Any, TypeVar

from exporter.history import (
    MAX_INT32,
    ApiError,
    ErrorDetail,
    History,
    Image,
    Progress,
    Rollback,
    Upgrade,
    UpgradeState,
    possible_end,
)
from exporter.journal_file import (
    Connection,
    DamagedError,
    LossError,
    Writable,
    errors_of,
    readable,
    refuse_other_file,
)
from exporter.label_limits import is_label_value
from exporter.scale_set import ScaleSet
from exporter.snapshot import NOT_FOUND_POLLS, Finished, Reason, Snapshot

__all__ = [
    "Change",
    "DamagedError",
    "Journal",
    "LossError",
    "Reader",
    "Recorded",
    "reading",
    "refuse_other_file",
]


@dataclass(frozen=True, slots=True)
class Change:
    """How an upgrade was first seen, or seen to have changed."""

    seen: float
    """When the poll ended that found it so."""
    state: UpgradeState
    end: float | None
    progress: Progress
    rollback: Rollback
    """The counts, without the error."""
    error_code: str | None
    error_message: str | None


@dataclass(frozen=True, slots=True)
class Recorded:
    """An upgrade as the journal remembers it."""

    subscription_id: str
    resource_group: str
    name: str
    """Of the scale set; this and the resource group as last spelled."""
    first_seen: float
    upgrade: Upgrade
    """As last seen; it has a start."""
    changes: tuple[Change, ...]
    """In the order in which they were seen, at least one."""


class Journal:
    """The file, to be written by this process alone; from one thread at a time.

    Raises ``OSError`` where the file is another exporter's at the moment, of a newer version, no journal, or cannot
    be had; ``DamagedError`` where it was damaged and ``LossError`` where it was deleted or replaced: to open it again
    then begins it anew, or opens the other. After an ``OSError`` of a method the only use left is ``close``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = Writable(path)

    def verify(self) -> None:
        """Raise ``LossError`` where the file was deleted or replaced since it was opened."""
        self._file.verify()

    def check(self) -> None:
        """Read the whole file, about a second for a gigabyte; raise ``DamagedError`` where something is wrong with it."""
        self._file.check()

    def close(self) -> None:
        """Close the file, and let others write to it."""
        self._file.close()

    def write(self, found: Iterable[Snapshot], polled: Iterable[Snapshot] = ()) -> dict[str, Finished]:
        """Write what polls have ``found``, in their order, and when scale sets were last ``polled``: all or nothing.

        Returns how many finished upgrades have been counted, by the ids of the scale sets of which something was
        found; they are never fewer than a snapshot says, so that a journal begun anew goes on counting. Nothing is
        written about a scale set that was polled and of which nothing was ever found.
        """
        counts: dict[str, Finished] = {}
        with self._transaction() as db:
            for snapshot in found:
                number = _write_scale_set(db, snapshot)
                if snapshot.history is not None:
                    _write_history(db, number, snapshot.history, snapshot.last_poll or 0.0)
                counts[snapshot.scale_set.id] = _raise_counts(db, number, snapshot.finished or ())
            db.executemany(
                "UPDATE polls SET last_poll = ?1, last_success = ?2, failure = ?3, failure_message = ?4"
                " WHERE scale_set = (SELECT number FROM scale_sets WHERE id = ?5)"
                " AND (last_poll, failure) IS NOT (?1, ?3)",
                ((*_poll(snapshot), snapshot.scale_set.id) for snapshot in polled),
            )
        return counts

    def prune(self, horizon: float, held: Collection[str]) -> int:
        """Forget upgrades that started before the ``horizon``, but those that Azure still tells of; say how many.

        Scale sets last polled before it go with all they have, unless their ids are among those ``held``.
        """
        with self._transaction() as db:
            before = _number_of_upgrades(db)
            idle = db.execute(
                "SELECT number, id FROM scale_sets JOIN polls ON scale_set = number WHERE last_poll < ?",
                (horizon,),
            )
            gone = [(number,) for number, key in idle.fetchall() if key not in held]
            db.executemany("DELETE FROM scale_sets WHERE number = ?", gone)
            db.execute("DELETE FROM upgrades WHERE place IS NULL AND start < ?", (horizon,))
            return before - _number_of_upgrades(db)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._file.transaction() as db:
            try:
                yield db
            except _BadRow as error:
                raise DamagedError(str(error), self._path) from error


class Reader:
    """What the file holds, all of one moment; for the thread that made it. Methods raise ``OSError``."""

    def __init__(self, connection: Connection, path: Path) -> None:
        self._db = connection
        self._path = path
        self.unreadable: dict[str, Exception] = {}
        """Why rows of a scale set could not be read, by its id."""

    def known(self, scale_sets: Iterable[ScaleSet]) -> dict[str, Snapshot]:
        """Return what was last known of these scale sets, by id; those never seen or ``unreadable`` are left out."""
        found: dict[str, Snapshot] = {}
        for scale_set in scale_sets:
            try:
                with errors_of(self._path):
                    snapshot = self._snapshot(scale_set)
            except (OSError, _BadRow) as error:
                self.unreadable[scale_set.id] = error
                continue
            if snapshot is not None:
                found[scale_set.id] = snapshot
        return found

    def upgrades(self, scale_set_id: str) -> tuple[Recorded, ...]:
        """Return all upgrades of the scale set of this (folded) id that can be read, the oldest first."""
        return tuple(self._recorded("WHERE scale_sets.id = ? AND start IS NOT NULL", scale_set_id))

    def all_upgrades(self) -> Iterator[Recorded]:
        """Yield all upgrades that can be read, scale set by scale set, the oldest first; one is in memory at a time."""
        return self._recorded("WHERE start IS NOT NULL")

    def _snapshot(self, scale_set: ScaleSet) -> Snapshot | None:
        db = self._db
        row = db.execute(
            "SELECT number, found, last_progress, last_poll, last_success, failure, failure_message"
            " FROM scale_sets JOIN polls ON scale_set = number WHERE id = ?",
            (scale_set.id,),
        ).fetchone()
        if row is None:
            return None
        number, found, last_progress, last_poll, last_success, failure, failure_message = row
        rows = db.execute(
            "SELECT facts, first_seen FROM upgrades WHERE scale_set = ? AND place IS NOT NULL ORDER BY place",
            (number,),
        )
        upgrades = tuple((_from_json(facts), _required_time(first_seen)) for facts, first_seen in rows)
        history = History(tuple(upgrade for upgrade, _ in upgrades))
        return Snapshot(
            scale_set,
            scale_set.interval,
            history=history if found else None,
            last_poll=_time(last_poll),
            last_success=_time(last_success),
            last_progress=_last_progress(history.latest, upgrades, _time(last_progress)),
            latest_seen=history.latest,
            failure=None if failure is None else _member(Reason, failure),
            failure_message=_required_text(failure_message),
            not_found_polls=_not_found_polls(failure, found=bool(found)),
            finished=_finished(db, number),
            remembered=True,
        )

    def _recorded(self, where: str, *parameters: str) -> Iterator[Recorded]:
        with errors_of(self._path):
            rows = self._db.execute(
                "SELECT upgrades.number, scale_sets.id, subscription_id, resource_group, name, first_seen, facts,"  # noqa: S608
                f" seen, {_CHANGE} FROM scale_sets JOIN upgrades ON scale_set = scale_sets.number"
                f" JOIN changes ON upgrade = upgrades.number {where}"
                " ORDER BY scale_sets.id, start, changes.number",
                parameters,
            )
            for _, group in groupby(rows, key=lambda row: row[0]):
                first, *others = group
                try:
                    recorded = _to_recorded(first, others)
                except _BadRow as error:
                    self.unreadable[str(first[1])] = error
                    continue
                yield recorded


@contextmanager
def reading(path: Path) -> Iterator[Reader]:
    """Read the journal, whoever writes it; raises ``OSError`` where there is none that can be read."""
    with readable(path) as db:
        yield Reader(db, path)


_NEW_UPGRADE = (
    "INSERT INTO upgrades (scale_set, start, place, first_seen, counted, facts) VALUES (?, ?, ?, ?, 0, ?)"
)
_CHANGE = "state, ended, successful, failed, in_progress, pending, rolled_back, not_rolled_back, error_code, error_message"


def _number_of_upgrades(db: Connection) -> int:
    (number,) = db.execute("SELECT count(*) FROM upgrades").fetchone()
    return int(number)


def _write_scale_set(db: Connection, snapshot: Snapshot) -> int:
    """Write all but the upgrades; return the number of the scale set."""
    scale_set = snapshot.scale_set
    db.execute(
        "INSERT INTO scale_sets (id, subscription_id, resource_group, name, found, last_progress)"
        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET resource_group = excluded.resource_group,"
        " name = excluded.name, found = excluded.found, last_progress = excluded.last_progress",
        (
            scale_set.id,
            scale_set.subscription_id,
            scale_set.resource_group,
            scale_set.name,
            snapshot.history is not None,
            snapshot.last_progress,
        ),
    )
    (number,) = db.execute("SELECT number FROM scale_sets WHERE id = ?", (scale_set.id,)).fetchone()
    db.execute("INSERT OR REPLACE INTO polls VALUES (?, ?, ?, ?, ?)", (number, *_poll(snapshot)))
    return int(number)


def _write_history(db: Connection, scale_set: int, history: History, seen: float) -> None:
    db.execute("DELETE FROM upgrades WHERE scale_set = ? AND start IS NULL", (scale_set,))
    db.execute("UPDATE upgrades SET place = NULL WHERE scale_set = ? AND place IS NOT NULL", (scale_set,))
    starts: set[float | None] = {None}
    for place, upgrade in enumerate(history.upgrades):
        if upgrade.start in starts:
            db.execute(_NEW_UPGRADE, (scale_set, None, place, seen, _to_json(upgrade)))
        else:
            starts.add(upgrade.start)
            _write_upgrade(db, scale_set, place, upgrade, seen)


def _write_upgrade(db: Connection, scale_set: int, place: int, upgrade: Upgrade, seen: float) -> None:
    facts = _to_json(upgrade)
    known = db.execute(
        "SELECT number, counted, facts = ? FROM upgrades WHERE scale_set = ? AND start = ?",
        (facts, scale_set, upgrade.start),
    ).fetchone()
    if known is None:
        number = db.execute(_NEW_UPGRADE, (scale_set, upgrade.start, place, seen, facts)).lastrowid
        counted = False
    else:
        number, counted, same = known
        db.execute("UPDATE upgrades SET place = ? WHERE number = ?", (place, number))
        if same:
            return
        db.execute("UPDATE upgrades SET facts = ? WHERE number = ?", (facts, number))
    change = _change(upgrade)
    last = db.execute(
        f"SELECT number, {_CHANGE} FROM changes WHERE upgrade = ? ORDER BY number DESC LIMIT 1",  # noqa: S608
        (number,),
    ).fetchone() or (0,)
    if last[1:] != change:
        places = ", ".join("?" * (3 + len(change)))
        db.execute(f"INSERT INTO changes VALUES ({places})", (number, _next(last[0]), seen, *change))  # noqa: S608
    if upgrade.state.finished and not counted:
        db.execute("UPDATE upgrades SET counted = 1 WHERE number = ?", (number,))
        db.execute(
            "INSERT INTO counts VALUES (?, ?, ?, 1) ON CONFLICT DO UPDATE SET upgrades = upgrades + 1",
            (scale_set, upgrade.state.value, upgrade.started_by or ""),
        )


def _next(number: object) -> int:
    if type(number) is int and 0 <= number < MAX_INT32:
        return number + 1
    raise _BadRow(f"{number!r:.40} where the number of a change belongs")


def _poll(snapshot: Snapshot) -> tuple[float | str | None, ...]:
    failure = snapshot.failure and snapshot.failure.value
    return snapshot.last_poll, snapshot.last_success, failure, snapshot.failure_message


def _finished(db: Connection, scale_set: int) -> Finished:
    """Return the counts of a scale set; a row that breaks the model counts nothing."""
    rows = db.execute("SELECT state, started_by, upgrades FROM counts WHERE scale_set = ?", (scale_set,))
    return tuple(
        (_STATES[state], _label(started_by) or "", number)
        for state, started_by, number in rows
        if state in _STATES and _is_text(started_by) and type(number) is int and number >= 0
    )


def _raise_counts(db: Connection, scale_set: int, least: Finished) -> Finished:
    """Raise counts to those that were served already; return all of them."""
    counted = _finished(db, scale_set)
    have = {(state, started_by): number for state, started_by, number in counted}
    missing = [
        (scale_set, state.value, started_by, number)
        for state, started_by, number in least
        if have.get((state, started_by), 0) < number
    ]
    if not missing:
        return counted
    db.executemany(
        "INSERT INTO counts VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET upgrades = excluded.upgrades",
        missing,
    )
    return _finished(db, scale_set)


def _not_found_polls(failure: str | None, *, found: bool) -> int:
    """Return how many polls in a row Azure has answered with ``not_found``, as far as the journal shows."""
    if failure != Reason.NOT_FOUND.value:
        return 0
    return 1 if found else NOT_FOUND_POLLS


def _last_progress(
    latest: Upgrade | None, upgrades: Iterable[tuple[Upgrade, float]], written: float | None
) -> float | None:
    """Return when the latest upgrade was first seen as it is, or its end; earlier versions wrote its start."""
    if latest is None:
        return None
    if latest.end is not None:
        return latest.end
    first_seen = (seen for upgrade, seen in upgrades if upgrade is latest)
    return next(first_seen) if written == latest.start else written


def _change(upgrade: Upgrade) -> tuple[float | str | None, ...]:
    """Return the values of ``_CHANGE``."""
    progress = upgrade.progress or Progress()
    rollback = upgrade.rollback or Rollback()
    error = upgrade.error or ApiError()
    return (
        upgrade.state.value,
        upgrade.end,
        progress.successful,
        progress.failed,
        progress.in_progress,
        progress.pending,
        rollback.successful,
        rollback.failed,
        error.code,
        error.message,
    )


def _to_recorded(first: Sequence[Any], others: Iterable[Sequence[Any]]) -> Recorded:
    _, _, subscription_id, resource_group, name, first_seen, facts = first[:7]
    upgrade = _from_json(facts)
    return Recorded(
        _required_text(subscription_id),
        _required_text(resource_group),
        _required_text(name),
        _required_time(first_seen),
        upgrade,
        tuple(_to_change(upgrade.start, *row[7:]) for row in (first, *others)),
    )


def _to_change(start: float | None, seen: object, code: object, end: object, *rest: object) -> Change:
    state = _member(UpgradeState, code)
    return Change(
        _required_time(seen),
        state,
        possible_end(state, start, _time(end)),
        Progress(*map(_count, rest[:4])),
        Rollback(_count(rest[4]), _count(rest[5])),
        error_code=_text(rest[6]),
        error_message=_text(rest[7]),
    )


def _to_json(upgrade: Upgrade) -> str:
    """Write an upgrade, without what is ``None``."""
    given = asdict(upgrade, dict_factory=_given)
    return json.dumps(given, separators=(",", ":"), ensure_ascii=False)


def _given(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {
        name: value.value if isinstance(value, Enum) else value for name, value in pairs if value is not None
    }


def _from_json(text: object) -> Upgrade:
    """Read an upgrade; raises ``_BadRow`` where a value is none that was ever written. Unknown facts are left out."""
    try:
        facts = _object(json.loads(_required_text(text)))
    except (ValueError, RecursionError) as error:
        raise _BadRow(f"facts are not JSON: {error}") from error
    state, start = _member(UpgradeState, facts.get("state")), _time(facts.get("start"))
    progress, image, rollback = facts.get("progress"), facts.get("image"), facts.get("rollback")
    return Upgrade(
        state=state,
        start=start,
        end=possible_end(state, start, _time(facts.get("end"))),  # earlier versions wrote whatever Azure sent
        progress=None
        if progress is None
        else Progress(*(_count(_object(progress).get(name)) for name in _PROGRESS)),
        error=_error(facts.get("error")),
        started_by=_label(facts.get("started_by")),
        image=None if image is None else Image(*(_label(_object(image).get(name)) for name in _IMAGE)),
        rollback=None if rollback is None else _rollback(_object(rollback)),
        location=_label(facts.get("location")),
    )


def _rollback(facts: dict[str, object]) -> Rollback:
    return Rollback(_count(facts.get("successful")), _count(facts.get("failed")), _error(facts.get("error")))


def _error(value: object) -> ApiError | None:
    if value is None:
        return None
    facts = _object(value)
    details = facts.get("details", [])
    if not isinstance(details, list):
        raise _BadRow("an error's details are not a list")
    return ApiError(
        code=_label(facts.get("code")),
        message=_text(facts.get("message")),
        target=_label(facts.get("target")),
        exception_type=_label(facts.get("exception_type")),
        exception_detail=_text(facts.get("exception_detail")),
        details=tuple(
            ErrorDetail(
                _label(detail.get("code")), _text(detail.get("message")), _label(detail.get("target"))
            )
            for detail in map(_object, details)
        ),
    )


_PROGRESS = tuple(field.name for field in fields(Progress))
_IMAGE = tuple(field.name for field in fields(Image))
_STATES = {state.value: state for state in UpgradeState}
_Member = TypeVar("_Member", bound=Enum)


class _BadRow(Exception):
    """A row that no version of the exporter has written so."""


def _object(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _BadRow(f"{type(value).__name__} where an object belongs")
    return value


def _is_text(value: object) -> bool:
    """Whether it is text that UTF-8 can say."""
    if not isinstance(value, str):
        return False
    try:
        return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False


def _text(value: object) -> str | None:
    return None if value is None else _required_text(value)


def _required_text(value: object) -> str:
    if isinstance(value, str) and _is_text(value):
        return value
    raise _BadRow(f"{type(value).__name__} where text in UTF-8 belongs")


def _label(value: object) -> str | None:
    """Read a text that may become a label value; earlier versions wrote longer ones, which count as absent."""
    text = _text(value)
    # A fleet repeats the same few texts thousands of times.
    return intern(text) if text is not None and is_label_value(text) else None


def _count(value: object) -> int | None:
    if value is None:
        return None
    if type(value) is int and 0 <= value <= MAX_INT32:
        return value
    raise _BadRow(f"{value!r:.40} where a count belongs")


def _time(value: object) -> float | None:
    return None if value is None else _required_time(value)


def _required_time(value: object) -> float:
    if isinstance(value, float | int) and not isinstance(value, bool) and 0 <= value < inf:
        return float(value)
    raise _BadRow(f"{value!r:.40} where a time belongs")


def _member(kind: type[_Member], value: object) -> _Member:
    try:
        return kind(value)
    except ValueError as error:
        raise _BadRow(str(error)) from error
