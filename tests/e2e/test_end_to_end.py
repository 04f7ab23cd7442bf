"""Simulator -> daemon -> HTTP /metrics -> prometheus_client's parsers: what arrives is what the simulator knows."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM
from time import monotonic, time

import bcrypt
import pytest
from aiohttp import encode_basic_auth
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.simulator.fleet import Fleet, ScaleSet, State, Upgrade
from exporter.simulator.server import Simulator, config_for, running
from tests.processes import Exporter, exporter

STATES = ("RollingForward", "RollingBack", "Completed", "Cancelled", "Faulted", "Unknown")
FORMATS = {
    "text": ("text/plain", parse_text),
    "openmetrics": ("application/openmetrics-text;version=1.0.0", parse_openmetrics),
}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def truth(fleet: Fleet, now: float) -> Samples:
    """Return what the simulator knows, as the samples that it should become, by the contract's words alone."""
    samples: Samples = {}
    for scale_set in fleet.scale_sets:
        upgrades = fleet.history(scale_set, now)
        for family, labels, value in [
            ("up", {}, 1.0),
            *about_history(upgrades),
            *about_latest(scale_set, upgrades),
        ]:
            identity = {
                "subscription_id": scale_set.subscription_id.lower(),
                "resource_group": scale_set.resource_group.lower(),
                "scale_set": scale_set.name.lower(),
            }
            samples[f"azure_vmss_os_upgrade_{family}", frozenset({**identity, **labels}.items())] = value
    return samples


Expected = Iterable[tuple[str, dict[str, str], float]]


def about_history(upgrades: tuple[Upgrade, ...]) -> Expected:
    counts = Counter(str(upgrade.state) for upgrade in upgrades)
    for state in STATES:
        yield "history_upgrades", {"state": state}, counts[state]
    completed = [upgrade for upgrade in upgrades if upgrade.state is State.COMPLETED]
    if completed:
        latest = max(completed, key=lambda upgrade: upgrade.start)
        yield "last_completed_timestamp_seconds", {}, latest.start if latest.end is None else latest.end


def about_latest(scale_set: ScaleSet, upgrades: tuple[Upgrade, ...]) -> Expected:
    latest = max(upgrades, key=lambda upgrade: upgrade.start, default=None)
    for state in STATES:
        yield "state", {"state": state}, float(latest is not None and latest.state == state)
    yield "scale_set_info", {"name": scale_set.name, "location": scale_set.location if latest else ""}, 1.0
    if latest is None:
        return
    yield "start_timestamp_seconds", {}, latest.start
    # Of an active upgrade it is when the exporter saw it so, which is not Azure's to say: the start stands for that.
    yield "last_progress_timestamp_seconds", {}, latest.start if latest.end is None else latest.end
    if latest.end is not None:
        yield "end_timestamp_seconds", {}, latest.end
    for state in ("successful", "failed", "in_progress", "pending"):
        yield "instances", {"state": state}, getattr(latest, state)
    image = latest.image
    yield (
        "info",
        {
            "started_by": latest.started_by,
            "publisher": image.publisher or "",
            "offer": image.offer or "",
            "sku": image.sku or "",
            "version": image.version or "",
            "exact_version": image.exact_version or "",
            "image_id": image.id or "",
            "shared_gallery_image_id": image.shared_gallery_image_id or "",
            "community_gallery_image_id": image.community_gallery_image_id or "",
        },
        1.0,
    )
    if latest.rollback is not None:
        yield "rolled_back_instances", {"result": "successful"}, latest.rollback.successful
        yield "rolled_back_instances", {"result": "failed"}, latest.rollback.failed
    rollback_error = latest.rollback.error if latest.rollback is not None else None
    for family, error in (("error_info", latest.error), ("rollback_error_info", rollback_error)):
        if error is not None:
            labels = {"code": error.code, "target": error.target, "exception_type": error.exception_type}
            yield family, {name: text or "" for name, text in labels.items()}, 1.0
    if latest.error is not None:
        for code, number in Counter(detail.code or "" for detail in latest.error.details).items():
            yield "error_details", {"code": code}, number


def samples_of(body: str, in_format: str) -> Samples:
    """Parse an exposition; no series may be in it twice."""
    samples: Samples = {}
    for family in FORMATS[in_format][1](body):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples, f"twice: {key}"
            samples[key] = sample.value
    return samples


OF_POLLS = {
    f"azure_vmss_os_upgrade_{name}"
    for name in ("last_poll_timestamp_seconds", "last_success_timestamp_seconds", "poll_interval_seconds")
}


