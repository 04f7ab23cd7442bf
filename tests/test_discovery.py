"""Which scale sets there are, and which of them are wanted."""

import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import pytest
import stamina
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from exporter.azure.budget import Unmetered
from exporter.azure.client import ATTEMPTS, Answer, Client
from exporter.azure.clouds import Cloud
from exporter.azure.credential import Credential
from exporter.azure.errors import (
    BadRequest,
    Forbidden,
    Malformed,
    NotFound,
    PollError,
    ServerError,
    Throttled,
    TimedOut,
    Unauthorized,
    Unreachable,
)
from exporter.config import Discovery, ManagedIdentity
from exporter.discovery import QUERY, Discoverer, Found, merge, parse_rows, select
from exporter.families import FAMILIES, render
from exporter.scale_set import ScaleSet, Source
from exporter.simulator.fleet import Fleet
from exporter.simulator.server import (
    Fault,
    Simulator,
    answering,
    hanging,
    refused,
    refusing,
    reset,
    running,
    throttled_by_graph,
)
from exporter.snapshot import Snapshot
from exporter.telemetry import Telemetry

SUBSCRIPTION = "6c1e0f6a-4f0b-4c52-9d6e-0a3f5b7c9d11"
OTHER = "0b5a2b5e-1111-4c52-9d6e-0a3f5b7c9d11"


def resource_id(name: str, group: str = "rg-web", subscription: str = SUBSCRIPTION) -> str:
    return (
        f"/subscriptions/{subscription}/resourceGroups/{group}"
        f"/providers/Microsoft.Compute/virtualMachineScaleSets/{name}"
    )


def found(name: str, **facts: Any) -> Found:
    usual = {"resource_group": "rg-web", "location": "westeurope", "tags": (), "automatic_upgrade": True}
    return Found(SUBSCRIPTION, name=name, **{**usual, **facts})


AUTOMATIC = {"automaticOSUpgradePolicy": {"enableAutomaticOSUpgrade": True}}
MANUAL = {"automaticOSUpgradePolicy": {"enableAutomaticOSUpgrade": False}}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {
                "id": resource_id("Web", "RG-Web"),
                "name": "Web",
                "location": "westeurope",
                "tags": {"Env": "prod", "team": "payments"},
                "upgradePolicy": {"mode": "Rolling", **AUTOMATIC},
            },
            found("Web", resource_group="RG-Web", tags=(("Env", "prod"), ("team", "payments"))),
        ),
        (
            {"id": resource_id("web"), "location": "westeurope", "properties": {"upgradePolicy": AUTOMATIC}},
            found("web"),
        ),
        ({"id": resource_id("web").upper(), "location": "westeurope", "upgradePolicy": MANUAL},
         found("WEB", resource_group="RG-WEB", automatic_upgrade=False)),
        ({"id": resource_id("web"), "tags": None}, found("web", location="", automatic_upgrade=False)),
        ({"id": resource_id("web"), "location": None, "upgradePolicy": {"mode": "Manual"}},
         found("web", location="", automatic_upgrade=False)),
    ],
    ids=["graph", "list", "upper case", "no tags", "no policy"],
)  # fmt: skip
def test_a_row_of_either_kind_tells_of_a_scale_set(row: object, expected: Found):
    assert parse_rows([row], SUBSCRIPTION) == ((expected,), ())


@pytest.mark.parametrize(
    "row",
    [
        None, 7, "web", [], {}, {"id": None}, {"id": 7}, {"id": "/subscriptions"},
        {"id": resource_id("web", subscription=OTHER)},
        {"id": resource_id("web/virtualMachines/0")},
        {"id": resource_id("a b")},
        {"id": resource_id("a", "..%2f")},
        {"id": resource_id("a", "..")}, {"id": resource_id("..")}, {"id": resource_id("a.")},
        {"id": resource_id("x" * 91)},
        {"id": resource_id("web") + "\n"},
    ],
)  # fmt: skip
def test_a_row_that_means_no_scale_set_of_the_subscription_is_left_out_and_named(row: object):
    assert parse_rows([row], SUBSCRIPTION) == ((), ("id",))


