"""The store: what a scrape gets after polls, changes and departures."""

from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from exporter.families import FAMILIES, JOURNAL_FAMILIES, render
from exporter.history import History, Upgrade, UpgradeState
from exporter.scale_set import Difference, ScaleSet, difference
from exporter.snapshot import Reason, after_failure, after_success
from exporter.store import BLOCK_SIZE, Store


def scale_sets(count: int) -> list[ScaleSet]:
    return [ScaleSet("s", "rg", f"web-{number}", 300.0) for number in range(count)]


def store_of(targets: list[ScaleSet]) -> Store:
    store = Store()
    store.apply(difference([], targets))
    return store


def names(store: Store) -> list[str]:
    """Return the scale sets of the exposition by their info, each of which must be there once."""
    families = text_string_to_metric_families(b"".join(store.exposition()).decode())
    return [
        sample.labels["scale_set"]
        for family in families
        if family.name == "azure_vmss_os_upgrade_scale_set_info"
        for sample in family.samples
    ]


def expected(store: Store, targets: list[ScaleSet]) -> bytes:
    """Return the exposition rendered anew, family by family."""
    rendered = [render(FAMILIES, store[target.id]) for target in targets]
    return b"".join(
        family.header + b"".join(pieces[index] for pieces in rendered)
        for index, family in enumerate(FAMILIES)
    )


@pytest.mark.parametrize("count", [0, 1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1])
def test_the_exposition_is_what_rendering_everything_anew_gives(count: int):
    targets = scale_sets(count)
    store = store_of(targets)
    assert b"".join(store.exposition()) == expected(store, targets)
    for target in targets[::3]:
        store.write(after_success(store[target.id], History((Upgrade(start=1.0),)), 10.0))
    assert b"".join(store.exposition()) == expected(store, targets)
    for target in targets[::2]:
        store.write(after_failure(store[target.id], Reason.TIMEOUT, "", 20.0))
    for _ in store.join():
        pass
    assert b"".join(store.exposition()) == expected(store, targets)


def test_a_scale_set_that_leaves_takes_its_lines_along_and_its_place_is_used_again():
    targets = scale_sets(BLOCK_SIZE + 2)
    store = store_of(targets)
    stay, new = targets[::2], [ScaleSet("s", "rg", "new", 300.0)]
    store.apply(difference(targets, stay + new))
    assert sorted(names(store)) == sorted(target.name for target in stay + new)
    assert len(store) == len(stay) + 1
    more = [ScaleSet("s", "rg", f"more-{number}", 300.0) for number in range(5)]
    for one in more:  # places are found again, not added
        store.apply(difference([], [one]))
    assert len(store.exposition()) == len(FAMILIES) * 3
    assert sorted(names(store)) == sorted(target.name for target in [*stay, *new, *more])


def test_it_holds_whom_it_was_given_and_nobody_else():
    web, api = scale_sets(2)
    store = store_of([web])
    assert web.id in store
    assert api.id not in store


@pytest.mark.parametrize(
    ("asked", "counter"),
    [
        ({}, b"upgrades_total"),
        ({"openmetrics": False}, b"upgrades_total"),
        ({"openmetrics": True}, b"upgrades"),
    ],
)
def test_a_counter_is_headed_as_each_format_wants(asked: dict[str, bool], counter: bytes):
    headers = b"".join(Store(FAMILIES + JOURNAL_FAMILIES).exposition(**asked)).splitlines()
    assert headers[-1] == b"# TYPE azure_vmss_os_upgrade_" + counter + b" counter"


def test_the_version_goes_up_with_every_change():
    (web,) = scale_sets(1)
    store = Store()
    versions = [store.version]
    store.apply(difference([], [web]))
    versions.append(store.version)
    for now in (10.0, 20.0):
        store.write(after_success(store[web.id], History(), now))
        versions.append(store.version)
    store.apply(difference([web], []))
    versions.append(store.version)
    assert versions == sorted(set(versions))


def test_a_scale_set_that_leaves_while_its_polls_fail_is_forgotten():
    (web,) = scale_sets(1)
    store = store_of([web])
    store.write(after_success(store[web.id], History(), 1000.0))
    store.write(after_failure(store[web.id], Reason.TIMEOUT, "", 1010.0))
    store.apply(difference([web], []))
    assert store.expire(9999.0, max_age=100.0, at_most=10) is False


def test_what_a_late_poll_writes_of_a_scale_set_that_left_is_ignored():
    (web,) = scale_sets(1)
    store = store_of([web])
    late = after_success(store[web.id], History(), 10.0)
    store.apply(Difference(gone=(web,), changed=(), new=()))
    version = store.version
    store.write(late)
    assert names(store) == []
    assert store.version == version


def test_a_changed_scale_set_keeps_what_is_known_of_it():
    (web,) = scale_sets(1)
    store = store_of([web])
    store.write(after_success(store[web.id], History((Upgrade(state=UpgradeState.FAULTED),)), 10.0))
    labelled = ScaleSet("s", "rg", "Web-0", 300.0, labels=(("label_team", "pay"),))
    store.apply(difference([web], [labelled]))
    body = b"".join(store.exposition()).decode()
    assert 'scale_set_info{label_team="pay",location="",name="Web-0",' in body
    assert 'state{resource_group="rg",scale_set="web-0",state="Faulted",subscription_id="s"} 1.0' in body


