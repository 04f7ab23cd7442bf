"""From poll to journal: nothing waits for the disk, what it refuses is tried again, and counts come back."""

import logging
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import time_machine

from exporter import journal_file
from exporter import recorder as module
from exporter.families import FAMILIES, JOURNAL_FAMILIES
from exporter.history import History, Progress, Upgrade, UpgradeState
from exporter.journal import Journal, reading
from exporter.recorder import Recorder
from exporter.scale_set import ScaleSet, difference
from exporter.snapshot import Finished, Reason, Snapshot, after_failure, after_success
from exporter.store import Store
from exporter.telemetry import Telemetry

WEB, API = (ScaleSet("S", "RG", name, 300.0) for name in ("Web", "Api"))


class World:
    """A recorder between a store and a journal, and polls that are made up."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = Store(FAMILIES + JOURNAL_FAMILIES)
        self.store.apply(difference([], [WEB, API]))
        self.telemetry = Telemetry()
        self.recorder = Recorder(path, 1000.0, self.store, self.telemetry)

    def finds(self, *upgrades: Upgrade, at: float = 5000.0, scale_set: ScaleSet = WEB) -> None:
        self._becomes(after_success(self.store[scale_set.id], History(upgrades), at))

    def fails(self, reason: Reason, at: float) -> None:
        self._becomes(after_failure(self.store[WEB.id], reason, "", at))

    def _becomes(self, after: Snapshot) -> None:
        before = self.store[after.scale_set.id]
        self.store.write(after)
        self.recorder.record(before, after)

    def states(self) -> list[int | None]:
        """Return the counts of successful instances that the journal saw one after the other."""
        with reading(self.path) as journal:
            return [
                change.progress.successful for each in journal.upgrades(WEB.id) for change in each.changes
            ]

    def known(self) -> Snapshot | None:
        with reading(self.path) as journal:
            return journal.known([WEB]).get(WEB.id)

    @property
    def failures(self) -> float:
        return self.telemetry.registry.get_sample_value("vmss_upgrade_exporter_journal_failures_total") or 0.0


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(journal_file, "BUSY_SECONDS", 0.0)
    world = World(tmp_path / "journal.sqlite")
    await world.recorder.open()
    yield world
    await world.recorder.close()


def rolling(done: int) -> Upgrade:
    return Upgrade(UpgradeState.ROLLING_FORWARD, start=4000.0, progress=Progress(successful=done))


DONE = Upgrade(UpgradeState.COMPLETED, start=4000.0, end=4500.0, started_by="Platform")


@contextmanager
def in_use(path: Path) -> Iterator[None]:
    """Let someone write to the file, and take his time."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield


async def test_what_polls_find_is_written_change_by_change(world: World):
    for number in (1, 2, 2, 3):
        world.finds(rolling(number), at=5000.0 + number)
    await world.recorder.flush()
    assert world.states() == [1, 2, 3]
    assert world.failures == 0


async def test_a_poll_that_finds_nothing_new_writes_nothing(world: World):
    world.finds(rolling(1))
    await world.recorder.flush()
    files = sorted(world.path.parent.iterdir())
    before = [file.read_bytes() for file in files if not file.name.endswith("-shm")]
    for number in range(9):
        world.finds(rolling(1), at=5060.0 + number)
        await world.recorder.flush()
    assert sorted(world.path.parent.iterdir()) == files
    assert [file.read_bytes() for file in files if not file.name.endswith("-shm")] == before


async def test_that_polls_go_on_is_written_when_it_is_time_and_at_the_end(world: World):
    world.finds(rolling(1))
    await world.recorder.flush()
    world.finds(rolling(1), at=5060.0)
    await world.recorder.note_times()
    await world.recorder.flush()
    known = world.known()
    assert known is not None
    assert (known.last_success, known.last_poll) == (5060.0, 5060.0)
    world.fails(Reason.TIMEOUT, at=5120.0)
    await world.recorder.close()
    known = world.known()
    assert known is not None
    assert (known.last_success, known.last_poll, known.failure) == (5060.0, 5120.0, Reason.TIMEOUT)


async def test_a_scale_set_that_azure_does_not_find_is_remembered_as_that(world: World):
    world.finds(rolling(1))
    world.fails(Reason.NOT_FOUND, at=5060.0)
    await world.recorder.note_times()
    await world.recorder.flush()
    once = world.known()
    assert once is not None
    assert (once.latest, once.failure, once.missing) == (rolling(1), Reason.NOT_FOUND, False)
    assert after_failure(once, Reason.NOT_FOUND, "", 5120.0).missing
    world.fails(Reason.NOT_FOUND, at=5120.0)
    await world.recorder.flush()
    known = world.known()
    assert known is not None
    assert (known.history, known.failure, known.latest_seen) == (None, Reason.NOT_FOUND, rolling(1))
    assert known.missing


