"""Signing in with the real azure-identity, at the token endpoints of the simulator."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import pytest
import time_machine
from aiohttp import web

from exporter.azure import credential as module
from exporter.azure.budget import Unmetered
from exporter.azure.client import Client
from exporter.azure.clouds import Cloud
from exporter.azure.credential import Credential
from exporter.azure.errors import PollError, ServerError, TimedOut, Unauthorized
from exporter.config import (
    ClientCertificate,
    ClientSecret,
    CredentialConfig,
    DefaultCredential,
    ManagedIdentity,
    WorkloadIdentity,
)
from exporter.scale_set import ScaleSet
from exporter.simulator.fleet import Fleet
from exporter.simulator.server import Simulator, answering, running
from exporter.telemetry import Telemetry

HEADER = "the-secret-of-the-identity-header"
APP_SERVICE, IMDS = "/token", "/metadata/identity/oauth2/token"


@dataclass
class SignIn:
    simulator: Simulator
    cloud: Cloud
    telemetry: Telemetry
    queries: list[dict[str, str]] = field(default_factory=list)
    """Of the requests for a token."""
    made: list[Credential] = field(default_factory=list)

    later: float = 0.0
    """Seconds by which the monotonic clock of the credentials is ahead."""

    def credential(self, config: CredentialConfig | None = None) -> Credential:
        clock = lambda: time.monotonic() + self.later  # noqa: E731
        credential = Credential(config or ManagedIdentity(), self.cloud, self.telemetry, clock)
        self.made.append(credential)
        return credential

    @property
    def failures(self) -> float | None:
        return self.telemetry.registry.get_sample_value("vmss_upgrade_exporter_credential_failures_total")


@pytest.fixture
async def azure(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SignIn]:
    """A simulated Azure in whose App Service we run."""
    for name in os.environ:
        if name.startswith(("AZURE_", "IDENTITY_", "IMDS_", "MSI_")):
            monkeypatch.delenv(name)
    simulator = Simulator(Fleet(epoch=time.time() - 1, scale_sets=2))
    async with running(simulator) as base_url:
        monkeypatch.setenv("IDENTITY_ENDPOINT", base_url + APP_SERVICE)
        monkeypatch.setenv("IDENTITY_HEADER", HEADER)
        # azure-identity takes no other authority than https; managed identities need none.
        cloud = Cloud("custom", base_url, base_url, "https://login.invalid")
        sign_in = SignIn(simulator, cloud, Telemetry())

        async def listen(request: web.BaseRequest) -> None:
            sign_in.queries.append(dict(request.query))

        simulator.fault("/token", listen)
        yield sign_in
        for credential in sign_in.made:
            await credential.close()


async def failure(credential: Credential, kind: type[PollError] = Unauthorized) -> str:
    with pytest.raises(PollError) as caught:
        await credential.token()
    text = str(caught.value)
    assert (type(caught.value), text.splitlines()) == (kind, [text])
    return text


# --- Kinds of credentials


@pytest.mark.parametrize(
    ("config", "client_id"),
    [
        pytest.param(ManagedIdentity(), None, id="system-assigned"),
        pytest.param(ManagedIdentity(client_id="some-client"), "some-client", id="user-assigned"),
        pytest.param(DefaultCredential(), None, id="default"),
    ],
)
async def test_a_token_comes_from_app_service(
    azure: SignIn, config: CredentialConfig, client_id: str | None
) -> None:
    credential = azure.credential(config)
    token = await credential.token()
    assert await credential.token() == token
    (query,) = azure.queries
    assert query["resource"] == azure.cloud.audience
    assert query.get("client_id") == client_id
    assert azure.failures == 0


@pytest.mark.parametrize("config", [ManagedIdentity(), ManagedIdentity(client_id="some-client")], ids=str)
async def test_a_token_comes_from_the_machine(
    azure: SignIn, config: ManagedIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IDENTITY_ENDPOINT")
    monkeypatch.delenv("IDENTITY_HEADER")
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", azure.cloud.endpoint)
    credential = azure.credential(config)
    token = await credential.token()
    assert await credential.token() == token
    assert azure.simulator.requests == {IMDS: 1}
    assert azure.queries[0].get("client_id") == config.client_id


@pytest.mark.parametrize(
    ("config", "text"),
    [
        pytest.param(
            ClientSecret(tenant_id="t", client_id="c", client_secret_file=Path("/nowhere/secret")),
            "credential.client_secret_file: /nowhere/secret: No such file or directory",
            id="client secret",
        ),
        pytest.param(
            ClientCertificate(tenant_id="t", client_id="c", certificate_file=Path("/nowhere/cert.pem")),
            "credential.certificate_file: /nowhere/cert.pem: No such file or directory",
            id="client certificate",
        ),
        pytest.param(WorkloadIdentity(tenant_id="t", client_id="c"), "token_file_path", id="workload"),
    ],
)
async def test_a_credential_that_cannot_be_made_is_unauthorized(
    azure: SignIn, config: CredentialConfig, text: str
) -> None:
    assert text in await failure(azure.credential(config))
    assert azure.failures == 1


async def test_a_secret_file_that_comes_later_is_read_then(
    azure: SignIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file may be mounted after the start. What azure-identity then says here is that it wants https."""
    monkeypatch.setattr(module, "SPACING_SECONDS", 0.0)
    azure.cloud = replace(azure.cloud, authority=azure.cloud.endpoint)
    secret = tmp_path / "secret"
    credential = azure.credential(ClientSecret(tenant_id="t", client_id="c", client_secret_file=secret))
    assert "No such file" in await failure(credential)
    secret.write_text("hunter2\n")
    text = await failure(credential)
    assert "invalid authority" in text
    assert "hunter2" not in text


