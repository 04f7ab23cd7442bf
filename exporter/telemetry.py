"""Metrics about the exporter itself, never labelled by scale set: prometheus_client in its usual form.

One object of them a process, with a registry of its own; who makes something happen counts it here. What is about
scale sets stands in ``families``.
"""

import platform

import prometheus_client
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.metrics import MetricWrapperBase

from exporter import __version__
from exporter.snapshot import Reason

PREFIX = "vmss_upgrade_exporter"

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each counter, that nobody reads


class Telemetry:
    """The exporter's own families."""

    def __init__(self, *, process: bool = True) -> None:
        """``process`` says whether to tell of this process and its Python, too."""
        registry = self.registry = CollectorRegistry()
        if process:
            ProcessCollector(registry=registry)
            PlatformCollector(registry=registry)
            GCCollector(registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"{PREFIX}_{name}", text, labels, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"{PREFIX}_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"{PREFIX}_{name}", text, labels, registry=registry, buckets=buckets)

        gauge(
            "build_info", "1, with the version of the exporter and of Python.", "version", "python_version"
        ).labels(__version__, platform.python_version()).set(1)
        self.config_last_reload_successful = gauge(
            "config_last_reload_successful", "Whether the last reading of the configuration succeeded."
        )
        self.config_last_reload_success_timestamp = gauge(
            "config_last_reload_success_timestamp_seconds",
            "When the configuration was last read successfully.",
        )
        self.shard = gauge("shard", "Which part of all scale sets is polled here, from 0.")
        self.total_shards = gauge("total_shards", "Into how many parts all scale sets are split.")
        self.scale_sets = gauge("scale_sets", "Scale sets that are polled.", "subscription_id", "source")
        self.found_scale_sets = gauge(
            "found_scale_sets",
            "Scale sets that the last good discovery found, by whether the filters of the configuration select them.",
            "subscription_id",
            "selected",
        )
        self.ticks = counter(
            "ticks",
            "Ticks of the polling clock, about one a second: while it stands still, nothing is polled.",
        )
        self.polls = counter("polls", "Polls that ended, good or bad.", "subscription_id")
        self.poll_failures = counter("poll_failures", "Polls that failed.", "subscription_id", "reason")
        self.poll_duration = histogram(
            "poll_duration_seconds",
            "How long a poll took, retries included.",
            (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
        )
        self.poll_delay = histogram(
            "poll_delay_seconds",
            "How long after its due time a poll started.",
            (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
        )
        self.polls_skipped = counter("polls_skipped", "Polls that were due and not made.", "reason")
        self.polls_skipped.labels("throttled")
        self.azure_requests = counter(
            "azure_requests",
            "Requests to Azure by status; error where no answer came.",
            "subscription_id",
            "status",
        )
        self.azure_request_duration = histogram(
            "azure_request_duration_seconds",
            "How long a request to Azure took.",
            (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
        )
        self.azure_retries = counter("azure_retries", "Requests that were sent again.", "subscription_id")
        self.azure_remaining_requests = gauge(
            "azure_remaining_requests",
            "Requests that Azure's last answer said are left, by budget.",
            "subscription_id",
            "scope",
        )
        self.azure_paused_until = gauge(
            "azure_paused_until_timestamp_seconds",
            "Until when a subscription is left alone because Azure throttled it; 0 if it never did.",
            "subscription_id",
        )
        self.discovery_failures = counter(
            "discovery_failures", "Searches for scale sets that failed.", "subscription_id", "reason"
        )
        self.discovery_last_success_timestamp = gauge(
            "discovery_last_success_timestamp_seconds",
            "When the last good search for scale sets ended.",
            "subscription_id",
        )
        self.credential_failures = counter("credential_failures", "Failures to get a token.")
        self.journal_failures = counter("journal_failures", "Failures to read or write the journal.")
        self.log_lines_dropped = counter(
            "log_lines_dropped",
            "Log lines dropped because standard error was not read or could not be written.",
        )
        self.unrecognised_values = counter(
            "unrecognised_values", "Absurd fields of good answers, counted as absent.", "field"
        )
        self.http_requests = counter("http_requests", "Requests answered.", "path", "code")
        self.http_request_duration = histogram(
            "http_request_duration_seconds",
            "How long an answer took, until its last byte was sent.",
            (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 10),
            "path",
        )

    def forget(self, subscription_id: str) -> None:
        """Leave nothing behind of a subscription that is not polled any more."""
        for family in vars(self).values():
            if isinstance(family, MetricWrapperBase) and "subscription_id" in family._labelnames:  # noqa: SLF001
                family.remove_by_labels({"subscription_id": subscription_id})

    def forget_discovery(self, subscription_id: str) -> None:
        """Leave nothing behind of the discovery of a subscription in which none takes place any more."""
        for family in (self.discovery_failures, self.discovery_last_success_timestamp):
            family.remove_by_labels({"subscription_id": subscription_id})

    def know(self, subscription_id: str, *, searched: bool) -> None:
        """Begin the counts of a subscription at 0, so that the first failure is an increase already."""
        self.polls.labels(subscription_id)
        self.azure_retries.labels(subscription_id)
        self.azure_paused_until.labels(subscription_id)
        for reason in Reason:
            self.poll_failures.labels(subscription_id, reason.value)
        for reason in Reason if searched else ():
            self.discovery_failures.labels(subscription_id, reason.value)
