"""Hold what ``coverage json`` measured against the goals: ``python -m tests.supply.covered FILE``, as ``make coverage`` does.

Of all branches of ``exporter/`` the most are taken; of the pure modules each line is run, each branch is taken.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BRANCHES_PERCENT = 95.0
PURE = {
    "document",
    "drawing",
    "duration",
    "families",
    "history",
    "moments",
    "pace",
    "plan",
    "scale_set",
    "selection",
    "snapshot",
    "store",
}


def shortfalls(measured: dict[str, Any]) -> Iterator[str]:
    """Yield what falls short of the goals."""
    taken = branches_percent(measured["totals"])
    if taken < BRANCHES_PERCENT:
        yield f"of all branches {taken:.1f} % are taken, not {BRANCHES_PERCENT:g} %"
    names = {f"exporter/{module}.py" for module in PURE}
    yield from (f"{name} is not measured" for name in sorted(names - set(measured["files"])))
    for name in sorted(names & set(measured["files"])):
        file = measured["files"][name]
        if file["missing_lines"] or file["missing_branches"]:
            yield f"{name} is pure; missing lines {file['missing_lines']}, branches {file['missing_branches']}"


def branches_percent(totals: dict[str, int]) -> float:
    return 100.0 * totals["covered_branches"] / totals["num_branches"]


if __name__ == "__main__":
    report = json.loads(Path(sys.argv[1]).read_text())
    print(f"branches: {branches_percent(report['totals']):.1f} % of {report['totals']['num_branches']}")
    sys.exit("\n".join(shortfalls(report)) or None)
