"""The whole way of an alert as ``deploy/`` ships it: exporter, Prometheus, Alertmanager, webhook.

Intervals are shortened and addresses replaced; rules, routes, groups and inhibitions are the ones that ship.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import yaml
from aiohttp import web

from exporter.simulator.fleet import ApiError, Fleet, Image, ScaleSet, State, Upgrade
from exporter.simulator.server import Simulator, running
from tests.processes import Exporter, exporter, free_address, prometheus, running_program

DEPLOY = Path(__file__).parents[1] / "deploy"
INTERVAL = "1s"
TEAM = "storefront"
"""The owner of every scale set."""
KEPT_FIRING = "5s"
"""Longer than a scrape or two that a busy machine makes too late: nothing resolves for that."""


@dataclass(frozen=True, slots=True)
class Notified:
    """One alert of a notification, as the webhook got it."""

    receiver: str
    """The last part of the webhook's URL."""
    status: str
    """``firing`` or ``resolved``."""
    labels: dict[str, str]
    annotations: dict[str, str]


@dataclass(frozen=True, slots=True)
class Watch:
    """A simulated fleet whose upgrades all completed, and all that watches it."""

    simulator: Simulator
    exporters: tuple[Exporter, ...]
    prometheus_url: str
    prometheus_log: list[str]
    alertmanager_log: list[str]
    notified: list[Notified]

    @property
    def scale_sets(self) -> tuple[ScaleSet, ...]:
        return self.simulator.fleet.scale_sets

    def end_upgrade(
        self, scale_set: ScaleSet, state: State, error: ApiError | None = None, image: Image | None = None
    ) -> None:
        """Make the scale set's latest upgrade one that has just ended in ``state``."""
        self.simulator.histories[scale_set.resource_id.lower()] = (_ended(state, error, image),)

    async def until_notified(self, status: str, **labels: str) -> Notified:
        """Wait for a notification that bears these labels, among others."""
        deadline = monotonic() + 30
        while True:
            for notified in self.notified:
                if notified.status == status and labels.items() <= notified.labels.items():
                    return notified
            assert monotonic() < deadline, (self.notified, self.prometheus_log, self.alertmanager_log)
            await asyncio.sleep(0.02)


@asynccontextmanager
async def watch(
    folder: Path,
    shards: int = 1,
    *,
    max_age: str = "1h",
    waits: str | None = None,
    faulted_ago: float | None = None,
) -> AsyncIterator[Watch]:
    """Run everything until the block ends; when it begins, every scale set has been polled.

    ``max_age`` is the exporter's ``polling.max_age``; ``waits`` is what every ``for`` of the rules becomes. With
    ``faulted_ago`` the upgrade of the first scale set is Faulted, and ended so many seconds ago.
    """
    simulator = Simulator(Fleet(epoch=time()))
    for scale_set in simulator.fleet.scale_sets:
        simulator.histories[scale_set.resource_id.lower()] = (_ended(State.COMPLETED),)
    if faulted_ago is not None:
        first = simulator.fleet.scale_sets[0].resource_id.lower()
        simulator.histories[first] = (_ended(State.FAULTED, ago=faulted_ago),)
    notified: list[Notified] = []
    async with AsyncExitStack() as stack:
        azure = await stack.enter_async_context(running(simulator))
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(_exporter_config(simulator.fleet, azure, max_age)))
        exporters = []
        for shard in range(shards):
            flags = (f"--shard={shard}", f"--total-shards={shards}") if shards > 1 else ()
            daemon = exporter(
                f"--config.file={config}",
                *flags,
                IDENTITY_ENDPOINT=f"{azure}/token",
                IDENTITY_HEADER="simulator",
            )
            exporters.append(await stack.enter_async_context(daemon))
        for each in exporters:
            await each.until_ready()
        webhook = await stack.enter_async_context(_webhook(notified))
        address, alertmanager_log = await stack.enter_async_context(alertmanager(folder, webhook))
        targets = [urlsplit(each.url).netloc for each in exporters]
        url, prometheus_log = await stack.enter_async_context(
            prometheus(folder, _prometheus_config(folder, targets, address, waits))
        )
        yield Watch(simulator, tuple(exporters), url, prometheus_log, alertmanager_log, notified)


