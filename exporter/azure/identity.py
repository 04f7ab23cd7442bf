"""One sign-in with azure-identity, as the configuration says, and what it means when that fails.

The credential is made anew for each sign-in from what its files hold at that moment, so a rotated secret needs no
restart, and what azure-identity remembers of the sign-in before plays no part.

TLS trusts the system's certificates, or those that ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` name at the start of the
process, for signing in as for requests. Knows nothing of when a token is needed.
"""

import asyncio
import logging
import os
import re
import socket
import ssl
from collections.abc import Awaitable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol, assert_never

from exporter.azure.clouds import CLOUDS, Cloud
from exporter.azure.errors import PollError, ServerError, TimedOut, Unauthorized, Unreachable, one_line
from exporter.azure.proxy import Proxy, proxy_for
from exporter.config import (
    AzureCli,
    ClientCertificate,
    ClientSecret,
    CredentialConfig,
    DefaultCredential,
    ManagedIdentity,
    WorkloadIdentity,
)
from exporter.redaction import remember

SECRET_VARIABLES = (
    "AZURE_CLIENT_SECRET",
    "AZURE_CLIENT_CERTIFICATE_PASSWORD",
    "AZURE_PASSWORD",
    "IDENTITY_HEADER",
    "MSI_SECRET",
)
"""Environment variables from which azure-identity takes secrets."""
LONGEST_MESSAGE = 1000
"""Characters of the message of a failed sign-in."""


class AccessToken(Protocol):
    """What we use of azure-identity's ``AccessTokenInfo``; times in seconds since the epoch."""

    expires_on: int
    refresh_on: int | None

    @property
    def token(self) -> object:
        """What the identity endpoint sent for a token, of whatever type."""


class TokenCredential(Protocol):
    """What we use of azure-identity's async credentials."""

    def get_token_info(self, *scopes: str, options: Any = None) -> Awaitable[AccessToken]:
        """Return a token; with ``claims`` in the options, one that meets them and is not from the cache."""

    async def close(self) -> None:
        """Close the transport."""


class Answers:
    """What the identity endpoint answers in one sign-in: azure-identity's errors do not always say."""

    def __init__(self, worked_before: bool) -> None:
        self.worked_before = worked_before
        """Whether this process has signed in before, so that the endpoint is known to exist."""
        self.last_status = 0

    def note(self, response: Any) -> None:
        """Remember the status of an answer; a hook of azure-core."""
        self.last_status = response.http_response.status_code


class UnusableFile(OSError):
    """A file that signing in needs is not what it must be; ``str()`` says which, in one line without its secrets."""


async def sign_in(
    config: CredentialConfig, cloud: Cloud, claims: str | None, *, worked_before: bool
) -> AccessToken:
    """Ask the identity endpoint once for a token, one that meets ``claims`` where there are some.

    ``worked_before`` says whether this process has signed in so already. Raises ``Unauthorized`` where the identity
    provider refuses or there is no credential to use, ``Unreachable``, ``TimedOut`` and ``ServerError`` where the
    identity endpoint cannot be reached, does not answer or fails.
    """
    answers = Answers(worked_before)
    try:
        credential = await asyncio.to_thread(lambda: identity(config, cloud, secret(config), answers))
        try:
            options = None if claims is None else {"claims": claims}
            return await credential.get_token_info(cloud.scope, options=options)
        finally:
            await credential.close()
    except PollError:
        raise
    except Exception as error:
        kind = _kind(error, answers, by_words=isinstance(config, AzureCli))
        raise kind(one_line(f"no token: {_in_words(error)}", LONGEST_MESSAGE)) from error


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
    """Return the client secret, or the certificate's password, from its file; empty where there is none.

    It and the secrets of the environment are redacted from then on.

    Raises ``UnusableFile``.
    """
    match config:
        case ClientSecret():
            found = _text(config.client_secret_file, "client_secret_file")
        case ClientCertificate(certificate_password_file=Path() as file):
            found = _text(file, "certificate_password_file")
        case _:
            found = ""
    remember(found, *(os.environ.get(name, "") for name in SECRET_VARIABLES))
    return found


