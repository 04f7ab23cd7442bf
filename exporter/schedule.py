"""The clock: rings jobs at intervals. The only home of APScheduler.

It only rings. A job is an ``async def`` that starts things and returns soon; who started something owns it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime

from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.asyncio import AsyncIOScheduler

Job = Callable[[], Awaitable[None]]


class Schedule:
    """Jobs that ring in the running event loop until ``stop``."""

    def __init__(self) -> None:
        self._ringing: set[asyncio.Future[None]] = set()
        self._scheduler = AsyncIOScheduler(
            timezone=UTC,
            job_defaults={
                "coalesce": True,
                "max_instances": 1,
                "misfire_grace_time": None,  # the default of one second loses runs after a stall
            },
        )

    def every(self, seconds: float, name: str, job: Job) -> None:
        """Ring ``job`` now and then every so many seconds; a job of the same name is replaced."""

        async def ring() -> None:
            ringing = asyncio.get_running_loop().create_future()
            self._ringing.add(ringing)
            try:
                await job()
            finally:
                self._ringing.discard(ringing)
                ringing.set_result(None)

        self._scheduler.add_job(
            ring,
            "interval",
            seconds=seconds,
            id=name,
            replace_existing=True,
            next_run_time=datetime.now(UTC),
        )

    def cancel(self, name: str) -> None:
        """Ring a job no more, if there is one of this name; one that was rung returns when it will."""
        with suppress(JobLookupError):
            self._scheduler.remove_job(name)

    def start(self) -> None:
        """Begin to ring."""
        self._scheduler.start()

    async def stop(self) -> None:
        """Ring no more, and wait until the jobs that were rung have returned.

        APScheduler's own shutdown would cancel them, and log that as an error.
        """
        if self._scheduler.running:
            self._scheduler.pause()
            await asyncio.sleep(0)  # a job that was rung at this very moment begins
            if self._ringing:
                await asyncio.wait(tuple(self._ringing))
            self._scheduler.shutdown(wait=False)
