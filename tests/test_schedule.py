"""The clock: it rings, and it only rings."""

import asyncio
from datetime import UTC, datetime, timedelta
from time import monotonic

import pytest
import time_machine

from exporter.schedule import EverySoOften, MonotonicTime, Schedule

NOW = datetime(2025, 6, 15, 12, 0, 0, tzinfo=UTC)
STEPS = [
    timedelta(seconds=-40),
    timedelta(hours=-2),
    timedelta(days=-30),
    timedelta(days=400),
    timedelta(days=4000),
]


@pytest.mark.parametrize(
    ("previous", "then"),
    [
        pytest.param(None, NOW, id="never: at once"),
        pytest.param(NOW, NOW + timedelta(seconds=15), id="just now"),
        pytest.param(NOW - timedelta(seconds=15), NOW + timedelta(seconds=15), id="on time"),
        pytest.param(
            NOW - timedelta(days=4000), NOW + timedelta(seconds=15), id="long ago: nothing is made up for"
        ),
        pytest.param(NOW + timedelta(days=30), NOW + timedelta(seconds=15), id="in the future"),
    ],
)
def test_the_next_ring_is_an_interval_from_now_whenever_the_last_one_was(
    previous: datetime | None, then: datetime
):
    assert EverySoOften(15.0).get_next_fire_time(previous, NOW) == then


def test_now_in_the_time_of_the_schedule_is_what_the_monotonic_clock_says():
    clock = iter([1000.0, 1001.5])
    zone = MonotonicTime(lambda: next(clock))
    before, after = datetime.now(zone), datetime.now(zone)
    assert (before.timestamp(), after - before) == (1000.0, timedelta(seconds=1.5))
    assert before.astimezone(UTC) == datetime(1970, 1, 1, 0, 16, 40, tzinfo=UTC)


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


@pytest.mark.parametrize("step", STEPS, ids=str)
async def test_a_step_of_the_wall_clock_neither_stops_a_job_nor_rings_one_too_early(step: timedelta):
    often: asyncio.Queue[None] = asyncio.Queue()
    seldom: list[float] = []

    async def ring_often() -> None:
        often.put_nowait(None)

    async def ring_seldom() -> None:
        seldom.append(monotonic())

    schedule = Schedule()
    schedule.every(0.02, "often", ring_often)
    schedule.every(3600, "seldom", ring_seldom)
    schedule.start()
    await asyncio.wait_for(often.get(), 5)
    with time_machine.travel(datetime.now(UTC) + step):
        for _ in range(5):
            await asyncio.wait_for(often.get(), 5)
    await schedule.stop()
    assert len(seldom) == 1


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
