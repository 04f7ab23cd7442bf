"""What a poll changes of what is known."""

from dataclasses import replace

import pytest

from exporter.history import History, Progress, Upgrade, UpgradeState
from exporter.scale_set import ScaleSet
from exporter.snapshot import (
    Reason,
    Snapshot,
    after_failure,
    after_pause,
    after_restart,
    after_success,
    without_history,
)

UNKNOWN = Snapshot(ScaleSet("s", "rg", "web", 300.0), 300.0)
START = 1000.0


def history(
    state: UpgradeState = UpgradeState.ROLLING_FORWARD,
    pending: int = 9,
    start: float | None = START,
    end: float | None = None,
) -> History:
    return History((Upgrade(state=state, start=start, end=end, progress=Progress(pending=pending)),))


def test_nothing_is_known_before_the_first_poll():
    assert (UNKNOWN.polled, UNKNOWN.latest, UNKNOWN.last_poll) == (False, None, None)


def test_a_good_poll_brings_history_and_timestamps():
    known = after_success(UNKNOWN, history(), now=2000.0)
    assert known.polled
    assert known.latest == history().latest
    assert (known.last_poll, known.last_success, known.last_progress) == (2000.0, 2000.0, 2000.0)
    assert known.failure is None


def test_a_failed_poll_is_visible_and_keeps_the_last_good_answer_with_its_time():
    known = after_failure(after_success(UNKNOWN, history(), 2000.0), Reason.TIMEOUT, "no answer", 2060.0)
    assert (known.failure, known.failure_message) == (Reason.TIMEOUT, "no answer")
    assert (known.last_poll, known.last_success) == (2060.0, 2000.0)
    assert known.latest == history().latest


def test_a_good_poll_ends_the_failure():
    known = after_success(after_failure(UNKNOWN, Reason.TIMEOUT, "no answer", 2000.0), history(), 2060.0)
    assert (known.failure, known.failure_message) == (None, "")


def test_the_digest_of_an_answer_stays_as_long_as_what_it_said():
    known = after_failure(after_success(UNKNOWN, history(), 2000.0, b"d"), Reason.TIMEOUT, "", 2060.0)
    assert known.digest == b"d"
    assert after_success(known, history(), 2120.0).digest == b""
    assert without_history(known).digest == b""


def after_failures(known: Snapshot, *reasons: Reason) -> Snapshot:
    for number, reason in enumerate(reasons):
        known = after_failure(known, reason, "no", 2060.0 + number)
    return known


GONE = Reason.NOT_FOUND


@pytest.mark.parametrize(
    ("reasons", "missing"),
    [
        ([GONE], False),
        ([GONE, GONE], True),
        ([GONE, GONE, GONE], True),
        ([GONE, Reason.TIMEOUT, GONE], True),
        ([GONE, Reason.UNREACHABLE, Reason.TIMEOUT, GONE], True),
        ([GONE, GONE, Reason.TIMEOUT], True),
        ([GONE, Reason.BAD_REQUEST, GONE], False),
        ([GONE, Reason.SERVER_ERROR, GONE], False),
        ([GONE, Reason.THROTTLED, GONE], False),
        ([GONE, Reason.FORBIDDEN, GONE], False),
        ([GONE, Reason.UNAUTHORIZED, GONE], False),
        ([GONE, Reason.MALFORMED, GONE], False),
        ([Reason.BAD_REQUEST] * 5, False),
    ],
    ids=lambda value: " ".join(reason.value for reason in value) if isinstance(value, list) else "",
)
def test_two_answers_in_a_row_that_a_scale_set_does_not_exist_take_its_history(
    reasons: list[Reason], missing: bool
):
    known = after_failures(after_success(UNKNOWN, history(), 2000.0), *reasons)
    assert known.missing is missing
    assert known.latest == (None if missing else history().latest)
    assert known.last_success == 2000.0


def test_a_good_poll_ends_the_row_of_answers_that_a_scale_set_does_not_exist():
    known = after_failures(after_success(UNKNOWN, history(), 2000.0), GONE)
    known = after_failures(after_success(known, history(), 2100.0), GONE)
    assert (known.missing, known.latest) == (False, history().latest)


def test_a_pause_does_not_end_the_row_of_answers_that_a_scale_set_does_not_exist():
    known = after_pause(after_failures(after_success(UNKNOWN, history(), 2000.0), GONE))
    assert after_failures(known, GONE).missing


