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


UNITS = {"y": 31_536_000.0, "w": 604_800.0, "d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(UNITS, st.integers(0, 40))).filter(bool))
def test_a_duration_is_the_sum_of_its_parts_in_the_order_of_their_lengths(counts: dict[str, int]) -> None:
    parts = [(unit, counts[unit]) for unit in UNITS if unit in counts]
    seconds = sum(count * UNITS[unit] for unit, count in parts)
    assert parse_duration("".join(f"{count}{unit}" for unit, count in parts)) == pytest.approx(seconds)


GRAMMAR = re.compile("0|(?=.)([0-9]+y)?([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?")


@given(
    st.text()
    | st.text("0123456789ywdhms", max_size=20)
    | st.from_regex(r"\A([0-9]{1,2}(ms|[ywdhms])){1,4}\Z")
)
def test_any_text_is_a_duration_or_a_fault_of_one_line(text: str) -> None:
    try:
        seconds, fault = parse_duration(text), ""
    except ValueError as error:
        seconds, fault = 0.0, str(error)
    assert fault.isprintable()
    assert 0 <= seconds < 293 * UNITS["y"]
    assert (not fault or "at most 292y" in fault) is (GRAMMAR.fullmatch(text) is not None)


@given(st.integers(min_value=0, max_value=9_223_372_036_854))
def test_a_printed_duration_reads_back_to_the_millisecond(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000
