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
    return [(rule["alert"], rule["labels"]["severity"]) for group in groups for rule in group["rules"]]


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


def test_what_bears_no_known_severity_is_not_lost():
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
SILENCED: dict[str, tuple[str, Labels, str, Labels, str]] = {
    "stuck by its own fault": (
        *("AzureVmssOsUpgradeFaulted", WEB),
        *("AzureVmssOsUpgradeStuck", WEB),
        "suppressed",
    ),
    "not stuck by another's fault": (
        *("AzureVmssOsUpgradeFaulted", WEB),
        *("AzureVmssOsUpgradeStuck", API),
        "active",
    ),
    "rolled back by the failed rest": (
        *("AzureVmssOsUpgradeRollbackFailed", WEB | {"code": "X"}),
        *("AzureVmssOsUpgradeRolledBack", WEB),
        "suppressed",
    ),
    "stale by the exporter that is down": (
        *("AzureVmssExporterDown", {"job": "j", "instance": "a"}),
        *("AzureVmssExporterDataStale", WEB | {"job": "j", "instance": "a"}),
        "suppressed",
    ),
    "not stale by another exporter that is down": (
        *("AzureVmssExporterDown", {"job": "j", "instance": "b"}),
        *("AzureVmssExporterDataStale", WEB | {"job": "j", "instance": "a"}),
        "active",
    ),
    "missing shard by the exporter that is down": (
        *("AzureVmssExporterDown", {"job": "j", "instance": "b"}),
        *("AzureVmssExporterShardMissing", {"job": "j"}),
        "suppressed",
    ),
    "stale by failing polls": (
        *("AzureVmssExporterPollFailing", WEB | {"reason": "timeout"}),
        *("AzureVmssExporterDataStale", WEB | {"job": "j", "instance": "a"}),
        "suppressed",
    ),
    "throttled scale set by its throttled subscription": (
        *("AzureVmssExporterThrottled", {"subscription_id": "s"}),
        *("AzureVmssExporterPollFailing", WEB | {"reason": "throttled"}),
        "suppressed",
    ),
    "not a forbidden scale set by its throttled subscription": (
        *("AzureVmssExporterThrottled", {"subscription_id": "s"}),
        *("AzureVmssExporterPollFailing", WEB | {"reason": "forbidden"}),
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
    deadline = monotonic() + 20
    while (found := await api.alerts()) != expected:
        assert monotonic() < deadline, {key: state for key, state in found.items() if expected[key] != state}
        await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("alerts", "sizes"),
    [
        (
            [
                {"alertname": "AzureVmssOsUpgradeStuck", "severity": "warning", **WEB},
                {"alertname": "AzureVmssOsUpgradeRolledBack", "severity": "warning", **WEB},
                {"alertname": "AzureVmssOsUpgradeRolledBack", "severity": "warning", **API},
            ],
            [1, 2],
        ),
        (
            [
                {"alertname": "AzureVmssExporterPollFailing", "severity": "warning", "reason": reason, **who}
                for reason, who in (("forbidden", WEB), ("forbidden", API), ("timeout", WEB))
            ],
            [1, 2],
        ),
    ],
    ids=["by scale set", "failing polls by subscription and reason"],
)
async def test_notifications_are_grouped(api: Api, alerts: list[Labels], sizes: list[int]):
    await api.fire(*alerts)
    deadline = monotonic() + 20
    while sorted(found := await api.groups()) != sizes:
        assert monotonic() < deadline, found
        await asyncio.sleep(0.1)
