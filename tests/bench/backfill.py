"""Backfill: samples a second, and the peak memory, which must not grow with the span.

Each span is written by a process of its own, to nowhere, by the command's own writer.
"""

import json
import os
import sys
from collections.abc import Iterator
from time import perf_counter

from exporter.backfill import ACTIVE_STEP, REST_STEP, Past, Span, changes, write
from exporter.history import History, Image, Progress, Upgrade, UpgradeState

from . import fleet
from .child import line, memory_mib, python, running
from .report import Row, number_of

DAY = 86_400.0
END = 1_790_000_000.0
GROWTH_GOAL = 1.05


def backfill(*, quick: bool) -> Iterator[Row]:
    """Measure a span of 60 days, and one of six for its memory."""
    number = 100 if quick else 1_000
    long, short = (_written(number, days) for days in (60, 6))
    title = f"backfill of {number:,} scale sets"
    yield Row(f"{title}, 60 days", f"{number_of(long['rate'] / 1e6)} million samples a second")
    yield Row("  samples, bytes", f"{long['samples'] / 1e6:,.0f} million, {long['bytes'] / 1e9:.1f} GB")
    growth = long["peak"] / short["peak"]
    yield Row(
        f"{title}, peak memory of 60 days against 6",
        f"{number_of(long['peak'])} MiB",
        f"{number_of(short['peak'])} MiB",
        f"{growth:.2f}",
        f"{GROWTH_GOAL:g} or less",
        growth <= GROWTH_GOAL,
    )


def _written(number: int, days: int) -> dict[str, float]:
    with running(*python("tests.bench.backfill", str(number), str(days))) as process:
        return dict(json.loads(line(process)))


# --- In the process that writes ----------------------------------------------------------------------------


def _main(number: int, days: int) -> None:
    span = Span(END - days * DAY, END, REST_STEP, ACTIVE_STEP)
    pasts = [
        Past(scale_set, changes(History(tuple(_upgrades(index)))))
        for index, scale_set in enumerate(fleet.scale_sets(number))
    ]
    started = perf_counter()
    samples = size = 0
    for piece in write(pasts, span):
        samples += piece.count(b"\n")
        size += len(piece)
    seconds = perf_counter() - started
    said = {
        "samples": samples,
        "bytes": size,
        "rate": samples / seconds,
        "peak": memory_mib(os.getpid(), "VmHWM"),
    }
    print(json.dumps(said), flush=True)


def _upgrades(index: int) -> Iterator[Upgrade]:
    for age in range(5):
        start = END - (age * 12 + 1) * DAY - index * 7.0
        image = Image("Canonical", "0001-com-ubuntu-server-jammy", "22_04-lts-gen2", "latest", f"22.04.{age}")
        yield Upgrade(
            UpgradeState.COMPLETED,
            start,
            start + 3000.0,
            Progress(20, 0, 0, 0),
            started_by="Platform",
            image=image,
        )


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]))
