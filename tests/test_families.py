"""The table of families: literal exposition for each row, and byte for byte what prometheus_client writes."""

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector

from exporter.families import FAMILIES, IDENTITY, JOURNAL_FAMILIES, Family, render, upgrades_differ
from exporter.history import (
    ApiError,
    ErrorDetail,
    History,
    Image,
    Progress,
    Rollback,
    Upgrade,
    UpgradeState,
    parse_history,
)
from exporter.scale_set import ScaleSet
from exporter.snapshot import Reason, Snapshot, after_failure, after_pause, after_success, without_history
from tests.processes import debian_program

TABLE = FAMILIES + JOURNAL_FAMILIES
WEB = ScaleSet(
    "S", "RG", "Web", 300.0, location="eastus", labels=(("label_team", "pay"), ("tag_env", 'a"b\\c\nd'))
)
UNPOLLED = Snapshot(WEB, 300.0)
FAULTED = Upgrade(
    state=UpgradeState.FAULTED,
    start=1000.25,
    end=2000.5,
    progress=Progress(successful=3, failed=0, in_progress=None, pending=7),
    error=ApiError(
        code="E",
        message="never a label",
        target="t",
        exception_type="X",
        exception_detail="never either",
        details=(ErrorDetail("D"), ErrorDetail("D"), ErrorDetail(None, "m")),
    ),
    started_by="Platform",
    image=Image("pub", "off", "sku", "1", "1.2", "id", "gal", "com"),
    rollback=Rollback(successful=2, failed=1, error=ApiError(code="R")),
    location="westus",
)
COMPLETED = Upgrade(state=UpgradeState.COMPLETED, start=100.0, end=200.0)


def good(*upgrades: Upgrade) -> Snapshot:
    return after_success(UNPOLLED, History(upgrades), 3000.0)


def lines(family: str, snapshot: Snapshot) -> list[str]:
    (row,) = (row for row in TABLE if row.name == f"azure_vmss_os_upgrade_{family}")
    text = render([row], snapshot)[0].decode()
    return [line.removeprefix("azure_vmss_os_upgrade_") for line in text.split("\n")[:-1]]


ID = 'resource_group="rg",scale_set="web",subscription_id="s"'


def states(family: str, **values: int) -> list[str]:
    """Return the six lines of a family by state."""
    names = ("RollingForward", "RollingBack", "Completed", "Cancelled", "Faulted", "Unknown")
    return [
        f'{family}{{resource_group="rg",scale_set="web",state="{name}",subscription_id="s"}} {values.get(name, 0)}.0'
        for name in names
    ]


def finished(**values: int) -> list[str]:
    """Return the lines of what has finished; ``Faulted_User=2`` is given as one of them."""
    counts = {
        f"{state}_{started_by}": 0
        for state in ("Completed", "Cancelled", "Faulted")
        for started_by in ("Platform", "User")
    }
    return [
        f'upgrades_total{{resource_group="rg",scale_set="web",started_by="{started_by}",state="{state}",'
        f'subscription_id="s"}} {number}.0'
        for key, number in (counts | values).items()
        for state, _, started_by in [key.partition("_")]
    ]


def by(label: str, value: str) -> str:
    """Return the labels of a sample with one label between the scale set's own."""
    pairs = sorted([("resource_group", "rg"), ("scale_set", "web"), ("subscription_id", "s"), (label, value)])
    return ",".join(f'{name}="{text}"' for name, text in pairs)


