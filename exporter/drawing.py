"""The geometry of the status page's pictures: which mark goes where, in the units of their view boxes.

Pure. Knows nothing of SVG, of colours or of what a mark stands for: the template draws.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

DAY = 86_400.0
BAR_WIDTH = 160.0
THINNEST = 3.0
"""Width of what there is one of among thousands: it must be seen."""
LINE_WIDTH = 200.0
LINE_DAYS = 60
"""At least; Azure keeps two months of upgrades, a journal more."""
MARK_WIDTH = 14.0
MOST_AWAY = 1.5 * MARK_WIDTH
"""How far a sign may give way: no further than that it is still seen whose it is."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar."""

    x: float
    width: float


def bar(counts: Sequence[int]) -> tuple[Segment, ...]:
    """Share the width of a bar by counts; what is not 0 is never too thin to be seen."""
    total = sum(counts)
    widths = [max(THINNEST, count / total * BAR_WIDTH) if count else 0.0 for count in counts]
    excess = sum(widths) - BAR_WIDTH
    if total and excess > 0:
        widths[widths.index(max(widths))] -= excess
    segments, x = [], 0.0
    for width in widths:
        segments.append(Segment(round(x, 1), round(width, 1)))
        x += width
    return tuple(segments)


@dataclass(frozen=True, slots=True)
class Mark:
    """An upgrade on a line of time: the stretch that it took, and the middle of the sign that stands for it."""

    x: float
    stretch: Segment


def days(starts: Iterable[float], now: float) -> int:
    """Return how many days a line must reach back for all of these to lie on it."""
    return max(LINE_DAYS, ceil((now - min(starts, default=now)) / DAY))


def line(spans: Iterable[tuple[float, float]], now: float, reach: int = LINE_DAYS) -> tuple[Mark, ...]:
    """Place spans of time, each a start and an end in the order of their starts, on a line of so many days until now.

    A stretch lies where it was. Its sign lies at its end, unless it would cover the next one's: then it gives way to
    the left, yet not so far that it would tell of another time. Those of many at once cover each other.
    """
    stretches = []
    for start, end in spans:
        left = _place(start, now, reach)
        stretches.append(Segment(left, round(max(1.0, _place(end, now, reach) - left), 1)))
    half = MARK_WIDTH / 2
    places = [min(max(each.x + each.width, half), LINE_WIDTH - half) for each in stretches]
    for index in range(len(places) - 2, -1, -1):
        place = places[index]
        places[index] = max(half, place - MOST_AWAY, min(place, places[index + 1] - MARK_WIDTH))
    return tuple(Mark(round(place, 1), stretch) for place, stretch in zip(places, stretches, strict=True))


def _place(at: float, now: float, reach: int) -> float:
    return round(min(max(0.0, 1 - (now - at) / (reach * DAY)), 1.0) * LINE_WIDTH, 1)
