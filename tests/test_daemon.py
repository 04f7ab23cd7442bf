"""Lifetimes: scale sets come, change and go while polls are in flight; the daemon starts, reloads and ends cleanly."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from time import time
from typing import Any

import aiohttp
import pytest
import time_machine
from aiohttp import web

from exporter import daemon as daemon_module
from exporter import scale_set
from exporter.address import Address
from exporter.azure import credential as credential_module
from exporter.config import load
from exporter.daemon import Daemon
from exporter.history import History
from exporter.journal import Journal, reading
from exporter.scale_set import Shard
from exporter.simulator.fleet import Fleet, ScaleSet
from exporter.simulator.server import Simulator, answering, reset, running
from exporter.snapshot import Snapshot, after_success

Yaml = dict[str, Any]
STEPPED = "wall clock was stepped, polls go on by the monotonic clock"


@dataclass
class Running:
    """A daemon in this event loop that serves and does not poll yet, and the file it reads."""

    daemon: Daemon
    file: Path
    url: str
    simulator: Simulator
    client: aiohttp.ClientSession

    @property
    def scale_sets(self) -> tuple[ScaleSet, ...]:
        return self.simulator.fleet.scale_sets

    def write(self, scale_sets: Iterable[ScaleSet], **settings: Yaml) -> None:
        write(self.file, self.url, scale_sets, **settings)

    async def reload(self, scale_sets: Iterable[ScaleSet], **settings: Yaml) -> None:
        self.write(scale_sets, **settings)
        assert await self.daemon.reload() == ""

    async def lines(self, family: str) -> list[str]:
        async with self.client.get("/metrics") as response:
            text = await response.text()
        return [line for line in text.splitlines() if line.startswith((f"{family}{{", f"{family} "))]

    async def about(self, family: str) -> list[str]:
        return await self.lines(f"azure_vmss_os_upgrade_{family}")

    async def of_exporter(self, family: str) -> list[str]:
        return await self.lines(f"vmss_upgrade_exporter_{family}")

    @property
    def asked(self) -> int:
        return self.simulator.requests.total() - self.simulator.requests["/token"]

    async def until_ready(self) -> None:
        await until(lambda: self.daemon.ready)


async def until(true: Any) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.02)


def write(file: Path, url: str, scale_sets: Iterable[ScaleSet], **settings: Yaml) -> None:
    """Write a configuration that names these scale sets; ``settings`` go over what is usual."""
    named: dict[str, list[Yaml]] = {}
    for each in scale_sets:
        entry = {"resource_group": each.resource_group, "name": each.name}
        named.setdefault(each.subscription_id, []).append(entry | settings.pop(each.name, {}))
    document: Yaml = {
        "cloud": {"endpoint": url, "audience": url, "authority": url},
        "credential": {"kind": "managed_identity"},
        "polling": {"budget_share": 1.0},
        "subscriptions": [{"id": key, "scale_sets": entries} for key, entries in named.items()],
    }
    file.write_text(json.dumps(document | settings))  # which is YAML, too


@pytest.fixture
async def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    now = time()
    simulator = Simulator(Fleet(epoch=now), clock=lambda: now)
    async with running(simulator) as url:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{url}/token")
        monkeypatch.setenv("IDENTITY_HEADER", "simulator")
        file = tmp_path / "config.yaml"
        write(file, url, simulator.fleet.scale_sets)
        daemon = Daemon(lambda: load(file), Shard())
        (address,) = await daemon.listen([Address("127.0.0.1", 0)], "/metrics", enable_lifecycle=True)
        async with aiohttp.ClientSession(f"http://{address}") as client:
            yield Running(daemon, file, url, simulator, client)
        await daemon.end()
        assert [task for task in asyncio.all_tasks() if "exporter" in repr(task.get_coro())] == []


def values(lines: list[str]) -> list[float]:
    return [float(line.rpartition(" ")[2]) for line in lines]


async def test_it_is_ready_when_every_scale_set_has_been_polled_once_and_not_while_it_ends(up: Running):
    assert not up.daemon.ready
    await up.daemon.start()
    assert not up.daemon.ready
    await up.until_ready()
    assert len(await up.about("up")) == 12
    await up.daemon.end()
    assert not up.daemon.ready


async def test_a_failed_first_poll_makes_it_ready_too(up: Running):
    async def gone(_: object) -> web.Response:
        return web.Response(status=404)

    up.simulator.fault("osupgradehistory", gone)
    await up.daemon.start()
    await up.until_ready()
    assert values(await up.about("up")) == [0.0] * 12
    assert 'reason="bad_request"' in (await up.about("poll_error"))[0]


async def test_a_reload_does_not_take_readiness_back(up: Running):
    await up.reload(up.scale_sets[:1])
    await up.daemon.start()
    await up.until_ready()
    await up.reload(up.scale_sets)
    assert up.daemon.ready


async def test_those_that_stay_keep_what_is_known_of_them(up: Running):
    await up.daemon.start()
    await up.until_ready()
    before = await up.about("start_timestamp_seconds")
    polled = await up.about("last_poll_timestamp_seconds")
    asked = up.asked
    await up.reload(up.scale_sets[:6])
    assert set(await up.about("start_timestamp_seconds")) < set(before)
    assert set(await up.about("last_poll_timestamp_seconds")) < set(polled)
    assert up.asked == asked
    assert len(await up.about("up")) == 6


async def test_a_scale_set_that_was_removed_never_comes_back_through_a_poll_in_flight(up: Running):
    asked, answer = asyncio.Event(), asyncio.Event()

    async def wait(_: object) -> None:
        asked.set()
        await answer.wait()

    first, second = up.scale_sets[:2]
    up.simulator.fault(first.name, wait)
    await up.reload([first, second])
    await up.daemon.start()
    await asyncio.wait_for(asked.wait(), 5)
    await up.reload([second])
    answer.set()
    await up.until_ready()
    assert len(await up.about("scale_set_info")) == 1
    assert all(second.name in line for line in await up.about("up"))


async def test_new_labels_show_at_once_and_cost_no_poll(up: Running):
    first = up.scale_sets[0]
    await up.reload([first])
    await up.daemon.start()
    await up.until_ready()
    asked = up.asked
    await up.reload([first], **{first.name: {"labels": {"team": "payments"}}})
    (line,) = await up.about("scale_set_info")
    assert 'label_team="payments"' in line
    assert values(await up.about("up")) == [1.0]
    assert up.asked == asked


async def test_the_interval_in_force_shows_for_a_changed_scale_set(up: Running):
    first = up.scale_sets[0]
    await up.reload([first])
    await up.reload([first], **{first.name: {"interval": "15m"}})
    assert values(await up.about("poll_interval_seconds")) == [900.0]


EVERYTHING = {"refresh": "1s", "only_automatic_upgrade": False}


def searching(up: Running, named: Iterable[ScaleSet] = (), **discovery: Any) -> Yaml:
    """Return the setting ``subscriptions`` that searches all, at once and each second, and names some."""
    return {
        "subscriptions": [
            {
                "id": subscription,
                "discovery": EVERYTHING | discovery,
                "scale_sets": [
                    {"resource_group": each.resource_group.upper(), "name": each.name.upper()}
                    for each in named
                    if each.subscription_id == subscription
                ],
            }
            for subscription in up.simulator.fleet.subscriptions
        ]
    }


async def test_scale_sets_are_found_and_ready_waits_for_that(up: Running):
    up.write((), **searching(up))
    assert await up.daemon.reload() == ""
    assert not up.daemon.ready
    await up.daemon.start()
    await up.until_ready()
    assert len(await up.about("up")) == 12
    assert set(values(await up.of_exporter("scale_sets"))) == {6.0}
    assert all('source="discovered"' in line for line in await up.of_exporter("scale_sets"))
    assert all(
        time() - at < 60 for at in values(await up.of_exporter("discovery_last_success_timestamp_seconds"))
    )
    assert set(values(await up.of_exporter("discovery_failures_total"))) == {0.0}


async def test_a_scale_set_that_comes_or_goes_in_azure_does_so_here_within_one_refresh(up: Running):
    first = up.scale_sets[0]
    up.simulator.gone.add(first.resource_id.lower())
    up.write((), **searching(up))
    await up.daemon.reload()
    await up.daemon.start()
    await until(lambda: up.daemon.progress[1] == 11)
    up.simulator.gone.clear()
    await until(lambda: up.daemon.progress == (12, 12))
    assert any(first.name in line for line in await up.about("up"))
    up.simulator.gone.add(first.resource_id.lower())
    await until(lambda: up.daemon.progress[1] == 11)
    async with up.client.get("/metrics") as response:
        assert f'scale_set="{first.name}"' not in await response.text()


async def test_a_search_that_fails_keeps_what_was_known_and_says_so(
    up: Running, caplog: pytest.LogCaptureFixture
):
    async def broken(_: object) -> web.Response:
        return web.Response(status=400)

    up.write((), **searching(up))
    await up.daemon.reload()
    await up.daemon.start()
    await up.until_ready()
    up.simulator.hidden.update(up.simulator.fleet.subscriptions)
    up.simulator.fault("resourcegraph", broken)
    await until(lambda: sum(": discovery: " in line for line in up.daemon.failures()) == 2)
    assert len(await up.about("up")) == 12
    failed = [
        line for line in await up.of_exporter("discovery_failures_total") if 'reason="forbidden"' in line
    ]
    assert min(values(failed)) >= 1
    said = [each for each in caplog.records if each.message.startswith("discovery failed")]
    assert {each.fields["reason"] for each in said} == {"forbidden"}  # type: ignore[attr-defined]
    caplog.set_level("INFO")
    up.simulator.hidden.clear()
    await until(lambda: any(each.message == "discovery succeeds again" for each in caplog.records))


async def test_a_first_search_that_fails_ends_the_wait_for_it(up: Running):
    up.simulator.hidden.update(up.simulator.fleet.subscriptions)
    up.write((), **searching(up))
    await up.daemon.reload()
    await up.daemon.start()
    await up.until_ready()
    assert await up.about("up") == []


async def banners(up: Running) -> list[dict[str, str | None]]:
    async with up.client.get("/api/v1/scale-sets") as response:
        shown: list[dict[str, str | None]] = (await response.json())["banners"]
    return shown


async def test_the_page_says_which_permission_discovery_lacks_until_it_has_it(up: Running):
    up.simulator.hidden.update(up.simulator.fleet.subscriptions)
    up.write((), **searching(up))
    await up.daemon.reload()
    await up.daemon.start()
    await up.until_ready()
    shown = await banners(up)
    assert [(each["subscription_id"], each["title"], each["reason"]) for each in shown] == [
        (key, "Discovery fails", "forbidden") for key in sorted(up.simulator.fleet.subscriptions)
    ]
    for each in shown:
        assert f"virtualMachineScaleSets/read on /subscriptions/{each['subscription_id']}" in str(
            each["action"]
        )
        assert "HTTP 403 AuthorizationFailed" in str(each["message"])
    async with up.client.get("/") as response:
        text = await response.text()
    assert "No scale sets: discovery fails" in text
    up.simulator.hidden.clear()
    await until(lambda: len(up.daemon.snapshots()) == 12)
    async with asyncio.timeout(10):
        while await banners(up):
            await asyncio.sleep(0.05)


async def test_the_page_says_where_discovery_selects_nothing(up: Running):
    up.write((), **searching(up, tags={"env": "nowhere"}))
    await up.daemon.reload()
    await up.daemon.start()
    await up.until_ready()
    assert [(each["title"], each["message"]) for each in await banners(up)] == [
        ("Nothing selected", "Discovery found 6 scale sets and selects none.")
    ] * 2


async def test_the_page_says_that_polls_are_forbidden_and_by_which_permission(up: Running):
    up.simulator.hidden.add(up.scale_sets[0].subscription_id)
    await up.daemon.start()
    await up.until_ready()
    (banner,) = await banners(up)
    assert (banner["title"], banner["reason"]) == ("All polls fail (6)", "forbidden")
    assert "virtualMachineScaleSets/osUpgradeHistory/read on" in str(banner["action"])


async def test_the_page_says_that_the_sign_in_fails(up: Running):
    up.simulator.fault("/token", answering(400, b'{"error": "invalid_client"}'))
    await up.daemon.start()
    await up.until_ready()
    assert [(each["title"], each["reason"]) for each in await banners(up)] == [
        ("Sign-in fails", "unauthorized")
    ] * 2


async def test_the_page_says_that_the_sign_in_fails_while_the_last_token_is_still_good(
    up: Running, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(credential_module, "REFRESH_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(daemon_module, "SCALE_SET_REQUESTS_PER_MINUTE", 60.0)
    up.simulator.enforce_budgets = False
    up.simulator.token_seconds = 60.0  # so the next poll tries to replace it
    polling = {"interval": "1s", "active_interval": "1s", "budget_share": 1.0}
    await up.reload(up.scale_sets, polling=polling)
    await up.daemon.start()
    await up.until_ready()
    assert await banners(up) == []
    up.simulator.fault("/token", reset)
    async with asyncio.timeout(10):
        while not (shown := await banners(up)):
            await asyncio.sleep(0.05)
    assert [(each["title"], each["reason"]) for each in shown] == [("Sign-in fails", "unreachable")] * 2
    assert {each["subscription_id"] for each in shown} == set(up.simulator.fleet.subscriptions)
    assert set(values(await up.about("up"))) == {1.0}


async def test_where_resource_graph_is_forbidden_the_list_call_finds_them(up: Running):
    async def forbidden(_: object) -> web.Response:
        return web.Response(status=403)

    up.simulator.fault("resourcegraph", forbidden)
    up.write((), **searching(up))
    await up.daemon.reload()
    await up.daemon.start()
    await up.until_ready()
    assert len(await up.about("up")) == 12


async def test_a_scale_set_that_is_named_and_found_is_one_as_it_is_named(up: Running):
    up.write((), **searching(up, up.scale_sets[:3]))
    await up.daemon.reload()
    await up.daemon.start()
    await up.until_ready()
    infos = await up.about("scale_set_info")
    assert len(infos) == 12
    assert sum(f'name="{each.name.upper()}"' in line for each in up.scale_sets[:3] for line in infos) == 3
    assert sum(values(await up.of_exporter("scale_sets"))) == 12


async def test_other_filters_select_among_what_was_found_and_cost_no_request(up: Running):
    up.write((), **searching(up, refresh="1h"))
    await up.daemon.reload()
    await up.daemon.start()
    await up.until_ready()
    asked = up.asked
    prod = [each for each in up.scale_sets if dict(each.tags)["env"] == "prod"]
    resolved = {each.scale_set.name for each in up.daemon.snapshots() if not each.unresolved}
    stay = [each for each in up.scale_sets if each not in prod and each.name not in resolved]
    up.write((), **searching(up, refresh="1h", tags={"ENV": "prod"}, tag_labels=["team"]))
    assert await up.daemon.reload() == ""
    infos = await up.about("scale_set_info")
    assert len(infos) == len(prod) + len(stay) < 12
    assert all(f'tag_team="{dict(each.tags)["team"]}"' in "".join(infos) for each in prod)
    found = await up.of_exporter("found_scale_sets")
    assert sum(values([line for line in found if 'selected="true"' in line])) == len(prod)
    assert sum(values(found)) == 12
    assert up.asked == asked


def said(code: str) -> bytes:
    """Return a history with one upgrade in a state."""
    status = {"code": code, "startTime": "2025-06-15T12:00:00Z"}
    return json.dumps({"value": [{"properties": {"runningStatus": status}}]}).encode()


def upgraded_by_azure(up: Running) -> list[ScaleSet]:
    return [each for each in up.scale_sets if each.automatic_upgrade]


async def searching_quickly(up: Running, code: str, monkeypatch: pytest.MonkeyPatch) -> ScaleSet:
    """Search and poll each second; return a scale set of which a poll has brought an upgrade in this state."""
    monkeypatch.setattr(daemon_module, "SCALE_SET_REQUESTS_PER_MINUTE", 60.0)
    up.simulator.enforce_budgets = False
    for each in up.scale_sets:
        up.simulator.histories[each.resource_id.lower()] = said("Completed")
    victim = upgraded_by_azure(up)[0]
    up.simulator.histories[victim.resource_id.lower()] = said(code)
    polling = {"interval": "1s", "active_interval": "1s", "budget_share": 1.0}
    up.write((), polling=polling, **searching(up, only_automatic_upgrade=True, tag_labels=["team"]))
    assert await up.daemon.reload() == ""
    await up.daemon.start()
    await up.until_ready()
    await until(lambda: len(up.daemon.snapshots()) == len(upgraded_by_azure(up)))
    await until(lambda: all(each.latest for each in up.daemon.snapshots()))
    return victim


def without_automatic_upgrades(scale_set: ScaleSet) -> ScaleSet:
    return replace(scale_set, part=replace(scale_set.part, started_by="User"))


async def found(up: Running, subscription_id: str) -> dict[str, float]:
    """Return the numbers of scale sets that were found in a subscription, by whether they are selected."""
    lines = [line for line in await up.of_exporter("found_scale_sets") if subscription_id in line]
    return {line.split('selected="')[1].split('"')[0]: values([line])[0] for line in lines}


def polled_names(daemon: Daemon) -> set[str]:
    return {each.scale_set.name for each in daemon.snapshots()}


@pytest.mark.parametrize("code", ["Faulted", "RollingForward", "RollingBack"])
async def test_a_scale_set_that_is_no_longer_selected_stays_visible_until_its_upgrade_is_good(
    up: Running, code: str, monkeypatch: pytest.MonkeyPatch
):
    victim = await searching_quickly(up, code, monkeypatch)
    before = await found(up, victim.subscription_id)
    up.simulator.change(without_automatic_upgrades(victim))
    async with asyncio.timeout(10):
        while await found(up, victim.subscription_id) == before:
            await asyncio.sleep(0.05)
    assert victim.name in polled_names(up.daemon)
    state = [line for line in await up.about("state") if victim.name in line and f'state="{code}"' in line]
    assert values(state) == [1.0]
    (info,) = [line for line in await up.about("scale_set_info") if victim.name in line]
    assert f'tag_team="{dict(victim.tags)["team"]}"' in info
    assert await found(up, victim.subscription_id) == {
        "true": before["true"] - 1,
        "false": before["false"] + 1,
    }
    assert sum(values(await up.of_exporter("scale_sets"))) == len(up.daemon.snapshots())
    up.simulator.histories[victim.resource_id.lower()] = said("Completed")
    await until(lambda: victim.name not in polled_names(up.daemon))
    assert not [line for line in await up.about("state") if victim.name in line]
    assert sum((await found(up, victim.subscription_id)).values()) == 6


async def test_a_scale_set_that_is_no_longer_selected_goes_at_once_where_its_upgrade_is_good(
    up: Running, monkeypatch: pytest.MonkeyPatch
):
    victim = await searching_quickly(up, "Cancelled", monkeypatch)
    up.simulator.change(without_automatic_upgrades(victim))
    await until(lambda: victim.name not in polled_names(up.daemon))


async def test_a_faulted_scale_set_that_is_deleted_in_azure_goes(
    up: Running, monkeypatch: pytest.MonkeyPatch
):
    victim = await searching_quickly(up, "Faulted", monkeypatch)
    up.simulator.gone.add(victim.resource_id.lower())
    await until(lambda: victim.name not in polled_names(up.daemon))
    assert sum((await found(up, victim.subscription_id)).values()) == 5


async def test_a_faulted_scale_set_that_the_configuration_named_goes_with_its_entry(
    up: Running, monkeypatch: pytest.MonkeyPatch
):
    victim = await searching_quickly(up, "Faulted", monkeypatch)
    up.simulator.change(without_automatic_upgrades(victim))
    up.write((), **searching(up, [victim], only_automatic_upgrade=True))
    assert await up.daemon.reload() == ""
    assert victim.name.upper() in polled_names(up.daemon)
    up.write((), **searching(up, only_automatic_upgrade=True))
    assert await up.daemon.reload() == ""
    assert victim.name.upper() not in polled_names(up.daemon)


@pytest.mark.parametrize("journal", [True, False], ids=["with a journal", "without a journal"])
async def test_after_a_restart_the_journal_knows_which_unselected_scale_sets_stay(up: Running, journal: bool):
    victim, other = upgraded_by_azure(up)[:2]
    up.simulator.histories[victim.resource_id.lower()] = said("Faulted")
    up.simulator.histories[other.resource_id.lower()] = said("Completed")
    settings = {"journal": {"path": "journal.sqlite"}} if journal else {}
    up.write((), **settings, **searching(up, only_automatic_upgrade=True))

    async def life() -> set[str]:
        """Return what is polled once all has been found and polled."""
        daemon = Daemon(lambda: load(up.file), Shard())
        try:
            await daemon.listen([Address("127.0.0.1", 0)], "/metrics")
            await daemon.start()
            await until(lambda: daemon.ready)
            return polled_names(daemon)
        finally:
            await daemon.end()

    assert {victim.name, other.name} <= await life()
    for each in (victim, other):
        up.simulator.change(without_automatic_upgrades(each))
    assert (await life()) & {victim.name, other.name} == ({victim.name} if journal else set())


async def test_shards_together_count_all_that_was_found(up: Running):
    up.write((), **searching(up, only_automatic_upgrade=True))
    counted: Counter[str] = Counter()
    for number in range(3):
        daemon = Daemon(lambda: load(up.file), Shard(number, 3))
        (address,) = await daemon.listen([Address("127.0.0.1", 0)], "/metrics")
        await daemon.start()
        await until(lambda daemon=daemon: daemon.ready)
        async with aiohttp.ClientSession(f"http://{address}") as client:
            part = replace(up, daemon=daemon, client=client)
            for subscription in up.simulator.fleet.subscriptions:
                counted.update(await found(part, subscription))
        await daemon.end()
    assert counted == {"true": len(upgraded_by_azure(up)), "false": 12 - len(upgraded_by_azure(up))}


async def test_scale_sets_are_counted_as_0_where_none_is_polled(up: Running):
    up.simulator.hidden.update(up.simulator.fleet.subscriptions)
    first, second = up.simulator.fleet.subscriptions
    one = [each for each in up.scale_sets if each.subscription_id == first][:1]
    setting = searching(up, one)
    setting["subscriptions"][1].pop("scale_sets")
    up.write((), **setting)
    assert await up.daemon.reload() == ""
    await up.daemon.start()
    await up.until_ready()
    assert sorted(await up.of_exporter("scale_sets")) == sorted(
        f'vmss_upgrade_exporter_scale_sets{{source="{source}",subscription_id="{key}"}} {number}'
        for source, key, number in (
            ("named", first, 1.0),
            ("discovered", first, 0.0),
            ("discovered", second, 0.0),
        )
    )
    assert await up.of_exporter("found_scale_sets") == []


async def test_a_subscription_that_is_searched_no_more_leaves_no_series_of_its_discovery(up: Running):
    """A last success that never comes again would be an alert for ever."""
    up.write((), **searching(up))
    await up.daemon.reload()
    await up.daemon.start()
    await up.until_ready()
    families = ("discovery_last_success_timestamp_seconds", "discovery_failures_total", "found_scale_sets")
    assert all([await up.of_exporter(family) for family in families])
    await up.reload(up.scale_sets)
    assert [await up.of_exporter(family) for family in families] == [[], [], []]


async def test_a_subscription_that_is_searched_no_more_keeps_only_what_is_named(up: Running):
    up.write((), **searching(up))
    await up.daemon.reload()
    await up.daemon.start()
    await up.until_ready()
    await up.reload(up.scale_sets[:2])
    assert len(await up.about("scale_set_info")) == 2
    searches = up.simulator.requests["/providers/microsoft.resourcegraph/resources"]
    await asyncio.sleep(1.1)
    assert up.simulator.requests["/providers/microsoft.resourcegraph/resources"] == searches


async def test_a_bad_file_changes_nothing_and_says_why(up: Running, caplog: pytest.LogCaptureFixture):
    await up.daemon.start()
    await up.until_ready()
    before, config = await up.about("up"), up.daemon.configuration
    up.file.write_text("subscriptions: []\npolling: {pace: 1}\n")
    async with up.client.post("/-/reload") as response:
        assert response.status == 500
        said = await response.text()
    faults = [
        f"{up.file}:1: subscriptions: nothing to poll: no subscription has scale_sets or discovery",
        f"{up.file}:2: polling.pace: is not known",
    ]
    assert said.splitlines()[1:] == faults
    assert [record.fields["fault"] for record in caplog.records if record.levelname == "ERROR"] == faults  # type: ignore[attr-defined]
    assert await up.about("up") == before
    assert up.daemon.configuration == config
    assert values(await up.of_exporter("config_last_reload_successful")) == [0.0]
    up.file.unlink()
    assert "No such file" in await up.daemon.reload()
    up.write(up.scale_sets)
    async with up.client.post("/-/reload") as response:
        assert (response.status, await response.text()) == (200, "Reloaded\n")
    assert values(await up.of_exporter("config_last_reload_successful")) == [1.0]


async def test_the_time_of_a_reload_is_that_of_the_last_good_one(up: Running):
    started = time()
    await up.daemon.start()
    (first,) = values(await up.of_exporter("config_last_reload_success_timestamp_seconds"))
    up.file.write_text("nonsense")
    await up.daemon.reload()
    assert values(await up.of_exporter("config_last_reload_success_timestamp_seconds")) == [first]
    await up.reload(up.scale_sets)
    (second,) = values(await up.of_exporter("config_last_reload_success_timestamp_seconds"))
    assert started <= first < second <= time()


async def test_reloads_at_once_come_one_after_the_other(up: Running):
    await up.daemon.start()
    assert await asyncio.gather(*[up.daemon.reload() for _ in range(5)]) == [""] * 5
    await up.until_ready()
    assert len(await up.about("up")) == 12


async def test_another_connection_keeps_the_data_and_polls_in_flight_are_made_anew(up: Running):
    await up.daemon.start()
    await up.until_ready()
    known = await up.about("state")
    asked, answer = asyncio.Event(), asyncio.Event()

    async def wait(_: object) -> None:
        asked.set()
        await answer.wait()

    first = up.scale_sets[0]
    up.simulator.fault(first.name, wait)
    hasty = {first.name: {"interval": "5s"}}
    await up.reload(up.scale_sets, **hasty)
    await asyncio.wait_for(asked.wait(), 10)
    before = up.simulator.requests["/token"]
    asked.clear()
    await up.reload(up.scale_sets, credential={"kind": "managed_identity", "client_id": "another"}, **hasty)
    assert await up.about("state") == known
    await asyncio.wait_for(asked.wait(), 10)  # due again at once
    answer.set()
    assert up.simulator.requests["/token"] > before
    assert "another" in up.daemon.configuration


async def test_a_subscription_that_is_gone_leaves_nothing_behind(up: Running):
    await up.daemon.start()
    await up.until_ready()
    gone, stays = up.simulator.fleet.subscriptions
    await up.reload([each for each in up.scale_sets if each.subscription_id == stays])
    async with up.client.get("/metrics") as response:
        text = await response.text()
    assert gone not in text
    assert stays in text
    await up.reload(up.scale_sets)
    assert len(await up.about("scale_set_info")) == 12


async def test_counts_of_a_subscription_begin_at_0(up: Running):
    await up.daemon.start()
    failures = await up.of_exporter("poll_failures_total")
    assert len(failures) == 2 * 9
    assert set(values(failures)) == {0.0}
    assert await up.of_exporter("scale_sets") == [
        f'vmss_upgrade_exporter_scale_sets{{source="named",subscription_id="{each}"}} 6.0'
        for each in up.simulator.fleet.subscriptions
    ]


async def test_intervals_beyond_azures_grant_are_stretched_and_that_is_said_once(
    up: Running, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level("WARNING"):
        await up.reload(up.scale_sets, polling={"interval": "1s", "budget_share": 1.0})
    said = [record for record in caplog.records if "stretched" in record.message]
    assert [record.fields["scale_sets"] for record in said] == [12]  # type: ignore[attr-defined]
    assert set(values(await up.about("poll_interval_seconds"))) == {5.0}


async def test_that_intervals_are_stretched_is_said_once_a_change_and_not_at_each_search(
    up: Running, caplog: pytest.LogCaptureFixture
):
    def said() -> list[tuple[int, float]]:
        records = [record.fields for record in caplog.records if "stretched" in record.message]  # type: ignore[attr-defined]
        return [(fields["scale_sets"], fields["shortest_seconds"]) for fields in records]

    async def searches(number: int) -> None:
        path = "/providers/microsoft.resourcegraph/resources"
        wanted = up.simulator.requests[path] + number
        await until(lambda: up.simulator.requests[path] >= wanted)

    first = up.scale_sets[0]
    up.simulator.gone.add(first.resource_id.lower())
    stretched = {"interval": "1s", "budget_share": 1.0}
    up.write((), **searching(up), polling=stretched)
    assert await up.daemon.reload() == ""
    await up.daemon.start()
    await until(lambda: up.daemon.progress == (11, 11))
    await searches(3)
    assert len(said()) == 1  # of whatever the first search to end had found
    up.simulator.gone.clear()  # one more scale set with the same interval is no news
    await until(lambda: up.daemon.progress == (12, 12))
    assert len(said()) == 1
    for polling in (
        {"interval": "2s", "budget_share": 1.0},
        {"interval": "2s", "budget_share": 0.5},
        {},
        stretched,
    ):
        up.write((), **searching(up), polling=polling)
        assert await up.daemon.reload() == ""
    await searches(3)
    assert said()[1:] == [(12, 5.0), (12, 10.0), (12, 5.0)]


async def test_a_reload_gives_living_plans_another_budget(up: Running):
    await up.daemon.start()
    await up.until_ready()
    await up.reload(up.scale_sets, polling={"interval": "1s", "budget_share": 0.25})
    assert set(values(await up.about("poll_interval_seconds"))) == {20.0}


async def test_with_a_journal_a_restart_is_ready_before_azure_answers_unless_all_is_too_old(up: Running):
    async def hang(_: object) -> None:
        await asyncio.Event().wait()

    async def life(max_age: str) -> tuple[bool, bool]:
        """Return whether it was ready at once, and after all."""
        up.write(up.scale_sets, journal={"path": "journal.sqlite"}, polling={"max_age": max_age})
        daemon = Daemon(lambda: load(up.file), Shard())
        try:
            await daemon.listen([Address("127.0.0.1", 0)], "/metrics")
            await daemon.start()
            at_once = daemon.ready
            if max_age == "1h":
                await until(lambda: daemon.ready)
            return at_once, daemon.ready
        finally:
            await daemon.end()

    assert await life("1h") == (False, True)
    up.simulator.fault("osupgradehistory", hang)
    assert await life("1h") == (True, True)
    assert await life("1ms") == (False, False)


async def test_a_subscription_that_goes_and_comes_back_is_still_paused(up: Running):
    await up.daemon.start()
    await up.until_ready()
    mine = [each for each in up.scale_sets if each.subscription_id == up.scale_sets[0].subscription_id]
    others = [each for each in up.scale_sets if each not in mine]
    for each in mine:
        up.simulator.fault(each.resource_id, answering(429, headers={"Retry-After": "900"}))
    await up.reload(others)
    await up.reload(up.scale_sets)  # new ones are polled at once
    await until(lambda: sum("throttled" in line for line in up.daemon.failures()) == len(mine))
    asked = Counter(up.simulator.requests)
    await up.reload(others)
    await up.reload(up.scale_sets)
    await until(lambda: sum("throttled" in line for line in up.daemon.failures()) == len(mine))
    assert [up.simulator.requests[each.resource_id.lower()] for each in mine] == [
        asked[each.resource_id.lower()] for each in mine
    ]


async def test_a_step_of_the_wall_clock_moves_the_end_of_a_pause_and_is_told_once(
    up: Running, caplog: pytest.LogCaptureFixture
):
    async def ends() -> list[float]:
        return sorted(values(await up.of_exporter("azure_paused_until_timestamp_seconds")))

    first = up.scale_sets[0]
    up.simulator.fault(first.resource_id, answering(429, headers={"Retry-After": "900"}))
    await up.daemon.start()
    await until(lambda: any("throttled" in line for line in up.daemon.failures()))
    not_paused, paused = await ends()
    assert (not_paused, time() < paused <= time() + 900) == (0.0, True)
    for days in (400, -30):
        with time_machine.travel(time() + days * 86_400):
            await until(lambda: caplog.messages.count(STEPPED) == 1)
            moved = await ends()
        assert moved == [0.0, pytest.approx(paused + days * 86_400, abs=5.0)]
        caplog.clear()
        await until(lambda: caplog.messages.count(STEPPED) == 1)  # and back
        assert await ends() == [0.0, pytest.approx(paused, abs=5.0)]
        caplog.clear()


async def test_the_polling_clock_ticks_although_there_is_nothing_to_poll(up: Running):
    up.simulator.hidden.update(up.simulator.fleet.subscriptions)
    up.write((), **searching(up))
    assert await up.daemon.reload() == ""
    assert values(await up.of_exporter("ticks_total")) == [0.0]
    await up.daemon.start()
    async with asyncio.timeout(10):
        while values(await up.of_exporter("ticks_total")) < [2.0]:
            await asyncio.sleep(0.02)
    assert up.daemon.healthy


async def test_it_is_healthy_until_the_polling_clock_has_stopped(
    up: Running, monkeypatch: pytest.MonkeyPatch
):
    async def healthy() -> int:
        async with up.client.get("/-/healthy") as response:
            return response.status

    with monkeypatch.context() as at_once:
        at_once.setattr(daemon_module, "STOPPED_SECONDS", 0.0)
        assert await healthy() == 200  # it is still starting
        await up.daemon.start()
        async with asyncio.timeout(10):
            while await healthy() == 200:
                await asyncio.sleep(0.02)
        assert await healthy() == 503
    assert await healthy() == 200


async def test_a_defect_in_a_reload_is_told_and_the_next_one_comes(
    up: Running, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    await up.daemon.start()
    with monkeypatch.context() as broken:
        broken.setattr(up.daemon, "_read", lambda: 1 / 0)
        assert await up.daemon.reload() == "a defect of the exporter, see its log"
    assert "ZeroDivisionError" in caplog.text
    assert values(await up.of_exporter("config_last_reload_successful")) == [0]
    await up.reload(up.scale_sets[:3])
    assert values(await up.of_exporter("config_last_reload_successful")) == [1]


async def test_what_is_too_old_is_forgotten_by_the_time_that_a_reload_sets(
    up: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(daemon_module, "PRUNE_SECONDS", 0.05)
    path = tmp_path / "journal.sqlite"
    gone = after_success(
        Snapshot(scale_set.ScaleSet("s", "rg", "gone", 300.0), 300.0), History(), time() - 3600
    )
    with closing(Journal(path)) as journal:
        journal.write([gone])

    def forgotten() -> bool:
        with reading(path) as journal:
            return not journal.known([gone.scale_set])

    up.write(up.scale_sets, journal={"path": str(path), "keep": "2h"})
    daemon = Daemon(lambda: load(up.file), Shard())
    try:
        await daemon.listen([Address("127.0.0.1", 0)], "/metrics")
        await daemon.start()
        await until(lambda: daemon.ready)
        up.write(up.scale_sets, journal={"path": str(path), "keep": "30m"})
        assert not forgotten()
        assert await daemon.reload() == ""
        await until(forgotten)
    finally:
        await daemon.end()


async def test_a_wall_clock_that_is_stepped_ahead_by_years_empties_no_journal(
    up: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(daemon_module, "PRUNE_SECONDS", 0.05)
    path = tmp_path / "journal.sqlite"
    young, old = (
        after_success(
            Snapshot(scale_set.ScaleSet("s", "rg", name, 300.0), 300.0), History(), time() - days * 86_400
        )
        for name, days in (("young", 700), ("old", 800))
    )
    with closing(Journal(path)) as journal:
        journal.write([young, old])

    def known() -> set[str]:
        with reading(path) as journal:
            return set(journal.known([young.scale_set, old.scale_set]))

    up.write(up.scale_sets, journal={"path": str(path), "keep": "730d"})
    daemon = Daemon(lambda: load(up.file), Shard())
    try:
        with time_machine.travel(time() + 4000 * 86_400):
            await daemon.start()
            await until(lambda: old.scale_set.id not in known())
            assert known() == {young.scale_set.id}
    finally:
        await daemon.end()


async def test_the_page_tells_of_upgrades_that_azure_has_forgotten(up: Running, tmp_path: Path):
    first = up.scale_sets[0]
    journal = {"path": str(tmp_path / "journal.sqlite")}
    up.write([first], journal=journal)

    async def shown(azure_knows: int) -> list[str]:
        daemon = Daemon(lambda: load(up.file), Shard())
        (address,) = await daemon.listen([Address("127.0.0.1", 0)], "/metrics")
        await daemon.start()
        await until(
            lambda: (
                [len(each.history.upgrades) for each in daemon.snapshots() if each.history] == [azure_knows]
            )
        )
        url = f"http://{address}/api/v1/scale-sets"
        async with aiohttp.ClientSession() as client, client.get(url) as response:
            (row,) = (await response.json())["scale_sets"]
        await daemon.end()
        return [upgrade["start"] for upgrade in row["upgrades"]]

    before = await shown(5)
    assert len(before) == 5
    history = up.simulator.fleet.history(first, up.simulator.clock())
    up.simulator.histories[first.resource_id.lower()] = history[:1]
    assert await shown(1) == before
