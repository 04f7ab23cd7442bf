"""The status page, as HTML and as JSON: what a query selects of the snapshots, laid out.

Pure: the same snapshots, query and ``now`` give the same bytes, and any thread may make them. Whatever Azure wrote is
text here and stays text: the templates escape it. Knows nothing of HTTP, beyond what the addresses of links look like.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from hashlib import blake2b
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from exporter import __version__, drawing
from exporter.banners import DiscoveryStatus, SignInFailure, banners, why_empty
from exporter.duration import format_duration
from exporter.history import ApiError, Image, Progress, Upgrade
from exporter.moments import ago, clock, iso, span
from exporter.scale_set import ScaleSet
from exporter.selection import Condition, Query, condition_of, duration, reference, select
from exporter.snapshot import Snapshot

if TYPE_CHECKING:
    from jinja2 import Template

REFRESH_SECONDS = 15
MOST_UPGRADES = 14
"""Of one scale set; Azure keeps five, a journal more."""
MOST_DETAILS = 10
"""Of one error; a hostile one could have a thousand, of four thousand characters each."""
MOST_CHOICES = 500
"""Of a list to choose from; nobody scrolls further, and a page must not weigh what the fleet does."""
MOST_BANNERS = 3
"""Banners that are open; the others must not push the scale sets off the screen."""
_TEMPLATES = Path(__file__).parent / "templates"

Past = Callable[[ScaleSet], Iterable[Upgrade]]
"""Gives upgrades of a scale set that Azure may have forgotten."""


def nothing(_: ScaleSet) -> Iterable[Upgrade]:
    """Return no upgrades: Azure's history is all that is known."""
    return ()


def upgrades_of(snapshot: Snapshot, past: Past) -> tuple[Upgrade, ...]:
    """Return the last upgrades of a scale set in the order of their starts; Azure's word counts more than the past's.

    An upgrade has no name but its start, so one without a start is left out.
    """
    known = {upgrade.start: upgrade for upgrade in past(snapshot.scale_set)}
    known |= {upgrade.start: upgrade for upgrade in snapshot.history.upgrades} if snapshot.history else {}
    started = sorted((start, upgrade) for start, upgrade in known.items() if start is not None)
    return tuple(upgrade for _, upgrade in started[-MOST_UPGRADES:])


# --- HTML --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asset:
    """A file that the page refers to, by a name that changes with its content: it may be kept for ever."""

    name: str
    content_type: str
    body: bytes


@cache
def assets() -> Mapping[str, Asset]:
    """Return the style sheet, the script and the icon, by the names that the page has for them."""
    found = {}
    for file, content_type in (
        ("status.css", "text/css"),
        ("status.js", "text/javascript"),
        ("icon.svg", "image/svg+xml"),
    ):
        body = (_TEMPLATES / file).read_bytes()
        stem, _, suffix = file.partition(".")
        name = f"{stem}-{blake2b(body, digest_size=6).hexdigest()}.{suffix}"
        found[file] = Asset(name, content_type, body)
    return found


def html(
    snapshots: Sequence[Snapshot],
    query: Query,
    now: float,
    telemetry_path: str,
    *,
    past: Past = nothing,
    discoveries: Sequence[DiscoveryStatus] = (),
    sign_in_failures: Sequence[SignInFailure] = (),
) -> bytes:
    """Return the page."""
    selection = select(snapshots, query, now)
    known = [upgrades_of(snapshot, past) for snapshot in selection.snapshots]
    days = drawing.days((upgrade.start or 0.0 for upgrades in known for upgrade in upgrades), now)
    text = _template().render(
        selection=selection,
        query=selection.query,
        rows=[
            _row(snapshot, upgrades, now, days)
            for snapshot, upgrades in zip(selection.snapshots, known, strict=True)
        ],
        days=days,
        banners=banners(discoveries, snapshots, sign_in_failures),
        why_empty=why_empty(discoveries),
        link=partial(_link, selection.query),
        fleet_bar=drawing.bar(tuple(selection.conditions.values())),
        telemetry_path=telemetry_path,
        version=__version__,
        now=now,
        ago=partial(ago, now=now),
        assets=assets(),
        refresh_seconds=REFRESH_SECONDS,
        most_choices=MOST_CHOICES,
        most_banners=MOST_BANNERS,
        Condition=Condition,
    )
    return text.encode(errors="replace")


