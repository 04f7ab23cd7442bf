"""Past upgrades: what was true when, and how that is written."""

import ast
import asyncio
import re
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from signal import SIGINT, SIGTERM
from tempfile import TemporaryDirectory
from time import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from exporter.backfill import (
    Change,
    Past,
    Span,
    changes,
    label_faults,
    remembered,
    steps,
    write,
)
from exporter.history import ApiError, History, Image, Progress, Rollback, Upgrade, UpgradeState
from exporter.journal import Change as Seen
from exporter.journal import Journal, Recorded
from exporter.journal_file import APPLICATION_ID
from exporter.scale_set import ScaleSet, Shard
from exporter.simulator.fleet import Fleet
from exporter.simulator.server import Simulator, config_for, running
from exporter.snapshot import Snapshot, after_success
from tests.processes import debian_program

WEB = ScaleSet("S", "Rg", "Web", 300.0)
RUNNING = UpgradeState.ROLLING_FORWARD
COMPLETED = Upgrade(
    UpgradeState.COMPLETED, 1000.0, 1100.0, Progress(3, 0, 0, 0), started_by="Platform", image=Image(sku="22")
)
FAULTED = Upgrade(
    UpgradeState.FAULTED, 2000.0, 2050.5, Progress(1, 2, 0, 0), ApiError("Boom"), rollback=Rollback(2, 0)
)


def states(*upgrades: Upgrade) -> list[tuple[float, UpgradeState | None]]:
    return [
        (change.at, change.latest and change.latest.state) for change in changes(History(tuple(upgrades)))
    ]


def test_an_upgrade_ran_from_its_start_to_its_end():
    assert states(FAULTED, COMPLETED) == [
        (1000.0, RUNNING),
        (1100.0, UpgradeState.COMPLETED),
        (2000.0, RUNNING),
        (2050.5, UpgradeState.FAULTED),
    ]


def test_what_was_known_only_at_the_end_is_not_said_of_the_time_before():
    running, ended = changes(History((FAULTED,)))
    assert running.latest == Upgrade(RUNNING, 2000.0)
    assert ended.latest == FAULTED


@pytest.mark.parametrize(
    ("upgrades", "expected"),
    [
        ([], []),
        ([Upgrade(UpgradeState.COMPLETED)], []),
        ([Upgrade(RUNNING, 10.0)], [(10.0, RUNNING)]),
        ([Upgrade(UpgradeState.COMPLETED, 10.0)], [(10.0, None)]),
        ([Upgrade(UpgradeState.COMPLETED, 10.0, 5.0)], [(10.0, RUNNING), (10.0, UpgradeState.COMPLETED)]),
        (
            [Upgrade(UpgradeState.CANCELLED, 10.0, 30.0), Upgrade(RUNNING, 20.0)],
            [(10.0, RUNNING), (20.0, RUNNING)],
        ),
    ],
    ids=["none", "no start", "active", "no end", "ends before it starts", "ends after the next starts"],
)
def test_odd_histories_have_a_past_too(
    upgrades: list[Upgrade], expected: list[tuple[float, UpgradeState | None]]
):
    assert states(*upgrades) == expected


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (100.0, 400.0, ["100.000", "200.000", "300.000"]),
        (130.5, 301.0, ["130.500", "200.000", "300.000"]),
        (50.0, 250.0, ["100.000", "200.000"]),
        (450.0, 900.0, ["450.000"]),
        (199.9995, 250.0, ["200.000"]),
        (500.0, 900.0, []),
    ],
)
def test_times_are_the_change_and_then_a_grid_within_the_span(
    since: float, until: float, expected: list[str]
):
    span = Span(start=100.0, end=500.0, step=100.0, active_step=10.0)
    assert [stamp.decode() for stamps in span.stamps(since, until, span.step) for stamp in stamps] == expected


def test_a_long_grid_has_no_gap_and_no_time_twice():
    span = Span(start=0.0, end=1e9, step=60.0, active_step=60.0)
    stamps = [float(stamp) for part in span.stamps(1_000_000.5, 1_500_000.0, 60.0) for stamp in part]
    assert stamps == [1_000_000.5, *(number * 60.0 for number in range(16_667, 25_000))]


def samples(document: bytes) -> dict[tuple[str, ...], list[tuple[float, float]]]:
    """Return the times and values of each series."""
    series: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for family in text_string_to_metric_families(document.decode()):
        for sample in family.samples:
            name = sample.name.removeprefix("azure_vmss_os_upgrade_")
            labels = {key: value for key, value in sample.labels.items() if value and key not in IDENTITY}
            key = (name, *sorted(labels.values()))
            series.setdefault(key, []).append((float(sample.timestamp), sample.value))
    return series


