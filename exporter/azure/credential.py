"""Tokens for Azure Resource Manager, from azure-identity.

One credential for the life of the process, and one token, which every poll uses. Shortly before it expires one sign-in
replaces it, while the polls go on with the old one. A token's lifetime is computed when it comes, and goes by the
monotonic clock from then on: a step of the wall clock makes no token too old, and none too young. A sign-in is a task with a timeout of its own: all who need it
wait for the same one, and whoever gives up waiting does not end it. Only one that failed, or whose token was refused,
is begun anew with a credential made from the configured files again, so that a rotated secret needs no restart.

Knows nothing of requests to Resource Manager, nor of how each kind of credential signs in.
"""

import asyncio
import logging
import re
from collections.abc import Callable
from time import monotonic, time
from urllib.parse import quote_plus

from exporter.azure.clouds import Cloud
from exporter.azure.errors import Unauthorized, one_line
from exporter.azure.identity import AccessToken, TokenCredential, UnusableFile, identity, secret
from exporter.config import CredentialConfig
from exporter.log import fields
from exporter.telemetry import Telemetry
from exporter.wall_clock import WallClock

log = logging.getLogger(__name__)

SIGN_IN_SECONDS = 20.0
"""For a sign-in, azure-identity's retries included; less than polls take by default, so that they learn its end."""
REMEMBERED_SECONDS = 5.0
"""For how long a failure to sign in is the answer to everybody, so that it is not repeated for each poll."""
REFRESH_SECONDS = 300.0
"""How long before its end a token is replaced, where Azure does not say when."""
REFRESH_AGAIN_SECONDS = 30.0
"""Between two attempts to replace a token that is still good; azure-identity waits as long."""


class Credential:
    """Signs in as the configuration says. ``clock`` is never stepped."""

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
        self._wall_clock = WallClock(steady=clock)
        self._credential: TokenCredential | None = None
        self._secret = ""
        self._access: AccessToken | None = None
        self._expires_at = self._refresh_at = 0.0
        self._demand: tuple[float, str | None] | None = None
        self._failure: tuple[float, str] = (0.0, "")
        self._signing_in: asyncio.Task[AccessToken | str] | None = None

    async def token(self) -> str:
        """Return a token; the one at hand costs a microsecond.

        Raises:
            Unauthorized: there is none to be had.

        """
        access, now = self._access, self._clock()
        if access is None or now >= self._expires_at:
            return await self._signed_in()
        if now >= self._refresh_at and not self._remembered():
            self._sign_in()
        return access.token

    async def fresh_token(self, refused: str, claims: str | None) -> str:
        """Return another token than ``refused``, one that meets ``claims`` where Azure demanded some.

        Only where the fresh one is refused at once, too, it is returned again: another would fare no better.

        Raises:
            Unauthorized: there is none to be had.

        """
        if self._signing_in is not None:
            await asyncio.wait((self._signing_in,))
        if self._access is None or self._access.token != refused:
            return await self.token()
        if self._demand is not None:
            demanded_at, demanded = self._demand
            if demanded == claims and self._clock() - demanded_at < REMEMBERED_SECONDS:
                return refused
        return await self._signed_in(claims, fresh=True)

    async def close(self) -> None:
        """Close the transport."""
        if self._signing_in is not None:
            self._signing_in.cancel()
            await asyncio.wait((self._signing_in,))
        await self._forget()

    async def _signed_in(self, claims: str | None = None, *, fresh: bool = False) -> str:
        """Return the token of the sign-in under way, or else of a new one."""
        if why := self._remembered():
            raise Unauthorized(why)
        outcome = await asyncio.shield(self._sign_in(claims, fresh=fresh))
        if isinstance(outcome, str):
            raise Unauthorized(outcome)
        return outcome.token

    def _remembered(self) -> str:
        """Return why the last sign-in failed, if that was a moment ago."""
        failed_at, why = self._failure
        return why if why and self._clock() - failed_at < REMEMBERED_SECONDS else ""

    def _sign_in(self, claims: str | None = None, *, fresh: bool = False) -> asyncio.Task[AccessToken | str]:
        """Begin to sign in, unless that is under way; the task returns the token, or why there is none."""
        if self._signing_in is None:
            self._signing_in = asyncio.create_task(self._attempt(claims, fresh=fresh))
            self._signing_in.add_done_callback(self._ended)
        return self._signing_in

    def _ended(self, _: object) -> None:
        self._signing_in = None

    async def _attempt(self, claims: str | None, *, fresh: bool) -> AccessToken | str:
        failed = bool(self._failure[1])
        try:
            async with asyncio.timeout(SIGN_IN_SECONDS):
                access = await self._renew(claims, fresh=fresh)
        except Exception as error:  # noqa: BLE001 - AzureError, ValueError, and what its transports and files raise
            await self._forget()
            why = f"no token: {self._said(error)}"
            self._failure = (self._clock(), why)
            self._refresh_at = self._clock() + REFRESH_AGAIN_SECONDS
            self._telemetry.credential_failures.inc()
            if not failed:
                log.warning("sign-in failed", extra=fields(error=why))
            return why
        if failed:
            log.info("sign-in succeeds again")
        self._failure = (0.0, "")
        if fresh:
            self._demand = (self._clock(), claims)
        self._access = access
        now, since_epoch = self._clock(), time()
        refresh_on = access.refresh_on or access.expires_on - REFRESH_SECONDS
        self._expires_at = now + access.expires_on - since_epoch
        self._refresh_at = now + max(refresh_on - since_epoch, REFRESH_AGAIN_SECONDS)
        return access

    async def _renew(self, claims: str | None, *, fresh: bool) -> AccessToken:
        if (fresh and claims is None) or self._wall_clock.step():
            await self._forget()  # and the token in its cache, whose age it tells by the wall clock
        if self._credential is not None:
            try:
                return await self._ask(self._credential, claims)
            except Exception:  # noqa: BLE001 - whatever it was, the next attempt tells
                await self._forget()  # its secret may have been replaced
        self._secret = await asyncio.to_thread(secret, self._config)
        self._credential = await asyncio.to_thread(identity, self._config, self._cloud, self._secret)
        return await self._ask(self._credential, claims)

    async def _ask(self, credential: TokenCredential, claims: str | None) -> AccessToken:
        options = None if claims is None else {"claims": claims}
        return await credential.get_token_info(self._cloud.scope, options=options)

    async def _forget(self) -> None:
        credential, self._credential = self._credential, None
        if credential is not None:
            await credential.close()

    def _said(self, error: Exception) -> str:
        """Return what went wrong in one line, without what must not be shown, whoever quotes it."""
        if isinstance(error, TimeoutError):
            return f"no answer within {SIGN_IN_SECONDS:g} s"
        if isinstance(error, UnusableFile):
            return str(error)
        # The str() of azure-core's errors quotes the whole answer; their message does not.
        said = getattr(error, "message", "") or f"{type(error).__name__}: {error}"
        if self._secret:
            said = said.replace(self._secret, "***").replace(quote_plus(self._secret), "***")
        return one_line(_SECRETS.sub("***", said), 1000)


_SECRETS = re.compile(
    r"""
      (?<=token"):[^,}]*                # "access_token": "...", in an answer that is quoted
    | eyJ[\w=%-]+(?:\.[\w=%-]+)+        # a JWT, perhaps padded: token or assertion
    | (?<=://)[^\s/@]+(?=@)             # user and password of a proxy
    """,
    re.VERBOSE,
)
