"""The licences of what we ship, listed: ``python -m tests.supply.licences`` (``make licences``) writes the list anew.

A licence is an SPDX expression: the distribution's own, else the one that its classifier or its older field stands for.
"""

from importlib.metadata import PackageMetadata, metadata

from tests.supply.lock import ROOT, shipped

LIST = ROOT / ".github/licences.md"

COMPATIBLE = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT", "MIT-0", "MPL-2.0", "PSF-2.0"}
"""What may be shipped together with MIT: permissive ones, and MPL-2.0, whose copyleft ends at its own files."""

SPOKEN = {
    "Apache 2.0": "Apache-2.0",
    "MIT License": "MIT",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",  # Jinja, whose LICENSE.txt has the three clauses
}
"""What distributions say that is no SPDX expression."""

HEAD = """# Licences

The exporter is MIT. These are the distributions that it runs on, which its image and `requirements.txt` bring; `make licences` makes the list from their
metadata, and `make test` fails where it is not current or one of them may not be shipped with MIT software. `make sbom` has versions and hashes.

| distribution | licence (SPDX) |
| --- | --- |
"""

FOOT = """
MPL-2.0 asks that changes to certifi's own files be published; there are none. The image also holds Python (PSF-2.0) and libraries of Debian, among them the C
library (LGPL-2.1-or-later) and libgcc (GPL-3.0-or-later with the GCC runtime library exception): works of their own, as Debian built them, linked as
Python links them. Each has its licence at `/usr/share/doc/*/copyright` in the image, and its source at Debian under the version that
`/var/lib/dpkg/status.d` names. What only builds or tests the exporter is not shipped and not listed.
"""


def listed() -> str:
    """Return the list as it should be."""
    rows = (f"| {locked.name} | {licence(metadata(locked.name))} |\n" for locked in shipped())
    return HEAD + "".join(rows) + FOOT


def licence(said: PackageMetadata) -> str:
    """Return a distribution's licence; raise ``ValueError`` where it says none."""
    if "License-Expression" in said:
        return said["License-Expression"]
    if "License" in said and "\n" not in said["License"]:
        return SPOKEN.get(said["License"], said["License"])
    classifiers = [name for name in said.get_all("Classifier") or () if name.startswith("License ::")]
    if len(classifiers) != 1 or classifiers[0] not in SPOKEN:
        raise ValueError(f"{said['Name']} says no licence that we know: {classifiers}")
    return SPOKEN[classifiers[0]]


def compatible(expression: str) -> bool:
    """Say whether every licence of an AND, and one of each OR, may be shipped with MIT software."""
    return all(
        any(name in COMPATIBLE for name in either.split(" OR "))
        for either in expression.replace("(", "").replace(")", "").split(" AND ")
    )


if __name__ == "__main__":
    LIST.write_text(listed())
