"""Each kind of credential at a real https token endpoint: whom it asks, for what, and what is said of its files."""

import asyncio
import json
import os
import stat
import sys
import time
from base64 import b64encode, urlsafe_b64decode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError
from azure.identity import CredentialUnavailableError
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import pkcs12

from exporter.azure import credential as module
from exporter.azure import identity
from exporter.azure.budget import Unmetered
from exporter.azure.client import Client
from exporter.azure.clouds import CLOUDS, Cloud
from exporter.azure.credential import Credential
from exporter.azure.errors import PollError, ServerError, TimedOut, Unauthorized, Unreachable
from exporter.azure.identity import UnusableFile, check_files
from exporter.config import (
    AzureCli,
    ClientCertificate,
    ClientSecret,
    CredentialConfig,
    DefaultCredential,
    ManagedIdentity,
    WorkloadIdentity,
)
from exporter.scale_set import ScaleSet
from exporter.simulator.fleet import Fleet
from exporter.simulator.server import Simulator, refusing, running, unauthorized
from exporter.telemetry import Telemetry
from tests.entra import (
    Authority,
    Entra,
    client_certificate,
    entra_id,
    invalid_client,
    proxy_to,
    serving_https,
    trusted,
)

TENANT, CLIENT = "some-tenant", "some-client"
SECRET = "hunter2 & co"
ASSERTION = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJwb2QifQ.c2lnbmF0dXJl"
WEB = ScaleSet("6c1e0f6a-4f0b-4c52-9d6e-0a3f5b7c9d11", "rg-web", "web", interval=300.0)


