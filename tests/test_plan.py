"""The plan: whom to poll now, within the budget. Time is simulated, seconds a step."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
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


def run(
    plan: Plan, seconds: int, *, active: frozenset[str] = frozenset(), since: float = NOW
) -> dict[str, list[float]]:
    """Ring every second and let each poll end at once; return when each scale set was polled."""
    polled: dict[str, list[float]] = {}
    for second in range(seconds):
        now = since + second
        turn = plan.take(now)
        for key in ids(turn):
            polled.setdefault(key, []).append(now)
        finish(plan, turn, now, active=active)
    return polled


def gaps(times: list[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(times)]


def most_in_a_minute(times: Sequence[float]) -> int:
    """Return the most requests in any 60 seconds, be it a minute of the clock or not."""
    most = first = 0
    for last, time in enumerate(times):
        while times[first] <= time - 60:
            first += 1
        most = max(most, last - first + 1)
    return most


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


@pytest.mark.parametrize(
    ("at_most", "taken", "more", "left"),
    [
        pytest.param(0, [], True, ["/0", "/1", "/2"], id="no slot is free"),
        pytest.param(2, ["/0", "/1"], True, ["/2"], id="fewer slots than are due"),
        pytest.param(3, ["/0", "/1", "/2"], True, [], id="just as many: there may be more"),
        pytest.param(4, ["/0", "/1", "/2"], False, [], id="more slots than are due"),
    ],
)
def test_no_more_are_handed_out_than_asked_for_and_the_others_keep_their_places(
    at_most: int, taken: list[str], more: bool, left: list[str]
):
    plan = plan_of(3)
    turn = plan.take(NOW, at_most)
    assert (ids(turn), turn.more) == (taken, more)
    assert plan.take(NOW + 7).polls == tuple(Due(key, NOW) for key in left)


def test_those_that_are_not_asked_for_spend_nothing():
    plan = plan_of(250)
    assert [len(plan.take(NOW, 30).polls) for _ in range(5)] == [30, 30, 30, 10, 0]


def test_those_that_come_due_in_a_pause_are_named_though_no_slot_is_free():
    plan = plan_of(2)
    plan.pause(NOW + 10)
    assert plan.take(NOW, 0) == Turn(throttled=(Due("/0", NOW), Due("/1", NOW)))


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
    assert active < set(first[:25])
    assert [key in active for key in first[:25]] == 5 * [True, True, True, True, False]
    assert first[4] == "/100"  # of the rest, the one that has waited longest


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
    assert 600.0 <= plan.interval("/0") <= 600.0 * 1.09
    polled = run(plan, 2400)
    assert len(polled) == 4000
    assert all(gap < 1300 for times in polled.values() for gap in gaps(times))


@pytest.mark.parametrize("count", [2000, 4000])
def test_a_full_subscription_is_polled_on_time(count: int):
    plan = plan_of(count)
    under_way: list[str] = []
    late: list[float] = []
    for second in range(20_000):
        for key in under_way:
            plan.finished(key, NOW + second - 0.7, active=False, found=True)
        turn = plan.take(NOW + second)
        under_way = ids(turn)
        late += [NOW + second - due.since for due in turn.polls if second > 3000]
    assert sorted(late)[len(late) * 9 // 10] < 10


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
    assert most_in_a_minute(polled) <= 400


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


def test_a_poll_that_is_postponed_keeps_its_turn_and_costs_no_request():
    plan = plan_of(2, budget=Budget(per_minute=6.0, shortest_interval=10.0))
    assert ids(plan.take(NOW)) == ["/0", "/1"]  # no third one: each keeps room for two retries
    plan.pause(NOW + 100)
    plan.postpone("/0")
    plan.postpone("/1")
    assert plan.take(NOW + 1) == Turn(throttled=(Due("/0", NOW), Due("/1", NOW)))
    assert [ids(plan.take(NOW + seconds)) for seconds in (110, 120)] == [["/0"], ["/1"]]


def test_polls_that_were_postponed_leave_their_room_in_the_window_and_no_more():
    plan = plan_of(6, budget=Budget(per_minute=9.0, shortest_interval=10.0))
    assert len(plan.take(NOW).polls) == 3
    plan.pause(NOW + 100)
    for number in range(3):
        plan.postpone(f"/{number}")
    assert sum(len(plan.take(NOW + 100 + second).polls) for second in range(90)) == 3


def test_further_requests_are_owed_to_the_bucket():
    plan = plan_of(1000)
    finish(plan, plan.take(NOW), NOW)
    plan.spend(50, NOW)
    assert [len(plan.take(NOW + second).polls) for second in (1, 7, 10)] == [0, 0, 16]


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


def test_a_scale_set_is_polled_at_the_ring_that_is_nearest_to_its_turn_and_once():
    plan = plan_of(1, interval=60.0)
    finish(plan, plan.take(NOW), NOW)
    (due,) = plan.take(NOW + 60).polls
    plan.finished("/0", NOW + 60, active=False, found=True)
    turn = due.since + 60
    assert plan.take(turn - 0.6) == Turn()
    assert ids(plan.take(turn - 0.4)) == ["/0"]
    plan.finished("/0", turn - 0.3, active=True, found=True)
    assert plan.take(turn + 0.6) == Turn()


def test_a_late_poll_does_not_cost_the_next_turn():
    plan = plan_of(1)
    finish(plan, plan.take(NOW), NOW)
    (due,) = plan.take(NOW + 600).polls
    finish(plan, plan.take(NOW + 600), NOW + 600)
    plan.finished("/0", due.since + 200, active=False, found=True)  # two thirds of the interval late
    assert plan.take(due.since + 301).polls == (Due("/0", due.since + 300),)


def test_a_clock_that_runs_back_a_little_does_no_harm():
    plan = plan_of(250)
    sent: list[float] = []
    random = Random(3)
    for second in range(1200):
        now = NOW + second - random.choice([0.0, 0.0, 0.5, 3.0])
        turn = plan.take(now)
        finish(plan, turn, now - 0.2)
        sent += [now] * len(turn.polls)
    assert len(sent) == pytest.approx(250 * 4.5, abs=125)
    assert most_in_a_minute(sorted(sent)) <= 400


# --- The window --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("seconds", [0, 3, 25])
def test_no_minute_exceeds_the_budget_when_every_request_is_sent_again(share: float, seconds: int):
    """Polls take so long, and their retries come at the very end."""
    budget = Budget(per_minute=800 * share, shortest_interval=5 / share)
    plan = plan_of(1000, budget=budget, interval=60.0)
    sent: list[float] = []
    ending: dict[int, list[Turn]] = {}
    for second in range(600):
        now = NOW + second
        turn = plan.take(now)
        ending.setdefault(second + seconds, []).append(turn)
        for ended in ending.pop(second, []):
            for _ in ended.polls:
                plan.spend(2, now)
            finish(plan, ended, now)
            sent += [now] * 3 * len(ended.polls)  # and the first was waiting for a free connection until now
    assert most_in_a_minute(sent) <= budget.per_minute
    assert len(sent) > budget.per_minute * 5


def test_a_scale_set_removed_while_it_is_polled_has_spent_its_request():
    plan = plan_of(3, budget=Budget(per_minute=8.0, shortest_interval=60.0))
    sent = 0
    for number in range(59):
        sent += len(turn := ids(plan.take(NOW + number)))
        for key in turn:
            plan.remove(key)
            plan.add(f"{key}/{number}", 300.0, NOW + number)
    assert sent == 6  # and two are kept for retries


# --- What Azure says is left -------------------------------------------------------------------------------


def slow(plan: Plan, left: int, now: float) -> None:
    plan.left("Microsoft.Compute/GetVMScaleSet3Min", left, now)


def at_rest(count: int, budget: Budget = HALF) -> tuple[Plan, float]:
    """Return a plan whose scale sets have all been polled and keep their phases, and when that is."""
    plan = plan_of(count, budget=budget)
    run(plan, 600)
    return plan, NOW + 600


@pytest.mark.parametrize(
    ("left", "in_force"), [(2000, 300.0), (240, 300.0), (239, 333.3), (120, 600.0), (48, 1500.0), (0, 3000.0)]
)
def test_the_less_is_left_of_azures_budget_the_longer_the_interval(left: int, in_force: float):
    plan, now = at_rest(1)
    slow(plan, left, now)
    assert plan.interval("/0") == pytest.approx(in_force, abs=0.1)


@pytest.mark.parametrize(("count", "active"), [(100, 0), (100, 100), (100, 20), (2000, 0), (2000, 20)])
def test_polls_slow_down_to_the_interval_in_force(count: int, active: int):
    plan, now = at_rest(count)
    keys = frozenset(f"/{number}" for number in range(active))
    run(plan, 600, active=keys, since=now)

    def polls(seconds: int, left: int) -> Counter[bool]:
        nonlocal now
        made: Counter[bool] = Counter()
        for _ in range(seconds):
            now += 1
            slow(plan, left, now)
            turn = plan.take(now)
            made.update(key in keys for key in ids(turn))
            finish(plan, turn, now, active=keys)
        return made

    now += 600
    usual = polls(1500, 2000)
    polls(600, 48)
    slowed = polls(1500, 48)
    assert slowed[True] == pytest.approx(usual[True] / 5, rel=0.1)
    assert slowed[False] == pytest.approx(usual[False] / 5, rel=0.1)


def test_a_slowdown_begins_with_the_next_turn_and_ends_with_it_and_neither_is_a_burst():
    plan, now = at_rest(300)
    made: list[int] = []
    for second in range(900):
        slow(plan, 0 if 300 <= second < 600 else 2000, now + second)
        turn = plan.take(now + second)
        finish(plan, turn, now + second)
        made.append(len(turn.polls))
    assert sum(made[:300]) == 300
    assert sum(made[300:600]) == pytest.approx(30, abs=12)
    assert sum(made[600:]) == pytest.approx(246, abs=12)  # the pace rises a minute after the last low word
    assert max(made[600:]) <= max(made[:300])


def test_slowed_down_every_scale_set_is_still_polled_at_its_interval_in_force():
    plan, now = at_rest(300)
    slow(plan, 0, now)
    polled: dict[str, list[float]] = {}
    for second in range(9000):
        slow(plan, 0, now + second)
        turn = plan.take(now + second)
        finish(plan, turn, now + second)
        for key in ids(turn):
            polled.setdefault(key, []).append(now + second)
    assert len(polled) == 300
    assert {round(gap, -2) for times in polled.values() for gap in gaps(times)} == {3000.0}
    tenths = Counter(int(times[0] - now) // 300 for times in polled.values())
    assert max(tenths.values()) <= 50  # of 300 in ten intervals: they do not come together


def test_slowed_down_new_scale_sets_show_as_soon_as_the_bucket_allows():
    plan, now = at_rest(100)
    slow(plan, 0, now)
    plan.take(now)
    for number in range(50):
        plan.add(f"/new/{number}", 300.0, now)
    shown = [key for second in range(60) for key in ids(plan.take(now + second)) if key.startswith("/new")]
    assert len(shown) >= 35


# --- A reload ----------------------------------------------------------------------------------------------


def test_a_reload_that_changes_nothing_changes_nothing():
    plan = plan_of(200)
    plan.adjust(HALF, 60.0, NOW)
    assert len(plan.take(NOW).polls) == FIRST_TOKENS


def test_a_reload_keeps_due_times_that_it_does_not_concern():
    plan, now = at_rest(100)
    other, _ = at_rest(100)
    other.adjust(Budget(per_minute=200.0, shortest_interval=20.0), 30.0, now)
    assert run(plan, 300, since=now) == run(other, 300, since=now)


def test_a_reload_gives_active_scale_sets_their_new_interval_at_once():
    plan, now = at_rest(10)
    keys = frozenset({"/1", "/2"})
    run(plan, 600, active=keys, since=now)
    plan.adjust(HALF, 20.0, now + 600)
    assert (plan.interval("/0"), plan.interval("/1")) == (300.0, 20.0)
    assert {"/1", "/2"} <= set(run(plan, 20, active=keys, since=now + 600))


@pytest.mark.parametrize("shares", [(0.05, 0.5), (0.5, 0.05), (0.5, 1.0)])
def test_a_reload_is_no_burst(shares: tuple[float, float]):
    before, after = (Budget(per_minute=800 * share, shortest_interval=5 / share) for share in shares)
    plan, now = at_rest(1500, budget=before)
    run(plan, 3600, since=now)
    now += 3600
    plan.adjust(after, 60.0, now)
    made = [len(ids(plan.take(now)))]
    for second in range(1, 120):
        turn = plan.take(now + second)
        finish(plan, turn, now + second)
        made.append(len(turn.polls))
    pace = min(after.per_minute, 300.0) / 60  # a second
    assert max(made) <= max(before.per_minute, after.per_minute) / 60 * 5
    assert max(sum(made[second : second + 60]) for second in range(60)) <= after.per_minute
    assert sum(made[60:]) >= pace * 60 * 0.75


def test_a_larger_budget_brings_forward_what_the_smaller_one_had_put_off():
    plan, now = at_rest(1500, budget=Budget(per_minute=40.0, shortest_interval=100.0))
    run(plan, 3600, since=now)
    assert plan.interval("/0") > 2000
    plan.adjust(HALF, 60.0, now + 3600)
    assert plan.interval("/0") == 300.0
    assert len(run(plan, 450, since=now + 3600)) == 1500


# --- Whatever happens --------------------------------------------------------------------------------------


@dataclass
class Day:
    """A day of a subscription: what was sent, and what each scale set had to wait for."""

    random: Random
    scale_sets: int
    share: float = 0.25
    now: float = NOW
    sent: list[float] = field(default_factory=list)
    shares: list[tuple[float, float]] = field(default_factory=list)
    """Since when which share of a minute's requests was in force."""
    waits: list[float] = field(default_factory=list)
    """From a poll's end to the start of the next, in intervals in force, but for pauses and slowdowns."""
    awake: float = 0.0
    """Seconds that passed, but for them."""
    active: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.plan = Plan(self.budget, 60.0, NOW)
        self.paused_until = self.slow_until = NOW
        self.shares.append((NOW, self.budget.per_minute))
        self.under_way: dict[str, float] = {}
        self.rested: dict[str, tuple[float, float]] = {}
        """Since when it has not been polled, and the interval then in force."""
        self.added = 0
        for _ in range(self.scale_sets):
            self.add()

    @property
    def budget(self) -> Budget:
        return Budget(per_minute=800 * self.share, shortest_interval=5 / self.share)

    def add(self) -> None:
        key = f"/{self.added}"
        self.plan.add(key, 300.0, self.now)
        self.rested[key] = (self.awake, self.plan.interval(key))
        self.added += 1

    def remove(self, key: str) -> None:
        if key in self.under_way:
            self.sent.append(self.now)
        self.plan.remove(key)
        self.under_way.pop(key, None)
        del self.rested[key]
        self.active.discard(key)

    def adjust(self, share: float) -> None:
        self.share = share
        self.plan.adjust(self.budget, self.random.choice([30.0, 60.0]), self.now)
        self.shares.append((self.now, self.budget.per_minute))

    def pause(self, seconds: float) -> None:
        if self.now >= self.paused_until:
            self.paused_until = self.now + seconds
            self.plan.pause(self.paused_until)

    def slow_down(self) -> None:
        self.plan.left("Microsoft.Compute/GetVMScaleSet3Min", self.random.choice([2000, 60]), self.now)
        self.slow_until = self.now + 180

    def ring(self, now: float, *, fails: bool) -> None:
        if now >= max(self.paused_until, self.slow_until):
            self.awake += now - self.now
        self.now = now
        for due in self.plan.take(now).polls:
            key = due.scale_set_id
            since, interval = self.rested.pop(key)
            interval = max(interval, self.plan.interval(key))
            self.waits.append((self.awake - since) / interval)
            self.under_way[key] = now
        for key in [key for key in self.under_way if self.random.random() < 0.6]:
            del self.under_way[key]
            requests = 3 if fails else 1 + (self.random.random() < 0.01)
            self.plan.spend(requests - 1, now)
            self.sent += [now] * requests
            interval = self.plan.finished(key, now, active=key in self.active, found=True)
            self.rested[key] = (self.awake, interval)


