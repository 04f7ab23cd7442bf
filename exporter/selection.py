"""Which scale sets the status page shows, in what order: the query that a link carries, and what it selects.

Pure: snapshots and a query in, a page of snapshots and the counts of all that match out; ``now`` comes in. Knows
nothing of HTML, JSON or HTTP.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from urllib.parse import urlencode

from exporter.document import shown
from exporter.history import Image, Upgrade, UpgradeState
from exporter.snapshot import Snapshot

PAGE_SIZE = 100
PARAMETERS = ("q", "state", "subscription", "resource_group", "polls", "sort", "page")
MAX_SEARCH = 200
"""Characters of a search; nobody types more."""


class Condition(Enum):
    """Where a scale set stands: the state of its latest upgrade, or why there is none. Who needs attention first."""

    FAULTED = "Faulted"
    ROLLING_BACK = "RollingBack"
    ROLLING_FORWARD = "RollingForward"
    CANCELLED = "Cancelled"
    UNKNOWN = "Unknown"
    NO_DATA = "NoData"
    """Not polled yet, not found, or the last good answer is too old to be shown."""
    COMPLETED = "Completed"
    NEVER_UPGRADED = "NeverUpgraded"
    """Azure knows of no upgrade in the past two months."""

    __hash__ = object.__hash__  # as of UpgradeState


_OF_STATE = {state: Condition(state.value) for state in UpgradeState}
_ATTENTION = {condition: rank for rank, condition in enumerate(Condition)}


def condition_of(snapshot: Snapshot) -> Condition:
    """Return where a scale set stands."""
    if snapshot.history is None:
        return Condition.NO_DATA
    latest = snapshot.history.latest
    return Condition.NEVER_UPGRADED if latest is None else _OF_STATE[latest.state]


class BadQuery(ValueError):
    """The query asks for what there is not; the text says what."""


@dataclass(frozen=True, slots=True)
class Query:
    """What a link asks for. Empty means: all."""

    search: str = ""
    """Words; each must occur, in whatever case."""
    condition: Condition | None = None
    subscription: str = ""
    resource_group: str = ""
    failing: bool = False
    """Only those whose last poll failed."""
    sort: str = "attention"
    """A key of ``SORTS``, with ``-`` before it the other way round."""
    page: int = 1

    @classmethod
    def read(cls, parameters: Mapping[str, str], *, strict: bool = False) -> "Query":
        """Read the parameters of a URL.

        Raises ``BadQuery``, where ``strict`` for an unknown parameter, too: a program that sends one would take the
        answer for another one. Links to the page pass through tools that add parameters of their own.
        """
        unknown = sorted(parameters.keys() - set(PARAMETERS))
        if strict and unknown:
            raise BadQuery(f"{shown(unknown[0])} is not a parameter, use {', '.join(PARAMETERS)}")
        state, polls = parameters.get("state", ""), parameters.get("polls", "")
        sort, page = parameters.get("sort") or "attention", parameters.get("page") or "1"
        states = {condition.value: condition for condition in Condition}
        if state and state not in states:
            raise BadQuery(f"state must be one of {', '.join(states)}")
        if polls not in {"", "failing"}:
            raise BadQuery("polls can only be 'failing'")
        if sort.removeprefix("-") not in SORTS:
            raise BadQuery(f"sort must be one of {', '.join(SORTS)}, or one of them after '-'")
        if not re.fullmatch("[1-9][0-9]{0,8}", page):
            raise BadQuery("page must be a number from 1")
        return cls(
            search=parameters.get("q", "")[:MAX_SEARCH].strip(),
            condition=states.get(state),
            subscription=parameters.get("subscription", "").strip(),
            resource_group=parameters.get("resource_group", "").strip(),
            failing=bool(polls),
            sort=sort,
            page=int(page),
        )

    @property
    def narrowed(self) -> bool:
        """Whether it leaves anything out."""
        return replace(self, sort="attention", page=1) != Query()

    def link(self) -> str:
        """Return the query string that reads as this query, what is default left out."""
        parameters = {
            "q": self.search,
            "state": self.condition.value if self.condition else "",
            "subscription": self.subscription,
            "resource_group": self.resource_group,
            "polls": "failing" if self.failing else "",
            "sort": "" if self.sort == "attention" else self.sort,
            "page": "" if self.page == 1 else str(self.page),
        }
        return "?" + urlencode({name: value for name, value in parameters.items() if value}, errors="replace")


@dataclass(frozen=True, slots=True)
class Selection:
    """A page of what a query asks for, and what else there is to ask for."""

    query: Query
    """As asked, but on a page that there is."""
    snapshots: Sequence[Snapshot]
    """Of this page, in order."""
    total: int
    """Scale sets in all."""
    matching: int
    """Scale sets that the query asks for, on all pages."""
    pages: int
    within: int
    """Scale sets that search, subscription and resource group leave, whatever their condition."""
    conditions: Mapping[Condition, int]
    """How many of those are in each condition."""
    failing: int
    """Of how many of those the last poll failed."""
    subscriptions: Mapping[str, int]
    """How many scale sets each subscription has."""
    resource_groups: Mapping[str, int]
    """How many scale sets each resource group has, of the subscription asked for, else of all."""


def select(snapshots: Iterable[Snapshot], query: Query, now: float) -> Selection:
    """Return the page that a query asks for; beyond the last page it is the last."""
    everything = tuple(snapshots)
    subscription, resource_group = query.subscription.lower(), query.resource_group.lower()
    subscriptions = Counter(each.scale_set.identity[0] for each in everything)
    within = everything
    if subscription:
        within = tuple(each for each in within if each.scale_set.identity[0] == subscription)
    resource_groups = Counter(each.scale_set.identity[1] for each in within)
    if resource_group:
        within = tuple(each for each in within if each.scale_set.identity[1] == resource_group)
    words = query.search.lower().split()
    if words:
        within = tuple(each for each in within if _has(each, words))
    conditions = Counter(map(condition_of, within))
    matching = within
    if query.condition is not None:
        matching = tuple(each for each in matching if condition_of(each) is query.condition)
    if query.failing:
        matching = tuple(each for each in matching if each.failure is not None)
    pages = max(1, -(-len(matching) // PAGE_SIZE))
    page = min(query.page, pages)
    first = (page - 1) * PAGE_SIZE
    return Selection(
        query=replace(query, page=page),
        snapshots=_sorted(matching, query.sort, now)[first : first + PAGE_SIZE],
        total=len(everything),
        matching=len(matching),
        pages=pages,
        within=len(within),
        conditions={condition: conditions[condition] for condition in Condition},
        failing=sum(each.failure is not None for each in within),
        subscriptions=dict(sorted(subscriptions.items())),
        resource_groups=dict(sorted(resource_groups.items())),
    )


def duration(upgrade: Upgrade, now: float) -> float | None:
    """Return how many seconds an upgrade took, or has taken until now; ``None`` where that cannot be told."""
    end = now if upgrade.end is None and upgrade.state.active else upgrade.end
    return None if upgrade.start is None or end is None else max(0.0, end - upgrade.start)


def reference(image: Image) -> str:
    """Return the id of an image from a gallery; empty for one of the marketplace."""
    return image.id or image.shared_gallery_image_id or image.community_gallery_image_id or ""


_Key = Callable[[Snapshot, float], float | str | tuple[float | str, ...] | None]


def _attention(snapshot: Snapshot, _: float) -> tuple[float | str, ...]:
    latest = snapshot.latest
    start = (latest.start or 0.0) if latest is not None else 0.0
    return _ATTENTION[condition_of(snapshot)], snapshot.failure is None, -start


def _started(snapshot: Snapshot, _: float) -> float | None:
    return snapshot.latest and snapshot.latest.start


def _duration(snapshot: Snapshot, now: float) -> float | None:
    return snapshot.latest and duration(snapshot.latest, now)


def _image(snapshot: Snapshot, _: float) -> str | None:
    image = snapshot.latest and snapshot.latest.image
    return None if image is None else " ".join(_texts(image)).lower()


def _polled(snapshot: Snapshot, _: float) -> float | None:
    return snapshot.last_success


SORTS: Mapping[str, _Key] = {
    "attention": _attention,
    "name": lambda snapshot, _: snapshot.scale_set.identity[2],
    "resource_group": lambda snapshot, _: snapshot.scale_set.identity[1],
    "subscription": lambda snapshot, _: snapshot.scale_set.identity[0],
    "started": _started,
    "duration": _duration,
    "image": _image,
    "polled": _polled,
}
"""What can be sorted by; ties go by name, and those that have nothing to sort by come last either way."""


def _sorted(snapshots: Iterable[Snapshot], sort: str, now: float) -> Sequence[Snapshot]:
    key = SORTS[sort.removeprefix("-")]
    keyed = [(key(each, now), each.scale_set.identity[::-1], each) for each in snapshots]
    with_key = [each for each in keyed if each[0] is not None]
    without = [each for each in keyed if each[0] is None]
    with_key.sort(key=lambda each: each[1])
    with_key.sort(key=lambda each: each[0], reverse=sort.startswith("-"))  # type: ignore[arg-type,return-value]
    without.sort(key=lambda each: each[1])
    return [each[2] for each in with_key + without]


def _texts(image: Image) -> Iterable[str]:
    texts = (image.publisher, image.offer, image.sku, image.version, image.exact_version, reference(image))
    return filter(None, texts)


def _has(snapshot: Snapshot, words: Iterable[str]) -> bool:
    """Whether each word occurs in what the page says of a scale set."""
    scale_set, latest = snapshot.scale_set, snapshot.latest
    texts = [*scale_set.identity, scale_set.location, *(value for _, value in scale_set.labels)]
    if snapshot.failure is not None:
        texts.append(snapshot.failure.value)
    if latest is not None:
        errors = (latest.error, latest.rollback and latest.rollback.error)
        codes = (error.code for error in errors if error is not None)
        texts += filter(None, (latest.location, latest.started_by, *codes))
        texts += _texts(latest.image or Image())
    text = "\n".join(texts).lower()
    return all(word in text for word in words)
