"""A Microsoft Entra ID for tests: token endpoints over https, and the certificate authority that vouches for them."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp.connector
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from exporter.azure.clouds import CLOUDS

HOSTS = ("localhost", *(cloud.authority.removeprefix("https://") for cloud in CLOUDS.values()))
"""For whom the token endpoints can show a certificate."""


# --- Certificates


def _named(name: str, issuer: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
    def common_name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(common_name(name))
        .issuer_name(common_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )


def _pem(*parts: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | x509.Certificate) -> bytes:
    pem = serialization.Encoding.PEM
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return b"".join(
        part.public_bytes(pem) if isinstance(part, x509.Certificate) else part.private_bytes(pem, form, plain)
        for part in parts
    )


class Authority:
    """A certificate authority; an old one leaves out what Python demands from 3.13 on."""

    def __init__(self, name: str, *, old: bool = False) -> None:
        self._name = name
        self._old = old
        self._key = ec.generate_private_key(ec.SECP256R1())
        builder = _named(name, name, self._key)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=not old)
        if not old:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, True)
        self._certificate = self._identified(builder, self._key).sign(self._key, hashes.SHA256())
        self.pem = _pem(self._certificate).decode()

    def server(self) -> ssl.SSLContext:
        """Return what a server at ``HOSTS`` or 127.0.0.1 shows to its clients."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [*(x509.DNSName(host) for host in HOSTS), x509.IPAddress(ip_address("127.0.0.1"))]
        builder = _named(HOSTS[0], self._name, key)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        certificate = self._identified(builder, key).sign(self._key, hashes.SHA256())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with TemporaryDirectory() as folder:
            file = Path(folder, "server.pem")
            file.write_bytes(_pem(key, certificate))
            context.load_cert_chain(file)
        return context

    def _identified(
        self, builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        """Add the identifiers of the key that signs, and of the one that is signed for."""
        if self._old:
            return builder
        ours = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        theirs = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        return builder.add_extension(ours, False).add_extension(theirs, False)


@cache
def trusted() -> Authority:
    """Return an authority that this process trusts, as it would by ``SSL_CERT_FILE`` given at its start."""
    authority = Authority("trusted by the tests")
    context = aiohttp.connector._SSL_CONTEXT_VERIFIED  # noqa: SLF001 - else only a new process could
    assert context is not None
    context.load_verify_locations(cadata=authority.pem)
    return authority


@cache
def client_certificate() -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    """Return what an app registration signs in with."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key, _named("app", "app", key).sign(key, hashes.SHA256())


# --- The token endpoints


@dataclass
class Asked:
    """One request for a token."""

    host: str
    path: str
    form: dict[str, str]


@dataclass
class Entra:
    """Gives a token to whoever asks, but as long as ``refusals`` hold out: then status and answer are of those."""

    port: int = 0
    expires_in: int = 3600
    asked: list[Asked] = field(default_factory=list)
    refuse: Callable[[dict[str, str]], tuple[int, dict[str, object]] | None] = lambda _: None
    issue: Callable[[], str] = field(
        default_factory=lambda: (f"token-{number}" for number in count(1)).__next__
    )
    hangs: bool = False

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.asked.append(Asked(request.host, request.path, form))
        if self.hangs:
            await asyncio.sleep(60)
        if refusal := self.refuse(form):
            return web.json_response(refusal[1], status=refusal[0])
        return web.json_response(
            {"token_type": "Bearer", "expires_in": self.expires_in, "access_token": self.issue()}
        )


def invalid_client(why: str) -> tuple[int, dict[str, object]]:
    """Refuse as Entra ID does."""
    return 401, {"error": "invalid_client", "error_description": why, "error_codes": [7000215]}


@asynccontextmanager
async def serving_https(
    handler: Callable[[web.BaseRequest], object], authority: Authority
) -> AsyncIterator[int]:
    """Serve on a free port of 127.0.0.1; yield the port."""
    runner = web.ServerRunner(web.Server(handler, access_log=None), shutdown_timeout=0.1)  # type: ignore[arg-type]
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=authority.server()).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def entra_id(authority: Authority | None = None) -> AsyncIterator[Entra]:
    """Run token endpoints, certified by an authority that this process trusts, or else by the given one."""
    entra = Entra()
    async with serving_https(entra, authority or trusted()) as entra.port:
        yield entra


# --- A proxy


@dataclass
class Proxy:
    """Tunnels whatever is asked for to one port of this machine, as if the whole internet lived there."""

    to: int
    port: int = 0
    targets: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    status: str = "200 Connection established"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.targets.append(head.split()[1])
        self.heads.append(head)
        writer.write(f"HTTP/1.1 {self.status}\r\n\r\n".encode())
        if not self.status.startswith("200"):
            writer.close()
            return
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.to)
        await asyncio.gather(_pipe(reader, there_writer), _pipe(there_reader, writer))


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def proxy_to(port: int) -> AsyncIterator[Proxy]:
    """Run a proxy."""
    proxy, tasks = Proxy(port), set[asyncio.Task[None]]()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(proxy.serve(reader, writer)))

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy.port = listener.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
