"""Log lines: literal, and one line whatever they hold."""

import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.log import FORMATS, LEVELS, Json, Logfmt, configure, fields, flush

CREATED = 1_750_000_000.1239


def record(message: str, level: int = logging.INFO, **values: object) -> logging.LogRecord:
    made = logging.LogRecord("exporter.poller", level, "poller.py", 1, message, None, None)
    made.created = CREATED
    made.__dict__.update(fields(**values))
    return made


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("rg-web", "rg-web"),
        ("127.0.0.1:9847", "127.0.0.1:9847"),
        ("größe/网", "größe/网"),
        (7, "7"),
        (0.5, "0.5"),
        (True, "True"),
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "no"', r'"say \"no\""'),
        ("back\\slash", r'"back\\slash"'),
        ("tab\t", r'"tab\t"'),
        ("a\nb\r\nlevel=error", r'"a\nb\r\nlevel=error"'),
        ("\x00", r'"\u0000"'),
        ("\x1b[31m", r'"\u001b[31m"'),
        ("\x7f", r'"\u007f"'),
        ("\x85next", r'"\u0085next"'),
        ("\x9b31m", r'"\u009b31m"'),
        ("a\u2028b\u2029c", r'"a\u2028b\u2029c"'),
        ("\u202egnp.exe", r'"\u202egnp.exe"'),
        ("\ud800", r'"\ud800"'),
        ("größe zwei", '"größe zwei"'),
    ],
)
def test_logfmt_quotes_what_needs_it(value: object, written: str) -> None:
    line = Logfmt().format(record("poll failed", logging.WARNING, error=value))
    assert line == f'time=2025-06-15T15:06:40.123Z level=warning msg="poll failed" error={written}'


def test_a_message_of_one_word_is_not_quoted() -> None:
    line = Logfmt().format(record("listening", address="127.0.0.1:1", version="0.1.0"))
    assert line == "time=2025-06-15T15:06:40.123Z level=info msg=listening address=127.0.0.1:1 version=0.1.0"


def test_json_is_an_object_a_line() -> None:
    line = Json().format(
        record("poll failed", logging.ERROR, scale_set="größe", seconds=0.5, error="a\nb\u2028")
    )
    assert line == (
        '{"time": "2025-06-15T15:06:40.123Z", "level": "error", "msg": "poll failed",'
        r' "scale_set": "gr\u00f6\u00dfe", "seconds": 0.5, "error": "a\nb\u2028"}'
    )


def test_json_writes_what_json_does_not_know_as_text() -> None:
    line = Json().format(record("reloaded", path=StringIO))
    assert json.loads(line)["path"] == "<class '_io.StringIO'>"


def with_traceback() -> logging.LogRecord:
    made = record("defect in a poll", logging.ERROR)
    try:
        int("two\nlines")
    except ValueError:
        made.exc_info = sys.exc_info()
    return made


@pytest.mark.parametrize("formatter", [Logfmt(), Json()], ids=FORMATS)
def test_a_traceback_stays_on_the_line(formatter: logging.Formatter) -> None:
    line = formatter.format(with_traceback())
    assert line.splitlines() == [line]
    assert r"ValueError: invalid literal" in line
    assert r"Traceback (most recent call last):\n" in line


@given(st.text(st.characters(codec=None)), st.text(st.characters(codec=None)))
def test_any_value_stays_on_one_line_and_can_be_printed(message: str, value: str) -> None:
    for formatter in (Logfmt(), Json()):
        line = formatter.format(record(message.replace("%", ""), value=value))
        assert line.splitlines() == [line]
        assert line.isprintable()


@given(st.text())
def test_a_quoted_value_can_be_read_back(value: str) -> None:
    written = Logfmt().format(record("x", value=value)).partition(" value=")[2]
    assert (json.loads(written) if written.startswith('"') else written) == value


@pytest.fixture
def restored() -> Iterator[None]:
    root, apscheduler = logging.getLogger(), logging.getLogger("apscheduler")
    before = (root.handlers[:], root.level, apscheduler.level)
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    apscheduler.setLevel(before[2])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("line_format", FORMATS)
def test_all_logging_goes_to_standard_error(
    restored: None, capfd: pytest.CaptureFixture[str], level: str, line_format: str
) -> None:
    configure(level, line_format)
    for each in LEVELS:
        logging.getLogger("some.library").log(getattr(logging, each.upper()), "%s is full", each)
    flush(60)
    written = capfd.readouterr()
    assert written.out == ""
    shown = LEVELS[LEVELS.index(level) :]
    if line_format == "json":
        assert [json.loads(line)["msg"] for line in written.err.splitlines()] == [
            f"{s} is full" for s in shown
        ]
    else:
        assert [line.split(" ", 1)[1] for line in written.err.splitlines()] == [
            f'level={s} msg="{s} is full"' for s in shown
        ]


def test_a_log_call_that_cannot_be_formatted_breaks_nothing_and_is_logged(
    restored: None, capfd: pytest.CaptureFixture[str]
) -> None:
    configure("info", "json")
    logging.getLogger("some.library").warning("%d of %d", "one")  # noqa: PLE1206 - that is the case
    flush(60)
    (line,) = capfd.readouterr().err.splitlines()
    logged = json.loads(line)
    assert (logged["level"], logged["msg"]) == ("error", "log line cannot be formatted")
    assert logged["error"] == "TypeError('%d format: a real number is required, not str')"
    assert re.search(r"test_log\.py:[0-9]+$", logged["place"])


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["warning", "error"]),
        ("info", ["warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_the_clock_logs_warnings_only_and_not_against_the_level(
    restored: None, capfd: pytest.CaptureFixture[str], level: str, shown: list[str]
) -> None:
    configure(level, "json")
    for each in LEVELS:
        logging.getLogger("apscheduler.executors.default").log(getattr(logging, each.upper()), each)
    flush(60)
    assert [json.loads(line)["msg"] for line in capfd.readouterr().err.splitlines()] == shown


@pytest.mark.parametrize(
    ("line_format", "told"),
    [
        ("logfmt", r'time=\S+ level=warning msg="log lines dropped" lines=(\d+)'),
        ("json", r'\{"time": "[^"]+", "level": "warning", "msg": "log lines dropped", "lines": (\d+)\}'),
    ],
)
def test_dropped_lines_are_told_in_the_format_of_the_log(
    restored: None, monkeypatch: pytest.MonkeyPatch, line_format: str, told: str
) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader) as reading, os.fdopen(writer, "w") as standard_error:
        monkeypatch.setattr(sys, "stderr", standard_error)
        configure("info", line_format)
        for _ in range(3000):
            logging.getLogger("exporter").info("x" * 1000)
        for line in reading:
            match = re.fullmatch(told, line.rstrip("\n"))
            if match is not None:
                break
        assert match is not None
        assert int(match[1]) > 0
        flush(60)


def test_nothing_is_logged_where_standard_error_is_closed(
    restored: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    configure("info", "logfmt")
    logging.getLogger("exporter").error("not to descriptor 2, which is another file by now")
    flush(60)
    assert capfd.readouterr().err == ""
