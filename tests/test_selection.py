"""What a query selects, and in what order."""

from dataclasses import replace
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.history import ApiError, History, Image, Rollback, Upgrade, UpgradeState
from exporter.scale_set import ScaleSet
from exporter.selection import PAGE_SIZE, SORTS, BadQuery, Condition, Query, condition_of, duration, select
from exporter.snapshot import Reason, Snapshot

NOW = 1_793_534_400.0


def known(
    name: str,
    *upgrades: Upgrade,
    group: str = "rg-web",
    subscription: str = "sub-1",
    labels: tuple[tuple[str, str], ...] = (),
    failure: Reason | None = None,
    polled: float = NOW - 60,
) -> Snapshot:
    scale_set = ScaleSet(subscription, group, name, 300.0, location="westeurope", labels=labels)
    return Snapshot(scale_set, 300.0, History(upgrades), last_success=polled, failure=failure)


def unknown(name: str, failure: Reason | None = None) -> Snapshot:
    return Snapshot(ScaleSet("sub-1", "rg-web", name, 300.0), 300.0, failure=failure)


JAMMY = Image("Canonical", "0001-com-ubuntu-server-jammy", "22_04-lts-gen2", "latest", "22.04.2026110100")
GALLERY = Image(id="/subscriptions/x/resourceGroups/y/providers/z/galleries/Golden/images/web/versions/1.2.0")
TOO_MANY = ApiError(
    code="MaxUnhealthyInstancePercentExceededInRollingUpgrade", message="a secret of the message"
)

FLEET = (
    known("Web", Upgrade(UpgradeState.COMPLETED, NOW - 7200, NOW - 5400, image=JAMMY, started_by="Platform")),
    known("api", Upgrade(UpgradeState.FAULTED, NOW - 600, NOW - 540, error=TOO_MANY), group="RG-Api"),
    known(
        "batch", Upgrade(UpgradeState.FAULTED, NOW - 60, NOW, image=GALLERY), subscription="SUB-2", polled=NOW
    ),
    known("cache", Upgrade(UpgradeState.ROLLING_FORWARD, NOW - 100), labels=(("label_team", "Payments"),)),
    known(
        "data",
        Upgrade(UpgradeState.COMPLETED, NOW - 900, NOW - 800),
        failure=Reason.THROTTLED,
        polled=NOW - 9,
    ),
    known("edge"),
    unknown("fax"),
    unknown("gone", Reason.NOT_FOUND),
    known(
        "halted",
        Upgrade(
            UpgradeState.CANCELLED, rollback=Rollback(0, 1, ApiError("RollbackFailed", "another secret"))
        ),
    ),
)


def names(query: Query) -> list[str]:
    return [snapshot.scale_set.name for snapshot in select(FLEET, query, NOW).snapshots]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query(condition=Condition.FAULTED), {"api", "batch"}),
        (Query(condition=Condition.NEVER_UPGRADED), {"edge"}),
        (Query(condition=Condition.NO_DATA), {"fax", "gone"}),
        (Query(condition=Condition.UNKNOWN), set()),
        (Query(failing=True), {"data", "gone"}),
        (Query(failing=True, condition=Condition.NO_DATA), {"gone"}),
        (Query(subscription="sub-2"), {"batch"}),
        (Query(subscription="Sub-2"), {"batch"}),
        (Query(resource_group="rg-api"), {"api"}),
        (Query(resource_group="rg"), set()),
        (Query(subscription="sub-2", resource_group="rg-api"), set()),
        (Query(search="WEB"), {"Web", "batch", "cache", "data", "edge", "fax", "gone", "halted"}),
        (Query(search="jammy"), {"Web"}),
        (Query(search="2026110100 platform"), {"Web"}),
        (Query(search="golden"), {"batch"}),
        (Query(search="maxunhealthy"), {"api"}),
        (Query(search="rollbackfailed"), {"halted"}),
        (Query(search="payments"), {"cache"}),
        (Query(search="throttled"), {"data"}),
        (Query(search="secret"), set()),
        (Query(search="jammy payments"), set()),
    ],
)
def test_a_query_selects(query: Query, expected: set[str]):
    assert set(names(query)) == expected


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("attention", ["batch", "api", "cache", "halted", "gone", "fax", "data", "Web", "edge"]),
        ("-attention", ["edge", "Web", "data", "fax", "gone", "halted", "cache", "api", "batch"]),
        ("name", ["api", "batch", "cache", "data", "edge", "fax", "gone", "halted", "Web"]),
        ("-name", ["Web", "halted", "gone", "fax", "edge", "data", "cache", "batch", "api"]),
        ("resource_group", ["api", "batch", "cache", "data", "edge", "fax", "gone", "halted", "Web"]),
        ("-subscription", ["batch", "api", "cache", "data", "edge", "fax", "gone", "halted", "Web"]),
        ("started", ["Web", "data", "api", "cache", "batch", "edge", "fax", "gone", "halted"]),
        ("-started", ["batch", "cache", "api", "data", "Web", "edge", "fax", "gone", "halted"]),
        ("-duration", ["Web", "cache", "data", "api", "batch", "edge", "fax", "gone", "halted"]),
        ("image", ["batch", "Web", "api", "cache", "data", "edge", "fax", "gone", "halted"]),
        ("polled", ["api", "cache", "edge", "halted", "Web", "data", "batch", "fax", "gone"]),
    ],
)
def test_a_query_sorts_and_what_has_nothing_to_sort_by_comes_last(sort: str, expected: list[str]):
    assert names(Query(sort=sort)) == expected