@dataclass
class Place:
    """A machine with the files and the environment that sign-ins need, and an Entra ID to sign in to."""

    entra: Entra
    folder: Path
    cloud: Cloud
    monkeypatch: pytest.MonkeyPatch
    telemetry: Telemetry = field(default_factory=Telemetry)
    made: list[Credential] = field(default_factory=list)

    def file(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def replace(self, path: Path, content: bytes | None) -> None:
        path.unlink()
        if content is not None:
            path.write_bytes(content)

    def credential(self, config: CredentialConfig, cloud: Cloud | None = None) -> Credential:
        self.made.append(Credential(config, cloud or self.cloud, self.telemetry))
        return self.made[-1]

    async def failure(self, config: CredentialConfig, kind: type[PollError] = Unauthorized) -> str:
        with pytest.raises(PollError) as caught:
            await self.credential(config).token()
        text = str(caught.value)
        assert (type(caught.value), text.splitlines()) == (kind, [text])
        return text


@pytest.fixture
async def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", "")  # to be put back
    for name in os.environ:
        if name.startswith(("AZURE_", "IDENTITY_", "IMDS_", "MSI_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(module, "SPACING_SECONDS", 0.0)
    monkeypatch.setattr(module, "JITTER_SECONDS", 0.0)
    async with entra_id() as entra:
        cloud = Cloud("custom", "https://arm.invalid", "https://audience.example", entra.url)
        place = Place(entra, tmp_path, cloud, monkeypatch)
        yield place
        for credential in place.made:
            await credential.close()


def client_secret(place: Place) -> CredentialConfig:
    return ClientSecret(
        tenant_id=TENANT, client_id=CLIENT, client_secret_file=place.file("secret", f"{SECRET}\n")
    )


def pem(password: str = "") -> bytes:
    key, certificate = client_certificate()
    lock = (
        serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    )
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, lock) + certificate.public_bytes(
        serialization.Encoding.PEM
    )


def pfx(password: str = "") -> bytes:
    key, certificate = client_certificate()
    lock = (
        serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    )
    return pkcs12.serialize_key_and_certificates(b"app", key, certificate, None, lock)


def certificate(place: Place, content: bytes = b"", password: str | None = None) -> ClientCertificate:
    return ClientCertificate(
        tenant_id=TENANT,
        client_id=CLIENT,
        certificate_file=place.file("cert", content or pem()),
        certificate_password_file=None if password is None else place.file("password", f"{password}\n"),
    )


def workload(place: Place) -> CredentialConfig:
    place.monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(place.file("assertion", ASSERTION)))
    return WorkloadIdentity(tenant_id=TENANT, client_id=CLIENT)


def workload_of_the_environment(place: Place) -> CredentialConfig:
    workload(place)
    place.monkeypatch.setenv("AZURE_TENANT_ID", TENANT)
    place.monkeypatch.setenv("AZURE_CLIENT_ID", CLIENT)
    return WorkloadIdentity()


def default_with_secret(place: Place) -> CredentialConfig:
    for name, value in (("TENANT_ID", TENANT), ("CLIENT_ID", CLIENT), ("CLIENT_SECRET", SECRET)):
        place.monkeypatch.setenv(f"AZURE_{name}", value)
    return DefaultCredential()


def default_with_workload(place: Place) -> CredentialConfig:
    workload_of_the_environment(place)
    return DefaultCredential()


MAKERS: list[Callable[[Place], CredentialConfig]] = [
    client_secret,
    certificate,
    workload,
    workload_of_the_environment,
    default_with_secret,
    default_with_workload,
]
PROOFS: dict[Callable[[Place], CredentialConfig], dict[str, str]] = {
    client_secret: {"client_secret": SECRET},
    default_with_secret: {"client_secret": SECRET},
    workload: {"client_assertion": ASSERTION},
    workload_of_the_environment: {"client_assertion": ASSERTION},
    default_with_workload: {"client_assertion": ASSERTION},
}


# --- Whom it asks, and for what


@pytest.mark.parametrize("make", MAKERS)
async def test_a_credential_asks_the_authority_of_its_cloud(
    place: Place, make: Callable[[Place], CredentialConfig]
) -> None:
    credential = place.credential(make(place))
    assert await credential.token() == "token-1"
    assert await credential.token() == "token-1"
    (asked,) = place.entra.asked
    assert (asked.host, asked.path) == (f"localhost:{place.entra.port}", f"/{TENANT}/oauth2/v2.0/token")
    expected = {
        "client_id": CLIENT,
        "grant_type": "client_credentials",
        "scope": "https://audience.example/.default",
        **PROOFS.get(make, {}),
    }
    assert asked.form.items() >= expected.items()
    assert "claims" not in asked.form


@pytest.mark.parametrize("make", [client_secret, default_with_workload])
@pytest.mark.parametrize("name", CLOUDS)
async def test_a_named_clouds_sign_in_goes_through_the_proxy_of_the_environment(
    place: Place, name: str, make: Callable[[Place], CredentialConfig]
) -> None:
    async with proxy_to(place.entra.port) as proxy:
        place.monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        credential = place.credential(make(place), CLOUDS[name])
        assert await credential.token() == "token-1"
        await credential.close()
    host = CLOUDS[name].authority.removeprefix("https://")
    assert proxy.targets == [f"{host}:443"]
    (asked,) = place.entra.asked
    assert (asked.host, asked.path) == (host, f"/{TENANT}/oauth2/v2.0/token")
    assert asked.form["scope"] == CLOUDS[name].scope


async def test_no_proxy_keeps_a_sign_in_from_the_proxy(place: Place) -> None:
    async with proxy_to(place.entra.port) as proxy:
        place.monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        place.monkeypatch.setenv("no_proxy", "localhost")
        assert await place.credential(client_secret(place)).token()
    assert proxy.targets == []


async def test_a_proxy_is_told_user_and_password_in_a_header(place: Place) -> None:
    async with proxy_to(place.entra.port) as proxy:
        place.monkeypatch.setenv("https_proxy", f"http://us%40er:p%2Fw@127.0.0.1:{proxy.port}")
        assert await place.credential(client_secret(place)).token() == "token-1"
    (head,) = proxy.heads
    assert "Proxy-Authorization: Basic dXNAZXI6cC93\r\n" in head  # us@er:p/w


@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "502 Bad Gateway"])
async def test_a_proxy_that_refuses_is_told_without_its_password(place: Place, status: str) -> None:
    async with proxy_to(place.entra.port) as proxy:
        proxy.status = status
        place.monkeypatch.setenv("https_proxy", f"http://someone:s3cr3t@127.0.0.1:{proxy.port}")
        text = await place.failure(client_secret(place), Unreachable)
    assert status.partition(" ")[0] in text
    assert "s3cr3t" not in text