IDENTITY = {"subscription_id", "resource_group", "scale_set"}


def test_every_sample_has_the_value_that_was_true_at_its_time():
    span = Span(start=900.0, end=2150.0, step=500.0, active_step=40.0)
    past = Past(WEB, changes(History((COMPLETED, FAULTED))))
    written = samples(b"".join(write([past], span)))
    running, resting = [1000.0, 1040.0, 1080.0], [1100.0, 1500.0]
    again, ended = [2000.0, 2040.0], [2050.5]
    everything = running + resting + again + ended
    assert written["state", "RollingForward"] == [(at, float(at in running + again)) for at in everything]
    assert written["state", "Completed"] == [(at, float(at in resting)) for at in everything]
    assert written["state", "Faulted"] == [(at, float(at in ended)) for at in everything]
    assert written["state", "Unknown"] == [(at, 0.0) for at in everything]
    assert written["instances", "successful"] == [(1100.0, 3.0), (1500.0, 3.0), (2050.5, 1.0)]
    assert written["rolled_back_instances", "successful"] == [(2050.5, 2.0)]
    assert written["info", "22", "Platform"] == [(at, 1.0) for at in running + resting]
    assert written["info",] == [(at, 1.0) for at in again + ended]
    assert written["end_timestamp_seconds",] == [(1100.0, 1100.0), (1500.0, 1100.0), (2050.5, 2050.5)]
    assert written["start_timestamp_seconds",] == [(at, 1000.0 if at < 2000 else 2000.0) for at in everything]


def test_a_past_without_upgrades_gives_no_sample_and_a_complete_document():
    document = b"".join(write([Past(WEB, ())], Span(0.0, 10.0, 1.0, 1.0)))
    assert samples(document) == {}
    assert document.endswith(b"\n# EOF\n")
    assert document.count(b"# TYPE ") == 6


def test_changes_in_the_same_millisecond_are_one():
    at_once = (Change(5.0, Upgrade(RUNNING, 5.0)), Change(5.0, COMPLETED))
    written = samples(b"".join(write([Past(WEB, at_once)], Span(0.0, 8.0, 100.0, 1.0))))
    assert written["state", "Completed"] == [(5.0, 1.0)]
    assert written["state", "RollingForward"] == [(5.0, 0.0)]


def test_further_labels_stand_on_every_sample():
    labelled = ScaleSet("S", "Rg", "Web", 300.0, labels=(("instance", "a:1"), ("job", "j")))
    document = b"".join(
        write([Past(labelled, changes(History((COMPLETED,))))], Span(0.0, 2000.0, 500.0, 60.0))
    )
    lines = [line for line in document.splitlines() if not line.startswith(b"#")]
    assert lines
    assert all(b'instance="a:1",job="j"' in line for line in lines)


ROLLING = Seen(1010.0, RUNNING, None, Progress(1, 0, 1, 1), Rollback(), None, None)


def recorded(upgrade: Upgrade, *seen: Seen) -> Recorded:
    return Recorded("S", "Rg", "Web", seen[0].seen, upgrade, seen)


def seen(history: History, *from_journal: Recorded) -> list[tuple[float, object, object]]:
    return [
        (change.at, change.latest and change.latest.state, change.latest and change.latest.progress)
        for change in changes(history, from_journal)
    ]


def test_what_the_journal_saw_is_known_from_when_it_was_seen_and_the_end_from_when_it_was():
    further = replace(ROLLING, seen=1070.0, progress=Progress(2, 0, 1, 0))
    done = Seen(1130.0, UpgradeState.COMPLETED, 1100.0, Progress(3, 0, 0, 0), Rollback(), None, None)
    assert seen(History(), recorded(COMPLETED, ROLLING, further, done)) == [
        (1000.0, RUNNING, None),
        (1010.0, RUNNING, Progress(1, 0, 1, 1)),
        (1070.0, RUNNING, Progress(2, 0, 1, 0)),
        (1100.0, UpgradeState.COMPLETED, Progress(3, 0, 0, 0)),
    ]


def test_what_the_journal_saw_only_in_the_end_is_known_by_hindsight():
    done = Seen(5000.0, UpgradeState.COMPLETED, 1100.0, Progress(3, 0, 0, 0), Rollback(), None, None)
    assert seen(History(), recorded(COMPLETED, done)) == seen(History((COMPLETED,)))


