"""``make image-check``: build the image with buildah, look what is in it, test it, and run it as a cluster would.

For a machine without a container engine and without a registry: the base image is put together from Debian's packages
by mmdebstrap, as Debian's own ``trixie-slim`` is; all else is what ``docker build`` does with the same Dockerfile. The
containers are crun's, started by podman as ``deploy/compose.yaml`` says, on this machine's network: its simulator, its
shards, its receiver of notifications. Prometheus, Alertmanager and Grafana are not, as their images are not at hand.
"""

import json
import re
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
BASE = "docker.io/library/debian:trixie-slim"
IMAGE = "localhost/vmss-upgrade-exporter"
WORKSHOP = "localhost/workshop"
NEED_MORE_THAN_PYTHON = ("chaos", "deploy", "e2e", "supply")
"""Folders of tests that drive Debian's programs, or look at what an image has not."""
PYTEST = "import sys; sys.path.append('/packages'); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
SHARDS = {"exporter-0": "127.0.0.1:9847", "exporter-1": "127.0.0.1:9848"}
SCALE_SETS = 12
NONROOT = 65532
MOST_BYTES = 120_000_000

PARTS = {
    "the exporter": "opt/exporter/lib/python3.13/site-packages/exporter",
    "cryptography": "opt/exporter/lib/python3.13/site-packages/cryptography",
    "aiohttp": "opt/exporter/lib/python3.13/site-packages/aiohttp",
    "pydantic": "opt/exporter/lib/python3.13/site-packages/pydantic",
    "other dependencies": "opt/exporter/",
    "Python's interpreter": "usr/bin/",
    "Python's standard library": "usr/lib/python3.13/",
    "libraries of Debian": "usr/lib/",
    "CA certificates, licences and the like": "",
}
"""What the image consists of, by the first prefix that fits a path."""


def main() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        engine = Engine(Path(folder))
        started = time.monotonic()
        engine.make_base()
        based = time.monotonic()
        engine.build()
        print(f"base {based - started:.0f} s, build {time.monotonic() - based:.0f} s")
        try:
            look_inside(engine)
            engine.test()
            run(engine)
        finally:
            engine.podman("rm", "--all", "--force")
            engine.buildah("umount", "--all")
    print("image-check passed")