@pytest.fixture(params=[0.0, 21.0], ids=["at once", "while one rolls back"])
async def polled(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[Fleet, float, Exporter]]:
    """Yield a fleet, the moment at which its clock stands still, and a daemon that has polled it once."""
    epoch = time() - 60
    now = epoch + request.param
    fleet = Fleet(epoch=epoch, scale_sets=40)
    states = {upgrade.state for each in fleet.scale_sets for upgrade in fleet.history(each, now)}
    assert State.ROLLING_BACK in states or not request.param
    async with running(Simulator(fleet, clock=lambda: now, page_size=2)) as url:
        config = tmp_path / "config.yaml"
        config.write_text(config_for(fleet, url))
        async with exporter(
            f"--config.file={config}", IDENTITY_ENDPOINT=f"{url}/token", IDENTITY_HEADER="simulator"
        ) as daemon:
            await daemon.until_ready()
            yield fleet, now, daemon


async def test_what_is_scraped_is_what_the_simulator_knows_in_both_formats(
    polled: tuple[Fleet, float, Exporter],
):
    fleet, now, daemon = polled
    started = time()
    for in_format, (accept, _) in FORMATS.items():
        status, body = await daemon.get("/metrics", Accept=accept)
        assert status == 200
        scraped = samples_of(body, in_format)
        of_polls = {key: value for key, value in scraped.items() if key[0] in OF_POLLS}
        assert about_scale_sets(scraped) == truth(fleet, now)
        assert len(of_polls) == 3 * len(fleet.scale_sets)
        for (name, _), value in of_polls.items():
            assert value == 5.0 if name.endswith("interval_seconds") else started - 60 < value <= time()


def about_scale_sets(samples: Samples) -> Samples:
    """Return what can be compared with what Azure knows, or another exporter has seen.

    When an active upgrade was first seen as it is depends on the polls: any time from its start to now counts as its
    start. A finished one shows its end.
    """
    shown, now = {}, time()
    for (name, labels), value in samples.items():
        if not name.startswith("azure_vmss") or name in OF_POLLS:
            continue
        shown[name, labels] = value
        ended = ("azure_vmss_os_upgrade_end_timestamp_seconds", labels) in samples
        if name.endswith("last_progress_timestamp_seconds") and not ended:
            start = samples.get(("azure_vmss_os_upgrade_start_timestamp_seconds", labels), now)
            shown[name, labels] = start if start <= value <= now else value
    return shown


async def test_three_shards_together_show_what_one_exporter_shows_alone(tmp_path: Path):
    now = time()
    fleet = Fleet(epoch=now - 60, scale_sets=40)
    config = tmp_path / "config.yaml"
    async with running(Simulator(fleet, clock=lambda: now)) as url, AsyncExitStack() as stack:
        config.write_text(config_for(fleet, url, discovering=True))

        async def shown(*flags: str, **environment: str) -> Samples:
            daemon = await stack.enter_async_context(
                exporter(
                    f"--config.file={config}",
                    *flags,
                    IDENTITY_ENDPOINT=f"{url}/token",
                    IDENTITY_HEADER="simulator",
                    **environment,
                )
            )
            await daemon.until_ready()
            return samples_of((await daemon.get("/metrics"))[1], "text")

        alone, *parts = await asyncio.gather(
            shown(),
            shown("--shard=0", "--total-shards=3"),
            shown("--shard=1", "--total-shards=3", POD_NAME="exporter-0"),
            shown("--total-shards=3", POD_NAME="exporter-2"),
        )
    together: Samples = {}
    for number, part in enumerate(parts):
        assert part["vmss_upgrade_exporter_shard", frozenset()] == number
        assert part["vmss_upgrade_exporter_total_shards", frozenset()] == 3
        own = about_scale_sets(part)
        assert own
        assert not own.keys() & together.keys()
        together |= own
    assert together == about_scale_sets(alone)


async def test_sighup_puts_a_changed_file_in_force(polled: tuple[Fleet, float, Exporter], tmp_path: Path):
    fleet, _, daemon = polled
    file = tmp_path / "config.yaml"
    before = file.read_text()

    async def until(text: str) -> None:
        async with asyncio.timeout(10):
            while not any(text in line for line in daemon.log):
                await asyncio.sleep(0.02)

    file.write_text("subscriptions: 7\n")
    daemon.process.send_signal(SIGHUP)
    await until("configuration not reloaded")
    assert any("config.yaml:1: subscriptions: must be a list" in line for line in daemon.log)
    gone = fleet.scale_sets[0].name
    file.write_text("\n".join(line for line in before.splitlines() if f"name: {gone}}}" not in line))
    daemon.process.send_signal(SIGHUP)
    await until('msg="configuration reloaded"')
    samples = samples_of((await daemon.get("/metrics"))[1], "text")
    assert len([name for name, _ in samples if name == "azure_vmss_os_upgrade_up"]) == 39
    assert (await daemon.get("/-/reload"))[0] == 405
    assert await daemon.ends_after(SIGTERM) == 0


