"""What Azure grants us, and what its headers say of it. Pure."""

import email.utils
from datetime import UTC

REQUESTS_PER_MINUTE = 800.0
"""Compute's low-cost gets per subscription and region; we keep to one region's grant for all of them."""
SCALE_SET_REQUESTS_PER_MINUTE = 12.0
"""Compute's low-cost gets per scale set."""

RETRY_AFTER_ABSENT = 60.0
RETRY_AFTER_LONGEST = 3600.0


def retry_after(header: str | None, now: float) -> float:
    """Read ``Retry-After`` (RFC 9110 section 10.2.3: seconds or a date) as seconds from ``now`` (epoch seconds).

    Absent, zero, negative, past or unreadable gives 60 s; no pause is longer than an hour.
    """
    seconds = _seconds(header.strip(), now) if header else 0.0
    return min(seconds, RETRY_AFTER_LONGEST) if seconds > 0 else RETRY_AFTER_ABSENT


def _seconds(header: str, now: float) -> float:
    if header.isascii() and header.isdigit():
        return float(header[:10])
    try:
        at = email.utils.parsedate_to_datetime(header)
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now
