"""The HTTP surface: metrics, probes, the configuration in force and the status page.

Knows nothing of polls: what it serves comes from the exposition and from the ``Status`` that the daemon gives. Who may
come in is the gate's to say, and what a connection may take stands in ``connections``.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from functools import partial
from time import perf_counter, time
from typing import Protocol

from aiohttp import hdrs, web
from aiohttp.http import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware

from exporter import status as status_page
from exporter.address import Address
from exporter.banners import DiscoveryStatus
from exporter.connections import Connection, Connections, Limits
from exporter.exposition import Exposition, Format
from exporter.gate import Gate
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
) -> web.Application:
    """Return the application that answers the paths of design.md section 4."""

    async def metrics(request: web.Request) -> web.StreamResponse:
        in_format = negotiate(request.headers.getall(hdrs.ACCEPT, []))
        headers: dict[str, str] = {hdrs.CONTENT_TYPE: in_format.value, hdrs.VARY: "Accept, Accept-Encoding"}
        if accepts_gzip(request.headers.getall(hdrs.ACCEPT_ENCODING, [])):
            headers[hdrs.CONTENT_ENCODING] = "gzip"
            pieces = await exposition.gzip(in_format)
        else:
            pieces = exposition.plain(in_format)
        return await _stream(request, headers, pieces)

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
        return await made(request, "application/json", status_page.document)

    async def made(request: web.Request, content_type: str, make: Callable[..., bytes]) -> web.Response:
        """Answer with what ``make`` makes, in a thread: at 10,000 scale sets it takes too long for the loop."""
        headers = {**PAGE_HEADERS, hdrs.CACHE_CONTROL: "no-cache"}
        try:
            query = Query.read(request.query)
        except BadQuery as error:
            return web.Response(text=f"{error}\n", status=400, headers=headers)
        snapshots, discoveries = status.snapshots(), status.discoveries()

        def with_past() -> bytes:
            with status.past() as past:
                return make(snapshots, query, time(), past=past, discoveries=discoveries)

        async with making:  # one at a time, and threads stay free for the gzip of scrapes
            body = await asyncio.to_thread(with_past)
        response = web.Response(body=body, content_type=content_type, charset="utf-8", headers=headers)
        response.enable_compression()
        return response

    async def asset(request: web.Request) -> web.Response:
        for each in status_page.assets().values():
            if each.name == request.match_info["name"]:
                headers = {**PAGE_HEADERS, hdrs.CACHE_CONTROL: KEEP_FOR_EVER}
                return web.Response(
                    body=each.body, content_type=each.content_type, charset="utf-8", headers=headers
                )
        raise web.HTTPNotFound

    app = web.Application(middlewares=[_counting(telemetry)])
    app.router.add_get(telemetry_path, metrics)
    app.router.add_get("/-/healthy", healthy)
    app.router.add_get("/-/ready", ready)
    app.router.add_post("/-/reload", reload)
    app.router.add_put("/-/reload", reload)
    app.router.add_get("/config", config)
    app.router.add_get("/api/v1/scale-sets", scale_sets)
    app.router.add_get("/static/{name}", asset)
    if telemetry_path != "/":
        app.router.add_get("/", page)
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


async def _stream(request: web.Request, headers: dict[str, str], pieces: list[bytes]) -> web.StreamResponse:
    response = web.StreamResponse(headers=headers)
    response.content_length = sum(map(len, pieces))
    by_tls = request.secure
    with suppress(ConnectionError):  # a scraper that has gone away, or was cut off, is no error of ours
        await response.prepare(request)
        for chunk in chunks(pieces) if request.method != hdrs.METH_HEAD else ():
            await response.write(chunk)
            if by_tls:
                await asyncio.sleep(0)  # only then does TLS tell of a connection that is lost
    return response


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


def _counting(telemetry: Telemetry) -> Middleware:
    """Count requests and their time, under the paths that exist: what others are asked for is ``other``."""

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        path = resource.canonical if resource is not None else "other"
        code = 500
        started = perf_counter()
        try:
            response = await handler(request)
            code = response.status
        except web.HTTPException as answer:
            code = answer.status
            raise
        else:
            return response
        finally:
            telemetry.http_requests.labels(path, str(code)).inc()
            telemetry.http_request_duration.labels(path).observe(perf_counter() - started)

    return count


def _guarding(gate: Gate, limits: Limits) -> Middleware:
    """Let in whom the gate lets in, and tell the connection of each request."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        transport = request.transport
        connection = None if transport is None else transport.get_protocol()
        if transport is None or not isinstance(connection, Connection):
            return web.Response()  # whoever asked has gone; TLS forgets the connection before it says so
        connection.began()
        try:
            response = await admitted(request, transport) or await handler(request)
        finally:
            connection.ended()
        if connection.retired:
            response.force_close()
        return response

    async def admitted(request: web.Request, transport: asyncio.Transport) -> web.Response | None:
        if (request.content_length or 0) > limits.request_bytes:
            raise web.HTTPRequestEntityTooLarge(limits.request_bytes, request.content_length or 0)
        resource = request.match_info.route.resource
        refusal = await gate.refusal(
            "" if resource is None else resource.canonical,
            request.headers.get(hdrs.AUTHORIZATION),
            transport.get_extra_info("peercert"),
        )
        if refusal is None:
            return None
        return web.Response(status=refusal.status, text=refusal.text, headers=dict(refusal.headers))

    return guard


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a fault is not the client's: who sends what is no HTTP has been told, and must not fill the log."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_log_of_requests = logging.getLogger(f"{__name__}.requests")
_log_of_requests.addFilter(_is_ours)


class Server:
    """Serves an application on some addresses, to whom the gate lets in."""

    def __init__(self, app: web.Application, gate: Gate | None = None, limits: Limits | None = None) -> None:
        self._gate = gate = gate or Gate()
        limits = limits or Limits()

        async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
            response.headers.pop(hdrs.SERVER, None)  # with which versions we run is nobody's business
            for name, value in gate.headers.items():
                response.headers.setdefault(name, value)

        app.middlewares.append(_guarding(gate, limits))
        app.on_response_prepare.append(add_headers)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=1.0,
            logger=_log_of_requests,
            keepalive_timeout=limits.idle_seconds,
            lingering_time=1.0,
            auto_decompress=False,
        )
        self._connections = Connections(self._serve, lambda: gate.context, limits)
        self._listeners: list[asyncio.Server] = []

    def _serve(self) -> asyncio.Protocol:
        assert self._runner.server is not None  # noqa: S101 - it listens only after the setup
        return self._runner.server()

    async def start(self, addresses: Iterable[Address]) -> list[str]:
        """Listen; return the addresses as ``host:port``, the ports that were picked filled in.

        Raises ``OSError``, with a text that names the address, where one cannot be had.
        """
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        for address in addresses:
            try:
                listener = await loop.create_server(self._connections, address.host, address.port)
            except OSError as error:
                raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from error
            self._listeners.append(listener)
        bound = (socket.getsockname() for listener in self._listeners for socket in listener.sockets)
        return [str(Address(host, port)) for host, port, *_ in bound]

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    async def refresh(self) -> None:
        """Go by the gate's files as they are now."""
        if await self._gate.refresh():
            self._connections.retire()

    async def stop(self) -> None:
        """Stop listening, let answers on their way end within a second, close all connections."""
        for listener in self._listeners:
            listener.close()
        await self._runner.cleanup()
        self._connections.abort()
