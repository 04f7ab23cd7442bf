"""Composition root and lifetimes: start, apply(scale sets), drain.

All that lives as long as the process is made here, and ended here, in the order that keeps each part from being
used after its end. How it works inside is each part's own affair.
"""

import asyncio
import gc
import logging
import signal
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from time import monotonic, time

from exporter import __version__
from exporter.address import Address
from exporter.azure.budget import REQUESTS_PER_MINUTE, SCALE_SET_REQUESTS_PER_MINUTE
from exporter.azure.client import Client
from exporter.azure.credential import Credential
from exporter.config import Config
from exporter.exposition import Exposition
from exporter.log import fields
from exporter.plan import Budget, Plan
from exporter.poller import Poller
from exporter.scale_set import ScaleSet, difference
from exporter.schedule import Schedule
from exporter.store import Store
from exporter.telemetry import Telemetry
from exporter.web import Server, application

log = logging.getLogger(__name__)

RING_SECONDS = 1.0
DRAIN_SECONDS = 2.0
"""What polls in flight may still take when the daemon is told to end."""
SETTLE_SECONDS = 86_400.0
EXPIRED_AT_ONCE = 64
"""Scale sets that lose their outdated history in one go, before the event loop gets a turn."""


def steady_clock() -> Callable[[], float]:
    """Return a clock for plans: near the wall clock, so that phases outlive a restart, yet it never jumps."""
    offset = time() - monotonic()
    return lambda: monotonic() + offset


async def run(config: Config, addresses: Iterable[Address], telemetry_path: str) -> None:
    """Serve and poll until SIGTERM or SIGINT. Raises ``OSError`` where an address cannot be listened on."""
    stopping = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stopping.set)
    daemon = Daemon(config)
    try:
        for address in await daemon.listen(addresses, telemetry_path):
            log.info("listening", extra=fields(version=__version__, address=address))
        await daemon.apply(config.named_scale_sets())
        await stopping.wait()
        log.info("draining")
    finally:
        await daemon.end()


