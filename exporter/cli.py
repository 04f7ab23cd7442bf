"""The command ``vmss-upgrade-exporter``: its flags and exit codes.

Exit codes: 0 fine, 1 a failure at run time, 2 a wrong configuration or flag. A foreseeable fault is one clear line
on standard error, never a traceback. What the commands do is imported only when the flags are right.
"""

import gc
import platform
import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Sequence
from math import inf, nan
from pathlib import Path

from exporter import __version__
from exporter.address import Address, parse_address
from exporter.log import FORMATS, LEVELS, configure

NAME = "vmss-upgrade-exporter"
DEFAULT_PORT = 9847
FAILURE = 1
WRONG_USE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    flags = _parser().parse_args(arguments)
    flags.listen_addresses = flags.listen_addresses or [Address(None, DEFAULT_PORT)]
    configure(flags.log_level, flags.log_format)
    gc.disable()  # what is imported stays: to look for garbage in it takes a tenth of the start
    from exporter import commands  # noqa: PLC0415 - half a second, which --help and a wrong flag do not need

    gc.enable()
    try:
        commands.COMMANDS[flags.command](flags)
    except commands.ConfigError as error:
        print(error, file=sys.stderr)
        return WRONG_USE
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"{NAME}: {where}{error.strerror or error}", file=sys.stderr)
        return FAILURE
    return 0


_DEFAULTS = {
    "config_file": Path("config.yaml"),
    "listen_addresses": None,
    "telemetry_path": "/metrics",
    "log_level": "info",
    "log_format": "logfmt",
}


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog=NAME,
        allow_abbrev=False,
        description="Prometheus exporter for the OS upgrades of Azure virtual machine scale sets.",
        epilog="Without a command it runs the daemon.",
        parents=[_config_flags(), _web_flags(), _log_flags()],
    )
    parser.set_defaults(**_DEFAULTS)
    version = f"{NAME} {__version__} (Python {platform.python_version()})"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(title="commands", dest="command", metavar="")
    text = "run the daemon on a simulated Azure fleet, no cloud account needed"
    commands.add_parser(
        "demo", help=text, description=text, parents=[_web_flags(), _simulator_flags(), _log_flags()]
    )
    text = "run only the simulated Azure, for other tools to talk to"
    commands.add_parser("simulate", help=text, description=text, parents=[_simulator_flags(), _log_flags()])
    text = "validate the configuration"
    commands.add_parser("check", help=text, description=text, parents=[_config_flags(), _log_flags()])
    return parser


def _flags() -> ArgumentParser:
    """Return a parser of flags that several commands share; what is not given is left to ``_DEFAULTS``."""
    return ArgumentParser(add_help=False, argument_default=SUPPRESS)


def _config_flags() -> ArgumentParser:
    flags = _flags()
    flags.add_argument(
        "--config.file", dest="config_file", type=Path, metavar="FILE", help="configuration (config.yaml)"
    )
    return flags


def _web_flags() -> ArgumentParser:
    flags = _flags()
    flags.add_argument(
        "--web.listen-address",
        dest="listen_addresses",
        type=_address,
        action="append",
        metavar="HOST:PORT",
        help=f"where to listen, repeatable; port 0 picks a free one (:{DEFAULT_PORT})",
    )
    flags.add_argument(
        "--web.telemetry-path",
        dest="telemetry_path",
        type=_path,
        metavar="PATH",
        help="of the metrics (/metrics)",
    )
    return flags


def _log_flags() -> ArgumentParser:
    flags = _flags()
    flags.add_argument("--log.level", dest="log_level", choices=LEVELS, help="least level to log (info)")
    flags.add_argument("--log.format", dest="log_format", choices=FORMATS, help="of the log lines (logfmt)")
    return flags


def _simulator_flags() -> ArgumentParser:
    flags = ArgumentParser(add_help=False)
    for name, kind, default, text in (
        ("listen-address", str, "127.0.0.1:0", "where the simulated Azure listens"),
        ("subscriptions", _at_least_one, 2, "how many subscriptions it has"),
        ("scale-sets", _at_least_one, 12, "how many scale sets it has in all"),
        ("seed", int, 1, "the same seed gives the same fleet"),
        ("speed", _positive, 60.0, "how much faster than Azure its rollouts go"),
        ("faults", _share, 0.0, "share of requests answered by a scripted fault, 0 to 1"),
        ("config-out", Path, None, "write a configuration that polls this simulator"),
    ):
        flags.add_argument(
            f"--simulator.{name}",
            dest=f"simulator_{name.replace('-', '_')}",
            type=kind,
            default=default,
            metavar="FILE" if kind is Path else name.upper(),
            help=text if default is None else f"{text} ({default})",
        )
    return flags


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise ArgumentTypeError(f"must begin with /, not {text!r}")
    return text


def _at_least_one(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ArgumentTypeError(f"must be a whole number, 1 or more, not {text!r}")
    return int(text)


def _positive(text: str) -> float:
    return _number(text, lambda number: 0 < number < inf, "a number above 0")


def _share(text: str) -> float:
    return _number(text, lambda number: 0 <= number <= 1, "a number from 0 to 1")


def _number(text: str, fits: Callable[[float], bool], what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = nan
    if not fits(number):
        raise ArgumentTypeError(f"must be {what}, not {text!r}")
    return number
