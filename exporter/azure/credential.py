"""Tokens for Azure Resource Manager: when to sign in, and what all polls use meanwhile.

There is one token, which every poll uses. Shortly before it expires one sign-in replaces it, while the polls go on
with the old one. A sign-in is a task with a timeout of its own: all polls that need a token wait for the same task, and
a poll that gives up waiting does not end it. Two sign-ins are ``SPACING_SECONDS`` apart, whether or not the first one
succeeds; until then every poll fails as the first one did. Everything here goes by the monotonic clock. The wall clock
is read once for each token, to compute the remaining seconds when the token arrives.

Knows nothing of requests to Resource Manager, nor of how each kind of credential signs in.
"""

import asyncio
import logging
import random
import re
from collections.abc import Callable
from time import monotonic, time

from exporter.azure.clouds import Cloud
from exporter.azure.errors import PollError, ServerError, TimedOut, Unauthorized, Unreachable
from exporter.azure.identity import AccessToken, sign_in
from exporter.config import CredentialConfig
from exporter.log import fields
from exporter.redaction import remember
from exporter.telemetry import Telemetry

log = logging.getLogger(__name__)

SIGN_IN_SECONDS = 20.0
"""Timeout of a sign-in; shorter than a poll's by default, so that polls learn how it ended."""
SPACING_SECONDS = 5.0
"""Between two sign-ins, good or bad. Only a claims challenge may come sooner."""
JITTER_SECONDS = 1.0
"""Added at random to the spacing before a failed sign-in is repeated, so that many exporters do not act as one."""
LOOKED_EXPIRED_SECONDS = 30.0
"""How long a token is used that looked expired when it arrived. Our clock may be ahead, and Azure is the judge."""
REFRESH_SECONDS = 300.0
"""How long before its end a token is replaced, where Azure does not say when."""
REFRESH_AGAIN_SECONDS = 30.0
"""Between two attempts to replace a token that is still good."""
LONGEST_SECONDS = 7 * 86_400.0
"""How long a token is used at most, whatever it says of itself; Azure's last a day."""
LONGEST_TOKEN = 64 * 1024
"""Characters of a token at most; Azure's have a few thousand."""


