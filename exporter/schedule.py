"""The clock: rings jobs at intervals. The only home of APScheduler.

It only rings. A job is an ``async def`` that starts things and returns soon; who started something owns it.

APScheduler sleeps until a time of day. If it read the wall clock, a step back would stop every job until that time
came again, and after a step ahead it would count up every run that it believes it has missed. Therefore it reads the
monotonic clock instead, and a job's next run is computed from the present moment alone.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, tzinfo
from time import monotonic

from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

Job = Callable[[], Awaitable[None]]


class MonotonicTime(tzinfo):
    """A time zone in which ``datetime.now`` returns the monotonic clock, as a time soon after 1970.

    APScheduler has no setting for its clock, but it asks ``datetime.now(timezone)`` for each reading, and Python
    leaves the conversion to ``fromutc``. So a conversion to this zone always gives the present moment.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock

    def fromutc(self, _: datetime) -> datetime:
        """Return the present moment, whatever the wall clock says."""
        return datetime.fromtimestamp(self._clock(), UTC).replace(tzinfo=self)

    def utcoffset(self, _: datetime | None) -> timedelta:
        """Return 0, so that differences and timestamps are those of the monotonic clock."""
        return timedelta(0)

    def dst(self, _: datetime | None) -> timedelta:
        """Return 0."""
        return timedelta(0)

    def tzname(self, _: datetime | None) -> str:
        """Return the name that APScheduler's own messages show."""
        return "monotonic"


class EverySoOften(BaseTrigger):  # type: ignore[misc]  # APScheduler ships no types
    """Rings at once, and then an interval after each ring began.

    Runs that were missed while the process stood still are not made up for, nor counted.
    """

    def __init__(self, seconds: float) -> None:
        self._interval = timedelta(seconds=seconds)

    def __str__(self) -> str:
        return f"every {self._interval}"

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Return when to ring next."""
        return now if previous_fire_time is None else now + self._interval


class Schedule:
    """Jobs that ring in the running event loop until ``stop``."""

    def __init__(self) -> None:
        self._ringing: set[asyncio.Future[None]] = set()
        self._scheduler = AsyncIOScheduler(
            timezone=MonotonicTime(),
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

        self._scheduler.add_job(ring, EverySoOften(seconds), id=name, replace_existing=True)

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
