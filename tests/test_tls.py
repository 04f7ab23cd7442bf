"""Failed TLS handshakes: what the client is told, over real sockets."""

import asyncio
import logging
import socket
import ssl
from contextlib import nullcontext
from pathlib import Path

import pytest

from exporter.address import Address
from exporter.connections import Limits
from exporter.gate import Gate
from tests.certificates import Authority
from tests.test_connections import HEALTHY, serving, trusting, until
from tests.test_gate import WITH_CLIENTS, WITH_TLS, write

PATIENCE_SECONDS = 20.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    authority = Authority(tmp_path)
    authority.issue("server")
    authority.issue("client", "prometheus.example")
    Authority(tmp_path, "other").issue("stranger")
    return tmp_path


def alert(address: Address, context: ssl.SSLContext) -> str:
    """Ask for something; return OpenSSL's name of the alert that comes instead."""
    with socket.create_connection((address.host or "", address.port), PATIENCE_SECONDS) as plain:
        try:
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
                secured.sendall(HEALTHY)
                while secured.recv(4096):
                    pass
        except ssl.SSLError as error:
            return error.reason
    return "no alert"


@pytest.mark.parametrize(
    ("config", "version", "expected"),
    [
        (WITH_CLIENTS, ssl.TLSVersion.TLSv1_3, "TLSV13_ALERT_CERTIFICATE_REQUIRED"),
        (WITH_CLIENTS, ssl.TLSVersion.TLSv1_2, "SSLV3_ALERT_HANDSHAKE_FAILURE"),
        (WITH_TLS, ssl.TLSVersion.TLSv1_1, "TLSV1_ALERT_PROTOCOL_VERSION"),
        (f"{WITH_TLS}  min_version: TLS13\n", ssl.TLSVersion.TLSv1_2, "TLSV1_ALERT_PROTOCOL_VERSION"),
    ],
)
async def test_a_client_is_told_why_its_handshake_fails(
    folder: Path, config: str, version: ssl.TLSVersion, expected: str, caplog: pytest.LogCaptureFixture
):
    """asyncio would end the connection without a word: https://github.com/python/cpython/issues/98078."""
    context = trusting(folder)
    context.set_ciphers("ALL:@SECLEVEL=0")  # else OpenSSL does not even offer what is old
    with (
        pytest.warns(DeprecationWarning, match="TLSv1_1")
        if version < ssl.TLSVersion.TLSv1_2
        else nullcontext()
    ):
        context.minimum_version = context.maximum_version = version
    async with serving(Gate(write(folder, config))) as (server, address):
        assert await asyncio.to_thread(alert, address, context) == expected
        await until(lambda: server.connections == 0)
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


async def test_a_client_with_a_strangers_certificate_is_told_so(folder: Path):
    context = trusting(folder)
    context.load_cert_chain(folder / "stranger.crt", folder / "stranger.key")
    async with serving(Gate(write(folder, WITH_CLIENTS))) as (_, address):
        assert await asyncio.to_thread(alert, address, context) == "TLSV1_ALERT_UNKNOWN_CA"


async def test_a_client_without_a_common_cipher_is_told_so(folder: Path):
    config = f"{WITH_TLS}  max_version: TLS12\n  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]\n"
    async with serving(Gate(write(folder, config))) as (_, address):
        assert await asyncio.to_thread(alert, address, trusting(folder)) == "SSLV3_ALERT_HANDSHAKE_FAILURE"


async def test_the_reason_of_a_failed_handshake_is_logged_for_who_looks_for_it(
    folder: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG, "exporter.tls")
    async with serving(Gate(write(folder, WITH_CLIENTS))) as (_, address):
        await asyncio.to_thread(alert, address, trusting(folder))
    (record,) = (record for record in caplog.records if record.name == "exporter.tls")
    assert "PEER_DID_NOT_RETURN_A_CERTIFICATE" in str(record.fields["error"])  # type: ignore[attr-defined]


async def test_a_client_that_stays_after_the_alert_is_cut_off(folder: Path):
    context = trusting(folder)
    gate = Gate(write(folder, WITH_CLIENTS))
    async with serving(gate, Limits(request_seconds=0.5)) as (server, address):
        with (
            socket.create_connection((address.host or "", address.port)) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1", do_handshake_on_connect=False) as secured,
        ):
            await asyncio.to_thread(secured.do_handshake)
            await until(lambda: server.connections == 0)
