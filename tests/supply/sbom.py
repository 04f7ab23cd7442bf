"""Complete the bill of materials that cyclonedx-py makes of an environment: ``python -m tests.supply.sbom FILE [FOLDER]``.

It knows names, licences and who needs whom, yet neither the version of the exporter nor the hashes, which the lock has.
FOLDER, an image's ``/var/lib/dpkg/status.d``, adds the Debian packages that the image is of.
"""

import json
import sys
from collections.abc import Iterable
from email import message_from_string
from pathlib import Path
from typing import Any

from exporter import __version__
from tests.supply.lock import Locked, shipped

Document = dict[str, Any]


def completed(document: Document, lock: Iterable[Locked], packages: Iterable[str] = ()) -> Document:
    """Return a CycloneDX document of the exporter with versions, hashes and Debian packages (control paragraphs).

    The hashes stand where CycloneDX wants those of files that a component may be had as: at its distribution.
    Raises ``ValueError`` where the environment and the lock disagree.
    """
    root: Document = document["metadata"]["component"]
    components = {part["name"]: part for part in document["components"] if part["name"] != root["name"]}
    locks = {locked.name: locked for locked in lock}
    installed = {_folded(name): part["version"] for name, part in components.items()}
    if installed != {name: locked.version for name, locked in locks.items()}:
        raise ValueError(f"the environment is not the lock: {sorted(installed.items())}")
    for name, part in components.items():
        locked = locks[_folded(name)]
        part.setdefault("externalReferences", []).append(
            {
                "type": "distribution",
                "url": part["purl"],
                "comment": "any of the files that the lock accepts",
                "hashes": [{"alg": "SHA-256", "content": content} for content in locked.sha256],
            }
        )
    root |= {"version": __version__, "purl": f"pkg:pypi/{root['name']}@{__version__}"}
    debian = [_debian(text) for text in packages]
    return {**document, "components": [*components.values(), *debian]}


def _folded(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _debian(paragraph: str) -> Document:
    control = message_from_string(paragraph)
    name, version, architecture = control["Package"], control["Version"], control["Architecture"]
    purl = f"pkg:deb/debian/{name}@{version}?arch={architecture}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


if __name__ == "__main__":
    file, *folders = map(Path, sys.argv[1:])
    paragraphs = [path.read_text() for folder in folders for path in sorted(folder.iterdir())]
    bill = completed(json.loads(file.read_text()), shipped(), paragraphs)
    file.write_text(json.dumps(bill, indent=2) + "\n")