@pytest.mark.parametrize(
    ("facts", "tags", "unrecognised"),
    [
        ({"tags": "prod"}, (), ("tags",)),
        ({"tags": {"env": 1, "team": "a", "x": None}}, (("team", "a"),), ("tags[]", "tags[]")),
        ({"location": 5}, (), ("location",)),
        ({"location": "x" * 1024}, (), ("location",)),
        ({"location": "\ud800"}, (), ("location",)),
        ({"tags": {"env": "\ud800", "\ud800": "a", "b": "x" * 1024, "c": ""}}, (("c", ""),), ("tags[]",) * 3),
        (
            {"upgradePolicy": {"automaticOSUpgradePolicy": {"enableAutomaticOSUpgrade": "yes"}}},
            (),
            ("upgradePolicy.automaticOSUpgradePolicy.enableAutomaticOSUpgrade",),
        ),
    ],
)
def test_an_absurd_field_counts_as_absent_and_is_named(
    facts: dict[str, object], tags: tuple[tuple[str, str], ...], unrecognised: tuple[str, ...]
):
    rows, named = parse_rows([{"id": resource_id("web"), **facts}], SUBSCRIPTION)
    assert rows == (found("web", location="", tags=tags, automatic_upgrade=False),)
    assert named == unrecognised


def test_a_scale_set_that_is_listed_twice_is_one():
    rows, _ = parse_rows([{"id": resource_id("web")}, {"id": resource_id("WEB", "RG-web")}], SUBSCRIPTION)
    assert len(rows) == 1


@pytest.mark.parametrize("text", ["\ud800", "x" * 10_000_000], ids=["half a surrogate", "endless"])
def test_no_text_of_azures_keeps_a_scale_set_from_being_shown(text: str):
    row = {"id": resource_id("web"), "location": text, "tags": {"env": text, text: "prod"}}
    rows, _ = parse_rows([row], SUBSCRIPTION)
    (scale_set,), _ = select(rows, Discovery(only_automatic_upgrade=False, tag_labels=("env",)), 300.0)
    lines = b"".join(render(FAMILIES, Snapshot(scale_set, 300.0)))
    assert b'location=""' in lines
    assert len(lines) < 10_000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["id", "tags", "location", "upgradePolicy", "properties"]) | st.text(), inner),
)  # fmt: skip


NAMES = st.from_regex(r"\A[-\w.()]{0,89}[-\w()]\Z")


@given(NAMES, NAMES, st.booleans())
def test_a_resource_id_is_read_back_to_the_letter(group: str, name: str, upper: bool):
    spelled = resource_id(name, group)
    (read,), _ = parse_rows(
        [{"id": spelled.swapcase() if upper and spelled.isascii() else spelled}], SUBSCRIPTION
    )
    expected = (group.swapcase(), name.swapcase()) if upper and spelled.isascii() else (group, name)
    assert (read.resource_group, read.name) == expected


@given(st.lists(JSON))
def test_any_rows_are_read(rows: list[object]):
    known, unrecognised = parse_rows(rows, SUBSCRIPTION)
    assert len(known) + len(unrecognised) >= bool(rows)


FLEET = (
    found("web", tags=(("Env", "prod"), ("team", "payments"))),
    found("api", resource_group="RG-API", tags=(("env", "PROD"),)),
    found("ci", resource_group="build", automatic_upgrade=False, tags=(("env", "prod"),)),
)


@pytest.mark.parametrize(
    ("discovery", "names"),
    [
        ({}, ["web", "api"]),
        ({"only_automatic_upgrade": False}, ["web", "api", "ci"]),
        ({"resource_groups": ["rg-.*"]}, ["web", "api"]),
        ({"resource_groups": ["rg-a"]}, []),
        ({"resource_groups": ["rg-api", "build"], "only_automatic_upgrade": False}, ["api", "ci"]),
        ({"tags": {"env": "prod"}}, ["web"]),
        ({"tags": {"ENV": "PROD"}}, ["api"]),
        ({"tags": {"env": "prod"}, "only_automatic_upgrade": False}, ["web", "ci"]),
        ({"tags": {"env": "prod", "team": "payments"}}, ["web"]),
        ({"tags": {"owner": "me"}}, []),
    ],
)
def test_those_are_selected_that_meet_all_conditions(discovery: dict[str, Any], names: list[str]):
    selected, unselected = select(FLEET, Discovery.model_validate(discovery), 300.0)
    assert [each.name for each in selected] == names
    assert [each.name for each in unselected] == [each.name for each in FLEET if each.name not in names]


