"""The simulated Azure in a process of its own: it counts what it is asked, and fails when it is told to.

Unlike the canned one it judges budgets, tokens and paths; but it costs as much as the one who asks.
"""

import asyncio
import json
import sys
import urllib.request
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic, time

from aiohttp import web

from exporter.scale_set import ScaleSet
from exporter.simulator.fleet import Fleet
from exporter.simulator.server import Simulator, answering, running

from . import child

WINDOW_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Azure:
    """A running one."""

    endpoint: str

    def fail(self) -> None:
        """Answer every request for a history with 503 from now on."""
        self._tell("fail")

    def heal(self) -> None:
        """Answer as before."""
        self._tell("heal")

    def asked(self) -> dict[str, int]:
        """Return by subscription the most histories that were asked for in any 60 seconds."""
        return self._tell("asked")

    def _tell(self, what: str) -> dict[str, int]:
        with urllib.request.urlopen(f"{self.endpoint}/bench/{what}") as response:
            said: dict[str, int] = json.load(response)
        return said


@contextmanager
def azure(subscriptions: int, scale_sets: int) -> Iterator[Azure]:
    """Run it."""
    with child.running(
        *child.python("tests.bench.simulated", str(subscriptions), str(scale_sets))
    ) as process:
        yield Azure(child.line(process))


def fleet(subscriptions: int, scale_sets: int) -> list[ScaleSet]:
    """Return the scale sets that are there, one subscription after the other."""
    found = sorted(_fleet(subscriptions, scale_sets).scale_sets, key=lambda each: each.subscription_id)
    return [ScaleSet(each.subscription_id, each.resource_group, each.name, interval=0.0) for each in found]


def _fleet(subscriptions: int, scale_sets: int) -> Fleet:
    """Return the same fleet in each process; its rollouts take as long as Azure's."""
    return Fleet(epoch=time(), subscriptions=subscriptions, scale_sets=scale_sets, speed=1.0)


# --- In the process that answers ---------------------------------------------------------------------------


class _Counting(Simulator):
    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet)
        self._window: dict[str, deque[float]] = defaultdict(deque)
        self._most: dict[str, int] = defaultdict(int)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        match request.path.split("/")[1:]:
            case ["bench", what]:
                return web.json_response(self._told(what))
            case ["subscriptions", subscription, *_]:
                self._count(subscription.lower())
        return await super().__call__(request)

    def _count(self, subscription: str) -> None:
        now, window = monotonic(), self._window[subscription]
        window.append(now)
        while window[0] <= now - WINDOW_SECONDS:
            window.popleft()
        self._most[subscription] = max(self._most[subscription], len(window))

    def _told(self, what: str) -> dict[str, int]:
        if what == "fail":
            self.fault("/osupgradehistory", answering(503))
        elif what == "heal":
            self.heal()
        return self._most


async def _serve(subscriptions: int, scale_sets: int) -> None:
    async with running(_Counting(_fleet(subscriptions, scale_sets))) as url:
        print(url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
