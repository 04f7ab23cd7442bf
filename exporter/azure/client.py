"""Requests to Azure Resource Manager: one history, page by page, within a deadline, with the only retry there is.

Gives decoded JSON and knows nothing of what it means, but for the paging that all of Resource Manager's lists share.
The token goes to the configured scheme, host and port and nowhere else.
"""

import asyncio
import base64
import json
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from http import HTTPStatus
from time import perf_counter, time
from typing import NoReturn
from urllib.parse import quote

import aiohttp
import stamina
from aiohttp.http_exceptions import BadStatusLine
from yarl import URL

from exporter import __version__
from exporter.azure.budget import retry_after
from exporter.azure.clouds import Cloud
from exporter.azure.credential import Credential
from exporter.azure.errors import (
    EXCERPT,
    BadRequest,
    Forbidden,
    Malformed,
    NotFound,
    Passing,
    PollError,
    ServerError,
    Throttled,
    TimedOut,
    Unauthorized,
    Unreachable,
    one_line,
    parse_error,
)
from exporter.scale_set import ScaleSet, resource_id
from exporter.telemetry import Telemetry

API_VERSION = "2025-04-01"
MAX_PAGES = 100
MAX_PAGE_BYTES = 8 * 1024 * 1024
"""Of a page as decoded, so that a small gzip does not become a large one."""
MAX_ERROR_BYTES = 64 * 1024
ATTEMPTS = 3
"""Requests at most for a page. The poll's timeout is shared out among them, so that a lost answer is not the end."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What Azure answered to one poll."""

    pages: tuple[object, ...]
    """Decoded JSON."""
    request_id: str
    """``x-ms-request-id`` of the last page, for Azure's support."""
    excerpt: str
    """The first characters of the last page, for the log, should they make no sense."""


@dataclass(frozen=True, slots=True)
class _Page:
    document: object
    request_id: str
    excerpt: str


stamina.instrumentation.set_on_retry_hooks([])  # retries are counted here, under our names


stamina.instrumentation.set_on_retry_hooks([])  # retries are counted here, under our names


class Client:
    """A session with Resource Manager. Made inside the event loop."""

    def __init__(
        self, cloud: Cloud, credential: Credential, telemetry: Telemetry, *, connections: int
    ) -> None:
        self.endpoint = URL(cloud.endpoint)
        self.credential = credential
        self.telemetry = telemetry
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"vmss-upgrade-exporter/{__version__}", "Accept": "application/json"},
            trust_env=self.endpoint.scheme
            == "https",  # over http, which is loopback, no proxy may see the token
        )

    async def upgrade_history(
        self, scale_set: ScaleSet, timeout_seconds: float, spend: Callable[[], None]
    ) -> Answer:
        """Return a scale set's ``osUpgradeHistory``.

        ``timeout_seconds`` covers everything, sign-in and retries included. ``spend`` is called before
        each request after the first. Raises :class:`PollError`, whose kinds say what went wrong.
        """
        path = quote(
            resource_id(scale_set.subscription_id, scale_set.resource_group, scale_set.name), safe="/()"
        )
        base = str(self.endpoint).rstrip("/")
        url = URL(f"{base}{path}/osUpgradeHistory?api-version={API_VERSION}", encoded=True)
        return await _Call(self, scale_set.subscription_id, timeout_seconds, spend).answer(url)

    async def close(self) -> None:
        """Close all connections."""
        await self.session.close()


