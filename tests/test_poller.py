"""From ring to store: what a poll makes of every misfortune, with a real client against the simulated Azure."""

import asyncio
import json
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from uuid import UUID

import pytest
import stamina
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from exporter.azure.client import ATTEMPTS, Client
from exporter.azure.clouds import Cloud
from exporter.azure.credential import Credential
from exporter.config import ManagedIdentity
from exporter.plan import Budget, Plan
from exporter.poller import Poller
from exporter.scale_set import Difference, ScaleSet
from exporter.simulator.fleet import Fleet
from exporter.simulator.server import Fault, Simulator, answering, hanging, reset, running
from exporter.store import Store
from exporter.telemetry import Telemetry

INTERVAL, MAX_AGE = 300.0, 3600.0
FAMILY = "azure_vmss_os_upgrade_"
OURS = {f"{FAMILY}{name}" for name in ("up", "poll_error", "poll_interval_seconds", "scale_set_info")} | {
    f"{FAMILY}{name}_timestamp_seconds" for name in ("last_poll", "last_success")
}
"""Families that stay when there is no history (any more)."""

Samples = dict[tuple[str, str], float]
"""Family without prefix, value of its last label (such as the state; else empty): value."""


def entry(code: str = "Completed", start: str = "2025-06-15T12:00:00Z", **properties: object) -> object:
    status = {"code": code, "startTime": start}
    counts = dict.fromkeys(("successful", "failed", "inProgress", "pending"), 1)
    progress = {f"{name}InstanceCount": count for name, count in counts.items()}
    return {
        "properties": {"runningStatus": status, "progress": progress, **properties},
        "location": "westeurope",
    }


def history(*entries: object) -> bytes:
    return json.dumps({"value": entries}).encode()


class Steps:
    """A clock that stands still until it is told to move."""

    def __init__(self) -> None:
        self.now = 1_750_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class World:
    """Two subscriptions with three scale sets each, all polled once."""

    simulator: Simulator
    store: Store
    telemetry: Telemetry
    client: Client
    poller: Poller
    impatient: Poller
    clock: Steps
    scale_sets: tuple[ScaleSet, ...]
    base_url: str
    plans: dict[str, Plan] = field(default_factory=dict)

    @property
    def web(self) -> ScaleSet:
        return self.scale_sets[0]

    def start(self) -> None:
        for plan in self.plans.values():
            self.poller.start_due(plan)

    async def ring(self, seconds: float = 0.0) -> None:
        """Let time pass, ring, and wait until the polls have ended."""
        self.clock.now += seconds
        self.start()
        await self.ended()

    async def ended(self) -> None:
        """Wait until no poll is in flight, nor waits for a slot."""
        async with asyncio.timeout(30):
            while self.poller.in_flight():
                await asyncio.sleep(0.005)

    async def round(self) -> None:
        """Give each scale set its turn: an interval holds each phase once."""
        for _ in range(6):
            await self.ring(INTERVAL / 6)

    async def fail(self, fault: Fault, reason: str) -> None:
        """Let a round of polls come upon this fault of ``web``."""
        self.break_(fault)
        patient = self.poller
        if reason == "timeout":
            self.poller = self.impatient
        await self.round()
        self.poller = patient

    def samples(self, scale_set: ScaleSet) -> Samples:
        text = b"".join(self.store.exposition()).decode()
        ours = [line for line in text.splitlines(keepends=True) if f'"{scale_set.identity[2]}"' in line]
        found: Samples = {}
        for family in text_string_to_metric_families("".join(ours)):
            for sample in family.samples:
                subscription_id, resource_group, name = scale_set.identity
                labels = dict(sample.labels)
                identity = (
                    labels.pop("subscription_id"),
                    labels.pop("resource_group"),
                    labels.pop("scale_set"),
                )
                if identity == (subscription_id, resource_group, name):
                    last = labels.get("reason", labels.get("state", labels.get("code", "")))
                    found[sample.name.removeprefix(FAMILY), last] = sample.value
        return found

    def upgrades(self, scale_set: ScaleSet) -> Samples:
        """The samples of what Azure said, without those of our own polls."""
        return {key: value for key, value in self.samples(scale_set).items() if FAMILY + key[0] not in OURS}

    def counted(self, name: str, **labels: str) -> float | None:
        return self.telemetry.registry.get_sample_value(f"vmss_upgrade_exporter_{name}", labels)

    def requests(self, scale_set: ScaleSet) -> int:
        return self.simulator.requests[scale_set.id]

    def break_(self, fault: Fault, scale_set: ScaleSet | None = None, times: float = float("inf")) -> None:
        self.simulator.fault((scale_set or self.web).id, fault, times)

    def says(self, *entries: object, scale_set: ScaleSet | None = None) -> None:
        self.simulator.histories[(scale_set or self.web).id] = history(*entries)

    async def remove(self, *scale_sets: ScaleSet) -> None:
        """Do as the daemon does."""
        for scale_set in scale_sets:
            self.plans[scale_set.subscription_id].remove(scale_set.id)
        await self.poller.retire(scale_set.id for scale_set in scale_sets)
        self.store.apply(Difference(gone=scale_sets, changed=(), new=()))


