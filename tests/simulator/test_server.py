"""The simulated Azure on real HTTP: answers, errors, tokens, budgets and faults are spelled as Azure's."""

import asyncio
import json
import time
from base64 import b64decode
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Self

import aiohttp
import pytest
import yaml
from aiohttp import web
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError
from azure.identity.aio import ManagedIdentityCredential
from azure.mgmt.compute.aio import ComputeManagementClient

from exporter.simulator.fleet import Fleet, ScaleSet, State
from exporter.simulator.server import (
    FAULTS,
    Simulator,
    answering,
    config_for,
    hanging,
    refused,
    refusing,
    reset,
    running,
)

EPOCH = 1_750_000_000.0
VERSION = {"api-version": "2025-04-01"}
GONE = "00000000-0000-4000-8000-000000000000"
COMPUTE = "providers/Microsoft.Compute/virtualMachineScaleSets"


@dataclass
class Azure:
    """A running simulator, its clock, and a client with a token."""

    simulator: Simulator
    base_url: str
    session: aiohttp.ClientSession
    clock: list[float]
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def web(self) -> ScaleSet:
        return self.simulator.fleet.scale_sets[0]

    async def get(
        self, path: str, *, params: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        query = VERSION if params is None else params
        async with self.session.get(self.base_url + path, params=query, headers=self.headers) as response:
            text = await response.text()
            is_json = response.content_type == "application/json"
            return response.status, json.loads(text) if is_json else text, dict(response.headers)

    async def history(self, scale_set: ScaleSet | None = None) -> tuple[int, Any, dict[str, str]]:
        return await self.get((scale_set or self.web).resource_id + "/osUpgradeHistory")


@pytest.fixture
async def azure() -> AsyncIterator[Azure]:
    clock = [EPOCH]
    simulator = Simulator(Fleet(epoch=EPOCH), clock=lambda: clock[0])
    async with running(simulator) as base_url, aiohttp.ClientSession() as session:
        token = simulator.issue_token()
        yield Azure(simulator, base_url, session, clock, {"Authorization": f"Bearer {token}"})


def codes(body: Any) -> list[str]:
    return [entry["properties"]["runningStatus"]["code"] for entry in body["value"]]


# --- Histories


async def test_a_history_is_what_is_true_in_the_fleet(azure: Azure) -> None:
    status, body, headers = await azure.history()
    assert status == 200
    assert set(body) == {"value"}
    assert codes(body) == [upgrade.state for upgrade in azure.simulator.fleet.history(azure.web, EPOCH)]
    assert headers["Content-Type"] == "application/json; charset=utf-8"


async def test_the_id_of_a_request_is_returned_where_it_is_asked_for(azure: Azure) -> None:
    sent = {"x-ms-client-request-id": "0f8fad5b-d9cb-469f-a165-70867728950e"}
    paths = (azure.web.resource_id + "/osUpgradeHistory", "/subscriptions/nobody")
    for path, status in zip(paths, (200, 404), strict=True):
        azure.session.headers.clear()
        azure.session.headers.update(sent)
        assert "x-ms-client-request-id" not in (await azure.get(path))[2]
        azure.session.headers["x-ms-return-client-request-id"] = "true"
        answered, _, headers = await azure.get(path)
        assert (answered, headers["x-ms-client-request-id"]) == (status, sent["x-ms-client-request-id"])


async def test_a_history_moves_on_with_the_clock(azure: Azure) -> None:
    _, before, _ = await azure.history()
    azure.clock[0] += 10
    _, after, _ = await azure.history()
    progress = [
        body["value"][0]["properties"]["progress"]["successfulInstanceCount"] for body in (before, after)
    ]
    assert progress == [12, 24]


async def test_names_are_compared_without_case(azure: Azure) -> None:
    status, _, _ = await azure.get(azure.web.resource_id.upper() + "/OSUPGRADEHISTORY")
    assert status == 200


async def test_a_scale_set_never_upgraded_has_an_empty_history(azure: Azure) -> None:
    _, body, _ = await azure.history(azure.simulator.fleet.scale_sets[4])
    assert body == {"value": []}


async def test_a_test_may_dictate_the_history(azure: Azure) -> None:
    key = azure.web.resource_id.lower()
    faulted = azure.simulator.fleet.history(azure.simulator.fleet.scale_sets[1], EPOCH)[:1]
    azure.simulator.histories[key] = faulted
    _, body, _ = await azure.history()
    assert codes(body) == ["Faulted"]
    azure.simulator.histories[key] = b'{"value": [{}]}'
    _, body, _ = await azure.history()
    assert body == {"value": [{}]}


async def test_pages_are_linked_on_the_same_host(azure: Azure) -> None:
    azure.simulator.page_size = 2
    found, path = [], azure.web.resource_id + "/osUpgradeHistory"
    status, body, _ = await azure.get(path)
    found += codes(body)
    while link := body.get("nextLink"):
        assert link.startswith(f"{azure.base_url}{path}?api-version=2025-04-01&$skiptoken=")
        _, body, _ = await azure.get(link.removeprefix(azure.base_url), params={})
        found += codes(body)
    assert (status, len(found)) == (200, 5)
    assert azure.simulator.requests[azure.web.resource_id.lower()] == 3


# --- Lists


async def test_a_subscription_lists_its_scale_sets(azure: Azure) -> None:
    azure.simulator.page_size = 4
    path = f"/subscriptions/{azure.web.subscription_id}/{COMPUTE}"
    _, first, _ = await azure.get(path)
    _, second, _ = await azure.get(first["nextLink"].removeprefix(azure.base_url), params={})
    listed = [*first["value"], *second["value"]]
    assert [found["id"] for found in listed] == [
        scale_set.resource_id
        for scale_set in azure.simulator.fleet.scale_sets
        if scale_set.subscription_id == azure.web.subscription_id
    ]
    assert "nextLink" not in second
    assert listed[0] == {
        "id": azure.web.resource_id,
        "name": "web-dev-sea",
        "type": "Microsoft.Compute/virtualMachineScaleSets",
        "location": "southeastasia",
        "tags": {"env": "dev", "team": "insight", "role": "web"},
        "sku": {"name": "Standard_D4s_v5", "tier": "Standard", "capacity": 60},
        "properties": {
            "upgradePolicy": {
                "mode": "Rolling",
                "automaticOSUpgradePolicy": {"enableAutomaticOSUpgrade": True},
            },
            "provisioningState": "Succeeded",
        },
    }


# --- Errors


@pytest.mark.parametrize(
    ("path", "status", "code", "message"),
    [
        (
            f"/subscriptions/{GONE}/resourceGroups/rg-web/{COMPUTE}/web/osUpgradeHistory",
            404,
            "SubscriptionNotFound",
            f"The subscription '{GONE}' could not be found.",
        ),
        (
            f"/subscriptions/{GONE}/{COMPUTE}",
            404,
            "SubscriptionNotFound",
            f"The subscription '{GONE}' could not be found.",
        ),
        (
            f"/subscriptions/SUB/resourceGroups/RG-gone/{COMPUTE}/web/osUpgradeHistory",
            404,
            "ResourceGroupNotFound",
            "Resource group 'RG-gone' could not be found.",
        ),
        (
            f"/subscriptions/SUB/resourceGroups/rg-web/{COMPUTE}/gone/osUpgradeHistory",
            404,
            "ResourceNotFound",
            (
                "The Resource 'Microsoft.Compute/virtualMachineScaleSets/gone' under resource group 'rg-web' was not"
                " found. For more details please go to https://aka.ms/ARMResourceNotFoundFix"
            ),
        ),
        ("/elsewhere", 404, "InvalidResourceType", "No resource type was found that matches '/elsewhere'."),
    ],
)
async def test_what_is_not_there_is_not_found(
    azure: Azure, path: str, status: int, code: str, message: str
) -> None:
    found, body, headers = await azure.get(path.replace("SUB", azure.web.subscription_id))
    assert (found, body) == (status, {"error": {"code": code, "message": message}})
    assert headers["x-ms-request-id"] == headers["x-ms-correlation-request-id"]


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [({}, 400, "MissingApiVersionParameter"), ({**VERSION, "$skiptoken": "x"}, 400, "InvalidParameter")],
)
async def test_a_wrong_query_is_refused(azure: Azure, query: dict[str, str], status: int, code: str) -> None:
    found, body, _ = await azure.get(azure.web.resource_id + "/osUpgradeHistory", params=query)
    assert (found, body["error"]["code"]) == (status, code)


