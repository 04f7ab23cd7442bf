"""The real Prometheus scrapes the daemon over TLS: with a password, and with a client certificate."""

import asyncio
import ssl
from pathlib import Path
from time import monotonic

import aiohttp
import pytest

from tests.certificates import Authority
from tests.e2e.test_prometheus import scraping
from tests.processes import exporter, prometheus, query
from tests.test_basic_auth import hashed, header

SECURED = """
tls_server_config:
  cert_file: server.crt
  key_file: server.key
  min_version: TLS13
"""
WITH_PASSWORD = """
basic_auth_users:
  prometheus: {hashed}
auth_excluded_paths: [/-/healthy]
"""
WITH_CERTIFICATE = """
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: ca.crt
  client_allowed_sans: [prometheus.example]
"""
TRUSTING = {"ca_file": "ca.crt"}
CLIENT = {**TRUSTING, "cert_file": "client.crt", "key_file": "client.key"}
STRANGER = {**TRUSTING, "cert_file": "stranger.crt", "key_file": "stranger.key"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    authority = Authority(tmp_path)
    authority.issue("server")
    authority.issue("client", "prometheus.example")
    authority.issue("stranger", "stranger.example")
    return tmp_path


def job(tls: dict[str, str], password: str = "") -> dict[str, object]:
    """Return the settings of a scrape."""
    settings: dict[str, object] = {"scheme": "https", "tls_config": tls}
    if password:
        settings["basic_auth"] = {"username": "prometheus", "password": password}
    return settings


async def until_up(url: str, expected: dict[str, float], log: list[str]) -> None:
    """Wait until each job's last scrape succeeded, or not, as expected."""
    deadline = monotonic() + 30
    async with aiohttp.ClientSession() as client:
        while (found := {of["job"]: value for of, value in await query(client, url, "up")}) != expected:
            assert monotonic() < deadline, (found, log)
            await asyncio.sleep(0.2)


def faults(log: list[str]) -> list[str]:
    return [line for line in log if "level=error" in line or "traceback" in line]


@pytest.mark.parametrize(
    ("web_config", "jobs", "expected"),
    [
        (
            WITH_PASSWORD,
            {
                "good": job(TRUSTING, "wonderland"),
                "wrong": job(TRUSTING, "a"),
                "none": job(TRUSTING),
            },
            {"good": 1.0, "wrong": 0.0, "none": 0.0},
        ),
        (
            WITH_CERTIFICATE,
            {"good": job(CLIENT), "stranger": job(STRANGER), "none": job(TRUSTING)},
            {"good": 1.0, "stranger": 0.0, "none": 0.0},
        ),
        (
            WITH_CERTIFICATE + WITH_PASSWORD,
            {
                "good": job(CLIENT, "wonderland"),
                "certificate": job(CLIENT),
                "password": job(TRUSTING, "wonderland"),
            },
            {"good": 1.0, "certificate": 0.0, "password": 0.0},
        ),
    ],
    ids=["password", "certificate", "both"],
)
async def test_prometheus_is_let_in_as_configured(
    folder: Path, web_config: str, jobs: dict[str, dict[str, object]], expected: dict[str, float]
):
    file = folder / "web.yaml"
    file.write_text(SECURED + web_config.format(hashed=hashed(b"wonderland", 8)))
    async with (
        exporter("demo", f"--web.config.file={file}") as demo,
        prometheus(folder, scraping(demo.url, jobs)) as (url, log),
    ):
        await until_up(url, expected, log)
        assert faults(demo.log) == []


async def test_what_changes_counts_without_a_restart_and_what_is_wrong_does_not(folder: Path):
    file = folder / "web.yaml"
    file.write_text(SECURED + WITH_PASSWORD.format(hashed=hashed(b"old")))
    jobs = {password: job(TRUSTING, password) for password in ("old", "new")}
    async with (
        exporter("demo", f"--web.config.file={file}") as demo,
        prometheus(folder, scraping(demo.url, jobs)) as (url, log),
    ):
        await until_up(url, {"old": 1.0, "new": 0.0}, log)
        file.write_text(SECURED + WITH_PASSWORD.format(hashed=hashed(b"new")))
        await until_up(url, {"old": 0.0, "new": 1.0}, log)
        file.write_text("basic_auth_users: {prometheus: old}\n")
        deadline = monotonic() + 20
        while not faults(demo.log):
            assert monotonic() < deadline, demo.log
            await asyncio.sleep(0.1)
        trusted = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        async with aiohttp.ClientSession(demo.url.replace("http:", "https:")) as client:
            for path, password, status in (
                ("/metrics", "new", 200),
                ("/metrics", "old", 401),
                ("/-/ready", "old", 401),
                ("/-/healthy", "old", 200),
            ):
                headers = {"Authorization": header("prometheus", password)}
                async with client.get(path, ssl=trusted, headers=headers) as response:
                    assert response.status == status
        (fault,) = faults(demo.log)
        assert "web configuration not read anew" in fault
        assert "web.yaml:1: basic_auth_users.prometheus: must be a bcrypt hash" in fault