async def test_another_failure_than_not_found_leaves_nothing_of_a_row_of_those(world: World):
    world.finds(rolling(1))
    world.fails(Reason.NOT_FOUND, at=5060.0)
    world.fails(Reason.FORBIDDEN, at=5120.0)
    await world.recorder.note_times()
    await world.recorder.flush()
    known = world.known()
    assert known is not None
    assert (known.latest, known.not_found_polls) == (rolling(1), 0)


async def test_what_the_journal_has_counted_is_served_and_only_then(world: World):
    world.finds(DONE)
    assert world.store[WEB.id].finished is None
    await world.recorder.flush()
    assert world.store[WEB.id].finished == ((UpgradeState.COMPLETED, "Platform", 1),)
    assert b'started_by="Platform",state="Completed",subscription_id="s"} 1.0\n' in b"".join(
        world.store.exposition()
    )


async def test_counts_of_a_scale_set_that_left_meanwhile_are_nobodys_loss(world: World):
    world.finds(DONE)
    world.store.apply(difference([WEB, API], [API]))
    await world.recorder.flush()
    assert world.failures == 0
    assert WEB.id not in world.store


async def test_what_cannot_be_written_is_kept_said_once_counted_each_time_and_written_later(
    world: World, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    with in_use(world.path):
        for number in (1, 2, 3):
            world.finds(rolling(number), at=5000.0 + number)
            await world.recorder.flush()
    assert world.failures >= 3
    world.finds(rolling(4), at=5004.0)
    await world.recorder.flush()
    assert world.states() == [1, 2, 3, 4]
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("ERROR", "journal failed, retrying every second"),
        ("INFO", "journal is written again"),
    ]
    assert caplog.records[0].fields["error"] == "database is locked"  # type: ignore[attr-defined]


async def test_times_are_not_written_before_what_was_found_by_then(world: World):
    world.finds(rolling(1))
    await world.recorder.flush()
    with in_use(world.path):
        world.finds(rolling(2), at=5060.0)
        await world.recorder.note_times()
        await world.recorder.flush()
    written: list[tuple[int, int]] = []
    write = Journal.write

    def watched(
        journal: Journal, found: list[Snapshot], polled: Sequence[Snapshot] = ()
    ) -> dict[str, Finished]:
        written.append((len(found), len(polled)))
        return write(journal, found, polled)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "write", watched)
        await world.recorder.flush()
    assert world.states() == [1, 2]
    assert written == [(1, 0), (0, 1)]


async def test_a_full_queue_loses_steps_between_and_never_how_things_stand(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "QUEUED_AT_MOST", 3)
    with in_use(world.path):
        for number in range(10):
            world.finds(rolling(number), at=5000.0 + number)
        world.finds(rolling(7), scale_set=API)
        await world.recorder.flush()
    await world.recorder.flush()
    assert world.states() == [0, 1, 9]
    with reading(world.path) as journal:
        assert journal.upgrades(API.id)[0].upgrade == rolling(7)


async def test_a_defect_costs_what_was_in_hand_and_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def defect(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "write", defect)
        world.finds(rolling(1))
        await world.recorder.flush()
    assert world.failures == 1
    assert "defect in the journal" in caplog.text
    world.finds(rolling(2), at=5060.0)
    await world.recorder.flush()
    assert world.states() == [2]


async def test_a_journal_that_cannot_be_understood_keeps_nobody_from_being_polled(
    world: World, caplog: pytest.LogCaptureFixture
):
    world.finds(rolling(1))
    await world.recorder.flush()
    with closing(sqlite3.connect(world.path)) as db, db:
        db.execute("UPDATE upgrades SET facts = 'nonsense'")
    assert await world.recorder.remember([WEB]) == {}
    assert world.failures == 1


