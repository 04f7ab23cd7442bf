"""A daemon with a journal: restarts while Azure is away, kills, bad disks; what it served, it serves again."""

import asyncio
import re
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from signal import SIGHUP, SIGKILL, SIGTERM
from time import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from exporter.simulator.fleet import Fleet
from exporter.simulator.server import Simulator, config_for, running
from tests.processes import Exporter, exporter

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
SCALE_SETS = 12


class Azure:
    """A simulated Azure that stands still at one moment, and a file for a daemon that polls it into a journal."""

    def __init__(self, folder: Path) -> None:
        self.now = time()
        self.fleet = Fleet(epoch=self.now - 60, scale_sets=SCALE_SETS)
        self.config = folder / "config.yaml"
        self.journal = folder / "journal.sqlite"

    @asynccontextmanager
    async def there(self) -> AsyncIterator[str]:
        async with running(Simulator(self.fleet, clock=lambda: self.now)) as url:
            self.write(url)
            yield url

    def away(self) -> None:
        self.write("http://127.0.0.1:9")  # discard: nobody listens

    def write(self, url: str, journal: str = "journal: {path: journal.sqlite}", max_age: str = "1h") -> None:
        polling = f"polling: {{budget_share: 1.0, max_age: {max_age}}}"
        self.config.write_text(f"{re.sub('polling:.*', polling, config_for(self.fleet, url))}{journal}\n")

    def files(self) -> list[str]:
        return sorted(file.name for file in self.config.parent.iterdir())

    def exporter(self, url: str = "http://127.0.0.1:9") -> AbstractAsyncContextManager[Exporter]:
        return exporter(
            f"--config.file={self.config}", IDENTITY_ENDPOINT=f"{url}/token", IDENTITY_HEADER="simulator"
        )


@pytest.fixture
def azure(tmp_path: Path) -> Azure:
    return Azure(tmp_path)


async def samples(daemon: Exporter) -> Samples:
    _, body = await daemon.get("/metrics")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
        if not sample.name.startswith(("process_", "python_"))
    }


def named(found: Samples, *names: str) -> Samples:
    return {
        key: value for key, value in found.items() if key[0].removeprefix("azure_vmss_os_upgrade_") in names
    }


def about_upgrades(found: Samples) -> Samples:
    """Leave out what is said of polls, new with each of them."""
    of_polls = {"up", "poll_error", "poll_interval_seconds"} | {
        f"{name}_timestamp_seconds" for name in ("last_poll", "last_success")
    }
    return {
        key: value
        for key, value in found.items()
        if key[0].startswith("azure_vmss_os_upgrade_")
        and key[0].removeprefix("azure_vmss_os_upgrade_") not in of_polls
    }


def reloads(daemon: Exporter) -> int:
    return sum('msg="configuration reloaded"' in line for line in daemon.log)


async def until_counted(daemon: Exporter) -> Samples:
    """Wait until what was polled has been written, which its counts tell."""
    async with asyncio.timeout(20):
        while len(named(found := await samples(daemon), "upgrades_total")) < 6 * SCALE_SETS:
            await asyncio.sleep(0.05)
    return found


async def first_life(azure: Azure, signal: int) -> Samples:
    async with azure.there() as url, azure.exporter(url) as daemon:
        await daemon.until_ready()
        served = await until_counted(daemon)
        assert await daemon.ends_after(signal) == (0 if signal == SIGTERM else -signal)
    return served


@pytest.mark.parametrize("signal", [SIGTERM, SIGKILL], ids=["told to end", "killed"])
async def test_a_restart_while_azure_is_away_serves_at_once_what_was_known_with_its_true_times(
    azure: Azure, signal: int
):
    before = await first_life(azure, signal)
    azure.away()
    async with azure.exporter() as daemon:
        await daemon.until_ready()
        after = await samples(daemon)
        assert about_upgrades(after) == about_upgrades(before)
        assert sum(named(before, "upgrades_total").values()) > SCALE_SETS
        assert named(after, "last_success_timestamp_seconds") == named(
            before, "last_success_timestamp_seconds"
        )
        async with asyncio.timeout(45):
            while len(named(after, "poll_error")) < SCALE_SETS:
                await asyncio.sleep(0.1)
                after = await samples(daemon)
        assert set(named(after, "up").values()) == {0.0}
        assert about_upgrades(after) == about_upgrades(before)  # until max_age
        assert named(after, "last_success_timestamp_seconds") == named(
            before, "last_success_timestamp_seconds"
        )


