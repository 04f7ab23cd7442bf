"""The daemon where file descriptors are few: it polls, it is scraped, and its log stays readable."""

import socket
from pathlib import Path
from time import time

from exporter.simulator.fleet import Fleet
from exporter.simulator.server import Simulator, config_for, running
from tests.few_descriptors import DESCRIPTORS
from tests.processes import Exporter, exporter

SCRAPES = 30


def connect(daemon: Exporter) -> socket.socket:
    host, port = daemon.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)))


async def test_more_idle_connections_than_file_descriptors_keep_nobody_out_and_do_not_flood_the_log(
    tmp_path: Path,
):
    """asyncio would log 125,000 tracebacks a minute: https://github.com/python/cpython/issues/151615."""
    fleet = Fleet(subscriptions=1, scale_sets=12, seed=1, speed=1.0, epoch=time())
    async with running(Simulator(fleet), "127.0.0.1:0") as url:
        file = tmp_path / "config.yaml"
        file.write_text(config_for(fleet, url))
        identity = {"IDENTITY_ENDPOINT": f"{url}/token", "IDENTITY_HEADER": "simulator"}
        async with exporter(f"--config.file={file}", module="tests.few_descriptors", **identity) as daemon:
            idle = [connect(daemon) for _ in range(DESCRIPTORS + 6)]
            await daemon.until_ready()
            for _ in range(SCRAPES):
                status, text = await daemon.get("/metrics")
                assert status == 200
                idle += [connect(daemon) for _ in range(5)]
            assert text.count("azure_vmss_os_upgrade_up{") == 12
            for each in idle:
                each.close()
    assert "Traceback" not in "\n".join(daemon.log)
    messages = [line.split("msg=", 1)[1] for line in daemon.log]
    assert sum(message.startswith('"few file descriptors') for message in messages) == 1
    assert len(messages) < SCRAPES