@pytest.fixture(scope="module")
def day() -> Day:
    """Live through a day of trouble, ring by ring."""
    random = Random(11)
    day = Day(random, scale_sets=2000)
    second = 0
    while second < 86_400:
        second += 1 if random.random() < 0.999 else random.randrange(2, 90)  # a late ring
        hour, of_hour = divmod(second, 3600)
        if second % 300 == 0:
            day.active = set(random.sample(sorted(day.rested), random.randrange(20, 60)))
        if second % 600 == 0:
            for key in random.sample(sorted(day.rested), 10):
                day.remove(key)
                day.add()
        if random.random() < 1 / 5000:
            day.pause(random.choice([5.0, 60.0, 1200.0]))
        if hour in {9, 16} and of_hour == 0:
            day.adjust(0.125 if hour == 9 else 0.25)
        if hour == 20 and of_hour < 900 and second % 10 == 0:
            day.slow_down()
        day.ring(NOW + second, fails=hour in {3, 13} and of_hour < 1200)
    return day


def test_in_a_day_no_minute_sees_more_requests_than_the_share(day: Day):
    assert len(day.sent) > 150_000
    for (since, share), (until, _) in itertools.pairwise([*day.shares, (NOW + 100_000, 0.0)]):
        first = since + 60 if share == 100 else since  # the minute before was granted more
        assert most_in_a_minute([time for time in day.sent if first <= time < until]) <= share


