"""The process as a whole: its peak memory, its start, and the requests it answers beside nginx."""

import asyncio
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from shutil import which
from statistics import median
from time import monotonic, perf_counter, sleep
from types import MappingProxyType

from exporter.address import Address
from exporter.banners import DiscoveryStatus, SignInFailure
from exporter.snapshot import Snapshot
from exporter.status import Past, nothing
from exporter.web import Server, application

from . import fleet
from .azure import azure
from .child import line, memory_mib, python, running
from .load import Connection, rate
from .report import Pairs, Row, number_of
from .scrape import Polled

SCALE_SETS = 10_000
MEMORY_GOAL_MIB = 150
READY_SECONDS = 90.0
SCRAPES = 3
SCRAPE_PAUSE_SECONDS = 3.0
NGINX_GOAL = 0.8
NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log stderr crit;
events {{ worker_connections 64; }}
http {{
  access_log off; keepalive_requests 1000000; sendfile {sendfile}; tcp_nopush on; default_type 'text/plain; version=0.0.4';
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
"""


def memory(*, quick: bool) -> Iterator[Row]:
    """Measure the peak of the whole daemon: all scale sets polled, and scraped both ways while polls go on."""
    for number in (1_000 if quick else SCALE_SETS,):
        with azure() as endpoint, _daemon(endpoint, number, "20s") as (process_id, port):
            until(lambda: status(port, "/-/ready") == 200, READY_SECONDS)
            with Connection(port) as connection:
                for gzip in (True, False) * SCRAPES:
                    connection.get("/metrics", gzip=gzip)
                    sleep(SCRAPE_PAUSE_SECONDS)
            peak = memory_mib(process_id, "VmHWM")  # what ru_maxrss would say
        goal = number == SCALE_SETS
        yield Row(
            f"peak memory at {number:,}",
            f"{number_of(peak)} MiB",
            goal=f"{MEMORY_GOAL_MIB} MiB or less" if goal else "",
            met=peak <= MEMORY_GOAL_MIB if goal else None,
        )


def start(*, quick: bool) -> Iterator[Row]:
    """Measure from the start of the process to the first byte of ``/metrics``."""
    imports = (sys.executable, "-c", "import azure.identity.aio, aiohttp")
    ours, reference = [], []
    with azure() as endpoint, tempfile.TemporaryDirectory() as bytecode:
        # As installed packages are, both are compiled before: by the first turn, which does not count.
        compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": bytecode}
        for turn in range(4 if quick else 9):
            started = perf_counter()
            with _daemon(endpoint, 1, "20s", compiled) as (_, port):
                until(lambda port=port: status(port, "/metrics") == 200, READY_SECONDS)  # type: ignore[misc]
                took = perf_counter() - started
            started = perf_counter()
            with running(*imports, env=compiled) as process:
                process.wait()
                took_to_import = perf_counter() - started
            if turn:
                ours.append(took * 1e3)
                reference.append(took_to_import * 1e3)
    name = "start to first byte, against importing azure.identity.aio, aiohttp"
    yield Pairs(ours, reference).row(name, "ms", times_more=1)


def requests(*, quick: bool) -> Iterator[Row]:
    """Measure requests a second, nothing having changed, against nginx with the same bytes in a file."""
    if which("nginx") is None:
        yield Row("requests a second", "nginx is not installed")
        return
    number = 1_000 if quick else SCALE_SETS
    seconds, turns = (0.7, 2) if quick else (2.0, 3)
    with (
        tempfile.TemporaryDirectory() as name,
        running(*python("tests.bench.process", str(number))) as process,
    ):
        port, folder = int(line(process)), Path(name)
        with Connection(port) as connection:
            for gzip in (False, True):
                (folder / _file(gzip=gzip)).write_bytes(connection.body("/metrics", gzip=gzip))
        for sendfile, gzip, connections in (
            ("on", False, 1),
            ("on", False, 4),
            ("off", False, 1),
            ("on", True, 1),
            ("on", True, 4),
        ):
            with _nginx(folder, sendfile) as nginx_port:
                ours: list[float] = []
                nginx: list[float] = []
                for _ in range(turns):
                    for side, at, path in (
                        (ours, port, "/metrics"),
                        (nginx, nginx_port, f"/{_file(gzip=gzip)}"),
                    ):
                        side.append(rate(at, path, gzip=gzip, connections=connections, seconds=seconds))
            ratio = median(ours) / median(nginx)
            goal = number == SCALE_SETS and not gzip and sendfile == "on"
            yield Row(
                f"requests a second at {number:,}, {'gzip' if gzip else 'identity'}, {connections} open, "
                f"against nginx, sendfile {sendfile}",
                number_of(median(ours)),
                number_of(median(nginx)),
                f"{ratio:.2f}",
                f"{NGINX_GOAL:g} or more" if goal else "",
                ratio >= NGINX_GOAL if goal else None,
            )


@contextmanager
def _nginx(folder: Path, sendfile: str) -> Iterator[int]:
    """Run nginx on the files of a folder; yield its port. With sendfile, loopback spares it a copy that a wire costs."""
    port = _free_port()
    file = folder / "nginx.conf"
    file.write_text(NGINX.format(folder=folder, port=port, sendfile=sendfile))
    with running("nginx", "-p", str(folder), "-c", str(file)):
        until(lambda: status(port, "/nginx.conf") == 200, READY_SECONDS)
        yield port


@contextmanager
def _daemon(
    endpoint: str, number: int, interval: str, env: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[int, int]]:
    """Run the exporter on the measured fleet."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.yaml")
        file.write_text(fleet.configuration(endpoint, fleet.scale_sets(number), interval))
        with daemon(endpoint, file, env) as running_daemon:
            yield running_daemon


@contextmanager
def daemon(
    endpoint: str, file: Path, env: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[int, int]]:
    """Run the exporter as its users do; yield its process id and port."""
    port = _free_port()
    signing_in = {"IDENTITY_ENDPOINT": f"{endpoint}/token", "IDENTITY_HEADER": "bench"}
    flags = (f"--config.file={file}", f"--web.listen-address=127.0.0.1:{port}", "--log.level=error")
    with running(*python("exporter", *flags), env={**signing_in, **env}) as process:
        yield process.pid, port


def status(port: int, path: str) -> int | None:
    """Return the status of an answer, ``None`` where nobody listens yet."""
    try:
        with Connection(port) as connection:
            return connection.get(path)
    except ConnectionError:
        return None


def until(true: Callable[[], bool], seconds: float) -> None:
    deadline = monotonic() + seconds
    while not true():
        if monotonic() > deadline:
            raise SystemExit(f"not within {seconds:g} s")
        sleep(0.002)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def _file(*, gzip: bool) -> str:
    return "metrics.gz" if gzip else "metrics"


# --- In the process that answers ---------------------------------------------------------------------------


class Ready:
    """What the web part asks of the daemon."""

    healthy = ready = True
    configuration = ""

    def __init__(self, polled: Polled) -> None:
        self._polled = polled

    def discoveries(self) -> tuple[DiscoveryStatus, ...]:
        return ()

    def sign_in_failures(self) -> tuple[SignInFailure, ...]:
        return ()

    def past(self) -> AbstractContextManager[Past]:
        return nullcontext(nothing)

    def snapshots(self) -> tuple[Snapshot, ...]:
        return tuple(self._polled.store.snapshots())

    async def reload(self) -> str:
        return ""


async def _serve(number: int) -> None:
    polled = Polled(number)
    server = Server(application(polled.exposition, polled.telemetry, Ready(polled), "/metrics"))
    [address] = await server.start([Address("127.0.0.1", 0)])
    print(address.rpartition(":")[2], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