# --- Thrift


@pytest.mark.parametrize("config", [ManagedIdentity(), DefaultCredential()], ids=["managed", "default"])
async def test_a_hundred_polls_that_start_together_cost_one_token(
    azure: SignIn, config: CredentialConfig
) -> None:
    credential = azure.credential(config)
    tokens = await asyncio.gather(*(credential.token() for _ in range(100)))
    assert len(set(tokens)) == 1
    assert len(azure.queries) == 1


async def test_a_failure_is_the_answer_to_all_who_wait(azure: SignIn) -> None:
    azure.simulator.heal()
    azure.simulator.fault(APP_SERVICE, answering(400, b'{"error": "invalid_request"}'))
    credential = azure.credential()
    texts = await asyncio.gather(*(failure(credential) for _ in range(20)))
    assert len(set(texts)) == 1
    assert azure.simulator.requests == {APP_SERVICE: 1}
    assert azure.failures == 1


async def test_a_failure_is_remembered_although_all_is_well_again(azure: SignIn) -> None:
    azure.simulator.heal()
    azure.simulator.fault(APP_SERVICE, answering(400, b'{"error": "invalid_request"}'), times=1)
    credential = azure.credential()
    assert await failure(credential) == await failure(credential)
    assert azure.simulator.requests == {APP_SERVICE: 1}


async def test_a_failure_is_forgotten_after_a_while(azure: SignIn) -> None:
    azure.simulator.heal()
    azure.simulator.fault(APP_SERVICE, answering(400, b'{"error": "invalid_request"}'), times=2)
    credential = azure.credential()
    for _ in range(2):
        await failure(credential)
        azure.later += 4.5
        await failure(credential)
        azure.later += 0.6
    assert await credential.token()
    assert azure.simulator.requests == {APP_SERVICE: 3}
    assert azure.failures == 2