class Engine:
    """buildah and podman on a store of their own, which goes with its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = [f"--root={folder / 'root'}", f"--runroot={folder / 'run'}", "--storage-driver=vfs"]
        without_unified_cgroups()

    def buildah(self, *arguments: str | Path) -> str:
        return output("buildah", *self._store, *arguments)

    def podman(self, *arguments: str | Path) -> str:
        return output(*self._podman, *arguments)

    def make_base(self) -> None:
        tar, pip = self._folder / "base.tar", self._folder / "pip.conf"
        output("mmdebstrap", "--quiet", "--variant=minbase", "trixie", tar)
        container = self.buildah("from", "scratch")
        self.buildah("add", container, tar, "/")
        # The workshop's pip, and nobody in the image, is to trust whom this machine trusts.
        pip.write_text("[global]\ncert = /etc/ssl/certs/of-the-machine.crt\n")
        self.buildah("add", container, pip, "/etc/pip.conf")
        bundle = Path("/etc/ssl/certs/ca-certificates.crt").resolve()
        self.buildah("add", container, bundle, "/etc/ssl/certs/of-the-machine.crt")
        self.buildah("commit", container, BASE)
        self.buildah("rm", container)

    def build(self) -> None:
        flags = [
            "--isolation=chroot",
            "--network=host",
            "--pull-never",
            "--format=docker",
            f"--build-arg=BASE={BASE}",
            "--layers",
            f"--file={ROOT / 'deploy/Dockerfile'}",
        ]
        self.buildah("bud", *flags, "--target=workshop", f"--tag={WORKSHOP}", ROOT)
        self.buildah("bud", *flags, f"--tag={IMAGE}", ROOT)

    def test(self) -> None:
        """Run the tests that need Python only, in the image, on the dependencies that it ships.

        What tests need beside these the workshop installs, which has pip; it is mounted, and comes last on Python's path.
        """
        packages, workshop = self._folder / "packages", self.buildah("from", "--pull-never", WORKSHOP)
        packages.mkdir()
        mounts = [f"--volume={packages}:/packages", f"--volume={ROOT / 'tests'}:/tests:ro"]
        install = (
            "python3.13 -m venv /tmp/pip; /tmp/pip/bin/pip install --no-cache-dir --only-binary=:all: "
            "--require-hashes --target=/packages --requirement=/tests/requirements.txt"
        )
        flags = ["--isolation=chroot", "--network=host", *mounts]
        self.buildah("run", *flags, workshop, "--", "sh", "-euc", install)
        flags = [
            *self._confinement(),
            "--cap-drop=all",
            "--tmpfs=/tmp",
            f"--volume={packages}:/packages:ro",
            f"--volume={ROOT}:/source:ro",
            "--workdir=/source",
            "--env=PYTHONDONTWRITEBYTECODE=1",
            "--env=HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis",
            f"--entrypoint={json.dumps(['/opt/exporter/bin/python', '-c', PYTEST])}",
        ]
        ignored = [f"--ignore=tests/{folder}" for folder in NEED_MORE_THAN_PYTHON]
        arguments = ["-q", "-pno:cacheprovider", *ignored]
        done = subprocess.run([*self._podman, "run", *flags, IMAGE, *arguments], check=False)
        assert done.returncode == 0, "the tests fail in the image"

    @contextmanager
    def service(self, name: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a service of compose.yaml until the block ends."""
        service = COMPOSE["services"][name]
        assert service["read_only"]
        entrypoint, command = service.get("entrypoint", []), service.get("command", [])
        flags = [
            f"--name={name}",
            *self._confinement(),
            *(f"--cap-drop={capability}" for capability in service["cap_drop"]),
            *(f"--security-opt={option.replace(':true', '')}" for option in service["security_opt"]),
            *(f"--env={key}={value}" for key, value in service.get("environment", {}).items()),
            *(f"--volume={ROOT / 'deploy' / volume}" for volume in service.get("volumes", [])),
        ]
        if entrypoint:
            flags.append(f"--entrypoint={json.dumps(entrypoint)}")
        process = subprocess.Popen([*self._podman, "run", *flags, IMAGE, *command])
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(10)

    def _confinement(self) -> list[str]:
        """Return the flags that every container of the image is run with here."""
        files, processes = (min(1024, resource.getrlimit(kind)[1]) for kind in LIMITS)
        return [
            "--network=host",
            "--read-only",
            "--cgroups=disabled",
            "--no-healthcheck",  # podman leaves the repeating to systemd; the check itself is tried below
            f"--ulimit=nofile={files}:{files}",
            f"--ulimit=nproc={processes}:{processes}",
        ]

    def confined(self, container: str) -> None:
        """Raise where the kernel lets a container do more than it should."""
        pid = self.podman("inspect", "--format={{.State.Pid}}", container)
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert status["Uid"].split() == status["Gid"].split() == [str(NONROOT)] * 4
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
        assert status["NoNewPrivs"] == "1"
        mounts = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
        assert [
            options.split(",")[0] for *_, place, options in (mount[:6] for mount in mounts) if place == "/"
        ] == ["ro"]

    def health(self, container: str) -> int:
        """Run the image's own health check in a container; return its exit code."""
        config = json.loads(self.podman("image", "inspect", IMAGE))[0]
        kind, *command = (config.get("Healthcheck") or config["HealthCheck"])["Test"]
        assert kind == "CMD", "a health check through a shell needs one"
        quiet = subprocess.DEVNULL
        return subprocess.run(
            [*self._podman, "exec", container, *command], check=False, stderr=quiet
        ).returncode

    @property
    def _podman(self) -> list[str]:
        return ["podman", *self._store, f"--tmpdir={self._folder / 'tmp'}", "--runtime=crun"]


LIMITS = (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)


