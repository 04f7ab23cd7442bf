"""What is wrong with a whole subscription, why, and what to do about it: the banners of the status page.

Pure. A subscription has a banner when its discovery or its sign-in fails, when all of its polls fail, or when its
discovery selects nothing. Knows nothing of HTML, JSON or HTTP.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from exporter.snapshot import Reason, Snapshot

HISTORY_PERMISSION: Final = "Microsoft.Compute/virtualMachineScaleSets/osUpgradeHistory/read"
DISCOVERY_PERMISSION: Final = "Microsoft.Compute/virtualMachineScaleSets/read"


@dataclass(frozen=True, slots=True)
class DiscoveryStatus:
    """How the last discovery of a subscription ended."""

    subscription_id: str
    found: int | None = None
    """Scale sets that the last good discovery found, in all shards; ``None`` before the first."""
    selected: int = 0
    """Those of them that the configuration selects."""
    failure: Reason | None = None
    """Why the last discovery failed; ``None`` after a good one, and before the first."""
    failure_message: str = ""


@dataclass(frozen=True, slots=True)
class SignInFailure:
    """Why the last sign-in failed with the credential of a subscription; an earlier token may still be good."""

    subscription_id: str
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Banner:
    """One thing that is wrong with a whole subscription."""

    subscription_id: str
    title: str
    reason: str | None
    """As in ``poll_error``; ``None`` where nothing fails."""
    message: str
    """The failure in Azure's words, or ours."""
    action: str
    """What to do about it."""

    @property
    def failing(self) -> bool:
        """Whether something fails; otherwise it is a notice."""
        return self.reason is not None


def banners(
    discoveries: Iterable[DiscoveryStatus],
    snapshots: Iterable[Snapshot],
    sign_in_failures: Iterable[SignInFailure] = (),
) -> tuple[Banner, ...]:
    """Return all banners, failures first; a subscription has none twice with the same title.

    A discovery or a poll that fails with the message of the failed sign-in has no banner of its own.
    """
    found: dict[tuple[str, str], Banner] = {}
    causes: set[tuple[str, str]] = set()
    for failure in sign_in_failures:
        key = failure.subscription_id
        causes.add((key, failure.message))
        banner = _sign_in(key, failure.reason, failure.message)
        found[key, banner.title] = banner
    for banner in (*_of_discoveries(discoveries), *_of_polls(snapshots)):
        if (banner.subscription_id, banner.message) not in causes:
            found.setdefault((banner.subscription_id, banner.title), banner)
    return tuple(sorted(found.values(), key=lambda each: (not each.failing, each.subscription_id)))


def why_empty(discoveries: Iterable[DiscoveryStatus]) -> str:
    """Return why no scale set is polled, in words; empty where no subscription has a discovery."""
    known = tuple(discoveries)
    if any(each.failure is not None for each in known):
        return "No scale sets: discovery fails"
    if any(each.found is None for each in known):
        return "No scale sets yet: discovery has not ended"
    if any(each.selected for each in known):
        return "No scale sets in this shard"
    return "No scale sets: discovery selects none" if known else ""


def _of_discoveries(discoveries: Iterable[DiscoveryStatus]) -> Iterator[Banner]:
    for each in discoveries:
        key = each.subscription_id
        if each.failure is Reason.UNAUTHORIZED:
            yield _sign_in(key, each.failure, each.failure_message)
        elif each.failure is not None:
            action = _action(key, each.failure, DISCOVERY_PERMISSION)
            yield Banner(key, "Discovery fails", each.failure.value, each.failure_message, action)
        elif each.found is not None and not each.selected:
            yield _nothing_selected(key, each.found)


def _of_polls(snapshots: Iterable[Snapshot]) -> Iterator[Banner]:
    """Yield a banner for each subscription that cannot be polled.

    That is where the newest poll was refused as unauthorized, as one credential serves all of them, or where all polls
    fail. ``not_found`` is about one scale set only.
    """
    polled: dict[str, list[Snapshot]] = {}
    for snapshot in snapshots:
        if snapshot.polled:
            polled.setdefault(snapshot.scale_set.identity[0], []).append(snapshot)
    for key, known in polled.items():
        newest = max(known, key=lambda each: (each.last_poll or 0.0, each.scale_set.id))
        reason = newest.failure
        if reason is Reason.UNAUTHORIZED:
            yield _sign_in(key, reason, newest.failure_message)
        elif reason is not None and reason is not Reason.NOT_FOUND and all(each.failure for each in known):
            title = f"All polls fail ({len(known):,})"
            action = _action(key, reason, HISTORY_PERMISSION)
            yield Banner(key, title, reason.value, newest.failure_message, action)


def _sign_in(subscription_id: str, reason: Reason, message: str) -> Banner:
    return Banner(subscription_id, "Sign-in fails", reason.value, message, _ACTIONS[reason])


def _nothing_selected(subscription_id: str, found: int) -> Banner:
    if not found:
        message = "Discovery found no scale sets."
        action = "Nothing, if there are none. Otherwise check the id of the subscription."
    else:
        message = f"Discovery found {found:,} scale set{'' if found == 1 else 's'} and selects none."
        action = "Check only_automatic_upgrade, resource_groups and tags in the discovery settings of the subscription."
    return Banner(subscription_id, "Nothing selected", None, message, action)


def _action(subscription_id: str, reason: Reason, permission: str) -> str:
    if reason is Reason.FORBIDDEN:
        return f"Grant the identity {permission} on /subscriptions/{subscription_id}, which the role Reader contains."
    return _ACTIONS[reason]


_ACTIONS: Final = {
    Reason.UNAUTHORIZED: "Check the credential in the configuration: whether its secret or certificate has expired, and"
    " whether its tenant is the one of the subscription.",
    Reason.NOT_FOUND: "Check the id of the subscription.",
    Reason.THROTTLED: "Wait until the pause is over. If this lasts, lower polling.budget_share, or find out what else"
    " spends the requests of the subscription.",
    Reason.BAD_REQUEST: "Check the id of the subscription and the cloud in the configuration, and whether a gateway"
    " answers in Azure's place.",
    Reason.SERVER_ERROR: "Wait: Azure fails, and is asked again. If this lasts, check the status of Azure.",
    Reason.TIMEOUT: "Check the network, the proxy and the firewall on the way to Azure and its identity endpoint.",
    Reason.UNREACHABLE: "Check DNS, the network, the proxy and the firewall on the way to Azure and its identity"
    " endpoint.",
    Reason.MALFORMED: "Check what answers in Azure's place: the log has the beginning of its answer.",
}
"""What to do about a failure, but for those that have words of their own."""