def test_a_poll_that_brings_nothing_new_changes_only_what_is_said_of_polls():
    (web,) = scale_sets(1)
    store = store_of([web])
    store.write(after_success(store[web.id], History((Upgrade(start=1.0),)), 10.0))
    before = b"".join(store.exposition()).decode().splitlines()
    store.write(after_success(store[web.id], History((Upgrade(start=1.0),)), 20.0))
    after = b"".join(store.exposition()).decode().splitlines()
    changed = [line.split("{")[0] for line, other in zip(before, after, strict=True) if line != other]
    assert changed == [
        "azure_vmss_os_upgrade_last_poll_timestamp_seconds",
        "azure_vmss_os_upgrade_last_success_timestamp_seconds",
    ]


def test_a_good_answer_goes_when_it_is_older_than_max_age_and_polls_fail():
    failing, good, gone = targets = scale_sets(3)
    store = store_of(targets)
    for target in targets:
        store.write(after_success(store[target.id], History((Upgrade(),)), 1000.0))
    store.write(after_failure(store[failing.id], Reason.TIMEOUT, "", 1010.0))
    for at in (1010.0, 1020.0):
        store.write(after_failure(store[gone.id], Reason.NOT_FOUND, "", at))
    assert store.expire(1100.0, max_age=100.0, at_most=10) is False
    assert store[failing.id].history is not None
    store.expire(1100.5, max_age=100.0, at_most=10)
    assert store[failing.id].history is None
    assert store[good.id].history is not None
    kept = {
        line.split("{")[0].removeprefix("azure_vmss_os_upgrade_")
        for line in b"".join(store.exposition()).decode().splitlines()
        if 'scale_set="web-0"' in line
    }
    assert kept == {
        "up",
        "poll_error",
        "last_poll_timestamp_seconds",
        "last_success_timestamp_seconds",
        "poll_interval_seconds",
        "scale_set_info",
    }


@pytest.mark.parametrize("wall", [-1e9, 1000.0, 1e9], ids=["stepped back", "not stepped", "stepped ahead"])
def test_the_age_of_a_good_answer_is_counted_by_the_steady_clock(wall: float):
    (web,) = scale_sets(1)
    store = store_of([web])
    store.write(after_success(store[web.id], History((Upgrade(),)), wall, steady_now=1000.0))
    store.write(after_failure(store[web.id], Reason.TIMEOUT, "", wall))
    store.expire(1100.0, max_age=100.0, at_most=10)
    assert store[web.id].history is not None
    store.expire(1100.5, max_age=100.0, at_most=10)
    assert store[web.id].history is None
    assert store[web.id].last_success == wall


def test_what_the_journal_remembers_goes_when_it_is_older_than_max_age_and_no_poll_has_ended():
    waiting, polled = targets = scale_sets(2)
    store = store_of(targets)
    for target in targets:
        known = after_success(store[target.id], History((Upgrade(),)), 1000.0)
        store.write(replace(known, remembered=True))
    store.write(after_success(store[polled.id], History((Upgrade(),)), 1010.0))
    store.expire(1050.0, max_age=100.0, at_most=10)
    assert all(known.history is not None for known in store.snapshots())
    store.expire(1200.0, max_age=100.0, at_most=10)
    assert store[waiting.id].history is None
    assert store[polled.id].history is not None


def test_outdated_answers_go_a_few_at_a_time():
    targets = scale_sets(5)
    store = store_of(targets)
    for target in targets:
        store.write(after_success(store[target.id], History(), 1000.0))
        store.write(after_failure(store[target.id], Reason.TIMEOUT, "", 1010.0))
    assert [store.expire(9999.0, 100.0, at_most=2) for _ in range(3)] == [True, True, False]
    assert all(snapshot.history is None for snapshot in store.snapshots())


# Mutants that live
#   `self._lengths = array("i", [0] * BLOCK_SIZE)`: no scale set has lines of two gigabytes.
#   `self._lengths = array("I", [1] * BLOCK_SIZE)`: places are taken in their order, and beyond the last there is nothing to cut.
#   `if len(self._replaced) >= BLOCK_SIZE // 4:`, `if len(self._replaced) > BLOCK_SIZE / 4:` and
#   `if len(self._replaced) > BLOCK_SIZE // 5:`: what is joined earlier or later is the same; that it is at all bounds memory.
#   `kept_from = None`: a slice from None is one from 0.
#   `self.version = 1` at the start, and `self.version += 2`: that it goes up is all that is asked of it.
#   `for family, blocks in zip(self._families, self._blocks, strict=None):`, `for family, blocks in zip(self._families, self._blocks, ):` and
#   `for family, blocks in zip(self._families, self._blocks, strict=False):`: both are of one length.
#   `families = self._families if (everything) or True else POLL_FAMILIES`: it costs time, and gives the same lines.
#   `for blocks, piece in zip(self._blocks, pieces, strict=None):  # POLL_FAMILIES stand first` and
#   `for blocks, piece in zip(self._blocks, pieces, ):  # POLL_FAMILIES stand first`: the same as False.
