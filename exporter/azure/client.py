"""Requests to Azure Resource Manager: one answer, page by page, within a deadline, with the only retry there is.

Gives decoded JSON and knows nothing of what it means, but for how it goes on to the next page.
The token goes to the configured scheme, host and port and nowhere else.
"""

import asyncio
import base64
import json
import re
import ssl
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from http import HTTPStatus
from time import perf_counter, time
from urllib.parse import quote
from uuid import uuid4

import aiohttp
import stamina
from aiohttp.http import RawResponseMessage
from aiohttp.http_exceptions import BadStatusLine
from yarl import URL

from exporter import __version__
from exporter.azure.budget import (
    GRAPH_SECONDS,
    LIST_SECONDS,
    Meter,
    quota_rest,
    remaining,
    retry_after,
    sent_at,
)
from exporter.azure.clouds import Cloud
from exporter.azure.connector import CleanConnector
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
from exporter.azure.json_pages import JsonPages, Limits, TooMuch
from exporter.azure.proxy import proxy_for
from exporter.azure.turns import Turns
from exporter.redaction import BEGINNING, MASK
from exporter.scale_set import ScaleSet, resource_id
from exporter.slices import Slices, run_in_slices
from exporter.telemetry import Telemetry

API_VERSION = "2025-04-01"
GRAPH_API_VERSION = "2022-10-01"
GRAPH_ROWS = 1000
"""Of a page; Resource Graph gives no more."""
MIB = 1024 * 1024
HISTORY = Limits(total_bytes=8 * MIB, entries=1_000, entries_a_page=1_000, marks=400_000)
"""Five upgrades, each with two errors about 1,000 instances, have 70,000 marks of punctuation outside their texts."""
SEARCH = Limits(total_bytes=64 * MIB, entries=100 * GRAPH_ROWS, entries_a_page=GRAPH_ROWS)
LIST = Limits(total_bytes=64 * MIB, entries=100 * GRAPH_ROWS, entries_a_page=100 * GRAPH_ROWS)
LARGE = MIB
"""Bytes of an answer up to which it is read and decoded beside others; of larger ones only one is in memory."""
MAX_LINK = 16 * 1024
"""Characters of what leads to the next page; it is sent with the next request."""
MAX_ERROR_BYTES = 64 * 1024
MAX_MESSAGE = 3 * EXCERPT
MAX_SCOPES = 32
"""Budgets a subscription whose remainder is shown; Azure has half a dozen."""
CLIENT_REQUEST_ID = "x-ms-client-request-id"
"""Header with the id that we give a request. Resource Manager returns it, which shows to which request an answer belongs."""
ATTEMPTS = 3
"""Requests at most for a page. The poll's timeout is shared out among them, so that a lost answer is not the end."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What Azure answered to one poll."""

    pages: tuple[object, ...]
    """Decoded JSON; none where the answer is ``unchanged``."""
    request_id: str
    """``x-ms-request-id`` of the last page, for Azure's support."""
    excerpt: str
    """The first characters of the last page, for the log, should they make no sense."""
    digest: bytes = b""
    """What the same answer will have again; empty where it came in several pages, or was large."""
    unchanged: bool = False
    """Whether it is, byte for byte, the answer that was known."""


@dataclass(frozen=True, slots=True)
class _Page:
    document: object
    request_id: str
    excerpt: str
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class _Ask:
    """What to ask for: a GET, or a POST where it has a body."""

    url: URL
    body: bytes | None = None


stamina.instrumentation.set_on_retry_hooks([])  # retries are counted here, under our names


def check_certificates_alike() -> None:
    """Have aiohttp check certificates by the same rules whatever Python runs, for signing in as for requests.

    From 3.13 on Python refuses authorities that do not keep to RFC 5280 to the letter, such as those without a key
    identifier. Many TLS-inspecting proxies have one, which the operator can seldom replace. Python before
    3.13, curl and Go accept them; signatures, names and dates are checked all the same. An intermediate authority that
    is trusted by name counts as Python 3.13 has it.
    """
    context = aiohttp.connector._SSL_CONTEXT_VERIFIED  # noqa: SLF001 - azure-identity has no setting for it
    if context is not None:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN


