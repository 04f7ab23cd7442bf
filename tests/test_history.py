"""The parser: both examples of the reference, the recorded forms, and whatever a hostile server may send."""

from contextlib import suppress
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.history import (
    MAX_DETAILS,
    MAX_MESSAGE,
    ApiError,
    ErrorDetail,
    History,
    Image,
    Malformed,
    Progress,
    Rollback,
    Upgrade,
    UpgradeState,
    parse_history,
    parse_time,
)

FULL_EXAMPLE: dict[str, Any] = {
    "value": [
        {
            "properties": {
                "runningStatus": {
                    "code": "RollingForward",
                    "startTime": "2018-03-25T08:08:42.1334563+00:00",
                    "endTime": "2018-03-25T08:10:42.1334563+00:00",
                },
                "progress": {
                    "successfulInstanceCount": 16,
                    "failedInstanceCount": 0,
                    "inProgressInstanceCount": 4,
                    "pendingInstanceCount": 0,
                },
                "error": {
                    "details": [
                        {"code": "detail-code", "target": "web/virtualMachines/0", "message": "unhealthy"}
                    ],
                    "innererror": {"exceptiontype": "SomeException", "errordetail": "at line 1"},
                    "code": "InternalExecutionError",
                    "target": "web",
                    "message": "An error occurred.",
                },
                "startedBy": "Platform",
                "targetImageReference": {
                    "publisher": "MicrosoftWindowsServer",
                    "offer": "WindowsServer",
                    "sku": "2016-Datacenter",
                    "version": "2016.127.20180613",
                    "exactVersion": "2016.127.20180613.1",
                    "id": "/subscriptions/s/images/i",
                    "sharedGalleryImageId": "/SharedGalleries/g",
                    "communityGalleryImageId": "/CommunityGalleries/g",
                },
                "rollbackInfo": {
                    "successfullyRolledbackInstanceCount": 2,
                    "failedRolledbackInstanceCount": 1,
                    "rollbackError": {"code": "RollbackFailed", "message": "no way back"},
                },
            },
            "type": "Microsoft.Compute/virtualMachineScaleSets/rollingUpgrades",
            "location": "westus",
        }
    ],
    "nextLink": "https://management.azure.com/next",
}


def properties(**fields: object) -> dict[str, object]:
    """Return an answer with one upgrade that has these properties."""
    return {"value": [{"properties": fields}]}


def status(**fields: object) -> dict[str, object]:
    """Return an answer with one upgrade that has this running status."""
    return properties(runningStatus=fields)


def parsed(*pages: object) -> History:
    history = parse_history(pages)
    assert isinstance(history, History), history
    return history


def test_the_full_example_of_the_reference_is_read_whole():
    assert parsed(FULL_EXAMPLE) == History(
        upgrades=(
            Upgrade(
                state=UpgradeState.ROLLING_FORWARD,
                start=1521965322.1334563,
                progress=Progress(successful=16, failed=0, in_progress=4, pending=0),
                error=ApiError(
                    code="InternalExecutionError",
                    message="An error occurred.",
                    target="web",
                    exception_type="SomeException",
                    exception_detail="at line 1",
                    details=(
                        ErrorDetail(code="detail-code", message="unhealthy", target="web/virtualMachines/0"),
                    ),
                ),
                started_by="Platform",
                image=Image(
                    publisher="MicrosoftWindowsServer",
                    offer="WindowsServer",
                    sku="2016-Datacenter",
                    version="2016.127.20180613",
                    exact_version="2016.127.20180613.1",
                    id="/subscriptions/s/images/i",
                    shared_gallery_image_id="/SharedGalleries/g",
                    community_gallery_image_id="/CommunityGalleries/g",
                ),
                rollback=Rollback(
                    successful=2, failed=1, error=ApiError(code="RollbackFailed", message="no way back")
                ),
                location="westus",
            ),
        ),
        unrecognised=("properties.runningStatus.endTime",),  # an active upgrade has no end
    )


