"""The log's writer, on real pipes: no caller waits for their reader, and what is dropped is counted."""

import os
import re
import threading
from collections.abc import Callable, Iterator

import pytest

from exporter.log_writer import CAPACITY_BYTES, LogWriter

LINES = 4 * CAPACITY_BYTES // 1000


def report(lines: int) -> str:
    return f"{lines} lines dropped"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for end in (reader, writer):
        os.close(end)


def read_until(reader: int, enough: Callable[[list[str]], bool]) -> list[str]:
    """Read lines until they are enough."""
    data = b""
    while not data.endswith(b"\n") or not enough(data.decode().splitlines()):
        data += os.read(reader, 65536)
    return data.decode().splitlines()


def reported(lines: list[str]) -> list[int]:
    return [int(match[1]) for line in lines if (match := re.fullmatch(r"(\d+) lines dropped", line))]


def complete(lines: list[str]) -> bool:
    """Return whether each of ``LINES`` is there or reported as dropped."""
    return len(lines) - len(reported(lines)) + sum(reported(lines)) == LINES


def numbered(number: int) -> str:
    return f"{number:8} {'x' * 991}"


def test_lines_are_written_in_their_order(pipe: tuple[int, int]):
    writer = LogWriter(pipe[1], report)
    for text in ("first", "second", "größe \ud800"):
        writer.put(text)
    assert writer.flush(60)
    assert os.read(pipe[0], 1000).decode() == "first\nsecond\ngröße \\ud800\n"


def test_a_pipe_that_nobody_reads_stops_nobody_and_what_is_dropped_is_counted_and_told(pipe: tuple[int, int]):
    dropped: list[int] = []
    writer = LogWriter(pipe[1], report)
    writer.count_dropped(dropped.append)
    for number in range(LINES):
        writer.put(numbered(number))
    assert not writer.flush(0.01)
    assert sum(dropped) > LINES // 2
    lines = read_until(pipe[0], complete)
    assert sum(reported(lines)) == sum(dropped)
    written = [line for line in lines if "dropped" not in line]
    assert [line for line in map(numbered, range(LINES)) if line in set(written)] == written
    writer.put("back")
    assert writer.flush(60)
    assert os.read(pipe[0], 1000) == b"back\n"


def test_lines_dropped_before_somebody_counts_are_counted(pipe: tuple[int, int]):
    writer = LogWriter(pipe[1], report)
    for number in range(LINES):
        writer.put(numbered(number))
    dropped: list[int] = []
    writer.count_dropped(dropped.append)
    assert sum(dropped) > LINES // 2
    read_until(pipe[0], complete)


def test_a_line_longer_than_all_that_may_wait_is_written(pipe: tuple[int, int]):
    long = "y" * (CAPACITY_BYTES + 1)
    writer = LogWriter(pipe[1], report)
    writer.put(long)
    assert read_until(pipe[0], bool) == [long]
    assert writer.flush(60)


def test_a_pipe_without_a_reader_drops_the_lines_and_raises_nothing():
    reader, end = os.pipe()
    os.close(reader)
    dropped: list[int] = []
    writer = LogWriter(end, report)
    writer.count_dropped(dropped.append)
    for _ in range(3):
        writer.put("lost")
        assert writer.flush(60)
    assert dropped == [1, 1, 1]
    os.close(end)


def test_its_thread_ends_with_it_once_all_is_written(pipe: tuple[int, int]):
    before = set(threading.enumerate())
    writer = LogWriter(pipe[1], report)
    (thread,) = set(threading.enumerate()) - before
    writer.put("last")
    writer.close()
    thread.join(60)
    assert not thread.is_alive()
    assert os.read(pipe[0], 1000) == b"last\n"


def test_lines_that_fail_are_told_once_writing_works_again():
    reader, end = os.pipe()
    gone, broken = os.pipe()
    os.close(gone)
    descriptor = os.dup(broken)
    writer = LogWriter(descriptor, report)
    writer.put("lost")
    assert writer.flush(60)
    os.dup2(end, descriptor)
    writer.put("written")
    assert writer.flush(60)
    assert os.read(reader, 1000) == b"1 lines dropped\nwritten\n"
    for each in (reader, end, broken, descriptor):
        os.close(each)


def test_a_descriptor_that_another_process_made_non_blocking_loses_nothing(pipe: tuple[int, int]):
    os.set_blocking(pipe[1], False)
    writer = LogWriter(pipe[1], report)
    sent = [numbered(number) for number in range(500)]
    for line in sent:
        writer.put(line)
    assert read_until(pipe[0], lambda lines: len(lines) == len(sent)) == sent
    assert writer.flush(60)