def test_in_a_day_no_scale_set_waits_much_longer_than_its_interval_in_force(day: Day):
    assert max(day.waits) < 3
    waits = sorted(day.waits)
    assert waits[len(waits) * 99 // 100] < 2


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
        for slots in (random.randrange(10), 1000):
            taken = ids(plan.take(now, slots))
            assert len(taken) <= slots
            assert set(taken) <= known - in_flight
            in_flight.update(taken)
            sent += [now] * len(taken)
        for key in [key for key in sorted(in_flight) if random.random() < 0.7]:
            plan.finished(key, now, active=key in active, found=True)
            in_flight.discard(key)
    assert most_in_a_minute(sent) <= max(1, budget.per_minute)


def test_a_fleet_that_changed_or_shrank_wants_what_one_wants_that_was_always_so():
    plan = plan_of(6000, interval=300.0)
    for number in range(6000):
        plan.change(f"/{number}", 400.0, NOW)
    assert plan.interval("/0") == plan_of(6000, interval=400.0).interval("/0") > 400.0
    for number in range(3000):
        plan.remove(f"/{number}")
    assert plan.interval("/5999") == plan_of(3000, interval=400.0).interval("/0") > 400.0


def test_a_scale_set_that_is_due_or_being_polled_while_its_interval_changes_loses_nothing():
    plan = plan_of(1)
    plan.change("/0", 600.0, NOW)
    assert ids(plan.take(NOW)) == ["/0"]
    plan.change("/0", 120.0, NOW)
    assert plan.take(NOW + 119.0) == Turn()
    assert plan.finished("/0", NOW + 119.0, active=False, found=True) == 120.0


def test_a_pause_as_long_as_the_one_before_is_no_longer_one():
    plan = plan_of(1)
    assert plan.paused_for(NOW) == 0
    assert plan.pause(NOW + 60.0) is True
    assert [plan.paused_for(NOW + seconds) for seconds in (0, 59, 60, 61)] == [60, 1, 0, 0]
    assert plan.pause(NOW + 60.0) is False


def test_who_must_wait_for_the_end_of_a_pause_is_told_since_when():
    plan = plan_of(1)
    plan.pause(NOW + 60.0)
    assert plan.take(NOW + 5.0) == Turn(throttled=(Due("/0", NOW),))


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 300), st.floats(0.02, 1.0), st.floats(0.0, 1.0), st.sampled_from([10.0, 60.0, 300.0]))
def test_whatever_the_load_nobody_is_starved(count: int, share: float, active_share: float, interval: float):
    plan = plan_of(
        count, budget=Budget(per_minute=800 * share, shortest_interval=5 / share), interval=interval
    )
    active = frozenset(f"/{number}" for number in range(round(count * active_share)))
    polled: dict[str, list[float]] = {}
    seconds = 0
    while not seconds or seconds < 8 * max(plan.interval(f"/{number}") for number in range(count)):
        for key, times in run(plan, 60, active=active, since=NOW + seconds).items():
            polled.setdefault(key, []).extend(times)
        seconds += 60
    assert len(polled) == count
    slowest_round = count / (800 * share / (60 + 3 * 1.3) * 0.2)  # those at rest get a fifth, come what may
    assert max(times[0] for times in polled.values()) <= NOW + slowest_round + 60
    for key, times in polled.items():
        in_force = plan.interval(key)
        first, *others = gaps([*times, NOW + seconds])
        assert first <= 2 * in_force + 60  # the first round may have filled the window
        assert max(others, default=0.0) <= 2 * in_force + 10  # while the fleet becomes active, turns lengthen


