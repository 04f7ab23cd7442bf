"""Change the pure modules in small ways and see that their tests notice: ``python -m tests.supply.mutants [MODULE]...``.

``make mutants`` runs it on all of them. A mutant that no test of its module kills must be explained in that test file: below
``# Mutants that live``, by the line that it made of ours. It fails where one is not, and where the tests do not even pass.

Each module is mutated in a copy of its own, with its own test file alone, so that no test of another module does its work.
Tables at the top of a module are not mutated, as mutmut changes functions only.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

from tests.supply.lock import ROOT

PURE = (
    "discovery",
    "duration",
    "families",
    "history",
    "pace",
    "plan",
    "scale_set",
    "snapshot",
    "store",
)

PART = {"discovery": "exporter.discovery.x_*"}
"""Of a module that is pure in part, the mutants of that part: its functions, here, and not its class."""

CONFIGURATION = """
[tool.mutmut]
source_paths = ["exporter"]
only_mutate = ["exporter/{module}.py"]
pytest_add_cli_args = ["-pno:randomly", "--hypothesis-seed=0"]
pytest_add_cli_args_test_selection = ["tests/test_{module}.py"]
"""

KILLED = {"killed", "timeout", "caught by type check"}
MUTMUT = Path(sys.executable).with_name("mutmut")


def survivors(module: str, folder: Path) -> tuple[Counter[str], dict[str, str]]:
    """Mutate a module in a copy of ours; return how many mutants ended how, and the diff of each that lives."""
    for name in ("exporter", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "README.md", folder)
    project = (ROOT / "pyproject.toml").read_text()
    (folder / "pyproject.toml").write_text(project + CONFIGURATION.format(module=module))
    children = f"--max-children={os.cpu_count()}"
    part = PART.get(module, f"exporter.{module}.x*")
    subprocess.run([MUTMUT, "run", children, part], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    ends = dict(re.findall(r"^\s*(\S+): (.+)$", _mutmut(folder, "results", "--all=true"), re.MULTILINE))
    ends = {name: end for name, end in ends.items() if fnmatchcase(name, part)}
    lives = {name: _mutmut(folder, "show", name) for name, end in ends.items() if end not in KILLED}
    return Counter(ends.values()), lives


def explained(diff: str, tests: str) -> bool:
    """Say whether a test file explains a mutant, of which its diff with ours is given."""
    _, _, explanations = tests.partition("\n# Mutants that live")
    made = [
        line[1:].strip() for line in diff.splitlines() if line.startswith("+") and not line.startswith("+++")
    ]
    return bool(made) and f"`{' '.join(made)}`" in explanations


def _mutmut(folder: Path, *arguments: str) -> str:
    return subprocess.run([MUTMUT, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def main(modules: list[str]) -> int:
    unexplained = 0
    for module in modules or PURE:
        with tempfile.TemporaryDirectory() as folder:
            ends, lives = survivors(module, Path(folder))
        tests = (ROOT / f"tests/test_{module}.py").read_text()
        left = [diff for diff in lives.values() if not explained(diff, tests)]
        print(
            f"{module}: {ends.total()} mutants, {dict(ends)}, {len(lives) - len(left)} of them explained",
            flush=True,
        )
        for diff in left:
            print(diff, flush=True)
        unexplained += len(left)
        if not ends:
            sys.exit(f"{module}: mutmut made no mutants")
    return min(unexplained, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
