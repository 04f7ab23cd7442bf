"""THE TABLE: every metric family about scale sets, one row each, and how a snapshot is rendered.

A row has a name, a help text, the labels beside the scale set's identity, and a pure function from a snapshot to
samples. Adding a metric is adding a row. What Azure did not send gives no sample; it is never 0.

The lines are byte for byte what prometheus_client's ``generate_latest`` writes for the same samples, and serve both
formats; a counter's header differs between them. Knows nothing of storage, polls or HTTP.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter

from prometheus_client.utils import floatToGoString

from exporter.history import ApiError, Image, UpgradeState
from exporter.snapshot import Snapshot

IDENTITY: tuple[str, ...] = ("subscription_id", "resource_group", "scale_set")
"""The labels that every family here bears, in lower case."""

_TOTAL = "_total"

Sample = tuple[tuple[str, ...], float]
"""The values of a row's labels, in the row's order, and the value."""


@dataclass(frozen=True, slots=True)
class Family:
    """One row: a gauge about scale sets, or a counter, whose name ends in ``_total``."""

    name: str
    help: str
    """One sentence, without the quotes and backslashes that the two formats escape differently."""
    samples: Callable[[Snapshot], Iterable[Sample]]
    labels: tuple[str, ...] = ()
    own_labels: bool = False
    """Whether each sample bears the scale set's own labels too (``label_*``, ``tag_*``)."""

    @property
    def type(self) -> str:
        """What kind of metric it is."""
        return "counter" if self.name.endswith(_TOTAL) else "gauge"

    @property
    def header(self) -> bytes:
        """The two lines that open the family in text 0.0.4."""
        return self._header(self.name)

    @property
    def openmetrics_header(self) -> bytes:
        """The same in OpenMetrics, where ``_total`` belongs to a counter's samples, not to its name."""
        return self._header(self.name.removesuffix(_TOTAL))

    def _header(self, name: str) -> bytes:
        return f"# HELP {name} {self.help}\n# TYPE {name} {self.type}\n".encode()

    def render(self, snapshot: Snapshot, identity: tuple[str, ...]) -> bytes:
        """Return the sample lines of one scale set, whose escaped ``identity`` is given; none gives ``b""``."""
        names, shared = IDENTITY, identity
        if self.own_labels:
            own_labels = snapshot.scale_set.labels
            names += tuple([name for name, _ in own_labels])
            shared += tuple([_escape(value) for _, value in own_labels])
        line, in_order = _line(self.name, names + self.labels)
        lines = [
            line % in_order((*shared, *map(_escape, further), _number(value)))
            for further, value in self.samples(snapshot)
        ]
        return "".join(lines).encode()


def up(snapshot: Snapshot) -> Iterator[Sample]:
    if snapshot.polled:
        yield (), snapshot.failure is None


def poll_error(snapshot: Snapshot) -> Iterator[Sample]:
    if snapshot.failure is not None:
        yield (snapshot.failure.value,), 1


def last_poll(snapshot: Snapshot) -> Iterator[Sample]:
    return _present(snapshot.last_poll)


def last_success(snapshot: Snapshot) -> Iterator[Sample]:
    return _present(snapshot.last_success)


def poll_interval(snapshot: Snapshot) -> Iterator[Sample]:
    yield (), snapshot.interval


def state(snapshot: Snapshot) -> Iterator[Sample]:
    if snapshot.history is not None:
        latest = snapshot.history.latest
        current = None if latest is None else latest.state
        for name, possible in _STATES:
            yield (name,), possible is current


def instances(snapshot: Snapshot) -> Iterator[Sample]:
    latest = snapshot.latest
    if latest is not None and (progress := latest.progress) is not None:
        yield from _counts(
            successful=progress.successful,
            failed=progress.failed,
            in_progress=progress.in_progress,
            pending=progress.pending,
        )


def rolled_back_instances(snapshot: Snapshot) -> Iterator[Sample]:
    latest = snapshot.latest
    if latest is not None and (rollback := latest.rollback) is not None:
        yield from _counts(successful=rollback.successful, failed=rollback.failed)


def start_timestamp(snapshot: Snapshot) -> Iterator[Sample]:
    return _present(snapshot.latest and snapshot.latest.start)


def end_timestamp(snapshot: Snapshot) -> Iterator[Sample]:
    return _present(snapshot.latest and snapshot.latest.end)