@asynccontextmanager
async def alertmanager(folder: Path, webhook: str) -> AsyncIterator[tuple[str, list[str]]]:
    """Run Alertmanager as shipped until the block ends; yield its address and its log.

    Its notifications go to ``webhook``, a host and a port.
    """
    config = yaml.safe_load((DEPLOY / "alertmanager" / "alertmanager.yml").read_text())
    for route in [config["route"], *config["route"]["routes"]]:
        route |= {"group_wait": INTERVAL, "group_interval": INTERVAL}
    for receiver in config["receivers"]:
        for target in receiver["webhook_configs"]:
            target["url"] = f"http://{webhook}{urlsplit(target['url']).path}"
    file = folder / "alertmanager.yml"
    file.write_text(yaml.safe_dump(config))
    address = free_address()
    async with (
        running_program(
            "prometheus-alertmanager",
            f"--config.file={file}",
            f"--storage.path={folder / 'alertmanager'}",
            f"--web.listen-address={address}",
            "--cluster.listen-address=",
        ) as log,
        aiohttp.ClientSession() as client,
    ):
        deadline = monotonic() + 20
        while not await _ready(client, address):
            assert monotonic() < deadline, log
            await asyncio.sleep(0.05)
        yield address, log


async def _ready(client: aiohttp.ClientSession, address: str) -> bool:
    try:
        async with client.get(f"http://{address}/-/ready") as response:
            return response.status == 200
    except aiohttp.ClientConnectionError:
        return False


@asynccontextmanager
async def _webhook(notified: list[Notified]) -> AsyncIterator[str]:
    """Take notifications until the block ends; yield host and port."""

    async def take(request: web.BaseRequest) -> web.Response:
        notified.extend(
            Notified(request.path.strip("/"), alert["status"], alert["labels"], alert["annotations"])
            for alert in (await request.json())["alerts"]
        )
        return web.Response()

    runner = web.ServerRunner(web.Server(take), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield "{}:{}".format(*runner.addresses[0])
    finally:
        await runner.cleanup()


def _exporter_config(fleet: Fleet, azure: str, max_age: str) -> dict[str, object]:
    """Name every scale set, and poll it as often as Azure allows."""
    members: dict[str, list[dict[str, str]]] = {}
    for scale_set in fleet.scale_sets:
        named = {"resource_group": scale_set.resource_group, "name": scale_set.name}
        members.setdefault(scale_set.subscription_id, []).append(named)
    return {
        "cloud": {"endpoint": azure, "audience": azure, "authority": azure},
        "credential": {"kind": "managed_identity"},
        "polling": {"interval": "5s", "active_interval": "5s", "budget_share": 1.0, "max_age": max_age},
        "subscriptions": [
            {"id": key, "scale_sets": [{**each, "labels": {"team": TEAM}} for each in named]}
            for key, named in members.items()
        ],
    }


def _prometheus_config(
    folder: Path, targets: list[str], alertmanager_address: str, waits: str | None
) -> dict[str, object]:
    """Return the shipped configuration, of its jobs the one for so many targets; put its rules into ``folder``."""
    shipped = DEPLOY / "prometheus"
    config: dict[str, Any] = yaml.safe_load((shipped / "prometheus.yml").read_text())
    for name in config["rule_files"]:
        rules = yaml.safe_load((shipped / name).read_text())
        for group in rules["groups"]:
            group.pop("interval", None)
            for rule in group["rules"]:
                if "keep_firing_for" in rule:
                    rule["keep_firing_for"] = KEPT_FIRING
                if waits is not None and "for" in rule:
                    rule["for"] = waits
        (folder / name).write_text(yaml.safe_dump(rules))
    config["global"] |= dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), INTERVAL)
    config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [alertmanager_address]
    (job,) = (
        job for job in config["scrape_configs"] if len(job["static_configs"][0]["targets"]) == len(targets)
    )
    job["static_configs"][0]["targets"] = targets
    config["scrape_configs"] = [job]
    return config


def _ended(
    state: State, error: ApiError | None = None, image: Image | None = None, ago: float = 0.0
) -> Upgrade:
    end = time() - ago
    return Upgrade(state, end - 60, end, 10, 0, 0, 0, "Platform", image or Image(), error)
