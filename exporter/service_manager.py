"""Notifies the service manager by systemd's protocol: datagrams to the socket that ``NOTIFY_SOCKET`` names.

See sd_notify(3) and sd_watchdog_enabled(3). Without that variable, nothing is sent.
"""

import logging
import os
import socket

from exporter.log import fields

log = logging.getLogger(__name__)

READY = "READY=1"
STOPPING = "STOPPING=1"
ALIVE = "WATCHDOG=1"


def notify(state: str) -> None:
    """Tell the service manager of a new state. A failure is logged, because the exporter works without one."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = f"\0{path[1:]}" if path.startswith("@") else path  # @: Linux' abstract names
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)  # a service manager that reads nothing must not stop the event loop
            sender.connect(address)
            sender.send(state.encode())
    except OSError as error:
        log.warning("service manager not notified", extra=fields(state=state, error=error))


def watchdog_seconds() -> float | None:
    """Return how long the service manager waits for ``ALIVE`` before it restarts us; None if it does not."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    ours = os.environ.get("WATCHDOG_PID") in {None, "", str(os.getpid())}
    return int(microseconds) / 1e6 if ours and microseconds.isdecimal() and int(microseconds) else None