def look_inside(engine: Engine) -> None:
    container = engine.buildah("from", "--pull-never", IMAGE)
    root = Path(engine.buildah("mount", container))
    sizes: Counter[str] = Counter()
    programs = set()
    for path in root.rglob("*"):
        name, status = str(path.relative_to(root)), path.lstat()
        if path.is_symlink() or path.is_dir():
            continue
        assert not status.st_mode & stat.S_IWOTH, f"{name} is everybody's to write"
        assert not status.st_mode & (stat.S_ISUID | stat.S_ISGID), f"{name} runs as its owner"
        sizes[next(part for part, prefix in PARTS.items() if name.startswith(prefix))] += status.st_size
        if path.parent in {root / "usr/bin", root / "usr/sbin"}:
            programs.add(path.name)
    print(f"\n{'image':40}{sum(sizes.values()) / 1e6:8.1f} MB")
    for part in PARTS:
        print(f"  {part:38}{sizes[part] / 1e6:8.1f}")
    packed = subprocess.run(["tar", "-C", root, "-c", "."], check=True, capture_output=True).stdout
    packed = subprocess.run(["gzip", "-6"], input=packed, check=True, capture_output=True).stdout
    print(f"{'as a gzipped layer, which is pulled':40}{len(packed) / 1e6:8.1f}\n", flush=True)
    assert sum(sizes.values()) < MOST_BYTES
    assert programs == {"python3.13"}, programs
    assert not list(root.glob("opt/exporter/lib/python3.13/site-packages/pip*")), "pip came along"
    assert len(list((root / "var/lib/dpkg/status.d").iterdir())) == 15, (
        "scanners are not told of every package"
    )


def run(engine: Engine) -> None:
    with ExitStack() as stack:
        stack.enter_context(engine.service("notifications"))
        stack.enter_context(engine.service("simulator"))
        started = time.monotonic()
        shards = {name: stack.enter_context(engine.service(name)) for name in SHARDS}
        for address in SHARDS.values():
            until(partial(answers, f"http://{address}/-/ready", b"Ready\n"))
        print(f"\nfrom the start of two shards to all scale sets polled: {time.monotonic() - started:.1f} s")
        polled = [
            re.findall(r"^azure_vmss_os_upgrade_up(\{.*\}) 1\.0$", body, re.MULTILINE)
            for body in ((get(f"http://{address}/metrics") or b"").decode() for address in SHARDS.values())
        ]
        print(f"scale sets that the shards poll: {[len(of_shard) for of_shard in polled]}", flush=True)
        assert all(polled)
        assert len({scale_set for of_shard in polled for scale_set in of_shard}) == SCALE_SETS
        assert sum(map(len, polled)) == SCALE_SETS

        notification = {
            "alerts": [
                {"status": "firing", "labels": {"severity": "info", "alertname": "Test"}, "annotations": {}}
            ]
        }
        request = urllib.request.Request("http://127.0.0.1:8080/digest", json.dumps(notification).encode())
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert answer.status == 204

        for name in ("notifications", "simulator", *SHARDS):
            engine.confined(name)
        assert engine.health("exporter-0") == 0
        for name, process in shards.items():
            process.terminate()
            assert process.wait(10) == 0, f"{name}: SIGTERM must drain and end with 0"
        assert engine.health("simulator") == 1, "nobody answers on the port that the health check asks"


def get(url: str) -> bytes | None:
    """Return the body, whatever the status; None where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bytes(response.read())
    except urllib.error.HTTPError as answer:
        return bytes(answer.read())
    except OSError:
        return None


def answers(url: str, body: bytes) -> bool:
    return get(url) == body


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.05)


def without_unified_cgroups() -> None:
    """Leave the second hierarchy of a hybrid machine aside, which crun and systemd-nspawn take for the only one."""
    unified = Path("/sys/fs/cgroup/unified")
    if unified.is_mount():
        subprocess.run(["umount", "--lazy", unified], check=True)


def output(*command: str | Path) -> str:
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    if ended.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}")
    return ended.stdout.strip()


if __name__ == "__main__":
    missing = [name for name in ("buildah", "podman", "crun", "mmdebstrap") if shutil.which(name) is None]
    if missing:
        sys.exit(f"Not installed: {' '.join(missing)}")
    main()
