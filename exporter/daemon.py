"""Composition root and lifetimes: start, apply, reload, drain.

All that lives as long as the process is made here, and ended here, in the order that keeps each part from being
used after its end. How it works inside is each part's own affair.
"""

import asyncio
import logging
import resource
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic, time

from exporter import __version__, service_manager, signals
from exporter.address import Address
from exporter.azure.budget import REQUESTS_PER_MINUTE, SCALE_SET_REQUESTS_PER_MINUTE
from exporter.azure.client import Client
from exporter.azure.credential import Credential
from exporter.banners import DiscoveryStatus, SignInFailure
from exporter.config import Config, ConfigError
from exporter.connections import MOST_CONNECTIONS, Limits, affordable_connections
from exporter.discovery import Discoverer, merge, select
from exporter.error_log import ErrorLog
from exporter.exposition import Exposition
from exporter.families import FAMILIES, JOURNAL_FAMILIES
from exporter.garbage_collector import GarbageCollector
from exporter.gate import Gate
from exporter.log import count_dropped, fields
from exporter.plan import Budget, Plan
from exporter.poller import PlanAccount, Poller
from exporter.recorder import Recorder
from exporter.scale_set import ScaleSet, Shard, Source, difference
from exporter.schedule import Schedule
from exporter.searcher import Searcher
from exporter.snapshot import Snapshot, after_restart
from exporter.status import Past, nothing
from exporter.store import Store
from exporter.telemetry import Telemetry
from exporter.wall_clock import WallClock
from exporter.web import Server, application

log = logging.getLogger(__name__)

RING_SECONDS = 1.0
STOPPED_SECONDS = 30.0
"""Time without a tick of the polling clock after which it counts as stopped."""
DRAIN_SECONDS = 2.0
"""What polls in flight may still take when the daemon is told to end."""
LOOK_SECONDS = 2.0
"""Between two looks at the files of the web configuration."""
NOTE_TIMES_SECONDS = 60.0
"""Between two writings of when scale sets were last polled, where their polls found nothing new."""
PRUNE_SECONDS = 3600.0
SEARCH_TIMEOUTS = 4
"""A search may take so many times a poll's timeout: it is many pages."""
APPLIED_AT_ONCE = 128
"""Scale sets that come, change or go in one go, before the event loop gets a turn."""
EXPIRED_AT_ONCE = 64
"""Scale sets that lose their outdated history in one go, before the event loop gets a turn."""


def steady_clock() -> Callable[[], float]:
    """Return a clock for plans: near the wall clock, so that phases outlive a restart, yet it never jumps."""
    offset = time() - monotonic()
    return lambda: monotonic() + offset


def _connection(config: Config) -> tuple[object, ...]:
    """Return those settings for which the client must be another one."""
    return config.cloud, config.credential, config.polling.concurrency


@dataclass(frozen=True, slots=True)
class _Discovered:
    """What discovery found of this shard, as scale sets to poll."""

    selected: tuple[ScaleSet, ...] = ()
    unselected: tuple[ScaleSet, ...] = ()
    """Those that do not meet all conditions of the configuration."""
    number_selected: Mapping[str, int] = field(default_factory=dict)
    """How many scale sets are selected in each subscription, of all shards."""


async def run(
    read: Callable[[], Config],
    shard: Shard,
    addresses: Iterable[Address],
    telemetry_path: str,
    gate: Gate,
    *,
    enable_lifecycle: bool,
) -> None:
    """Serve and poll until SIGTERM or SIGINT; SIGHUP makes it ``read`` the configuration anew.

    Raises what ``read`` raises the first time, and ``OSError`` where an address cannot be listened on.
    """
    stopping, hung_up = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().set_exception_handler(ErrorLog(log).handle)
    with signals.listening(stopping.set, hung_up.set):
        daemon = Daemon(read, shard)
        reloading: asyncio.Task[None] | None = None
        try:
            bound = await daemon.listen(addresses, telemetry_path, gate, enable_lifecycle=enable_lifecycle)
            for address in bound:
                tls = str(gate.context is not None).lower()
                log.info("listening", extra=fields(version=__version__, address=address, tls=tls))
            await daemon.start()
            reloading = asyncio.create_task(_reload_when(hung_up, daemon))
            service_manager.notify(service_manager.READY)
            await stopping.wait()
            log.info("draining")
            service_manager.notify(service_manager.STOPPING)
        finally:
            if reloading is not None:
                reloading.cancel()
            await daemon.end()


