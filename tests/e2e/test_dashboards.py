"""Every panel of the dashboards shows something: its queries are asked of the real Prometheus, and answered."""

import asyncio
import json
import math
from pathlib import Path
from time import monotonic, time
from typing import Any

import aiohttp

from tests.dashboards import DASHBOARDS, Asked, Watched, chosen, fill_in, queries_of, watched

SECONDS = 60.0
"""How much time the dashboards show."""


async def api(client: aiohttp.ClientSession, url: str, path: str, **parameters: str) -> Any:
    """Return what Prometheus answers; that it could not be asked is a failure."""
    async with client.get(f"{url}/api/v1/{path}", params=parameters) as response:
        answer = json.loads(await response.text())
    assert answer["status"] == "success", (parameters, answer)
    return answer["data"]


async def has_data(client: aiohttp.ClientSession, url: str, asked: Asked) -> bool:
    """Return whether there is a number to show."""
    if asked.instant:
        found = await api(client, url, "query", query=asked.expr)
        values = [series["value"] for series in found["result"]]
    else:
        now = time()
        span = {"start": str(now - SECONDS), "end": str(now), "step": "1"}
        found = await api(client, url, "query_range", query=asked.expr, **span)
        values = [value for series in found["result"] for value in series["values"]]
    return any(math.isfinite(float(number)) for _, number in values)


async def test_every_query_of_every_panel_returns_data(tmp_path: Path):
    async with watched(tmp_path) as fleet, aiohttp.ClientSession() as client:
        await until_up(client, fleet)
        # The fleet lives: what there is to see comes and goes, but each has its time.
        missing = {
            (file.stem, asked.panel, number): file
            for file in DASHBOARDS.glob("*.json")
            for number, asked in enumerate(queries_of(file, chosen(file.stem, fleet.broken), SECONDS))
        }
        assert len(missing) > 80
        deadline = monotonic() + 90
        while missing:
            assert monotonic() < deadline, sorted(missing)
            for file in set(missing.values()):
                for number, asked in enumerate(queries_of(file, chosen(file.stem, fleet.broken), SECONDS)):
                    which = (file.stem, asked.panel, number)
                    if which in missing and await has_data(client, fleet.url, asked):
                        del missing[which]
            await asyncio.sleep(0.5)
        await every_variable_has_values(client, fleet)
        assert [line for line in fleet.log if "level=warn" in line or "level=error" in line] == []


async def until_up(client: aiohttp.ClientSession, fleet: Watched) -> None:
    deadline = monotonic() + 30
    while True:
        try:
            if (await api(client, fleet.url, "query", query="azure_vmss_os_upgrade_up"))["result"]:
                return
        except (aiohttp.ClientConnectionError, ValueError):
            pass  # not up yet
        assert monotonic() < deadline, fleet.log
        await asyncio.sleep(0.1)


async def every_variable_has_values(client: aiohttp.ClientSession, fleet: Watched) -> None:
    for file in DASHBOARDS.glob("*.json"):
        for variable in json.loads(file.read_text())["templating"]["list"]:
            if variable["type"] == "query":
                family, _, label = (
                    variable["query"]["query"].removeprefix("label_values(")[:-1].rpartition(", ")
                )
                parameters = {"match[]": fill_in(family, chosen(file.stem, fleet.broken))}
                assert await api(client, fleet.url, f"label/{label}/values", **parameters), (file, variable)
