"""The proxy on the way to Azure, for requests and for signing in. Knows only the environment."""

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


def proxy_for(url: str) -> str | None:
    """Return the proxy that the environment (``https_proxy``, ``no_proxy``) names for an address.

    Over http, which is loopback or the machine's own identity endpoint, no proxy may see the token. aiohttp's
    ``trust_env`` would ask anew for each request, and heed ``.netrc``, which gives passwords where we give a token.
    """
    proxy, parts = getproxies().get("https"), urlsplit(url)
    if proxy is None or parts.scheme != "https" or proxy_bypass(parts.hostname or ""):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
