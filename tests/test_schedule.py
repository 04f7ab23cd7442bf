"""The clock: it rings, and it only rings."""

import asyncio

import pytest

from exporter.schedule import Schedule


async def test_a_job_rings_at_once_and_then_at_its_interval():
    rings: asyncio.Queue[None] = asyncio.Queue()

    async def ring() -> None:
        rings.put_nowait(None)

    schedule = Schedule()
    schedule.every(0.05, "ring", ring)
    assert rings.empty()
    schedule.start()
    for _ in range(3):
        await asyncio.wait_for(rings.get(), 5)
    await schedule.stop()


async def test_after_a_stop_nothing_rings():
    rung = 0

    async def ring() -> None:
        nonlocal rung
        rung += 1

    schedule = Schedule()
    schedule.every(0.01, "ring", ring)
    schedule.start()
    await schedule.stop()
    await asyncio.sleep(0.05)
    assert rung == 0


async def test_a_schedule_that_never_started_can_be_stopped():
    await Schedule().stop()


async def test_a_job_of_the_same_name_takes_the_place_of_the_first():
    rung: list[str] = []
    done = asyncio.Event()

    async def first() -> None:
        rung.append("first")

    async def second() -> None:
        rung.append("second")
        done.set()

    schedule = Schedule()
    schedule.start()
    schedule.every(60, "ring", first)
    schedule.every(60, "ring", second)
    await asyncio.wait_for(done.wait(), 5)
    await schedule.stop()
    assert rung == ["second"]


async def test_a_stop_lets_the_job_that_rings_return_and_logs_nothing(caplog: pytest.LogCaptureFixture):
    begun, returned = asyncio.Event(), []

    async def job() -> None:
        begun.set()
        for _ in range(20):
            await asyncio.sleep(0)
        returned.append(True)

    schedule = Schedule()
    schedule.every(60, "job", job)
    schedule.start()
    await asyncio.wait_for(begun.wait(), 5)
    await schedule.stop()
    assert returned == [True]
    assert [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}] == []


async def test_a_cancelled_job_rings_no_more_and_an_unknown_one_is_nobodys_loss():
    rung: list[str] = []
    twice = asyncio.Event()

    async def cancelled() -> None:
        rung.append("cancelled")

    async def other() -> None:
        rung.append("other")
        if rung.count("other") == 2:
            twice.set()

    schedule = Schedule()
    schedule.every(0.01, "cancelled", cancelled)
    schedule.cancel("cancelled")
    schedule.cancel("unknown")
    schedule.every(0.01, "other", other)
    schedule.start()
    await asyncio.wait_for(twice.wait(), 5)
    await schedule.stop()
    assert "cancelled" not in rung
