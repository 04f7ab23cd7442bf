"""Memory and stalls of the whole daemon while Azure sends answers that are made to take memory and time.

The answers are those of ``tests.bombs``, the refused and the largest accepted ones. One process serves them, another
runs the daemon with a journal and takes each of them twice. A stall is what a task that sleeps for a millisecond
oversleeps. It is judged by the processor time that the loop's thread spent in it, as the rest is the machine's.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from operator import itemgetter
from pathlib import Path
from time import monotonic
from unittest.mock import patch
from urllib.request import urlopen

from exporter import daemon
from exporter.address import Address
from exporter.azure import client
from exporter.config import load
from exporter.log import configure
from exporter.scale_set import Shard
from tests import bombs
from tests.bombs import Bomb, http

from .child import line, memory_mib, python, running
from .loop import Stalls
from .report import Row, number_of

STALL_GOAL_MS = 50.0
MEMORY_GOAL_MIB = 300
SEARCHED = bombs.SUBSCRIPTION.replace("6c1e", "7c1e")
"""The subscription that is searched; the other one has a scale set that is named."""
CONFIG = """\
cloud: {{endpoint: '{0}', audience: '{0}', authority: '{0}'}}
credential: {{kind: managed_identity}}
polling: {{interval: 500ms, active_interval: 500ms, timeout: 60s, budget_share: 1}}
journal: {{path: '{1}'}}
subscriptions:
  - {{id: {2}, scale_sets: [{{resource_group: rg, name: web}}]}}
  - {{id: {3}, discovery: {{refresh: 1s}}}}
"""
TABLES = {"history": bombs.HISTORIES, "search": bombs.SEARCHES, "list": bombs.LISTS}
TAKEN = 3
"""Requests after which two answers have been taken whole: the next poll or search starts after the last has ended."""
BOMB_SECONDS = 120.0
PATCHES = {
    (daemon, "SCALE_SET_REQUESTS_PER_MINUTE"): 600.0,
    (daemon, "REQUESTS_PER_MINUTE"): 60_000.0,
    (client, "GRAPH_SECONDS"): 0.1,
}
"""Azure's limits, so that a minute brings what else takes an hour."""


def bomb(*, quick: bool) -> Iterator[Row]:
    """Measure each bomb, and report the worst."""
    measured = []
    with running(*python("tests.bench.bomb", "serve")) as server:
        endpoint = line(server)
        signing_in = {"IDENTITY_ENDPOINT": f"{endpoint}/token", "IDENTITY_HEADER": "bench"}
        with running(*python("tests.bench.bomb", "take", endpoint), env=signing_in) as process:
            at_rest = float(line(process))
            for table, entries in TABLES.items():
                for name, each in entries.items():
                    if not (quick and each.slow):
                        measured.append({"name": f"{table}: {name}", **json.loads(line(process))})
                    else:
                        line(process)
    peak = max(measured, key=itemgetter("peak"))
    stall = max(measured, key=itemgetter("work"))
    yield Row(
        f"peak memory under {len(measured)} bombs, above that at rest",
        f"{number_of(peak['peak'] - at_rest)} MiB",
        f"{number_of(at_rest)} MiB",
        f"{peak['peak'] / at_rest:.2f}",
        f"{MEMORY_GOAL_MIB} MiB or less",
        peak["peak"] - at_rest <= MEMORY_GOAL_MIB,
    )
    yield Row(f"  under {peak['name']}", "")
    yield Row(
        "longest stall of the event loop under any of them, this thread at work",
        f"{number_of(stall['work'])} ms",
        goal=f"{STALL_GOAL_MS:g} ms or less",
        met=stall["work"] <= STALL_GOAL_MS,
    )
    yield Row(f"  under {stall['name']}; by the clock", f"{number_of(stall['stall'])} ms")


# --- The process that serves -------------------------------------------------------------------------------


class _Azure:
    """Answers every request with what is armed, and counts how often it did."""

    def __init__(self) -> None:
        self._table = ""
        self._body = b""
        self._served = 0

    def answer(self, request: str) -> bytes:
        method, target, _ = request.split(" ", 2)
        if target.startswith("/token"):
            resource = (
                target.partition("resource=")[2].partition("&")[0].replace("%3A", ":").replace("%2F", "/")
            )
            token = {"access_token": "canned-" * 4, "expires_on": "4102444800", "token_type": "Bearer"}
            return http(json.dumps({**token, "resource": resource}).encode(), content_type="application/json")
        if target.startswith("/arm/"):
            _, _, self._table, number = target.split("/")
            self._body = _named(self._table)[int(number)].make() if number else b""
            self._served = 0
            return http(b"armed")
        if target == "/served":
            return http(str(self._served).encode())
        kind = "search" if method == "POST" else "history" if "osUpgradeHistory" in target else "list"
        if self._body and kind == self._table:
            self._served += 1
            return self._body
        if kind == "search" and self._table == "list":
            return http(b"", "403 Forbidden")
        return http(b'{"data":[]}' if kind == "search" else b'{"value":[]}')

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = head.lower().partition("content-length: ")[2].partition("\r\n")[0]
                await reader.readexactly(int(length or 0))
                writer.write(self.answer(head))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def _named(table: str) -> list[Bomb]:
    return list(TABLES[table].values())


async def _serve() -> None:
    server = await asyncio.start_server(_Azure().connected, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


# --- The process that takes them ---------------------------------------------------------------------------


async def _take(endpoint: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.yaml")
        journal = Path(folder, "journal.sqlite")
        file.write_text(CONFIG.format(endpoint, journal, bombs.SUBSCRIPTION, SEARCHED))
        watched = daemon.Daemon(partial(load, file), Shard())
        try:
            await watched.listen([Address("127.0.0.1", 0)], "/metrics")
            await watched.start()
            async with asyncio.timeout(BOMB_SECONDS):
                while not watched.ready:
                    await asyncio.sleep(0.05)
            print(memory_mib(0, "VmRSS"), flush=True)
            for table, entries in TABLES.items():
                for number in range(len(entries)):
                    print(json.dumps(await _measure(endpoint, table, number)), flush=True)
        finally:
            await watched.end()


async def _measure(endpoint: str, table: str, number: int) -> dict[str, float]:
    await asyncio.to_thread(_ask, f"{endpoint}/arm/{table}/{number}")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    watch = Stalls()
    beating = asyncio.create_task(watch.beat(monotonic() + BOMB_SECONDS))
    async with asyncio.timeout(BOMB_SECONDS):
        while int(await asyncio.to_thread(_ask, f"{endpoint}/served")) < TAKEN:
            await asyncio.sleep(0.05)
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)
    peak = memory_mib(0, "VmHWM")
    await asyncio.to_thread(_ask, f"{endpoint}/arm/{table}/")
    work = max(watch.stalls, key=itemgetter(1))
    return {"peak": peak, "stall": work[0] * 1e3, "work": work[1] * 1e3}


def _ask(url: str) -> str:
    with urlopen(url) as answer:
        text: str = answer.read().decode()
        return text


def _main(task: str, *arguments: str) -> None:
    configure("error", "logfmt")
    if task == "serve":
        asyncio.run(_serve())
        return
    for (module, name), value in PATCHES.items():
        patch.object(module, name, value).start()
    asyncio.run(_take(*arguments))


if __name__ == "__main__":
    _main(*sys.argv[1:])
