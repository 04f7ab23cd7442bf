"""Sockets that listen: the addresses of a name that this machine has, and the connections that arrive on them.

asyncio's own ``create_server`` does not fit. It fails as a whole where one address of a name cannot be bound, it gives
each address its own free port, and where no file descriptor is left it stops accepting for a second and reports every
attempt: https://github.com/python/cpython/issues/75128, /89856 and /151615. Knows nothing of what is served.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from errno import EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT
from socket import AddressFamily
from typing import Any

from exporter.address import Address
from exporter.error_log import ErrorLog
from exporter.log import fields

log = logging.getLogger(__name__)

BACKLOG = 1024
"""Maximum connections that the system completes before they are accepted; Linux lowers it to net.core.somaxconn."""
ACCEPTED_AT_ONCE = 8
"""Maximum connections that are accepted in one round of the event loop, so that others get their turn."""
RETRY_SECONDS = 0.05
"""Pause after an accept that failed; by then the connections that made room are closed."""
SAME_PORT_ATTEMPTS = 8
"""Free ports that are tried before the addresses of a name get different ones."""

SocketAddress = tuple[Any, ...]
"""An address as ``socket`` has it, of IPv4 or IPv6."""


class Listener:
    """Accepts the connections of one listening socket until it is closed. Made inside the event loop.

    ``protocol`` makes the protocol of a connection. ``make_room`` is called where accepting fails for want of a file
    descriptor: it closes connections that can be spared.
    """

    def __init__(
        self,
        listening: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        make_room: Callable[[], None],
        errors: ErrorLog,
    ) -> None:
        self._socket = listening
        self._protocol = protocol
        self._make_room = make_room
        self._errors = errors
        self._loop = asyncio.get_running_loop()
        self._starting: set[asyncio.Task[Any]] = set()
        self._resuming: asyncio.TimerHandle | None = None
        self._socket.listen(BACKLOG)
        self._resume()

    @property
    def address(self) -> Address:
        """The address it listens on, with the port that was picked."""
        host, port, *_ = self._socket.getsockname()
        return Address(host, port)

    def close(self) -> None:
        """Stop listening."""
        if self._resuming is not None:
            self._resuming.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _resume(self) -> None:
        self._resuming = None
        self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        for number in range(ACCEPTED_AT_ONCE):
            try:
                connected, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:  # the client has gone already
                continue
            except OSError as error:
                if (
                    number
                ):  # no client may be waiting: Linux looks for a descriptor before it looks for a client
                    return
                self._errors.report("connection not accepted, trying again", error, traceback=False)
                self._make_room()
                self._loop.remove_reader(self._socket)
                self._resuming = self._loop.call_later(RETRY_SECONDS, self._resume)
                return
            connected.setblocking(False)
            starting = self._loop.create_task(self._loop.connect_accepted_socket(self._protocol, connected))
            self._starting.add(starting)
            starting.add_done_callback(self._starting.discard)


async def bind(address: Address) -> list[socket.socket]:
    """Return a bound socket for each address of a name that this machine has; with port 0 all get the same free port.

    An address that the machine does not have, such as ``::1`` where IPv6 is off, is left out with a log line. Raises
    ``OSError`` with a text that names the address where none is left, and where one is in use: another program
    there would get the requests meant for us.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        candidates = list(dict.fromkeys((family, name) for family, _, _, _, name in found))
        sockets = bind_all(address, candidates)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from error
    return sockets


def bind_all(
    address: Address, candidates: Sequence[tuple[AddressFamily, SocketAddress]]
) -> list[socket.socket]:
    """Return a bound socket for each of a name's addresses that this machine has; raises ``OSError``."""
    for attempt in range(SAME_PORT_ATTEMPTS + 1):
        bound: list[socket.socket] = []
        missing: list[tuple[SocketAddress, OSError]] = []
        try:
            for family, (host, port, *rest) in candidates:
                same = bound[0].getsockname()[1] if bound and attempt < SAME_PORT_ATTEMPTS else 0
                name = (host, port or same, *rest)
                try:
                    bound.append(_bind_one(family, name))
                except OSError as error:
                    if error.errno not in (EADDRNOTAVAIL, EAFNOSUPPORT):
                        raise
                    missing.append((name, error))
        except OSError as error:
            for each in bound:
                each.close()
            if error.errno == EADDRINUSE and address.port == 0 and attempt < SAME_PORT_ATTEMPTS:
                continue
            raise
        break
    if not bound:
        raise missing[0][1]
    for name, reason in missing:
        log.warning(
            "address left out, this machine does not have it",
            extra=fields(address=Address(name[0], name[1]), of=address, error=reason.strerror),
        )
    return bound


def _bind_one(family: AddressFamily, name: SocketAddress) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
        made.setblocking(False)
        made.bind(name)
    except OSError:
        made.close()
        raise
    return made
