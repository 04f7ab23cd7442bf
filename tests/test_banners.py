"""What is wrong with a whole subscription, and what to do about it."""

import pytest

from exporter.banners import Banner, DiscoveryStatus, SignInFailure, banners, why_empty
from exporter.history import History
from exporter.scale_set import ScaleSet
from exporter.snapshot import Reason, Snapshot, after_failure, after_pause, after_success

GOOD = DiscoveryStatus("s", found=12, selected=3)


def polled(name: str, failure: Reason | None = None, at: float = 1000.0, subscription: str = "s") -> Snapshot:
    new = Snapshot(ScaleSet(subscription, "rg", name, 300.0), 300.0)
    if failure is None:
        return after_success(new, History(), at)
    return after_failure(new, failure, f"{name} was refused", at)


def shown(
    *snapshots: Snapshot, discoveries: tuple[DiscoveryStatus, ...] = ()
) -> list[tuple[str, str | None]]:
    return [(each.title, each.reason) for each in banners(discoveries, snapshots)]


def test_a_subscription_in_which_all_is_well_has_no_banner():
    assert banners([GOOD, DiscoveryStatus("t")], [polled("web"), polled("api")]) == ()


def test_a_discovery_that_is_forbidden_names_the_permission_and_its_scope():
    failed = DiscoveryStatus("s", failure=Reason.FORBIDDEN, failure_message="HTTP 403 AuthorizationFailed")
    assert banners([failed], []) == (
        Banner(
            "s",
            "Discovery fails",
            "forbidden",
            "HTTP 403 AuthorizationFailed",
            "Grant the identity Microsoft.Compute/virtualMachineScaleSets/read on /subscriptions/s,"
            " which the role Reader contains.",
        ),
    )


def test_polls_that_are_all_forbidden_name_the_permission_and_its_scope():
    (banner,) = banners([GOOD], [polled("web", Reason.FORBIDDEN), polled("api", Reason.FORBIDDEN, at=1001.0)])
    assert banner == Banner(
        "s",
        "All polls fail (2)",
        "forbidden",
        "api was refused",
        "Grant the identity Microsoft.Compute/virtualMachineScaleSets/osUpgradeHistory/read on /subscriptions/s,"
        " which the role Reader contains.",
    )


@pytest.mark.parametrize(
    ("snapshots", "expected"),
    [
        ([polled("a", Reason.UNAUTHORIZED)], [("Sign-in fails", "unauthorized")]),
        ([polled("a"), polled("b", Reason.UNAUTHORIZED, at=1001.0)], [("Sign-in fails", "unauthorized")]),
        ([polled("a", Reason.UNAUTHORIZED), polled("b", at=1001.0)], []),
        ([polled("a", Reason.TIMEOUT), polled("b")], []),
        ([polled("a", Reason.UNREACHABLE), polled("b", Reason.TIMEOUT, 999)], [("All polls fail (2)", "unreachable")]),
        ([polled("a", Reason.NOT_FOUND)], []),
        ([Snapshot(ScaleSet("s", "rg", "new", 300.0), 300.0)], []),
        ([after_pause(polled("a"))], [("All polls fail (1)", "throttled")]),
        ([polled("a", Reason.SERVER_ERROR, subscription="t"), polled("b")], [("All polls fail (1)", "server_error")]),
    ],
)  # fmt: skip
def test_a_subscription_has_a_banner_where_its_newest_sign_in_or_all_its_polls_fail(
    snapshots: list[Snapshot], expected: list[tuple[str, str | None]]
):
    assert shown(*snapshots) == expected


def test_a_sign_in_that_fails_for_discovery_and_polls_is_one_banner():
    failed = DiscoveryStatus("s", failure=Reason.UNAUTHORIZED, failure_message="no token")
    assert shown(polled("web", Reason.UNAUTHORIZED), discoveries=(failed,)) == [
        ("Sign-in fails", "unauthorized")
    ]


def test_a_sign_in_that_fails_while_the_last_token_is_still_good_has_a_banner():
    failed = SignInFailure("s", Reason.UNREACHABLE, "no token: connection refused")
    (banner,) = banners([GOOD], [polled("web")], [failed])
    assert banner == Banner(
        "s",
        "Sign-in fails",
        "unreachable",
        "no token: connection refused",
        "Check DNS, the network, the proxy and the firewall on the way to Azure and its identity endpoint.",
    )


def test_what_fails_because_the_sign_in_fails_has_no_banner_of_its_own():
    failed = SignInFailure("s", Reason.UNREACHABLE, "web was refused")
    discovery = DiscoveryStatus("s", failure=Reason.UNREACHABLE, failure_message="web was refused")
    elsewhere = DiscoveryStatus("t", failure=Reason.UNREACHABLE, failure_message="web was refused")
    found = banners([discovery, elsewhere], [polled("web", Reason.UNREACHABLE)], [failed])
    assert [(each.subscription_id, each.title) for each in found] == [
        ("s", "Sign-in fails"),
        ("t", "Discovery fails"),
    ]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (0, "Discovery found no scale sets."),
        (1, "Discovery found 1 scale set and selects none."),
        (1200, "Discovery found 1,200 scale sets and selects none."),
    ],
)
def test_a_discovery_that_selects_nothing_says_how_many_it_found(found: int, message: str):
    (banner,) = banners([DiscoveryStatus("s", found=found)], [])
    assert (banner.title, banner.reason, banner.message, banner.failing) == (
        "Nothing selected",
        None,
        message,
        False,
    )


def test_failures_come_before_notices_and_then_subscriptions_in_their_order():
    discoveries = [DiscoveryStatus("a", found=0)]
    discoveries += [DiscoveryStatus(key, failure=Reason.TIMEOUT) for key in ("c", "b")]
    assert [each.subscription_id for each in banners(discoveries, [])] == ["b", "c", "a"]


@pytest.mark.parametrize("reason", Reason)
def test_every_failure_of_a_discovery_says_what_to_do(reason: Reason):
    (banner,) = banners([DiscoveryStatus("s", failure=reason, failure_message="no")], [])
    assert banner.reason == reason.value
    assert banner.action.endswith(".")


@pytest.mark.parametrize(
    ("discoveries", "why"),
    [
        ((), ""),
        ((DiscoveryStatus("s", failure=Reason.FORBIDDEN), GOOD), "No scale sets: discovery fails"),
        ((DiscoveryStatus("s"), GOOD), "No scale sets yet: discovery has not ended"),
        ((DiscoveryStatus("s", found=5), DiscoveryStatus("t", found=0)), "No scale sets: discovery selects none"),
        ((GOOD, DiscoveryStatus("t", found=0)), "No scale sets in this shard"),
    ],
)  # fmt: skip
def test_an_empty_fleet_has_a_reason(discoveries: tuple[DiscoveryStatus, ...], why: str):
    assert why_empty(discoveries) == why