async def test_a_failure_that_may_pass_is_followed_by_one_more_sign_in_and_nobody_else_waits_for_it(
    azure: SignIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Polls that come meanwhile fail at once: else an outage would hold every slot, and few would be seen to fail."""
    monkeypatch.setattr(module, "JITTER_SECONDS", 0.0)
    monkeypatch.setattr(module, "SPACING_SECONDS", 1.0)
    azure.simulator.heal()
    azure.simulator.fault(APP_SERVICE, answering(503, b""))
    credential = azure.credential()
    waits = asyncio.ensure_future(failure(credential, ServerError))
    while azure.failures == 0:
        await asyncio.sleep(0.005)
    comes_later = asyncio.ensure_future(failure(credential, ServerError))
    await comes_later
    assert not waits.done()
    assert azure.simulator.requests == {APP_SERVICE: 1}
    await waits
    assert azure.simulator.requests == {APP_SERVICE: 2}
    assert azure.failures == 2


async def test_sign_ins_are_seconds_apart_whatever_comes_of_them(azure: SignIn) -> None:
    """Waves of polls during an outage, each 0.1 s apart by the credential's clock."""
    began: list[float] = []

    async def oops(_: web.BaseRequest) -> web.Response:
        began.append(time.monotonic() + azure.later)
        return web.json_response({"error": "x"}, status=400)

    azure.simulator.heal()
    azure.simulator.fault(APP_SERVICE, oops)
    credential = azure.credential()
    for _ in range(150):
        await asyncio.gather(*(failure(credential) for _ in range(5)))
        azure.later += 0.1
    assert len(began) >= 3
    assert all(after - before >= 5 for before, after in pairwise(began))


@pytest.fixture
def hanging_endpoint(azure: SignIn) -> asyncio.Event:
    """Make the next sign-in hang; the event says that it has begun."""
    arrived = asyncio.Event()

    async def hang(_: web.BaseRequest) -> None:
        arrived.set()
        await asyncio.sleep(30)

    azure.simulator.heal()
    azure.simulator.fault(APP_SERVICE, hang, times=1)
    return arrived


async def test_who_gives_up_waiting_ends_no_sign_in_of_others(
    azure: SignIn, hanging_endpoint: asyncio.Event
) -> None:
    credential = azure.credential()
    gives_up, waits = (asyncio.ensure_future(credential.token()) for _ in range(2))
    await asyncio.wait_for(hanging_endpoint.wait(), 5)
    gives_up.cancel()
    await asyncio.gather(gives_up, return_exceptions=True)
    joins = asyncio.ensure_future(credential.token())
    await asyncio.sleep(0.05)
    assert not waits.done()
    assert not joins.done()
    assert azure.simulator.requests == {APP_SERVICE: 1}
    waits.cancel()
    joins.cancel()


async def test_a_sign_in_that_hangs_fails_even_though_nobody_waits_any_more(
    azure: SignIn, hanging_endpoint: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SIGN_IN_SECONDS", 0.3)
    credential = azure.credential()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(credential.token(), 0.1)
    assert await failure(credential, TimedOut) == "no token: no answer within 0.3 s"
    assert await failure(credential, TimedOut) == "no token: no answer within 0.3 s"
    assert azure.failures == 1
    assert azure.simulator.requests == {APP_SERVICE: 1}
    monkeypatch.setattr(module, "SIGN_IN_SECONDS", 20.0)
    azure.later += 5
    assert await credential.token()


async def test_a_credential_can_be_closed_while_it_signs_in(
    azure: SignIn, hanging_endpoint: asyncio.Event
) -> None:
    credential = azure.credential()
    waits = asyncio.ensure_future(credential.token())
    await asyncio.wait_for(hanging_endpoint.wait(), 5)
    await credential.close()
    with pytest.raises(asyncio.CancelledError):
        await waits
    assert azure.failures == 0


async def test_a_failure_is_logged_once_and_so_is_its_end(
    azure: SignIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "SPACING_SECONDS", 0.0)
    azure.simulator.heal()
    azure.simulator.fault(APP_SERVICE, answering(400, b'{"error": "invalid_request"}'), times=3)
    credential = azure.credential()
    with caplog.at_level("INFO"):
        for _ in range(3):
            await failure(credential)
        for _ in range(3):
            await credential.token()
    said = [record.message for record in caplog.records if record.name == module.__name__]
    assert said == ["sign-in failed, it is repeated until it succeeds", "sign-in succeeds again"]


# --- Ahead of time


async def signed_in() -> None:
    """Wait until no sign-in is under way."""
    while any("Credential._try" in repr(task.get_coro()) for task in asyncio.all_tasks()):
        await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("seconds", "then"),
    [pytest.param(3600, 3400, id="an hour"), pytest.param(86_400, 50_000, id="a day: after half of it")],
)
async def test_a_token_is_replaced_before_it_expires_and_nobody_waits_for_that(
    azure: SignIn, seconds: float, then: float
) -> None:
    azure.simulator.token_seconds = seconds
    credential = azure.credential()
    first = await credential.token()
    azure.later = then
    assert await credential.token() == first
    await signed_in()
    second = await credential.token()
    assert second != first
    assert await credential.token() == second
    assert len(azure.queries) == 2


@pytest.mark.parametrize(("seconds", "then"), [(3600, 3400), (86_400, 50_000)])
async def test_a_token_that_cannot_be_replaced_is_used_until_it_expires(
    azure: SignIn, seconds: float, then: float
) -> None:
    azure.simulator.token_seconds = seconds
    credential = azure.credential()
    first = await credential.token()
    azure.simulator.heal()
    azure.simulator.fault(APP_SERVICE, answering(400, b'{"error": "invalid_request"}'))
    azure.later = then
    for _ in range(3):
        assert await credential.token() == first
        await signed_in()
    assert azure.simulator.requests[APP_SERVICE] == 2
    azure.later += 40
    assert await credential.token() == first
    await signed_in()
    assert azure.simulator.requests[APP_SERVICE] == 3  # tried again, but not by each poll
    azure.later += seconds - then
    await failure(credential)
    azure.simulator.heal()
    azure.later += 5
    assert await credential.token() != first


@pytest.mark.parametrize("step", [-4000 * 86_400, -40, 7200, 4000 * 86_400])
async def test_a_step_of_the_wall_clock_makes_no_token_older(azure: SignIn, step: float) -> None:
    credential = azure.credential()
    first = await credential.token()
    with time_machine.travel(time.time() + step):
        assert await credential.token() == first
        await signed_in()
    assert len(azure.queries) == 1


@pytest.mark.parametrize("seconds", [-7200, -5, 0])
async def test_a_token_that_looks_expired_is_used_all_the_same_for_half_a_minute(
    azure: SignIn, seconds: float
) -> None:
    """Our clock may be ahead; Azure is the judge."""
    azure.simulator.token_seconds = seconds
    credential = azure.credential()
    first = await credential.token()
    for _ in range(5):
        azure.later += 5
        assert await credential.token() == first
        assert await credential.fresh_token(first, None) == first
    assert len(azure.queries) == 1
    azure.later += 5.1
    assert await credential.token() != first
    assert len(azure.queries) == 2


@pytest.mark.parametrize("kind", [ManagedIdentity(), DefaultCredential()], ids=["managed", "default"])
@pytest.mark.parametrize(
    ("expiry", "sent"),
    [
        ('"expires_on": "0"', True),
        ('"expires_on": "-1"', True),
        ('"expires_on": -1', True),
        ('"expires_on": 1.5', True),
        ('"expires_on": 99999999999999999999999', True),
        ('"expires_on": 1e308', True),
        ('"expires_in": -5', True),
        ('"expires_in": "3600", "refresh_in": -99999999999999999999999', True),
        ('"expires_in": "3600", "refresh_in": 99999999999999999999999', True),
        ('"expires_on": 0', False),
        ('"expires_on": ""', False),
        ('"expires_on": "never"', False),
        ('"expires_on": "2026-01-01T00:00:00Z"', False),
        ('"expires_on": null', False),
        ('"expires_on": []', False),
        ('"expires_on": {"a": 1}', False),
        ('"expires_on": NaN', False),
        ('"expires_on": Infinity', False),
        ('"expires_on": ' + "9" * 5000, False),
        ('"expires_in": "3600", "refresh_in": "soon"', False),
        ('"nothing": 1', False),
    ],
)
async def test_an_absurd_expiry_costs_a_sign_in_each_few_seconds_at_most(
    azure: SignIn, monkeypatch: pytest.MonkeyPatch, kind: CredentialConfig, *, expiry: str, sent: bool
) -> None:
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "managedidentitycredential")  # no other way of the default
    azure.simulator.heal()
    body = f'{{"access_token": "some token", "resource": "r", {expiry}}}'
    headers = {"Content-Type": "application/json"}
    azure.simulator.fault(APP_SERVICE, answering(200, body.encode(), headers))
    credential = azure.credential(kind)
    for _ in range(20):
        if sent:
            assert await credential.token() == "some token"
        else:
            assert (await failure(credential)).startswith("no token: ")
        await signed_in()
    assert azure.simulator.requests == {APP_SERVICE: 1}


