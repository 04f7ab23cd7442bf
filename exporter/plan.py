"""Whom to poll now, within the budget of one subscription.

Pure: no clock, no loop, no I/O. ``now`` comes in, in seconds; it must never run backwards, and for phases that
outlive a restart it must be near the wall clock.

Theory of operation. Azure's calls are the scarce resource. A plan holds when each scale set is due and what the
token bucket holds; ``take`` spends a token for each poll that it hands out, ``spend`` for each further request that
a poll turned out to need, so that no 60 seconds see more than the budget.

Scale sets whose upgrade is active come first, at ``active_interval``; those at rest share what is left, the one
that has waited longest first, each at its own interval or slower. "Slower" is one factor for all of them, taken in
steps of 2 % so that it seldom changes. A first poll is due at once. From then on a due time is where the scale
set's phase, a hash of its id, falls in its interval: due times spread evenly, no burst repeats, and two restarts
give the same phases.

While the subscription is paused nobody is polled; whoever comes due is named once, as throttled, and keeps its turn.
"""

from collections import Counter, deque
from dataclasses import dataclass
from hashlib import sha256
from heapq import heappop, heappush
from math import ceil, floor, log

WINDOW_SECONDS = 60.0
FIRST_TOKENS = 100
"""The bucket starts with these, so that a small fleet shows at once."""
BUCKET_SECONDS = 5.0
"""What the bucket holds at most after that, as seconds of refill: a late ring loses nothing, a long rest is no burst."""
ACTIVE_SHARE = 0.8
"""Of the budget, what active scale sets may take together: those at rest are never starved."""
STRETCH_STEP = 1.02
NOT_FOUND_FACTOR = 4


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent on one subscription."""

    per_minute: float
    """Requests in any 60 seconds."""
    shortest_interval: float
    """Seconds between two polls of one scale set at least: Azure grants each 12 a minute."""


@dataclass(frozen=True, slots=True)
class Due:
    """A scale set whose turn it is."""

    scale_set_id: str
    since: float
    """When it came due."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What ``take`` hands out."""

    polls: tuple[Due, ...] = ()
    throttled: tuple[Due, ...] = ()
    """Came due, and must wait for the end of the pause."""


@dataclass(slots=True)
class _Target:
    """One scale set in the plan. ``place`` is where it stands in a queue; ``None`` while it is being polled."""

    interval: float
    phase: float
    active: bool = False
    found: bool = True
    finished: bool = False
    """Whether it has been polled before."""
    place: "_Place | None" = None


_Place = tuple[float, int, str]
"""Due time, a number that keeps the order of arrival, scale set id."""


