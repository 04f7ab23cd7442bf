"""The HTTP surface: metrics, probes, the configuration in force and the status page.

``application`` says what is served at which path. ``_Http`` makes every answer that leaves the process, those to
requests that cannot be parsed included: access control, headers, counters. Knows nothing of polls: what it serves comes
from the exposition and from the ``Status`` that the daemon gives. The gate says who may come in, and ``connections``
what a connection may take.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from time import perf_counter, time
from typing import Any, Final, Protocol, cast
from urllib.parse import SplitResult, urlsplit

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpProcessingError, HttpVersion10, HttpVersion11, RawRequestMessage
from aiohttp.streams import StreamReader

from exporter import status as status_page
from exporter.address import Address
from exporter.banners import DiscoveryStatus, SignInFailure
from exporter.connections import Connection, Connections, Limits
from exporter.error_log import ErrorLog
from exporter.exposition import Exposition, Format
from exporter.gate import Certificate, Gate, Refusal
from exporter.listener import Listener, bind
from exporter.selection import BadQuery, Query
from exporter.snapshot import Snapshot
from exporter.telemetry import Telemetry

CHUNK_BYTES = 128 * 1024
"""How much of a scrape is written at once: large enough to be quick, small enough not to hold up the loop, nor to hold
much memory while a slow reader leaves it unread."""
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
"""What Azure wrote is text on the page; if ever it were not, a browser would still load and run nothing of it."""
KEEP_FOR_EVER = "public, max-age=31536000, immutable"
OTHER: Final = "other"
"""The path that requests are counted under whose own path is not served, or not even known."""
LINGER_SECONDS: Final = 1.0
"""How long the rest of a request is still read after its answer."""

log = logging.getLogger(__name__)


Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """What is served at one path, by method."""

    path: str
    """The path that requests are counted under."""
    handles: Mapping[str, Handle]


class Application:
    """What is served at which path, and where requests are counted."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.telemetry = telemetry
        self._routes: dict[str, Route] = {}

    def add_get(self, path: str, handle: Handle) -> None:
        """Serve a path, and all paths below it where it ends in ``/{name}``."""
        self._routes[path] = Route(path, {hdrs.METH_GET: handle, hdrs.METH_HEAD: handle})

    def add_post(self, path: str, handle: Handle) -> None:
        """Serve a path to POST and PUT."""
        self._routes[path] = Route(path, {hdrs.METH_POST: handle, hdrs.METH_PUT: handle})

    def route(self, path: str) -> Route | None:
        """Return what is served at a path, percent-decoded."""
        return self._routes.get(path) or self._routes.get(f"{path.rpartition('/')[0]}/{{name}}")


class Status(Protocol):
    """What the daemon tells of itself."""

    @property
    def healthy(self) -> bool:
        """Whether the polling clock ticks."""

    @property
    def ready(self) -> bool:
        """Whether every scale set has been polled once, and the daemon is not on its way out."""

    @property
    def configuration(self) -> str:
        """The configuration in force, as YAML, without secrets."""

    def snapshots(self) -> tuple[Snapshot, ...]:
        """Return what is known of each scale set."""

    def discoveries(self) -> tuple[DiscoveryStatus, ...]:
        """Return how the last discovery of each subscription ended."""

    def sign_in_failures(self) -> tuple[SignInFailure, ...]:
        """Return why the last sign-in failed, for each subscription that uses the credential."""

    def past(self) -> AbstractContextManager[status_page.Past]:
        """Give what Azure may have forgotten; entered in a thread."""

    async def reload(self) -> str:
        """Read the configuration anew; return what is wrong with it, or nothing when it is in force."""


