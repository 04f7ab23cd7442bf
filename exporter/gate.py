"""Who may come in: what the web configuration asks of whom, read anew when its files change.

A file that is wrong leaves what is in force, and is told once. Knows nothing of HTTP's messages but what is shown here.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from ssl import SSLContext
from typing import Any, NamedTuple

from exporter.basic_auth import TooManyChecksError, Users
from exporter.log import fields
from exporter.settings import ConfigError
from exporter.web_config import WebConfig, load

log = logging.getLogger(__name__)

Certificate = Mapping[str, Any]
"""As ``ssl`` gives it: https://docs.python.org/3/library/ssl.html#ssl.SSLSocket.getpeercert."""
Seen = dict[Path, tuple[int, ...] | None]
"""What of files changes when they do; ``None`` for one that cannot be looked at."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why somebody may not come in, as HTTP says it."""

    status: int
    text: str
    headers: tuple[tuple[str, str], ...] = ()


ASK_FOR_PASSWORD = Refusal(
    401,
    "A name and a password are needed\n",
    (("WWW-Authenticate", 'Basic realm="vmss-upgrade-exporter", charset="UTF-8"'),),
)
ASK_LATER = Refusal(503, "Too many passwords are being checked\n", (("Retry-After", "5"),))
NO_CERTIFICATE = Refusal(403, "A client certificate is needed\n")
OTHER_NAME = Refusal(403, "The client certificate bears none of the names that are let in\n")


class _InForce(NamedTuple):
    config: WebConfig
    context: SSLContext | None
    users: Users


class Gate:
    """Goes by a web configuration; without one everybody may come in.

    Raises ConfigError where it is wrong.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._in_force = _InForce(WebConfig(), None, Users({}))
        self._read: Seen = {}
        self._seen: Seen = {}
        self._faults: tuple[str, ...] = ()
        if path is not None:
            self._put_in_force(path, {})

    @property
    def context(self) -> SSLContext | None:
        """The TLS to speak on a new connection."""
        return self._in_force.context

    @property
    def headers(self) -> Mapping[str, str]:
        """What to add to every answer."""
        given = self._in_force.config.http_server_config.headers
        return {name: value for name, value in given.items() if value}

    async def refusal(
        self, path: str, authorization: str | None, certificate: Certificate | None
    ) -> Refusal | None:
        """Return why a request is refused, ``None`` where it is not.

        ``certificate`` is the client's, verified.
        """
        users = self._in_force.users
        refusal = self.refusal_of_anonymous(path, certificate)
        if refusal is not ASK_FOR_PASSWORD:
            return refusal
        try:
            return None if await users.admit(authorization) else ASK_FOR_PASSWORD
        except TooManyChecksError:
            return ASK_LATER

    def refusal_of_anonymous(self, path: str, certificate: Certificate | None) -> Refusal | None:
        """Return why a request without a password is refused, ``None`` where it is not."""
        config, _, users = self._in_force
        if path in config.auth_excluded_paths:
            return None
        tls = config.tls_server_config
        if tls is not None and tls.client_auth_type == "RequireAndVerifyClientCert":
            if not certificate:
                return NO_CERTIFICATE
            if tls.client_allowed_sans and names(certificate).isdisjoint(tls.client_allowed_sans):
                return OTHER_NAME
        return ASK_FOR_PASSWORD if users else None

    async def refresh(self) -> bool:
        """Read the files again if they changed; return whether others are in force now.

        Files must have rested between two looks: one half written may be a configuration that lets everybody in.
        """
        if self._path is None:
            return False
        seen = await asyncio.to_thread(_look_at, self._read)
        rested, self._seen = seen == self._seen, seen
        if not rested or (seen == self._read and not self._faults):
            return False
        try:
            await asyncio.to_thread(self._put_in_force, self._path, seen)
        except ConfigError as error:
            if error.faults != self._faults:
                for fault in error.faults:
                    log.error("web configuration not read anew", extra=fields(fault=fault))  # noqa: TRY400 - foreseen
            self._faults = error.faults
            return False
        self._faults = ()
        log.info("web configuration read anew")
        return True

    def _put_in_force(self, path: Path, seen: Seen) -> None:
        config, context = load(path)
        before = self._in_force
        same = config.basic_auth_users == before.config.basic_auth_users  # whose passwords need no check anew
        users = before.users if same else Users(config.basic_auth_users)
        self._in_force = _InForce(config, context, users)
        if context is None and not users:
            log.warning("web configuration asks for neither TLS nor passwords", extra=fields(file=path))
        now = _look_at((path, *config.files()))
        self._read = {
            file: seen.get(file, look) for file, look in now.items()
        }  # a change meanwhile is not lost


def _look_at(files: Iterable[Path]) -> Seen:
    seen: Seen = {}
    for file in files:
        try:
            found = file.stat()
        except OSError:
            seen[file] = None
        else:
            seen[file] = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return seen


def names(certificate: Certificate) -> frozenset[str]:
    """Return the alternative names of a certificate (RFC 5280 section 4.2.1.6), addresses in their usual form."""
    given = certificate.get("subjectAltName", ())
    return frozenset(str(ip_address(name)) if kind == "IP Address" else name for kind, name in given)
