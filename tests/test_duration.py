"""Durations: read and written in Prometheus' grammar."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.duration import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("0s", 0.0),
        ("1ms", 0.001),
        ("1500ms", 1.5),
        ("90s", 90.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1m500ms", 60.5),
        ("2d", 172_800.0),
        ("1w", 604_800.0),
        ("1y", 31_536_000.0),
        ("1y2w3d4h5m6s7ms", 33_019_506.007),
        ("007s", 7.0),
        ("292y", 9_208_512_000.0),
    ],
)
def test_a_duration_has_the_grammar_of_prometheus(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", 'must be a duration such as 90s, 5m or 1h30m, not ""'),
        ("soon", 'must be a duration such as 90s, 5m or 1h30m, not "soon"'),
        ("300", 'must be a duration such as 90s, 5m or 1h30m, not "300", which lacks a unit'),
        ("1.5h", 'must be a duration such as 90s, 5m or 1h30m, not "1.5h"'),
        ("-5m", 'must be a duration such as 90s, 5m or 1h30m, not "-5m"'),
        ("5 m", 'must be a duration such as 90s, 5m or 1h30m, not "5 m"'),
        ("5m\n", 'must be a duration such as 90s, 5m or 1h30m, not "5m\\n"'),
        ("5M", 'must be a duration such as 90s, 5m or 1h30m, not "5M"'),
        ("30m1h", 'must be a duration such as 90s, 5m or 1h30m, not "30m1h"'),
        ("1m1m", 'must be a duration such as 90s, 5m or 1h30m, not "1m1m"'),
        ("٣s", 'must be a duration such as 90s, 5m or 1h30m, not "٣s"'),
        ("293y", 'must be at most 292y, not "293y"'),
        ("9999999999999999999y", 'must be at most 292y, not "9999999999999999999y"'),
        ("9" * 5000 + "s", f'must be a duration such as 90s, 5m or 1h30m, not "{"9" * 59}…"'),
    ],
    ids=lambda value: value[:20],
)
def test_anything_else_is_no_duration(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.001, "1ms"),
        (1.5, "1s500ms"),
        (90.0, "1m30s"),
        (300.0, "5m"),
        (86_400.0, "1d"),
        (7_776_000.0, "90d"),
        (1_209_600.0, "2w"),
        (63_072_000.0, "2y"),
        (31_536_001.0, "365d1s"),
    ],
)
def test_a_duration_is_printed_as_prometheus_prints_it(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(min_value=0, max_value=9_223_372_036_854))
def test_a_printed_duration_reads_back_to_the_millisecond(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000
