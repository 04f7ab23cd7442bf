"""Tokens for Azure Resource Manager, from azure-identity, which caches and refreshes them.

One credential for the life of the process, asked by one poll at a time: a thousand polls that start together cost
one token. Knows nothing of requests to Resource Manager.
"""

import asyncio
import logging
from collections.abc import Awaitable
from pathlib import Path
from time import monotonic
from typing import Any, Protocol, assert_never

from exporter.azure.clouds import Cloud
from exporter.azure.errors import Unauthorized, one_line
from exporter.config import (
    AzureCli,
    ClientCertificate,
    ClientSecret,
    CredentialConfig,
    DefaultCredential,
    ManagedIdentity,
    WorkloadIdentity,
)
from exporter.telemetry import Telemetry

REMEMBERED_SECONDS = 5.0
"""For how long a failure to sign in is the answer to everybody, so that it is not repeated for each poll."""

ANY_CLAIMS = "{}"
"""No demand at all, but azure-identity answers a demand with a token that is not from its cache."""


def check_files(config: CredentialConfig) -> None:
    """Raise ``OSError``, with the file's name, where a file that the credential needs cannot be read."""
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, Path):
            value.open("rb").close()


class TokenCredential(Protocol):
    """What we use of azure-identity's async credentials."""

    def get_token(self, *scopes: str, claims: str | None = None) -> Awaitable[Any]:
        """Return a token with ``token`` and ``expires_on``."""

    async def close(self) -> None:
        """Close the transport."""


class Credential:
    """Signs in as the configuration says."""

    def __init__(self, config: CredentialConfig, cloud: Cloud, telemetry: Telemetry) -> None:
        self._config = config
        self._cloud = cloud
        self._telemetry = telemetry
        self._credential: TokenCredential | None = None
        self._turn = asyncio.Lock()
        self._failure: tuple[float, str] = (0.0, "")

    async def token(self) -> str:
        """Return a token; a cached one costs microseconds.

        Raises:
            Unauthorized: there is none to be had.

        """
        return await self._get(None)

    async def fresh_token(self, refused: str, claims: str | None) -> str:
        """Return another token than ``refused``, one that meets ``claims`` where Azure demanded some.

        Raises:
            Unauthorized: there is none to be had.

        """
        token = await self._get(None)
        return token if token != refused else await self._get(claims or ANY_CLAIMS)

    async def close(self) -> None:
        """Close the transport."""
        if self._credential is not None:
            await self._credential.close()

    async def _get(self, claims: str | None) -> str:
        async with self._turn:
            failed_at, why = self._failure
            if why and monotonic() - failed_at < REMEMBERED_SECONDS:
                raise Unauthorized(why)
            try:
                if self._credential is None:
                    self._credential = await asyncio.to_thread(_create, self._config, self._cloud)
                access = await self._credential.get_token(self._cloud.scope, claims=claims)
            except Exception as error:
                # azure-identity raises AzureError, ValueError, and what its transports and files raise.
                # Its str() quotes the whole answer, token and all; its message does not.
                said = getattr(error, "message", "") or f"{type(error).__name__}: {error}"
                why = f"no token: {one_line(said, 1000)}"
                self._failure = (monotonic(), why)
                self._telemetry.credential_failures.inc()
                raise Unauthorized(why) from error
            self._failure = (0.0, "")
            token: str = access.token
            return token


def _create(config: CredentialConfig, cloud: Cloud) -> TokenCredential:
    """Import azure-identity, which takes a sixth of a second, and make the credential; runs in a thread."""
    from azure.identity import aio  # noqa: PLC0415 - see above

    logging.getLogger("azure").setLevel(logging.ERROR)  # the poller logs failures, once
    authority = cloud.authority
    match config:
        case DefaultCredential():
            return aio.DefaultAzureCredential(authority=authority)
        case ManagedIdentity(client_id=client_id):
            return aio.ManagedIdentityCredential(client_id=client_id)
        case WorkloadIdentity():
            given = {"tenant_id": config.tenant_id, "client_id": config.client_id}
            return aio.WorkloadIdentityCredential(
                authority=authority, **{name: value for name, value in given.items() if value}
            )
        case ClientSecret(tenant_id=tenant_id, client_id=client_id):
            secret = config.client_secret_file.read_text().strip()
            return aio.ClientSecretCredential(tenant_id, client_id, secret, authority=authority)
        case ClientCertificate(tenant_id=tenant_id, client_id=client_id):
            password_file = config.certificate_password_file
            password = password_file.read_text().strip() if password_file else None
            return aio.CertificateCredential(
                tenant_id, client_id, str(config.certificate_file), password=password, authority=authority
            )
        case AzureCli(tenant_id=tenant_id):
            return aio.AzureCliCredential(tenant_id=tenant_id or "")
    assert_never(config)