async def test_a_token_is_renewed_after_a_week_whatever_it_says_of_itself(azure: SignIn) -> None:
    azure.simulator.token_seconds = 4000 * 86_400
    credential = azure.credential()
    first = await credential.token()
    azure.later = 6.9 * 86_400
    assert await credential.token() == first
    azure.later = 7.1 * 86_400
    assert await credential.token() != first


# --- Another token


@pytest.mark.parametrize("config", [ManagedIdentity(), DefaultCredential()], ids=["managed", "default"])
@pytest.mark.parametrize("claims", [None, '{"access_token":{"nbf":{"essential":true}}}'])
async def test_a_fresh_token_is_another_than_the_refused(
    azure: SignIn, config: CredentialConfig, claims: str | None
) -> None:
    credential = azure.credential(config)
    refused = await credential.token()
    azure.later += 5
    fresh = await credential.fresh_token(refused, claims)
    assert fresh != refused
    assert await credential.token() == fresh
    assert len(azure.queries) == 2


async def test_a_hundred_polls_refused_together_cost_one_fresh_token(azure: SignIn) -> None:
    credential = azure.credential()
    refused = await credential.token()
    azure.later += 5
    tokens = await asyncio.gather(*(credential.fresh_token(refused, None) for _ in range(100)))
    assert len({refused, *tokens}) == 2
    assert len(azure.queries) == 2


