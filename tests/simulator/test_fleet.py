"""The simulated fleet: deterministic, true to Azure's rules, and lively enough to be worth watching."""

import json
from collections import Counter
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.simulator.fleet import Fleet, Rollback, ScaleSet, State, Upgrade
from exporter.simulator.wire import to_json

EPOCH = 1_750_000_000.0
DAY = 86_400.0
IN_PROGRESS = {State.ROLLING_FORWARD, State.ROLLING_BACK}
DEFAULT = Fleet(epoch=EPOCH)

moments = st.floats(min_value=EPOCH, max_value=EPOCH + 90 * DAY)
speeds = st.sampled_from([0.5, 1.0, 60.0, 3600.0])


def by_start(upgrades: tuple[Upgrade, ...]) -> list[Upgrade]:
    return sorted(upgrades, key=lambda upgrade: upgrade.start, reverse=True)


def latest(fleet: Fleet, scale_set: ScaleSet, now: float) -> Upgrade | None:
    return next(iter(by_start(fleet.history(scale_set, now))), None)


def one(role: str, fleet: Fleet = DEFAULT) -> ScaleSet:
    return next(scale_set for scale_set in fleet.scale_sets if scale_set.name.startswith(role))


def rendered(scale_set: ScaleSet, upgrade: Upgrade) -> dict[str, object]:
    entry: dict[str, object] = json.loads(json.dumps(to_json(scale_set, upgrade)))
    return entry


def properties(scale_set: ScaleSet, upgrade: Upgrade) -> dict[str, object]:
    found = rendered(scale_set, upgrade)["properties"]
    assert isinstance(found, dict)
    return found


# --- Which scale sets there are


def test_the_same_seed_gives_the_same_fleet() -> None:
    assert Fleet(epoch=EPOCH, scale_sets=40).scale_sets == Fleet(epoch=EPOCH, scale_sets=40).scale_sets


def test_another_seed_gives_another_fleet() -> None:
    other = Fleet(epoch=EPOCH, seed=2)
    assert set(other.subscriptions).isdisjoint(DEFAULT.subscriptions)


def test_a_larger_fleet_begins_with_the_smaller() -> None:
    assert Fleet(epoch=EPOCH, scale_sets=100).scale_sets[:12] == DEFAULT.scale_sets


def test_ten_thousand_scale_sets_have_as_many_folded_ids() -> None:
    fleet = Fleet(epoch=EPOCH, scale_sets=10_000, subscriptions=3)
    assert len({scale_set.resource_id.lower() for scale_set in fleet.scale_sets}) == 10_000


def test_scale_sets_are_dealt_out_to_the_subscriptions() -> None:
    dealt = Counter(scale_set.subscription_id for scale_set in DEFAULT.scale_sets)
    assert dealt == dict.fromkeys(DEFAULT.subscriptions, 6)


def test_some_resource_groups_are_in_mixed_case() -> None:
    groups = {scale_set.resource_group for scale_set in DEFAULT.scale_sets}
    assert {group for group in groups if group != group.lower()} == {
        "RG-Payments",
        "RG-WORKERS",
        "rg-Gateway",
        "Reports",
    }


@pytest.mark.parametrize("wrong", [{"subscriptions": 0}, {"scale_sets": -1}, {"speed": 0.0}])
def test_an_impossible_fleet_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="a fleet needs"):
        Fleet(epoch=EPOCH, **wrong)


def test_most_of_a_large_fleet_is_at_rest_with_a_completed_upgrade() -> None:
    fleet = Fleet(epoch=EPOCH, scale_sets=2_000)
    states = Counter(found and found.state for found in (latest(fleet, s, EPOCH) for s in fleet.scale_sets))
    assert states[State.COMPLETED] > 1_800
    assert all(states[state] > 0 for state in (*State, None))


# --- What is to be seen in the default fleet


def test_every_state_is_to_be_seen_within_two_minutes() -> None:
    seen = {
        upgrade.state
        for second in range(120)
        for scale_set in DEFAULT.scale_sets
        if (upgrade := latest(DEFAULT, scale_set, EPOCH + second)) is not None
    }
    assert seen == set(State)


def test_at_every_moment_a_rollout_is_halfway() -> None:
    for second in range(3_600):
        upgrades = [latest(DEFAULT, scale_set, EPOCH + second) for scale_set in DEFAULT.scale_sets]
        assert any(
            upgrade.state is State.ROLLING_FORWARD
            and min(upgrade.successful, upgrade.in_progress, upgrade.pending) > 0
            for upgrade in upgrades
            if upgrade is not None
        ), second


@pytest.mark.parametrize("second", [0, 60, 600, 1_300])
def test_the_faulted_one_is_faulted_from_the_start_and_for_long(second: int) -> None:
    scale_set = one("api")
    upgrade = latest(DEFAULT, scale_set, EPOCH + second)
    assert upgrade is not None
    assert upgrade.state is State.FAULTED
    assert (upgrade.successful, upgrade.failed, upgrade.in_progress, upgrade.pending) == (40, 20, 0, 40)
    assert upgrade.error is not None
    assert upgrade.error.code == "MaxUnhealthyUpgradedInstancePercentExceededInRollingUpgrade"
    assert Counter(detail.code for detail in upgrade.error.details) == {
        "RollingUpgradeInstanceUnhealthyError": 20
    }
    assert upgrade.error.details[0].target == f"{scale_set.name}/virtualMachines/40"


