"""What Azure's headers say of the budget."""

import math
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.azure.budget import quota_rest, remaining, retry_after, sent_at

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


@given(st.integers(1, 3600), st.integers(0, 2**31))
def test_dates_are_taken_at_their_word(seconds: int, now: int) -> None:
    assert retry_after(formatdate(now + seconds, usegmt=True), now) == seconds


@pytest.mark.parametrize(
    ("date", "at"),
    [
        ("Wed, 21 Oct 2015 07:28:00 GMT", NOW),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777.0),
        (None, 5.0),
        ("", 5.0),
        ("soon", 5.0),
        ("Wed, 21 Oct 99999 07:28:30 GMT", 5.0),
    ],
)
def test_an_answer_was_sent_when_it_says_and_else_now(date: str | None, at: float):
    assert sent_at(date, 5.0) == at


@pytest.mark.parametrize(
    ("header", "resets_after", "seconds"),
    [
        (None, "00:00:05", 5),
        (None, "01:00:01", 3600),
        (None, "00:02:10", 130),
        (None, "00:00:00", 60),
        (None, "soon", 60),
        (None, "00:00:05.5", 60),
        ("7", "00:00:05", 7),
        ("soon", "00:00:05", 60),
    ],
)
def test_resource_graph_says_otherwise_when_to_come_back(
    header: str | None, resets_after: str, seconds: float
):
    assert retry_after(header, NOW, resets_after) == seconds


RESOURCE = "x-ms-ratelimit-remaining-resource"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], []),
        (
            [(RESOURCE, "Microsoft.Compute/GetVMScaleSet3Min;399,Microsoft.Compute/GetVMScaleSet30Min;2584")],
            [("Microsoft.Compute/GetVMScaleSet3Min", 399), ("Microsoft.Compute/GetVMScaleSet30Min", 2584)],
        ),
        (
            [
                (RESOURCE, "Microsoft.Compute/A;1"),
                ("X-Ms-RateLimit-Remaining-Resource", "Microsoft.Compute/B;2"),
            ],
            [("Microsoft.Compute/A", 1), ("Microsoft.Compute/B", 2)],
        ),
        ([(RESOURCE, "A;1 , B;2")], [("A", 1), ("B", 2)]),
        ([(RESOURCE, "A;1,B,C;x,D;-3,;4,E;5;6,F;7")], [("A", 1), ("F", 7)]),
        ([(RESOURCE, "A;9999999999")], []),
        (
            [("x-ms-ratelimit-remaining-subscription-reads", "11999")],
            [("x-ms-ratelimit-remaining-subscription-reads", 11999)],
        ),
        (
            [("X-MS-RateLimit-Remaining-Tenant-Reads", "0"), ("x-ms-user-quota-remaining", "14")],
            [("x-ms-ratelimit-remaining-tenant-reads", 0), ("x-ms-user-quota-remaining", 14)],
        ),
        ([("x-ms-ratelimit-remaining-tenant-reads", "many")], []),
        ([("x-ms-ratelimit-remaining-" + "x" * 200, "1")], []),
        ([("x-ms-request-id", "5")], []),
    ],
)
def test_the_headers_say_what_is_left(headers: list[tuple[str, str]], expected: list[tuple[str, int]]):
    assert list(remaining(headers)) == expected


def test_a_header_that_is_too_long_says_nothing():
    """It would take a while to read 128 of them, and a part of one could end in the middle of a number."""
    name = "x-ms-ratelimit-remaining-resource"
    assert remaining([(name, "a;1".ljust(2048))]) == (("a", 1),)
    assert remaining([(name, "a;1".ljust(2049)), (name, "b;2")]) == (("b", 2),)


def test_an_answer_speaks_of_no_more_than_sixteen_budgets():
    assert len(remaining([(RESOURCE, ",".join(f"A{number};1" for number in range(100)))])) == 16


@given(st.lists(st.tuples(st.sampled_from([RESOURCE, "x-ms-ratelimit-remaining-reads"]), st.text())))
def test_any_headers_say_something_or_nothing(headers: list[tuple[str, str]]):
    assert all(scope and requests >= 0 for scope, requests in remaining(headers))


@pytest.mark.parametrize(
    ("left", "resets_after", "seconds"),
    [
        ("14", "00:00:05", 0),
        ("1", "00:00:05", 0),
        ("0", "00:00:03", 3),
        (" 0 ", " 00:01:02 ", 62),
        ("0", "00:00:00", 0),
        ("0", "99:59:59", 3600),
        ("0", None, 5),
        ("0", "", 5),
        ("0", "3", 5),
        ("0", "-00:00:03", 5),
        ("0", "00:00:0٣", 5),
        ("0", "0:0:3", 5),
        (None, "00:00:03", 0),
        ("", "00:00:03", 0),
        ("-1", "00:00:03", 0),
        ("x", "00:00:03", 0),
    ],
)
def test_a_spent_quota_says_when_it_is_filled_again(
    left: str | None, resets_after: str | None, seconds: float
) -> None:
    assert quota_rest(left, resets_after) == seconds
