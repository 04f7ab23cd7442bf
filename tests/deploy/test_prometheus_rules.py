"""Alerts and recording rules, by promtool and by what is said about them elsewhere."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.families import FAMILIES, IDENTITY
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
    "AzureVmssOsUpgradeRollbackFailed": "critical",
    "AzureVmssOsUpgradeRolledBack": "warning",
    "AzureVmssOsUpgradeStuck": "warning",
    "AzureVmssOsUpgradeCancelled": "info",
    "AzureVmssOsUpgradeOverdue": "info",
    "AzureVmssExporterDown": "critical",
    "AzureVmssExporterPollFailing": "warning",
    "AzureVmssExporterDataStale": "warning",
    "AzureVmssExporterThrottled": "warning",
    "AzureVmssExporterReloadFailed": "warning",
    "AzureVmssExporterShardMismatch": "warning",
    "AzureVmssExporterShardMissing": "critical",
}
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


ALERTS = list(rules(FOLDER / "alerts.yml"))
EVERY_ALERT = pytest.mark.parametrize("alert", ALERTS, ids=[alert["alert"] for alert in ALERTS])
EVERY_RULE = pytest.mark.parametrize(
    "rule",
    [rule for file in RULE_FILES for rule in rules(file)],
    ids=lambda rule: rule.get("alert") or rule["record"],
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


def test_promtool_has_nothing_to_object_to_the_rules():
    promtool("check", "rules", "--lint=all", "--lint-fatal", *RULE_FILES)


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_the_rules_do_what_their_tests_say(file: Path):
    promtool("test", "rules", file)


def test_the_alerts_are_those_that_people_count_on():
    assert {alert["alert"]: alert["labels"]["severity"] for alert in ALERTS} == SEVERITIES


@EVERY_ALERT
def test_an_alert_says_what_it_is_and_where_to_read_on(alert: dict[str, Any]):
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert (
        alert["annotations"]["runbook_url"]
        == f"{REPOSITORY}/blob/main/deploy/prometheus/runbooks/{alert['alert']}.md"
    )


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
ABOUT_SCALE_SETS = {family.name: family for family in FAMILIES}
ABOUT_ITSELF = {
    metric.name + suffix
    for metric in Telemetry().registry.collect()
    for suffix in SUFFIXES.get(metric.type, ("",))
}
SELECTOR = re.compile(r"(?<![\w:])((?:azure_vmss|vmss_upgrade_exporter|process)_\w+)(?:\{([^}]*)\})?")
POSSIBLE = {
    ("azure_vmss_os_upgrade_state", "state"): {state.value for state in UpgradeState},
    ("azure_vmss_os_upgrade_history_upgrades", "state"): {state.value for state in UpgradeState},
    ("azure_vmss_os_upgrade_poll_error", "reason"): {reason.value for reason in Reason},
    ("azure_vmss_os_upgrade_rolled_back_instances", "result"): {"successful", "failed"},
}


@EVERY_RULE
def test_a_rule_asks_for_metrics_labels_and_values_that_the_exporter_has(rule: dict[str, Any]):
    asked = SELECTOR.findall(rule["expr"])
    assert asked or re.search(r"\bup\{", rule["expr"])
    for metric, matchers in asked:
        assert metric in ABOUT_SCALE_SETS.keys() | ABOUT_ITSELF
        for label, values in re.findall(r'(\w+)(?:=~|!~|!=|=)"([^"]*)"', matchers):
            family = ABOUT_SCALE_SETS[metric]
            own = family.own_labels and label.startswith(("label_", "tag_"))
            assert own or label in IDENTITY + family.labels
            assert own or set(values.split("|")) <= POSSIBLE[metric, label]


def test_every_metric_that_a_runbook_names_exists():
    for page in RUNBOOKS.glob("*.md"):
        named = {metric for metric, _ in SELECTOR.findall(page.read_text())}
        assert named <= ABOUT_SCALE_SETS.keys() | ABOUT_ITSELF, page.name
