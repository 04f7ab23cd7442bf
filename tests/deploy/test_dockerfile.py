"""The Dockerfile, without building it: ``make image-check`` does that."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy/Dockerfile"


def instructions(name: str) -> list[str]:
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    return re.findall(rf"^{name}\s+(.*)$", text, re.MULTILINE)


def hadolint(path: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("hadolint")
    return subprocess.run([program, "--no-color", path], check=False, capture_output=True, text=True)


def test_hadolint_has_no_objection():
    done = hadolint(DOCKERFILE)
    assert done.returncode == 0, done.stdout


def test_hadolint_would_see_a_fault(tmp_path: Path):
    faulty = tmp_path / "Dockerfile"
    faulty.write_text(DOCKERFILE.read_text() + "MAINTAINER nobody\n")
    assert hadolint(faulty).returncode != 0


def test_nothing_but_the_lock_says_what_is_installed():
    installs = [line for line in instructions("RUN") if "pip install" in line]
    for install in re.findall(r"pip install [^;]*", " ".join(installs)):
        assert "--require-hashes" in install or "--no-deps" in install, install


def test_it_runs_as_nobody_and_without_a_shell():
    assert instructions("USER") == ["65532:65532"]
    assert instructions("FROM")[-1] == "scratch"
    (entrypoint,) = instructions("ENTRYPOINT")
    assert json.loads(entrypoint) == ["/opt/exporter/bin/vmss-upgrade-exporter"]
    (health,) = re.findall(r"CMD\s+(\[.*)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert json.loads(health)[:2] == ["/opt/exporter/bin/python", "-I"]


def test_the_context_holds_what_is_copied_and_nothing_else():
    ignored, *kept = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] != "#"]
    assert ignored == "*"
    copied = {name for line in instructions("COPY") if "--from" not in line for name in line.split()[:-1]}
    assert {line[1:] for line in kept if line.startswith("!")} == copied
    for name in copied:
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("path", ["Dockerfile", "compose.yaml"])
def test_no_image_floats(path: str):
    images = re.findall(
        r"(?:^ARG BASE=|^\s+image: )(\S+)", (ROOT / "deploy" / path).read_text(), re.MULTILINE
    )
    assert images
    for image in set(images) - {"vmss-upgrade-exporter"}:
        assert re.search(r":v?\d+\.\d+\.\d+$|@sha256:[0-9a-f]{64}$", image), image
