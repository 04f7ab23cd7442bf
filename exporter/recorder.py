"""From poll to journal: takes what polls find, has it written in a thread, brings back what the journal has counted.

``record`` only puts a snapshot in a queue. One task at a time, rung for each second, empties it; so however slow or
broken the disk is, neither polls nor scrapes wait for it. What cannot be written stays in the queue, and is tried
again each second. The queue is bounded: when it is full, a snapshot takes the place of the last one of its scale
set, so that only a step between is lost, never how things stand.

Each second it is looked whether the file is still there. A journal that is damaged, deleted or replaced is begun anew,
or the other one opened; the present state of all scale sets is then written again. Nothing that is wrong with the
journal ends the process once it runs, or reaches its readers.

A poll that finds what the one before found writes nothing. That it took place is written once a minute, for all scale
sets together, and at the end: after a crash ``last_success`` may be up to a minute older than it was, never newer.
"""

import asyncio
import errno
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from time import time
from typing import Concatenate, ParamSpec, TypeVar

from exporter.history import Upgrade
from exporter.journal import DamagedError, Journal, LossError, Reader, reading
from exporter.log import fields
from exporter.scale_set import ScaleSet
from exporter.snapshot import Finished, Snapshot
from exporter.store import Store
from exporter.telemetry import Telemetry

log = logging.getLogger(__name__)

QUEUED_AT_MOST = 4096
"""Snapshots that wait to be written, before steps between are left out."""
WRITTEN_AT_ONCE = 256
"""Scale sets a transaction: a write lock held for milliseconds, one flush to the disk."""
DISK_TROUBLE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EUCLEAN, errno.ESTALE}
)
"""May pass, and is no reason not to start."""

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


