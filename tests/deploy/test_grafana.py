"""``deploy/grafana``: the dashboards are what their source says, and sound before any Grafana loads them."""

import json
import re
import struct
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana.source.__main__ import DASHBOARDS, written
from deploy.grafana.source.panels import NEVER, STATES, with_image
from exporter.families import FAMILIES
from exporter.history import UpgradeState
from exporter.telemetry import Telemetry

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "grafana"
FILES = sorted((FOLDER / "dashboards").glob("*.json"))
SHOWN: dict[str, dict[str, Any]] = {file.stem: json.loads(file.read_text()) for file in FILES}
EVERY_DASHBOARD = pytest.mark.parametrize("name", SHOWN)
COLOURS = {
    "RollingForward": "blue",
    "RollingBack": "orange",
    "Completed": "green",
    "Cancelled": "#8e8e8e",
    "Faulted": "red",
    "Unknown": "purple",
}
SCRAPED_OF_ITSELF = {"process_resident_memory_bytes", "process_cpu_seconds_total"}


def panels(name: str) -> list[dict[str, Any]]:
    """Return the panels that ask something."""
    return [panel for panel in SHOWN[name]["panels"] if panel["type"] != "row"]


def expressions(name: str) -> Iterator[str]:
    for panel in panels(name):
        yield from (target["expr"] for target in panel["targets"])


