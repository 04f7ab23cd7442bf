"""Notices that the wall clock was stepped: by NTP, by an administrator, or because the machine was suspended.

Nothing in the process is scheduled or aged by the wall clock. A step still changes what is shown as a time of day, and
belongs in the log. Knows nothing of who shows what.
"""

from collections.abc import Callable
from time import monotonic, time

STEP_SECONDS = 1.0
"""Least change that counts as a step. NTP slews a clock by at most half a millisecond a second."""


class WallClock:
    """Compares the wall clock with the monotonic one."""

    def __init__(self, wall: Callable[[], float] = time, steady: Callable[[], float] = monotonic) -> None:
        self._wall = wall
        self._steady = steady
        self._ahead = wall() - steady()

    def step(self) -> float:
        """Return by how many seconds it was stepped since the last call, negative for back; 0 if it was not."""
        before, self._ahead = self._ahead, self._wall() - self._steady()
        change = self._ahead - before
        return change if abs(change) >= STEP_SECONDS else 0.0
