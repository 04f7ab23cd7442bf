"""What the soak makes of its measurements."""

from math import gamma, pi
from random import Random

import pytest

from tests.soak import BEYOND_BY_CHANCE, least_of_each_minute, trend


@pytest.mark.parametrize(
    ("values", "each_hour", "nil"),
    [
        ([200.0, 200.0, 200.0, 200.0], 0.0, True),
        ([200.0, 201.0, 202.0, 203.0], 360.0, False),
        ([203.0, 202.0, 201.0, 200.0], -360.0, False),
        ([200.0, 202.0, 199.0, 201.0], 0.0, True),
        ([200.0, 202.0, 200.0, 203.0], 252.0, True),
        ([200.0, 202.0, 203.5, 206.0], 702.0, False),  # 15 standard errors
        ([200.0, 202.0, 203.0, 206.0], 684.0, True),  # 7, which chance may do where there are but four points
    ],
)
def test_a_trend_is_nil_where_its_error_could_make_it(values: list[float], each_hour: float, nil: bool):
    found = trend([0.0, 10.0, 20.0, 30.0], values)
    assert found.each_hour == pytest.approx(each_hour)
    assert found.nil is nil


def test_the_error_is_the_standard_error_of_the_slope():
    # Anscombe's first quartet: slope 0.5001, standard error 0.1179.
    x = [10.0, 8.0, 13.0, 9.0, 11.0, 14.0, 6.0, 4.0, 12.0, 7.0, 5.0]
    y = [8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68]
    found = trend(x, y)
    assert found.each_hour == pytest.approx(0.5001 * 3600, rel=1e-3)
    assert found.error == pytest.approx(0.1179 * 3600, rel=1e-3)


@pytest.mark.parametrize(("freedom", "bound"), BEYOND_BY_CHANCE.items())
def test_the_bounds_are_those_of_students_t(freedom: int, bound: float):
    at_zero = gamma((freedom + 1) / 2) / gamma(freedom / 2) / (pi * freedom) ** 0.5
    step = bound / 10_000
    middles = ((number + 0.5) * step for number in range(10_000))
    within = 2 * step * sum(at_zero * (1 + t * t / freedom) ** (-(freedom + 1) / 2) for t in middles)
    assert within == pytest.approx(0.99, abs=1e-3)


def test_where_nothing_grows_one_trend_in_a_hundred_seems_to():
    random, minutes = Random(6), [60.0 * minute for minute in range(7)]
    trends = [trend(minutes, [random.gauss(200.0, 1.0) for _ in minutes]) for _ in range(5000)]
    assert 25 < sum(not each.nil for each in trends) < 75


def test_between_two_known_bounds_the_wider_counts():
    assert trend([*range(13)], [0.0, 1.0] * 6 + [0.0]).freedom == 11
    found = trend([*range(13)], [*range(12), 0.0])
    assert found.noise == BEYOND_BY_CHANCE[10] * found.error


def test_of_each_minute_the_least_counts_at_its_own_time():
    seconds, values = [0.0, 30.0, 59.0, 61.0, 119.0, 240.0], [5.0, 3.0, 4.0, 7.0, 8.0, 1.0]
    assert least_of_each_minute(seconds, values) == ([30.0, 61.0, 240.0], [3.0, 7.0, 1.0])