def test_the_minimal_example_of_the_reference_is_an_upgrade_of_which_nothing_is_known():
    history = parsed({"value": [{}]})
    assert history == History(upgrades=(Upgrade(),))
    assert history.latest == Upgrade(state=UpgradeState.UNKNOWN)


def test_a_scale_set_never_upgraded_has_an_empty_history():
    history = parsed({"value": []})
    assert history == History()
    assert history.latest is None
    assert history.latest_completed is None


def test_pages_make_one_history():
    first = status(code="Completed", startTime="2024-01-01T00:00:00Z")
    second = status(code="Faulted", startTime="2024-02-01T00:00:00Z")
    history = parsed(first, second)
    assert [upgrade.state.value for upgrade in history.upgrades] == ["Completed", "Faulted"]
    assert history.latest is history.upgrades[1]


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (None, "not an object but null"),
        ([], "not an object but a list"),
        ("<html>", "not an object but a string"),
        (7, "not an object but a number"),
        (True, "not an object but a boolean"),
        ({}, "no 'value'"),
        ({"error": {"code": "x"}}, "no 'value'"),
        ({"value": None}, "'value' is not a list but null"),
        ({"value": {}}, "'value' is not a list but an object"),
        ({"value": "x"}, "'value' is not a list but a string"),
    ],
)
def test_an_answer_that_is_no_list_of_upgrades_is_malformed(document: object, why: str):
    assert parse_history([document]) == Malformed(why)
    assert parse_history([{"value": []}, document]) == Malformed(why)


@pytest.mark.parametrize(
    ("code", "state", "unrecognised"),
    [
        ("RollingForward", UpgradeState.ROLLING_FORWARD, ()),
        ("RollingBack", UpgradeState.ROLLING_BACK, ()),
        ("Completed", UpgradeState.COMPLETED, ()),
        ("Cancelled", UpgradeState.CANCELLED, ()),
        ("Faulted", UpgradeState.FAULTED, ()),
        (None, UpgradeState.UNKNOWN, ()),
        ("Paused", UpgradeState.UNKNOWN, ("properties.runningStatus.code",)),
        ("completed", UpgradeState.UNKNOWN, ("properties.runningStatus.code",)),
        (3, UpgradeState.UNKNOWN, ("properties.runningStatus.code",)),
    ],
)
def test_the_code_gives_the_state(code: object, state: UpgradeState, unrecognised: tuple[str, ...]):
    history = parsed(status(code=code))
    assert history.upgrades[0].state is state
    assert history.unrecognised == unrecognised


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2024-05-06T07:08:09Z", 1714979289.0),
        ("2024-05-06T07:08:09z", 1714979289.0),
        ("2024-05-06t07:08:09Z", 1714979289.0),
        ("2024-05-06T07:08:09+00:00", 1714979289.0),
        ("2024-05-06T07:08:09", 1714979289.0),
        ("2024-05-06T03:08:09-04:00", 1714979289.0),
        ("2024-05-06T02:08:09-05:00", 1714979289.0),
        ("2024-05-06T00:08:09-07:00", 1714979289.0),
        ("2024-05-06T12:38:09+05:30", 1714979289.0),
        ("2024-05-06T07:08:09.5Z", 1714979289.5),
        ("2024-05-06T07:08:09.123456Z", 1714979289.123456),
        ("2024-05-06T07:08:09.1234567Z", 1714979289.1234567),
        ("2024-05-06T00:08:09.1234567-07:00", 1714979289.1234567),
        ("1970-01-01T00:00:00Z", 0.0),
        ("0001-01-01T00:00:00", None),
        ("1969-12-31T23:59:59Z", None),
        ("2024-13-01T00:00:00Z", None),
        ("2024-02-30T00:00:00Z", None),
        ("2024-05-06T24:08:09Z", None),
        ("2024-05-06T07:08:60Z", None),
        ("2024-05-06T07:08:09.Z", None),
        ("2024-05-06T07:08:09+24:00", None),
        ("2024-05-06T07:08:09 Z", None),
        ("2024-05-06", None),
        ("yesterday", None),
        ("", None),
        ("\u0662024-05-06T07:08:09Z", None),
        ("9999-12-31T23:59:59-23:59", 253402387139.0),
    ],
)
def test_a_time_is_read_to_its_last_digit_or_not_at_all(text: str, seconds: float | None):
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        ({"endTime": "2024-01-01T00:00:00Z"}, 1704067200.0),
        ({"completedTime": "2024-01-01T00:00:00Z"}, 1704067200.0),
        ({"endTime": "2024-01-01T00:00:00Z", "completedTime": "2025-01-01T00:00:00Z"}, 1704067200.0),
        ({"endTime": None, "completedTime": "2024-01-01T00:00:00Z"}, 1704067200.0),
        ({"endTime": "soon", "completedTime": "2024-01-01T00:00:00Z"}, 1704067200.0),
        ({}, None),
    ],
)
def test_the_end_is_end_time_as_documented_else_completed_time_as_recorded(
    fields: dict[str, object], end: float | None
):
    assert parsed(status(code="Completed", **fields)).upgrades[0].end == end


