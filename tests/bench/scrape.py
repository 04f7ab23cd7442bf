"""A scrape against prometheus_client's ``generate_latest`` over the same samples, in processor time.

A scrape here is all that makes the body, in the chunks that are written, up to where the socket takes them. Before
each, every scale set has been polled again. What a poll renders is paid at the poll, and stands in a row of its own.
"""

import asyncio
import gzip
from collections.abc import Awaitable, Callable, Iterator
from time import process_time, time

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from exporter.exposition import Exposition, Format
from exporter.families import FAMILIES, IDENTITY
from exporter.scale_set import difference
from exporter.snapshot import after_success
from exporter.store import Store
from exporter.telemetry import Telemetry
from exporter.web import chunks

from . import fleet
from .report import Pairs, Row, number_of

PLAIN_GOAL, GZIP_GOAL = 200, 40


class FleetCollector(Collector):
    """The same families, as one writes them with prometheus_client."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        for row in FAMILIES:
            gauge = GaugeMetricFamily(row.name, row.help, labels=IDENTITY + row.labels)
            for snapshot in self._store.snapshots():
                identity = snapshot.scale_set.identity
                own = dict(snapshot.scale_set.labels) if row.own_labels else {}
                for further, value in row.samples(snapshot):
                    gauge.add_metric((*identity, *further), value)
                    if own:
                        gauge.samples[-1].labels.update(own)
            yield gauge


class Collected(Collector):
    """Samples that are there already: what is left to do is ``generate_latest`` alone."""

    def __init__(self, collector: Collector) -> None:
        self._metrics = list(collector.collect())

    def collect(self) -> list[Metric]:
        return self._metrics


class Polled:
    """A fleet whose scale sets have all been polled, and can be polled again."""

    def __init__(self, number: int) -> None:
        self.scale_sets = fleet.scale_sets(number)
        self.store = Store()
        self.store.apply(difference((), self.scale_sets))
        self.telemetry = Telemetry()
        self.exposition = Exposition(self.store, self.telemetry)
        self._histories = [[fleet.history(index, age) for index in range(number)] for age in (0, 1)]
        self._generation = 0
        self._now = time()
        self.poll(upgrades_change=True)

    def poll(self, *, upgrades_change: bool) -> float:
        """Write a poll of every scale set; return the processor time for each, in microseconds."""
        self._now += 60.123
        self._generation = (self._generation + upgrades_change) % 2
        started = process_time()
        for index, scale_set in enumerate(self.scale_sets):
            history = self._histories[self._generation][index]
            self.store.write(after_success(self.store[scale_set.id], history, self._now + index / 1000))
        return (process_time() - started) / len(self.scale_sets) * 1e6

    def registry(self, collector: Collector) -> CollectorRegistry:
        """Return a registry with the fleet and the exporter's own metrics."""
        registry = CollectorRegistry()
        registry.register(collector)
        registry.register(self.telemetry.registry)
        return registry


def scrape(*, quick: bool) -> Iterator[Row]:
    """Measure scrapes of 1,000 and 10,000 scale sets."""
    with asyncio.Runner() as runner:
        for number, rounds in ((1_000, 5),) if quick else ((1_000, 9), (10_000, 3)):
            yield from _scrapes(runner.get_loop(), number, rounds)


def _scrapes(loop: asyncio.AbstractEventLoop, number: int, rounds: int) -> Iterator[Row]:
    polled = Polled(number)
    collector = FleetCollector(polled.store)
    fleet_alone = CollectorRegistry()
    fleet_alone.register(collector)
    if b"".join(polled.store.exposition()) != generate_latest(fleet_alone):
        raise SystemExit("ours and generate_latest give different bytes: there is nothing to compare")
    registry, collected = (polled.registry(each) for each in (collector, Collected(collector)))

    async def plain() -> None:
        for _ in chunks(polled.exposition.plain(Format.TEXT)):
            pass

    async def zipped() -> None:
        await polled.exposition.gzip(Format.TEXT)

    def ours(scrape_once: Callable[[], Awaitable[None]], *, upgrades_change: bool) -> None:
        rendering[upgrades_change].append(polled.poll(upgrades_change=upgrades_change))
        started = process_time()
        loop.run_until_complete(scrape_once())
        scrapes[scrape_once, upgrades_change].append((process_time() - started) * 1e3)

    cases = [(scrape_once, changed) for changed in (False, True) for scrape_once in (plain, zipped)]
    scrapes: dict[object, list[float]] = {case: [] for case in cases}
    rendering: dict[bool, list[float]] = {False: [], True: []}
    theirs: list[float] = []
    theirs_zipped: list[float] = []
    theirs_collected: list[float] = []
    loop.run_until_complete(zipped())
    for _ in range(rounds):
        for scrape_once, changed in cases:
            ours(scrape_once, upgrades_change=changed)
            polled.store.exposition()  # what the next does not poll is joined before
        started = process_time()
        body = generate_latest(registry)
        theirs.append((process_time() - started) * 1e3)
        gzip.compress(body)
        theirs_zipped.append((process_time() - started) * 1e3)
        started = process_time()
        generate_latest(collected)
        theirs_collected.append((process_time() - started) * 1e3)

    name = f"scrape of {number:,}"
    rested = scrapes[plain, False]
    yield Pairs(rested, theirs).row(f"{name}, identity", "ms", times_less=PLAIN_GOAL)
    yield Pairs(scrapes[zipped, False], theirs_zipped).row(f"{name}, gzip", "ms", times_less=GZIP_GOAL)
    yield Pairs(scrapes[plain, True], theirs).row("  identity, every family of each changed", "ms")
    yield Pairs(scrapes[zipped, True], theirs_zipped).row("  gzip, every family of each changed", "ms")
    yield Pairs(rested, theirs_collected).row("  identity, against generate_latest alone", "ms")
    size, lines = len(body), body.count(b"\n")
    yield Row("  its size", f"{size / 1e6:.1f} MB, {lines / number:.0f} lines each")
    at_rest, changed_too = (number_of(min(rendering[changed])) for changed in (False, True))
    yield Row("  paid at the poll for each, at rest / changed", f"{at_rest} / {changed_too} us")
