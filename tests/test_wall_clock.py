"""A step of the wall clock is noticed once; what NTP corrects bit by bit is none."""

import pytest

from exporter.wall_clock import WallClock


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("stepped", "noticed"),
    [
        (0.0, 0.0),
        (0.5, 0.0),
        (-0.5, 0.0),
        (1.0, 1.0),
        (-40.0, -40.0),
        (-7200.0, -7200.0),
        (-2_592_000.0, -2_592_000.0),
        (345_600_000.0, 345_600_000.0),
    ],
)
def test_a_step_is_noticed_once_with_its_length(stepped: float, noticed: float):
    wall, steady = Clock(1_750_000_000.0), Clock(500.0)
    watch = WallClock(wall, steady)
    wall.now += 1.0 + stepped
    steady.now += 1.0
    assert watch.step() == noticed
    wall.now += 1.0
    steady.now += 1.0
    assert watch.step() == 0.0


def test_a_process_that_stood_still_has_seen_no_step():
    wall, steady = Clock(1_750_000_000.0), Clock(500.0)
    watch = WallClock(wall, steady)
    wall.now += 3600.0
    steady.now += 3600.0
    assert watch.step() == 0.0


def test_a_clock_that_is_slewed_is_not_stepped_however_far_it_comes():
    wall, steady = Clock(1_750_000_000.0), Clock(500.0)
    watch = WallClock(wall, steady)
    for _ in range(4096):
        wall.now += 1.0 + 2**-11
        steady.now += 1.0
        assert watch.step() == 0.0
    assert wall.now - steady.now == 1_749_999_502.0
