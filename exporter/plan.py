"""Whom to poll now, within the budget of one subscription.

Pure: no clock, no loop, no I/O. ``now`` comes in, in seconds; it should not run backwards, though a little does no
harm, and for phases that outlive a restart it must be near the wall clock.

Theory of operation. Azure's calls are the scarce resource. A plan holds when each scale set is due and what the
token bucket holds; ``take`` spends a token for each poll that it hands out, ``spend`` for each further request that
a poll turned out to need. Beside the bucket, which sets the pace, stands the window, which makes it exact: a poll
counts in it from when it is handed out until 60 seconds after its end, for its request is sent in between, and
while it lasts with the retries that it may yet need. So no 60 seconds see more requests than the budget, even if each
one fails. A history of many pages can still overdraw it; the bucket then owes what was overdrawn.

Scale sets whose upgrade is active come first, at ``active_interval``, though every fifth poll is for one at rest where
one is due; those at rest share what is left, the one that has waited longest first, each at its own interval or
slower. "Slower" is one factor for all of them, taken in steps of 2 % so that it seldom changes. A first poll is due at
once. From then on a due time is where the scale set's phase, a hash of its id, falls in its interval: due times spread
evenly, no burst repeats, and two restarts give the same phases.

When Azure says that little is left of a budget of its own, the pace falls: each turn earns a scale set only part of
a poll, and with a whole one earned it is polled. Turns stay where they are, so that the slowdown begins and ends
with the next of them, and neither with a burst.

While the subscription is paused nobody is polled; whoever comes due is named once, as throttled, and keeps its turn.
"""

import sys
from collections import Counter, deque
from dataclasses import dataclass
from hashlib import sha256
from heapq import heappop, heappush
from math import ceil, floor, log

from exporter.pace import Pace

WINDOW_SECONDS = 60.0
FIRST_TOKENS = 100
"""The bucket starts with these, so that a small fleet shows at once."""
BUCKET_SECONDS = 5.0
"""What the bucket holds at most after that, as seconds of refill: a late ring loses nothing, a long rest is no burst."""
ACTIVE_SHARE = 0.8
"""Of the budget, what active scale sets may take together: those at rest are never starved."""
ACTIVE_IN_A_ROW = round(ACTIVE_SHARE / (1 - ACTIVE_SHARE))
"""After so many active ones it is the turn of one at rest, however many more are late."""
FURTHER_REQUESTS = 2
"""What the window keeps free for each poll under way: the retries that the client may make."""
HELD_SECONDS = 1.3
"""How long a poll that goes well holds its places in the window: its own time, and the wait for the next ring."""
EARLY_SECONDS = 0.5
"""How long before its turn a scale set may be polled: of two rings, a second apart, the nearer one is meant."""
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
    """When it came due, or will in a moment."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What ``take`` hands out."""

    polls: tuple[Due, ...] = ()
    throttled: tuple[Due, ...] = ()
    """Came due, and must wait for the end of the pause."""
    more: bool = False
    """Whether there may be more to poll now, beyond as many as were asked for."""