TWINS = (("ENV", "staging"), ("Env", "dev"), ("env", "prod"))


@pytest.mark.parametrize("tags", [TWINS, TWINS[::-1], TWINS[1:] + TWINS[:1]], ids=["A", "B", "C"])
@pytest.mark.parametrize(
    ("spelled", "value"), [("env", "prod"), ("Env", "dev"), ("ENV", "staging"), ("eNV", "staging")]
)
def test_of_tags_that_differ_only_in_case_the_one_spelled_as_in_the_configuration_wins(
    tags: tuple[tuple[str, str], ...], spelled: str, value: str
):
    fleet = [found("web", tags=tags)]
    for wanted in ("prod", "dev", "staging"):
        discovery = Discovery.model_validate({"tags": {spelled: wanted}, "tag_labels": [spelled]})
        selected, _ = select(fleet, discovery, 300.0)
        assert [each.labels for each in selected] == (
            [((f"tag_{spelled}", value),)] if wanted == value else []
        )


def test_a_selected_scale_set_says_what_is_known_of_it():
    discovery = Discovery.model_validate({"tag_labels": ["env", "Team", "cost-center"]})
    selected, _ = select(FLEET[:1], discovery, 60.0)
    assert selected == (
        ScaleSet(
            SUBSCRIPTION,
            "rg-web",
            "web",
            60.0,
            Source.DISCOVERED,
            "westeurope",
            (("tag_Team", "payments"), ("tag_env", "prod")),
        ),
    )


def test_a_named_entry_wins_however_the_case_differs_and_learns_where_it_is():
    named = ScaleSet(SUBSCRIPTION, "RG-Web", "WEB", 60.0, labels=(("label_team", "a"),))
    discovered, _ = select(FLEET, Discovery(), 300.0)
    merged = merge([named], discovered)
    assert [(each.name, each.source, each.interval, each.location) for each in merged] == [
        ("WEB", Source.NAMED, 60.0, "westeurope"),
        ("api", Source.DISCOVERED, 300.0, "westeurope"),
    ]
    assert merged[0].labels == (("label_team", "a"),)
    assert merge([named], []) == (named,)


# --- Who is asked


class Azure(Client):
    """Answers what a test says, in order, and remembers what was asked."""

    def __init__(self, *, graph: list[object] | None = None, lists: list[object] | None = None) -> None:
        self.replies = {"graph": graph or [], "list": lists or []}
        self.asked: list[str] = []

    async def graph(self, subscription_id: str, query: str, *given: Any) -> Answer:
        assert (subscription_id, query) == (SUBSCRIPTION, QUERY)
        return self._next("graph", "data", given[-1])

    async def scale_sets(self, *given: Any) -> Answer:
        return self._next("list", "value", given[-1])

    def _next(self, which: str, entries: str, keep: Callable[[object], object]) -> Answer:
        self.asked.append(which)
        reply = self.replies[which].pop(0)
        if isinstance(reply, PollError):
            raise reply
        if isinstance(reply, dict) and isinstance(reply.get(entries), list):
            reply = {**reply, entries: [keep(row) for row in reply[entries]]}
        return Answer((reply,), "req-1", "excerpt")


ROW = {"id": resource_id("web")}


async def test_resource_graph_has_the_say_where_it_knows_of_scale_sets():
    azure = Azure(graph=[{"data": [ROW]}])
    assert [each.name for each in await Discoverer(azure, Telemetry()).find(SUBSCRIPTION, 1.0)] == ["web"]
    assert azure.asked == ["graph"]


@pytest.mark.parametrize("refusal", [Forbidden("no"), BadRequest("no"), NotFound("no")])
async def test_where_resource_graph_is_forbidden_the_list_has_it_from_then_on(refusal: PollError):
    azure = Azure(graph=[refusal], lists=[{"value": [ROW]}, {"value": []}])
    discoverer = Discoverer(azure, Telemetry())
    assert len(await discoverer.find(SUBSCRIPTION, 1.0)) == 1
    assert len(await discoverer.find(SUBSCRIPTION, 1.0)) == 0
    assert azure.asked == ["graph", "list", "list"]


