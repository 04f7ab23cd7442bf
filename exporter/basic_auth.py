"""Basic authentication (RFC 7617) against bcrypt hashes: slow to guess, cheap for scrapes, silent about names.

bcrypt is meant to be slow, so checks run in threads: one at a time of each cost, so that a cheap one never waits for a
dear one. A password that was once found good is known again by its digest. A good password costs the check of its own
hash. A wrong one costs as much as the dearest hash, whatever the name is: a check of cost c does 2^c rounds, and checks
of decoys of the costs c, c+1, ... up to the dearest make up the difference, in the queue of the dearest. An unknown
name is checked against a decoy of the dearest cost. So the time of a refusal does not tell which names there are.
"""

import asyncio
import base64
import binascii
import hmac
import re
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager
from secrets import token_bytes
from threading import Thread
from typing import Final, ParamSpec, TypeVar

import bcrypt

CHECKS_WAITING: Final = 16
"""Maximum requests that wait for a check of one cost; guesses keep others waiting no longer than that."""
DEAREST: Final = 18
"""The highest cost taken: seconds for a check. Beyond, whoever asks waits in vain."""
_BYTES_THAT_COUNT = 72
"""bcrypt leaves out the rest of a password, and its authors' library refuses to do so by itself."""
_HASH = re.compile(r"\$2[aby]\$([0-9]{2})\$[./0-9A-Za-z]{53}")

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


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


class _Queue:
    """Checks of one cost, one at a time."""

    def __init__(self) -> None:
        self._free = asyncio.Lock()
        self._waiting = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until no other check runs. Raises TooManyChecksError where too many wait already."""
        if self._waiting >= CHECKS_WAITING:
            raise TooManyChecksError
        self._waiting += 1
        try:
            async with self._free:
                yield
        finally:
            self._waiting -= 1


class Users:
    """Who may come in: names and the bcrypt hashes of their passwords."""

    def __init__(self, hashes: Mapping[str, str]) -> None:
        self._hashes = {name.encode(): text.encode() for name, text in hashes.items()}
        self._dearest = max(map(_cost, self._hashes.values()), default=4)
        self._queues = {cost: _Queue() for cost in {self._dearest, *map(_cost, self._hashes.values())}}
        self._key = token_bytes(32)
        self._found_good: dict[bytes, bytes] = {}

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
        hashed = self._hashes.get(name, _decoy(self._dearest))
        async with self._queues[_cost(hashed)].turn():
            if self._is_known(name, digest):  # another request has asked the same meanwhile
                return True
            if await _in_thread(self._check, name, password, hashed):
                self._found_good[name] = digest
                return True
        if _cost(hashed) < self._dearest:
            async with self._queues[self._dearest].turn():
                await _in_thread(_make_up, password, _cost(hashed), self._dearest)
        return False

    def _is_known(self, name: bytes, digest: bytes) -> bool:
        return hmac.compare_digest(self._found_good.get(name, b""), digest)

    def _check(self, name: bytes, password: bytes, hashed: bytes) -> bool:
        return bcrypt.checkpw(password, hashed) and name in self._hashes


async def _in_thread(
    check: Callable[_Given, _Result], *given: _Given.args, **named: _Given.kwargs
) -> _Result:
    """Run a check in a thread of its own.

    The process would not end before a thread of ``asyncio.to_thread`` has returned, which may take half a minute.
    """
    outcome: Future[_Result] = Future()
    outcome.set_running_or_notify_cancel()  # a running one cannot be cancelled, so that its result can always be set

    def run() -> None:
        try:
            outcome.set_result(check(*given, **named))
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            outcome.set_exception(error)

    Thread(target=run, name="password check", daemon=True).start()
    return await asyncio.wrap_future(outcome)


def _make_up(password: bytes, cost: int, dearest: int) -> None:
    """Do the rounds that a check of this cost is short of one of the dearest."""
    for each in range(cost, dearest):
        bcrypt.checkpw(password, _decoy(each))


def _cost(hashed: bytes) -> int:
    return int(hashed[4:6])


def _decoy(cost: int) -> bytes:
    return b"$2b$%02d$" % cost + b"." * 53
