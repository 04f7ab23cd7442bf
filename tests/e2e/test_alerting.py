"""A fault at Azure arrives where people look, and so does its end, through what ``deploy/`` ships."""

import asyncio
from pathlib import Path
from time import monotonic

import aiohttp
import pytest

from exporter.simulator.fleet import ApiError, Image, ScaleSet, State
from exporter.simulator.server import refused, refusing
from tests.alerting import TEAM, Watch, watch
from tests.processes import query

CODE = "MaxUnhealthyInstancePercentExceededInRollingUpgrade"
ERROR = ApiError(CODE, "40 % are unhealthy", "web")
OWNER = {"label_team": TEAM}


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


async def status_page_shows(client: aiohttp.ClientSession, url: str, scale_set: ScaleSet) -> None:
    async with client.get(url) as response:
        assert response.status == 200
        assert scale_set.name in await response.text()


@pytest.mark.parametrize("shards", [1, 2])
async def test_a_faulted_upgrade_and_its_end_arrive_at_the_webhook(tmp_path: Path, shards: int):
    async with watch(tmp_path, shards) as watched, aiohttp.ClientSession() as client:
        await until_every_scale_set_is_scraped(client, watched)
        found = await query(client, watched.prometheus_url, "azure_vmss_os_upgrade_up")
        assert len(found) == len(watched.scale_sets)  # each on one exporter
        assert len({labels["instance"] for labels, _ in found}) == shards
        healthy, *faulted = watched.scale_sets
        # An image version of their own each, so that they have nothing in common.
        for number, scale_set in enumerate(faulted):
            image = Image("Canonical", "ubuntu", "server", "latest", f"24.4.{number}")
            watched.end_upgrade(scale_set, State.FAULTED, ERROR, image)
        for number, scale_set in enumerate(faulted):
            arrived = await watched.until_notified("firing", **identity(scale_set))
            assert arrived.receiver == "page"
            assert arrived.labels == identity(scale_set) | OWNER | {
                "alertname": "AzureVmssOsUpgradeFaulted",
                "severity": "critical",
                "cluster": "example",
                "image": f"Canonical:ubuntu:server:24.4.{number}",
            }
            for text in (
                f"to image Canonical:ubuntu:server:24.4.{number} failed at 20",
                f"with {CODE}. Instances: failed 0, in_progress 0, pending 0, successful 10.",
            ):
                assert text in arrived.annotations["description"]
            assert arrived.annotations["portal_url"].lower().endswith(scale_set.resource_id.lower())
            await status_page_shows(client, arrived.annotations["status_url"], scale_set)
            assert arrived.annotations["runbook_url"].endswith("/runbooks/AzureVmssOsUpgradeFaulted.md")
        assert not [each for each in watched.notified if each.status == "resolved"]

        for scale_set in faulted:
            watched.end_upgrade(scale_set, State.COMPLETED)
        for scale_set in faulted:
            resolved = await watched.until_notified("resolved", **identity(scale_set))
            assert resolved.receiver == "page"

        # Nothing else was sent, and there is no warning in the logs.
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


async def test_an_image_that_fails_everywhere_gives_one_alert_with_all_scale_sets(tmp_path: Path):
    async with watch(tmp_path) as watched, aiohttp.ClientSession() as client:
        await until_every_scale_set_is_scraped(client, watched)
        image = Image("Canonical", "ubuntu", "server", "latest", "24.4.1")
        for scale_set in watched.scale_sets:
            watched.end_upgrade(scale_set, State.FAULTED, ERROR, image)
        number = len(watched.scale_sets)
        deadline = monotonic() + 60
        firing = 'ALERTS{alertname="AzureVmssOsUpgradeFaulted", alertstate="firing"}'
        while len(await query(client, watched.prometheus_url, firing)) < number:
            assert monotonic() < deadline, watched.prometheus_log
            await asyncio.sleep(0.1)
        arrived = await watched.until_notified("firing", alertname="AzureVmssOsUpgradeImageFaulted")
        assert arrived.receiver == "page"
        assert arrived.labels == OWNER | {
            "alertname": "AzureVmssOsUpgradeImageFaulted",
            "severity": "critical",
            "cluster": "example",
            "image": "Canonical:ubuntu:server:24.4.1",
        }
        # Only those that failed before the third did were sent alone.
        alone = {each.labels["scale_set"] for each in watched.notified if "scale_set" in each.labels}
        assert len(alone) < number / 2


async def test_a_failure_stays_while_the_credential_has_expired_and_one_alert_says_so(tmp_path: Path):
    async with watch(tmp_path, max_age="5s", waits="1s") as watched, aiohttp.ClientSession() as client:
        await until_every_scale_set_is_scraped(client, watched)
        scale_set = watched.scale_sets[0]
        watched.end_upgrade(scale_set, State.FAULTED, ERROR)
        await watched.until_notified("firing", alertname="AzureVmssOsUpgradeFaulted", **identity(scale_set))

        watched.simulator.revoke_tokens()
        watched.simulator.fault("/token", refusing(refused(400, "invalid_client", "The secret has expired.")))
        for subscription_id in {each.subscription_id for each in watched.scale_sets}:
            arrived = await watched.until_notified(
                "firing", alertname="AzureVmssExporterSubscriptionFailing", subscription_id=subscription_id
            )
            assert arrived.receiver == "page"
            assert arrived.labels["severity"] == "critical"
            assert "unauthorized" in arrived.annotations["description"]
        # The data is gone for longer than keep_firing_for could bridge.
        held = 'scale_set:azure_vmss_os_upgrade_problem:last_seen_timestamp_seconds{problem="Faulted"}'
        deadline = monotonic() + 60
        while not await query(client, watched.prometheus_url, f"time() - {held} > 10"):
            assert monotonic() < deadline, watched.prometheus_log
            await asyncio.sleep(0.1)
        assert await query(client, watched.prometheus_url, "azure_vmss_os_upgrade_state") == []
        faulted = 'ALERTS{alertname="AzureVmssOsUpgradeFaulted", alertstate="firing"}'
        ((labels, _),) = await query(client, watched.prometheus_url, faulted)
        assert (identity(scale_set) | OWNER).items() <= labels.items()
        assert not [
            each
            for each in watched.notified
            if each.status == "resolved" and each.labels["alertname"] == "AzureVmssOsUpgradeFaulted"
        ]

        watched.simulator.heal()
        watched.end_upgrade(scale_set, State.COMPLETED)
        await watched.until_notified("resolved", alertname="AzureVmssOsUpgradeFaulted", **identity(scale_set))


async def test_an_upgrade_that_failed_before_the_exporter_was_there_pages_nobody(tmp_path: Path):
    async with watch(tmp_path, faulted_ago=86_400.0) as watched:
        (scale_set, *_) = watched.scale_sets
        arrived = await watched.until_notified("firing", **identity(scale_set))
        assert arrived.receiver == "digest"
        assert arrived.labels == identity(scale_set) | OWNER | {
            "alertname": "AzureVmssOsUpgradeFailedEarlier",
            "severity": "info",
            "cluster": "example",
        }
        assert {each.labels["alertname"] for each in watched.notified} == {"AzureVmssOsUpgradeFailedEarlier"}