def test_an_end_that_only_azure_tells_of_is_added_to_what_the_journal_saw():
    assert seen(History((COMPLETED,)), recorded(COMPLETED, ROLLING)) == [
        (1000.0, RUNNING, None),
        (1010.0, RUNNING, Progress(1, 0, 1, 1)),
        (1100.0, UpgradeState.COMPLETED, Progress(3, 0, 0, 0)),
    ]


def test_the_journal_reaches_further_back_than_azure():
    older = replace(COMPLETED, start=10.0, end=20.0)
    done = Seen(30.0, UpgradeState.COMPLETED, 20.0, Progress(3, 0, 0, 0), Rollback(), None, None)
    assert [at for at, _, _ in seen(History((COMPLETED,)), recorded(older, done))] == [
        10.0,
        20.0,
        1000.0,
        1100.0,
    ]


def test_an_error_that_was_seen_shows_from_then_on():
    faulted = Seen(2060.0, UpgradeState.FAULTED, 2050.5, Progress(1, 2, 0, 0), Rollback(2, 0), "Boom", "text")
    *_, last = changes(History(), [recorded(FAULTED, replace(ROLLING, seen=2010.0), faulted)])
    assert (last.at, last.latest and last.latest.error) == (2050.5, ApiError("Boom", "text"))


def test_progress_is_told_for_each_part():
    told: list[int] = []
    pasts = [Past(WEB, ()), Past(ScaleSet("S", "Rg", "Api", 300.0), ())]
    list(write(pasts, Span(0.0, 1.0, 1.0, 1.0), told.append))
    assert told == list(range(1, steps(pasts) + 1))


MANY = [(f"label_{number}", "x") for number in range(51)]


@pytest.mark.parametrize(
    ("labels", "faults"),
    [
        ([], []),
        ([("job", "vmss"), ("instance", "localhost:9847")], []),
        ([("_team", ""), ("label_team", 'pay"ments\\\n')], []),
        ([("job", "x" * 1023)], []),
        (MANY[:50], []),
        (
            [("__name__", "x")],
            [
                "--label=__name__=...: names that begin with __ are reserved by Prometheus, choose another name"
            ],
        ),
        *(
            ([(name, "x")], [f"--label={name}=...: the samples have this label already, choose another name"])
            for name in ("scale_set", "resource_group", "subscription_id", "state", "result", "version")
        ),
        ([("job", "a"), ("job", "a")], ["--label=job=...: is given 2 times, give it once"]),
        ([("job", "x" * 1024)], ["--label=job=...: must have at most 1023 characters, not 1024"]),
        (MANY, ["--label: at most 50, not 51: a series has at most 63 labels in all"]),
        (
            [("state", "x" * 1024), ("state", ""), ("__a", "")],
            [
                "--label=state=...: the samples have this label already, choose another name",
                "--label=state=...: is given 2 times, give it once",
                "--label=__a=...: names that begin with __ are reserved by Prometheus, choose another name",
                "--label=state=...: must have at most 1023 characters, not 1024",
            ],
        ),
    ],
)
def test_labels_that_promtool_would_refuse_are_refused_each_with_its_fault(
    labels: list[tuple[str, str]], faults: list[str]
):
    assert label_faults(labels) == faults


LABEL_NAME = st.from_regex("[a-zA-Z_][a-zA-Z0-9_]*", fullmatch=True) | st.sampled_from(
    ["job", "__name__", "state", "label_team", "le", "quantile"]
)
LABEL_VALUE = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from('\\"\n{},= #\t\r\x00\x85\u2028'), max_size=12
)


