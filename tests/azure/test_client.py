"""The client against real servers, most of them hostile: each answer has one meaning and none does harm.

The servers are scripted byte by byte, because most of what is tested here no HTTP library would send.
"""

import asyncio
import gzip
import json
import math
import socket
import struct
import time
import tracemalloc
import zlib
from base64 import b64encode, urlsafe_b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
import stamina
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from exporter import __version__
from exporter.azure.budget import GRAPH_SECONDS, LIST_SECONDS, Unmetered
from exporter.azure.client import ATTEMPTS, Answer, Client, demanded_claims, same_origin
from exporter.azure.clouds import Cloud
from exporter.azure.credential import Credential
from exporter.azure.errors import (
    BadRequest,
    Forbidden,
    Malformed,
    PollError,
    ServerError,
    Throttled,
    TimedOut,
    Unauthorized,
    Unreachable,
)
from exporter.redaction import remember
from exporter.scale_set import ScaleSet
from exporter.snapshot import Reason
from exporter.telemetry import Telemetry

SUBSCRIPTION = "6c1e0f6a-4f0b-4c52-9d6e-0a3f5b7c9d11"
WEB = ScaleSet(SUBSCRIPTION, "rg-web", "web", interval=300.0)
PATH = (
    f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg-web/providers/Microsoft.Compute"
    "/virtualMachineScaleSets/web/osUpgradeHistory"
)
MIB = 1024 * 1024
NOWHERE = ".".join(["azure"] * 50)
"""A host name too long for DNS, so that nobody needs to be asked for it."""

Act = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Reply = bytes | Act


# --- A server that sends what a test tells it to


@dataclass
class Request:
    target: str
    headers: dict[str, str]
    method: str = "GET"
    body: bytes = b""


