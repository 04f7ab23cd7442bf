"""The connections of a server, and what each of them may take: time, memory, a place among the others.

Theory of operation. A connection is in one of three states, and each has its end. It is expected to send a whole
request, TLS handshake included: bytes that trickle in do not make that longer. It is being answered: by a deadline
for all of it, and earlier if a reader takes nothing, for what is written and not read is held in memory, be it only
as the version of the exposition that it is part of. Between requests it holds nothing but its place, and the server
within closes it after a while. A client that fails in any of this is cut off without an answer.

Places are shared out by network: an IPv4 address, or the /64 of an IPv6 address, as one client has all of that. Where
no place is free, the network that holds most gives one up, the newcomer counted: of its connections one that waits for
a request, and where none does, one that is being answered, unless the newcomer's network would then hold as many. So
a client takes places from itself only, however many it opens. Those that were never served and those that were are two
queues, and the longer one gives up the connection that has waited longest: clients who only connect do not displace
a scraper between two scrapes, and clients who have been served do not displace one that is about to ask.

Stands between the sockets and the protocol that serves them. Knows nothing of HTTP but that there are requests.
"""

import asyncio
import logging
import socket
from asyncio import Protocol, TimerHandle, Transport
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from ssl import SSLContext
from typing import Final, cast

from exporter.log import fields

log = logging.getLogger(__name__)

MOST_CONNECTIONS: Final = 256
RESERVED_DESCRIPTORS: Final = 64
"""File descriptors for all but polls and connections: the journal, sign-ins, files, listening sockets, logs, pipes."""