def test_in_a_full_subscription_nobody_comes_back_before_half_an_interval_after_the_first_poll():
    plan = plan_of(6000)
    polled = run(plan, 2500)
    interval = plan.interval("/0")
    first = [gaps(times)[0] for times in polled.values() if len(times) > 1]
    assert len(first) > 5000
    assert interval / 2 - 1 <= min(first) < interval * 0.6


def test_when_a_subscription_fills_up_the_next_turn_is_half_an_interval_after_the_last_or_later():
    waits = []
    for number in range(50):
        plan = Plan(HALF, 60.0, NOW)
        plan.add(f"/{number}", 300.0, NOW)
        finish(plan, plan.take(NOW), NOW)
        plan.pause(NOW + 301.0)
        (last,) = plan.take(NOW + 300.0).throttled
        assert ids(plan.take(NOW + 302.0)) == [last.scale_set_id]
        for other in range(1000, 2200):
            plan.add(f"/{other}", 60.0, NOW + 302.0)
        interval = plan.finished(last.scale_set_id, NOW + 302.0, active=False, found=True)
        plan.pause(NOW + 9999.0)
        throttled = plan.take(NOW + 9998.0).throttled
        (following,) = (due.since for due in throttled if due.scale_set_id == last.scale_set_id)
        waits.append((following - last.since) / interval)
    assert 0.5 <= min(waits) < 0.6