@dataclass
class Server:
    """Answers the n-th request with the n-th reply; the last one repeats."""

    port: int = 0
    replies: list[Reply] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Some request has come."""
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """Some client has closed its connection."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def will(self, *replies: Reply) -> None:
        self.replies = list(replies)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
                raw = {name: line.split(": ", 1)[1] for name, line in zip(headers, head[1:], strict=False)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                method, target, _ = head[0].split(" ")
                self.requests.append(Request(target, raw, method, body))
                self.asked.set()
                reply = self.replies[min(len(self.requests), len(self.replies)) - 1]
                if isinstance(reply, bytes):
                    writer.write(reply)
                    await writer.drain()
                else:
                    await reply(reader, writer)
        except (asyncio.IncompleteReadError, OSError):
            self.closed.set()
        finally:
            writer.close()


@asynccontextmanager
async def listening() -> AsyncIterator[Server]:
    server, tasks = Server(), set[asyncio.Task[None]]()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(server.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def http(status: str, body: bytes | str | object = b"", **headers: str) -> bytes:
    """Write an answer; ``retry_after="5"`` becomes ``retry-after: 5``."""
    if not isinstance(body, bytes | str):
        body = json.dumps(body)
    content = body.encode() if isinstance(body, str) else body
    lines = {"content-length": str(len(content)), "x-ms-request-id": "req-1"}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + content


def ok(body: bytes | str | object, **headers: str) -> bytes:
    return http("200 OK", body, **headers)


def cut(sent: bytes) -> Act:
    """Send this, then close the connection."""

    async def act(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await writer.drain()
        raise OSError

    return act


def reset(sent: bytes = b"") -> Act:
    """Send this, then reset the connection (RST)."""

    async def act(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if sent:
            writer.write(sent)
            await writer.drain()
            await asyncio.sleep(0.02)  # or else the reset overtakes what was sent
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        raise OSError

    return act


def hang(sent: bytes = b"") -> Act:
    """Send this, then nothing more."""

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await reader.read()
        raise OSError

    return act


def drip(sent: bytes) -> Act:
    """Send this a byte at a time, for longer than anybody waits."""

    async def act(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in sent:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)

    return act


# --- A client that polls it


class Tokens(Credential):
    """Signs in nowhere: gives ``token-1``, and ``token-2`` once that is refused."""

    def __init__(self) -> None:
        remember("token-1", "token-2")
        self.first = "token-1"
        self.failed: PollError | None = None
        self.refused: list[tuple[str, str | None]] = []
        self.hangs = False
        self.hangs_when_refused = False

    @property
    def failure(self) -> PollError | None:
        return self.failed

    async def token(self) -> str:
        if self.hangs:
            await asyncio.Event().wait()
        return self.first

    async def fresh_token(self, refused: str, claims: str | None) -> str:
        self.refused.append((refused, claims))
        if self.hangs_when_refused:
            await asyncio.Event().wait()
        return "token-2"


@dataclass
class Metered:
    """Remembers what it is told."""

    spent: int = 0
    remaining: dict[str, int] = field(default_factory=dict)

    def spend(self) -> None:
        self.spent += 1

    def left(self, scope: str, requests: int) -> None:
        self.remaining[scope] = requests


@dataclass
class Azure:
    server: Server
    other: Server
    """Another host, which must never hear of us."""
    client: Client
    tokens: Tokens
    telemetry: Telemetry
    spent: list[int] = field(default_factory=list)
    """How many requests the server had seen at each call of ``spend``."""
    remaining: dict[str, int] = field(default_factory=dict)

    async def poll(self, scale_set: ScaleSet = WEB, timeout_seconds: float = 6.0) -> Answer:
        return await self.client.upgrade_history(scale_set, timeout_seconds, self)

    def spend(self) -> None:
        self.spent.append(len(self.server.requests))

    def left(self, scope: str, requests: int) -> None:
        self.remaining[scope] = requests

    async def ask(self, what: str, timeout_seconds: float = 6.0) -> Answer:
        match what:
            case "list":
                return await self.client.scale_sets(SUBSCRIPTION, timeout_seconds, self)
            case "graph":
                return await self.client.graph(SUBSCRIPTION, "resources", timeout_seconds, self)
        return await self.poll(timeout_seconds=timeout_seconds)

    async def failure(self, timeout_seconds: float = 6.0, what: str = "history") -> PollError:
        with pytest.raises(PollError) as caught:
            await self.ask(what, timeout_seconds)
        text = str(caught.value)
        assert text.splitlines() == [text]
        assert len(text) < 1000
        return caught.value

    def counted(self, name: str, **labels: str) -> float | None:
        return self.telemetry.registry.get_sample_value(
            f"vmss_upgrade_exporter_{name}", {"subscription_id": SUBSCRIPTION, **labels}
        )


def cloud_at(endpoint: str) -> Cloud:
    return Cloud("custom", endpoint, endpoint, endpoint)


@pytest.fixture
async def azure() -> AsyncIterator[Azure]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(listening())
        other = await stack.enter_async_context(listening())
        other.will(ok({"value": []}))
        telemetry, tokens = Telemetry(), Tokens()
        client = Client(cloud_at(server.url), tokens, telemetry, connections=8)
        client.search_with(math.inf)
        stack.push_async_callback(client.close)
        yield Azure(server, other, client, tokens, telemetry)


@pytest.fixture(autouse=True)
def no_waits() -> Iterator[None]:
    """Retry at once, as often as ever."""
    with stamina.set_testing(True, attempts=ATTEMPTS, cap=True):
        yield


# --- Good answers


async def test_a_history_is_asked_for_as_azure_documents_it(azure: Azure) -> None:
    azure.server.will(ok({"value": [{"a": 1}]}))
    answer = await azure.poll()
    assert answer.pages == ({"value": [{"a": 1}]},)
    assert (answer.request_id, answer.excerpt, answer.unchanged) == ("req-1", '{"value": [{"a": 1}]}', False)
    (request,) = azure.server.requests
    assert request.target == f"{PATH}?api-version=2025-04-01"
    assert request.headers["authorization"] == "Bearer token-1"
    assert request.headers["user-agent"] == f"vmss-upgrade-exporter/{__version__}"
    assert request.headers["accept"] == "application/json"
    assert azure.spent == []
    assert azure.counted("azure_requests_total", status="200") == 1


async def test_the_answer_that_is_known_is_known_again_and_another_is_not(azure: Azure) -> None:
    azure.server.will(ok({"value": [1]}), ok({"value": [1]}), ok({"value": [2]}))
    first = await azure.poll()
    again = await azure.client.upgrade_history(WEB, 6.0, Unmetered(), first.digest)
    assert (again.unchanged, again.pages, again.digest) == (True, (), first.digest)
    other = await azure.client.upgrade_history(WEB, 6.0, Unmetered(), first.digest)
    assert (other.unchanged, other.pages) == (False, ({"value": [2]},))


async def test_a_further_page_is_read_although_the_same_bytes_are_known(azure: Azure) -> None:
    """The empty page of a history that was empty may come again as the last page of one that is not."""
    link = f"{azure.server.url}/next"
    azure.server.will(ok({"value": []}), ok({"value": [1], "nextLink": link}), ok({"value": []}))
    known = (await azure.poll()).digest
    answer = await azure.client.upgrade_history(WEB, 6.0, Unmetered(), known)
    assert (answer.pages, answer.unchanged) == (({"value": [1], "nextLink": link}, {"value": []}), False)


async def test_an_answer_in_several_pages_is_never_taken_as_known(azure: Azure) -> None:
    azure.server.will(ok({"value": [1], "nextLink": f"{azure.server.url}/2"}), ok({"value": [2]}))
    assert (await azure.poll()).digest == b""


@pytest.mark.parametrize(
    ("resource_group", "name", "path"),
    [
        ("RG-Web", "Web_1", "RG-Web/@/Web_1"),
        ("rg (old)", "web.1-a", "rg%20(old)/@/web.1-a"),
        ("100%", "50%25", "100%25/@/50%2525"),
        ("it's", 'so"called"', "it%27s/@/so%22called%22"),
        ("größe", "网", "gr%C3%B6%C3%9Fe/@/%E7%BD%91"),
        ("a?b#c", "d&e=f+g", "a%3Fb%23c/@/d%26e%3Df%2Bg"),
    ],
)
async def test_names_are_quoted_and_keep_their_spelling(
    azure: Azure, resource_group: str, name: str, path: str
) -> None:
    azure.server.will(ok({"value": []}))
    await azure.poll(ScaleSet(SUBSCRIPTION, resource_group, name, interval=300.0))
    expected = path.replace("@", "providers/Microsoft.Compute/virtualMachineScaleSets")
    assert [request.target for request in azure.server.requests] == [
        f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{expected}/osUpgradeHistory?api-version=2025-04-01"
    ]


async def test_a_path_of_the_endpoint_is_kept() -> None:
    async with listening() as server:
        server.will(ok({"value": []}))
        client = Client(cloud_at(f"{server.url}/arm"), Tokens(), Telemetry(), connections=1)
        await client.upgrade_history(WEB, 6.0, Unmetered())
        await client.close()
        assert server.requests[0].target == f"/arm{PATH}?api-version=2025-04-01"


@pytest.mark.parametrize(
    ("body", "headers", "document"),
    [
        pytest.param(b'\xef\xbb\xbf{"value": []}', {}, {"value": []}, id="byte order mark"),
        pytest.param(gzip.compress(b'{"value": []}'), {"content_encoding": "gzip"}, {"value": []}, id="gzip"),
        pytest.param(
            zlib.compress(b'{"value": []}'), {"content_encoding": "deflate"}, {"value": []}, id="deflate"
        ),
        pytest.param(b'{"value": []}', {"content_type": "text/html"}, {"value": []}, id="a wrong type"),
        pytest.param(b'{"value": []}', {"content_encoding": "x"}, {"value": []}, id="no such encoding"),
        pytest.param(b'{"value": "\xc3\xa9\\ud800"}', {}, {"value": "\xe9\ud800"}, id="half a surrogate"),
        pytest.param(b'{"n": %s}' % (b"9" * 20), {}, {"n": 10**20 - 1}, id="a large integer"),
        pytest.param(b'{"n": %s}' % (b"9" * 21), {}, {"n": float("inf")}, id="a huge integer"),
        pytest.param(b'{"n": 1e999}', {}, {"n": float("inf")}, id="a huge float"),
        pytest.param(b"null", {}, None, id="null"),
        pytest.param(b"[]", {}, [], id="a list"),
        pytest.param(b'{"nextLink": null}', {}, {"nextLink": None}, id="a null nextLink"),
    ],
)
async def test_whatever_is_json_is_handed_on(
    azure: Azure, body: bytes, headers: dict[str, str], document: object
) -> None:
    azure.server.will(ok(body, **headers))
    assert (await azure.poll()).pages == (document,)


async def test_the_excerpt_is_256_characters_whatever_their_bytes(azure: Azure) -> None:
    azure.server.will(ok(f'"{"é" * 300}"'.encode()))
    assert (await azure.poll()).excerpt == '"' + "é" * 255


# --- Pages


async def test_pages_are_followed_to_the_last(azure: Azure) -> None:
    link = f"{azure.server.url}{PATH}?api-version=2025-04-01&$skiptoken=a%2Fb%3D%3D"
    azure.server.will(
        ok({"value": [1], "nextLink": link}),
        ok({"value": [2], "nextLink": f"{azure.server.url}/elsewhere"}, x_ms_request_id="req-2"),
        ok({"value": [3]}, x_ms_request_id="req-3"),
    )
    answer = await azure.poll()
    assert [page["value"] for page in answer.pages if isinstance(page, dict)] == [[1], [2], [3]]
    assert (answer.request_id, answer.excerpt) == ("req-3", '{"value": [3]}')
    assert [request.target for request in azure.server.requests] == [
        f"{PATH}?api-version=2025-04-01",
        f"{PATH}?api-version=2025-04-01&$skiptoken=a%2Fb%3D%3D",
        "/elsewhere",
    ]
    assert {request.headers["authorization"] for request in azure.server.requests} == {"Bearer token-1"}
    assert azure.spent == [1, 2]


@pytest.mark.parametrize("link", [None, ""])
async def test_a_page_without_a_next_one_is_the_last(azure: Azure, link: str | None) -> None:
    azure.server.will(ok({"value": [], "nextLink": link}))
    assert len((await azure.poll()).pages) == 1


async def test_a_number_of_more_digits_than_python_takes_spoils_nothing_else(azure: Azure) -> None:
    azure.server.will(ok('{"value": [{"a": ' + "9" * 5000 + ', "b": 1}]}'))
    assert (await azure.poll()).pages == ({"value": [{"a": math.inf, "b": 1}]},)


async def test_a_hundred_pages_are_followed(azure: Azure) -> None:
    more = ok({"value": [], "nextLink": f"{azure.server.url}/next"})
    azure.server.will(*[more] * 99, ok({"value": []}))
    assert len((await azure.poll()).pages) == 100
    assert len(azure.server.requests) == 100


async def test_endless_pages_are_malformed_after_the_hundredth(azure: Azure) -> None:
    azure.server.will(ok({"value": [], "nextLink": f"{azure.server.url}/next"}))
    failure = await azure.failure()
    assert (type(failure), str(failure)) == (Malformed, "more than 100 pages")
    assert failure.request_id == "req-1"
    assert failure.excerpt.startswith('{"value": [], "nextLink"')
    assert len(azure.server.requests) == 100
    assert len(azure.spent) == 99


@pytest.mark.parametrize(
    "link",
    [
        pytest.param("http://127.0.0.1:OTHER/", id="another port"),
        pytest.param("http://localhost:PORT/", id="another host"),
        pytest.param("http://127.0.0.2:PORT/", id="another address"),
        pytest.param("https://127.0.0.1:PORT/", id="another scheme"),
        pytest.param("file:///etc/passwd", id="a file"),
        pytest.param("http://user@127.0.0.1:PORT/", id="a user"),
        pytest.param("http://user:password@127.0.0.1:PORT/", id="a password"),
        pytest.param("http://127.0.0.1:PORT@127.0.0.1:OTHER/", id="our host for a user"),
        pytest.param("http://127.0.0.1:PORT.evil.example/", id="our host for a prefix"),
        pytest.param("http://127.0.0.1:PORT\\@127.0.0.1:OTHER/", id="a backslash"),
        pytest.param("http:\\\\127.0.0.1:PORT/", id="backslashes for slashes"),
        pytest.param("http://127.0.0.1:OTHER#@127.0.0.1:PORT/", id="our host in a fragment"),
        pytest.param("http://127.0.0.1:OTHER?@127.0.0.1:PORT/", id="our host in a query"),
        pytest.param("http://[::1]:PORT/", id="the other loopback"),
        pytest.param("http://127.0.0.1/", id="no port"),
        pytest.param("http://127.0.0.1:99999/", id="no such port"),
        pytest.param("//127.0.0.1:PORT/", id="no scheme"),
        pytest.param("/next", id="relative"),
        pytest.param("?$skiptoken=1", id="a query"),
        pytest.param("http://", id="no host"),
        pytest.param("http://[::1", id="half an address"),
        pytest.param("http://127.0.0.1:PORT/next HTTP/1.1\r\nX-Smuggled: 1\r\n\r\n", id="a line break"),
        pytest.param("http://127.0.0.1:PORT/a b", id="a space"),
        pytest.param("http://127.0.0.1:PORT/\x00", id="a control character"),
        pytest.param("http://127.0.0.1:PORT/\ud800", id="half a surrogate"),
        pytest.param(1, id="a number"),
        pytest.param(True, id="a boolean"),
        pytest.param(["http://127.0.0.1:PORT/"], id="a list"),
        pytest.param({}, id="an object"),
    ],
)
async def test_a_link_that_leads_elsewhere_is_malformed_and_not_followed(azure: Azure, link: object) -> None:
    """Half a history is no history, and the token is for one host only."""
    if isinstance(link, str):
        link = link.replace("PORT", str(azure.server.port)).replace("OTHER", str(azure.other.port))
    azure.server.will(ok({"value": [], "nextLink": link}))
    failure = await azure.failure()
    assert type(failure) is Malformed
    assert str(failure).startswith("nextLink leads elsewhere")
    assert failure.request_id == "req-1"
    assert failure.excerpt.startswith('{"value": [], "nextLink"')
    assert len(azure.server.requests) == 1
    assert azure.other.connections == 0


@pytest.mark.parametrize(
    ("link", "endpoint", "same"),
    [
        ("https://management.azure.com/x?y=1", "https://management.azure.com", True),
        ("https://management.azure.com:443/x", "https://management.azure.com", True),
        ("https://Management.Azure.com/x", "https://management.azure.com", True),
        ("HTTPS://management.azure.com/x", "https://management.azure.com", True),
        ("https://management.azure.com/x", "https://Management.azure.com", True),
        ("https://management.azure.com:444/x", "https://management.azure.com", False),
        ("http://management.azure.com/x", "https://management.azure.com", False),
        ("http://management.azure.com:443/x", "https://management.azure.com", False),
        ("https://management.azure.com.evil.example/x", "https://management.azure.com", False),
        ("https://evil.example/https://management.azure.com/", "https://management.azure.com", False),
        ("https://management.azure.com@evil.example/", "https://management.azure.com", False),
        ("https://evil.example\\.management.azure.com/", "https://management.azure.com", False),
        ("https://management.azure.com./x", "https://management.azure.com", False),
        ("https://management\u3002azure.com/x", "https://management.azure.com", False),
        ("http://[::1]:9/x", "http://[::1]:9", True),
    ],
)
def test_an_origin_is_scheme_host_and_port(link: str, endpoint: str, same: bool) -> None:
    assert (same_origin(link, URL(endpoint)) is not None) is same


PIECES = st.sampled_from(
    ["https", "http", "HTTPS", ":", "//", "/", "\\", "@", "#", "?", ".", "%2f", "%40", "[", "]", "::1", "443", ":443",
     "management.azure.com", "Management.Azure.COM", "evil.example", "user", "..", "\t", " ", "\u3002", "\uff20", "x"]
)  # fmt: skip
HOSTILE = st.lists(PIECES, max_size=10).map("".join)
ENDPOINT = URL("https://management.azure.com")


@given(HOSTILE | HOSTILE.map("https://management.azure.com{}".format) | st.text())
@settings(max_examples=500)
def test_whatever_a_link_says_it_leads_to_the_endpoint_or_nowhere(link: str) -> None:
    """Judged by the standard library, too: a link that two read differently must lead nowhere."""
    led = same_origin(link, ENDPOINT)
    if led is None:
        return
    assert str(led).startswith("https://management.azure.com/")
    assert (led.scheme, led.host, led.port, led.user) == ("https", "management.azure.com", 443, None)
    read = urlsplit(link)
    assert (read.scheme, read.hostname, read.port or 443) == ("https", "management.azure.com", 443)
    assert read.username is None


@given(st.text("abcXYZ019-_.~!$&'()*+,;=:@/%", max_size=40), st.text("abcXYZ019-_.~$&=%+/?", max_size=40))
def test_any_path_and_query_of_the_endpoint_is_followed_as_it_stands(path: str, query: str) -> None:
    led = same_origin(f"https://management.azure.com/{path}?{query}", ENDPOINT)
    assert led is not None
    assert led.raw_path == f"/{path}"
    assert led.raw_query_string == query


# --- What Azure says when it will not answer

WRAPPED = {"error": {"code": "SomeCode", "message": "Some\n message.", "details": []}}
UNWRAPPED = {"code": "OperationNotAllowed", "message": "Too many.", "details": [{"code": "TooManyRequests"}]}
SAID = "SomeCode: Some message."


def not_found(code: object) -> dict[str, object]:
    return {"error": {"code": code, "message": "It was not found."}}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (not_found("ResourceNotFound"), Reason.NOT_FOUND),
        (not_found("ResourceGroupNotFound"), Reason.NOT_FOUND),
        (not_found("SubscriptionNotFound"), Reason.BAD_REQUEST),
        (not_found("InvalidResourceType"), Reason.BAD_REQUEST),
        (not_found("NotFound"), Reason.BAD_REQUEST),
        (not_found(None), Reason.BAD_REQUEST),
        (not_found(["ResourceNotFound"]), Reason.BAD_REQUEST),
        ({"code": "ResourceNotFound", "message": "Not in the form of ARM."}, Reason.BAD_REQUEST),
        ({"error": "ResourceNotFound"}, Reason.BAD_REQUEST),
        ([not_found("ResourceNotFound")], Reason.BAD_REQUEST),
        (b"", Reason.BAD_REQUEST),
        (b"<html><body>404 Not Found: ResourceNotFound</body></html>", Reason.BAD_REQUEST),
        (b"[" * 50_000, Reason.BAD_REQUEST),
        (b'\xff{"error": {"code": "ResourceNotFound"}}', Reason.BAD_REQUEST),
    ],
    ids=lambda value: str(value)[:60] if not isinstance(value, Reason) else "",
)
async def test_only_resource_manager_says_that_a_scale_set_does_not_exist(
    azure: Azure, body: object, reason: Reason
) -> None:
    azure.server.will(http("404 Not Found", body))
    assert (await azure.failure()).reason is reason
    assert len(azure.server.requests) == 1


@pytest.mark.parametrize(
    ("reply", "kind", "reason", "text"),
    [
        (http("400 Bad Request", WRAPPED), BadRequest, "bad_request", f"HTTP 400 {SAID}"),
        (http("403 Forbidden", WRAPPED), Forbidden, "forbidden", f"HTTP 403 {SAID}"),
        (http("404 Not Found", WRAPPED), BadRequest, "bad_request", f"HTTP 404 {SAID}"),
        (http("405 Method Not Allowed"), BadRequest, "bad_request", "HTTP 405 Method Not Allowed"),
        (http("409 Conflict", WRAPPED), BadRequest, "bad_request", f"HTTP 409 {SAID}"),
        (http("410 Gone", b"gone"), BadRequest, "bad_request", "HTTP 410 Gone"),
        (http("429 Too Many Requests", WRAPPED), Throttled, "throttled", f"HTTP 429 {SAID}"),
        (http("429 X", UNWRAPPED), Throttled, "throttled", "HTTP 429 OperationNotAllowed: Too many."),
        (http("429 Too Many Requests"), Throttled, "throttled", "HTTP 429 Too Many Requests"),
        (http("201 Created", {"value": []}), Malformed, "malformed", "HTTP 201 Created"),
        (http("204 No Content"), Malformed, "malformed", "HTTP 204 No Content"),
        (http("304 Not Modified"), Malformed, "malformed", "HTTP 304 Not Modified"),
        (http("600 What", {"value": []}), Malformed, "malformed", "HTTP 600 What"),
        (http("403 \x1b[31mRed\x07"), Forbidden, "forbidden", "HTTP 403"),
    ],
    ids=lambda value: value.split(b"\r\n")[0].decode()[9:20] if isinstance(value, bytes) else "",
)
async def test_a_refusal_has_a_reason_and_is_not_asked_for_again(
    azure: Azure, reply: bytes, kind: type[PollError], reason: str, text: str
) -> None:
    azure.server.will(reply)
    failure = await azure.failure()
    assert (type(failure), failure.reason) == (kind, Reason(reason))
    assert str(failure).startswith(text)
    assert failure.request_id == "req-1"
    assert (len(azure.server.requests), azure.spent) == (1, [])
    assert azure.counted("azure_requests_total", status=text[5:8]) == 1
    assert azure.counted("azure_retries_total") is None


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (http("500 Internal Server Error", WRAPPED), f"HTTP 500 {SAID}"),
        (http("501 Not Implemented"), "HTTP 501 Not Implemented"),
        (
            http("502 Bad Gateway", "<html>\n<h1>502", content_type="text/html"),
            "HTTP 502 Bad Gateway",
        ),
        (http("503 Service Unavailable", WRAPPED, retry_after="1"), f"HTTP 503 {SAID}"),
        (http("504 Gateway Timeout"), "HTTP 504 Gateway Timeout"),
        (http("504 "), "HTTP 504"),
        (http("500 Oops", b"[" * 60_000), "HTTP 500 Oops"),
        (http("500 Oops", b'{"error": {"code": "' + b"x" * 100_000 + b'"}}'), "HTTP 500 Oops"),
        (cut(http("500 Oops", b"short", content_length="99")), "HTTP 500 Oops"),
        (reset(http("500 Oops", b"short", content_length="99")), "HTTP 500 Oops"),
        (http("500 Oops", b"no gzip", content_encoding="gzip"), "HTTP 500 Oops"),
    ],
)
async def test_a_server_error_is_asked_for_again_three_times_in_all(
    azure: Azure, reply: Reply, text: str
) -> None:
    azure.server.will(reply)
    failure = await azure.failure()
    assert (type(failure), failure.reason, str(failure)) == (ServerError, Reason.SERVER_ERROR, text)
    assert failure.request_id == "req-1"
    assert len(azure.server.requests) == 3
    assert azure.spent == [1, 2]
    assert azure.counted("azure_requests_total", status=text[5:8]) == 3
    assert azure.counted("azure_retries_total") == 2


