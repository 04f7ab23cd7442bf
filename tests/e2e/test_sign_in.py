"""The daemon as a process, signing in to a real https token endpoint: whom it trusts, and what it never shows."""

import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_plus

import pytest
from cryptography.hazmat.primitives import serialization

from exporter.simulator.fleet import Fleet
from exporter.simulator.server import Simulator, running
from tests.entra import Authority, Entra, client_certificate, entra_id, invalid_client
from tests.processes import Exporter, exporter

SECRET = "hunter2 & co"
ASSERTION = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJwb2QifQ.c2lnbmF0dXJl"
AUTHORITY = Authority("named by SSL_CERT_FILE", old=True)
"""An authority that Python 3.13 refuses by itself."""


@dataclass
class Azure:
    """A simulated Azure that one can only sign in to over https."""

    entra: Entra
    simulator: Simulator
    url: str
    folder: Path

    def configure(self, credential: str) -> str:
        """Write a configuration that polls one scale set; return the flag that names it."""
        scale_set = self.simulator.fleet.scale_sets[0]
        file = self.folder / "config.yaml"
        file.write_text(
            f"""
cloud: {{endpoint: '{self.url}', audience: '{self.url}', authority: '{self.entra.url}'}}
credential: {{kind: {credential}}}
polling: {{interval: 5s, timeout: 25s, budget_share: 1.0}}
subscriptions:
  - id: {scale_set.subscription_id}
    scale_sets: [{{resource_group: {scale_set.resource_group}, name: {scale_set.name}}}]
"""
        )
        return f"--config.file={file}"


@pytest.fixture
async def azure(tmp_path: Path) -> AsyncIterator[Azure]:
    (tmp_path / "ca.pem").write_text(AUTHORITY.pem)
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    (tmp_path / "assertion").write_text(ASSERTION)
    key, certificate = client_certificate()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    lock = serialization.BestAvailableEncryption(SECRET.encode())
    (tmp_path / "cert.pem").write_bytes(key.private_bytes(pem, pkcs8, lock) + certificate.public_bytes(pem))
    simulator = Simulator(Fleet(epoch=time.time() - 1, scale_sets=1, subscriptions=1))
    async with running(simulator) as url, entra_id(AUTHORITY) as entra:
        yield Azure(entra, simulator, url, tmp_path)


async def shown_by(daemon: Exporter) -> str:
    """Return everything that a daemon shows."""
    pages = [
        (await daemon.get(path))[1] for path in ("/metrics", "/config", "/", "/-/ready", "/api/v1/scale-sets")
    ]
    return "\n".join([*pages, *daemon.log])


CREDENTIALS = [
    "client_secret, tenant_id: t, client_id: c, client_secret_file: secret",
    "client_certificate, tenant_id: t, client_id: c, certificate_file: cert.pem, certificate_password_file: secret",
    "workload_identity, tenant_id: t, client_id: c",
]
KINDS = [credential.split(",")[0] for credential in CREDENTIALS]


@pytest.mark.parametrize("credential", CREDENTIALS, ids=KINDS)
@pytest.mark.parametrize("refused", [True, False], ids=["refused", "signed in"])
async def test_no_secret_is_ever_shown(azure: Azure, credential: str, refused: bool) -> None:
    """Not even if the token endpoint quotes all that it was sent, nor at any level of the log."""
    issued: list[str] = []

    def issue() -> str:
        issued.append(azure.simulator.issue_token())
        return issued[-1]

    azure.entra.issue = issue
    if refused:
        azure.entra.refuse = lambda form: invalid_client(f"AADSTS7000215: {form} {list(form.values())}")
    environment = {
        "SSL_CERT_FILE": str(azure.folder / "ca.pem"),
        "AZURE_FEDERATED_TOKEN_FILE": str(azure.folder / "assertion"),
    }
    async with exporter(azure.configure(credential), "--log.level=debug", **environment) as daemon:
        await daemon.until_ready()
        shown = await shown_by(daemon)
    shown += "\n".join(daemon.log)
    assert ("AADSTS7000215" in shown) is refused
    assert ("azure_vmss_os_upgrade_start_timestamp_seconds{" in shown) is not refused
    proofs = {asked.form.get("client_assertion", "") for asked in azure.entra.asked}
    for secret in {SECRET, quote_plus(SECRET), ASSERTION, *issued, *proofs} - {""}:
        assert secret not in shown
        assert secret.rpartition(".")[2] not in shown


async def test_whom_ssl_cert_file_does_not_name_is_not_trusted_and_that_is_said(azure: Azure) -> None:
    other = azure.folder / "other.pem"
    other.write_text(Authority("another").pem)
    async with exporter(azure.configure(CREDENTIALS[0]), SSL_CERT_FILE=str(other)) as daemon:
        await daemon.until_ready()
        assert re.search(r'poll_error\{[^}]*reason="unreachable"', (await daemon.get("/metrics"))[1])
    (said,) = [line for line in daemon.log if "poll failed" in line]
    assert "certificate verify failed" in said
    assert azure.entra.asked == []
