"""The workflows: as zizmor wants them, and nothing in them that somebody else may move."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.supply.lock import ROOT

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))


def zizmor(path: Path) -> subprocess.CompletedProcess[str]:
    """Run every audit that needs no network, the pedantic ones too."""
    program = Path(sys.executable).with_name("zizmor")
    return subprocess.run(
        [program, "--offline", "--pedantic", "--strict-collection", "--color=never", path],
        check=False,
        capture_output=True,
        text=True,
    )


def test_zizmor_has_no_objection():
    done = zizmor(GITHUB)
    assert done.returncode == 0, done.stdout + done.stderr


def test_zizmor_would_see_a_fault(tmp_path: Path):
    (ci,) = (path for path in WORKFLOWS if path.name == "ci.yml")
    faulty = tmp_path / "ci.yml"
    faulty.write_text(re.sub(r"actions/checkout@\w+ #.*", "actions/checkout@main", ci.read_text()))
    done = zizmor(faulty)
    assert "unpinned-uses" in done.stdout
    assert done.returncode != 0


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_by_commit_and_says_its_version(path: Path):
    for use in re.findall(r"uses: (.*)", path.read_text()):
        assert use.startswith("$/") or re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use), (
            use
        )


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_image_is_pinned_by_digest(path: Path):
    for image in re.findall(r"\S*docker\.io/\S+", path.read_text()):
        assert re.search(r"@sha256:[0-9a-f]{64}$", image), image


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_do_nothing_that_a_job_does_not_ask_for(path: Path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {}
    assert all("permissions" in job for job in workflow["jobs"].values())


def test_an_action_has_one_version():
    uses = {use for path in WORKFLOWS for use in re.findall(r"uses: (actions/.*)", path.read_text())}
    assert len({use.partition("@")[0] for use in uses}) == len(uses)


def test_every_supported_version_of_python_is_tested():
    jobs = yaml.safe_load((GITHUB / "workflows/ci.yml").read_text())["jobs"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    supported = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert supported == jobs["python"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert project["requires-python"] == ">=3.11"


def test_only_what_passed_the_tests_is_published():
    jobs = yaml.safe_load((GITHUB / "workflows/release.yml").read_text())["jobs"]
    assert jobs["publish"]["needs"] == "test"
    assert jobs["release"]["needs"] == "publish"


def test_the_chart_of_a_release_takes_the_image_of_that_release(tmp_path: Path):
    image, digest = "ghcr.io/somebody/vmss-upgrade-exporter", "sha256:" + "0123456789abcdef" * 4
    command = ["tests/supply/package-chart", image, digest, str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (package,) = tmp_path.glob("*.tgz")
    helm = Path(sys.executable).with_name("helm")
    done = subprocess.run([helm, "template", package], check=True, capture_output=True, text=True)
    assert re.findall(r"image: (.*)", done.stdout) == [f'"{image}@{digest}"']
