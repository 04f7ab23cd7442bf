"""How moments and spans of time are written, for people and for machines. Pure; times are seconds since the epoch."""

from datetime import UTC, datetime
from math import floor

_LAST = 253_402_300_799.0
"""The end of the year 9999, beyond which Python has no dates; an offset may lead Azure there."""


def iso(at: float) -> str:
    """Return a moment by RFC 3339, in UTC, to the millisecond."""
    moment = datetime.fromtimestamp(min(at, _LAST), UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def clock(at: float) -> str:
    """Return a moment for people, in UTC, to the second."""
    return f"{datetime.fromtimestamp(min(at, _LAST), UTC):%Y-%m-%d %H:%M:%S} UTC"


def span(seconds: float) -> str:
    """Return a span of time in one unit or two, as exact as people care: ``12 s``, ``5 min``, ``3 h 20 min``."""
    minutes, hours, days = (floor(seconds / unit) for unit in (60, 3600, 86_400))
    if minutes < 1:
        return f"{floor(max(seconds, 0.0))} s"
    if hours < 1:
        return f"{minutes} min"
    if days < 1:
        return f"{hours} h {minutes % 60} min" if minutes % 60 else f"{hours} h"
    return f"{days} d"


def ago(at: float, now: float) -> str:
    """Return how far a moment lies from ``now``."""
    if abs(now - at) < 1:
        return "now"
    return f"{span(now - at)} ago" if at < now else f"in {span(at - now)}"
