"""The dashboard *Scale set*: the OS upgrades of one scale set through time."""

from deploy.grafana.source.panels import (
    BLUE,
    GREEN,
    IDENTITY,
    ONE,
    ORANGE,
    RED,
    STATE_NUMBERS,
    STATES,
    Column,
    Json,
    Query,
    bars,
    chart,
    coloured,
    dashboard,
    each,
    mapped,
    of_instances,
    of_scale_sets,
    of_states,
    only,
    row,
    stat,
    state_number,
    table,
    timeline,
    with_image,
)

LATEST, PRESENT = mapped({1: ("latest", BLUE)}), mapped({1: ("present", RED)})
STACKED = ("successful", "failed", "in_progress", "pending")
"""The states of instances in the order in which a chart stacks them: what is done lies at the bottom."""


def scale_set() -> Json:
    """Return the dashboard."""
    panels = (
        stat(
            "State of the latest upgrade",
            Query(state_number(ONE)),
            unit="none",
            width=6,
            mappings=STATE_NUMBERS,
            background=True,
        ),
        stat(
            "Started",
            Query(f"1000 * {each('start_timestamp_seconds', ONE)}"),
            unit="dateTimeFromNow",
        ),
        stat(
            "Ended",
            Query(f"1000 * {each('end_timestamp_seconds', ONE)}"),
            unit="dateTimeFromNow",
            nothing="under way",
        ),
        stat(
            "Last completed",
            Query(f"1000 * {each('last_completed_timestamp_seconds', ONE)}"),
            unit="dateTimeFromNow",
            nothing="not in the history",
        ),
        stat(
            "Instances",
            Query(f"sum({each('instances', ONE, 'state')})"),
            unit="none",
            width=3,
        ),
        stat(
            "Last poll",
            Query(each("up", ONE)),
            unit="none",
            width=3,
            mappings=mapped({0: ("failed", RED), 1: ("good", GREEN)}),
        ),
        table(
            "What the latest upgrade brings",
            Query(each("info", ONE, "started_by", "publisher", "offer", "sku", "version", "exact_version")),
            Query(with_image(ONE)),
            columns=(
                Column("image", "Image", 300),
                Column("publisher", "Publisher", 150),
                Column("offer", "Offer"),
                Column("version", "Version asked for", 150),
                Column("started_by", "Started by", 110),
            ),
            height=4,
            nothing="It was never upgraded.",
        ),
        table(
            "Errors of the latest upgrade",
            Query(each("error_info", ONE, "code", "target", "exception_type")),
            Query(each("error_details", ONE, "code")),
            Query(
                f"label_replace({each('rollback_error_info', ONE, 'code', 'target', 'exception_type')},"
                ' "of", "rollback", "", "")'
            ),
            columns=(
                Column("code", "Code"),
                Column("of", "Of", 90),
                Column("Value #B", "Details with this code", 170),
                Column("target", "Target", 190),
                Column("exception_type", "Exception", 330),
            ),
            height=6,
            description="An error's own code, and how many of its details, of single instances, bear each code.",
            nothing="No error.",
        ),
        row("Through time"),
        timeline(
            "State",
            Query(state_number(ONE), "{{scale_set}}"),
            mappings=STATE_NUMBERS,
            height=5,
        ),
        chart(
            "Instances of the latest upgrade",
            *(Query(each("instances", only(ONE, state=state)), state) for state in STACKED),
            unit="none",
            width=16,
            stacked=True,
            overrides=of_instances(),
        ),
        chart(
            "Instances rolled back",
            Query(each("rolled_back_instances", ONE, "result"), "{{result}}"),
            unit="none",
            width=8,
            stacked=True,
            overrides=(coloured("successful", ORANGE), coloured("failed", RED)),
        ),
        timeline(
            "Image of the latest upgrade",
            Query(with_image(ONE), "{{image}}"),
            mappings=LATEST,
            width=10,
            height=6,
        ),
        timeline(
            "Errors",
            Query(each("error_info", ONE, "code"), "{{code}}"),
            Query(each("rollback_error_info", ONE, "code"), "rollback: {{code}}"),
            mappings=PRESENT,
            width=14,
            height=6,
            nothing="No error.",
        ),
        row("History and polls"),
        bars(
            "Upgrades that Azure remembers",
            *(Query(each("history_upgrades", only(ONE, state=state)), state) for state in STATES),
            unit="none",
            width=8,
            height=7,
            overrides=of_states(),
            description="At most five, of the past two months.",
        ),
        chart(
            "Age of what is shown",
            Query(f"time() - {each('last_success_timestamp_seconds', ONE)}", "since the last good poll"),
            Query(f"min by ({IDENTITY}) (azure_vmss_os_upgrade_poll_interval_seconds{{{ONE}}})", "interval"),
            unit="s",
            width=8,
            height=7,
            description="Seconds since the last good poll, beside the interval now in force.",
        ),
        timeline(
            "Failing polls by reason",
            Query(each("poll_error", ONE, "reason"), "{{reason}}"),
            mappings=PRESENT,
            width=8,
            height=7,
            nothing="No poll failed.",
        ),
        table(
            "Where it is, its labels and tags",
            Query(f"azure_vmss_os_upgrade_scale_set_info{{{ONE}}}"),
            columns=(
                Column("name", "Name"),
                Column("location", "Location", 150),
                Column("instance", "Exporter", 200),
            ),
            also=("label_.*", "tag_.*"),
            height=4,
        ),
    )
    return dashboard(
        uid="vmss-upgrade-scale-set",
        title="OS upgrades: scale set",
        description="The OS upgrades of one scale set through time.",
        variables=of_scale_sets(several=False),
        panels=panels,
        since="24h",
    )