@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "ALL_PROXY"])
async def test_no_proxy_sees_what_the_machines_own_endpoint_gives(place: Place, name: str) -> None:
    async with proxy_to(place.entra.port) as proxy:
        place.monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        place.monkeypatch.setenv("IDENTITY_ENDPOINT", f"http://127.0.0.1:{proxy.port}/token")
        place.monkeypatch.setenv("IDENTITY_HEADER", "header")
        proxy.status = "403 Forbidden"
        await place.failure(ManagedIdentity())
    assert set(proxy.targets) == {proxy.targets[0]}
    assert proxy.targets[0].startswith("/token?")  # asked as the endpoint, not as a proxy


async def test_the_default_credential_works_where_the_authority_is_http(place: Place) -> None:
    """On a simulated Azure; the parts that hold a secret are left out, so that it travels nowhere."""
    default_with_secret(place)
    place.monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "azureclicredential")
    az(place, "signed in")
    cloud = Cloud("custom", "http://127.0.0.1:1", "http://127.0.0.1:1", "http://127.0.0.1:1")
    assert await place.credential(DefaultCredential(), cloud).token() == "token of az"


# --- Certificates


def jwt_parts(assertion: str) -> tuple[dict[str, str], dict[str, str], bytes, bytes]:
    head, body, signature = assertion.split(".")

    def decoded(part: str) -> bytes:
        return urlsafe_b64decode(part + "=" * (-len(part) % 4))

    return json.loads(decoded(head)), json.loads(decoded(body)), f"{head}.{body}".encode(), decoded(signature)


@pytest.mark.parametrize(
    ("content", "password"),
    [
        pytest.param(pem, None, id="PEM"),
        pytest.param(lambda: pem("open sesame"), "open sesame", id="PEM with password"),
        pytest.param(pfx, None, id="PKCS 12"),
        pytest.param(lambda: pfx("open sesame"), "open sesame", id="PKCS 12 with password"),
    ],
)
async def test_a_certificate_signs_for_itself(
    place: Place, content: Callable[[], bytes], password: str | None
) -> None:
    config = certificate(place, content(), password)
    check_files(config)
    assert await place.credential(config).token() == "token-1"
    (asked,) = place.entra.asked
    head, body, signed, signature = jwt_parts(asked.form["client_assertion"])
    key, _ = client_certificate()
    assert body["iss"] == body["sub"] == CLIENT
    assert body["aud"] == f"{place.entra.url}/{TENANT}/oauth2/v2.0/token"
    scheme = padding.PSS(padding.MGF1(hashes.SHA256()), 32) if head["alg"] == "PS256" else padding.PKCS1v15()
    key.public_key().verify(signature, signed, scheme, hashes.SHA256())  # raises where another signed it


def elliptic() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    _, of_another = client_certificate()
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, plain) + of_another.public_bytes(
        serialization.Encoding.PEM
    )


@pytest.mark.parametrize(
    ("content", "password", "said"),
    [
        pytest.param(lambda: b"no certificate", None, "PEM or PKCS12 format", id="something else"),
        pytest.param(lambda: b"", None, "certificate", id="nothing"),
        pytest.param(lambda: b"-----BEGIN nonsense", None, "Unable to load PEM file", id="broken PEM"),
        pytest.param(lambda: pem("right"), "wrong", "ncorrect password", id="PEM, wrong password"),
        pytest.param(lambda: pem("right"), None, "Password was not given", id="PEM, no password"),
        pytest.param(pem, "needless", "Password was given", id="PEM, needless password"),
        pytest.param(lambda: pfx("right"), "wrong", "Invalid password", id="PKCS 12, wrong password"),
        pytest.param(lambda: pfx("right"), None, "Invalid password", id="PKCS 12, no password"),
        pytest.param(elliptic, None, "must have an RSA private key", id="no RSA key"),
    ],
)
async def test_a_certificate_that_cannot_be_used_is_told_in_one_line_at_start_and_later(
    place: Place, content: Callable[[], bytes], password: str | None, said: str
) -> None:
    config = certificate(place, pem(), password)
    place.replace(config.certificate_file, content())
    with pytest.raises(UnusableFile) as caught:
        check_files(config)
    text = str(caught.value)
    assert text.startswith(f"credential.certificate_file: {config.certificate_file}: ")
    assert said in text
    assert text.splitlines() == [text]
    assert "wrong" not in text.replace(str(place.folder), "")
    assert await place.failure(config) == f"no token: {text}"