def last_progress_timestamp(snapshot: Snapshot) -> Iterator[Sample]:
    return _present(snapshot.latest and snapshot.last_progress)


def info(snapshot: Snapshot) -> Iterator[Sample]:
    latest = snapshot.latest
    if latest is not None:
        image = latest.image or Image()
        yield (
            _texts(
                latest.started_by,
                image.publisher,
                image.offer,
                image.sku,
                image.version,
                image.exact_version,
                image.id,
                image.shared_gallery_image_id,
                image.community_gallery_image_id,
            ),
            1,
        )


def error_info(snapshot: Snapshot) -> Iterator[Sample]:
    return _error_info(snapshot.latest and snapshot.latest.error)


def error_details(snapshot: Snapshot) -> Iterator[Sample]:
    latest = snapshot.latest
    if latest is not None and latest.error is not None:
        codes = Counter(detail.code or "" for detail in latest.error.details)
        for code, number in codes.items():
            yield (code,), number


def rollback_error_info(snapshot: Snapshot) -> Iterator[Sample]:
    latest = snapshot.latest
    return _error_info(latest and latest.rollback and latest.rollback.error)


def history_upgrades(snapshot: Snapshot) -> Iterator[Sample]:
    if snapshot.history is not None:
        for name, possible in _STATES:
            yield (name,), snapshot.history.count(possible)


def last_completed(snapshot: Snapshot) -> Iterator[Sample]:
    completed = snapshot.history and snapshot.history.latest_completed
    if completed is not None:
        yield from _present(completed.start if completed.end is None else completed.end)


def scale_set_info(snapshot: Snapshot) -> Iterator[Sample]:
    latest = snapshot.latest
    location = latest.location if latest is not None else None
    yield (location or snapshot.scale_set.location, snapshot.scale_set.name), 1


def upgrades(snapshot: Snapshot) -> Iterator[Sample]:
    if snapshot.finished is not None:
        counted = {(state, started_by): number for state, started_by, number in snapshot.finished}
        for (state, started_by), number in (_NONE_FINISHED | counted).items():
            yield (state.value, started_by), number


POLL_FAMILIES: tuple[Family, ...] = (
    Family(
        name="azure_vmss_os_upgrade_up",
        help="Whether the last poll of the scale set's OS upgrade history succeeded.",
        samples=up,
    ),
    Family(
        name="azure_vmss_os_upgrade_poll_error",
        help="1 while polls of the scale set fail, with the reason of the last failure.",
        labels=("reason",),
        samples=poll_error,
    ),
    Family(
        name="azure_vmss_os_upgrade_last_poll_timestamp_seconds",
        help="When the last poll ended, good or bad.",
        samples=last_poll,
    ),
    Family(
        name="azure_vmss_os_upgrade_last_success_timestamp_seconds",
        help="When the last good poll ended.",
        samples=last_success,
    ),
    Family(
        name="azure_vmss_os_upgrade_poll_interval_seconds",
        help="The interval between two polls now in force for the scale set.",
        samples=poll_interval,
    ),
)
"""What we know of our own polls: new with each of them."""