def application(
    exposition: Exposition,
    telemetry: Telemetry,
    status: Status,
    telemetry_path: str,
    *,
    enable_lifecycle: bool = False,
) -> Application:
    """Return what answers the paths of design.md section 4."""

    async def metrics(request: web.Request) -> web.StreamResponse:
        in_format = negotiate(request.headers.getall(hdrs.ACCEPT, []))
        headers: dict[str, str] = {hdrs.CONTENT_TYPE: in_format.value, hdrs.VARY: "Accept, Accept-Encoding"}
        if accepts_gzip(request.headers.getall(hdrs.ACCEPT_ENCODING, [])):
            headers[hdrs.CONTENT_ENCODING] = "gzip"
            pieces = await exposition.gzip(in_format)
        else:
            pieces = exposition.plain(in_format)
        return _Pieces(headers, pieces)

    async def healthy(_: web.Request) -> web.Response:
        if status.healthy:
            return web.Response(text="Healthy\n")
        return web.Response(
            text="Not healthy: the polling clock has stopped, no scale set is polled\n", status=503
        )

    async def ready(_: web.Request) -> web.Response:
        if status.ready:
            return web.Response(text="Ready\n")
        return web.Response(
            text="Not ready: not every scale set has been polled yet, or draining\n", status=503
        )

    async def config(_: web.Request) -> web.Response:
        return web.Response(text=status.configuration)

    async def reload(_: web.Request) -> web.Response:
        if not enable_lifecycle:
            return web.Response(text="Lifecycle API is not enabled: see --web.enable-lifecycle\n", status=403)
        faults = await status.reload()
        if faults:
            return web.Response(text=f"The configuration in force stays:\n{faults}\n", status=500)
        return web.Response(text="Reloaded\n")

    making = asyncio.Semaphore(1)

    async def page(request: web.Request) -> web.Response:
        return await made(request, "text/html", partial(status_page.html, telemetry_path=telemetry_path))

    async def scale_sets(request: web.Request) -> web.Response:
        return await made(request, "application/json", status_page.document, strict=True)

    async def made(
        request: web.Request, content_type: str, make: Callable[..., bytes], *, strict: bool = False
    ) -> web.Response:
        """Answer with what ``make`` makes, in a thread: at 10,000 scale sets it takes too long for the loop."""
        headers = {**PAGE_HEADERS, hdrs.CACHE_CONTROL: "no-cache"}
        try:
            query = Query.read(request.query, strict=strict)
        except BadQuery as error:
            return web.Response(text=f"{error}\n", status=400, headers=headers)
        snapshots, discoveries = status.snapshots(), status.discoveries()
        sign_ins = status.sign_in_failures()

        def with_past() -> bytes:
            with status.past() as past:
                return make(
                    snapshots, query, time(), past=past, discoveries=discoveries, sign_in_failures=sign_ins
                )

        async with making:  # one at a time, and threads stay free for the gzip of scrapes
            body = await asyncio.to_thread(with_past)
        response = web.Response(body=body, content_type=content_type, charset="utf-8", headers=headers)
        response.enable_compression()
        return response

    async def asset(request: web.Request) -> web.Response:
        for each in status_page.assets().values():
            if each.name == request.path.removeprefix("/static/"):
                headers = {**PAGE_HEADERS, hdrs.CACHE_CONTROL: KEEP_FOR_EVER}
                return web.Response(
                    body=each.body, content_type=each.content_type, charset="utf-8", headers=headers
                )
        return _text(404)

    app = Application(telemetry)
    if telemetry_path != "/":
        app.add_get("/", page)
    app.add_get(telemetry_path, metrics)
    app.add_get("/-/healthy", healthy)
    app.add_get("/-/ready", ready)
    app.add_post("/-/reload", reload)
    app.add_get("/config", config)
    app.add_get("/api/v1/scale-sets", scale_sets)
    app.add_get("/static/{name}", asset)
    return app


def negotiate(accept: Iterable[str]) -> Format:
    """Choose the format by ``Accept`` (RFC 9110 section 12.5.1): OpenMetrics where asked for and no less wanted."""
    openmetrics = text = 0.0
    for media_type, parameters, weight in _preferences(accept):
        if media_type == "application/openmetrics-text" and parameters.get("version", "1.0.0") == "1.0.0":
            openmetrics = max(openmetrics, weight)
        elif media_type in {"text/plain", "text/*"}:
            text = max(text, weight)
    return Format.OPENMETRICS if openmetrics > 0 and openmetrics >= text else Format.TEXT


def accepts_gzip(accept_encoding: Iterable[str]) -> bool:
    """Whether ``Accept-Encoding`` allows gzip (RFC 9110 section 12.5.3)."""
    weights = {coding: weight for coding, _, weight in _preferences(accept_encoding)}
    return weights.get("gzip", weights.get("*", 0.0)) > 0


def _preferences(headers: Iterable[str]) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yield what a header lists: the value, its parameters, and its weight from 0 to 1."""
    for item in ",".join(headers).split(","):
        value, *rest = (part.strip().lower() for part in item.split(";"))
        parameters = dict(part.split("=", 1) for part in rest if "=" in part)
        try:
            weight = float(parameters.pop("q", "1"))
        except ValueError:
            weight = 0.0
        yield value, parameters, weight


class _Pieces(web.StreamResponse):
    """An answer in pieces: a scrape, which would be too much to be copied."""

    def __init__(self, headers: Mapping[str, str], pieces: list[bytes]) -> None:
        super().__init__(headers=headers)
        self.content_length = sum(map(len, pieces))
        self._pieces = pieces
        self._request: web.BaseRequest | None = None

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the headers."""
        self._request = request
        return await super().prepare(request)

    async def write_eof(self, data: bytes = b"") -> None:
        """Send the pieces."""
        request = self._request
        if request is not None and request.method != hdrs.METH_HEAD:
            for chunk in chunks(self._pieces):
                await self.write(chunk)
                if request.secure:
                    await asyncio.sleep(0)  # only then does TLS tell of a connection that is lost
        await super().write_eof(data)