class Client:
    """A session with Resource Manager. Made inside the event loop."""

    def __init__(
        self, cloud: Cloud, credential: Credential, telemetry: Telemetry, *, connections: int
    ) -> None:
        self.endpoint = URL(cloud.endpoint)
        self.credential = credential
        self.telemetry = telemetry
        self._graph_turns = Turns(GRAPH_SECONDS)
        self._list_turns: dict[str, Turns] = {}
        self._share = 1.0
        self._scopes: dict[str, set[str]] = {}
        check_certificates_alike()
        proxy = proxy_for(cloud.endpoint)
        self.proxy_headers = None if proxy is None else proxy.headers
        self.large_answers = asyncio.Lock()
        """Held while an answer of more than ``LARGE`` bytes is read and decoded."""
        self._connector = CleanConnector(limit=connections)
        self.session = aiohttp.ClientSession(
            connector=self._connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"vmss-upgrade-exporter/{__version__}", "Accept": "application/json"},
            middlewares=(self._exchange,),
            proxy=None if proxy is None else proxy.url,
        )

    def search_with(self, share: float) -> None:
        """Spend so much of what Azure grants on searches: on Resource Graph, and on each subscription's list calls."""
        self._share = share
        self._graph_turns.spacing_seconds = GRAPH_SECONDS / share
        for turns in self._list_turns.values():
            turns.spacing_seconds = LIST_SECONDS / share

    async def upgrade_history(
        self, scale_set: ScaleSet, timeout_seconds: float, meter: Meter, known: bytes = b""
    ) -> Answer:
        """Return a scale set's ``osUpgradeHistory``.

        ``timeout_seconds`` covers everything, sign-in and retries included. ``meter`` hears of each request after
        the first, and of what is left. ``known`` is the digest of the last answer, if what it said is still at hand:
        nearly all polls bring the same again, and are spared the decoding. Raises :class:`PollError`, whose kinds say
        what went wrong.
        """
        path = resource_id(scale_set.subscription_id, scale_set.resource_group, scale_set.name)
        pages = JsonPages("value", HISTORY)
        call = _Call(self, scale_set.subscription_id, timeout_seconds, meter, pages, known=known)
        return await call.answer(_Ask(self._url(f"{path}/osUpgradeHistory", API_VERSION)))

    async def scale_sets(
        self,
        subscription_id: str,
        timeout_seconds: float,
        meter: Meter,
        keep: Callable[[object], object] | None = None,
    ) -> Answer:
        """Return all scale sets of a subscription (ListAll), each converted by ``keep``; raises :class:`PollError`.

        Each request waits for its turn, which is no part of the timeout.
        """
        path = f"/subscriptions/{subscription_id}/providers/Microsoft.Compute/virtualMachineScaleSets"
        turns = self._list_turns.setdefault(subscription_id, Turns(LIST_SECONDS / self._share))
        call = _Call(
            self, subscription_id, timeout_seconds, meter, JsonPages("value", LIST, keep), turns=turns
        )
        return await call.answer(_Ask(self._url(path, API_VERSION)))

    async def graph(
        self,
        subscription_id: str,
        query: str,
        timeout_seconds: float,
        meter: Meter,
        keep: Callable[[object], object] | None = None,
    ) -> Answer:
        """Return the rows of a Kusto query about a subscription, each converted by ``keep``.

        Raises :class:`PollError`.

        Each request waits for its turn, which is no part of the timeout.
        """
        url = self._url("/providers/Microsoft.ResourceGraph/resources", GRAPH_API_VERSION)
        options = {"resultFormat": "objectArray", "$top": GRAPH_ROWS}
        question = {"subscriptions": [subscription_id], "query": query, "options": options}

        def go_on(page: _Page) -> _Ask | None:
            document = page.document if isinstance(page.document, dict) else {}
            token = document.get("$skipToken")
            if token is not None:
                if not isinstance(token, str) or not 0 < len(token) <= MAX_LINK:
                    raise _malformed(f"no text for a $skipToken: {one_line(str(token))}", page)
                return _Ask(url, _encode({**question, "options": {**options, "$skipToken": token}}))
            if str(document.get("resultTruncated", "false")).lower() != "false":
                raise _malformed("the rows are not all there, and nothing says how to get the others", page)
            return None

        pages = JsonPages("data", SEARCH, keep)
        call = _Call(self, subscription_id, timeout_seconds, meter, pages, turns=self._graph_turns)
        return await call.answer(_Ask(url, _encode(question)), go_on)

    def _url(self, path: str, api_version: str) -> URL:
        base = str(self.endpoint).rstrip("/")
        return URL(f"{base}{quote(path, safe='/()')}?api-version={api_version}", encoded=True)

    def heed(self, subscription_id: str, headers: Mapping[str, str], meter: Meter) -> None:
        """Show and pass on what an answer says is left of budgets."""
        scopes = self._scopes.setdefault(subscription_id, set())
        for scope, requests in remaining(headers.items()):
            if scope in scopes or len(scopes) < MAX_SCOPES:
                scopes.add(scope)
                self.telemetry.azure_remaining_requests.labels(subscription_id, scope).set(requests)
                meter.left(scope, requests)

    async def _exchange(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Send a request once, and trust no answer that returns the id of another request.

        When the connection breaks, aiohttp would send it again, unseen by budget and count.
        """
        try:
            response = await handler(request)
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError) as error:
            raise _no_answer(error) from error
        sent = request.headers[CLIENT_REQUEST_ID]
        returned = response.headers.getall(CLIENT_REQUEST_ID, ())
        if any(each.lower() not in {sent, ""} for each in returned):
            response.close()
            self._connector.close_connection(request)  # which has it back already where the answer was short
            raise Malformed(
                f"the answer to another request: sent {CLIENT_REQUEST_ID} {sent},"
                f" returned {one_line(', '.join(returned))}",
                request_id=response.headers.get("x-ms-request-id", ""),
            )
        return response

    async def close(self) -> None:
        """Close all connections."""
        await self.session.close()


class _NoToken(Exception):
    """There is no token, for the reason that ``failure`` says."""

    def __init__(self, failure: PollError) -> None:
        super().__init__()
        self.failure = failure


class _Call:
    """One poll's round trip: requests, retries and pages under one deadline."""

    __slots__ = (
        "_client",
        "_client_request_id",
        "_deadline",
        "_known",
        "_meter",
        "_pages",
        "_subscription_id",
        "_timeout",
        "_turns",
        "_verdict",
    )

    def __init__(
        self,
        client: Client,
        subscription_id: str,
        timeout: float,
        meter: Meter,
        pages: JsonPages,
        *,
        known: bytes = b"",
        turns: Turns | None = None,
    ) -> None:
        self._client = client
        self._pages = pages
        self._deadline = asyncio.timeout(timeout)
        self._turns = turns
        self._known = known
        self._subscription_id = subscription_id
        self._timeout = timeout
        self._meter = meter
        self._client_request_id = ""
        self._verdict: PollError | None = None
        """The failure to report if no further answer comes; ``None`` before the first answer: the timeout itself."""

    async def answer(self, ask: _Ask, go_on: Callable[[_Page], _Ask | None] | None = None) -> Answer:
        """Ask until ``go_on``, by default ``nextLink``, says that there are no more pages."""
        pages: list[_Page] = []
        then: _Ask | None = ask
        go_on = go_on or self._next
        known = self._known
        try:
            async with self._deadline:
                while then is not None:
                    if pages:
                        self._meter.spend()
                    pages.append(await self._page(then))
                    self._verdict = None
                    self._known = b""  # a further page is decoded in any case
                    then = go_on(pages[-1])
                    if then is not None and len(pages) == self._pages.limits.pages:
                        raise _malformed(f"more than {len(pages)} pages", pages[-1])
        except (TimeoutError, TimedOut):
            raise self._verdict or self._silence() from None
        except _NoToken as failed:
            raise failed.failure from None
        last = pages[-1]
        if len(pages) > 1:
            return Answer(tuple([page.document for page in pages]), last.request_id, last.excerpt)
        unchanged = last.digest == known != b""
        documents = () if unchanged else (last.document,)
        return Answer(documents, last.request_id, last.excerpt, last.digest, unchanged)

    def _silence(self) -> TimedOut:
        """Return the failure of a call that had no answer. Made only then, as each message is searched for secrets."""
        failure = TimedOut(f"no answer within {self._timeout:g} s")
        failure.client_request_id = self._client_request_id
        return failure

    async def _page(self, ask: _Ask) -> _Page:
        try:
            return await self._attempt(ask)
        except Passing as error:
            failure = error
        # Only now is stamina needed, which costs a sixth of a poll even where nothing fails.
        async for attempt in stamina.retry_context(
            on=Passing, attempts=ATTEMPTS, timeout=None, wait_initial=0.25, wait_jitter=0.5, wait_max=5.0
        ):
            with attempt:
                if attempt.num == 1:
                    raise failure
                self._meter.spend()
                self._client.telemetry.azure_retries.labels(self._subscription_id).inc()
                return await self._attempt(ask)
        raise AssertionError  # the last attempt returns or raises

    async def _attempt(self, ask: _Ask) -> _Page:
        try:
            return await self._authorized(ask)
        except (ServerError, Unreachable) as error:
            self._verdict = error
            raise

    async def _authorized(self, ask: _Ask) -> _Page:
        credential = self._client.credential
        token = await self._token(credential.token())
        try:
            return await self._request(ask, token)
        except Unauthorized as refusal:
            self._meter.spend()
            before, self._verdict = self._verdict, refusal
            token = await self._token(credential.fresh_token(token, refusal.claims))
            self._verdict = before
            return await self._request(ask, token)

    async def _token(self, asked: Coroutine[None, None, str]) -> str:
        """Return a token. How often the identity endpoint is asked is the credential's to decide, so no retry here."""
        try:
            return await asked
        except PollError as failure:
            raise _NoToken(failure) from None
        except asyncio.CancelledError:  # by the deadline; otherwise nothing reads the verdict
            if failed := self._client.credential.failure:
                self._verdict = failed
            elif self._verdict is None:
                self._verdict = TimedOut(f"no token within {self._timeout:g} s")
            raise

    async def _take_turn(self, turns: Turns) -> None:
        """Wait for our turn while the deadline stands still: it is not Azure that is slow."""
        now = asyncio.get_running_loop().time
        left = (self._deadline.when() or 0.0) - now()
        self._deadline.reschedule(None)
        try:
            await turns.take()
        finally:
            self._deadline.reschedule(now() + left)

    def _heed_quota(self, turns: Turns, headers: Mapping[str, str]) -> None:
        quota = (headers.get(f"x-ms-user-quota-{name}") for name in ("remaining", "resets-after"))
        turns.rest(quota_rest(*quota))

    async def _request(self, ask: _Ask, token: str) -> _Page:
        if self._turns is not None:
            await self._take_turn(self._turns)
        telemetry = self._client.telemetry
        status = "error"
        client_request_id = self._client_request_id = str(uuid4())
        started = perf_counter()
        try:
            async with self._client.session.request(
                "GET" if ask.body is None else "POST",
                ask.url,
                data=ask.body,
                headers=_headers(token, ask, client_request_id),
                proxy_headers=self._client.proxy_headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=self._timeout / ATTEMPTS),
            ) as response:
                status = str(response.status)
                self._client.heed(self._subscription_id, response.headers, self._meter)
                if self._turns is not None:
                    self._heed_quota(self._turns, response.headers)
                if response.status == HTTPStatus.OK:
                    return await self._decode(response, token)
                raise await _failure(response)
        except TimeoutError:
            raise TimedOut(f"no answer within {self._timeout / ATTEMPTS:g} s") from None
        except PollError as error:
            error.client_request_id = client_request_id
            if self._turns is not None and isinstance(error, Throttled):
                self._turns.rest(error.retry_after)
            raise
        finally:
            telemetry.azure_requests.labels(self._subscription_id, status).inc()
            telemetry.azure_request_duration.observe(perf_counter() - started)

    async def _decode(self, response: aiohttp.ClientResponse, token: str) -> _Page:
        """Decode the body of a good answer, unless it is the one that is known."""
        limit = self._pages.bytes_left
        body = bytearray()
        broken = await _read(response, body, min(limit, LARGE) + 1)
        if len(body) <= LARGE:
            return await self._page_of(response, body, broken, token)
        async with self._client.large_answers:
            broken = broken or await _read(response, body, limit + 1)
            return await self._page_of(response, body, broken, token)

    async def _page_of(
        self, response: aiohttp.ClientResponse, body: bytearray, broken: Exception | None, token: str
    ) -> _Page:
        """Make a page of a body. Its texts do not quote the token."""
        digest = blake2b(body, digest_size=16).digest() if len(body) <= LARGE else b""
        page = _Page(None, response.headers.get("x-ms-request-id", ""), _excerpt(body), digest)
        if isinstance(broken, TimeoutError):
            raise broken
        if broken is not None:
            raise _malformed(one_line(f"{type(broken).__name__}: {broken}"), page) from broken
        if digest == self._known != b"":
            return page
        if len(body) > self._pages.bytes_left:
            response.close()
            raise _malformed(f"more than {self._pages.limits.total_bytes} bytes", page)
        try:
            # A shorter token may stand there by chance.
            quoted = len(token) >= BEGINNING and token.encode() in body
            hide = partial(_without, token) if quoted else None
            document = await run_in_slices(self._pages.decode(body, hide))
        except TooMuch as error:
            raise _malformed(str(error), page) from None
        except (ValueError, RecursionError) as error:
            raise _malformed(f"not JSON: {one_line(str(error))}", page) from error
        return _Page(document, page.request_id, page.excerpt, digest)

    def _next(self, page: _Page) -> _Ask | None:
        """Return what a page says that the next one is; ``None`` after the last."""
        link = page.document.get("nextLink") if isinstance(page.document, dict) else None
        if link in (None, ""):  # the official clients take an empty one for none, too
            return None
        url = same_origin(link, self._client.endpoint)
        if url is None:
            raise _malformed(f"nextLink leads elsewhere: {one_line(str(link))}", page)
        return _Ask(url)