async def test_only_get_is_allowed(azure: Azure) -> None:
    url = azure.base_url + azure.web.resource_id + "/osUpgradeHistory"
    async with azure.session.post(url, params=VERSION, headers=azure.headers) as response:
        assert response.status == 405


# --- Tokens


@pytest.mark.parametrize(
    ("authorization", "code", "message"),
    [
        ("", "AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing."),
        ("Bearer wrong", "InvalidAuthenticationToken", "The access token is invalid."),
    ],
)
async def test_no_answer_without_a_good_token(
    azure: Azure, authorization: str, code: str, message: str
) -> None:
    azure.headers["Authorization"] = authorization
    status, body, headers = await azure.history()
    assert (status, body) == (401, {"error": {"code": code, "message": message}})
    assert headers["WWW-Authenticate"] == (
        'Bearer authorization_uri="https://login.microsoftonline.com/7d2f4c0e-51b8-4a77-9a43-e0a6a4f0c2b9",'
        ' error="invalid_token"'
    )


async def test_tokens_expire(azure: Azure) -> None:
    azure.clock[0] += 86_401
    status, body, _ = await azure.history()
    assert (status, body["error"]) == (
        401,
        {
            "code": "ExpiredAuthenticationToken",
            "message": "The access token expiry UTC time '6/16/2025 3:06:40 PM' is earlier than current UTC time"
            " '6/16/2025 3:06:41 PM'.",
        },
    )


