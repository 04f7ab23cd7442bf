"""The simulated Azure on HTTP: histories and lists of scale sets, tokens, budgets and faults, as Azure sends them.

Answers what the fleet says is true at the clock's time. Must not know how the fleet comes by it, nor who asks.
A request passes the same stations as at Azure: a fault (scripted by a test, or random), api-version, token,
subscription, ARM's budget, the resource, Compute's budgets.
"""

import asyncio
import json
import math
import secrets
import time
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from uuid import uuid4

from aiohttp import web

from exporter.simulator import graph
from exporter.simulator.fleet import Fleet, ScaleSet, Upgrade
from exporter.simulator.wire import to_json

Fault = Callable[[web.BaseRequest], Awaitable[web.StreamResponse | None]]
"""Answers a request in Azure's place; None leaves the answer to Azure."""

_dump = json.JSONEncoder(separators=(",", ":")).encode
_COMPUTE = ["providers", "microsoft.compute", "virtualmachinescalesets"]
_GRAPH = "/providers/microsoft.resourcegraph/resources"
_GRAPH_ROWS = 1000
"""Of a page, at most."""
_JSON_HEADERS = {"Content-Type": "application/json; charset=utf-8"}


# --- What can go wrong -------------------------------------------------------------------------------------


class Refused(Exception):
    """Azure says no: the answer it sends."""

    def __init__(self, status: int, body: object, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = _dump(body).encode()
        self.headers = {**_JSON_HEADERS, **(headers or {})}


def refused(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Refused:
    """Say no as ARM does."""
    return Refused(status, {"error": {"code": code, "message": message}}, headers)


def throttled_by_arm(subscription_id: str, retry_after: int) -> Refused:
    """Say no as ARM does when its own budget is spent."""
    message = (
        f"Number of requests for subscription '{subscription_id}' and operation 'GET' exceeded the backend storage"
        f" limit. Please try again after '{retry_after}' seconds."
    )
    return refused(429, "SubscriptionRequestsThrottled", message, {"Retry-After": str(retry_after)})


def throttled_by_compute(operation: str, allowed: int, retry_after: int) -> Refused:
    """Say no as Compute does: without the ``error`` wrapper, and with JSON in a string."""
    now = datetime.now(UTC).isoformat()
    measured = {
        "operationGroup": operation,
        "startTime": now,
        "endTime": now,
        "allowedRequestCount": allowed,
        "measuredRequestCount": allowed + 1,
    }
    body = {
        "code": "OperationNotAllowed",
        "message": "The server rejected the request because too many requests have been received for this"
        " subscription.",
        "details": [{"code": "TooManyRequests", "target": operation, "message": _dump(measured)}],
    }
    return Refused(429, body, {"Retry-After": str(retry_after)})


def refused_by_graph(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> Refused:
    """Say no as Resource Graph does: what is wrong stands in the details."""
    now = datetime.now(UTC).isoformat()
    error = {
        "code": "RateLimiting" if code == "RateLimiting" else "BadRequest",
        "message": "Please provide below info when asking for support: "
        f"timestamp = {now}, correlationId = {uuid4()}.",
        "details": [{"code": code, "message": message}],
    }
    return Refused(status, {"error": error}, headers)


def throttled_by_graph(retry_after: int) -> Refused:
    """Say no as Resource Graph does when the principal's quota is spent."""
    message = (
        "Client application has been throttled and should not attempt to repeat the request until an amount of time"
        " has elapsed. Please see https://aka.ms/resourcegraph-throttling for help."
    )
    return refused_by_graph(429, "RateLimiting", message, {"Retry-After": str(retry_after)})


def unauthorized(code: str, message: str, challenge: str) -> Refused:
    """Say no as ARM does to a token; the challenge tells the client what to ask for."""
    uri = "https://login.microsoftonline.com/7d2f4c0e-51b8-4a77-9a43-e0a6a4f0c2b9"
    return refused(401, code, message, {"WWW-Authenticate": f'Bearer authorization_uri="{uri}", {challenge}'})


def answering(status: int, body: bytes = b"", headers: Mapping[str, str] = _JSON_HEADERS) -> Fault:
    """Make a fault that answers just this."""

    async def fault(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers=headers)

    return fault


def refusing(refusal: Refused) -> Fault:
    """Make a fault that says no."""
    return answering(refusal.status, refusal.body, refusal.headers)


def hanging(seconds: float) -> Fault:
    """Make a fault that keeps the caller waiting for the true answer."""

    async def fault(_: web.BaseRequest) -> None:
        await asyncio.sleep(seconds)

    return fault


async def reset(request: web.BaseRequest) -> web.StreamResponse:
    """Cut the connection without a word: a fault."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


FAULTS: tuple[Fault, ...] = (
    refusing(throttled_by_compute("GetVMScaleSet3Min", 2400, retry_after=5)),
    refusing(throttled_by_arm("simulated", retry_after=5)),
    refusing(refused(500, "InternalServerError", "Encountered an internal server error.")),
    answering(502, b"<html><body><h1>502 Bad Gateway</h1></body></html>", {"Content-Type": "text/html"}),
    refusing(refused(503, "ServiceUnavailable", "The service is unavailable.", {"Retry-After": "1"})),
    answering(504, headers={}),
    reset,
    hanging(5.0),
)
"""What the share ``faults`` of requests draws from."""


# --- Budgets -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limit:
    """What Azure grants: buckets of so many requests, refilled by so many a second."""

    name: str
    capacity: int
    refill: float


READS = Limit("ARM", 250, 25.0)
HISTORIES = (Limit("GetVMScaleSet3Min", 2400, 800 / 60), Limit("GetVMScaleSet30Min", 24_000, 800 / 60))
"""Of a subscription; the header has named two spans ever since."""
HISTORY = Limit("GetVMScaleSetResource", 36, 12 / 60)
"""Of one scale set."""
GRAPH = Limit("ResourceGraph", 15, 3.0)
"""Of a tenant and principal."""
LISTS = Limit("HighCostGetVMScaleSet3Min", 1080, 360 / 60)


class Buckets:
    """What is left of a limit: one bucket for each subscription or scale set that it applies to."""

    def __init__(self) -> None:
        self._left: dict[tuple[str, str], tuple[float, float]] = {}

    def take(self, limit: Limit, owner: str, now: float) -> float:
        """Take one request and return what is left; below 0, nothing was taken and so much was missing."""
        left, then = self._left.get((limit.name, owner), (float(limit.capacity), now))
        left = min(limit.capacity, left + max(0.0, now - then) * limit.refill)
        taken = left - 1 if left >= 1 else left
        self._left[limit.name, owner] = (taken, now)
        return left - 1


@dataclass(slots=True)
class _Script:
    where: str
    fault: Fault
    times: float


# --- Azure -------------------------------------------------------------------------------------------------


class Simulator:
    """An Azure that holds one fleet; an instance is the request callable of an aiohttp server.

    ``faults`` is the share of ARM requests that a random fault answers, ``page_size`` how many entries an answer
    holds at most. With ``enforce_budgets`` False the budget headers count down, but nothing is refused.

    For tests: ``gone`` holds the folded resource ids of scale sets that are not there at the moment, ``hidden`` the
    subscriptions that the caller may not see; ``histories`` maps a folded resource id to the upgrades, or to the raw
    body, to answer with; ``requests`` and ``most_concurrent`` count by folded path, without ``/osupgradehistory``.
    """

    def __init__(
        self,
        fleet: Fleet,
        *,
        clock: Callable[[], float] = time.time,
        faults: float = 0.0,
        seed: int = 1,
        page_size: int = 1000,
        token_seconds: float = 86_400.0,
        enforce_budgets: bool = True,
    ) -> None:
        self.fleet = fleet
        self.clock = clock
        self.faults = faults
        self.page_size = page_size
        self.token_seconds = token_seconds
        self.enforce_budgets = enforce_budgets
        self.histories: dict[str, Sequence[Upgrade] | bytes] = {}
        self.requests: Counter[str] = Counter()
        self.most_concurrent: Counter[str] = Counter()
        self._in_flight: Counter[str] = Counter()
        self._random = Random(seed)  # noqa: S311  (draws faults, keeps no secret)
        self._scripts: list[_Script] = []
        self._tokens: dict[str, float] = {}
        self._revoked: dict[str, str] = {}
        self._buckets = Buckets()
        self._scale_sets = {scale_set.resource_id.lower(): scale_set for scale_set in fleet.scale_sets}
        self._groups = {key.rsplit("/", 4)[0] for key in self._scale_sets}
        self.gone: set[str] = set()
        self.hidden: set[str] = set()
        self._members: dict[str, list[ScaleSet]] = {subscription: [] for subscription in fleet.subscriptions}
        for scale_set in fleet.scale_sets:
            self._members[scale_set.subscription_id].append(scale_set)
        self._rendered: dict[str, tuple[Sequence[Upgrade], list[str]]] = {}

    def fault(self, where: str, fault: Fault, times: float = math.inf) -> None:
        """Answer the next so many requests whose folded path holds ``where`` with a fault.

        To Resource Graph's path, ``/subscriptions/<id>`` is added of each subscription that the query is about.
        """
        self._scripts.append(_Script(where.lower(), fault, times))

    def heal(self) -> None:
        """Forget every scripted fault."""
        self._scripts.clear()

    def add(self, scale_set: ScaleSet) -> None:
        """Let a scale set appear that was never there."""
        key = scale_set.resource_id.lower()
        self._scale_sets[key] = scale_set
        self._groups.add(key.rsplit("/", 4)[0])
        self._members[scale_set.subscription_id].append(scale_set)

    def change(self, scale_set: ScaleSet) -> None:
        """Let a scale set that is there have other tags, or another part to play."""
        key = scale_set.resource_id.lower()
        members = self._members[scale_set.subscription_id]
        members[members.index(self._scale_sets[key])] = scale_set
        self._scale_sets[key] = scale_set

    def issue_token(self) -> str:
        """Return a new bearer token."""
        token = secrets.token_urlsafe(32)
        self._tokens[token] = self.clock() + self.token_seconds
        return token

    def revoke_tokens(self, claims: str | None = None) -> None:
        """Refuse every token issued so far; with ``claims`` (JSON), challenge the client to ask for them."""
        if claims is not None:
            self._revoked |= dict.fromkeys(self._tokens, b64encode(claims.encode()).decode())
        self._tokens.clear()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        path = request.path.lower()
        key = path.removesuffix("/osupgradehistory")
        self.requests[key] += 1
        self._in_flight[key] += 1
        self.most_concurrent[key] = max(self.most_concurrent[key], self._in_flight[key])
        try:
            answer = await self._fault_for(request, path)
            return self._answer(request, path, await request.read()) if answer is None else answer
        finally:
            self._in_flight[key] -= 1

    async def _fault_for(self, request: web.BaseRequest, path: str) -> web.StreamResponse | None:
        where = path
        if path == _GRAPH:
            where += "".join(f"/subscriptions/{each}" for each in _subscriptions(await request.read()))
        for script in self._scripts:
            if script.where in where and script.times > 0:
                script.times -= 1
                return await script.fault(request)
        if path.startswith(("/subscriptions/", _GRAPH)) and self._random.random() < self.faults:
            return await self._random.choice(FAULTS)(request)
        return None

    def _answer(self, request: web.BaseRequest, path: str, sent: bytes) -> web.Response:
        if path in {"/token", "/metadata/identity/oauth2/token"}:
            return self._token(request, path)
        request_id = str(uuid4())
        headers = {
            **_JSON_HEADERS,
            "x-ms-request-id": request_id,
            "x-ms-correlation-request-id": request.headers.get("x-ms-correlation-request-id", request_id),
        }
        if request.headers.get("x-ms-return-client-request-id", "").lower() == "true":
            headers["x-ms-client-request-id"] = request.headers.get("x-ms-client-request-id", request_id)
        try:
            body = self._arm(request, path, sent, headers)
        except Refused as refusal:
            headers |= refusal.headers
            return web.Response(status=refusal.status, body=refusal.body, headers=headers)
        return web.Response(body=body, headers=headers)

    def _arm(self, request: web.BaseRequest, path: str, sent: bytes, headers: dict[str, str]) -> bytes:
        """Return the body of a good answer and add the budgets to its headers, or raise Refused."""
        now = self.clock()
        if "api-version" not in request.query:
            message = "The api-version query parameter (?api-version=) is required for all requests."
            raise refused(400, "MissingApiVersionParameter", message)
        self._check_token(request.headers.get("Authorization", ""), now)
        if request.method != ("POST" if path == _GRAPH else "GET"):
            message = f"The requested resource does not support http method '{request.method}'."
            raise refused(405, "HttpMethodNotAllowed", message)
        match path.split("/")[1:]:
            case ["subscriptions", owner, *rest] if rest == _COMPUTE:
                self._spend_reads(owner, now, headers)
                self._check_permission(owner, "Microsoft.Compute/virtualMachineScaleSets/read")
                self._spend([(LISTS, owner)], now, headers)
                return self._page(request, [_dump(_resource(each)) for each in self._present(owner)])
            case ["providers", "microsoft.resourcegraph", "resources"]:
                return self._graph(sent, now, headers)
            case ["subscriptions", owner, "resourcegroups", _, *rest, _, "osupgradehistory"] if (
                rest == _COMPUTE
            ):
                self._spend_reads(owner, now, headers)
                self._check_permission(
                    owner, "Microsoft.Compute/virtualMachineScaleSets/osUpgradeHistory/read"
                )
                key = path.removesuffix("/osupgradehistory")
                scale_set = self._find(key, request.path)
                self._spend([*((limit, owner) for limit in HISTORIES), (HISTORY, key)], now, headers)
                return self._history(request, key, scale_set, now)
        raise refused(404, "InvalidResourceType", f"No resource type was found that matches '{path}'.")

    def _check_token(self, authorization: str, now: float) -> None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            message = "Authentication failed. The 'Authorization' header is missing."
            raise unauthorized("AuthenticationFailed", message, 'error="invalid_token"')
        if claims := self._revoked.get(token):
            message = "The access token was revoked; the resource demands further claims."
            challenge = f'error="insufficient_claims", claims="{claims}"'
            raise unauthorized("InvalidAuthenticationToken", message, challenge)
        expires = self._tokens.get(token)
        if expires is None:
            message = "The access token is invalid."
            raise unauthorized("InvalidAuthenticationToken", message, 'error="invalid_token"')
        if expires <= now:
            message = (
                f"The access token expiry UTC time '{_clock_time(expires)}' is earlier than current UTC time"
                f" '{_clock_time(now)}'."
            )
            raise unauthorized("ExpiredAuthenticationToken", message, 'error="invalid_token"')

    def _check_permission(self, subscription: str, action: str) -> None:
        if subscription in self.hidden:
            message = (
                "The client 'simulated' with object id 'simulated' does not have authorization to perform action"
                f" '{action}' over scope '/subscriptions/{subscription}' or the scope is invalid. If access was"
                " recently granted, please refresh your credentials."
            )
            raise refused(403, "AuthorizationFailed", message)

    def _present(self, subscription: str) -> list[ScaleSet]:
        return [each for each in self._members[subscription] if each.resource_id.lower() not in self.gone]

    def _graph(self, sent: bytes, now: float, headers: dict[str, str]) -> bytes:
        """Answer a query of Resource Graph.

        https://learn.microsoft.com/rest/api/azureresourcegraph/resourcegraph/resources/resources
        """
        left = self._buckets.take(GRAPH, "tenant", now)
        headers["x-ms-user-quota-remaining"] = str(max(0, int(left)))
        headers["x-ms-user-quota-resets-after"] = "00:00:05"
        if left < 0 and self.enforce_budgets:
            raise throttled_by_graph(retry_after=5)
        known = [each for each in _subscriptions(sent) if each in self._members]
        if not known:
            message = "There must be at least one subscription that is eligible to contain resources."
            raise refused_by_graph(400, "NoValidSubscriptionsInQueryRequest", message)
        asked = json.loads(sent)
        seen = [each for owner in known if owner not in self.hidden for each in self._present(owner)]
        try:
            rows = graph.run(str(asked.get("query")), [_resource(each) for each in seen])
            return _graph_page(rows, asked.get("options") or {}, self.page_size)
        except graph.InvalidQuery as error:
            raise refused_by_graph(400, "InvalidQuery", f"Query is invalid: {error}") from None

    def _find(self, key: str, asked: str) -> ScaleSet:
        group, name = asked.split("/")[4], asked.split("/")[8]  # ARM repeats them as they were spelled
        if key.rsplit("/", 4)[0] not in self._groups:
            raise refused(404, "ResourceGroupNotFound", f"Resource group '{group}' could not be found.")
        if key not in self._scale_sets or key in self.gone:
            message = (
                f"The Resource 'Microsoft.Compute/virtualMachineScaleSets/{name}' under resource group '{group}' was"
                " not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix"
            )
            raise refused(404, "ResourceNotFound", message)
        return self._scale_sets[key]

    def _spend_reads(self, subscription: str, now: float, headers: dict[str, str]) -> None:
        if subscription not in self._members:
            message = f"The subscription '{subscription}' could not be found."
            raise refused(404, "SubscriptionNotFound", message)
        left = self._buckets.take(READS, subscription, now)
        headers["x-ms-ratelimit-remaining-subscription-reads"] = str(max(0, int(left)))
        if left < 0 and self.enforce_budgets:
            raise throttled_by_arm(subscription, math.ceil(-left / READS.refill))

    def _spend(self, limits: Sequence[tuple[Limit, str]], now: float, headers: dict[str, str]) -> None:
        left = [(limit, self._buckets.take(limit, owner, now)) for limit, owner in limits]
        remaining = (f"Microsoft.Compute/{limit.name};{max(0, int(number))}" for limit, number in left)
        headers["x-ms-ratelimit-remaining-resource"] = ",".join(remaining)
        for limit, number in left:
            if number < 0 and self.enforce_budgets:
                raise throttled_by_compute(limit.name, limit.capacity, math.ceil(-number / limit.refill))

    def _history(self, request: web.BaseRequest, key: str, scale_set: ScaleSet, now: float) -> bytes:
        history = self.histories.get(key)
        if isinstance(history, bytes):
            return history
        if history is None:
            history = self.fleet.history(scale_set, now)
        known, entries = self._rendered.get(key, (None, []))
        if known != history:  # rendering costs far more than comparing, and most histories rest
            entries = [_dump(to_json(scale_set, upgrade)) for upgrade in history]
            self._rendered[key] = (history, entries)
        return self._page(request, entries)

    def _page(self, request: web.BaseRequest, entries: Sequence[str]) -> bytes:
        """Join the entries of the page that ``$skiptoken`` asks for."""
        token = request.query.get("$skiptoken", "0")
        if not token.isdecimal():
            raise refused(400, "InvalidParameter", "The value of parameter $skiptoken is invalid.")
        start, end = int(token), int(token) + self.page_size
        value = ",".join(entries[start:end])
        if end >= len(entries):
            return f'{{"value":[{value}]}}'.encode()
        next_link = request.url.update_query({"$skiptoken": str(end)})
        return f'{{"value":[{value}],"nextLink":{_dump(str(next_link))}}}'.encode()

    def _token(self, request: web.BaseRequest, path: str) -> web.Response:
        """Answer as the managed identity endpoint of App Service (``/token``) or of a machine (IMDS) does.

        https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token
        """
        app_service = path == "/token"
        resource = request.query.get("resource")
        problem: tuple[int, str] | None = None
        if app_service and "X-IDENTITY-HEADER" not in request.headers:
            problem = 401, "The X-IDENTITY-HEADER header is missing"
        elif not app_service and request.headers.get("Metadata", "").lower() != "true":
            problem = 400, "Required metadata header not specified"
        elif not resource or "api-version" not in request.query:
            problem = 400, "Required query variable 'resource' or 'api-version' is missing"
        if problem:
            body = {"error": "invalid_request", "error_description": problem[1]}
            return web.Response(status=problem[0], text=_dump(body), headers=_JSON_HEADERS)
        token = self.issue_token()
        answer = {
            "access_token": token,
            "expires_in": str(int(self.token_seconds)),
            "expires_on": str(int(self._tokens[token])),
            "resource": resource,
            "token_type": "Bearer",
        }
        return web.Response(text=_dump(answer), headers=_JSON_HEADERS)


def _clock_time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%-m/%-d/%Y %-I:%M:%S %p}"


def _upgrade_policy(scale_set: ScaleSet) -> dict[str, object]:
    automatic = {"enableAutomaticOSUpgrade": scale_set.automatic_upgrade}
    return {"mode": "Rolling", "automaticOSUpgradePolicy": automatic}


def _subscriptions(sent: bytes) -> list[str]:
    """Return the subscriptions that a query of Resource Graph is about, folded."""
    try:
        asked = json.loads(sent)
    except ValueError:
        return []
    subscriptions = asked.get("subscriptions") if isinstance(asked, dict) else None
    return [str(each).lower() for each in subscriptions] if isinstance(subscriptions, list) else []


def _graph_page(rows: Sequence[graph.Row], options: Mapping[str, object], page_size: int) -> bytes:
    """Render the rows that the options ask for; only rows that have their ids go on to a next page."""
    top, start = options.get("$top", 100), options.get("$skipToken", "0")
    if (
        options.get("resultFormat", "objectArray") != "objectArray"
        or not isinstance(top, int)
        or not 1 <= top <= _GRAPH_ROWS
        or not isinstance(start, str)
        or not start.isdecimal()
    ):
        raise refused_by_graph(
            400, "InvalidQueryOptions", "The simulated Resource Graph does not know these."
        )
    end = int(start) + min(top, page_size)
    page, whole = rows[int(start) : end], end >= len(rows)
    answer: dict[str, object] = {
        "totalRecords": len(rows),
        "count": len(page),
        "data": page,
        "facets": [],
        "resultTruncated": "false" if whole else "true",
    }
    if not whole and all(row.get("id") for row in rows):
        answer["$skipToken"] = str(end)
    return _dump(answer).encode()


def _resource(scale_set: ScaleSet) -> dict[str, object]:
    """Render a scale set as the list calls do, as far as anyone here cares."""
    return {
        "id": scale_set.resource_id,
        "name": scale_set.name,
        "type": "Microsoft.Compute/virtualMachineScaleSets",
        "location": scale_set.location,
        "tags": dict(scale_set.tags),
        "sku": {"name": "Standard_D4s_v5", "tier": "Standard", "capacity": scale_set.instances},
        "properties": {"upgradePolicy": _upgrade_policy(scale_set), "provisioningState": "Succeeded"},
    }


# --- Running it --------------------------------------------------------------------------------------------


@asynccontextmanager
async def running(simulator: Simulator, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """Serve on an address (``host:port``, ``[::1]:0``, ``:9848``; port 0 takes a free one); yield the base URL."""
    host, _, port = address.rpartition(":")
    runner = web.ServerRunner(web.Server(simulator, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host.strip("[]") or "0.0.0.0", int(port)).start()  # noqa: S104  (asked for)
        bound, port = runner.addresses[0][:2]
        # A wildcard is no address to connect to.
        bound = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bound, bound)  # noqa: S104
        yield f"http://[{bound}]:{port}" if ":" in bound else f"http://{bound}:{port}"
    finally:
        await runner.cleanup()


def config_for(fleet: Fleet, base_url: str, *, discovering: bool = False) -> str:
    """Return the text of a configuration that polls every scale set of this fleet, as fast as Azure allows.

    All of them are named; with ``discovering`` only those of the first subscription are, and the others are found.
    """
    lines = [
        f"# The simulated Azure at {base_url}. To sign in to it, run the exporter with",
        f"#   IDENTITY_ENDPOINT={base_url}/token IDENTITY_HEADER=simulator",
        f"cloud: {{endpoint: '{base_url}', audience: '{base_url}', authority: '{base_url}'}}",
        "credential: {kind: managed_identity}",
        "polling: {interval: 5s, active_interval: 5s, budget_share: 1.0}",
        "subscriptions:",
    ]
    members: dict[str, list[str]] = {}
    for scale_set in fleet.scale_sets:
        named = f"      - {{resource_group: {scale_set.resource_group}, name: {scale_set.name}}}"
        members.setdefault(scale_set.subscription_id, []).append(named)
    for index, (subscription, named_sets) in enumerate(members.items()):
        lines.append(f"  - id: {subscription}")
        if discovering and (index or len(members) == 1):
            lines.append(
                "    discovery: {refresh: 15s, only_automatic_upgrade: false, tag_labels: [env, team]}"
            )
        else:
            lines += ["    scale_sets:", *named_sets]
    return "\n".join(lines) + "\n"