async def test_pruning_spares_whom_the_store_holds(world: World, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    world.finds(DONE)
    world.finds(rolling(1), at=5060.0)  # Azure has forgotten the one before
    gone = Upgrade(UpgradeState.COMPLETED, start=3000.0)
    world.finds(gone, DONE, at=5070.0)
    world.finds(rolling(2), at=5080.0)
    await world.recorder.flush()
    await world.recorder.prune()
    await world.recorder.flush()
    with reading(world.path) as journal:
        assert [each.upgrade for each in journal.upgrades(WEB.id)] == [rolling(2)]
    known = world.known()
    assert known is not None
    assert known.finished == ((UpgradeState.COMPLETED, "", 1), (UpgradeState.COMPLETED, "Platform", 1))
    assert [record.fields["upgrades"] for record in caplog.records] == [1]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("wall", "steady", "kept"),
    [
        pytest.param(5100.0, 5100.0, True, id="young"),
        pytest.param(5100.0 + 4000 * 86_400, 5100.0, True, id="the wall clock was stepped ahead"),
        pytest.param(5100.0, 5100.0 + 86_400, True, id="the wall clock was stepped back"),
        pytest.param(5100.0 + 86_400, 5100.0 + 86_400, False, id="old by both clocks"),
    ],
)
async def test_a_step_of_the_wall_clock_makes_nothing_too_old(
    tmp_path: Path, wall: float, steady: float, *, kept: bool
):
    world = World(tmp_path / "journal.sqlite")
    recorder = Recorder(world.path, 1000.0, world.store, world.telemetry, steady_clock=lambda: steady)
    world.recorder = recorder
    await recorder.open()
    world.finds(Upgrade(UpgradeState.COMPLETED, start=4500.0))
    world.finds(at=5060.0)  # Azure has forgotten it
    with time_machine.travel(wall):
        await recorder.prune()
        await recorder.close()
    with reading(world.path) as journal:
        assert len(journal.upgrades(WEB.id)) == kept


async def test_a_file_that_is_no_journal_is_refused_at_the_start_and_left_alone(tmp_path: Path):
    path = tmp_path / "journal.sqlite"
    path.write_text("nonsense" * 99)
    world = World(path)
    with pytest.raises(OSError, match="is not a journal of this exporter"):
        await world.recorder.open()
    await world.recorder.close()
    assert path.read_text() == "nonsense" * 99


def garble(path: Path) -> bytes:
    """Destroy all but the first page; return what is there then."""
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"?" * (path.stat().st_size - 4096))
    return path.read_bytes()