@pytest.fixture
async def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    for name in os.environ:
        if name.startswith(("AZURE_", "IDENTITY_", "MSI_")):
            monkeypatch.delenv(name)
    async with AsyncExitStack() as stack:
        simulator = Simulator(Fleet(epoch=time.time() - 1, scale_sets=6), enforce_budgets=False)
        base_url = await stack.enter_async_context(running(simulator))
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{base_url}/token")
        monkeypatch.setenv("IDENTITY_HEADER", "simulator")
        cloud = Cloud("custom", base_url, base_url, base_url)
        telemetry, store, clock = Telemetry(), Store(), Steps()
        credential = Credential(ManagedIdentity(), cloud, telemetry)
        stack.push_async_callback(credential.close)
        client = Client(cloud, credential, telemetry, connections=64)
        stack.push_async_callback(client.close)
        concurrency = getattr(request, "param", 64)
        poller, impatient = (
            Poller(client, store, telemetry, clock, concurrency=concurrency, timeout_seconds=seconds)
            for seconds in (6.0, 0.9)
        )
        stack.push_async_callback(poller.drain, 0)
        scale_sets = tuple(
            ScaleSet(each.subscription_id, each.resource_group, each.name, interval=INTERVAL)
            for each in simulator.fleet.scale_sets
        )
        store.apply(Difference(gone=(), changed=(), new=scale_sets))
        world = World(simulator, store, telemetry, client, poller, impatient, clock, scale_sets, base_url)
        for scale_set in scale_sets:
            world.says(entry(), scale_set=scale_set)
            plan = world.plans.setdefault(scale_set.subscription_id, Plan(Budget(400.0, 10.0), 60.0, clock()))
            plan.add(scale_set.id, INTERVAL, clock())
        await world.ring()
        yield world


@pytest.fixture(autouse=True)
def no_waits() -> Iterator[None]:
    """Retry at once, as often as ever."""
    with stamina.set_testing(True, attempts=ATTEMPTS, cap=True):
        yield


# --- Good polls


async def test_a_first_poll_tells_all(world: World) -> None:
    for scale_set in world.scale_sets:
        samples = world.samples(scale_set)
        assert samples["up", ""] == 1
        assert samples["state", "Completed"] == 1
        assert samples["instances", "pending"] == 1
        assert samples["poll_interval_seconds", ""] == INTERVAL
        assert samples["last_poll_timestamp_seconds", ""] == samples["last_success_timestamp_seconds", ""]
        assert abs(time.time() - samples["last_poll_timestamp_seconds", ""]) < 30
        assert ("poll_error", "") not in samples
        assert world.requests(scale_set) == 1
    for subscription_id in world.plans:
        assert world.counted("polls_total", subscription_id=subscription_id) == 3
    assert world.counted("poll_duration_seconds_count") == 6
    assert world.counted("poll_delay_seconds_count") == 6


async def test_the_interval_in_force_follows_the_upgrade(world: World) -> None:
    world.says(entry("RollingForward"))
    await world.round()
    assert world.samples(world.web)["poll_interval_seconds", ""] == 60
    world.says(entry("Completed"))
    await world.round()
    assert world.samples(world.web)["poll_interval_seconds", ""] == INTERVAL


@pytest.mark.parametrize(("pages", "taken"), [(1, 1), (2, 0)])
async def test_each_further_page_is_spent(world: World, pages: int, taken: int) -> None:
    """Of four requests a minute, a poll of two pages leaves too few for another and its retries."""
    plan = Plan(Budget(4.0, 10.0), 60.0, world.clock())
    plan.add(world.web.id, INTERVAL, world.clock())
    link = f"{world.base_url}{world.web.id}/osUpgradeHistory?api-version=2025-04-01"
    page = json.dumps({"value": [], "nextLink": link}).encode()
    world.break_(answering(200, page), times=pages - 1)
    world.poller.start_due(plan)
    await world.poller.drain(5)
    assert world.requests(world.web) == 1 + pages
    plan.add("/another", INTERVAL, world.clock())
    assert len(plan.take(world.clock() + 59).polls) == taken


async def test_labels_of_a_reload_survive_the_poll_in_flight(world: World) -> None:
    world.break_(hanging(0.1), times=1)
    world.clock.now += INTERVAL
    world.start()
    renamed = replace(world.web, labels=(("label_team", "payments"),))
    world.store.apply(Difference(gone=(), changed=(renamed,), new=()))
    await world.poller.drain(5)
    assert world.store[world.web.id].scale_set == renamed
    assert b'label_team="payments"' in b"".join(world.store.exposition())


