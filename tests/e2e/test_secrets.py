"""The daemon as a process: the password of its proxy, its token and its client secret are shown nowhere."""

import asyncio
import os
import re
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from time import monotonic
from time import time as now

import pytest
from aiohttp import web

from exporter.simulator.fleet import Fleet
from exporter.simulator.server import Simulator, config_for, running
from tests.entra import Authority, Entra, entra_id
from tests.processes import Exporter, exporter

USER, PASSWORD = "someone", "p/w#hunter2"
ENCODED = "p%2Fw%23hunter2"
BASIC = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
SECRET = "0ne~Client.Secret-of_some-length"
AUTHORITY = Authority("named by SSL_CERT_FILE")
ONE = "00000000-0000-0000-0000-000000000001"
NO_PROXIES = dict.fromkeys(
    ("http_proxy", "https_proxy", "no_proxy", "HTTPS_PROXY", "NO_PROXY", "all_proxy"), ""
)


async def shown_by(daemon: Exporter) -> str:
    """Return everything that a daemon shows."""
    paths = ("/metrics", "/config", "/", "/?state=failing", "/-/ready", "/api/v1/scale-sets")
    return "\n".join([*[(await daemon.get(path))[1] for path in paths], *daemon.log])


async def reason_shown(daemon: Exporter, seconds: float = 60.0) -> str:
    """Wait for a failed poll; return its reason."""
    deadline = monotonic() + seconds
    while True:
        found = re.search(r'poll_error\{[^}]*reason="(\w+)"', (await daemon.get("/metrics"))[1])
        if found:
            return found[1]
        assert monotonic() < deadline, daemon.log
        await asyncio.sleep(0.05)


def https_config(folder: Path, authority: str, endpoint: str = "https://arm.example") -> str:
    """Write a configuration for a cloud over https; return the flag that names it."""
    (folder / "ca.pem").write_text(AUTHORITY.pem)
    (folder / "secret").write_text(f"{SECRET}\n")
    file = folder / "config.yaml"
    file.write_text(f"""
cloud: {{endpoint: '{endpoint}', audience: '{endpoint}', authority: '{authority}'}}
credential: {{kind: client_secret, tenant_id: t, client_id: c, client_secret_file: secret}}
polling: {{interval: 5s, budget_share: 1.0}}
subscriptions:
  - id: {ONE}
    scale_sets: [{{resource_group: rg, name: web}}]
""")
    return f"--config.file={file}"


@asynccontextmanager
async def strange_proxy(answer: Callable[[bytes], bytes]) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Run a proxy that answers a request's head with these bytes; yield its port, and the heads."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer(heads[-1]))
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], heads


def echo(head: bytes) -> bytes:
    (header,) = (line for line in head.split(b"\r\n") if line.lower().startswith(b"proxy-authorization"))
    return b"HTTP/1.1 407 You sent " + header + b"\r\n\r\n"


STRANGE: dict[str, Callable[[bytes], bytes]] = {
    "no HTTP": lambda _: b"220 mail.example ESMTP\r\n\r\n",
    "502": lambda _: b"HTTP/1.1 502 Bad Gateway\r\n\r\n",
    "no TLS": lambda _: b"HTTP/1.1 200 OK\r\n\r\nno TLS at all, but some text that goes on",
    "nothing": lambda _: b"",
    "an echo": echo,
}