UPGRADE_FAMILIES: tuple[Family, ...] = (
    Family(
        name="azure_vmss_os_upgrade_state",
        help="1 for the state that the latest OS upgrade is in, 0 for the others (runningStatus.code; Unknown if absent or new).",
        labels=("state",),
        samples=state,
    ),
    Family(
        name="azure_vmss_os_upgrade_instances",
        help="Instances of the latest OS upgrade by state (progress).",
        labels=("state",),
        samples=instances,
    ),
    Family(
        name="azure_vmss_os_upgrade_rolled_back_instances",
        help="Instances that the latest OS upgrade rolled back, by result (rollbackInfo).",
        labels=("result",),
        samples=rolled_back_instances,
    ),
    Family(
        name="azure_vmss_os_upgrade_start_timestamp_seconds",
        help="When the latest OS upgrade started.",
        samples=start_timestamp,
    ),
    Family(
        name="azure_vmss_os_upgrade_end_timestamp_seconds",
        help="When the latest OS upgrade ended (endTime, else completedTime).",
        samples=end_timestamp,
    ),
    Family(
        name="azure_vmss_os_upgrade_last_progress_timestamp_seconds",
        help="When state and counts of the latest OS upgrade were first seen as they are; once it has finished, its end where known.",
        samples=last_progress_timestamp,
    ),
    Family(
        name="azure_vmss_os_upgrade_info",
        help="Who started the latest OS upgrade, and the image it brings (targetImageReference).",
        labels=(
            "started_by",
            "publisher",
            "offer",
            "sku",
            "version",
            "exact_version",
            "image_id",
            "shared_gallery_image_id",
            "community_gallery_image_id",
        ),
        samples=info,
    ),
    Family(
        name="azure_vmss_os_upgrade_error_info",
        help="1 while the latest OS upgrade has an error.",
        labels=("code", "target", "exception_type"),
        samples=error_info,
    ),
    Family(
        name="azure_vmss_os_upgrade_error_details",
        help="How many details of the latest OS upgrade's error bear the code.",
        labels=("code",),
        samples=error_details,
    ),
    Family(
        name="azure_vmss_os_upgrade_rollback_error_info",
        help="1 while the latest OS upgrade's rollback has an error.",
        labels=("code", "target", "exception_type"),
        samples=rollback_error_info,
    ),
    Family(
        name="azure_vmss_os_upgrade_history_upgrades",
        help="How many upgrades of the history that Azure keeps are in the state.",
        labels=("state",),
        samples=history_upgrades,
    ),
    Family(
        name="azure_vmss_os_upgrade_last_completed_timestamp_seconds",
        help="When the latest Completed OS upgrade of the history ended, or started where its end is not known.",
        samples=last_completed,
    ),
    Family(
        name="azure_vmss_os_upgrade_scale_set_info",
        help="Where the scale set is, its name unfolded, its labels from the configuration and tags from Azure.",
        labels=("location", "name"),
        own_labels=True,
        samples=scale_set_info,
    ),
)
"""What Azure says, and what the scale set is: new when that changes, which is seldom."""

JOURNAL_FAMILIES: tuple[Family, ...] = (
    Family(
        name="azure_vmss_os_upgrade_upgrades_total",
        help="Finished OS upgrades that the journal has seen, by the state in which they were first seen finished.",
        labels=("state", "started_by"),
        samples=upgrades,
    ),
)
"""What only the journal knows; they are there where one is configured."""

FAMILIES = POLL_FAMILIES + UPGRADE_FAMILIES
"""What is served in any case."""


def render(families: Iterable[Family], snapshot: Snapshot) -> list[bytes]:
    """Return the lines of one scale set, a piece for each of ``families``; empty where it has no sample."""
    identity = tuple([_escape(value) for value in snapshot.scale_set.identity])
    return [family.render(snapshot, identity) for family in families]


def upgrades_differ(before: Snapshot, after: Snapshot) -> bool:
    """Whether other families than ``POLL_FAMILIES`` may have other samples than before."""
    return (
        before.history is not after.history
        or before.last_progress != after.last_progress
        or before.finished != after.finished
        or before.scale_set != after.scale_set
    )


_STATES = tuple((state.value, state) for state in UpgradeState)
_NONE_FINISHED = {
    (state, started_by): 0 for state in UpgradeState if state.finished for started_by in ("Platform", "User")
}
"""Where counts begin, so that the first one of a kind is an increase already."""


def _present(value: float | None) -> Iterator[Sample]:
    if value is not None:
        yield (), value


def _counts(**counts: int | None) -> Iterator[Sample]:
    for label, count in counts.items():
        if count is not None:
            yield (label,), count


def _texts(*texts: str | None) -> tuple[str, ...]:
    return tuple(text or "" for text in texts)


def _error_info(error: ApiError | None) -> Iterator[Sample]:
    if error is not None:
        yield _texts(error.code, error.target, error.exception_type), 1


@lru_cache(maxsize=1024)
def _number(value: float) -> str:
    """Write a value as prometheus_client does; most are small counts, 0 and 1 above all."""
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


def _escape(value: str) -> str:
    """Escape a label value as both formats demand."""
    if value.isalnum():
        return value
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


@lru_cache(maxsize=1024)
def _line(family: str, names: tuple[str, ...]) -> tuple[str, Callable[[tuple[str, ...]], tuple[str, ...]]]:
    """Return a line's pattern, labels sorted as prometheus_client sorts them, and what sorts their values.

    The values come as ``names`` stand, with the sample's value behind them.
    """
    order = sorted(range(len(names)), key=names.__getitem__)
    labels = ",".join(f'{names[index]}="%s"' for index in order)
    return f"{family}{{{labels}}} %s\n", itemgetter(*order, len(names))
