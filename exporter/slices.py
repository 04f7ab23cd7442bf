"""Long work in slices, between which the event loop does other things. Knows nothing of the work.

A thread would be no help: what is written in C, as the decoding of JSON is, holds the interpreter until it returns.
"""

import asyncio
from collections.abc import Generator
from time import perf_counter
from typing import TypeVar

SLICE_SECONDS = 0.01
"""Maximum time of a slice, after which the event loop runs; a single step may take longer."""

_Result = TypeVar("_Result")


class Slices:
    """Measures how long the present slice has run."""

    def __init__(self) -> None:
        self._until = perf_counter() + SLICE_SECONDS

    async def pause(self) -> None:
        """Let the event loop run if this slice is over; to be called after each step."""
        if perf_counter() >= self._until:
            await asyncio.sleep(0)
            self._until = perf_counter() + SLICE_SECONDS


async def run_in_slices(steps: Generator[None, None, _Result]) -> _Result:
    """Run a generator that yields after each step, and return what it returns."""
    slices = Slices()
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: _Result = end.value
            return result
        await slices.pause()