def identity(config: CredentialConfig, cloud: Cloud, secret: str, answers: Answers) -> TokenCredential:
    """Make the credential. Imports azure-identity, which takes a sixth of a second.

    Raises ``UnusableFile``, and what azure-identity raises.
    """
    from azure.identity import aio  # noqa: PLC0415 - see above

    for chatty in ("azure", "msal"):
        logging.getLogger(chatty).setLevel(logging.ERROR)  # who asks for a token logs that there is none
    route: dict[str, Any] = {
        "use_env_settings": False,
        "retry_total": 0,  # when to sign in again is decided in one place, the credential
        "raw_response_hook": answers.note,
        **_by(proxy_for(cloud.authority)),
    }
    at_home: dict[str, Any] = {"authority": cloud.authority, **route}
    credential: TokenCredential
    match config:
        case DefaultCredential() if cloud.authority.lower().startswith("http:"):
            # These refuse to sign in over http; the others need no authority.
            refusing = ("environment", "workload_identity", "shared_token_cache")
            left_out = {f"exclude_{part}_credential": True for part in refusing}
            credential = Chain(aio.DefaultAzureCredential(**left_out, **route), answers)
        case DefaultCredential():
            os.environ["AZURE_AUTHORITY_HOST"] = cloud.authority  # its workload identity goes by nothing else
            credential = Chain(aio.DefaultAzureCredential(**at_home), answers)
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


def _by(proxy: Proxy | None) -> dict[str, Any]:
    """Return the options of azure-identity for a proxy; over http it asks only the machine itself, without one."""
    if proxy is None:
        return {}

    def authenticate(request: Any) -> None:
        request.context.options["proxy_headers"] = proxy.headers

    return {"proxies": {"https": proxy.url}, "raw_request_hook": authenticate}


# --- What a failure means


def _kind(error: BaseException, answers: Answers, *, by_words: bool = False) -> type[PollError]:
    """Return what an exception of azure-identity means, by itself or by the one that caused it.

    Only what is known to be no refusal is something else than ``Unauthorized``. ``by_words`` says to go by the
    message, too, as the Azure CLI and its like give no more.
    """
    from azure.core import exceptions  # noqa: PLC0415 - see identity

    cause: BaseException | None = error
    while cause is not None:
        match cause:
            case (
                TimeoutError()
                | exceptions.ServiceRequestTimeoutError()
                | exceptions.ServiceResponseTimeoutError()
            ):
                return TimedOut
            case (
                exceptions.ServiceRequestError()
                | exceptions.ServiceResponseError()
                | exceptions.IncompleteReadError()
                | ConnectionError()
                | ssl.SSLError()
                | socket.gaierror()
            ):
                return Unreachable
        cause = cause.__cause__
    if answers.last_status >= HTTPStatus.INTERNAL_SERVER_ERROR or answers.last_status in _NOT_NOW:
        return ServerError
    return _kind_by_words(str(error)) if by_words else Unauthorized


_NOT_NOW = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.GONE, HTTPStatus.TOO_MANY_REQUESTS)
"""What an identity endpoint that is busy or being updated answers; Azure's documentation says to retry.

https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token#error-handling
"""


def _kind_by_words(message: str) -> type[PollError]:
    """Return what the message of a command line means that could not ask the identity provider."""
    if "AADSTS" in message:  # the identity provider's own words
        return Unauthorized
    if _NO_ANSWER.search(message):
        return TimedOut
    return Unreachable if _NO_CONNECTION.search(message) else Unauthorized


_NO_ANSWER = re.compile(r"\btimed out\b|Timeout(?:Error)?\b", re.IGNORECASE)
_NO_CONNECTION = re.compile(
    r"Max retries exceeded|network connection|Failed to establish a new connection|name resolution"
    r"|Connection (?:aborted|refused|reset)|SSLError|ProxyError",
    re.IGNORECASE,
)
"""As the Azure CLI says it, which is written with requests and urllib3 (Azure/azure-cli#11829, #31401)."""