NOON, LATER = "2024-01-01T12:00:00Z", "2024-01-01T13:00:00Z"


@pytest.mark.parametrize(
    ("fields", "end", "unrecognised"),
    [
        (
            {"code": "RollingForward", "startTime": "2020-06-16T10:00:30Z", "completedTime": "2018-03-01T00:00:00Z"},
            None,
            ["completedTime"],
        ),
        ({"code": "RollingForward", "startTime": NOON, "endTime": LATER}, None, ["endTime"]),
        ({"code": "RollingBack", "startTime": NOON, "endTime": LATER}, None, ["endTime"]),
        ({"code": "RollingBack", "endTime": LATER, "completedTime": LATER}, None, ["endTime", "completedTime"]),
        ({"startTime": NOON, "endTime": LATER}, None, ["endTime"]),
        ({"code": "Paused", "startTime": NOON, "endTime": LATER}, None, ["code", "endTime"]),
        ({"code": "Completed", "startTime": LATER, "endTime": NOON}, None, ["endTime"]),
        ({"code": "Faulted", "startTime": LATER, "completedTime": NOON}, None, ["completedTime"]),
        ({"code": "Completed", "startTime": NOON, "endTime": "2024-01-01T11:00:00Z", "completedTime": LATER},
         1704114000.0, ["endTime"]),
        ({"code": "Faulted", "startTime": NOON, "endTime": NOON}, 1704110400.0, []),
        ({"code": "Cancelled", "endTime": NOON}, 1704110400.0, []),
        ({"code": "RollingForward", "startTime": NOON, "endTime": "0001-01-01T00:00:00"}, None, []),
        ({"code": "Completed", "endTime": "0001-01-01T00:00:00+00:00", "completedTime": NOON}, 1704110400.0, []),
        ({"code": "Completed", "endTime": "0001-01-01T00:00:00.0000000Z"}, None, []),
        ({"code": "Completed", "startTime": "soon", "endTime": NOON}, 1704110400.0, ["startTime"]),
    ],
)  # fmt: skip
def test_an_end_is_only_of_a_finished_upgrade_and_not_before_its_start(
    fields: dict[str, object], end: float | None, unrecognised: list[str]
):
    """The first is of the example page of "Get OS Upgrade History": an active upgrade that was completed before."""
    history = parsed(status(**fields))
    assert history.upgrades[0].end == end
    assert history.unrecognised == tuple(f"properties.runningStatus.{name}" for name in unrecognised)


