"""The connections of a server, and what each of them may take: time, memory, a place among the others.

Theory of operation. A connection is in one of three states, and each has its end. It is expected to send a whole
request, TLS handshake included: bytes that trickle in do not make that longer. It is being answered: by a deadline
for all of it, and earlier if a reader takes nothing, for what is written and not read is held in memory, be it only
as the version of the exposition that it is part of. Between requests it holds nothing but its place, and the server
within closes it after a while; where places run out, the one that has waited longest for a request gives up its own.
Whoever fails in any of this is cut off, without a word: there is nobody to say it to.

Stands between the sockets and the protocol that serves them. Knows nothing of HTTP but that there are requests.
"""

import asyncio
import logging
import socket
from asyncio import Protocol, TimerHandle, Transport
from collections.abc import Callable
from dataclasses import dataclass
from ssl import SSLContext
from typing import cast

from exporter.log import fields

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a connection may take; times in seconds."""

    connections: int = 256
    """Open at a time; for one more the longest idle is closed, and where none is idle the new one."""
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


class Connections:
    """A protocol factory for ``create_server``: in each connection runs a protocol that ``serve`` makes.

    ``context`` says what TLS to speak on a new connection; ``None``: none.
    """

    def __init__(
        self, serve: Callable[[], Protocol], context: Callable[[], SSLContext | None], limits: Limits
    ) -> None:
        self.serve = serve
        self.context = context
        self.limits = limits
        self._open: dict[Connection, None] = {}
        """In the order of their opening, or of the end of their last answer."""
        self._full = False

    def __call__(self) -> "Connection":
        """Return the protocol of a new connection."""
        return Connection(self)

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._open)

    def take_in(self, connection: "Connection") -> bool:
        """Count a connection, unless there are too many that are being answered."""
        full = len(self._open) >= self.limits.connections
        if full and not self._full:
            log.warning(
                "as many connections as may be, idle ones are closed", extra=fields(open=len(self._open))
            )
        self._full = full or (self._full and len(self._open) > self.limits.connections // 2)
        if full:
            idle = next((other for other in self._open if other.idle), None)
            if idle is None:
                return False
            self.let_go(idle)
            idle.abort()
        self._open[connection] = None
        return True

    def rest(self, connection: "Connection") -> None:
        """Note that a connection begins to wait for its next request."""
        if connection in self._open:
            self.let_go(connection)
            self._open[connection] = None

    def let_go(self, connection: "Connection") -> None:
        """Count a connection no more."""
        self._open.pop(connection, None)

    def retire(self) -> None:
        """Close what is idle now, and the others after their answer: what let them in has changed."""
        for connection in tuple(self._open):
            connection.retire()

    def abort(self) -> None:
        """Cut off every connection."""
        for connection in tuple(self._open):
            connection.abort()


class Connection(Protocol):
    """One connection: cuts itself off when it takes more than it may."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._limits = connections.limits
        self._loop = asyncio.get_running_loop()
        self._transport: Transport | None = None
        self._served: Protocol | None = None
        self._securing: asyncio.Task[None] | None = None
        self._early = b""
        self._received_bytes = 0
        self._answering = False
        self._deadline: TimerHandle | None = None
        self._stalled: TimerHandle | None = None
        self.retired = False
        """Whether it is to be closed after the answer on its way."""

    # --- What the server within tells

    def began(self) -> None:
        """Note that a whole request is there."""
        self._answering = True
        self._end_within(self._limits.answer_seconds)

    def ended(self) -> None:
        """Note that it is answered; what is not read of it yet is under watch still."""
        self._answering = False
        self._received_bytes = 0
        self._end_within(None)
        self._connections.rest(self)

    @property
    def idle(self) -> bool:
        """Whether it waits for a whole request, and all that was answered has been taken."""
        return not self._answering and (
            self._transport is None or not self._transport.get_write_buffer_size()
        )

    def retire(self) -> None:
        """Close now, or after the answer on its way."""
        self.retired = True
        if not self._answering and self._transport is not None:
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
        if not self._connections.take_in(self):
            self._transport.abort()
            return
        self._end_within(self._limits.request_seconds)
        context = self._connections.context()
        if context is None:
            self._begin(self._transport)
        else:
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
            self._begin(secured)

    def _begin(self, transport: Transport) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=1)  # to be told of every byte that is not taken
        self._served = self._connections.serve()
        self._served.connection_made(transport)
        if self._early:
            early, self._early = self._early, b""
            self._served.data_received(early)

    def data_received(self, data: bytes) -> None:
        """Pass it on, if it is not too much."""
        self._received_bytes += len(data)
        if self._received_bytes > self._limits.request_bytes:
            self.abort()
        elif self._served is None:  # TLS stands, but start_tls has yet to return
            self._early += data
        else:
            if self._deadline is None:
                self._end_within(self._limits.request_seconds)
            self._served.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass it on."""
        return self._served.eof_received() if self._served is not None else None

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
