"""The body of a scrape: plain and gzip are the same, in both formats."""

import asyncio
import gzip
import zlib
from dataclasses import replace

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter import exposition as module
from exporter.exposition import Exposition, Format
from exporter.families import FAMILIES, JOURNAL_FAMILIES, Family
from exporter.history import History
from exporter.scale_set import ScaleSet, difference
from exporter.snapshot import after_success
from exporter.store import Store
from exporter.telemetry import Telemetry

PARSERS = {Format.TEXT: parse_text, Format.OPENMETRICS: parse_openmetrics}


@pytest.fixture(params=[FAMILIES, FAMILIES + JOURNAL_FAMILIES], ids=["", "with a journal"])
def store(request: pytest.FixtureRequest) -> Store:
    return store_of(request.param)


def store_of(families: tuple[Family, ...]) -> Store:
    store = Store(families)
    store.apply(difference([], [ScaleSet("s", "rg", f"web-{number}", 300.0) for number in range(300)]))
    for known in list(store.snapshots())[:250]:
        store.write(replace(known, finished=()))
    return store


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


def without_process(body: bytes) -> list[bytes]:
    """Leave out what differs from one moment to the next: the process' own times and memory."""
    return [line for line in body.split(b"\n") if not line.startswith((b"process_", b"python_gc"))]


@pytest.mark.parametrize("in_format", Format)
@pytest.mark.parametrize("library", ["isal", "zlib"])
async def test_gzip_is_one_member_with_the_plain_body(
    store: Store, telemetry: Telemetry, in_format: Format, library: str, monkeypatch: pytest.MonkeyPatch
):
    if library == "zlib":
        monkeypatch.setattr(module, "zlib", zlib)
    exposition = Exposition(store, telemetry)
    plain = b"".join(exposition.plain(in_format))
    body = b"".join(await exposition.gzip(in_format))
    decompressor = zlib.decompressobj(31)
    assert without_process(decompressor.decompress(body)) == without_process(plain)
    assert (decompressor.eof, decompressor.unused_data) == (True, b"")
    assert without_process(gzip.decompress(body)) == without_process(plain)


@pytest.mark.parametrize("in_format", Format)
def test_the_parser_of_the_format_reads_it(store: Store, telemetry: Telemetry, in_format: Format):
    body = b"".join(Exposition(store, telemetry).plain(in_format)).decode()
    families = {family.name: family for family in PARSERS[in_format](body)}
    assert len(families["azure_vmss_os_upgrade_scale_set_info"].samples) == 300
    assert families["vmss_upgrade_exporter_build_info"].type == "gauge"
    assert families["process_cpu_seconds"].type == "counter"
    assert body.endswith("# EOF\n") == (in_format is Format.OPENMETRICS)


@pytest.mark.parametrize("in_format", Format)
async def test_a_counter_is_one_to_the_parser_of_each_format(telemetry: Telemetry, in_format: Format):
    exposition = Exposition(store_of(FAMILIES + JOURNAL_FAMILIES), telemetry)
    for body in (
        b"".join(exposition.plain(in_format)),
        gzip.decompress(b"".join(await exposition.gzip(in_format))),
    ):
        (counter,) = (
            each
            for each in PARSERS[in_format](body.decode())
            if "upgrades" in each.name and each.type == "counter"
        )
        assert counter.name == "azure_vmss_os_upgrade_upgrades"
        assert {sample.name for sample in counter.samples} == {"azure_vmss_os_upgrade_upgrades_total"}
        assert len(counter.samples) == 250 * 6
        others = [each.type for each in PARSERS[in_format](body.decode()) if each.name.startswith("azure")]
        assert sorted(set(others)) == ["counter", "gauge"]
        assert body.count(b"# TYPE azure_vmss_os_upgrade_upgrades_total counter") == (
            in_format is Format.TEXT
        )


async def test_a_change_is_in_the_next_scrape(store: Store, telemetry: Telemetry):
    exposition = Exposition(store, telemetry)
    await exposition.gzip(Format.TEXT)
    snapshot = next(iter(store.snapshots()))
    store.write(after_success(snapshot, History(), 1234.5))
    assert b" 1234.5\n" in gzip.decompress(b"".join(await exposition.gzip(Format.TEXT)))


async def test_scrapers_share_one_compression_until_something_changes(store: Store, telemetry: Telemetry):
    exposition = Exposition(store, telemetry)
    bodies = await asyncio.gather(*(exposition.gzip(in_format) for in_format in [*Format] * 3))
    bulk = shared(await exposition.gzip(Format.TEXT))
    assert all(len(body) == len(bodies[0]) for body in bodies)
    assert all(mine is others for body in bodies for mine, others in zip(bulk, shared(body), strict=True))
    store.write(after_success(next(iter(store.snapshots())), History(), 1234.5))
    assert shared(await exposition.gzip(Format.TEXT))[0] is not bulk[0]


def shared(body: list[bytes]) -> list[bytes]:
    """Leave out the header of the gzip member, a counter's header, and what is the exporter's own."""
    return body[1:-1:2]
