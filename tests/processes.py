"""Programs that tests start, and end: the exporter's own commands, and real parts from Debian."""

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from signal import SIGTERM
from time import monotonic

import aiohttp
import pytest


def debian_program(name: str) -> str:
    """Return the path of a program of a Debian package; without it a test is skipped, yet never in CI."""
    path = shutil.which(name)
    if path is None and not os.environ.get("CI"):
        pytest.skip(f"{name} is not installed")
    assert path is not None, f"{name} is not installed"
    return path


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
async def exporter(*arguments: str, **environment: str) -> AsyncIterator[Exporter]:
    """Run the exporter on a free port until the block ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "exporter",
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