def _headers(token: str, ask: _Ask, client_request_id: str) -> dict[str, str]:
    headers = {
        "Authorization": f"Bearer {token}",
        CLIENT_REQUEST_ID: client_request_id,
        "x-ms-return-client-request-id": "true",
    }
    return headers if ask.body is None else {**headers, "Content-Type": "application/json"}


def _encode(document: object) -> bytes:
    return json.dumps(document).encode()


def same_origin(link: object, endpoint: URL) -> URL | None:
    """Return where ``link`` leads if that is ``endpoint``'s scheme, host and port, else ``None``.

    Of the link no more than path and query are used: the rest is ``endpoint``'s own.
    """
    if not isinstance(link, str) or len(link) > MAX_LINK or not _URI.fullmatch(link):
        return None
    try:
        url = URL(link, encoded=True)
        same = url.user is None and url.password is None and _origin(url) == _origin(endpoint)
        return URL(f"{endpoint.origin()}{url.raw_path_qs}", encoded=True) if same else None
    except ValueError:
        return None


_URI = re.compile(r"[!-~]+")
"""Printable ASCII without the space: what may stand in a request line."""


def _origin(url: URL) -> tuple[str, str, int | None]:
    return url.scheme.lower(), (url.raw_host or "").lower(), url.port


def _no_answer(error: Exception) -> PollError:
    """Return what it means that no head of an answer came: whether a status line did, makes the difference."""
    why = one_line(f"{type(error).__name__}: {error}")
    match error:
        case aiohttp.ServerDisconnectedError(message=RawResponseMessage(code=code)):
            # An orderly end; of a reset aiohttp does not tell what came before it.
            return (Malformed if code >= HTTPStatus.CONTINUE else Unreachable)("the answer ended in its head")
        case aiohttp.ClientHttpProxyError(status=status, message=message):
            return Unreachable(one_line(f"the proxy answers {status} {message}"))
        case aiohttp.ClientResponseError() if not _is_bad_status_line(error):
            return Malformed(why)
    return Unreachable(why)


