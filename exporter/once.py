"""One poll of everything, for cron and node_exporter's textfile collector: the daemon without its server.

Goes by the same plans, so it keeps to the same budgets. Knows nothing of Azure.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, TextIO

from exporter import signals
from exporter.config import Config
from exporter.daemon import Daemon
from exporter.exposition import Format
from exporter.log import escaped
from exporter.scale_set import Shard

LOOK_SECONDS = 0.1
BAR_WIDTH = 40
COLUMNS = 80
"""Of a terminal that does not say how wide it is."""
SHOWN_FAILURES = 20


def once(read: Callable[[], Config], shard: Shard, output: Path | None) -> None:
    """Poll everything once, write the exposition to ``output`` or standard output.

    Raises what ``read`` raises, and ``OSError`` where the output cannot be written, or where polls failed: what was
    learned has been written then all the same.
    """
    body, failures = asyncio.run(_polled(read, shard))
    with opened(output) as file:
        file.write(body)
    raise_for(failures)


async def _polled(read: Callable[[], Config], shard: Shard) -> tuple[bytes, list[str]]:
    """Return the exposition and what failed; what follows needs no event loop, so that Ctrl-C ends it at once."""
    async with everything_polled(read, shard) as daemon:
        return b"".join(daemon.exposition.plain(Format.TEXT)), daemon.failures()


@asynccontextmanager
async def everything_polled(read: Callable[[], Config], shard: Shard) -> AsyncIterator[Daemon]:
    """Yield a daemon that has polled everything once, and serves nothing."""
    daemon = Daemon(read, shard, lasting=False)
    try:
        await daemon.start()

        def end_progress() -> None:
            draw(sys.stderr, *daemon.progress, "scale sets polled", last=True)

        with signals.cleaning_up(end_progress):
            while not daemon.ready:
                draw(sys.stderr, *daemon.progress, "scale sets polled")
                await asyncio.sleep(LOOK_SECONDS)
        yield daemon
    finally:
        await daemon.end()


def raise_for(failures: list[str]) -> None:
    """Raise ``OSError`` with the failures, the first of them where there are many, as a terminal may have them."""
    if failures:
        shown = [escaped(failure) for failure in failures[:SHOWN_FAILURES]]
        more = [f"and {len(failures) - len(shown)} more"] if len(failures) > len(shown) else []
        noun = "failure" if len(failures) == 1 else "failures"
        raise OSError("\n".join([f"{len(failures)} {noun}:", *shown, *more]))


def draw(terminal: TextIO, done: int, of: int, what: str, *, last: bool = False) -> None:
    """Draw a progress bar as wide as it may be, where somebody looks; log lines may come in between."""
    if terminal.isatty():
        text = f"{done} of {of} {what}"
        room = _columns(terminal) - 1  # a terminal may break a line that is full
        width = min(BAR_WIDTH, room - len("[] ") - len(text))
        filled = width * done // of if of else 0
        line = f"[{'#' * filled}{'.' * (width - filled)}] {text}" if width > 0 else text[:room]
        # Past Python's buffer, which a signal's handler must not touch when the signal interrupted a write to it.
        os.write(terminal.fileno(), f"\x1b[2K{line}{chr(10) if last else chr(13)}".encode())


def _columns(terminal: TextIO) -> int:
    try:
        return os.get_terminal_size(terminal.fileno()).columns or COLUMNS
    except OSError:
        return COLUMNS


@contextmanager
def opened(path: Path | None) -> Iterator[BinaryIO]:
    """Open a file to be written at once, or standard output where there is none.

    A reader of the file sees the old one whole or the new one whole, even after a crash. An exception, Ctrl-C or SIGTERM
    leaves nothing else behind.
    """
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    with signals.cleaning_up(partial(temporary.unlink, missing_ok=True)):
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp's is for us alone, the collector is another user
        temporary.replace(path)
