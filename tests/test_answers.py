"""Every answer passes the same place, whatever is asked: over raw sockets, as no client library would ask."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.address import Address, parse_address
from exporter.exposition import Exposition
from exporter.gate import Gate
from exporter.snapshot import Snapshot
from exporter.status import Past
from exporter.store import Store
from exporter.telemetry import Telemetry
from exporter.web import Server, application, is_cross_site
from tests import test_connections
from tests.certificates import Authority
from tests.test_basic_auth import hashed
from tests.test_connections import trusting
from tests.test_gate import WITH_CLIENTS, write

HEADERS = "http_server_config: {headers: {X-Frame-Options: deny, Strict-Transport-Security: max-age=1}}\n"
USERS = f"basic_auth_users: {{alice: {hashed(b'wonderland')}}}\n"
PATIENCE_SECONDS = 20.0


class Status(test_connections.Status):
    """The daemon's status; reading the past raises an error."""

    reloads = 0

    async def reload(self) -> str:
        self.reloads += 1
        return ""

    def past(self) -> AbstractContextManager[Past]:
        raise RuntimeError("a defect")

    def snapshots(self) -> tuple[Snapshot, ...]:
        return ()


@asynccontextmanager
async def serving(file: Path | None = None) -> AsyncIterator[tuple[Address, Telemetry, Status]]:
    telemetry, status = Telemetry(), Status()
    app = application(Exposition(Store(), telemetry), telemetry, status, "/metrics", enable_lifecycle=True)
    server = Server(app, Gate(file))
    (address,) = await server.start([Address("127.0.0.1", 0)])
    try:
        yield parse_address(address), telemetry, status
    finally:
        await server.stop()


