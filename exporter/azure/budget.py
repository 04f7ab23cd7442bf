"""What Azure grants us, and what its headers say of it. Pure."""

import email.utils
import re
from collections.abc import Iterable
from datetime import UTC
from itertools import islice
from typing import Protocol

REQUESTS_PER_MINUTE = 800.0
"""Compute's low-cost gets per subscription and region; we keep to one region's grant for all of them."""
SCALE_SET_REQUESTS_PER_MINUTE = 12.0
"""Compute's low-cost gets per scale set."""

RETRY_AFTER_ABSENT = 60.0
RETRY_AFTER_LONGEST = 3600.0


GRAPH_SECONDS = 5.0 / 15
"""Between two queries of Resource Graph: a tenant and principal have about 15 in 5 s, for all they run."""
LIST_SECONDS = 60.0 / 360
"""Between two list calls: Compute grants a subscription and region 360 a minute, and we keep to one region's."""
GRAPH_WINDOW_SECONDS = 5.0
SCOPES_AT_ONCE = 16
"""Budgets that one answer may speak of; Azure's speak of four or five."""
MAX_HEADER = 2048
"""Characters of a header that lists budgets, of which 128 may come; Azure's has 300."""


class Meter(Protocol):
    """Who accounts for the requests of one call."""

    def spend(self) -> None:
        """Hear that a further request is about to be sent, after the first. May raise ``PollError`` instead."""

    def left(self, scope: str, requests: int) -> None:
        """Hear how many requests are left of a budget."""


class Account(Meter, Protocol):
    """A meter that leaves a subscription alone when Azure asks for a pause; ``spend`` raises then."""

    def pause(self, seconds: float) -> None:
        """Leave the subscription alone for so long."""


class Unmetered:
    """An account of calls that cost none of the budgets we plan."""

    def spend(self) -> None:
        """Forget it."""

    def left(self, scope: str, requests: int) -> None:
        """Forget it."""

    def pause(self, seconds: float) -> None:
        """Forget it."""


def remaining(headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, int], ...]:
    """Return what the headers of an answer say is left, as (scope, requests).

    The scope is the header's own name, but of ``x-ms-ratelimit-remaining-resource``, which lists several budgets, the
    name that stands in it. What is not a name and a number is passed over.
    """
    return tuple(islice(_remaining(headers), SCOPES_AT_ONCE))


def _remaining(headers: Iterable[tuple[str, str]]) -> Iterable[tuple[str, int]]:
    for name, value in headers:
        header = name.lower()
        if len(value) > MAX_HEADER:
            continue  # a part of it could end in the middle of a number
        if header == "x-ms-ratelimit-remaining-resource":
            for scope, number in _LISTED.findall(value):
                yield scope, int(number)
        elif header.startswith(_PREFIXES) and _NUMBER.fullmatch(value) and _SCOPE.fullmatch(header):
            yield header, int(value)


_PREFIXES = ("x-ms-ratelimit-remaining-", "x-ms-user-quota-remaining")
_SCOPE = re.compile("[a-z0-9-]{1,100}")
_NUMBER = re.compile("[0-9]{1,9}")
_LISTED = re.compile(r"(?:^|,)\s*([\w./-]{1,100});([0-9]{1,9})\s*(?=,|$)", re.ASCII)


def retry_after(header: str | None, now: float, resets_after: str | None = None) -> float:
    """Read ``Retry-After`` (RFC 9110 section 10.2.3: seconds or a date) as seconds from ``now`` (epoch seconds).

    Where it is absent, Resource Graph's ``x-ms-user-quota-resets-after`` (``hh:mm:ss``) says the same. Absent, zero,
    negative, past or unreadable gives 60 s; no pause is longer than an hour.
    """
    seconds = _seconds(header.strip(), now) if header else 0.0
    if not header:
        seconds = _clock_seconds(resets_after) or 0.0
    return min(seconds, RETRY_AFTER_LONGEST) if seconds > 0 else RETRY_AFTER_ABSENT


def quota_rest(left: str | None, resets_after: str | None) -> float:
    """Return for how many seconds Resource Graph is to be left alone after an answer with these headers.

    They are ``x-ms-user-quota-remaining`` and ``x-ms-user-quota-resets-after``; while something remains that is 0.
    Source: "Guidance for throttled requests in Azure Resource Graph".
    """
    if left is None or left.strip() != "0":
        return 0.0
    seconds = _clock_seconds(resets_after)
    return GRAPH_WINDOW_SECONDS if seconds is None else min(seconds, RETRY_AFTER_LONGEST)


def _clock_seconds(text: str | None) -> float | None:
    """Read ``hh:mm:ss``."""
    match = _CLOCK.fullmatch(text.strip()) if text else None
    if match is None:
        return None
    hours, minutes, seconds = map(int, match.groups())
    return 3600.0 * hours + 60 * minutes + seconds


_CLOCK = re.compile("([0-9]{1,3}):([0-9]{2}):([0-9]{2})")


def _seconds(header: str, now: float) -> float:
    if header.isascii() and header.isdigit():
        return float(header[:10])
    at = _date(header)
    return 0.0 if at is None else at - now


def sent_at(date: str | None, now: float) -> float:
    """Return when an answer was sent, by its ``Date`` (RFC 9110 section 6.6.1), else ``now``; in epoch seconds.

    A ``Retry-After`` that is a date counts from there: our own clock may be wrong by hours.
    """
    at = _date(date) if date else None
    return now if at is None else at


def _date(header: str) -> float | None:
    """Read a date of HTTP as seconds since the epoch."""
    try:
        at = email.utils.parsedate_to_datetime(header)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
