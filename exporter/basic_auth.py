"""Basic authentication (RFC 7617) against bcrypt hashes: slow to guess, the same time whoever asks, cheap for scrapes.

bcrypt is meant to be slow, so it runs in a thread, one check at a time. A password that was once found good is known
again by its digest. A name that nobody has, or one with a cheaper hash, costs as much as the dearest hash: a check
of cost c does 2^c rounds, and checks of decoys of the costs c, c+1, ... up to the dearest make up the difference.
"""

import asyncio
import base64
import binascii
import hmac
import re
from collections.abc import Mapping
from secrets import token_bytes
from typing import Final

import bcrypt

CHECKS_WAITING: Final = 16
"""So many requests may wait for their password's check; who guesses keeps others waiting no longer than that."""
DEAREST: Final = 18
"""The highest cost taken: seconds for a check. Beyond, whoever asks waits in vain."""
_BYTES_THAT_COUNT = 72
"""bcrypt leaves out the rest of a password, and its authors' library refuses to do so by itself."""
_HASH = re.compile(r"\$2[aby]\$([0-9]{2})\$[./0-9A-Za-z]{53}")


class TooManyChecksError(Exception):
    """So many passwords wait to be checked that another one is not."""


def is_hash(text: str) -> bool:
    """Whether this is a bcrypt hash, of a cost that can be borne."""
    found = _HASH.fullmatch(text)
    if found is None or not 4 <= int(found[1]) <= DEAREST:  # noqa: PLR2004 - bcrypt's least
        return False
    try:
        bcrypt.checkpw(b"", f"{text[:4]}04{text[6:]}".encode())
    except ValueError:  # its salt's last character says more than 128 bits
        return False
    return True


def credentials(authorization: str | None) -> tuple[bytes, bytes] | None:
    """Return name and password of an ``Authorization`` header."""
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return (name, password[:_BYTES_THAT_COUNT]) if colon else None


class Users:
    """Who may come in: names and the bcrypt hashes of their passwords."""

    def __init__(self, hashes: Mapping[str, str]) -> None:
        self._hashes = {name.encode(): text.encode() for name, text in hashes.items()}
        self._dearest = max(map(_cost, self._hashes.values()), default=4)
        self._key = token_bytes(32)
        self._found_good: dict[bytes, bytes] = {}
        self._checking = asyncio.Lock()
        self._waiting = 0

    def __bool__(self) -> bool:
        """Whether there is anybody."""
        return bool(self._hashes)

    async def admit(self, authorization: str | None) -> bool:
        """Whether the header names a user and gives that user's password. Raises TooManyChecksError."""
        given = credentials(authorization)
        if given is None:
            return False
        name, password = given
        digest = hmac.digest(self._key, password, "sha256")
        if self._is_known(name, digest):
            return True
        if self._waiting >= CHECKS_WAITING:
            raise TooManyChecksError
        self._waiting += 1
        try:
            async with self._checking:
                if self._is_known(name, digest):  # by now: somebody else asked the same
                    return True
                good = await asyncio.to_thread(self._check, name, password)
        finally:
            self._waiting -= 1
        if good:
            self._found_good[name] = digest
        return good

    def _is_known(self, name: bytes, digest: bytes) -> bool:
        return hmac.compare_digest(self._found_good.get(name, b""), digest)

    def _check(self, name: bytes, password: bytes) -> bool:
        hashed = self._hashes.get(name, _decoy(self._dearest))
        good = bcrypt.checkpw(password, hashed)
        for cost in range(_cost(hashed), self._dearest):
            bcrypt.checkpw(password, _decoy(cost))
        return good and name in self._hashes


def _cost(hashed: bytes) -> int:
    return int(hashed[4:6])


def _decoy(cost: int) -> bytes:
    return b"$2b$%02d$" % cost + b"." * 53