@pytest.mark.parametrize(
    ("sent", "count"),
    [(0, 0), (7, 7), (3.0, 3), (2**31 - 1, 2**31 - 1), (None, None)],
)
def test_a_count_is_an_int32(sent: object, count: int | None):
    history = parsed(properties(progress={"failedInstanceCount": sent}))
    assert history.upgrades[0].progress == Progress(failed=count)
    assert history.unrecognised == ()


@pytest.mark.parametrize("sent", [-1, 1.5, True, 2**31, "3", [], {}, 1e300, float("inf")])
def test_an_absurd_count_is_absent_and_the_rest_is_kept(sent: object):
    history = parsed(properties(progress={"failedInstanceCount": sent, "pendingInstanceCount": 2}))
    assert history.upgrades[0].progress == Progress(pending=2)
    assert history.unrecognised == ("properties.progress.failedInstanceCount",)


@pytest.mark.parametrize(
    ("document", "unrecognised"),
    [
        ({"value": [{"properties": []}]}, ("properties",)),
        ({"value": [{"location": 7}]}, ("location",)),
        ({"value": [7, {}, None]}, ("value[]", "value[]")),
        (properties(runningStatus="x"), ("properties.runningStatus",)),
        (status(startTime=12), ("properties.runningStatus.startTime",)),
        (status(endTime="late"), ("properties.runningStatus.endTime",)),
        (properties(startedBy={}), ("properties.startedBy",)),
        (properties(startedBy="x" * 1024), ("properties.startedBy",)),
        (properties(startedBy="é" * 512), ("properties.startedBy",)),
        ({"value": [{"location": "x" * 1024}]}, ("location",)),
        (properties(error={"code": "x" * 1024}), ("properties.error.code",)),
        (properties(error={"target": "x" * 1024}), ("properties.error.target",)),
        (properties(targetImageReference={"id": "x" * 1024}), ("properties.targetImageReference.id",)),
        (properties(startedBy="\ud800"), ("properties.startedBy",)),
        (properties(error={"details": {}}), ("properties.error.details",)),
        (properties(error={"details": [1]}), ("properties.error.details[]",)),
        (properties(error={"details": [{"code": 1}]}), ("properties.error.details[].code",)),
        (properties(error={"details": [{}] * (MAX_DETAILS + 1)}), ("properties.error.details",)),
        (properties(error={"message": 5}), ("properties.error.message",)),
        (properties(error={"innererror": "x"}), ("properties.error.innererror",)),
        (properties(targetImageReference={"sku": 1}), ("properties.targetImageReference.sku",)),
        (
            properties(rollbackInfo={"rollbackError": {"code": []}}),
            ("properties.rollbackInfo.rollbackError.code",),
        ),
    ],
)
def test_an_absurd_field_is_named_by_its_path(document: object, unrecognised: tuple[str, ...]):
    assert parsed(document).unrecognised == unrecognised


def test_null_is_absent_and_not_absurd():
    document = properties(
        runningStatus=None,
        progress=None,
        error=None,
        startedBy=None,
        targetImageReference=None,
        rollbackInfo=None,
    )
    assert parsed(document) == History(upgrades=(Upgrade(),))


def test_the_recorded_oldest_form_has_no_rollback_info():
    document = deepcopy(FULL_EXAMPLE)
    del document["value"][0]["properties"]["rollbackInfo"]
    assert parsed(document).upgrades[0].rollback is None


def test_the_location_is_read_under_the_name_that_one_page_shows_too():
    assert parsed({"value": [{"___location": "westus"}]}).upgrades[0].location == "westus"
    assert parsed({"value": [{"location": "", "___location": "westus"}]}).upgrades[0].location == "westus"
    assert (
        parsed({"value": [{"location": "eastus", "___location": "westus"}]}).upgrades[0].location == "eastus"
    )


def test_a_text_may_be_as_long_as_allowed_and_in_any_script():
    for text in ("x" * 1023, "é" * 511, "更" * 341, "Ünïcode", "更新"):
        history = parsed(properties(startedBy=text))
        assert (history.upgrades[0].started_by, history.unrecognised) == (text, ())


