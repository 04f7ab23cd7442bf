"""What can go wrong with a request to Azure, each kind with the ``reason`` under which a poll reports it.

Raised by the client and the credential, caught once, in the poller.
"""

import json
from typing import ClassVar

from exporter.redaction import redact
from exporter.snapshot import Reason

EXCERPT = 256
"""Characters of a body that an error quotes."""
_LONGEST_SECRET = 64 * 1024
"""Characters of a token, the longest of secrets, that may stand in a text which is cut later."""


class PollError(Exception):
    """A poll failed. ``str()`` says why in one line, for the log and the status page, without any secret."""

    reason: ClassVar[Reason]

    def __init__(self, message: str, *, request_id: str = "", excerpt: str = "") -> None:
        super().__init__(redact(message))
        self.request_id = redact(request_id)
        """``x-ms-request-id`` of the answer, for Azure's support."""
        self.client_request_id = ""
        """``x-ms-client-request-id`` of the request, by which Azure's support finds one that had no answer."""
        self.excerpt = redact(excerpt)
        """The first characters of an answer that made no sense."""

    @property
    def ids(self) -> dict[str, str]:
        """The id by which Azure's support finds the request, as a field of a log line: Azure's, else ours."""
        if self.request_id:
            return {"request_id": self.request_id}
        return {"client_request_id": self.client_request_id} if self.client_request_id else {}


class Unauthorized(PollError):
    """401, or no token because the identity provider refused one or the machine has no credential to use."""

    reason = Reason.UNAUTHORIZED

    def __init__(self, message: str, *, request_id: str = "", claims: str | None = None) -> None:
        super().__init__(message, request_id=request_id)
        self.claims = claims
        """The claims that the next token must meet, where Azure demanded some."""


class Forbidden(PollError):
    """403: the identity lacks the permission."""

    reason = Reason.FORBIDDEN


class NotFound(PollError):
    """404 ``ResourceNotFound`` or ``ResourceGroupNotFound``: the scale set or its resource group does not exist."""

    reason = Reason.NOT_FOUND


class Throttled(PollError):
    """429: the budget is spent."""

    reason = Reason.THROTTLED

    def __init__(self, message: str, *, request_id: str = "", retry_after: float) -> None:
        super().__init__(message, request_id=request_id)
        self.retry_after = retry_after
        """Seconds for which the subscription is to be left alone."""


class BadRequest(PollError):
    """Any other 4xx, any other 404 included."""

    reason = Reason.BAD_REQUEST


class Malformed(PollError):
    """An answer that is not what was asked for: no history, too large, endless, or leading elsewhere."""

    reason = Reason.MALFORMED


class Passing(PollError):
    """May be gone a moment later: the client tries again within the poll's deadline."""


class ServerError(Passing):
    """5xx, of the identity endpoint too."""

    reason = Reason.SERVER_ERROR


class TimedOut(Passing):
    """The answer never came."""

    reason = Reason.TIMEOUT


class Unreachable(Passing):
    """No connection to Azure or its identity endpoint, or it broke before an answer came: DNS, connect, TLS, reset."""

    reason = Reason.UNREACHABLE


def parse_error(body: bytes) -> str:
    """Return ``<code>: <message>`` of a failed answer's ``CloudError``, as much as there is of it.

    Total. The error comes wrapped in ``error`` as usual, or bare as in Compute's own 429.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if isinstance(document, dict) and isinstance(document.get("error"), dict):
        document = document["error"]
    if not isinstance(document, dict):
        return ""
    texts = (document.get(name) for name in ("code", "message"))
    return ": ".join(one_line(text) for text in texts if isinstance(text, str))


def one_line(text: str, limit: int = EXCERPT) -> str:
    """Return the first ``limit`` characters, fit for one line of a log.

    The text is redacted before it is cut: a secret that is cut in two is not recognised any more.
    """
    text = redact(text[: 4 * limit + _LONGEST_SECRET])
    return " ".join(text[: 4 * limit].encode(errors="replace").decode().split())[:limit]