async def test_what_is_older_than_max_age_is_not_served_after_a_restart_but_what_was_counted_is(azure: Azure):
    before = await first_life(azure, SIGTERM)
    azure.write("http://127.0.0.1:9", max_age="1ms")
    async with azure.exporter() as daemon:
        after: Samples = {}
        async with asyncio.timeout(20):
            while not named(after, "upgrades_total"):
                after = await samples(daemon)
        assert {name for name, _ in about_upgrades(after)} == {
            "azure_vmss_os_upgrade_upgrades_total",
            "azure_vmss_os_upgrade_scale_set_info",
        }
        assert named(after, "upgrades_total") == named(before, "upgrades_total")
        assert (await daemon.get("/-/ready"))[0] == 503 or named(await samples(daemon), "poll_error")


async def test_counts_go_on_where_they_stood_when_azure_is_back(azure: Azure):
    before = await first_life(azure, SIGKILL)
    azure.now += 3600 * 24
    async with azure.there() as url, azure.exporter(url) as daemon:
        await daemon.until_ready()
        async with asyncio.timeout(20):
            while True:
                after = named(await samples(daemon), "upgrades_total")
                if after != named(before, "upgrades_total"):
                    break
                await asyncio.sleep(0.1)
    assert all(after[key] >= value for key, value in named(before, "upgrades_total").items())


