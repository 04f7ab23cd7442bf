"""What the soak makes of its measurements."""

import pytest

from tests.soak import least_of_each_minute, trend


@pytest.mark.parametrize(
    ("values", "each_hour", "nil"),
    [
        ([200.0, 200.0, 200.0, 200.0], 0.0, True),
        ([200.0, 201.0, 202.0, 203.0], 360.0, False),
        ([203.0, 202.0, 201.0, 200.0], -360.0, False),
        ([200.0, 202.0, 199.0, 201.0], 0.0, True),
        ([200.0, 202.0, 200.0, 203.0], 252.0, True),
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


def test_of_each_minute_the_least_counts_at_its_own_time():
    seconds, values = [0.0, 30.0, 59.0, 61.0, 119.0, 240.0], [5.0, 3.0, 4.0, 7.0, 8.0, 1.0]
    assert least_of_each_minute(seconds, values) == ([30.0, 61.0, 240.0], [3.0, 7.0, 1.0])
