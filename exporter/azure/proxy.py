"""The proxy on the way to Azure, for requests and for signing in. Knows only the environment."""

import os
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from types import MappingProxyType
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from exporter.redaction import remember

FORM = "http://HOST:PORT or http://USER:PASSWORD@HOST:PORT"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, and how to authenticate to it. What uses it never sees a URL with a password."""

    url: str
    """Scheme, host and port, without user and password."""
    headers: Mapping[str, str] = field(repr=False)
    """``Proxy-Authorization`` where the environment names a user, else nothing."""


def proxy_for(url: str) -> Proxy | None:
    """Return the proxy that the environment (``https_proxy``, ``no_proxy``) names for an address.

    Over http, which is loopback or the machine's own identity endpoint, no proxy may see the token. aiohttp's
    ``trust_env`` would ask anew for each request, and heed ``.netrc``, which gives passwords where we give a token.
    Raises ``ValueError`` as ``configured_proxy`` does.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" or proxy_bypass(parts.hostname or ""):
        return None
    return configured_proxy()


def configured_proxy() -> Proxy | None:
    """Return the proxy for https that the environment names, for whatever address.

    Raises ``ValueError``, which names the environment variable and never quotes it, where it is no URL of a proxy.
    """
    value = getproxies().get("https")
    if value is None:
        return None
    try:
        return _parse(value.strip())
    except ValueError as error:
        name = next(
            (name for name, each in os.environ.items() if each == value and _is_https_proxy(name)), ""
        )
        raise ValueError(
            f"environment variable {name or 'https_proxy'}: {error}; the form is {FORM} "
            "(the value is not shown, as it may hold a password)"
        ) from None


def _is_https_proxy(name: str) -> bool:
    return name.lower() == "https_proxy"


def _parse(value: str) -> Proxy:
    """Read the URL of a proxy, with or without its scheme; raises ``ValueError`` that does not quote it.

    Stricter than RFC 3986 is read by others: a password with a separator in it would be taken for a host or a port.
    """
    scheme, separator, authority = value.partition("://")
    if not (separator and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme)):
        scheme, authority = "http", value
    scheme, authority = scheme.lower(), authority.removesuffix("/")
    if scheme not in ("http", "https"):
        raise ValueError("the scheme must be http or https")
    userinfo, at, place = authority.rpartition("@")
    if re.search(r"[/?#]", authority) or re.search(r"[][]", userinfo):
        raise ValueError(
            "nothing may follow the port, and each of / ? # [ ] in a user name or password must be percent-encoded "
            "(%2F %3F %23 %5B %5D)"
        )
    match = re.fullmatch(r"(?P<host>\[[^][]*\]|[^][:]*)(?P<port>:[^:]*)?", place)
    if match is None:
        raise ValueError("the host must be a name, an IPv4 address, or an IPv6 address in brackets")
    host, port = _host(match["host"]), _port(match["port"])
    return Proxy(f"{scheme}://{host}{port}", MappingProxyType(_headers(userinfo) if at else {}))


def _host(text: str) -> str:
    if not text:
        raise ValueError("there is no host")
    try:
        if text.startswith("["):
            return f"[{IPv6Address(text[1:-1])}]"
        host = text.encode("idna").decode()
        if re.fullmatch(r"[\w.-]+", host, re.ASCII):
            return host
    except ValueError:  # UnicodeError and AddressValueError are of this kind, and quote the host
        pass
    raise ValueError("the host must be a name, an IPv4 address, or an IPv6 address in brackets")


def _port(text: str | None) -> str:
    if text is None:
        return ""
    if not re.fullmatch(":[0-9]{1,5}", text) or not 0 < int(text[1:]) < 1 << 16:
        raise ValueError("the port must be a number from 1 to 65535")
    return text


def _headers(userinfo: str) -> dict[str, str]:
    """Return the header of a user and password (RFC 7617), and remember them as secrets."""
    encoded = userinfo.partition(":")
    try:
        user, _, password = (unquote(part, errors="strict") for part in encoded)
    except UnicodeDecodeError:  # which quotes them
        raise ValueError("the user name and password must be UTF-8 once they are percent-decoded") from None
    basic = f"{user}:{password}"
    if password:
        remember(password, basic, encoded[2], userinfo)
    return {"Proxy-Authorization": f"Basic {b64encode(basic.encode()).decode()}"}
