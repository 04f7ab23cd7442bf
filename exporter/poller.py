"""One poll from ring to store; owns the tasks in flight, at most one a scale set.

All subscriptions share the slots. A scale set that finds none free stays in its plan, where its turn is still the
plan's to decide. A slot that becomes free goes to the subscription that has the fewest polls in flight among those
that wait, so that none can keep the others out, however slow its polls are.

The only place that catches a poll's errors. Knows nothing of the clock, of budgets or of what a scrape looks like.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter, time

from exporter.azure.client import Client
from exporter.azure.errors import Malformed, PollError, Throttled
from exporter.history import History, UpgradeState, parse_history_in_steps
from exporter.history import Malformed as MalformedHistory
from exporter.log import fields
from exporter.plan import Due, Plan, Turn
from exporter.scale_set import ScaleSet
from exporter.slices import run_in_slices
from exporter.snapshot import Snapshot, after_failure, after_pause, after_success
from exporter.store import Store
from exporter.telemetry import Telemetry

log = logging.getLogger(__name__)

SAME_PAUSE_SECONDS = 5.0
"""By which the answers to polls that were in flight together may draw a pause out without another line in the log."""


@dataclass(frozen=True, slots=True)
class _News:
    """What a good poll brought."""

    history: History
    digest: bytes
    """Of the answer, by which the same one is known again."""


@dataclass(frozen=True, slots=True)
class PlanAccount:
    """The account of a subscription that its plan keeps; in a pause there is no further request."""

    subscription_id: str
    plan: Plan
    clock: Callable[[], float]
    telemetry: Telemetry

    def spend(self) -> None:
        """Account for a further request; raises ``Throttled`` in a pause."""
        pause = self.paused_for()
        if pause:
            raise Throttled("throttled meanwhile by the answer to another poll", retry_after=pause)
        self.plan.spend(1, self.clock())

    def left(self, scope: str, requests: int) -> None:
        """Pass on what Azure says is left."""
        self.plan.left(scope, requests, self.clock())

    def paused_for(self) -> float:
        """Return for how many seconds yet nobody is polled."""
        return self.plan.paused_for(self.clock())

    def pause(self, seconds: float) -> None:
        """Poll nobody for so long, and say so."""
        before = self.paused_for()
        if not self.plan.pause(self.clock() + seconds):
            return  # of requests that were in flight together, the longest pause counts
        self.show_pause()
        if not before or seconds - before > SAME_PAUSE_SECONDS:
            log.warning(
                "throttled by Azure",
                extra=fields(subscription_id=self.subscription_id, paused_seconds=seconds),
            )

    def show_pause(self) -> None:
        """Show until when a pause that is in force lasts, by the wall clock as it is now."""
        seconds = self.paused_for()
        if seconds:
            self.telemetry.azure_paused_until.labels(self.subscription_id).set(time() + seconds)


class Poller:
    """Polls scale sets, at most ``concurrency`` at a time, each within ``timeout_seconds``.

    ``clock`` is the one that the plans go by. ``record`` is told what was known before and after each poll.
    """

    def __init__(
        self,
        client: Client,
        store: Store,
        telemetry: Telemetry,
        clock: Callable[[], float],
        *,
        concurrency: int,
        timeout_seconds: float,
        record: Callable[[Snapshot, Snapshot], None] | None = None,
    ) -> None:
        self.timeout_seconds = timeout_seconds
        self._store = store
        self._telemetry = telemetry
        self._clock = clock
        self._record = record
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._slots_of: Counter[Plan] = Counter()
        """Slots that each plan's polls hold."""
        self._waiting: dict[Plan, None] = {}
        """Plans that may have more to poll than there were slots, in the order in which they began to wait."""
        self.use(client, concurrency)

    def use(self, client: Client, concurrency: int) -> None:
        """Poll by this client from now on; those in flight go on as they are."""
        self._client = client
        self._concurrency = concurrency

    def account(self, subscription_id: str, plan: Plan) -> PlanAccount:
        """Return the account of a subscription that this plan is of."""
        return PlanAccount(subscription_id, plan, self._clock, self._telemetry)

    def in_flight(self) -> tuple[str, ...]:
        """Return the ids of the scale sets that are being polled."""
        return tuple(self._tasks)

    def start_due(self, plan: Plan) -> None:
        """Start what this plan has to poll now, the rest as slots become free; mark those that a pause keeps waiting."""
        if plan.paused_for(self._clock()):
            self._mark_throttled(plan.take(self._clock()))
        else:
            self._waiting.setdefault(plan)
            self._fill_slots()

    def _fill_slots(self) -> None:
        """Start polls until no slot is free, or no plan has any to start."""
        while self._waiting and (free := self._concurrency - len(self._tasks)) > 0:
            plan = min(self._waiting, key=self._slots_of.__getitem__)
            turn = plan.take(self._clock(), at_most=free if len(self._waiting) == 1 else 1)
            self._mark_throttled(turn)
            for due in turn.polls:
                self._start(due, plan)
            if not turn.more:
                del self._waiting[plan]

    def _start(self, due: Due, plan: Plan) -> None:
        task = asyncio.create_task(self._run(due, plan))
        self._tasks[due.scale_set_id] = task
        self._slots_of[plan] += 1
        task.add_done_callback(partial(self._ended, due.scale_set_id, plan))

    def _mark_throttled(self, turn: Turn) -> None:
        for due in turn.throttled:
            self._telemetry.polls_skipped.labels("throttled").inc()
            before = self._store[due.scale_set_id]
            after = after_pause(before)
            self._store.write(after)
            _log_health(before, after)

    async def retire(self, scale_set_ids: Iterable[str]) -> None:
        """Stop the polls of these scale sets, and wait until they have stopped."""
        tasks = [self._tasks[key] for key in scale_set_ids if key in self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def drain(self, grace_seconds: float) -> None:
        """Let the polls in flight end, but no longer than the grace, and start no other."""
        self._waiting.clear()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=grace_seconds)
        await self.retire(tuple(self._tasks))

    def _ended(self, scale_set_id: str, plan: Plan, task: asyncio.Task[None]) -> None:
        if self._tasks.get(scale_set_id) is task:
            del self._tasks[scale_set_id]
        self._slots_of[plan] -= 1
        if not self._slots_of[plan]:
            del self._slots_of[plan]
        self._fill_slots()

    async def _run(self, due: Due, plan: Plan) -> None:
        key = due.scale_set_id
        if plan.paused_for(self._clock()):  # since it was started, by the answer to another poll
            plan.postpone(key)
            return
        known = self._store[key]
        self._telemetry.poll_delay.observe(max(0.0, self._clock() - due.since))
        started = perf_counter()
        outcome = await self._poll(known, plan)
        self._telemetry.poll_duration.observe(perf_counter() - started)
        self._count(known.scale_set.subscription_id, outcome)
        before = self._store[key]  # a reload may have given it new labels meanwhile
        if isinstance(outcome, PollError):
            if isinstance(outcome, Throttled):
                self.account(before.scale_set.subscription_id, plan).pause(outcome.retry_after)
            after = after_failure(before, outcome.reason, str(outcome), time())
        else:
            after = after_success(before, outcome.history, time(), outcome.digest, steady_now=self._clock())
        latest = after.latest_seen
        active = not after.missing and latest is not None and latest.state.active
        interval = plan.finished(key, self._clock(), active=active, found=not after.missing)
        self._store.write(after if after.interval == interval else replace(after, interval=interval))
        if self._record is not None:
            self._record(before, after)
        _log_health(before, after, outcome if isinstance(outcome, PollError) else None)
        _log_upgrade(before, after)

    async def _poll(self, known: Snapshot, plan: Plan) -> _News | PollError:
        account = self.account(known.scale_set.subscription_id, plan)
        try:
            answer = await self._client.upgrade_history(
                known.scale_set, self.timeout_seconds, account, known.digest
            )
            if answer.unchanged and known.history is not None:
                return _News(known.history, known.digest)
            history = await run_in_slices(parse_history_in_steps(answer.pages))
        except PollError as error:
            return error
        except Exception:
            # Ours to mend; but it must not take the scale set out of the plan, nor hide.
            log.exception("defect in a poll", extra=_identity(known.scale_set))
            return Malformed("a defect of the exporter, see its log")
        if isinstance(history, MalformedHistory):
            return Malformed(history.why, request_id=answer.request_id, excerpt=answer.excerpt)
        return _News(history, answer.digest)

    def _count(self, subscription_id: str, outcome: _News | PollError) -> None:
        self._telemetry.polls.labels(subscription_id).inc()
        if isinstance(outcome, PollError):
            self._telemetry.poll_failures.labels(subscription_id, outcome.reason.value).inc()
        else:
            for field, number in Counter(outcome.history.unrecognised).items():
                self._telemetry.unrecognised_values.labels(field).inc(number)