@pytest.mark.parametrize(
    ("family", "snapshot", "expected"),
    [
        ("up", UNPOLLED, []),
        ("up", good(), [f"up{{{ID}}} 1.0"]),
        ("up", after_failure(UNPOLLED, Reason.TIMEOUT, "", 1.0), [f"up{{{ID}}} 0.0"]),
        ("up", after_pause(UNPOLLED), [f"up{{{ID}}} 0.0"]),
        ("poll_error", good(), []),
        (
            "poll_error",
            after_failure(good(), Reason.NOT_FOUND, "", 1.0),
            ['poll_error{reason="not_found",resource_group="rg",scale_set="web",subscription_id="s"} 1.0'],
        ),
        ("last_poll_timestamp_seconds", UNPOLLED, []),
        (
            "last_poll_timestamp_seconds",
            after_failure(good(), Reason.TIMEOUT, "", 4000.5),
            [f"last_poll_timestamp_seconds{{{ID}}} 4000.5"],
        ),
        ("last_success_timestamp_seconds", after_failure(UNPOLLED, Reason.TIMEOUT, "", 1.0), []),
        (
            "last_success_timestamp_seconds",
            after_failure(good(), Reason.TIMEOUT, "", 4000.5),
            [f"last_success_timestamp_seconds{{{ID}}} 3000.0"],
        ),
        ("poll_interval_seconds", UNPOLLED, [f"poll_interval_seconds{{{ID}}} 300.0"]),
        ("state", UNPOLLED, []),
        ("state", good(), states("state")),
        ("state", good(FAULTED), states("state", Faulted=1)),
        ("state", good(Upgrade()), states("state", Unknown=1)),
        ("state", after_failure(good(FAULTED), Reason.TIMEOUT, "", 1.0), states("state", Faulted=1)),
        (
            "state",
            after_failure(after_failure(good(FAULTED), Reason.NOT_FOUND, "", 1.0), Reason.NOT_FOUND, "", 2.0),
            [],
        ),
        ("state", without_history(good(FAULTED)), []),
        ("instances", good(), []),
        ("instances", good(Upgrade()), []),
        ("instances", good(Upgrade(progress=Progress())), []),
        (
            "instances",
            good(FAULTED),
            [
                f"instances{{{by('state', 'successful')}}} 3.0",
                f"instances{{{by('state', 'failed')}}} 0.0",
                f"instances{{{by('state', 'pending')}}} 7.0",
            ],
        ),
        (
            "instances",
            good(Upgrade(progress=Progress(in_progress=2))),
            [f"instances{{{by('state', 'in_progress')}}} 2.0"],
        ),
        ("rolled_back_instances", good(COMPLETED), []),
        (
            "rolled_back_instances",
            good(FAULTED),
            [
                f"rolled_back_instances{{{by('result', 'successful')}}} 2.0",
                f"rolled_back_instances{{{by('result', 'failed')}}} 1.0",
            ],
        ),
        ("start_timestamp_seconds", good(Upgrade()), []),
        ("start_timestamp_seconds", good(FAULTED), [f"start_timestamp_seconds{{{ID}}} 1000.25"]),
        ("end_timestamp_seconds", good(Upgrade(start=1.0)), []),
        ("end_timestamp_seconds", good(FAULTED), [f"end_timestamp_seconds{{{ID}}} 2000.5"]),
        ("last_progress_timestamp_seconds", good(), []),
        ("last_progress_timestamp_seconds", without_history(good(FAULTED)), []),
        (
            "last_progress_timestamp_seconds",
            good(FAULTED),
            [f"last_progress_timestamp_seconds{{{ID}}} 2000.5"],
        ),
        ("info", good(), []),
        (
            "info",
            good(FAULTED),
            [
                (
                    'info{community_gallery_image_id="com",exact_version="1.2",image_id="id",offer="off",publisher="pub",'
                    'resource_group="rg",scale_set="web",shared_gallery_image_id="gal",sku="sku",started_by="Platform",'
                    'subscription_id="s",version="1"} 1.0'
                )
            ],
        ),
        (
            "info",
            good(Upgrade()),
            [
                (
                    'info{community_gallery_image_id="",exact_version="",image_id="",offer="",publisher="",'
                    'resource_group="rg",scale_set="web",shared_gallery_image_id="",sku="",started_by="",'
                    'subscription_id="s",version=""} 1.0'
                )
            ],
        ),
        ("error_info", good(COMPLETED), []),
        (
            "error_info",
            good(FAULTED),
            [
                (
                    'error_info{code="E",exception_type="X",resource_group="rg",scale_set="web",subscription_id="s",'
                    'target="t"} 1.0'
                )
            ],
        ),
        (
            "error_info",
            good(Upgrade(error=ApiError(message="only this"))),
            [
                (
                    'error_info{code="",exception_type="",resource_group="rg",scale_set="web",subscription_id="s",'
                    'target=""} 1.0'
                )
            ],
        ),
        ("error_details", good(Upgrade(error=ApiError())), []),
        (
            "error_details",
            good(FAULTED),
            [f"error_details{{{by('code', 'D')}}} 2.0", f"error_details{{{by('code', '')}}} 1.0"],
        ),
        ("rollback_error_info", good(Upgrade(rollback=Rollback(1, 0))), []),
        (
            "rollback_error_info",
            good(FAULTED),
            [
                (
                    'rollback_error_info{code="R",exception_type="",resource_group="rg",scale_set="web",'
                    'subscription_id="s",target=""} 1.0'
                )
            ],
        ),
        ("history_upgrades", UNPOLLED, []),
        ("history_upgrades", good(), states("history_upgrades")),
        (
            "history_upgrades",
            good(COMPLETED, FAULTED, COMPLETED),
            states("history_upgrades", Completed=2, Faulted=1),
        ),
        ("last_completed_timestamp_seconds", good(FAULTED), []),
        (
            "last_completed_timestamp_seconds",
            good(COMPLETED, FAULTED),
            [f"last_completed_timestamp_seconds{{{ID}}} 200.0"],
        ),
        (
            "last_completed_timestamp_seconds",
            good(Upgrade(state=UpgradeState.COMPLETED, start=100.0)),
            [f"last_completed_timestamp_seconds{{{ID}}} 100.0"],
        ),
        ("last_completed_timestamp_seconds", good(Upgrade(state=UpgradeState.COMPLETED)), []),
        ("upgrades_total", good(FAULTED), []),
        ("upgrades_total", replace(UNPOLLED, finished=()), finished()),
        (
            "upgrades_total",
            replace(
                without_history(good(FAULTED)),
                finished=((UpgradeState.FAULTED, "User", 2), (UpgradeState.COMPLETED, "", 7)),
            ),
            finished(Faulted_User=2, Completed_=7),
        ),
        (
            "scale_set_info",
            UNPOLLED,
            [
                (
                    'scale_set_info{label_team="pay",location="eastus",name="Web",resource_group="rg",scale_set="web",'
                    'subscription_id="s",tag_env="a\\"b\\\\c\\nd"} 1.0'
                )
            ],
        ),
        (
            "scale_set_info",
            good(replace(FAULTED, location="")),
            [
                (
                    'scale_set_info{label_team="pay",location="eastus",name="Web",resource_group="rg",scale_set="web",'
                    'subscription_id="s",tag_env="a\\"b\\\\c\\nd"} 1.0'
                )
            ],
        ),
        (
            "scale_set_info",
            good(FAULTED),
            [
                (
                    'scale_set_info{label_team="pay",location="westus",name="Web",resource_group="rg",scale_set="web",'
                    'subscription_id="s",tag_env="a\\"b\\\\c\\nd"} 1.0'
                )
            ],
        ),
    ],
)
def test_a_row_gives_these_lines(family: str, snapshot: Snapshot, expected: list[str]):
    assert lines(family, snapshot) == expected