async def test_resource_graph_is_silent_of_what_we_may_not_see_so_the_list_is_asked_before_all_vanish():
    azure = Azure(graph=[{"data": []}], lists=[Forbidden("no permission")])
    with pytest.raises(Forbidden):
        await Discoverer(azure, Telemetry()).find(SUBSCRIPTION, 1.0)


async def test_a_subscription_without_scale_sets_has_none():
    azure = Azure(graph=[{"data": []}], lists=[{"value": []}])
    assert await Discoverer(azure, Telemetry()).find(SUBSCRIPTION, 1.0) == ()


async def test_a_failure_of_resource_graph_is_one_and_no_reason_to_spend_the_lists_budget():
    azure = Azure(graph=[ServerError("boom")])
    with pytest.raises(ServerError):
        await Discoverer(azure, Telemetry()).find(SUBSCRIPTION, 1.0)
    assert azure.asked == ["graph"]


@pytest.mark.parametrize("forbidden", [False, True], ids=["Resource Graph", "the list call"])
async def test_who_is_throttled_is_left_alone_until_the_pause_is_over(forbidden: bool):
    graph: list[object] = [Forbidden("no")] if forbidden else [Throttled("slow down", retry_after=300.0)]
    graph.append({"data": [ROW]})
    azure = Azure(graph=graph, lists=[Throttled("slow down", retry_after=300.0), {"value": [ROW]}])
    now = 1000.0
    discoverer = Discoverer(azure, Telemetry(), lambda: now)
    for retry_after in (300.0, 1.0):
        with pytest.raises(Throttled) as caught:
            await discoverer.find(SUBSCRIPTION, 1.0)
        assert caught.value.retry_after == retry_after
        now += 299.0
    assert azure.asked == (["graph", "list"] if forbidden else ["graph"])
    assert len(await discoverer.find(SUBSCRIPTION, 1.0)) == 1


class Account(Unmetered):
    """A subscription's account that a test looks at."""

    def __init__(self) -> None:
        self.spent = 0
        self.seconds = 0.0

    def spend(self) -> None:
        if self.seconds:
            raise Throttled("paused", retry_after=self.seconds)
        self.spent += 1

    def pause(self, seconds: float) -> None:
        self.seconds = seconds


async def test_list_calls_and_polls_share_an_account_and_its_pause():
    azure = Azure(
        graph=[Forbidden("no")], lists=[Throttled("slow down", retry_after=300.0), {"value": [ROW]}]
    )
    now, account = 1000.0, Account()
    discoverer = Discoverer(azure, Telemetry(), lambda: now, lambda _: account)
    with pytest.raises(Throttled):
        await discoverer.find(SUBSCRIPTION, 1.0)
    assert (account.seconds, account.spent) == (300.0, 1)
    now, account.seconds = 1301.0, 60.0  # another pause, by the answer to a poll
    with pytest.raises(Throttled) as caught:
        await discoverer.find(SUBSCRIPTION, 1.0)
    assert (caught.value.retry_after, azure.asked) == (60.0, ["graph", "list"])
    now, account.seconds = 1362.0, 0.0
    assert len(await discoverer.find(SUBSCRIPTION, 1.0)) == 1


async def test_resource_graph_is_asked_while_a_subscription_is_paused():
    account = Account()
    account.seconds = 60.0
    discoverer = Discoverer(Azure(graph=[{"data": [ROW]}]), Telemetry(), account=lambda _: account)
    assert len(await discoverer.find(SUBSCRIPTION, 1.0)) == 1
    assert account.spent == 0


