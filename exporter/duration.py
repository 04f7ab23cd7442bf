"""Durations as Prometheus writes them: ``90s``, ``1h30m``, ``2d``."""

import re
from typing import Final

from exporter.document import shown

_UNITS: Final = {
    "y": 31_536_000_000,
    "w": 604_800_000,
    "d": 86_400_000,
    "h": 3_600_000,
    "m": 60_000,
    "s": 1000,
    "ms": 1,
}
"""Milliseconds of each unit, in the one order that Prometheus takes."""
_DURATION: Final = re.compile("".join(f"(?:([0-9]{{1,19}}){unit})?" for unit in _UNITS))
_LONGEST_DURATION: Final = (2**63 - 1) // 1_000_000
A_DURATION: Final = "a duration such as 90s, 5m or 1h30m"


def parse_duration(text: str) -> float:
    """Return the seconds of a duration in Prometheus' grammar: ``90s``, ``1h30m``, ``2d``, ``0``.

    Raises ValueError for anything else, and beyond the 292 years that Prometheus can count.

    https://prometheus.io/docs/prometheus/latest/configuration/configuration/#configuration-file
    """
    if text == "0":
        return 0.0
    match = _DURATION.fullmatch(text)
    if not match or not text:
        bare = re.fullmatch(r"[0-9]+", text)
        raise ValueError(f"must be {A_DURATION}, not {shown(text)}{', which lacks a unit' if bare else ''}")
    counts = (int(count or 0) for count in match.groups())
    milliseconds = sum(count * unit for count, unit in zip(counts, _UNITS.values(), strict=True))
    if milliseconds > _LONGEST_DURATION:
        raise ValueError(f"must be at most 292y, not {shown(text)}")
    return milliseconds / 1000


def format_duration(seconds: float) -> str:
    """Return a duration as Prometheus prints it, to the millisecond; ``parse_duration`` reads it back."""
    rest = round(seconds * 1000)
    text = ""
    for unit, length in _UNITS.items():
        if unit in ("y", "w") and rest % length:
            continue  # 90d reads easier than 12w6d
        count, rest = divmod(rest, length)
        text += f"{count}{unit}" if count else ""
    return text or "0s"