def affordable_connections(descriptors: int | None, polls: int) -> int:
    """Return how many connections a process may hold that may open so many file descriptors (``None``: any number).

    ``polls`` is the number of connections to Azure at a time. A quarter of the descriptors is for connections in any
    case, as a process that cannot be scraped is of no use.
    """
    if descriptors is None:
        return MOST_CONNECTIONS
    return min(MOST_CONNECTIONS, max(descriptors - RESERVED_DESCRIPTORS - polls, descriptors // 4, 1))


@dataclass(frozen=True, slots=True)
class Limits:
    """What a connection may take; times in seconds."""

    connections: int = MOST_CONNECTIONS
    """Open at a time; for one more, another is closed or the new one refused, as said above."""
    request_bytes: int = 65_536
    """A request, headers and body; nothing that is served has need of a body."""
    request_seconds: float = 10.0
    """From the opening of a connection, or the first byte of a request, to its last header."""
    answer_seconds: float = 30.0
    """From there to the end of the answer. Prometheus gives up after 10, unless told otherwise."""
    stall_seconds: float = 10.0
    """For which a reader may leave unread what the system does not keep."""
    unsent_bytes: int = 131_072
    """What the system keeps of an answer that a reader is not ready for; by itself it would keep megabytes."""
    idle_seconds: float = 75.0
    """Between two requests; longer than the minute that is the longest usual interval of scrapes."""


def network_of(host: str) -> str:
    """Return the network that a client's address counts for: itself, or the /64 of an IPv6 address."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Address(int(address) >> 64 << 64)) + "/64"


class Connections:
    """A protocol factory for listeners: in each connection runs a protocol that ``serve`` makes.

    ``context`` says what TLS to speak on a new connection; ``None``: none.
    """

    def __init__(
        self,
        serve: Callable[["Connection"], Protocol],
        context: Callable[[], SSLContext | None],
        limits: Limits,
    ) -> None:
        self.serve = serve
        self.context = context
        self.limits = limits
        self._new: dict[Connection, None] = {}
        """Connections that were never served, in the order of their opening."""
        self._idle: dict[Connection, None] = {}
        """Connections that were served and wait for another request, in the order of the end of their last answer."""
        self._answering: dict[Connection, None] = {}
        """Connections that are being answered, in the order of their requests."""
        self._held: Counter[str] = Counter()
        """Number of connections by network."""
        self._full = False

    def __call__(self) -> "Connection":
        """Return the protocol of a new connection."""
        return Connection(self)

    def __len__(self) -> int:
        """Return how many are open."""
        return self._held.total()

    def take_in(self, connection: "Connection") -> bool:
        """Count a connection; return whether there is a place for it."""
        full = len(self) >= self.limits.connections
        if full and not self._full:
            log.warning("no connection left, closing idle ones", extra=fields(open=len(self)))
        self._full = full or (self._full and len(self) > self.limits.connections // 2)
        self._held[connection.network] += 1
        if full:
            spared = self._to_spare(connection.network)
            if spared is None:
                self._release(connection.network)
                return False
            self.let_go(spared)
            spared.abort()
        self._new[connection] = None
        return True

    def make_room(self) -> None:
        """Cut off a connection that waits for a request, as no file descriptor is left."""
        spared = self._to_spare() or next(iter((*self._idle, *self._new)), None)
        if spared is not None:
            self.let_go(spared)
            spared.abort()

    def answer(self, connection: "Connection") -> None:
        """Note that a connection is being answered."""
        if self._leave(connection):
            self._answering[connection] = None

    def rest(self, connection: "Connection", *, served: bool) -> None:
        """Note that a connection begins to wait for its next request; ``served``: it got what it asked for."""
        if self._leave(connection):
            (self._idle if served else self._new)[connection] = None

    def let_go(self, connection: "Connection") -> None:
        """Count a connection no more."""
        if self._leave(connection):
            self._release(connection.network)

    def retire(self) -> None:
        """Close what waits between two requests now, and the others after their answer: what let them in has changed."""
        for connection in self._all():
            connection.retire()

    def abort(self) -> None:
        """Cut off every connection."""
        for connection in self._all():
            connection.abort()

    def _all(self) -> tuple["Connection", ...]:
        return (*self._new, *self._idle, *self._answering)

    def _leave(self, connection: "Connection") -> bool:
        """Take a connection out of its queue; return whether it was in one."""
        for queue in (self._new, self._idle, self._answering):
            if connection in queue:
                del queue[connection]
                return True
        return False

    def _release(self, network: str) -> None:
        self._held[network] -= 1
        if not self._held[network]:
            del self._held[network]

    def _to_spare(self, newcomer: str | None = None) -> "Connection | None":
        """Return the connection that gives up its place, to a newcomer of a network or to free a descriptor."""
        most = max(self._held.values(), default=0)
        queues = sorted((self._new, self._idle), key=len, reverse=True)
        if newcomer is not None and self._held[newcomer] < most:
            queues.append(self._answering)
        for queue in queues:
            for connection in queue:
                if self._held[connection.network] == most:
                    return connection
        return None


class Connection(Protocol):
    """One connection: cuts itself off when it takes more than it may."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._limits = connections.limits
        self._loop = asyncio.get_running_loop()
        self._transport: Transport | None = None
        self._served: Protocol | None = None
        self._securing: asyncio.Task[None] | None = None
        self._by_tls = self._secured = False
        self._early = b""
        self._received_bytes = 0
        self._answering = False
        self._deadline: TimerHandle | None = None
        self._stalled: TimerHandle | None = None
        self.network = ""
        """What it counts for, as ``network_of`` says."""
        self.retired = False
        """Whether it is to be closed after its next answer."""

    # --- What the server within tells

    def began(self) -> None:
        """Note that a whole request is there."""
        self._answering = True
        self._end_within(self._limits.answer_seconds)
        self._connections.answer(self)

    def ended(self, *, served: bool) -> None:
        """Note that it is answered; ``served`` says whether with what was asked for."""
        self._answering = False
        self._received_bytes = 0
        self._end_within(None)
        self._connections.rest(self, served=served)

    def retire(self) -> None:
        """Close now, or after the next answer where a request is expected, is on its way or is being answered.

        A connection that was just opened would otherwise be cut off with its first request on the way.
        """
        self.retired = True
        if self._deadline is None and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Cut it off."""
        if self._securing is not None:
            self._securing.cancel()
        if self._transport is not None:
            self._transport.abort()

    # --- What asyncio tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with TLS or with the protocol within."""
        self._transport = cast(Transport, transport)
        connected = self._transport.get_extra_info("socket")
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, self._limits.unsent_bytes)
        peer = self._transport.get_extra_info("peername")  # None of a client that has gone already
        self.network = network_of(peer[0]) if peer else ""
        if not self._connections.take_in(self):
            self._transport.abort()
            return
        self._end_within(self._limits.request_seconds)
        context = self._connections.context()
        if context is None:
            self._secured = True
        else:
            self._by_tls = True
            self._transport.pause_reading()  # what comes now is TLS's
            self._securing = self._loop.create_task(self._secure(self._transport, context))

    async def _secure(self, transport: Transport, context: SSLContext) -> None:
        try:
            secured = await self._loop.start_tls(transport, self, context, server_side=True)
        except (OSError, asyncio.CancelledError) as error:
            log.debug(
                "TLS handshake failed", extra=fields(client=transport.get_extra_info("peername"), error=error)
            )
            self.connection_lost(None)
            return
        finally:
            self._securing = None
        if secured is not None and not secured.is_closing():
            self._transport, self._secured = secured, True
            early, self._early = self._early, b""
            if early:
                self._pass_on(early)

    def data_received(self, data: bytes) -> None:
        """Pass it on, if it is not too much."""
        self._received_bytes += len(data)
        if self._received_bytes > self._limits.request_bytes:
            self.abort()
        elif not self._secured:  # TLS stands, but start_tls has yet to return
            self._early += data
        else:
            self._pass_on(data)

    def _pass_on(self, data: bytes) -> None:
        if self._transport is None:
            return
        if (
            self._served is None
        ):  # made only now, as it costs more than a connection that asks for nothing is worth
            self._transport.set_write_buffer_limits(high=1)  # to be told of every byte that is not taken
            self._served = self._connections.serve(self)
            self._served.connection_made(self._transport)
        if self._deadline is None:
            self._end_within(self._limits.request_seconds)
        self._served.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass it on; return whether there are still answers to send, which TLS cannot once the client has ended."""
        half_closed = self._served is not None and self._served.eof_received()
        return half_closed and not self._by_tls

    def pause_writing(self) -> None:
        """Note that the reader leaves something unread."""
        self._stalled = self._loop.call_later(self._limits.stall_seconds, self.abort)
        if self._served is not None:
            self._served.pause_writing()

    def resume_writing(self) -> None:
        """Note that it has read all."""
        if self._stalled is not None:
            self._stalled.cancel()
        if self._served is not None:
            self._served.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up."""
        self._end_within(None)
        if self._stalled is not None:
            self._stalled.cancel()
        self._connections.let_go(self)
        served, self._served, self._transport = self._served, None, None
        if served is not None:
            served.connection_lost(exc)

    def _end_within(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self._loop.call_later(seconds, self.abort)