def test_where_there_is_room_the_next_turn_may_come_at_once():
    soon = 0
    for tenth in range(3000):
        now = NOW + tenth / 10
        plan = Plan(HALF, 60.0, now)
        plan.add("/0", 300.0, now)
        finish(plan, plan.take(now), now)
        soon += ids(plan.take(now + 0.2)) == ["/0"]
    assert soon > 0


def test_a_few_that_are_active_keep_the_active_interval():
    plan = plan_of(30)
    finish(plan, plan.take(NOW), NOW, active=frozenset(f"/{number}" for number in range(30)))
    assert {plan.interval(f"/{number}") for number in range(30)} == {60.0}


@pytest.mark.parametrize(("active", "resting"), [(0, 3000), (200, 1200), (400, 600), (600, 3000)])
def test_a_full_subscription_is_asked_for_all_that_its_budget_lasts_for_and_no_more(
    active: int, resting: int
):
    plan = plan_of(active + resting)
    for number in range(active + resting):
        plan.finished(f"/{number}", NOW, active=number < active, found=True)
    wanted = sum(1.0 / plan.interval(f"/{number}") for number in range(active + resting))
    held = 60.0 + 3 * 1.3  # a poll holds its place, and those of two retries, while it is under way
    assert 0.95 < wanted / (HALF.per_minute / held) <= 1.0


