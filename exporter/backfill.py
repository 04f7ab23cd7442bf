"""Past upgrades as OpenMetrics with timestamps, for ``promtool tsdb create-blocks-from openmetrics``.

Theory of operation. A past is what was known of one scale set, as changes in time: which upgrade was the latest, in
what state. Between two changes every sample is constant, so a series is written as runs of one value, at the times
of a grid: ``step`` apart, closer while an upgrade runs. A family is complete before the next begins, and within it a
series, as OpenMetrics demands; nothing is gathered, so memory does not grow with the span.

What nobody has seen is not made up: of an upgrade that Azure tells of only in hindsight, the counts while it ran are
unknown and have no samples then. Pure, but for the command at the end.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from math import ceil, floor, inf
from pathlib import Path

from exporter import signals
from exporter.config import Config
from exporter.families import FAMILIES, IDENTITY, Family, render
from exporter.history import ApiError, History, Upgrade, UpgradeState
from exporter.journal import Change as Seen
from exporter.journal import DamagedError, Recorded, reading, refuse_other_file
from exporter.log import fields
from exporter.once import draw, everything_polled, opened, raise_for
from exporter.scale_set import ScaleSet, Shard
from exporter.snapshot import Snapshot

log = logging.getLogger(__name__)

NAMES = (
    "state",
    "instances",
    "rolled_back_instances",
    "info",
    "start_timestamp_seconds",
    "end_timestamp_seconds",
)
LABEL_CHARACTERS = 1023
"""Maximum length of a label's value, as Azure Managed Prometheus takes it."""
LABELS = 63
"""Maximum number of labels of a series, its name included, as Azure Managed Prometheus takes them."""
ACTIVE_STEP, REST_STEP = 60.0, 300.0
GRID_PART = 1024


@dataclass(frozen=True, slots=True)
class Change:
    """From when on something else was true."""

    at: float
    """Seconds since the epoch."""
    latest: Upgrade | None
    """The latest upgrade as it was then; ``None`` where that is not known."""


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of one scale set's past."""

    scale_set: ScaleSet
    changes: tuple[Change, ...]
    """In the order of time."""


