"""What SIGHUP, SIGINT and SIGTERM do to this process, from its first line of Python to its last.

Three things are wrong with Python's own handling. SIGHUP kills until an event loop has a handler, and again once that
loop is closed. ``KeyboardInterrupt`` can be raised anywhere: inside an import it becomes the import's fault, inside a
destructor it is printed and lost. And the first process of a container ignores SIGTERM unless it has a handler.

So ``take_over`` comes before all other imports, its handlers stay until the process ends, and they raise nothing:

- SIGHUP never ends the process. One that arrives before there is a listener is kept for it.
- SIGINT and SIGTERM stop the listener. Without a listener they end the process at once, with the exit code that a shell
  reports for them (128 + number).

They do so even where the parent process had them ignored, as ``nohup`` and a shell's ``&`` do: a signal that
is sent is meant to work. This module imports little, because signals that arrive before it is imported are not handled.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM)


class _Process:
    """What the handlers need to know; one object a process."""

    def __init__(self) -> None:
        self.listener: Callable[[int], None] | None = None
        self.hung_up = False
        """Whether a SIGHUP waits for a listener."""
        self.cleanups: list[Callable[[], None]] = []

    def handle(self, signum: int, _: FrameType | None) -> None:
        if self.listener is not None:
            self.listener(signum)
        elif signum == signal.SIGHUP:
            self.hung_up = True
        else:
            self.end(signum)

    def end(self, signum: int) -> None:
        for cleanup in reversed(self.cleanups):
            with suppress(
                OSError, RuntimeError
            ):  # RuntimeError: the signal interrupted a write to the same file
                cleanup()
        os._exit(128 + signum)


_process = _Process()


def take_over() -> None:
    """Handle the signals from now on. For the main thread."""
    for signum in (*ENDING, signal.SIGHUP):
        signal.signal(signum, _process.handle)


def ignore_hang_up() -> None:
    """Ignore SIGHUP from now on: Python's last act is to remove its handlers, and without one SIGHUP kills."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@contextmanager
def listening(stop: Callable[[], None], hang_up: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` for SIGINT and SIGTERM and ``hang_up`` for SIGHUP in the running event loop until the block ends.

    A SIGHUP that was kept is delivered first. A second SIGINT ends the process at once, as is usual at a
    terminal; a second SIGTERM does not, because ``timeout`` sends two.
    """
    import asyncio  # noqa: PLC0415 - takes long, and take_over must not wait for it

    loop = asyncio.get_running_loop()
    interrupted = False

    def listener(signum: int) -> None:
        nonlocal interrupted
        if signum == signal.SIGINT:
            if interrupted:
                _process.end(signum)
            interrupted = True
        loop.call_soon_threadsafe(hang_up if signum == signal.SIGHUP else stop)

    # A loop that has a handler of its own, for a signal that is not used, wakes up for all signals. Without it one that
    # arrives just before the loop falls asleep would wait until something else happens.
    loop.add_signal_handler(signal.SIGURG, lambda: None)
    _process.listener = listener
    if _process.hung_up:
        _process.hung_up = False
        hang_up()
    try:
        yield
    finally:
        _process.listener = None
        loop.remove_signal_handler(signal.SIGURG)


@contextmanager
def cleaning_up(cleanup: Callable[[], None]) -> Iterator[None]:
    """Call ``cleanup`` when the block ends, and also when a signal ends the process before that."""
    _process.cleanups.append(cleanup)
    try:
        yield
    finally:
        _process.cleanups.remove(cleanup)
        cleanup()
