"""The HTTP surface, over real HTTP."""

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from exporter.address import Address, parse_address
from exporter.banners import DiscoveryStatus, SignInFailure
from exporter.exposition import Exposition, Format
from exporter.gate import Gate
from exporter.scale_set import ScaleSet, difference
from exporter.snapshot import Reason, Snapshot
from exporter.status import Past, nothing
from exporter.store import Store
from exporter.telemetry import Telemetry
from exporter.web import (
    CHUNK_BYTES,
    Server,
    accepts_gzip,
    application,
    chunks,
    negotiate,
)
from tests.test_basic_auth import hashed, header


@dataclass
class Status:
    healthy: bool = True
    ready: bool = False
    configuration: str = "cloud: public\n"
    faults: str = ""
    reloads: int = 0
    known: tuple[Snapshot, ...] = ()
    discovered: tuple[DiscoveryStatus, ...] = ()

    def discoveries(self) -> tuple[DiscoveryStatus, ...]:
        return self.discovered

    def sign_in_failures(self) -> tuple[SignInFailure, ...]:
        return ()

    def past(self) -> AbstractContextManager[Past]:
        return nullcontext(nothing)

    def snapshots(self) -> tuple[Snapshot, ...]:
        return self.known

    async def reload(self) -> str:
        self.reloads += 1
        return self.faults


@dataclass
class Site:
    """A running server, and a client that takes what comes as it comes."""

    client: aiohttp.ClientSession
    store: Store
    status: Status
    address: tuple[str, int]

    async def get(self, path: str, **headers: str) -> tuple[int, aiohttp.ClientResponse, bytes]:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.client.get(path, headers={"Accept-Encoding": "identity", **given}) as response:
            return response.status, response, await response.read()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    store, telemetry, status = Store(), Telemetry(), Status()
    store.apply(difference([], [ScaleSet("s", "rg", f"web-{number}", 300.0) for number in range(3)]))
    app = application(Exposition(store, telemetry), telemetry, status, "/metrics", enable_lifecycle=True)
    server = Server(app)
    (address,) = await server.start([Address("127.0.0.1", 0)])
    async with aiohttp.ClientSession(f"http://{address}", auto_decompress=False) as client:
        host, _, port = address.rpartition(":")
        yield Site(client, store, status, (host, int(port)))
    await server.stop()


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    ],
)
async def test_metrics_come_in_the_format_asked_for(site: Site, accept: str, content_type: str):
    status, response, body = await site.get("/metrics", Accept=accept)
    assert (status, response.headers["Content-Type"]) == (200, content_type)
    assert response.headers["Vary"] == "Accept, Accept-Encoding"
    assert "Server" not in response.headers
    assert int(response.headers["Content-Length"]) == len(body)
    assert body.startswith(b"# HELP azure_vmss_os_upgrade_up ")


async def test_metrics_come_compressed_where_that_is_accepted(site: Site):
    _, response, body = await site.get("/metrics", Accept_Encoding="gzip")
    assert response.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(body).startswith(b"# HELP azure_vmss_os_upgrade_up ")


async def test_head_gives_the_headers_alone(site: Site):
    async with site.client.head("/metrics") as response:
        assert response.status == 200
        assert int(response.headers["Content-Length"]) > 1000
        assert await response.read() == b""


async def test_a_scraper_that_goes_away_is_no_error(site: Site, caplog: pytest.LogCaptureFixture):
    many = [ScaleSet("s", "rg", f"api-{number}", 300.0) for number in range(20_000)]
    site.store.apply(difference([], many))  # more than sockets hold
    reader, writer = await asyncio.open_connection(*site.address)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: exporter\r\n\r\n")
    assert await reader.read(5) == b"HTTP/"
    writer.transport.abort()
    site.store.apply(difference(many, []))
    others = answered = 0
    async with asyncio.timeout(10):
        while answered == others:
            _, _, body = await site.get("/metrics")
            (count,) = re.findall(rb'http_requests_total\{code="\d+",path="/metrics"\} (\d+)', body) or [b"0"]
            others, answered = others + 1, int(count) + 1
    assert b'code="500"' not in body
    assert not caplog.records


