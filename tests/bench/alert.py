"""From a fault at Azure to the webhook of Alertmanager, through what ``deploy/`` ships, every interval at a second."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from shutil import which
from statistics import median
from time import monotonic

from exporter.simulator.fleet import ApiError, State
from tests.alerting import watch

from .report import Row

GOAL_SECONDS = 10.0
SETTLE_SECONDS = 10.0
"""Until Prometheus has scraped everything and evaluated its rules a few times."""
POLL_SECONDS = 5.0


def alert(*, quick: bool) -> Iterator[Row]:
    """Measure how long people wait for a critical alert; polls come every 5 seconds, as often as Azure allows."""
    if which("prometheus-alertmanager") is None:
        yield Row("fault at Azure to the webhook", "Alertmanager is not installed")
        return
    took = asyncio.run(_seconds(3 if quick else 12))
    yield Row(
        "fault at Azure to the webhook, wall time",
        f"{median(took):.1f} s",
        goal=f"{GOAL_SECONDS:.0f} s or less",
        met=median(took) <= GOAL_SECONDS,
    )
    yield Row(f"  the slowest of {len(took)}", f"{max(took):.1f} s")


async def _seconds(faults: int) -> list[float]:
    """Return how long each fault took, one after the other, each at some moment between two polls."""
    took = []
    random = Random(1)
    with tempfile.TemporaryDirectory() as folder:
        async with watch(Path(folder)) as watched:
            await asyncio.sleep(SETTLE_SECONDS)
            for scale_set in watched.scale_sets[:faults]:
                await asyncio.sleep(random.uniform(0, POLL_SECONDS))
                began = monotonic()
                watched.end_upgrade(
                    scale_set, State.FAULTED, ApiError("InternalExecutionError", "It failed.")
                )
                await watched.until_notified("firing", scale_set=scale_set.name.lower())
                took.append(monotonic() - began)
    return took
