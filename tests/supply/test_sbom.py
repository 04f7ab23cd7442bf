"""The bill of materials says what is in the image, and by which hashes."""

from typing import Any

import pytest

from exporter import __version__
from tests.supply.lock import Locked
from tests.supply.sbom import completed

LOCK = (Locked("typing-extensions", "4.0", ("a" * 64, "b" * 64)),)


def environment(*components: tuple[str, str]) -> dict[str, Any]:
    """Return what cyclonedx-py makes of an environment, as far as it matters here."""
    return {
        "bomFormat": "CycloneDX",
        "metadata": {"component": {"name": "vmss-upgrade-exporter", "type": "application"}},
        "components": [
            {"name": name, "version": version, "purl": f"pkg:pypi/{name}@{version}"}
            for name, version in components
        ],
    }


def test_it_bears_the_exporters_version():
    document = completed(environment(("typing_extensions", "4.0")), LOCK)
    assert document["bomFormat"] == "CycloneDX"
    assert document["metadata"]["component"] == {
        "name": "vmss-upgrade-exporter",
        "type": "application",
        "version": __version__,
        "purl": f"pkg:pypi/vmss-upgrade-exporter@{__version__}",
    }


def test_a_component_bears_the_hashes_of_the_lock():
    (component,) = completed(environment(("typing_extensions", "4.0")), LOCK)["components"]
    (reference,) = component["externalReferences"]
    assert reference["type"] == "distribution"
    assert reference["hashes"] == [
        {"alg": "SHA-256", "content": "a" * 64},
        {"alg": "SHA-256", "content": "b" * 64},
    ]


@pytest.mark.parametrize(
    "components",
    [(), (("typing_extensions", "4.1"),), (("typing_extensions", "4.0"), ("pip", "26.0"))],
    ids=["missing", "another version", "not locked"],
)
def test_an_environment_that_is_not_the_lock_is_refused(components: tuple[tuple[str, str], ...]):
    with pytest.raises(ValueError, match="the environment is not the lock"):
        completed(environment(*components), LOCK)


def test_the_packages_of_an_image_are_components():
    paragraph = "Package: libc6\nArchitecture: amd64\nVersion: 2.41-12\nDescription: GNU C Library\n more\n"
    *_, component = completed(environment(("typing_extensions", "4.0")), LOCK, [paragraph])["components"]
    assert component == {
        "type": "library",
        "bom-ref": "pkg:deb/debian/libc6@2.41-12?arch=amd64",
        "name": "libc6",
        "version": "2.41-12",
        "purl": "pkg:deb/debian/libc6@2.41-12?arch=amd64",
    }
