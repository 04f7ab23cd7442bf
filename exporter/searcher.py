"""One search for scale sets from ring to news; owns the searches in flight, at most one a subscription.

The only place that catches a search's errors. Knows nothing of filters, plans or polls.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from time import time

from exporter.azure.errors import Malformed, PollError
from exporter.discovery import Discoverer, Found
from exporter.log import fields
from exporter.telemetry import Telemetry

log = logging.getLogger(__name__)


class Searcher:
    """Searches subscriptions, and remembers what the last good search of each has found.

    ``tell`` is called after each good search.
    """

    def __init__(
        self,
        discoverer: Discoverer,
        telemetry: Telemetry,
        tell: Callable[[], Awaitable[None]],
        *,
        timeout_seconds: float,
    ) -> None:
        self.discoverer = discoverer
        self.timeout_seconds = timeout_seconds
        self.found: dict[str, tuple[Found, ...]] = {}
        """By subscription id; what a search that failed does not touch."""
        self.awaited: set[str] = set()
        """Subscriptions whose first search has not ended."""
        self._telemetry = telemetry
        self._tell = tell
        self._failing: dict[str, PollError] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, subscription_id: str) -> None:
        """Start a search, unless the one before is still going on."""
        if subscription_id not in self._tasks:
            task = asyncio.create_task(self._run(subscription_id))
            self._tasks[subscription_id] = task
            task.add_done_callback(partial(self._ended, subscription_id))

    @property
    def under_way(self) -> tuple[str, ...]:
        """The subscriptions that are being searched."""
        return tuple(self._tasks)

    async def stop(self, subscription_ids: Iterable[str]) -> None:
        """Break off the searches of these subscriptions, and wait until they have stopped."""
        tasks = [self._tasks[key] for key in subscription_ids if key in self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def stop_all(self) -> None:
        """Break off all searches."""
        await self.stop(self.under_way)

    async def forget(self, subscription_id: str) -> None:
        """Search a subscription no more, and know of nothing in it."""
        await self.stop([subscription_id])
        self.found.pop(subscription_id, None)
        self.awaited.discard(subscription_id)
        self._failing.pop(subscription_id, None)

    def failure(self, subscription_id: str) -> PollError | None:
        """Return why the last search of a subscription failed; ``None`` if it did not."""
        return self._failing.get(subscription_id)

    def failures(self) -> list[str]:
        """Return why the last searches failed, a line for each that did."""
        return [
            f"/subscriptions/{key}: discovery: {error.reason.value}: {error}"
            for key, error in self._failing.items()
        ]

    def _ended(self, subscription_id: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(subscription_id) is task:
            del self._tasks[subscription_id]

    async def _run(self, subscription_id: str) -> None:
        try:
            self.found[subscription_id] = await self.discoverer.find(subscription_id, self.timeout_seconds)
            await self._tell()
        except PollError as error:
            self._failed(subscription_id, error)
        except Exception:
            # Ours to mend; but the next search must come, and nobody wait for this one.
            log.exception("defect in a search", extra=fields(subscription_id=subscription_id))
            self._failed(subscription_id, Malformed("a defect of the exporter, see its log"))
        else:
            self._telemetry.discovery_last_success_timestamp.labels(subscription_id).set(time())
            if self._failing.pop(subscription_id, None) is not None:
                log.info("discovery succeeds again", extra=fields(subscription_id=subscription_id))
        self.awaited.discard(subscription_id)

    def _failed(self, subscription_id: str, error: PollError) -> None:
        self._telemetry.discovery_failures.labels(subscription_id, error.reason.value).inc()
        before = self._failing.get(subscription_id)
        self._failing[subscription_id] = error
        if before is not None and before.reason is error.reason:
            return
        line = fields(subscription_id=subscription_id, reason=error.reason.value, error=str(error))
        line["fields"] |= error.ids
        log.warning("discovery failed, the scale sets known before stay", extra=line)