async def test_probes_tell_healthy_and_ready_apart(site: Site):
    assert (await site.get("/-/healthy"))[0] == 200
    assert (await site.get("/-/ready"))[0] == 503
    site.status.ready = True
    assert (await site.get("/-/ready"))[0] == 200
    site.status.healthy = False
    status, _, body = await site.get("/-/healthy")
    assert (status, body) == (503, b"Not healthy: the polling clock has stopped, no scale set is polled\n")


async def test_the_configuration_in_force_is_shown(site: Site):
    status, response, body = await site.get("/config")
    assert (status, response.content_type, body) == (200, "text/plain", b"cloud: public\n")


POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


async def test_the_status_page_shows_what_a_query_asks_for(site: Site):
    site.status.known = tuple(Snapshot(ScaleSet("s", "rg", name, 60.0), 60.0) for name in ("web", "api"))
    status, response, body = await site.get("/?q=we")
    assert (status, response.content_type, response.charset) == (200, "text/html", "utf-8")
    assert b">web<" in body
    assert b">api<" not in body
    assert b'<a href="./metrics">' in body


async def test_the_same_comes_as_json(site: Site):
    site.status.known = tuple(Snapshot(ScaleSet("s", "rg", name, 60.0), 60.0) for name in ("web", "api"))
    status, response, body = await site.get("/api/v1/scale-sets?q=we")
    assert (status, response.content_type) == (200, "application/json")
    assert [each["name"] for each in json.loads(body)["scale_sets"]] == ["web"]


@pytest.mark.parametrize("path", ["/", "/api/v1/scale-sets"])
async def test_a_discovery_that_fails_is_told_on_the_page_and_in_the_json(site: Site, path: str):
    site.status.discovered = (DiscoveryStatus("sub-1", failure=Reason.FORBIDDEN, failure_message="No role."),)
    status, _, body = await site.get(path)
    assert status == 200
    assert b"Discovery fails" in body
    assert b"No role." in body


@pytest.mark.parametrize("path", ["/", "/api/v1/scale-sets"])
async def test_the_page_comes_compressed_and_is_asked_for_anew(site: Site, path: str):
    _, response, body = await site.get(path, Accept_Encoding="gzip")
    assert response.headers["Content-Encoding"] == "gzip"
    assert response.headers["Cache-Control"] == "no-cache"
    assert gzip.decompress(body)


@pytest.mark.parametrize("path", ["/", "/api/v1/scale-sets"])
async def test_a_query_that_means_nothing_is_refused_with_the_reason(site: Site, path: str):
    status, response, body = await site.get(f"{path}?page=0")
    assert (status, response.content_type, body) == (400, "text/plain", b"page must be a number from 1\n")


@pytest.mark.parametrize("query", ["?q=%ff%00", "?q=%ed%a0%80", "?q=a&q=b", "?subscription=%F0%9F%98%80"])
async def test_any_query_string_is_an_answer(site: Site, query: str):
    for path in ("/", "/api/v1/scale-sets"):
        assert (await site.get(path + query))[0] == 200


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("?stat=Faulted", '"stat"'),
        ("?q=a&utm_source=mail", '"utm_source"'),
        ("?=&&;", '""'),
        ("?Q=a", '"Q"'),
        ("?%00=a", '"\\u0000"'),
    ],
)
async def test_a_parameter_that_the_api_does_not_know_is_refused_and_one_of_a_link_to_the_page_is_not(
    site: Site, query: str, name: str
):
    status, response, body = await site.get(f"/api/v1/scale-sets{query}")
    expected = f"{name} is not a parameter, use q, state, subscription, resource_group, polls, sort, page\n"
    assert (status, response.content_type, body.decode()) == (400, "text/plain", expected)
    assert (await site.get(f"/{query}"))[0] == 200


@pytest.mark.parametrize("path", ["/", "/?page=0", "/api/v1/scale-sets"])
async def test_a_browser_is_told_to_load_and_run_nothing_else(site: Site, path: str):
    _, response, _ = await site.get(path)
    headers = response.headers
    assert headers["Content-Security-Policy"] == POLICY
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"


