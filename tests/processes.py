"""Programs that tests start, and end: the exporter's own commands, and real parts from Debian."""

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGTERM
from socket import socket
from time import monotonic

import aiohttp
import pytest
import yaml


def debian_program(name: str) -> str:
    """Return the path of a program of a Debian package; without it a test is skipped, yet never in CI."""
    path = shutil.which(name)
    if path is None and not os.environ.get("CI"):
        pytest.skip(f"{name} is not installed")
    assert path is not None, f"{name} is not installed"
    return path


def debian_library(package: str, name: str) -> Path:
    """Return the path of a library in a folder of a Debian package; without it a test is skipped, yet never in CI."""
    path = next(Path("/usr/lib").glob(f"*/{package}/{name}"), None)
    if path is None and not os.environ.get("CI"):
        pytest.skip(f"{package} is not installed")
    assert path is not None, f"{package} is not installed"
    return path


def set_clock(file: Path, ahead: float) -> None:
    """Let the wall clock of programs with ``steppable_clock`` be ahead of the true time by so many seconds, from now on."""
    new = file.with_suffix(".new")
    new.write_text(f"{ahead:+.0f}\n")
    new.replace(file)  # as it may be read at any moment


def steppable_clock(file: Path) -> dict[str, str]:
    """Return the environment of a program whose wall clock goes by a file, and whose monotonic clock stays true."""
    return {
        "LD_PRELOAD": str(debian_library("faketime", "libfaketimeMT.so.1")),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_CACHE_DURATION": "1",  # seconds between two readings of the file
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }


def free_address() -> str:
    """Return an address of this machine that nobody listens on."""
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@asynccontextmanager
async def running_program(name: str, *arguments: str) -> AsyncIterator[list[str]]:
    """Run a program of a Debian package until the block ends; yield its log, which grows."""
    process = await asyncio.create_subprocess_exec(
        debian_program(name), *arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    log: list[str] = []

    async def read(stream: asyncio.StreamReader) -> None:
        async for line in stream:
            log.append(line.decode())  # noqa: PERF401 - to be seen while it grows

    reading = asyncio.create_task(read(process.stderr))
    try:
        yield log
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await reading


@asynccontextmanager
async def prometheus(folder: Path, config: dict[str, object]) -> AsyncIterator[tuple[str, list[str]]]:
    """Run Prometheus until the block ends; yield its URL and its log."""
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    address = free_address()
    async with running_program(
        "prometheus",
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ) as log:
        yield f"http://{address}", log


async def query(
    client: aiohttp.ClientSession, url: str, expression: str
) -> list[tuple[dict[str, str], float]]:
    """Return what Prometheus answers to an instant query: labels and value of each series."""
    try:
        async with client.get(f"{url}/api/v1/query", params={"query": expression}) as response:
            found = json.loads(await response.text())["data"]["result"]
    except (aiohttp.ClientConnectionError, KeyError, ValueError):
        return []  # not up yet
    return [(series["metric"], float(series["value"][1])) for series in found]


@dataclass
class Exporter:
    """A running ``vmss-upgrade-exporter``."""

    process: asyncio.subprocess.Process
    url: str
    log: list[str] = field(default_factory=list)

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as client,
            client.get(self.url + path, headers=headers) as response,
        ):
            return response.status, await response.text()

    async def until_ready(self, seconds: float = 20.0) -> None:
        deadline = monotonic() + seconds
        while (await self.get("/-/ready"))[0] != 200:
            assert monotonic() < deadline, self.log
            await asyncio.sleep(0.05)

    async def ends_after(self, signal: int) -> int:
        """Send a signal; return the exit code."""
        self.process.send_signal(signal)
        return await asyncio.wait_for(self.process.wait(), 10.0)


@asynccontextmanager
async def running_simulator(*arguments: str) -> AsyncIterator[str]:
    """Run ``vmss-upgrade-exporter simulate`` until the block ends; yield its URL."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "exporter", "simulate", *arguments, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        line = (await asyncio.wait_for(process.stderr.readline(), 60.0)).decode()
        match = re.search(r"endpoint=(\S+)", line)
        assert match is not None, line
        yield match[1]
    finally:
        if process.returncode is None:
            process.send_signal(SIGTERM)
        await asyncio.wait_for(process.communicate(), 10.0)


@asynccontextmanager
async def exporter(*arguments: str, module: str = "exporter", **environment: str) -> AsyncIterator[Exporter]:
    """Run the exporter, or a module that wraps it, on a free port until the block ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        "--web.listen-address=127.0.0.1:0",
        env={**os.environ, **environment},
        stderr=asyncio.subprocess.PIPE,
    )
    running = Exporter(process, "")
    listening = asyncio.get_running_loop().create_future()
    reading = asyncio.create_task(_read_log(running, listening))
    try:
        running.url = f"http://{await asyncio.wait_for(listening, 20.0)}"
        yield running
    finally:
        if process.returncode is None:
            process.send_signal(SIGTERM)
            await asyncio.wait_for(process.wait(), 10.0)
        await reading


async def _read_log(running: Exporter, listening: asyncio.Future[str]) -> None:
    assert running.process.stderr is not None
    async for line in running.process.stderr:
        running.log.append(line.decode().rstrip("\n"))
        match = re.search(r'listening.*"?address"?(?:=|: ")([^" ]+)', running.log[-1])
        if match is not None and not listening.done():
            listening.set_result(match[1])
    if not listening.done():
        listening.set_exception(AssertionError("\n".join(running.log)))