@pytest.mark.parametrize("claims", [None, '{"access_token":{"nbf":{"essential":true}}}'])
async def test_where_every_token_is_refused_not_every_poll_asks_for_another(
    azure: SignIn, claims: str | None
) -> None:
    credential = azure.credential()
    await credential.token()
    azure.later += 5
    for _ in range(5):
        await credential.fresh_token(await credential.token(), claims)
    assert len(azure.queries) == 2


async def test_a_claims_challenge_alone_is_met_at_once(azure: SignIn) -> None:
    credential = azure.credential()
    for claims in ('{"access_token":{}}', '{"access_token":{"xms_cc":{}}}', None):
        await credential.fresh_token(await credential.token(), claims)
    assert len(azure.queries) == 3


async def test_who_was_refused_an_older_token_gets_the_one_of_the_moment(azure: SignIn) -> None:
    credential = azure.credential()
    token = await credential.token()
    assert await credential.fresh_token("an older one", None) == token
    assert len(azure.queries) == 1


@pytest.mark.parametrize("claims", [None, '{"access_token":{"nbf":{"essential":true}}}'])
async def test_a_poll_survives_that_its_token_is_revoked(azure: SignIn, claims: str | None) -> None:
    web = azure.simulator.fleet.scale_sets[0]
    scale_set = ScaleSet(web.subscription_id, web.resource_group, web.name, interval=300.0)
    client = Client(azure.cloud, azure.credential(), azure.telemetry, connections=1)
    try:
        await client.upgrade_history(scale_set, 5.0, Unmetered())
        azure.later += 5
        azure.simulator.revoke_tokens(claims)
        await client.upgrade_history(scale_set, 5.0, Unmetered())
    finally:
        await client.close()
    assert len(azure.queries) == 2


async def test_a_token_that_has_expired_is_replaced(azure: SignIn) -> None:
    azure.simulator.token_seconds = 60
    credential = azure.credential()
    first = await credential.token()
    azure.later = 61
    assert await credential.token() != first