def _is_bad_status_line(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, BadStatusLine):
        error = error.__cause__
    return error is not None


def _malformed(why: str, page: _Page) -> Malformed:
    return Malformed(why, request_id=page.request_id, excerpt=page.excerpt)


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


def _without(token: str, document: object) -> object:
    """Return a decoded document with ``MASK`` for the token in its texts."""
    match document:
        case str():
            return document.replace(token, MASK)
        case list():
            return [_without(token, each) for each in document]
        case dict():
            return {_without(token, name): _without(token, each) for name, each in document.items()}
    return document


async def _read(response: aiohttp.ClientResponse, body: bytearray, limit: int) -> Exception | None:
    """Read on in a body, decoded, until it has ``limit`` bytes or more; return what broke it off."""
    slices = Slices()
    try:
        while len(body) < limit and (chunk := await response.content.readany()):
            body += chunk
            await slices.pause()
    except (aiohttp.ClientError, OSError) as error:
        return error
    return None


def _excerpt(body: bytes | bytearray) -> str:
    return body[: 4 * EXCERPT].decode(errors="replace")[:EXCERPT]


async def _failure(response: aiohttp.ClientResponse) -> PollError:
    """Return what an answer other than 200 means."""
    status, headers = response.status, response.headers
    body = bytearray()
    await _read(response, body, MAX_ERROR_BYTES)  # the status says enough, should it break off
    if len(body) >= MAX_ERROR_BYTES:
        response.close()
    beginning = bytes(body[:MAX_ERROR_BYTES])
    message = one_line(f"HTTP {status} {parse_error(beginning) or response.reason or ''}", MAX_MESSAGE)
    request_id = headers.get("x-ms-request-id", "")
    kind = _BY_STATUS.get(status) or _BY_STATUS_CLASS.get(status // 100, Malformed)
    if status == HTTPStatus.NOT_FOUND and _is_scale_set_gone(beginning):
        kind = NotFound
    if kind is Unauthorized:
        claims = demanded_claims(", ".join(headers.getall("WWW-Authenticate", ())))
        return Unauthorized(message, request_id=request_id, claims=claims)
    if kind is Throttled:
        now = sent_at(headers.get("Date"), time())
        pause = retry_after(headers.get("Retry-After"), now, headers.get("x-ms-user-quota-resets-after"))
        return Throttled(message, request_id=request_id, retry_after=pause)
    if kind is Malformed:
        message = one_line(f"{message} {headers.get('Location', '')}", MAX_MESSAGE)
        return Malformed(message, request_id=request_id, excerpt=_excerpt(beginning))
    return kind(message, request_id=request_id)


def _is_scale_set_gone(body: bytes) -> bool:
    """Return whether a 404 comes from Resource Manager and says that the scale set or its resource group does not exist.

    A gateway on the way, a subscription that the tenant does not know and a resource type that the cloud does not
    offer answer 404, too, and say nothing about the scale set.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return False
    error = document.get("error") if isinstance(document, dict) else None
    return isinstance(error, dict) and error.get("code") in _GONE_CODES


_GONE_CODES = ("ResourceNotFound", "ResourceGroupNotFound")
_BY_STATUS: dict[int, type[PollError]] = {401: Unauthorized, 403: Forbidden, 429: Throttled}
_BY_STATUS_CLASS: dict[int, type[PollError]] = {4: BadRequest, 5: ServerError}
"""All else, a redirect above all, is no answer to what was asked."""
