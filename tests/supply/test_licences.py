"""What we ship may be shipped."""

from importlib.metadata import Distribution, PackageMetadata
from pathlib import Path

import pytest

from tests.supply.licences import LIST, compatible, licence, listed
from tests.supply.lock import shipped


def test_the_list_is_current():
    assert LIST.read_text() == listed(), "run make licences"


def test_every_distribution_may_be_shipped_with_mit_software():
    rows = [line.strip("| \n").split(" | ") for line in listed().splitlines() if line.startswith("| ")][2:]
    assert [name for name, _ in rows] == [locked.name for locked in shipped()]
    for name, expression in rows:
        assert compatible(expression), f"{name}: {expression}"


@pytest.mark.parametrize(
    ("expression", "may"),
    [
        ("MIT", True),
        ("Apache-2.0 AND MIT", True),
        ("Apache-2.0 OR GPL-3.0-only", True),
        ("MIT AND (GPL-3.0-only OR BSD-3-Clause)", True),
        ("GPL-3.0-only", False),
        ("MIT AND LGPL-2.1-only", False),
        ("AGPL-3.0-only OR SSPL-1.0", False),
        ("UNKNOWN", False),
    ],
)
def test_a_licence_is_compatible_or_not(expression: str, may: bool):
    assert compatible(expression) is may


@pytest.mark.parametrize(
    ("fields", "expression"),
    [
        ({"License-Expression": "MIT", "License": "something else"}, "MIT"),
        ({"License": "Apache 2.0"}, "Apache-2.0"),
        (
            {"License": "a\nwhole\ntext", "Classifier": "License :: OSI Approved :: BSD License"},
            "BSD-3-Clause",
        ),
        ({"Classifier": "License :: OSI Approved :: BSD License"}, "BSD-3-Clause"),
    ],
)
def test_a_licence_is_read_where_distributions_say_it(
    tmp_path: Path, fields: dict[str, str], expression: str
):
    assert licence(said(fields, tmp_path)) == expression


@pytest.mark.parametrize("fields", [{}, {"Classifier": "License :: Other/Proprietary License"}])
def test_a_distribution_without_a_known_licence_is_refused(tmp_path: Path, fields: dict[str, str]):
    with pytest.raises(ValueError, match="no licence that we know"):
        licence(said(fields, tmp_path))


def said(fields: dict[str, str], folder: Path) -> PackageMetadata:
    lines = (f"{name}: {value.replace(chr(10), chr(10) + ' ')}\n" for name, value in fields.items())
    (folder / "METADATA").write_text("Metadata-Version: 2.4\nName: x\n" + "".join(lines))
    return Distribution.at(folder).metadata
