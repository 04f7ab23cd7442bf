"""What connections may take: over real sockets, plain and with TLS."""

import asyncio
import logging
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import Protocol

import aiohttp
import pytest

from exporter.address import Address, parse_address
from exporter.banners import DiscoveryStatus, SignInFailure
from exporter.connections import Limits, affordable_connections, network_of
from exporter.exposition import Exposition, Format
from exporter.gate import Gate
from exporter.snapshot import Snapshot
from exporter.status import Past, nothing
from exporter.store import Store
from exporter.telemetry import Telemetry
from exporter.web import Server, application
from tests.certificates import Authority
from tests.test_gate import WITH_CLIENTS, WITH_TLS, write

GET = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEALTHY = b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n"
PLAIN = {"Accept-Encoding": "identity"}
LINES, PIECES = b"# a line of some length\n" * 2_730, 40
PATIENCE_SECONDS = 10.0


class Status:
    healthy = ready = True
    configuration = ""

    def discoveries(self) -> tuple[DiscoveryStatus, ...]:
        return ()

    def sign_in_failures(self) -> tuple[SignInFailure, ...]:
        return ()

    def past(self) -> AbstractContextManager[Past]:
        return nullcontext(nothing)

    def snapshots(self) -> tuple[Snapshot, ...]:
        return ()

    async def reload(self) -> str:
        return ""


class Large(Exposition):
    """More than the system keeps for a reader, less than it would by itself."""

    def plain(self, in_format: Format) -> list[bytes]:
        return [LINES] * PIECES + super().plain(in_format)


@asynccontextmanager
async def serving(
    gate: Gate | None = None, limits: Limits | None = None
) -> AsyncIterator[tuple[Server, Address]]:
    telemetry = Telemetry()
    exposition = Large(Store(), telemetry)
    app = application(exposition, telemetry, Status(), "/metrics", enable_lifecycle=True)
    server = Server(app, gate, limits)
    (address,) = await server.start([Address("127.0.0.1", 0)])
    try:
        yield server, parse_address(address)
    finally:
        await server.stop()


class Connect(Protocol):
    """Opens a connection that takes in little by itself."""

    async def __call__(
        self, address: Address, context: ssl.SSLContext | None = None, *, source: str = "127.0.0.1"
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]: ...


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    opened: list[asyncio.StreamWriter] = []

    async def connect(
        address: Address, context: ssl.SSLContext | None = None, *, source: str = "127.0.0.1"
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        plain = socket.socket()
        plain.bind((source, 0))
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plain, (address.host, address.port))
        server_hostname = "127.0.0.1" if context else None
        reader, writer = await asyncio.open_connection(
            sock=plain, limit=4096, ssl=context, server_hostname=server_hostname
        )
        opened.append(writer)
        return reader, writer

    yield connect
    for writer in opened:
        writer.transport.abort()
    await asyncio.sleep(0.05)  # transports close in their own time


