"""Processes that the benchmark starts, and ends."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
END_SECONDS = 10.0


@contextmanager
def running(
    *command: str, env: Mapping[str, str] | None = None, stderr: IO[str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a command in the checkout, its standard output piped; end it on the way out."""
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, stderr=stderr, text=True
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def python(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command that runs one of our modules."""
    return (sys.executable, "-m", module, *arguments)


def line(process: subprocess.Popen[str]) -> str:
    """Return the next line that a process prints; raises where it ended instead."""
    assert process.stdout is not None
    text = process.stdout.readline().strip()
    if not text:
        raise RuntimeError(f"{process.args!r} ended with {process.wait()}")
    return text


def memory_mib(process_id: int, kind: str) -> float:
    """Return the memory of a process that runs: ``VmHWM`` at its peak, ``VmRSS`` now. 0 is this process."""
    for entry in Path(f"/proc/{process_id or 'self'}/status").read_text().splitlines():
        if entry.startswith(f"{kind}:"):
            return int(entry.split()[1]) / 1024
    raise SystemExit(f"no {kind} here: memory is measured on Linux only")