@pytest.mark.parametrize(
    ("content", "said"),
    [(b" \n", "is empty"), (b"\xff\xfe", "is not UTF-8"), (None, "No such file or directory")],
)
@pytest.mark.parametrize("setting", ["client_secret_file", "certificate_password_file"])
async def test_a_secret_that_cannot_be_used_is_told_in_one_line(
    place: Place, setting: str, content: bytes | None, said: str
) -> None:
    config = client_secret(place) if setting == "client_secret_file" else certificate(place, pem(), "x")
    file: Path = getattr(config, setting)
    place.replace(file, content)
    with pytest.raises(UnusableFile) as caught:
        check_files(config)
    assert str(caught.value) == f"credential.{setting}: {file}: {said}"
    assert await place.failure(config) == f"no token: {caught.value}"


# --- The Azure CLI


_POOL = "HTTPSConnectionPool(host='login.microsoftonline.com', port=443): Max retries exceeded with url: /t/oauth2"
AZ_ERRORS = {
    "offline": f"{_POOL} (Caused by NewConnectionError('<x>: Failed to establish a new connection: [Errno 111] x'))",
    "nameless": f"{_POOL} (Caused by NameResolutionError(\"Failed to resolve 'login.microsoftonline.com'\"))",
    "cut off": "('Connection aborted.', ConnectionResetError(104, 'Connection reset by peer'))",
    "no network": f"Please ensure you have network connection. Error detail: {_POOL}",
    "slow": f"{_POOL} (Caused by ConnectTimeoutError('<x>, Connection to login.microsoftonline.com timed out.'))",
    "refused": "AADSTS700082: The refresh token has expired due to inactivity, the connection timed out.",
    "strange": "The command failed with an unexpected error.",
}


def az(place: Place, state: str) -> Path:
    """Put an ``az`` on the PATH; return the file that holds what it was called with."""
    folder, calls = place.folder / "bin", place.folder / "calls"
    folder.mkdir()
    answer = json.dumps(
        {"accessToken": "token of az", "expires_on": int(time.time()) + 3600, "expiresOn": ""}
    )
    ways = {
        "signed in": f"print({answer!r})",
        "signed out": "sys.exit(\"ERROR: Please run 'az login' to setup account.\")",
        "broken": "print('<html>s3cr3t</html>')",
        "hanging": "time.sleep(60)",
        **{state: f"sys.exit({f'ERROR: {said}'!r})" for state, said in AZ_ERRORS.items()},
    }
    program = folder / "az"
    record = f"open({str(calls)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')"
    program.write_text(
        f"#!{sys.executable}\nimport sys, time\n{record}\n{ways[state]}\n"
    )  # an image has no shell
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    place.monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return calls


@pytest.mark.parametrize(
    ("config", "options"), [(AzureCli(), ""), (AzureCli(tenant_id=TENANT), f" --tenant {TENANT}")], ids=str
)
async def test_the_azure_cli_is_asked_once(place: Place, config: AzureCli, options: str) -> None:
    """It takes half a second and the processor of a poll's thousand; azure-identity keeps no token of its."""
    calls = az(place, "signed in")
    credential = place.credential(config)
    assert [await credential.token() for _ in range(3)] == ["token of az"] * 3
    (call,) = calls.read_text().splitlines()
    assert call == f"account get-access-token --output json --resource https://audience.example{options}"


async def test_the_azure_cli_is_asked_again_when_its_token_is_refused(place: Place) -> None:
    calls = az(place, "signed in")
    credential = place.credential(AzureCli())
    await credential.fresh_token(await credential.token(), None)
    assert len(calls.read_text().splitlines()) == 2


