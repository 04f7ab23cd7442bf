"""How soon all is fresh after an outage: the whole daemon, over HTTP, against a simulator that fails for a while.

Two subscriptions at once: one whose polls the interval bounds, one that is so full that the budget does. While Azure
fails, each poll costs three requests, and so turns are late; none may be lost for that. What the budget demands is the
interval in force, by the exporter's own metric: of the share, it keeps a twentieth for retries.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep, time

from . import simulated
from .fleet import configuration
from .load import Connection
from .process import daemon, status, until
from .report import Row, number_of

BOUND_BY_INTERVAL, BOUND_BY_BUDGET = 200, 400
INTERVAL_SECONDS = 30.0
GRANTED_PER_MINUTE = 800
READY_SECONDS = 90.0
GOAL = 1.05
LOOK_SECONDS = 0.1
SUCCESS = "azure_vmss_os_upgrade_last_success_timestamp_seconds"
IN_FORCE = "azure_vmss_os_upgrade_poll_interval_seconds"


def recovery(*, quick: bool) -> Iterator[Row]:
    """Measure until each has had a good answer again, against the longer of interval and what the budget demands."""
    outage = 10.0 if quick else 45.0
    with simulated.azure(2, 2 * BOUND_BY_BUDGET) as azure, tempfile.TemporaryDirectory() as folder:
        fleet = simulated.fleet(2, 2 * BOUND_BY_BUDGET)
        full, empty = fleet[:BOUND_BY_BUDGET], fleet[-BOUND_BY_INTERVAL:]
        file = Path(folder, "config.yaml")
        file.write_text(configuration(azure.endpoint, full + empty, f"{INTERVAL_SECONDS:g}s"))
        with daemon(azure.endpoint, file) as (_, port):
            until(lambda: status(port, "/metrics") == 200, READY_SECONDS)
            _until_all(port, 0.0, len(full) + len(empty))
            sleep(INTERVAL_SECONDS)
            azure.fail()
            sleep(outage)
            healed = time()
            azure.heal()
            in_force = dict(_samples(port, IN_FORCE))
            took = _until_all(port, healed, len(full) + len(empty))
        most = max(azure.asked().values())
    for each in (empty, full):
        subscription = each[0].subscription_id
        seconds, least = took[subscription], in_force[subscription]
        per_minute = len(each) / INTERVAL_SECONDS * 60
        title = f"{len(each)} scale sets each {INTERVAL_SECONDS:g} s, {per_minute:g} of {GRANTED_PER_MINUTE} a minute"
        yield Row(
            f"until all are fresh after {outage:g} s of failures: {title}",
            f"{number_of(seconds)} s",
            f"{number_of(least)} s",
            f"{seconds / least:.3f}",
            f"{GOAL:g} or less",
            seconds / least <= GOAL,
        )
    yield Row(
        "  most requests of a subscription in any 60 s, outage included",
        f"{most}",
        goal=f"{GRANTED_PER_MINUTE} or less",
        met=most <= GRANTED_PER_MINUTE,
    )


def _until_all(port: int, since: float, number: int) -> dict[str, float]:
    """Wait until so many scale sets have had a good answer since then; return how long each subscription took."""
    deadline = monotonic() + READY_SECONDS
    took: dict[str, float] = {}
    while monotonic() < deadline:
        samples = _samples(port, SUCCESS)
        stale = {subscription for subscription, value in samples if value <= since}
        known = {subscription for subscription, _ in samples}
        for subscription in known - stale - set(took):
            took[subscription] = time() - since
        if len(samples) == number and not stale:
            return took
        sleep(LOOK_SECONDS)
    raise SystemExit(f"not all fresh within {READY_SECONDS:g} s")


def _samples(port: int, name: str) -> list[tuple[str, float]]:
    """Return the subscription and the value of each sample of a family."""
    with Connection(port) as connection:
        lines = connection.body("/metrics").decode().splitlines()
    samples = (line.rsplit(" ", 1) for line in lines if line.startswith(f"{name}{{"))
    return [
        (labels.partition('subscription_id="')[2].partition('"')[0], float(value))
        for labels, value in samples
    ]