@cache
def _template() -> "Template":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415 - a scrape needs no page

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "clock": clock,
        "details": _details,
        "every": format_duration,
        "iso": iso,
        "parts": _parts,
        "span": span,
    }
    return environment.get_template("status.html")


def _parts(text: str) -> list[str]:
    """Split a long name where it may be broken: before capitals, behind punctuation."""
    return re.findall("[A-Z]?[^A-Z/.-]*[/.-]*", text)


def _link(query: Query, **changes: object) -> str:
    """Return the link to a query that is this one but for ``changes``; other scale sets begin on their first page."""
    return replace(query, **{"page": 1, **changes}).link()  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class _Picture:
    """What an upgrade moves its instances to, in words."""

    name: str
    version: str
    reference: str


@dataclass(frozen=True, slots=True)
class _Past:
    """One upgrade on the line of time, and in the list beneath it."""

    upgrade: Upgrade
    mark: drawing.Mark
    seconds: float | None
    version: str


@dataclass(frozen=True, slots=True)
class _Detail:
    """What several details of an error say alike, and of whom they say it."""

    text: str
    targets: tuple[str, ...]
    further: int


@dataclass(frozen=True, slots=True)
class _Row:
    """One scale set as the template draws it."""

    key: str
    snapshot: Snapshot
    condition: Condition
    counts: tuple[tuple[str, int, drawing.Segment], ...]
    """Of the instances that Azure told of: word, number, part of the bar."""
    seconds: float | None
    """How long the latest upgrade took, or has taken."""
    picture: _Picture | None
    errors: tuple[tuple[str, ApiError], ...]
    past: tuple[_Past, ...]


def _row(snapshot: Snapshot, upgrades: Sequence[Upgrade], now: float, days: int) -> _Row:
    latest = snapshot.latest
    rollback = None if latest is None else latest.rollback
    errors = (
        ("upgrade", latest and latest.error),
        ("rollback", rollback and rollback.error),
    )
    return _Row(
        key=blake2b(snapshot.scale_set.id.encode(errors="replace"), digest_size=6).hexdigest(),
        snapshot=snapshot,
        condition=condition_of(snapshot),
        counts=_counts(latest.progress if latest is not None else None),
        seconds=latest and duration(latest, now),
        picture=_picture(latest.image) if latest is not None and latest.image is not None else None,
        errors=tuple((what, error) for what, error in errors if error is not None),
        past=_line(upgrades, now, days),
    )


def _details(error: ApiError) -> Sequence[_Detail]:
    """Gather details by what they say: mostly it is the same of each instance."""
    targets: dict[str, list[str]] = {}
    for detail in error.details:
        targets.setdefault(detail.message or detail.code or "", []).append(detail.target or "")
    return tuple(
        _Detail(text, tuple(filter(None, of[:MOST_DETAILS])), max(0, len(of) - MOST_DETAILS))
        for text, of in islice(targets.items(), MOST_DETAILS)
    )


def _counts(progress: Progress | None) -> tuple[tuple[str, int, drawing.Segment], ...]:
    if progress is None:
        return ()
    counts = {
        "successful": progress.successful,
        "failed": progress.failed,
        "in progress": progress.in_progress,
        "pending": progress.pending,
    }
    known = {word: count for word, count in counts.items() if count is not None}
    return tuple(zip(known, known.values(), drawing.bar(tuple(known.values())), strict=True))


def _picture(image: Image) -> _Picture:
    """Return an image in words: publisher, offer and sku, or gallery and name, with the version."""
    version = image.exact_version or image.version or ""
    name = " ".join(filter(None, (image.publisher, image.offer, image.sku)))
    path = reference(image)
    if path and not name:
        steps = path.strip("/").split("/")
        named = {step.lower(): value for step, value in pairwise(steps)}
        name = "/".join(filter(None, (named.get("galleries"), named.get("images")))) or steps[-1]
        version = version or named.get("versions", "")
    return _Picture(name, version, path)


