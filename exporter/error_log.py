"""Log unexpected errors, without flooding the log: one line per kind of error and minute.

The first line of a kind has the traceback; the lines after it have the number of errors since the line before. A kind
that does not occur for a minute is forgotten. Knows nothing of where the errors come from.
"""

import asyncio
import logging
from collections.abc import Hashable
from functools import partial
from typing import Any

from exporter.log import fields

SECONDS_BETWEEN_LINES = 60.0
MAX_KINDS = 64
"""Maximum kinds that have lines of their own; the others share one."""


class ErrorLog:
    """Reports errors to a logger. Used inside an event loop, which keeps the time."""

    def __init__(self, log: logging.Logger, seconds_between_lines: float = SECONDS_BETWEEN_LINES) -> None:
        self._log = log
        self._seconds_between_lines = seconds_between_lines
        self._suppressed: dict[Hashable, int] = {}
        """Number of errors since the last line, by kind."""

    def report(
        self, message: str, error: BaseException | None, *, traceback: bool = True, **values: object
    ) -> None:
        """Log an error, or count it where the last line of its kind is less than a minute old.

        ``traceback`` is for errors in the code; a lack of resources is explained by its text.
        """
        kind: Hashable = (message, type(error), _place(error), None if error else str(values))
        if kind not in self._suppressed and len(self._suppressed) >= MAX_KINDS:
            kind = None
        if kind in self._suppressed:
            self._suppressed[kind] += 1
            return
        self._log.error(
            message,
            exc_info=error if traceback else None,
            extra=fields(**values, **_shown(error)),
        )
        self._wait(kind, message, error, values)

    def handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Report an error of an event loop; for its ``set_exception_handler``.

        May be called in any thread: a failed task is reported by the thread that collects it as garbage.
        """
        report = partial(self.report, what=context["message"])
        loop.call_soon_threadsafe(report, "error in the event loop", context.get("exception"))

    def _wait(
        self, kind: Hashable, message: str, error: BaseException | None, values: dict[str, object]
    ) -> None:
        self._suppressed[kind] = 0
        shown = values | _shown(error)
        loop = asyncio.get_running_loop()

        def release() -> None:
            suppressed = self._suppressed.pop(kind)
            if suppressed:
                self._log.error(message, extra=fields(**shown, suppressed=suppressed))
                self._suppressed[kind] = 0
                loop.call_later(self._seconds_between_lines, release)

        loop.call_later(self._seconds_between_lines, release)


def _shown(error: BaseException | None) -> dict[str, object]:
    return {} if error is None else {"error": f"{type(error).__name__}: {error}"}


def _place(error: BaseException | None) -> tuple[str, int] | None:
    """Return the file and line that raised an error."""
    last = None if error is None else error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return None if last is None else (last.tb_frame.f_code.co_filename, last.tb_lineno)