async def test_a_refusal_of_resource_graph_is_logged_once_and_tried_again_by_the_hour(
    caplog: pytest.LogCaptureFixture,
):
    azure = Azure(graph=[Forbidden("no"), Forbidden("no"), {"data": [ROW]}], lists=[{"value": [ROW]}] * 4)
    now = 1000.0
    discoverer = Discoverer(azure, Telemetry(), lambda: now)
    with caplog.at_level("INFO"):
        for seconds in (0.0, 3599.0, 1.0, 0.0, 3600.0):
            now += seconds
            assert len(await discoverer.find(SUBSCRIPTION, 1.0)) == 1
    assert azure.asked == ["graph", "list", "list", "graph", "list", "list", "graph"]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("page", [None, [], {}, {"data": None}, {"data": {}}, {"value": [ROW]}])
async def test_an_answer_without_rows_is_malformed(page: object):
    with pytest.raises(Malformed, match="data is no list of scale sets"):
        await Discoverer(Azure(graph=[page]), Telemetry()).find(SUBSCRIPTION, 1.0)


@pytest.mark.parametrize("total", [2, 1000])
async def test_fewer_rows_than_there_are_is_no_smaller_fleet(total: int):
    azure = Azure(graph=[{"data": [ROW], "totalRecords": total}])
    with pytest.raises(Malformed, match=f"1 rows of {total}"):
        await Discoverer(azure, Telemetry()).find(SUBSCRIPTION, 1.0)


@pytest.mark.parametrize("total", [0, 1, -1, "2", None, 1.5, []])
async def test_all_the_rows_that_there_are_is_the_fleet(total: object):
    azure = Azure(graph=[{"data": [ROW], "totalRecords": total}])
    assert len(await Discoverer(azure, Telemetry()).find(SUBSCRIPTION, 1.0)) == 1


@pytest.mark.parametrize("forbidden", [False, True])
async def test_rows_none_of_which_makes_sense_are_malformed_and_no_empty_fleet(forbidden: bool):
    rows = [7, {"ID": resource_id("web")}, {"id": resource_id("web", subscription=OTHER)}]
    azure = Azure(graph=[Forbidden("no")] if forbidden else [{"data": rows}], lists=[{"value": rows}])
    with pytest.raises(Malformed, match="none of 3 rows is a scale set of the subscription"):
        await Discoverer(azure, Telemetry()).find(SUBSCRIPTION, 1.0)


async def test_absurd_fields_are_counted_by_their_path():
    telemetry = Telemetry()
    await Discoverer(Azure(graph=[{"data": [ROW, {"id": 7}, {**ROW, "tags": 1}]}]), telemetry).find(
        SUBSCRIPTION, 1.0
    )
    counted = [
        telemetry.registry.get_sample_value(
            "vmss_upgrade_exporter_unrecognised_values_total", {"field": field}
        )
        for field in ("data[].id", "data[].tags")
    ]
    assert counted == [1.0, 1.0]


# --- The search of a simulated Azure, over HTTP


@dataclass
class World:
    """A simulated Azure and a discoverer whose clock stands still until it is told to move."""

    simulator: Simulator
    discoverer: Discoverer
    now: list[float]

    @property
    def owner(self) -> str:
        return self.simulator.fleet.subscriptions[0]

    @property
    def names(self) -> list[str]:
        """Of the scale sets that there were in the beginning."""
        return sorted(
            each.name for each in self.simulator.fleet.scale_sets if each.subscription_id == self.owner
        )

    async def find(self) -> list[str]:
        return sorted(each.name for each in await self.discoverer.find(self.owner, 5.0))

    def break_(self, fault: Fault, *, graph: bool, times: float = math.inf) -> None:
        """Let a fault befall Resource Graph, or the list call with Resource Graph forbidden."""
        if graph:
            self.simulator.fault("microsoft.resourcegraph", fault, times)
        else:
            self.simulator.fault("microsoft.resourcegraph", FORBIDDEN)
            self.simulator.fault(f"{self.owner}/providers/microsoft.compute", fault, times)


async def nothing(_: object) -> None:
    """Leave the answer to Azure."""


