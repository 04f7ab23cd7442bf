"""Connections to Azure that carry one answer for each request, never one that was left over.

A server or a gateway may send bytes that were not asked for: an answer twice, or the rest of one that was given up. aiohttp
keeps such a connection and takes the bytes for the answer to the next request (aio-libs/aiohttp#13656). Knows nothing
of what is asked or answered.

This depends on the version of aiohttp (as of 3.14.5): ``ResponseHandler.should_close`` tells of whole
messages, and ``ResponseHandler._parser`` keeps the beginning of one. The tests fail where either changes.
"""

import select
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.tracing import Trace


class UnaskedBytesError(aiohttp.ClientConnectionError):
    """A server sent bytes on a new connection before it was asked for anything."""


class CleanConnector(aiohttp.TCPConnector):
    """Opens connections, and uses one again only if every byte that came on it has been read as part of an answer."""

    def __init__(self, *, limit: int) -> None:
        super().__init__(limit=limit)
        self._protocols: WeakKeyDictionary[aiohttp.ClientRequest, ResponseHandler] = WeakKeyDictionary()

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  (aiohttp's signature)
    ) -> Connection:
        """Return a connection for a request; closes those that have unread bytes.

        Raises:
            UnaskedBytesError: bytes came on a new connection.

        """
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if protocol is not None and not _has_unread_bytes(protocol):
                self._protocols[req] = protocol
                return connection
            connection.close()
            if protocol is not None and protocol._parser is None:  # noqa: SLF001  (a new one: another would be alike)
                raise UnaskedBytesError("the server sent bytes before it was asked")

    def close_connection(self, req: aiohttp.ClientRequest) -> None:
        """Close the connection on which a request was sent, even if it has gone back to the pool."""
        protocol = self._protocols.get(req)
        if protocol is not None:
            protocol.close()


def _has_unread_bytes(protocol: ResponseHandler) -> bool:
    """Return whether more came on an idle connection than the answers that were read."""
    if protocol.should_close:  # a whole message waits, or what came was no message
        return True
    parser = protocol._parser  # noqa: SLF001  (no public attribute shows half a head)
    if parser is None:
        return False  # a new connection, on which TLS may have messages of its own to send
    try:
        # The next request gets another parser. What this one holds of a further message would be lost, but not its rest.
        if parser.feed_eof() is not None:
            return True
    except Exception:  # noqa: BLE001  (the parser has many kinds of error, and each means the same here)
        return True
    return _is_readable(protocol)


def _is_readable(protocol: ResponseHandler) -> bool:
    """Return whether the system holds bytes, or the end of the stream, that the event loop has not read yet."""
    if protocol.transport is None:
        return True
    poll = select.poll()
    poll.register(protocol.transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))
