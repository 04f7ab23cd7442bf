"""Where the server listens and how it accepts: over real sockets, and in a network namespace without IPv6."""

import asyncio
import logging
import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EADDRINUSE
from pathlib import Path

import pytest

from exporter.address import Address
from exporter.error_log import ErrorLog
from exporter.listener import Listener, bind, bind_all

LOOPBACK = (socket.AF_INET, ("127.0.0.1", 0))
LOOPBACK_6 = (socket.AF_INET6, ("::1", 0, 0, 0))
ELSEWHERE = (socket.AF_INET, ("192.0.2.1", 0))
"""Addresses for documentation (RFC 5737, RFC 3849): no machine has them."""
ELSEWHERE_6 = (socket.AF_INET6, ("2001:db8::1", 0, 0, 0))
PATIENCE_SECONDS = 20.0


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        ([LOOPBACK, ELSEWHERE_6], ["127.0.0.1"]),
        ([ELSEWHERE_6, LOOPBACK], ["127.0.0.1"]),
        ([ELSEWHERE, LOOPBACK_6], ["::1"]),
        ([LOOPBACK, LOOPBACK_6], ["127.0.0.1", "::1"]),
    ],
)
def test_addresses_of_a_name_that_the_machine_does_not_have_are_left_out_and_told(
    candidates: list[tuple[socket.AddressFamily, tuple[str | int, ...]]],
    expected: list[str],
    caplog: pytest.LogCaptureFixture,
):
    """As asyncio does from Python 3.13 on: https://github.com/python/cpython/issues/75128."""
    bound = bind_all(Address("a.name", 0), candidates)
    assert [each.getsockname()[0] for each in bound] == expected
    assert len(caplog.records) == len(candidates) - len(expected)
    for each in bound:
        each.close()


def test_a_name_without_any_address_of_the_machine_is_an_error():
    with pytest.raises(OSError, match="Cannot assign requested address"):
        bind_all(Address("a.name", 0), [ELSEWHERE, ELSEWHERE_6])


async def test_an_address_that_the_machine_does_not_have_is_named():
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.1:9847: Cannot assign requested address"):
        await bind(Address("192.0.2.1", 9847))


async def test_a_name_that_nobody_knows_is_named():
    with pytest.raises(OSError, match=r"cannot listen on no\.such\.name\.invalid:9847: "):
        await bind(Address("no.such.name.invalid", 9847))


def test_an_address_in_use_is_an_error_although_others_could_be_bound():
    """The program that listens on 127.0.0.1 would get the requests that are meant for us."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        candidates = [(family, (host, port, *rest)) for family, (host, _, *rest) in (LOOPBACK_6, LOOPBACK)]
        with pytest.raises(OSError, match="in use") as error:
            bind_all(Address("a.name", port), candidates)
    assert error.value.errno == EADDRINUSE


def test_all_addresses_of_a_name_get_the_same_free_port():
    """asyncio gives each its own: https://github.com/python/cpython/issues/89856."""
    for _ in range(20):
        bound = bind_all(Address("a.name", 0), [LOOPBACK, LOOPBACK_6, (socket.AF_INET, ("127.0.0.2", 0))])
        ports = {each.getsockname()[1] for each in bound}
        for each in bound:
            each.close()
        assert len(ports) == 1


WITHOUT_IPV6 = """
ip link set lo up
echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6
mount --bind "$1" /etc/hosts
shift
exec "$@"
"""
SERVING = """
import asyncio, urllib.request
from exporter.address import Address
from exporter.exposition import Exposition
from exporter.store import Store
from exporter.telemetry import Telemetry
from exporter.web import Server, application
from tests.test_connections import Status

async def main():
    telemetry = Telemetry()
    server = Server(application(Exposition(Store(), telemetry), telemetry, Status(), "/metrics"))
    (address,) = await server.start([Address("localhost", 0)])
    def ask():
        with urllib.request.urlopen(f"http://{address}/-/healthy") as answer:
            return answer.read().decode()
    print(address.rpartition(":")[0], await asyncio.to_thread(ask), end="")
    await server.stop()

asyncio.run(main())
"""


def test_localhost_is_listened_on_where_ipv6_is_off(tmp_path: Path):
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    arguments = ["unshare", "--net", "--mount", "sh", "-ec", WITHOUT_IPV6, "sh", str(tmp_path / "hosts")]
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([*arguments, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine gives no network namespace")
    done = subprocess.run(
        [*arguments, sys.executable, "-c", SERVING], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("127.0.0.1 Healthy\n", 0), done.stderr
    assert "address left out, this machine does not have it" in done.stderr


class Greeter(asyncio.Protocol):
    """Greets a client and leaves."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


@contextmanager
def no_descriptor_left() -> Iterator[list[int]]:
    """Take all file descriptors of this process; yield those that are only taken."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(file.name) for file in Path("/proc/self/fd").iterdir())
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, before[1]))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield taken
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for descriptor in taken:
            os.close(descriptor)


async def test_where_no_descriptor_is_left_room_is_made_and_one_line_is_logged(
    caplog: pytest.LogCaptureFixture,
):
    """asyncio reports every attempt, and accepts no client for a second: https://github.com/python/cpython/issues/151615."""
    asked = 0

    def make_room() -> None:
        nonlocal asked
        asked += 1
        if asked == 5:  # the first four times there is nothing to close
            os.close(taken.pop())

    loop = asyncio.get_running_loop()
    (bound,) = await bind(Address("127.0.0.1", 0))
    listener = Listener(bound, Greeter, make_room, ErrorLog(logging.getLogger("tests")))
    with socket.socket() as client:
        client.setblocking(False)
        with no_descriptor_left() as taken:
            await loop.sock_connect(client, (listener.address.host, listener.address.port))
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert await loop.sock_recv(client, 5) == b"hello"
                assert await loop.sock_recv(client, 5) == b""
    listener.close()
    assert asked == 5
    assert [record.message for record in caplog.records] == ["connection not accepted, trying again"]
    assert caplog.records[0].fields == {"error": "OSError: [Errno 24] Too many open files"}  # type: ignore[attr-defined]
    assert caplog.records[0].exc_info is None
