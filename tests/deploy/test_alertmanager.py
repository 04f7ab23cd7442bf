"""Routes and inhibitions of the Alertmanager example, by amtool and by the real Alertmanager."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic

import aiohttp
import pytest
import yaml

from tests.alerting import DEPLOY, alertmanager
from tests.processes import debian_program

CONFIG = DEPLOY / "alertmanager" / "alertmanager.yml"
Labels = dict[str, str]


def amtool(*arguments: str | Path) -> str:
    done = subprocess.run(
        [debian_program("amtool"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_amtool_accepts_the_configuration():
    amtool("check-config", CONFIG)


def shipped_alerts() -> list[tuple[str, str]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    return [
        (rule["alert"], rule["labels"]["severity"])
        for group in groups
        for rule in group["rules"]
        if "alert" in rule
    ]


@pytest.mark.parametrize(("alert", "severity"), shipped_alerts())
def test_an_alert_goes_where_its_severity_belongs(alert: str, severity: str):
    receiver = {"critical": "page", "warning": "chat", "info": "digest"}[severity]
    amtool(
        "config",
        "routes",
        "test",
        f"--config.file={CONFIG}",
        f"--verify.receivers={receiver}",
        f"alertname={alert}",
        f"severity={severity}",
        "scale_set=web",
    )


def test_an_alert_without_a_known_severity_is_not_lost():
    said = amtool("config", "routes", "test", f"--config.file={CONFIG}", "alertname=Other")
    assert said.splitlines()[-1] == "chat"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator["Api"]:
    # The notifications find nobody listening, which is not what is asked here.
    async with alertmanager(tmp_path, "127.0.0.1:9") as (address, _), aiohttp.ClientSession() as client:
        yield Api(client, f"http://{address}/api/v2")


class Api:
    """Alertmanager's own interface."""

    def __init__(self, client: aiohttp.ClientSession, url: str) -> None:
        self._client = client
        self._url = url

    async def fire(self, *alerts: Labels) -> None:
        body = [{"labels": labels} for labels in alerts]
        async with self._client.post(f"{self._url}/alerts", json=body) as response:
            assert response.status == 200, await response.text()

    async def alerts(self) -> dict[tuple[str, str], str]:
        """Return the state of each alert, by cluster and name."""
        async with self._client.get(f"{self._url}/alerts") as response:
            return {
                (alert["labels"]["cluster"], alert["labels"]["alertname"]): alert["status"]["state"]
                for alert in await response.json()
            }

    async def groups(self) -> list[int]:
        """Return how many alerts are in each group."""
        async with self._client.get(f"{self._url}/alerts/groups") as response:
            return [len(group["alerts"]) for group in await response.json()]


WEB = {"subscription_id": "s", "resource_group": "rg-web", "scale_set": "web"}
API = {"subscription_id": "s", "resource_group": "rg-api", "scale_set": "api"}
IMAGE = {"image": "Canonical:ubuntu:server:24.04.1"}
TEAM = {"label_team": "storefront"}
JOB = {"job": "j"}
SILENCED: dict[str, tuple[str, Labels, str, Labels, str]] = {
    "stuck by its own fault": (
        *("AzureVmssOsUpgradeFaulted", WEB | IMAGE),
        *("AzureVmssOsUpgradeStuck", WEB),
        "suppressed",
    ),
    "not stuck by another's fault": (
        *("AzureVmssOsUpgradeFaulted", WEB | IMAGE),
        *("AzureVmssOsUpgradeStuck", API),
        "active",
    ),
    "slow by being stuck": (
        *("AzureVmssOsUpgradeStuck", WEB),
        *("AzureVmssOsUpgradeSlow", WEB),
        "suppressed",
    ),
    "rolled back by the failed rest": (
        *("AzureVmssOsUpgradeRollbackFailed", WEB | IMAGE),
        *("AzureVmssOsUpgradeRolledBack", WEB | IMAGE),
        "suppressed",
    ),
    "one fault by its image": (
        *("AzureVmssOsUpgradeImageFaulted", IMAGE),
        *("AzureVmssOsUpgradeFaulted", WEB | IMAGE),
        "suppressed",
    ),
    "one fault by its image and owner": (
        *("AzureVmssOsUpgradeImageFaulted", IMAGE | TEAM),
        *("AzureVmssOsUpgradeFaulted", WEB | IMAGE | TEAM),
        "suppressed",
    ),
    "not another owner's": (
        *("AzureVmssOsUpgradeImageFaulted", IMAGE | TEAM),
        *("AzureVmssOsUpgradeFaulted", WEB | IMAGE),
        "active",
    ),
    "not a fault without an image": (
        *("AzureVmssOsUpgradeImageFaulted", IMAGE),
        *("AzureVmssOsUpgradeFaulted", WEB),
        "active",
    ),
    "not a rollback that failed": (
        *("AzureVmssOsUpgradeImageFaulted", IMAGE),
        *("AzureVmssOsUpgradeRollbackFailed", WEB | IMAGE),
        "active",
    ),
    "missed scrapes by the exporter that is down": (
        *("AzureVmssExporterDown", JOB | {"instance": "a"}),
        *("AzureVmssExporterFlapping", JOB | {"instance": "a"}),
        "suppressed",
    ),
    "not another exporter's": (
        *("AzureVmssExporterDown", JOB | {"instance": "b"}),
        *("AzureVmssExporterFlapping", JOB | {"instance": "a"}),
        "active",
    ),
    "missing shard by the exporter that is down": (
        *("AzureVmssExporterDown", JOB | {"instance": "b"}),
        *("AzureVmssExporterShardMissing", JOB),
        "suppressed",
    ),
    "not a failing subscription by a missing token, which may be another credential's": (
        *("AzureVmssExporterCredentialFailing", JOB | {"instance": "a"}),
        *("AzureVmssExporterSubscriptionFailing", JOB | {"subscription_id": "s"}),
        "active",
    ),
    "failing polls by their failing subscription": (
        *("AzureVmssExporterSubscriptionFailing", JOB | {"subscription_id": "s"}),
        *("AzureVmssExporterPollFailing", WEB | TEAM),
        "suppressed",
    ),
    "stale data by the failing subscription": (
        *("AzureVmssExporterSubscriptionFailing", JOB | {"subscription_id": "s"}),
        *("AzureVmssExporterDataStale", WEB | TEAM),
        "suppressed",
    ),
    "not a fault by the failing subscription": (
        *("AzureVmssExporterSubscriptionFailing", JOB | {"subscription_id": "s"}),
        *("AzureVmssOsUpgradeFaulted", WEB),
        "active",
    ),
    "not another subscription's": (
        *("AzureVmssExporterSubscriptionFailing", JOB | {"subscription_id": "t"}),
        *("AzureVmssExporterPollFailing", WEB),
        "active",
    ),
    "stale by failing polls": (
        *("AzureVmssExporterPollFailing", WEB),
        *("AzureVmssExporterDataStale", WEB),
        "suppressed",
    ),
    "stale by the throttled subscription": (
        *("AzureVmssExporterThrottled", {"subscription_id": "s"}),
        *("AzureVmssExporterDataStale", WEB),
        "suppressed",
    ),
    "not failing polls by the throttled subscription": (
        *("AzureVmssExporterThrottled", {"subscription_id": "s"}),
        *("AzureVmssExporterPollFailing", WEB),
        "active",
    ),
}


