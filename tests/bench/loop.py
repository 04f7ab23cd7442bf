"""Stalls of the event loop, and polls lost, while a large fleet is polled and scraped.

The whole daemon runs in a process of its own: clock, plans, poller, store, web. In one case Azure's answers are
decoded from memory after a wait, in the other the real client fetches them from another process, and two cores may
not carry that. A stall is what a task that sleeps for a millisecond oversleeps; beside it stands what of it this
thread spent working, the rest is the machine's, or a thread's that held the interpreter.
"""

import asyncio
import gc
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import monotonic, perf_counter, process_time, sleep, thread_time
from unittest.mock import patch

from exporter.address import Address
from exporter.azure.client import Answer, Client
from exporter.config import load
from exporter.daemon import Daemon
from exporter.log import configure
from exporter.plan import Plan, Turn
from exporter.scale_set import ScaleSet, Shard

from . import fleet
from .azure import azure
from .child import line, python, running
from .load import Connection
from .report import Row, number_of

SCALE_SETS = 10_000
INTERVAL_SECONDS = 10.0
"""Which makes a thousand polls a second."""
SCRAPE_SECONDS = 15.0
READY_SECONDS = 60.0
AZURE_SECONDS = 0.03
STALL_GOAL_MS = 20.0
HEARTBEAT_SECONDS = 0.001


def loop(*, quick: bool) -> Iterator[Row]:
    """Measure both cases."""
    with azure() as endpoint:
        yield from _case("answers from memory", "memory", endpoint, 20.0 if quick else 45.0, goals=True)
        if not quick:
            yield from _case("real client, Azure in another process", "network", endpoint, 30.0, goals=False)


def _case(title: str, mode: str, endpoint: str, seconds: float, *, goals: bool) -> Iterator[Row]:
    signing_in = {"IDENTITY_ENDPOINT": f"{endpoint}/token", "IDENTITY_HEADER": "bench"}
    with running(*python("tests.bench.loop", mode, endpoint, str(seconds)), env=signing_in) as process:
        port = int(line(process))
        line(process)  # settled
        scrapes = []
        with Connection(port) as connection:
            for _ in range(int(seconds / SCRAPE_SECONDS)):
                sleep(SCRAPE_SECONDS / 2)
                asked = perf_counter()
                connection.get("/metrics", gzip=True)
                scrapes.append(perf_counter() - asked)
                sleep(SCRAPE_SECONDS / 2)
        said = json.loads(line(process))
    stall, lost = said["stall_ms"], said["lost"]
    yield Row(f"event loop at {SCALE_SETS:,}: {title}", "")
    yield Row(
        "  longest stall",
        f"{number_of(stall)} ms",
        goal=f"{STALL_GOAL_MS:g} ms or less" if goals else "",
        met=stall <= STALL_GOAL_MS if goals else None,
    )
    yield Row(
        "  polls lost",
        f"{lost} of {said['polls']:,}",
        goal="0" if goals else "",
        met=lost == 0 if goals else None,
    )
    yield Row("  of the longest stall, this thread at work", f"{number_of(said['stall_work_ms'])} ms")
    yield Row("  stalls above 10 ms / 20 ms", f"{said['above_10']} / {said['above_20']}")
    pauses = " / ".join(number_of(said["gc_ms"].get(str(generation), 0.0)) for generation in range(3))
    yield Row("  longest garbage collection, by generation", f"{pauses} ms")
    yield Row("  polls carried, of 1,000 a second", f"{number_of(said['polls'] / seconds)}")
    yield Row("  processor time", f"{said['processor']:.0%} of a core")
    yield Row("  longest scrape (gzip)", f"{number_of(max(scrapes) * 1e3)} ms")


# --- In the process that is measured -----------------------------------------------------------------------


