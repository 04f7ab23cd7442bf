"""`check --live`: what each subscription answers, for people and for programs."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from time import time

import pytest
from aiohttp import web

from exporter.banners import DISCOVERY_PERMISSION, HISTORY_PERMISSION
from exporter.live import Finding, Trial, as_table
from exporter.simulator.fleet import Fleet
from exporter.simulator.server import Simulator, config_for, reset, running


@pytest.fixture
async def simulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Simulator]:
    simulator = Simulator(Fleet(epoch=time()))
    async with running(simulator) as url:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{url}/token")
        monkeypatch.setenv("IDENTITY_HEADER", "simulator")
        (tmp_path / "config.yaml").write_text(config_for(simulator.fleet, url, discovering=True))
        yield simulator


async def check(folder: Path, *flags: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "exporter",
            "check",
            "--live",
            f"--config.file={folder / 'config.yaml'}",
            *flags,
        ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_where_all_is_well_each_subscription_says_what_it_has_and_what_is_left(
    tmp_path: Path, simulator: Simulator
):
    code, out, err = await check(tmp_path)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["SUBSCRIPTION", "ASKED", "FOR", "ANSWER"]
    named, searched = simulator.fleet.subscriptions
    asked = [line for line in lines[1:] if not line.startswith("  ")]
    assert [line.split()[0] for line in asked] == [named, searched, searched]
    assert asked[1].endswith("6 of 6 scale sets selected")
    assert lines.count("  left: Microsoft.Compute/GetVMScaleSet3Min 2399") == 2
    assert simulator.requests.total() == 4  # a token, two histories, one question to Resource Graph


async def test_a_missing_permission_is_named_and_ends_with_1(tmp_path: Path, simulator: Simulator):
    simulator.hidden.update(simulator.fleet.subscriptions)
    code, out, err = await check(tmp_path)
    assert code == 1
    assert err == "vmss-upgrade-exporter: 2 of 2 subscriptions would fail\n"
    named, searched = simulator.fleet.subscriptions
    assert f"  missing permission: {HISTORY_PERMISSION} on /subscriptions/{named}\n" in out
    assert f"  missing permission: {DISCOVERY_PERMISSION} on /subscriptions/{searched}\n" in out
    assert "HTTP 403 AuthorizationFailed: The client" in out


async def test_programs_get_the_same_as_json(tmp_path: Path, simulator: Simulator):
    async def gone(_: object) -> web.Response:
        return web.Response(status=404)

    simulator.fault("osupgradehistory", gone)
    code, out, _ = await check(tmp_path, "--output=json")
    assert code == 1
    named, searched = json.loads(out)
    assert (named["subscription_id"], named["reachable"], named["fine"]) == (
        simulator.fleet.subscriptions[0],
        True,
        False,
    )
    assert [trial["reason"] for trial in named["trials"]] == ["bad_request"]
    assert [trial["reason"] for trial in searched["trials"]] == ["", "bad_request"]
    assert searched["remaining"]["x-ms-user-quota-remaining"] == 14


async def test_without_a_token_nothing_else_is_tried(tmp_path: Path, simulator: Simulator):
    async def refuse(_: object) -> web.Response:
        return web.json_response({"error": "invalid_request"}, status=400)

    simulator.fault("/token", refuse)
    code, out, err = await check(tmp_path)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("vmss-upgrade-exporter: cannot sign in: no token: ")
    assert "Traceback" not in err


async def test_without_a_token_programs_get_why_for_each_subscription(tmp_path: Path, simulator: Simulator):
    async def refuse(_: object) -> web.Response:
        return web.json_response({"error": "invalid_request"}, status=400)

    simulator.fault("/token", refuse)
    code, out, err = await check(tmp_path, "--output=json")
    assert code == 1
    assert err.splitlines()[-1].startswith("vmss-upgrade-exporter: cannot sign in: no token: ")
    findings = json.loads(out)
    assert [finding["subscription_id"] for finding in findings] == list(simulator.fleet.subscriptions)
    for finding in findings:
        assert (finding["reachable"], finding["fine"], finding["remaining"]) == (False, False, {})
        (trial,) = finding["trials"]
        assert (trial["what"], trial["reason"]) == ("sign-in", "unauthorized")
        assert trial["error"].startswith("no token: ")


async def test_an_azure_out_of_reach_is_told_for_each_subscription(tmp_path: Path, simulator: Simulator):
    simulator.fault("/subscriptions/", reset)
    simulator.fault("resourcegraph", reset)
    code, out, _ = await check(tmp_path, "--output=json")
    assert code == 1
    assert [finding["reachable"] for finding in json.loads(out)] == [False, False]


def test_what_would_move_a_terminals_cursor_is_escaped():
    trials = (Trial("history of rg/web", reason="forbidden", error='a "rule"\x1b[2J\x9b1m\u202e é'),)
    table = as_table([Finding("s1", trials, {"reads\x07": 9})])
    assert table.splitlines()[2:] == [
        r'''  "a \"rule\"\u001b[2J\u009b1m\u202e \u00e9"''',
        r'''  "left: reads\u0007 9"''',
    ]


def test_the_table_lines_up():
    findings = (
        Finding("s1", (Trial("history of rg/web", "3 upgrades"),), {"reads": 9, "a": 1}),
        Finding("s2", (Trial("discovery", reason="timeout", error="no answer within 30 s"),)),
        Finding("s3", ()),
    )
    assert as_table(findings).splitlines() == [
        "SUBSCRIPTION  ASKED FOR          ANSWER",
        "s1            history of rg/web  3 upgrades",
        "  left: a 1",
        "  left: reads 9",
        "s2            discovery          timeout",
        "  no answer within 30 s",
        "s3            nothing            there is nothing to ask for",
    ]