@given(st.lists(st.tuples(LABEL_NAME, LABEL_VALUE), max_size=60, unique_by=lambda label: label[0]))
@settings(deadline=None, max_examples=15)
def test_promtool_takes_every_label_that_is_not_refused_and_reads_it_as_it_was_meant(
    labels: list[tuple[str, str]],
):
    labels = [label for label in labels if not label_faults([label])][:50]
    assert label_faults(labels) == []
    scale_set = replace(WEB, labels=tuple(labels))
    past = Past(scale_set, changes(History((COMPLETED, FAULTED))))
    with TemporaryDirectory() as folder:
        file, blocks = Path(folder, "past.om"), Path(folder, "blocks")
        file.write_bytes(b"".join(write([past], Span(900.0, 2150.0, 500.0, 100.0))))
        promtool = [debian_program("promtool"), "tsdb"]
        made = subprocess.run(
            [*promtool, "create-blocks-from", "openmetrics", file, blocks], check=False, capture_output=True
        )
        assert made.returncode == 0, made.stderr.decode()
        (blocks / "wal").mkdir()  # without which promtool takes it for no database
        dump = subprocess.run([*promtool, "dump", blocks], check=True, capture_output=True).stdout.decode()
    pairs = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*")')
    series = [
        {name: ast.literal_eval(text) for name, text in pairs.findall(line)} for line in dump.split("\n")[:-1]
    ]
    assert series
    for found in series:
        assert found.items() >= {(name, value) for name, value in labels if value}
        assert found["scale_set"] == "web"


def test_a_carriage_return_in_a_value_breaks_no_line():
    labelled = replace(WEB, labels=(("job", "a\rb"),))
    document = b"".join(write([Past(labelled, changes(History((COMPLETED,))))], Span(0.0, 1e4, 1e4, 1e4)))
    assert b'job="a\rb"' in document
    assert all(line.startswith((b"# ", b"azure_vmss_")) for line in document.split(b"\n")[:-1])


@pytest.fixture
async def simulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Simulator]:
    simulator = Simulator(Fleet(epoch=time(), speed=1.0))
    async with running(simulator) as url:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{url}/token")
        monkeypatch.setenv("IDENTITY_HEADER", "simulator")
        (tmp_path / "config.yaml").write_text(config_for(simulator.fleet, url))
        yield simulator


async def started(folder: Path, *flags: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exporter", "backfill", f"--config.file={folder / 'config.yaml'}", *flags),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


def files(folder: Path) -> list[tuple[str, int]]:
    """Return names and sizes."""
    return [(file.name, file.stat().st_size) for file in folder.iterdir()]


@pytest.mark.usefixtures("simulator")
@pytest.mark.parametrize(("signal", "expected"), [(SIGINT, 130), (SIGTERM, 143)])
async def test_a_signal_ends_it_soon_while_it_writes_and_nothing_is_left(
    tmp_path: Path, signal: int, expected: int
):
    process = await started(tmp_path, "--step=1s", f"--output={tmp_path / 'past.om'}")
    try:
        async with asyncio.timeout(20):
            while not any(size for name, size in files(tmp_path) if name.startswith(".past.om.")):
                await asyncio.sleep(0.01)
        process.send_signal(signal)
        _, err = await asyncio.wait_for(process.communicate(), 5)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == expected
    assert "Traceback" not in err.decode()
    assert [name for name, _ in files(tmp_path)] == ["config.yaml"]


def with_journal(folder: Path) -> Path:
    """Have a journal configured; return where it is to be."""
    with (folder / "config.yaml").open("a") as config:
        config.write("journal: {path: journal.sqlite}\n")
    return folder / "journal.sqlite"


async def ended(folder: Path, *flags: str) -> tuple[int | None, bytes, str]:
    process = await started(folder, *flags)
    out, err = await asyncio.wait_for(process.communicate(), 20)
    return process.returncode, out, err.decode()


def seed(path: Path, scale_set: ScaleSet, *upgrades: Upgrade) -> None:
    """Write a history into the journal, the latest upgrade first."""
    with closing(Journal(path)) as journal:
        journal.write([after_success(Snapshot(scale_set, 300.0), History(upgrades), time())])


def starts(document: bytes) -> dict[str, set[float]]:
    """Return when upgrades started by the name of the scale set."""
    found: dict[str, set[float]] = {}
    for family in text_string_to_metric_families(document.decode()):
        for sample in family.samples:
            if sample.name == "azure_vmss_os_upgrade_start_timestamp_seconds":
                found.setdefault(sample.labels["scale_set"], set()).add(sample.value)
    return found


async def test_each_shard_writes_what_azure_forgot_of_its_scale_sets_and_of_those_that_are_gone(
    tmp_path: Path, simulator: Simulator
):
    path, day = with_journal(tmp_path), 86_400.0
    old = float(int(time() - 80 * day))
    forgotten = Upgrade(UpgradeState.COMPLETED, old, old + 600.0, Progress(3, 0, 0, 0))
    there = [
        ScaleSet(each.subscription_id, each.resource_group, each.name, 300.0)
        for each in simulator.fleet.scale_sets
    ]
    gone = [ScaleSet("s", "rg", f"gone-{number}", 300.0) for number in range(8)]
    for scale_set in there + gone:
        seed(path, scale_set, forgotten)
    parts = []
    for number in range(2):
        code, out, err = await ended(
            tmp_path, "--from=90d", "--step=1d", f"--shard={number}", "--total-shards=2"
        )
        assert (code, "failures" in err) == (0, False)
        parts.append(starts(out))
        held = {each.name for each in there + gone if Shard(number, 2).holds(each)}
        assert {name for name, found in parts[-1].items() if old in found} == held
        assert parts[-1].keys() == held
    assert all(any(name.startswith("gone-") for name in part) for part in parts)
    assert any(len(found) > 1 for part in parts for found in part.values()), "Azure's are there, too"


def test_of_the_journal_comes_what_was_the_latest_in_the_span(tmp_path: Path):
    path = tmp_path / "journal.sqlite"
    upgrades = [
        Upgrade(UpgradeState.COMPLETED, start, start + 10.0) for start in (100.0, 200.0, 300.0, 400.0)
    ]
    seed(path, WEB, *reversed(upgrades))
    held, damage = remembered(path, Shard(), Span(250.0, 400.0, 1.0, 1.0))
    ((scale_set, found),) = held.values()
    assert damage == []
    assert scale_set.id == WEB.id
    assert [each.upgrade.start for each in found] == [200.0, 300.0]


@pytest.mark.usefixtures("simulator")
async def test_before_the_daemon_has_made_the_journal_there_is_what_azure_tells_of(tmp_path: Path):
    with_journal(tmp_path)
    code, out, err = await ended(tmp_path, "--step=1d")
    assert (code, err.count("no journal, only what Azure tells of is written")) == (0, 1)
    assert samples(out)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (
            "CREATE TABLE theirs (number)",
            "is an SQLite database, but not a journal of this exporter: move it away, or set another journal.path",
        ),
        (
            f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 99",
            "was written by a newer version of the exporter: schema 99, this one knows 1",
        ),
    ],
)
async def test_a_journal_that_cannot_be_used_is_told_before_azure_is_asked(
    tmp_path: Path, simulator: Simulator, statement: str, said: str
):
    path = with_journal(tmp_path)
    with closing(sqlite3.connect(path)) as journal:
        journal.executescript(statement)
    code, out, err = await ended(tmp_path)
    assert (code, out, err) == (1, b"", f"vmss-upgrade-exporter: {path}: {said}\n")
    assert not simulator.requests