# --- Failures

FAILURES = [
    pytest.param(answering(401, b'{"error": {"code": "A", "message": "B"}}'), "unauthorized", id="401"),
    pytest.param(answering(403), "forbidden", id="403"),
    pytest.param(answering(429), "throttled", id="429"),
    pytest.param(answering(400), "bad_request", id="400"),
    pytest.param(answering(410), "bad_request", id="410"),
    pytest.param(answering(404), "bad_request", id="404 without a body"),
    pytest.param(answering(404, b"<h1>Not Found</h1>"), "bad_request", id="404 of a gateway"),
    pytest.param(
        answering(404, b'{"error": {"code": "SubscriptionNotFound"}}'), "bad_request", id="404 else"
    ),
    pytest.param(answering(404, b'{"error": {"code": "ResourceNotFound"}}'), "not_found", id="404"),
    pytest.param(answering(500), "server_error", id="500"),
    pytest.param(answering(502, b"<html>", {"Content-Type": "text/html"}), "server_error", id="502"),
    pytest.param(hanging(30), "timeout", id="hangs"),
    pytest.param(reset, "unreachable", id="resets"),
    pytest.param(answering(200, b"<html>"), "malformed", id="HTML"),
    pytest.param(answering(200, b"[]"), "malformed", id="a list"),
    pytest.param(answering(200, b"{}"), "malformed", id="no value"),
    pytest.param(answering(200, b'{"value": {}}'), "malformed", id="no list"),
    pytest.param(
        answering(200, b'{"value": [], "nextLink": "https://evil/"}'), "malformed", id="foreign link"
    ),
    pytest.param(answering(302, headers={"Location": "https://evil/"}), "malformed", id="redirect"),
]


@pytest.mark.parametrize(("fault", "reason"), FAILURES)
async def test_a_failure_shows_at_once_while_what_was_known_stays(
    world: World, fault: Fault, reason: str
) -> None:
    before, upgrades = world.samples(world.web), world.upgrades(world.web)
    assert len(upgrades) == 20
    await world.fail(fault, reason)
    after = world.samples(world.web)
    assert after["up", ""] == 0
    assert [key[1] for key in after if key[0] == "poll_error"] == [reason]
    assert after["poll_error", reason] == 1
    assert world.upgrades(world.web) == upgrades
    success = "last_success_timestamp_seconds", ""
    assert after[success] == before[success]
    assert after["last_poll_timestamp_seconds", ""] > before["last_poll_timestamp_seconds", ""]
    assert after["poll_interval_seconds", ""] == INTERVAL
    labels = {"subscription_id": world.web.subscription_id, "reason": reason}
    assert world.counted("poll_failures_total", **labels) == 1


@pytest.mark.parametrize(("fault", "reason"), [each for each in FAILURES if each.id != "hangs"])
async def test_what_was_known_goes_at_max_age(world: World, fault: Fault, reason: str) -> None:
    upgrades = world.upgrades(world.web)
    await world.fail(fault, reason)
    success = world.samples(world.web)["last_success_timestamp_seconds", ""]
    steady = world.store[world.web.id].last_success_steady
    assert steady is not None
    assert world.store.expire(steady + MAX_AGE, MAX_AGE, 10) is False
    assert world.upgrades(world.web) == upgrades
    assert world.store.expire(steady + MAX_AGE + 0.001, MAX_AGE, 10) is False
    samples = world.samples(world.web)
    assert {FAMILY + name for name, _ in samples} == OURS
    assert (samples["up", ""], samples["poll_error", reason]) == (0, 1)
    assert samples["last_success_timestamp_seconds", ""] == success


@pytest.mark.parametrize(("fault", "reason"), FAILURES)
async def test_after_a_failure_a_good_poll_makes_all_well(world: World, fault: Fault, reason: str) -> None:
    upgrades = world.upgrades(world.web)
    await world.fail(fault, reason)
    world.simulator.heal()
    await world.ring(61)  # past a pause
    await world.round()
    samples = world.samples(world.web)
    assert samples["up", ""] == 1
    assert [key for key in samples if key[0] == "poll_error"] == []
    assert samples["last_success_timestamp_seconds", ""] == samples["last_poll_timestamp_seconds", ""]
    assert world.upgrades(world.web) == upgrades


@pytest.mark.parametrize(("fault", "reason"), [each for each in FAILURES if each.id != "429"])
async def test_others_are_untouched(world: World, fault: Fault, reason: str) -> None:
    await world.fail(fault, reason)
    assert world.samples(world.web)["up", ""] == 0
    for other in world.scale_sets[1:]:
        samples = world.samples(other)
        assert samples["up", ""] == 1
        assert world.requests(other) == 2
        assert samples["state", "Completed"] == 1


