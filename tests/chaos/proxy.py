"""The proxy between the exporter and the simulated Azure, which now and then does what networks and gateways do.

It takes a request whole, fetches Azure's answer whole, and lets a fault decide what becomes of it. Knows nothing of
histories; one seed draws the same faults in the order in which requests come.
"""

import asyncio
import gzip
import json
import re
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from random import Random
from socket import SO_LINGER, SOL_SOCKET

RESET = struct.pack("ii", 1, 0)
"""Linger for no time at all: to close is to reset."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request, what Azure answers, and the connection that waits for it."""

    request: bytes
    answer: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    random: Random
    trap: str
    """The URL of a server that nobody must ever ask for anything."""
    earlier: bytes
    """The answer to an earlier request, which may have been about another scale set."""

    def part(self) -> bytes:
        """Return a beginning of the answer."""
        return self.answer[: self.random.randrange(len(self.answer))]

    async def send(self, text: bytes) -> None:
        self.writer.write(text)
        await self.writer.drain()

    def reset(self) -> None:
        self.writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, RESET)
        self.writer.transport.abort()


Fault = Callable[[Exchange], Awaitable[bool]]
"""Sends what it will; returns whether the connection may serve another request."""


# --- What can become of an answer


async def passes(exchange: Exchange) -> bool:
    await exchange.send(exchange.answer)
    return True


async def resets(exchange: Exchange) -> bool:
    exchange.reset()
    return False


async def resets_midway(exchange: Exchange) -> bool:
    await exchange.send(exchange.part())
    await asyncio.sleep(0.01)
    exchange.reset()
    return False


async def truncates(exchange: Exchange) -> bool:
    await exchange.send(exchange.part())
    return False


async def hangs(exchange: Exchange) -> bool:
    await exchange.reader.read()
    return False


async def hangs_midway(exchange: Exchange) -> bool:
    await exchange.send(exchange.part())
    await exchange.reader.read()
    return False


