"""The fleet that is measured: scale sets, and the histories that Azure would answer with, each unlike the others."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from exporter.history import History, parse_history
from exporter.scale_set import ScaleSet

SCALE_SETS_PER_SUBSCRIPTION = 100
UPGRADES_KEPT = 5
"""Azure's most; every fifth scale set has so many, the others one."""
_NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def scale_sets(number: int, interval: float = 300.0) -> list[ScaleSet]:
    """Return so many scale sets, spread over subscriptions as Azure's budgets demand."""
    return [
        ScaleSet(
            subscription_id=f"5f1e6c1a-0b1d-4c55-9a6b-{index // SCALE_SETS_PER_SUBSCRIPTION:012d}",
            resource_group=f"rg-production-{index // 10 % 10}-WestEurope",
            name=f"vmss-web-{index:05d}",
            interval=interval,
            labels=(("label_team", f"team-{index % 7}"),) if index % 3 == 0 else (),
        )
        for index in range(number)
    ]


def upgrades_of(index: int) -> int:
    """Return how many upgrades the history of a scale set has."""
    return UPGRADES_KEPT if index % 5 == 0 else 1


def answer(index: int, upgrades: int, generation: int = 0) -> bytes:
    """Return the body of an ``osUpgradeHistory`` answer; another generation has every upgrade changed."""
    value = [_upgrade(index, age, generation) for age in range(upgrades)]
    return json.dumps({"value": value}, separators=(",", ":")).encode()


def history(index: int, generation: int = 0) -> History:
    """Return what the exporter reads in the answer."""
    parsed = parse_history([json.loads(answer(index, upgrades_of(index), generation))])
    assert isinstance(parsed, History)
    return parsed


def configuration(
    endpoint: str,
    fleet: Sequence[ScaleSet],
    interval: str,
    *,
    active_interval: str | None = None,
    budget_share: float = 1.0,
) -> str:
    """Return the text of a configuration that polls the fleet at ``endpoint``, active or not at one interval."""
    polling = (
        f"interval: {interval}, active_interval: {active_interval or interval}, budget_share: {budget_share}"
    )
    lines = [
        f"cloud: {{endpoint: '{endpoint}', audience: '{endpoint}', authority: '{endpoint}'}}",
        "credential: {kind: managed_identity}",
        f"polling: {{{polling}}}",
        "subscriptions:",
    ]
    subscription = None
    for scale_set in fleet:
        if scale_set.subscription_id != subscription:
            subscription = scale_set.subscription_id
            lines += [f"  - id: {subscription}", "    scale_sets:"]
        lines.append(f"      - {{resource_group: {scale_set.resource_group}, name: {scale_set.name}}}")
    return "\n".join(lines) + "\n"


def _upgrade(index: int, age: int, generation: int) -> dict[str, object]:
    start = _NOON - timedelta(days=12 * age, seconds=index * 7, microseconds=index * 37 + 1)
    start += timedelta(seconds=generation)
    code = "Completed" if age else _latest_state(index)
    status = {"code": code, "startTime": _time(start)}
    if code != "RollingForward":
        status["completedTime"] = _time(start + timedelta(minutes=31, microseconds=index * 11 + 1))
    properties: dict[str, object] = {
        "runningStatus": status,
        "progress": {
            "successfulInstanceCount": index % 40 + 1,
            "failedInstanceCount": 1 if code == "Faulted" else 0,
            "inProgressInstanceCount": 2 if code == "RollingForward" else 0,
            "pendingInstanceCount": 3 if code == "RollingForward" else 0,
        },
        "startedBy": "Platform",
        "targetImageReference": _image(index, age),
        "rollbackInfo": {"successfullyRolledbackInstanceCount": 0, "failedRolledbackInstanceCount": 0},
    }
    if code == "Faulted":
        properties["error"] = _error(index)
    return {
        "properties": properties,
        "type": "Microsoft.Compute/virtualMachineScaleSets/rollingUpgrades",
        "location": "westeurope",
    }


def _latest_state(index: int) -> str:
    if index % 50 == 7:
        return "Faulted"
    return "RollingForward" if index % 20 == 3 else "Completed"


def _image(index: int, age: int) -> dict[str, str]:
    version = f"22.04.2026{11 - age:02d}{index % 28 + 1:02d}0"
    if index % 10 == 9:
        gallery = f"/subscriptions/5f1e6c1a-0b1d-4c55-9a6b-{index:012d}/resourceGroups/rg-images/providers"
        return {"id": f"{gallery}/Microsoft.Compute/galleries/golden/images/web-{index}/versions/1.{age}.0"}
    return {
        "publisher": "canonical",
        "offer": "0001-com-ubuntu-server-jammy",
        "sku": "22_04-lts-gen2",
        "version": "latest",
        "exactVersion": version,
    }


def _error(index: int) -> dict[str, object]:
    unhealthy = "RollingUpgradeInstanceUnhealthyError"
    target = f"vmss-web-{index:05d}/virtualMachines"
    details = [
        {"code": unhealthy, "message": f"Instance {place} is unhealthy.", "target": f"{target}/{place}"}
        for place in range(3)
    ]
    return {
        "code": "MaxUnhealthyUpgradedInstancePercentExceededInRollingUpgrade",
        "message": f"Rolling upgrade of '{target}' failed: too many upgraded instances are unhealthy.",
        "details": details,
    }


def _time(at: datetime) -> str:
    """Write seven digits of fraction, as Azure does."""
    return f"{at:%Y-%m-%dT%H:%M:%S.%f}0+00:00"