async def test_an_error_whose_body_hangs_is_still_that_error(azure: Azure) -> None:
    azure.server.will(hang(http("403 Forbidden", b"short", content_length="99")))
    failure = await azure.failure(timeout_seconds=0.3)
    assert (type(failure), str(failure), len(azure.server.requests)) == (Forbidden, "HTTP 403 Forbidden", 1)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_malformed_and_never_followed(azure: Azure, status: int) -> None:
    for location in (f"{azure.other.url}/", "/next"):
        azure.server.will(http(f"{status} Elsewhere", location=location))
        failure = await azure.failure()
        assert (type(failure), failure.reason) == (Malformed, Reason.MALFORMED)
        assert str(failure) == f"HTTP {status} Elsewhere {location}"
    assert azure.other.connections == 0
    assert [request.target for request in azure.server.requests] == [f"{PATH}?api-version=2025-04-01"] * 2


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ({"retry_after": "1200"}, 1200),
        ({"retry_after": "5"}, 5),
        ({"retry_after": "99999"}, 3600),
        ({"retry_after": "0"}, 60),
        ({"retry_after": "-1"}, 60),
        ({"retry_after": "soon"}, 60),
        ({}, 60),
        ({"retry_after": format_datetime(datetime.now(UTC) + timedelta(days=2), usegmt=True)}, 3600),
        ({"retry_after": format_datetime(datetime.now(UTC) - timedelta(days=2), usegmt=True)}, 60),
    ],
    ids=["1200", "5", "99999", "0", "-1", "a word", "absent", "the day after tomorrow", "two days ago"],
)
async def test_throttling_says_for_how_long(azure: Azure, header: dict[str, str], seconds: float) -> None:
    azure.server.will(http("429 Too Many Requests", UNWRAPPED, **header))
    failure = await azure.failure()
    assert isinstance(failure, Throttled)
    assert failure.retry_after == seconds