def test_the_faulted_one_tries_again_and_faults_again() -> None:
    upgrades = [latest(DEFAULT, one("api"), EPOCH + second) for second in range(1_300, 1_400)]
    states = [upgrade.state for upgrade in upgrades if upgrade is not None]
    assert [state for before, state in pairwise(states) if state != before] == [
        State.ROLLING_FORWARD,
        State.FAULTED,
    ]


@pytest.mark.parametrize(
    ("role", "moments", "successful", "failed"),
    [("payments", (10, 20, 40), 12, 0), ("reports", (65, 75, 95), 2, 2)],
)
def test_a_rollback_takes_the_failed_batch_back_and_ends_faulted(
    role: str, moments: tuple[int, ...], successful: int, failed: int
) -> None:
    upgrades = [latest(DEFAULT, one(role), EPOCH + second) for second in moments]
    forward, back, end = [upgrade for upgrade in upgrades if upgrade is not None]
    assert [forward.state, back.state, end.state] == ["RollingForward", "RollingBack", "Faulted"]
    assert forward.rollback == Rollback(0, 0)
    assert back.rollback is not None
    assert back.rollback.error is None
    assert back.rollback.successful + back.rollback.failed < successful + failed
    assert end.rollback is not None
    assert (end.rollback.successful, end.rollback.failed) == (successful, failed)
    assert (end.rollback.error is not None) == (failed > 0)


def test_a_user_cancelled_one() -> None:
    upgrade = latest(DEFAULT, one("checkout"), EPOCH)
    assert upgrade is not None
    assert (upgrade.state, upgrade.started_by) == (State.CANCELLED, "User")
    assert upgrade.error is not None
    assert upgrade.error.code == "RollingUpgradeCanceled"


def test_one_was_never_upgraded() -> None:
    assert DEFAULT.history(one("search"), EPOCH + DAY) == ()


def test_one_answers_in_the_recorded_form() -> None:
    scale_set = one("batch")
    upgrade, *past = DEFAULT.history(scale_set, EPOCH)
    found = properties(scale_set, upgrade)
    assert found["runningStatus"] == {
        "code": "Completed",
        "startTime": "2025-06-15T08:03:39.9999990-07:00",
        "completedTime": "2025-06-15T08:04:30.4999980-07:00",
    }
    assert "rollbackInfo" not in found
    assert [(old.state, old.successful) for old in past] == [(State.COMPLETED, 0), (State.COMPLETED, 0)]


@pytest.mark.parametrize(
    ("role", "keys"),
    [
        ("batch", {"publisher", "offer", "sku", "version", "exactVersion"}),
        ("cache", {"sharedGalleryImageId", "exactVersion"}),
        ("gateway", {"communityGalleryImageId", "exactVersion"}),
        ("ci", {"id"}),
    ],
)
def test_images_come_from_every_kind_of_place(role: str, keys: set[str]) -> None:
    scale_set = one(role)
    image = properties(scale_set, DEFAULT.history(scale_set, EPOCH)[0])["targetImageReference"]
    assert isinstance(image, dict)
    assert set(image) == keys
    assert not any("{" in value for value in image.values())


def test_successive_upgrades_install_different_images() -> None:
    upgrades = DEFAULT.history(one("web"), EPOCH + 600)
    assert len({upgrade.image for upgrade in upgrades}) == 5


def test_all_kinds_of_invokers_start_upgrades() -> None:
    found = {up.started_by for scale_set in DEFAULT.scale_sets for up in DEFAULT.history(scale_set, EPOCH)}
    assert found == {"Platform", "User", "Unknown"}


def test_some_histories_are_not_in_order() -> None:
    histories = [DEFAULT.history(scale_set, EPOCH) for scale_set in DEFAULT.scale_sets]
    assert [list(history) == by_start(history) for history in histories].count(False) == 2


def test_past_history_spans_two_months() -> None:
    oldest = min(up.start for scale_set in DEFAULT.scale_sets for up in DEFAULT.history(scale_set, EPOCH))
    assert EPOCH - 60 * DAY < oldest < EPOCH - 40 * DAY


# --- How Azure puts it


def test_an_upgrade_in_progress_is_rendered_as_azure_does() -> None:
    scale_set = one("web")
    upgrade = latest(DEFAULT, scale_set, EPOCH)
    assert upgrade is not None
    assert rendered(scale_set, upgrade) == {
        "properties": {
            "runningStatus": {"code": "RollingForward", "startTime": "2025-06-15T15:06:24.999999+00:00"},
            "progress": {
                "successfulInstanceCount": 12,
                "failedInstanceCount": 0,
                "inProgressInstanceCount": 12,
                "pendingInstanceCount": 36,
            },
            "startedBy": "Platform",
            "targetImageReference": {
                "publisher": "Canonical",
                "offer": "0001-com-ubuntu-minimal-jammy",
                "sku": "minimal-22_04-lts-gen2",
                "version": "latest",
                "exactVersion": "22.04.202506150",
            },
            "rollbackInfo": {"successfullyRolledbackInstanceCount": 0, "failedRolledbackInstanceCount": 0},
        },
        "type": "Microsoft.Compute/virtualMachineScaleSets/rollingUpgrades",
        "location": "southeastasia",
    }


