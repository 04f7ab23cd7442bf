"""The journal: what goes in comes out, after kills, on bad disks, from older versions; nothing is counted twice."""

import errno
import gzip
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
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
from exporter.journal import (
    Change,
    DamagedError,
    Journal,
    LossError,
    Recorded,
    reading,
    refuse_other_file,
)
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


def names(path: Path) -> list[str]:
    """Return the names of the journal's files, without the time in them."""
    return sorted(re.sub("corrupt-[0-9TZ.]+", "corrupt-TIME", file.name) for file in path.parent.iterdir())


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
    # The steady clock of another process says nothing here.
    assert replace(found, finished=None, remembered=False) == replace(snapshot, last_success_steady=None)
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
        (lambda path: path.write_text("upgrades: none\n" * 99), "is not a journal of this exporter"),
        (
            lambda path: path.write_text("CREATE TABLE scale_sets (number INTEGER PRIMARY KEY);\n"),
            "is not a journal of this exporter",
        ),
        (lambda path: path.write_bytes(gzip.compress(bytes(9999))), "is not a journal of this exporter"),
        (lambda path: path.mkdir(), "is not a regular file"),
        (os.mkfifo, "is not a regular file"),
    ],
    ids=["newer", "another database", "text", "dump of a journal", "binary", "directory", "pipe"],
)
def test_a_file_that_is_no_journal_of_ours_is_refused_and_left_alone(path: Path, prepare, said: str):
    prepare(path)
    path.chmod(0o755)
    before = path.read_bytes() if path.is_file() else b""
    for refuse in (Journal, refuse_other_file):
        with pytest.raises(OSError, match=said) as refusal:
            refuse(path)
        assert not isinstance(refusal.value, LossError)
        assert refusal.value.filename == str(path)
    assert (path.read_bytes() if path.is_file() else b"") == before
    assert path.stat().st_mode & 0o777 == 0o755
    assert not list(path.parent.glob("*.corrupt-*"))