class Stalls:
    """What a heartbeat oversleeps, and how long garbage collections take."""

    def __init__(self, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        self._heartbeat_seconds = heartbeat_seconds
        self.stalls: list[tuple[float, float]] = []
        """Seconds overslept, and of them seconds that this thread was at work."""
        self.collections: dict[int, float] = {}
        self._collecting = 0.0

    async def beat(self, until: float) -> None:
        """Watch until then."""
        gc.callbacks.append(self._collect)
        then, worked = monotonic(), thread_time()
        while then < until:
            await asyncio.sleep(self._heartbeat_seconds)
            now, work = monotonic(), thread_time()
            self.stalls.append((now - then - self._heartbeat_seconds, work - worked))
            then, worked = now, work
        gc.callbacks.remove(self._collect)

    def _collect(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collecting = perf_counter()
        else:
            generation = info["generation"]
            took = perf_counter() - self._collecting
            self.collections[generation] = max(took, self.collections.get(generation, 0.0))


@contextmanager
def _dues() -> Iterator[Callable[[], dict[str, list[float]]]]:
    """Note when each scale set that is polled had come due."""
    dues: dict[str, list[float]] = defaultdict(list)
    take = Plan.take

    def noting(self: Plan, now: float, at_most: int) -> Turn:
        turn = take(self, now, at_most)
        for due in turn.polls:
            dues[due.scale_set_id].append(due.since)
        return turn

    def taken() -> dict[str, list[float]]:
        seen = {key: list(values) for key, values in dues.items()}
        for values in dues.values():
            del values[:-1]
        return seen

    with patch.object(Plan, "take", noting):
        yield taken


@contextmanager
def _answers_from_memory() -> Iterator[None]:
    bodies = {
        scale_set.id: fleet.answer(index, fleet.upgrades_of(index)).decode()
        for index, scale_set in enumerate(fleet.scale_sets(SCALE_SETS))
    }

    async def upgrade_history(_self: Client, scale_set: ScaleSet, *_: object) -> Answer:
        await asyncio.sleep(AZURE_SECONDS)
        return Answer((json.loads(bodies[scale_set.id]),), "", "")

    with patch.object(Client, "upgrade_history", upgrade_history):
        yield


async def _daemon(endpoint: str, seconds: float, taken: Callable[[], dict[str, list[float]]]) -> None:
    scale_sets = fleet.scale_sets(SCALE_SETS, INTERVAL_SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.yaml")
        file.write_text(fleet.configuration(endpoint, scale_sets, f"{INTERVAL_SECONDS:g}s"))
        daemon = Daemon(partial(load, file), Shard())
    try:
        [address] = await daemon.listen([Address("127.0.0.1", 0)], "/metrics")
        print(address.rpartition(":")[2], flush=True)
        await daemon.start()
        async with asyncio.timeout(READY_SECONDS):
            while not daemon.ready:
                await asyncio.sleep(0.1)
        await asyncio.sleep(2 * INTERVAL_SECONDS)  # until each keeps its phase
        taken()
        print("settled", flush=True)
        watch, worked = Stalls(), process_time()
        await watch.beat(monotonic() + seconds)
        worked = process_time() - worked
        dues = taken()
    finally:
        await daemon.end()
    rounds = [
        round((later - earlier) / INTERVAL_SECONDS)
        for each in dues.values()
        for earlier, later in pairwise(each)
    ]
    longest = max(watch.stalls)
    said = {
        "stall_ms": longest[0] * 1e3,
        "stall_work_ms": longest[1] * 1e3,
        "above_10": sum(stall > 0.010 for stall, _ in watch.stalls),
        "above_20": sum(stall > 0.020 for stall, _ in watch.stalls),
        "gc_ms": {generation: took * 1e3 for generation, took in watch.collections.items()},
        "polls": sum(len(each) - 1 for each in dues.values()),
        "lost": sum(max(0, each - 1) for each in rounds),
        "processor": worked / seconds,
    }
    print(json.dumps(said), flush=True)


def _main(mode: str, endpoint: str, seconds: str) -> None:
    configure("error", "logfmt")
    with _dues() as taken:
        if mode == "network":
            asyncio.run(_daemon(endpoint, float(seconds), taken))
        else:
            with _answers_from_memory():
                asyncio.run(_daemon(endpoint, float(seconds), taken))


if __name__ == "__main__":
    _main(*sys.argv[1:])