class _Call:
    """One poll's round trip: requests, retries and pages under one deadline."""

    __slots__ = ("_client", "_spend", "_subscription_id", "_timeout", "_verdict")

    def __init__(
        self, client: Client, subscription_id: str, timeout: float, spend: Callable[[], None]
    ) -> None:
        self._client = client
        self._subscription_id = subscription_id
        self._timeout = timeout
        self._spend = spend
        self._verdict: PollError = TimedOut(f"no answer within {timeout:g} s")
        """What the deadline means, should it come now."""

    async def answer(self, url: URL) -> Answer:
        pages: list[_Page] = []
        link: URL | None = url
        try:
            async with asyncio.timeout(self._timeout):
                while link is not None:
                    if len(pages) == MAX_PAGES:
                        raise Malformed(f"more than {MAX_PAGES} pages")
                    if pages:
                        self._spend()
                    pages.append(await self._page(link))
                    link = self._next(pages[-1])
        except TimeoutError:
            raise self._verdict from None
        return Answer(tuple([page.document for page in pages]), pages[-1].request_id, pages[-1].excerpt)

    async def _page(self, url: URL) -> _Page:
        async for attempt in stamina.retry_context(
            on=Passing, attempts=ATTEMPTS, timeout=None, wait_initial=0.25, wait_jitter=0.5, wait_max=5.0
        ):
            with attempt:
                if attempt.num > 1:
                    self._spend()
                    self._client.telemetry.azure_retries.labels(self._subscription_id).inc()
                try:
                    return await self._authorized(url)
                except (ServerError, Unreachable) as error:
                    self._verdict = error
                    raise
        raise AssertionError  # the last attempt returns or raises

    async def _authorized(self, url: URL) -> _Page:
        credential = self._client.credential
        token = await self._token(credential.token())
        try:
            return await self._request(url, token)
        except Unauthorized as refusal:
            self._spend()
            token = await self._token(credential.fresh_token(token, refusal.claims))
            return await self._request(url, token)

    async def _token(self, asked: Coroutine[None, None, str]) -> str:
        verdict, self._verdict = self._verdict, Unauthorized(f"no token within {self._timeout:g} s")
        token = await asked
        self._verdict = verdict
        return token

    async def _request(self, url: URL, token: str) -> _Page:
        telemetry = self._client.telemetry
        status = "error"
        started = perf_counter()
        try:
            async with self._client.session.get(
                url,
                headers={"Authorization": f"Bearer {token}"},
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=self._timeout / ATTEMPTS),
            ) as response:
                status = str(response.status)
                if response.status == HTTPStatus.OK:
                    return await _decode(response)
                raise await _failure(response)
        except TimeoutError:
            raise TimedOut(f"no answer within {self._timeout / ATTEMPTS:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            why = one_line(f"{type(error).__name__}: {error}")
            raise (Malformed if status != "error" or _has_status_line(error) else Unreachable)(why) from error
        finally:
            telemetry.azure_requests.labels(self._subscription_id, status).inc()
            telemetry.azure_request_duration.observe(perf_counter() - started)

    def _next(self, page: _Page) -> URL | None:
        """Return where a page says that the next one is; ``None`` after the last."""
        link = page.document.get("nextLink") if isinstance(page.document, dict) else None
        if link is None:
            return None
        url = same_origin(link, self._client.endpoint)
        if url is None:
            why = f"nextLink leads elsewhere: {one_line(str(link))}"
            raise Malformed(why, request_id=page.request_id, excerpt=page.excerpt)
        return url


def same_origin(link: object, endpoint: URL) -> URL | None:
    """Return ``link`` if it is an absolute URL to ``endpoint``'s scheme, host and port, else ``None``."""
    if not isinstance(link, str):
        return None
    try:
        url = URL(link, encoded=True)
        same = url.user is None and url.password is None and url.origin() == endpoint.origin()
    except ValueError:
        return None
    return url if same else None


def demanded_claims(www_authenticate: str | None) -> str | None:
    """Read the claims challenge of a 401's ``WWW-Authenticate``; ``None`` where there is none.

    Source: "Claims challenges, claims requests, and client capabilities", Microsoft identity platform.
    """
    match = _CLAIMS.search(www_authenticate or "")
    if match is None:
        return None
    try:
        return base64.urlsafe_b64decode(match[1] + "=" * (-len(match[1]) % 4)).decode()
    except ValueError:
        return None


_CLAIMS = re.compile(r'\bclaims="([A-Za-z0-9+/_=-]+)"')


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


async def _decode(response: aiohttp.ClientResponse) -> _Page:
    """Decode the body of a good answer."""
    request_id = response.headers.get("x-ms-request-id", "")
    body = await _read(response, MAX_PAGE_BYTES + 1)
    excerpt = body[:EXCERPT].decode(errors="replace")
    if len(body) > MAX_PAGE_BYTES:
        raise Malformed(f"a page of more than {MAX_PAGE_BYTES} bytes", request_id=request_id, excerpt=excerpt)
    try:
        document: object = _DECODER.decode(body.decode().removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        why = f"not JSON: {one_line(str(error))}"
        raise Malformed(why, request_id=request_id, excerpt=excerpt) from error
    return _Page(document, request_id, excerpt)


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Read a body, decoded, up to ``limit`` bytes; the rest is never read."""
    chunks: list[bytes] = []
    length = 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        length += len(chunk)
        if length >= limit:
            response.close()
            break
    return b"".join(chunks)[:limit]


async def _failure(response: aiohttp.ClientResponse) -> PollError:
    """Return what an answer other than 200 means."""
    status, headers = response.status, response.headers
    try:
        body = await _read(response, MAX_ERROR_BYTES)
    except (aiohttp.ClientError, OSError, TimeoutError):
        body = b""  # the status says enough
    message = f"HTTP {status} {parse_error(body) or response.reason or ''}".rstrip()
    request_id = headers.get("x-ms-request-id", "")
    kind = _BY_STATUS.get(status) or _BY_STATUS_CLASS.get(status // 100, Malformed)
    if kind is Unauthorized:
        claims = demanded_claims(headers.get("WWW-Authenticate"))
        return Unauthorized(message, request_id=request_id, claims=claims)
    if kind is Throttled:
        pause = retry_after(headers.get("Retry-After"), time())
        return Throttled(message, request_id=request_id, retry_after=pause)
    if kind is Malformed:
        message = f"{message} {one_line(headers.get('Location', ''))}".rstrip()
    return kind(message, request_id=request_id)


_BY_STATUS: dict[int, type[PollError]] = {401: Unauthorized, 403: Forbidden, 404: NotFound, 429: Throttled}
_BY_STATUS_CLASS: dict[int, type[PollError]] = {4: BadRequest, 5: ServerError}
"""All else, a redirect above all, is no answer to what was asked."""


def _has_status_line(error: Exception) -> bool:
    """Whether an answer came at all: HTTP's first line did, what followed was no HTTP."""
    return isinstance(error, aiohttp.ClientResponseError) and not isinstance(error.__cause__, BadStatusLine)