async def test_throttling_may_name_a_date(azure: Azure) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=300), usegmt=True)
    azure.server.will(http("429 Too Many Requests", retry_after=date))
    failure = await azure.failure()
    assert isinstance(failure, Throttled)
    assert 290 < failure.retry_after <= 300


@pytest.mark.parametrize("days", [-400, 400], ids=["ahead of Azure's", "behind Azure's"])
async def test_a_date_until_which_azure_throttles_is_read_by_azures_clock_where_ours_is(
    azure: Azure, days: int
) -> None:
    azures = datetime.now(UTC) + timedelta(days=days)
    date, until = (format_datetime(at, usegmt=True) for at in (azures, azures + timedelta(seconds=300)))
    azure.server.will(http("429 Too Many Requests", date=date, retry_after=until))
    failure = await azure.failure()
    assert isinstance(failure, Throttled)
    assert failure.retry_after == 300


# --- Unauthorized

REFUSED = http("401 Unauthorized", {"error": {"code": "ExpiredAuthenticationToken", "message": "Late."}})


async def test_a_refused_token_is_replaced_once(azure: Azure) -> None:
    azure.server.will(REFUSED, ok({"value": []}))
    await azure.poll()
    assert azure.tokens.refused == [("token-1", None)]
    sent = [request.headers["authorization"] for request in azure.server.requests]
    assert sent == ["Bearer token-1", "Bearer token-2"]
    assert azure.spent == [1]


async def test_a_second_refusal_is_final(azure: Azure) -> None:
    azure.server.will(REFUSED)
    failure = await azure.failure()
    assert (type(failure), failure.reason) == (Unauthorized, Reason.UNAUTHORIZED)
    assert str(failure) == "HTTP 401 ExpiredAuthenticationToken: Late."
    assert failure.request_id == "req-1"
    assert (len(azure.server.requests), azure.spent) == (2, [1])
    assert azure.tokens.refused == [("token-1", None)]


CLAIMS = '{"access_token":{"nbf":{"essential":true,"value":"1726077595"},"x":"é?>"}}'


@pytest.mark.parametrize("encode", [b64encode, urlsafe_b64encode, lambda text: b64encode(text).rstrip(b"=")])
async def test_a_claims_challenge_is_passed_on(azure: Azure, encode: Callable[[bytes], bytes]) -> None:
    claims = encode(CLAIMS.encode()).decode()
    challenge = (
        f'Bearer realm="", authorization_uri="https://x", error="insufficient_claims", claims="{claims}"'
    )
    azure.server.will(
        http("401 Unauthorized", WRAPPED, WWW_Authenticate=challenge),
        ok({"value": []}),
    )
    await azure.poll()
    assert azure.tokens.refused == [("token-1", CLAIMS)]


async def test_a_claims_challenge_is_heard_among_others(azure: Azure) -> None:
    claims = b64encode(CLAIMS.encode()).decode()
    refusal = http("401 Unauthorized", www_authenticate="PoP nonce=x").replace(
        b"\r\n\r\n", f'\r\nwww-authenticate: Bearer claims="{claims}"\r\n\r\n'.encode(), 1
    )
    azure.server.will(refusal, ok({"value": []}))
    await azure.poll()
    assert azure.tokens.refused == [("token-1", CLAIMS)]


@pytest.mark.parametrize(
    "challenge",
    [
        None,
        "",
        "Bearer",
        'Bearer error="invalid_token"',
        'Bearer claims=""',
        'Bearer claims="%%%"',
        'Bearer claims="A"',
        'Bearer claims="/w=="',
        'Bearer noclaims="e30="',
        'Bearer claims="e30=',
    ],
)
def test_a_challenge_without_readable_claims_demands_none(challenge: str | None) -> None:
    assert demanded_claims(challenge) is None


async def test_each_page_may_have_its_token_refused(azure: Azure) -> None:
    """A token may expire between two pages."""
    azure.server.will(
        ok({"value": [], "nextLink": f"{azure.server.url}/next"}),
        REFUSED,
        ok({"value": []}),
    )
    assert len((await azure.poll()).pages) == 2
    assert azure.spent == [1, 2]


async def test_no_token_by_the_deadline_is_a_timeout(azure: Azure) -> None:
    azure.tokens.hangs = True
    failure = await azure.failure(timeout_seconds=0.1)
    assert (type(failure), str(failure)) == (TimedOut, "no token within 0.1 s")
    assert azure.server.connections == 0


async def test_no_token_by_the_deadline_has_the_reason_of_the_last_failed_sign_in(azure: Azure) -> None:
    azure.tokens.hangs = True
    azure.tokens.failed = Unreachable("no token: Cannot connect")
    failure = await azure.failure(timeout_seconds=0.1)
    assert (type(failure), str(failure)) == (Unreachable, "no token: Cannot connect")


async def test_no_fresh_token_by_the_deadline_has_the_reason_of_azures_refusal(azure: Azure) -> None:
    azure.server.will(REFUSED)
    azure.tokens.hangs_when_refused = True
    failure = await azure.failure(timeout_seconds=0.2)
    assert type(failure) is Unauthorized
    assert str(failure) == "HTTP 401 ExpiredAuthenticationToken: Late."


async def test_silence_after_a_fresh_token_is_a_timeout(azure: Azure) -> None:
    azure.server.will(REFUSED, hang())
    assert type(await azure.failure(timeout_seconds=0.3)) is TimedOut


# --- Bodies that are no history

HALF = http("200 OK", b'{"value": [', content_length="99")
BROKEN = [
    pytest.param(ok("<html>Sign in to the hotel's network</html>"), "not JSON", id="HTML"),
    pytest.param(ok(b""), "not JSON", id="nothing"),
    pytest.param(ok(b"  \r\n"), "not JSON", id="white space"),
    pytest.param(ok(b'{"value": [\xff\xfe]}'), "not JSON", id="bad UTF-8"),
    pytest.param(ok('{"value": []}'.encode("utf-16")), "not JSON", id="UTF-16"),
    pytest.param(ok(b'{"value": NaN}'), "not JSON: NaN", id="NaN"),
    pytest.param(ok(b'{"value": Infinity}'), "not JSON: Infinity", id="Infinity"),
    pytest.param(ok(b'{"value": -Infinity}'), "not JSON: -Infinity", id="-Infinity"),
    pytest.param(ok(b'{"value": ['), "not JSON", id="half a document"),
    pytest.param(ok(b'{"value": []} {}'), "not JSON", id="two documents"),
    pytest.param(ok(b"[" * 200_000), "not JSON", id="deep lists"),
    pytest.param(ok(b'{"a":' * 200_000), "not JSON", id="deep objects"),
    pytest.param(ok(b"\x00" * 100), "not JSON", id="zeros"),
    pytest.param(ok(b" " * 9 * MIB), "more than 8388608 bytes", id="9 MiB"),
    pytest.param(ok(b"no gzip", content_encoding="gzip"), "", id="no gzip"),
    pytest.param(ok(gzip.compress(b'{"value": []}')[:-12], content_encoding="gzip"), "", id="half a gzip"),
    pytest.param(ok(b"no deflate", content_encoding="deflate"), "", id="no deflate"),
    pytest.param(cut(HALF), "", id="cut short"),
    pytest.param(reset(HALF), "", id="reset in the body"),
    pytest.param(
        cut(
            http("200 OK", b'5\r\n{"val\r\n', transfer_encoding="chunked").replace(
                b"content-length: 10\r\n", b""
            )
        ),
        "",
        id="chunks cut short",
    ),
]


@pytest.mark.parametrize(("reply", "text"), BROKEN)
async def test_a_body_that_makes_no_sense_is_malformed_and_not_asked_for_again(
    azure: Azure, reply: Reply, text: str
) -> None:
    azure.server.will(reply)
    failure = await azure.failure()
    assert (type(failure), failure.reason) == (Malformed, Reason.MALFORMED)
    assert str(failure).startswith(text)
    assert failure.request_id == "req-1"
    assert (len(azure.server.requests), azure.spent) == (1, [])
    assert azure.counted("azure_requests_total", status="200") == 1


@pytest.mark.parametrize(
    ("reply", "excerpt"),
    [
        (ok("<html>" + "x" * 1000), "<html>" + "x" * 250),
        (ok(b"\xff\xfe" + b"x" * 1000), "\ufffd\ufffd" + "x" * 254),
        (ok(b" " * 9 * MIB), " " * 256),
        (cut(HALF), '{"value": ['),
        (reset(HALF), '{"value": ['),
        (http("301 Elsewhere", b"<html>moved"), "<html>moved"),
    ],
    ids=["HTML", "bad UTF-8", "9 MiB", "cut", "reset", "a redirect"],
)
async def test_a_malformed_answer_is_quoted(azure: Azure, reply: Reply, excerpt: str) -> None:
    azure.server.will(reply)
    failure = await azure.failure()
    assert (type(failure), failure.excerpt) == (Malformed, excerpt)


