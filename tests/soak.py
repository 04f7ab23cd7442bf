"""``python -m tests.soak [--minutes N] [--scale-sets N]``: a large fleet for a while, and what the process holds over time.

The exporter discovers and polls a simulated Azure in another process, whose upgrades go 60 times as fast as Azure's,
keeps a journal, and is scraped all the while. Printed is a line every ten seconds, and in the end whether memory still
grows after the warm-up: the slope of a straight line through the least of each minute, and how steep chance alone may
make it. A leak raises the least, too; a search that is being read raises only the rest. Asserts nothing about times.
"""

import asyncio
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import correlation, linear_regression
from time import monotonic, time

from exporter.simulator.fleet import Fleet
from exporter.simulator.server import config_for
from tests.e2e.test_end_to_end import samples_of
from tests.processes import Exporter, exporter, running_simulator
from tests.watched import Figures, told

SCALE_SETS_PER_SUBSCRIPTION = 250
INTERVAL = "60s"
EVERY_SECONDS = 10.0
WARM_UP_SHARE = 0.3
"""Of the time: until every scale set has been polled a few times, and the allocator has what it needs."""
READY_SECONDS = 180.0
MIB = 2**20
BEYOND_BY_CHANCE = {
    1: 63.66, 2: 9.92, 3: 5.84, 4: 4.60, 5: 4.03, 6: 3.71, 7: 3.50, 8: 3.36, 9: 3.25, 10: 3.17, 12: 3.05, 15: 2.95,
    20: 2.85, 30: 2.75, 60: 2.66, 120: 2.62,
}  # fmt: skip
"""By degrees of freedom: the standard errors that one slope in a hundred is beyond, up or down, where nothing grows.

Student's t. Ten minutes leave seven points, so five degrees: of the three that a clean run is judged by, one goes up
beyond 4.03 in one run of 67.
"""
HEADER = "seconds  resident MiB    blocks  large MiB  descriptors  sockets  tasks  late ms (99 %)  late ms (most)    polls  scrape ms"


@dataclass(frozen=True, slots=True)
class Moment:
    """What was measured at one moment."""

    seconds: float
    figures: Figures
    polls: int
    scrape_seconds: float

    def __str__(self) -> str:
        held = self.figures
        return (
            f"{self.seconds:7.0f}  {held.resident / MIB:12.1f}  {held.blocks:8}  {held.large / MIB:9.1f}"
            f"  {held.descriptors:11}  {held.sockets:7}  {held.tasks:5}  {held.late_p99_ms:14.1f}  {held.late_ms:14.1f}"
            f"  {self.polls:7}  {self.scrape_seconds * 1e3:9.0f}"
        )


@dataclass(frozen=True, slots=True)
class Trend:
    """A straight line through measurements."""

    each_hour: float
    error: float
    """Of ``each_hour``: the standard error of the slope."""
    freedom: int
    """Degrees of it: the points that there are beyond the two that make a line."""

    @property
    def noise(self) -> float:
        """What ``each_hour`` may be by chance; one in a hundred is more, or less than its negative."""
        fewer = max(degrees for degrees in BEYOND_BY_CHANCE if degrees <= self.freedom)
        return BEYOND_BY_CHANCE[fewer] * self.error

    @property
    def nil(self) -> bool:
        """Whether it cannot be told from none."""
        return abs(self.each_hour) <= self.noise


def trend(seconds: Sequence[float], values: Sequence[float]) -> Trend:
    """Return the slope of ``values`` (ordinary least squares); three points at least."""
    slope, _ = linear_regression(seconds, values)
    freedom = len(values) - 2
    if len(set(values)) == 1:
        return Trend(0.0, 0.0, freedom)
    fit = correlation(seconds, values) ** 2
    error = abs(slope) * ((1 / fit - 1) / freedom) ** 0.5 if fit else float("inf")
    return Trend(slope * 3600, error * 3600, freedom)


def least_of_each_minute(
    seconds: Sequence[float], values: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Return of each minute the least value, and when it was measured: first the times, then the values."""
    least: dict[int, tuple[float, float]] = {}
    for at, value in zip(seconds, values, strict=True):
        minute = int(at // 60)
        least[minute] = min(least.get(minute, (value, at)), (value, at))
    return [at for _, at in least.values()], [value for value, _ in least.values()]


async def soak(minutes: float, scale_sets: int) -> list[Moment]:
    """Run, and print as it goes."""
    moments: list[Moment] = []
    subscriptions = max(1, scale_sets // SCALE_SETS_PER_SUBSCRIPTION)
    fleet = Fleet(
        epoch=time(), subscriptions=subscriptions, scale_sets=scale_sets
    )  # as the simulator's: same seed
    with tempfile.TemporaryDirectory() as folder:
        async with running_simulator(
            f"--simulator.scale-sets={scale_sets}",
            f"--simulator.subscriptions={subscriptions}",
        ) as url:
            file, fast = Path(folder, "config.yaml"), "interval: 5s, active_interval: 5s"
            config = config_for(fleet, url, discovering=True)
            journal = f"journal: {{path: '{folder}/journal.sqlite'}}\n"
            file.write_text(config.replace(fast, fast.replace("5s", INTERVAL)) + journal)
            async with exporter(
                f"--config.file={file}",
                module="tests.watched",
                WATCH_SECONDS=str(EVERY_SECONDS),
                IDENTITY_ENDPOINT=f"{url}/token",
                IDENTITY_HEADER="soak",
            ) as daemon:
                await daemon.until_ready(READY_SECONDS)
                print(HEADER, flush=True)
                started = monotonic()
                while (now := monotonic() - started) < minutes * 60:
                    moments.append(await _moment(daemon, now))
                    print(moments[-1], flush=True)
    return moments


async def _moment(daemon: Exporter, seconds: float) -> Moment:
    known = len(daemon.log)
    while not (figures := [found for line in daemon.log[known:] if (found := told(line))]):
        await asyncio.sleep(0.1)
    asked = monotonic()
    status, body = await daemon.get("/metrics")
    took = monotonic() - asked
    assert status == 200, body
    own = body[body.index("# HELP vmss_upgrade_exporter_") :]
    polls = [
        value
        for (name, _), value in samples_of(own, "text").items()
        if name == "vmss_upgrade_exporter_polls_total"
    ]
    return Moment(seconds, figures[0], int(sum(polls)), took)


def main() -> int:
    """Run; 1 if memory still grows after the warm-up."""
    parser = ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (10)")
    parser.add_argument("--scale-sets", type=int, default=10_000, help="how many (10000)")
    flags = parser.parse_args()
    moments = asyncio.run(soak(flags.minutes, flags.scale_sets))
    warm = [moment for moment in moments if moment.seconds >= flags.minutes * 60 * WARM_UP_SHARE]
    grows = False
    for name, unit, values in (
        ("resident memory", "MiB", [moment.figures.resident / MIB for moment in warm]),
        ("blocks of Python's", "", [float(moment.figures.blocks) for moment in warm]),
        ("allocated beside them", "MiB", [moment.figures.large / MIB for moment in warm]),
    ):
        seconds, least = least_of_each_minute([moment.seconds for moment in warm], values)
        if len(least) < 3:
            print("too short to tell")
            return 1
        found = trend(seconds, least)
        grows = grows or (found.each_hour > 0 and not found.nil)
        said = "none within noise" if found.nil else "NOT NIL"
        print(
            f"{name}: slope {found.each_hour:+,.1f} {unit} an hour, of which {found.noise:,.1f} may be noise: {said}"
        )
    return 1 if grows else 0


if __name__ == "__main__":
    sys.exit(main())
