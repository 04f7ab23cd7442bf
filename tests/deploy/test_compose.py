"""``deploy/compose.yaml``: its parts fit each other. ``make image-check`` runs those that are ours."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from socket import socket
from time import monotonic
from typing import Any

import aiohttp
import pytest
import yaml

from exporter.simulator.fleet import Fleet
from exporter.simulator.server import config_for
from tests.processes import debian_program, exporter

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
SHARDS = [name for name in SERVICES if name.startswith("exporter-")]
SIMULATOR = "127.0.0.1:9900"


def test_docker_compose_has_no_objection(tmp_path: Path):
    # Debian's docker-compose is older than the name of a project.
    old = tmp_path / "compose.yaml"
    old.write_text(re.sub(r"^name:.*\n", "", (DEPLOY / "compose.yaml").read_text(), flags=re.MULTILINE))
    done = subprocess.run(
        [
            debian_program("docker-compose"),
            f"--file={old}",
            f"--project-directory={DEPLOY}",
            "config",
            "--quiet",
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def mounts() -> list[tuple[str, Path, str]]:
    return [
        (name, DEPLOY / source, target)
        for name, service in SERVICES.items()
        for source, target, *_ in (volume.split(":") for volume in service.get("volumes", []))
        if source.startswith(".")
    ]


@pytest.mark.parametrize(("service", "source", "target"), mounts())
def test_what_is_mounted_exists(service: str, source: Path, target: str):
    assert source.exists()


def test_the_configuration_is_that_of_the_simulated_fleet():
    assert f"--simulator.listen-address={SIMULATOR}" in SERVICES["simulator"]["command"]
    fleet = Fleet(epoch=0.0, subscriptions=2, scale_sets=12, seed=1, speed=60.0)
    assert (DEPLOY / "compose/config.yaml").read_text() == config_for(fleet, f"http://{SIMULATOR}")


def test_the_shards_reach_the_simulator_on_loopback_and_share_all_of_it():
    for number, name in enumerate(SHARDS):
        shard = SERVICES[name]
        assert shard["network_mode"] == "service:simulator"
        assert shard["environment"]["IDENTITY_ENDPOINT"] == f"http://{SIMULATOR}/token"
        assert f"--shard={number}" in shard["command"]
        assert f"--total-shards={len(SHARDS)}" in shard["command"]


def test_prometheus_scrapes_the_shards_where_they_listen():
    (job,) = yaml.safe_load((DEPLOY / "compose/prometheus.yml").read_text())["scrape_configs"]
    ports = [
        re.findall(r"--web\.listen-address=(:\d+)", " ".join(SERVICES[name]["command"])) for name in SHARDS
    ]
    assert job["static_configs"] == [
        {"targets": [f"{name}{port}" for name, (port,) in zip(SHARDS, ports, strict=True)]}
    ]
    assert SERVICES["simulator"]["networks"]["default"]["aliases"] == SHARDS


def test_promtool_has_no_objection_to_its_configuration_as_it_is_mounted(tmp_path: Path):
    rules = tmp_path / "rules"
    for service, source, target in mounts():
        if service == "prometheus":
            (tmp_path / Path(target).relative_to("/etc/prometheus")).symlink_to(source)
    assert rules.is_dir()
    done = subprocess.run(
        [
            debian_program("promtool"),
            "check",
            "config",
            "--lint=all",
            "--lint-fatal",
            tmp_path / "prometheus.yml",
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_ours_are_confined():
    for name in ["simulator", "notifications", *SHARDS]:
        service = SERVICES[name]
        assert service["image"] == "vmss-upgrade-exporter"
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]


async def test_the_commands_of_ours_are_understood():
    for name in SHARDS:
        flags = [flag for flag in SERVICES[name]["command"] if not flag.startswith("--web.listen-address")]
        async with exporter(
            f"--config.file={DEPLOY / 'compose/config.yaml'}", *flags, **SERVICES[name]["environment"]
        ) as running:
            assert (await running.get("/-/healthy"))[0] == 200


async def test_notifications_are_printed_a_line_an_alert():
    *_, script, port = SERVICES["notifications"]["entrypoint"]
    (source,) = (source for service, source, target in mounts() if target == script)
    alertmanager = yaml.safe_load((DEPLOY / "alertmanager/alertmanager.yml").read_text())
    for receiver in alertmanager["receivers"]:
        (webhook,) = receiver["webhook_configs"]
        assert webhook["url"] == f"http://localhost:{port}/{receiver['name']}"

    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-u", source, port, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        alert = {
            "status": "firing",
            "labels": {"alertname": "AzureVmssOsUpgradeFaulted", "severity": "critical"},
            "annotations": {"summary": "OS upgrade of scale set web is Faulted"},
        }
        async with aiohttp.ClientSession() as client:
            assert await post(client, f"http://127.0.0.1:{port}/page", {"alerts": [alert, alert]}) == 204
        line = b"page: firing critical AzureVmssOsUpgradeFaulted: OS upgrade of scale set web is Faulted\n"
        assert [await process.stdout.readline(), await process.stdout.readline()] == [line, line]
    finally:
        process.terminate()
        await process.wait()


async def post(client: aiohttp.ClientSession, url: str, body: object) -> int:
    """Post as soon as somebody listens; return the status."""
    deadline = monotonic() + 10.0
    while True:
        try:
            async with client.post(url, json=body) as response:
                return response.status
        except aiohttp.ClientConnectionError:
            assert monotonic() < deadline
            await asyncio.sleep(0.05)
