"""Where the marks of the status page's pictures go."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.drawing import BAR_WIDTH, LINE_WIDTH, MARK_WIDTH, MOST_MARKS, THINNEST, Segment, bar, line

NOW, DAY = 1_793_534_400.0, 86_400.0


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
    assert [mark.x for mark in line(spans, NOW)] == [165.0, 179.0, 193.0]


def test_marks_from_before_the_line_give_way_to_the_right():
    spans = [(NOW - 90 * DAY, NOW - 90 * DAY), (NOW - 80 * DAY, NOW - 80 * DAY)]
    assert [mark.x for mark in line(spans, NOW)] == [7.0, 21.0]


@given(st.lists(st.floats(-100 * DAY, DAY), max_size=MOST_MARKS))
def test_no_mark_covers_another_or_leaves_the_line(offsets: list[float]):
    places = [mark.x for mark in line([(NOW + at, NOW + at + 60) for at in sorted(offsets)], NOW)]
    assert all(MARK_WIDTH / 2 <= place <= LINE_WIDTH - MARK_WIDTH / 2 for place in places)
    assert all(right - left >= MARK_WIDTH - 0.2 for left, right in itertools.pairwise(places))