@pytest.mark.parametrize(
    ("answer", "asked_for"),
    [*((answer, "a history") for answer in STRANGE), ("no HTTP", "a token"), ("an echo", "a token")],
)
async def test_the_password_of_a_proxy_is_shown_nowhere(tmp_path: Path, answer: str, asked_for: str) -> None:
    async with strange_proxy(STRANGE[answer]) as (port, heads), entra_id(AUTHORITY) as entra:
        flag = https_config(tmp_path, "https://login.example" if asked_for == "a token" else entra.url)
        environment = {
            **NO_PROXIES,
            "https_proxy": f"http://{USER}:{ENCODED}@127.0.0.1:{port}",
            "no_proxy": "localhost",
            "SSL_CERT_FILE": str(tmp_path / "ca.pem"),
        }
        async with exporter(flag, "--log.level=debug", **environment) as daemon:
            assert await reason_shown(daemon) == "unreachable"
            shown = await shown_by(daemon)
        shown += "\n".join(daemon.log)
    assert f"Proxy-Authorization: Basic {BASIC}".encode() in heads[0]
    for secret in (PASSWORD, ENCODED, BASIC, "hunter2", SECRET):
        assert secret not in shown
    assert "Traceback" not in shown


def without_proxies() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


@pytest.mark.parametrize(
    ("command", "value"),
    [
        ([], "http://someone:hunter2@proxy:port"),
        (["once"], "http://someone:hunter2@[::1"),
        (["backfill"], "http://someone:hunter2@"),
        (["check", "--live"], "http://someone:hunter2@proxy:65536"),
        (["check"], "socks5://someone:hunter2@proxy:3128"),
        (["check"], "http://someone:hunter2/x@proxy:3128"),
        (["check"], "http://someone:hunter2#x@proxy:3128"),
        (["check"], "http://someone:hunter2?x@proxy:3128"),
    ],
)
async def test_a_malformed_url_of_a_proxy_is_refused_and_not_shown(
    tmp_path: Path, command: list[str], value: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exporter", *command, https_config(tmp_path, "https://login.example")),
        env={**without_proxies(), "HTTPS_PROXY": value},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = (part.decode() for part in await asyncio.wait_for(process.communicate(), 60))
    assert (process.returncode, out) == (2, "")
    assert err.splitlines() == [err.rstrip("\n")]
    assert err.startswith("environment variable HTTPS_PROXY: ")
    assert "hunter2" not in err


async def test_a_malformed_proxy_is_told_beside_what_is_wrong_with_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("clowd: public\n")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exporter", "check", f"--config.file={file}"),
        env={**without_proxies(), "https_proxy": "http://a:hunter2@:1"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2
    assert b"environment variable https_proxy: there is no host" in err
    assert b"clowd" in err


async def test_a_token_that_azure_quotes_is_shown_nowhere_and_the_history_is_served(tmp_path: Path) -> None:
    simulator = Simulator(Fleet(epoch=now(), scale_sets=4, subscriptions=1))
    quoting, failing, strange, fine = (scale_set.name for scale_set in simulator.fleet.scale_sets)

    async def quote(request: web.BaseRequest) -> web.Response:
        sent = request.headers["Authorization"]
        error = {"code": sent, "message": f"You sent {sent}", "target": sent, "details": [{"message": sent}]}
        properties = {
            "runningStatus": {"code": "Faulted", "startTime": "2026-01-01T00:00:00Z"},
            "error": error,
        }
        return web.json_response({"value": [{"properties": properties, "location": sent[7:]}]})

    async def fail(request: web.BaseRequest) -> web.Response:
        sent = request.headers["Authorization"]
        headers = {"x-ms-request-id": sent.split()[1]}
        error = {"code": "X", "message": f"{sent} {b64encode(sent[7:].encode()).decode()}"}
        return web.json_response({"error": error}, status=400, headers=headers)

    async def nonsense(request: web.BaseRequest) -> web.Response:
        return web.Response(text=f"<html>{request.headers}", headers={"x-ms-request-id": "1"})

    async def remember(request: web.BaseRequest) -> None:
        tokens.add(request.headers["Authorization"].removeprefix("Bearer "))

    tokens = set[str]()
    simulator.fault(f"/{fine}/", remember)
    simulator.fault(f"/{quoting}/", quote)
    simulator.fault(f"/{failing}/", fail)
    simulator.fault(f"/{strange}/", nonsense)
    async with running(simulator) as url:
        (tmp_path / "config.yaml").write_text(config_for(simulator.fleet, url))
        environment = {**NO_PROXIES, "IDENTITY_ENDPOINT": f"{url}/token", "IDENTITY_HEADER": "simulator"}
        async with exporter(
            f"--config.file={tmp_path}/config.yaml", "--log.level=debug", **environment
        ) as daemon:
            await daemon.until_ready(60)
            shown = await shown_by(daemon)
        shown += "\n".join(daemon.log)
    assert re.search(rf'up\{{[^}}]*scale_set="{quoting}"[^}}]*\}} 1', shown, re.IGNORECASE)
    assert 'code="Bearer ***"' in shown
    assert "You sent Bearer ***" in shown
    assert fine in shown
    assert len(tokens) == 1
    for token in tokens:
        assert token not in shown
        assert token[:20] not in shown
        assert b64encode(token.encode()).decode()[:20] not in shown


# --- An identity endpoint that is out of reach


@pytest.mark.parametrize(
    ("status", "reason"), [(503, "server_error"), (None, "unreachable"), (401, "unauthorized")]
)
async def test_an_outage_of_the_identity_endpoint_is_no_refusal(
    tmp_path: Path, status: int | None, reason: str
) -> None:
    """Issue 11, A6: it would page at once, and point to a secret that has not expired."""
    async with entra_id(AUTHORITY) as entra:
        entra.refuse = lambda _: (
            (status, {"error": "x", "error_description": f"AADSTS1 {SECRET}"}) if status else None
        )
        flag = https_config(tmp_path, "https://localhost:1" if status is None else entra.url)
        environment = {**NO_PROXIES, "SSL_CERT_FILE": str(tmp_path / "ca.pem")}
        async with exporter(flag, **environment) as daemon:
            assert await reason_shown(daemon) == reason
            metrics = (await daemon.get("/metrics"))[1]
            assert SECRET not in await shown_by(daemon)
        assert SECRET not in "\n".join(daemon.log)
    assert float(re.search(r"credential_failures_total ([0-9.]+)\n", metrics)[1]) >= 1  # type: ignore[index]
    (line,) = [line for line in daemon.log if "sign-in failed" in line]
    assert f"reason={reason}" in line


@pytest.mark.parametrize("command", [["check", "--live"], ["once"]], ids=["check", "once"])
async def test_commands_tell_an_outage_of_the_identity_endpoint_by_its_reason(
    tmp_path: Path, command: list[str]
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exporter", *command, https_config(tmp_path, "https://localhost:1")),
        env=without_proxies(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await asyncio.wait_for(process.communicate(), 120)
    text = err.decode()
    assert process.returncode == 1
    assert "no token: Cannot connect to host localhost:1 " in text
    assert "unreachable" in text
    assert "unauthorized" not in text
    assert "Traceback" not in text


async def test_an_outage_of_the_identity_endpoint_is_no_storm(tmp_path: Path) -> None:
    """Four scale sets polled each five seconds: still a request for a token each five seconds at most."""
    asked: list[float] = []
    entra: Entra

    def refuse(_: dict[str, str]) -> tuple[int, dict[str, object]]:
        asked.append(monotonic())
        return 503, {"error": "temporarily_unavailable"}

    async with entra_id(AUTHORITY) as entra:
        entra.refuse = refuse
        flag = https_config(tmp_path, entra.url)
        file = tmp_path / "config.yaml"
        file.write_text(
            file.read_text().replace(
                "[{resource_group: rg, name: web}]",
                "[" + ", ".join(f"{{resource_group: rg, name: web{number}}}" for number in range(40)) + "]",
            )
        )
        async with exporter(flag, **NO_PROXIES, SSL_CERT_FILE=str(tmp_path / "ca.pem")) as daemon:
            deadline = monotonic() + 90
            while len(asked) < 4:
                assert monotonic() < deadline, daemon.log
                await asyncio.sleep(0.1)
    assert all(after - before >= 5 for before, after in pairwise(asked))