async def _reload_when(told: asyncio.Event, daemon: "Daemon") -> None:
    while True:
        await told.wait()
        told.clear()
        await daemon.reload()


async def _tell_alive() -> None:
    service_manager.notify(service_manager.ALIVE)


class Daemon:
    """The exporter. Made inside the event loop.

    ``read`` reads the configuration, and raises ``ConfigError`` or ``OSError``.
    """

    def __init__(self, read: Callable[[], Config], shard: Shard, *, lasting: bool = True) -> None:
        """``lasting`` says whether the process is here to stay: it tells of itself, and the journal is its to write."""
        self._read = read
        self._shard = shard
        self._lasting = lasting
        self._config = config = read()
        self._clock = steady_clock()
        self._telemetry = Telemetry(process=lasting)
        count_dropped(self._telemetry.log_lines_dropped.inc)
        journal = config.journal if lasting else None
        self._store = Store(FAMILIES + JOURNAL_FAMILIES if journal else FAMILIES)
        self.exposition = Exposition(self._store, self._telemetry)
        self._recorder = (
            Recorder(journal.path, journal.keep, self._store, self._telemetry, self._clock)
            if journal
            else None
        )
        self._credential = Credential(config.credential, config.cloud, self._telemetry)
        self._client = self._connect()
        self._poller = Poller(
            self._client,
            self._store,
            self._telemetry,
            self._clock,
            concurrency=config.polling.concurrency,
            timeout_seconds=config.polling.timeout,
            record=self._recorder.record if self._recorder else None,
        )
        self._searcher = Searcher(
            self._discoverer(),
            self._telemetry,
            self.apply,
            timeout_seconds=config.polling.timeout * SEARCH_TIMEOUTS,
        )
        self._subscriptions: set[str] = set()
        self._refreshes: dict[str, float] = {}
        self._discovered = _Discovered()
        self._recalled: set[str] = set()
        """Subscriptions of whose unselected scale sets the journal has been asked what it knows."""
        self._plans: dict[str, Plan] = {}
        self._ringing: set[str] = set()
        """Subscriptions whose plan is rung."""
        self._schedule = Schedule()
        self._stretched: tuple[float, frozenset[float]] = (0.0, frozenset())
        """The shortest interval that Azure grants, and the configured ones below it, as they were logged."""
        self._wall_clock = WallClock()
        self._ticked_at: float | None = None
        self._garbage_collector = GarbageCollector()
        self._applying, self._reloading = asyncio.Lock(), asyncio.Lock()
        self._server: Server | None = None
        self._started = self._was_ready = self._draining = False
        self._telemetry.shard.set(shard.number)
        self._telemetry.total_shards.set(shard.total)

    @property
    def healthy(self) -> bool:
        """Whether the polling clock ticks; until its first tick the daemon is still starting."""
        return self._ticked_at is None or monotonic() - self._ticked_at < STOPPED_SECONDS

    @property
    def ready(self) -> bool:
        """Whether each scale set has been polled once or is known from the journal, and no end is in sight.

        A first search that fails ends the wait for it: alerts need the scrapes that wait for this.
        """
        if not self._was_ready and self._started and not self._searcher.awaited:
            self._was_ready = all(known.polled for known in self._store.snapshots())
        return self._was_ready and not self._draining

    @property
    def progress(self) -> tuple[int, int]:
        """How many scale sets have been polled, of how many."""
        return sum(known.polled for known in self._store.snapshots()), len(self._store)

    def failures(self) -> list[str]:
        """Return what fails at this moment, a line for each scale set and each search."""
        polls = (
            f"{known.scale_set.id}: {known.failure.value}: {known.failure_message}"
            for known in self._store.snapshots()
            if known.failure is not None
        )
        return sorted([*self._searcher.failures(), *polls])

    def snapshots(self) -> tuple[Snapshot, ...]:
        """Return what is known of each scale set."""
        return tuple(self._store.snapshots())

    def discoveries(self) -> tuple[DiscoveryStatus, ...]:
        """Return how the last discovery of each subscription ended."""
        statuses = []
        for key in self._refreshes:
            found = self._searcher.found.get(key)
            error = self._searcher.failure(key)
            statuses.append(
                DiscoveryStatus(
                    subscription_id=key,
                    found=None if found is None else len(found),
                    selected=self._discovered.number_selected.get(key, 0),
                    failure=None if error is None else error.reason,
                    failure_message="" if error is None else str(error),
                )
            )
        return tuple(statuses)

    def sign_in_failures(self) -> tuple[SignInFailure, ...]:
        """Return why the last sign-in failed, for each subscription that uses the credential."""
        failure = self._credential.failure
        if failure is None:
            return ()
        return tuple(
            SignInFailure(each.id, failure.reason, str(failure)) for each in self._config.subscriptions
        )

    def past(self) -> AbstractContextManager[Past]:
        """Give what Azure may have forgotten; entered in a thread."""
        return nullcontext(nothing) if self._recorder is None else self._recorder.past()

    @property
    def configuration(self) -> str:
        """The configuration in force, as YAML, without secrets."""
        return self._config.dump()

    async def listen(
        self,
        addresses: Iterable[Address],
        telemetry_path: str,
        gate: Gate | None = None,
        *,
        enable_lifecycle: bool = False,
    ) -> list[str]:
        """Begin to serve; return where."""
        app = application(
            self.exposition,
            self._telemetry,
            self,
            telemetry_path,
            enable_lifecycle=enable_lifecycle,
        )
        self._server = Server(app, gate, Limits(connections=self._affordable_connections()))
        bound = await self._server.start(addresses)
        self._schedule.every(LOOK_SECONDS, "web configuration", self._server.refresh)
        return bound

    def _affordable_connections(self) -> int:
        """Return how many connections there are file descriptors for."""
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = None if descriptors == resource.RLIM_INFINITY else descriptors
        affordable = affordable_connections(limit, self._config.polling.concurrency)
        if affordable < MOST_CONNECTIONS:
            log.warning(
                "few file descriptors, so fewer connections are held; raise the limit (ulimit -n)",
                extra=fields(limit=limit, connections=affordable),
            )
        return affordable

    async def start(self) -> None:
        """Begin to search and to poll; raises ``OSError`` where the journal cannot be used."""
        self._garbage_collector.start()
        if self._recorder is not None:
            await self._recorder.open()
            self._schedule.every(RING_SECONDS, "journal", self._recorder.ring)
            self._schedule.every(NOTE_TIMES_SECONDS, "note times", self._recorder.note_times)
            self._schedule.every(PRUNE_SECONDS, "prune", self._prune)
        self._schedule.every(RING_SECONDS, "tick", self._tick)
        self._schedule.every(RING_SECONDS, "expire", self._expire)
        self._schedule.every(RING_SECONDS, "join", self._join)
        self._schedule.every(RING_SECONDS, "tidy", self._tidy)
        watchdog = service_manager.watchdog_seconds() if self._lasting else None
        if watchdog is not None:
            self._schedule.every(watchdog / 2, "watchdog", _tell_alive)
        self._schedule.start()
        await self._put_in_force(self._config)
        self._started = True

    async def reload(self) -> str:
        """Read the configuration anew and put it in force; one that is wrong changes nothing.

        Returns what is wrong with it, a line for each fault.
        """
        async with self._reloading:
            try:
                config = await asyncio.to_thread(self._read)
            except (ConfigError, OSError) as error:
                self._telemetry.config_last_reload_successful.set(0)
                for fault in str(error).splitlines():
                    log.error("configuration not reloaded", extra=fields(fault=fault))  # noqa: TRY400 - foreseen
                return str(error)
            except Exception:
                self._telemetry.config_last_reload_successful.set(0)
                log.exception(
                    "defect in reading the configuration"
                )  # ours to mend; the next reload must come
                return "a defect of the exporter, see its log"
            await self._put_in_force(config)
            log.info("configuration reloaded")
            return ""

    async def end(self) -> None:
        """Let polls in flight end, stop serving, close every connection."""
        self._draining = True
        await self._schedule.stop()
        await self._searcher.stop_all()
        await self._poller.drain(DRAIN_SECONDS)
        if self._recorder is not None:
            await self._recorder.close()
        if self._server is not None:
            await self._server.stop()
        await self._client.close()
        await self._credential.close()
        self._garbage_collector.stop()

    async def apply(self, config: Config | None = None) -> None:
        """Change the world to what is wanted now, by the configuration given or in force and by what was found."""
        async with self._applying:
            if config is not None:
                await self._adopt(config)
            # In a thread, as each takes a tenth of a second at 10,000.
            discovered = await asyncio.to_thread(self._select)
            unresolved = await self._unresolved(discovered.unselected)
            self._discovered = discovered
            wanted = await asyncio.to_thread(self._wanted, discovered.selected + unresolved)
            await self._poll_no_others(wanted)
            self._tell(wanted, discovered)

    async def _put_in_force(self, config: Config) -> None:
        await self.apply(config)
        self._telemetry.config_last_reload_successful.set(1)
        self._telemetry.config_last_reload_success_timestamp.set(time())

    async def _adopt(self, config: Config) -> None:
        """Go by another configuration in all but the scale sets."""
        before, self._config = self._config, config
        self._adopt_journal()
        refreshes = {each.id: each.discovery.refresh for each in config.subscriptions if each.discovery}
        for subscription_id in self._refreshes.keys() - refreshes.keys():
            self._schedule.cancel(f"discover {subscription_id}")
            await self._searcher.forget(subscription_id)
            self._recalled.discard(subscription_id)
            self._telemetry.forget_discovery(subscription_id)
        if _connection(before) != _connection(config):
            await self._connect_anew(before)
            self._refreshes = {}  # search by the new connection at once
        polling, now = config.polling, self._clock()
        self._poller.timeout_seconds = polling.timeout
        self._searcher.timeout_seconds = polling.timeout * SEARCH_TIMEOUTS
        self._client.search_with(self._share)
        for plan in tuple(self._plans.values()):
            plan.adjust(self._budget, polling.active_interval, now)
            await asyncio.sleep(0)
        for subscription in config.subscriptions:
            self._subscriptions.add(subscription.id)
            self._telemetry.know(subscription.id, searched=subscription.discovery is not None)
        if not self._started:
            self._searcher.awaited.update(refreshes)
        for subscription_id, refresh in refreshes.items() - self._refreshes.items():
            search = partial(self._search, subscription_id)
            self._schedule.every(refresh, f"discover {subscription_id}", search)
        self._refreshes = refreshes

    def _adopt_journal(self) -> None:
        journal = self._config.journal
        if self._lasting and (self._recorder and self._recorder.path) != (journal and journal.path):
            log.warning("another journal takes effect at restart only")
        if journal is not None and self._recorder is not None:
            self._recorder.keep = journal.keep

    def _connect(self) -> Client:
        polling = self._config.polling
        client = Client(
            self._config.cloud, self._credential, self._telemetry, connections=polling.concurrency
        )
        client.search_with(self._share)
        return client

    def _discoverer(self) -> Discoverer:
        return Discoverer(self._client, self._telemetry, account=self._account)

    def _account(self, subscription_id: str) -> PlanAccount:
        return self._poller.account(subscription_id, self._plan(subscription_id))

    async def _connect_anew(self, before: Config) -> None:
        """Go on with another client. What is in flight is broken off, and due again at once."""
        client, credential = self._client, self._credential
        if (before.cloud, before.credential) != (self._config.cloud, self._config.credential):
            self._credential = Credential(self._config.credential, self._config.cloud, self._telemetry)
        self._client = self._connect()
        self._searcher.discoverer = self._discoverer()
        self._poller.use(self._client, self._config.polling.concurrency)
        await self._searcher.stop_all()
        interrupted = self._poller.in_flight()
        await self._poller.retire(interrupted)
        await client.close()
        if credential is not self._credential:
            await credential.close()
        for scale_set in [self._store[key].scale_set for key in interrupted]:
            plan = self._plans[scale_set.subscription_id]
            plan.remove(scale_set.id)
            plan.add(scale_set.id, scale_set.interval, self._clock())

    def _select(self) -> _Discovered:
        """Return the discovered scale sets of this shard, by whether the configuration selects them."""
        selected: list[ScaleSet] = []
        unselected: list[ScaleSet] = []
        number_selected: dict[str, int] = {}
        for subscription in self._config.subscriptions:
            found = self._searcher.found.get(subscription.id)
            if subscription.discovery is not None and found is not None:
                meeting, others = select(found, subscription.discovery, self._config.polling.interval)
                number_selected[subscription.id] = len(meeting)
                selected += filter(self._shard.holds, meeting)
                unselected += filter(self._shard.holds, others)
        return _Discovered(tuple(selected), tuple(unselected), number_selected)

    async def _unresolved(self, unselected: tuple[ScaleSet, ...]) -> tuple[ScaleSet, ...]:
        """Return those whose latest upgrade is active or Faulted, by what this process or the journal knows.

        To switch automatic upgrades off, or to change a tag, neither ends nor repairs an upgrade, so its alert must not
        resolve. At the first discovery of a subscription the journal is asked what a former process knew.
        """
        known = {each.id: self._store[each.id] for each in unselected if each.id in self._store}
        forgotten = [
            each for each in unselected if each.id not in known and each.subscription_id not in self._recalled
        ]
        self._recalled.update(self._searcher.found)
        known |= await self._remembered(tuple(forgotten))
        return tuple(
            each
            for each in unselected
            if (snapshot := known.get(each.id)) is not None
            and snapshot.unresolved
            and snapshot.scale_set.source is Source.DISCOVERED
        )

    def _wanted(self, discovered: tuple[ScaleSet, ...]) -> tuple[ScaleSet, ...]:
        """Return the scale sets of this shard, named and discovered."""
        named = filter(self._shard.holds, self._config.named_scale_sets())
        return merge(named, discovered)

    async def _poll_no_others(self, scale_sets: tuple[ScaleSet, ...]) -> None:
        """Poll these scale sets; what is known of those that stay is kept.

        The order matters: who is out of the plan is not polled anew, whose poll has ended writes no more, and the
        store ignores whoever it does not hold.
        """
        change = difference((known.scale_set for known in self._store.snapshots()), scale_sets)
        for scale_set in change.gone:
            self._plans[scale_set.subscription_id].remove(scale_set.id)
        await self._poller.retire(scale_set.id for scale_set in change.gone)
        for part in change.parts(APPLIED_AT_ONCE):
            remembered = await self._remembered(part.new)
            self._store.apply(part)
            now = self._clock()
            for scale_set in part.changed:
                self._plan(scale_set.subscription_id).change(scale_set.id, scale_set.interval, now)
            for scale_set in part.new:
                self._plan(scale_set.subscription_id).add(scale_set.id, scale_set.interval, now)
            for scale_set in part.changed + part.new:
                interval = self._plan(scale_set.subscription_id).interval(scale_set.id)
                before = self._store[scale_set.id]
                known = replace(remembered.get(scale_set.id, before), interval=interval)
                if known != before:
                    self._store.write(known)
            self._garbage_collector.tidy()
            await asyncio.sleep(0)
        for subscription_id in self._subscriptions - {each.id for each in self._config.subscriptions}:
            self._subscriptions.discard(subscription_id)
            self._schedule.cancel(f"poll {subscription_id}")
            self._ringing.discard(
                subscription_id
            )  # its plan stays: what was spent and a pause outlive its leaving
            self._telemetry.forget(subscription_id)

    async def _remembered(self, scale_sets: tuple[ScaleSet, ...]) -> dict[str, Snapshot]:
        """Return what the journal tells of scale sets that come, as far as that may still be served."""
        if self._recorder is None:
            return {}
        known, max_age = await self._recorder.remember(scale_sets), self._config.polling.max_age
        now, steady_now = time(), self._clock()
        return {
            key: after_restart(snapshot, now, max_age, steady_now=steady_now)
            for key, snapshot in known.items()
        }

    def _plan(self, subscription_id: str) -> Plan:
        """Return the plan of a subscription; from the first call on its clock rings."""
        plan = self._plans.get(subscription_id)
        if plan is None:
            plan = Plan(self._budget, self._config.polling.active_interval, self._clock())
            self._plans[subscription_id] = plan
        if subscription_id not in self._ringing:
            self._ringing.add(subscription_id)
            self._schedule.every(RING_SECONDS, f"poll {subscription_id}", partial(self._ring, plan))
        return plan

    @property
    def _budget(self) -> Budget:
        share = self._config.polling.budget_share
        return Budget(
            per_minute=self._share * REQUESTS_PER_MINUTE,
            shortest_interval=60.0 / (share * SCALE_SET_REQUESTS_PER_MINUTE),
        )

    @property
    def _share(self) -> float:
        """Of what Azure grants, this shard's part."""
        return self._config.polling.budget_share / self._shard.total

    async def _search(self, subscription_id: str) -> None:
        self._searcher.start(subscription_id)

    async def _ring(self, plan: Plan) -> None:
        self._poller.start_due(plan)

    async def _tick(self) -> None:
        """Count a tick, and log a step of the wall clock."""
        self._ticked_at = monotonic()
        self._telemetry.ticks.inc()
        step = self._wall_clock.step()
        if step:
            log.warning(
                "wall clock was stepped, polls go on by the monotonic clock",
                extra=fields(step_seconds=round(step, 3)),
            )
            for subscription_id in self._ringing:
                self._account(subscription_id).show_pause()

    async def _prune(self) -> None:
        if self.ready and self._recorder is not None:  # who is known by then does not go with what is old
            await self._recorder.prune()

    async def _expire(self) -> None:
        max_age = self._config.polling.max_age
        while self._store.expire(self._clock(), max_age, EXPIRED_AT_ONCE):  # noqa: ASYNC110 - no waiting, taking turns
            await asyncio.sleep(0)

    async def _join(self) -> None:
        """Leave little to join for the next scrape, which does it in one go."""
        for _ in self._store.join():
            await asyncio.sleep(0)

    async def _tidy(self) -> None:
        self._garbage_collector.tidy()

    def _tell(self, scale_sets: tuple[ScaleSet, ...], discovered: _Discovered) -> None:
        """Say what is polled now, what was found, and what could not be granted."""
        counts = Counter((scale_set.subscription_id, scale_set.source) for scale_set in scale_sets)
        selected = Counter(scale_set.subscription_id for scale_set in discovered.selected)
        unselected = Counter(scale_set.subscription_id for scale_set in discovered.unselected)
        self._telemetry.scale_sets.clear()
        self._telemetry.found_scale_sets.clear()
        for subscription in self._config.subscriptions:
            key = subscription.id
            sources = {
                Source.NAMED: bool(subscription.scale_sets),
                Source.DISCOVERED: bool(subscription.discovery),
            }
            for source in (source for source, applies in sources.items() if applies):
                self._telemetry.scale_sets.labels(key, source.value).set(counts[key, source])
            if key in self._searcher.found:
                self._telemetry.found_scale_sets.labels(key, "true").set(selected[key])
                self._telemetry.found_scale_sets.labels(key, "false").set(unselected[key])
        polling = self._config.polling
        shortest = self._budget.shortest_interval
        intervals = Counter(min(each.interval, polling.active_interval) for each in scale_sets)
        too_short = {interval: number for interval, number in intervals.items() if interval < shortest}
        before, self._stretched = self._stretched, (shortest, frozenset(too_short))
        if too_short and self._stretched != before:  # each search comes by here, mostly with nothing new
            log.warning(
                "intervals stretched to what Azure grants a scale set",
                extra=fields(
                    scale_sets=sum(too_short.values()),
                    shortest_seconds=shortest,
                    budget_share=polling.budget_share,
                ),
            )