def test_counts_are_of_what_search_and_place_leave():
    selection = select(FLEET, Query(subscription="sub-1", condition=Condition.FAULTED), NOW)
    assert (selection.total, selection.within, selection.matching, selection.failing) == (9, 8, 1, 2)
    assert {condition.value: number for condition, number in selection.conditions.items()} == {
        "Faulted": 1,
        "RollingBack": 0,
        "RollingForward": 1,
        "Cancelled": 1,
        "Unknown": 0,
        "NoData": 2,
        "Completed": 2,
        "NeverUpgraded": 1,
    }
    assert selection.subscriptions == {"sub-1": 8, "sub-2": 1}
    assert selection.resource_groups == {"rg-api": 1, "rg-web": 7}


@pytest.mark.parametrize(
    ("number", "asked", "page", "pages", "first", "shown"),
    [
        (0, 1, 1, 1, None, 0),
        (100, 1, 1, 1, "web-000", 100),
        (101, 1, 1, 2, "web-000", 100),
        (101, 2, 2, 2, "web-100", 1),
        (101, 999, 2, 2, "web-100", 1),
    ],
)
def test_pages_have_a_hundred_and_beyond_the_last_is_the_last(
    *, number: int, asked: int, page: int, pages: int, first: str | None, shown: int
):
    fleet = [unknown(f"web-{index:03d}") for index in range(number)]
    selection = select(fleet, Query(page=asked), NOW)
    assert (selection.query.page, selection.pages, len(selection.snapshots)) == (page, pages, shown)
    assert next((snapshot.scale_set.name for snapshot in selection.snapshots), None) == first
    assert PAGE_SIZE == 100


@given(st.sampled_from([*SORTS, *(f"-{sort}" for sort in SORTS)]), st.permutations(FLEET))
def test_the_order_does_not_depend_on_the_order_of_the_store(sort: str, fleet: list[Snapshot]):
    assert [snapshot.scale_set.name for snapshot in select(fleet, Query(sort=sort), NOW).snapshots] == names(
        Query(sort=sort)
    )


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, Query()),
        ({"q": "", "state": "", "polls": "", "sort": "", "page": ""}, Query()),
        ({"utm_source": "chat"}, Query()),
        (
            {"q": " web ", "state": "RollingBack", "subscription": "S", "resource_group": "R", "page": "3"},
            Query("web", Condition.ROLLING_BACK, "S", "R", page=3),
        ),
        ({"polls": "failing", "sort": "-started"}, Query(failing=True, sort="-started")),
        ({"q": "x" * 300}, Query("x" * 200)),
    ],
)
def test_parameters_are_read(parameters: dict[str, str], expected: Query):
    assert Query.read(parameters) == expected


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"state": "faulted"}, "state must be one of Faulted, RollingBack, "),
        ({"polls": "good"}, "polls can only be 'failing'"),
        ({"sort": "colour"}, "sort must be one of attention, name, "),
        ({"sort": "--name"}, "sort must be one of"),
        ({"page": "0"}, "page must be a number from 1"),
        ({"page": "-1"}, "page must be a number from 1"),
        ({"page": "٣"}, "page must be a number from 1"),
        ({"page": "9" * 5000}, "page must be a number from 1"),
    ],
)
def test_what_there_is_not_is_refused(parameters: dict[str, str], text: str):
    with pytest.raises(BadQuery, match=text):
        Query.read(parameters)


@given(
    st.builds(
        Query,
        search=st.text(max_size=50).map(str.strip),
        condition=st.sampled_from(Condition) | st.none(),
        subscription=st.text(max_size=20).map(str.strip),
        resource_group=st.text(max_size=20).map(str.strip),
        failing=st.booleans(),
        sort=st.sampled_from([*SORTS, *(f"-{sort}" for sort in SORTS)]),
        page=st.integers(1, 10**9 - 1),
    )
)
def test_a_link_reads_as_the_query_that_made_it(query: Query):

    assert Query.read(dict(parse_qsl(query.link()[1:]))) == query


@pytest.mark.parametrize(
    ("upgrade", "expected"),
    [
        (Upgrade(UpgradeState.COMPLETED, NOW - 90, NOW - 30), 60.0),
        (Upgrade(UpgradeState.ROLLING_BACK, NOW - 90), 90.0),
        (Upgrade(UpgradeState.COMPLETED, NOW - 90), None),
        (Upgrade(UpgradeState.FAULTED, None, NOW), None),
        (Upgrade(UpgradeState.FAULTED, NOW, NOW - 5), 0.0),
    ],
)
def test_how_long_an_upgrade_took(upgrade: Upgrade, expected: float | None):
    assert duration(upgrade, NOW) == expected


@pytest.mark.parametrize(
    ("query", "narrowed"),
    [
        (Query(), False),
        (Query(sort="name", page=3), False),
        (Query(search="web"), True),
        (Query(failing=True), True),
        (Query(subscription="s"), True),
    ],
)
def test_order_and_page_leave_nothing_out_but_a_condition_does(query: Query, narrowed: bool):
    assert query.narrowed is narrowed


def test_a_link_bears_any_text():
    assert Query(search="\ud800&q=#").link() == "?q=%3F%26q%3D%23"


def test_every_state_of_azure_is_a_condition():
    conditions = {condition_of(known("web", Upgrade(state))).value for state in UpgradeState}
    assert conditions == {state.value for state in UpgradeState}


def test_a_history_that_has_expired_is_no_data():
    assert condition_of(replace(FLEET[0], history=None)) is Condition.NO_DATA
