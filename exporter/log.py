"""Log lines as Prometheus' exporters write them: logfmt, or JSON, on standard error.

A message is a constant; what varies is given as ``extra=fields(...)`` and becomes key and value.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("logfmt", "json")


def fields(**values: object) -> dict[str, dict[str, object]]:
    """Return the ``extra`` of a log call: ``log.info("listening", extra=fields(address=address))``."""
    return {"fields": values}


def configure(level: str, line_format: str) -> None:
    """Send all logging to standard error, in one format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Logfmt() if line_format == "logfmt" else Json())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("apscheduler").setLevel(logging.WARNING)  # a line a ring


class Logfmt(logging.Formatter):
    """``time=... level=info msg=... key=value``: quoted where a value needs it, one line whatever it holds."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return " ".join(f"{key}={_quote(str(value))}" for key, value in _items(record).items())


class Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return json.dumps(_items(record), default=str)


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
    return items


def escaped(text: str) -> str:
    """Return a text as a terminal may have it: as it is, or as JSON where a character of it is not printable."""
    printable = text.isprintable()  # no line break, no escape of a terminal's, whatever Unicode calls it
    return text if printable else json.dumps(text)


def _quote(value: str) -> str:
    shown = escaped(value)
    return shown if shown is not value or _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=False)


_PLAIN = re.compile(r'[^\s"=\\]+')
