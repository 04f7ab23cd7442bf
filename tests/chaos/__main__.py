"""``python -m tests.chaos [--minutes N] [--seed N]``: a long run, and what it saw."""

import asyncio
import sys
from argparse import ArgumentParser
from random import randrange

from .run import chaos

ROUND_SECONDS = 20.0
CALM_SECONDS = 8.0
"""About."""


def main() -> int:
    """Run; 1 if anything is wrong."""
    parser = ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="about how long (5)")
    parser.add_argument("--seed", type=int, default=randrange(1_000_000), help="what befalls whom (any)")
    flags = parser.parse_args()
    print(f"seed {flags.seed}", flush=True)
    rounds = max(3, round(flags.minutes * 60 / (ROUND_SECONDS + CALM_SECONDS)))
    report = asyncio.run(chaos(flags.seed, rounds, ROUND_SECONDS))
    print(report)
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
