"""Unexpected errors: one line per kind and minute."""

import asyncio
import logging

import pytest

from exporter.error_log import MAX_KINDS, ErrorLog

log = logging.getLogger(__name__)


def fail(text: str) -> Exception:
    try:
        fail_now(text)
    except RuntimeError as error:
        return error
    raise AssertionError


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, object, bool]]:
    """Return of each line its message, how many errors it says were suppressed, and whether it has a traceback."""
    return [
        (record.message, record.fields.get("suppressed"), record.exc_info is not None)  # type: ignore[attr-defined]
        for record in caplog.records
    ]


async def test_of_a_kind_the_first_error_has_a_line_with_its_traceback_and_the_others_are_counted(
    caplog: pytest.LogCaptureFixture,
):
    errors = ErrorLog(log, seconds_between_lines=0.05)
    for number in range(1000):
        errors.report("defect", fail(str(number)), path="/metrics")
    assert lines(caplog) == [("defect", None, True)]
    assert caplog.records[0].fields == {"path": "/metrics", "error": "RuntimeError: 0"}  # type: ignore[attr-defined]
    async with asyncio.timeout(10):
        while len(caplog.records) < 2:
            await asyncio.sleep(0.01)
    assert lines(caplog)[1] == ("defect", 999, False)


async def test_a_kind_that_did_not_occur_for_a_while_is_new_again(caplog: pytest.LogCaptureFixture):
    errors = ErrorLog(log, seconds_between_lines=0.01)
    async with asyncio.timeout(10):
        while lines(caplog) != [("defect", None, True)] * 2:
            errors.report("defect", fail("once in a while"))
            await asyncio.sleep(0.1)


async def test_errors_of_other_places_types_and_messages_are_other_kinds(caplog: pytest.LogCaptureFixture):
    errors = ErrorLog(log)
    for _ in range(2):
        errors.report("one", fail(""))
        errors.report("two", fail(""))
        errors.report("one", ValueError())
        errors.report("one", None, what="a")
        errors.report("one", None, what="b")
    assert [record.message for record in caplog.records] == ["one", "two", "one", "one", "one"]


async def test_there_are_not_more_lines_than_kinds_that_are_told_apart(caplog: pytest.LogCaptureFixture):
    errors = ErrorLog(log)
    for number in range(1000):
        errors.report("defect", None, what=number)
    assert len(caplog.records) == MAX_KINDS + 1


async def test_what_an_event_loop_says_is_reported(caplog: pytest.LogCaptureFixture):
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(ErrorLog(log).handle)
    for _ in range(100):
        loop.call_soon(fail_now)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert lines(caplog) == [("error in the event loop", None, True)]
    (record,) = caplog.records
    assert record.fields["what"].startswith("Exception in callback fail_now()")  # type: ignore[attr-defined]
    assert record.fields["error"] == "RuntimeError: now"  # type: ignore[attr-defined]


async def test_what_a_thread_says_that_collects_the_garbage_of_an_event_loop_is_reported(
    caplog: pytest.LogCaptureFixture,
):
    """A failed task that is collected in another thread is reported from there."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(ErrorLog(log).handle)
    context = {"message": "Task exception was never retrieved", "exception": fail("lost")}
    await asyncio.to_thread(loop.call_exception_handler, context)
    await asyncio.sleep(0)
    assert lines(caplog) == [("error in the event loop", None, True)]
    assert caplog.records[0].fields["error"] == "RuntimeError: lost"  # type: ignore[attr-defined]


def fail_now(text: str = "now") -> None:
    raise RuntimeError(text)
