"""The dashboard *Fleet*: how the OS upgrades of all scale sets stand, and who needs a look."""

from collections.abc import Iterator
from dataclasses import replace

from deploy.grafana.source.panels import (
    ANY,
    GREEN,
    GREY,
    IDENTITY,
    INSTANCES,
    ORANGE,
    RED,
    STATE_NUMBERS,
    STATES,
    SUBSCRIPTION,
    TO_SCALE_SET_OF_SERIES,
    WHICH,
    Column,
    Json,
    Query,
    bars,
    chart,
    dashboard,
    each,
    in_state,
    mapped,
    matching,
    of_instances,
    of_scale_sets,
    of_states,
    only,
    row,
    stat,
    state_number,
    table,
    thresholds,
    timeline,
    with_image,
)

FAULTED = in_state(ANY, "Faulted")
ACTIVE = in_state(ANY, "RollingForward", "RollingBack")
ROLLED_BACK = (
    f"sum by ({IDENTITY}) ({each('rolled_back_instances', ANY, 'result')}) > 0"
    f" or max by ({IDENTITY}) ({in_state(ANY, 'RollingBack')})"
)
NAME = "{{resource_group}}/{{scale_set}}"
RECORDED = "Of whole subscriptions, from the recording rules of deploy/prometheus/recording.yml."
WITHIN = 'subscription_id=~"$subscription"'


def _share(state: str) -> Query:
    """Return how many of the rollout's instances are in the state, as a share of them."""
    total = f"sum by ({IDENTITY}) ({each('instances', ANY, 'state')})"
    return Query(f"{each('instances', only(ANY, state=state))} / on ({IDENTITY}) {total}{matching(ACTIVE)}")


def _counts_and_shares(counts: str, shares: str) -> Iterator[Column]:
    """Yield two columns for each state of instances, of the queries with these letters; a count is as wide as its name."""
    for count, share, (state, colour) in zip(counts, shares, INSTANCES.items(), strict=True):
        name = state.replace("_", " ")
        yield Column(f"Value #{count}", name.capitalize(), 28 + 6 * len(name))
        yield Column(f"Value #{share}", f"% {name}", 98, unit="percentunit", bar=colour)