async def test_revoked_tokens_are_invalid(azure: Azure) -> None:
    azure.simulator.revoke_tokens()
    status, body, _ = await azure.history()
    assert (status, body["error"]["code"]) == (401, "InvalidAuthenticationToken")


async def test_a_revocation_may_demand_claims(azure: Azure) -> None:
    azure.simulator.revoke_tokens(claims='{"access_token":{"nbf":{"essential":true}}}')
    status, _, headers = await azure.history()
    challenge = headers["WWW-Authenticate"]
    claims = challenge.partition('error="insufficient_claims", claims="')[2].rstrip('"')
    assert (status, b64decode(claims)) == (401, b'{"access_token":{"nbf":{"essential":true}}}')
    azure.headers["Authorization"] = f"Bearer {azure.simulator.issue_token()}"
    assert (await azure.history())[0] == 200


@pytest.mark.parametrize(
    ("path", "params", "headers", "status"),
    [
        ("/token", {"resource": "r", "api-version": "2019-08-01"}, {}, 401),
        ("/token", {"api-version": "2019-08-01"}, {"X-IDENTITY-HEADER": "x"}, 400),
        ("/token", {"resource": "r"}, {"X-IDENTITY-HEADER": "x"}, 400),
        ("/metadata/identity/oauth2/token", {"resource": "r", "api-version": "2018-02-01"}, {}, 400),
        ("/metadata/identity/oauth2/token", {"api-version": "2018-02-01"}, {"Metadata": "true"}, 400),
    ],
)
async def test_a_token_must_be_asked_for_properly(
    azure: Azure, path: str, params: dict[str, str], headers: dict[str, str], status: int
) -> None:
    async with azure.session.get(azure.base_url + path, params=params, headers=headers) as response:
        assert (response.status, (await response.json())["error"]) == (status, "invalid_request")


