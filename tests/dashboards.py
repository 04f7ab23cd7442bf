"""What the dashboards show: a simulated fleet that lives, an exporter that polls it, the Prometheus that they ask."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import time
from urllib.parse import urlsplit

from exporter.simulator.fleet import CAST, FAILS_TO_ROLL_BACK, HOUR, ROLLS_BACK, Fleet, ScaleSet
from exporter.simulator.server import Simulator, config_for, refused, refusing, running
from exporter.simulator.wire import to_json
from tests.processes import exporter, prometheus

DEPLOY = Path(__file__).parents[1] / "deploy"
DASHBOARDS = DEPLOY / "grafana" / "dashboards"
COURSES = [part.course for part in CAST]
BROKEN, LIVELY = COURSES.index(FAILS_TO_ROLL_BACK), COURSES.index(ROLLS_BACK)
ABSURD, GONE = 6, 8
"""Any that are not among those."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A fleet under the eyes of Prometheus.

    Most of it lives on. The polls of one scale set fail, another is not found, the history of a third has an absurd
    field.
    """

    url: str
    log: list[str]
    """Prometheus', both."""
    broken: ScaleSet
    """Its upgrade faulted, its rollback did, and now its polls fail: there is nothing that it does not show."""
    lively: ScaleSet
    """It is upgraded, faults and is rolled back, again and again."""


@asynccontextmanager
async def watched(
    folder: Path, *, scale_sets: int = 12, speed: float = 60.0, scrape_interval: str = "1s"
) -> AsyncIterator[Watched]:
    """Run everything until the block ends."""
    fleet = Fleet(epoch=time(), scale_sets=scale_sets, speed=speed)
    simulator = Simulator(fleet)
    broken, absurd, gone = (fleet.scale_sets[index] for index in (BROKEN, ABSURD, GONE))
    # Soon after the epoch its rollback is over; there its time stands still.
    simulator.histories[_key(broken)] = fleet.history(broken, fleet.epoch + 0.1 * HOUR / speed)
    entries = json.dumps([to_json(absurd, upgrade) for upgrade in fleet.history(absurd, fleet.epoch)])
    entries = entries.replace('"failedInstanceCount": 0', '"failedInstanceCount": "none"', 1)
    simulator.histories[_key(absurd)] = f'{{"value": {entries}}}'.encode()
    async with AsyncExitStack() as stack:
        azure = await stack.enter_async_context(running(simulator))
        config = folder / "config.yaml"
        config.write_text(config_for(fleet, azure, discovering=True))
        daemon = await stack.enter_async_context(
            exporter(
                f"--config.file={config}", IDENTITY_ENDPOINT=f"{azure}/token", IDENTITY_HEADER="simulator"
            )
        )
        await daemon.until_ready()
        simulator.fault(_key(broken), refusing(refused(500, "InternalServerError", "It broke.")))
        simulator.gone.add(_key(gone))
        scraping = _prometheus_config(urlsplit(daemon.url).netloc, scrape_interval)
        yield Watched(
            *await stack.enter_async_context(prometheus(folder, scraping)),
            broken,
            fleet.scale_sets[LIVELY],
        )


def _key(scale_set: ScaleSet) -> str:
    return scale_set.resource_id.lower()


def _prometheus_config(target: str, interval: str) -> dict[str, object]:
    return {
        "global": dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), interval),
        "rule_files": [str(DEPLOY / "prometheus" / "recording.yml")],
        "scrape_configs": [{"job_name": "vmss-upgrade-exporter", "static_configs": [{"targets": [target]}]}],
    }


def chosen(dashboard: str, scale_set: ScaleSet) -> dict[str, str]:
    """Return what stands for the variables: everything, or the scale set where there is to be one."""
    if dashboard == "scale-set":
        return {
            "subscription": scale_set.subscription_id,
            "resource_group": scale_set.resource_group.lower(),
            "scale_set": scale_set.name.lower(),
        }
    return dict.fromkeys(("subscription", "resource_group", "scale_set", "exporter"), ".*")


@dataclass(frozen=True, slots=True)
class Asked:
    """A query of a panel, with everything filled in."""

    panel: str
    expr: str
    instant: bool


def queries_of(dashboard: Path, variables: dict[str, str], seconds: float) -> Iterator[Asked]:
    """Yield what all panels ask when they show the last so many seconds, at Prometheus' interval of a second."""
    filled_in = variables | {
        "__rate_interval": "5s",
        "__range": f"{seconds:.0f}s",
        "__from": f"{1000 * (time() - seconds):.0f}",
    }
    shown = json.loads(dashboard.read_text())
    for panel in shown["panels"]:
        for target in panel.get("targets", ()):
            yield Asked(panel["title"], fill_in(target["expr"], filled_in), target["instant"])


def fill_in(text: str, variables: dict[str, str]) -> str:
    """Replace ``$name`` by its value; a name without one is a mistake."""
    return re.sub(r"\$([a-z_]\w*)", lambda found: variables[found[1]], text)