def _in_words(error: BaseException) -> str:
    """Return what went wrong, with the cause where the error itself does not say it."""
    if isinstance(error, UnusableFile):
        return str(error)
    # The str() of azure-core's errors quotes the whole answer; their message does not.
    text = getattr(error, "message", "") or f"{type(error).__name__}: {error}"
    cause = str(getattr(error.__cause__, "message", "") or error.__cause__ or "")
    return text if cause in text else f"{text} {cause}"


# --- DefaultAzureCredential


class _Member:
    """A member of a chain of credentials, and why it gave no token."""

    def __init__(self, credential: Any, answers: Answers) -> None:
        self.name: str = getattr(credential, "_credential_name", type(credential).__name__)
        self.error: Exception | None = None
        self.kind: type[PollError] = Unauthorized
        """What the error means."""
        self.answered = False
        """Whether an endpoint answered before that error."""
        self._credential = credential
        self._answers = answers

    async def get_token_info(self, *scopes: str, options: Any = None) -> AccessToken:
        self._answers.last_status = 0
        try:
            token: AccessToken = await self._credential.get_token_info(*scopes, options=options)
        except Exception as error:
            self.error = error
            self.kind = _kind(error, self._answers, by_words=self.name in _COMMAND_LINES)
            self.answered = self._answers.last_status != 0
            raise
        return token

    async def close(self) -> None:
        """Close the transport."""
        await self._credential.close()


class Chain:
    """``DefaultAzureCredential``, whose failure is decided by what its members raised, of which it gives only a text."""

    def __init__(self, credential: Any, answers: Answers) -> None:
        self._members = tuple(_Member(each, answers) for each in credential.credentials)
        self._credential = credential
        self._answers = answers
        credential.credentials = self._members

    async def get_token_info(self, *scopes: str, options: Any = None) -> AccessToken:
        """Return the token of the first member that has one; raises ``PollError`` where none has."""
        try:
            token: AccessToken = await self._credential.get_token_info(*scopes, options=options)
        except Exception as error:
            failed = [(member, member.error) for member in self._members if member.error is not None]
            if not failed:
                raise
            raise self._failure(failed) from error
        return token

    async def close(self) -> None:
        """Close the transports of all members."""
        await self._credential.close()

    def _failure(self, failed: Sequence[tuple[_Member, Exception]]) -> PollError:
        """Return what it means that these members failed, in the order in which they were asked.

        A chain ends with the first member that has a credential which fails: that one decides. Where none has one, a
        member that did not reach its endpoint decides, if there is known to be one; otherwise there is simply no
        credential. The member that decides comes first in the message, which may be cut.
        """
        from azure.identity import CredentialUnavailableError  # noqa: PLC0415 - see identity

        kinds = [self._kind(member) for member, _ in failed]
        if isinstance(failed[-1][1], CredentialUnavailableError):
            decisive = next((index for index, kind in enumerate(kinds) if kind is not Unauthorized), 0)
        else:
            decisive = len(failed) - 1
        in_order = (failed[decisive], *failed[:decisive], *failed[decisive + 1 :])
        told = "; ".join(f"{member.name}: {_in_words(error)}" for member, error in in_order)
        return kinds[decisive](one_line(f"no token: {told}", LONGEST_MESSAGE))

    def _kind(self, member: _Member) -> type[PollError]:
        """Return what a member's failure means. Every machine may ask the default address of managed identities."""
        known_to_exist = (
            member.name != _MANAGED_IDENTITY
            or member.answered
            or self._answers.worked_before
            or len(self._members) == 1  # AZURE_TOKEN_CREDENTIALS names it
            or any(os.environ.get(name) for name in _IDENTITY_ENDPOINTS)
        )
        return member.kind if known_to_exist else Unauthorized


_MANAGED_IDENTITY = "ManagedIdentityCredential"
_COMMAND_LINES = ("AzureCliCredential", "AzurePowerShellCredential", "AzureDeveloperCliCredential")
_IDENTITY_ENDPOINTS = ("IDENTITY_ENDPOINT", "MSI_ENDPOINT", "AZURE_POD_IDENTITY_AUTHORITY_HOST")


# --- Files


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
