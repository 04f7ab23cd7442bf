"""Hostile answers, one kind for each scale set: the others stay fresh, and the web answers all along in little memory."""

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic, time

from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from exporter.simulator.fleet import Fleet
from exporter.simulator.server import Simulator, config_for, running
from tests.bombs import filled
from tests.processes import Exporter, exporter

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse | None]]
MIB = 1024 * 1024
SEARCHED = "00000000-0000-4000-8000-00000000feed"
JSON = {"Content-Type": "application/json"}


def plain(body: bytes, status: int = 200, **headers: str) -> Answer:
    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(body=body, status=status, headers={**JSON, **named})

    return answer


async def hang(_: web.BaseRequest) -> None:
    await asyncio.sleep(60)


async def drip(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse(headers=JSON)
    await response.prepare(request)
    for _ in range(1200):
        await response.write(b" ")
        await asyncio.sleep(0.05)
    return response


async def reset(request: web.BaseRequest) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def half(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse(headers={**JSON, "Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"value": [{"properties": ')
    assert request.transport is not None
    request.transport.close()
    return response


async def endless(request: web.BaseRequest) -> web.StreamResponse:
    return web.json_response({"value": [], "nextLink": str(request.url)})


def zipped(body: bytes) -> Answer:
    return plain(gzip.compress(body, 1), Content_Encoding="gzip")


async def page_by_page(request: web.BaseRequest) -> web.StreamResponse:
    """Answer with 20,000 empty entries, and so on for ever."""
    after = b'],"nextLink":"%s"}' % str(request.url).encode()
    body = gzip.compress(filled(b"{},", 60_000, after=after), 1)
    return web.Response(body=body, headers={**JSON, "Content-Encoding": "gzip"})


BOMB = gzip.compress(b'{"value": [' + b" " * (64 * MIB) + b"]}")
HOSTILE: dict[str, tuple[Answer, str]] = {
    "hang": (hang, "timeout"),
    "drip": (drip, "timeout"),
    "reset": (reset, "unreachable"),
    "half an answer": (half, "malformed"),
    "HTML": (plain(b"<html>Sign in</html>"), "malformed"),
    "wrong encoding": (plain(b'{"value": []}', Content_Encoding="gzip"), "malformed"),
    "bad UTF-8": (plain(b'{"value": ["\xff"]}'), "malformed"),
    "endless pages": (endless, "malformed"),
    "foreign link": (plain(json.dumps({"value": [], "nextLink": "http://169.254.169.254/"}).encode()), "malformed"),
    "redirect": (plain(b"", 307, Location="http://169.254.169.254/"), "malformed"),
    "20 MiB": (plain(b'{"value": [' + b" " * (20 * MIB) + b"]}"), "malformed"),
    "gzip bomb": (plain(BOMB, Content_Encoding="gzip"), "malformed"),
    "empty entries": (zipped(filled(b"{},", 8 * MIB)), "malformed"),
    "empty entries, page by page": (page_by_page, "malformed"),
    "zeros": (zipped(filled(b"0,", 8 * MIB)), "malformed"),
    "lists in an entry": (zipped(filled(b"[],", 8 * MIB, b'{"value":[[', b"]]}")), "malformed"),
    "an id of another request": (
        plain(b'{"value": []}', x_ms_client_request_id="0f8fad5b-d9cb-469f-a165-70867728950e"),
        "malformed",
    ),
}  # fmt: skip


def peak_mib(daemon: Exporter) -> float:
    """Return the most memory that the process has held so far."""
    for line in Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM: this test needs Linux")


async def samples(daemon: Exporter) -> dict[tuple[str, str, str], float]:
    """Return the samples about scale sets by family, scale set and reason."""
    status, body = await daemon.get("/metrics")
    assert status == 200
    return {
        (sample.name.removeprefix("azure_vmss_os_upgrade_"), sample.labels["scale_set"], sample.labels.get("reason", "")): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
        if "scale_set" in sample.labels
    }  # fmt: skip


async def test_each_hostile_answer_has_its_reason_and_the_others_stay_fresh(tmp_path: Path):
    simulator = Simulator(Fleet(epoch=time(), scale_sets=len(HOSTILE) + 8))
    names = [scale_set.name for scale_set in simulator.fleet.scale_sets]
    victims = dict(zip(names, HOSTILE.values(), strict=False))
    for name, (answer, _) in victims.items():
        simulator.fault(f"/{name}/", answer)
    simulator.fault("/providers/microsoft.resourcegraph", zipped(filled(b"0,", 64 * MIB, b'{"data":[')))
    async with running(simulator) as url:
        config = tmp_path / "config.yaml"
        text = config_for(simulator.fleet, url)
        text += f"  - {{id: {SEARCHED}, discovery: {{refresh: 1s}}}}\n"
        config.write_text(text.replace("polling: {", "polling: {timeout: 6s, "))
        environment = {"IDENTITY_ENDPOINT": f"{url}/token", "IDENTITY_HEADER": "simulator"}
        async with exporter(f"--config.file={config}", **environment) as daemon:
            deadline = monotonic() + 60
            expected = {("poll_error", name, reason): 1.0 for name, (_, reason) in victims.items()}
            shown: dict[tuple[str, str, str], float] = {}
            while {key: value for key, value in shown.items() if key[0] == "poll_error"} != expected:
                assert monotonic() < deadline, (shown, daemon.log)
                shown = await samples(daemon)
                await asyncio.sleep(0.1)
            healthy = [name for name in names if name not in victims]
            assert [shown["up", name, ""] for name in healthy] == [1.0] * 8
            assert all(time() - shown["last_success_timestamp_seconds", name, ""] < 15 for name in healthy)
            assert not [line for line in daemon.log if "Traceback" in line or "defect" in line]
            status, body = await daemon.get("/metrics")
            failed = f'discovery_failures_total{{reason="malformed",subscription_id="{SEARCHED}"}} '
            assert status == 200
            assert f"vmss_upgrade_exporter_{failed}0.0" not in body
            assert f"vmss_upgrade_exporter_{failed}" in body
            assert (await daemon.get("/-/healthy"))[0] == 200
            assert peak_mib(daemon) < 300  # 600 for the empty entries alone, when they were all decoded