async def test_the_azure_cli_says_how_to_meet_a_claims_challenge(place: Place) -> None:
    az(place, "signed in")
    credential = place.credential(AzureCli())
    with pytest.raises(Unauthorized, match="az login --claims-challenge"):
        await credential.fresh_token(await credential.token(), '{"access_token":{}}')


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (None, "no token: Azure CLI not found on path"),
        ("signed out", "no token: Please run 'az login' to set up an account"),
        ("broken", "no token: Unexpected output from Azure CLI"),
    ],
)
async def test_an_azure_cli_that_gives_no_token_is_told_in_one_line(
    place: Place, state: str | None, said: str
) -> None:
    if state is None:
        place.monkeypatch.setenv("PATH", str(place.folder))
    else:
        az(place, state)
    assert (await place.failure(AzureCli())).startswith(said)


@pytest.mark.parametrize("config", [AzureCli(), DefaultCredential()], ids=["alone", "in the default"])
@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("offline", Unreachable),
        ("nameless", Unreachable),
        ("cut off", Unreachable),
        ("no network", Unreachable),
        ("slow", TimedOut),
        ("refused", Unauthorized),
        ("strange", Unauthorized),
        ("signed out", Unauthorized),
        ("broken", Unauthorized),
    ],
)
async def test_an_azure_cli_that_did_not_reach_the_identity_provider_was_not_refused(
    place: Place, config: CredentialConfig, state: str, kind: type[PollError]
) -> None:
    """Azure/azure-cli#11829, #31401: the network's failures come as the text of an exception."""
    place.monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "dev")  # nothing that asks the machine's own endpoint
    place.monkeypatch.setenv("PATH", "/usr/bin:/bin")  # where no other of these command lines is
    az(place, state)
    await place.failure(config, kind)


# --- Trust


async def test_a_token_endpoint_whose_certificate_nobody_vouches_for_gets_no_secret(place: Place) -> None:
    async with entra_id(Authority("unknown")) as impostor:
        place.cloud = Cloud("custom", "https://arm.invalid", "https://arm.invalid", impostor.url)
        text = await place.failure(client_secret(place), Unreachable)
    assert text.startswith("no token: Cannot connect to host localhost:")
    assert "certificate verify failed" in text
    assert impostor.asked == []


async def test_a_resource_manager_whose_certificate_nobody_vouches_for_gets_no_token(place: Place) -> None:
    asked: list[object] = []

    async def impostor(request: object) -> None:
        asked.append(request)

    async with serving_https(impostor, Authority("unknown")) as port:
        cloud = Cloud("custom", f"https://localhost:{port}", "https://arm.invalid", place.entra.url)
        client = Client(cloud, place.credential(client_secret(place), cloud), place.telemetry, connections=1)
        with pytest.raises(Unreachable, match="certificate verify failed"):
            await client.upgrade_history(WEB, 6.0, Unmetered())
        await client.close()
    assert asked == []


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file or directory"), ("no certificate", "NO_CERTIFICATE_OR_CRL_FOUND"), ("", "NO_CERT")],
)
async def test_an_ssl_cert_file_that_holds_no_certificate_is_told(
    place: Place, content: str | None, said: str
) -> None:
    file = place.folder / "ca.pem"
    if content is not None:
        file.write_text(content)
    place.monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(UnusableFile) as caught:
        check_files(ManagedIdentity())
    assert str(caught.value).startswith(f"SSL_CERT_FILE: {file}: ")
    assert said in str(caught.value)


# --- Failures of the identity endpoint


def http(
    status: str, body: bytes = b"", content_type: str = "application/json", length: int | None = None
) -> bytes:
    size = len(body) if length is None else length
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


OAUTH = b'{"error": "some_error", "error_description": "AADSTS0: why"}'
ANSWERS: list[tuple[str, bytes, type[PollError]]] = [
    ("closed without an answer", b"", Unreachable),
    ("no HTTP", b"220 mail.example ESMTP\r\n\r\n", Unreachable),
    ("half a status line", b"HTTP/1.1 2", Unreachable),
    ("half a body", http("200 OK", b'{"access_token', length=99), Unreachable),
    ("500", http("500 Internal Server Error", OAUTH), ServerError),
    ("502 without a body", http("502 Bad Gateway"), ServerError),
    ("503 with HTML", http("503 Service Unavailable", b"<html>", "text/html"), ServerError),
    ("504 with nonsense", http("504 Gateway Timeout", b"{", "application/json"), ServerError),
    ("408", http("408 Request Timeout", OAUTH), ServerError),
    ("410", http("410 Gone", OAUTH), ServerError),
    ("429", http("429 Too Many Requests", OAUTH), ServerError),
    ("400", http("400 Bad Request", OAUTH), Unauthorized),
    ("401", http("401 Unauthorized", OAUTH), Unauthorized),
    ("403 with HTML", http("403 Forbidden", b"<html>", "text/html"), Unauthorized),
    ("200 with HTML", http("200 OK", b"<html>", "text/html"), Unauthorized),
    ("200 without a body", http("200 OK"), Unauthorized),
]