@pytest.mark.parametrize(
    "reply",
    [
        ok("<html>You asked with Authorization: Bearer token-1"),
        ok({"value": [], "nextLink": "https://elsewhere.example/?token-1"}),
        http("200 OK", "<html>", x_ms_request_id="token-1"),
        http("301 Elsewhere", b"token-1", location="https://elsewhere.example/?token-1"),
        http("400 token-1"),
        http("403 Forbidden", {"error": {"code": "A", "message": "not for token-1"}}),
    ],
    ids=["a page", "a link", "a request id", "a redirect", "a reason phrase", "an error"],
)
async def test_an_answer_that_quotes_the_token_is_shown_without_it(azure: Azure, reply: Reply) -> None:
    azure.server.will(reply)
    failure = await azure.failure()
    said = f"{failure} {failure.request_id} {failure.excerpt}"
    assert "***" in said
    assert "token-1" not in said


async def test_a_history_that_quotes_the_token_comes_without_it(azure: Azure) -> None:
    token = azure.tokens.first = "token-of-a-real-length"
    azure.server.will(ok({"value": [{"properties": {"error": {"message": f"Bearer {token}", token: 7}}}]}))
    answer = await azure.poll()
    assert answer.pages == ({"value": [{"properties": {"error": {"message": "Bearer ***", "***": 7}}}]},)


@pytest.mark.parametrize("token", ['"', "e", "value", "Completed", "2026-01-01T00"])
async def test_a_short_token_leaves_the_history_as_it_is(azure: Azure, token: str) -> None:
    azure.tokens.first = token
    history = {
        "value": [
            {"properties": {"runningStatus": {"code": "Completed", "startTime": "2026-01-01T00:00:00Z"}}}
        ]
    }
    azure.server.will(ok(history))
    assert (await azure.poll()).pages == (history,)


async def test_a_page_of_just_8_mib_is_read(azure: Azure) -> None:
    azure.server.will(ok(b'{"value": []}'.ljust(8 * MIB)))
    assert (await azure.poll()).pages == ({"value": []},)


async def test_a_page_of_one_byte_more_is_malformed(azure: Azure) -> None:
    azure.server.will(ok(b'{"value": []}'.ljust(8 * MIB + 1)))
    assert str(await azure.failure()) == "more than 8388608 bytes"


async def test_a_gzip_bomb_is_not_read_past_the_limit(azure: Azure) -> None:
    """Endless zeros: whoever read on would never come back."""
    sent = 0

    async def bomb(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\nx-ms-request-id: req-1\r\n\r\n")
        compressor = zlib.compressobj(wbits=31)
        while True:
            piece = compressor.compress(bytes(MIB)) + compressor.flush(zlib.Z_SYNC_FLUSH)
            writer.write(piece)
            sent += len(piece)
            await writer.drain()
            await asyncio.sleep(0)  # drain does not give way while there is room

    azure.server.will(bomb)
    failure = await azure.failure()
    assert (type(failure), str(failure)) == (Malformed, "more than 8388608 bytes")
    await asyncio.wait_for(azure.server.closed.wait(), 5)
    assert sent < 4 * MIB  # what the sockets in between hold


async def test_an_endless_body_is_not_read_past_the_limit(azure: Azure) -> None:
    sent = 0

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(bytes(MIB))
            sent += 1
            await writer.drain()

    azure.server.will(flood)
    failure = await azure.failure()
    assert (type(failure), str(failure)) == (Malformed, "more than 8388608 bytes")
    await asyncio.wait_for(azure.server.closed.wait(), 5)
    assert sent < 40


async def test_endless_text_of_an_error_is_not_read(azure: Azure) -> None:
    sent = 0

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
        while True:
            writer.write(bytes(64 * 1024))
            sent += 1
            await writer.drain()

    azure.server.will(flood)
    assert str(await azure.failure()) == "HTTP 403 Forbidden"
    await asyncio.wait_for(azure.server.closed.wait(), 5)
    assert sent < 16 * 16


# --- Answers that are no HTTP, and none at all


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        pytest.param(cut(b""), Unreachable, id="closed without a word"),
        pytest.param(reset(), Unreachable, id="reset without a word"),
        pytest.param(cut(b"SSH-2.0-OpenSSH_9.2\r\n"), Unreachable, id="another protocol"),
        pytest.param(cut(b"\x15\x03\x01\x00\x02\x02\x46"), Unreachable, id="TLS"),
        pytest.param(cut(b"<html>\r\n\r\n"), Unreachable, id="HTML and no more"),
        pytest.param(b"HTTP/1.1 abc OK\r\n\r\n", Unreachable, id="no number for a status"),
        pytest.param(b"HTTP/9.9 200 OK\r\n\r\n", Unreachable, id="no such HTTP"),
        pytest.param(b"ICY 200 OK\r\n\r\n", Unreachable, id="radio"),
        pytest.param(cut(b"HTTP/1."), Unreachable, id="cut in the status line"),
        pytest.param(reset(b"HTTP/1."), Unreachable, id="reset in the status line"),
        pytest.param(cut(b"x" * 100_000), Unreachable, id="an endless first line"),
        pytest.param(cut(b"HTTP/1.1 200 " + b"x" * 100_000), Malformed, id="an endless status line"),
        pytest.param(cut(b"HTTP/1.1 200 OK\r\n"), Malformed, id="cut after the status line"),
        pytest.param(cut(b"HTTP/1.1 200 OK\r\nx-a: b\r\n"), Malformed, id="cut in the headers"),
        pytest.param(reset(b"HTTP/1.1 200 OK\r\n"), Unreachable, id="reset after the status line"),
        pytest.param(reset(b"HTTP/1.1 200 OK\r\nx-a: b\r\n"), Unreachable, id="reset in the headers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nno header\r\n\r\n", Malformed, id="no header"),
        pytest.param(ok(b"x", content_encoding="br"), Malformed, id="an encoding not asked for"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            Malformed,
            id="a chunk of no length",
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\n: x\r\n\r\n", Malformed, id="a header without a name"),
        pytest.param(http("200 OK", content_length="x"), Malformed, id="no number for a length"),
        pytest.param(http("200 OK", content_length="-1"), Malformed, id="a negative length"),
        pytest.param(http("200 OK", x="y" * 100_000), Malformed, id="an endless header"),
        pytest.param(
            http("200 OK", **{f"x{n}": "y" for n in range(10_000)}), Malformed, id="endless headers"
        ),
    ],
)
async def test_it_is_the_status_line_that_makes_an_answer(
    azure: Azure, reply: Reply, kind: type[PollError]
) -> None:
    azure.server.will(reply)
    failure = await azure.failure()
    assert type(failure) is kind
    assert str(failure)
    attempts = 3 if kind is Unreachable else 1
    assert len(azure.server.requests) == attempts
    assert len(azure.spent) == attempts - 1
    assert azure.counted("azure_requests_total", status="error") == attempts


async def test_a_closed_port_is_unreachable() -> None:
    async with listening() as server:
        pass
    client = Client(cloud_at(server.url), Tokens(), telemetry := Telemetry(), connections=1)
    meter = Metered()
    with pytest.raises(Unreachable, match="Cannot connect to host"):
        await client.upgrade_history(WEB, 6.0, meter)
    await client.close()
    assert meter.spent == 2
    labels = {"subscription_id": SUBSCRIPTION, "status": "error"}
    assert telemetry.registry.get_sample_value("vmss_upgrade_exporter_azure_requests_total", labels) == 3


async def test_an_unknown_host_is_unreachable() -> None:
    client = Client(cloud_at(f"http://{NOWHERE}"), Tokens(), Telemetry(), connections=1)
    with pytest.raises(Unreachable, match="Cannot connect to host"):
        await client.upgrade_history(WEB, 6.0, Unmetered())
    await client.close()


async def test_a_server_without_tls_is_unreachable_over_https() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ok({"value": []}))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = Client(cloud_at(f"https://127.0.0.1:{port}"), Tokens(), Telemetry(), connections=1)
        with pytest.raises(Unreachable, match="ClientConnectorSSLError"):
            await client.upgrade_history(WEB, 6.0, Unmetered())
        await client.close()


# --- Time

OOPS = http("500 Oops")
LONG = b'{"value": []}'.ljust(1000)


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(hang(), id="before the status line"),
        pytest.param(hang(b"HTTP/1.1 200"), id="in the status line"),
        pytest.param(hang(b"HTTP/1.1 200 OK\r\nx-a: b\r\n"), id="in the headers"),
        pytest.param(hang(HALF), id="in the body"),
        pytest.param(drip(b"HTTP/1.1 200 OK\r\n" * 10), id="a head byte by byte"),
        pytest.param(drip(ok(LONG)), id="an answer byte by byte"),
    ],
)
async def test_an_answer_that_does_not_come_is_a_timeout(azure: Azure, reply: Reply) -> None:
    azure.server.will(reply)
    started = time.monotonic()
    failure = await azure.failure(timeout_seconds=0.15)
    assert (type(failure), failure.reason) == (TimedOut, Reason.TIMEOUT)
    assert str(failure) == "no answer within 0.15 s"
    assert 0.1 < time.monotonic() - started < 2
    assert 1 <= len(azure.server.requests) <= 3
    assert len(azure.spent) == len(azure.server.requests) - 1


