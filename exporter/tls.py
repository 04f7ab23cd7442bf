"""TLS contexts whose failed handshakes tell the client why.

asyncio drops the alert that OpenSSL has written together with the connection, so that a client sees a bare end:
https://github.com/python/cpython/issues/98078. Here a failed handshake first counts as one that waits for more bytes.
asyncio then sends the alert, and learns of the failure when the client has ended the connection or sends anything else.
Knows nothing of what TLS is asked for.
"""

import logging
import ssl
from typing import cast

from exporter.log import fields

log = logging.getLogger(__name__)


class _Handshake(ssl.SSLObject):
    """TLS of one connection."""

    outgoing: ssl.MemoryBIO
    """What OpenSSL has written for the client."""
    _failure: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        """Go on with the handshake; raises ``ssl.SSLWantReadError`` while bytes are missing, or an alert is to be sent."""
        if self._failure is not None:
            raise self._failure
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLSyscallError):
            raise
        except ssl.SSLError as error:
            log.debug("TLS handshake failed", extra=fields(error=error))
            if not self.outgoing.pending:  # the client speaks no TLS, so there is no alert for it
                raise
            self._failure = error
            raise ssl.SSLWantReadError from error


class TlsContext(ssl.SSLContext):
    """A context for servers in asyncio."""

    sslobject_class = _Handshake

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Return the TLS of a connection, as ``ssl.SSLContext.wrap_bio`` does."""
        wrapped = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        cast(_Handshake, wrapped).outgoing = outgoing
        return wrapped
