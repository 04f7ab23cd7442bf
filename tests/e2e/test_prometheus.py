"""The real Prometheus scrapes the daemon, and promtool has nothing to object."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from types import MappingProxyType

import aiohttp

from tests.processes import debian_program, exporter, prometheus, query


def scraping(
    target: str, jobs: Mapping[str, Mapping[str, object]] = MappingProxyType({"vmss": {}})
) -> dict[str, object]:
    """Return the configuration of a Prometheus that scrapes ``target`` every second, by these settings."""
    targets = [{"targets": [target.removeprefix("http://")]}]
    scrapes = [{"job_name": name, "static_configs": targets, **settings} for name, settings in jobs.items()]
    return {"global": {"scrape_interval": "1s"}, "scrape_configs": scrapes}


async def test_prometheus_scrapes_it_without_a_warning(tmp_path: Path):
    async with (
        exporter("demo") as demo,
        prometheus(tmp_path, scraping(demo.url)) as (url, log),
        aiohttp.ClientSession() as client,
    ):
        await demo.until_ready()
        deadline = monotonic() + 30
        while len(await query(client, url, "azure_vmss_os_upgrade_up == 1")) < 12:
            assert monotonic() < deadline, log
            await asyncio.sleep(0.2)
        assert [value for _, value in await query(client, url, "up")] == [1.0]
        faulted = await query(client, url, 'azure_vmss_os_upgrade_state{state="Faulted"} == 1')
        assert len(faulted) >= 1
        on = "on (subscription_id, resource_group, scale_set)"
        explained = await query(
            client,
            url,
            f'(azure_vmss_os_upgrade_state{{state="Faulted"}} == 1) * {on} group_right azure_vmss_os_upgrade_error_info',
        )
        assert all(series["code"] for series, _ in explained)
        assert len(explained) == len(faulted)
        assert [line for line in log if "level=warn" in line or "level=error" in line] == []


async def test_promtool_has_nothing_to_object():
    async with exporter("demo") as demo:
        await demo.until_ready()
        body = (await demo.get("/metrics", Accept="text/plain"))[1]
    promtool = await asyncio.create_subprocess_exec(
        debian_program("promtool"),
        "check",
        "metrics",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await promtool.communicate(body.encode())
    objections = [
        line
        for line in said.decode().splitlines()
        # The contract's own name: a number of shards, not a counter.
        if line.strip() and "vmss_upgrade_exporter_total_shards" not in line
    ]
    assert (objections, promtool.returncode) == ([], 0)