async def test_a_lost_answer_is_not_the_end(azure: Azure) -> None:
    """The timeout is shared out among the attempts."""
    azure.server.will(hang(), ok({"value": []}))
    await azure.poll(timeout_seconds=1.5)
    assert azure.spent == [1]
    assert azure.counted("azure_retries_total") == 1


@pytest.mark.parametrize("reply", [OOPS, reset(), cut(b""), hang()], ids=["500", "reset", "cut", "hang"])
async def test_what_has_passed_is_forgotten(azure: Azure, reply: Reply) -> None:
    azure.server.will(reply, reply, ok({"value": []}))
    assert (await azure.poll(timeout_seconds=1.5)).pages == ({"value": []},)
    assert azure.spent == [1, 2]
    assert azure.counted("azure_retries_total") == 2


@pytest.mark.parametrize(
    ("replies", "kind"),
    [
        pytest.param([OOPS, hang()], ServerError, id="an error, then silence"),
        pytest.param([OOPS, OOPS, hang()], ServerError, id="two errors, then silence"),
        pytest.param([hang(), OOPS, hang()], ServerError, id="an error between silences"),
        pytest.param([reset(), hang()], Unreachable, id="a reset, then silence"),
        pytest.param([OOPS, reset(), hang()], Unreachable, id="an error, a reset, then silence"),
        pytest.param([reset(), OOPS, hang()], ServerError, id="a reset, an error, then silence"),
        pytest.param([hang(), hang(), OOPS], ServerError, id="an error at last"),
        pytest.param(["page", hang()], TimedOut, id="a page, then silence"),
        pytest.param([OOPS, "page", hang()], TimedOut, id="an error, a page, then silence"),
        pytest.param(["page", OOPS, hang()], ServerError, id="a page, an error, then silence"),
    ],
)
async def test_the_reason_is_the_last_answers(
    azure: Azure, replies: list[Reply | str], kind: type[PollError]
) -> None:
    page = ok({"value": [], "nextLink": f"{azure.server.url}/next"})
    azure.server.will(*(page if isinstance(reply, str) else reply for reply in replies))
    answers_last = replies[-1] is OOPS  # within a third of the timeout, on a busy machine too
    assert type(await azure.failure(timeout_seconds=1.5 if answers_last else 0.3)) is kind


async def test_the_deadline_ends_the_wait_before_a_retry(azure: Azure) -> None:
    azure.server.will(OOPS)
    with stamina.set_testing(False):
        started = time.monotonic()
        failure = await azure.failure(timeout_seconds=0.2)
    assert type(failure) is ServerError
    assert time.monotonic() - started < 1
    assert len(azure.server.requests) == 1  # the first wait is a quarter of a second at least


async def test_there_is_a_wait_before_a_retry(azure: Azure) -> None:
    azure.server.will(OOPS, ok({"value": []}))
    with stamina.set_testing(False):
        started = time.monotonic()
        await azure.poll()
    assert 0.25 <= time.monotonic() - started < 2


async def test_refusals_after_a_server_error_are_final(azure: Azure) -> None:
    azure.server.will(OOPS, http("403 Forbidden"))
    assert type(await azure.failure()) is Forbidden
    assert azure.spent == [1]


async def test_a_connection_that_died_in_the_pool_costs_a_counted_retry(azure: Azure) -> None:
    """aiohttp would send such a request again by itself, unseen by the budget."""
    azure.server.will(ok({"value": []}), reset(), ok({"value": []}))
    await azure.poll()
    assert azure.spent == []
    await azure.poll()
    assert azure.spent == [2]
    assert len(azure.server.requests) == 3


async def test_a_cancelled_poll_ends_at_once(azure: Azure) -> None:
    azure.server.will(hang())
    poll = asyncio.ensure_future(azure.poll())
    await asyncio.wait_for(azure.server.asked.wait(), 5)
    poll.cancel()
    with pytest.raises(asyncio.CancelledError):
        await poll
    await asyncio.wait_for(azure.server.closed.wait(), 1)


# --- Whose answer it is

API = ScaleSet(SUBSCRIPTION, "rg-web", "api", interval=300.0)


def own(server: Server, body: object, status: str = "200 OK", **headers: str) -> bytes:
    """Answer the last request as ARM does: with its id."""
    sent = server.requests[-1].headers["x-ms-client-request-id"]
    return http(status, body, x_ms_client_request_id=sent, **headers)


