"""Alerts and recording rules, by promtool and by what is said about them elsewhere."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.families import FAMILIES, IDENTITY, JOURNAL_FAMILIES
from exporter.history import UpgradeState
from exporter.snapshot import Reason
from exporter.telemetry import Telemetry
from tests.processes import debian_program

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
RUNBOOKS = FOLDER / "runbooks"
RULE_FILES = (FOLDER / "alerts.yml", FOLDER / "recording.yml")
TESTS = sorted((FOLDER / "tests").glob("*.yml"))
REPOSITORY = "https://github.com/vmss-upgrade-exporter/vmss-upgrade-exporter"
SECTIONS = ["What it means", "See it in Azure", "What to do", "When to ignore it"]
SEVERITIES = {
    "AzureVmssOsUpgradeFaulted": "critical",
    "AzureVmssOsUpgradeImageFaulted": "critical",
    "AzureVmssOsUpgradeFailedEarlier": "info",
    "AzureVmssOsUpgradeRollbackFailed": "critical",
    "AzureVmssOsUpgradeRolledBack": "warning",
    "AzureVmssOsUpgradeStuck": "warning",
    "AzureVmssOsUpgradeSlow": "warning",
    "AzureVmssOsUpgradeCancelled": "info",
    "AzureVmssOsUpgradeStateUnknown": "warning",
    "AzureVmssOsUpgradeOverdue": "warning",
    "AzureVmssExporterDown": "critical",
    "AzureVmssExporterFlapping": "warning",
    "AzureVmssExporterStalled": "critical",
    "AzureVmssExporterCredentialFailing": "critical",
    "AzureVmssExporterSubscriptionFailing": "critical",
    "AzureVmssExporterPollFailing": "warning",
    "AzureVmssExporterDataStale": "warning",
    "AzureVmssExporterThrottled": "warning",
    "AzureVmssExporterDiscoveryFailing": "warning",
    "AzureVmssExporterNothingPolled": "warning",
    "AzureVmssExporterJournalFailing": "warning",
    "AzureVmssExporterLogLinesDropped": "warning",
    "AzureVmssExporterUnrecognisedValues": "warning",
    "AzureVmssExporterReloadFailed": "warning",
    "AzureVmssExporterShardMismatch": "warning",
    "AzureVmssExporterShardMissing": "critical",
}
HELD = {alert for alert in SEVERITIES if alert.startswith("AzureVmssOsUpgrade")} - {
    "AzureVmssOsUpgradeImageFaulted"
}
"""Alerts about one scale set that stay while it cannot be read."""
ABOUT_ONE_SCALE_SET = HELD | {"AzureVmssExporterPollFailing", "AzureVmssExporterDataStale"}
ABOUT_MANY_SCALE_SETS = {
    "AzureVmssOsUpgradeImageFaulted",
    "AzureVmssExporterCredentialFailing",
    "AzureVmssExporterSubscriptionFailing",
    "AzureVmssExporterDiscoveryFailing",
}
"""Alerts that the status page explains: it lists the scale sets, or has a banner."""
ERROR_CODES = (
    "MaxUnhealthyInstancePercentExceededBeforeRollingUpgrade",
    "MaxUnhealthyInstancePercentExceededInRollingUpgrade",
    "MaxUnhealthyUpgradedInstancePercentExceededInRollingUpgrade",
    "RollingUpgradeInProgressWithFailedUpgradedVMs",
    "RollingUpgradeTimeoutError",
    "InternalExecutionError",
    "RollingUpgradeCanceled",
    "RollingUpgradeInstanceUnhealthyError",
)


def rules(file: Path) -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load(file.read_text())["groups"]:
        yield from group["rules"]


ALERTS = [rule for rule in rules(FOLDER / "alerts.yml") if "alert" in rule]
EVERY_ALERT = pytest.mark.parametrize("alert", ALERTS, ids=[alert["alert"] for alert in ALERTS])
EVERY_RULE = pytest.mark.parametrize(
    "rule",
    [rule for file in RULE_FILES for rule in rules(file)],
    ids=lambda rule: rule.get("alert") or " ".join([rule["record"], *rule.get("labels", {}).values()]),
)


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(
        [debian_program("promtool"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_promtool_accepts_the_configuration_and_the_rules_it_names():
    promtool("check", "config", FOLDER / "prometheus.yml")


def test_promtool_has_no_objection_to_the_rules():
    promtool("check", "rules", "--lint=all", "--lint-fatal", *RULE_FILES)


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_the_rules_do_what_their_tests_say(file: Path):
    promtool("test", "rules", file)


def test_the_alerts_and_their_severities_are_those_that_routes_count_on():
    assert {alert["alert"]: alert["labels"]["severity"] for alert in ALERTS} == SEVERITIES


@EVERY_ALERT
def test_an_alert_says_what_it_is_and_where_to_read_on(alert: dict[str, Any]):
    links = {"portal_url"} if alert["alert"] in ABOUT_ONE_SCALE_SET else set()
    links |= {"status_url"} if alert["alert"] in ABOUT_ONE_SCALE_SET | ABOUT_MANY_SCALE_SETS else set()
    when = {"last_read"} if alert["alert"] in HELD else set()
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"} | links | when
    assert (
        alert["annotations"]["runbook_url"]
        == f"{REPOSITORY}/blob/main/deploy/prometheus/runbooks/{alert['alert']}.md"
    )


@EVERY_ALERT
def test_an_alert_about_one_scale_set_carries_its_owner_and_neither_code_nor_reason(alert: dict[str, Any]):
    """What changes while an alert fires, or comes a poll later, would make two alerts of one."""
    joined = "scale_set:azure_vmss_os_upgrade_owner:info\n  * on (subscription_id, resource_group, scale_set) group_left ("
    assert (joined in alert["expr"]) is (alert["alert"] in ABOUT_ONE_SCALE_SET)
    kept = set(re.findall(r"\w+", " ".join(re.findall(r"(?:\bby|group_left) \(([^)]*)\)", alert["expr"]))))
    assert kept.isdisjoint({"code", "reason", "target", "exception_type"})


@EVERY_ALERT
def test_an_alert_is_tested_for_not_firing_then_firing_then_resolving(alert: dict[str, Any]):
    courses = [
        [bool(case.get("exp_alerts")) for case in cases]
        for file in TESTS
        for test in yaml.safe_load(file.read_text())["tests"]
        if (
            cases := [case for case in test.get("alert_rule_test", ()) if case["alertname"] == alert["alert"]]
        )
    ]
    assert any(course[0] is False and course[-1] is False and True in course for course in courses)


@EVERY_ALERT
def test_an_alert_has_a_runbook_with_every_section(alert: dict[str, Any]):
    text = (RUNBOOKS / f"{alert['alert']}.md").read_text()
    assert text.startswith(f"# {alert['alert']}\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    in_azure = text.split("## See it in Azure\n")[1].split("\n## ")[0]
    assert re.search(r"^    az ", in_azure, re.MULTILINE), "no command to see it with"


def test_every_runbook_belongs_to_an_alert():
    assert {page.stem for page in RUNBOOKS.glob("*.md")} == {alert["alert"] for alert in ALERTS}


def test_the_runbook_of_faulted_upgrades_has_a_section_for_every_error_code():
    text = (RUNBOOKS / "AzureVmssOsUpgradeFaulted.md").read_text()
    assert tuple(re.findall(r"^### (.*)$", text, re.MULTILINE)) == ERROR_CODES


def test_every_file_that_a_runbook_links_to_exists():
    for page in RUNBOOKS.glob("*.md"):
        for target in re.findall(r"\]\((?!https:)([^)#]+)\)", page.read_text()):
            assert (RUNBOOKS / target).exists(), f"{page.name}: {target}"


SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
ABOUT_SCALE_SETS = {family.name: family for family in FAMILIES + JOURNAL_FAMILIES}
ABOUT_ITSELF = {
    metric.name + suffix
    for metric in Telemetry().registry.collect()
    for suffix in SUFFIXES.get(metric.type, ("",))
}
TO_COME = {
    "azure_vmss_os_upgrade_pause_between_batches_seconds",
    "azure_vmss_os_upgrade_deferred",
    "azure_vmss_os_upgrade_maintenance_window_open",
}
"""Families that rules ask for already, and that the exporter does not have yet. Absent, they make no difference."""
SELECTOR = re.compile(r"(?<![\w:])((?:azure_vmss|vmss_upgrade_exporter|process)_\w+)(?:\{([^}]*)\})?")
RECORDED = re.compile(r"\b[a-z_]+:(?:azure_vmss|vmss_upgrade_exporter)[a-z_]*:[a-z_]+")
POSSIBLE = {
    ("azure_vmss_os_upgrade_state", "state"): {state.value for state in UpgradeState},
    ("azure_vmss_os_upgrade_history_upgrades", "state"): {state.value for state in UpgradeState},
    ("azure_vmss_os_upgrade_poll_error", "reason"): {reason.value for reason in Reason},
    ("azure_vmss_os_upgrade_instances", "state"): {"successful", "failed", "in_progress", "pending"},
    ("azure_vmss_os_upgrade_rolled_back_instances", "result"): {"successful", "failed"},
}


def texts(rule: dict[str, Any]) -> str:
    """Return all that a rule asks Prometheus: its expression, and the queries of its annotations."""
    return "\n".join([rule["expr"], *rule.get("annotations", {}).values()])


@EVERY_RULE
def test_a_rule_asks_for_metrics_labels_and_values_that_the_exporter_has(rule: dict[str, Any]):
    asked = SELECTOR.findall(texts(rule))
    assert asked or RECORDED.search(rule["expr"]) or re.search(r"\bup\{", rule["expr"])
    for metric, matchers in asked:
        assert metric in ABOUT_SCALE_SETS.keys() | ABOUT_ITSELF | TO_COME
        for label, values in re.findall(r'(\w+)(?:=~|!~|!=|=)"([^"]*)"', matchers):
            family = ABOUT_SCALE_SETS[metric]
            own = family.own_labels and label.startswith(("label_", "tag_"))
            assert own or label in IDENTITY + family.labels
            assert own or set(values.split("|")) <= POSSIBLE[metric, label]


def test_no_family_that_is_there_is_still_to_come():
    assert TO_COME.isdisjoint(ABOUT_SCALE_SETS.keys() | ABOUT_ITSELF), "take it out of TO_COME"


def test_what_rules_ask_of_other_rules_is_recorded_and_what_alerts_record_is_asked():
    """``alerts.yml`` stands alone: nothing else must be loaded with it."""
    in_file = list(rules(FOLDER / "alerts.yml"))
    recorded = {rule["record"] for rule in in_file if "record" in rule}
    assert {name for rule in in_file for name in RECORDED.findall(texts(rule))} == recorded


def test_every_problem_that_is_recorded_has_its_alert_and_every_alert_its_problem():
    recorded = {
        rule["labels"]["problem"]
        for rule in rules(FOLDER / "alerts.yml")
        if rule.get("record") == "scale_set:azure_vmss_os_upgrade_problem:current"
    }
    asked = {
        alert["alert"]: set(re.findall(r'last_seen_timestamp_seconds\{problem="(\w+)"', alert["expr"]))
        for alert in ALERTS
    }
    assert {name: found for name, found in asked.items() if name in HELD} == {
        f"AzureVmssOsUpgrade{problem}": {problem} for problem in recorded
    }


FAILURES = re.compile(r"_failures(?:_total)?$|last_(?:\w+_)?success_timestamp_seconds$")
NOT_WATCHED = {
    "vmss_upgrade_exporter_poll_failures_total": "azure_vmss_os_upgrade_up and poll_error say the same of each scale set",
    "vmss_upgrade_exporter_config_last_reload_success_timestamp_seconds": (
        "config_last_reload_successful is watched; no reload for years is no fault"
    ),
}
"""Why no alert asks for them."""


def unwatched(families: set[str]) -> set[str]:
    """Return those that count failures or successes, and that no alert asks for, be it through a recorded series."""
    expressions = {rule["record"]: "" for rule in rules(FOLDER / "alerts.yml") if "record" in rule}
    for rule in rules(FOLDER / "alerts.yml"):
        if "record" in rule:
            expressions[rule["record"]] += rule["expr"]
    asked, open_names = set(), [alert["expr"] for alert in ALERTS]
    while open_names:
        expression = open_names.pop()
        asked |= {metric for metric, _ in SELECTOR.findall(expression)}
        open_names += [expressions.pop(name) for name in RECORDED.findall(expression) if name in expressions]
    return {family for family in families if FAILURES.search(family)} - asked - NOT_WATCHED.keys()


def test_every_family_that_counts_failures_is_watched_by_an_alert_or_has_a_reason_why_not():
    """Silence means health: what fails where no alert asks for it would fail unseen."""
    families = ABOUT_SCALE_SETS.keys() | ABOUT_ITSELF
    assert {family for family in families if FAILURES.search(family)} >= {
        "vmss_upgrade_exporter_poll_failures_total",
        "vmss_upgrade_exporter_discovery_failures_total",
        "vmss_upgrade_exporter_discovery_last_success_timestamp_seconds",
        "vmss_upgrade_exporter_credential_failures_total",
        "vmss_upgrade_exporter_journal_failures_total",
        "azure_vmss_os_upgrade_last_success_timestamp_seconds",
    }
    assert unwatched(families) == set()
    assert NOT_WATCHED.keys() <= families


def test_a_new_family_that_counts_failures_is_noticed():
    names = {
        "vmss_upgrade_exporter_inventory_failures_total",
        "vmss_upgrade_exporter_inventory_last_success_timestamp_seconds",
        "vmss_upgrade_exporter_inventory_requests_total",
    }
    assert unwatched(names) == names - {"vmss_upgrade_exporter_inventory_requests_total"}


def test_unrecognised_values_and_the_clock_are_watched_though_they_are_not_called_failures():
    asked = {metric for alert in ALERTS for metric, _ in SELECTOR.findall(alert["expr"])}
    assert {
        "vmss_upgrade_exporter_unrecognised_values_total",
        "vmss_upgrade_exporter_ticks_total",
        "vmss_upgrade_exporter_scale_sets",
    } <= asked


def test_every_metric_that_a_runbook_names_exists():
    for page in RUNBOOKS.glob("*.md"):
        named = {metric for metric, _ in SELECTOR.findall(page.read_text())}
        assert named <= ABOUT_SCALE_SETS.keys() | ABOUT_ITSELF | TO_COME, page.name
