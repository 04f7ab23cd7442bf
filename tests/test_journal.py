"""The journal: what goes in comes out, after kills, on bad disks, from older versions; nothing is counted twice."""

import errno
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter import journal_file as module
from exporter.history import (
    ApiError,
    ErrorDetail,
    History,
    Image,
    Progress,
    Rollback,
    Upgrade,
    UpgradeState,
    possible_end,
)
from exporter.journal import Change, Journal, Recorded, reading
from exporter.scale_set import ScaleSet
from exporter.snapshot import Reason, Snapshot, after_failure, after_success

WEB = ScaleSet("S", "RG", "Web", 300.0)
API = ScaleSet("S", "RG", "Api", 300.0)
ROLLING, COMPLETED, FAULTED = UpgradeState.ROLLING_FORWARD, UpgradeState.COMPLETED, UpgradeState.FAULTED


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def polled(*upgrades: Upgrade, at: float = 5000.0, scale_set: ScaleSet = WEB) -> Snapshot:
    return after_success(Snapshot(scale_set, scale_set.interval), History(upgrades), at)


def upgrade(start: float | None, state: UpgradeState = COMPLETED, done: int = 0, **more: str) -> Upgrade:
    return Upgrade(state=state, start=start, progress=Progress(successful=done), **more)  # type: ignore[arg-type]


def write(path: Path, *snapshots: Snapshot) -> dict[str, object]:
    with closing(Journal(path)) as journal:
        return dict(journal.write(snapshots))


def known(path: Path, scale_set: ScaleSet = WEB) -> Snapshot | None:
    with reading(path) as journal:
        return journal.known([scale_set]).get(scale_set.id)


def recorded(path: Path, scale_set: ScaleSet = WEB) -> tuple[Recorded, ...]:
    with reading(path) as journal:
        return journal.upgrades(scale_set.id)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
LABEL = st.none() | TEXT
NUMBER = st.none() | st.integers(0, 2**31 - 1)
TIME = st.none() | st.floats(0, 1e10) | st.sampled_from([1000.25, 2000.5])
ERROR = st.builds(
    ApiError,
    *[LABEL] * 5,
    details=st.lists(st.builds(ErrorDetail, LABEL, LABEL, LABEL), max_size=2).map(tuple),
)
UPGRADE = st.builds(
    Upgrade,
    state=st.sampled_from(UpgradeState),
    start=TIME,
    end=TIME,
    progress=st.none() | st.builds(Progress, NUMBER, NUMBER, NUMBER, NUMBER),
    error=st.none() | ERROR,
    started_by=LABEL,
    image=st.none() | st.builds(Image, *[LABEL] * 8),
    rollback=st.none() | st.builds(Rollback, NUMBER, NUMBER, st.none() | ERROR),
    location=LABEL,
).map(lambda each: replace(each, end=possible_end(each.state, each.start, each.end)))
HISTORY = st.lists(UPGRADE, max_size=4).map(lambda upgrades: History(tuple(upgrades)))
FAILURE = st.none() | st.tuples(st.sampled_from(Reason), TEXT)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(HISTORY, FAILURE), min_size=1, max_size=3))
def test_what_was_last_known_comes_back_as_it_was_whatever_was_known_before(
    polls: list[tuple[History, tuple[Reason, str] | None]],
):
    snapshot = Snapshot(WEB, 300.0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "journal.sqlite")
        with closing(Journal(path)) as journal:
            for number, (history, failure) in enumerate(polls):
                snapshot = after_success(snapshot, history, 5000.5 + number)
                journal.write([snapshot])
                if failure is not None:
                    snapshot = after_failure(snapshot, *failure, 5000.7 + number)
                    journal.write([snapshot] if snapshot.history is None else [], [snapshot])
        found = known(path)
    assert found is not None
    assert found.finished is not None
    assert replace(found, finished=None, remembered=False) == snapshot
    assert found.remembered


def test_a_scale_set_is_known_in_any_spelling_and_shows_the_last_one(path: Path):
    write(path, polled(upgrade(1.0)), polled(upgrade(1.0), scale_set=ScaleSet("s", "rg", "WEB", 60.0)))
    found = known(path, ScaleSet("s", "Rg", "web", 60.0))
    assert found is not None
    assert found.latest == upgrade(1.0)
    assert [each.name for each in recorded(path)] == ["WEB"]