FORBIDDEN = refusing(refused(403, "AuthorizationFailed", "The client does not have authorization."))
BOTH = pytest.mark.parametrize("graph", [True, False], ids=["Resource Graph", "the list call"])


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    simulator = Simulator(Fleet(epoch=time.time() - 1), enforce_budgets=False)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(running(simulator))
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{url}/token")
        monkeypatch.setenv("IDENTITY_HEADER", "simulator")
        stack.enter_context(stamina.set_testing(True, attempts=ATTEMPTS, cap=True))
        cloud, telemetry, now = Cloud("custom", url, url, url), Telemetry(), [1000.0]
        credential = Credential(ManagedIdentity(), cloud, telemetry)
        stack.push_async_callback(credential.close)
        client = Client(cloud, credential, telemetry, connections=4)
        client.search_with(math.inf)
        stack.push_async_callback(client.close)
        yield World(simulator, Discoverer(client, telemetry, lambda: now[0]), now)


@BOTH
@pytest.mark.parametrize("page_size", [1, 2, 5, 6, 1000])
async def test_either_tells_of_every_scale_set_whole(world: World, page_size: int, graph: bool):
    world.simulator.page_size = page_size
    world.break_(nothing, graph=graph)
    assert set(await world.discoverer.find(world.owner, 5.0)) == {
        Found(
            each.subscription_id,
            each.resource_group,
            each.name,
            each.location,
            each.tags,
            each.automatic_upgrade,
        )
        for each in world.simulator.fleet.scale_sets
        if each.subscription_id == world.owner
    }


@BOTH
async def test_who_appears_or_disappears_does_so_in_the_next_search(world: World, graph: bool):
    world.break_(nothing, graph=graph)
    web = world.simulator.fleet.scale_sets[0]
    assert await world.find() == world.names
    world.simulator.gone.add(web.resource_id.lower())
    world.simulator.add(replace(web, name="new"))
    assert await world.find() == sorted({*world.names, "new"} - {web.name})
    world.simulator.gone.clear()
    assert await world.find() == sorted([*world.names, "new"])


async def test_a_subscription_that_may_not_be_seen_is_forbidden_and_not_empty(world: World):
    world.simulator.hidden.add(world.owner)
    with pytest.raises(Forbidden):
        await world.find()


async def test_a_subscription_that_does_not_exist_is_a_bad_request(world: World):
    with pytest.raises(BadRequest, match="SubscriptionNotFound"):
        await world.discoverer.find(OTHER, 5.0)


@BOTH
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        pytest.param(refusing(refused(500, "InternalServerError", "Oops.")), ServerError, id="500"),
        pytest.param(answering(502, b"<html>", {}), ServerError, id="502"),
        pytest.param(reset, Unreachable, id="a reset"),
        pytest.param(hanging(60), TimedOut, id="silence"),
        pytest.param(refusing(throttled_by_graph(300)), Throttled, id="429"),
        pytest.param(refusing(refused(401, "InvalidAuthenticationToken", "No.")), Unauthorized, id="401"),
        pytest.param(answering(200, b"<html>Sign in</html>"), Malformed, id="HTML"),
        pytest.param(answering(200, b"{}"), Malformed, id="an empty object"),
        pytest.param(answering(200, b'{"data": {}, "value": {}}'), Malformed, id="an object for a list"),
        pytest.param(
            answering(200, b'{"data": [], "value": [], "$skipToken": 1, "nextLink": 1}'),
            Malformed,
            id="links",
        ),
        pytest.param(answering(302, headers={"Location": "/"}), Malformed, id="a redirect"),
    ],
)
@pytest.mark.parametrize("page", [1, 2], ids=["first page", "second page"])
async def test_a_search_that_fails_finds_nothing_and_says_why(
    world: World, fault: Fault, kind: type[PollError], page: int, graph: bool
):
    """Half a listing is no smaller fleet."""
    world.simulator.page_size = 3
    asked = 0

    async def at_last(request: web.BaseRequest) -> web.StreamResponse | None:
        nonlocal asked
        asked += 1
        return await fault(request) if asked >= page else None

    world.break_(at_last, graph=graph)
    with pytest.raises(PollError) as caught:
        await world.discoverer.find(world.owner, 0.3 if kind is TimedOut else 5.0)
    assert type(caught.value) is kind
    assert asked >= page
    world.simulator.heal()
    world.now[0] += 3600.0
    if kind is not Throttled:
        assert await world.find() == world.names


# Mutants that live
#   `found[group.upper(), name.lower()] = Found(` and `found[group.lower(), name.upper()] = Found(`: upper case folds as well.
