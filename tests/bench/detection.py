"""How soon a fault shows: adaptive polling against one interval for all, at the same budget.

A subscription as full as its share allows, in simulated time: the plan decides, and nothing waits. A fault happens at
any moment to a scale set whose upgrade is active, and shows when the first poll that began after it has ended. The
reference polls every scale set at the one interval that spends the whole budget, on time to the second.
"""

from collections import deque
from collections.abc import Iterator
from random import Random
from statistics import median, quantiles

from exporter.plan import Budget, Plan

from .report import Row, number_of

SCALE_SETS, UPGRADING = 2_000, 20
BUDGET = Budget(per_minute=400.0, shortest_interval=10.0)
"""Half of Azure's grant."""
INTERVAL_SECONDS, ACTIVE_INTERVAL_SECONDS = 300.0, 60.0
POLL_SECONDS = 0.2
WARM_UP_SECONDS = 1800
FAULTS_EACH = 100
GOAL = 4
SEED = 1


def detection(*, quick: bool) -> Iterator[Row]:
    """Measure the same faults both ways."""
    random = Random(SEED)
    end = WARM_UP_SECONDS + (2 if quick else 24) * 3600
    faults = {
        f"/upgrading/{number}": [random.uniform(WARM_UP_SECONDS, end) for _ in range(FAULTS_EACH)]
        for number in range(UPGRADING)
    }
    others = [f"/at-rest/{number}" for number in range(SCALE_SETS - UPGRADING)]
    plan = Plan(BUDGET, ACTIVE_INTERVAL_SECONDS, 0.0)
    for key in (*faults, *others):
        plan.add(key, INTERVAL_SECONDS, 0.0)
    polled, sent, most = _live(plan, set(faults), end + WARM_UP_SECONDS)
    ours = [
        min(start for start in polled[key] if start >= fault) + POLL_SECONDS - fault
        for key, each in faults.items()
        for fault in each
    ]
    interval = SCALE_SETS / BUDGET.per_minute * 60
    theirs = [
        random.uniform(0, interval) + POLL_SECONDS for _ in ours
    ]  # the fault falls anywhere in the interval
    name = f"from a fault to the gauge, {UPGRADING} of {SCALE_SETS:,} upgrading, against one interval for all"
    for title, of in (("median", median), ("99th percentile", lambda each: quantiles(each, n=100)[98])):
        yield Row(
            f"{name}: {title}",
            f"{number_of(of(ours))} s",
            f"{number_of(of(theirs))} s",
            f"1/{of(theirs) / of(ours):.3g}",
            f"1/{GOAL} or less",
            of(theirs) / of(ours) >= GOAL,
        )
    yield Row(
        "  most requests in any 60 s",
        f"{most}",
        f"{BUDGET.per_minute:g}",
        goal=f"{BUDGET.per_minute:g} or less",
        met=most <= BUDGET.per_minute,
    )
    yield Row("  requests a minute", number_of(sent / (end + WARM_UP_SECONDS) * 60), f"{BUDGET.per_minute:g}")
    yield Row(
        "  interval of those at rest",
        f"{number_of(plan.interval(others[0]))} s",
        f"{interval:g} s",
    )


def _live(plan: Plan, upgrading: set[str], seconds: int) -> tuple[dict[str, list[float]], int, int]:
    """Ring every second; return when those that upgrade were polled, all requests, and the most in any 60 s."""
    polled: dict[str, list[float]] = {key: [] for key in upgrading}
    window: deque[float] = deque()
    sent = most = 0
    for second in range(seconds):
        now = float(second)
        turn = plan.take(now)
        for due in turn.polls:
            key = due.scale_set_id
            if key in upgrading:
                polled[key].append(now)
            plan.finished(key, now + POLL_SECONDS, active=key in upgrading, found=True)
        sent += len(turn.polls)
        window.extend([now] * len(turn.polls))
        while window and window[0] <= now - 60:
            window.popleft()
        most = max(most, len(window))
    return polled, sent, most
