"""The fleet that one process is meant for, polled at the pace that is meant: what it costs, and how late polls are.

The whole daemon runs in a process of its own, on its real configuration, against the simulator in another. Its start
is the busiest time: all are polled as soon as the budget allows, and then settle in their phases.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from math import inf
from pathlib import Path
from time import monotonic, process_time, sleep

from exporter.address import Address
from exporter.config import load
from exporter.daemon import Daemon
from exporter.log import configure
from exporter.scale_set import Shard

from . import simulated
from .child import line, memory_mib, python, running
from .fleet import configuration
from .load import Connection
from .loop import Stalls
from .report import Row, number_of

SCALE_SETS, SUBSCRIPTIONS = 10_000, 40
SHARE = 0.5
GRANTED_PER_MINUTE = 800
READY_SECONDS = 120.0
SETTLE_SECONDS = 15.0
"""After the first polls, until those are made whose turn came meanwhile."""
DELAY_GOAL_SECONDS, STALL_GOAL_MS = 1.0, 50.0
HEARTBEAT_SECONDS = 0.005
"""Of the watch for stalls: seldom enough to cost little."""


def scale(*, quick: bool) -> Iterator[Row]:
    """Measure the start, then so many seconds of what follows it."""
    seconds = 20.0 if quick else 120.0
    number, subscriptions = (1_000, 4) if quick else (SCALE_SETS, SUBSCRIPTIONS)
    with simulated.azure(subscriptions, number) as azure, tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.yaml")
        fleet = simulated.fleet(subscriptions, number)
        file.write_text(configuration(azure.endpoint, fleet, "5m", active_interval="1m", budget_share=SHARE))
        signing_in = {"IDENTITY_ENDPOINT": f"{azure.endpoint}/token", "IDENTITY_HEADER": "bench"}
        with running(*python("tests.bench.scale", str(file), str(seconds)), env=signing_in) as process:
            port = int(line(process))
            start = json.loads(line(process))
            before = _delays(port)
            sleep(seconds)
            after = _delays(port)
            said = json.loads(line(process))
            memory = memory_mib(process.pid, "VmHWM")
            most = max(azure.asked().values())
    polls = after[inf] - before[inf]
    late = _quantile(0.99, {edge: count - before[edge] for edge, count in after.items()})
    goal = number == SCALE_SETS
    name = f"{number:,} scale sets in {subscriptions} subscriptions, each 5 min, active ones each min"
    yield Row(f"{name}: processor time", f"{said['processor']:.2%} of a core")
    yield Row("  peak memory", f"{number_of(memory)} MiB")
    yield Row("  polls a minute", number_of(polls / seconds * 60))
    yield Row(
        "  start of a poll after its due time, 99th percentile",
        f"{number_of(late)} s",
        goal=f"under {DELAY_GOAL_SECONDS:g} s" if goal else "",
        met=late < DELAY_GOAL_SECONDS if goal else None,
    )
    granted = SHARE * GRANTED_PER_MINUTE
    yield Row(
        "  most requests of a subscription in any 60 s, start included",
        f"{most}",
        goal=f"{granted:g} or less",
        met=most <= granted,
    )
    yield Row(
        "  longest stall of the event loop",
        f"{number_of(said['stall_ms'])} ms",
        goal=f"{STALL_GOAL_MS:g} ms or less" if goal else "",
        met=said["stall_ms"] <= STALL_GOAL_MS if goal else None,
    )
    yield Row("  of it, this thread at work", f"{number_of(said['stall_work_ms'])} ms")
    yield Row("  longest that this thread worked in a stall", f"{number_of(said['work_ms'])} ms")
    yield Row("  at the start: until all were polled", f"{number_of(start['seconds'])} s")
    yield Row("  at the start: longest stall", f"{number_of(start['stall_ms'])} ms")
    yield Row("  at the start: of it, this thread at work", f"{number_of(start['stall_work_ms'])} ms")


def _delays(port: int) -> dict[float, float]:
    """Return how many polls started up to so many seconds late."""
    start = "vmss_upgrade_exporter_poll_delay_seconds_bucket{le="
    with Connection(port) as connection:
        exposition = connection.body("/metrics")
    buckets = (each.split('"') for each in exposition.decode().splitlines() if each.startswith(start))
    return {float(edge): float(count.strip("} ")) for _, edge, count in buckets}


def _quantile(share: float, buckets: dict[float, float]) -> float:
    """Return what Prometheus' ``histogram_quantile`` gives."""
    rank = share * buckets[inf]
    below, counted = 0.0, 0.0
    for edge, count in sorted(buckets.items()):
        if count >= rank:
            return below if edge == inf else below + (edge - below) * (rank - counted) / (count - counted)
        below, counted = edge, count
    return below


# --- In the process that is measured -----------------------------------------------------------------------


async def _daemon(file: Path, seconds: float) -> None:
    daemon = Daemon(partial(load, file), Shard())
    try:
        [address] = await daemon.listen([Address("127.0.0.1", 0)], "/metrics")
        print(address.rpartition(":")[2], flush=True)
        started = monotonic()
        watch = Stalls(HEARTBEAT_SECONDS)
        watching = asyncio.create_task(watch.beat(started + READY_SECONDS))
        await daemon.start()
        async with asyncio.timeout(READY_SECONDS):
            while not daemon.ready:
                await asyncio.sleep(0.25)
        watching.cancel()
        ready_seconds = monotonic() - started
        await asyncio.sleep(SETTLE_SECONDS)
        print(json.dumps({"seconds": ready_seconds, **_longest(watch)}), flush=True)
        worked = process_time()
        await asyncio.sleep(seconds / 2)  # without the watch, which is work too
        worked = process_time() - worked
        watch = Stalls(HEARTBEAT_SECONDS)
        await watch.beat(monotonic() + seconds / 2)
        print(json.dumps({"processor": worked / (seconds / 2), **_longest(watch)}), flush=True)
        await asyncio.sleep(READY_SECONDS)  # until it is ended, having been scraped
    finally:
        await daemon.end()


def _longest(watch: Stalls) -> dict[str, float]:
    stall, work = max(watch.stalls)
    longest_work = max(each for _, each in watch.stalls)
    return {"stall_ms": stall * 1e3, "stall_work_ms": work * 1e3, "work_ms": longest_work * 1e3}


if __name__ == "__main__":
    configure("error", "logfmt")
    asyncio.run(_daemon(Path(sys.argv[1]), float(sys.argv[2])))