class Plan:
    """The plan of one subscription."""

    def __init__(self, budget: Budget, active_interval: float, now: float) -> None:
        self._budget = budget
        self._active_interval = active_interval
        self._targets: dict[str, _Target] = {}
        self._active: list[_Place] = []
        self._resting: list[_Place] = []
        self._demand: Counter[tuple[bool, float]] = Counter()
        self._arrivals = 0
        self._paused_until = 0.0
        self._named: list[_Place] = []
        self._tokens = float(FIRST_TOKENS)
        self._refilled = now
        self._spent: deque[float] = deque()

    def add(self, scale_set_id: str, interval: float, now: float) -> None:
        """Take in a scale set, to be polled as soon as the bucket allows. ``interval`` is the one at rest."""
        target = self._targets[scale_set_id] = _Target(interval, _phase(scale_set_id))
        self._count(target, 1)
        self._enqueue(scale_set_id, target, now)

    def change(self, scale_set_id: str, interval: float, now: float) -> None:
        """Give a scale set another interval at rest; it keeps its phase."""
        target = self._targets[scale_set_id]
        self._count(target, -1)
        target.interval = interval
        self._count(target, 1)
        if target.place is not None and target.place[0] > now:
            self._enqueue(scale_set_id, target, _next(target.phase, self._in_force(target), now))

    def remove(self, scale_set_id: str) -> None:
        """Forget a scale set."""
        self._count(self._targets.pop(scale_set_id), -1)

    def take(self, now: float) -> Turn:
        """Return whom to poll now; each must come back through ``finished``."""
        if now < self._paused_until:
            return Turn(throttled=self._name_the_due(now))
        for named in self._named:
            self._requeue(named)
        self._named = []
        self._refill(now)
        polls = []
        for queue in (self._active, self._resting):
            while self._may_spend() and (place := self._pop(queue, now)) is not None:
                self._targets[place[2]].place = None
                self.spend(1, now)
                polls.append(Due(place[2], place[0]))
        return Turn(polls=tuple(polls))

    def spend(self, requests: int, now: float) -> None:
        """Account for requests that were sent; the bucket may owe them."""
        self._tokens -= requests
        self._spent.extend([now] * requests)

    def finished(self, scale_set_id: str, now: float, *, active: bool, found: bool) -> float:
        """Say that the poll has ended, whether an upgrade is now active, and whether Azure found the scale set.

        Returns the interval now in force for it, in seconds.
        """
        target = self._targets[scale_set_id]
        as_before = target.finished and (target.active, target.found) == (active, found)
        if not as_before:
            self._count(target, -1)
            target.finished, target.active, target.found = True, active, found
            self._count(target, 1)
        interval = self._in_force(target)
        # When only the stretch has changed, the next time in phase may be moments away: let half an interval pass, or
        # a growing stretch would double the demand that it is to bring down.
        earliest = now + interval / 2 if as_before else now
        self._enqueue(scale_set_id, target, _next(target.phase, interval, earliest))
        return interval

    def pause(self, until: float) -> bool:
        """Poll nobody before ``until``; then start with an empty bucket, so that all come back at its pace.

        Returns whether that is later than an earlier pause says: none is ever shortened.
        """
        if until <= self._paused_until:
            return False
        self._paused_until = until
        self._tokens = min(self._tokens, 0.0)
        self._refilled = max(self._refilled, until)
        return True

    def interval(self, scale_set_id: str) -> float:
        """Return the interval now in force for a scale set, in seconds."""
        return self._in_force(self._targets[scale_set_id])

    def _wish(self, target: _Target) -> tuple[bool, float]:
        """Return whether it comes first, and the interval it would have, were the budget endless."""
        if target.active:
            interval = min(self._active_interval, target.interval)
        else:
            interval = target.interval * (1 if target.found else NOT_FOUND_FACTOR)
        return target.active, max(interval, self._budget.shortest_interval)

    def _count(self, target: _Target, number: int) -> None:
        """Count the demand of a scale set in or out."""
        wish = self._wish(target)
        self._demand[wish] += number
        if not self._demand[wish]:
            del self._demand[wish]

    def _in_force(self, target: _Target) -> float:
        active, interval = self._wish(target)
        rate = self._budget.per_minute / WINDOW_SECONDS
        wanted_by_active = sum(number / each for (first, each), number in self._demand.items() if first)
        stretch = _stretch(wanted_by_active / (rate * ACTIVE_SHARE))
        if not active:
            wanted = sum(number / each for (first, each), number in self._demand.items() if not first)
            stretch = _stretch(wanted / (rate - wanted_by_active / stretch))
        return interval * stretch

    def _enqueue(self, scale_set_id: str, target: _Target, due: float) -> None:
        self._arrivals += 1
        target.place = (due, self._arrivals, scale_set_id)
        self._requeue(target.place)

    def _requeue(self, place: _Place) -> None:
        target = self._targets.get(place[2])
        if target is not None and target.place is place:
            heappush(self._active if target.active else self._resting, place)

    def _pop(self, queue: list[_Place], now: float) -> _Place | None:
        """Take the first that is due out of a queue, past those that have left it or moved."""
        while queue and queue[0][0] <= now:
            place = heappop(queue)
            target = self._targets.get(place[2])
            if target is not None and target.place is place:
                return place
        return None

    def _name_the_due(self, now: float) -> tuple[Due, ...]:
        named = []
        for queue in (self._active, self._resting):
            while (place := self._pop(queue, now)) is not None:
                named.append(place)
        self._named += named
        return tuple(Due(place[2], place[0]) for place in named)

    def _refill(self, now: float) -> None:
        rate = self._budget.per_minute / WINDOW_SECONDS
        room = max(max(1.0, rate * BUCKET_SECONDS) - self._tokens, 0.0)
        self._tokens += min(room, max(0.0, now - self._refilled) * rate)
        self._refilled = max(self._refilled, now)
        while self._spent and self._spent[0] <= now - WINDOW_SECONDS:
            self._spent.popleft()

    def _may_spend(self) -> bool:
        return self._tokens >= 1 and len(self._spent) < max(1, floor(self._budget.per_minute))


def _phase(scale_set_id: str) -> float:
    """Return where in its interval a scale set is polled, from 0 to 1."""
    return int.from_bytes(sha256(scale_set_id.encode()).digest()[:6], "big") / 2**48


def _next(phase: float, interval: float, earliest: float) -> float:
    """Return the first time after ``earliest`` at which a phase falls in its interval."""
    return (floor(earliest / interval - phase) + 1 + phase) * interval


def _stretch(load: float) -> float:
    """Return the factor, 1 or more, that brings a load down to 1, in steps of ``STRETCH_STEP``."""
    return 1.0 if load <= 1 else STRETCH_STEP ** ceil(log(load, STRETCH_STEP) - 1e-9)