def test_a_sample_keeps_the_fraction_of_a_second_of_azures_seventh_digit():
    # ...563 as Azure wrote it is ...562 as the nearest double prints.
    assert lines("start_timestamp_seconds", good(Upgrade(start=1521965322.1334563))) == [
        f"start_timestamp_seconds{{{ID}}} 1.5219653221334562e+09"
    ]


def test_every_row_is_tested_above():
    (table,) = (mark for mark in test_a_row_gives_these_lines.pytestmark)
    tested = {f"azure_vmss_os_upgrade_{family}" for family, _, _ in table.args[1]}
    assert tested == {family.name for family in TABLE}


@pytest.mark.parametrize("family", TABLE, ids=lambda family: family.name)
def test_a_help_text_is_one_plain_sentence(family: Family):
    assert family.help.endswith(".")
    assert not set(family.help) & set('"\\\n')


class Reference(Collector):
    """The same samples, handed to prometheus_client."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        scale_set = self.snapshot.scale_set
        for family in TABLE:
            own = scale_set.labels if family.own_labels else ()
            names = [*IDENTITY, *(name for name, _ in own), *family.labels]
            kind = CounterMetricFamily if family in JOURNAL_FAMILIES else GaugeMetricFamily
            metric = kind(family.name, family.help, labels=names)
            for further, value in family.samples(self.snapshot):
                metric.add_metric([*scale_set.identity, *(text for _, text in own), *further], value)
            yield metric


def ours(snapshot: Snapshot, *, openmetrics: bool = False) -> bytes:
    pieces = zip(TABLE, render(TABLE, snapshot), strict=True)
    return b"".join(
        (family.openmetrics_header if openmetrics else family.header) + piece for family, piece in pieces
    )


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
PROPERTIES = ("runningStatus", "progress", "error", "startedBy", "targetImageReference", "rollbackInfo")
KEYS = (
    *("code", "startTime", "endTime", "completedTime", "successfulInstanceCount", "failedInstanceCount"),
    *("message", "target", "details", "innererror", "exceptiontype", "publisher", "version", "rollbackError"),
    *("successfullyRolledbackInstanceCount", "failedRolledbackInstanceCount"),
)
NUMBER = st.none() | st.integers(0, 2**31 - 1)
TIME = st.none() | st.floats(0, 1e10)
ERROR = st.builds(
    ApiError,
    code=st.none() | TEXT,
    target=st.none() | TEXT,
    exception_type=st.none() | TEXT,
    details=st.lists(st.builds(ErrorDetail, code=st.none() | TEXT), max_size=4).map(tuple),
)
UPGRADE = st.builds(
    Upgrade,
    state=st.sampled_from(UpgradeState),
    start=TIME,
    end=TIME,
    progress=st.none() | st.builds(Progress, NUMBER, NUMBER, NUMBER, NUMBER),
    error=st.none() | ERROR,
    started_by=st.none() | TEXT,
    image=st.none() | st.builds(Image, *[st.none() | TEXT] * 8),
    rollback=st.none() | st.builds(Rollback, NUMBER, NUMBER, st.none() | ERROR),
    location=st.none() | TEXT,
)
FINISHED = st.dictionaries(
    st.tuples(st.sampled_from([UpgradeState.COMPLETED, UpgradeState.FAULTED]), TEXT), st.integers(1, 99)
).map(lambda counts: tuple((*key, number) for key, number in counts.items()))
SNAPSHOT = st.builds(
    after_success,
    st.builds(
        Snapshot,
        st.builds(
            ScaleSet,
            TEXT,
            TEXT,
            TEXT,
            st.just(300.0),
            labels=st.lists(
                st.tuples(st.from_regex(r"(label|tag)_[a-z0-9_]{1,4}", fullmatch=True), TEXT),
                max_size=3,
                unique_by=lambda pair: pair[0],
            ).map(tuple),
        ),
        st.floats(1, 1e6),
        finished=st.none() | FINISHED,
    ),
    st.lists(UPGRADE, max_size=3).map(lambda upgrades: History(tuple(upgrades))),
    st.floats(0, 1e10),
)


@given(SNAPSHOT)
def test_the_lines_are_byte_for_byte_those_of_prometheus_client_in_both_formats(snapshot: Snapshot):
    registry = CollectorRegistry()
    registry.register(Reference(snapshot))
    assert ours(snapshot) == generate_latest(registry)
    assert ours(snapshot, openmetrics=True) + b"# EOF\n" == generate_openmetrics(registry)


def prometheus_reads(folder: Path, lines: bytes) -> list[dict[str, str]]:
    """Return the labels of all series as Prometheus itself reads and prints them."""
    promtool = debian_program("promtool")
    stamped = b"".join(line + b" 1700000000\n" for line in lines.split(b"\n")[:-1])
    file, blocks = folder / "lines", folder / "blocks"
    file.write_bytes(b"# TYPE azure_vmss_os_upgrade_info gauge\n" + stamped + b"# EOF\n")
    subprocess.run(
        [promtool, "tsdb", "create-blocks-from", "openmetrics", file, blocks], check=True, capture_output=True
    )
    (blocks / "wal").mkdir()  # without which promtool takes it for no database
    dump = subprocess.run([promtool, "tsdb", "dump", blocks], check=True, capture_output=True).stdout
    shutil.rmtree(blocks)
    # Go quotes with escapes that are all Python's, too.
    pairs = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*")')
    return [
        {name: ast.literal_eval(text) for name, text in pairs.findall(line)}
        for line in dump.decode().split("\n")[:-1]
    ]


NASTY = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from('\\"\n{},= #\t\r\x00\x85\u2028'),
    min_size=1,
    max_size=12,
)


@given(st.lists(NASTY, min_size=5, max_size=60, unique=True))
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_prometheus_reads_every_label_as_it_was_meant(tmp_path: Path, texts: list[str]):
    (family,) = (family for family in FAMILIES if family.name == "azure_vmss_os_upgrade_info")
    lines = b""
    for number, text in enumerate(texts):
        upgrade = Upgrade(image=Image(publisher=text, id=text[::-1]), started_by=text * 2)
        scale_set = ScaleSet("s", "rg", f"web-{number}", 300.0)
        snapshot = after_success(Snapshot(scale_set, 300.0), History((upgrade,)), 0.0)
        lines += family.render(snapshot, scale_set.identity)
    read = {labels["scale_set"]: labels for labels in prometheus_reads(tmp_path, lines)}
    assert len(read) == len(texts)
    for number, text in enumerate(texts):
        labels = read[f"web-{number}"]
        assert (labels["publisher"], labels["image_id"], labels["started_by"]) == (text, text[::-1], text * 2)


ANY_TEXT = st.text(st.characters(codec=None), max_size=8)  # half surrogates, too: JSON can say them
ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats()
    | ANY_TEXT
    | st.just("9999-12-31T23:59:59.9999999-23:59"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=20,
)


@given(
    st.lists(
        st.fixed_dictionaries({"properties": st.fixed_dictionaries(dict.fromkeys(PROPERTIES, ANY))}),
        max_size=4,
    )
)
def test_whatever_azure_says_becomes_lines_that_both_parsers_read(value: list[object]):
    history = parse_history([{"value": value}])
    assert isinstance(history, History)
    lines = ours(after_success(Snapshot(ScaleSet("s", "rg", "web", 300.0), 300.0), history, 0.0)).decode()
    for families in (parse_text(lines), parse_openmetrics(lines + "# EOF\n")):
        samples = [
            (sample.name, *sorted(sample.labels.items())) for family in families for sample in family.samples
        ]
        assert len(samples) == len(set(samples)) >= 15


@given(SNAPSHOT)
def test_no_two_samples_are_the_same_series(snapshot: Snapshot):
    series = [
        line.rpartition(b" ")[0] for piece in render(TABLE, snapshot) for line in piece.split(b"\n")[:-1]
    ]
    assert len(series) == len(set(series))


@pytest.mark.parametrize(
    ("change", "may_differ"),
    [
        ({}, False),
        ({"last_poll": 4000.0, "last_success": 4000.0}, False),
        ({"failure": Reason.TIMEOUT, "failure_message": "no answer"}, False),
        ({"history": History((COMPLETED,))}, True),
        ({"last_progress": 4000.0}, True),
        ({"finished": ((UpgradeState.COMPLETED, "Platform", 1),)}, True),
        ({"scale_set": replace(WEB, location="northeurope")}, True),
    ],
    ids=["nothing", "a poll", "a failure", "the history", "progress", "the journal", "the scale set"],
)
def test_the_lines_of_upgrades_are_rendered_anew_when_they_may_differ(
    change: dict[str, Any], may_differ: bool
):
    before = good(COMPLETED)
    assert upgrades_differ(before, replace(before, **change)) is may_differ


@pytest.mark.parametrize("family", FAMILIES + JOURNAL_FAMILIES, ids=lambda family: family.name)
def test_a_series_leaves_room_for_the_labels_of_the_scraper(family: Family):
    own = 40 if family.own_labels else 0
    kept_free_for_orchestration_mode = 1 if family.own_labels else 0
    labels = ("__name__", *IDENTITY, *family.labels)
    assert len(labels) + own + kept_free_for_orchestration_mode + 16 <= 63
    assert max(map(len, (family.name, *labels))) <= 511
