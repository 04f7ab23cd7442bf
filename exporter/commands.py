"""What each command does, with flags that ``cli.py`` has read.

Raises ``ConfigError`` where the configuration is wrong, and ``OSError``, with a text for people, where it fails.
"""

import asyncio
import logging
import os
import signal
import tempfile
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import time

from exporter import daemon
from exporter.azure.credential import check_files
from exporter.config import Config, ConfigError, load
from exporter.log import fields
from exporter.simulator.fleet import Fleet
from exporter.simulator.server import Simulator, config_for, running

__all__ = ["COMMANDS", "ConfigError"]

log = logging.getLogger(__name__)


def _load(flags: Namespace) -> Config:
    config = load(flags.config_file)
    check_files(config.credential)
    return config


def run(flags: Namespace) -> None:
    """Run the daemon."""
    config = _load(flags)
    asyncio.run(daemon.run(config, flags.listen_addresses, flags.telemetry_path))


def check(flags: Namespace) -> None:
    """Validate the configuration."""
    config = _load(flags)
    named = len(config.named_scale_sets())
    discovering = sum(subscription.discovery is not None for subscription in config.subscriptions)
    print(
        f"{flags.config_file}: fine: {len(config.subscriptions)} subscriptions, {named} scale sets named, "
        f"discovery in {discovering} subscriptions"
    )


def simulate(flags: Namespace) -> None:
    """Run the simulated Azure until SIGTERM or SIGINT."""

    async def serve() -> None:
        async with _simulated_azure(flags):
            await _told_to_stop()

    asyncio.run(serve())


def demo(flags: Namespace) -> None:
    """Run the daemon on a simulated Azure."""

    async def demonstrate() -> None:
        async with _simulated_azure(flags) as (fleet, url):
            # Where azure-identity's managed identity looks for its token, as on App Service.
            os.environ.update(IDENTITY_ENDPOINT=f"{url}/token", IDENTITY_HEADER="simulator")
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "config.yaml")
                file.write_text(config_for(fleet, url))  # noqa: ASYNC240 - nobody waits yet
                config = load(file)
            await daemon.run(config, flags.listen_addresses, flags.telemetry_path)

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
    async with running(simulator, flags.simulator_listen_address) as url:
        log.info("simulating Azure", extra=fields(endpoint=url, scale_sets=len(fleet.scale_sets)))
        if flags.simulator_config_out is not None:
            flags.simulator_config_out.write_text(config_for(fleet, url))
        yield fleet, url


async def _told_to_stop() -> None:
    stopping = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stopping.set)
    await stopping.wait()


COMMANDS = {None: run, "check": check, "demo": demo, "simulate": simulate}
"""By name; without one it is the daemon."""
