"""The goals of coverage, which fail where they are missed."""

from typing import Any

from tests.supply.covered import BRANCHES_PERCENT, PURE, shortfalls


def measured(percent: float = BRANCHES_PERCENT, **files: dict[str, Any]) -> dict[str, Any]:
    """Return what coverage measures, all of the pure modules but as told."""
    whole: dict[str, Any] = {"missing_lines": [], "missing_branches": []}
    return {
        "totals": {"num_branches": 1000, "covered_branches": percent * 10},
        "files": {f"exporter/{name}.py": files.get(name, whole) for name in PURE},
    }


def test_nothing_falls_short_at_the_goals():
    assert [*shortfalls(measured())] == []


def test_too_few_branches_fall_short():
    assert [*shortfalls(measured(94.9))] == ["of all branches 94.9 % are taken, not 95 %"]


def test_a_pure_module_is_covered_whole_or_falls_short():
    line = {"missing_lines": [7], "missing_branches": []}
    branch = {"missing_lines": [], "missing_branches": [[3, 5]]}
    assert [*shortfalls(measured(history=line, plan=branch))] == [
        "exporter/history.py is pure; missing lines [7], branches []",
        "exporter/plan.py is pure; missing lines [], branches [[3, 5]]",
    ]


def test_a_pure_module_that_is_not_measured_falls_short():
    report = measured()
    del report["files"]["exporter/store.py"]
    assert [*shortfalls(report)] == ["exporter/store.py is not measured"]