def fleet() -> Json:
    """Return the dashboard."""
    since_completed = f"(time() - {each('last_completed_timestamp_seconds', ANY)}) / 86400"
    unfinished = f'azure_vmss_os_upgrade_state{{{ANY}, state!="Completed"}} @ end() == 1'
    lately = f"azure_vmss_os_upgrade_end_timestamp_seconds{{{ANY}}} @ end() > $__from / 1000"
    panels = (
        stat(
            "Scale sets",
            Query(f"count({each('scale_set_info', ANY)})"),
            unit="none",
            width=3,
            nothing="0",
        ),
        stat(
            "Latest upgrade of each scale set by state",
            *(Query(f"sum({each('state', only(ANY, state=state))})", state) for state in STATES),
            unit="none",
            width=15,
            mappings=mapped({0: ("0", GREY)}),
            overrides=of_states(),
            nothing="0",
        ),
        stat(
            "Never upgraded",
            Query(f"sum({each('state', ANY)} == bool 0)"),
            unit="none",
            width=3,
            description="Scale sets whose history is empty.",
            nothing="0",
        ),
        stat(
            "Polls fail",
            Query(f"sum({each('up', ANY)} == bool 0)"),
            unit="none",
            width=3,
            colours=thresholds((1, RED)),
            description="Scale sets whose history cannot be read at the moment; what is shown of them is older.",
            nothing="0",
        ),
        table(
            "Faulted",
            Query(FAULTED),
            Query(f"1000 * {each('end_timestamp_seconds', ANY)}{matching(FAULTED)}"),
            Query(f"{with_image(ANY)}{matching(FAULTED)}"),
            Query(f"{each('error_info', ANY, 'code', 'exception_type')}{matching(FAULTED)}"),
            Query(f"{each('instances', only(ANY, state='failed'))}{matching(FAULTED)}"),
            columns=(
                *WHICH,
                Column("code", "Error"),
                Column("image", "Image", 300),
                Column("Value #B", "Ended", 135, "dateTimeFromNow"),
                Column("Value #E", "Failed", 65),
                SUBSCRIPTION,
            ),
            sort_by="Ended",
            description="Scale sets whose latest upgrade is Faulted. Azure's words are on the exporter's status page.",
            nothing="No scale set is Faulted.",
        ),
        table(
            "Rollouts in progress",
            Query(ACTIVE),
            Query(f"1000 * {each('start_timestamp_seconds', ANY)}{matching(ACTIVE)}"),
            Query(f"{with_image(ANY)}{matching(ACTIVE)}"),
            Query(f"sum by ({IDENTITY}) ({each('instances', ANY, 'state')}){matching(ACTIVE)}"),
            *(_share(state) for state in INSTANCES),
            *(Query(f"{each('instances', only(ANY, state=state))}{matching(ACTIVE)}") for state in INSTANCES),
            columns=(
                *WHICH,
                Column("state", "State", 115),
                Column("Value #B", "Started", 135, "dateTimeFromNow"),
                Column("image", "Image"),
                Column("Value #D", "Instances", 80),
                *_counts_and_shares(counts="IJKL", shares="EFGH"),
                replace(SUBSCRIPTION, hidden=True),
            ),
            sort_by="Started",
            description="Upgrades under way, and how many of their instances are in each state, and which share of them.",
            nothing="No upgrade is under way.",
        ),
        table(
            "Rollbacks",
            Query(f"{state_number(ANY)}{matching(ROLLED_BACK)}"),
            Query(f"{each('rolled_back_instances', only(ANY, result='successful'))}{matching(ROLLED_BACK)}"),
            Query(f"{each('rolled_back_instances', only(ANY, result='failed'))}{matching(ROLLED_BACK)}"),
            Query(f"{each('rollback_error_info', ANY, 'code')}{matching(ROLLED_BACK)}"),
            columns=(
                *WHICH,
                Column("Value #A", "State", 115, mappings=STATE_NUMBERS),
                Column("Value #B", "Rolled back", 95),
                Column("Value #C", "Failed to", 75),
                Column("code", "Error"),
                replace(SUBSCRIPTION, hidden=True),
            ),
            sort_by="Failed to",
            width=12,
            height=9,
            description="Scale sets whose latest upgrade is rolled back, wholly or in part, and by how many instances.",
            nothing="No latest upgrade was rolled back.",
        ),
        bars(
            "Days since the last completed upgrade, the longest",
            Query(f"topk(12, {since_completed})", NAME),
            unit="suffix: d",
            decimals=1,
            colours=thresholds((30, ORANGE), (60, RED)),
            description="Azure forgets after two months: a scale set without any completed upgrade is not here.",
            links=(TO_SCALE_SET_OF_SERIES,),
        ),
        row("Through time"),
        timeline(
            "State of the scale sets that were not at rest",
            Query(f"{state_number(ANY)}{matching(f'{unfinished} or {lately}')}", NAME),
            mappings=STATE_NUMBERS,
            height=12,
            description="The latest upgrade of each scale set, unless it completed before the time shown.",
            links=(TO_SCALE_SET_OF_SERIES,),
        ),
        chart(
            "Scale sets by state",
            Query(
                f"sum by (state) (subscription_state:azure_vmss_os_upgrade_scale_sets:count{{{WITHIN}}})",
                "{{state}}",
            ),
            unit="none",
            stacked=True,
            overrides=of_states(),
            description=RECORDED,
        ),
        chart(
            "Instances of the upgrades in progress",
            Query(
                f"sum by (state) (subscription_state:azure_vmss_os_upgrade_active_instances:sum{{{WITHIN}}})",
                "{{state}}",
            ),
            unit="none",
            stacked=True,
            overrides=of_instances(),
            description=RECORDED,
        ),
        row("Adoption"),
        bars(
            "Adoption by image version",
            Query(
                f"topk(15, count by (image) ({with_image(ANY)}{matching(in_state(ANY, 'Completed'))}))",
                "{{image}}",
            ),
            unit="none",
            width=10,
            height=10,
            colours=thresholds(base=GREEN),
            description="How many scale sets completed their latest upgrade to the image.",
        ),
        chart(
            "Adoption through time",
            Query(
                f"sum by (image) (subscription_image:azure_vmss_os_upgrade_scale_sets:count{{{WITHIN}}})",
                "{{image}}",
            ),
            unit="none",
            width=14,
            height=10,
            stacked=True,
            legend_beside=True,
            description=f"Scale sets by the image that their latest upgrade brings. {RECORDED}",
        ),
    )
    return dashboard(
        uid="vmss-upgrade-fleet",
        title="OS upgrades: fleet",
        description="How the OS upgrades of all scale sets stand, and which of them need a look.",
        variables=of_scale_sets(several=True),
        panels=panels,
        since="24h",
    )