async def test_alertmanager_silences_what_another_alert_explains(api: Api):
    for cluster, (source, source_labels, target, target_labels, _) in SILENCED.items():
        await api.fire(
            {"alertname": source, "cluster": cluster, **source_labels},
            {"alertname": target, "cluster": cluster, **target_labels},
        )
    expected = {(cluster, case[2]): case[4] for cluster, case in SILENCED.items()}
    expected |= {(cluster, case[0]): "active" for cluster, case in SILENCED.items()}
    deadline = monotonic() + 30
    while (found := await api.alerts()) != expected:
        assert monotonic() < deadline, {key: state for key, state in found.items() if expected[key] != state}
        await asyncio.sleep(0.1)


ROWS = [{"subscription_id": "s", "resource_group": f"rg-{n}", "scale_set": f"web-{n}"} for n in range(200)]


@pytest.mark.parametrize(
    ("alerts", "sizes"),
    [
        (
            [
                {"alertname": "AzureVmssOsUpgradeStuck", "severity": "warning", **WEB},
                {"alertname": "AzureVmssOsUpgradeRolledBack", "severity": "warning", **WEB},
                {"alertname": "AzureVmssOsUpgradeRolledBack", "severity": "warning", **API},
                {
                    "alertname": "AzureVmssOsUpgradeStuck",
                    "severity": "warning",
                    **WEB,
                    "subscription_id": "t",
                },
            ],
            [1, 1, 2],
        ),
        ([{"alertname": "AzureVmssOsUpgradeFaulted", "severity": "critical", **row} for row in ROWS], [200]),
        (
            [
                {
                    "alertname": "AzureVmssExporterSubscriptionFailing",
                    "severity": "critical",
                    "job": "j",
                    "subscription_id": str(number),
                }
                for number in range(40)
            ]
            + [{"alertname": "AzureVmssExporterCredentialFailing", "severity": "critical", "job": "j"}],
            [41],
        ),
        (
            [
                {"alertname": "AzureVmssExporterPollFailing", "severity": "warning", **WEB},
                {
                    "alertname": "AzureVmssExporterPollFailing",
                    "severity": "warning",
                    **API,
                    "subscription_id": "t",
                },
                {"alertname": "AzureVmssExporterDataStale", "severity": "warning", **API},
            ],
            [1, 2],
        ),
    ],
    ids=[
        "by kind and subscription",
        "two hundred failures in one",
        "blindness in one",
        "about the exporter by kind",
    ],
)
async def test_notifications_are_grouped(api: Api, alerts: list[Labels], sizes: list[int]):
    await api.fire(*alerts)
    deadline = monotonic() + 30
    while sorted(found := await api.groups()) != sizes:
        assert monotonic() < deadline, found
        await asyncio.sleep(0.1)