@dataclass(frozen=True, slots=True)
class Span:
    """Which times are written. All are seconds, ``start`` and ``end`` since the epoch."""

    start: float
    end: float
    step: float
    active_step: float
    """While an upgrade runs."""

    def stamps(self, since: float, until: float, step: float) -> Iterator[Sequence[bytes]]:
        """Yield the times to write of what was true from ``since`` to before ``until``: at once, then on the grid."""
        since, until = max(since, self.start), min(until, self.end)
        if since >= until:
            return
        yield (b"%.3f" % since,)
        first, end = floor(since / step) + 1, ceil(until / step)
        first += first * step - since < _MILLISECOND
        for part in range(first // GRID_PART, (end - 1) // GRID_PART + 1):
            start = part * GRID_PART
            yield _grid(part, step)[max(first - start, 0) : end - start]


@lru_cache(maxsize=64)
def _grid(part: int, step: float) -> tuple[bytes, ...]:
    """Return some times of a grid; all series share them."""
    return tuple([b"%.3f" % (number * step) for number in range(part * GRID_PART, (part + 1) * GRID_PART)])


_MILLISECOND = 0.001


def changes(history: History, recorded: Iterable[Recorded] = ()) -> tuple[Change, ...]:
    """Return what was true when, by what Azure tells of now and what the journal saw.

    An upgrade is the latest from its start to the start of the next one.
    """
    told = {upgrade.start: upgrade for upgrade in reversed(history.upgrades) if upgrade.start is not None}
    known = {each.upgrade.start: each for each in recorded if each.upgrade.start is not None}
    starts = sorted(told.keys() | known.keys())
    return tuple(
        change
        for start, superseded in pairwise([*starts, inf])
        for change in _of_upgrade(start, told.get(start), known.get(start))
        if change.at < superseded
    )


def _of_upgrade(start: float, told: Upgrade | None, recorded: Recorded | None) -> Iterator[Change]:
    seen = _as_seen(recorded) if recorded is not None else []
    yield from seen
    if told is None:
        return
    if not seen:
        yield from _in_hindsight(start, told)
    elif told.state.finished and told.end is not None and told.state is not _state(seen[-1]):
        yield Change(max(told.end, seen[-1].at), told)  # while no exporter ran


def _state(change: Change) -> UpgradeState | None:
    return change.latest.state if change.latest is not None else None


def _in_hindsight(start: float, upgrade: Upgrade) -> Iterator[Change]:
    """Yield what an upgrade tells of its own past: it ran from its start to its end."""
    if upgrade.state.active:
        yield Change(start, _running(upgrade))
    elif upgrade.end is None:
        yield Change(start, None)  # it ended, nobody knows when
    else:
        yield Change(start, _running(upgrade))
        yield Change(max(upgrade.end, start), upgrade)


def _running(upgrade: Upgrade) -> Upgrade:
    """Return an upgrade as it must have been when it had begun: of counts and errors nothing is known."""
    return replace(
        upgrade, state=UpgradeState.ROLLING_FORWARD, end=None, progress=None, error=None, rollback=None
    )


def _as_seen(recorded: Recorded) -> list[Change]:
    """Return an upgrade's changes as polls saw them; what is known of the time before the first by hindsight."""
    start = recorded.upgrade.start or 0.0
    first, *others = [(change, _as_it_was(recorded, change)) for change in recorded.changes]
    seen = [*_in_hindsight(start, first[1])]
    if first[1].state.active:
        seen.append(Change(max(first[0].seen, start), first[1]))
    for change, upgrade in others:
        ended = change.end if change.end is not None and change.end <= change.seen else change.seen
        seen.append(Change(max(ended if upgrade.state.finished else change.seen, seen[-1].at), upgrade))
    return seen


def _as_it_was(recorded: Recorded, change: Seen) -> Upgrade:
    """Return an upgrade with what was true at a change, and of the rest what is known in the end."""
    error = ApiError(change.error_code, change.error_message)
    return replace(
        recorded.upgrade,
        state=change.state,
        end=change.end,
        progress=change.progress,
        rollback=change.rollback,
        error=error if error != ApiError() else None,
    )


def write(pasts: Sequence[Past], span: Span, told: Callable[[int], None] = lambda _: None) -> Iterator[bytes]:
    """Yield an OpenMetrics document; ``told`` hears how many scale sets of how many families are done."""
    done = 0
    for family in _families():
        yield family.header
        for past in pasts:
            yield from _of_scale_set(family, past, span)
            done += 1
            told(done)
    yield b"# EOF\n"


def steps(pasts: Sequence[Past]) -> int:
    """Return how far ``told`` counts."""
    return len(pasts) * len(NAMES)


def label_faults(labels: Sequence[tuple[str, str]]) -> list[str]:
    """Return why these labels cannot be added to the samples, one line for each fault.

    promtool refuses a whole file for one label that is there twice.
    """
    families = tuple(_families())
    taken = {*IDENTITY, *(name for family in families for name in family.labels)}
    widest = 1 + len(IDENTITY) + max(len(family.labels) for family in families)
    names = [name for name, _ in labels]
    faults = []
    for name in dict.fromkeys(names):
        if name.startswith("__"):
            faults.append(
                f"--label={name}=...: names that begin with __ are reserved by Prometheus, choose another name"
            )
        if name in taken:
            faults.append(f"--label={name}=...: the samples have this label already, choose another name")
        if names.count(name) > 1:
            faults.append(f"--label={name}=...: is given {names.count(name)} times, give it once")
    faults += [
        f"--label={name}=...: must have at most {LABEL_CHARACTERS} characters, not {len(value)}"
        for name, value in labels
        if len(value) > LABEL_CHARACTERS
    ]
    if len(names) > LABELS - widest:
        faults.append(
            f"--label: at most {LABELS - widest}, not {len(names)}: a series has at most {LABELS} labels in all"
        )
    return faults


def _families() -> Iterator[Family]:
    by_name = {family.name: family for family in FAMILIES}
    for name in NAMES:
        yield replace(by_name[f"azure_vmss_os_upgrade_{name}"], own_labels=True)


def _of_scale_set(family: Family, past: Past, span: Span) -> Iterator[bytes]:
    """Yield the samples of one scale set in one family, series by series."""
    spells = [
        (change, until, dict(_samples(family, past.scale_set, change.latest)))
        for change, until in zip(past.changes, (*(each.at for each in past.changes[1:]), inf), strict=False)
        if change.at < span.end and until > span.start and until - change.at >= _MILLISECOND
    ]
    for series in dict.fromkeys(series for _, _, values in spells for series in values):
        for change, until, values in spells:
            if series in values and change.latest is not None:
                step = span.active_step if change.latest.state.active else span.step
                head = series + b" " + values[series] + b" "
                for stamps in filter(None, span.stamps(change.at, until, step)):
                    yield head + (b"\n" + head).join(stamps) + b"\n"


def _samples(family: Family, scale_set: ScaleSet, latest: Upgrade | None) -> Iterator[tuple[bytes, bytes]]:
    """Yield series and value of each sample."""
    if latest is None:
        return
    (lines,) = render([family], Snapshot(scale_set, scale_set.interval, History((latest,))))
    for line in lines.split(b"\n")[:-1]:  # a value may hold what else ends a line elsewhere
        series, _, value = line.rpartition(b" ")
        yield series, value


def backfill(
    read: Callable[[], Config],
    shard: Shard,
    span: Span,
    labels: Sequence[tuple[str, str]],
    output: Path | None,
) -> None:
    """Ask Azure, and the journal where there is one, for every history; write its past to ``output`` or standard output.

    Scale sets that only the journal still knows of are among them.

    Raises what ``read`` raises, and ``OSError`` where the output cannot be written, where the journal is damaged or
    where polls failed: what was learned has been written then all the same.
    """
    config = read()
    recorded, damage = (
        remembered(config.journal.path, shard, span) if config.journal is not None else ({}, [])
    )
    snapshots, failures = asyncio.run(_polled(lambda: config, shard))
    known = {each.scale_set.id: each for each in snapshots if each.history is not None}
    forgotten = {key: scale_set for key, (scale_set, _) in recorded.items() if key not in known}
    pasts = []
    for key in sorted(known.keys() | forgotten.keys()):
        scale_set = known[key].scale_set if key in known else forgotten[key]
        history = known[key].history if key in known else None
        _, upgrades = recorded.get(key, (scale_set, []))
        labelled = replace(scale_set, labels=tuple(labels))
        pasts.append(Past(labelled, changes(history or History(), upgrades)))
    with opened(output) as file:
        file.writelines(_drawn(pasts, span))
    raise_for(damage + failures)


async def _polled(read: Callable[[], Config], shard: Shard) -> tuple[tuple[Snapshot, ...], list[str]]:
    """Return what polls told and what failed; what follows needs no event loop, so that Ctrl-C ends it at once."""
    async with everything_polled(read, shard) as daemon:
        return daemon.snapshots(), daemon.failures()


def _drawn(pasts: Sequence[Past], span: Span) -> Iterator[bytes]:
    """Yield what is to be written, and draw how far it is."""
    done, of = 0, steps(pasts)

    def told(now_done: int) -> None:
        nonlocal done
        done = now_done
        if done % max(1, of // 200) == 0:
            draw(sys.stderr, done, of, "parts written")

    with signals.cleaning_up(lambda: draw(sys.stderr, done, of, "parts written", last=True)):
        yield from write(pasts, span, told)


def remembered(
    path: Path, shard: Shard, span: Span
) -> tuple[dict[str, tuple[ScaleSet, list[Recorded]]], list[str]]:
    """Return what the journal holds of a shard by the scale sets' ids: the upgrades that were the latest in the span.

    Where there is no file, because no daemon has run yet, that is nothing. Raises ``OSError`` where it cannot be read.

    Nothing is used of a damaged journal, nor of a scale set that has a damaged row: an upgrade that is missing between
    two others would make the one before it the latest for too long. The second value is the warning about that.
    """
    found: dict[str, tuple[ScaleSet, list[Recorded]]] = {}
    refuse_other_file(path)
    try:
        with reading(path) as journal:
            for each in journal.all_upgrades():
                scale_set = ScaleSet(each.subscription_id, each.resource_group, each.name, 0.0)
                start = each.upgrade.start or 0.0
                if start < span.end and shard.holds(scale_set):
                    _, upgrades = found.setdefault(scale_set.id, (scale_set, []))
                    if start <= span.start:
                        upgrades.clear()  # those were superseded before
                    upgrades.append(each)
            unreadable = journal.unreadable
    except FileNotFoundError:
        log.warning("no journal, only what Azure tells of is written", extra=fields(path=path))
        return {}, []
    except DamagedError as error:
        return {}, [f"{path}: {error.strerror}: wrote what Azure returned, and nothing from the journal"]
    for key in unreadable:
        found.pop(key, None)
    return found, [
        f"{path}: {key}: {error}: wrote what Azure returned for this scale set, and nothing from the journal"
        for key, error in unreadable.items()
    ]