@pytest.mark.parametrize("status", [404, 503])
async def test_the_same_answer_as_before_brings_back_what_had_gone(world: World, status: int) -> None:
    upgrades = world.upgrades(world.web)
    await world.fail(answering(status), "")
    world.store.expire(time.time() + 2 * MAX_AGE, MAX_AGE, 10)
    assert world.upgrades(world.web) == {}
    world.simulator.heal()
    for _ in range(5):
        await world.round()
    assert world.upgrades(world.web) == upgrades


async def test_the_same_answer_counts_its_absurd_fields_again(world: World) -> None:
    world.says(7)
    await world.round()
    await world.round()
    assert world.counted("unrecognised_values_total", field="value[]") == 2


async def test_the_absurd_fields_of_an_answer_are_counted_by_their_sum(world: World) -> None:
    count = {"properties": {"progress": {"failedInstanceCount": -1}}}
    world.says(*[7] * 600, *[count] * 400)
    await world.round()
    assert world.counted("unrecognised_values_total", field="value[]") == 600
    assert world.counted("unrecognised_values_total", field="properties.progress.failedInstanceCount") == 400


async def test_an_answer_with_more_entries_than_azure_keeps_is_malformed(world: World) -> None:
    world.says(*[{}] * 1001)
    await world.round()
    assert world.samples(world.web)["poll_error", "malformed"] == 1


GONE = b'{"error": {"code": "ResourceNotFound", "message": "Gone."}}'


async def test_one_not_found_keeps_all_that_was_known_and_the_interval(world: World) -> None:
    upgrades = world.upgrades(world.web)
    world.break_(answering(404, GONE), times=1)
    await world.round()
    samples = world.samples(world.web)
    assert (samples["up", ""], samples["poll_error", "not_found"]) == (0, 1)
    assert world.upgrades(world.web) == upgrades
    assert samples["poll_interval_seconds", ""] == INTERVAL
    await world.round()
    assert world.samples(world.web)["up", ""] == 1


async def test_a_second_not_found_in_a_row_takes_the_upgrade_and_makes_polls_rarer(
    world: World, log: pytest.LogCaptureFixture
) -> None:
    world.break_(answering(404, GONE))
    await world.round()
    await world.round()
    samples = world.samples(world.web)
    assert {FAMILY + name for name, _ in samples} == OURS
    assert [message for _, message, _ in lines(log, world.web)] == [
        "poll failed",
        "scale set does not exist, its upgrade is no longer served and it is polled less often",
    ]
    assert (samples["up", ""], samples["poll_error", "not_found"]) == (0, 1)
    assert samples["poll_interval_seconds", ""] == 4 * INTERVAL
    world.simulator.heal()
    for _ in range(5):
        await world.round()
    samples = world.samples(world.web)
    assert (samples["up", ""], samples["state", "Completed"]) == (1, 1)
    assert samples["poll_interval_seconds", ""] == INTERVAL


async def test_a_scale_set_never_reached_has_no_upgrade_families(world: World) -> None:
    new = ScaleSet(world.web.subscription_id, "rg-web", "gone", interval=INTERVAL)
    world.store.apply(Difference(gone=(), changed=(), new=(new,)))
    world.plans[new.subscription_id].add(new.id, INTERVAL, world.clock())
    await world.ring()
    samples = world.samples(new)
    assert {FAMILY + name for name, _ in samples} == OURS - {f"{FAMILY}last_success_timestamp_seconds"}
    assert samples["poll_error", "not_found"] == 1


async def test_an_empty_history_is_a_good_one(world: World) -> None:
    world.says()
    await world.round()
    samples = world.samples(world.web)
    assert samples["up", ""] == 1
    assert {samples["state", state] for name, state in samples if name == "state"} == {0}


async def test_an_absurd_field_is_counted_and_the_rest_is_served(world: World) -> None:
    world.says(
        entry(
            progress={
                "successfulInstanceCount": "three",
                "failedInstanceCount": 2,
                "pendingInstanceCount": -1,
            }
        ),
        entry(start="yesterday"),
        7,
    )
    await world.round()
    samples = world.samples(world.web)
    assert samples["up", ""] == 1
    assert {key for key in samples if key[0] == "instances"} == {("instances", "failed")}
    assert samples["history_upgrades", "Completed"] == 2
    assert {
        path: world.counted("unrecognised_values_total", field=path)
        for path in (
            "properties.progress.successfulInstanceCount",
            "properties.progress.pendingInstanceCount",
            "properties.runningStatus.startTime",
            "value[]",
        )
    } == {
        "properties.progress.successfulInstanceCount": 1,
        "properties.progress.pendingInstanceCount": 1,
        "properties.runningStatus.startTime": 1,
        "value[]": 1,
    }
    assert (
        world.counted("poll_failures_total", subscription_id=world.web.subscription_id, reason="malformed")
        is None
    )


