"""The pace: what it falls to, and how long it stays there."""

import pytest

from exporter.pace import SCOPES_KEPT, Pace

NOW = 1_700_000_000.0
HISTORIES = "Microsoft.Compute/GetVMScaleSet3Min"


@pytest.mark.parametrize(
    ("scope", "seen", "left", "pace"),
    [
        (HISTORIES, 2399, 2399, 1.0),
        (HISTORIES, 2399, 240, 1.0),
        (HISTORIES, 2399, 239, 0.9),
        (HISTORIES, 2399, 120, 0.5),
        (HISTORIES, 2399, 24, 0.1),
        (HISTORIES, 2399, 0, 0.1),
        (HISTORIES, 100, 100, 0.4),  # found nearly empty
        ("Microsoft.Compute/GetVMScaleSet", 2399, 48, 0.2),
        ("Microsoft.Compute/GetVMScaleSet30Min", 23_999, 1200, 0.5),
        ("x-ms-ratelimit-remaining-subscription-reads", 249, 24, 0.9),
        ("x-ms-ratelimit-remaining-subscription-reads", 10, 10, 0.4),
        ("x-ms-ratelimit-remaining-subscription-reads", 11_999, 600, 0.5),
        ("subscription-global-reads", 3749, 300, 0.8),
        ("x-ms-ratelimit-remaining-tenant-reads", 12, 12, 0.4),
        ("of-no-known-size", 7, 7, 1.0),
        ("of-no-known-size", 0, 0, 0.1),
        ("of-no-known-size", 1000, 50, 0.5),
        ("Microsoft.Compute/GetVMScaleSetResource", 36, 0, 1.0),  # one scale set's own
    ],
)
def test_the_pace_falls_when_less_than_a_tenth_is_left(scope: str, seen: int, left: int, pace: float):
    heard = Pace()
    heard.left(scope, seen, NOW)
    heard.left(scope, left, NOW + 1)
    assert heard.at(NOW + 1) == pace


def test_the_scarcest_budget_counts():
    heard = Pace()
    heard.left(HISTORIES, 120, NOW)
    heard.left("x-ms-ratelimit-remaining-subscription-reads", 5, NOW)
    heard.left("x-ms-ratelimit-remaining-tenant-reads", 11_000, NOW)
    assert heard.at(NOW) == 0.2


def test_the_pace_falls_at_once_and_rises_when_nothing_as_low_was_heard_for_a_minute():
    heard = Pace()
    for second, left, pace in (
        (0, 200, 0.8),
        (1, 100, 0.4),
        (2, 2000, 0.4),
        (30, 110, 0.4),
        (60, 100, 0.4),
        (119, 2000, 0.4),
        (120, 150, 0.6),
        (179, 2000, 0.6),
        (180, 2000, 1.0),
    ):
        heard.left(HISTORIES, left, NOW + second)
        assert heard.at(NOW + second) == pace, second


def test_answers_of_an_empty_and_of_a_full_region_in_turn_do_not_shake_the_pace():
    heard = Pace()
    paces = set()
    for second in range(600):
        heard.left(HISTORIES, 2000 if second % 2 else 120, NOW + second)
        paces.add(heard.at(NOW + second))
    assert paces == {0.5}


def test_a_low_budget_of_which_nothing_more_is_heard_is_forgotten():
    heard = Pace()
    heard.left(HISTORIES, 0, NOW)
    assert heard.at(NOW + 179) == 0.1
    assert heard.at(NOW + 180) == 1.0


def test_a_budget_that_azure_makes_smaller_is_known_to_be_within_the_hour():
    heard = Pace()
    for minute in range(66):
        heard.left(
            "x-ms-ratelimit-remaining-subscription-reads", 11_999 if minute == 0 else 249, NOW + 60 * minute
        )
        if minute == 1:
            assert heard.at(NOW + 60) == 0.2
    assert heard.at(NOW + 66 * 60) == 1.0


@pytest.mark.parametrize(
    ("heard_before", "pace"),
    [
        ([(0, 1000), (1, 11_999)], 0.5),
        ([(-50, 11_999), (0, 11_999)], 0.5),
        ([(0, 11_999), (11, 5000)], 0.5),
        ([(0, 11_999)], 0.5),
        ([(-1, 11_999), (0, 5000)], 1.0),
        ([(-10, 11_999), (0, 5000)], 1.0),
    ],
    ids=["it grew", "as much was left again", "less was left since", "alone", "an hour ago", "longer ago"],
)
def test_a_budget_is_as_large_as_the_most_that_was_left_within_the_hour(
    heard_before: list[tuple[int, int]], pace: float
):
    heard = Pace()
    scope = "x-ms-ratelimit-remaining-subscription-reads"
    for minute, left in heard_before:
        heard.left(scope, left, NOW + 60 * minute)
    heard.left(scope, 600, NOW + 60 * 59)
    assert heard.at(NOW + 60 * 59) == pace


def test_no_more_scopes_are_remembered_than_azure_could_mean():
    heard = Pace()
    for number in range(SCOPES_KEPT):
        heard.left(f"scope-{number}", 100, NOW)
    heard.left("one more", 0, NOW)
    assert heard.at(NOW) == 1.0
    heard.left("scope-0", 0, NOW)
    assert heard.at(NOW) == 0.1


# Mutants that live
#   `known, since = self._low.get(scope, (2.0, now))`: no pace is above 1.
#   `if pace <= 1:` and `if pace < 2:`: a full pace that is remembered slows nobody down, and forbids no other.
#   `known = self._sizes[scope] = max(2, requests, *least), now`: of 1 or of 2, a single request left is much.