def chunks(pieces: Iterable[bytes]) -> Iterator[bytes | memoryview]:
    """Join small pieces to chunks of at most ``CHUNK_BYTES``, and cut large ones into such."""
    gathered: list[bytes] = []
    length = 0
    for piece in pieces:
        if gathered and length + len(piece) > CHUNK_BYTES:
            yield b"".join(gathered)
            gathered, length = [], 0
        if len(piece) >= CHUNK_BYTES:
            whole = memoryview(piece)
            yield from (whole[start : start + CHUNK_BYTES] for start in range(0, len(piece), CHUNK_BYTES))
        else:
            gathered.append(piece)
            length += len(piece)
    if gathered:
        yield b"".join(gathered)


def is_cross_site(headers: Mapping[str, str]) -> bool:
    """Whether a page of another origin makes a browser send this request.

    Browsers say so in ``Sec-Fetch-Site``, which holds behind a proxy that changes ``Host``, too; those that do not
    send ``Origin``, which is compared to ``Host``. A request with neither comes from no browser.
    """
    site = headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get(hdrs.ORIGIN)
    if origin is None:
        return False
    try:
        theirs = urlsplit(origin)
        ours = urlsplit(f"{theirs.scheme}://{headers.get(hdrs.HOST, '')}")
        return theirs.hostname is None or _host_and_port(theirs) != _host_and_port(ours)
    except ValueError:  # a port that is no number
        return True


def _host_and_port(url: SplitResult) -> tuple[str | None, int | None]:
    return url.hostname, url.port or {"http": 80, "https": 443}.get(url.scheme)


_TEXTS: Final = {
    400: "The request cannot be parsed as HTTP/1.1\n",
    404: "Nothing is served at this path, see /\n",
    405: "This path does not have this method\n",
    413: "The request is too large, nothing that is served needs a body\n",
    500: "A defect of the exporter, see its log\n",
    505: "HTTP/1.0 and HTTP/1.1 are spoken here\n",
}


def _text(status: int, **headers: str) -> web.Response:
    return web.Response(status=status, text=_TEXTS.get(status, _TEXTS[500]), headers=headers)


def _refuse(refusal: Refusal) -> web.Response:
    return web.Response(status=refusal.status, text=refusal.text, headers=dict(refusal.headers))


