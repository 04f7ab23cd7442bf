"""Lifetimes: scale sets come, change and go while polls are in flight; the daemon starts and ends cleanly."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import time

import aiohttp
import pytest

from exporter.address import Address
from exporter.config import Config, load
from exporter.daemon import Daemon
from exporter.scale_set import ScaleSet
from exporter.simulator.fleet import Fleet
from exporter.simulator.server import Simulator, config_for, running


@dataclass
class Running:
    """A daemon in this event loop, before its first scale set."""

    daemon: Daemon
    config: Config
    simulator: Simulator
    client: aiohttp.ClientSession

    @property
    def scale_sets(self) -> tuple[ScaleSet, ...]:
        return self.config.named_scale_sets()

    async def lines(self, family: str) -> list[str]:
        async with self.client.get("/metrics") as response:
            text = await response.text()
        return [line for line in text.splitlines() if line.startswith(f"azure_vmss_os_upgrade_{family}{{")]

    async def until_ready(self) -> None:
        async with asyncio.timeout(10):
            while not self.daemon.ready:
                await asyncio.sleep(0.02)


@pytest.fixture
async def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    now = time()
    simulator = Simulator(Fleet(epoch=now), clock=lambda: now)
    async with running(simulator) as url:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{url}/token")
        monkeypatch.setenv("IDENTITY_HEADER", "simulator")
        file = tmp_path / "config.yaml"
        file.write_text(config_for(simulator.fleet, url))
        config = load(file)
        daemon = Daemon(config)
        (address,) = await daemon.listen([Address("127.0.0.1", 0)], "/metrics")
        async with aiohttp.ClientSession(f"http://{address}") as client:
            yield Running(daemon, config, simulator, client)
        await daemon.end()
        assert [task for task in asyncio.all_tasks() if "exporter" in repr(task.get_coro())] == []


async def test_it_is_ready_when_every_scale_set_has_been_polled_once_and_not_while_it_ends(up: Running):
    assert not up.daemon.ready
    await up.daemon.apply(up.scale_sets)
    assert not up.daemon.ready
    await up.until_ready()
    assert len(await up.lines("up")) == 12
    await up.daemon.end()
    assert not up.daemon.ready


async def test_a_failed_first_poll_makes_it_ready_too(up: Running):
    gone = replace(up.scale_sets[0], name="gone")
    await up.daemon.apply([gone])
    await up.until_ready()
    assert [line.rpartition(" ")[2] for line in await up.lines("up")] == ["0.0"]
    assert 'reason="not_found"' in (await up.lines("poll_error"))[0]


async def test_those_that_stay_keep_what_is_known_of_them(up: Running):
    await up.daemon.apply(up.scale_sets)
    await up.until_ready()
    before = await up.lines("start_timestamp_seconds")
    asked = sum(up.simulator.requests.values())
    await up.daemon.apply(up.scale_sets[:6])
    after = await up.lines("start_timestamp_seconds")
    assert set(after) < set(before)
    assert len(await up.lines("up")) == 6
    assert sum(up.simulator.requests.values()) - asked <= 6  # none of them was due anew for that


async def test_a_scale_set_that_was_removed_never_comes_back_through_a_poll_in_flight(up: Running):
    asked, answer = asyncio.Event(), asyncio.Event()

    async def wait(_: object) -> None:
        asked.set()
        await answer.wait()

    first, second = up.scale_sets[:2]
    up.simulator.fault(first.name, wait)
    await up.daemon.apply([first, second])
    await asyncio.wait_for(asked.wait(), 5)
    await up.daemon.apply([second])
    answer.set()
    await up.until_ready()
    assert len(await up.lines("scale_set_info")) == 1
    assert all(second.name in line for line in await up.lines("up"))


async def test_new_labels_show_at_once_and_cost_no_poll(up: Running):
    await up.daemon.apply(up.scale_sets[:1])
    await up.until_ready()
    labelled = replace(up.scale_sets[0], labels=(("label_team", "payments"),))
    await up.daemon.apply([labelled])
    (line,) = await up.lines("scale_set_info")
    assert 'label_team="payments"' in line
    assert len(await up.lines("up")) == 1


async def test_the_interval_in_force_shows_for_a_changed_scale_set(up: Running):
    await up.daemon.apply(up.scale_sets[:1])
    slower = replace(up.scale_sets[0], interval=900.0)
    await up.daemon.apply([slower])
    assert [line.rpartition(" ")[2] for line in await up.lines("poll_interval_seconds")] == ["900.0"]


async def test_counts_of_a_subscription_begin_at_0(up: Running):
    await up.daemon.apply(up.scale_sets)
    async with up.client.get("/metrics") as response:
        text = await response.text()
    assert text.count("vmss_upgrade_exporter_poll_failures_total{") == 2 * 9
    for subscription in up.simulator.fleet.subscriptions:
        assert (
            f'vmss_upgrade_exporter_poll_failures_total{{reason="forbidden",subscription_id="{subscription}"}} 0.0'
            in text
        )
        assert (
            f'vmss_upgrade_exporter_scale_sets{{source="named",subscription_id="{subscription}"}} 6.0' in text
        )


async def test_intervals_beyond_azures_grant_are_stretched_and_that_is_said_once(
    up: Running, caplog: pytest.LogCaptureFixture
):
    hasty = [replace(scale_set, interval=1.0) for scale_set in up.scale_sets]
    with caplog.at_level("WARNING"):
        await up.daemon.apply(hasty)
    said = [record for record in caplog.records if "stretched" in record.message]
    assert [record.fields["scale_sets"] for record in said] == [12]  # type: ignore[attr-defined]
    assert {line.rpartition(" ")[2] for line in await up.lines("poll_interval_seconds")} == {"5.0"}
