"""A fault at Azure arrives where people look, and so does its end, through what ``deploy/`` ships."""

import asyncio
from pathlib import Path
from time import monotonic

import aiohttp
import pytest

from exporter.simulator.fleet import ApiError, ScaleSet, State
from tests.alerting import Watch, watch
from tests.processes import query

CODE = "MaxUnhealthyInstancePercentExceededInRollingUpgrade"


def identity(scale_set: ScaleSet) -> dict[str, str]:
    return {
        "subscription_id": scale_set.subscription_id,
        "resource_group": scale_set.resource_group.lower(),
        "scale_set": scale_set.name.lower(),
    }


async def until_every_scale_set_is_scraped(client: aiohttp.ClientSession, watched: Watch) -> None:
    deadline = monotonic() + 30
    while len(await query(client, watched.prometheus_url, "azure_vmss_os_upgrade_up == 1")) < len(
        watched.scale_sets
    ):
        assert monotonic() < deadline, watched.prometheus_log
        await asyncio.sleep(0.1)


async def until_all_are_up(client: aiohttp.ClientSession, watched: Watch) -> None:
    deadline = monotonic() + 30  # on a busy machine a scrape may take longer than the second that it has
    while [up for _, up in await query(client, watched.prometheus_url, "up")] != [1.0] * len(
        watched.exporters
    ):
        assert monotonic() < deadline, watched.prometheus_log
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("shards", [1, 2])
async def test_a_faulted_upgrade_and_its_end_arrive_at_the_webhook(tmp_path: Path, shards: int):
    async with watch(tmp_path, shards) as watched, aiohttp.ClientSession() as client:
        await until_every_scale_set_is_scraped(client, watched)
        found = await query(client, watched.prometheus_url, "azure_vmss_os_upgrade_up")
        assert len(found) == len(watched.scale_sets)  # each on one exporter
        assert len({labels["instance"] for labels, _ in found}) == shards
        healthy, *faulted = watched.scale_sets
        for scale_set in faulted:
            watched.end_upgrade(
                scale_set, State.FAULTED, ApiError(CODE, "40 % are unhealthy", scale_set.name)
            )
        for scale_set in faulted:
            arrived = await watched.until_notified("firing", **identity(scale_set))
            assert arrived.receiver == "page"
            assert arrived.labels == identity(scale_set) | {
                "alertname": "AzureVmssOsUpgradeFaulted",
                "severity": "critical",
                "cluster": "example",
                "code": CODE,
            }
            assert CODE in arrived.annotations["description"]
            assert arrived.annotations["runbook_url"].endswith("/runbooks/AzureVmssOsUpgradeFaulted.md")
        assert not [each for each in watched.notified if each.status == "resolved"]

        for scale_set in faulted:
            watched.end_upgrade(scale_set, State.COMPLETED)
        for scale_set in faulted:
            resolved = await watched.until_notified("resolved", **identity(scale_set))
            assert resolved.receiver == "page"

        # Nothing else was said, and nobody has anything to object.
        assert {each.labels["alertname"] for each in watched.notified} == {"AzureVmssOsUpgradeFaulted"}
        assert healthy.name.lower() not in {each.labels["scale_set"] for each in watched.notified}
        await until_all_are_up(client, watched)
        for log in (watched.prometheus_log, watched.alertmanager_log):
            assert [line for line in log if "level=warn" in line or "level=error" in line] == []


async def test_an_exporter_that_stopped_is_about_to_alert(tmp_path: Path):
    async with watch(tmp_path) as watched, aiohttp.ClientSession() as client:
        await until_every_scale_set_is_scraped(client, watched)
        (daemon,) = watched.exporters
        daemon.process.terminate()
        deadline = monotonic() + 30
        pending = 'ALERTS{alertname="AzureVmssExporterDown", alertstate="pending"}'
        while not (found := await query(client, watched.prometheus_url, pending)):
            assert monotonic() < deadline, watched.prometheus_log
            await asyncio.sleep(0.1)
        assert [labels["severity"] for labels, _ in found] == ["critical"]
