"""A short run of chaos; ``make chaos`` is a long one."""

from dataclasses import replace

import pytest

from tests.chaos.run import BLOCKS_KEPT, BYTES_KEPT, POOL_THREADS, POOLED, chaos, leaks
from tests.watched import Figures

SCRAPE_LIMIT_SECONDS = 5.0
"""Not the one second of ``make chaos``: beside other tests, or under coverage, a machine itself may stand for one."""
CALM = Figures(
    tasks=7,
    descriptors=11,
    sockets=7,
    threads=3,
    blocks=300_000,
    large=17_000_000,
    resident=0,
    late_ms=0,
    late_p99_ms=0,
)


async def test_after_bad_times_all_that_is_shown_is_true_and_nothing_has_leaked():
    report = await chaos(seed=7, rounds=4, seconds=4.0, scrape_limit=SCRAPE_LIMIT_SECONDS)
    assert not report.faults, report
    assert len(report.befell) > 20, report
    assert len(report.reasons) > 3, report


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, []),
        ({"blocks": BLOCKS_KEPT, "large": BYTES_KEPT}, []),
        ({"tasks": 1}, ["tasks leaked: 7 after the warm-up, 8 after 50 further requests"]),
        ({"sockets": POOLED, "descriptors": POOLED}, []),
        ({"sockets": 5}, ["sockets leaked: 7 after the warm-up, 12 after 50 further requests"]),
        ({"descriptors": 5}, ["descriptors leaked: 11 after the warm-up, 16 after 50 further requests"]),
        ({"threads": POOL_THREADS}, []),
        (
            {"threads": POOL_THREADS + 1},
            [f"threads leaked: 3 after the warm-up, {POOL_THREADS + 4} after 50 further requests"],
        ),
        ({"blocks": 2001}, ["memory leaked: 2001 blocks and 0 bytes of large ones in 50 further requests"]),
        (
            {"large": 9 * 2**20},
            ["memory leaked: 0 blocks and 9437184 bytes of large ones in 50 further requests"],
        ),
    ],
)
def test_a_leak_is_what_a_later_calm_holds_more(more: dict[str, int], said: list[str]):
    later = replace(CALM, **{name: getattr(CALM, name) + number for name, number in more.items()})
    assert leaks([replace(CALM, tasks=99), CALM, later], [10, 100, 150]) == said
