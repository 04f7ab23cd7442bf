"""The plan: whom to poll now, within the budget. Time is simulated, seconds a step."""

import itertools
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.plan import FIRST_TOKENS, Budget, Due, Plan, Turn

HALF = Budget(per_minute=400.0, shortest_interval=10.0)
NOW = 1_700_000_000.0


def plan_of(
    count: int, *, budget: Budget = HALF, interval: float = 300.0, active_interval: float = 60.0
) -> Plan:
    plan = Plan(budget, active_interval, NOW)
    for number in range(count):
        plan.add(f"/{number}", interval, NOW)
    return plan


def ids(turn: Turn) -> list[str]:
    return [due.scale_set_id for due in turn.polls]


def finish(plan: Plan, turn: Turn, now: float, *, active: frozenset[str] = frozenset()) -> None:
    for key in ids(turn):
        plan.finished(key, now, active=key in active, found=True)


def run(plan: Plan, seconds: int, *, active: frozenset[str] = frozenset()) -> dict[str, list[float]]:
    """Ring every second and let each poll end at once; return when each scale set was polled."""
    polled: dict[str, list[float]] = {}
    for second in range(seconds):
        now = NOW + second
        turn = plan.take(now)
        for key in ids(turn):
            polled.setdefault(key, []).append(now)
        finish(plan, turn, now, active=active)
    return polled


