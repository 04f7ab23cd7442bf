"""The Helm chart, rendered by the real helm and validated strictly, custom resources included."""

import json
import re
import subprocess
import sys
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pydantic
import pytest
import yaml
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor

from exporter import __version__
from tests.processes import debian_program, exporter

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm/vmss-upgrade-exporter"
KUBERNETES = ("1.29", "1.33", "1.37")
CUSTOM = {"ServiceMonitor": ServiceMonitor, "PrometheusRule": PrometheusRule}

VALUES = {
    "the defaults": (),
    "the production example": (f"--values={CHART / 'examples/production.yaml'}",),
    "every other branch": (
        "--set=fullnameOverride=upgrades,serviceAccount.create=false,secretName=azure,scheme=https,port=8443",
        "--set=networkPolicy.enabled=false,podDisruptionBudget.enabled=false,persistence.enabled=true",
        "--set=serviceMonitor.enabled=true,serviceMonitor.endpoint.tlsConfig.insecureSkipVerify=true",
        "--set=service.annotations.a=b,podAnnotations.a=b,podLabels.a=b,priorityClassName=high,nodeSelector.a=b",
        '--set-json=tolerations=[{"operator":"Exists"}]',
        '--set-json=affinity={"nodeAffinity":{}}',
        '--set-json=extraArgs=["--web.enable-lifecycle"]',
        '--set-json=extraEnv=[{"name":"HTTPS_PROXY","value":"http://proxy:3128"}]',
        '--set-json=networkPolicy.egress=[{"ports":[{"port":3128}]}]',
    ),
}
Manifest = dict[str, Any]


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = debian_program(str(Path(sys.executable).with_name("helm")))
    return subprocess.run([program, *arguments], check=False, capture_output=True, text=True)


@cache
def rendered(release: str, *flags: str) -> str:
    done = helm("template", release, CHART, "--namespace=monitoring", *flags)
    assert done.returncode == 0, done.stderr
    return done.stdout


def manifests(*flags: str, release: str = "prod") -> dict[str, Manifest]:
    """Return what the chart makes of these values, by kind."""
    found = [manifest for manifest in yaml.safe_load_all(rendered(release, *flags)) if manifest]
    by_kind = {manifest["kind"]: manifest for manifest in found}
    assert len(by_kind) == len(found)
    return by_kind


def validate(manifest: Manifest, version: str) -> None:
    """Raise where a manifest is not what Kubernetes, or the Prometheus operator, takes; unknown fields included."""
    custom = CUSTOM.get(manifest["kind"])
    if custom is None:
        kubernetes_validate.validate(manifest, version, strict=True)
    else:
        custom.model_validate(manifest, extra="forbid")


def pod(*flags: str) -> Manifest:
    template: Manifest = manifests(*flags)["StatefulSet"]["spec"]["template"]
    return template


def container(*flags: str) -> Manifest:
    (only,) = pod(*flags)["spec"]["containers"]
    return dict(only)


@pytest.mark.parametrize("flags", VALUES.values(), ids=VALUES)
def test_helm_lint_has_no_objection(flags: tuple[str, ...]):
    done = helm("lint", "--strict", CHART, *flags)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("flags", VALUES.values(), ids=VALUES)
def test_every_manifest_is_valid(flags: tuple[str, ...], version: str):
    for manifest in manifests(*flags).values():
        validate(manifest, version)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("StatefulSet", ("spec", "template", "spec", "containers", 0)),
        ("NetworkPolicy", ("spec", "ingress", 0)),
        ("ServiceMonitor", ("spec", "endpoints", 0)),
        ("PrometheusRule", ("spec", "groups", 0, "rules", 0)),
    ],
)
def test_the_validation_sees_a_field_that_does_not_exist(kind: str, path: tuple[str | int, ...]):
    manifest = manifests(*VALUES["the production example"])[kind]
    validate(manifest, KUBERNETES[-1])
    place: Any = manifest
    for step in path:
        place = place[step]
    place["imagine"] = "this"
    with pytest.raises((jsonschema.ValidationError, pydantic.ValidationError), match="imagine"):
        validate(manifest, KUBERNETES[-1])