async def test_a_token_says_when_it_expires_in_a_string(azure: Azure) -> None:
    query = {"resource": azure.base_url, "api-version": "2019-08-01", "client_id": "c"}
    headers = {"X-IDENTITY-HEADER": "simulator"}
    async with azure.session.get(azure.base_url + "/token", params=query, headers=headers) as response:
        body = await response.json()
    token = body.pop("access_token")
    assert body == {
        "expires_in": "86400",
        "expires_on": "1750086400",
        "resource": azure.base_url,
        "token_type": "Bearer",
    }
    azure.headers["Authorization"] = f"Bearer {token}"
    assert (await azure.history())[0] == 200


@pytest.mark.parametrize("endpoint", ["app service", "imds"])
async def test_azure_identity_signs_in(azure: Azure, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    azure.clock[0] = time.time()  # azure-identity compares with the wall clock
    if endpoint == "imds":
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", azure.base_url)
    else:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{azure.base_url}/token")
        monkeypatch.setenv("IDENTITY_HEADER", "simulator")
    async with ManagedIdentityCredential() as credential:
        token = await credential.get_token(f"{azure.base_url}/.default")
    azure.headers["Authorization"] = f"Bearer {token.token}"
    assert (await azure.history())[0] == 200


# --- Budgets


async def test_every_answer_says_what_is_left(azure: Azure) -> None:
    left = []
    for _ in range(2):
        _, _, headers = await azure.history()
        left.append(
            [
                headers["x-ms-ratelimit-remaining-subscription-reads"],
                headers["x-ms-ratelimit-remaining-resource"],
            ]
        )
    resource = "Microsoft.Compute/GetVMScaleSet3Min;{},Microsoft.Compute/GetVMScaleSet30Min;{},Microsoft.Compute/GetVMScaleSetResource;{}"
    assert left == [
        ["249", resource.format(2399, 23999, 35)],
        ["248", resource.format(2398, 23998, 34)],
    ]


async def test_a_scale_set_is_throttled_in_computes_own_words(azure: Azure) -> None:
    statuses = Counter([(await azure.history())[0] for _ in range(40)])
    assert statuses == {200: 36, 429: 4}
    _, body, headers = await azure.history()
    assert headers["Retry-After"] == "5"
    assert headers["x-ms-ratelimit-remaining-resource"].endswith("Microsoft.Compute/GetVMScaleSetResource;0")
    detail = body["details"][0]
    measured = json.loads(detail.pop("message"))
    assert set(measured) == {
        "operationGroup",
        "startTime",
        "endTime",
        "allowedRequestCount",
        "measuredRequestCount",
    }
    assert body == {
        "code": "OperationNotAllowed",
        "message": "The server rejected the request because too many requests have been received for this"
        " subscription.",
        "details": [{"code": "TooManyRequests", "target": "GetVMScaleSetResource"}],
    }
    assert (await azure.history(azure.simulator.fleet.scale_sets[2]))[0] == 200
    azure.clock[0] += 5
    assert [(await azure.history())[0] for _ in range(2)] == [200, 429]


async def test_a_subscription_is_throttled_by_arm(azure: Azure) -> None:
    path = f"/subscriptions/{azure.web.subscription_id}/{COMPUTE}"
    statuses = Counter([(await azure.get(path))[0] for _ in range(260)])
    assert statuses == {200: 250, 429: 10}
    _, body, headers = await azure.get(path)
    assert (body["error"]["code"], headers["Retry-After"]) == ("SubscriptionRequestsThrottled", "1")
    assert (await azure.history(azure.simulator.fleet.scale_sets[1]))[0] == 200


async def test_budgets_need_not_be_enforced(azure: Azure) -> None:
    azure.simulator.enforce_budgets = False
    assert Counter([(await azure.history())[0] for _ in range(40)]) == {200: 40}


# --- Faults


async def test_a_fault_may_be_scripted_for_one_scale_set(azure: Azure) -> None:
    answer = refusing(refused(403, "AuthorizationFailed", "The client does not have authorization."))
    azure.simulator.fault(azure.web.resource_id, answer)
    assert [(await azure.history())[0] for _ in range(2)] == [403, 403]
    assert (await azure.history(azure.simulator.fleet.scale_sets[1]))[0] == 200
    azure.simulator.heal()
    assert (await azure.history())[0] == 200


async def test_a_fault_may_be_scripted_for_the_next_requests(azure: Azure) -> None:
    azure.simulator.fault(
        "osUpgradeHistory", answering(502, b"<html>", {"Content-Type": "text/html"}), times=2
    )
    answers = [await azure.history() for _ in range(3)]
    assert [status for status, _, _ in answers] == [502, 502, 200]
    assert answers[0][1] == "<html>"


async def test_a_connection_may_be_reset(azure: Azure) -> None:
    azure.simulator.fault("", reset)
    with pytest.raises(aiohttp.ClientConnectionError):
        await azure.history()


async def test_an_answer_may_be_late(azure: Azure) -> None:
    azure.simulator.fault("", hanging(0.05), times=1)
    before = time.monotonic()
    assert (await azure.history())[0] == 200
    assert time.monotonic() - before >= 0.05


async def test_hanging_requests_do_not_keep_the_server_from_stopping() -> None:
    arrived = asyncio.Event()

    async def hang(_: web.BaseRequest) -> None:
        arrived.set()
        await asyncio.sleep(60)

    simulator = Simulator(Fleet(epoch=EPOCH))
    simulator.fault("", hang)
    async with aiohttp.ClientSession() as session:
        async with running(simulator) as base_url:
            request = asyncio.ensure_future(session.get(base_url + "/token"))
            await arrived.wait()
            before = time.monotonic()
        assert time.monotonic() - before < 5
        with pytest.raises(aiohttp.ClientError):
            await request


async def test_the_share_of_faults_is_kept_and_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.simulator.server.FAULTS", (*FAULTS[:-1], hanging(0)))
    runs = []
    for _ in range(2):
        drawn: list[int] = []
        simulator = Simulator(Fleet(epoch=EPOCH), faults=0.3, seed=7)
        async with running(simulator) as base_url, aiohttp.ClientSession() as session:
            for _ in range(300):
                with suppress(aiohttp.ClientConnectionError):
                    # No api-version: what is no fault is a 400.
                    async with session.get(f"{base_url}/subscriptions/x") as response:
                        drawn.append(response.status)
        runs.append(drawn)
    assert runs[0] == runs[1]
    assert 180 <= runs[0].count(400) <= 240
    assert set(runs[0]) == {400, 429, 500, 502, 503, 504}


# --- Counting


async def test_requests_are_counted_by_scale_set(azure: Azure) -> None:
    await azure.history()
    await azure.history()
    assert azure.simulator.requests == {azure.web.resource_id.lower(): 2}
    assert azure.simulator.most_concurrent[azure.web.resource_id.lower()] == 1


async def test_concurrent_requests_are_noticed(azure: Azure) -> None:
    azure.simulator.fault("", hanging(0.05))
    await asyncio.gather(*(azure.history() for _ in range(3)))
    assert azure.simulator.most_concurrent[azure.web.resource_id.lower()] == 3


# --- The official client


class Token:
    """A credential that has nothing but a token, or asks the simulator for one."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator

    async def get_token(self, *_: str, **__: Any) -> AccessToken:
        return AccessToken(self.simulator.issue_token(), int(time.time()) + 3600)

    async def close(self) -> None:
        """Nothing to close."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing to close."""


def official(azure: Azure) -> ComputeManagementClient:
    return ComputeManagementClient(
        Token(azure.simulator),
        azure.web.subscription_id,
        base_url=azure.base_url,
        credential_scopes=[f"{azure.base_url}/.default"],
        retry_total=0,
    )


async def test_the_official_client_reads_every_history(azure: Azure) -> None:
    azure.simulator.page_size = 2
    async with official(azure) as client:
        for scale_set in azure.simulator.fleet.scale_sets[::2]:
            truth = azure.simulator.fleet.history(scale_set, EPOCH)
            found: list[Any] = [
                entry.properties
                async for entry in client.virtual_machine_scale_sets.get_os_upgrade_history(
                    scale_set.resource_group, scale_set.name, enforce_https=False
                )
            ]
            recorded = scale_set.part.form.end_key == "completedTime"
            assert [
                (p.running_status.code, p.running_status.start_time.timestamp(), p.started_by) for p in found
            ] == [(up.state, up.start, up.started_by) for up in truth]
            assert [p.running_status.end_time and p.running_status.end_time.timestamp() for p in found] == [
                None if recorded else up.end for up in truth
            ]
            assert [
                (p.progress.successful_instance_count, p.progress.pending_instance_count) for p in found
            ] == [(up.successful, up.pending) for up in truth]
            assert [p.error and p.error.code for p in found] == [up.error and up.error.code for up in truth]
            assert [p.target_image_reference.exact_version for p in found] == [
                up.image.exact_version for up in truth
            ]


GRAPH = "/providers/Microsoft.ResourceGraph/resources"
QUERY = (
    "resources | where type =~ 'microsoft.compute/virtualmachinescalesets'"
    " | project id, name, location, tags, upgradePolicy = properties.upgradePolicy"
)


async def graph(
    azure: Azure, subscriptions: list[str], query: str = QUERY, options: dict[str, object] | None = None
) -> tuple[int, Any, Any]:
    headers = {"Authorization": f"Bearer {azure.simulator.issue_token()}"}
    question = {"subscriptions": subscriptions, "query": query, "options": options or {}}
    async with (
        aiohttp.ClientSession() as client,
        client.post(
            f"{azure.base_url}{GRAPH}?api-version=2022-10-01", json=question, headers=headers
        ) as response,
    ):
        return response.status, await response.json(), response.headers


async def test_resource_graph_knows_the_scale_sets_of_the_subscriptions_asked_for_page_by_page(azure: Azure):
    owner = azure.web.subscription_id
    status, first, headers = await graph(azure, [owner], options={"$top": 4})
    assert (status, first["totalRecords"], first["count"], first["resultTruncated"]) == (200, 6, 4, "true")
    assert (headers["x-ms-user-quota-remaining"], headers["x-ms-user-quota-resets-after"]) == (
        "14",
        "00:00:05",
    )
    _, second, _ = await graph(azure, [owner], options={"$top": 4, "$skipToken": first["$skipToken"]})
    assert (second["count"], second["resultTruncated"], "$skipToken" in second) == (2, "false", False)
    assert [row["id"] for row in first["data"] + second["data"]] == [
        each.resource_id for each in azure.simulator.fleet.scale_sets if each.subscription_id == owner
    ]
    assert first["data"][0] == {
        "id": azure.web.resource_id,
        "name": "web-dev-sea",
        "location": "southeastasia",
        "tags": {"env": "dev", "team": "insight", "role": "web"},
        "upgradePolicy": {
            "mode": "Rolling",
            "automaticOSUpgradePolicy": {"enableAutomaticOSUpgrade": True},
        },
    }


async def test_what_may_not_be_seen_is_silence_in_resource_graph_and_forbidden_in_the_lists(azure: Azure):
    owner = azure.web.subscription_id
    azure.simulator.hidden.add(owner)
    assert (await graph(azure, [owner]))[1]["data"] == []
    status, body, _ = await azure.get(f"/subscriptions/{owner}/{COMPUTE}")
    assert (status, body["error"]["code"]) == (403, "AuthorizationFailed")
    assert "Microsoft.Compute/virtualMachineScaleSets/read" in body["error"]["message"]


async def test_a_scale_set_that_is_changed_is_listed_once_with_its_new_tags(azure: Azure):
    azure.simulator.change(replace(azure.web, tags=(("env", "test"),)))
    _, body, _ = await azure.get(f"/subscriptions/{azure.web.subscription_id}/{COMPUTE}")
    assert [each["tags"] for each in body["value"] if each["name"] == azure.web.name] == [{"env": "test"}]


async def test_a_scale_set_that_is_gone_is_in_no_list_and_not_found(azure: Azure):
    owner = azure.web.subscription_id
    azure.simulator.gone.add(azure.web.resource_id.lower())
    assert (await graph(azure, [owner]))[1]["totalRecords"] == 5
    assert len((await azure.get(f"/subscriptions/{owner}/{COMPUTE}"))[1]["value"]) == 5
    assert (await azure.get(f"{azure.web.resource_id}/osUpgradeHistory"))[0] == 404
    azure.simulator.gone.clear()
    assert (await graph(azure, [owner]))[1]["totalRecords"] == 6


async def test_a_scale_set_that_is_added_is_in_every_list_and_has_a_history(azure: Azure):
    owner = azure.web.subscription_id
    new = replace(azure.web, resource_group="rg-new", name="new")
    azure.simulator.add(new)
    assert (await graph(azure, [owner]))[1]["totalRecords"] == 7
    assert len((await azure.get(f"/subscriptions/{owner}/{COMPUTE}"))[1]["value"]) == 7
    assert (await azure.history(new))[0] == 200


@pytest.mark.parametrize(
    ("query", "options", "code"),
    [
        ("resources | take 1", {}, "InvalidQuery"),
        ("resources", {"$top": 0}, "InvalidQueryOptions"),
        ("resources", {"$top": 1001}, "InvalidQueryOptions"),
        ("resources", {"$skipToken": "x"}, "InvalidQueryOptions"),
        ("resources", {"$skipToken": 1}, "InvalidQueryOptions"),
        ("resources", {"resultFormat": "table"}, "InvalidQueryOptions"),
    ],
)
async def test_resource_graph_refuses_what_it_does_not_understand(
    azure: Azure, query: str, options: dict[str, Any], code: str
):
    status, body, _ = await graph(azure, [azure.web.subscription_id], query, options)
    assert (status, body["error"]["code"]) == (400, "BadRequest")
    assert body["error"]["details"][0]["code"] == code


async def test_resource_graph_refuses_a_query_about_no_subscription_that_there_is(azure: Azure):
    for subscriptions in ([], [GONE]):
        status, body, _ = await graph(azure, subscriptions)
        assert status == 400
        assert body["error"]["details"][0]["code"] == "NoValidSubscriptionsInQueryRequest"


async def test_rows_without_their_ids_go_on_to_no_next_page(azure: Azure):
    _, body, _ = await graph(azure, [azure.web.subscription_id], "resources | project name", {"$top": 2})
    assert (body["count"], body["resultTruncated"], "$skipToken" in body) == (2, "true", False)


async def test_resource_graph_grants_fifteen_questions_in_five_seconds(azure: Azure):
    answers = [await graph(azure, [azure.web.subscription_id]) for _ in range(16)]
    assert [status for status, _, _ in answers] == [200] * 15 + [429]
    _, body, headers = answers[-1]
    assert (body["error"]["code"], headers["Retry-After"]) == ("RateLimiting", "5")
    azure.clock[0] += 5
    assert (await graph(azure, [azure.web.subscription_id]))[0] == 200


async def test_a_fault_may_be_scripted_for_resource_graph_and_one_subscription(azure: Azure):
    one, other = azure.simulator.fleet.subscriptions
    azure.simulator.fault(f"resourcegraph/resources/subscriptions/{one}", answering(403))
    async with azure.session.post(
        f"{azure.base_url}{GRAPH}",
        params={"api-version": "2022-10-01"},
        json={"subscriptions": [one]},
        headers=azure.headers,
    ) as response:
        assert response.status == 403
    assert (await graph(azure, [other]))[0] == 200
    assert (await azure.get(f"/subscriptions/{one}/{COMPUTE}"))[0] == 200


async def test_a_fault_may_be_scripted_for_the_list_call_of_one_subscription(azure: Azure):
    one, other = azure.simulator.fleet.subscriptions
    azure.simulator.fault(f"{one}/{COMPUTE}", answering(403, b"{}"))
    assert (await azure.get(f"/subscriptions/{one}/{COMPUTE}"))[0] == 403
    assert (await azure.get(f"/subscriptions/{other}/{COMPUTE}"))[0] == 200
    assert (await graph(azure, [one]))[0] == 200
    assert (await azure.history())[0] == 200


async def test_random_faults_befall_resource_graph_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("exporter.simulator.server.FAULTS", (answering(503),))
    simulator = Simulator(Fleet(epoch=EPOCH), faults=1.0)
    async with (
        running(simulator) as base_url,
        aiohttp.ClientSession() as session,
        session.post(base_url + GRAPH) as response,
    ):
        assert response.status == 503


async def test_the_official_client_lists_a_subscription(azure: Azure) -> None:
    azure.simulator.page_size = 2
    async with official(azure) as client:
        found = [
            entry.name async for entry in client.virtual_machine_scale_sets.list_all(enforce_https=False)
        ]
    assert found == [scale_set.name for scale_set in azure.simulator.fleet.scale_sets[::2]]


async def test_the_official_client_understands_a_refusal(azure: Azure) -> None:
    async with official(azure) as client:
        with pytest.raises(HttpResponseError) as caught:
            async for _ in client.virtual_machine_scale_sets.get_os_upgrade_history(
                "rg-web", "gone", enforce_https=False
            ):
                pass
    assert caught.value.error is not None
    assert caught.value.error.code == "ResourceNotFound"


async def test_the_official_client_answers_a_claims_challenge(azure: Azure) -> None:
    async with official(azure) as client:
        ask = client.virtual_machine_scale_sets.get_os_upgrade_history
        for _ in range(2):
            azure.simulator.revoke_tokens(claims="{}")
            found: list[Any] = [
                entry async for entry in ask(azure.web.resource_group, azure.web.name, enforce_https=False)
            ]
            assert found[0].properties.running_status.code == State.ROLLING_FORWARD


# --- Running it


@pytest.mark.parametrize(
    ("address", "host"), [("127.0.0.1:0", "127.0.0.1"), (":0", "127.0.0.1"), ("[::1]:0", "[::1]")]
)
async def test_the_base_url_is_one_to_connect_to(address: str, host: str) -> None:
    simulator = Simulator(Fleet(epoch=EPOCH))
    async with running(simulator, address) as base_url, aiohttp.ClientSession() as session:
        assert base_url.startswith(f"http://{host}:")
        async with session.get(base_url + "/elsewhere") as response:
            assert response.status == 400


def test_the_configuration_names_every_scale_set() -> None:
    fleet = Fleet(epoch=EPOCH, subscriptions=3, scale_sets=14)
    text = config_for(fleet, "http://127.0.0.1:9848")
    assert text.startswith(
        "# The simulated Azure at http://127.0.0.1:9848. To sign in to it, run the exporter with\n"
        "#   IDENTITY_ENDPOINT=http://127.0.0.1:9848/token IDENTITY_HEADER=simulator\n"
    )
    config = yaml.safe_load(text)
    assert config["cloud"] == dict.fromkeys(("endpoint", "audience", "authority"), "http://127.0.0.1:9848")
    assert config["credential"] == {"kind": "managed_identity"}
    assert config["polling"] == {"interval": "5s", "active_interval": "5s", "budget_share": 1.0}
    named = {
        (subscription["id"], scale_set["resource_group"], scale_set["name"])
        for subscription in config["subscriptions"]
        for scale_set in subscription["scale_sets"]
    }
    assert named == {(s.subscription_id, s.resource_group, s.name) for s in fleet.scale_sets}


def test_a_subscription_without_scale_sets_is_not_configured() -> None:
    config = yaml.safe_load(
        config_for(Fleet(epoch=EPOCH, subscriptions=3, scale_sets=2), "http://127.0.0.1:1")
    )
    assert len(config["subscriptions"]) == 2
