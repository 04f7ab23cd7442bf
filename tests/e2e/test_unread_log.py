"""A daemon whose standard error is not read: it goes on, counts what it cannot write, and can be ended."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGTERM

import aiohttp

from tests.processes import free_address

SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
NAMED = f"subscriptions: [{{id: {SUBSCRIPTION}, scale_sets: [{{resource_group: rg, name: web}}]}}]\n"
FAULTY = NAMED + "".join(f"unknown_{number}_{'x' * 200}: 1\n" for number in range(1000))
"""Each reload of it logs more than a quarter of a megabyte; a pipe holds 64 KiB."""
RELOADS = 8
DROPPED = re.compile(r"^vmss_upgrade_exporter_log_lines_dropped_total (\S+)$", re.MULTILINE)


@asynccontextmanager
async def a_daemon(
    folder: Path, standard_error: int
) -> AsyncIterator[tuple[asyncio.subprocess.Process, aiohttp.ClientSession]]:
    """Run a daemon with this as its standard error; yield it, and a client, once it has logged more than fits."""
    config = folder / "config.yaml"
    config.write_text(NAMED)
    address = free_address()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exporter", f"--config.file={config}"),
        *(f"--web.listen-address={address}", "--web.enable-lifecycle"),
        stderr=standard_error,
    )
    try:
        async with asyncio.timeout(120), aiohttp.ClientSession(f"http://{address}") as client:
            while not await is_ready(client):
                assert process.returncode is None
                await asyncio.sleep(0.02)
            config.write_text(FAULTY)
            for _ in range(RELOADS):
                async with client.post("/-/reload") as answer:
                    assert answer.status == 500
            yield process, client
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def is_ready(client: aiohttp.ClientSession) -> bool:
    try:
        async with client.get("/-/healthy") as answer:
            return answer.status == 200
    except aiohttp.ClientConnectionError:
        return False


async def dropped_lines(client: aiohttp.ClientSession) -> float:
    async with client.get("/metrics") as answer:
        match = DROPPED.search(await answer.text())
    assert match is not None
    return float(match[1])


async def test_it_answers_and_drops_lines_and_says_how_many_when_the_reader_is_back(tmp_path: Path):
    reader, writer = os.pipe()
    with os.fdopen(reader) as log:
        async with a_daemon(tmp_path, writer) as (process, client):
            os.close(writer)
            assert await is_ready(client)
            assert await dropped_lines(client) > 0
            reading = asyncio.create_task(asyncio.to_thread(log.read))
            process.send_signal(SIGTERM)
            assert await process.wait() == 0
            lines = (await reading).splitlines()
    assert sum("configuration not reloaded" in line for line in lines) < 1000 * RELOADS
    assert any(re.search(r'msg="log lines dropped" lines=[1-9]', line) for line in lines)
    # A poll in flight may still log after it.
    assert any(line.endswith("msg=draining") for line in lines)


async def test_it_ends_though_nobody_reads_its_last_words(tmp_path: Path):
    reader, writer = os.pipe()
    try:
        async with a_daemon(tmp_path, writer) as (process, _):
            process.send_signal(SIGTERM)
            assert await process.wait() == 0
    finally:
        os.close(reader)
        os.close(writer)


async def test_it_goes_on_when_the_reader_is_gone(tmp_path: Path):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        async with a_daemon(tmp_path, writer) as (process, client):
            assert await is_ready(client)
            assert await dropped_lines(client) > 1000
            process.send_signal(SIGTERM)
            assert await process.wait() == 0
    finally:
        os.close(writer)
