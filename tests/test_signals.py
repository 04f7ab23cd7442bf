"""Signals from the first line of Python to the last, sent to real processes."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM

import pytest

SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
NOWHERE = "http://127.0.0.1:9"
CONFIG = f"""\
cloud: {{endpoint: "{NOWHERE}", audience: "{NOWHERE}", authority: "{NOWHERE}"}}
credential: {{kind: managed_identity}}
polling: {{timeout: 1s}}
subscriptions: [{{id: {SUBSCRIPTION}, scale_sets: [{{resource_group: rg, name: web}}]}}]
"""
COMMANDS = {
    "demo": ("demo", "--web.listen-address=127.0.0.1:0"),
    "simulate": ("simulate",),
    "check": ("check",),
    "once": ("once", "--output=metrics.prom"),
    "backfill": ("backfill", "--output=past.om"),
}


@asynccontextmanager
async def started(folder: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start the command; go on once it handles signals, which is its first line of Python."""
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "tmp").mkdir(exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exporter", *arguments),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
        env={
            **os.environ,
            "TMPDIR": str(folder / "tmp"),
            "IDENTITY_ENDPOINT": f"{NOWHERE}/token",
            "IDENTITY_HEADER": "none",
        },
    )
    try:
        async with asyncio.timeout(60):
            while not handles(process.pid, SIGHUP):
                await asyncio.sleep(0.002)
            yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def handles(pid: int, signum: int) -> bool:
    """Return whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"^SigCgt:\t([0-9a-f]+)$", status, re.MULTILINE)
    assert match is not None, f"it has ended:\n{status}"
    return bool(int(match[1], 16) >> (signum - 1) & 1)


async def hang_up_until_it_ends(process: asyncio.subprocess.Process) -> None:
    """Send SIGHUP again and again; not by ``send_signal``, which takes the exit code away from asyncio."""
    with suppress(ProcessLookupError):
        while process.returncode is None:
            os.kill(process.pid, SIGHUP)
            await asyncio.sleep(0.005)


def test_handlers_come_before_what_takes_long_to_import():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "exporter", "--version"],
        check=True,
        capture_output=True,
        text=True,
    )
    imported = re.findall(r"\| +([\w.]+)$", done.stderr, re.MULTILINE)
    before = set(imported[: imported.index("exporter.signals")])
    assert "exporter.cli" in imported
    assert not before & {"argparse", "logging", "asyncio", "exporter.cli", "exporter.log"}


async def test_sighup_ends_nothing_from_the_first_line_to_the_last(tmp_path: Path):
    async with started(tmp_path, *COMMANDS["demo"]) as process:
        hanging_up = asyncio.create_task(hang_up_until_it_ends(process))
        assert process.stderr is not None
        log = ""
        while line := (await process.stderr.readline()).decode():
            log += line
            if "configuration reloaded" in line:
                os.kill(process.pid, SIGTERM)
        assert await process.wait() == 0, log
        await hanging_up
    assert "draining" in log
    assert "Traceback" not in log


async def test_a_sighup_that_comes_too_early_for_the_daemon_leads_to_a_reload(tmp_path: Path):
    async with started(tmp_path, "--web.listen-address=127.0.0.1:0") as process:
        process.send_signal(SIGHUP)
        assert process.stderr is not None
        while "configuration reloaded" not in (line := (await process.stderr.readline()).decode()):
            assert line, "it has ended"
        process.send_signal(SIGTERM)
        await process.communicate()
        assert process.returncode == 0


@pytest.mark.parametrize("command", ["check", "once", "backfill"])
async def test_sighup_does_not_end_a_command_before_its_end(tmp_path: Path, command: str):
    async with started(tmp_path, *COMMANDS[command]) as process:
        _, (_, err) = await asyncio.gather(hang_up_until_it_ends(process), process.communicate())
        assert process.returncode == (0 if command == "check" else 1), err  # nothing answers at port 9
        assert b"Traceback" not in err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("signum", "codes"), [(SIGINT, {0, 130}), (SIGTERM, {0, 143})])
async def test_a_signal_at_any_moment_ends_it_without_a_traceback_and_leaves_nothing(
    tmp_path: Path, command: str, signum: signal.Signals, codes: set[int]
):
    by_itself = set() if command in {"demo", "simulate"} else {0, 1}

    async def end_after(milliseconds: int) -> None:
        async with started(tmp_path, *COMMANDS[command]) as process:
            await asyncio.sleep(milliseconds / 1000)
            with suppress(ProcessLookupError):
                os.kill(process.pid, signum)
            _, err = await process.communicate()
            # The number itself: Python has removed the handlers as its last act.
            assert process.returncode in codes | by_itself | {-signum}, (milliseconds, err)
            assert b"Traceback" not in err

    await asyncio.gather(*map(end_after, (0, 60, 250, 700)))
    names = {file.name for file in files(tmp_path)}
    assert names <= {"config.yaml", "metrics.prom", "past.om", "tmp"}
    assert not files(tmp_path / "tmp")


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


LISTENING = """
import asyncio
import os
from exporter import signals
signals.take_over()
async def listen():
    ready = lambda what: os.write(1, what.encode() + b"\\n")  # a print may be interrupted by the next one
    with signals.listening(lambda: ready("stop"), lambda: ready("hang up")), signals.cleaning_up(lambda: ready("end")):
        ready("listening")
        await asyncio.sleep(3600)
asyncio.run(listen())
"""


IGNORING = """
import os, signal, sys
for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(signum, signal.SIG_IGN)
os.execv(sys.argv[1], sys.argv[1:])
"""


@asynccontextmanager
async def a_listener() -> AsyncIterator[tuple[asyncio.subprocess.Process, asyncio.StreamReader]]:
    """Start a process that only says what it hears, and takes an hour to stop."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LISTENING, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"listening\n"
            yield process, process.stdout
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_second_sigint_ends_at_once_whatever_is_not_done():
    async with a_listener() as (process, said):
        process.send_signal(SIGINT)
        assert await said.readline() == b"stop\n"
        process.send_signal(SIGINT)
        assert await said.readline() == b"end\n"
        assert await process.wait() == 130


async def test_a_second_sigterm_does_not_as_timeout_sends_two():
    async with a_listener() as (process, said):
        for signum, heard in ((SIGTERM, b"stop\n"), (SIGTERM, b"stop\n"), (SIGHUP, b"hang up\n")):
            process.send_signal(signum)
            assert await said.readline() == heard
        assert process.returncode is None


async def test_ignored_signals_that_were_inherited_are_handled_all_the_same():
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", IGNORING, sys.executable, "-c", LISTENING),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        assert await process.stdout.readline() == b"listening\n"
        for signum, heard in ((SIGHUP, b"hang up\n"), (SIGTERM, b"stop\n"), (SIGINT, b"stop\n")):
            process.send_signal(signum)
            assert await process.stdout.readline() == heard
        process.send_signal(SIGINT)
        assert await process.wait() == 130
