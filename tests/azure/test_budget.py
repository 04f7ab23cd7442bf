"""What Azure's headers say of the budget."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.azure.budget import retry_after

NOW = 1_445_412_480.0
"""Wed, 21 Oct 2015 07:28:00 GMT."""


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("5", 5),
        (" 5 ", 5),
        ("1200", 1200),
        ("3600", 3600),
        ("3601", 3600),
        ("9" * 400, 3600),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30),
        ("Wed, 21 Oct 2015 07:28:30", 30),
        ("Wed, 21 Oct 2015 09:28:30 +0200", 30),
        ("Wed, 21 Oct 2015 07:28:30 -0000", 30),
        ("Wednesday, 21-Oct-15 07:28:30 GMT", 30),
        ("Wed Oct 21 07:28:30 2015", 30),
        ("Thu, 22 Oct 2015 07:28:00 GMT", 3600),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600),
        (None, 60),
        ("", 60),
        (" ", 60),
        ("0", 60),
        ("-5", 60),
        ("+5", 60),
        ("1.5", 60),
        ("1e3", 60),
        ("0x10", 60),
        ("1_000", 60),
        ("²", 60),
        ("٣", 60),
        ("inf", 60),
        ("nan", 60),
        ("5 seconds", 60),
        ("soon", 60),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 60),
        ("Wed, 21 Oct 2015 07:27:30 GMT", 60),
        ("Wed, 21 Oct 1015 07:28:30 GMT", 60),
        ("Wed, 32 Oct 2015 07:28:30 GMT", 60),
        ("Wed, 21 Oct 99999 07:28:30 GMT", 60),
        ("Wed, 21 Oct 2015 07:28:30 +9999", 60),
        ("Wed, 21 Oct 2015 07:28:30 +" + "9" * 30, 60),
        ("Wed, 21 Oct " + "9" * 30 + " 07:28:30 GMT", 60),
        ("Sat, 01 Jan 0001 00:00:00 +2300", 60),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_never_absurd(header: str | None, seconds: float) -> None:
    assert retry_after(header, NOW) == seconds


DATES = st.from_regex(
    r"[A-Z][a-z]{2}, \d{1,25} (Jan|Oct|Dec) \d{1,25} \d{1,3}:\d{1,3}(:\d{1,3})? ([+-]\d{1,25}|GMT|[A-Z]{1,4})?",
    fullmatch=True,
)


@given(st.text() | DATES, st.floats(0, 1e11))
def test_any_header_gives_a_pause_of_up_to_an_hour(header: str, now: float) -> None:
    seconds = retry_after(header, now)
    assert math.isfinite(seconds)
    assert 0 < seconds <= 3600


@given(st.integers(1, 3600))
def test_seconds_are_taken_at_their_word(seconds: int) -> None:
    assert retry_after(str(seconds), NOW) == seconds