def test_of_a_scale_set_never_seen_nothing_is_known(path: Path):
    write(path, polled(upgrade(1.0)))
    assert known(path, API) is None
    assert recorded(path, API) == ()


def test_every_change_of_state_counts_end_and_error_is_a_row_and_nothing_else(path: Path):
    first = upgrade(1000.0, ROLLING, 1)
    steps = [
        (first, 5000.0),
        (first, 5060.0),
        (replace(first, image=Image(exact_version="1.2")), 5120.0),
        (replace(first, progress=Progress(successful=2), rollback=Rollback(successful=1)), 5180.0),
        (replace(first, state=FAULTED, end=5200.0, error=ApiError("E", "too many")), 5240.0),
    ]
    with closing(Journal(path)) as journal:
        for step, at in steps:
            journal.write([polled(step, at=at)])
    assert recorded(path) == (
        Recorded(
            "S",
            "RG",
            "Web",
            first_seen=5000.0,
            upgrade=steps[-1][0],
            changes=(
                Change(5000.0, ROLLING, None, Progress(1), Rollback(), None, None),
                Change(5180.0, ROLLING, None, Progress(2), Rollback(1), None, None),
                Change(5240.0, FAULTED, 5200.0, Progress(1), Rollback(), "E", "too many"),
            ),
        ),
    )


def test_what_azure_forgets_stays_in_the_journal_and_leaves_the_history(path: Path):
    write(path, polled(upgrade(2.0), upgrade(1.0)), polled(upgrade(3.0), upgrade(2.0), at=6000.0))
    found = known(path)
    assert found is not None
    assert found.history == History((upgrade(3.0), upgrade(2.0)))
    assert [each.upgrade.start for each in recorded(path)] == [1.0, 2.0, 3.0]


def test_an_upgrade_that_cannot_be_told_from_others_is_kept_as_long_as_azure_tells_of_it(path: Path):
    tied, nameless = upgrade(1.0, FAULTED), Upgrade()
    counts = write(path, polled(nameless, upgrade(1.0), tied, nameless))
    found = known(path)
    assert found is not None
    assert found.history == History((nameless, upgrade(1.0), tied, nameless))
    assert counts == {WEB.id: ((COMPLETED, "", 1),)}
    write(path, polled(upgrade(1.0)))
    assert known(path, WEB).history == History((upgrade(1.0),))  # type: ignore[union-attr]
    assert [each.upgrade for each in recorded(path)] == [upgrade(1.0)]


@pytest.mark.parametrize(
    ("steps", "counts"),
    [
        ([[]], []),
        ([[upgrade(1.0, ROLLING)]], []),
        ([[upgrade(1.0, UpgradeState.UNKNOWN)]], []),
        ([[upgrade(1.0, ROLLING)], [upgrade(1.0)]], [(COMPLETED, "", 1)]),
        ([[upgrade(1.0)], [], [upgrade(1.0)]], [(COMPLETED, "", 1)]),
        ([[upgrade(1.0), upgrade(2.0)]], [(COMPLETED, "", 2)]),
        (
            [[upgrade(1.0, FAULTED)], [upgrade(1.0, UpgradeState.ROLLING_BACK)], [upgrade(1.0, FAULTED)]],
            [(FAULTED, "", 1)],
        ),
        ([[upgrade(1.0, FAULTED)], [upgrade(1.0)]], [(FAULTED, "", 1)]),
        (
            [
                [
                    upgrade(1.0, started_by="User"),
                    upgrade(2.0, started_by="Platform"),
                    upgrade(3.0, UpgradeState.CANCELLED),
                ]
            ],
            [(UpgradeState.CANCELLED, "", 1), (COMPLETED, "Platform", 1), (COMPLETED, "User", 1)],
        ),
    ],
    ids=["none", "rolling", "unknown", "ends", "back", "two", "faults twice", "faults, then not", "by whom"],
)
def test_a_finished_upgrade_is_counted_once(path: Path, steps: list[list[Upgrade]], counts: list[object]):
    for number, upgrades in enumerate(steps):
        told = write(path, polled(*upgrades, at=5000.0 + number))  # each by another process, as it were
    assert told == {WEB.id: tuple(counts)}
    assert known(path).finished == tuple(counts)  # type: ignore[union-attr]


