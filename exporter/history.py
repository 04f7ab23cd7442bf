"""The OS upgrade history of a scale set: immutable models, and the parser that makes them of Azure's JSON.

Pure and total: any JSON gives a :class:`History` or :class:`Malformed`. What Azure may omit is ``None`` here, and
what is absurd (a string for a count, a date that does not parse) is ``None`` too and named in
``History.unrecognised``. No ``dict`` passes this module; it knows nothing of requests, metrics or time.

Source: "Virtual Machine Scale Sets - Get OS Upgrade History", api-version 2025-04-01, and recorded responses where
they differ from it (``completedTime``, seven-digit fractions, offsets).
"""

import re
import sys
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import final

from exporter.label_limits import is_label_value

MAX_INT32 = 2**31 - 1
MAX_MESSAGE = 4096
"""Characters kept of a message."""
MAX_DETAILS = 1000
"""Entries kept of ``error.details``: a scale set has 1,000 instances at most."""
MAX_ALL_DETAILS = 10 * MAX_DETAILS
"""Maximum entries of all ``details`` of a history: Azure returns five upgrades, each with an error and a rollback error."""


class UpgradeState(Enum):
    """``UpgradeState`` of the reference, RollingBack of newer clients, and what we show for anything else."""

    ROLLING_FORWARD = "RollingForward"
    ROLLING_BACK = "RollingBack"
    COMPLETED = "Completed"
    CANCELLED = "Cancelled"
    FAULTED = "Faulted"
    UNKNOWN = "Unknown"

    __hash__ = object.__hash__  # each is the only one of its kind; Enum's own hash is a call in Python

    @property
    def active(self) -> bool:
        """Whether Azure is at work on the instances."""
        return self in _ACTIVE

    @property
    def finished(self) -> bool:
        """Whether the upgrade has come to an end, good or bad."""
        return self in _FINISHED


# Sets made once: each poll asks several times.
_ACTIVE = frozenset({UpgradeState.ROLLING_FORWARD, UpgradeState.ROLLING_BACK})
_FINISHED = frozenset({UpgradeState.COMPLETED, UpgradeState.CANCELLED, UpgradeState.FAULTED})


@dataclass(frozen=True, slots=True)
class Progress:
    """``RollingUpgradeProgressInfo``: how many instances are where."""

    successful: int | None = None
    failed: int | None = None
    in_progress: int | None = None
    pending: int | None = None


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    """``ApiErrorBase``: one of ``error.details[]``."""

    code: str | None = None
    message: str | None = None
    target: str | None = None


