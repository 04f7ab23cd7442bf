"""The command ``vmss-upgrade-exporter``: its flags and exit codes.

Exit codes: 0 fine, 1 a failure at run time, 2 a wrong configuration or flag. A foreseeable fault is one clear line
on standard error, never a traceback. What the commands do is imported only when the flags are right.
"""

import logging
import os
import platform
import re
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from datetime import datetime
from math import inf, nan
from pathlib import Path
from time import time

from exporter import __version__, garbage_collector, log, signals
from exporter.address import Address, parse_address
from exporter.scale_set import Shard

NAME = "vmss-upgrade-exporter"
DEFAULT_PORT = 9847
HEAD_SECONDS = 3 * 3600.0
"""What Prometheus may still hold in its head block: blocks that are made for it would overlap with that."""
FAILURE = 1
WRONG_USE = 2
FLUSH_SECONDS = 2.0
"""How long the end waits for a reader of the last log lines."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    signals.take_over()
    try:
        return _run(_parsed(arguments))
    finally:
        signals.ignore_hang_up()


def _parsed(arguments: Sequence[str] | None) -> Namespace:
    parser = _parser()
    flags = parser.parse_args(arguments)
    flags.listen_addresses = flags.listen_addresses or [Address(None, DEFAULT_PORT)]
    try:
        flags.shard = _shard(flags.shard, flags.total_shards, os.environ.get("POD_NAME", ""))
    except ValueError as error:
        parser.error(str(error))
    if flags.command == "check" and flags.output == "json" and not flags.live:
        parser.error("--output=json is for check --live, which was not given")
    return flags


def _run(flags: Namespace) -> int:
    log.configure(flags.log_level, flags.log_format)
    with garbage_collector.paused():
        from exporter import commands  # noqa: PLC0415 - half a second, which --help and a wrong flag do not need

    try:
        commands.COMMANDS[flags.command](flags)
    except commands.ConfigError as error:
        log.write_line(str(error))
        return WRONG_USE
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        log.write_line(f"{NAME}: {where}{error.strerror or error}")
        return FAILURE
    except Exception:  # Python's own traceback would not be searched for secrets
        logging.getLogger(__name__).exception("defect of the exporter, it ends")
        return FAILURE
    finally:
        log.flush(FLUSH_SECONDS)
    return 0


_DEFAULTS = {
    "config_file": Path("config.yaml"),
    "listen_addresses": None,
    "telemetry_path": "/metrics",
    "web_config_file": None,
    "enable_lifecycle": False,
    "shard": None,
    "total_shards": 1,
    "log_level": "info",
    "log_format": "logfmt",
}


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog=NAME,
        allow_abbrev=False,
        description="Prometheus exporter for the OS upgrades of Azure virtual machine scale sets.",
        epilog="Without a command it runs the daemon.",
        parents=[_config_flags(), _shard_flags(), _web_flags(), _log_flags()],
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
    check = commands.add_parser(
        "check",
        help=text,
        description=text,
        parents=[_config_flags(), _web_config_flag(), _log_flags()],
    )
    check.add_argument("--live", action="store_true", help="also sign in and try each subscription")
    check.add_argument(
        "--output", choices=("table", "json"), default="table", help="what --live prints (table)"
    )
    text = "poll everything once and write the metrics, as for node_exporter's textfile collector"
    once = commands.add_parser(
        "once", help=text, description=text, parents=[_config_flags(), _shard_flags(), _log_flags()]
    )
    once.add_argument("--output", type=Path, metavar="FILE", help="replaced at once, whole (standard output)")
    text = (
        "write past upgrades as OpenMetrics with timestamps, for promtool tsdb create-blocks-from openmetrics"
    )
    backfill = commands.add_parser(
        "backfill", help=text, description=text, parents=[_config_flags(), _shard_flags(), _log_flags()]
    )
    backfill.add_argument(
        "--from", dest="start", type=_moment, default="60d", metavar="TIME", help="RFC 3339, or an age (60d)"
    )
    backfill.add_argument(
        "--until",
        dest="end",
        type=_moment_before_head,
        default="3h",
        metavar="TIME",
        help="the same, at least 3h ago (3h)",
    )
    backfill.add_argument(
        "--step", type=_duration, metavar="DURATION", help="between samples (1m in an upgrade, else 5m)"
    )
    backfill.add_argument(
        "--label",
        dest="labels",
        type=_label,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a further label of all series, such as job and instance, that they do not have yet; repeatable",
    )
    backfill.add_argument(
        "--output", type=Path, metavar="FILE", help="replaced at once, whole (standard output)"
    )
    return parser


def _flags(*parents: ArgumentParser) -> ArgumentParser:
    """Return a parser of flags that several commands share; what is not given is left to ``_DEFAULTS``."""
    return ArgumentParser(add_help=False, argument_default=SUPPRESS, parents=parents)


def _config_flags() -> ArgumentParser:
    flags = _flags()
    flags.add_argument(
        "--config.file", dest="config_file", type=Path, metavar="FILE", help="configuration (config.yaml)"
    )
    return flags


def _web_config_flag() -> ArgumentParser:
    flags = _flags()
    flags.add_argument(
        "--web.config.file",
        dest="web_config_file",
        type=Path,
        metavar="FILE",
        help="TLS, client certificates and passwords, in the format of Prometheus' exporter-toolkit (none)",
    )
    return flags


def _web_flags() -> ArgumentParser:
    flags = _flags(_web_config_flag())
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
    flags.add_argument(
        "--web.enable-lifecycle",
        dest="enable_lifecycle",
        action="store_true",
        help="let POST /-/reload read the configuration anew, as SIGHUP does",
    )
    return flags


def _shard_flags() -> ArgumentParser:
    flags = _flags()
    flags.add_argument(
        "--shard",
        type=_natural,
        metavar="NUMBER",
        help="which part of all scale sets to poll, from 0 (the ordinal at the end of $POD_NAME)",
    )
    flags.add_argument(
        "--total-shards",
        dest="total_shards",
        type=_at_least_one,
        metavar="NUMBER",
        help="into how many parts all scale sets are split (1)",
    )
    return flags


def _log_flags() -> ArgumentParser:
    flags = _flags()
    flags.add_argument(
        "--log.level",
        dest="log_level",
        type=lambda text: "warning" if text == "warn" else text,
        choices=log.LEVELS,
        help="least level to log; warn is short for warning (info)",
    )
    flags.add_argument(
        "--log.format", dest="log_format", choices=log.FORMATS, help="of the log lines (logfmt)"
    )
    return flags


def _simulator_flags() -> ArgumentParser:
    flags = ArgumentParser(add_help=False)
    for name, kind, default, text in (
        ("listen-address", _address, "127.0.0.1:0", "where the simulated Azure listens"),
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


def _moment(text: str, least_age_seconds: float = 0.0) -> float:
    """Read RFC 3339, or how long ago, as seconds since the epoch."""
    if re.match("[0-9]{4}-", text):
        try:
            date = datetime.fromisoformat(text)
        except ValueError:
            date = None
        if date is None or date.tzinfo is None:
            raise ArgumentTypeError(f"must be a time such as 2026-11-01T00:00:00Z, not {text!r}")
        moment = date.timestamp()
        age = time() - moment
    else:
        age = _duration(text)
        moment = time() - age
    if age < least_age_seconds:
        raise ArgumentTypeError(
            f"must be at least 3h ago, Prometheus still holds what is newer, not {text!r}"
        )
    return moment


def _moment_before_head(text: str) -> float:
    return _moment(text, HEAD_SECONDS)


def _duration(text: str) -> float:
    from exporter.duration import parse_duration  # noqa: PLC0415 - it brings PyYAML, which --help does not need

    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
    if seconds == 0:
        raise ArgumentTypeError("must be longer than 0")
    return seconds


def _label(text: str) -> tuple[str, str]:
    name, given, value = text.partition("=")
    if not given or not re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", name):
        raise ArgumentTypeError(f"must be a label such as job=vmss-upgrade-exporter, not {text!r}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ArgumentTypeError(f"must be text in UTF-8, not {text!r}") from None
    return name, value


def _path(text: str) -> str:
    if not re.fullmatch(r"/[\w./~-]*", text, re.ASCII):
        raise ArgumentTypeError(f"must be a path such as /metrics, not {text!r}")
    if re.match("/(-|api|static)/|/config$", text):
        raise ArgumentTypeError(f"must not be a path that serves something else, as {text!r} does")
    return text


def _at_least_one(text: str) -> int:
    return _natural(text, 1)


def _natural(text: str, least: int = 0) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) < least:
        raise ArgumentTypeError(f"must be a whole number, {least} or more, not {text!r}")
    return int(text)


def _shard(number: int | None, total: int, pod_name: str) -> Shard:
    """Return the shard that flags and environment say; without a flag it is the ordinal of a StatefulSet's pod.

    A single shard has no use for the ordinal, and pods of a Deployment may end in digits, too.
    """
    source = "--shard"
    if number is None and total > 1:
        ordinal = re.search(r"-([0-9]{1,9})$", pod_name)
        if ordinal is None:
            raise ValueError(
                f"--total-shards={total} needs --shard, or the name of a StatefulSet's pod in the environment "
                f"variable POD_NAME, not {pod_name!r}"
            )
        source, number = f"POD_NAME={pod_name}", int(ordinal[1])
    if (number or 0) >= total:
        raise ValueError(f"{source}: shard {number} is not below --total-shards={total}")
    return Shard(number or 0, total)


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