def test_pruning_takes_what_is_old_and_no_count(path: Path):
    old, told, new = upgrade(100.0), upgrade(200.0), upgrade(900.0)
    with closing(Journal(path)) as journal:
        journal.write([polled(old, told, at=1000.0), polled(old, at=1000.0, scale_set=API)])
        journal.write([polled(told, new, at=1010.0)])
        assert journal.prune(500.0, held={WEB.id, API.id}) == 1
        assert [each.upgrade for each in recorded(path)] == [told, new]  # Azure still tells of it
        assert known(path).finished == ((COMPLETED, "", 3),)  # type: ignore[union-attr]
        assert journal.prune(500.0, held=()) == 0
        assert journal.prune(1005.0, held={API.id}) == 0
        assert known(path, API) is not None
        assert journal.prune(1005.0, held=()) == 1  # not polled for so long: it is gone
        assert known(path, API) is None
        assert known(path) is not None
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM changes").fetchone() == (2,)


def test_times_of_polls_that_found_nothing_new_are_written_together(path: Path):
    web, api = polled(upgrade(1.0)), polled(scale_set=API)
    with closing(Journal(path)) as journal:
        journal.write([web, api])
        later = [
            after_success(web, web.history or History(), 5060.0),
            after_failure(api, Reason.TIMEOUT, "slow", 5061.0),
        ]
        stranger = polled(scale_set=ScaleSet("S", "RG", "never", 300.0))
        assert journal.write((), [*later, stranger]) == {}
    assert (known(path).last_poll, known(path).last_success) == (5060.0, 5060.0)  # type: ignore[union-attr]
    found = known(path, API)
    assert found is not None
    assert (found.last_poll, found.last_success) == (5061.0, 5000.0)
    assert (found.failure, found.failure_message) == (Reason.TIMEOUT, "slow")
    assert known(path, stranger.scale_set) is None


def test_times_that_are_known_already_are_not_written_again(path: Path):
    with closing(Journal(path)) as journal:
        journal.write([polled(upgrade(1.0))])
        log = path.with_name(f"{path.name}-wal")
        before = log.stat().st_size
        journal.write((), [polled(upgrade(1.0))])
        assert log.stat().st_size == before
        journal.write((), [polled(upgrade(1.0), at=5060.0)])
        assert log.stat().st_size > before


def test_a_transaction_is_whole_or_not_at_all(path: Path):
    broken = replace(polled(upgrade(2.0)), last_progress=object())  # type: ignore[arg-type]
    with closing(Journal(path)) as journal, pytest.raises(OSError, match="type 'object' is not supported"):
        journal.write([polled(upgrade(1.0)), broken])
    assert known(path) is None


def test_all_upgrades_come_one_after_the_other_while_the_journal_is_written(path: Path):
    with closing(Journal(path)) as journal:
        journal.write([polled(upgrade(2.0), upgrade(1.0)), polled(upgrade(3.0), scale_set=API)])
        with reading(path) as reader:
            upgrades = reader.all_upgrades()
            first = next(upgrades)
            journal.write([polled(upgrade(9.0), at=6000.0)])
            seen = [(each.name, each.upgrade.start) for each in (first, *upgrades)]
    assert seen == [("Api", 3.0), ("Web", 1.0), ("Web", 2.0)]


# --- What is refused