def test_an_answer_that_is_no_more_not_found_ends_the_absence_but_brings_no_history():
    known = after_failures(after_success(UNKNOWN, history(), 2000.0), GONE, GONE, Reason.FORBIDDEN)
    assert (known.missing, known.history) == (False, None)


def test_a_pause_is_a_failure_but_no_poll():
    known = after_pause(after_success(UNKNOWN, history(), 2000.0))
    assert (known.failure, known.last_poll) == (Reason.THROTTLED, 2000.0)
    assert known.failure_message == "the subscription is paused"
    assert known.latest == history().latest


@pytest.mark.parametrize(
    ("first", "progress"),
    [
        (history(), 2000.0),
        (history(start=None), 2000.0),
        (history(UpgradeState.COMPLETED), 2000.0),
        (history(UpgradeState.FAULTED, end=1500.0), 1500.0),
        (History(), None),
    ],
    ids=["active", "without a start", "finished at an unknown time", "finished", "never upgraded"],
)
def test_an_upgrade_at_first_sight_has_made_progress_now_or_ended_and_never_when_it_started(
    first: History, progress: float | None
):
    assert after_success(UNKNOWN, first, now=2000.0).last_progress == progress


@pytest.mark.parametrize(
    ("second", "progress"),
    [
        (history(), 2000.0),
        (history(pending=8), 2060.0),
        (History((Upgrade(UpgradeState.ROLLING_FORWARD, START),)), 2060.0),
        (history(UpgradeState.COMPLETED), 2060.0),
        (history(UpgradeState.COMPLETED, end=2030.0), 2030.0),
        (history(start=2030.0), 2060.0),
        (History(), None),
    ],
    ids=["the same", "other counts", "no counts", "another state", "ended", "another upgrade", "no upgrade"],
)
def test_progress_is_when_state_and_counts_were_first_seen_as_they_are(
    second: History, progress: float | None
):
    known = after_success(after_success(UNKNOWN, history(), 2000.0), second, 2060.0)
    assert known.last_progress == progress


def test_an_outage_longer_than_max_age_is_no_progress():
    known = after_success(after_success(UNKNOWN, history(), 2000.0), history(pending=8), 2060.0)
    back = after_success(without_history(known), history(pending=8), 99_000.0)
    assert without_history(known).history is None
    assert back.last_progress == 2060.0


def test_what_the_journal_knows_is_served_as_it_was_until_it_is_too_old():
    known = replace(after_success(UNKNOWN, history(), 2000.0), remembered=True, finished=())
    assert after_restart(known, 2100.0, max_age=100.0) == known
    late = after_restart(known, 2100.5, max_age=100.0)
    assert (late.polled, late.history, late.last_poll, late.last_success) == (False, None, None, None)
    assert (late.latest_seen, late.last_progress, late.finished) == (history().latest, 2000.0, ())
    assert (late.scale_set, late.interval) == (known.scale_set, known.interval)
    assert after_success(late, history(pending=8), 3000.0).last_progress == 3000.0
    assert after_success(late, history(), 3000.0).last_progress == 2000.0


@pytest.mark.parametrize(
    ("last_success", "steady"),
    [
        pytest.param(2000.0, 9900.0, id="100 s old"),
        pytest.param(2100.0, 10_000.0, id="new"),
        pytest.param(9000.0, 10_000.0, id="in the future: the wall clock was set back since"),
    ],
)
def test_the_age_of_what_the_journal_knows_is_told_at_the_start_and_counted_by_the_steady_clock_then(
    last_success: float, steady: float
):
    known = replace(
        after_success(UNKNOWN, history(), last_success), last_success_steady=None, remembered=True
    )
    served = after_restart(known, 2100.0, max_age=100.0, steady_now=10_000.0)
    assert (served.last_success, served.last_success_steady) == (last_success, steady)


def test_a_poll_that_ends_good_or_bad_is_news_and_no_memory():
    known = replace(after_success(UNKNOWN, history(), 2000.0), remembered=True)
    assert after_success(known, history(), 2060.0).remembered is False
    assert after_failure(known, Reason.TIMEOUT, "", 2060.0).remembered is False
    assert after_pause(known).remembered


def test_an_equal_answer_leaves_the_very_same_history():
    known = after_success(UNKNOWN, history(), 2000.0)
    assert after_success(known, history(), 2060.0).history is known.history