@contextmanager
def no_file_may_grow() -> Iterator[None]:
    """Let those who are started meanwhile write nothing to any file, as on a full disk."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


async def test_a_disk_that_takes_nothing_stops_neither_polls_nor_scrapes_and_is_caught_up_with(azure: Azure):
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(azure.there())
        with no_file_may_grow():
            daemon = await stack.enter_async_context(azure.exporter(url))
        await daemon.until_ready()
        found = await samples(daemon)
        assert set(named(found, "up").values()) == {1.0}
        assert named(found, "upgrades_total") == {}
        async with asyncio.timeout(20):
            while found["vmss_upgrade_exporter_journal_failures_total", frozenset()] < 4:
                await asyncio.sleep(0.1)
                found = await samples(daemon)
        said = [line.partition("error=")[2] for line in daemon.log if "journal failed" in line]
        assert len(said) == len(set(said)) > 0
        _, most = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (most, most))
        before = await until_counted(daemon)
        assert any("journal is written again" in line for line in daemon.log)
        assert await daemon.ends_after(SIGKILL) == -SIGKILL
    azure.away()
    async with azure.exporter() as daemon:
        await daemon.until_ready()
        assert about_upgrades(await samples(daemon)) == about_upgrades(before)


async def test_a_second_exporter_on_the_same_journal_ends_with_one_clear_line(azure: Azure):
    async with azure.there() as url, azure.exporter(url) as first:
        await first.until_ready()
        async with azure.exporter(url) as second:
            assert await asyncio.wait_for(second.process.wait(), 20) == 1
        assert second.log[-1] == f"vmss-upgrade-exporter: {azure.journal}: is in use by another exporter"
        assert not [line for line in second.log if "Traceback" in line]
        assert (await first.get("/-/ready"))[0] == 200


FAILURES = ("vmss_upgrade_exporter_journal_failures_total", frozenset[tuple[str, str]]())


async def until_lost(daemon: Exporter, times: int) -> None:
    """Wait until the log says for the last of so many times that the journal was lost."""
    async with asyncio.timeout(20):
        while sum('msg="journal lost, ' in line for line in daemon.log) < times:
            await asyncio.sleep(0.05)


def destroy(path: Path) -> bytes:
    """Destroy all but the first page of a journal, as it is; return what is there then."""
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(path.stat().st_size - 4096))
    return path.read_bytes()


async def test_a_journal_that_is_damaged_while_in_use_and_at_the_next_start_stops_nothing_and_is_kept_aside(
    azure: Azure,
):
    await first_life(azure, SIGTERM)
    damaged = []
    async with azure.there() as url:
        async with azure.exporter(url) as daemon:
            before = await until_counted(daemon)
            damaged.append(destroy(azure.journal))
            for path in ("/", "/api/v1/scale-sets", "/metrics"):
                assert (await daemon.get(path))[0] == 200
            await until_lost(daemon, 1)
            found = await samples(daemon)
            assert found[FAILURES] == 1
            assert about_upgrades(found) == about_upgrades(before)
            assert await daemon.ends_after(SIGTERM) == 0
            assert not any("Traceback" in line for line in daemon.log)
        damaged.append(destroy(azure.journal))
        async with azure.exporter(url) as daemon:
            await daemon.until_ready()
            assert (await until_counted(daemon))[FAILURES] == 1
            assert await daemon.ends_after(SIGTERM) == 0
    azure.away()
    async with azure.exporter() as daemon:
        await daemon.until_ready()
        assert set(named(await samples(daemon), "state")) == set(named(before, "state"))
    aside = [name for name in azure.files() if re.search(r"\.corrupt-[0-9TZ.]+$", name)]
    assert [azure.journal.with_name(name).read_bytes() for name in aside] == damaged


async def test_a_journal_that_is_deleted_while_in_use_is_begun_anew_with_what_is_known(azure: Azure):
    async with azure.there() as url, azure.exporter(url) as daemon:
        before = await until_counted(daemon)
        for suffix in ("", "-wal", "-shm"):
            azure.journal.with_name(f"journal.sqlite{suffix}").unlink()
        await until_lost(daemon, 1)
        async with asyncio.timeout(20):
            while not azure.journal.exists():
                await asyncio.sleep(0.05)
        assert await daemon.ends_after(SIGTERM) == 0
    azure.away()
    async with azure.exporter() as daemon:
        await daemon.until_ready()
        assert about_upgrades(await samples(daemon)) == about_upgrades(before)


async def test_a_file_of_somebody_else_in_the_journals_place_stops_nothing_while_it_runs_and_the_next_start(
    azure: Azure,
):
    async with azure.there() as url:
        async with azure.exporter(url) as daemon:
            await until_counted(daemon)
            notes = azure.journal.with_name("notes")
            notes.write_text("notes\n")
            notes.rename(azure.journal)
            async with asyncio.timeout(20):
                while (found := await samples(daemon))[FAILURES] < 3:
                    await asyncio.sleep(0.1)
            assert set(named(found, "up").values()) == {1.0}
            for path in ("/", "/api/v1/scale-sets"):
                assert (await daemon.get(path))[0] == 200
            assert await daemon.ends_after(SIGTERM) == 0
            assert not any("Traceback" in line for line in daemon.log)
        async with azure.exporter(url) as daemon:
            assert await asyncio.wait_for(daemon.process.wait(), 20) == 1
        assert daemon.log[-1] == (
            f"vmss-upgrade-exporter: {azure.journal}: is not a journal of this exporter "
            "(file is not a database): move it away, or set another journal.path"
        )
    assert azure.journal.read_text() == "notes\n"


async def test_another_journal_takes_effect_at_a_restart_and_that_is_said(azure: Azure):
    async with azure.there() as url, azure.exporter(url) as daemon:
        await until_counted(daemon)
        azure.write(url, journal="journal: {path: other.sqlite}")
        daemon.process.send_signal(SIGHUP)
        async with asyncio.timeout(10):
            while not reloads(daemon):
                await asyncio.sleep(0.05)
        assert any("another journal takes effect at restart only" in line for line in daemon.log)
    assert "other.sqlite" not in azure.files()


async def test_a_scale_set_that_comes_back_is_served_from_the_journal_until_azure_answers(azure: Azure):
    async with azure.there() as url, azure.exporter(url) as daemon:
        await daemon.until_ready()
        before = about_upgrades(await until_counted(daemon))
        azure.away()
        whole = azure.config.read_text()
        one = azure.fleet.scale_sets[0].name
        for text in ("\n".join(line for line in whole.splitlines() if f"name: {one}}}" not in line), whole):
            azure.config.write_text(text)
            done = reloads(daemon)
            daemon.process.send_signal(SIGHUP)
            async with asyncio.timeout(10):
                while reloads(daemon) == done:
                    await asyncio.sleep(0.05)
            assert (about_upgrades(await samples(daemon)) == before) == (text == whole)


async def test_without_a_journal_nothing_is_written_and_nothing_counted(azure: Azure):
    async with azure.there() as url:
        azure.write(url, journal="")
        async with azure.exporter(url) as daemon:
            await daemon.until_ready()
            _, body = await daemon.get("/metrics")
            assert "upgrades_total" not in body
    assert azure.files() == ["config.yaml"]