def database(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(script)


def newer(path: Path) -> None:
    Journal(path).close()
    database(path, f"PRAGMA user_version = {len(module.MIGRATIONS) + 1}")


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (newer, "was written by a newer version of the exporter: schema 2, this one knows 1"),
        (
            lambda path: database(path, "CREATE TABLE t (c)"),
            "is an SQLite database, but not a journal of this exporter",
        ),
        (lambda path: path.write_text("upgrades: none\n" * 99), "file is not a database"),
        (lambda path: path.mkdir(), "unable to open database file|disk I/O error"),
    ],
    ids=["newer", "another database", "another file", "directory"],
)
def test_a_file_that_is_no_journal_of_ours_is_refused_and_left_alone(path: Path, prepare, said: str):
    prepare(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(OSError, match=said) as refusal:
        Journal(path)
    assert refusal.value.filename == str(path)
    assert (path.read_bytes() if path.is_file() else b"") == before
    with pytest.raises(OSError, match=said), reading(path):
        pass


def test_a_directory_that_is_not_there_is_said(tmp_path: Path):
    path = tmp_path / "nowhere" / "journal.sqlite"
    with pytest.raises(FileNotFoundError):
        Journal(path)
    with pytest.raises(FileNotFoundError), reading(path):
        pass


def test_a_second_exporter_is_refused_until_the_first_ends(path: Path, tmp_path: Path):
    link = tmp_path / "link.sqlite"
    link.symlink_to(path)
    first = Journal(path)
    for name in (path, link):
        with pytest.raises(OSError, match="is in use by another exporter") as refusal:
            Journal(name)
        assert refusal.value.errno == errno.EBUSY
    first.close()
    Journal(link).close()


# --- Versions

VERSION_1 = """
    PRAGMA application_id = 1447908179;
    PRAGMA user_version = 1;
    CREATE TABLE scale_sets (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, subscription_id TEXT NOT NULL,
        resource_group TEXT NOT NULL, name TEXT NOT NULL, found INTEGER NOT NULL, last_progress REAL);
    CREATE TABLE polls (scale_set INTEGER PRIMARY KEY REFERENCES scale_sets ON DELETE CASCADE, last_poll REAL,
        last_success REAL, failure TEXT, failure_message TEXT NOT NULL);
    CREATE TABLE upgrades (number INTEGER PRIMARY KEY, scale_set INTEGER NOT NULL REFERENCES scale_sets ON DELETE CASCADE,
        start REAL, place INTEGER, first_seen REAL NOT NULL, counted INTEGER NOT NULL, facts TEXT NOT NULL,
        UNIQUE (scale_set, start));
    CREATE TABLE changes (upgrade INTEGER NOT NULL REFERENCES upgrades ON DELETE CASCADE, number INTEGER NOT NULL,
        seen REAL NOT NULL, state TEXT NOT NULL, ended REAL, successful INTEGER, failed INTEGER, in_progress INTEGER,
        pending INTEGER, rolled_back INTEGER, not_rolled_back INTEGER, error_code TEXT, error_message TEXT,
        PRIMARY KEY (upgrade, number)) WITHOUT ROWID;
    CREATE TABLE counts (scale_set INTEGER NOT NULL REFERENCES scale_sets ON DELETE CASCADE, state TEXT NOT NULL,
        started_by TEXT NOT NULL, upgrades INTEGER NOT NULL, PRIMARY KEY (scale_set, state, started_by)) WITHOUT ROWID;
    INSERT INTO scale_sets VALUES (7, '/subscriptions/s/resourcegroups/rg/providers/microsoft.compute/virtualmachinescalesets/web',
        'S', 'RG', 'Web', 1, 1000.5);
    INSERT INTO polls VALUES (7, 5000.0, 4900.0, 'timeout', 'slow');
    INSERT INTO upgrades VALUES (9, 7, 1000.5, 0, 4000.0, 1, '{"state":"Faulted","start":1000.5,"end":2000.5,'
        || '"progress":{"successful":3},"error":{"code":"E","details":[{"code":"D"}]},"started_by":"Platform",'
        || '"image":{"sku":"x"},"rollback":{"failed":1,"error":{"code":"R","details":[]}},"location":"westus"}');
    INSERT INTO changes VALUES (9, 1, 4000.0, 'Faulted', 2000.5, 3, NULL, NULL, NULL, NULL, 1, 'E', NULL);
    INSERT INTO counts VALUES (7, 'Faulted', 'Platform', 4);
"""
"""A journal as version 1 of the schema had it; never to be edited."""


def test_a_journal_of_version_1_is_brought_up_to_date_and_nothing_is_lost(path: Path):
    database(path, VERSION_1)
    Journal(path).close()
    upgrade = Upgrade(
        state=FAULTED,
        start=1000.5,
        end=2000.5,
        progress=Progress(successful=3),
        error=ApiError(code="E", details=(ErrorDetail("D"),)),
        started_by="Platform",
        image=Image(sku="x"),
        rollback=Rollback(failed=1, error=ApiError(code="R")),
        location="westus",
    )
    assert known(path) == Snapshot(
        WEB,
        300.0,
        history=History((upgrade,)),
        last_poll=5000.0,
        last_success=4900.0,
        last_progress=2000.5,
        latest_seen=upgrade,
        failure=Reason.TIMEOUT,
        failure_message="slow",
        finished=((FAULTED, "Platform", 4),),
        remembered=True,
    )
    change = Change(4000.0, FAULTED, 2000.5, Progress(successful=3), Rollback(failed=1), "E", None)
    assert recorded(path) == (Recorded("S", "RG", "Web", 4000.0, upgrade, (change,)),)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (len(module.MIGRATIONS),)


@pytest.mark.parametrize(
    ("written", "last_progress"),
    [(1000.5, 4000.0), (4500.0, 4500.0)],
    ids=["the start, as before", "when the counts were first seen as they are"],
)
def test_an_active_upgrade_of_an_earlier_version_has_no_end_and_its_start_is_no_progress(
    path: Path, written: float, last_progress: float
):
    database(path, VERSION_1.replace("Faulted", "RollingForward").replace("1, 1000.5);", f"1, {written});"))
    Journal(path).close()
    snapshot = known(path)
    assert snapshot is not None
    assert (snapshot.latest and snapshot.latest.end) is None
    assert snapshot.last_progress == last_progress
    (upgrade,) = recorded(path)
    assert (upgrade.upgrade.end, [change.end for change in upgrade.changes]) == (None, [None])


def test_a_text_of_an_earlier_version_that_is_too_long_for_a_label_is_absent(path: Path):
    database(path, VERSION_1.replace('"x"', f'"{"x" * 1024}"').replace("'Platform', 4", f"'{'P' * 1024}', 4"))
    Journal(path).close()
    snapshot = known(path)
    assert snapshot is not None
    assert snapshot.latest is not None
    assert snapshot.latest.image == Image()
    assert snapshot.finished == ((FAULTED, "", 4),)
    for field in ('"code":"E"', '"code":"R"'):
        database(path.with_name(f"{field[8]}.sqlite"), VERSION_1.replace(field, f'"code":"{"x" * 1024}"'))
    for name, shown in (("E", (None, "R")), ("R", ("E", None))):
        snapshot = known(path.with_name(f"{name}.sqlite"))
        assert snapshot is not None
        latest = snapshot.latest
        assert latest is not None
        rollback = latest.rollback
        assert (
            latest.error and latest.error.code,
            rollback and rollback.error and rollback.error.code,
        ) == shown


def test_each_change_of_the_schema_is_made_once_and_in_order(path: Path, monkeypatch: pytest.MonkeyPatch):
    write(path, polled(upgrade(1.0)))
    further = ("ALTER TABLE polls ADD COLUMN first REAL", "UPDATE polls SET first = last_poll")
    monkeypatch.setattr(module, "MIGRATIONS", module.MIGRATIONS + further)
    with pytest.raises(OSError, match="of an older version"), reading(path):
        pass
    for _ in range(2):
        Journal(path).close()
    assert known(path).latest == upgrade(1.0)  # type: ignore[union-attr]
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT first FROM polls").fetchall() == [(5000.0,)]
        assert db.execute("PRAGMA user_version").fetchone() == (3,)


def test_a_change_of_the_schema_that_fails_leaves_everything_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    write(path, polled(upgrade(1.0)))
    with monkeypatch.context() as patch:
        patch.setattr(module, "MIGRATIONS", (*module.MIGRATIONS, "DELETE FROM upgrades; DELETE FROM nowhere"))
        with pytest.raises(OSError, match="no such table: nowhere"):
            Journal(path)
    assert known(path).latest == upgrade(1.0)  # type: ignore[union-attr]
    write(path, polled(upgrade(2.0)))


# --- Kills

WRITER = """
import sys
from itertools import count
from pathlib import Path
from exporter.journal import Journal, reading
from exporter.scale_set import ScaleSet
from exporter.history import History, Upgrade, UpgradeState
from exporter.snapshot import Snapshot, after_success

path, web = Path(sys.argv[1]), ScaleSet("S", "RG", "Web", 300.0)
journal = Journal(path)
for number in count(int(sys.argv[2])):
    upgrades = tuple(Upgrade(UpgradeState.COMPLETED, start=float(number * 3 + each)) for each in range(3))
    journal.write([after_success(Snapshot(web, 300.0), History(upgrades), float(number))])
    print(number, flush=True)
"""


def test_a_kill_at_any_moment_loses_nothing_committed_and_corrupts_nothing(path: Path):
    said = -1
    for _ in range(20):
        command = [sys.executable, "-c", WRITER, str(path), str(said + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]) as writer:
            assert writer.stdout is not None
            lines = iter(writer.stdout)
            said = int(next(lines))
            time.sleep(random.uniform(0, 0.02))  # any moment
            writer.kill()
            said = int([b"%d" % said, *(line for line in lines if line.endswith(b"\n"))][-1])
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        starts = [each.upgrade.start for each in recorded(path)]
        # All that was said to be written, and perhaps one more, written before it could be said; never a part of one.
        assert starts == [float(number) for number in range(len(starts))]
        assert len(starts) in {3 * (said + 1), 3 * (said + 2)}
        found = known(path)
        assert found is not None
        assert found.finished == ((COMPLETED, "", len(starts)),)
        assert found.last_poll == len(starts) / 3 - 1
        said = len(starts) // 3 - 1


# --- Power cuts

FOUND = st.lists(
    st.builds(upgrade, st.none() | st.floats(0, 9), st.sampled_from(UpgradeState), st.integers(0, 9)),
    max_size=5,
)
TRANSACTION = st.lists(st.tuples(st.sampled_from([WEB, API]), FOUND), min_size=1, max_size=3)
TEARS = {
    "cut off": lambda log, at: log[:at],
    "zeroes": lambda log, at: log[:at] + bytes(len(log) - at),
    "garbage": lambda log, at: log[:at] + random.Random(at).randbytes(len(log) - at),
    "a sector lost": lambda log, at: log[:at] + bytes(len(log[at : at + 512])) + log[at + 512 :],
}
"""What may stand in the log from an offset on, where writing it broke off."""


def sound(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as db:
        broken = db.execute("PRAGMA foreign_key_check").fetchall()
        return not broken and db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def everything(path: Path) -> object:
    """Return all that the journal remembers."""
    with reading(path) as journal:
        return journal.known([WEB, API]), [*journal.all_upgrades()]


@settings(max_examples=25, deadline=None)
@given(st.lists(TRANSACTION, min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_of_a_torn_log_the_transactions_before_the_tear_remain_whole_and_no_part_of_one(
    transactions: list[list[tuple[ScaleSet, list[Upgrade]]]], seed: int
):
    anywhere = random.Random(seed)  # integers that hypothesis draws itself are small too often
    with tempfile.TemporaryDirectory() as folder:
        path, torn = Path(folder, "journal.sqlite"), Path(folder, "torn.sqlite")
        with closing(Journal(path)) as journal:
            log = path.with_name(f"{path.name}-wal")
            ends, states = [log.stat().st_size], [everything(path)]
            for number, found in enumerate(transactions):
                journal.write([polled(*each, at=5000.0 + number, scale_set=one) for one, each in found])
                ends.append(log.stat().st_size)
                states.append(everything(path))
            file, written = path.read_bytes(), log.read_bytes()
        assert ends == sorted(ends)  # all of it is in the log still, none in the file
        for tear, left in TEARS.items():
            at = anywhere.randrange(len(written) + 1)
            torn.write_bytes(file)
            torn.with_name(f"{torn.name}-wal").write_bytes(left(written, at))
            Journal(torn).close()
            assert sound(torn)
            whole = max(0, sum(end <= at for end in ends) - 1)
            # What follows the tear may by chance be what stood there: a page has zeroes of its own.
            assert everything(torn) in states[whole : whole + 1 if tear == "cut off" else None], (tear, at)
            write(torn, polled(upgrade(99.0), at=6000.0))
            assert known(torn).latest == upgrade(99.0)  # type: ignore[union-attr]
            assert sound(torn)


# --- Disks


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """Mount something, as only root may."""
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("may not mount; what no limit on the size of files shows is then left to CI")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def failure(journal: Journal, snapshot: Snapshot) -> OSError | None:
    try:
        journal.write([snapshot])
    except OSError as error:
        return error
    return None


def test_a_full_disk_is_said_and_loses_nothing_that_was_written(tmp_path: Path):
    folder = tmp_path / "disk"
    folder.mkdir()
    with mounted(folder, "-t", "tmpfs", "-o", "size=1m", "none"):
        path = folder / "journal.sqlite"
        journal = Journal(path)
        filled = 0
        while (error := failure(journal, polled(upgrade(float(filled)), at=5000.0 + filled))) is None:
            filled += 1
        journal.close()
        assert error.errno == errno.ENOSPC
        assert filled > 10
        assert len(recorded(path)) == filled
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_disk_that_becomes_read_only_can_still_be_read(path: Path):
    write(path, polled(upgrade(1.0)))
    with mounted(path.parent, "--bind", "-o", "ro", str(path.parent)):
        with pytest.raises(OSError, match=r"Read-only file system|readonly") as refusal:
            write(path, polled(upgrade(2.0)))
        assert refusal.value.errno == errno.EROFS
        assert known(path).latest == upgrade(1.0)  # type: ignore[union-attr]
    write(path, polled(upgrade(2.0)))
    assert known(path).latest == upgrade(2.0)  # type: ignore[union-attr]
