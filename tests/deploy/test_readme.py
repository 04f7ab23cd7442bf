"""``deploy/README.md`` names what there is: files, headings, commands, flags, values, alerts."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from exporter import __version__
from exporter.config import load
from tests.deploy.test_chart import manifests

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PAGE = (DEPLOY / "README.md").read_text()
BLOCKS = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.strip() for kind, block in BLOCKS if kind == "sh" for line in block.replace("\\\n", " ").splitlines()
]


def blocks(kind: str) -> list[str]:
    return [block for named, block in BLOCKS if named == kind]


def anchors(page: Path) -> set[str]:
    """Return what GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@cache
def flags_of(command: str) -> set[str]:
    """Return the flags that a command's help names."""
    done = subprocess.run(
        [sys.executable, "-m", "exporter", command, "--help"],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    return set(re.findall(r"--[a-z.-]+", done.stdout))


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)\s]+)\)", PAGE))))
def test_every_link_leads_somewhere(link: str):
    file, _, anchor = link.partition("#")
    target = DEPLOY / (file or "README.md")
    assert target.exists()
    assert not anchor or anchor in anchors(target)


def test_every_file_that_a_command_names_exists():
    named = set(re.findall(r"(?<![\w./-])(?:deploy/[\w./-]+|requirements\.txt)", " ".join(COMMANDS)))
    assert len(named) >= 8
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_every_target_of_make_exists():
    named = set(re.findall(r"`make ([\w-]+)", PAGE))
    assert named >= {"deploy-check", "image-check", "unit-check"}
    assert named <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_every_flag_of_the_exporter_exists():
    checks = [flags for line in COMMANDS for flags in re.findall(r"vmss-upgrade-exporter check\b(.*)", line)]
    assert len(checks) == 5  # compose, container, systemd and its secret, Kubernetes
    for flags in checks:
        assert "--live" in flags
        assert {flag.partition("=")[0] for flag in flags.split()} <= flags_of("check")
    daemon = set(re.findall(r"`(--(?:config|log|web)\.[a-z.-]+)", PAGE))
    assert daemon <= flags_of("demo") | flags_of("check")


def test_the_program_is_where_the_image_and_the_unit_have_it():
    named = set(re.findall(r"/opt/[\w/-]+/bin/vmss-upgrade-exporter", " ".join(COMMANDS)))
    entrypoint = re.findall(r'ENTRYPOINT \["(.+)"\]', (DEPLOY / "Dockerfile").read_text())
    unit = (DEPLOY / "systemd/vmss-upgrade-exporter.service").read_text()
    assert named == {*entrypoint, *re.findall(r"^ExecStart=(\S+)", unit, re.MULTILINE)}


def test_the_units_comment_installs_as_the_page_does():
    unit = (DEPLOY / "systemd/vmss-upgrade-exporter.service").read_text()
    installing = re.findall(r"^#   ((?:python3|/opt/\S+|systemctl) .*)$", unit, re.MULTILINE)
    assert len(installing) == 4
    assert set(installing) <= set(COMMANDS)


def test_every_service_of_compose_exists():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    named = re.findall(r"compose\.yaml (?:exec|logs -f) (\S+)", " ".join(COMMANDS))
    assert named == ["exporter-0", "notifications"]
    assert set(named) <= set(services)


def test_the_configurations_are_what_the_exporter_takes(tmp_path: Path):
    found = [block for block in blocks("yaml") if "image:" not in block]
    assert len(found) == 2
    for block in found:
        file = tmp_path / "config.yaml"
        file.write_text(block)
        assert load(file).subscriptions


def test_the_chart_takes_the_values_and_makes_what_the_steps_ask_for(tmp_path: Path):
    (block,) = [block for block in blocks("yaml") if "image:" in block]
    ((release, namespace, values),) = [
        (*re.findall(r"--install (\S+) deploy/helm/\S+ --namespace (\S+)", line)[0], line)
        for line in COMMANDS
        if line.startswith("helm ")
    ]
    client = "22222222-2222-2222-2222-222222222222"
    settings = [value.replace('"$CLIENT_ID"', client) for value in re.findall(r"--set (\S+)", values)]
    file = tmp_path / "values.yaml"
    file.write_text(block)
    # The schema refuses a value that is not.
    found = manifests(f"--values={file}", *(f"--set={value}" for value in settings), release=release)

    assert {"ServiceMonitor", "PrometheusRule"} <= set(found)
    set_of = found["StatefulSet"]
    name = set_of["metadata"]["name"]
    of_pods = re.findall(r"(?:statefulset/|exec |logs |port-forward )(vmss-\S+)", " ".join(COMMANDS))
    assert set(of_pods) - {"vmss-upgrade-exporter"} == {f"{name}-0"}
    assert f"statefulset/{name}" in PAGE
    assert set(re.findall(r"kubectl --namespace (\S+)", PAGE)) == {namespace}
    assert set_of["metadata"]["namespace"] == namespace
    (container,) = set_of["spec"]["template"]["spec"]["containers"]
    assert {
        f"docker push {container['image']}",
        f"docker build -f deploy/Dockerfile -t {container['image']} .",
    } <= set(COMMANDS)
    assert container["image"].endswith(f":{__version__}")
    (config,) = re.findall(r"exec .*--config\.file=(\S+)", "\n".join(COMMANDS))
    assert f"--config.file={config}" in container["args"]
    groups = [group["name"] for group in found["PrometheusRule"]["spec"]["groups"]]
    assert "azure-vmss-os-upgrade" in groups


def test_every_alert_and_metric_exists():
    alerts = (DEPLOY / "prometheus/alerts.yml").read_text()
    named = set(re.findall(r"AzureVmss\w+", PAGE))
    named -= {"AzureVmss"}  # a pattern
    assert {"AzureVmssOsUpgradeFaulted", "AzureVmssExporterPollFailing"} <= named
    assert named <= set(re.findall(r"alert: (\w+)", alerts))
    assert set(re.findall(r"azure_vmss_os_upgrade_\w+", PAGE)) <= set(
        re.findall(r"azure_vmss_os_\w+", alerts)
    )