def in_turn(azure: Azure, bodies: list[object], extras: list[bytes]) -> Act:
    """Answer the n-th request with the n-th body; after the first, send the extra bytes once ``azure.other`` is asked."""

    async def act(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(azure.server.requests)
        writer.write(own(azure.server, bodies[number - 1]))
        await writer.drain()
        if number == 1:
            await azure.other.asked.wait()
            for extra in extras:
                writer.write(extra)
                await writer.drain()
                await asyncio.sleep(0.01)

    return act


async def let_send(azure: Azure) -> None:
    """Tell the server to send its extra bytes, and give the event loop time to read them."""
    azure.other.asked.set()
    await asyncio.sleep(0.1)


EXTRA = ok({"value": [{"extra": 1}]})
LEFT_OVER = [
    pytest.param([EXTRA], id="an answer"),
    pytest.param([EXTRA * 3], id="several answers"),
    pytest.param([EXTRA, EXTRA], id="several answers, one by one"),
    pytest.param([EXTRA[:20]], id="half a head"),
    pytest.param([EXTRA[:20], EXTRA[20:]], id="an answer in two halves"),
    pytest.param([EXTRA[:-5]], id="half a body"),
    pytest.param([b"\x00\xff nonsense"], id="nonsense"),
    pytest.param([b"H"], id="one byte"),
    pytest.param([http("429 Too Many Requests", retry_after="3600")], id="a 429"),
]


@pytest.mark.parametrize("extras", LEFT_OVER)
async def test_bytes_that_come_after_an_answer_are_never_the_next_answer(
    azure: Azure, extras: list[bytes]
) -> None:
    """aio-libs/aiohttp#13656: they were, and each later answer was taken for the one to the request after it."""
    bodies: list[object] = [{"value": [{"n": number}]} for number in range(3)]
    azure.server.will(in_turn(azure, bodies, extras))
    first = await azure.poll(WEB)
    await let_send(azure)
    answers = [first, await azure.poll(API), await azure.poll(WEB)]
    assert [answer.pages for answer in answers] == [(body,) for body in bodies]
    assert (azure.server.connections, azure.spent) == (2, [])


@pytest.mark.parametrize(
    "extra", [EXTRA, EXTRA[:20], EXTRA[:-5], EXTRA * 3], ids=["one", "half", "cut", "three"]
)
async def test_bytes_that_come_together_with_an_answer_are_never_the_next_answer(
    azure: Azure, extra: bytes
) -> None:
    """aio-libs/aiohttp#13656; half a head stays in a parser that the next request replaces, and its rest may follow."""

    async def act(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(azure.server.requests)
        writer.write(own(azure.server, {"value": [{"n": number}]}) + extra * (number == 1))
        await writer.drain()

    azure.server.will(act)
    answers = [await azure.poll(WEB), await azure.poll(API), await azure.poll(WEB)]
    assert [answer.pages for answer in answers] == [({"value": [{"n": number}]},) for number in (1, 2, 3)]
    assert (azure.server.connections, azure.spent) == (2, [])


async def test_bytes_that_the_event_loop_has_not_read_yet_are_unread_bytes(azure: Azure) -> None:
    """They wait in the system while the loop is busy with something else."""
    left: list[asyncio.StreamWriter] = []

    async def act(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left.append(writer)
        writer.write(own(azure.server, {"value": [{"n": len(azure.server.requests)}]}))

    azure.server.will(act)
    await azure.poll(WEB)
    left[0].write(EXTRA)  # sent at once, and nothing lets the loop run before the next request
    assert (await azure.poll(API)).pages == ({"value": [{"n": 2}]},)
    assert azure.server.connections == 2


async def test_a_connection_without_unread_bytes_is_used_again(azure: Azure) -> None:
    azure.server.will(ok({"value": []}), http("404 Not Found", WRAPPED), ok({"value": [1]}))
    await azure.poll()
    await azure.failure()
    await azure.poll()
    assert (len(azure.server.requests), azure.server.connections) == (3, 1)


async def test_a_server_that_speaks_before_it_is_asked_is_unreachable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hung_up = asyncio.Semaphore(0)

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(EXTRA)
        await reader.read()
        writer.close()
        await writer.wait_closed()
        hung_up.release()

    listener = await asyncio.start_server(greet, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    client = Client(cloud_at(url), Tokens(), Telemetry(), connections=1)
    connector = client.session.connector
    assert connector is not None
    connect = getattr(connector, "_create_connection")  # noqa: B009  (private)

    async def connect_and_wait(*args: Any) -> Any:
        """Connect, and return once the bytes have come: a race that the client may win or lose."""
        protocol = await connect(*args)
        async with asyncio.timeout(5):
            while not protocol.should_close:
                await asyncio.sleep(0.001)
        return protocol

    monkeypatch.setattr(connector, "_create_connection", connect_and_wait)
    with pytest.raises(Unreachable, match="UnaskedBytesError: the server sent bytes before it was asked"):
        await client.upgrade_history(WEB, 6.0, Unmetered())
    await client.close()
    for _ in range(ATTEMPTS):
        await asyncio.wait_for(hung_up.acquire(), 5)
    listener.close()


OTHER_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"


@pytest.mark.parametrize("what", ["history", "list", "graph"])
@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(http("200 OK", {"value": [], "data": []}, x_ms_client_request_id=OTHER_ID), id="200"),
        pytest.param(http("401 Unauthorized", WRAPPED, x_ms_client_request_id=OTHER_ID), id="401"),
        pytest.param(
            http("401 X", WWW_Authenticate='Bearer claims="e30="', x_ms_client_request_id=OTHER_ID),
            id="a claims challenge",
        ),
        pytest.param(http("403 Forbidden", WRAPPED, x_ms_client_request_id=OTHER_ID), id="403"),
        pytest.param(http("404 Not Found", WRAPPED, x_ms_client_request_id=OTHER_ID), id="404"),
        pytest.param(http("429 X", UNWRAPPED, retry_after="3600", x_ms_client_request_id=OTHER_ID), id="429"),
        pytest.param(http("503 X", x_ms_client_request_id=OTHER_ID), id="503"),
        pytest.param(http("302 X", location="/", x_ms_client_request_id=OTHER_ID), id="302"),
        pytest.param(http("200 OK", b"{", x_ms_client_request_id=OTHER_ID, content_length="99"), id="half"),
    ],
)
async def test_an_answer_with_the_id_of_another_request_is_never_trusted(
    azure: Azure, what: str, reply: bytes
) -> None:
    """It pauses nothing, takes nothing away, demands no new token, and leaves nothing to the next request."""
    quota = b"\r\nx-ms-ratelimit-remaining-resource: Microsoft.Compute/X;0\r\nx-ms-user-quota-remaining: 0\r\n\r\n"
    azure.server.will(reply.replace(b"\r\n\r\n", quota, 1), ok({"value": [], "data": []}))
    failure = await azure.failure(what=what)
    assert (type(failure), failure.reason) == (Malformed, Reason.MALFORMED)
    sent = azure.server.requests[0].headers["x-ms-client-request-id"]
    assert str(failure) == (
        f"the answer to another request: sent x-ms-client-request-id {sent}, returned {OTHER_ID}"
    )
    assert (failure.ids, failure.client_request_id) == ({"request_id": "req-1"}, sent)
    assert (azure.spent, azure.remaining, azure.tokens.refused) == ([], {}, [])
    assert azure.counted("azure_requests_total", status="error") == 1
    await azure.ask(what)
    assert (len(azure.server.requests), azure.server.connections) == (2, 2)


async def test_each_request_has_an_id_of_its_own_and_asks_for_its_return(azure: Azure) -> None:
    azure.server.will(
        http("500 Oops"),
        ok({"value": [], "nextLink": f"{azure.server.url}/next"}),
        REFUSED,
        ok({"value": []}),
        ok({"value": []}),
        ok(ROWS),
    )
    for what in ("history", "list", "graph"):
        await azure.ask(what)
    ids = [request.headers["x-ms-client-request-id"] for request in azure.server.requests]
    assert len({UUID(each) for each in ids}) == len(azure.server.requests) == 6
    assert {request.headers["x-ms-return-client-request-id"] for request in azure.server.requests} == {"true"}


@pytest.mark.parametrize(
    "spelling", [str.lower, str.upper, lambda _: ""], ids=["same", "upper case", "empty"]
)
async def test_an_answer_that_returns_the_id_or_none_is_the_answer(
    azure: Azure, spelling: Callable[[str], str]
) -> None:
    async def act(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent = azure.server.requests[-1].headers["x-ms-client-request-id"]
        writer.write(ok({"value": [1]}, x_ms_client_request_id=spelling(sent)))

    azure.server.will(act)
    assert (await azure.poll()).pages == ({"value": [1]},)


async def test_an_answer_that_returns_two_ids_is_not_trusted(azure: Azure) -> None:
    async def act(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        second = f"\r\nx-ms-client-request-id: {OTHER_ID}\r\n\r\n".encode()
        writer.write(own(azure.server, {"value": []}).replace(b"\r\n\r\n", second, 1))

    azure.server.will(act)
    assert str(await azure.failure()).endswith(f", {OTHER_ID}")


async def test_an_extra_answer_while_the_next_request_is_in_flight_costs_that_poll_only(azure: Azure) -> None:
    """aio-libs/aiohttp#13656: the true answer comes after it, and must not be the answer to the request after that."""

    async def act(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(azure.server.requests)
        extra = http("200 OK", {"value": []}, x_ms_client_request_id=OTHER_ID) if number == 2 else b""
        writer.write(extra + own(azure.server, {"value": [{"n": number}]}))

    azure.server.will(act)
    assert (await azure.poll(WEB)).pages == ({"value": [{"n": 1}]},)
    assert type(await azure.failure()) is Malformed
    assert (await azure.poll(API)).pages == ({"value": [{"n": 3}]},)
    assert azure.server.connections == 2


async def test_a_failure_without_an_answer_names_the_id_that_was_sent(azure: Azure) -> None:
    azure.server.will(hang())
    failure = await azure.failure(timeout_seconds=0.3)
    sent = azure.server.requests[-1].headers["x-ms-client-request-id"]
    assert failure.ids == {"client_request_id": sent}


# --- What the environment may not do


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
async def test_no_proxy_sees_a_token_in_clear(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    async with listening() as server, listening() as proxy:
        server.will(ok({"value": []}))
        proxy.will(ok({"value": []}))
        monkeypatch.setenv(name, proxy.url)
        client = Client(cloud_at(server.url), Tokens(), Telemetry(), connections=1)
        await client.upgrade_history(WEB, 6.0, Unmetered())
        await client.close()
        assert (len(server.requests), proxy.connections) == (1, 0)


@pytest.mark.parametrize(
    ("no_proxy", "asked"),
    [("", 3), ("elsewhere.example", 3), (NOWHERE, 0)],
    ids=["all", "not elsewhere", "not this one"],
)
async def test_a_proxy_of_the_environment_gets_no_more_than_the_name_of_the_host(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str, asked: int
) -> None:
    async with listening() as proxy:
        proxy.will(http("502 Bad Gateway"))
        monkeypatch.setenv("https_proxy", f"http://us%40er:pass@127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", no_proxy)
        client = Client(cloud_at(f"https://{NOWHERE}"), Tokens(), Telemetry(), connections=1)
        with pytest.raises(Unreachable) as caught:
            await client.upgrade_history(WEB, 6.0, Unmetered())
        await client.close()
        assert (str(caught.value) == "the proxy answers 502 Bad Gateway") is bool(asked)
        assert [request.target for request in proxy.requests] == [f"{NOWHERE}:443"] * asked
        for request in proxy.requests:
            assert "authorization" not in request.headers
            assert request.headers["proxy-authorization"] == "Basic dXNAZXI6cGFzcw=="


async def test_a_netrc_is_not_heard(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """aiohttp would refuse to send both its password and our token."""
    netrc = tmp_path_factory.mktemp("home") / "netrc"
    netrc.write_text("default login someone password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    async with listening() as server:
        pass
    client = Client(cloud_at(f"https://127.0.0.1:{server.port}"), Tokens(), Telemetry(), connections=1)
    with pytest.raises(Unreachable, match="Cannot connect to host"):
        await client.upgrade_history(WEB, 6.0, Unmetered())
    await client.close()


async def test_cookies_are_not_kept() -> None:
    async with listening() as server:
        server.will(ok({"value": []}, set_cookie="a=b; Path=/"))
        # A jar would keep the cookies of a name, but not those of an address.
        client = Client(cloud_at(f"http://localhost:{server.port}"), Tokens(), Telemetry(), connections=1)
        for _ in range(2):
            await client.upgrade_history(WEB, 6.0, Unmetered())
        await client.close()
        assert ["cookie" in request.headers for request in server.requests] == [False, False]


# --- Discovery's requests, and what is left of budgets


ROWS = {"totalRecords": 1, "count": 1, "data": [{"id": "/one"}], "resultTruncated": "false"}


async def test_resource_graph_is_asked_about_one_subscription_as_azure_documents_it(azure: Azure) -> None:
    azure.server.replies = [ok(ROWS)]
    answer = await azure.client.graph(SUBSCRIPTION, "resources | limit 1", 6.0, azure)
    assert answer.pages == (ROWS,)
    (request,) = azure.server.requests
    assert (request.method, request.target) == (
        "POST",
        "/providers/Microsoft.ResourceGraph/resources?api-version=2022-10-01",
    )
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"] == "Bearer token-1"
    assert json.loads(request.body) == {
        "subscriptions": [SUBSCRIPTION],
        "query": "resources | limit 1",
        "options": {"resultFormat": "objectArray", "$top": 1000},
    }


async def test_resource_graph_goes_on_by_skip_token(azure: Azure) -> None:
    first = {**ROWS, "$skipToken": "more", "resultTruncated": "true"}
    azure.server.replies = [ok(first), ok(ROWS)]
    answer = await azure.client.graph(SUBSCRIPTION, "resources", 6.0, azure)
    assert answer.pages == (first, ROWS)
    assert "$skipToken" not in json.loads(azure.server.requests[0].body)["options"]
    assert json.loads(azure.server.requests[1].body)["options"]["$skipToken"] == "more"
    assert len(azure.spent) == 1


@pytest.mark.parametrize("truncated", ["true", True])
async def test_rows_that_are_not_all_there_are_malformed(azure: Azure, truncated: object) -> None:
    azure.server.replies = [ok({**ROWS, "resultTruncated": truncated})]
    with pytest.raises(Malformed, match="not all there"):
        await azure.client.graph(SUBSCRIPTION, "resources", 6.0, azure)


async def test_endless_rows_are_malformed_after_the_hundredth_page(azure: Azure) -> None:
    azure.server.replies = [ok({**ROWS, "$skipToken": "more"})]
    with pytest.raises(Malformed, match="more than 100 pages"):
        await azure.client.graph(SUBSCRIPTION, "resources", 20.0, azure)
    assert len(azure.server.requests) == 100


async def test_a_question_that_failed_in_passing_is_put_again(azure: Azure) -> None:
    azure.server.replies = [http("503 Service Unavailable"), ok(ROWS)]
    await azure.client.graph(SUBSCRIPTION, "resources", 6.0, azure)
    assert [request.body for request in azure.server.requests] == [azure.server.requests[0].body] * 2


async def test_resource_graph_says_in_its_own_header_when_to_come_back(azure: Azure) -> None:
    azure.server.replies = [http("429 Too Many Requests", x_ms_user_quota_resets_after="00:00:07")]
    with pytest.raises(Throttled) as caught:
        await azure.client.graph(SUBSCRIPTION, "resources", 6.0, azure)
    assert caught.value.retry_after == 7


async def test_all_scale_sets_of_a_subscription_are_listed_page_by_page(azure: Azure) -> None:
    path = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute/virtualMachineScaleSets"
    link = f"{azure.server.url}{path}?api-version=2025-04-01&$skiptoken=2"
    azure.server.replies = [ok({"value": [1], "nextLink": link}), ok({"value": [2]})]
    answer = await azure.client.scale_sets(SUBSCRIPTION, 6.0, azure)
    assert answer.pages == ({"value": [1], "nextLink": link}, {"value": [2]})
    assert [request.target for request in azure.server.requests] == [
        f"{path}?api-version=2025-04-01",
        f"{path}?api-version=2025-04-01&$skiptoken=2",
    ]


@pytest.mark.parametrize("token", [7, True, ["x"], {}, ""])
async def test_a_skip_token_that_is_no_text_is_malformed(azure: Azure, token: object) -> None:
    azure.server.will(ok({**ROWS, "$skipToken": token}))
    failure = await azure.failure(what="graph")
    assert type(failure) is Malformed
    assert str(failure).startswith("no text for a $skipToken")
    assert len(azure.server.requests) == 1


async def test_resource_graph_has_no_links_to_follow(azure: Azure) -> None:
    azure.server.will(ok({**ROWS, "nextLink": azure.other.url}))
    await azure.ask("graph")
    assert len(azure.server.requests) == 1
    assert azure.other.connections == 0


async def test_a_list_does_not_lead_elsewhere(azure: Azure) -> None:
    azure.server.will(ok({"value": [], "nextLink": f"{azure.other.url}/"}))
    assert type(await azure.failure(what="list")) is Malformed
    assert azure.other.connections == 0


@pytest.mark.parametrize("what", ["list", "graph"])
@pytest.mark.parametrize(
    ("reply", "kind", "attempts"),
    [
        pytest.param(http("307 Elsewhere", location="OTHER"), Malformed, 1, id="a redirect"),
        pytest.param(ok("<html>"), Malformed, 1, id="HTML"),
        pytest.param(ok('{"data": [], "value": []}'.encode("utf-16")), Malformed, 1, id="UTF-16"),
        pytest.param(ok(b" " * 20 * MIB), Malformed, 1, id="20 MiB"),
        pytest.param(ok(gzip.compress(b" " * 20 * MIB), content_encoding="gzip"), Malformed, 1, id="a bomb"),
        pytest.param(hang(HALF), TimedOut, 3, id="half an answer"),
        pytest.param(drip(ok(b" " * 1000)), TimedOut, 3, id="an answer byte by byte"),
        pytest.param(hang(), TimedOut, 3, id="silence"),
        pytest.param(cut(HALF), Malformed, 1, id="cut short"),
        pytest.param(reset(), Unreachable, 3, id="a reset"),
        pytest.param(http("500 Oops"), ServerError, 3, id="500"),
        pytest.param(http("403 Forbidden"), Forbidden, 1, id="403"),
        pytest.param(http("429 Too Many Requests"), Throttled, 1, id="429"),
    ],
)
async def test_what_goes_for_histories_goes_for_scale_sets(
    azure: Azure, what: str, reply: Reply, kind: type[PollError], attempts: int
) -> None:
    if isinstance(reply, bytes):
        reply = reply.replace(b"OTHER", azure.other.url.encode())
    azure.server.will(reply)
    assert type(await azure.failure(0.3 if kind is TimedOut else 6.0, what)) is kind
    assert 1 <= len(azure.server.requests) <= attempts
    assert len(azure.spent) == len(azure.server.requests) - 1
    assert azure.other.connections == 0


async def test_a_query_is_sent_whole_with_another_token(azure: Azure) -> None:
    azure.server.will(REFUSED, ok(ROWS))
    await azure.ask("graph")
    sent = [(request.headers["authorization"], request.body) for request in azure.server.requests]
    assert [token for token, _ in sent] == ["Bearer token-1", "Bearer token-2"]
    assert sent[0][1] == sent[1][1] != b""


MORE = {**ROWS, "$skipToken": "more"}


async def test_queries_keep_their_distance_pages_and_retries_too(azure: Azure) -> None:
    azure.client.search_with(GRAPH_SECONDS / 0.05)
    azure.server.will(ok(MORE), http("500 Oops"), ok(ROWS))
    started = time.monotonic()
    await azure.ask("graph")
    assert len(azure.server.requests) == 3
    assert time.monotonic() - started >= 0.1


async def test_pages_of_a_list_keep_their_distance_by_the_share(azure: Azure) -> None:
    azure.client.search_with(0.5)
    azure.server.will(ok({"value": [], "nextLink": f"{azure.server.url}/next"}), ok({"value": []}))
    started = time.monotonic()
    await azure.ask("list")
    assert time.monotonic() - started >= LIST_SECONDS / 0.5
    azure.client.search_with(math.inf)  # which those that have begun go by, too
    await azure.ask("list")
    started = time.monotonic()
    await azure.ask("list")
    assert time.monotonic() - started < LIST_SECONDS / 0.5


async def test_waiting_for_a_turn_is_no_part_of_the_timeout(azure: Azure) -> None:
    azure.client.search_with(GRAPH_SECONDS / 0.6)
    azure.server.will(ok(MORE), ok(ROWS))
    assert len((await azure.ask("graph", timeout_seconds=0.5)).pages) == 2


async def test_after_the_wait_for_a_turn_the_timeout_goes_on(azure: Azure) -> None:
    azure.client.search_with(GRAPH_SECONDS / 0.1)
    azure.server.will(ok(MORE), hang())
    async with asyncio.timeout(5):
        assert type(await azure.failure(0.5, "graph")) is TimedOut


async def test_a_spent_quota_is_waited_for(azure: Azure) -> None:
    quota = {"x_ms_user_quota_remaining": "0", "x_ms_user_quota_resets_after": "00:00:01"}
    azure.server.will(ok(MORE, **quota), ok(ROWS))
    started = time.monotonic()
    await azure.ask("graph")
    assert time.monotonic() - started >= 0.9


async def test_a_throttled_query_keeps_others_from_being_sent_but_no_poll(azure: Azure) -> None:
    azure.server.will(http("429 Too Many Requests", retry_after="300"), ok({"value": []}))
    await azure.failure(what="graph")
    failure = await azure.failure(what="graph")
    assert isinstance(failure, Throttled)
    assert 290 < failure.retry_after <= 300
    assert len(azure.server.requests) == 1
    await azure.poll()
    assert len(azure.server.requests) == 2


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("status", ["200 OK", "403 Forbidden"])
async def test_a_bomb_that_comes_in_one_piece_takes_little_memory(
    azure: Azure, encoding: str, status: str
) -> None:
    """500 MiB in a small body: the decoder must stop at the limit, not after it."""
    zeros = zlib.compressobj(wbits=31 if encoding == "gzip" else 15)
    body = b"".join(zeros.compress(bytes(MIB)) for _ in range(500)) + zeros.flush()
    azure.server.will(http(status, body, content_encoding=encoding))
    tracemalloc.start()
    try:
        await azure.failure()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * MIB


async def test_what_is_left_of_budgets_is_shown_and_passed_on_good_answer_or_bad(azure: Azure) -> None:
    azure.server.replies = [
        ok({"value": []}, x_ms_ratelimit_remaining_resource="Microsoft.Compute/GetVMScaleSet3Min;399"),
        http("403 Forbidden", x_ms_ratelimit_remaining_subscription_reads="249"),
    ]
    await azure.poll()
    await azure.failure()
    expected = {
        "Microsoft.Compute/GetVMScaleSet3Min": 399,
        "x-ms-ratelimit-remaining-subscription-reads": 249,
    }
    assert azure.remaining == expected
    assert {scope: azure.counted("azure_remaining_requests", scope=scope) for scope in expected} == expected


async def test_names_of_budgets_without_end_fill_no_memory(azure: Azure) -> None:
    azure.server.replies = [
        ok({}, x_ms_ratelimit_remaining_resource=",".join(f"{answer}-{number};1" for number in range(16)))
        for answer in range(5)
    ]
    for _ in azure.server.replies:
        await azure.poll()
    assert len(azure.remaining) == 32
