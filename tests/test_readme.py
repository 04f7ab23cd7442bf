"""The README says what is so."""

import re

from exporter.families import FAMILIES, JOURNAL_FAMILIES
from tests.readme import README, current


def test_the_tables_of_metrics_are_current():
    text = README.read_text()
    assert text == current(text), "run make readme"


def test_every_family_that_the_readme_names_exists():
    named = set(re.findall(r"azure_vmss_os_upgrade_\w+", README.read_text()))
    assert named == {family.name for family in FAMILIES + JOURNAL_FAMILIES}


def test_every_file_that_the_readme_links_to_exists():
    for target in re.findall(r"\]\(([^)#:]+)\)", README.read_text()):
        assert (README.parent / target).exists(), target


def test_every_test_that_shows_a_promise_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", README.read_text())
    assert len(named) >= 16
    for file, name in named:
        assert f"def {name}(" in (README.parent / file).read_text(), name
