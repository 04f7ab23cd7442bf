"""Answers that are made to take memory and time are refused, and the largest that are allowed are taken.

How long each keeps the event loop, and how much memory it takes, is measured elsewhere: here it is what comes of it.
"""

import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from _pytest.mark import ParameterSet

from exporter.azure.client import Client
from exporter.azure.errors import Malformed
from exporter.discovery import Discoverer
from exporter.history import MAX_ALL_DETAILS, History, parse_history
from exporter.history import Malformed as MalformedHistory
from exporter.telemetry import Telemetry
from tests import bombs
from tests.azure.test_client import Azure, Tokens, cloud_at, http, listening, ok
from tests.bombs import MIB, SUBSCRIPTION, Bomb


@pytest.fixture
async def azure() -> AsyncIterator[Azure]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(listening())
        other = await stack.enter_async_context(listening())
        telemetry, tokens = Telemetry(), Tokens()
        client = Client(cloud_at(server.url), tokens, telemetry, connections=8)
        client.search_with(math.inf)
        stack.push_async_callback(client.close)
        yield Azure(server, other, client, tokens, telemetry)


def fast(table: dict[str, Bomb]) -> list[ParameterSet]:
    return [pytest.param(bomb, id=name) for name, bomb in table.items() if not bomb.slow]


@pytest.mark.parametrize("bomb", fast(bombs.HISTORIES))
async def test_a_history_is_refused_or_taken(azure: Azure, bomb: Bomb):
    azure.server.will(bomb.make())
    message = ""  # of a failure
    try:
        history = parse_history((await azure.poll(timeout_seconds=60.0)).pages)
        if isinstance(history, MalformedHistory):
            message = history.why
    except Malformed as failure:
        message = str(failure)
    assert (message.startswith(bomb.refused), bool(message)) == (True, bool(bomb.refused)), message
    assert len(azure.server.requests) == 1


@pytest.mark.parametrize("bomb", fast(bombs.SEARCHES))
async def test_an_answer_of_resource_graph_is_refused_or_taken(azure: Azure, bomb: Bomb):
    azure.server.will(bomb.make())
    message = ""
    try:
        found = await Discoverer(azure.client, azure.telemetry).find(SUBSCRIPTION, 120.0)
        raise AssertionError(f"{len(found)} found")
    except Malformed as failure:
        message = str(failure)
    assert (message.startswith(bomb.refused), bool(message)) == (True, bool(bomb.refused)), message
    assert len(azure.server.requests) == 1


@pytest.mark.parametrize("bomb", fast(bombs.LISTS))
async def test_an_answer_to_a_list_call_is_refused_or_taken(azure: Azure, bomb: Bomb):
    azure.server.will(http("403 Forbidden"), bomb.make())
    message = ""
    try:
        found = await Discoverer(azure.client, azure.telemetry).find(SUBSCRIPTION, 120.0)
        assert len(found) == 2_000
    except Malformed as failure:
        message = str(failure)
    assert (message.startswith(bomb.refused), bool(message)) == (True, bool(bomb.refused)), message
    assert len(azure.server.requests) == 2


async def test_the_limits_of_a_poll_are_for_all_its_pages_together(azure: Azure):
    page = bombs.history([{}] * 400)[:-1] + b',"nextLink":"%s/next"}' % azure.server.url.encode()
    azure.server.will(ok(page))
    assert str(await azure.failure()) == "more than 1000 entries"
    assert len(azure.server.requests) == 3


async def test_the_bytes_of_a_poll_are_those_of_all_its_pages(azure: Azure):
    page = b'{"value":[],"nextLink":"%s/next"}' % azure.server.url.encode()
    azure.server.will(bombs.zipped(page.ljust(3 * MIB)))
    assert str(await azure.failure()) == "more than 8388608 bytes"
    assert len(azure.server.requests) == 3


async def test_there_is_an_end_to_the_tags_of_a_search(azure: Azure):
    """A page of Resource Graph has room for 500,000 tags, and a search for a hundred pages."""
    rows = [{**bombs.row(each), "tags": dict.fromkeys(map(str, range(1000)), "")} for each in range(501)]  # type: ignore[dict-item]
    azure.server.will(ok({"data": rows[1:]}), ok({"data": rows}))
    discoverer = Discoverer(azure.client, azure.telemetry)
    assert len(await discoverer.find(SUBSCRIPTION, 60.0)) == 500
    with pytest.raises(Malformed, match="more than 500000 tags"):
        await discoverer.find(SUBSCRIPTION, 60.0)


@pytest.mark.parametrize("length", [16 * 1024, 16 * 1024 + 1])
async def test_a_skip_token_has_an_end(azure: Azure, length: int):
    more = {"data": [], "$skipToken": "x" * length}
    azure.server.will(ok(more), ok({"data": []}))
    if length == 16 * 1024:
        await azure.ask("graph")
    else:
        assert str(await azure.failure(what="graph")).startswith("no text for a $skipToken")


def test_the_details_of_a_history_are_counted_together():
    five = bombs.faulted(5)
    history = parse_history([{"value": five}])
    assert isinstance(history, History)
    assert len(history.upgrades) == 5
    assert MAX_ALL_DETAILS == 10_000
    more = [*five, bombs.upgrade(5, {"details": [{}]})]
    assert parse_history([{"value": more}]) == MalformedHistory("more than 10000 details of errors")


async def test_rows_that_are_no_scale_sets_are_counted_by_their_sum(azure: Azure):
    rows = [bombs.row(1), *[0] * 998, {**bombs.row(2), "tags": {"a": 1, "b": 2}}]  # type: ignore[dict-item]
    azure.server.will(ok({"data": rows}))
    found = await Discoverer(azure.client, azure.telemetry).find(SUBSCRIPTION, 60.0)
    assert [each.name for each in found] == ["set-1", "set-2"]
    counted = azure.telemetry.registry.get_sample_value
    name = "vmss_upgrade_exporter_unrecognised_values_total"
    assert counted(name, {"field": "data[].id"}) == 998
    assert counted(name, {"field": "data[].tags[]"}) == 2
