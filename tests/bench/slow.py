"""A good scraper beside a hundred that read a byte a second: its time, and the memory that they hold."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from time import perf_counter, sleep

from .child import line, python, running
from .load import Connection
from .report import Pairs, Row, number_of

READERS = 100
STALLED_SECONDS = 2.0
"""After which all of them have got what the system's own buffers take."""
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
REQUEST = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


def slow(*, quick: bool) -> Iterator[Row]:
    """Measure scrapes without and with slow readers, in turn."""
    number, turns, scrapes = (1_000, 2, 5) if quick else (10_000, 9, 9)
    without: dict[bool, list[float]] = {False: [], True: []}
    beside: dict[bool, list[float]] = {False: [], True: []}
    held: list[float] = []
    kept: list[float] = []
    with running(*python("tests.bench.process", str(number))) as process:
        port = int(line(process))
        with Connection(port) as connection:
            _scrapes(connection, scrapes, {False: [], True: []})
            for _ in range(turns):
                _scrapes(connection, scrapes, without)
                before, kept_before = _resident_mib(process.pid), _kept_mib()
                with _slow_readers(port):
                    held.append(_resident_mib(process.pid) - before)
                    kept.append(_kept_mib() - kept_before)
                    _scrapes(connection, scrapes, beside)
    for gzip, name in ((False, "identity"), (True, "gzip")):
        title = f"scrape of {number:,}, {name}, beside {READERS} that read a byte a second"
        yield Pairs(beside[gzip], without[gzip]).row(title, "ms (wall)")
    yield Row(
        "  memory that these hold, here / in the system's buffers",
        f"{number_of(max(held))} / {number_of(max(kept))} MiB",
    )


def _scrapes(connection: Connection, number: int, took: dict[bool, list[float]]) -> None:
    for gzip in (False, True) * number:
        started = perf_counter()
        connection.get("/metrics", gzip=gzip)
        took[gzip].append((perf_counter() - started) * 1e3)


@contextmanager
def _slow_readers(port: int) -> Iterator[None]:
    """Hold so many connections, each of which has asked and reads a byte a second; one that is cut off asks anew."""
    readers = [_asking(port) for _ in range(READERS)]
    done = Event()

    def read() -> None:
        while not done.wait(1.0):
            for place, reader in enumerate(readers):
                try:
                    left = reader.recv(1)
                except BlockingIOError:
                    continue
                except ConnectionError:
                    left = b""
                if not left:
                    reader.close()
                    readers[place] = _asking(port)

    reading = Thread(target=read)
    reading.start()
    sleep(STALLED_SECONDS)
    try:
        yield
    finally:
        done.set()
        reading.join()
        for reader in readers:
            reader.close()


def _asking(port: int) -> socket.socket:
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.connect(("127.0.0.1", port))
    reader.sendall(REQUEST)
    reader.setblocking(False)
    return reader


def _resident_mib(process_id: int) -> float:
    for entry in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if entry.startswith("VmRSS:"):
            return int(entry.split()[1]) / 1024
    raise SystemExit("no VmRSS here: memory is measured on Linux only")


def _kept_mib() -> float:
    """Return what the system's buffers of all TCP connections hold."""
    for entry in Path("/proc/net/sockstat").read_text().splitlines():
        if entry.startswith("TCP:"):
            return int(entry.split()[-1]) * PAGE_BYTES / 2**20
    raise SystemExit("no sockstat here: memory is measured on Linux only")
