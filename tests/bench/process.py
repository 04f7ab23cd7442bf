"""The process as a whole: its peak memory, its start, and the requests it answers beside nginx."""

import asyncio
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from statistics import median
from time import monotonic, perf_counter, sleep

from exporter.web import Address, Server, application

from . import fleet
from .azure import azure
from .child import line, python, running
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
  access_log off; keepalive_requests 1000000; sendfile on; tcp_nopush on; default_type 'text/plain; version=0.0.4';
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
"""


def memory(*, quick: bool) -> Iterator[Row]:
    """Measure the peak of the whole daemon: all scale sets polled, and scraped both ways while polls go on."""
    for number in (1_000,) if quick else (1_000, SCALE_SETS):
        with azure() as endpoint, _daemon(endpoint, number, "20s") as (process_id, port):
            _until(lambda: _status(port, "/-/ready") == 200, READY_SECONDS)
            with Connection(port) as connection:
                for gzip in (True, False) * SCRAPES:
                    connection.get("/metrics", gzip=gzip)
                    sleep(SCRAPE_PAUSE_SECONDS)
            peak = _peak_mib(process_id)
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
    with azure() as endpoint:
        for turn in range(4 if quick else 9):
            started = perf_counter()
            with _daemon(endpoint, 1, "20s") as (_, port):
                took = perf_counter() - started
                _until(lambda port=port: _status(port, "/metrics") == 200, READY_SECONDS)  # type: ignore[misc]
                took = perf_counter() - started
            started = perf_counter()
            with running(*imports) as process:
                process.wait()
                took_to_import = perf_counter() - started
            if turn:  # the first writes bytecode, perhaps
                ours.append(took * 1e3)
                reference.append(took_to_import * 1e3)
    name = "start to first byte, against importing azure.identity.aio, aiohttp"
    yield Pairs(ours, reference).row(name, "ms", times_more=1)


def requests(*, quick: bool) -> Iterator[Row]:
    """Measure requests a second, nothing having changed between them, against nginx with the same bytes in a file."""
    if which("nginx") is None:
        yield Row("requests a second", "nginx is not installed")
        return
    number = 1_000 if quick else SCALE_SETS
    seconds, turns = (0.7, 2) if quick else (2.0, 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running(*python("tests.bench.process", str(number))) as ours:
            port = int(line(ours))
            with Connection(port) as connection:
                for gzip in (False, True):
                    (folder / _file(gzip=gzip)).write_bytes(connection.body("/metrics", gzip=gzip))
            nginx_port = _free_port()
            (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=nginx_port))
            with running("nginx", "-p", name, "-c", f"{name}/nginx.conf"):
                _until(lambda: _status(nginx_port, f"/{_file(gzip=False)}") == 200, READY_SECONDS)
                for gzip in (False, True):
                    for connections in (1, 4):
                        sides: tuple[list[float], list[float]] = ([], [])
                        for _ in range(turns):
                            for side, at, path in (
                                (sides[0], port, "/metrics"),
                                (sides[1], nginx_port, f"/{_file(gzip=gzip)}"),
                            ):
                                side.append(
                                    rate(at, path, gzip=gzip, connections=connections, seconds=seconds)
                                )
                        yield _rates(number, sides, gzip=gzip, connections=connections)


def _rates(number: int, sides: tuple[list[float], list[float]], *, gzip: bool, connections: int) -> Row:
    mine, nginx = map(median, sides)
    goal = number == SCALE_SETS and not gzip
    return Row(
        f"requests a second at {number:,}, {'gzip' if gzip else 'identity'}, {connections} open, against nginx",
        number_of(mine),
        number_of(nginx),
        f"{mine / nginx:.2f}",
        f"{NGINX_GOAL:g} or more" if goal else "",
        mine / nginx >= NGINX_GOAL if goal else None,
    )


@contextmanager
def _daemon(endpoint: str, number: int, interval: str) -> Iterator[tuple[int, int]]:
    """Run the exporter as its users do; yield its process id and port."""
    port = _free_port()
    signing_in = {"IDENTITY_ENDPOINT": f"{endpoint}/token", "IDENTITY_HEADER": "bench"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.yaml")
        file.write_text(fleet.configuration(endpoint, fleet.scale_sets(number), interval))
        flags = (f"--config.file={file}", f"--web.listen-address=127.0.0.1:{port}", "--log.level=error")
        with running(*python("exporter", *flags), env=signing_in) as process:
            yield process.pid, port


def _status(port: int, path: str) -> int | None:
    """Return the status of an answer, ``None`` where nobody listens yet."""
    try:
        with Connection(port) as connection:
            return connection.get(path)
    except ConnectionError:
        return None


def _until(true: Callable[[], bool], seconds: float) -> None:
    deadline = monotonic() + seconds
    while not true():
        if monotonic() > deadline:
            raise SystemExit(f"not within {seconds:g} s")
        sleep(0.002)


def _peak_mib(process_id: int) -> float:
    """Return what ``ru_maxrss`` would say of a process that still runs."""
    for entry in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if entry.startswith("VmHWM:"):
            return int(entry.split()[1]) / 1024
    raise SystemExit("no VmHWM here: peak memory is measured on Linux only")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def _file(*, gzip: bool) -> str:
    return "metrics.gz" if gzip else "metrics"


# --- In the process that answers ---------------------------------------------------------------------------


class _Ready:
    """What the web part asks of the daemon."""

    ready = True
    configuration = ""


async def _serve(number: int) -> None:
    polled = Polled(number)
    server = Server(application(polled.exposition, polled.telemetry, _Ready(), "/metrics"))
    [address] = await server.start([Address("127.0.0.1", 0)])
    print(address.rpartition(":")[2], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
