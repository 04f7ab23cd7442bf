"""One search from ring to news: what it leaves behind when it succeeds, fails, or is broken off."""

import asyncio

import pytest

from exporter.azure.errors import Forbidden, PollError
from exporter.discovery import Discoverer, Found
from exporter.searcher import Searcher
from exporter.telemetry import Telemetry

SUBSCRIPTION = "6c1e0f6a-4f0b-4c52-9d6e-0a3f5b7c9d11"
WEB = Found(SUBSCRIPTION, "rg", "web", "", (), automatic_upgrade=True)


class Scripted(Discoverer):
    """Finds what a test says, when it says so."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer = asyncio.Event()
        self.answer.set()
        self.outcome: tuple[Found, ...] | Exception = (WEB,)

    async def find(self, *_: object) -> tuple[Found, ...]:
        self.asked += 1
        await self.answer.wait()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class Searched:
    """A searcher, what it finds, and what it tells."""

    def __init__(self) -> None:
        self.telemetry = Telemetry()
        self.discoverer = Scripted()
        self.told = 0
        self.defect: Exception | None = None
        self.searcher = Searcher(self.discoverer, self.telemetry, self.hear, timeout_seconds=1.0)
        self.searcher.awaited.add(SUBSCRIPTION)

    async def hear(self) -> None:
        self.told += 1
        if self.defect is not None:
            raise self.defect

    async def search(self, outcome: tuple[Found, ...] | Exception) -> None:
        self.discoverer.outcome = outcome
        self.searcher.start(SUBSCRIPTION)
        while self.searcher.under_way:
            await asyncio.sleep(0)

    def failed(self, reason: str) -> float | None:
        labels = {"subscription_id": SUBSCRIPTION, "reason": reason}
        return self.telemetry.registry.get_sample_value(
            "vmss_upgrade_exporter_discovery_failures_total", labels
        )


async def test_what_was_found_is_known_and_told():
    searched = Searched()
    await searched.search((WEB,))
    assert searched.searcher.found == {SUBSCRIPTION: (WEB,)}
    assert (searched.told, searched.searcher.awaited, searched.searcher.failures()) == (1, set(), [])


async def test_a_failure_keeps_what_was_known_and_is_logged_once_for_each_reason(
    caplog: pytest.LogCaptureFixture,
):
    searched = Searched()
    await searched.search((WEB,))
    for _ in range(3):
        await searched.search(Forbidden("no permission"))
    assert searched.searcher.found == {SUBSCRIPTION: (WEB,)}
    assert (searched.told, searched.failed("forbidden")) == (1, 3.0)
    assert len([each for each in caplog.records if each.levelname == "WARNING"]) == 1
    assert searched.searcher.failures() == [
        f"/subscriptions/{SUBSCRIPTION}: discovery: forbidden: no permission"
    ]
    await searched.search(())
    assert searched.searcher.failures() == []
    assert searched.searcher.found == {SUBSCRIPTION: ()}


@pytest.mark.parametrize("where", ["in the search", "in who is told"])
async def test_a_defect_is_logged_and_counted_and_nobody_waits_for_it(
    where: str, caplog: pytest.LogCaptureFixture
):
    searched = Searched()
    if where == "in who is told":
        searched.defect = KeyError("defect")
    await searched.search(KeyError("defect") if where == "in the search" else (WEB,))
    assert searched.failed("malformed") == 1.0
    assert searched.searcher.awaited == set()
    assert [each.message for each in caplog.records if each.levelname == "ERROR"] == ["defect in a search"]


async def test_there_is_one_search_of_a_subscription_at_a_time():
    searched = Searched()
    searched.discoverer.answer.clear()
    for _ in range(3):
        searched.searcher.start(SUBSCRIPTION)
        await asyncio.sleep(0)
    assert searched.discoverer.asked == 1
    await searched.searcher.stop_all()


@pytest.mark.parametrize("outcome", [(WEB,), Forbidden("late")])
async def test_a_search_that_is_broken_off_leaves_no_trace(outcome: tuple[Found, ...] | PollError):
    searched = Searched()
    searched.discoverer.answer.clear()
    searched.discoverer.outcome = outcome
    searched.searcher.start(SUBSCRIPTION)
    await asyncio.sleep(0)
    await searched.searcher.forget(SUBSCRIPTION)
    searched.discoverer.answer.set()
    await asyncio.sleep(0)
    assert (searched.searcher.found, searched.told, searched.searcher.under_way) == ({}, 0, ())
    assert searched.searcher.failures() == []
