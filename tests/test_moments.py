"""Moments and spans in words."""

import pytest

from exporter.moments import ago, clock, iso, span

NOON = 1_793_534_400.0
"""2026-11-01T12:00:00Z"""


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (NOON, "2026-11-01T12:00:00.000Z"),
        (NOON + 0.0625, "2026-11-01T12:00:00.062Z"),
        (0.0, "1970-01-01T00:00:00.000Z"),
        (253_402_300_799.0 + 5 * 3600, "9999-12-31T23:59:59.000Z"),  # Azure may well say so, with an offset
    ],
)
def test_a_moment_for_machines(at: float, expected: str):
    assert iso(at) == expected


def test_a_moment_for_people():
    assert clock(NOON + 61.9) == "2026-11-01 12:01:01 UTC"
    assert clock(1e18) == "9999-12-31 23:59:59 UTC"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-1, "0 s"),
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (3660, "1 h 1 min"),
        (86_399, "23 h 59 min"),
        (86_400, "1 d"),
        (200_000, "2 d"),
    ],
)
def test_a_span_in_words(seconds: float, expected: str):
    assert span(seconds) == expected


@pytest.mark.parametrize(
    ("at", "expected"),
    [(NOON, "now"), (NOON - 0.9, "now"), (NOON - 180, "3 min ago"), (NOON + 90, "in 1 min")],
)
def test_how_far_a_moment_lies_from_now(at: float, expected: str):
    assert ago(at, NOON) == expected
