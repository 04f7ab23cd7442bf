"""``python -m tests.bench [--quick] [MEASURE ...]``: measure, then print one table."""

import os
import platform
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from time import monotonic

from .alert import alert
from .backfill import backfill
from .bomb import bomb
from .detection import detection
from .journal import journal
from .loop import loop
from .page import page
from .poll import poll
from .process import memory, requests, start
from .recovery import recovery
from .report import Row, note, table
from .scale import scale
from .scrape import scrape
from .slow import slow

MEASURES: dict[str, Callable[..., Iterator[Row]]] = {
    "scrape": scrape,
    "poll": poll,
    "journal": journal,
    "start": start,
    "requests": requests,
    "memory": memory,
    "loop": loop,
    "detection": detection,
    "scale": scale,
    "recovery": recovery,
    "alert": alert,
    "slow": slow,
    "page": page,
    "backfill": backfill,
    "bomb": bomb,
}
NOTE = """Costs are processor time (user and system) unless they are called otherwise, medians of measurements taken
in turn with the reference's on the same machine; detection is in simulated time, recovery in real time. Ratios carry over to other machines, times do not. A scrape ends
where the socket takes over; what the store does at a poll, or each second, to have less to do then is not in it. Rows that are set in say what stands behind the row above them."""


def main() -> int:
    """Run the measures named, all of them by default."""
    parser = ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help=", ".join(MEASURES))
    parser.add_argument("--quick", action="store_true", help="smaller and shorter, for a first look")
    flags = parser.parse_args()
    unknown = [name for name in flags.measures if name not in MEASURES]
    if unknown:
        parser.error(f"no such measure: {', '.join(unknown)}")
    rows: list[Row] = []
    began = monotonic()
    for name in flags.measures or MEASURES:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        measured = list(MEASURES[name](quick=flags.quick))
        print(table(measured), file=sys.stderr, flush=True)  # should a later one fail
        rows += measured
    print(table(rows))
    print(note(NOTE))
    machine = f"{os.cpu_count()} processors, Python {platform.python_version()}"
    print(f"{machine}, measured in {monotonic() - began:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