async def drips(exchange: Exchange) -> bool:
    pause = exchange.random.choice((0.001, 0.05, 0.3))
    size = max(1, len(exchange.answer) // 20)
    for start in range(0, len(exchange.answer), size):
        await exchange.send(exchange.answer[start : start + size])
        await asyncio.sleep(pause)
    return True


async def corrupts(exchange: Exchange) -> bool:
    spoilt = bytearray(exchange.answer)
    for _ in range(exchange.random.randint(1, 8)):
        spoilt[exchange.random.randrange(len(spoilt))] = exchange.random.randrange(256)
    await exchange.send(bytes(spoilt))
    return True


async def babbles(exchange: Exchange) -> bool:
    await exchange.send(exchange.random.randbytes(exchange.random.randint(1, 2000)))
    return False


async def says_it_twice(exchange: Exchange) -> bool:
    await exchange.send(exchange.answer * 2)
    return True


async def answers_once_more(exchange: Exchange) -> bool:
    """Send an earlier answer behind the true one, with nothing that shows to which request it belongs."""
    await exchange.send(exchange.answer + _ID.sub(b"", exchange.earlier))
    return True


async def answers_once_more_later(exchange: Exchange) -> bool:
    """Send earlier answers some time after the true one: the connection is idle then, or has been used again."""
    await exchange.send(exchange.answer)
    await asyncio.sleep(exchange.random.choice((0.01, 0.2, 0.8)))
    extra = exchange.earlier * exchange.random.randint(1, 3)
    half = len(extra) // exchange.random.choice((1, 2))
    await exchange.send(extra[:half])
    await asyncio.sleep(0.01)
    await exchange.send(extra[half:])
    return True


_ID = re.compile(rb"(?i)\r\nx-ms-client-request-id:[^\r]*")


async def says_more_than_announced(exchange: Exchange) -> bool:
    await exchange.send(exchange.answer + b'{"value":[]}')
    return True


async def sends_it_in_chunks(exchange: Exchange) -> bool:
    head, _, body = exchange.answer.partition(b"\r\n\r\n")
    head = re.sub(rb"(?i)\r\ncontent-length: \d+", b"", head)
    size = exchange.random.choice((1, 7, 100, 4096))
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    await exchange.send(head + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
    return True


async def compresses(exchange: Exchange) -> bool:
    head, _, body = exchange.answer.partition(b"\r\n\r\n")
    head = re.sub(rb"(?i)\r\ncontent-length: \d+", b"", head)
    body = gzip.compress(body)
    await exchange.send(head + b"\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    return True


def answers(status: str, body: bytes = b"", *headers: str) -> Fault:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    text = "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body

    async def answer(exchange: Exchange) -> bool:
        await exchange.send(text)
        return True

    return answer


def says(document: object) -> Fault:
    return answers("200 OK", json.dumps(document).encode(), "Content-Type: application/json")


async def leads_elsewhere(exchange: Exchange) -> bool:
    link = {"value": [], "nextLink": f"{exchange.trap}/next"}
    redirect = answers(
        exchange.random.choice(("302 Found", "307 T", "308 P")), b"", f"Location: {exchange.trap}/to"
    )
    return await exchange.random.choice((says(link), redirect))(exchange)


async def leads_in_a_circle(exchange: Exchange) -> bool:
    target, host = exchange.request.split(b" ", 2)[1], re.search(rb"(?i)\r\nhost: ([^\r]+)", exchange.request)
    link = f"http://{host[1].decode() if host else ''}{target.decode()}"
    return await says({"value": [], "nextLink": link})(exchange)


BOMB = gzip.compress(b" " * (9 * 1024 * 1024))
CLAIMS = "eyJhY2Nlc3NfdG9rZW4iOnt9fQ"
GATEWAY = b"<html><body><h1>502 Bad Gateway</h1></body></html>"

_PASSES: Fault = passes
FAULTS: dict[str, Fault] = {
    "resets": resets,
    "resets midway": resets_midway,
    "truncates": truncates,
    "hangs": hangs,
    "hangs midway": hangs_midway,
    "drips": drips,
    "corrupts": corrupts,
    "babbles": babbles,
    "says it twice": says_it_twice,
    "says more than announced": says_more_than_announced,
    "answers once more": answers_once_more,
    "answers once more later": answers_once_more_later,
    "sends it in chunks": sends_it_in_chunks,
    "compresses": compresses,
    "leads elsewhere": leads_elsewhere,
    "leads in a circle": leads_in_a_circle,
    "bomb": answers("200 OK", BOMB, "Content-Encoding: gzip"),
    "page": answers("200 OK", GATEWAY, "Content-Type: text/html"),
    "no list": says({"value": "soon"}),
    "nothing": says({"value": []}),
    "absurd": says({"value": [7, {}, {"properties": {"progress": {"failedInstanceCount": -1}}}]}),
    "deep": answers("200 OK", b'{"value":' + b"[" * 100_000),
    "not a number": answers("200 OK", b'{"value":[NaN]}'),
    "400": answers("400 Bad Request"),
    "401": answers(
        "401 Unauthorized", b"", f'WWW-Authenticate: Bearer error="insufficient_claims", claims="{CLAIMS}"'
    ),
    "403": answers("403 Forbidden", b'{"error":{"code":"AuthorizationFailed","message":"No."}}'),
    "404": answers("404 Not Found", b'{"error":{"code":"ResourceNotFound","message":"No."}}'),
    "404 of a gateway": answers("404 Not Found", GATEWAY, "Content-Type: text/html"),
    "404 of the subscription": answers("404 Not Found", b'{"error":{"code":"SubscriptionNotFound"}}'),
    "404 of the resource type": answers("404 Not Found", b'{"error":{"code":"InvalidResourceType"}}'),
    "429": answers("429 Too Many Requests", b"", "Retry-After: 1"),
    "500": answers("500 Internal Server Error"),
    "502": answers("502 Bad Gateway", GATEWAY, "Content-Type: text/html"),
    "503": answers("503 Service Unavailable", b"", "Retry-After: 1"),
    "504": answers("504 Gateway Timeout"),
}


def issues(token: object) -> Fault:
    return says({"access_token": token, "expires_on": "4102444800", "resource": "r", "token_type": "Bearer"})


IDENTITY_FAULTS = FAULTS | {
    "blank token": issues(" "),
    "token of two lines": issues("one\r\nX-Injected: two"),
    "token that is a number": issues(7),
    "token of 70,000 characters": issues("x" * 70_000),
}
"""What can become of an answer of the identity endpoint."""


# --- The weather


@dataclass(frozen=True, slots=True)
class Weather:
    """How things are for a while."""

    name: str
    share: float
    """Of answers, that a fault befalls."""
    reachable: bool = True


CALM = Weather("calm", 0.0)
DARK = Weather("dark", 1.0, reachable=False)
CHAOS = Weather("chaos", 1.0)
WEATHERS = (Weather("fair", 0.05), Weather("rain", 0.3), Weather("storm", 0.8), DARK)


class Proxy:
    """Stands before ``upstream`` (host, port), which answers with a length and never in chunks."""

    def __init__(
        self, upstream: tuple[str, int], random: Random, trap: str, faults: dict[str, Fault] = FAULTS
    ) -> None:
        self.weather = CALM
        self.drawn: Counter[str] = Counter()
        """How often each fault befell an answer."""
        self.requests = 0
        self._upstream = upstream
        self._random = random
        self._trap = trap
        self._faults = tuple(faults.items())
        self._earlier = b""
        self._connections: set[asyncio.StreamWriter] = set()

    async def change(self, seconds: float) -> None:
        """Let the weather change for so long; it is calm after."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    self.weather = self._random.choice(WEATHERS)
                    if not self.weather.reachable:
                        self.hang_up()
                    await asyncio.sleep(self._random.uniform(0.1, 1.5))
        self.weather = CALM

    def hang_up(self) -> None:
        """Close all connections."""
        for writer in self._connections:
            writer.transport.abort()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self._connections.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while self.weather.reachable and await self._exchange(reader, writer):
                pass
        self._connections.discard(writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        request = await _message(reader)
        self.requests += 1
        answer = await self._ask(request)
        name, fault = "passes", _PASSES
        if self._random.random() < self.weather.share:
            name, fault = self._random.choice(self._faults)
        self.drawn[name] += 1
        earlier, self._earlier = self._earlier or answer, answer
        return await fault(Exchange(request, answer, reader, writer, self._random, self._trap, earlier))

    async def _ask(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self._upstream)
        try:
            writer.write(request)
            return await _message(reader)
        finally:
            writer.close()


async def _message(reader: asyncio.StreamReader) -> bytes:
    """Read a request or an answer that announces its length, if it has a body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return head + (await reader.readexactly(int(length[1])) if length else b"")


@asynccontextmanager
async def proxied(
    url: str, random: Random, trap: str, faults: dict[str, Fault] = FAULTS
) -> AsyncIterator[tuple[Proxy, str]]:
    """Run a proxy before ``url``; yield it and its own URL."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    proxy = Proxy((host, int(port)), random, trap, faults)
    async with listening(proxy.connected) as address:
        try:
            yield proxy, address
        finally:
            proxy.hang_up()


@asynccontextmanager
async def listening(
    connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """Accept connections; yield the URL."""
    tasks: set[asyncio.Future[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(connected(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Trap:
    """A server that counts who comes: nobody must."""

    def __init__(self) -> None:
        self.visits: list[str] = []

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits.append((await reader.read(2000)).decode(errors="replace"))
        writer.close()
