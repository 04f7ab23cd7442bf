"""The role for Azure grants what the exporter calls, and what its page says fits the chart."""

import json
import re
from pathlib import Path

import pytest

from tests.deploy.test_chart import manifests

ROOT = Path(__file__).parents[2]
ROLE = json.loads((ROOT / "deploy/azure/role.json").read_text())
PAGE = (ROOT / "deploy/azure/README.md").read_text()


def actions_in(text: str) -> set[str]:
    return set(re.findall(r"Microsoft\.Compute/[\w/]+/read", text))


@pytest.mark.parametrize("source", ["deploy/azure/README.md", "config.example.yaml"])
def test_the_role_grants_what_is_documented(source: str):
    assert set(ROLE["Actions"]) == actions_in((ROOT / source).read_text())


def test_the_role_grants_what_the_code_calls():
    modules = [path for path in (ROOT / "exporter").rglob("*.py") if "simulator" not in path.parts]
    code = "".join(path.read_text() for path in modules)
    called = set(re.findall(r"/providers/(Microsoft\.Compute/\w+)", code))
    assert {f"{resource}/read" for resource in called} | {
        f"{resource}/osUpgradeHistory/read" for resource in called
    } == set(ROLE["Actions"])
    assert actions_in(code) <= set(ROLE["Actions"])


def test_the_role_only_reads():
    assert all(action.endswith("/read") and "*" not in action for action in ROLE["Actions"])
    assert not ROLE["DataActions"]


def test_the_commands_fill_in_the_subscription_that_the_role_holds():
    (placeholder,) = re.findall(r'sed "s/([0-9a-f-]{36})/\$SUBSCRIPTION/"', PAGE)
    assert ROLE["AssignableScopes"] == [f"/subscriptions/{placeholder}"]
    assert f'--role "{ROLE["Name"]}"' in PAGE


def test_the_identity_trusts_the_service_account_of_the_chart(tmp_path: Path):
    ((namespace, account),) = re.findall(r"system:serviceaccount:([\w-]+):([\w-]+)", PAGE)
    ((release, chart, of_release),) = re.findall(
        r"helm upgrade --install ([\w-]+) (\S+) --namespace ([\w-]+)", PAGE
    )
    assert (ROOT / chart / "Chart.yaml").exists()
    values = tmp_path / "values.yaml"
    values.write_text(re.findall(r"with `values.yaml`:\n\n```yaml\n(.*?)```", PAGE, re.DOTALL)[0])
    found = manifests(f"--values={values}", release=release)
    service_account = found["ServiceAccount"]["metadata"]["name"]
    assert (of_release, service_account) == (namespace, account)
    assert found["StatefulSet"]["spec"]["template"]["spec"]["serviceAccountName"] == account
