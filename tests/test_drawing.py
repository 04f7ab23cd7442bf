"""Where the marks of the status page's pictures go."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.drawing import (
    BAR_WIDTH,
    DAY,
    LINE_WIDTH,
    MARK_WIDTH,
    MOST_AWAY,
    THINNEST,
    Segment,
    bar,
    days,
    line,
)

NOW = 1_793_534_400.0


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((), ()),
        ((0, 0), (Segment(0, 0), Segment(0, 0))),
        ((1, 0, 3), (Segment(0, 40), Segment(40, 0), Segment(40, 120))),
        ((1, 9999), (Segment(0, 3), Segment(3, 157))),
    ],
)
def test_a_bar_is_shared_by_counts(counts: tuple[int, ...], expected: tuple[Segment, ...]):
    assert bar(counts) == expected


@given(st.lists(st.integers(0, 2**31 - 1), max_size=8))
def test_what_is_there_is_seen_and_all_of_it_fits(counts: list[int]):
    segments = bar(counts)
    assert [segment.width >= THINNEST for segment in segments] == [count > 0 for count in counts]
    assert sum(segment.width for segment in segments) <= BAR_WIDTH + 0.5


def test_marks_lie_where_the_upgrades_were_in_two_months():
    spans = [(NOW - 45 * DAY, NOW - 45 * DAY), (NOW - 30 * DAY, NOW - 24 * DAY), (NOW - DAY, NOW)]
    assert [(mark.x, mark.stretch) for mark in line(spans, NOW)] == [
        (51.0, Segment(50.0, 1.0)),
        (120.0, Segment(100.0, 20.0)),
        (193.0, Segment(196.7, 3.3)),
    ]


def test_marks_that_would_cover_each_other_give_way_to_the_left():
    spans = [(NOW - 300, NOW - 200), (NOW - 200, NOW - 100), (NOW - 50, NOW)]
    assert [mark.x for mark in line(spans, NOW)] == [172.0, 179.0, 193.0]


@pytest.mark.parametrize(
    ("ages", "expected"),
    [((), 60), ((-5.0, 12.0), 60), ((60.0, 3.0), 60), ((12.0, 60.5), 61), ((400.0,), 400)],
)
def test_a_line_reaches_back_to_the_oldest(ages: tuple[float, ...], expected: int):
    assert days([NOW - age * DAY for age in ages], NOW) == expected


def test_marks_of_a_long_past_lie_where_they_were():
    spans = [(NOW - age * DAY, NOW - age * DAY) for age in (400, 300, 100, 50)]
    assert [mark.x for mark in line(spans, NOW, 400)] == [7.0, 51.0, 151.0, 176.0]


@given(st.lists(st.floats(-1000 * DAY, DAY), max_size=20))
def test_marks_are_in_order_and_near_their_stretches_on_the_line(offsets: list[float]):
    starts = [NOW + at for at in sorted(offsets)]
    marks = line([(at, at + 60) for at in starts], NOW, days(starts, NOW))
    assert all(MARK_WIDTH / 2 <= mark.x <= LINE_WIDTH - MARK_WIDTH / 2 for mark in marks)
    assert all(left.x <= right.x for left, right in itertools.pairwise(marks))
    for mark in marks:
        assert abs(mark.x - mark.stretch.x - mark.stretch.width) <= MOST_AWAY + MARK_WIDTH / 2 + 1.2


def test_14_of_one_day_are_not_spread_over_months():
    spans = [(NOW - at, NOW - at + 60) for at in range(14 * 3600, 0, -3600)]
    assert min(mark.x for mark in line(spans, NOW)) == 172.0
