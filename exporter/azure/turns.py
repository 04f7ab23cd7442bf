"""Turns for requests that share one quota: Resource Graph's, or a subscription's of list calls.

Knows nothing of requests and answers.
"""

import asyncio
from collections.abc import Callable
from time import monotonic

from exporter.azure.errors import Throttled

PATIENCE_SECONDS = 10.0
"""A longer rest is not waited for but reported."""


class Turns:
    """Lets a request go every ``spacing_seconds``, which may change, in the order in which they ask."""

    def __init__(self, spacing_seconds: float, clock: Callable[[], float] = monotonic) -> None:
        self.spacing_seconds = spacing_seconds
        self._clock = clock
        self._next = clock()
        self._queue = asyncio.Lock()

    async def take(self) -> None:
        """Wait until the next request may be sent. Raises :class:`Throttled` where that is a long way off."""
        async with self._queue:
            while (wait := self._next - self._clock()) > 0:
                if wait > PATIENCE_SECONDS:
                    raise Throttled("Azure has asked for a rest", retry_after=wait)
                await asyncio.sleep(wait)
            self._next = self._clock() + self.spacing_seconds

    def rest(self, seconds: float) -> None:
        """Let none go for so long; a longer rest is never cut short."""
        self._next = max(self._next, self._clock() + seconds)
