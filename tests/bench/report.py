"""What is printed: one table, a row a measure."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; ``met`` is ``None`` where the issue sets no goal."""

    measure: str
    ours: str
    reference: str = ""
    ratio: str = ""
    goal: str = ""
    met: bool | None = None


@dataclass(frozen=True, slots=True)
class Pairs:
    """Ours and the reference, measured in turn, so that a busy machine is busy for both."""

    ours: Sequence[float]
    reference: Sequence[float]

    @property
    def ratio(self) -> float:
        """Reference by ours, of the medians."""
        return median(self.reference) / median(self.ours)

    def row(
        self, measure: str, unit: str, *, times_less: float | None = None, times_more: float | None = None
    ) -> Row:
        """Return the row of a cost: at least ``times_less`` than the reference, or at most ``times_more``."""
        ratio, goal, met = f"1/{self.ratio:.3g}" if self.ratio > 1 else f"{1 / self.ratio:.2f}", "", None
        if times_less is not None:
            goal, met = f"1/{times_less:g} or less", self.ratio >= times_less
        elif times_more is not None:
            goal, met = f"{times_more:g} or less", 1 / self.ratio <= times_more
        ours, reference = (f"{number_of(median(side))} {unit}" for side in (self.ours, self.reference))
        return Row(measure, ours, reference, ratio, goal, met)


def number_of(value: float) -> str:
    """Return three digits that tell."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(rows: Sequence[Row]) -> str:
    """Lay the rows out in columns."""
    header = ("measure", "ours", "reference", "ratio", "goal", "met?")
    said = {True: "yes", False: "NO", None: ""}
    lines = [(row.measure, row.ours, row.reference, row.ratio, row.goal, said[row.met]) for row in rows]
    widths = [max(len(line[column]) for line in [header, *lines]) for column in range(len(header))]
    ruled = [header, tuple("-" * width for width in widths), *lines]
    text = "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in ruled
    )
    goals = [row.met for row in rows if row.met is not None]
    return f"{text}\n\n{sum(goals)} of {len(goals)} goals met."


def note(text: str) -> str:
    """Wrap a paragraph that says what a measure measures."""
    return textwrap.fill(" ".join(text.split()), 110)
