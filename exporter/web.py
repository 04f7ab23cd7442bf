"""The HTTP surface: metrics, probes, the configuration in force and the landing page.

Knows nothing of polls: what it serves comes from the exposition and from the ``Status`` that the daemon gives.
"""

import html
from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import Protocol

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from exporter import __version__
from exporter.address import Address
from exporter.exposition import Exposition, Format
from exporter.telemetry import Telemetry

CHUNK_BYTES = 128 * 1024
"""How much of a scrape is written at once: large enough to be quick, small enough not to hold up the loop."""


class Status(Protocol):
    """What the daemon tells of itself."""

    @property
    def ready(self) -> bool:
        """Whether every scale set has been polled once, and the daemon is not on its way out."""

    @property
    def configuration(self) -> str:
        """The configuration in force, as YAML, without secrets."""

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
        return web.Response(text="Healthy\n")

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

    async def landing(_: web.Request) -> web.Response:
        page = _LANDING.format(version=__version__, metrics=html.escape(telemetry_path))
        return web.Response(text=page, content_type="text/html")

    app = web.Application(middlewares=[_counting(telemetry)])
    app.router.add_get(telemetry_path, metrics)
    app.router.add_get("/-/healthy", healthy)
    app.router.add_get("/-/ready", ready)
    app.router.add_post("/-/reload", reload)
    app.router.add_put("/-/reload", reload)
    app.router.add_get("/config", config)
    if telemetry_path != "/":
        app.router.add_get("/", landing)
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
    await response.prepare(request)
    if request.method == hdrs.METH_HEAD:
        return response
    for chunk in chunks(pieces):
        await response.write(chunk)
    return response


def chunks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Join small pieces to chunks of about ``CHUNK_BYTES``."""
    gathered: list[bytes] = []
    length = 0
    for piece in pieces:
        gathered.append(piece)
        length += len(piece)
        if length >= CHUNK_BYTES:
            yield b"".join(gathered)
            gathered, length = [], 0
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


class Server:
    """Serves an application on some addresses."""

    def __init__(self, app: web.Application) -> None:
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)

    async def start(self, addresses: Iterable[Address]) -> list[str]:
        """Listen; return the addresses as ``host:port``, the ports that were picked filled in.

        Raises ``OSError``, with a text that names the address, where one cannot be had.
        """
        await self._runner.setup()
        for address in addresses:
            try:
                await web.TCPSite(self._runner, address.host, address.port).start()
            except OSError as error:
                raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from error
        return [str(Address(host, port)) for host, port, *_ in self._runner.addresses]

    async def stop(self) -> None:
        """Stop listening, let answers on their way end within a second, close all connections."""
        await self._runner.cleanup()


_LANDING = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>vmss-upgrade-exporter</title></head>
<body>
<h1>vmss-upgrade-exporter</h1>
<p>Version {version}. OS upgrades of Azure virtual machine scale sets, for Prometheus.</p>
<ul>
<li><a href="{metrics}">Metrics</a></li>
<li><a href="/config">Configuration in force</a></li>
<li><a href="/-/ready">Ready</a>, <a href="/-/healthy">healthy</a></li>
</ul>
</body>
</html>
"""
