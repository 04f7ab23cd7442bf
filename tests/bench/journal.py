"""The journal: processor time a poll, bytes on the disk, and what a restart takes.

All threads count. Each poll goes through the recorder as the daemon drives it; how many changes share a transaction
is what its ring of a second brings together.
"""

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time

from exporter.families import FAMILIES, JOURNAL_FAMILIES
from exporter.history import History, Progress, UpgradeState
from exporter.recorder import Recorder
from exporter.scale_set import difference
from exporter.snapshot import after_success
from exporter.store import Store
from exporter.telemetry import Telemetry

from . import fleet
from .report import Row, number_of

GOAL_MS = 1.0
UPGRADES = 10_000
CHANGES = 10
"""Of each upgrade, where their size is measured: a rollout seen now and then."""
KEEP_SECONDS = 63_072_000.0


class Recording:
    """A fleet whose polls are recorded."""

    def __init__(self, folder: str, number: int) -> None:
        self.scale_sets = fleet.scale_sets(number)
        self.store = Store(FAMILIES + JOURNAL_FAMILIES)
        self.store.apply(difference((), self.scale_sets))
        self.path = Path(folder, "journal.sqlite")
        self.recorder = Recorder(self.path, KEEP_SECONDS, self.store, Telemetry())
        self._now = 1_800_000_000.0

    async def polls(self, histories: Sequence[History], together: int) -> float:
        """Let a poll of each scale set find a history; return the processor time of the journal's part, a poll, in ms."""
        spent = 0.0
        for index, (scale_set, history) in enumerate(zip(self.scale_sets, histories, strict=False), start=1):
            self._now += 1.0
            before = self.store[scale_set.id]
            after = after_success(before, history, self._now)
            self.store.write(after)
            started = process_time()
            self.recorder.record(before, after)
            if index % together == 0:
                await self.recorder.flush()
            spent += process_time() - started
        started = process_time()
        await self.recorder.flush()
        return (spent + process_time() - started) / len(histories) * 1e3

    async def times(self) -> float:
        """Have the times of all polls written; return the processor time in ms."""
        started = process_time()
        await self.recorder.note_times()
        await self.recorder.flush()
        return (process_time() - started) * 1e3

    def bytes(self) -> int:
        """Return how large the file is, with all that waits beside it."""
        return sum(file.stat().st_size for file in self.path.parent.iterdir())


def journal(*, quick: bool) -> Iterator[Row]:
    """Measure what the journal costs."""
    with tempfile.TemporaryDirectory() as folder:
        yield from asyncio.run(_costs(folder, 100 if quick else 1000))
    with tempfile.TemporaryDirectory() as folder:
        yield asyncio.run(_size(folder, 1_000 if quick else UPGRADES))
    with tempfile.TemporaryDirectory() as folder:
        yield from asyncio.run(_restart(folder, 1_000 if quick else 10_000))


async def _costs(folder: str, number: int) -> list[Row]:
    recording = Recording(folder, number)
    await recording.recorder.open()
    generations = [[fleet.history(index, age) for index in range(number)] for age in range(3)]
    first = await recording.polls(generations[0], together=50)
    alone = await recording.polls(generations[1], together=1)
    many = await recording.polls(generations[2], together=50)
    size = recording.bytes()
    nothing = await recording.polls(generations[2], together=50)
    written = recording.bytes() - size
    await recording.recorder.close()
    goal = f"{GOAL_MS:g} ms or less"
    return [
        _row("a poll that finds new upgrades, alone in its transaction", alone, goal),
        _row("  50 such polls together", max(first, many), goal),
        _row("a poll that finds nothing new", nothing, goal),
        Row("  bytes written by it", f"{written / number:g}", goal="none", met=written == 0),
    ]


def _row(measure: str, milliseconds: float, goal: str) -> Row:
    indented = measure.startswith("  ")
    name = measure if indented else f"journal, {measure}"
    return Row(name, f"{number_of(milliseconds * 1e3)} us", goal=goal, met=milliseconds <= GOAL_MS)


async def _size(folder: str, upgrades: int) -> Row:
    recording = Recording(folder, upgrades // 5)
    await recording.recorder.open()
    for step in range(CHANGES):
        histories = [_rollout(index * 5, step) for index in range(upgrades // 5)]
        await recording.polls(histories, together=500)
    await recording.recorder.close()
    size = recording.bytes() / upgrades * UPGRADES / 1e6
    return Row(f"  size of {UPGRADES:,} upgrades, {CHANGES} changes each", f"{size:.1f} MB")


def _rollout(index: int, step: int) -> History:
    """Return five upgrades in the same step."""
    state = UpgradeState.COMPLETED if step == CHANGES - 1 else UpgradeState.ROLLING_FORWARD
    progress = Progress(step, 0, 1, CHANGES - step)
    upgrades = fleet.history(index).upgrades
    return History(tuple(replace(upgrade, state=state, progress=progress) for upgrade in upgrades))


async def _restart(folder: str, number: int) -> list[Row]:
    recording = Recording(folder, number)
    await recording.recorder.open()
    await recording.polls([fleet.history(index) for index in range(number)], together=500)
    await recording.times()
    for known in list(recording.store.snapshots()):
        recording.store.write(replace(known, last_poll=1_900_000_000.0, last_success=1_900_000_000.0))
    times = await recording.times()
    started = perf_counter()
    for index in range(0, number, 128):
        await recording.recorder.remember(recording.scale_sets[index : index + 128])
    took = perf_counter() - started
    await recording.recorder.close()
    return [
        Row(f"  when {number:,} were last polled, once a minute", f"{number_of(times)} ms"),
        Row(f"  reading what is known of {number:,} at a start, wall time", f"{number_of(took * 1e3)} ms"),
    ]