class Defective(Client):
    """A client of whose making we should be ashamed."""

    def __init__(self) -> None:
        """Need nothing."""

    async def upgrade_history(self, *_: object) -> None:  # type: ignore[override]
        raise ZeroDivisionError


async def test_a_defect_of_ours_is_told_and_the_scale_set_stays_in_the_plan(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    poller = Poller(
        Defective(), world.store, world.telemetry, world.clock, concurrency=1, timeout_seconds=1.0
    )
    world.poller, sound = poller, world.poller
    await world.round()
    assert world.samples(world.web)["poll_error", "malformed"] == 1
    assert "ZeroDivisionError" in caplog.text
    world.poller = sound
    await world.round()
    assert world.samples(world.web)["up", ""] == 1


# --- Throttled


async def test_throttling_pauses_its_subscription_and_no_other(world: World) -> None:
    same = [each for each in world.scale_sets if each.subscription_id == world.web.subscription_id]
    others = [each for each in world.scale_sets if each not in same]
    world.break_(answering(429, headers={"Retry-After": "900"}), times=1)
    while world.samples(world.web)["up", ""]:
        await world.ring(10)
    sent = Counter(world.simulator.requests)
    upgrades = [world.upgrades(each) for each in same]
    polled = [world.samples(each)["last_poll_timestamp_seconds", ""] for each in same]
    until = world.counted("azure_paused_until_timestamp_seconds", subscription_id=world.web.subscription_id)
    assert until is not None
    assert abs(until - time.time() - 900) < 30

    await world.round()  # 300 of the 900 seconds: all come due
    assert [world.requests(each) - sent[each.id] for each in same] == [0, 0, 0]
    assert [world.requests(each) - sent[each.id] for each in others] == [1, 1, 1]
    for each in same:
        samples = world.samples(each)
        assert (samples["up", ""], samples["poll_error", "throttled"]) == (0, 1)
    assert [world.samples(each)["last_poll_timestamp_seconds", ""] for each in same] == polled
    assert [world.upgrades(each) for each in same] == upgrades
    assert all(world.samples(each)["up", ""] == 1 for each in others)
    assert world.counted("polls_skipped_total", reason="throttled") == 3

    await world.ring(600)
    await world.round()
    for each in world.scale_sets:
        assert world.samples(each)["up", ""] == 1
        assert [key for key in world.samples(each) if key[0] == "poll_error"] == []


@pytest.mark.parametrize("world", [1], indirect=True)
async def test_a_poll_that_still_waits_for_its_slot_sends_nothing_once_its_subscription_is_throttled(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    same = [each for each in world.scale_sets if each.subscription_id == world.web.subscription_id]
    for each in same:
        world.break_(answering(429, headers={"Retry-After": "900"}), each)
    sent = Counter(world.simulator.requests)
    plan = world.plans[world.web.subscription_id]
    for each in same:
        plan.change(each.id, 10.0, world.clock())  # all come due together
    await world.ring(10)
    assert sum(world.requests(each) - sent[each.id] for each in same) == 1
    assert all(world.samples(each)["poll_error", "throttled"] == 1 for each in same)

    await world.ring(10)
    assert sum(world.requests(each) - sent[each.id] for each in same) == 1
    assert [record.message for record in caplog.records].count("throttled by Azure") == 1

    world.simulator.heal()
    await world.ring(900)
    await world.round()
    assert all(world.samples(each)["up", ""] == 1 for each in same)


async def test_polls_in_flight_together_pause_their_subscription_with_one_line_in_the_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    same = [each for each in world.scale_sets if each.subscription_id == world.web.subscription_id]
    plan = world.plans[world.web.subscription_id]
    for seconds, each in enumerate(same, 900):
        world.break_(answering(429, headers={"Retry-After": str(seconds)}), each)
        plan.change(each.id, 10.0, world.clock())
    await world.ring(10)
    assert 900 <= plan.paused_for(world.clock()) <= 902
    assert [record.message for record in caplog.records].count("throttled by Azure") == 1


async def test_a_short_pause_is_told_too(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.break_(answering(429, headers={"Retry-After": "1"}), times=1)
    while world.samples(world.web)["up", ""]:
        await world.ring(10)
    assert [record.message for record in caplog.records].count("throttled by Azure") == 1


async def test_in_a_pause_no_poll_in_flight_sends_a_further_request(world: World) -> None:
    plan = world.plans[world.web.subscription_id]
    sent = world.requests(world.web)

    async def while_another_is_throttled(_: web.BaseRequest) -> web.Response:
        plan.pause(world.clock() + 900)
        return web.Response(status=503)

    world.break_(while_another_is_throttled)
    plan.change(world.web.id, 10.0, world.clock())
    await world.ring(10)
    assert world.requests(world.web) - sent == 1
    samples = world.samples(world.web)
    assert (samples["up", ""], samples["poll_error", "throttled"]) == (0, 1)
    assert plan.paused_for(world.clock()) == pytest.approx(900)


async def test_throttling_without_a_time_pauses_for_a_minute(world: World) -> None:
    world.break_(answering(429), times=1)
    while world.samples(world.web)["up", ""]:
        await world.ring(10)
    plan = world.plans[world.web.subscription_id]
    plan.add("/another", INTERVAL, world.clock())
    assert plan.take(world.clock() + 59).polls == ()
    assert "/another" in [due.scale_set_id for due in plan.take(world.clock() + 61).polls]


async def test_of_two_pauses_the_longer_counts(world: World) -> None:
    same = [each for each in world.scale_sets if each.subscription_id == world.web.subscription_id]
    plan = world.plans[world.web.subscription_id]
    await world.remove(same[2])

    async def shorter(_: web.BaseRequest) -> web.Response:
        await asyncio.sleep(0.1)
        return web.Response(status=429, headers={"Retry-After": "5"})

    world.break_(answering(429, headers={"Retry-After": "900"}))
    world.break_(shorter, same[1])
    await world.ring(INTERVAL)
    assert plan.take(world.clock() + 899).polls == ()
    until = world.counted("azure_paused_until_timestamp_seconds", subscription_id=world.web.subscription_id)
    assert until is not None
    assert abs(until - time.time() - 900) < 30


# --- Tasks


async def test_a_scale_set_is_never_polled_twice_at_a_time(world: World) -> None:
    for each in world.scale_sets:
        world.break_(hanging(0.1), each)
    async with asyncio.timeout(30):
        while min(world.requests(each) for each in world.scale_sets) <= 2:
            world.clock.now += INTERVAL
            world.start()
            await asyncio.sleep(0.02)
    await world.poller.drain(5)
    assert {world.simulator.most_concurrent[each.id] for each in world.scale_sets} == {1}


@pytest.mark.parametrize("world", [2], indirect=True)
async def test_no_more_polls_are_in_flight_than_allowed(world: World) -> None:
    in_flight = [0, 0]

    async def count(_: web.BaseRequest) -> None:
        in_flight[0] += 1
        in_flight[1] = max(in_flight)
        await asyncio.sleep(0.02)
        in_flight[0] -= 1

    world.simulator.fault("/subscriptions/", count)
    await world.ring(INTERVAL)
    assert all(world.requests(each) == 2 for each in world.scale_sets)
    assert in_flight == [0, 2]


@pytest.mark.parametrize("world", [2], indirect=True)
async def test_a_scale_set_that_finds_no_free_slot_is_no_task_and_stays_in_its_plan(
    world: World, until_told: tuple[Fault, asyncio.Event]
) -> None:
    fault, told = until_told
    world.simulator.fault("/subscriptions/", fault)
    world.clock.now += INTERVAL
    for _ in range(3):
        world.start()
        polls = [task for task in asyncio.all_tasks() if "Poller._run" in repr(task.get_coro())]
        assert len(polls) == len(world.poller.in_flight()) == 2
    waiting = [due for plan in world.plans.values() for due in plan.take(world.clock()).polls]
    assert len(waiting) == 4
    told.set()


@pytest.mark.parametrize("world", [2], indirect=True)
async def test_a_free_slot_goes_to_the_subscription_that_has_the_fewest(
    world: World, until_told: tuple[Fault, asyncio.Event]
) -> None:
    """The first to tick takes both slots, and one of its polls hangs: the slot that becomes free is the other's."""
    fault, told = until_told
    first, second = world.plans
    order: list[str] = []

    async def note(request: web.BaseRequest) -> None:
        order.append(request.path.split("/")[2])
        if len(order) == 1:
            await fault(request)

    world.simulator.fault("/subscriptions/", note)
    world.clock.now += INTERVAL
    world.start()
    async with asyncio.timeout(10):
        while len(order) < 6:
            await asyncio.sleep(0.005)
    told.set()
    await world.ended()
    assert order == [first, first, second, second, second, first]


async def test_a_free_slot_is_filled_at_once_and_not_at_the_next_tick(world: World) -> None:
    world.poller.use(world.client, 1)
    world.clock.now += INTERVAL
    world.start()
    await world.ended()
    assert all(world.requests(each) == 2 for each in world.scale_sets)


async def test_draining_starts_no_poll_that_waits_for_a_slot(world: World) -> None:
    world.poller.use(world.client, 1)
    world.clock.now += INTERVAL
    world.start()
    await world.poller.drain(5)
    assert sum(world.requests(each) for each in world.scale_sets) == 6 + 1
    assert world.poller.in_flight() == ()


@pytest.fixture
def arrived() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
def until_told(arrived: asyncio.Event) -> tuple[Fault, asyncio.Event]:
    told = asyncio.Event()

    async def wait(_: web.BaseRequest) -> None:
        arrived.set()
        await told.wait()

    return wait, told


async def in_flight(world: World, arrived: asyncio.Event, fault: Fault) -> None:
    """Bring it about that the poll of ``web``, and no other, is under way."""
    await world.remove(*world.scale_sets[1:])
    world.break_(fault)
    world.clock.now += INTERVAL
    world.start()
    await asyncio.wait_for(arrived.wait(), 5)


async def test_who_retires_writes_no_more(
    world: World, arrived: asyncio.Event, until_told: tuple[Fault, asyncio.Event]
) -> None:
    fault, told = until_told
    await in_flight(world, arrived, fault)
    version, samples = world.store.version, world.samples(world.web)
    world.says(entry("Faulted"))
    async with asyncio.timeout(1):
        await world.poller.retire([world.web.id])
    assert [task for task in asyncio.all_tasks() if "Poller._run" in repr(task.get_coro())] == []
    told.set()
    await asyncio.sleep(0.05)
    assert (world.store.version, world.samples(world.web)) == (version, samples)
    assert world.counted("polls_total", subscription_id=world.web.subscription_id) == 3


async def test_a_scale_set_that_is_gone_leaves_no_lines(
    world: World, arrived: asyncio.Event, until_told: tuple[Fault, asyncio.Event]
) -> None:
    fault, told = until_told
    await in_flight(world, arrived, fault)
    await world.remove(world.web)
    told.set()
    await asyncio.sleep(0.05)
    assert world.samples(world.web) == {}
    assert len(world.store) == 0


async def test_a_scale_set_may_retire_and_come_back(
    world: World, arrived: asyncio.Event, until_told: tuple[Fault, asyncio.Event]
) -> None:
    fault, _ = until_told
    await in_flight(world, arrived, fault)
    await world.remove(world.web)
    world.simulator.heal()
    world.store.apply(Difference(gone=(), changed=(), new=(world.web,)))
    world.plans[world.web.subscription_id].add(world.web.id, INTERVAL, world.clock())
    await world.ring()
    assert world.samples(world.web)["up", ""] == 1


@pytest.mark.parametrize("world", [1], indirect=True)
async def test_who_waits_for_a_slot_can_retire(
    world: World, arrived: asyncio.Event, until_told: tuple[Fault, asyncio.Event]
) -> None:
    fault, told = until_told
    world.simulator.fault("/subscriptions/", fault)
    world.clock.now += INTERVAL
    world.start()
    await asyncio.wait_for(arrived.wait(), 5)
    await asyncio.wait_for(world.remove(*world.scale_sets[1:]), 1)
    told.set()
    await world.ended()
    assert [world.requests(each) for each in world.scale_sets] == [2, 1, 1, 1, 1, 1]


async def test_to_retire_who_is_not_polled_is_no_matter(world: World) -> None:
    await world.poller.retire([world.web.id, "/unknown"])


async def test_draining_lets_polls_end(world: World) -> None:
    world.says(entry("Faulted"))
    world.break_(hanging(0.1))
    world.clock.now += INTERVAL
    world.start()
    await world.poller.drain(5)
    assert world.samples(world.web)["state", "Faulted"] == 1


async def test_draining_takes_no_longer_than_its_grace(
    world: World, arrived: asyncio.Event, until_told: tuple[Fault, asyncio.Event]
) -> None:
    fault, _ = until_told
    await in_flight(world, arrived, fault)
    version, started = world.store.version, time.monotonic()
    await world.poller.drain(0.05)
    assert time.monotonic() - started < 1
    assert world.store.version == version


# --- Log

Line = tuple[str, str, dict[str, object]]


def lines(caplog: pytest.LogCaptureFixture, scale_set: ScaleSet) -> list[Line]:
    """Return level, message and fields, without the identity, of the lines about a scale set; then forget them."""
    found = []
    for record in caplog.records:
        said = dict(getattr(record, "fields", {}))
        identity = tuple(said.pop(name, None) for name in ("subscription_id", "resource_group", "scale_set"))
        if identity == (scale_set.subscription_id, scale_set.resource_group, scale_set.name):
            if "client_request_id" in said:
                said["client_request_id"] = f"UUID {UUID(said['client_request_id']).version}"
            found.append((record.levelname, record.getMessage(), said))
    caplog.clear()
    return found


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="exporter")
    return caplog


async def test_each_change_of_health_is_one_line(world: World, log: pytest.LogCaptureFixture) -> None:
    assert lines(log, world.web) == []
    await world.round()
    assert lines(log, world.web) == []

    world.break_(
        answering(403, b'{"error": {"code": "A", "message": "B\\nC"}}', {"x-ms-request-id": "req-1"})
    )
    for _ in range(3):
        await world.round()
    failed = {"reason": "forbidden", "error": "HTTP 403 A: B C", "request_id": "req-1"}
    assert lines(log, world.web) == [("WARNING", "poll failed", failed)]

    world.simulator.heal()
    world.break_(answering(500))
    for _ in range(2):
        await world.round()
    failed = {
        "reason": "server_error",
        "error": "HTTP 500 Internal Server Error",
        "client_request_id": "UUID 4",
    }
    assert lines(log, world.web) == [("WARNING", "poll failed", failed)]

    world.simulator.heal()
    for _ in range(2):
        await world.round()
    assert lines(log, world.web) == [("INFO", "poll succeeds again", {})]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"<html>\n" + b"x" * 1000, "not JSON: Expecting value (char 0)"),
        (b'{"value": {}, "x": "' + b"x" * 1000 + b'"}', "'value' is not a list but an object"),
    ],
    ids=["no JSON", "no history"],
)
async def test_a_malformed_answer_is_quoted(
    world: World, log: pytest.LogCaptureFixture, body: bytes, error: str
) -> None:
    world.break_(answering(200, body, {"x-ms-request-id": "req-1"}))
    await world.round()
    await world.round()
    quoted = {
        "reason": "malformed",
        "error": error,
        "request_id": "req-1",
        "excerpt": body[:256].decode(),
    }
    assert lines(log, world.web) == [("WARNING", "poll failed", quoted)]


