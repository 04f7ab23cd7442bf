"""What each command does, with flags that ``cli.py`` has read.

Raises ``ConfigError`` where the configuration is wrong, and ``OSError``, with a text for people, where it fails.
"""

import asyncio
import errno
import logging
import os
import shutil
import tempfile
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from secrets import token_urlsafe
from time import time

from exporter import daemon, signals
from exporter.azure.errors import PollError
from exporter.azure.identity import check_files
from exporter.azure.proxy import configured_proxy
from exporter.backfill import ACTIVE_STEP, REST_STEP, Span, label_faults
from exporter.backfill import backfill as write_past
from exporter.config import Config, ConfigError, load
from exporter.gate import Gate
from exporter.journal import refuse_other_file
from exporter.live import as_json, as_table, examine, not_signed_in
from exporter.log import escaped, fields
from exporter.once import once as poll_once
from exporter.once import opened
from exporter.simulator.fleet import Fleet
from exporter.simulator.server import Simulator, config_for, running

__all__ = ["COMMANDS", "ConfigError"]

log = logging.getLogger(__name__)


def _load(flags: Namespace) -> Config:
    faults: list[str] = []
    try:
        configured_proxy()
    except ValueError as error:
        faults.append(str(error))
    try:
        config = load(flags.config_file)
    except ConfigError as error:
        faults += error.faults
    if faults:
        raise ConfigError(tuple(faults))
    check_files(config.credential)
    return config


def run(flags: Namespace) -> None:
    """Run the daemon."""
    asyncio.run(_serve(flags))


async def _serve(flags: Namespace) -> None:
    await daemon.run(
        partial(_load, flags),
        flags.shard,
        flags.listen_addresses,
        flags.telemetry_path,
        Gate(flags.web_config_file),
        enable_lifecycle=flags.enable_lifecycle,
    )


def check(flags: Namespace) -> None:
    """Validate the configuration; ``--live`` tries it on Azure."""
    config = _load(flags)
    Gate(flags.web_config_file)
    if config.journal is not None:
        _check_journal(config.journal.path)
    if flags.live:
        _try(config, json=flags.output == "json")
        return
    named = len(config.named_scale_sets())
    discovering = sum(subscription.discovery is not None for subscription in config.subscriptions)
    print(
        f"{flags.config_file}: fine: {len(config.subscriptions)} subscriptions, {named} scale sets named, "
        f"discovery in {discovering} subscriptions"
    )


def _check_journal(path: Path) -> None:
    """Raise what the daemon would, where the journal cannot be made, or the file is another one."""
    folder = path.resolve().parent
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, "the folder of journal.path does not exist", str(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "the folder of journal.path cannot be written to", str(folder))
    refuse_other_file(path)


def _try(config: Config, *, json: bool) -> None:
    try:
        findings = asyncio.run(examine(config))
    except PollError as error:
        if json:
            print(as_json(not_signed_in(config, error)))
        raise OSError(f"cannot sign in: {escaped(str(error))} ({error.reason.value})") from error
    print(as_json(findings) if json else as_table(findings))
    failing = sum(not finding.fine for finding in findings)
    if failing:
        raise OSError(f"{failing} of {len(findings)} subscriptions would fail")


def once(flags: Namespace) -> None:
    """Poll everything once."""
    poll_once(partial(_load, flags), flags.shard, flags.output)


def backfill(flags: Namespace) -> None:
    """Write past upgrades."""
    span = Span(
        start=flags.start,
        end=flags.end,
        step=flags.step or REST_STEP,
        active_step=flags.step or ACTIVE_STEP,
    )
    faults = label_faults(flags.labels)
    if span.start >= span.end:
        faults.append("--from must be before --until, which is at least 3h ago")
    if faults:
        raise ConfigError(tuple(faults))
    write_past(partial(_load, flags), flags.shard, span, flags.labels, flags.output)


def simulate(flags: Namespace) -> None:
    """Run the simulated Azure until SIGTERM or SIGINT."""

    async def serve() -> None:
        stopping = asyncio.Event()
        with signals.listening(stopping.set, hang_up=lambda: None):
            async with _simulated_azure(flags):
                await stopping.wait()

    asyncio.run(serve())


def demo(flags: Namespace) -> None:
    """Run the daemon on a simulated Azure."""

    async def demonstrate() -> None:
        async with _simulated_azure(flags) as (fleet, url):
            # Where azure-identity's managed identity looks for its token, as on App Service.
            # The header is a secret, which the log masks: so it must be no word that a log line may have.
            os.environ.update(IDENTITY_ENDPOINT=f"{url}/token", IDENTITY_HEADER=token_urlsafe())
            folder = tempfile.mkdtemp()
            with signals.cleaning_up(partial(shutil.rmtree, folder)):
                flags.config_file = Path(folder, "config.yaml")
                flags.config_file.write_text(config_for(fleet, url, discovering=True))
                await _serve(flags)

    asyncio.run(demonstrate())


@asynccontextmanager
async def _simulated_azure(flags: Namespace) -> AsyncIterator[tuple[Fleet, str]]:
    fleet = Fleet(
        subscriptions=flags.simulator_subscriptions,
        scale_sets=flags.simulator_scale_sets,
        seed=flags.simulator_seed,
        speed=flags.simulator_speed,
        epoch=time(),
    )
    simulator = Simulator(fleet, faults=flags.simulator_faults)
    async with running(simulator, str(flags.simulator_listen_address)) as url:
        log.info("simulating Azure", extra=fields(endpoint=url, scale_sets=len(fleet.scale_sets)))
        if flags.simulator_config_out is not None:
            with opened(flags.simulator_config_out) as file:  # whole: others wait for it to be there
                file.write(config_for(fleet, url).encode())
        yield fleet, url


COMMANDS = {
    None: run,
    "backfill": backfill,
    "check": check,
    "demo": demo,
    "once": once,
    "simulate": simulate,
}
"""By name; without one it is the daemon."""