@dataclass(slots=True)
class _Target:
    """One scale set in the plan."""

    interval: float
    phase: float
    """Where in its interval its turn comes, from 0 to 1."""
    earned: float
    """How much of its next poll, while the pace is low."""
    due: float
    """When its turn comes, or came."""
    active: bool = False
    found: bool = True
    finished: bool = False
    """Whether it has been polled before."""
    place: "_Place | None" = None
    """Where it stands in a queue; ``None`` while it is being polled."""


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
        self._stretches: dict[bool, float] = {}
        """Of those that are active and of those at rest; made anew when the demand changes."""
        self._heard = Pace()
        self._pace = 1.0
        self._arrivals = 0
        self._in_a_row = 0
        """Active scale sets that were handed out since the last one at rest."""
        self._paused_until = 0.0
        self._named: list[_Place] = []
        self._tokens = float(FIRST_TOKENS)
        self._refilled = now
        self._under_way = 0
        self._orphans = 0
        """Of the polls under way, those whose scale set has been removed."""
        self._spent: deque[float] = deque()

    def add(self, scale_set_id: str, interval: float, now: float) -> None:
        """Take in a scale set, to be polled as soon as the bucket allows. ``interval`` is the one at rest."""
        phase, earned = _hashed(scale_set_id)
        target = self._targets[scale_set_id] = _Target(interval, phase, earned, now)
        self._count(target, 1)
        self._enqueue(scale_set_id, target, now)

    def change(self, scale_set_id: str, interval: float, now: float) -> None:
        """Give a scale set another interval at rest; it keeps its phase."""
        target = self._targets[scale_set_id]
        self._count(target, -1)
        target.interval = interval
        self._count(target, 1)
        if target.place is not None and target.place[0] > now:
            self._enqueue(scale_set_id, target, _next(target.phase, self._turns(target), now))

    def remove(self, scale_set_id: str) -> None:
        """Forget a scale set; a poll of it that is under way must end before the next ``take``."""
        target = self._targets.pop(scale_set_id)
        self._count(target, -1)
        self._orphans += target.place is None

    def adjust(self, budget: Budget, active_interval: float, now: float) -> None:
        """Go by another budget and another interval of active scale sets, and keep all else.

        Only turns that would come too late by the interval now in force are brought forward, each to its own phase, so
        that they do not come together.
        """
        if (budget, active_interval) == (self._budget, self._active_interval):
            return
        self._refill(now)
        self._budget, self._active_interval = budget, active_interval
        self._tokens = min(self._tokens, self._most_tokens())
        self._demand.clear()
        for target in self._targets.values():
            self._count(target, 1)
        for key, target in self._targets.items():
            turns = self._turns(target)
            if target.place is not None and target.due > now + turns:
                self._enqueue(key, target, _next(target.phase, turns, now))

    def take(self, now: float, at_most: int = sys.maxsize) -> Turn:
        """Return the scale sets to poll now, no more than ``at_most``; each must come back through ``finished``.

        Those that are due beyond that keep their places.
        """
        for _ in range(self._orphans):
            self._ended(now)
        self._orphans = 0
        if now < self._paused_until:
            return Turn(throttled=self._name_the_due(now))
        self._go(self._heard.at(now), now)
        for named in self._named:
            self._requeue(named)
        self._named = []
        self._refill(now)
        polls: list[Due] = []
        while len(polls) < at_most and self._may_spend() and (place := self._first(now)) is not None:
            target = self._targets[place[2]]
            if not self._earns(target):
                self._follow(place[2], target, now)
                continue
            self._in_a_row = self._in_a_row + 1 if target.active else 0
            target.place = None
            self._tokens -= 1
            self._under_way += 1
            polls.append(Due(place[2], place[0]))
        return Turn(polls=tuple(polls), more=len(polls) == at_most)

    def spend(self, requests: int, now: float) -> None:
        """Account for requests that a poll sent beside its first; the bucket may owe them."""
        self._tokens -= requests
        self._spent.extend([now] * requests)

    def left(self, scope: str, requests: int, now: float) -> None:
        """Hear what Azure says is left of a budget of its own, by the name of its scope."""
        self._heard.left(scope, requests, now)
        self._go(self._heard.at(now), now)

    def finished(self, scale_set_id: str, now: float, *, active: bool, found: bool) -> float:
        """Say that the poll has ended, whether an upgrade is now active, and whether Azure found the scale set.

        Returns the interval now in force for it, in seconds.
        """
        target = self._targets[scale_set_id]
        if target.place is None:
            self._ended(now)
        if target.finished and (target.active, target.found) == (active, found):
            self._follow(scale_set_id, target, now)
            return self._in_force(target)
        first = not target.finished
        self._count(target, -1)
        target.finished, target.active, target.found = True, active, found
        self._count(target, 1)
        turns = self._turns(target)
        # Into a full subscription nobody comes back early, or the first round would leave all turns late for hours.
        wait = turns / 2 if first and turns > self._wish(target)[1] else 0.0
        earliest = max(now, target.due) + wait
        self._enqueue(scale_set_id, target, _next(target.phase, turns, earliest))
        return self._in_force(target)

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

    def paused_for(self, now: float) -> float:
        """Return for how many seconds yet nobody is to be polled."""
        return max(0.0, self._paused_until - now)

    def postpone(self, scale_set_id: str) -> None:
        """Take back a poll of which nothing was sent, as a pause began: the scale set keeps its turn."""
        target = self._targets[scale_set_id]
        self._under_way -= 1
        self._enqueue(scale_set_id, target, target.due)

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
        self._stretches.clear()
        self._demand[wish] += number
        if not self._demand[wish]:
            del self._demand[wish]

    def _turns(self, target: _Target) -> float:
        """Return the seconds from one turn of a scale set to the next."""
        active, interval = self._wish(target)
        if not self._stretches:
            rate = self._steady_rate()
            wanted = {first: self._wanted(first) for first in (True, False)}
            stretch = _stretch(wanted[True] / (rate * ACTIVE_SHARE))
            self._stretches[True] = stretch
            self._stretches[False] = _stretch(wanted[False] / (rate - wanted[True] / stretch))
        return interval * self._stretches[active]

    def _in_force(self, target: _Target) -> float:
        return self._turns(target) / self._pace

    def _wanted(self, active: bool) -> float:
        """Return the requests a second that would be made, were the budget endless."""
        return sum(number / interval for (first, interval), number in self._demand.items() if first is active)

    def _steady_rate(self) -> float:
        """Return the requests a second that the window lets through for long, so that turns do not come late."""
        return self._most() / (WINDOW_SECONDS + (1 + FURTHER_REQUESTS) * HELD_SECONDS)

    def _earns(self, target: _Target) -> bool:
        """Return whether a scale set whose turn has come is to be polled at the present pace."""
        if self._pace == 1 or not target.finished:
            return True
        target.earned += self._pace
        if target.earned < 1:
            return False
        target.earned -= 1
        return True

    def _follow(self, scale_set_id: str, target: _Target, now: float) -> None:
        """Let the next turn follow the last.

        When only the stretch has changed, the next time in phase may be moments away: let half an interval pass since
        the last turn, or a growing stretch would double the demand that it is to bring down.
        """
        turns = self._turns(target)
        self._enqueue(scale_set_id, target, _next(target.phase, turns, max(now, target.due + turns / 2)))

    def _enqueue(self, scale_set_id: str, target: _Target, due: float) -> None:
        self._arrivals += 1
        target.due = due
        target.place = (due, self._arrivals, scale_set_id)
        self._requeue(target.place)

    def _requeue(self, place: _Place) -> None:
        target = self._targets.get(place[2])
        if target is not None and target.place is place:
            heappush(self._active if target.active else self._resting, place)

    def _first(self, now: float) -> _Place | None:
        """Take who is to be polled next out of its queue."""
        others_turn = self._in_a_row >= ACTIVE_IN_A_ROW
        for queue in (self._resting, self._active) if others_turn else (self._active, self._resting):
            if (place := self._pop(queue, now)) is not None:
                return place
        return None

    def _pop(self, queue: list[_Place], now: float) -> _Place | None:
        """Take the first that is due out of a queue, past those that have left it or moved."""
        while queue and queue[0][0] <= now + EARLY_SECONDS:
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

    def _go(self, pace: float, now: float) -> None:
        if pace != self._pace:
            self._refill(now)
            self._pace = pace

    def _ended(self, now: float) -> None:
        """Let a poll that was under way count as a request just made."""
        self._under_way -= 1
        self._spent.append(now)

    def _refill(self, now: float) -> None:
        rate = self._pace * self._budget.per_minute / WINDOW_SECONDS
        room = max(self._most_tokens() - self._tokens, 0.0)
        self._tokens += min(room, max(0.0, now - self._refilled) * rate)
        self._refilled = max(self._refilled, now)
        while self._spent and self._spent[0] <= now - WINDOW_SECONDS:
            self._spent.popleft()

    def _most_tokens(self) -> float:
        return max(1.0, self._budget.per_minute / WINDOW_SECONDS * BUCKET_SECONDS)

    def _most(self) -> int:
        """Return how many requests 60 seconds may see."""
        return max(1, floor(self._budget.per_minute))

    def _may_spend(self) -> bool:
        """Return whether bucket and window have room for a poll, and the window for all that may come of it."""
        each = 1 + FURTHER_REQUESTS
        taken = len(self._spent) + self._under_way * each
        return self._tokens >= 1 and (taken + each <= self._most() or taken == 0)


def _hashed(scale_set_id: str) -> tuple[float, float]:
    """Return two numbers from 0 to 1 that are the scale set's own, and have nothing to do with each other."""
    digest = sha256(scale_set_id.encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48, int.from_bytes(digest[6:12], "big") / 2**48


def _next(phase: float, interval: float, earliest: float) -> float:
    """Return the first time after ``earliest`` at which a phase falls in its interval."""
    return (floor(earliest / interval - phase) + 1 + phase) * interval


def _stretch(load: float) -> float:
    """Return the factor, 1 or more, that brings a load down to 1, in steps of ``STRETCH_STEP``."""
    return 1.0 if load <= 1 else STRETCH_STEP ** ceil(log(load, STRETCH_STEP) - 1e-9)
