"""The credentials of azure-identity, made as the configuration says from what its files hold at that moment.

Whom TLS trusts is OpenSSL's to say, at the start of the process, for signing in as for requests: the system's
certificates, or those that ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` name. Knows nothing of when a token is needed.
"""

import logging
import os
import ssl
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Protocol, assert_never

from exporter.azure.clouds import CLOUDS, Cloud
from exporter.azure.errors import one_line
from exporter.azure.proxy import proxy_for
from exporter.config import (
    AzureCli,
    ClientCertificate,
    ClientSecret,
    CredentialConfig,
    DefaultCredential,
    ManagedIdentity,
    WorkloadIdentity,
)


class AccessToken(Protocol):
    """What we use of azure-identity's ``AccessTokenInfo``; times in seconds since the epoch."""

    token: str
    expires_on: int
    refresh_on: int | None


class TokenCredential(Protocol):
    """What we use of azure-identity's async credentials."""

    def get_token_info(self, *scopes: str, options: Any = None) -> Awaitable[AccessToken]:
        """Return a token; with ``claims`` in the options, one that meets them and is not from the cache."""

    async def close(self) -> None:
        """Close the transport."""


class UnusableFile(OSError):
    """A file that signing in needs is not what it must be; ``str()`` says which, in one line without its secrets."""


def check_files(config: CredentialConfig) -> None:
    """Raise ``UnusableFile`` where a file that signing in needs cannot be read, or is not what it must be."""
    if trusted := os.environ.get("SSL_CERT_FILE"):
        try:
            ssl.create_default_context(cafile=trusted)
        except OSError as error:  # OpenSSL would trust nobody, without a word
            raise UnusableFile(f"SSL_CERT_FILE: {trusted}: {error.strerror or error}") from None
    password = secret(config)
    if isinstance(config, ClientCertificate):
        _certificate(config, password, {"authority": CLOUDS["public"].authority})


def secret(config: CredentialConfig) -> str:
    """Return the client secret, or the certificate's password, from where it is kept; empty where there is none.

    Raises ``UnusableFile``.
    """
    match config:
        case DefaultCredential():
            return os.environ.get("AZURE_CLIENT_SECRET", "")
        case ClientSecret():
            return _text(config.client_secret_file, "client_secret_file")
        case ClientCertificate(certificate_password_file=Path() as file):
            return _text(file, "certificate_password_file")
    return ""


def identity(config: CredentialConfig, cloud: Cloud, secret: str) -> TokenCredential:
    """Make the credential. Imports azure-identity, which takes a sixth of a second.

    Raises ``UnusableFile``, and what azure-identity raises.
    """
    from azure.identity import aio  # noqa: PLC0415 - see above

    for chatty in ("azure", "msal"):
        logging.getLogger(chatty).setLevel(logging.ERROR)  # who asks for a token logs that there is none
    proxy = proxy_for(cloud.authority)
    # Over http are only the machine's own endpoints, which are no proxy's business.
    route: dict[str, Any] = {"use_env_settings": False, "proxies": {"https": proxy} if proxy else None}
    at_home: dict[str, Any] = {"authority": cloud.authority, **route}
    credential: TokenCredential
    match config:
        case DefaultCredential() if cloud.authority.lower().startswith("http:"):
            # These refuse to sign in over http; the others need no authority.
            refusing = ("environment", "workload_identity", "shared_token_cache")
            left_out = {f"exclude_{part}_credential": True for part in refusing}
            credential = aio.DefaultAzureCredential(**left_out, **route)
        case DefaultCredential():
            os.environ["AZURE_AUTHORITY_HOST"] = cloud.authority  # its workload identity goes by nothing else
            credential = aio.DefaultAzureCredential(**at_home)
        case ManagedIdentity(client_id=client_id):
            credential = aio.ManagedIdentityCredential(client_id=client_id, **route)
        case WorkloadIdentity(tenant_id=tenant_id, client_id=client_id):
            credential = aio.WorkloadIdentityCredential(tenant_id=tenant_id, client_id=client_id, **at_home)
        case ClientSecret(tenant_id=tenant_id, client_id=client_id):
            credential = aio.ClientSecretCredential(tenant_id, client_id, secret, **at_home)
        case ClientCertificate():
            credential = _certificate(config, secret, at_home)
        case AzureCli(tenant_id=tenant_id):
            credential = aio.AzureCliCredential(tenant_id=tenant_id or "")
        case _:
            assert_never(config)
    return credential


def _certificate(config: ClientCertificate, password: str, options: dict[str, Any]) -> TokenCredential:
    """Make the credential; that is also how its files are found fit."""
    from azure.identity import aio  # noqa: PLC0415 - see identity

    try:
        return aio.CertificateCredential(
            config.tenant_id,
            config.client_id,
            certificate_data=_read(config.certificate_file, "certificate_file"),
            password=password or None,
            **options,
        )
    except (ValueError, TypeError) as error:
        why = one_line(": ".join(str(each) for each in (error, error.__cause__) if each))
        raise UnusableFile(f"credential.certificate_file: {config.certificate_file}: {why}") from None


def _text(path: Path, setting: str) -> str:
    """Return the text of a file, without the line end that editors leave."""
    try:
        text = _read(path, setting).decode().strip()
    except UnicodeDecodeError:
        raise UnusableFile(f"credential.{setting}: {path}: is not UTF-8") from None
    if not text:
        raise UnusableFile(f"credential.{setting}: {path}: is empty")
    return text


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnusableFile(f"credential.{setting}: {path}: {error.strerror or error}") from None
