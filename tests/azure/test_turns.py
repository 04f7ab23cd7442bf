"""The turns of requests that share a quota."""

import asyncio

import pytest

from exporter.azure.errors import Throttled
from exporter.azure.turns import Turns


class Clock:
    """Stands still, except that sleeping moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("exporter.azure.turns.asyncio.sleep", clock.sleep)
    return clock


async def test_the_first_goes_at_once_and_the_others_at_their_distance_in_order(clock: Clock) -> None:
    turns, went = Turns(0.5, clock), list[tuple[str, float]]()

    async def go(name: str) -> None:
        await turns.take()
        went.append((name, clock.now))

    await asyncio.gather(go("a"), go("b"), go("c"))
    assert went == [("a", 1000.0), ("b", 1000.5), ("c", 1001.0)]


async def test_who_comes_late_does_not_wait(clock: Clock) -> None:
    turns = Turns(0.5, clock)
    await turns.take()
    clock.now += 7
    await turns.take()
    assert clock.now == 1007.0


async def test_a_short_rest_is_waited_for(clock: Clock) -> None:
    turns = Turns(0.5, clock)
    turns.rest(5.0)
    turns.rest(2.0)
    await turns.take()
    assert clock.now == 1005.0


async def test_a_long_rest_is_reported(clock: Clock) -> None:
    turns = Turns(0.5, clock)
    turns.rest(60.0)
    with pytest.raises(Throttled, match="has asked for a rest") as caught:
        await turns.take()
    assert (caught.value.retry_after, clock.now) == (60.0, 1000.0)
    clock.now += 60
    await turns.take()
    assert clock.now == 1060.0


async def test_who_gives_up_takes_no_turn() -> None:
    turns = Turns(0.05)
    await turns.take()
    waiting = [asyncio.ensure_future(turns.take()) for _ in range(3)]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    async with asyncio.timeout(5):
        await turns.take()