def gaps(times: list[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(times)]


def test_the_first_polls_come_at_once():
    assert ids(plan_of(3).take(NOW)) == ["/0", "/1", "/2"]


def test_the_first_burst_is_what_the_bucket_starts_with():
    plan = plan_of(250)
    assert len(ids(plan.take(NOW))) == FIRST_TOKENS
    assert ids(plan.take(NOW)) == []
    assert len(ids(plan.take(NOW + 60))) == 33  # five seconds of refill: a long rest is no burst


def test_a_scale_set_is_not_handed_out_again_before_its_poll_has_finished():
    plan = plan_of(1)
    turn = plan.take(NOW)
    assert ids(plan.take(NOW + 3600)) == []
    finish(plan, turn, NOW + 3600)
    assert ids(plan.take(NOW + 3900)) == ["/0"]


def test_a_poll_knows_since_when_it_was_due():
    plan = plan_of(1)
    assert plan.take(NOW + 7).polls == (Due("/0", NOW),)


def test_polls_follow_at_the_interval_and_spread_over_it():
    polled = run(plan_of(60), 1500)
    for times in polled.values():
        assert set(gaps(times[1:])) == {300.0}
    seconds = Counter(times[1] for times in polled.values())
    assert max(seconds.values()) <= 4
    assert max(seconds) - min(seconds) > 250


def test_two_restarts_give_the_same_phases():
    first, later = plan_of(20), Plan(HALF, 60.0, NOW + 100)
    for number in range(20):
        later.add(f"/{number}", 300.0, NOW + 100)
    finish(first, first.take(NOW), NOW)
    finish(later, later.take(NOW + 100), NOW + 100)
    at = {
        key: due
        for turn in (first.take(NOW + 1000),)
        for key, due in ((d.scale_set_id, d.since) for d in turn.polls)
    }
    again = {due.scale_set_id: due.since for due in later.take(NOW + 1000).polls}
    assert len(at) == len(again) == 20
    assert all((at[key] - again[key]) % 300 == pytest.approx(0, abs=1e-3) for key in at)


def test_an_active_scale_set_is_polled_at_the_active_interval_and_goes_back_when_its_upgrade_ends():
    plan = plan_of(2)
    finish(plan, plan.take(NOW), NOW, active=frozenset({"/1"}))
    assert (plan.interval("/0"), plan.interval("/1")) == (300.0, 60.0)
    polled = run(plan, 600, active=frozenset({"/1"}))
    assert len(polled["/1"]) == 10
    plan.finished("/1", NOW + 600, active=False, found=True)
    assert plan.interval("/1") == 300.0


def test_an_active_scale_set_is_never_polled_less_often_than_at_rest():
    plan = plan_of(1, interval=20.0)
    finish(plan, plan.take(NOW), NOW, active=frozenset({"/0"}))
    assert plan.interval("/0") == 20.0


def test_active_scale_sets_come_first():
    plan = plan_of(200)
    active = frozenset(f"/{number}" for number in range(80, 100))
    finish(plan, plan.take(NOW), NOW, active=active)
    first = ids(plan.take(NOW + 400))
    assert set(first[:20]) == active
    assert "/100" in first[20:]  # of the rest, the one that has waited longest


def test_a_scale_set_that_is_not_found_is_asked_for_four_times_less_often():
    plan = plan_of(1)
    plan.take(NOW)
    plan.finished("/0", NOW, active=False, found=False)
    assert plan.interval("/0") == 1200.0


@pytest.mark.parametrize(
    ("share", "wanted", "in_force"),
    [(1.0, 1.0, 5.0), (0.5, 1.0, 10.0), (0.5, 10.0, 10.0), (0.5, 11.0, 11.0), (0.1, 30.0, 50.0)],
)
def test_no_interval_is_shorter_than_azures_grant_for_one_scale_set(
    share: float, wanted: float, in_force: float
):
    plan = plan_of(1, budget=Budget(800 * share, 5 / share), interval=wanted)
    assert plan.interval("/0") == in_force


def test_a_fleet_beyond_the_budget_is_polled_evenly_at_a_longer_interval():
    plan = plan_of(4000)  # at 300 s they would take 800 polls a minute, of which 400 are granted
    assert 600.0 <= plan.interval("/0") <= 600.0 * 1.02
    polled = run(plan, 2400)
    assert len(polled) == 4000
    assert all(gap < 1300 for times in polled.values() for gap in gaps(times))


def test_scale_sets_at_rest_are_not_starved_by_active_ones():
    plan = plan_of(1000)
    active = frozenset(f"/{number}" for number in range(900))  # they alone would take 900 polls a minute
    polled = run(plan, 3600, active=active)
    assert len(polled) == 1000
    assert all(len(polled[f"/{number}"]) >= 8 for number in range(900, 1000))


@pytest.mark.parametrize("count", [50, 1000, 4000])
def test_no_minute_sees_more_than_the_budget(count: int):
    plan = plan_of(count)
    polled = sorted(time for times in run(plan, 1200).values() for time in times)
    for start in polled:
        assert sum(start <= time < start + 60 for time in polled[polled.index(start) :][:500]) <= 400


def test_requests_that_polls_turn_out_to_need_are_paid_from_the_same_budget():
    plan = plan_of(1000)
    taken = 0
    for second in range(60):
        turn = plan.take(NOW + second)
        taken += len(turn.polls)
        for _ in turn.polls:
            plan.spend(3, NOW + second)
    assert taken + 3 * taken <= 400 + 3 * FIRST_TOKENS  # the first burst is out before it is known


def test_a_tiny_budget_still_polls():
    plan = plan_of(3, budget=Budget(per_minute=0.8, shortest_interval=5000.0))
    polled = run(plan, 300)
    assert len(polled) == 3


def test_while_paused_nobody_is_polled_and_whoever_comes_due_is_named_once():
    plan = plan_of(3)
    plan.pause(NOW + 100)
    turn = plan.take(NOW + 1)
    assert (turn.polls, [due.scale_set_id for due in turn.throttled]) == ((), ["/0", "/1", "/2"])
    assert plan.take(NOW + 50) == Turn()


def test_after_a_pause_all_come_back_at_the_buckets_pace_oldest_first():
    plan = plan_of(300)
    plan.pause(NOW + 100)
    plan.take(NOW + 1)
    assert ids(plan.take(NOW + 100)) == []
    assert ids(plan.take(NOW + 103)) == [f"/{number}" for number in range(20)]
    assert max(len(plan.take(NOW + 103 + second).polls) for second in range(1, 30)) <= 7


def test_a_pause_is_never_shortened():
    plan = plan_of(1)
    assert plan.pause(NOW + 100)
    assert not plan.pause(NOW + 10)
    assert plan.take(NOW + 50).polls == ()


def test_a_removed_scale_set_is_never_handed_out():
    plan = plan_of(3)
    plan.remove("/1")
    assert ids(plan.take(NOW)) == ["/0", "/2"]
    plan.remove("/0")
    assert ids(plan.take(NOW + 600)) == []


def test_a_scale_set_removed_during_a_pause_does_not_come_back():
    plan = plan_of(2)
    plan.pause(NOW + 10)
    plan.take(NOW)
    plan.remove("/0")
    assert ids(plan.take(NOW + 20)) == ["/1"]


def test_another_interval_keeps_the_phase():
    plan = plan_of(1)
    finish(plan, plan.take(NOW), NOW)
    plan.change("/0", 600.0, NOW)
    assert plan.interval("/0") == 600.0
    (due,) = plan.take(NOW + 600).polls
    other = Plan(HALF, 60.0, NOW)
    other.add("/0", 600.0, NOW)
    finish(other, other.take(NOW), NOW)
    assert other.take(NOW + 600).polls == (due,)


EVENTS = st.lists(
    st.tuples(st.sampled_from(["add", "remove", "change", "pause", "active"]), st.integers(0, 400)),
    max_size=30,
)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 400), st.floats(0.01, 1.0), EVENTS, st.randoms(use_true_random=False))
def test_whatever_happens_no_minute_exceeds_the_budget_and_nobody_is_polled_twice_at_once(
    count: int, share: float, events: list[tuple[str, int]], random: Random
):
    budget = Budget(per_minute=800 * share, shortest_interval=5 / share)
    plan = plan_of(count, budget=budget)
    known = {f"/{number}" for number in range(count)}
    in_flight: set[str] = set()
    active: set[str] = set()
    sent: list[float] = []
    for second in range(150):
        now = NOW + second
        if second % 5 == 0 and events:
            event, number = events.pop()
            key = f"/{number}"
            match event:
                case "add" if key not in known:
                    plan.add(key, 60.0, now)
                    known.add(key)
                case "remove" if key in known:
                    plan.remove(key)
                    known.discard(key)
                    in_flight.discard(key)
                case "change" if key in known:
                    plan.change(key, 30.0 + number, now)
                case "pause":
                    plan.pause(now + number % 20)
                case "active":
                    active ^= {key}
        taken = ids(plan.take(now))
        assert set(taken) <= known - in_flight
        in_flight.update(taken)
        sent += [now] * len(taken)
        for key in [key for key in sorted(in_flight) if random.random() < 0.7]:
            plan.finished(key, now, active=key in active, found=True)
            in_flight.discard(key)
    for start in set(sent):
        assert sum(start <= time < start + 60 for time in sent) <= max(1, budget.per_minute)
