"""The trial of a configuration on Azure: whether each subscription answers, what is permitted, and what is left.

Asks each subscription once, as the daemon would, and changes nothing. Knows nothing of plans, stores or metrics.
"""

import asyncio
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field

from exporter.azure.client import Client
from exporter.azure.credential import Credential
from exporter.azure.errors import PollError
from exporter.banners import DISCOVERY_PERMISSION, HISTORY_PERMISSION
from exporter.config import Config, Subscription
from exporter.discovery import Discoverer, select
from exporter.history import Malformed, parse_history
from exporter.log import escaped
from exporter.scale_set import ScaleSet
from exporter.snapshot import Reason
from exporter.telemetry import Telemetry

SIGN_IN = "sign-in"
AT_ONCE = 8
"""Subscriptions that are asked at the same time."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one request."""

    what: str
    """What was asked for: ``history of rg-web/web``, ``discovery``, or ``sign-in`` where that failed already."""
    answer: str = ""
    """What came, in words; empty where it failed."""
    reason: str = ""
    """Why it failed, as in ``poll_error``; empty where it did not."""
    error: str = ""
    """The failure in Azure's words."""
    missing: str = ""
    """The permission that would mend it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a subscription answered."""

    subscription_id: str
    trials: tuple[Trial, ...]
    remaining: dict[str, int] = field(default_factory=dict)
    """Requests left by budget, as Azure's headers call it."""

    @property
    def reachable(self) -> bool:
        """Whether any answer came at all."""
        none = {Reason.UNREACHABLE.value, Reason.TIMEOUT.value}
        return any(trial.what != SIGN_IN and trial.reason not in none for trial in self.trials)

    @property
    def fine(self) -> bool:
        """Whether nothing failed."""
        return not any(trial.reason for trial in self.trials)


class _Remaining:
    """Meters requests by keeping what is left."""

    def __init__(self) -> None:
        self.by_scope: dict[str, int] = {}

    def spend(self) -> None:
        pass

    def left(self, scope: str, requests: int) -> None:
        self.by_scope[scope] = requests


async def examine(config: Config) -> tuple[Finding, ...]:
    """Sign in and ask each subscription for one history, and for its scale sets where it is to be searched.

    Raises:
        PollError: there is no token, for the reason that it says, so nothing else was tried.

    """
    telemetry = Telemetry()
    credential = Credential(config.credential, config.cloud, telemetry)
    client = Client(config.cloud, credential, telemetry, connections=AT_ONCE)
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(subscription: Subscription) -> Finding:
        async with slots:
            return await _examine(config, subscription, client, Discoverer(client, telemetry))

    try:
        await credential.token()
        return tuple(await asyncio.gather(*map(one, config.subscriptions)))
    finally:
        await client.close()
        await credential.close()


def not_signed_in(config: Config, error: PollError) -> tuple[Finding, ...]:
    """Return of each subscription that there was no token to ask it with."""
    trial = Trial(SIGN_IN, reason=error.reason.value, error=str(error))
    return tuple(Finding(subscription.id, (trial,)) for subscription in config.subscriptions)


async def _examine(
    config: Config, subscription: Subscription, client: Client, discoverer: Discoverer
) -> Finding:
    timeout = config.polling.timeout
    meter = _Remaining()
    trials: list[Trial] = []
    targets = [each for each in config.named_scale_sets() if each.subscription_id == subscription.id]
    if subscription.discovery is not None:
        try:
            found = await discoverer.find(subscription.id, timeout, meter)
        except PollError as error:
            trials.append(_failure("discovery", error, DISCOVERY_PERMISSION))
        else:
            selected, _ = select(found, subscription.discovery, config.polling.interval)
            targets += selected
            trials.append(Trial("discovery", f"{len(selected)} of {len(found)} scale sets selected"))
    if targets:
        trials.append(await _history(targets[0], client, timeout, meter))
    return Finding(subscription.id, tuple(trials), meter.by_scope)


async def _history(scale_set: ScaleSet, client: Client, timeout_seconds: float, meter: _Remaining) -> Trial:
    what = f"history of {scale_set.resource_group}/{scale_set.name}"
    try:
        history = parse_history((await client.upgrade_history(scale_set, timeout_seconds, meter)).pages)
    except PollError as error:
        return _failure(what, error, HISTORY_PERMISSION)
    if isinstance(history, Malformed):
        return Trial(what, reason=Reason.MALFORMED.value, error=history.why)
    return Trial(what, f"{len(history.upgrades)} upgrades")


def _failure(what: str, error: PollError, permission: str) -> Trial:
    missing = permission if error.reason is Reason.FORBIDDEN else ""
    return Trial(what, reason=error.reason.value, error=str(error), missing=missing)


def as_table(findings: Iterable[Finding]) -> str:
    """Return what was found for people, a line for each request, with what to do below one that failed."""
    rows = [("SUBSCRIPTION", "ASKED FOR", "ANSWER")]
    notes: list[tuple[str, ...]] = [()]
    for finding in findings:
        for trial in finding.trials or (Trial("nothing", "there is nothing to ask for"),):
            rows.append((finding.subscription_id, escaped(trial.what), trial.answer or trial.reason))
            notes.append(tuple(_notes(finding, trial)))
        left = (f"left: {scope} {number}" for scope, number in sorted(finding.remaining.items()))
        notes[-1] += tuple(map(escaped, left))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = []
    for row, below in zip(rows, notes, strict=True):
        lines.append(f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}")
        lines += [f"  {note}" for note in below]
    return "\n".join(lines)


def _notes(finding: Finding, trial: Trial) -> Iterator[str]:
    if trial.error:
        yield escaped(trial.error)
    if trial.missing:
        yield f"missing permission: {trial.missing} on /subscriptions/{finding.subscription_id}"


def as_json(findings: Iterable[Finding]) -> str:
    """Return the same for programs."""
    return json.dumps(
        [{**asdict(finding), "reachable": finding.reachable, "fine": finding.fine} for finding in findings],
        indent=2,
    )