async def exchange(address: Address, sent: bytes) -> bytes:
    """Send bytes, end the sending, as ``nc -N`` does, and return all that comes back."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(sent)
    writer.write_eof()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await reader.read()
    finally:
        writer.close()


def head(answer: bytes) -> tuple[int, dict[str, str]]:
    """Return the status and the headers of the first answer."""
    status, *lines = answer.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    match = re.fullmatch(r"HTTP/1\.[01] (\d{3}) [A-Za-z -]+", status)
    assert match is not None, answer
    return int(match[1]), dict(line.split(": ", 1) for line in lines)


def counts(telemetry: Telemetry) -> dict[tuple[str, str], float]:
    """Return how many requests were counted, by path and code."""
    return {
        (sample.labels["path"], sample.labels["code"]): sample.value
        for family in telemetry.http_requests.collect()
        for sample in family.samples
    }


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join((f"{line} HTTP/1.1", "Host: localhost", *headers, "", "")).encode() + body


UNREADABLE = {
    "no HTTP": b"<script>alert(1)</script>\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"<script>" * 20,
    "no host": b"GET /metrics HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "no such version": b"GET /metrics HTTP/3.0\r\nHost: localhost\r\n\r\n",
    "HTTP/2 at once": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no such method": b"BREW /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a header without a name": b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n: <script>\r\n\r\n",
    "a control character": b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: a\x00<script>\r\n\r\n",
    "two lengths": b"POST /-/reload HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a negative length": b"POST /-/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    "length and chunks": (
        b"POST /-/reload HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
}
READABLE: Mapping[str, tuple[bytes, str, int]] = {
    "a good one": (request("GET /-/healthy"), "/-/healthy", 200),
    "HTTP/1.0": (b"GET /-/healthy HTTP/1.0\r\n\r\n", "/-/healthy", 200),
    "HTTP/0.9": (b"GET /-/healthy\r\n\r\n", "other", 505),
    "HTTP/2.0": (b"GET /-/healthy HTTP/2.0\r\nHost: localhost\r\n\r\n", "other", 505),
    "an absolute URL": (request("GET http://localhost/-/healthy"), "/-/healthy", 200),
    "the head alone": (request("HEAD /-/healthy"), "/-/healthy", 200),
    "not ready": (request("GET /-/ready?x"), "/-/ready", 200),
    "no such path": (request("GET /<script>"), "other", 404),
    "no such path, the head alone": (request("HEAD /nope"), "other", 404),
    "no such asset": (request("GET /static/nope"), "/static/{name}", 404),
    "another method": (request("DELETE /metrics"), "/metrics", 405),
    "options": (request("OPTIONS /metrics"), "/metrics", 405),
    "options of all": (request("OPTIONS *"), "other", 404),
    "trace": (request("TRACE /-/healthy"), "/-/healthy", 405),
    "a tunnel": (request("CONNECT example.com:443"), "other", 404),
    "a web socket": (
        request("GET /-/healthy", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
        "/-/healthy",
        200,
    ),
    "HTTP/2": (
        request("GET /-/healthy", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: "),
        "/-/healthy",
        200,
    ),
    "a body to come": (
        request("POST /-/reload", "Content-Length: 5", "Expect: 100-continue"),
        "/-/reload",
        200,
    ),
    "another expectation": (request("GET /-/healthy", "Expect: a miracle"), "/-/healthy", 200),
    "a body": (request("POST /-/reload", "Content-Length: 5", body=b"hello"), "/-/reload", 200),
    "a body that is too large": (request("POST /-/reload", "Content-Length: 70000"), "/-/reload", 413),
    "chunks": (
        request("POST /-/reload", "Transfer-Encoding: chunked", body=b"2\r\nab\r\n0\r\n\r\n"),
        "/-/reload",
        200,
    ),
    "another site": (request("POST /-/reload", "Origin: http://evil.example"), "/-/reload", 403),
    "a defect": (request("GET /"), "/", 500),
}
CASES = {name: (sent, "other", 400) for name, sent in UNREADABLE.items()} | dict(READABLE)


@pytest.mark.parametrize("name", CASES)
async def test_every_answer_has_the_headers_and_is_counted(tmp_path: Path, name: str):
    sent, path, code = CASES[name]
    async with serving(write(tmp_path, HEADERS)) as (address, telemetry, _):
        answer = await exchange(address, sent)
        assert counts(telemetry) == {(path, str(code)): 1.0}
    status, headers = head(answer)
    assert status == code
    assert headers["X-Frame-Options"] == "deny"
    assert headers["Strict-Transport-Security"] == "max-age=1"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Server" not in headers
    assert b"aiohttp" not in answer
    assert b"script>" not in answer
    assert b"Traceback" not in answer
    assert b"100 Continue" not in answer
    if sent.startswith(b"HEAD"):
        assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("name", CASES)
async def test_without_a_password_every_answer_is_a_refusal(tmp_path: Path, name: str):
    sent, path, _ = CASES[name]
    async with serving(write(tmp_path, HEADERS + USERS)) as (address, telemetry, daemon):
        status, headers = head(await exchange(address, sent))
        assert counts(telemetry) == {(path, "401"): 1.0}
        assert daemon.reloads == 0
    assert status == 401
    assert headers["WWW-Authenticate"] == 'Basic realm="vmss-upgrade-exporter", charset="UTF-8"'
    assert headers["X-Frame-Options"] == "deny"
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("name", ["no HTTP", "no such path"])
async def test_without_a_client_certificate_what_cannot_be_parsed_is_refused_like_the_rest(
    tmp_path: Path, name: str
):
    Authority(tmp_path).issue("server")
    file = write(tmp_path, f"{WITH_CLIENTS}auth_excluded_paths: [/-/healthy]\n")
    async with serving(file) as (address, telemetry, _):
        reader, writer = await asyncio.open_connection(
            address.host, address.port, ssl=trusting(tmp_path), server_hostname="127.0.0.1"
        )
        writer.write(CASES[name][0])
        assert b" 403 Forbidden\r\n" in await reader.readuntil(b"\r\n")
        writer.transport.abort()
        assert counts(telemetry) == {("other", "403"): 1.0}


async def test_a_client_that_ends_its_sending_gets_its_answers():
    """aiohttp would close the connection at once: https://github.com/aio-libs/aiohttp/issues/3659."""
    async with serving() as (address, _, _):
        answer = await exchange(address, request("GET /-/healthy") * 3)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert answer.endswith(b"Healthy\n")


@pytest.mark.parametrize("sent", [b"", b"GET /-/heal", request("GET /-/healthy") + b"GET /-/heal"])
async def test_a_client_that_ends_its_sending_before_the_end_of_a_request_is_not_waited_for(sent: bytes):
    async with serving() as (address, telemetry, _):
        answer = await exchange(address, sent)
        assert sum(counts(telemetry).values()) == answer.count(b"HTTP/1.1 200 OK\r\n") == sent.count(b"Host")


async def test_an_answer_that_is_long_comes_whole_although_the_client_ended_its_sending():
    store, telemetry = Store(), Telemetry()
    server = Server(application(test_connections.Large(store, telemetry), telemetry, Status(), "/metrics"))
    (address,) = await server.start([Address("127.0.0.1", 0)])
    answer = await exchange(parse_address(address), request("GET /metrics"))
    await server.stop()
    status, headers = head(answer)
    assert status == 200
    assert len(answer.partition(b"\r\n\r\n")[2]) == int(headers["Content-Length"])