class _Request(web.Request):
    """A request whose answer does not say which versions we run."""

    speaks_http_1 = True
    """Whether it is of HTTP/1.0 or 1.1; the parser takes 0.9 and 2.0, too."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        """Take out what aiohttp has just put in: it calls this for every answer, before it writes the headers."""
        response.headers.pop(hdrs.SERVER, None)


class _OtherVersion(_Request):
    """A request of another version; its answer is of HTTP/1.0."""

    speaks_http_1 = False


class _Http(web.RequestHandler):
    """HTTP on one connection: the one place that makes every answer.

    ``respond`` answers a request that could be parsed, ``handle_error`` one that could not be and one that a defect
    of ours leaves without an answer, and ``finish_response`` sends either.
    """

    def __init__(self, server: "Server", connection: Connection) -> None:
        limits = server.limits
        super().__init__(
            server.http,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # None means none
            keepalive_timeout=limits.idle_seconds,
            lingering_time=LINGER_SECONDS,
            auto_decompress=False,
            max_line_size=limits.request_bytes,
            max_field_size=limits.request_bytes,
        )
        self._app, self._gate, self._errors = server.app, server.gate, server.errors
        self._limits = limits
        self._connection = connection
        self._path = OTHER
        self._started = 0.0
        self._answered = 0
        self._half_closed = False

    async def respond(self, request: _Request) -> web.StreamResponse:
        """Return the answer to a request."""
        route = self._app.route(request.path) if request.speaks_http_1 else None
        self._begin(OTHER if route is None else route.path)
        refusal = await self._gate.refusal(
            self._path, request.headers.get(hdrs.AUTHORIZATION), self._certificate()
        )
        if refusal is not None:
            return _refuse(refusal)
        if not request.speaks_http_1:
            return _text(505)
        return _text(404) if route is None else await self._serve(request, route)

    async def _serve(self, request: _Request, route: Route) -> web.StreamResponse:
        """Return the answer of a path that is served, to a client who may have it."""
        handle = route.handles.get(request.method)
        if handle is None:
            return _text(405, Allow=", ".join(route.handles))
        if (request.content_length or 0) > self._limits.request_bytes:
            return _text(413)
        if hdrs.METH_GET not in route.handles and is_cross_site(request.headers):
            return web.Response(status=403, text="A page of another origin must not do this\n")
        return await handle(request)

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - of a request that cannot be parsed it is a dummy
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it holds the client's bytes
    ) -> web.StreamResponse:
        """Return the answer where there is no other."""
        if isinstance(exc, HttpProcessingError):
            self._begin(OTHER)
            refusal = self._gate.refusal_of_anonymous(OTHER, self._certificate())
            answer = _text(status) if refusal is None else _refuse(refusal)
        else:
            self._errors.report("defect in answering a request", exc, path=self._path)
            answer = _text(500)
        answer.force_close()
        return answer

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer and count it; return it, and whether the client went away before its end."""
        if self.transport is None:
            return resp, True
        for name, value in self._gate.headers.items():
            resp.headers.setdefault(name, value)
        resp.headers.setdefault("X-Content-Type-Options", "nosniff")
        self._end_with(resp)
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._end_with(resp)  # what is known now may not have been before
            self._answered += 1
            telemetry = self._app.telemetry
            telemetry.http_requests.labels(self._path, str(resp.status)).inc()
            telemetry.http_request_duration.labels(self._path).observe(perf_counter() - self._started)
            self._connection.ended(served=resp.status < 400)  # noqa: PLR2004 - HTTP's own border

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp never keeps a connection open here
        """Note that the client sends no more; return whether it still waits for answers.

        aiohttp would leave it without them: https://github.com/aio-libs/aiohttp/issues/3659.
        """
        self._half_closed = True
        return self._unanswered > 0

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Report what aiohttp finds wrong on a connection, unless it is the client's doing."""
        error = kw.get("exc_info")
        if not isinstance(error, HttpProcessingError | web.RequestPayloadError):
            self._errors.report("defect on a connection", error, what=args[0], path=self._path)

    @property
    def _unanswered(self) -> int:
        """The number of requests that have arrived, parsed or not, and are not answered."""
        return self._request_count - self._answered

    def _end_with(self, answer: web.StreamResponse) -> None:
        """Close the connection behind an answer if it is the last one."""
        if self._connection.retired or (self._half_closed and self._unanswered == 1):
            answer.force_close()

    def _begin(self, path: str) -> None:
        self._path, self._started = path, perf_counter()
        self._connection.began()

    def _certificate(self) -> Certificate | None:
        """Return the client's certificate, verified."""
        if self.transport is None:
            return None
        return cast(Certificate | None, self.transport.get_extra_info("peercert"))


class Server:
    """Serves an application on some addresses to clients that the gate admits. Made inside the event loop."""

    def __init__(self, app: Application, gate: Gate | None = None, limits: Limits | None = None) -> None:
        self.app = app
        self.gate = gate = gate or Gate()
        self.limits = limits or Limits()
        self.errors = ErrorLog(log)
        self.http = web.Server(_respond, request_factory=_request)
        self._connections = Connections(partial(_Http, self), lambda: gate.context, self.limits)
        self._listeners: list[Listener] = []

    async def start(self, addresses: Iterable[Address]) -> list[str]:
        """Listen; return the addresses as ``host:port``, the ports that were picked filled in.

        Raises ``OSError``, with a text that names the address, where one cannot be had.
        """
        for address in addresses:
            self._listeners += [
                Listener(bound, self._connections, self._connections.make_room, self.errors)
                for bound in await bind(address)
            ]
        return [str(listener.address) for listener in self._listeners]

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    async def refresh(self) -> None:
        """Go by the gate's files as they are now."""
        if await self.gate.refresh():
            self._connections.retire()

    async def stop(self) -> None:
        """Stop listening, let answers on their way end within a second, close all connections."""
        while self._listeners:
            self._listeners.pop().close()
        self.http.pre_shutdown()
        await self.http.shutdown(LINGER_SECONDS)
        self._connections.abort()


async def _respond(request: web.BaseRequest) -> web.StreamResponse:
    return await cast(_Http, request.protocol).respond(cast(_Request, request))


def _request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: web.RequestHandler,
    writer: AbstractStreamWriter,
    task: "asyncio.Task[None]",
) -> _Request:
    made = _Request
    if message.version not in (HttpVersion10, HttpVersion11):
        made, message = _OtherVersion, message._replace(version=HttpVersion10, should_close=True)
    return made(message, payload, protocol, writer, task, asyncio.get_running_loop(), client_max_size=0)
