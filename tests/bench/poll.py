"""One whole poll against what one would use instead, in processor time; Azure answers from another process.

Ours goes all the way: the plan's turn, a task, the request, the parser, the lines, the store. An answer that is byte
for byte the one before, as nearly all are, is spared the parser and most lines; so each case is measured with the
same answer again, and with answers that all differ. The others only fetch and decode. All ask one request at a time, on one connection that stays open, with a token that never changes.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from time import process_time
from types import TracebackType
from typing import Any
from unittest.mock import patch

import aiohttp
from azure.core.credentials import AccessToken, AccessTokenInfo
from azure.mgmt.compute.aio import ComputeManagementClient

from exporter.azure.client import API_VERSION, Client
from exporter.azure.clouds import Cloud
from exporter.azure.credential import Credential
from exporter.config import ManagedIdentity
from exporter.plan import Budget, Plan
from exporter.poller import Poller
from exporter.scale_set import ScaleSet, difference
from exporter.store import Store
from exporter.telemetry import Telemetry

from . import azure
from .report import Pairs, Row

BATCH = 50
INTERVAL_SECONDS = 60.0
OFFICIAL_GOALS = {1: 4, 10: 10}
BARE_GOAL = 3


class StaticToken:
    """A credential that has its token already, for azure-core and for us."""

    async def get_token(self, *_: str, **__: Any) -> AccessToken:
        return AccessToken("canned", 4_102_444_800)

    async def get_token_info(self, *_: str, **__: Any) -> AccessTokenInfo:
        return AccessTokenInfo("canned", 4_102_444_800)

    async def close(self) -> None:
        pass

    async def __aenter__(self) -> "StaticToken":
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        pass


class Ours:
    """All of the exporter that a poll passes through, with a clock that the benchmark turns."""

    def __init__(self, cloud: Cloud, credential: Credential, telemetry: Telemetry, shared_name: str) -> None:
        self.client = Client(cloud, credential, telemetry, connections=1)
        self._now = 1_800_000_000.0
        self._plan = Plan(Budget(per_minute=1e6, shortest_interval=1.0), INTERVAL_SECONDS, self._now)
        self._store = Store()
        groups = [f"rg-{number:03d}" for number in range(BATCH)]
        self._scale_sets = [ScaleSet("bench", group, shared_name, INTERVAL_SECONDS) for group in groups]
        self._store.apply(difference((), self._scale_sets))
        for scale_set in self._scale_sets:
            self._plan.add(scale_set.id, scale_set.interval, self._now)
            self._store.write(replace(self._store[scale_set.id], interval=self._plan.interval(scale_set.id)))
        self._poller = Poller(
            self.client,
            self._store,
            telemetry,
            lambda: self._now,
            concurrency=1,
            timeout_seconds=30.0,
            record=self._count,
        )
        self._to_come = 0
        self._all_polled = asyncio.Event()

    def _count(self, *_: object) -> None:
        self._to_come -= 1
        if not self._to_come:
            self._all_polled.set()

    async def polls(self) -> None:
        """Poll every scale set once."""
        self._now += 2 * INTERVAL_SECONDS
        self._to_come = BATCH
        self._all_polled.clear()
        self._poller.start_due(self._plan)
        await asyncio.wait_for(self._all_polled.wait(), 30.0)
        assert all(known.failure is None and known.polled for known in self._store.snapshots())


def poll(*, quick: bool) -> Iterator[Row]:
    """Measure polls of histories with 1 and 10 entries."""
    with azure.azure() as endpoint:
        for entries in OFFICIAL_GOALS:
            for changing in (False, True):
                rounds = 5 if quick else 15
                yield from asyncio.run(_polls(endpoint, entries, changing=changing, rounds=rounds))


async def _polls(endpoint: str, entries: int, *, changing: bool, rounds: int) -> list[Row]:
    cloud, token, telemetry = Cloud("bench", endpoint, endpoint, endpoint), StaticToken(), Telemetry()
    path = "/subscriptions/bench/resourceGroups/rg-000/providers/Microsoft.Compute/virtualMachineScaleSets"
    scale_set = azure.name(entries, changing=changing)
    url = f"{endpoint}{path}/{scale_set}/osUpgradeHistory?api-version={API_VERSION}"
    credential = Credential(ManagedIdentity(kind="managed_identity"), cloud, telemetry)
    compute = ComputeManagementClient(
        token, "bench", base_url=endpoint, credential_scopes=[cloud.scope], api_version=API_VERSION
    )
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1))
    ours = Ours(cloud, credential, telemetry, scale_set)

    async def official() -> None:
        for _ in range(BATCH):
            asked = compute.virtual_machine_scale_sets.get_os_upgrade_history
            got = [entry async for entry in asked("rg-000", scale_set, enforce_https=False)]
            assert len(got) == entries

    async def bare() -> None:
        for _ in range(BATCH):
            async with session.get(url, headers={"Authorization": "Bearer canned"}) as response:
                assert len(json.loads(await response.read())["value"]) == entries

    contestants = (ours.polls, official, bare)
    with patch("exporter.azure.identity.identity", return_value=token):
        for each in contestants:
            await each()  # connects, signs in, imports what it imports late
        mine, theirs, least = zip(
            *[[await _cost(each) for each in contestants] for _ in range(rounds)], strict=True
        )
    await ours.client.close()
    await credential.close()
    await compute.close()
    await session.close()
    which = "another answer" if changing else "the same answer"
    name = f"one poll, {entries} {'entry' if entries == 1 else 'entries'}, {which}"
    return [
        Pairs(mine, theirs).row(
            f"{name}, against azure-mgmt-compute", "us", times_less=OFFICIAL_GOALS[entries]
        ),
        Pairs(mine, least).row(f"{name}, against aiohttp and json.loads", "us", times_more=BARE_GOAL),
    ]


async def _cost(contestant: Callable[[], Awaitable[None]]) -> float:
    """Return the processor time of one of a batch, in microseconds."""
    started = process_time()
    await contestant()
    return (process_time() - started) / BATCH * 1e6