async def test_of_a_damaged_journal_nothing_is_used_and_what_azure_tells_of_is_written_and_the_exit_code_tells(
    tmp_path: Path, simulator: Simulator
):
    path = with_journal(tmp_path)
    for number in range(99):
        seed(path, ScaleSet("s", "rg", f"gone-{number}", 300.0), COMPLETED)
    damaged = path.read_bytes()[:8192]
    path.write_bytes(damaged)
    code, out, err = await ended(tmp_path, "--step=1d")
    assert code == 1
    assert err.splitlines()[-2:] == [
        "vmss-upgrade-exporter: 1 failure:",
        f"{path}: is damaged: database disk image is malformed: wrote what Azure returned, and nothing from the journal",
    ]
    assert starts(out)
    assert starts(out).keys() <= {each.name for each in simulator.fleet.scale_sets}
    assert path.read_bytes() == damaged
    assert not [name for name, _ in files(tmp_path) if "corrupt" in name]


async def test_of_a_scale_set_with_a_damaged_row_only_what_azure_tells_of_is_written_and_the_exit_code_tells(
    tmp_path: Path, simulator: Simulator
):
    path = with_journal(tmp_path)
    old = float(int(time() - 50 * 86_400.0))
    forgotten = Upgrade(UpgradeState.COMPLETED, old, old + 600.0, Progress(3, 0, 0, 0))
    for name in ("bad", "good"):
        seed(path, ScaleSet("s", "rg", name, 300.0), replace(forgotten, start=old + 9000.0), forgotten)
    with closing(sqlite3.connect(path)) as journal, journal:
        journal.execute("UPDATE upgrades SET facts = '' WHERE number = 1")
    code, out, err = await ended(tmp_path, "--step=1d")
    assert code == 1
    assert "/virtualmachinescalesets/bad: facts are not JSON" in err.splitlines()[-1]
    written = starts(out).keys() - {each.name for each in simulator.fleet.scale_sets}
    assert written == {"good"}
