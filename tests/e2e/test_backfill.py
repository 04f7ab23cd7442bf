"""Past upgrades: simulator -> backfill -> promtool -> blocks -> the real Prometheus -> what was true at that time."""

import asyncio
import os
import sys
from pathlib import Path
from time import monotonic, time

import aiohttp

from exporter.simulator.fleet import Fleet, ScaleSet, Upgrade
from exporter.simulator.server import Simulator, config_for, running
from tests.processes import debian_program, free_address, query, running_program

HOUR = 3600.0
LOOKBACK = 301.0
"""For so long Prometheus shows a series that has ended: a file cannot say that it has."""
ON_A_YEAR = "--storage.tsdb.retention.time=1y"


async def run(*arguments: str, **environment: str) -> str:
    """Run a program to its good end; return what it wrote."""
    process = await asyncio.create_subprocess_exec(
        *arguments,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


def instants(fleet: Fleet, now: float) -> list[tuple[ScaleSet, float, Upgrade | None, bool]]:
    """Return moments of the past: which upgrade was the latest then, and whether it was running."""
    chosen: list[tuple[ScaleSet, float, Upgrade | None, bool]] = []
    for scale_set in fleet.scale_sets:
        upgrades = sorted(fleet.history(scale_set, now), key=lambda upgrade: upgrade.start)
        first_known = [(scale_set, upgrades[0].start - HOUR, None, False)] if upgrades else []
        chosen += first_known
        for upgrade in upgrades:
            if upgrade.end is not None:
                chosen.append((scale_set, (upgrade.start + upgrade.end) / 2, upgrade, True))
                chosen.append((scale_set, upgrade.end + LOOKBACK, upgrade, False))
    return [each for each in chosen if now - 28 * 24 * HOUR < each[1] < now - 4 * HOUR]


async def test_prometheus_knows_of_upgrades_that_were_before_it(tmp_path: Path):
    now = time()
    fleet = Fleet(epoch=now, scale_sets=6, speed=1.0)
    past, data, config = tmp_path / "past.om", tmp_path / "data", tmp_path / "prometheus.yml"
    async with running(Simulator(fleet, clock=lambda: now)) as url:
        (tmp_path / "config.yaml").write_text(config_for(fleet, url))
        await run(
            *(sys.executable, "-m", "exporter", "backfill", f"--config.file={tmp_path / 'config.yaml'}"),
            *("--from=30d", f"--output={past}", "--label=job=vmss"),
            IDENTITY_ENDPOINT=f"{url}/token",
            IDENTITY_HEADER="simulator",
        )
    await run(
        *(debian_program("promtool"), "tsdb", "create-blocks-from", "openmetrics"),
        *(
            "--max-block-duration=744h",
            str(past),
            str(data),
        ),  # or else it reads the file anew for every two hours
    )
    config.write_text("{}")
    address = free_address()
    async with (
        running_program(
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={data}",
            f"--web.listen-address={address}",
            ON_A_YEAR,
        ) as log,
        aiohttp.ClientSession() as client,
    ):
        prometheus = f"http://{address}"
        deadline = monotonic() + 30
        while not await query(client, prometheus, "vector(1)"):
            assert monotonic() < deadline, log
            await asyncio.sleep(0.1)
        chosen = instants(fleet, now)
        assert len(chosen) > 8
        assert any(upgrade and upgrade.rollback and not active for _, _, upgrade, active in chosen)
        for scale_set, at, upgrade, active in chosen:
            of = f'{{job="vmss",scale_set="{scale_set.name.lower()}"}} @ {at:.3f}'
            states = await query(client, prometheus, f"azure_vmss_os_upgrade_state{of} == 1")
            if upgrade is None:
                assert states == []
                continue
            state = "RollingForward" if active else str(upgrade.state)
            assert [labels["state"] for labels, _ in states] == [state]
            started = await query(client, prometheus, f"azure_vmss_os_upgrade_start_timestamp_seconds{of}")
            assert [round(value, 3) for _, value in started] == [round(upgrade.start, 3)]
            infos = await query(client, prometheus, f"azure_vmss_os_upgrade_info{of}")
            shown = {(labels["started_by"], labels.get("version", "")) for labels, _ in infos}
            expected = (upgrade.started_by, upgrade.image.version or "")
            assert expected in shown if active and at - upgrade.start < LOOKBACK else shown == {expected}
            ends = await query(client, prometheus, f"azure_vmss_os_upgrade_end_timestamp_seconds{of}")
            rolled_back = await query(client, prometheus, f"azure_vmss_os_upgrade_rolled_back_instances{of}")
            if active:
                assert at - upgrade.start < LOOKBACK or (ends, rolled_back) == ([], [])
            else:
                assert [round(value, 3) for _, value in ends] == [round(upgrade.end or 0.0, 3)]
                assert {labels["result"]: value for labels, value in rolled_back} == (
                    {"successful": upgrade.rollback.successful, "failed": upgrade.rollback.failed}
                    if upgrade.rollback is not None
                    else {}
                )
                counts = await query(client, prometheus, f"azure_vmss_os_upgrade_instances{of}")
                assert {labels["state"]: value for labels, value in counts} == {
                    name: getattr(upgrade, name)
                    for name in ("successful", "failed", "in_progress", "pending")
                }
        last = await query(
            client, prometheus, f"max_over_time(timestamp(azure_vmss_os_upgrade_state)[1d:1m] @ {now:.0f})"
        )
        assert last
        assert max(value for _, value in last) <= now - 3 * HOUR + 0.001  # Prometheus rounds to milliseconds
