"""Log lines as Prometheus' exporters write them: logfmt, or JSON, on standard error.

A message is a constant; what varies is given as ``extra=fields(...)`` and becomes key and value. No line shows a
secret that this process remembers, not even in a traceback.
"""

import json
import logging
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime

from exporter.log_writer import LogWriter
from exporter.redaction import redact

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("logfmt", "json")


def fields(**values: object) -> dict[str, dict[str, object]]:
    """Return the ``extra`` of a log call: ``log.info("listening", extra=fields(address=address))``."""
    return {"fields": values}


def configure(level: str, line_format: str) -> None:
    """Send all logging to standard error, in one format, without ever waiting for its reader.

    Where standard error is closed, nothing is logged.
    """
    formatter = Logfmt() if line_format == "logfmt" else Json()
    handlers: list[logging.Handler] = [logging.NullHandler()]
    if sys.stderr is not None:
        handlers = [_Queueing(sys.stderr.fileno(), formatter)]
    logging.basicConfig(level=level.upper(), handlers=handlers, force=True)
    # APScheduler has a line for each tick at level info.
    logging.getLogger("apscheduler").setLevel(max(logging.WARNING, logging.getLogger().level))


def write_line(line: str) -> None:
    """Write a line to standard error as it is, behind the log lines before it."""
    for handler in _handlers():
        handler.writer.put(line)


def flush(seconds: float) -> None:
    """Wait until all lines are written, at most so long: standard error may have no reader."""
    for handler in _handlers():
        handler.writer.flush(seconds)


def count_dropped(count: Callable[[int], object]) -> None:
    """Call ``count`` with a number of log lines whenever some are dropped because standard error is not read."""
    for handler in _handlers():
        handler.writer.count_dropped(count)


class _Queueing(logging.Handler):
    """Hands formatted lines to a ``LogWriter``."""

    def __init__(self, descriptor: int, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.writer = LogWriter(descriptor, self._report)

    def emit(self, record: logging.LogRecord) -> None:
        """Format the record at once, as what it refers to may change, and write it later."""
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001 - a wrong log call, of a library perhaps, must not break its caller
            values = fields(place=f"{record.pathname}:{record.lineno}", error=repr(error))
            line = self._line("log line cannot be formatted", logging.ERROR, values)
        self.writer.put(line)

    def close(self) -> None:
        """End the writer's thread; the next ``configure`` calls this."""
        self.writer.close()
        super().close()

    def _report(self, lines: int) -> str:
        return self._line("log lines dropped", logging.WARNING, fields(lines=lines))

    def _line(self, message: str, level: int, values: dict[str, dict[str, object]]) -> str:
        about: dict[str, object] = {
            "name": __name__,
            "levelno": level,
            "levelname": logging.getLevelName(level),
        }
        return self.format(logging.makeLogRecord({**about, "msg": message, **values}))


def _handlers() -> list[_Queueing]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, _Queueing)]


class Logfmt(logging.Formatter):
    """``time=... level=info msg=... key=value``: quoted where a value needs it, one line whatever it holds."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return " ".join(f"{key}={_quote(str(value))}" for key, value in _items(record).items())


class Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return json.dumps(_items(record))


def _items(record: logging.LogRecord) -> dict[str, object]:
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    items: dict[str, object] = {
        "time": time.replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "msg": record.getMessage(),
        **getattr(record, "fields", {}),
    }
    if record.exc_info:
        items["traceback"] = logging.Formatter().formatException(record.exc_info)
    return {
        key: value if isinstance(value, int | float | None) else redact(str(value))
        for key, value in items.items()
    }


def escaped(text: str) -> str:
    """Return a text as a terminal may have it: as it is, or as JSON where a character of it is not printable."""
    printable = text.isprintable()  # no line break, no escape of a terminal's, whatever Unicode calls it
    return text if printable else json.dumps(text)


def _quote(value: str) -> str:
    shown = escaped(value)
    return shown if shown is not value or _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=False)


_PLAIN = re.compile(r'[^\s"=\\]+')
