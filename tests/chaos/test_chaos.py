"""A short run of chaos; ``make chaos`` is a long one."""

from dataclasses import replace
from math import inf
from time import time

import pytest

from tests.chaos.alerts import hurried
from tests.chaos.run import (
    BLOCKS_KEPT,
    BYTES_KEPT,
    POOL_THREADS,
    POOLED,
    chaos,
    comparable,
    fallen,
    leaks,
    stale,
)
from tests.e2e.test_end_to_end import Samples
from tests.watched import Figures

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
    report = await chaos(seed=7, rounds=3, seconds=4.0, scrape_limit=inf)
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
        ({"blocks": 4001}, ["memory leaked: 4001 blocks and 0 bytes of large ones in 50 further requests"]),
        (
            {"large": 9 * 2**20},
            ["memory leaked: 0 blocks and 9437184 bytes of large ones in 50 further requests"],
        ),
    ],
)
def test_a_leak_is_what_a_later_calm_holds_more(more: dict[str, int], said: list[str]):
    later = replace(CALM, **{name: getattr(CALM, name) + number for name, number in more.items()})
    assert leaks([replace(CALM, tasks=99), CALM, later], [10, 100, 150]) == said


def samples(**values: float) -> Samples:
    web = frozenset({"scale_set": "web"}.items())
    return {(f"azure_vmss_os_upgrade_{name}", web): value for name, value in values.items()}


def test_progress_of_an_active_upgrade_that_a_wrong_clock_saw_counts_as_its_start():
    start, now = 1000.0, time()
    true = samples(start_timestamp_seconds=start, last_progress_timestamp_seconds=start)
    for seen in (start, now - 1, start - 1, now + 400 * 86_400):
        shown = samples(start_timestamp_seconds=start, last_progress_timestamp_seconds=seen)
        assert comparable(shown) == true
    assert comparable(samples(last_progress_timestamp_seconds=start)) != {}


def test_progress_of_a_finished_upgrade_is_its_end():
    times = {"start_timestamp_seconds": 1000.0, "end_timestamp_seconds": 2000.0}
    true = samples(**times, last_progress_timestamp_seconds=2000.0)
    assert comparable(true) == true
    assert comparable(samples(**times, last_progress_timestamp_seconds=1500.0)) != true


def test_what_polls_say_of_themselves_is_compared_and_what_the_journal_counts_is_not():
    shown = samples(up=1, poll_error=1, last_poll_timestamp_seconds=5, upgrades_total=3)
    assert comparable(shown) == samples(up=1, poll_error=1)


@pytest.mark.parametrize(
    ("poll", "success", "interval", "number"),
    [(-1, -1, 1.0, 0), (-1, -20, 1.0, 1), (-20, -20, 2.0, 2), (60, -1, 2.0, 1), (-1, -1, 3.0, 1)],
)
def test_a_poll_of_the_bad_times_is_stale_in_a_calm(
    poll: float, success: float, interval: float, number: int
):
    now = time()
    shown = samples(
        up=1,
        last_poll_timestamp_seconds=now + poll,
        last_success_timestamp_seconds=now + success,
        poll_interval_seconds=interval,
    )
    assert len(stale(shown, since=now - 10)) == number
    assert len(stale(samples(up=1), since=now - 10)) == 3


def test_a_count_that_falls_or_goes_is_told():
    before = samples(upgrades_total=3)
    assert [
        len(fallen(after, before)) for after in (samples(upgrades_total=3), samples(upgrades_total=2), {})
    ] == [
        0,
        1,
        1,
    ]


def test_rules_are_hurried_in_ranges_offsets_waits_and_seconds():
    rules = """
    groups:
      - name: a
        rules:
          - alert: A
            expr: sum_over_time((x > 3 * 86400)[30m:1m]) > 3600 and y offset 1h > 15 or rate(z[5m]) < 0.1
            for: 15m
            keep_firing_for: 1h
    """
    (group,) = hurried(rules)["groups"]
    assert group["interval"] == "500ms"
    assert group["rules"] == [
        {
            "alert": "A",
            "expr": "sum_over_time((x > 3 * 720)[15000ms:500ms]) > 30 and y offset 30000ms > 15 or rate(z[2500ms]) < 0.1",
            "for": "7500ms",
            "keep_firing_for": "30000ms",
        }
    ]
