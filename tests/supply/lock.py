"""The lock: what is installed, at which version, and the hashes that its files must have."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCKS = (
    ROOT / "requirements.txt",
    ROOT / "tests/requirements.txt",
    ROOT / "tests/supply/requirements.txt",
    ROOT / "tests/deploy/helm.txt",
)

BUILD_ONLY = {"flit-core"}
"""In the lock to install ourselves from source; the image does not keep it."""


@dataclass(frozen=True, slots=True)
class Locked:
    """One distribution of the lock."""

    name: str
    version: str
    sha256: tuple[str, ...]


def read(text: str) -> tuple[Locked, ...]:
    """Return the distributions of a requirements file; raise ``ValueError`` where one is not pinned and hashed."""
    lines = (line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#"))
    return tuple(map(_locked, lines))


def _locked(line: str) -> Locked:
    pin = re.match(r"([a-z0-9-]+)==([^\s;]+)", line)
    hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})(?!\S)", line)
    if pin is None or not hashes:
        raise ValueError(f"not pinned by version and hash: {line.strip()}")
    return Locked(pin[1], pin[2], tuple(hashes))


def shipped() -> tuple[Locked, ...]:
    """Return what we run on, and what an image of ours therefore holds."""
    return tuple(locked for locked in read(LOCKS[0].read_text()) if locked.name not in BUILD_ONLY)
