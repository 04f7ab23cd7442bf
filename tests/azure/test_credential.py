"""Signing in with the real azure-identity, at the token endpoints of the simulator."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import time_machine
from aiohttp import web

from exporter.azure import credential as module
from exporter.azure.budget import Unmetered
from exporter.azure.client import Client
from exporter.azure.clouds import Cloud
from exporter.azure.credential import Credential
from exporter.azure.errors import Unauthorized
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
    passed: float = 0.0
    """Seconds that tests have let pass, beside those that really have."""

    def clock(self) -> float:
        return time.monotonic() + self.passed

    @contextmanager
    def passing(self, seconds: float) -> Iterator[Callable[[float], None]]:
        """Let time pass, by both clocks; yield how to let more of it pass until the block ends."""
        with time_machine.travel(time.time() + seconds) as wall:

            def more(seconds: float) -> None:
                wall.shift(seconds)
                self.passed += seconds

            self.passed += seconds
            yield more

    def credential(self, config: CredentialConfig | None = None) -> Credential:
        credential = Credential(config or ManagedIdentity(), self.cloud, self.telemetry, self.clock)
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


async def failure(credential: Credential) -> str:
    with pytest.raises(Unauthorized) as caught:
        await credential.token()
    text = str(caught.value)
    assert text.splitlines() == [text]
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
    monkeypatch.setattr(module, "REMEMBERED_SECONDS", 0.0)
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


async def test_a_failure_is_forgotten_after_a_while(azure: SignIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED_SECONDS", 0.05)
    azure.simulator.heal()
    azure.simulator.fault(APP_SERVICE, answering(400, b'{"error": "invalid_request"}'), times=2)
    credential = azure.credential()
    for _ in range(2):
        await failure(credential)
        await asyncio.sleep(0.06)
    assert await credential.token()
    assert azure.simulator.requests == {APP_SERVICE: 3}
    assert azure.failures == 2


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
    assert await failure(credential) == "no token: no answer within 0.3 s"
    assert await failure(credential) == "no token: no answer within 0.3 s"
    assert azure.failures == 1
    assert azure.simulator.requests == {APP_SERVICE: 1}
    monkeypatch.setattr(module, "REMEMBERED_SECONDS", 0.0)
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
    monkeypatch.setattr(module, "REMEMBERED_SECONDS", 0.0)
    azure.simulator.heal()
    azure.simulator.fault(APP_SERVICE, answering(400, b'{"error": "invalid_request"}'), times=3)
    credential = azure.credential()
    with caplog.at_level("INFO"):
        for _ in range(3):
            await failure(credential)
        for _ in range(3):
            await credential.token()
    said = [record.message for record in caplog.records if record.name == module.__name__]
    assert said == ["sign-in failed", "sign-in succeeds again"]


# --- Ahead of time


async def signed_in() -> None:
    """Wait until no sign-in is under way."""
    while any("Credential._attempt" in repr(task.get_coro()) for task in asyncio.all_tasks()):
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
    with azure.passing(then):
        assert await credential.token() == first
        await signed_in()
        second = await credential.token()
        assert second != first
        assert await credential.token() == second
    assert len(azure.queries) == 2


@pytest.mark.parametrize(("seconds", "then"), [(3600, 3400), (86_400, 50_000)])
async def test_a_token_that_cannot_be_replaced_is_used_until_it_expires(
    azure: SignIn, seconds: float, then: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REMEMBERED_SECONDS", 0.0)
    azure.simulator.token_seconds = seconds
    credential = azure.credential()
    first = await credential.token()
    azure.simulator.heal()
    azure.simulator.fault(APP_SERVICE, answering(400, b'{"error": "invalid_request"}'))
    with azure.passing(then) as more:
        for _ in range(3):
            assert await credential.token() == first
            await signed_in()
        asked = azure.simulator.requests[APP_SERVICE]
        assert asked > 1
        more(40)
        assert await credential.token() == first
        await signed_in()
        assert azure.simulator.requests[APP_SERVICE] > asked  # tried again, but not by each poll
        more(seconds - then)
        await failure(credential)
        azure.simulator.heal()
        assert await credential.token() != first


STEPS = {"30 d back": -30 * 86_400, "2 h back": -7200, "2 h ahead": 7200, "4,000 d ahead": 4000 * 86_400}


@pytest.mark.parametrize("config", [ManagedIdentity(), DefaultCredential()], ids=["managed", "default"])
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
async def test_a_step_of_the_wall_clock_neither_shortens_nor_prolongs_the_life_of_a_token(
    azure: SignIn, config: CredentialConfig, step: float
) -> None:
    azure.simulator.token_seconds = 3600
    credential = azure.credential(config)
    first = await credential.token()
    with time_machine.travel(time.time() + step):
        assert await credential.token() == first
        await signed_in()
        assert len(azure.queries) == 1
        with azure.passing(
            3400
        ):  # replaced ahead of time, although azure-identity may think it good for a month
            assert await credential.token() == first
            await signed_in()
            second = await credential.token()
            assert second != first
            with azure.passing(3000):
                assert await credential.token() == second
                await signed_in()
                assert len(azure.queries) == 2


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
async def test_a_token_that_expires_after_a_step_of_the_wall_clock_is_replaced(
    azure: SignIn, step: float
) -> None:
    azure.simulator.token_seconds = 3600
    credential = azure.credential()
    first = await credential.token()
    with time_machine.travel(time.time() + step), azure.passing(3601):
        assert await credential.token() != first
    assert len(azure.queries) == 2


# --- Another token


@pytest.mark.parametrize("config", [ManagedIdentity(), DefaultCredential()], ids=["managed", "default"])
@pytest.mark.parametrize("claims", [None, '{"access_token":{"nbf":{"essential":true}}}'])
async def test_a_fresh_token_is_another_than_the_refused(
    azure: SignIn, config: CredentialConfig, claims: str | None
) -> None:
    credential = azure.credential(config)
    refused = await credential.token()
    fresh = await credential.fresh_token(refused, claims)
    assert fresh != refused
    assert await credential.token() == fresh
    assert len(azure.queries) == 2


async def test_a_hundred_polls_refused_together_cost_one_fresh_token(azure: SignIn) -> None:
    credential = azure.credential()
    refused = await credential.token()
    tokens = await asyncio.gather(*(credential.fresh_token(refused, None) for _ in range(100)))
    assert len({refused, *tokens}) == 2
    assert len(azure.queries) == 2


@pytest.mark.parametrize("claims", [None, '{"access_token":{"nbf":{"essential":true}}}'])
async def test_where_every_token_is_refused_not_every_poll_asks_for_another(
    azure: SignIn, claims: str | None
) -> None:
    credential = azure.credential()
    for _ in range(5):
        await credential.fresh_token(await credential.token(), claims)
    assert len(azure.queries) == 2


async def test_other_claims_are_another_demand(azure: SignIn) -> None:
    credential = azure.credential()
    for claims in ('{"access_token":{}}', None):
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
        azure.simulator.revoke_tokens(claims)
        await client.upgrade_history(scale_set, 5.0, Unmetered())
    finally:
        await client.close()
    assert len(azure.queries) == 2


async def test_a_token_that_has_expired_is_replaced(azure: SignIn) -> None:
    azure.simulator.token_seconds = 0.0
    credential = azure.credential()
    assert await credential.token() != await credential.token()


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
