"""The exporter on a machine whose wall clock is stepped: polls and ages go by the monotonic clock."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from time import time

from prometheus_client.parser import text_string_to_metric_families

from exporter.simulator.fleet import Fleet
from exporter.simulator.server import Simulator, answering, config_for, running
from tests.processes import Exporter, exporter, set_clock, steppable_clock

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
DEADLINE_SECONDS = 120.0
PERMITTED_GROWTH_BYTES = 32 * 1024 * 1024
AHEAD = (-40.0, -2 * HOUR, -30 * DAY, 2 * HOUR, 400 * DAY, 4000 * DAY, 0.0)
"""How far the wall clock is ahead of the true time, one after the other."""
UP = "azure_vmss_os_upgrade_up"
LAST_POLL = "azure_vmss_os_upgrade_last_poll_timestamp_seconds"
POLLS = "vmss_upgrade_exporter_polls_total"
TICKS = "vmss_upgrade_exporter_ticks_total"
STEPPED = "wall clock was stepped"

Samples = dict[str, dict[str, float]]
"""Family, scale set (empty in families without that label), sum of the samples."""


async def samples(daemon: Exporter) -> Samples:
    _, body = await daemon.get("/metrics")
    found: Samples = {}
    for family in text_string_to_metric_families(body):
        for sample in family.samples:
            by_scale_set = found.setdefault(sample.name, {})
            name = sample.labels.get("scale_set", "")
            by_scale_set[name] = by_scale_set.get(name, 0.0) + sample.value
    return found


async def until(daemon: Exporter, true: Callable[[Samples], bool]) -> Samples:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not true(found := await samples(daemon)):
            await asyncio.sleep(0.2)
    return found


def resident_bytes(daemon: Exporter) -> int:
    pages = Path(f"/proc/{daemon.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


async def test_steps_of_the_wall_clock_delay_no_poll_and_lose_nothing(tmp_path: Path):
    clock, config = tmp_path / "clock", tmp_path / "config.yaml"
    set_clock(clock, 0.0)
    fleet = Fleet(epoch=time() - MINUTE, scale_sets=12)
    failing, *_ = names = [each.name.lower() for each in fleet.scale_sets]
    simulator = Simulator(fleet)
    async with running(simulator) as url:
        text = config_for(fleet, url).replace("budget_share: 1.0", "budget_share: 1.0, max_age: 1h")
        config.write_text(f"{text}journal: {{path: {tmp_path / 'journal.sqlite'}}}\n")
        async with exporter(
            f"--config.file={config}",
            IDENTITY_ENDPOINT=f"{url}/token",
            IDENTITY_HEADER="simulator",
            **steppable_clock(clock),
        ) as daemon:
            await until(daemon, lambda now: now.get(UP) == dict.fromkeys(names, 1.0))
            simulator.fault(fleet.scale_sets[0].resource_id, answering(403))
            before = await until(daemon, lambda now: now[UP][failing] == 0)
            resident, sign_ins = resident_bytes(daemon), simulator.requests["/token"]
            last = 0.0
            for number, ahead in enumerate(AHEAD, 1):
                unstepped, stepped = time() + last, time() + ahead
                last = ahead
                set_clock(clock, ahead)
                async with asyncio.timeout(DEADLINE_SECONDS):
                    while sum(STEPPED in line for line in daemon.log) < number:
                        await asyncio.sleep(0.05)

                # The first polls end while a clock that was set back is still behind: they did not wait for it.
                noticed = await samples(daemon)
                first = await until(daemon, lambda now, before=noticed: now[POLLS] != before[POLLS])  # type: ignore[misc]
                new = set(first[LAST_POLL].values()) - set(noticed[LAST_POLL].values())
                assert stepped - 1 <= min(new)
                assert stepped > unstepped or max(new) < unstepped

                # All go on, with the time of day as it is now.
                after = await until(
                    daemon,
                    lambda now, stepped=stepped, ahead=ahead: all(  # type: ignore[misc]
                        stepped - 1 <= at <= time() + ahead + 1 for at in now[LAST_POLL].values()
                    ),
                )
                assert after[TICKS][""] > noticed[TICKS][""]
                assert after[UP] == {**dict.fromkeys(names, 1.0), failing: 0.0}
                history = "azure_vmss_os_upgrade_history_upgrades"  # no max_age of an hour has passed
                assert after[history][failing] == before[history][failing] > 0
                for path in ("/-/healthy", "/-/ready"):
                    assert (await daemon.get(path))[0] == 200
            assert sum(STEPPED in line for line in daemon.log) == len(AHEAD)
            assert (
                simulator.requests["/token"] == sign_ins
            )  # a token is good for a day, by the monotonic clock
            assert after["vmss_upgrade_exporter_journal_failures_total"] == {"": 0.0}
            assert resident_bytes(daemon) < resident + PERMITTED_GROWTH_BYTES