def within(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object, however deep."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from within(inner)


def metrics() -> set[str]:
    """Return every name of a series that Prometheus may hold of us."""
    names = {family.name for family in FAMILIES} | SCRAPED_OF_ITSELF
    for family in Telemetry(process=False).registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(
            family.type, ("",)
        )
        names |= {family.name + suffix for suffix in suffixes}
    return names | recorded().keys()


def recorded() -> dict[str, str]:
    """Return the recording rules, by name."""
    rules = yaml.safe_load((ROOT / "deploy/prometheus/recording.yml").read_text())
    return {rule["record"]: rule["expr"] for group in rules["groups"] for rule in group["rules"]}


def test_every_recording_rule_is_asked_for():
    asked = "\n".join(expression for name in SHOWN for expression in expressions(name))
    assert [record for record in recorded() if record not in asked] == []


def test_an_image_has_the_same_name_in_a_recording_as_elsewhere():
    joined, replaced = re.findall(r'"image",.*?\)', with_image(""))
    recording = re.sub(r"\s+\)", ")", recorded()["subscription_image:azure_vmss_os_upgrade_scale_sets:count"])
    assert joined in recording
    assert replaced in recording


def test_the_files_are_what_the_source_writes():
    assert {file.stem: file.read_text() for file in FILES} == {
        name: written(made()) for name, made in DASHBOARDS.items()
    }


def test_each_has_an_address_of_its_own():
    assert sorted(shown["uid"] for shown in SHOWN.values()) == [
        "vmss-upgrade-exporter",
        "vmss-upgrade-fleet",
        "vmss-upgrade-scale-set",
    ]
    assert len({shown["title"] for shown in SHOWN.values()}) == len(SHOWN)


@EVERY_DASHBOARD
def test_its_panels_have_numbers_of_their_own_and_overlap_nowhere(name: str):
    shown = SHOWN[name]["panels"]
    assert len({panel["id"] for panel in shown}) == len(shown)
    for panel in shown:
        assert 0 <= panel["gridPos"]["x"] < panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    for one, other in combinations((panel["gridPos"] for panel in shown), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


@EVERY_DASHBOARD
def test_its_lines_are_full(name: str):
    lines: dict[int, int] = {}
    for panel in panels(name):
        place = panel["gridPos"]
        lines[place["y"]] = lines.get(place["y"], 0) + place["w"]
    assert set(lines.values()) == {24}


@EVERY_DASHBOARD
def test_whatever_asks_prometheus_asks_the_one_chosen(name: str):
    datasource, *others = SHOWN[name]["templating"]["list"]
    assert (datasource["name"], datasource["type"], datasource["query"]) == (
        "datasource",
        "datasource",
        "prometheus",
    )
    asking = [*panels(name), *others, *(target for panel in panels(name) for target in panel["targets"])]
    assert all(each["datasource"] == {"type": "prometheus", "uid": "${datasource}"} for each in asking)
    assert {json.dumps(each["datasource"]) for each in within(SHOWN[name]) if "datasource" in each} == {
        json.dumps({"type": "prometheus", "uid": "${datasource}"})
    }


@EVERY_DASHBOARD
def test_every_panel_has_a_unit_and_a_query(name: str):
    for panel in panels(name):
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        letters = "".join(target["refId"] for target in panel["targets"])
        assert letters == "ABCDEFGHIJKL"[: len(letters)]


@EVERY_DASHBOARD
def test_every_metric_that_is_asked_for_exists(name: str):
    asked = {
        metric
        for expression in expressions(name)
        for metric in re.findall(r"[a-z_:]*(?:azure_vmss|vmss_upgrade|process_)[a-z_:]+", expression)
    }
    assert asked
    assert asked <= metrics()


@EVERY_DASHBOARD
def test_every_variable_is_used_and_every_one_that_is_used_exists(name: str):
    own = {variable["name"] for variable in SHOWN[name]["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z_]+)", json.dumps([panels(name), SHOWN[name]["templating"]])))
    assert used - {"__all", "__rate_interval", "__from", "__url_time_range", "__data", "__field"} == own


@EVERY_DASHBOARD
def test_a_row_that_leads_to_a_scale_set_has_all_that_names_it(name: str):
    for panel in panels(name):
        named = set(re.findall(r"__data\.fields\.([a-z_]+)", json.dumps(panel["fieldConfig"])))
        (kept,) = [
            each["include"]["pattern"] for each in within(panel["transformations"]) if "include" in each
        ] or [""]
        assert all(re.match(kept, field) for field in named), panel["title"]


@EVERY_DASHBOARD
def test_a_state_has_the_same_colour_everywhere(name: str):
    for panel in panels(name):
        config = panel["fieldConfig"]
        for override in config["overrides"]:
            for looks in (each["value"] for each in override["properties"] if each["id"] == "color"):
                state = override["matcher"]["options"]
                assert looks["fixedColor"] == COLOURS.get(state, looks["fixedColor"]), panel["title"]
        for each in within(config):
            if each.get("text") in COLOURS:
                assert each["color"] == COLOURS[each["text"]], panel["title"]


def test_the_states_are_those_of_the_metric():
    assert set(STATES) == {state.value for state in UpgradeState} == set(COLOURS)
    assert NEVER not in STATES


@EVERY_DASHBOARD
def test_a_series_that_is_merged_of_several_exporters_counts_a_scale_set_once(name: str):
    # Two shards know the same scale set for a while when their number changes.
    for expression in expressions(name):
        if re.search(r"\b(sum|count) by|\b(sum|count)\(", expression) and "azure_vmss" in expression:
            assert "max by (subscription_id, resource_group, scale_set" in expression or ":" in expression


@EVERY_DASHBOARD
def test_no_other_job_is_taken_for_an_exporter(name: str):
    assert not [expression for expression in expressions(name) if "on (instance)" in expression]


def test_what_is_provisioned_is_there():
    provisioning = FOLDER / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    assert (source["uid"], source["type"], source["isDefault"]) == ("prometheus", "prometheus", True)
    (provider,) = yaml.safe_load((provisioning / "dashboards/vmss-upgrade-exporter.yaml").read_text())[
        "providers"
    ]
    compose = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
    mounted = f"./grafana/dashboards:{provider['options']['path']}:ro"
    assert mounted in compose["services"]["grafana"]["volumes"]


@EVERY_DASHBOARD
def test_it_has_a_picture(name: str):
    picture = (ROOT / ".github/pictures" / f"{name}.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert struct.unpack(">I", picture[16:20]) == (1600,)
    assert len(picture) < 200_000
