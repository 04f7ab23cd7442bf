"""Where to listen, as Prometheus' exporters write it."""

from dataclasses import dataclass

_LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: ``host`` is ``None`` for every interface, IPv4 and IPv6."""

    host: str | None
    port: int

    def __str__(self) -> str:
        return (
            f"[{self.host}]:{self.port}"
            if self.host and ":" in self.host
            else f"{self.host or ''}:{self.port}"
        )


def parse_address(text: str) -> Address:
    """Read ``127.0.0.1:9847``, ``[::1]:9847``, ``localhost:0`` or ``:9847``. Raises ``ValueError`` on anything else."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > _LAST_PORT:
        raise ValueError(f"must be host:port, [address]:port or :port, not {text!r}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"an IPv6 address stands in brackets, as in [::1]:9847, not {text!r}")
    return Address(host or None, int(port))
