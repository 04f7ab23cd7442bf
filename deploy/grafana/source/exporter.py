"""The dashboard *Exporter*: whether the exporter itself does its work, and how much of Azure's budget that takes."""

from deploy.grafana.source.panels import (
    GREEN,
    ORANGE,
    RED,
    Json,
    Query,
    chart,
    choice,
    dashboard,
    mapped,
    row,
    stat,
    thresholds,
)

HERE = 'instance=~"$exporter"'
WITHIN = f'{HERE}, subscription_id=~"$subscription"'
A_MINUTE = "suffix:/min"


def _of(name: str, select: str = WITHIN) -> str:
    return f"vmss_upgrade_exporter_{name}{{{select}}}"


def _rate(name: str, select: str = WITHIN) -> str:
    return f"60 * rate({_of(name, select)}[$__rate_interval])"


def _quantiles(name: str, title: str = "") -> tuple[Query, ...]:
    """Return the half, and all but a hundredth, of what a histogram saw."""
    return tuple(
        Query(
            f"histogram_quantile({quantile}, sum by (le) (rate({_of(f'{name}_bucket', HERE)}[$__rate_interval])))",
            f"{title}{share}",
        )
        for quantile, share in ((0.5, "half within"), (0.99, "99 % within"))
    )


def exporter() -> Json:
    """Return the dashboard."""
    failing = f"max by (subscription_id, resource_group, scale_set) (azure_vmss_os_upgrade_up{{{WITHIN}}})"
    paused = (
        f"clamp_min(max by (subscription_id) ({_of('azure_paused_until_timestamp_seconds')}) - time(), 0)"
    )
    age = f"time() - azure_vmss_os_upgrade_last_success_timestamp_seconds{{{WITHIN}}}"
    panels = (
        stat("Exporters", Query(f"count({_of('build_info', HERE)})"), unit="none", width=3),
        stat(
            "Version",
            Query(f"count by (version) ({_of('build_info', HERE)})", "{{version}}"),
            unit="none",
            width=3,
            name_only=True,
        ),
        stat("Scale sets", Query(f"sum({_of('scale_sets')})"), unit="none", width=3),
        stat(
            "Last polls that were good",
            Query(f"avg({failing})"),
            unit="percentunit",
            width=4,
            colours=thresholds((0.9, ORANGE), (0.999, GREEN), base=RED),
        ),
        stat(
            "Configuration",
            Query(f"min({_of('config_last_reload_successful', HERE)})"),
            unit="none",
            width=4,
            mappings=mapped({0: ("reload failed", RED), 1: ("in force", GREEN)}),
        ),
        stat(
            "Paused subscriptions",
            Query(f"sum({paused} > bool 0)"),
            unit="none",
            width=4,
            colours=thresholds((1, ORANGE)),
            description="Subscriptions left alone for a while because Azure throttled them.",
        ),
        stat(
            "Shards here, of",
            Query(
                f"count(count_values('shard', {_of('shard', HERE)}))",
                "here",
            ),
            Query(f"max({_of('total_shards', HERE)})", "of"),
            unit="none",
            width=3,
        ),
        row("Polls"),
        chart(
            "Polls",
            Query(f"sum by (subscription_id) ({_rate('polls_total')})", "{{subscription_id}}"),
            unit=A_MINUTE,
            stacked=True,
        ),
        chart(
            "Failed polls by reason",
            Query(f"sum by (reason) ({_rate('poll_failures_total')})", "{{reason}}"),
            unit=A_MINUTE,
            stacked=True,
        ),
        chart(
            "Poll delay",
            *_quantiles("poll_delay_seconds"),
            unit="s",
            width=6,
            description="How long after its due time a poll starts. It grows when the exporter has more to do than it can.",
        ),
        chart("Poll duration", *_quantiles("poll_duration_seconds"), unit="s", width=6),
        chart(
            "Interval in force",
            Query(f"max(azure_vmss_os_upgrade_poll_interval_seconds{{{WITHIN}}})", "longest"),
            Query(f"avg(azure_vmss_os_upgrade_poll_interval_seconds{{{WITHIN}}})", "average"),
            unit="s",
            width=6,
            description="Longer than configured where the budget is short.",
        ),
        chart(
            "Age of what is shown",
            Query(f"max({age})", "oldest"),
            Query(f"avg({age})", "average"),
            unit="s",
            width=6,
            description="Seconds since the last good poll of each scale set.",
        ),
        row("Azure"),
        chart(
            "Budget left",
            Query(f"min by (scope) ({_of('azure_remaining_requests')})", "{{scope}}"),
            unit="none",
            logarithmic=True,
            height=9,
            description="Requests that Azure's last answer said are left to all software together, in the subscription that has least.",
        ),
        chart(
            "Requests by status",
            Query(f"sum by (status) ({_rate('azure_requests_total')})", "{{status}}"),
            Query(f"sum({_rate('azure_retries_total')})", "of these, retries"),
            unit=A_MINUTE,
            height=9,
        ),
        chart("Request duration", *_quantiles("azure_request_duration_seconds"), unit="s", width=8),
        chart(
            "Pauses",
            Query(paused, "{{subscription_id}}"),
            unit="s",
            width=8,
            description="How much longer each subscription is left alone because Azure throttled it.",
        ),
        chart(
            "Polls skipped while paused",
            Query(f"sum by (reason) ({_rate('polls_skipped_total', HERE)})", "{{reason}}"),
            unit=A_MINUTE,
            width=8,
        ),
        row("Discovery, sign-in and answers"),
        chart(
            "Since the last good search",
            Query(
                f"time() - max by (subscription_id) ({_of('discovery_last_success_timestamp_seconds')})",
                "{{subscription_id}}",
            ),
            unit="s",
            width=8,
        ),
        chart(
            "Failures beside polls",
            Query(f"sum({_rate('discovery_failures_total')})", "searches"),
            Query(f"sum({_rate('credential_failures_total', HERE)})", "sign-in"),
            unit=A_MINUTE,
            width=8,
        ),
        chart(
            "Absurd fields of good answers",
            Query(f"sum by (field) ({_rate('unrecognised_values_total', HERE)})", "{{field}}"),
            unit=A_MINUTE,
            width=8,
        ),
        row("Process and web"),
        chart(
            "Memory",
            Query(
                f"process_resident_memory_bytes{{{HERE}}} and on (job, instance) {_of('build_info', HERE)}",
                "{{instance}}",
            ),
            unit="bytes",
            width=6,
        ),
        chart(
            "Processor",
            Query(
                f"rate(process_cpu_seconds_total{{{HERE}}}[$__rate_interval]) and on (job, instance) {_of('build_info', HERE)}",
                "{{instance}}",
            ),
            unit="percentunit",
            width=6,
        ),
        chart(
            "Requests answered",
            Query(f"sum by (path, code) ({_rate('http_requests_total', HERE)})", "{{path}} {{code}}"),
            unit=A_MINUTE,
            width=6,
        ),
        chart("Time to answer", *_quantiles("http_request_duration_seconds"), unit="s", width=6),
    )
    variables = [
        choice(
            "exporter", "Exporter", "label_values(vmss_upgrade_exporter_build_info, instance)", several=True
        ),
        choice(
            "subscription",
            "Subscription",
            f"label_values({_of('scale_sets', HERE)}, subscription_id)",
            several=True,
        ),
    ]
    return dashboard(
        uid="vmss-upgrade-exporter",
        title="OS upgrades: exporter",
        description="Whether the exporter does its work, and how much of Azure's budget that takes.",
        variables=variables,
        panels=panels,
        since="6h",
    )