def _identity(scale_set: ScaleSet) -> dict[str, dict[str, object]]:
    return fields(
        subscription_id=scale_set.subscription_id,
        resource_group=scale_set.resource_group,
        scale_set=scale_set.name,
    )


def _log_health(before: Snapshot, after: Snapshot, error: PollError | None = None) -> None:
    """Write a line when polls begin to fail, fail for another reason, or succeed again, or the scale set is missing."""
    if before.failure is not after.failure:
        _log_failure(after, error)
    if after.missing and not before.missing:
        log.warning(
            "scale set does not exist, its upgrade is no longer served and it is polled less often",
            extra=_identity(after.scale_set),
        )


def _log_failure(after: Snapshot, error: PollError | None) -> None:
    line = _identity(after.scale_set)
    if after.failure is None:
        log.info("poll succeeds again", extra=line)
        return
    line["fields"] |= {"reason": after.failure.value, "error": after.failure_message}
    if error is not None:
        line["fields"] |= error.ids
        line["fields"] |= {"excerpt": error.excerpt} if error.excerpt else {}
    log.warning("poll failed", extra=line)


def _log_upgrade(before: Snapshot, after: Snapshot) -> None:
    """Write a line when the latest upgrade is another one, or in another state; at first sight only if Faulted."""
    old, new = before.latest_seen, after.latest_seen
    if new is None or (old is not None and (old.start, old.state) == (new.start, new.state)):
        return
    faulted = new.state is UpgradeState.FAULTED
    if old is None and not faulted:
        return
    line = _identity(after.scale_set)
    line["fields"] |= {"state": new.state.value}
    if new.error is not None:
        line["fields"] |= {"code": new.error.code or "", "error": new.error.message or ""}
    log.log(logging.WARNING if faulted else logging.INFO, "upgrade changed", extra=line)