async def is_cut_off(reader: asyncio.StreamReader) -> bool:
    """Read to the end, which must come."""
    with suppress(ConnectionError, ssl.SSLError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await reader.read(65536):
                pass
    return True


def trusting(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(folder / "ca.crt"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    authority = Authority(tmp_path)
    authority.issue("server")
    authority.issue("client", "prometheus.example")
    return tmp_path


@pytest.fixture(params=["plain", "tls"])
def gated(request: pytest.FixtureRequest, folder: Path) -> tuple[Gate | None, ssl.SSLContext | None]:
    """Return a gate, and how to come in by it."""
    if request.param == "plain":
        return None, None
    return Gate(write(folder, WITH_TLS)), trusting(folder)


Gated = tuple[Gate | None, ssl.SSLContext | None]


@pytest.mark.parametrize("begun", [b"", b"GET /metr", b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n"])
async def test_a_request_that_does_not_come_is_not_waited_for(connect: Connect, gated: Gated, begun: bytes):
    gate, context = gated
    async with serving(gate, Limits(request_seconds=0.3)) as (_, address):
        reader, writer = await connect(address, context)
        writer.write(begun)
        assert await is_cut_off(reader)


async def test_a_request_that_comes_byte_by_byte_is_not_waited_for_any_longer(connect: Connect):
    async with serving(limits=Limits(request_seconds=0.3)) as (_, address):
        reader, writer = await connect(address)
        with suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                for _ in range(10_000):
                    writer.write(b"x")
                    await writer.drain()
                    await asyncio.sleep(0.01)
        assert await is_cut_off(reader)


async def test_the_next_request_that_does_not_come_whole_is_not_waited_for(connect: Connect):
    async with serving(limits=Limits(request_seconds=0.3)) as (_, address):
        reader, writer = await connect(address)
        writer.write(HEALTHY)
        await reader.readuntil(b"Healthy\n")
        writer.write(b"GET /-/heal")
        assert await is_cut_off(reader)


async def test_a_client_that_never_begins_tls_is_not_waited_for(connect: Connect, folder: Path):
    async with serving(Gate(write(folder, WITH_TLS)), Limits(request_seconds=0.3)) as (server, address):
        reader, _ = await connect(address)
        assert await is_cut_off(reader)
        assert server.connections == 0


async def test_a_client_that_speaks_no_tls_is_turned_away_without_a_word_in_the_log(
    connect: Connect, folder: Path, caplog: pytest.LogCaptureFixture
):
    async with serving(Gate(write(folder, WITH_TLS))) as (server, address):
        reader, writer = await connect(address)
        writer.write(GET)
        assert await is_cut_off(reader)
        assert server.connections == 0
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


RESETTING = """
import asyncio, ssl, sys
port, ca = sys.argv[1:]
context = ssl.create_default_context(cafile=ca) if ca else None
async def ask():
    for _ in range(100):
        _, writer = await asyncio.open_connection("127.0.0.1", int(port), ssl=context)
        writer.write(b"GET /metrics HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
        await writer.drain()
        writer.transport.abort()
asyncio.run(ask())
"""
"""A process of its own: what it sends and its reset must be there before our event loop turns."""


async def test_a_client_that_asks_and_is_gone_at_once_leaves_no_word_in_the_log(
    gated: Gated, folder: Path, caplog: pytest.LogCaptureFixture
):
    gate, context = gated
    ca = str(folder / "ca.crt") if context else ""
    async with serving(gate) as (server, address):
        client = await asyncio.create_subprocess_exec(sys.executable, "-c", RESETTING, str(address.port), ca)
        assert await client.wait() == 0
        await until(lambda: server.connections == 0)
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


async def test_a_reader_that_takes_nothing_is_cut_off(connect: Connect, gated: Gated):
    gate, context = gated
    async with serving(gate, Limits(stall_seconds=0.3)) as (server, address):
        _, writer = await connect(address, context)
        writer.write(GET)
        await until(lambda: server.connections == 1)
        await until(lambda: server.connections == 0)


async def test_a_reader_that_takes_a_little_now_and_then_is_cut_off_in_the_end(
    connect: Connect, gated: Gated
):
    gate, context = gated
    async with serving(gate, Limits(answer_seconds=0.5)) as (server, address):
        reader, writer = await connect(address, context)
        writer.write(GET)
        with suppress(ConnectionError, ssl.SSLError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                while server.connections:
                    await reader.read(64)
                    await asyncio.sleep(0.01)
        assert server.connections == 0


async def test_a_good_reader_is_answered_while_slow_ones_are(
    connect: Connect, gated: Gated, caplog: pytest.LogCaptureFixture
):
    gate, context = gated
    async with (
        serving(gate, Limits(stall_seconds=60.0, answer_seconds=60.0)) as (server, address),
        aiohttp.ClientSession() as client,
    ):
        slow = [await connect(address, context) for _ in range(100)]
        for _, writer in slow:
            writer.write(GET)
        scheme = "http" if context is None else "https"
        async with client.get(
            f"{scheme}://{address}/metrics", ssl=context or True, headers=PLAIN
        ) as response:
            assert (await response.read()).startswith(LINES * PIECES)
        assert server.connections == 101
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


async def test_beyond_the_limit_nobody_who_is_answered_is_cut_off_and_it_is_told_once(
    connect: Connect, gated: Gated, caplog: pytest.LogCaptureFixture
):
    gate, context = gated
    async with serving(gate, Limits(connections=2)) as (server, address):
        first, second = await connect(address, context), await connect(address, context)
        for reader, writer in (first, second):
            writer.write(GET)
            assert await reader.readuntil(b"\r\n") == b"HTTP/1.1 200 OK\r\n"
        for _ in range(2):
            with suppress(ConnectionError, ssl.SSLError):
                reader, writer = await connect(address, context)
                writer.write(GET)
                assert await is_cut_off(reader)
        assert server.connections == 2
        first[1].transport.abort()
        await until(lambda: server.connections == 1)
        reader, writer = await connect(address, context)
        writer.write(GET)
        assert await reader.readuntil(b"\r\n") == b"HTTP/1.1 200 OK\r\n"
    said = [record.message for record in caplog.records]
    assert said == ["no connection left, closing idle ones"]


async def test_beyond_the_limit_the_one_that_has_waited_longest_makes_room(connect: Connect, gated: Gated):
    gate, context = gated
    async with serving(gate, Limits(connections=2)) as (server, address):
        first, second = await connect(address, context), await connect(address, context)
        first[1].write(HEALTHY)  # so that the second has waited longer
        await first[0].readuntil(b"Healthy\n")
        third = await connect(address, context)
        third[1].write(HEALTHY)
        await third[0].readuntil(b"Healthy\n")
        assert await is_cut_off(second[0])
        assert server.connections == 2
        first[1].write(HEALTHY)
        await first[0].readuntil(b"Healthy\n")


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
    ],
)
def test_an_address_counts_for_a_network_that_one_client_has(host: str, network: str):
    assert network_of(host) == network


@pytest.mark.parametrize(
    ("descriptors", "polls", "connections"),
    [
        (None, 64, 256),
        (1_048_576, 64, 256),
        (1024, 64, 256),
        (1024, 1024, 256),
        (256, 64, 128),
        (256, 16, 176),
        (64, 64, 16),
        (16, 64, 4),
        (3, 64, 1),
    ],
)
def test_connections_leave_file_descriptors_for_the_rest(
    descriptors: int | None, polls: int, connections: int
):
    assert affordable_connections(descriptors, polls) == connections


async def served(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bool:
    """Ask on a connection; return whether it is answered."""
    reader, writer = connection
    writer.write(HEALTHY)
    with suppress(ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            return (await reader.readuntil(b"Healthy\n")).startswith(b"HTTP/1.1 200 OK\r\n")
    return False


async def test_beyond_the_limit_a_client_takes_places_only_from_itself(connect: Connect):
    async with serving(limits=Limits(connections=4)) as (server, address):
        scrapers = [await connect(address, source=f"127.0.0.{host}") for host in (2, 3)]
        for _ in range(20):
            await connect(address, source="127.0.0.4")
        assert [await served(scraper) for scraper in scrapers] == [True, True]
        assert await served(await connect(address, source="127.0.0.5"))
        assert server.connections == 4


async def test_beyond_the_limit_clients_who_only_connect_do_not_displace_one_who_was_served(connect: Connect):
    async with serving(limits=Limits(connections=4)) as (server, address):
        scraper = await connect(address)
        assert await served(scraper)
        for _ in range(20):
            await connect(address)
        assert await served(scraper)
        assert server.connections == 4


async def test_beyond_the_limit_clients_who_were_served_do_not_displace_one_who_is_about_to_ask(
    connect: Connect,
):
    async with serving(limits=Limits(connections=4)) as (server, address):
        others = [await connect(address) for _ in range(4)]
        assert [await served(other) for other in others] == [True] * 4
        scraper = await connect(address)
        for _ in range(20):
            assert await served(await connect(address))
        assert await served(scraper)
        assert server.connections == 4


async def test_beyond_the_limit_who_holds_most_loses_an_answer_to_who_holds_less(
    connect: Connect, gated: Gated
):
    gate, context = gated
    async with serving(gate, Limits(connections=3)) as (server, address):
        slow = [await connect(address, context, source="127.0.0.2") for _ in range(3)]
        for reader, writer in slow:
            writer.write(GET)
            assert await reader.readuntil(b"\r\n") == b"HTTP/1.1 200 OK\r\n"
        assert await served(await connect(address, context))
        assert await is_cut_off(slow[0][0])
        assert server.connections == 3


FLOODING = """
import asyncio, sys
from contextlib import suppress
port, number, *sources = sys.argv[1:]
async def idle(source):
    while True:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(port), local_addr=(source, 0))
            with suppress(OSError):
                await reader.read()
            writer.transport.abort()
        await asyncio.sleep(0)
async def main():
    await asyncio.gather(*(idle(sources[each % len(sources)]) for each in range(int(number))))
asyncio.run(main())
"""
"""Connections that ask for nothing, and are opened again as soon as they are closed."""


@pytest.mark.parametrize(
    ("tls", "sources"),
    [
        (False, ["127.0.0.1"]),  # as behind a proxy, where the scraper's address is theirs, too
        (False, ["127.0.0.2"]),
        (True, ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"]),
    ],
)
async def test_idle_connections_that_come_again_and_again_do_not_keep_a_scraper_out(
    folder: Path, sources: list[str], *, tls: bool
):
    gate, context = (Gate(write(folder, WITH_TLS)), trusting(folder)) if tls else (None, None)
    async with serving(gate, Limits(connections=128)) as (server, address):
        flooding = await asyncio.create_subprocess_exec(
            sys.executable, "-c", FLOODING, str(address.port), "400", *sources
        )
        try:
            await until(lambda: server.connections == 128)
            scheme = "http" if context is None else "https"
            answers = []
            for _ in range(10):
                async with (
                    aiohttp.ClientSession() as client,
                    client.get(f"{scheme}://{address}/-/healthy", ssl=context or True) as response,
                ):
                    answers.append(response.status)
        finally:
            flooding.kill()
            await flooding.wait()
        assert answers == [200] * 10


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /-/healthy?" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\nCookie: " + b"x" * 9_000 + b"\r\n\r\n",
        b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\nCookie: " + b"x" * 65_000 + b"\r\n\r\n",
        b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 100 + b"\r\n",
    ],
)
async def test_a_request_within_the_limit_is_answered_however_it_is_made_up(
    connect: Connect, request_head: bytes
):
    async with serving() as (_, address):
        reader, writer = await connect(address)
        writer.write(request_head)
        assert await reader.readuntil(b"\r\n") == b"HTTP/1.1 200 OK\r\n"


async def test_too_many_headers_are_refused_without_a_word_in_the_log(
    connect: Connect, caplog: pytest.LogCaptureFixture
):
    async with serving() as (_, address):
        reader, writer = await connect(address)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 200 + b"\r\n")
        assert await reader.readuntil(b"\r\n") == b"HTTP/1.0 400 Bad Request\r\n"
        assert await is_cut_off(reader)
    assert caplog.records == []


async def test_headers_that_go_on_and_on_are_cut_off(connect: Connect):
    async with serving() as (_, address):
        reader, writer = await connect(address)
        with suppress(ConnectionError):
            writer.write(
                b"GET /metrics HTTP/1.1\r\n" + b"".join(b"X: " + b"x" * 8000 + b"\r\n" for _ in range(9))
            )
            await writer.drain()
        assert await is_cut_off(reader)


async def test_a_body_that_is_announced_too_large_is_refused(connect: Connect):
    async with serving() as (_, address):
        reader, writer = await connect(address)
        writer.write(b"POST /-/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 70000\r\n\r\n")
        assert (await reader.readuntil(b"\r\n"))[:13] == b"HTTP/1.1 413 "


async def test_a_body_that_goes_on_and_on_is_cut_off(connect: Connect):
    async with serving() as (server, address):
        reader, writer = await connect(address)
        writer.write(b"POST /-/reload HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        with suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                while server.connections or not writer.is_closing():
                    writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
                    await writer.drain()
                    await asyncio.sleep(0)
        assert await is_cut_off(reader)


async def test_an_idle_connection_is_closed_after_a_while(connect: Connect):
    async with serving(limits=Limits(idle_seconds=0.3)) as (_, address):
        reader, writer = await connect(address)
        writer.write(HEALTHY)
        assert (await reader.read()).endswith(b"Healthy\n")


async def test_requests_that_come_all_at_once_are_answered_in_turn(connect: Connect, gated: Gated):
    gate, context = gated
    async with serving(gate) as (_, address):
        reader, writer = await connect(address, context)
        writer.write(b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
        for _ in range(50):
            assert b"200 OK" in await reader.readuntil(b"Healthy\n")


async def test_a_certificate_that_changed_is_shown_and_idle_connections_end(connect: Connect, folder: Path):
    async with serving(Gate(write(folder, WITH_TLS))) as (server, address):
        idle, shown = await connect(address, trusting(folder))
        before = shown.get_extra_info("peercert")["serialNumber"]
        shown.write(HEALTHY)
        await idle.readuntil(b"Healthy\n")
        Authority(folder).issue("server")
        await server.refresh()
        await server.refresh()
        assert await idle.read() == b""
        _, shown = await connect(address, trusting(folder))
        assert shown.get_extra_info("peercert")["serialNumber"] != before


async def test_a_connection_that_has_yet_to_ask_when_a_certificate_changes_gets_one_answer(
    connect: Connect, folder: Path
):
    async with serving(Gate(write(folder, WITH_TLS))) as (server, address):
        reader, writer = await connect(address, trusting(folder))
        half_asked, half_writer = await connect(address, trusting(folder))
        half_writer.write(HEALTHY[:20])
        await half_writer.drain()
        Authority(folder).issue("server")
        await server.refresh()
        await server.refresh()
        writer.write(HEALTHY)
        half_writer.write(HEALTHY[20:])
        for each in (reader, half_asked):
            answer = await each.read()
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"Connection: close\r\n" in answer


async def test_an_answer_on_its_way_when_a_certificate_changes_is_the_last_of_its_connection(
    connect: Connect, folder: Path
):
    async with serving(Gate(write(folder, WITH_TLS))) as (server, address):
        reader, writer = await connect(address, trusting(folder))
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\n")
        Authority(folder).issue("server")
        await server.refresh()
        await server.refresh()
        whole = 0
        while read := await reader.read(1_048_576):
            whole += len(read)
        assert whole > PIECES * len(LINES)


@pytest.mark.parametrize(
    ("excluded", "path", "status"),
    [
        ("", "/metrics", None),
        ("", "/-/healthy", None),
        ("/-/healthy", "/metrics", 403),
        ("/-/healthy", "/-/healthy", 200),
    ],
)
async def test_without_a_client_certificate_nothing_is_answered_but_what_is_excluded(
    folder: Path, excluded: str, path: str, status: int | None
):
    gate = Gate(write(folder, f"{WITH_CLIENTS}auth_excluded_paths: [{excluded}]\n"))
    async with serving(gate) as (_, address), aiohttp.ClientSession() as client:
        got = None
        with suppress(aiohttp.ClientError):
            async with client.get(f"https://{address}{path}", ssl=trusting(folder)) as response:
                got = response.status
        assert got == status


@pytest.mark.parametrize("excluded", ["", "/-/healthy"])
async def test_with_a_client_certificate_all_is_answered_and_with_a_strangers_nothing(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, excluded: str
):
    gate = Gate(write(folder, f"{WITH_CLIENTS}auth_excluded_paths: [{excluded}]\n"))
    known, stranger = trusting(folder), trusting(folder)
    known.load_cert_chain(folder / "client.crt", folder / "client.key")
    stranger.load_cert_chain(*Authority(tmp_path_factory.mktemp("other")).issue("client"))
    async with serving(gate) as (_, address), aiohttp.ClientSession() as client:
        async with client.get(f"https://{address}/metrics", ssl=known) as response:
            assert response.status == 200
        with pytest.raises(aiohttp.ClientError):
            await client.get(f"https://{address}/metrics", ssl=stranger)


async def test_an_authority_that_is_trusted_no_more_lets_nobody_in_on_an_old_connection(folder: Path):
    gate = Gate(write(folder, WITH_CLIENTS))
    known = trusting(folder)
    known.load_cert_chain(folder / "client.crt", folder / "client.key")
    async with serving(gate) as (server, address), aiohttp.ClientSession() as client:
        async with client.get(f"https://{address}/-/healthy", ssl=known) as response:
            assert response.status == 200
        Authority(folder)
        await server.refresh()
        await server.refresh()
        with pytest.raises(aiohttp.ClientError):
            await client.get(f"https://{address}/-/healthy", ssl=known)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_versions_below_the_least_are_refused(folder: Path, version: ssl.TLSVersion):
    gate = Gate(write(folder, f"{WITH_TLS}  min_version: TLS13\n"))
    context = trusting(folder)
    context.maximum_version = version
    async with serving(gate) as (_, address), aiohttp.ClientSession() as client:
        answered = False
        with suppress(aiohttp.ClientError):
            async with client.get(f"https://{address}/-/healthy", ssl=context) as response:
                answered = response.status == 200
    assert answered == (version is ssl.TLSVersion.TLSv1_3)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not true():
            await asyncio.sleep(0.01)
