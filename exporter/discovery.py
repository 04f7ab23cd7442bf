"""Finds scale sets: asks Azure which there are, and selects those that the configuration wants.

``parse_rows``, ``select`` and ``merge`` are pure. Knows nothing of schedules, plans or polls.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from time import monotonic

from exporter.azure.budget import Account, Meter, Unmetered
from exporter.azure.client import Answer, Client
from exporter.azure.errors import BadRequest, Forbidden, Malformed, NotFound, Throttled
from exporter.azure.json_pages import TooMuch
from exporter.config import Discovery, tag_label
from exporter.label_limits import is_label_value
from exporter.log import fields
from exporter.scale_set import ScaleSet, Source
from exporter.telemetry import Telemetry

log = logging.getLogger(__name__)

QUERY = (
    "resources | where type =~ 'microsoft.compute/virtualmachinescalesets'"
    " | project id, name, location, tags, upgradePolicy = properties.upgradePolicy"
    " | order by id asc"
)
"""Pages hang together only where the rows are in order and have their ids."""
MAX_TAGS = 500_000
"""Tags of all scale sets of a subscription, which take 80 MB; Azure allows a scale set 50."""
WITHOUT_GRAPH_SECONDS = 3600.0
"""For how long Resource Graph is not asked again where it was forbidden."""


@dataclass(frozen=True, slots=True)
class Found:
    """A scale set as Azure lists it."""

    subscription_id: str
    resource_group: str
    name: str
    location: str
    tags: tuple[tuple[str, str], ...]
    automatic_upgrade: bool
    """Whether Azure upgrades it by itself (``enableAutomaticOSUpgrade``)."""


def parse_rows(rows: Iterable[object], subscription_id: str) -> tuple[tuple[Found, ...], tuple[str, ...]]:
    """Read rows of Resource Graph, or entries of ListAll, about one subscription.

    Total: a row that does not say which scale set of the subscription it means is left out, and an absurd field counts as
    absent; of each the JSON path is returned beside the rows.
    """
    unrecognised: list[str] = []
    found: dict[tuple[str, str], Found] = {}
    for row in rows:
        row_id = _get(row, "id")
        match = _ID.fullmatch(row_id) if isinstance(row_id, str) else None
        if match is None or match["subscription"].lower() != subscription_id.lower():
            unrecognised.append("id")
            continue
        group, name = match["group"], match["name"]
        policy = _get(row, "upgradePolicy") or _get(_get(row, "properties"), "upgradePolicy")
        automatic = _get(_get(policy, "automaticOSUpgradePolicy"), "enableAutomaticOSUpgrade")
        if not isinstance(automatic, bool | None):
            unrecognised.append("upgradePolicy.automaticOSUpgradePolicy.enableAutomaticOSUpgrade")
        location = _get(row, "location")
        if location is not None and not is_label_value(location):
            unrecognised.append("location")
        found[group.lower(), name.lower()] = Found(
            subscription_id=subscription_id,
            resource_group=group,
            name=name,
            location=location if is_label_value(location) else "",
            tags=_tags(_get(row, "tags"), unrecognised),
            automatic_upgrade=automatic is True,
        )
    return tuple(found.values()), tuple(unrecognised)


_ID = re.compile(
    r"/subscriptions/(?P<subscription>[0-9a-f-]{36})/resourceGroups/(?P<group>[-\w.()]{0,89}[-\w()])"
    r"/providers/Microsoft\.Compute/virtualMachineScaleSets/(?P<name>[-\w.()]{0,89}[-\w()])",
    re.IGNORECASE,
)
"""The names that the configuration allows, too: ``..`` is none, as it would lead to another path."""


def _get(parent: object, key: str) -> object:
    return parent.get(key) if isinstance(parent, dict) else None


def _tags(given: object, unrecognised: list[str]) -> tuple[tuple[str, str], ...]:
    if given is None:
        return ()
    if not isinstance(given, dict):
        unrecognised.append("tags")
        return ()
    tags = tuple(
        (name, value) for name, value in given.items() if is_label_value(name) and is_label_value(value)
    )
    unrecognised += ["tags[]"] * (len(given) - len(tags))
    return tags


def select(
    found: Iterable[Found], discovery: Discovery, interval: float
) -> tuple[tuple[ScaleSet, ...], tuple[ScaleSet, ...]]:
    """Return the scale sets that meet all conditions, and the others, to be polled every ``interval`` seconds at rest.

    Azure compares the names of tags without case, their values with it.
    """
    selected: list[ScaleSet] = []
    unselected: list[ScaleSet] = []
    for each in found:
        scale_set = ScaleSet(
            subscription_id=each.subscription_id,
            resource_group=each.resource_group,
            name=each.name,
            interval=interval,
            source=Source.DISCOVERED,
            location=each.location,
            labels=_labels(each, discovery),
        )
        (selected if _meets(each, discovery) else unselected).append(scale_set)
    return tuple(selected), tuple(unselected)


def _meets(found: Found, discovery: Discovery) -> bool:
    groups = discovery.resource_groups
    return (
        (found.automatic_upgrade or not discovery.only_automatic_upgrade)
        and (not groups or any(group.fullmatch(found.resource_group) for group in groups))
        and all(_tag(found, name) == value for name, value in discovery.tags.items())
    )


def _labels(found: Found, discovery: Discovery) -> tuple[tuple[str, str], ...]:
    wanted = ((tag_label(tag), _tag(found, tag)) for tag in discovery.tag_labels)
    return tuple(sorted((label, value) for label, value in wanted if value is not None))


def _tag(found: Found, name: str) -> str | None:
    """Return the value of a tag, spelled in any case.

    Resource Graph may return several that differ only in case: the one spelled as ``name`` wins, else the first in
    the order of the alphabet, because Azure keeps no order.
    """
    same = {tag: value for tag, value in found.tags if tag.lower() == name.lower()}
    return same.get(name, same[min(same)]) if same else None


def merge(named: Iterable[ScaleSet], discovered: Iterable[ScaleSet]) -> tuple[ScaleSet, ...]:
    """Return each scale set once, however the case differs: as it is named where it is, located where it was found."""
    found = {scale_set.id: scale_set for scale_set in discovered}
    both = {
        each.id: replace(each, location=found[each.id].location) if each.id in found else each
        for each in named
    }
    return tuple((found | both).values())


class Discoverer:
    """Asks Azure for the scale sets of subscriptions: Resource Graph, and where that is forbidden the list call.

    Resource Graph costs none of Compute's budgets. It says nothing at all, rather than 403, of a subscription that we
    may not see: so where it knows of no scale set the list call has the last word.
    """

    def __init__(
        self,
        client: Client,
        telemetry: Telemetry,
        clock: Callable[[], float] = monotonic,
        account: Callable[[str], Account] = lambda _: Unmetered(),
    ) -> None:
        """``account`` gives a subscription's own, which list calls share with polls; Resource Graph has its quota."""
        self._client = client
        self._telemetry = telemetry
        self._clock = clock
        self._account = account
        self._paused_until: dict[str, float] = {}
        """Of subscriptions whose last search was throttled: asked before, Azure refuses again, and for longer."""
        self._without_graph: dict[str, float] = {}
        """Of subscriptions where Resource Graph may not be asked, when to try again."""

    async def find(
        self, subscription_id: str, timeout_seconds: float, meter: Meter | None = None
    ) -> tuple[Found, ...]:
        """Return all scale sets of a subscription; raises ``PollError`` where not all of them are to be had."""
        pause = self._paused_until.get(subscription_id, 0.0) - self._clock()
        if pause > 0:
            raise Throttled("Azure has asked for a pause", retry_after=pause)
        try:
            return await self._search(subscription_id, timeout_seconds, meter)
        except Throttled as error:
            self._paused_until[subscription_id] = self._clock() + error.retry_after
            raise

    async def _search(
        self, subscription_id: str, timeout_seconds: float, meter: Meter | None
    ) -> tuple[Found, ...]:
        if self._clock() >= self._without_graph.get(subscription_id, 0.0):
            try:
                rows = _Rows(subscription_id)
                answer = await self._client.graph(
                    subscription_id, QUERY, timeout_seconds, meter or Unmetered(), rows.keep
                )
            except (BadRequest, Forbidden, NotFound) as error:
                if subscription_id not in self._without_graph:
                    line = fields(
                        subscription_id=subscription_id, reason=error.reason.value, error=str(error)
                    )
                    log.info("Resource Graph is not to be used, the list call is", extra=line)
                self._without_graph[subscription_id] = self._clock() + WITHOUT_GRAPH_SECONDS
            else:
                self._without_graph.pop(subscription_id, None)
                found = self._read(answer, "data", rows)
                if found:
                    return found
        rows = _Rows(subscription_id)
        answer = await self._list(subscription_id, timeout_seconds, meter, rows)
        return self._read(answer, "value", rows)

    async def _list(
        self, subscription_id: str, timeout_seconds: float, meter: Meter | None, rows: "_Rows"
    ) -> Answer:
        account = self._account(subscription_id)
        account.spend()  # which raises in a pause
        try:
            return await self._client.scale_sets(
                subscription_id, timeout_seconds, meter or account, rows.keep
            )
        except Throttled as error:
            account.pause(error.retry_after)
            raise

    def _read(self, answer: Answer, key: str, rows: "_Rows") -> tuple[Found, ...]:
        def malformed(why: str) -> Malformed:
            return Malformed(why, request_id=answer.request_id, excerpt=answer.excerpt)

        if not all(isinstance(_get(page, key), list) for page in answer.pages):
            raise malformed(f"{key} is no list of scale sets")
        total = _get(answer.pages[-1], "totalRecords")
        if isinstance(total, int) and total > rows.number:
            raise malformed(f"{rows.number} rows of {total}")
        for field, number in rows.unrecognised.items():
            self._telemetry.unrecognised_values.labels(f"{key}[].{field}").inc(number)
        if rows.number and not rows.found:
            # More likely than a fleet that is gone is a language that we do not understand.
            raise malformed(f"none of {rows.number} rows is a scale set of the subscription")
        return tuple(rows.found.values())


class _Rows:
    """The rows of one search, read one by one as they are decoded, so that the memory they take is that of ``Found``."""

    def __init__(self, subscription_id: str) -> None:
        self.number = 0
        self.found: dict[tuple[str, str], Found] = {}
        self.unrecognised: Counter[str] = Counter()
        self._subscription_id = subscription_id
        self._tags = 0

    def keep(self, row: object) -> None:
        """Read a row. Raises ``TooMuch`` where the rows have too many tags."""
        self.number += 1
        found, unrecognised = parse_rows([row], self._subscription_id)
        self.unrecognised.update(unrecognised)
        for each in found:
            self.found[each.resource_group.lower(), each.name.lower()] = each
            self._tags += len(each.tags)
        if self._tags > MAX_TAGS:
            raise TooMuch(f"more than {MAX_TAGS} tags")