async def test_what_the_page_refers_to_is_served_and_kept_for_ever(site: Site):
    page = (await site.get("/"))[2].decode()
    addresses = re.findall('"(static/[^"]+)"', page)
    types = []
    for address in addresses:
        status, response, body = await site.get(f"/{address}")
        assert (status, bool(body)) == (200, True)
        assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        types.append(response.content_type)
    assert types == ["image/svg+xml", "text/css", "text/javascript"]
    assert (await site.get("/static/status.css"))[0] == 404
    assert (await site.get("/static/..%2fstatus.html"))[0] == 404


async def test_where_the_metrics_have_the_root_there_is_no_page_but_its_json():
    server = Server(application(Exposition(Store(), Telemetry()), Telemetry(), Status(), "/"))
    (address,) = await server.start([Address("127.0.0.1", 0)])
    async with aiohttp.ClientSession(f"http://{address}") as client:
        async with client.get("/") as response:
            assert response.content_type == "text/plain"
        async with client.get("/api/v1/scale-sets") as response:
            assert response.content_type == "application/json"
    await server.stop()


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_reload_is_asked_for_by_post_or_put(site: Site, method: str):
    async with site.client.request(method, "/-/reload") as response:
        assert (response.status, await response.text()) == (200, "Reloaded\n")
    assert site.status.reloads == 1


async def test_a_reload_that_fails_says_why(site: Site):
    site.status.faults = "config.yaml:2: polling.pace: is not known"
    async with site.client.post("/-/reload") as response:
        assert response.status == 500
        assert await response.text() == (
            "The configuration in force stays:\nconfig.yaml:2: polling.pace: is not known\n"
        )


async def test_a_reload_is_refused_where_it_is_not_enabled():
    status = Status()
    server = Server(application(Exposition(Store(), Telemetry()), Telemetry(), status, "/metrics"))
    (address,) = await server.start([Address("127.0.0.1", 0)])
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"http://{address}/-/reload") as response,
    ):
        assert response.status == 403
        assert "--web.enable-lifecycle" in await response.text()
    await server.stop()
    assert status.reloads == 0


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nope", 404), ("POST", "/metrics", 405), ("GET", "/-/reload", 405)],
)
async def test_what_is_not_served_is_refused(site: Site, method: str, path: str, status: int):
    async with site.client.request(method, path) as response:
        assert response.status == status


async def test_requests_are_counted_by_path_and_unknown_paths_as_one(site: Site):
    for path in ("/-/healthy", "/-/ready", "/a", "/b"):
        await site.get(path)
    body = (await site.get("/metrics"))[2].decode()
    counts = [
        line for line in body.splitlines() if line.startswith("vmss_upgrade_exporter_http_requests_total")
    ]
    assert counts == [
        'vmss_upgrade_exporter_http_requests_total{code="200",path="/-/healthy"} 1.0',
        'vmss_upgrade_exporter_http_requests_total{code="503",path="/-/ready"} 1.0',
        'vmss_upgrade_exporter_http_requests_total{code="404",path="other"} 2.0',
    ]