def test_a_budget_of_one_request_a_minute_is_not_exceeded_in_the_long_run_either():
    plan = plan_of(10, budget=Budget(per_minute=1.0, shortest_interval=10.0))
    assert sum(1.0 / plan.interval(f"/{number}") for number in range(10)) <= 1.0 / 60.0


def test_a_request_counts_for_a_minute_and_no_longer():
    plan = plan_of(2, budget=Budget(per_minute=1.0, shortest_interval=10.0))
    turn = plan.take(NOW)
    finish(plan, turn, NOW)
    assert ids(turn) == ["/0"]
    assert ids(plan.take(NOW + 59.0)) == []
    assert ids(plan.take(NOW + 60.0)) == ["/1"]


@pytest.mark.parametrize(("per_minute", "at_once"), [(1.0, 1), (12.0, 1), (24.0, 2), (200.0, 16)])
def test_the_bucket_holds_five_seconds_of_another_budget_and_one_request_at_least(
    per_minute: float, at_once: int
):
    plan = plan_of(100)
    plan.adjust(Budget(per_minute, shortest_interval=10.0), 60.0, NOW)
    assert len(plan.take(NOW).polls) == at_once


def test_a_bucket_that_is_fuller_than_it_will_be_again_does_not_grow():
    plan = plan_of(0)
    for second in range(60):
        plan.take(NOW + second)
    for number in range(1000):
        plan.add(f"/{number}", 300.0, NOW + 60)
    assert len(plan.take(NOW + 60).polls) == FIRST_TOKENS


