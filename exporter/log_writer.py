"""Writes log lines to a file descriptor in a thread of its own, so that no other thread waits for the reader of the log.

A pipe that is not read is full after 64 KiB, and a write to it blocks: it would stop the event loop, and with it polls
and scrapes. So lines wait here, up to a bound; beyond it they are dropped and counted, and once the reader is back a
line in the log says how many. Knows nothing of loggers and formats.
"""

import os
import select
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Condition, Thread

CAPACITY_BYTES = 1 << 20
"""Maximum sum of the lines that wait. A longer line waits only alone."""


class LogWriter:
    """A file descriptor that lines are written to, and the lines that wait for it.

    ``report`` makes the line that says how many lines were dropped.
    """

    def __init__(self, descriptor: int, report: Callable[[int], str]) -> None:
        self._descriptor = descriptor
        self._report = report
        self._lines: deque[tuple[bytes, int]] = deque()
        """The lines that wait, each with the number of dropped lines that it reports.

        The first one stays until it is written, so that ``flush`` waits for it, too.
        """
        self._waiting_bytes = 0
        self._changed = Condition()
        self._dropped = 0
        """Dropped lines that no line reports yet."""
        self._uncounted = 0
        """Dropped lines that are not counted yet."""
        self._closed = False
        self._count: Callable[[int], object] | None = None
        Thread(target=self._write_lines, name="log", daemon=True).start()

    def put(self, line: str) -> None:
        """Have a line written as soon as the reader takes it. Never waits."""
        data = _encode(line)
        with self._changed:
            if self._lines and self._waiting_bytes + len(data) > CAPACITY_BYTES:
                self._drop()
                return
            self._report_dropped()
            self._append(data)

    def flush(self, seconds: float) -> bool:
        """Wait until every line is written, at most so long; return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._lines, seconds)

    def close(self) -> None:
        """End the thread once every line is written; nothing is put any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def count_dropped(self, count: Callable[[int], object]) -> None:
        """Call ``count`` with a number of lines whenever some are dropped, and for those dropped before now; in any thread."""
        with self._changed:
            self._count = count
            if self._uncounted:
                count(self._uncounted)
                self._uncounted = 0

    def _append(self, data: bytes, reported: int = 0) -> None:
        self._lines.append((data, reported))
        self._waiting_bytes += len(data)
        self._changed.notify_all()

    def _report_dropped(self) -> None:
        if self._dropped:
            self._append(_encode(self._report(self._dropped)), self._dropped)
            self._dropped = 0

    def _drop(self) -> None:
        self._dropped += 1
        if self._count is None:
            self._uncounted += 1
        else:
            self._count(1)

    def _write_lines(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._closed)
                if not self._lines:
                    return
                data, reported = self._lines[0]
            written = self._write(data)
            with self._changed:
                self._lines.popleft()
                self._waiting_bytes -= len(data)
                if reported and not written:
                    self._dropped += reported
                elif not written:
                    self._drop()
                elif not self._lines:  # otherwise the report precedes the next line
                    self._report_dropped()
                self._changed.notify_all()

    def _write(self, data: bytes) -> bool:
        """Write it all, however long that takes; return whether it could be written."""
        try:
            while data:
                with suppress(BlockingIOError):
                    data = data[os.write(self._descriptor, data) :]
                    continue
                writable = select.poll()  # another process has made the shared descriptor non-blocking
                writable.register(self._descriptor, select.POLLOUT)
                writable.poll()
        except OSError:  # the reader has gone, or the disk is full: a later line may be written
            return False
        return True


def _encode(line: str) -> bytes:
    return f"{line}\n".encode(errors="backslashreplace")