def by_client_secret(place: Place, url: str) -> CredentialConfig:
    place.cloud = replace(place.cloud, authority=url)
    return client_secret(place)


def by_certificate(place: Place, url: str) -> CredentialConfig:
    place.cloud = replace(place.cloud, authority=url)
    return certificate(place)


def by_workload(place: Place, url: str) -> CredentialConfig:
    place.cloud = replace(place.cloud, authority=url)
    return workload(place)


def by_default_with_secret(place: Place, url: str) -> CredentialConfig:
    place.cloud = replace(place.cloud, authority=url)
    return default_with_secret(place)


def by_default_with_workload(place: Place, url: str) -> CredentialConfig:
    place.cloud = replace(place.cloud, authority=url)
    return default_with_workload(place)


def by_app_service(place: Place, url: str) -> CredentialConfig:
    place.monkeypatch.setenv("IDENTITY_ENDPOINT", f"{url}/token")
    place.monkeypatch.setenv("IDENTITY_HEADER", "header")
    return ManagedIdentity()


def by_imds(place: Place, url: str) -> CredentialConfig:
    place.monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", url)
    return ManagedIdentity()


def by_default_on_app_service(place: Place, url: str) -> CredentialConfig:
    by_app_service(place, url)
    return DefaultCredential()


def by_default_with_imds(place: Place, url: str) -> CredentialConfig:
    by_imds(place, url)
    return DefaultCredential()


OVER_HTTPS = [by_client_secret, by_certificate, by_workload, by_default_with_secret, by_default_with_workload]
OVER_HTTP = [by_app_service, by_imds, by_default_on_app_service, by_default_with_imds]
By = Callable[[Place, str], CredentialConfig]