def test_without_the_operator_nothing_needs_it_and_with_it_both_resources_are_there():
    always = {"ConfigMap", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount", "StatefulSet"}
    assert set(manifests()) == always
    assert set(manifests(*VALUES["the production example"])) == always | set(CUSTOM)
    assert set(manifests(*VALUES["every other branch"])) == {
        "ConfigMap",
        "Service",
        "ServiceMonitor",
        "StatefulSet",
    }


@pytest.mark.parametrize("flags", VALUES.values(), ids=VALUES)
def test_the_pod_meets_the_restricted_security_standard(flags: tuple[str, ...]):
    spec, only = pod(*flags)["spec"], container(*flags)
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    kinds = {kind for volume in spec["volumes"] for kind in volume} - {"name"}
    assert kinds <= {"projected", "emptyDir"}
    assert spec["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)


def test_the_ordinal_of_the_pod_is_its_shard():
    flags = VALUES["the production example"]
    assert manifests(*flags)["StatefulSet"]["spec"]["replicas"] == 3
    assert "--total-shards=3" in container(*flags)["args"]
    assert {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}} in container(
        *flags
    )["env"]


@pytest.mark.parametrize("flags", VALUES.values(), ids=VALUES)
async def test_the_exporter_takes_the_flags_and_the_configuration(flags: tuple[str, ...], tmp_path: Path):
    only = container(*flags)
    config = manifests(*flags)["ConfigMap"]["data"]["config.yaml"]
    (tmp_path / "config.yaml").write_text(config.replace("/var/lib/vmss-upgrade-exporter", str(tmp_path)))
    mounts = {mount["name"]: mount["mountPath"] for mount in only["volumeMounts"]}
    assert f"--config.file={mounts['config']}/config.yaml" in only["args"]
    arguments = [
        argument.replace(mounts["config"], str(tmp_path))
        for argument in only["args"]
        if not argument.startswith("--web.listen-address=")
    ]
    async with exporter(*arguments, POD_NAME="prod-vmss-upgrade-exporter-0") as running:
        for probe in ("livenessProbe", "readinessProbe"):
            status, _ = await running.get(only[probe]["httpGet"]["path"])
            assert status == (200 if probe == "livenessProbe" else 503)


def test_a_change_of_the_configuration_rolls_the_pods_and_nothing_else_does():
    def checksum(*flags: str) -> str:
        return str(pod(*flags)["metadata"]["annotations"]["checksum/config"])

    assert checksum() == checksum("--set=shards=2")
    assert checksum() != checksum("--set=config.polling.interval=2m")


def test_workload_identity_needs_the_annotation_and_the_label():
    flags = VALUES["the production example"]
    assert manifests(*flags)["ServiceAccount"]["metadata"]["annotations"] == {
        "azure.workload.identity/client-id": "22222222-2222-2222-2222-222222222222",
        "azure.workload.identity/tenant-id": "33333333-3333-3333-3333-333333333333",
    }
    assert pod(*flags)["metadata"]["labels"]["azure.workload.identity/use"] == "true"
    assert "azure.workload.identity/use" not in pod()["metadata"]["labels"]


def test_a_secret_stands_beside_the_configuration():
    (config, *_) = pod(*VALUES["every other branch"])["spec"]["volumes"]
    assert config["projected"] == {
        "defaultMode": 0o440,
        "sources": [{"configMap": {"name": "upgrades"}}, {"secret": {"name": "azure"}}],
    }


@pytest.mark.parametrize("flags", VALUES.values(), ids=VALUES)
def test_what_selects_the_pods_and_names_their_port_agrees(flags: tuple[str, ...]):
    found = manifests(*flags)
    labels = pod(*flags)["metadata"]["labels"].items()
    selectors = {
        "StatefulSet": lambda spec: spec["selector"]["matchLabels"],
        "Service": lambda spec: spec["selector"],
        "PodDisruptionBudget": lambda spec: spec["selector"]["matchLabels"],
        "NetworkPolicy": lambda spec: spec["podSelector"]["matchLabels"],
    }
    for kind, selector in selectors.items():
        if kind in found:
            assert selector(found[kind]["spec"]).items() <= labels
    (port,) = container(*flags)["ports"]
    (service_port,) = found["Service"]["spec"]["ports"]
    assert service_port["targetPort"] == service_port["name"] == port["name"] == "metrics"
    assert f"--web.listen-address=:{port['containerPort']}" in container(*flags)["args"]
    assert found["StatefulSet"]["spec"]["serviceName"] == found["Service"]["metadata"]["name"]
    if "ServiceMonitor" in found:
        monitor = found["ServiceMonitor"]["spec"]
        assert monitor["selector"]["matchLabels"].items() <= found["Service"]["metadata"]["labels"].items()
        assert monitor["endpoints"][0]["port"] == "metrics"


def test_shards_are_scraped_before_they_are_ready():
    assert manifests()["Service"]["spec"]["publishNotReadyAddresses"] is True


@pytest.mark.parametrize(
    ("override", "job"),
    [
        ("", "prod-vmss-upgrade-exporter"),
        ("upgrades", "vmss-upgrade-exporter-upgrades"),
        ("vmss-upgrade-exporter-2", "vmss-upgrade-exporter-2"),
    ],
)
def test_the_job_has_a_name_that_the_alerts_know(override: str, job: str):
    monitor = manifests(f"--set=fullnameOverride={override}", "--set=serviceMonitor.enabled=true")[
        "ServiceMonitor"
    ]
    (relabeling,) = monitor["spec"]["endpoints"][0]["relabelings"]
    assert relabeling == {"targetLabel": "job", "action": "replace", "replacement": job}


def test_the_rules_are_those_of_prometheus():
    rules = manifests(*VALUES["the production example"])["PrometheusRule"]["spec"]["groups"]
    files = [DEPLOY / "prometheus/alerts.yml", DEPLOY / "prometheus/recording.yml"]
    assert rules == [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    for file in files:
        assert (CHART / "files" / file.name).read_text() == file.read_text(), "run make chart"


def test_the_chart_is_of_the_exporters_version():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == chart["version"] == __version__
    assert container()["image"] == f"vmss-upgrade-exporter:{__version__}"


def test_a_digest_outweighs_the_tag():
    digest = "sha256:" + "0123456789abcdef" * 4
    image = container(*VALUES["the production example"], "--set=image.tag=latest")["image"]
    assert image == f"registry.example.com/platform/vmss-upgrade-exporter@{digest}"


def test_the_package_holds_what_the_chart_reads(tmp_path: Path):
    done = helm("package", CHART, f"--destination={tmp_path}")
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.glob("*.tgz")
    with tarfile.open(package) as files:
        names = {name.removeprefix("vmss-upgrade-exporter/") for name in files.getnames()}
    assert {"values.schema.json", "files/alerts.yml", "files/recording.yml", "templates/NOTES.txt"} <= names


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--set=shards=0", "/shards"),
        ("--set=shard=3", "'shard' not allowed"),
        ("--set=image.digest=latest", "/image/digest"),
        ("--set=config.subscriptions=null", "subscriptions"),
        ("--set-json=config.subscriptions=[]", "/config/subscriptions"),
        ("--set=workloadIdentity.clientId=me", "/workloadIdentity/clientId"),
        ("--set=log.level=loud", "/log/level"),
        ("--set=port=80", "/port"),
        ("--set=serviceMonitor.interval=soon", "/serviceMonitor/interval"),
        ('--set-json=extraArgs=["check"]', "/extraArgs"),
    ],
)
def test_the_schema_refuses(flag: str, said: str):
    done = helm("template", "prod", CHART, flag)
    assert done.returncode != 0
    assert said in done.stderr


def test_the_schema_knows_every_value_and_no_other():
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(schema["properties"]) - {"global"} == set(values)
    for name, of_value in schema["properties"].items():
        if of_value.get("additionalProperties") is False and name != "resources":
            assert set(of_value["properties"]) == set(values[name]), name


def test_every_value_is_used():
    templates = "\n".join(path.read_text() for path in (CHART / "templates").iterdir())
    for name in yaml.safe_load((CHART / "values.yaml").read_text()):
        assert re.search(rf"\.Values\.{name}\b", templates), name