async def test_the_cast_of_the_demo_is_living_within_five_seconds_of_its_start():
    async with exporter("demo") as demo:
        await demo.until_ready(seconds=5.0)
        body = (await demo.get("/metrics"))[1]
        samples = samples_of(body, "text")
        names = {name.removeprefix("azure_vmss_os_upgrade_") for name, _ in samples}
        seen = Counter(
            dict(labels)["state"]
            for (name, labels), value in samples.items()
            if name == "azure_vmss_os_upgrade_state" and value
        )
        assert seen["RollingForward"] >= 1
        assert seen["Completed"] >= 1
        assert seen["Faulted"] >= 1
        assert seen["Cancelled"] == 1
        assert {"error_info", "error_details", "rolled_back_instances"} <= names
        histories = Counter(
            dict(labels)["scale_set"]
            for (name, labels), value in samples.items()
            if name == "azure_vmss_os_upgrade_history_upgrades" and value
        )
        assert len(histories) == 11  # one was never upgraded
        galleries = [
            dict(labels)["shared_gallery_image_id"]
            for name, labels in samples
            if name == "azure_vmss_os_upgrade_info"
        ]
        assert any(galleries)
        assert await demo.ends_after(SIGINT) == 0
        assert not [line for line in demo.log if "Traceback" in line]


async def test_the_rollouts_of_the_demo_move_on():
    seen: dict[str, set[str]] = {}
    ended: set[str] = set()

    def moved() -> bool:
        completed = any({"RollingForward", "Completed"} <= states for states in seen.values())
        rolled_back = any({"RollingBack", "Faulted"} <= states for states in seen.values())
        return completed and rolled_back

    async with exporter("demo", "--simulator.speed=120") as demo, asyncio.timeout(90):
        while not moved():
            for (name, labels), value in samples_of((await demo.get("/metrics"))[1], "text").items():
                of = dict(labels)
                if name == "azure_vmss_os_upgrade_state" and value:
                    seen.setdefault(of["scale_set"], set()).add(of["state"])
                if name == "azure_vmss_os_upgrade_end_timestamp_seconds":
                    ended.add(of["resource_group"])
            await asyncio.sleep(0.1)
    assert "rg-batch" in ended  # whose entries carry completedTime


@pytest.mark.parametrize("signal", [SIGTERM, SIGINT])
async def test_a_signal_drains_and_ends_with_0_within_five_seconds_even_in_the_midst_of_polls(
    tmp_path: Path, signal: int
):
    fleet = Fleet(epoch=time())
    simulator = Simulator(fleet)

    async def hang(_: object) -> None:
        await asyncio.sleep(60)

    simulator.fault("osupgradehistory", hang)
    async with running(simulator) as url:
        config = tmp_path / "config.yaml"
        config.write_text(config_for(fleet, url))
        async with exporter(
            f"--config.file={config}", IDENTITY_ENDPOINT=f"{url}/token", IDENTITY_HEADER="simulator"
        ) as daemon:
            while not simulator.requests:
                await asyncio.sleep(0.02)
            assert (await daemon.get("/-/ready"))[0] == 503
            started = monotonic()
            assert await daemon.ends_after(signal) == 0
            assert monotonic() - started < 5
            assert daemon.log[-1].endswith("msg=draining")


async def test_a_signal_ends_it_while_a_password_is_checked_that_takes_half_a_minute(tmp_path: Path):
    hashed = bcrypt.hashpw(b"good", bcrypt.gensalt(4)).decode().replace("$04$", "$18$")
    (tmp_path / "web.yaml").write_text(f"basic_auth_users: {{prometheus: '{hashed}'}}")
    async with running(Simulator(fleet := Fleet(epoch=time()))) as url:
        config = tmp_path / "config.yaml"
        config.write_text(config_for(fleet, url))
        async with exporter(
            f"--config.file={config}",
            f"--web.config.file={tmp_path / 'web.yaml'}",
            IDENTITY_ENDPOINT=f"{url}/token",
            IDENTITY_HEADER="simulator",
        ) as daemon:
            wrong = encode_basic_auth("prometheus", "wrong")
            asked = [asyncio.create_task(daemon.get("/metrics", Authorization=wrong)) for _ in range(17)]
            done, _ = await asyncio.wait(asked, timeout=60.0, return_when=asyncio.FIRST_COMPLETED)
            assert [task.result()[0] for task in done] == [503]  # so the other 16 wait for the check
            assert await daemon.ends_after(SIGTERM) == 0
            await asyncio.gather(*asked, return_exceptions=True)