class Recorder:
    """Keeps the journal at ``path``. What started longer ago than ``keep`` seconds is forgotten, whenever it prunes.

    It prunes by the wall clock or by ``steady_clock``, whichever is behind: a wall clock that is stepped ahead by years
    must not empty the journal.
    """

    def __init__(
        self,
        path: Path,
        keep: float,
        store: Store,
        telemetry: Telemetry,
        steady_clock: Callable[[], float] = time,
    ) -> None:
        self.path = path
        self.keep = keep
        self._store = store
        self._telemetry = telemetry
        self._steady_clock = steady_clock
        self._journal: Journal | None = None
        self._opened = False
        self._queue: dict[str, list[Snapshot]] = {}
        self._queued = 0
        self._times_due = self._prune_due = self._all_due = False
        self._suspected = False
        """Whether the file is to be checked: a reader met damage, say, which is the writer's to move aside."""
        self._troubles: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open the file; a damaged one is begun anew, and a disk in trouble is tried again later.

        Raises ``OSError``, with a text for people, where it is another exporter's, a newer version's, or no journal.
        """
        for _ in range(2):  # the second time there is a new one
            try:
                self._journal = await asyncio.to_thread(_open_and_check, self.path)
            except LossError as error:
                self._lost(error)
                if error.moved_to is None:
                    break
            except OSError as error:
                if error.errno not in DISK_TROUBLE:
                    raise
                self._failed(error)
                break
            else:
                break
        self._opened = True

    def record(self, before: Snapshot, after: Snapshot) -> None:
        """Take in what a poll made known."""
        if after.history is not before.history:
            self._put(after)

    @contextmanager
    def past(self) -> Iterator[Callable[[ScaleSet], tuple[Upgrade, ...]]]:
        """Give all upgrades of a scale set, the oldest first, for a thread; none where they cannot be read."""
        with ExitStack() as stack:
            journal: Reader | None = None
            with self._reader_faults():
                if self._opened:
                    journal = stack.enter_context(reading(self.path))

            def upgrades(scale_set: ScaleSet) -> tuple[Upgrade, ...]:
                nonlocal journal
                found = self._upgrades(journal, scale_set)
                if found is None:
                    journal = None  # what is wrong with it would show again for each scale set
                return found or ()

            yield upgrades

    def _upgrades(self, journal: Reader | None, scale_set: ScaleSet) -> tuple[Upgrade, ...] | None:
        if journal is not None:
            with self._reader_faults():
                return tuple(each.upgrade for each in journal.upgrades(scale_set.id))
        return None

    @contextmanager
    def _reader_faults(self) -> Iterator[None]:
        """Go on where a reader fails, and have damage looked for; other faults of the file the writer meets, too."""
        with self._defects():
            try:
                yield
            except OSError as error:
                self._suspected |= isinstance(error, DamagedError)

    @contextmanager
    def _defects(self) -> Iterator[None]:
        """Count and log an exception that only a mistake in this program explains, and go on."""
        try:
            yield
        except Exception:
            log.exception("defect in the journal", extra=fields(path=self.path))
            self._telemetry.journal_failures.inc()

    async def remember(self, scale_sets: Collection[ScaleSet]) -> dict[str, Snapshot]:
        """Return what was last known of these scale sets, by id."""
        if not scale_sets:
            return {}
        await self.flush()
        known: dict[str, Snapshot] = {}
        unreadable: list[Exception] = []
        with self._defects():  # none must keep the scale sets from being polled
            known, unreadable = await self._attempt(_known, self.path, scale_sets) or ({}, [])
        if unreadable:
            self._suspected |= any(isinstance(error, DamagedError) for error in unreadable)
            self._telemetry.journal_failures.inc(len(unreadable))
            log.error(
                "journal has unreadable rows, polling their scale sets as new ones",
                extra=fields(path=self.path, scale_sets=len(unreadable), error=unreadable[0]),
            )
        return known

    async def ring(self) -> None:
        """Start to look after the file and to write, unless that runs already."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())

    async def flush(self) -> None:
        """Try to write all there is; who is at it comes to an end first."""
        if self._task is not None:
            await self._task
        await self.ring()
        if self._task is not None:
            await self._task

    async def note_times(self) -> None:
        """Have it written when all scale sets were last polled."""
        self._times_due = True

    async def prune(self) -> None:
        """Have the file checked, and what is too old forgotten."""
        self._suspected = self._prune_due = True

    async def close(self) -> None:
        """Write what there is to be written, and close the file."""
        if self._opened:
            self._times_due = True
            await self.flush()
            self._opened = False
        if self._journal is not None:
            await asyncio.to_thread(self._journal.close)
            self._journal = None

    async def _work(self) -> None:
        with self._defects():  # one costs what was in hand, but not the next, nor any poll
            if await self._look_after_file() and await self._write_queue():
                await self._write_times()
                await self._forget()

    async def _look_after_file(self) -> bool:
        """Open the file where it is not open, look whether it is still there and sound; return whether it is."""
        suspected, self._suspected = self._suspected, False
        verified_by_write = self._journal is not None and self._queue and not suspected
        if not verified_by_write and not await self._with_journal(_verify, check=suspected):
            self._suspected |= suspected
            return False
        if self._all_due:
            self._all_due = False
            for known in self._store.snapshots():
                if known.history is not None or known.finished:
                    self._put(known)
        return True

    async def _write_queue(self) -> bool:
        """Write all there is; return whether that went well."""
        while self._queue:
            batch = self._take()
            counts = await self._with_journal(
                Journal.write, [each for queued in batch.values() for each in queued]
            )
            if counts is None:
                self._put_back(batch)
                return False
            self._succeeded()
            await self._tell(counts)
        return True

    async def _write_times(self) -> None:
        """Write when scale sets were last polled; what their polls found has been written before."""
        if self._times_due:
            polled = [known for known in self._store.snapshots() if known.last_poll and not known.remembered]
            self._times_due = False
            self._times_due = await self._with_journal(Journal.write, (), polled) is None
            if not self._times_due:
                self._succeeded()

    async def _forget(self) -> None:
        if self._prune_due:
            held = {known.scale_set.id for known in self._store.snapshots()}
            self._prune_due = False
            now = min(time(), self._steady_clock())
            forgotten = await self._with_journal(Journal.prune, now - self.keep, held)
            self._prune_due = forgotten is None
            if forgotten:
                log.info("old upgrades forgotten", extra=fields(upgrades=forgotten))

    def _put(self, snapshot: Snapshot) -> None:
        queued = self._queue.setdefault(snapshot.scale_set.id, [])
        if queued and self._queued >= QUEUED_AT_MOST:
            queued[-1] = snapshot
        else:
            queued.append(snapshot)
            self._queued += 1

    def _take(self) -> dict[str, list[Snapshot]]:
        batch = {key: self._queue.pop(key) for key in list(islice(self._queue, WRITTEN_AT_ONCE))}
        self._queued -= sum(map(len, batch.values()))
        return batch

    def _put_back(self, batch: dict[str, list[Snapshot]]) -> None:
        later, self._queue, self._queued = self._queue, {}, 0
        for queue in (batch, later):
            for queued in queue.values():
                for snapshot in queued:
                    self._put(snapshot)

    async def _tell(self, counts: dict[str, Finished]) -> None:
        for key, finished in counts.items():
            if key in self._store and self._store[key].finished != finished:
                self._store.write(replace(self._store[key], finished=finished))
                await asyncio.sleep(0)  # it is a whole rendering

    async def _with_journal(
        self,
        use: Callable[Concatenate[Journal, _Given], _Result],
        *given: _Given.args,
        **named: _Given.kwargs,
    ) -> _Result | None:
        """Use the journal in a thread, opened anew after a failure; ``None`` when it failed."""

        def work() -> _Result:
            if self._journal is None:
                self._journal = Journal(self.path)
            try:
                return use(self._journal, *given, **named)
            except BaseException:
                broken, self._journal = self._journal, None
                broken.close()
                raise

        return await self._attempt(work)

    async def _attempt(
        self, work: Callable[_Given, _Result], *given: _Given.args, **named: _Given.kwargs
    ) -> _Result | None:
        try:
            return await asyncio.to_thread(work, *given, **named)
        except LossError as error:
            self._lost(error)
        except OSError as error:
            self._failed(error)
        return None

    def _lost(self, error: LossError) -> None:
        """Have all that is known written again, to the file that takes the place of the lost one."""
        self._all_due = True
        if error.moved_to is None and isinstance(error, DamagedError):
            self._suspected = True  # it is still in its place, and not to be written to
            self._failed(error)
            return
        self._telemetry.journal_failures.inc()
        log.error(
            "journal lost, writing the present state of all scale sets to a new one",
            extra=fields(path=self.path, error=error.strerror, moved_to=error.moved_to or ""),
        )

    def _failed(self, error: OSError) -> None:
        """Count a failure, and log it unless that was done since the journal was last written."""
        self._telemetry.journal_failures.inc()
        what = error.strerror or str(error)
        if what not in self._troubles:
            self._troubles.add(what)
            log.error("journal failed, retrying every second", extra=fields(path=self.path, error=what))

    def _succeeded(self) -> None:
        """Log the end of failures."""
        if self._troubles:
            self._troubles.clear()
            log.info("journal is written again", extra=fields(path=self.path))


def _open_and_check(path: Path) -> Journal:
    journal = Journal(path)
    try:
        journal.check()
    except BaseException:
        journal.close()
        raise
    return journal


def _verify(journal: Journal, *, check: bool) -> bool:
    if check:
        journal.check()
    else:
        journal.verify()
    return True


def _known(path: Path, scale_sets: Collection[ScaleSet]) -> tuple[dict[str, Snapshot], list[Exception]]:
    """Return what was last known, by id, and why the rows of some scale sets cannot be read."""
    with reading(path) as journal:
        return journal.known(scale_sets), list(journal.unreadable.values())