class Daemon:
    """The exporter. Made inside the event loop."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._clock = steady_clock()
        self._telemetry = Telemetry()
        self._store = Store()
        self._credential = Credential(config.credential, config.cloud, self._telemetry)
        polling = config.polling
        self._client = Client(
            config.cloud, self._credential, self._telemetry, connections=polling.concurrency
        )
        self._poller = Poller(
            self._client,
            self._store,
            self._telemetry,
            self._clock,
            concurrency=polling.concurrency,
            timeout_seconds=polling.timeout,
        )
        self._plans: dict[str, Plan] = {}
        self._schedule = Schedule()
        self._applying = asyncio.Lock()
        self._server: Server | None = None
        self._polled_once = False
        self._draining = False
        self._settled, self._settled_at = 0, self._clock()
        self._telemetry.config_last_reload_successful.set(1)
        self._telemetry.config_last_reload_success_timestamp.set(time())

    @property
    def ready(self) -> bool:
        """Whether every scale set has been polled once, and the daemon is not on its way out."""
        if not self._polled_once:
            snapshots = self._store.snapshots()
            self._polled_once = len(self._store) > 0 and all(known.polled for known in snapshots)
        return self._polled_once and not self._draining

    @property
    def configuration(self) -> str:
        """The configuration in force, as YAML, without secrets."""
        return self._config.dump()

    async def listen(self, addresses: Iterable[Address], telemetry_path: str) -> list[str]:
        """Begin to serve; return where."""
        exposition = Exposition(self._store, self._telemetry)
        self._server = Server(application(exposition, self._telemetry, self, telemetry_path))
        bound = await self._server.start(addresses)
        self._schedule.every(RING_SECONDS, "expire", self._expire)
        self._schedule.every(RING_SECONDS, "join", self._join)
        self._schedule.every(RING_SECONDS, "settle", self._settle)
        self._schedule.start()
        return bound

    async def apply(self, scale_sets: Iterable[ScaleSet]) -> None:
        """Poll these scale sets and no others; what is known of those that stay is kept.

        The order matters: who is out of the plan is not polled anew, whose poll has ended writes no more, and the
        store ignores whoever it does not hold.
        """
        async with self._applying:
            now_wanted = tuple(scale_sets)
            change = difference((known.scale_set for known in self._store.snapshots()), now_wanted)
            for scale_set in change.gone:
                self._plans[scale_set.subscription_id].remove(scale_set.id)
            await self._poller.retire(scale_set.id for scale_set in change.gone)
            self._store.apply(change)
            now = self._clock()
            for scale_set in change.changed:
                self._plan(scale_set.subscription_id).change(scale_set.id, scale_set.interval, now)
            for scale_set in change.new:
                self._plan(scale_set.subscription_id).add(scale_set.id, scale_set.interval, now)
            for scale_set in change.changed + change.new:
                interval = self._plan(scale_set.subscription_id).interval(scale_set.id)
                self._store.write(replace(self._store[scale_set.id], interval=interval))
            self._tell(now_wanted)

    async def end(self) -> None:
        """Let polls in flight end, stop serving, close every connection."""
        self._draining = True
        await self._schedule.stop()
        await self._poller.drain(DRAIN_SECONDS)
        if self._server is not None:
            await self._server.stop()
        await self._client.close()
        await self._credential.close()

    def _plan(self, subscription_id: str) -> Plan:
        """Return the plan of a subscription; from the first call on its clock rings."""
        plan = self._plans.get(subscription_id)
        if plan is None:
            polling = self._config.polling
            budget = Budget(
                per_minute=polling.budget_share * REQUESTS_PER_MINUTE,
                shortest_interval=self._shortest_interval,
            )
            self._telemetry.know(subscription_id)
            plan = self._plans[subscription_id] = Plan(budget, polling.active_interval, self._clock())
            self._schedule.every(RING_SECONDS, f"poll {subscription_id}", partial(self._ring, plan))
        return plan

    async def _ring(self, plan: Plan) -> None:
        self._poller.start(plan.take(self._clock()), plan)

    async def _expire(self) -> None:
        max_age = self._config.polling.max_age
        while self._store.expire(time(), max_age, EXPIRED_AT_ONCE):  # noqa: ASYNC110 - no waiting, taking turns
            await asyncio.sleep(0)

    async def _join(self) -> None:
        """Leave little to join for the next scrape, which does it in one go."""
        for _ in self._store.join():
            await asyncio.sleep(0)

    async def _settle(self) -> None:
        """Keep the garbage collector out of what is here to stay.

        Its full rounds would stop the event loop for a microsecond an object, a fifth of a second at 10,000 scale sets.
        Histories die by their reference counts, so nothing is lost in sparing them; what is garbage in a cycle at this
        very moment is kept for good, so it is done only when the fleet known has grown by a tenth, and once a day.
        """
        known = sum(snapshot.history is not None for snapshot in self._store.snapshots())
        if known > self._settled * 1.1 or self._clock() > self._settled_at + SETTLE_SECONDS:
            self._settled, self._settled_at = known, self._clock()
            gc.freeze()

    @property
    def _shortest_interval(self) -> float:
        return 60.0 / (self._config.polling.budget_share * SCALE_SET_REQUESTS_PER_MINUTE)

    def _tell(self, scale_sets: tuple[ScaleSet, ...]) -> None:
        """Say what is polled now, and what could not be granted."""
        counts = Counter((scale_set.subscription_id, scale_set.source) for scale_set in scale_sets)
        self._telemetry.scale_sets.clear()
        for (subscription_id, source), number in counts.items():
            self._telemetry.scale_sets.labels(subscription_id, source.value).set(number)
        if any(subscription.discovery for subscription in self._config.subscriptions) or self._config.journal:
            log.warning("discovery and journal are configured, but not yet part of this version")
        polling = self._config.polling
        shortest = self._shortest_interval
        too_short = sum(min(each.interval, polling.active_interval) < shortest for each in scale_sets)
        if too_short:
            log.warning(
                "intervals stretched to what Azure grants a scale set",
                extra=fields(
                    scale_sets=too_short, shortest_seconds=shortest, budget_share=polling.budget_share
                ),
            )