# --- Tokens that cannot be sent


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ('""', "is blank"),
        ('"  "', "is blank"),
        ("null", "is not text"),
        ("7", "is not text"),
        ("true", "is not text"),
        ('{"a": "s3cr3t"}', "is not text"),
        ('["s3cr3t"]', "is not text"),
        ('"s3cr3t\\r\\nX-Header: x"', "has characters that no header may have"),
        ('"s3cr3t\\n"', "has characters that no header may have"),
        ('"s3cr3t\\u0000"', "has characters that no header may have"),
        ('"s3cr3t\\u007f"', "has characters that no header may have"),
        ('"s3cr3t\\u0085"', "has characters that no header may have"),
        ('"s3cr3t\\u20ac"', "has characters that no header may have"),
        ('"s3cr3t\\ud800"', "has characters that no header may have"),
        ('"' + "s3cr3t" * 11_000 + '"', "has more than 65536 characters"),
    ],
    ids=lambda value: value[:20],
)
async def test_a_token_that_cannot_be_sent_is_never_sent(
    azure: SignIn, caplog: pytest.LogCaptureFixture, token: str, said: str
) -> None:
    azure.simulator.heal()
    body = f'{{"access_token": {token}, "resource": "r", "expires_in": 3600}}'
    azure.simulator.fault(APP_SERVICE, answering(200, body.encode(), {"Content-Type": "application/json"}))
    credential = azure.credential()
    client = Client(azure.cloud, credential, azure.telemetry, connections=1)
    web = azure.simulator.fleet.scale_sets[0]
    scale_set = ScaleSet(web.subscription_id, web.resource_group, web.name, interval=300.0)
    try:
        for _ in range(5):
            with pytest.raises(Unauthorized) as caught:
                await client.upgrade_history(scale_set, 20.0, Unmetered())
    finally:
        await client.close()
    assert str(caught.value).startswith("no token: ")
    assert said in str(caught.value)
    assert azure.simulator.requests == {APP_SERVICE: 1}
    assert azure.failures == 1
    shown = str(caught.value) + "".join(map(str, (record.__dict__ for record in caplog.records)))
    assert "s3cr3t" not in shown
    assert [record.message for record in caplog.records if record.name.startswith("exporter")] == [
        "sign-in failed, it is repeated until it succeeds"
    ]


@pytest.mark.parametrize("token", ["a", "token of az", "\u00e9\u00ff", "x" * 65_536], ids=len)
async def test_an_odd_token_that_a_header_may_have_is_sent(azure: SignIn, token: str) -> None:
    azure.simulator.heal()
    body = json.dumps({"access_token": token, "resource": "r", "expires_in": 3600})
    azure.simulator.fault(APP_SERVICE, answering(200, body.encode(), {"Content-Type": "application/json"}))
    assert await azure.credential().token() == token


# --- What is said when there is none


@pytest.mark.parametrize("config", [ManagedIdentity(), DefaultCredential()], ids=["managed", "default"])
@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (400, b'{"error": "invalid_request", "error_description": "No\\n such\\r\\nidentity"}', "no token: "),
        (401, b"", "no token: "),
        (403, b"<html>\n<h1>Forbidden</h1>\n</html>", "no token: "),
        (200, b"<html>\n<h1>Sign in</h1>\n</html>", "no token: "),
        (200, b"", "no token: "),
        (200, b"[]", "no token: "),
        (200, b"null", "no token: "),
        (200, b'{"access_token": "s3cr3t"}', "no token: "),
        (200, b'{"access_token": "s3cr3t", "expires_on": "never", "resource": "r"}', "no token: "),
        (200, b'{"access_token": "s3cr3t", "expires_on": "4000000000"}', "no token: "),
        (200, b'{"access_token": ["s3cr3t"], "expires_on": "x\\u2028y", "resource": {}}', "no token: "),
    ],
)
async def test_a_sign_in_that_fails_is_told_in_one_line_without_secrets(
    azure: SignIn,
    monkeypatch: pytest.MonkeyPatch,
    config: CredentialConfig,
    *,
    status: int,
    body: bytes,
    text: str,
) -> None:
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "managedidentitycredential")  # no other way of the default
    azure.simulator.heal()
    headers = {"Content-Type": "application/json"}
    azure.simulator.fault(APP_SERVICE, answering(status, body, headers))
    told = await failure(azure.credential(config))
    assert told.startswith(text)
    assert len(told) > len(text)
    assert "s3cr3t" not in told
    assert HEADER not in told
    assert azure.failures == 1


async def test_a_credential_never_used_can_be_closed(azure: SignIn) -> None:
    await azure.credential().close()
    assert azure.simulator.requests == {}