@pytest.mark.parametrize(
    ("path", "password", "status"),
    [
        ("/metrics", "", 401),
        ("/metrics", "wrong", 401),
        ("/metrics", "wonderland", 200),
        ("/config", "", 401),
        ("/nope", "", 401),
        ("/nope", "wonderland", 404),
        ("/-/healthy", "", 401),
        ("/-/ready", "", 503),
        ("//-/ready", "", 401),
        ("/-/ready/", "", 401),
        ("/%2D/ready", "", 503),
    ],
)
async def test_who_may_not_come_in_is_asked_for_a_password_and_every_answer_bears_the_headers(
    tmp_path: Path, path: str, password: str, status: int
):
    file = tmp_path / "web.yaml"
    file.write_text(
        f"basic_auth_users: {{alice: {hashed(b'wonderland')}}}\nauth_excluded_paths: [/-/ready]\n"
        "http_server_config: {headers: {X-Frame-Options: deny}}\n"
    )
    telemetry = Telemetry()
    server = Server(application(Exposition(Store(), telemetry), telemetry, Status(), "/metrics"), Gate(file))
    (address,) = await server.start([Address("127.0.0.1", 0)])
    headers = {"Authorization": header("alice", password)} if password else {}
    url = URL(f"http://{address}{path}", encoded=True)
    async with aiohttp.ClientSession() as client, client.get(url, headers=headers) as response:
        assert response.status == status
        assert response.headers["X-Frame-Options"] == "deny"
        assert ("WWW-Authenticate" in response.headers) == (status == 401)
    await server.stop()


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ([], Format.TEXT),
        (["*/*"], Format.TEXT),
        (["text/plain"], Format.TEXT),
        (["text/html, */*;q=0.8"], Format.TEXT),
        (["application/openmetrics-text"], Format.OPENMETRICS),
        (["application/openmetrics-text; version=1.0.0; charset=utf-8"], Format.OPENMETRICS),
        (["application/openmetrics-text;version=0.0.1"], Format.TEXT),
        (["application/openmetrics-text;version=2.0.0"], Format.TEXT),
        (["application/openmetrics-text;q=0"], Format.TEXT),
        (["application/openmetrics-text;q=0.4, text/plain;q=0.5"], Format.TEXT),
        (["text/plain", "application/openmetrics-text"], Format.OPENMETRICS),
        (["APPLICATION/OpenMetrics-Text"], Format.OPENMETRICS),
        (
            [  # Prometheus 2.42
                (
                    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
                    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
                )
            ],
            Format.OPENMETRICS,
        ),
        (
            [  # Prometheus 3
                (
                    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
                    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
                    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
                )
            ],
            Format.OPENMETRICS,
        ),
    ],
)
def test_accept_chooses_the_format(accept: list[str], expected: Format):
    assert negotiate(accept) is expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ([], False),
        (["identity"], False),
        (["gzip"], True),
        (["GZIP"], True),
        (["deflate, gzip;q=0.5"], True),
        (["deflate", "gzip"], True),
        (["gzip;q=0"], False),
        (["gzip;q=0, *"], False),
        (["*"], True),
        (["gzip;q=much"], False),
    ],
)
def test_accept_encoding_allows_gzip(header: list[str], expected: bool):
    assert accepts_gzip(header) is expected


@given(st.lists(st.text(), max_size=3))
def test_any_header_is_an_answer(headers: list[str]):
    assert negotiate(headers) in Format
    assert accepts_gzip(headers) in {True, False}


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([1, 2], [3]),
        ([CHUNK_BYTES, 1], [CHUNK_BYTES, 1]),
        ([CHUNK_BYTES - 1, 1, 7], [CHUNK_BYTES, 7]),
        ([CHUNK_BYTES - 1, 5, 7], [CHUNK_BYTES - 1, 12]),
        ([3, CHUNK_BYTES + 5, 7], [3, CHUNK_BYTES, 5, 7]),
        ([2 * CHUNK_BYTES], [CHUNK_BYTES, CHUNK_BYTES]),
    ],
)
def test_small_pieces_are_written_together_and_large_ones_in_parts(sizes: list[int], expected: list[int]):
    pieces = [bytes([number]) * size for number, size in enumerate(sizes)]
    assert [len(chunk) for chunk in chunks(pieces)] == expected
    assert b"".join(chunks(pieces)) == b"".join(pieces)


async def test_a_server_listens_on_several_addresses_ipv6_too():
    server = Server(application(Exposition(Store(), Telemetry()), Telemetry(), Status(), "/metrics"))
    addresses = await server.start([Address("127.0.0.1", 0), Address("::1", 0)])
    async with aiohttp.ClientSession() as client:
        for address in addresses:
            async with client.get(f"http://{address}/-/healthy") as response:
                assert response.status == 200
    await server.stop()
    assert addresses[1].startswith("[::1]:")


async def test_an_address_in_use_is_named():
    server = Server(application(Exposition(Store(), Telemetry()), Telemetry(), Status(), "/metrics"))
    (address,) = await server.start([Address("127.0.0.1", 0)])
    other = Server(application(Exposition(Store(), Telemetry()), Telemetry(), Status(), "/metrics"))
    with pytest.raises(OSError, match=f"cannot listen on {address}: .*in use"):
        await other.start([parse_address(address)])
    await other.stop()
    await server.stop()