async def test_requests_that_come_by_the_thousand_are_each_answered_and_counted():
    async with serving() as (address, telemetry, _):
        answer = await exchange(address, request("GET /-/healthy") * 1_000)
        assert counts(telemetry) == {("/-/healthy", "200"): 1_000.0}
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 1_000


@pytest.mark.parametrize("chunks", [b"zz\r\n", b"5\r\nab", b"2\r\nabcd\r\n", b"2\r\nab\r\n0\r\n:\r\n\r\n"])
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_body_in_broken_chunks_leaves_no_word_in_the_log(
    chunks: bytes, caplog: pytest.LogCaptureFixture, *, at_once: bool
):
    begun = request("POST /-/reload", "Transfer-Encoding: chunked")
    async with serving() as (address, _, _):
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(begun + chunks if at_once else begun)
        assert await reader.readuntil(b"\r\n") in (b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 400 Bad Request\r\n")
        writer.write(b"" if at_once else chunks)
        async with asyncio.timeout(PATIENCE_SECONDS):
            with suppress(ConnectionError):
                await reader.read()
        writer.close()
    assert caplog.records == []


async def test_a_defect_is_told_with_its_traceback_once(caplog: pytest.LogCaptureFixture):
    async with serving() as (address, _, _):
        for _ in range(20):
            answer = await exchange(address, request("GET /api/v1/scale-sets", "Accept: text/html"))
    assert answer.endswith(b"A defect of the exporter, see its log\n")
    (record,) = caplog.records
    assert record.message == "defect in answering a request"
    assert record.fields == {"path": "/api/v1/scale-sets", "error": "RuntimeError: a defect"}  # type: ignore[attr-defined]
    assert record.exc_info is not None


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=50).map(lambda path: b"GET /" + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        st.binary(max_size=50).map(
            lambda name: b"GET / HTTP/1.1\r\nHost: localhost\r\n" + name + b"\r\n\r\n"
        ),
    )
)
def test_any_bytes_are_answered_or_not_but_never_a_defect(sent: bytes):
    async def ask() -> bytes:
        status = test_connections.Status()
        telemetry = Telemetry()
        server = Server(application(Exposition(Store(), telemetry), telemetry, status, "/metrics"))
        (address,) = await server.start([Address("127.0.0.1", 0)])
        try:
            return await exchange(parse_address(address), sent)
        finally:
            await server.stop()

    answer = asyncio.run(ask())
    assert not answer or head(answer)[0] in {200, 400, 404, 405, 505}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, False),
        ({"Host": "exporter:9847"}, False),
        ({"Host": "exporter:9847", "Origin": "http://exporter:9847"}, False),
        ({"Host": "Exporter:9847", "Origin": "http://exporter:9847"}, False),
        ({"Host": "exporter", "Origin": "http://exporter:80"}, False),
        ({"Host": "exporter", "Origin": "https://exporter"}, False),
        ({"Host": "[::1]:9847", "Origin": "http://[::1]:9847"}, False),
        ({"Host": "exporter:9847", "Origin": "http://exporter:9848"}, True),
        ({"Host": "exporter:9847", "Origin": "http://exporter"}, True),
        ({"Host": "exporter:9847", "Origin": "http://evil.example"}, True),
        ({"Host": "exporter:9847", "Origin": "http://exporter.evil.example:9847"}, True),
        ({"Host": "exporter:9847", "Origin": "null"}, True),
        ({"Host": "exporter:9847", "Origin": ""}, True),
        ({"Host": "exporter:9847", "Origin": "http://exporter:many"}, True),
        ({"Host": "exporter:9847", "Origin": "http://[exporter:9847"}, True),
        ({"Origin": "http://exporter:9847"}, True),
        ({"Host": "inside:9847", "Origin": "https://outside", "Sec-Fetch-Site": "same-origin"}, False),
        ({"Host": "exporter:9847", "Sec-Fetch-Site": "none"}, False),
        ({"Host": "exporter:9847", "Sec-Fetch-Site": "same-site"}, True),
        ({"Host": "exporter:9847", "Sec-Fetch-Site": "cross-site"}, True),
        ({"Host": "exporter:9847", "Origin": "http://exporter:9847", "Sec-Fetch-Site": "cross-site"}, True),
    ],
)
def test_what_a_page_of_another_origin_sends_is_told_from_the_rest(headers: dict[str, str], expected: bool):
    assert is_cross_site(headers) is expected


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_page_of_another_origin_does_not_reload(method: str):
    async with serving() as (address, _, status):
        for origin, reloads in (("http://evil.example", 0), (f"http://{address}", 1)):
            sent = f"{method} /-/reload HTTP/1.1\r\nHost: {address}\r\nOrigin: {origin}\r\n\r\n"
            await exchange(address, sent.encode())
            assert status.reloads == reloads
