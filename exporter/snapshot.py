"""What we know of one scale set, and how a poll changes it.

Pure: each function makes a new snapshot of an old one and the news; ``now`` comes in. Knows nothing of requests,
metrics or storage. Times are seconds since the epoch.
"""

from dataclasses import dataclass, replace
from enum import Enum

from exporter.history import History, Progress, Upgrade, UpgradeState
from exporter.scale_set import ScaleSet

NOT_FOUND_POLLS = 2
"""Polls in a row that Azure must answer with ``not_found`` before the scale set counts as missing."""
Finished = tuple[tuple[UpgradeState, str, int], ...]
"""How many upgrades were ever seen to end in a state, started by whom (empty where Azure did not say)."""


class Reason(Enum):
    """Why a poll failed."""

    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    THROTTLED = "throttled"
    BAD_REQUEST = "bad_request"
    SERVER_ERROR = "server_error"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    MALFORMED = "malformed"


_WITHOUT_ANSWER = {Reason.TIMEOUT, Reason.UNREACHABLE}
"""Reasons of polls that Azure did not answer."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One scale set as we know it. ``None`` means: not known, or not any more."""

    scale_set: ScaleSet
    interval: float
    """Seconds between two polls, as now in force."""
    history: History | None = None
    """The last good answer; ``None`` before the first, after ``max_age`` and when the scale set is missing."""
    digest: bytes = b""
    """Of the answer that brought ``history``; empty where it cannot be told whether it comes again."""
    last_poll: float | None = None
    """When the last poll ended, good or bad."""
    last_success: float | None = None
    """When the last good poll ended."""
    last_success_steady: float | None = None
    """When the last good poll ended, by a clock that is never stepped. It gives the age of ``history``."""
    last_progress: float | None = None
    """When the present state and counts of ``latest_seen`` were first seen, by this process or by the journal. If the
    upgrade has finished, its end, where that is known."""
    latest_seen: Upgrade | None = None
    """The latest upgrade of the last good answer, kept after ``history`` goes: an outage is no progress."""
    failure: Reason | None = None
    """Why the last poll failed; ``None`` after a good one."""
    failure_message: str = ""
    """The failure in words, for people; never a label."""
    not_found_polls: int = 0
    """Polls in a row that Azure answered with ``not_found``. A poll without an answer does not end the row."""
    finished: Finished | None = None
    """Finished upgrades that the journal has counted; ``None`` where there is no journal, or nothing in it yet."""
    remembered: bool = False
    """Whether all this comes from the journal, and no poll of this process has ended yet."""

    @property
    def polled(self) -> bool:
        """Whether a first poll has told anything, good or bad."""
        return self.failure is not None or self.last_success is not None

    @property
    def missing(self) -> bool:
        """Whether the last ``NOT_FOUND_POLLS`` answers of Azure were ``not_found``."""
        return self.not_found_polls >= NOT_FOUND_POLLS

    @property
    def unresolved(self) -> bool:
        """Whether the scale set exists and its latest upgrade ever seen is active or Faulted."""
        latest = self.latest_seen
        if latest is None or self.missing:
            return False
        return latest.state.active or latest.state is UpgradeState.FAULTED

    @property
    def latest(self) -> Upgrade | None:
        """The latest upgrade of ``history``."""
        return None if self.history is None else self.history.latest


def after_success(
    before: Snapshot, history: History, now: float, digest: bytes = b"", *, steady_now: float | None = None
) -> Snapshot:
    """Return what is known after a poll that brought ``history``.

    ``steady_now`` is the time of a clock that is never stepped, where ``now``'s may be.

    Most polls bring what the one before brought; then the very same object stays, so that whoever looks can tell
    by identity that nothing about the upgrades has changed.
    """
    if history is not before.history and history == before.history:
        history = before.history
    latest = history.latest
    return replace(
        before,
        history=history,
        digest=digest,
        last_poll=now,
        last_success=now,
        last_success_steady=now if steady_now is None else steady_now,
        last_progress=_last_progress(before, latest, now),
        latest_seen=latest,
        failure=None,
        failure_message="",
        not_found_polls=0,
        remembered=False,
    )


def after_failure(before: Snapshot, reason: Reason, message: str, now: float) -> Snapshot:
    """Return what is known after a poll that failed: the last good history stays, unless the scale set is missing.

    One ``not_found`` alone may be a replica of Azure that lags behind, so the history goes with the second in a row.
    """
    if reason is Reason.NOT_FOUND:
        not_found_polls = before.not_found_polls + 1
    else:
        not_found_polls = before.not_found_polls if reason in _WITHOUT_ANSWER else 0
    failed = replace(
        before,
        last_poll=now,
        failure=reason,
        failure_message=message,
        not_found_polls=not_found_polls,
        remembered=False,
    )
    return without_history(failed) if failed.missing else failed


def after_pause(before: Snapshot) -> Snapshot:
    """Return what is known when a poll was due while the subscription is paused: no poll, yet no fresh data."""
    return replace(before, failure=Reason.THROTTLED, failure_message="the subscription is paused")


def without_history(before: Snapshot) -> Snapshot:
    """Return what is known once the last good history is too old to be served, or void."""
    return replace(before, history=None, digest=b"")


def after_restart(
    known: Snapshot, now: float, max_age: float, *, steady_now: float | None = None
) -> Snapshot:
    """Return what is served of what a former process knew: all of it, true times included, unless it is too old.

    The wall clock gives its age once, here; from then on the steady clock does. A last success that lies in the future,
    because the wall clock was set back, has the age 0. A scale set whose data is too old counts as never polled. Only
    what shows whether the next poll brings progress is kept, and the counts of finished upgrades.
    """
    age = None if known.last_success is None else max(0.0, now - known.last_success)
    if age is not None and age <= max_age:
        return replace(known, last_success_steady=(now if steady_now is None else steady_now) - age)
    return Snapshot(
        known.scale_set,
        known.interval,
        last_progress=known.last_progress,
        latest_seen=known.latest_seen,
        finished=known.finished,
    )


def _last_progress(before: Snapshot, latest: Upgrade | None, now: float) -> float | None:
    """Return when the present state and counts of ``latest`` were first seen, or its end.

    The start of an upgrade is never progress: a process that starts in the middle of a healthy upgrade would report
    an upgrade that has been stuck since its start.
    """
    if latest is None:
        return None
    if latest.state.finished and latest.end is not None:
        return latest.end
    previous = before.latest_seen
    if previous is None or _progress_of(previous) != _progress_of(latest):
        return now
    return before.last_progress


def _progress_of(upgrade: Upgrade) -> tuple[float | None, UpgradeState, Progress | None]:
    return upgrade.start, upgrade.state, upgrade.progress
