"""The exporter, as its users run it, in a process that tells its figures: what it holds, and how late its loop is.

``python -m tests.watched [FLAGS]`` is ``vmss-upgrade-exporter [FLAGS]``, and beside its log writes lines of figures to
standard error: one every ``WATCH_SECONDS``, if the environment says so, and one for each SIGUSR1, which collects garbage
and empties caches, then tells the least that was held in a second: what leaks never goes away, what is in use does. With ``HURRIED=1``
what takes minutes takes a second.
"""

import asyncio
import ctypes
import functools
import gc
import json
import linecache
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from time import monotonic
from unittest.mock import patch

from exporter import cli, daemon, discovery
from exporter.azure import client, credential

HEARTBEAT_SECONDS = 0.01
LOOKS = 25
"""Of which the least of each figure counts."""
HURRY = {
    (daemon, "RING_SECONDS"): 0.1,
    (daemon, "LOOK_SECONDS"): 0.2,
    (daemon, "NOTE_TIMES_SECONDS"): 0.5,
    (daemon, "PRUNE_SECONDS"): 1.0,
    (daemon, "REQUESTS_PER_MINUTE"): 60_000.0,
    (daemon, "SCALE_SET_REQUESTS_PER_MINUTE"): 120.0,
    (client, "GRAPH_SECONDS"): 0.1,
    (discovery, "WITHOUT_GRAPH_SECONDS"): 2.0,
    (credential, "SIGN_IN_SECONDS"): 2.0,
    (credential, "SPACING_SECONDS"): 0.5,
    (credential, "JITTER_SECONDS"): 0.1,
    (credential, "REFRESH_AGAIN_SECONDS"): 1.0,
}
"""Azure's budgets and what follows from them, and what is done now and then, so that minutes bring what else takes hours."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What the process holds at one moment."""

    tasks: int
    descriptors: int
    sockets: int
    threads: int
    blocks: int
    """Of memory that Python has allocated: objects, about."""
    large: int
    """Bytes that the C library has allocated: what is too large for Python's own allocator, and what is not Python's."""
    resident: int
    """Bytes, as the kernel counts them."""
    late_ms: float
    """How late the event loop was for a heartbeat since the figures before, at most."""
    late_p99_ms: float


def told(line: str) -> Figures | None:
    """Return the figures that a line of the log tells, if it tells any."""
    match = re.fullmatch(r"figures (\{.*\})", line)
    return None if match is None else Figures(**json.loads(match[1]))


class _Watch:
    def __init__(self) -> None:
        self._late = [0.0]

    async def beat(self) -> None:
        while True:
            due = monotonic() + HEARTBEAT_SECONDS
            await asyncio.sleep(HEARTBEAT_SECONDS)
            self._late.append((monotonic() - due) * 1e3)

    async def tell_every(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            self.tell()

    async def tell_least(self) -> None:
        _tidy()
        looks = []
        for _ in range(LOOKS):
            await asyncio.sleep(1 / LOOKS)
            looks.append(self._look())
        _print(Figures(*(min(column) for column in zip(*map(astuple, looks), strict=True))))

    def tell(self) -> None:
        _print(self._look())

    def _look(self) -> Figures:
        late, self._late = sorted(self._late), [0.0]
        descriptors = _descriptors()
        return Figures(
            tasks=len(asyncio.all_tasks()),
            descriptors=len(descriptors),
            sockets=sum(name.startswith("socket:") for name in descriptors),
            threads=threading.active_count(),
            blocks=sys.getallocatedblocks(),
            large=_allocated(),
            resident=int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
            late_ms=late[-1],
            late_p99_ms=late[len(late) * 99 // 100],
        )


def _print(figures: Figures) -> None:
    print("figures", json.dumps(asdict(figures)), file=sys.stderr, flush=True)


def _tidy() -> None:
    """Leave neither garbage nor what is kept only to be quicker, which is bounded but takes long to fill up."""
    for module in tuple(sys.modules.values()):
        for value in tuple(vars(module).values()):
            if isinstance(value, functools._lru_cache_wrapper):  # noqa: SLF001
                value.cache_clear()
    linecache.clearcache()
    re.purge()
    gc.collect()


class _Mallinfo(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    )


def _allocated() -> int:
    """Return the bytes that glibc has allocated, in its one arena and beside it; 0 of another C library's."""
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo is None:
        return 0
    mallinfo.restype = _Mallinfo
    said = mallinfo()
    return int(said.uordblks + said.hblkhd)


def _descriptors() -> list[str]:
    """Return what each open file descriptor stands for."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists the others
            found.append(str(descriptor.readlink()))
    return found


@contextmanager
def _watched() -> Iterator[None]:
    run = daemon.run

    async def watched(*parts: object, **flags: object) -> None:
        watch, loop, telling = _Watch(), asyncio.get_running_loop(), set()

        def tell_least() -> None:
            telling.add(asyncio.create_task(watch.tell_least()))

        loop.add_signal_handler(signal.SIGUSR1, tell_least)
        seconds = float(os.environ.get("WATCH_SECONDS", "inf"))
        tasks = [
            asyncio.create_task(watch.beat()),
            *([asyncio.create_task(watch.tell_every(seconds))] if seconds < float("inf") else []),
        ]
        try:
            await run(*parts, **flags)  # type: ignore[arg-type]
        finally:
            for task in (*tasks, *telling):
                task.cancel()

    with patch.object(daemon, "run", watched):
        yield


def _main() -> int:
    with ExitStack() as patches:
        patches.enter_context(_watched())
        if os.environ.get("HURRIED"):
            for (module, name), value in HURRY.items():
                patches.enter_context(patch.object(module, name, value))
        return cli.main()


if __name__ == "__main__":
    sys.exit(_main())
