"""Nothing is installed but by version and hash."""

import re
from pathlib import Path

import pytest

from tests.supply.lock import LOCKS, ROOT, Locked, read, shipped

HASH = "0" * 64


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_lock_pins_by_version_and_hash(path: Path):
    assert read(path.read_text())


def test_the_locks_agree():
    versions: dict[str, set[str]] = {}
    for locked in (locked for path in LOCKS for locked in read(path.read_text())):
        versions.setdefault(locked.name, set()).add(locked.version)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_the_lock_says_nothing_of_where_it_is_fetched():
    for path in LOCKS:
        assert not re.search(r"//|--index|--find-links|--trusted", path.read_text()), path


def test_a_lock_is_read():
    text = f"# a comment\na-b==1.0 ; python_version > '3' \\\n    --hash=sha256:{HASH} \\\n    --hash=sha256:{HASH}\n"
    assert read(text) == (Locked("a-b", "1.0", (HASH, HASH)),)


@pytest.mark.parametrize(
    "line",
    [
        "a==1.0",
        f"a>=1.0 --hash=sha256:{HASH}",
        f"a --hash=sha256:{HASH}",
        f"a==1.0 --hash=sha256:{HASH}0",
        "-e .",
    ],
)
def test_what_is_not_pinned_is_refused(line: str):
    with pytest.raises(ValueError, match="not pinned by version and hash"):
        read(line)


def test_what_only_builds_is_not_shipped():
    assert "flit-core" not in {locked.name for locked in shipped()}
    assert "aiohttp" in {locked.name for locked in shipped()}


def test_the_makefile_installs_by_the_lock_only():
    installs = re.findall(
        r"\$\(PIP\) (?:install|download) .*|/pip install .*", (ROOT / "Makefile").read_text()
    )
    assert installs
    for install in installs:
        assert "--require-hashes" in install or "--no-deps" in install, install