async def test_a_pause_is_told_of_the_subscription_and_of_each_scale_set_it_keeps_waiting(
    world: World, log: pytest.LogCaptureFixture
) -> None:
    world.break_(answering(429, headers={"Retry-After": "900"}), times=1)
    while world.samples(world.web)["up", ""]:
        await world.ring(10)
    said = [record for record in log.records if record.getMessage() == "throttled by Azure"]
    expected = {"subscription_id": world.web.subscription_id, "paused_seconds": 900}
    assert [(record.levelname, record.__dict__["fields"]) for record in said] == [("WARNING", expected)]
    failed: dict[str, object] = {
        "reason": "throttled",
        "error": "HTTP 429 Too Many Requests",
        "client_request_id": "UUID 4",
    }
    assert lines(log, world.web) == [("WARNING", "poll failed", failed)]

    other = world.scale_sets[2]
    await world.round()
    await world.round()
    failed = {"reason": "throttled", "error": "the subscription is paused"}
    assert lines(log, other) == [("WARNING", "poll failed", failed)]
    await world.ring(600)
    await world.round()
    assert lines(log, other) == [("INFO", "poll succeeds again", {})]


async def test_each_change_of_an_upgrade_is_one_line(world: World, log: pytest.LogCaptureFixture) -> None:
    later = "2025-07-15T12:00:00Z"
    error = {"code": "RollingUpgradeTimeoutError", "message": "It took\ntoo long."}
    told: list[list[Line]] = []
    for said in (
        [entry("Completed")],
        [entry("RollingForward", later), entry("Completed")],
        [entry("RollingForward", later, progress={"pendingInstanceCount": 0}), entry("Completed")],
        [entry("RollingBack", later, error=error)],
        [entry("Faulted", later, error=error)],
        [entry("Faulted", later, error={"target": "web"})],
        [],
        [entry("Faulted", later)],
        [entry("Faulted", "2025-08-15T12:00:00Z", error={"target": "web"})],
        [entry("Completed", later)],
    ):
        world.says(*said)
        await world.round()
        told.append(lines(log, world.web))
    why: dict[str, object] = {"code": "RollingUpgradeTimeoutError", "error": "It took\ntoo long."}
    assert told == [
        [],
        [("INFO", "upgrade changed", {"state": "RollingForward"})],
        [],
        [("INFO", "upgrade changed", {"state": "RollingBack", **why})],
        [("WARNING", "upgrade changed", {"state": "Faulted", **why})],
        [],
        [],
        [("WARNING", "upgrade changed", {"state": "Faulted"})],
        [("WARNING", "upgrade changed", {"state": "Faulted", "code": "", "error": ""})],
        [("INFO", "upgrade changed", {"state": "Completed"})],
    ]


async def test_an_outage_changes_no_upgrade(world: World, log: pytest.LogCaptureFixture) -> None:
    world.break_(answering(404))
    await world.round()
    world.simulator.heal()
    for _ in range(5):
        await world.round()
    assert [message for _, message, _ in lines(log, world.web)] == ["poll failed", "poll succeeds again"]


async def test_an_upgrade_already_faulted_is_told_at_first_sight(
    world: World, log: pytest.LogCaptureFixture
) -> None:
    await world.remove(world.web)
    world.store.apply(Difference(gone=(), changed=(), new=(world.web,)))
    world.plans[world.web.subscription_id].add(world.web.id, INTERVAL, world.clock())
    world.says(entry("Faulted"))
    await world.ring()
    assert lines(log, world.web) == [("WARNING", "upgrade changed", {"state": "Faulted"})]