def test_half_a_second_before_its_turn_a_scale_set_may_be_polled():
    plan = plan_of(0)
    plan.add("/0", 300.0, NOW + 0.5)
    assert ids(plan.take(NOW - 0.125)) == []
    assert ids(plan.take(NOW)) == ["/0"]


def test_the_moment_a_pause_ends_is_after_it():
    plan = plan_of(1)
    plan.pause(NOW + 60.0)
    assert plan.take(NOW + 60.0) == Turn()


# Mutants that live
#   `if target.place is not None and target.due >= now + turns:`: to the very moment, a turn is neither late nor early.
#   `self._arrivals = 1` and `self._arrivals += 2`: numbers that keep an order, whichever they are.
#   `self._in_a_row = 1`: nobody is active before its first poll, so the first one is for one at rest.
#   `self._paused_until = 1.0`: a second after the epoch.
#   `target = self._targets[scale_set_id] = _Target(interval, phase, earned, None)`: it is put into its queue at once, with its due time.
#   `if self._pace == 2 or not target.finished:`: at the full pace a whole poll is earned each time.
#   `if target.earned <= 1:`: what is earned begins at a number of 48 bits, and does not meet 1.
#   `return int.from_bytes(digest[:6], ) / 2**48, int.from_bytes(digest[6:12], "big") / 2**48` and
#   `return int.from_bytes(digest[:6], "big") / 2**48, int.from_bytes(digest[6:12], ) / 2**48`: big is what Python takes it for.
#   `return int.from_bytes(digest[:7], "big") / 2**48, int.from_bytes(digest[6:12], "big") / 2**48`: of a phase only the
#   fraction counts, and this one is as good.
#   `return 1.0 if load < 1 else STRETCH_STEP ** ceil(log(load, STRETCH_STEP) - 1e-9)`: the step to the power of 0 is 1.
#   `return 1.0 if load <= 1 else STRETCH_STEP ** ceil(log(load, STRETCH_STEP) + 1e-9)`: a load that is a power of the step
#   to a billionth may come out one step higher.