def test_an_error_is_rendered_without_the_keys_it_lacks() -> None:
    scale_set = one("checkout")
    assert properties(scale_set, DEFAULT.history(scale_set, EPOCH)[0])["error"] == {
        "code": "RollingUpgradeCanceled",
        "message": "The rolling upgrade was cancelled by the user.",
    }


def test_a_failed_rollback_is_rendered_with_its_error() -> None:
    scale_set = one("reports")
    upgrade = latest(DEFAULT, scale_set, EPOCH + 30)
    assert upgrade is not None
    assert properties(scale_set, upgrade)["rollbackInfo"] == {
        "successfullyRolledbackInstanceCount": 2,
        "failedRolledbackInstanceCount": 2,
        "rollbackError": {
            "code": "InternalExecutionError",
            "message": "An internal execution error occurred while the previous OS disks were restored.",
            "innererror": {
                "exceptiontype": "OSDiskSwapException",
                "errordetail": "The OS disk is locked by another operation.",
            },
        },
    }


# --- What holds at any moment, at any speed


@given(now=moments, speed=speeds)
def test_no_timestamp_is_ever_in_the_future(now: float, speed: float) -> None:
    fleet = Fleet(epoch=EPOCH, speed=speed)
    for scale_set in fleet.scale_sets:
        for upgrade in fleet.history(scale_set, now):
            assert upgrade.start <= now
            assert upgrade.end is None or upgrade.start < upgrade.end <= now


@given(now=moments)
def test_what_is_rendered_says_the_same_times_as_the_truth(now: float) -> None:
    for scale_set in DEFAULT.scale_sets:
        for upgrade in DEFAULT.history(scale_set, now):
            status = properties(scale_set, upgrade)["runningStatus"]
            assert isinstance(status, dict)
            assert datetime.fromisoformat(status["startTime"]).timestamp() == upgrade.start
            end = status.get("endTime") or status.get("completedTime")
            assert (end and datetime.fromisoformat(end).timestamp()) == upgrade.end


@given(now=moments, speed=speeds)
def test_azure_remembers_five_upgrades_of_two_months(now: float, speed: float) -> None:
    fleet = Fleet(epoch=EPOCH, speed=speed)
    for scale_set in fleet.scale_sets:
        history = fleet.history(scale_set, now)
        assert len(history) <= 5
        assert all(upgrade.start >= now - 60 * DAY for upgrade in history if upgrade.end is not None)


@given(now=moments, speed=speeds)
def test_only_the_latest_upgrade_is_in_progress_and_it_has_no_end(now: float, speed: float) -> None:
    fleet = Fleet(epoch=EPOCH, speed=speed)
    for scale_set in fleet.scale_sets:
        for rank, upgrade in enumerate(by_start(fleet.history(scale_set, now))):
            assert (upgrade.state in IN_PROGRESS) == (upgrade.end is None)
            assert rank == 0 or upgrade.end is not None


@given(now=moments)
def test_the_counts_of_a_rollout_sum_to_the_instances(now: float) -> None:
    for scale_set in DEFAULT.scale_sets:
        upgrade = latest(DEFAULT, scale_set, now)
        if upgrade is not None:
            counts = (upgrade.successful, upgrade.failed, upgrade.in_progress, upgrade.pending)
            assert min(counts) >= 0
            assert sum(counts) == scale_set.instances


@given(earlier=moments, passed=st.floats(min_value=0, max_value=300), speed=speeds)
def test_an_upgrade_never_goes_backwards(earlier: float, passed: float, speed: float) -> None:
    fleet = Fleet(epoch=EPOCH, speed=speed)
    for scale_set in fleet.scale_sets:
        before = {upgrade.start: upgrade for upgrade in fleet.history(scale_set, earlier)}
        after = {upgrade.start: upgrade for upgrade in fleet.history(scale_set, earlier + passed)}
        for start in before.keys() & after.keys():
            was, now = before[start], after[start]
            assert now == was or was.end is None
            assert (was.state, now.state) != (State.ROLLING_BACK, State.ROLLING_FORWARD)
            assert (now.successful, now.failed) >= (was.successful, was.failed)
            assert now.pending <= was.pending
            assert was.image == now.image
        if before and after:
            assert max(after) >= max(before)


@settings(max_examples=50)
@given(instants=st.lists(moments, min_size=2, max_size=6))
def test_a_history_does_not_depend_on_what_was_asked_before(instants: list[float]) -> None:
    asked = Fleet(epoch=EPOCH)
    for now in instants:
        fresh = Fleet(epoch=EPOCH)
        assert [asked.history(s, now) for s in asked.scale_sets] == [
            fresh.history(s, now) for s in fresh.scale_sets
        ]