def test_another_database_keeps_its_log(path: Path):
    """To open it for writing would write the log into the database when it is closed."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript("PRAGMA journal_mode = WAL; CREATE TABLE t (c); INSERT INTO t VALUES (1)")
        log = path.with_name(f"{path.name}-wal")
        copies = [(file, file.read_bytes()) for file in (path, log)]
    for file, content in copies:
        file.write_bytes(content)
    with pytest.raises(OSError, match="but not a journal of this exporter"):
        Journal(path)
    assert [(file, file.read_bytes()) for file in (path, log)] == copies


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


# --- Damage


def opened(path: Path) -> Journal:
    """Open a journal as the exporter does when it starts."""
    journal = Journal(path)
    try:
        journal.check()
    except BaseException:
        journal.close()
        raise
    return journal


@pytest.fixture
def written(path: Path) -> bytearray:
    """The bytes of a journal with two scale sets, closed as it should be."""
    write(path, polled(upgrade(1.0), upgrade(2.0, FAULTED)), polled(upgrade(3.0), scale_set=API))
    return bytearray(path.read_bytes())


def zeroed(data: bytearray, start: int, end: int) -> bytearray:
    return data[:start] + bytes(end - start) + data[end:]


def within(data: bytearray, old: bytes, new: bytes) -> bytearray:
    assert old in data
    assert len(old) == len(new)
    return bytearray(bytes(data).replace(old, new, 1))


DAMAGES: dict[str, Callable[[bytearray], bytearray]] = {
    "no magic": lambda data: zeroed(data, 0, 16),
    "no header": lambda data: zeroed(data, 0, 100),
    "garbage for a header": lambda data: bytearray(b"garbage " * 13) + data[104:],
    "no first sector": lambda data: zeroed(data, 0, 512),
    "no first page": lambda data: zeroed(data, 0, 4096),
    "only zeros": lambda data: bytearray(len(data)),
    "cut in the magic": lambda data: data[:9],
    "cut in the header": lambda data: data[:50],
    "cut in the first page": lambda data: data[:3000],
    "cut in half": lambda data: data[: len(data) // 2],
    "no second page": lambda data: zeroed(data, 4096, 8192),
    "no last page": lambda data: zeroed(data, len(data) - 4096, len(data)),
    "unknown format for writers": lambda data: zeroed(data, 18, 19),
    "unknown format for readers": lambda data: zeroed(data, 19, 20),
    "unknown format of the schema": lambda data: data[:47] + b"\x09" + data[48:],
    "another text encoding": lambda data: data[:59] + b"\x02" + data[60:],
    "an impossible version": lambda data: data[:60] + b"\x80" + data[61:],
    "an absurd version": lambda data: data[:60] + b"\x01" + data[61:],
    "tables of no version": lambda data: zeroed(data, 60, 64),
    "another application": lambda data: data[:68] + b"\x00" + data[69:],
    "a column of another name": lambda data: within(data, b"last_poll REAL", b"lost_poll REAL"),
    # A message of SQLite's then quotes bytes that are not UTF-8, which Python's sqlite3 does not survive.
    "a column whose name is not UTF-8": lambda data: within(
        data, b"(upgrade, number)", b"(upgrade, \xe5umber)"
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_journal_is_moved_aside_as_it_is_and_begun_anew(
    path: Path, written: bytearray, damage: Callable[[bytearray], bytearray]
):
    damaged = damage(written)
    assert damaged != written
    path.write_bytes(damaged)
    refuse_other_file(path)
    with pytest.raises(DamagedError, match="is damaged: ") as loss:
        opened(path)
    moved_to = loss.value.moved_to
    assert moved_to is not None
    assert moved_to.read_bytes() == damaged
    assert {name.removesuffix("-wal").removesuffix("-shm") for name in names(path)} == {
        "journal.sqlite-lock",
        "journal.sqlite.corrupt-TIME",
    }
    write(path, polled(upgrade(9.0)))
    assert known(path).latest == upgrade(9.0)  # type: ignore[union-attr]


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["a bit", "zeros", "garbage", "cut off"]),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([1, 16, 512, 4096]),
    st.integers(0, 255),
)
def test_of_a_journal_damaged_anywhere_nothing_is_lost_that_was_not_damaged_and_a_new_poll_can_be_written(
    kind: str, where: float, length: int, value: int
):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "journal.sqlite")
        sets = [ScaleSet("S", "RG", f"web-{number}", 300.0) for number in range(20)]
        write(path, *(polled(upgrade(1.0), upgrade(2.0), scale_set=each) for each in sets))
        data = path.read_bytes()
        at = int(where * len(data))
        if at in range(60, 64):
            return  # the version: a journal of a newer exporter is refused
        end = min(at + length, len(data))
        damaged = {
            "a bit": data[:at] + bytes([data[at] ^ 1 << value % 8]) + data[at + 1 :],
            "zeros": data[:at] + bytes(end - at) + data[end:],
            "garbage": data[:at] + random.Random(value).randbytes(end - at) + data[end:],
            "cut off": data[:at] or data[:1],
        }[kind]
        path.write_bytes(damaged)
        try:
            journal = opened(path)
        except DamagedError:
            journal = opened(path)
            (moved_to,) = (
                file for file in path.parent.iterdir() if re.search("corrupt-[0-9TZ.]+$", file.name)
            )
            assert moved_to.read_bytes() == damaged
        with closing(journal):
            with reading(path) as reader:
                assert len(reader.known(sets)) + len(reader.unreadable) <= len(sets)
                list(reader.all_upgrades())
            now = [
                polled(upgrade(1.0), upgrade(2.0), upgrade(3.0), scale_set=each, at=6000.0) for each in sets
            ]
            journal.write(now)
            with reading(path) as reader:
                found = reader.known(sets)
            assert [found[each.id].history for each in sets] == [each.history for each in now]


def test_what_lies_beside_a_damaged_journal_goes_with_it(path: Path, written: bytearray):
    path.write_bytes(zeroed(written, 4096, 8192))
    log = path.with_name(f"{path.name}-wal")
    log.write_bytes(b"what the log holds")
    with pytest.raises(DamagedError) as loss:
        opened(path)
    assert loss.value.moved_to is not None
    moved_log = loss.value.moved_to.with_name(f"{loss.value.moved_to.name}-wal")
    assert moved_log.read_bytes() == b"what the log holds"
    assert not log.exists()


@pytest.mark.parametrize("there", [True, False], ids=["empty", "absent"])
def test_the_log_of_a_journal_that_is_empty_or_absent_is_kept(path: Path, there: bool):
    """SQLite deletes it, even for a reader; it may hold all there was."""
    log = path.with_name(f"{path.name}-wal")
    with closing(Journal(path)) as journal:
        journal.write([polled(upgrade(1.0))])
        content = log.read_bytes()
    path.write_bytes(b"") if there else path.unlink()
    log.write_bytes(content)
    with pytest.raises(OSError, match="is empty" if there else "No such file"), reading(path):
        pass
    assert log.read_bytes() == content
    with pytest.raises(DamagedError, match="is damaged: the file is empty or absent, its log is not") as loss:
        Journal(path)
    assert loss.value.moved_to is not None
    (moved_log,) = path.parent.glob("*.corrupt-*-wal")
    assert moved_log.read_bytes() == content
    Journal(path).close()


def test_an_empty_file_becomes_a_journal(path: Path):
    path.touch()
    refuse_other_file(path)
    write(path, polled(upgrade(1.0)))
    assert names(path) == ["journal.sqlite", "journal.sqlite-lock"]


def test_a_reader_leaves_a_damaged_journal_where_it_is(path: Path, written: bytearray):
    path.write_bytes(zeroed(written, 0, 100))
    with pytest.raises(DamagedError) as loss, reading(path):
        pass
    assert loss.value.moved_to is None
    path.write_bytes(zeroed(written, 4096, len(written)))
    with reading(path) as reader:
        assert reader.known([WEB, API]) == {}
        assert [*map(type, reader.unreadable.values())] == [DamagedError, DamagedError]
    with pytest.raises(DamagedError), reading(path) as reader:
        list(reader.all_upgrades())
    assert path.read_bytes() == zeroed(written, 4096, len(written))
    assert not list(path.parent.glob("*.corrupt-*"))


def test_who_does_not_hold_the_lock_moves_nothing(path: Path, written: bytearray):
    with closing(Journal(path)):
        path.write_bytes(zeroed(written, 0, 100))
        with pytest.raises(OSError, match="is in use by another exporter"):
            Journal(path)
        assert path.exists()


def test_damage_that_shows_in_a_write_is_moved_aside_too(path: Path, written: bytearray):
    path.write_bytes(zeroed(written, 4096, len(written)))
    with pytest.raises(DamagedError, match="malformed") as loss, closing(Journal(path)) as journal:
        journal.write([polled(upgrade(9.0))])
    assert loss.value.moved_to is not None
    assert loss.value.moved_to.read_bytes() == zeroed(written, 4096, len(written))


def test_damage_that_shows_in_pruning_is_moved_aside_too(path: Path, written: bytearray):
    path.write_bytes(zeroed(written, 4096, len(written)))
    with pytest.raises(DamagedError, match="malformed"), closing(Journal(path)) as journal:
        journal.prune(1e9, held=())
    assert not path.exists()


def test_an_index_that_does_not_fit_its_table_is_found_when_a_write_fails_for_no_other_reason(path: Path):
    write(path, polled(upgrade(1.0)))
    with closing(Journal(path)) as journal:
        database(
            path,
            "PRAGMA writable_schema = ON; CREATE TABLE lost (upgrade, number);"
            "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE name = 'lost')"
            " WHERE name = 'sqlite_autoindex_scale_sets_1'",
        )
        with pytest.raises(DamagedError):
            journal.write([polled(upgrade(2.0))])


def test_no_more_than_ten_damaged_journals_are_kept_beside_the_present_one(path: Path, written: bytearray):
    damaged = zeroed(written, 0, 100)
    for _ in range(10):
        path.write_bytes(damaged)
        with pytest.raises(DamagedError):
            Journal(path)
    assert len(list(path.parent.glob("*.corrupt-*"))) == 10
    path.write_bytes(damaged)
    with pytest.raises(DamagedError, match=r"10 damaged journals .* are there already: remove") as loss:
        Journal(path)
    assert loss.value.moved_to is None
    assert path.read_bytes() == damaged


def rows_broken(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        assert db.execute(statement).rowcount > 0


OF_WEB = "(SELECT number FROM scale_sets WHERE name = 'Web')"
BAD_ROWS = {
    "facts that are not JSON": f"UPDATE upgrades SET facts = 'nonsense' WHERE scale_set = {OF_WEB}",
    "facts of another kind": f"UPDATE upgrades SET facts = '[]' WHERE scale_set = {OF_WEB}",
    "endless facts": f"UPDATE upgrades SET facts = replace(hex(zeroblob(50000)), '0', '[') WHERE scale_set = {OF_WEB}",
    "no facts": f"UPDATE upgrades SET facts = '' WHERE scale_set = {OF_WEB}",
    "facts that are not UTF-8": f"UPDATE upgrades SET facts = CAST(x'7b22ff227d' AS TEXT) WHERE scale_set = {OF_WEB}",
    "half of a surrogate pair": 'UPDATE upgrades SET facts = \'{"state":"Faulted","location":"\\ud800"}\''
    f" WHERE scale_set = {OF_WEB}",
    "no state": f"UPDATE upgrades SET facts = '{{}}' WHERE scale_set = {OF_WEB}",
    "a state that is none": f'UPDATE upgrades SET facts = \'{{"state":"Fine"}}\' WHERE scale_set = {OF_WEB}',
    "a count that is text": 'UPDATE upgrades SET facts = \'{"state":"Faulted","progress":{"failed":"1"}}\''
    f" WHERE scale_set = {OF_WEB}",
    "a count that is too large": 'UPDATE upgrades SET facts = \'{"state":"Faulted","progress":{"failed":4294967296}}\''
    f" WHERE scale_set = {OF_WEB}",
    "a time that is no number": f'UPDATE upgrades SET facts = \'{{"state":"Faulted","end":NaN}}\' WHERE scale_set = {OF_WEB}',
    "an error that is none": f'UPDATE upgrades SET facts = \'{{"state":"Faulted","error":1}}\' WHERE scale_set = {OF_WEB}',
    "details that are none": 'UPDATE upgrades SET facts = \'{"state":"Faulted","error":{"details":[1]}}\''
    f" WHERE scale_set = {OF_WEB}",
    "a reason that is none": f"UPDATE polls SET failure = 'lazy' WHERE scale_set = {OF_WEB}",
    "a message that is a blob": f"UPDATE polls SET failure_message = x'00' WHERE scale_set = {OF_WEB}",
    "a poll at a time that is text": f"UPDATE polls SET last_success = 'noon' WHERE scale_set = {OF_WEB}",
    "a poll before the epoch": f"UPDATE polls SET last_poll = -1 WHERE scale_set = {OF_WEB}",
    "progress at no time": "UPDATE scale_sets SET last_progress = 9e999 WHERE name = 'Web'",
}


@pytest.mark.parametrize("statement", BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_a_row_that_breaks_the_model_costs_its_scale_set_what_was_known_until_the_next_poll(
    path: Path, written: bytearray, statement: str
):
    rows_broken(path, statement)
    with reading(path) as reader:
        assert reader.known([WEB, API]).keys() == {API.id}
        assert reader.unreadable.keys() == {WEB.id}
        assert [each.upgrade for each in reader.upgrades(API.id)] == [upgrade(3.0)]
        assert {each.name for each in reader.all_upgrades()} >= {"Api"}
        reader.upgrades(WEB.id)
    told = polled(upgrade(1.0), upgrade(2.0, FAULTED), at=6000.0)
    assert write(path, told) == {WEB.id: ((COMPLETED, "", 1), (FAULTED, "", 1))}
    assert known(path).history == told.history  # type: ignore[union-attr]
    assert [each.upgrade for each in recorded(path)] == [upgrade(1.0), upgrade(2.0, FAULTED)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE changes SET state = 'Fine' WHERE upgrade = 1",
        "UPDATE changes SET seen = 'noon' WHERE upgrade = 1",
        "UPDATE changes SET pending = 1.5 WHERE upgrade = 1",
        "UPDATE changes SET error_message = x'ff' WHERE upgrade = 1",
        "UPDATE upgrades SET first_seen = 'noon' WHERE number = 1",
    ],
)
def test_a_change_that_breaks_the_model_costs_its_upgrade_and_is_told_of(
    path: Path, written: bytearray, statement: str
):
    rows_broken(path, statement)
    with reading(path) as reader:
        assert [(each.name, each.upgrade.start) for each in reader.all_upgrades()] == [
            ("Api", 3.0),
            ("Web", 2.0),
        ]
        assert reader.unreadable.keys() == {WEB.id}


def test_a_count_that_breaks_the_model_counts_nothing(path: Path, written: bytearray):
    rows_broken(path, "UPDATE counts SET state = 'Fine' WHERE state = 'Faulted'")
    assert known(path).finished == ((COMPLETED, "", 1),)  # type: ignore[union-attr]
    rows_broken(path, "UPDATE counts SET upgrades = 'many' WHERE state = 'Completed'")
    assert known(path).finished == ()  # type: ignore[union-attr]


def test_a_row_that_a_write_depends_on_and_that_breaks_the_model_is_damage(path: Path, written: bytearray):
    rows_broken(path, "UPDATE changes SET number = 'first' WHERE upgrade = 1")
    with pytest.raises(DamagedError, match="'first' where the number of a change belongs") as loss:
        write(path, polled(upgrade(1.0, FAULTED)))
    assert loss.value.moved_to is not None
    assert not path.exists()


def test_a_journal_begun_anew_goes_on_counting_where_the_lost_one_was(path: Path):
    before = replace(
        polled(upgrade(1.0)), finished=((COMPLETED, "", 7), (FAULTED, "User", 2), (COMPLETED, "User", 0))
    )
    assert write(path, before) == {WEB.id: ((COMPLETED, "", 7), (FAULTED, "User", 2))}
    assert write(path, replace(polled(upgrade(1.0), upgrade(2.0)), finished=())) == {
        WEB.id: ((COMPLETED, "", 8), (FAULTED, "User", 2))
    }


# --- Files that vanish while they are in use


def test_a_journal_that_was_deleted_is_noticed_and_its_log_is_not_that_of_the_next_one(path: Path):
    with closing(Journal(path)) as journal:
        journal.write([polled(upgrade(1.0))])
        path.unlink()
        with pytest.raises(LossError, match="was deleted or replaced while in use"):
            journal.write([polled(upgrade(2.0))])
    assert names(path) == [
        "journal.sqlite-lock",
        "journal.sqlite.corrupt-TIME-shm",
        "journal.sqlite.corrupt-TIME-wal",
    ]
    Journal(path).close()
    assert known(path) is None


def test_of_journals_that_are_deleted_again_and_again_no_more_than_ten_logs_are_kept(path: Path):
    for number in range(11):
        with closing(Journal(path)) as journal:
            journal.write([polled(upgrade(float(number)))])
            path.unlink()
            with pytest.raises(LossError):
                journal.verify()
    assert len(list(path.parent.glob("*.corrupt-*-wal"))) == 10
    assert not path.with_name(f"{path.name}-wal").exists()


def test_a_journal_that_was_replaced_is_noticed_and_the_other_one_is_not_touched(path: Path, tmp_path: Path):
    other = tmp_path / "other.sqlite"
    write(other, polled(upgrade(7.0)))
    content = other.read_bytes()
    with closing(Journal(path)) as journal:
        journal.write([polled(upgrade(1.0))])
        other.rename(path)
        with pytest.raises(LossError):
            journal.verify()
    assert path.read_bytes() == content
    assert known(path).latest == upgrade(7.0)  # type: ignore[union-attr]


def test_a_file_of_somebody_else_in_the_journals_place_is_not_touched(path: Path, tmp_path: Path):
    other = tmp_path / "notes"
    other.write_text("notes\n")
    with closing(Journal(path)) as journal:
        journal.write([polled(upgrade(1.0))])
        other.rename(path)
        with pytest.raises(LossError):
            journal.verify()
    with pytest.raises(OSError, match="is not a journal of this exporter"):
        Journal(path)
    assert path.read_text() == "notes\n"


@pytest.mark.parametrize("size", [0, 50, 4096], ids=["to nothing", "to a part of the header", "to a page"])
def test_a_journal_that_was_cut_off_while_in_use_is_noticed_and_moved_aside_with_its_log(
    path: Path, size: int
):
    write(path, polled(*(upgrade(float(number)) for number in range(1, 200))))
    with closing(Journal(path)) as journal:
        journal.write([polled(upgrade(300.0))])
        cut = path.read_bytes()[:size]
        os.truncate(path, size)
        with pytest.raises(DamagedError) as loss:
            journal.verify()
    assert loss.value.moved_to is not None
    assert loss.value.moved_to.read_bytes() == cut
    assert not path.exists()


def test_content_of_somebody_else_that_overwrote_the_journal_is_neither_moved_nor_written_to(path: Path):
    write(path, polled(upgrade(1.0)))
    with closing(Journal(path)) as journal:
        journal.write([polled(upgrade(2.0))])
        path.write_text("notes\n")
        with pytest.raises(OSError, match="is not a journal of this exporter"):
            journal.verify()
    assert path.read_text() == "notes\n"
    assert not list(path.parent.glob("*.corrupt-*"))


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-lock"])
def test_a_file_beside_the_journal_that_was_deleted_is_noticed_and_nothing_is_lost(path: Path, suffix: str):
    with closing(Journal(path)) as journal:
        journal.write([polled(upgrade(1.0))])
        path.with_name(f"{path.name}{suffix}").unlink()
        with pytest.raises(LossError, match=f"journal.sqlite{suffix}: was deleted or replaced"):
            journal.verify()
    assert known(path).latest == upgrade(1.0)  # type: ignore[union-attr]
    write(path, polled(upgrade(2.0)))
    assert known(path).latest == upgrade(2.0)  # type: ignore[union-attr]


def test_a_journal_that_was_compacted_while_in_use_is_used_on(path: Path):
    write(path, polled(*(upgrade(float(number)) for number in range(1, 500))))
    with closing(Journal(path)) as journal:
        journal.prune(1e9, held=())
        size = path.stat().st_size
        database(path, "VACUUM; PRAGMA wal_checkpoint(TRUNCATE)")
        assert path.stat().st_size < size
        journal.verify()
        journal.write([polled(upgrade(900.0))])
    assert known(path).latest == upgrade(900.0)  # type: ignore[union-attr]


# --- Permissions


def modes(path: Path) -> set[int]:
    return {file.stat().st_mode & 0o777 for file in path.parent.iterdir()}


def test_only_the_owner_may_read_the_journals_files(path: Path):
    with closing(Journal(path)) as journal:
        journal.write([polled(upgrade(1.0))])
        assert len(names(path)) == 4
        assert modes(path) == {0o600}


def test_files_of_former_versions_that_all_may_read_become_the_owners_alone(path: Path, written: bytearray):
    for suffix in ("", "-lock", "-wal"):
        file = path.with_name(f"{path.name}{suffix}")
        file.touch()
        file.chmod(0o644)
    Journal(path).close()
    assert modes(path) == {0o600}
    path.write_bytes(zeroed(written, 0, 100))
    path.chmod(0o644)
    with pytest.raises(DamagedError):
        Journal(path)
    assert modes(path) == {0o600}


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
    if shutil.which("mount") is None:
        pytest.skip("there is no mount, as in the image")
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
