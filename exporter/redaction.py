"""The secrets that this process holds, and how they are taken out of what it shows.

What reads a secret or receives one calls ``remember``. What shows a text calls ``redact``: the log formatter for each
field of each line, tracebacks included, and ``PollError`` for all that it says, which the status page, the API and the
commands show. A secret is found as text, percent-encoded, escaped as in JSON or Python, and as base64; one that was
cut is found by its beginning. Knows nothing of logs, requests or credentials.
"""

import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from threading import Lock
from urllib.parse import quote, quote_plus

MASK = "***"
SHORTEST_SECRET = 4
"""Fewest characters of a secret that is redacted: a shorter one stands in many words by chance."""
MOST_SECRETS = 64
"""Most secrets that are remembered; the one that was remembered longest ago is forgotten first."""
BEGINNING = 16
"""Characters by which the beginning of a longer secret is recognised where the text was cut in the middle of it."""


class Redactor:
    """Remembers secrets and redacts texts. Any thread may use it."""

    def __init__(self, most_secrets: int = MOST_SECRETS) -> None:
        self._most_secrets = most_secrets
        self._lock = Lock()
        self._secrets: dict[str, None] = {}
        self._forms: tuple[str, ...] = ()
        """All forms of all secrets, the longest first, as a shorter one may be a part of it."""

    def remember(self, *secrets: str) -> None:
        """Redact these from now on. Blank ones, and those shorter than ``SHORTEST_SECRET``, are left out."""
        with self._lock:
            before = set(self._secrets)
            for secret in secrets:
                if len(secret.strip()) >= SHORTEST_SECRET:
                    self._secrets.pop(secret, None)
                    self._secrets[secret] = None
            while len(self._secrets) > self._most_secrets:
                del self._secrets[next(iter(self._secrets))]
            if self._secrets.keys() != before:
                forms = {form for secret in self._secrets for form in _forms(secret)}
                self._forms = tuple(sorted(forms, key=len, reverse=True))

    def redact(self, text: str) -> str:
        """Return the text with ``MASK`` for each secret, and for what looks like a token or a URL's user and password."""
        for form in self._forms:
            if form[:BEGINNING] in text:
                text = text.replace(form, MASK)
                if len(form) > BEGINNING:
                    text = re.sub(re.escape(form[:BEGINNING]) + _REST, MASK, text)
        return _SECRET_BY_LOOKS.sub(MASK, text)


def _forms(secret: str) -> Iterator[str]:
    """Yield how a secret may stand in a text."""
    raw = secret.encode(errors="surrogateescape")
    yield secret
    yield " ".join(secret.split())  # as in a message that was put on one line
    for encoded in (quote(raw), quote(raw, safe=""), quote_plus(raw)):
        yield encoded
        yield re.sub("%[0-9A-F]{2}", lambda escape: escape[0].lower(), encoded)
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield repr(secret)[1:-1]
    for base64 in (b64encode(raw), urlsafe_b64encode(raw)):
        yield base64.decode().rstrip("=")


_REST = r"[\w.~+/=%-]*"
"""What may follow the beginning of a token, an encoded secret or base64."""

_SECRET_BY_LOOKS = re.compile(
    r"""
      (?<=token["']):[^,}]*             # "access_token": "...", in an answer that is quoted
    | eyJ[\w=%-]+(?:\.[\w=%-]+)+        # a JWT, perhaps padded: token or assertion
    | (?<=://)[^\s/@]+(?=@)             # user and password in a URL
    """,
    re.VERBOSE,
)

_shared = Redactor()


def remember(*secrets: str) -> None:
    """Redact these secrets wherever this process shows a text."""
    _shared.remember(*secrets)


def redact(text: str) -> str:
    """Return the text without any secret that this process remembers."""
    return _shared.redact(text)