@asynccontextmanager
async def raw_endpoint(
    by: By, answer: bytes | None, authority: Authority | None = None
) -> AsyncIterator[str]:
    """Answer each connection with these bytes, or never; yield the URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            if answer is None:
                await reader.read()  # until the client gives up
            else:
                writer.write(answer)
                await writer.drain()
        writer.close()

    context = (authority or trusted()).server() if by in OVER_HTTPS else None
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        port = server.sockets[0].getsockname()[1]
        yield f"https://localhost:{port}" if context else f"http://127.0.0.1:{port}"
    finally:
        server.close()


@pytest.mark.parametrize("by", [*OVER_HTTPS, *OVER_HTTP])
@pytest.mark.parametrize(("answer", "kind"), [pytest.param(*case[1:], id=case[0]) for case in ANSWERS])
async def test_what_the_identity_endpoint_answers_decides_the_reason(
    place: Place, by: By, answer: bytes, kind: type[PollError]
) -> None:
    async with raw_endpoint(by, answer) as url:
        assert (await place.failure(by(place, url), kind)).startswith("no token: ")


@pytest.mark.parametrize("by", [*OVER_HTTPS, *OVER_HTTP])
async def test_an_identity_endpoint_that_hangs_is_a_timeout(place: Place, by: By) -> None:
    place.monkeypatch.setattr(module, "SIGN_IN_SECONDS", 0.5)
    async with raw_endpoint(by, None) as url:
        assert await place.failure(by(place, url), TimedOut) == "no token: no answer within 0.5 s"


@pytest.mark.parametrize("by", [*OVER_HTTPS, *OVER_HTTP])
@pytest.mark.parametrize("host", [None, "nowhere.invalid"], ids=["no listener", "no such host"])
async def test_an_identity_endpoint_out_of_reach_is_unreachable(
    place: Place, by: By, host: str | None
) -> None:
    async with raw_endpoint(by, b"") as url:
        pass
    url = url if host is None else f"{url.partition(':')[0]}://{host}"
    assert "Cannot connect to host" in await place.failure(by(place, url), Unreachable)


@pytest.mark.parametrize("by", OVER_HTTPS)
async def test_an_identity_endpoint_that_nobody_vouches_for_is_unreachable(place: Place, by: By) -> None:
    async with raw_endpoint(by, b"", Authority("unknown")) as url:
        assert "certificate verify failed" in await place.failure(by(place, url), Unreachable)


async def test_a_sign_in_is_one_request(place: Place) -> None:
    """azure-identity would repeat it by itself, unseen by the spacing of sign-ins."""
    place.entra.refuse = lambda _: (503, {"error": "temporarily_unavailable"})
    await place.failure(client_secret(place), ServerError)
    assert len(place.entra.asked) == 2  # two sign-ins


@pytest.mark.parametrize("by", [by_client_secret, by_imds, by_default_with_secret])
async def test_a_moment_without_the_identity_endpoint_costs_no_poll(place: Place, by: By) -> None:
    issue = place.entra.issue
    good = json.dumps({"access_token": issue(), "expires_in": 3600, "resource": "r"}).encode()
    answers = iter([http("503 Service Unavailable"), http("200 OK", good)])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(next(answers))
        writer.close()

    context = trusted().server() if by in OVER_HTTPS else None
    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"https://localhost:{port}" if context else f"http://127.0.0.1:{port}"
        assert await place.credential(by(place, url)).token() == "token-1"
    assert place.telemetry.registry.get_sample_value("vmss_upgrade_exporter_credential_failures_total") == 1


async def test_a_machine_without_any_credential_is_unauthorized(place: Place) -> None:
    place.monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "dev")
    place.monkeypatch.setenv("PATH", str(place.folder))
    assert "AzureCliCredential: Azure CLI not found" in await place.failure(DefaultCredential())


class Members:
    """A chain of credentials that all fail, as ``DefaultAzureCredential`` asks them."""

    def __init__(self, *credentials: object) -> None:
        self.credentials: tuple[Any, ...] = credentials

    async def get_token_info(self, *_: str, options: object) -> None:
        for each in self.credentials:
            with suppress(CredentialUnavailableError):
                await each.get_token_info(options=options)
        raise ClientAuthenticationError("none")


class ManagedIdentityCredential:
    async def get_token_info(self, *_: str, **__: object) -> None:
        raise CredentialUnavailableError(message="no response") from ServiceRequestError("Cannot connect")


class Absent:
    async def get_token_info(self, *_: str, **__: object) -> None:
        raise CredentialUnavailableError(message="not installed")


@pytest.mark.parametrize(
    ("worked_before", "variable", "members", "kind"),
    [
        (False, "", (Absent(), ManagedIdentityCredential(), Absent()), Unauthorized),
        (True, "", (Absent(), ManagedIdentityCredential(), Absent()), Unreachable),
        (False, "AZURE_POD_IDENTITY_AUTHORITY_HOST", (ManagedIdentityCredential(), Absent()), Unreachable),
        (False, "", (ManagedIdentityCredential(),), Unreachable),
        (True, "", (Absent(), Absent()), Unauthorized),
    ],
    ids=["never there", "there before", "configured", "the only one", "no other"],
)
async def test_only_an_identity_endpoint_that_is_known_to_exist_can_be_out_of_reach(
    place: Place, worked_before: bool, variable: str, members: tuple[object, ...], kind: type[PollError]
) -> None:
    """Every machine may ask the default address of managed identities, and most have no endpoint there."""
    if variable:
        place.monkeypatch.setenv(variable, "http://127.0.0.1:1")
    chain = identity.Chain(Members(*members), identity.Answers(worked_before))
    with pytest.raises(PollError) as caught:
        await chain.get_token_info("scope")
    assert type(caught.value) is kind


# --- Secrets


@pytest.mark.parametrize("make", MAKERS)
async def test_an_endpoint_that_quotes_what_it_was_sent_does_not_make_us_show_it(
    place: Place, make: Callable[[Place], CredentialConfig]
) -> None:
    place.entra.refuse = lambda form: invalid_client(f"no, not with {form} nor {list(form.values())}")
    text = await place.failure(make(place))
    assert "no, not with" in text
    for secret in (place.entra.asked[0].form.get(name) for name in ("client_secret", "client_assertion")):
        assert secret is None or (secret not in text and secret[5:15] not in text)


# --- Rotation


@pytest.mark.parametrize(
    ("make", "file", "proof", "old", "new"),
    [
        (client_secret, "secret", "client_secret", SECRET, "another"),
        (workload, "assertion", "client_assertion", ASSERTION, "eyJ.another.one"),
    ],
)
async def test_a_secret_that_was_replaced_is_used_at_the_next_sign_in(
    place: Place, make: Callable[[Place], CredentialConfig], *, file: str, proof: str, old: str, new: str
) -> None:
    place.monkeypatch.setattr(module, "LOOKED_EXPIRED_SECONDS", 0.0)
    place.entra.expires_in = 0
    credential = place.credential(make(place))
    await credential.token()
    place.file(file, new)
    place.entra.expires_in = 3600
    assert await credential.token() == await credential.token() == "token-2"
    assert [asked.form[proof] for asked in place.entra.asked] == [old, new]
    assert place.telemetry.registry.get_sample_value("vmss_upgrade_exporter_credential_failures_total") == 0


async def test_a_secret_that_was_wrong_from_the_start_can_be_replaced(place: Place) -> None:
    place.entra.refuse = lambda form: (
        None if form["client_secret"] == "right" else invalid_client("AADSTS7000215")
    )
    config = client_secret(place)
    credential = place.credential(config)
    with pytest.raises(Unauthorized, match="AADSTS7000215"):
        await credential.token()
    place.file("secret", "right")
    assert await credential.token() == "token-1"
    assert [asked.form["client_secret"] for asked in place.entra.asked] == [SECRET, "right"]


# --- A challenge


CLAIMS = '{"access_token":{"nbf":{"essential":true,"value":"1604106651"}}}'


@dataclass
class Challenged:
    """A client whose Resource Manager is the simulator's and whose tokens are Entra ID's."""

    client: Client
    simulator: Simulator
    scale_set: ScaleSet
    path: str

    async def poll(self) -> None:
        await self.client.upgrade_history(self.scale_set, 6.0, Unmetered())


@pytest.fixture
async def challenged(place: Place) -> AsyncIterator[Challenged]:
    simulator = Simulator(Fleet(epoch=time.time() - 1, scale_sets=2))
    place.entra.issue = simulator.issue_token
    web = simulator.fleet.scale_sets[0]
    async with running(simulator) as url:
        cloud = Cloud("custom", url, "https://audience.example", place.entra.url)
        client = Client(cloud, place.credential(client_secret(place), cloud), place.telemetry, connections=1)
        scale_set = ScaleSet(web.subscription_id, web.resource_group, web.name, interval=300.0)
        yield Challenged(client, simulator, scale_set, web.resource_id.lower())
        await client.close()


@pytest.mark.parametrize(("claims", "sent"), [(CLAIMS, CLAIMS), (None, None)], ids=["claims", "no claims"])
async def test_a_refused_token_costs_one_fresh_token_that_meets_the_claims(
    place: Place, challenged: Challenged, claims: str | None, sent: str | None
) -> None:
    await challenged.poll()
    challenged.simulator.revoke_tokens(claims)
    await challenged.poll()
    await challenged.poll()
    assert [asked.form.get("claims") for asked in place.entra.asked] == [None, sent]
    assert challenged.simulator.requests[challenged.path] == 4


async def test_a_fresh_token_that_is_refused_too_is_the_end_of_the_poll(
    place: Place, challenged: Challenged
) -> None:
    place.monkeypatch.setattr(module, "SPACING_SECONDS", 60.0)
    challenge = f'error="insufficient_claims", claims="{b64encode(CLAIMS.encode()).decode()}"'
    refusal = refusing(unauthorized("InvalidAuthenticationToken", "Not with this token.", challenge))
    challenged.simulator.fault("/osupgradehistory", refusal)
    for _ in range(2):
        with pytest.raises(Unauthorized, match="HTTP 401 InvalidAuthenticationToken: Not with this token"):
            await challenged.poll()
    assert challenged.simulator.requests[challenged.path] == 4
    assert [asked.form.get("claims") for asked in place.entra.asked] == [None, CLAIMS]  # not by each poll