def test_as_many_details_as_allowed_are_not_absurd():
    history = parsed(properties(error={"details": [{"code": "c"}] * MAX_DETAILS}))
    assert history.unrecognised == ()


def test_an_endless_message_is_cut_and_half_a_surrogate_pair_becomes_a_question_mark():
    long = parsed(properties(error={"message": "x" * (MAX_MESSAGE + 1)})).upgrades[0]
    assert long.error == ApiError(message="x" * MAX_MESSAGE)
    assert parsed(properties(error={"message": "a\ud800b"})).upgrades[0].error == ApiError(message="a?b")


def test_no_more_details_are_kept_than_a_scale_set_has_instances():
    error = parsed(properties(error={"details": [{"code": "c"}] * (MAX_DETAILS + 5)})).upgrades[0].error
    assert error is not None
    assert len(error.details) == MAX_DETAILS


@pytest.mark.parametrize(
    ("starts", "latest"),
    [
        (["2024-01-01T00:00:00Z", "2024-03-01T00:00:00Z", "2024-02-01T00:00:00Z"], 1),
        (["2024-03-01T00:00:00Z", "2024-01-01T00:00:00Z"], 0),
        (["2024-03-01T00:00:00Z", "2024-03-01T00:00:00Z"], 0),
        ([None, "2024-03-01T00:00:00Z"], 1),
        ([None, "1970-01-01T00:00:00Z"], 1),
        ([None, None], 0),
        (["2024-03-01T00:00:00+02:00", "2024-02-29T23:00:00Z"], 1),
    ],
)
def test_the_latest_upgrade_is_the_one_that_started_last_whatever_the_order(
    starts: list[str | None], latest: int
):
    document = {
        "value": [
            {"location": str(n), "properties": {"runningStatus": {"startTime": start}}}
            for n, start in enumerate(starts)
        ]
    }
    history = parsed(document)
    assert history.latest is history.upgrades[latest]


def test_the_latest_completed_is_not_simply_the_latest():
    history = parsed(
        status(code="Completed", startTime="2024-01-01T00:00:00Z"),
        status(code="Completed", startTime="2024-02-01T00:00:00Z"),
        status(code="Faulted", startTime="2024-03-01T00:00:00Z"),
    )
    assert history.latest_completed is history.upgrades[1]
    assert [history.count(state) for state in UpgradeState] == [0, 0, 2, 0, 1, 0]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_gives_a_history_or_malformed(document: object):
    assert isinstance(parse_history([document]), History | Malformed)


def paths(node: object, here: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """Return the way to every value of a document."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [here, *(path for key, child in children for path in paths(child, (*here, key)))]


@given(st.lists(st.tuples(st.sampled_from(paths(FULL_EXAMPLE)[1:]), JSON), min_size=1, max_size=4))
def test_a_mutated_answer_gives_a_history_or_malformed(mutations: list[tuple[tuple[Any, ...], object]]):
    document: Any = deepcopy(FULL_EXAMPLE)
    for path, replacement in mutations:
        node = document
        with suppress(
            KeyError, IndexError, TypeError, AttributeError
        ):  # a mutation may cut off the next one's way
            for key in path[:-1]:
                node = node[key]
            node[path[-1]] = replacement
    history = parse_history([document])
    assert isinstance(history, History | Malformed)
    if isinstance(history, History):
        for upgrade in history.upgrades:
            assert upgrade.start is None or upgrade.start >= 0
            assert isinstance(upgrade.state, UpgradeState)
            (upgrade.location or "").encode()  # a scrape must be able to say it


# Mutants that live
#   `whole = int(datetime.fromisoformat(f"{seconds}{offset or 'z'}".upper()).timestamp())`: it is made upper case.
#   `return max(upgrades, key=lambda upgrade: -2.0 if upgrade.start is None else upgrade.start, default=None)`: no start
#   is below 0.
