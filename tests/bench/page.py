"""The status page: how long it takes to come, how large it is, and whether making it holds up the event loop.

The page is made in a process of its own, of snapshots as polls leave them. What is timed is what a browser waits for:
from the request to the last byte of the compressed answer, over loopback.
"""

import asyncio
import gc
import json
import sys
from collections.abc import Iterator
from statistics import median
from time import monotonic, perf_counter

from exporter.address import Address
from exporter.web import Server, application

from .child import line, python, running
from .load import Connection
from .loop import Stalls
from .process import Ready
from .report import Row, number_of
from .scrape import Polled

ASKED = {
    "": "/",
    "  its faulted ones": "/?state=Faulted",
    "  by a search": "/?q=jammy+rg-production-3",
    "  sorted by duration, the last page": "/?sort=-duration&page=1000000",
    "  as JSON": "/api/v1/scale-sets",
}
PAGE_GOAL_MS, STALL_GOAL_MS = 100.0, 50.0
HEARTBEAT_SECONDS = 0.002


def page(*, quick: bool) -> Iterator[Row]:
    """Measure pages of three fleets."""
    rounds = 5 if quick else 25
    for number in (12, 1_000, 10_000):
        with running(*python("tests.bench.page", str(number))) as process:
            port = int(line(process))
            with Connection(port) as connection:
                asked = perf_counter()
                connection.get("/", gzip=True)
                first = (perf_counter() - asked) * 1e3
                times: dict[str, list[float]] = {name: [] for name in ASKED}
                for _ in range(rounds):
                    for name, path in ASKED.items():
                        asked = perf_counter()
                        connection.get(path, gzip=True)
                        times[name].append((perf_counter() - asked) * 1e3)
                plain, zipped = (len(connection.body("/", gzip=gzip)) for gzip in (False, True))
                connection.get("/enough")
            said = json.loads(line(process))
        for name, took in times.items():
            yield Row(
                name or f"status page of {number:,} scale sets, until its last byte",
                f"{number_of(median(took))} ms",
                goal="" if name else f"{PAGE_GOAL_MS:g} ms or less",
                met=None if name else median(took) <= PAGE_GOAL_MS,
            )
        yield Row("  the first of the process", f"{number_of(first)} ms")
        yield Row("  its size, and compressed", f"{plain / 1e3:.0f} kB, {zipped / 1e3:.1f} kB")
        yield Row(
            "  longest stall of the event loop meanwhile",
            f"{number_of(said['stall_ms'])} ms",
            goal=f"{STALL_GOAL_MS:g} ms or less",
            met=said["stall_ms"] <= STALL_GOAL_MS,
        )
        yield Row("  of it, this thread at work", f"{number_of(said['stall_work_ms'])} ms")


# --- In the process that answers ---------------------------------------------------------------------------


async def _serve(number: int) -> None:
    polled = Polled(number)
    gc.freeze()  # as the daemon does once it knows the fleet
    server = Server(application(polled.exposition, polled.telemetry, Ready(polled), "/metrics"))
    [address] = await server.start([Address("127.0.0.1", 0)])
    print(address.rpartition(":")[2], flush=True)
    watch = Stalls(HEARTBEAT_SECONDS)
    watching = asyncio.create_task(watch.beat(monotonic() + 600))
    unknown = polled.telemetry.http_requests.labels("other", "404")
    while not unknown._value.get():  # noqa: SLF001 - the parent has asked for what there is not: it is done
        await asyncio.sleep(0.05)
    watching.cancel()
    stall, work = max(watch.stalls)
    print(json.dumps({"stall_ms": stall * 1e3, "stall_work_ms": work * 1e3}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
