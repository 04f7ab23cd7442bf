"""Prometheus beside the exporter in chaos, with the alert rules that ship, in which every time is shortened.

Each affliction of the exporter is held until Prometheus fires the alert about it. In a calm, the alerts about scale
sets must be those that Azure's knowledge calls for.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import yaml

from exporter.simulator.fleet import State
from tests.processes import prometheus, query

HURRY = 120
"""How much shorter times are than in the rules that ship: a quarter of an hour becomes eight seconds."""
INTERVAL = "500ms"
"""Between two scrapes, and between two evaluations of the rules."""
ALERT_SECONDS = 60.0
"""In which an alert that should fire must have fired: it takes seconds, on a busy machine many."""
RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"
FAILED = "AzureVmssOsUpgrade(Faulted|FailedEarlier)"


def hurried(rules: str) -> dict[str, Any]:
    """Return rules in which all durations, and the seconds that expressions compare with, are shortened."""
    document: dict[str, Any] = yaml.safe_load(rules)
    for group in document["groups"]:
        group["interval"] = INTERVAL
        for rule in group["rules"]:
            rule["expr"] = _SECONDS.sub(lambda match: f"{int(match[0]) / HURRY:g}", _hurried(rule["expr"]))
            for key in {"for", "keep_firing_for"} & rule.keys():
                rule[key] = _hurried(rule[key])
    return document


def _hurried(text: str) -> str:
    return _DURATION.sub(lambda match: f"{int(match[1]) * _UNITS[match[2]] * 1000 // HURRY}ms", text)


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"\b([0-9]+)([smhd])\b")
_SECONDS = re.compile(r"(?<![\w.])(?:300|1800|3600|86400)(?![\w.])")


@dataclass(frozen=True, slots=True)
class Alerts:
    """A running Prometheus."""

    url: str
    client: aiohttp.ClientSession
    log: list[str]

    async def firing(self, alert: str) -> list[dict[str, str]]:
        """Return the labels of alerts that fire, by a regular expression for the name."""
        found = await query(self.client, self.url, f'ALERTS{{alertstate="firing", alertname=~"{alert}"}}')
        return [labels for labels, _ in found]

    async def fires(self, alert: str) -> bool:
        """Whether the alert fires before long."""
        deadline = monotonic() + ALERT_SECONDS
        while not await self.firing(alert):
            if monotonic() > deadline:
                return False
            await asyncio.sleep(0.1)
        return True

    async def faults(self, states: dict[str, State], seconds: float) -> list[str]:
        """Return what is wrong with the alerts about failed upgrades, once they had time to become right.

        ``states`` is what Azure knows, by the names of scale sets in lower case.
        """
        faulted = {name for name, state in states.items() if state is State.FAULTED}
        deadline = monotonic() + seconds
        while True:
            alerts = await self.firing(FAILED)
            about = {labels["scale_set"] for labels in alerts}
            false = _names(alerts, "AzureVmssOsUpgradeFaulted") - faulted
            if not false and faulted <= about:
                return []
            if monotonic() > deadline:
                missing = sorted(faulted - about)
                return [f"no alert about the Faulted {missing}"] * bool(missing) + [
                    f"an alert about {name}, which is {states.get(name)}" for name in sorted(false)
                ]
            await asyncio.sleep(0.2)


def _names(alerts: Iterable[dict[str, str]], alert: str) -> set[str]:
    return {labels["scale_set"] for labels in alerts if labels["alertname"] == alert}


@asynccontextmanager
async def alerting(
    rules: Path, exporter_url: str, authority: Path, user: str, password: str
) -> AsyncIterator[Alerts]:
    """Run Prometheus with these rules, in whose folder it keeps its data, on the exporter until the block ends."""
    config: dict[str, object] = {
        "global": {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL},
        "rule_files": [str(rules)],
        "scrape_configs": [
            {
                "job_name": "vmss-upgrade-exporter",
                "scheme": "https",
                "tls_config": {"ca_file": str(authority)},
                "basic_auth": {"username": user, "password": password},
                "static_configs": [{"targets": [urlsplit(exporter_url).netloc]}],
            }
        ],
    }
    async with prometheus(rules.parent, config) as (url, log), aiohttp.ClientSession() as client:
        yield Alerts(url, client, log)


def write_rules(folder: Path) -> Path:
    """Write the shortened rules into a new folder. Takes a second, which no event loop should wait for."""
    folder.mkdir()
    rules = folder / "alerts.yml"
    rules.write_text(yaml.safe_dump(hurried(RULES.read_text())))
    return rules
