"""`once`: everything polled, the exposition written whole, and the exit code."""

import asyncio
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import AsyncIterator
from pathlib import Path
from time import time

import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from exporter.once import draw, opened, raise_for
from exporter.simulator.fleet import Fleet
from exporter.simulator.server import Simulator, config_for, hanging, running


@pytest.fixture
async def simulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Simulator]:
    simulator = Simulator(Fleet(epoch=time()))
    async with running(simulator) as url:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{url}/token")
        monkeypatch.setenv("IDENTITY_HEADER", "simulator")
        (tmp_path / "config.yaml").write_text(config_for(simulator.fleet, url))
        yield simulator


async def command(folder: Path, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exporter", *arguments, f"--config.file={folder / 'config.yaml'}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def samples(text: str, family: str) -> list[float]:
    return [
        sample.value
        for found in text_string_to_metric_families(text)
        for sample in found.samples
        if sample.name == family
    ]


@pytest.mark.usefixtures("simulator")
async def test_the_exposition_goes_to_standard_output_without_what_is_about_the_process(tmp_path: Path):
    code, out, err = await command(tmp_path, "once")
    assert (code, "failures" in err) == (0, False)
    assert samples(out, "azure_vmss_os_upgrade_up") == [1.0] * 12
    assert samples(out, "vmss_upgrade_exporter_build_info") == [1.0]
    assert "\nprocess_" not in out
    assert "\npython_" not in out


async def test_a_failed_poll_ends_with_1_and_a_summary_and_what_was_learned_is_written(
    tmp_path: Path, simulator: Simulator
):
    async def forbidden(_: object) -> web.Response:
        error = {"code": "AuthorizationFailed", "message": "no permission"}
        return web.json_response({"error": error}, status=403)

    first = simulator.fleet.scale_sets[0]
    simulator.fault(first.name, forbidden)
    file = tmp_path / "metrics.prom"
    code, out, err = await command(tmp_path, "once", f"--output={file}")
    assert (code, out) == (1, "")
    assert err.splitlines()[-2:] == [
        "vmss-upgrade-exporter: 1 failure:",
        f"{first.resource_id.lower()}: forbidden: HTTP 403 AuthorizationFailed: no permission",
    ]
    assert sorted(samples(file.read_text(), "azure_vmss_os_upgrade_up")) == [0.0] + [1.0] * 11


@pytest.mark.usefixtures("simulator")
async def test_an_output_that_cannot_be_written_ends_with_1_and_one_line(tmp_path: Path):
    code, _, err = await command(tmp_path, "once", f"--output={tmp_path / 'none' / 'metrics.prom'}")
    assert code == 1
    assert "No such file or directory" in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.usefixtures("simulator")
async def test_a_shard_polls_its_part(tmp_path: Path):
    parts = await asyncio.gather(
        *(command(tmp_path, "once", f"--shard={number}", "--total-shards=2") for number in range(2))
    )
    numbers = [len(samples(out, "azure_vmss_os_upgrade_up")) for _, out, _ in parts]
    assert sum(numbers) == 12
    assert min(numbers) > 0


def test_a_file_is_replaced_whole_and_readable_for_others(tmp_path: Path):
    file = tmp_path / "metrics.prom"
    file.write_bytes(b"old")
    mask = os.umask(0o022)
    try:
        with opened(file) as new:
            new.write(b"new")
            assert file.read_bytes() == b"old"
    finally:
        os.umask(mask)
    assert file.read_bytes() == b"new"
    assert file.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.prom"]


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path):
    folder = tmp_path / "metrics.prom"
    (folder / "full").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"), opened(folder) as new:
        new.write(b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.prom"]


WRITING = """
import signal, sys
from pathlib import Path
from exporter import signals
from exporter.once import opened
signals.take_over()
with opened(Path(sys.argv[1])) as file:
    file.write(b"new")
    file.flush()
    signal.raise_signal(int(sys.argv[2]))
"""


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_file_that_a_signal_interrupts_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, signum: int, code: int
):
    file = tmp_path / "metrics.prom"
    file.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", WRITING, file, str(signum)], check=False)
    assert done.returncode == code
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.prom"]


def test_progress_is_drawn_where_somebody_looks():
    leader, follower = pty.openpty()
    with os.fdopen(leader, "rb", buffering=0) as screen, os.fdopen(follower, "w") as terminal:
        draw(terminal, 3, 12, "polled")
        draw(terminal, 12, 12, "polled", last=True)
        draw(terminal, 0, 0, "polled")
        drawn = (
            f"\x1b[2K[{'#' * 10}{'.' * 30}] 3 of 12 polled\r"
            f"\x1b[2K[{'#' * 40}] 12 of 12 polled\r\n"
            f"\x1b[2K[{'.' * 40}] 0 of 0 polled\r"
        )
        shown = ""
        while len(shown) < len(drawn):
            shown += screen.read(1000).decode()
        assert shown == drawn


def test_progress_is_not_drawn_into_a_file(tmp_path: Path):
    with (tmp_path / "log").open("w") as log:
        draw(log, 3, 12, "polled")
    assert (tmp_path / "log").read_text() == ""


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (0, f"[{'#' * 10}{'.' * 30}] 3 of 12 scale sets polled"),
        (80, f"[{'#' * 10}{'.' * 30}] 3 of 12 scale sets polled"),
        (38, "[##.......] 3 of 12 scale sets polled"),
        (28, "3 of 12 scale sets polled"),
        (10, "3 of 12 s"),
    ],
)
def test_progress_fits_the_terminal_it_is_drawn_on(columns: int, expected: str):
    leader, follower = pty.openpty()
    with os.fdopen(leader, "rb", buffering=0) as screen, os.fdopen(follower, "w") as terminal:
        termios.tcsetwinsize(follower, (24, columns))
        draw(terminal, 3, 12, "scale sets polled")
        assert screen.read(200).decode() == f"\x1b[2K{expected}\r"


async def test_ctrl_c_while_it_polls_ends_the_line_of_the_progress(tmp_path: Path, simulator: Simulator):
    simulator.fault("osupgradehistory", hanging(20.0))
    leader, follower = pty.openpty()
    with os.fdopen(leader, "rb", buffering=0) as screen, os.fdopen(follower) as terminal:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "exporter", "once", "--log.level=error"),
            f"--config.file={tmp_path / 'config.yaml'}",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=terminal,
        )
        async with asyncio.timeout(20):
            shown = await asyncio.to_thread(screen.read, 1000)
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
        shown += screen.read(100_000)
    assert shown.endswith(b"0 of 12 scale sets polled\r\n")


def test_failures_are_told_as_a_terminal_may_have_them():
    with pytest.raises(OSError, match=r'^1 failure:\n"web: forbidden: \\u001b\[2J\\nmore"$'):
        raise_for(["web: forbidden: \x1b[2J\nmore"])