class Credential:
    """Signs in as the configuration says. ``clock`` gives monotonic seconds."""

    def __init__(
        self,
        config: CredentialConfig,
        cloud: Cloud,
        telemetry: Telemetry,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._config = config
        self._cloud = cloud
        self._telemetry = telemetry
        self._clock = clock
        self._token: str | None = None
        self._expires_at = 0.0
        self._refresh_at = 0.0
        self._next_sign_in_at = 0.0
        """Until when there is no other sign-in, of the same clock as the others."""
        self._demand: tuple[float, str] | None = None
        self._failed: tuple[type[PollError], str] | None = None
        self._signing_in: asyncio.Task[None] | None = None

    @property
    def failure(self) -> PollError | None:
        """Why the last sign-in failed, an exception to raise; ``None`` after a good one."""
        if self._failed is None:
            return None
        kind, message = self._failed
        return kind(message)

    async def token(self) -> str:
        """Return a token; the one at hand costs a microsecond.

        Raises:
            Unauthorized: the identity provider refused, or there is no credential to use.
            Unreachable, TimedOut, ServerError: the identity endpoint was not reached, did not answer, or failed.

        """
        token, now = self._token, self._clock()
        if token is None or now >= self._expires_at:
            return await self._signed_in()
        if now >= self._refresh_at:
            self._sign_in()
        return token

    async def fresh_token(self, refused: str, claims: str | None) -> str:
        """Return another token than ``refused``, one that meets ``claims`` where Azure demanded some.

        Only where the last sign-in was a moment ago, the same one is returned again: another would fare no better.
        Raises what ``token`` raises.
        """
        if self._signing_in is not None:
            await asyncio.wait((self._signing_in,))
        if self._token != refused:
            return await self.token()
        now = self._clock()
        if claims is None:
            too_soon = now < self._next_sign_in_at
        else:
            too_soon = self._demand is not None and self._demand[1] == claims and now < self._demand[0]
        if too_soon and self._failed is None:
            return refused
        return await self._signed_in(claims)

    async def close(self) -> None:
        """End a sign-in that is under way."""
        if self._signing_in is not None:
            self._signing_in.cancel()
            await asyncio.wait((self._signing_in,))

    async def _signed_in(self, claims: str | None = None) -> str:
        """Return the token of the sign-in under way, or else of a new one; raises what it raises."""
        if self._failed is None or self._clock() >= self._next_sign_in_at:
            await asyncio.shield(self._sign_in(claims))
        if failure := self.failure:
            raise failure
        assert self._token is not None  # noqa: S101 - a sign-in that did not fail brought one
        return self._token

    def _sign_in(self, claims: str | None = None) -> asyncio.Task[None]:
        """Begin to sign in, unless that is under way."""
        if self._signing_in is None:
            self._signing_in = asyncio.create_task(self._try(claims))
            self._signing_in.add_done_callback(self._ended)
        return self._signing_in

    def _ended(self, _: object) -> None:
        self._signing_in = None

    async def _try(self, claims: str | None) -> None:
        """Sign in, once more where the identity endpoint was not reached or failed.

        Polls that come before the second time have the failure of the first for an answer.
        """
        await self._attempt(claims)
        if isinstance(self.failure, Unreachable | ServerError):
            jitter = random.uniform(0.0, JITTER_SECONDS)  # noqa: S311 - spreads load, keeps no secret
            await asyncio.sleep(max(0.0, self._next_sign_in_at - self._clock()) + jitter)
            await self._attempt(claims)

    async def _attempt(self, claims: str | None) -> None:
        worked_before = self._token is not None
        try:
            async with asyncio.timeout(SIGN_IN_SECONDS):
                access = await sign_in(self._config, self._cloud, claims, worked_before=worked_before)
            self._take(access)
        except TimeoutError:
            self._fail(TimedOut(f"no token: no answer within {SIGN_IN_SECONDS:g} s"))
        except PollError as error:
            self._fail(error)
        else:
            if claims is not None:
                self._demand = (self._clock() + SPACING_SECONDS, claims)
            if self._failed is not None:
                log.info("sign-in succeeds again")
            self._failed = None

    def _take(self, access: AccessToken) -> None:
        """Use a token from now on; raises ``Unauthorized`` where it is none that can be sent."""
        self._token = _checked(access.token)
        remember(self._token)
        now, wall = self._clock(), int(time())
        valid_seconds = min(access.expires_on - wall, LONGEST_SECONDS)
        refresh_seconds = min(
            (access.refresh_on or access.expires_on - int(REFRESH_SECONDS)) - wall, LONGEST_SECONDS
        )
        spacing = SPACING_SECONDS if valid_seconds > 0 else LOOKED_EXPIRED_SECONDS
        self._next_sign_in_at = now + spacing
        self._expires_at = now + max(valid_seconds, spacing)
        self._refresh_at = now + max(refresh_seconds, REFRESH_AGAIN_SECONDS)

    def _fail(self, failure: PollError) -> None:
        now = self._clock()
        self._next_sign_in_at = now + SPACING_SECONDS
        self._refresh_at = now + REFRESH_AGAIN_SECONDS
        self._telemetry.credential_failures.inc()
        before, self._failed = self._failed, (type(failure), str(failure))
        if before is None or before[0] is not type(failure):
            line = fields(reason=failure.reason.value, error=str(failure))
            log.warning("sign-in failed, it is repeated until it succeeds", extra=line)


def _checked(token: object) -> str:
    """Return a token that may stand in a header; raises ``Unauthorized``, which does not quote it."""
    if not isinstance(token, str):
        raise Unauthorized("no token: what the identity endpoint gave for one is not text")
    if not token.strip():
        raise Unauthorized("no token: the one that the identity endpoint gave is blank")
    if len(token) > LONGEST_TOKEN:
        raise Unauthorized(
            f"no token: the one that the identity endpoint gave has more than {LONGEST_TOKEN} characters"
        )
    if not _PRINTABLE_LATIN_1.fullmatch(token):
        raise Unauthorized(
            "no token: the one that the identity endpoint gave has characters that no header may have"
        )
    return token


_PRINTABLE_LATIN_1 = re.compile(r"[\x20-\x7e\xa0-\xff]+")
