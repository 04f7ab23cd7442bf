"""Which certificates are accepted does not depend on the version of Python."""

import ssl
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import aiohttp
import aiohttp.connector
import pytest
from aiohttp import web

from exporter.azure.client import CLIENT_REQUEST_ID, Client
from exporter.azure.clouds import CLOUDS
from exporter.azure.credential import Credential
from exporter.config import ManagedIdentity
from exporter.telemetry import Telemetry
from tests.entra import Authority, serving_https


@pytest.fixture(params=[True, False], ids=["as from Python 3.13 on", "as before"])
def context(request: pytest.FixtureRequest) -> Iterator[ssl.SSLContext]:
    """Yield aiohttp's own context with the rules of a version of Python."""
    context = aiohttp.connector._SSL_CONTEXT_VERIFIED  # noqa: SLF001 - else only a new process could
    assert context is not None
    before = context.verify_flags
    strict = ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags = before | strict if request.param else before & ~strict
    yield context
    context.verify_flags = before


async def answer(_: web.BaseRequest) -> web.Response:
    return web.Response()


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    telemetry, cloud = Telemetry(), CLOUDS["public"]
    credential = Credential(ManagedIdentity(), cloud, telemetry)
    client = Client(cloud, credential, telemetry, connections=1)
    yield client
    await client.close()
    await credential.close()


async def test_an_authority_that_is_older_than_python_3_13_demands_is_accepted(
    context: ssl.SSLContext, client: Client
):
    """``Missing Authority Key Identifier``, behind a TLS-inspecting proxy: python/cpython#138193, urllib3/urllib3#3571."""
    name = f"old {uuid4()}"  # another each time, as the context keeps the authorities that it trusts
    authority = Authority(name, old=True)
    context.load_verify_locations(cadata=authority.pem)
    async with (
        serving_https(answer, authority) as port,
        client.session.get(f"https://localhost:{port}", headers={CLIENT_REQUEST_ID: "one"}) as said,
    ):
        assert said.status == 200


async def test_an_authority_that_nobody_vouches_for_is_refused(context: ssl.SSLContext, client: Client):
    async with serving_https(answer, Authority("unknown")) as port:
        with pytest.raises(Exception, match="certificate verify failed"):
            await client.session.get(f"https://localhost:{port}")