def _line(upgrades: Sequence[Upgrade], now: float, days: int) -> tuple[_Past, ...]:
    spans = []
    for upgrade in upgrades:
        start = upgrade.start or 0.0
        spans.append((start, start + (duration(upgrade, now) or 0.0)))
    marks = drawing.line(spans, now, days)
    return tuple(
        _Past(upgrade, mark, duration(upgrade, now), _picture(upgrade.image or Image()).version)
        for upgrade, mark in zip(upgrades, marks, strict=True)
    )


# --- JSON --------------------------------------------------------------------------------------------------


def document(
    snapshots: Sequence[Snapshot],
    query: Query,
    now: float,
    *,
    past: Past = nothing,
    discoveries: Sequence[DiscoveryStatus] = (),
    sign_in_failures: Sequence[SignInFailure] = (),
) -> bytes:
    """Return what the page shows, as JSON. Absent is ``null``, times are RFC 3339, spans are seconds."""
    selection = select(snapshots, query, now)
    following = selection.query.page + 1 if selection.query.page < selection.pages else None
    answer = {
        "time": iso(now),
        "total": selection.total,
        "matching": selection.matching,
        "page": selection.query.page,
        "pages": selection.pages,
        "next": following and _link(selection.query, page=following),
        "states": {condition.value: number for condition, number in selection.conditions.items()},
        "polls_failing": selection.failing,
        "banners": [
            _facts(banner, "subscription_id", "title", "reason", "message", "action")
            for banner in banners(discoveries, snapshots, sign_in_failures)
        ],
        "scale_sets": [_scale_set(snapshot, now, past) for snapshot in selection.snapshots],
    }
    return json.dumps(answer, separators=(",", ":")).encode() + b"\n"


def _scale_set(snapshot: Snapshot, now: float, past: Past) -> dict[str, object]:
    scale_set, latest = snapshot.scale_set, snapshot.latest
    location = latest.location if latest is not None else None
    return {
        "id": scale_set.id,
        "subscription_id": scale_set.subscription_id,
        "resource_group": scale_set.resource_group,
        "name": scale_set.name,
        "location": scale_set.location if location is None else location,
        "source": scale_set.source.value,
        "labels": dict(scale_set.labels),
        "state": condition_of(snapshot).value,
        "upgrade": latest
        and {
            **_upgrade(latest, now),
            "last_progress": _time(snapshot.last_progress),
            "instances": _facts(latest.progress, "successful", "failed", "in_progress", "pending"),
            "image": _facts(latest.image, *_IMAGE),
            "error": _error(latest.error),
            "rollback": latest.rollback
            and {
                "successful": latest.rollback.successful,
                "failed": latest.rollback.failed,
                "error": _error(latest.rollback.error),
            },
        },
        "upgrades": [_upgrade(upgrade, now) for upgrade in upgrades_of(snapshot, past)],
        "polls": {
            "interval_seconds": snapshot.interval,
            "last": _time(snapshot.last_poll),
            "last_success": _time(snapshot.last_success),
            "failure": snapshot.failure
            and {"reason": snapshot.failure.value, "message": snapshot.failure_message},
        },
    }


_IMAGE = tuple(Image.__dataclass_fields__)


def _upgrade(upgrade: Upgrade, now: float) -> dict[str, object]:
    seconds = duration(upgrade, now)
    return {
        "state": upgrade.state.value,
        "started_by": upgrade.started_by,
        "start": _time(upgrade.start),
        "end": _time(upgrade.end),
        "duration_seconds": None if seconds is None else round(seconds, 3),
        "version": (_picture(upgrade.image).version or None) if upgrade.image is not None else None,
        "code": upgrade.error.code if upgrade.error is not None else None,
    }


def _error(error: ApiError | None) -> dict[str, object] | None:
    if error is None:
        return None
    return {
        **(_facts(error, "code", "message", "target", "exception_type", "exception_detail") or {}),
        "details": [
            _facts(detail, "code", "message", "target") for detail in islice(error.details, MOST_DETAILS)
        ],
        "details_total": len(error.details),
    }


def _facts(of: object | None, *names: str) -> dict[str, object] | None:
    return None if of is None else {name: getattr(of, name) for name in names}


def _time(at: float | None) -> str | None:
    return None if at is None else iso(at)
