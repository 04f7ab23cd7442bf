"""What systemd is told, received on the socket that it would offer."""

import asyncio
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from signal import SIGTERM

import pytest

from exporter.service_manager import notify, watchdog_seconds
from tests.processes import exporter

SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
CONFIG = f"subscriptions: [{{id: {SUBSCRIPTION}, scale_sets: [{{resource_group: rg, name: web}}]}}]\n"


@pytest.fixture(params=["path", "abstract"])
def service_manager(request: pytest.FixtureRequest, tmp_path: Path):
    """Yield a socket and the value of NOTIFY_SOCKET that names it."""
    name = (
        str(tmp_path / "notify") if request.param == "path" else f"@vmss-upgrade-exporter-test-{os.getpid()}"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name.replace("@", "\0"))
        receiver.setblocking(False)
        yield receiver, name


def pending(receiver: socket.socket) -> list[bytes]:
    """Return what was said and not yet received."""
    said = []
    with suppress(BlockingIOError):
        while True:
            said.append(receiver.recv(4096))
    return said


async def received(receiver: socket.socket) -> str:
    async with asyncio.timeout(60):
        return (await asyncio.get_running_loop().sock_recv(receiver, 4096)).decode()


async def test_ready_is_said_once_it_listens_and_stopping_when_it_drains(
    tmp_path: Path, service_manager: tuple[socket.socket, str]
):
    receiver, name = service_manager
    (tmp_path / "config.yaml").write_text(CONFIG)
    async with exporter(f"--config.file={tmp_path / 'config.yaml'}", NOTIFY_SOCKET=name) as daemon:
        assert await received(receiver) == "READY=1"
        assert (await daemon.get("/-/healthy"))[0] == 200
        assert await daemon.ends_after(SIGTERM) == 0
        assert await received(receiver) == "STOPPING=1"
    assert pending(receiver) == []


async def test_the_watchdog_is_fed_for_as_long_as_the_clock_runs(
    tmp_path: Path, service_manager: tuple[socket.socket, str]
):
    receiver, name = service_manager
    (tmp_path / "config.yaml").write_text(CONFIG)
    environment = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "200000"}
    async with exporter(f"--config.file={tmp_path / 'config.yaml'}", **environment):
        said = [await received(receiver) for _ in range(4)]
    assert sorted(set(said)) == ["READY=1", "WATCHDOG=1"]
    assert said.count("READY=1") == 1


def test_a_daemon_that_cannot_listen_is_never_ready(
    tmp_path: Path, service_manager: tuple[socket.socket, str]
):
    receiver, name = service_manager
    (tmp_path / "config.yaml").write_text(CONFIG)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        flags = [f"--config.file={tmp_path / 'config.yaml'}", f"--web.listen-address={address}"]
        ended = subprocess.run(
            [sys.executable, "-m", "exporter", *flags],
            check=False,
            env={**os.environ, "NOTIFY_SOCKET": name},
            stderr=subprocess.DEVNULL,
        )
    assert ended.returncode == 1
    assert pending(receiver) == []


async def test_a_service_manager_that_is_not_there_is_a_warning(tmp_path: Path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    nobody = str(tmp_path / "nobody")
    async with exporter(f"--config.file={tmp_path / 'config.yaml'}", NOTIFY_SOCKET=nobody) as daemon:
        async with asyncio.timeout(60):
            while not any("service manager not notified" in line for line in daemon.log):
                await asyncio.sleep(0.01)
        assert await daemon.ends_after(SIGTERM) == 0


def test_without_a_service_manager_nothing_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid() + 1)}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": ""}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
    ],
)
def test_the_watchdog_is_systemds_to_ask_for(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], seconds: float | None
):
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert watchdog_seconds() == seconds
