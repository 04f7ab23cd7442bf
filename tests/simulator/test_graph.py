"""The simulated Resource Graph understands a little of its language, and nothing else."""

from typing import Any

import pytest

from exporter.simulator.graph import InvalidQuery, run

WEB = {"id": "/2", "type": "Microsoft.Compute/virtualMachineScaleSets", "tags": {"env": "prod"}}
DISK = {"id": "/1", "type": "Microsoft.Compute/disks", "tags": None}
RESOURCES: list[dict[str, Any]] = [WEB, DISK]


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("resources", [WEB, DISK]),
        ("Resources", [WEB, DISK]),
        ("resources | where type =~ 'microsoft.compute/DISKS'", [DISK]),
        ("resources | where type == 'microsoft.compute/disks'", []),
        ("resources | where type == 'Microsoft.Compute/disks'", [DISK]),
        ("resources\n| where tags.env =~ 'Prod'\n", [WEB]),
        ("resources | project id, type", [{key: row[key] for key in ("id", "type")} for row in RESOURCES]),
        ("resources | project env = tags.env", [{"env": "prod"}, {"env": None}]),
        ("resources | project tags.env", [{"tags_env": "prod"}, {"tags_env": None}]),
        ("resources | project nothing", [{"nothing": None}, {"nothing": None}]),
        ("resources | order by id asc", [DISK, WEB]),
        ("resources | order by id desc", [WEB, DISK]),
        ("resources | order by id", [WEB, DISK]),
        ("resources | count", [{"Count": 2}]),
        ("resources | where type =~ 'x' | count", [{"Count": 0}]),
        ("resources | order by id asc | project id", [{"id": "/1"}, {"id": "/2"}]),
    ],
)
def test_a_query_is_answered(query: str, rows: list[dict[str, object]]) -> None:
    assert run(query, RESOURCES) == rows


@pytest.mark.parametrize(
    "query",
    [
        "",
        "None",
        "resourcecontainers",
        "resources | take 1",
        "resources |",
        "resources | where type",
        "resources | where type =~ disks",
        "resources | where type contains 'disks'",
        "resources | project",
        "resources | project id,",
        "resources | project id name",
        "resources | project strcat(id, name)",
        "resources | order by",
        "resources | order by id up",
    ],
)
def test_what_it_does_not_understand_is_invalid(query: str) -> None:
    with pytest.raises(InvalidQuery):
        run(query, RESOURCES)