def losses(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    """Return the fields of the log lines that tell of a lost journal."""
    message = "journal lost, writing the present state of all scale sets to a new one"
    return [record.fields for record in caplog.records if record.message == message]  # type: ignore[attr-defined]


async def restarted(world: World) -> World:
    """Return the same world with the recorder of another process."""
    await world.recorder.close()
    after = World(world.path)
    await after.recorder.open()
    return after


async def test_a_journal_that_is_damaged_at_the_start_is_moved_aside_counted_logged_and_begun_anew(
    world: World, caplog: pytest.LogCaptureFixture
):
    world.finds(DONE)
    await world.recorder.close()
    damaged = garble(world.path)
    after = await restarted(world)
    assert after.failures == 1
    (said,) = losses(caplog)
    moved_to = said["moved_to"]
    assert isinstance(moved_to, Path)
    assert moved_to.read_bytes() == damaged
    assert said["path"] == world.path
    assert str(said["error"]).startswith("is damaged: ")
    assert await after.recorder.remember([WEB]) == {}
    after.finds(rolling(1))
    await after.recorder.flush()
    assert after.states() == [1]
    assert after.failures == 1
    await after.recorder.close()


async def test_a_journal_that_is_damaged_while_in_use_is_begun_anew_with_all_that_is_known(
    world: World, caplog: pytest.LogCaptureFixture
):
    for number in range(3):  # Azure forgets; the counts do not
        world.finds(Upgrade(UpgradeState.COMPLETED, start=1000.0 + number), at=5000.0 + number)
        await world.recorder.flush()
    world.finds(rolling(1), scale_set=API)
    await world.recorder.flush()
    before = world.store[WEB.id].finished
    assert before == ((UpgradeState.COMPLETED, "", 3),)
    await world.recorder.close()
    world.recorder = Recorder(world.path, 1000.0, world.store, world.telemetry)
    await world.recorder.open()
    garble(world.path)
    world.finds(rolling(2), at=5060.0)
    await world.recorder.prune()
    await world.recorder.flush()
    await world.recorder.flush()
    assert len(losses(caplog)) == 1
    assert world.failures == 1
    assert world.states() == [2]
    with reading(world.path) as journal:
        known = journal.known([WEB, API])
    assert {key: snapshot.history for key, snapshot in known.items()} == {
        each.id: world.store[each.id].history for each in (WEB, API)
    }
    assert known[WEB.id].finished == world.store[WEB.id].finished == before


@pytest.mark.parametrize(
    "lost", [["journal.sqlite"], ["journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm"]]
)
async def test_a_journal_that_is_deleted_is_noticed_at_the_next_tick_and_begun_anew_with_all_that_is_known(
    world: World, lost: list[str], caplog: pytest.LogCaptureFixture
):
    world.finds(rolling(1))
    await world.recorder.flush()
    for name in lost:
        (world.path.parent / name).unlink()
    await world.recorder.flush()
    assert world.failures == 1
    assert [said["error"] for said in losses(caplog)] == ["was deleted or replaced while in use"]
    await world.recorder.flush()
    assert world.states() == [1]
    assert world.failures == 1


async def test_a_journal_that_replaces_another_is_opened_and_has_the_present_state_added(
    world: World, tmp_path: Path
):
    older = World(tmp_path / "older.sqlite")
    await older.recorder.open()
    older.finds(Upgrade(UpgradeState.FAULTED, start=3000.0), at=3500.0)
    await older.recorder.close()
    world.finds(rolling(1))
    await world.recorder.flush()
    older.path.rename(world.path)
    await world.recorder.flush()
    await world.recorder.flush()
    with reading(world.path) as journal:
        assert [each.upgrade.start for each in journal.upgrades(WEB.id)] == [3000.0, 4000.0]
    assert world.store[WEB.id].finished == ((UpgradeState.FAULTED, "", 1),)
    assert world.failures == 1


async def test_a_file_of_somebody_else_in_the_journals_place_is_left_alone_until_it_is_gone(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    world.finds(rolling(1))
    await world.recorder.flush()
    other = tmp_path / "notes"
    other.write_text("notes\n")
    other.rename(world.path)
    for number in (2, 3, 4):
        world.finds(rolling(number), at=5000.0 + number)
        await world.recorder.flush()
    assert world.path.read_text() == "notes\n"
    assert world.failures == 3
    (said,) = (each for each in caplog.records if each.message.startswith("journal failed"))
    assert said.fields["error"] == (  # type: ignore[attr-defined]
        "is not a journal of this exporter (file is not a database): move it away, or set another journal.path"
    )
    with world.recorder.past() as past:
        assert past(WEB) == ()
    world.path.unlink()
    await world.recorder.flush()
    assert world.states() == [2, 3, 4]


async def test_a_journal_that_cannot_be_moved_aside_stops_nothing_and_is_counted_each_time(
    world: World, caplog: pytest.LogCaptureFixture
):
    world.finds(rolling(1))
    await world.recorder.close()
    for number in range(journal_file.KEPT_ASIDE):
        world.path.with_name(f"journal.sqlite.corrupt-20260101T00000{number}Z").touch()
    damaged = garble(world.path)
    after = await restarted(world)
    assert after.failures == 1
    after.finds(rolling(2))
    await after.recorder.flush()
    assert after.failures > 1
    await after.recorder.close()
    assert world.path.read_bytes() == damaged
    assert len([each for each in caplog.records if each.message.startswith("journal failed")]) == 1


async def test_whoever_reads_the_past_of_a_damaged_journal_gets_none_and_has_it_moved_aside(world: World):
    world.finds(DONE)
    world.finds(DONE, scale_set=API)
    await world.recorder.close()
    world.recorder = Recorder(world.path, 1000.0, world.store, world.telemetry)
    await world.recorder.open()
    with world.recorder.past() as past:
        assert past(WEB) == (DONE,)
    damaged = garble(world.path)
    with world.recorder.past() as past:
        assert (past(WEB), past(API)) == ((), ())
    assert world.path.read_bytes() == damaged
    assert world.failures == 0
    await world.recorder.flush()
    assert world.failures == 1
    await world.recorder.flush()
    with world.recorder.past() as past:
        assert (past(WEB), past(API)) == ((DONE,), (DONE,))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE upgrades SET facts = 'nonsense'",
        "UPDATE upgrades SET facts = '[1]'",
        "UPDATE upgrades SET facts = CAST(x'ff' AS TEXT)",
        "UPDATE upgrades SET facts = x'ff'",
        "UPDATE changes SET state = 'Fine'",
        "UPDATE changes SET seen = 'noon'",
        "DROP TABLE changes",
    ],
)
async def test_whoever_reads_a_past_that_breaks_the_model_gets_none(
    world: World, statement: str, caplog: pytest.LogCaptureFixture
):
    world.finds(DONE)
    await world.recorder.flush()
    with closing(sqlite3.connect(world.path)) as db, db:
        db.execute(statement)
    with world.recorder.past() as past:
        assert past(WEB) == ()
    assert "defect" not in caplog.text


async def test_one_bad_row_costs_no_other_scale_set_what_is_known_and_is_counted_and_logged(
    world: World, caplog: pytest.LogCaptureFixture
):
    world.finds(rolling(1))
    world.finds(rolling(1), scale_set=API)
    await world.recorder.flush()
    with closing(sqlite3.connect(world.path)) as db, db:
        db.execute("UPDATE polls SET last_success = 'noon' WHERE scale_set = 1")
    assert (await world.recorder.remember([WEB, API])).keys() == {API.id}
    assert world.failures == 1
    (said,) = (each for each in caplog.records if "unreadable rows" in each.message)
    assert said.fields["scale_sets"] == 1  # type: ignore[attr-defined]
    assert str(said.fields["error"]) == "'noon' where a time belongs"  # type: ignore[attr-defined]