@dataclass(frozen=True, slots=True)
class ApiError:
    """``ApiError``: why an upgrade, or its rollback, failed."""

    code: str | None = None
    message: str | None = None
    target: str | None = None
    exception_type: str | None = None
    exception_detail: str | None = None
    details: tuple[ErrorDetail, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Rollback:
    """``RollbackStatusInfo``: instances that were returned to their former image, or could not be."""

    successful: int | None = None
    failed: int | None = None
    error: ApiError | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """``ImageReference``: what the instances are upgraded to."""

    publisher: str | None = None
    offer: str | None = None
    sku: str | None = None
    version: str | None = None
    exact_version: str | None = None
    id: str | None = None
    shared_gallery_image_id: str | None = None
    community_gallery_image_id: str | None = None


@final
@dataclass(frozen=True, slots=True)
class Upgrade:
    """``UpgradeOperationHistoricalStatusInfo``: one upgrade. Times are seconds since the epoch, fractions kept."""

    state: UpgradeState = UpgradeState.UNKNOWN
    start: float | None = None
    end: float | None = None
    """``None`` unless the upgrade has finished; never before its start."""
    progress: Progress | None = None
    error: ApiError | None = None
    started_by: str | None = None
    image: Image | None = None
    rollback: Rollback | None = None
    location: str | None = None


@final
@dataclass(frozen=True, slots=True)
class History:
    """The upgrades of one scale set that Azure still knows, in Azure's order, which means nothing."""

    upgrades: tuple[Upgrade, ...] = ()
    unrecognised: tuple[str, ...] = ()
    """JSON paths of the fields that were absurd, one entry an occurrence."""

    latest: Upgrade | None = field(init=False)
    """The upgrade that started last."""
    latest_completed: Upgrade | None = field(init=False)
    """The upgrade that started last of those that Completed."""

    def __post_init__(self) -> None:
        completed = [upgrade for upgrade in self.upgrades if upgrade.state is UpgradeState.COMPLETED]
        object.__setattr__(self, "latest", _latest(self.upgrades))
        object.__setattr__(self, "latest_completed", _latest(completed))

    def count(self, state: UpgradeState) -> int:
        """Return how many upgrades are in ``state``."""
        return sum([upgrade.state is state for upgrade in self.upgrades])


@dataclass(frozen=True, slots=True)
class Malformed:
    """The answer was no history at all."""

    why: str


def parse_history(pages: Iterable[object]) -> History | Malformed:
    """Read the decoded JSON of the pages of one ``osUpgradeHistory`` answer."""
    steps = parse_history_in_steps(pages)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            history: History | Malformed = end.value
            return history


def parse_history_in_steps(pages: Iterable[object]) -> Generator[None, None, History | Malformed]:
    """Do what :func:`parse_history` does, yielding after each entry; a step takes milliseconds at most."""
    unrecognised: list[str] = []
    upgrades: list[Upgrade] = []
    details = 0
    for page in pages:
        if not isinstance(page, dict):
            return Malformed(f"not an object but {_kind(page)}")
        value = page.get("value")
        if not isinstance(value, list):
            return Malformed(f"'value' is not a list but {_kind(value)}" if "value" in page else "no 'value'")
        for entry in value:
            if isinstance(entry, dict):
                upgrades.append(_upgrade(_Fields(entry, "", unrecognised)))
                details += _number_of_details(upgrades[-1])
            else:
                unrecognised.append("value[]")
            if details > MAX_ALL_DETAILS:
                return Malformed(f"more than {MAX_ALL_DETAILS} details of errors")
            yield
    return History(tuple(upgrades), tuple(unrecognised))


def _number_of_details(upgrade: Upgrade) -> int:
    errors = (upgrade.error, upgrade.rollback and upgrade.rollback.error)
    return sum([len(error.details) for error in errors if error is not None])


def parse_time(text: str) -> float | None:
    """Read an RFC 3339 date-time as seconds since the epoch; ``None`` if it is none, or before 1970.

    Azure writes up to seven digits of fraction, any offset, and .NET's ``0001-01-01T00:00:00`` for "not set". No
    offset at all is read as UTC.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    seconds, fraction, offset = match.groups()
    try:
        whole = int(datetime.fromisoformat(f"{seconds}{offset or 'Z'}".upper()).timestamp())
    except (ValueError, OverflowError):
        return None
    return float(f"{whole}.{fraction or 0}") if whole >= 0 else None


_TIME = re.compile(r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(?:\.(\d{1,12}))?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)
_NOT_SET = "0001-01-01T00:00:00"
_STATES = {state.value: state for state in UpgradeState}


def possible_end(state: UpgradeState, start: float | None, end: float | None) -> float | None:
    """Return ``end`` if the upgrade has finished and ``end`` is not before its start, else ``None``.

    The example of the reference has a RollingForward upgrade that was completed months before it started.
    """
    if end is None or not state.finished or (start is not None and end < start):
        return None
    return end


def _latest(upgrades: Iterable[Upgrade]) -> Upgrade | None:
    """Return the one with the greatest start; of several, or where none has one, the first of the list."""
    return max(upgrades, key=lambda upgrade: -1.0 if upgrade.start is None else upgrade.start, default=None)


def _kind(value: object) -> str:
    """Return JSON's name for the type of a decoded value."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


@final
class _Fields:
    """A JSON object, read field by field: a read gives a good value or ``None``, and names an absurd one."""

    __slots__ = ("_object", "_path", "_unrecognised")

    def __init__(self, json_object: dict[str, object], path: str, unrecognised: list[str]) -> None:
        self._object = json_object
        self._path = path
        self._unrecognised = unrecognised

    def absurd(self, name: str) -> None:
        self._unrecognised.append(self._path + name)

    def text(self, name: str) -> str | None:
        """Read a text that may become a label value; one that may not is absurd. Azure's longest has about 400 bytes."""
        value = self._object.get(name)
        if value is None:
            return None
        if is_label_value(value):
            return sys.intern(value)  # a fleet repeats the same few texts thousands of times
        self.absurd(name)
        return None

    def message(self, name: str) -> str | None:
        """Read a text for people, cut where it is endless."""
        value = self._object.get(name)
        if isinstance(value, str):
            return value[:MAX_MESSAGE].encode(errors="replace").decode()
        if value is not None:
            self.absurd(name)
        return None

    def count(self, name: str) -> int | None:
        value = self._object.get(name)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # JSON knows one kind of number: 3.0 is 3
        if type(value) is int and 0 <= value <= MAX_INT32:
            return value
        self.absurd(name)
        return None

    def time(self, name: str) -> float | None:
        """Read a time. The least time of .NET means that no time is set: it counts as absent."""
        value = self._object.get(name)
        if value is None or (isinstance(value, str) and value.startswith(_NOT_SET)):
            return None
        seconds = parse_time(value) if isinstance(value, str) else None
        if seconds is None:
            self.absurd(name)
        return seconds

    def fields(self, name: str) -> "_Fields | None":
        value = self._object.get(name)
        if isinstance(value, dict):
            return _Fields(value, f"{self._path}{name}.", self._unrecognised)
        if value is not None:
            self.absurd(name)
        return None

    def list_of_fields(self, name: str, limit: int) -> "list[_Fields]":
        value = self._object.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > limit:
            self.absurd(name)
        entries = value[:limit] if isinstance(value, list) else []
        if not all(isinstance(entry, dict) for entry in entries):
            self.absurd(f"{name}[]")
        path = f"{self._path}{name}[]."
        return [_Fields(entry, path, self._unrecognised) for entry in entries if isinstance(entry, dict)]


def _upgrade(entry: _Fields) -> Upgrade:
    location = entry.text("location")
    if not location:
        location = entry.text("___location")  # as one rendering of the reference page has it
    properties = entry.fields("properties")
    if properties is None:
        return Upgrade(location=location)
    status = properties.fields("runningStatus")
    progress = properties.fields("progress")
    error = properties.fields("error")
    image = properties.fields("targetImageReference")
    rollback = properties.fields("rollbackInfo")
    state = UpgradeState.UNKNOWN if status is None else _state(status)
    start = status and status.time("startTime")
    return Upgrade(
        state=state,
        start=start,
        end=status and _end(status, state, start),
        progress=progress and _progress(progress),
        error=error and _error(error),
        started_by=properties.text("startedBy"),
        image=image and _image(image),
        rollback=rollback and _rollback(rollback),
        location=location,
    )


def _state(status: _Fields) -> UpgradeState:
    code = status.text("code")
    state = UpgradeState.UNKNOWN if code is None else _STATES.get(code)
    if state is None:
        status.absurd("code")
        return UpgradeState.UNKNOWN
    return state


def _end(status: _Fields, state: UpgradeState, start: float | None) -> float | None:
    """Read ``endTime``, as documented, else ``completedTime``, as recorded; the first that can be true."""
    for name in ("endTime", "completedTime"):
        end = status.time(name)
        if end is None:
            continue
        if possible_end(state, start, end) is not None:
            return end
        status.absurd(name)
    return None


def _progress(progress: _Fields) -> Progress:
    return Progress(
        successful=progress.count("successfulInstanceCount"),
        failed=progress.count("failedInstanceCount"),
        in_progress=progress.count("inProgressInstanceCount"),
        pending=progress.count("pendingInstanceCount"),
    )


def _error(error: _Fields) -> ApiError:
    inner = error.fields("innererror")
    return ApiError(
        code=error.text("code"),
        message=error.message("message"),
        target=error.text("target"),
        exception_type=inner and inner.text("exceptiontype"),
        exception_detail=inner and inner.message("errordetail"),
        details=tuple(
            ErrorDetail(detail.text("code"), detail.message("message"), detail.text("target"))
            for detail in error.list_of_fields("details", MAX_DETAILS)
        ),
    )


def _image(image: _Fields) -> Image:
    return Image(
        publisher=image.text("publisher"),
        offer=image.text("offer"),
        sku=image.text("sku"),
        version=image.text("version"),
        exact_version=image.text("exactVersion"),
        id=image.text("id"),
        shared_gallery_image_id=image.text("sharedGalleryImageId"),
        community_gallery_image_id=image.text("communityGalleryImageId"),
    )


def _rollback(rollback: _Fields) -> Rollback:
    error = rollback.fields("rollbackError")
    return Rollback(
        successful=rollback.count("successfullyRolledbackInstanceCount"),
        failed=rollback.count("failedRolledbackInstanceCount"),
        error=error and _error(error),
    )
