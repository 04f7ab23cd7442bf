"""The configuration: what a file becomes, and what is said of a bad one."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from exporter.azure.clouds import CLOUDS, Cloud
from exporter.config import (
    SECTIONS,
    AzureCli,
    ClientCertificate,
    ClientSecret,
    Config,
    ConfigError,
    CredentialConfig,
    DefaultCredential,
    Discovery,
    Journal,
    ManagedIdentity,
    NamedScaleSet,
    Polling,
    Subscription,
    WorkloadIdentity,
    load,
    tag_label,
)
from exporter.scale_set import ScaleSet
from exporter.settings import Section

Write: TypeAlias = Callable[[str | bytes], Path]

ID = "00000000-0000-0000-0000-000000000000"
WHOLE = f"""\
cloud: china
credential:
  kind: managed_identity
  client_id: 11111111-1111-1111-1111-111111111111
polling:
  interval: 10m
  active_interval: 90s
  timeout: 20s
  max_age: 1h30m
  concurrency: 8
  budget_share: 0.25
subscriptions:
  - id: {ID}
    scale_sets:
      - {{resource_group: rg-web, name: web}}
      - {{resource_group: rg-API, name: api, interval: 2m, labels: {{team: payments, app: shop}}}}
    discovery:
      refresh: 1h
      resource_groups: ["rg-.*"]
      tags: {{env: prod}}
      only_automatic_upgrade: false
      tag_labels: [team, env]
journal:
  path: journal.sqlite
  keep: 90d
"""
SMALLEST = f"subscriptions: [{{id: {ID}, discovery: {{}}}}]\n"


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write text to config.yaml, in the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes) -> Path:
        path = Path("config.yaml")
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def faults_of(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == "\n".join(caught.value.faults)
    return list(caught.value.faults)


# What a file becomes


def test_every_setting_of_a_file_arrives(written: Write) -> None:
    assert load(written(WHOLE)) == Config(
        cloud=CLOUDS["china"],
        credential=ManagedIdentity(client_id="11111111-1111-1111-1111-111111111111"),
        polling=Polling(
            interval=600.0,
            active_interval=90.0,
            timeout=20.0,
            max_age=5400.0,
            concurrency=8,
            budget_share=0.25,
        ),
        subscriptions=(
            Subscription(
                id=ID,
                scale_sets=(
                    NamedScaleSet(resource_group="rg-web", name="web"),
                    NamedScaleSet(
                        resource_group="rg-API",
                        name="api",
                        interval=120.0,
                        labels={"team": "payments", "app": "shop"},
                    ),
                ),
                discovery=Discovery(
                    refresh=3600.0,
                    resource_groups=(re.compile("rg-.*", re.IGNORECASE),),
                    tags={"env": "prod"},
                    only_automatic_upgrade=False,
                    tag_labels=("team", "env"),
                ),
            ),
        ),
        journal=Journal(path=Path("journal.sqlite"), keep=7_776_000.0),
    )


@pytest.mark.parametrize(
    "text",
    [
        SMALLEST,
        f"cloud:\ncredential: ~\npolling: null\njournal: Null\n{SMALLEST}",
        f"polling: {{interval: , timeout: ~}}\n{SMALLEST}",
    ],
    ids=["absent", "empty sections", "empty settings"],
)
def test_what_is_absent_or_empty_has_its_default(written: Write, text: str) -> None:
    config = load(written(text))
    assert config.cloud == CLOUDS["public"]
    assert config.credential == DefaultCredential()
    assert config.polling.model_dump() == {
        "interval": "5m",
        "active_interval": "1m",
        "timeout": "30s",
        "max_age": "1h",
        "concurrency": 64,
        "budget_share": 0.5,
    }
    assert (config.polling.interval, config.polling.timeout) == (300.0, 30.0)
    assert config.subscriptions[0].scale_sets == ()
    assert config.subscriptions[0].discovery == Discovery(
        refresh=900.0, resource_groups=(), tags={}, only_automatic_upgrade=True, tag_labels=()
    )
    assert config.journal is None


def test_a_journal_keeps_two_years_by_default() -> None:
    assert Journal(path=Path("journal.sqlite")).keep == 730 * 86_400.0


@pytest.mark.parametrize(
    ("text", "cloud"),
    [
        ("public", CLOUDS["public"]),
        ("usgovernment", CLOUDS["usgovernment"]),
        (
            "{endpoint: 'https://arm.example/', audience: 'https://a.example/', authority: 'https://l.example/x/'}",
            Cloud("custom", "https://arm.example", "https://a.example/", "https://l.example/x"),
        ),
        (
            "{endpoint: 'http://127.0.0.1:41237', audience: 'http://[::1]:1', authority: 'http://localhost:2'}",
            Cloud("custom", "http://127.0.0.1:41237", "http://[::1]:1", "http://localhost:2"),
        ),
    ],
    ids=["public", "usgovernment", "custom", "loopback in clear"],
)
def test_a_cloud_goes_by_name_or_by_addresses(written: Write, text: str, cloud: Cloud) -> None:
    assert load(written(f"cloud: {text}\n{SMALLEST}")).cloud == cloud


@pytest.mark.parametrize(
    ("text", "credential"),
    [
        ("{kind: default}", DefaultCredential()),
        ("{kind: managed_identity}", ManagedIdentity(client_id=None)),
        ("{kind: workload_identity}", WorkloadIdentity(tenant_id=None, client_id=None)),
        (
            "{kind: workload_identity, tenant_id: t, client_id: c}",
            WorkloadIdentity(tenant_id="t", client_id="c"),
        ),
        (
            "{kind: client_secret, tenant_id: contoso.com, client_id: c, client_secret_file: /run/secret}",
            ClientSecret(tenant_id="contoso.com", client_id="c", client_secret_file=Path("/run/secret")),
        ),
        (
            "{kind: client_certificate, tenant_id: t, client_id: c, certificate_file: a.pem}",
            ClientCertificate(tenant_id="t", client_id="c", certificate_file=Path("a.pem")),
        ),
        ("{kind: azure_cli, tenant_id: t}", AzureCli(tenant_id="t")),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_a_credential_takes_what_its_kind_needs(
    written: Write, text: str, credential: CredentialConfig
) -> None:
    assert load(written(f"credential: {text}\n{SMALLEST}")).credential == credential


@pytest.mark.parametrize(
    "text", ["007", "7", "1.10", "on", "yes", "12:30", "2024-01-01", "0x1f", "1_000", "'null'"]
)
def test_a_scalar_stays_the_text_that_stands_there(written: Write, text: str) -> None:
    config = load(written(f"subscriptions: [{{id: {ID}, discovery: {{tags: {{env: {text}}}}}}}]"))
    assert config.subscriptions[0].discovery is not None
    assert config.subscriptions[0].discovery.tags == {"env": text.strip("'")}


def test_a_file_may_have_a_byte_order_mark_and_the_line_ends_of_windows(written: Write) -> None:
    text = "\ufeff" + WHOLE.replace("\n", "\r\n")
    assert load(written(text)) == load(written(WHOLE))


def test_subscription_ids_are_lower_cased(written: Write) -> None:
    config = load(written(SMALLEST.replace(ID, "ABCDEF01-0000-0000-0000-000000000000")))
    assert config.subscriptions[0].id == "abcdef01-0000-0000-0000-000000000000"


def test_file_names_start_at_the_directory_of_the_configuration(written: Write) -> None:
    text = f"journal: {{path: sub/journal.sqlite}}\n{SMALLEST}"
    path = written(text).absolute()
    assert load(path).journal == Journal(path=path.parent / "sub/journal.sqlite")


def test_resource_groups_match_in_any_case(written: Write) -> None:
    config = load(written(WHOLE))
    assert config.subscriptions[0].discovery is not None
    (pattern,) = config.subscriptions[0].discovery.resource_groups
    assert pattern.fullmatch("RG-Web")
    assert not pattern.fullmatch("my-rg-web")


def test_named_scale_sets_have_their_own_interval_or_else_the_common_one(written: Write) -> None:
    assert load(written(WHOLE)).named_scale_sets() == (
        ScaleSet(subscription_id=ID, resource_group="rg-web", name="web", interval=600.0),
        ScaleSet(
            subscription_id=ID,
            resource_group="rg-API",
            name="api",
            interval=120.0,
            labels=(("label_app", "shop"), ("label_team", "payments")),
        ),
    )


def test_a_configuration_does_not_change(written: Write) -> None:
    config = load(written(WHOLE))
    with pytest.raises(ValidationError, match="frozen"):
        config.polling.interval = 1.0  # type: ignore[misc]
    with pytest.raises(TypeError, match="does not support item assignment"):
        config.subscriptions[0].scale_sets[0].labels["team"] = "x"  # type: ignore[index]


# What is said of a bad file


def annotated_faults() -> dict[str, tuple[str, list[str]]]:
    """Read tests/configs/faults.yaml: by title, a configuration and what its comments say is wrong with it."""
    path = Path(__file__).with_name("configs") / "faults.yaml"
    cases = {}
    for text in re.split(r"^(?=---)", path.read_text(), flags=re.MULTILINE)[1:]:
        lines = text.splitlines()
        faults = [
            f"config.yaml:{number}: {fault.strip()}"
            for number, line in enumerate(lines, start=1)
            for fault in line.split("#!")[1:]
        ]
        cases[lines[0].removeprefix("--- # ")] = (
            text if "\nsubscriptions:" in text else text + SMALLEST,
            faults,
        )
    return cases


FAULTS = annotated_faults()


@pytest.mark.parametrize(("text", "faults"), FAULTS.values(), ids=FAULTS)
def test_all_faults_of_a_file_are_said_at_once(written: Write, text: str, faults: list[str]) -> None:
    assert faults
    assert faults_of(written(text)) == faults


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "config.yaml:1: is empty"),
        ("# nothing\n", "config.yaml:1: is empty"),
        ("{}", "config.yaml:1: subscriptions: nothing to poll: no subscription has scale_sets or discovery"),
        ("- a\n- b\n", "config.yaml:1: must be a mapping, not a list"),
        ("hello\n", 'config.yaml:1: must be a mapping, not "hello"'),
        (
            "a: 1\nb: [1\n",
            "config.yaml:3: YAML: did not find expected ',' or ']' while parsing a flow sequence",
        ),
        ("a: 1\n b: 2\n", "config.yaml:2: YAML: mapping values are not allowed in this context"),
        ("a: 1\n---\nb: 2\n", "config.yaml:2: YAML: a second document is not supported"),
        ("a: &x 1\nb: *x\n", "config.yaml:2: YAML: the alias *x is not supported"),
        ("a:\n" + "- " * 17 + "x", "config.yaml:2: YAML: nesting beyond 16 levels is not supported"),
        ("a: 1\nb: é\x00\n", "config.yaml:2: must not hold control characters"),
        (b"a: 1\nb: \xff\n", "config.yaml:2: is not UTF-8"),
    ],
)
def test_what_is_no_configuration_at_all_has_one_fault(written: Write, text: str | bytes, fault: str) -> None:
    assert faults_of(written(text)) == [fault]


LONGEST_NAME = "x" * 505
LABELLED = f"""
subscriptions:
  - id: {ID}
    scale_sets:
      - resource_group: rg-web
        name: web
        labels:
"""
TAGGED = f"""
subscriptions:
  - id: {ID}
    discovery:
      tag_labels:
"""


@pytest.mark.parametrize(
    "text",
    [
        f"{LABELLED}          team: {'x' * 1023}\n",
        f"{LABELLED}          team: {'é' * 511}\n",
        f"{LABELLED}          {LONGEST_NAME}: a\n",
        LABELLED + "".join(f"          label{number}: a\n" for number in range(40)),
        f"{TAGGED}        - {'x' * 507}\n",
        TAGGED + "".join(f"        - tag{number}\n" for number in range(40)),
    ],
)
def test_labels_that_every_prometheus_takes_are_accepted(written: Write, text: str) -> None:
    load(written(text))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            f"{LABELLED}          team: {'x' * 1024}\n",
            "7: subscriptions[0].scale_sets[0].labels.team: must be at most 1023 bytes long in UTF-8, not 1024",
        ),
        (
            f"{LABELLED}          app: a\n          team: {'é' * 512}\n",
            "8: subscriptions[0].scale_sets[0].labels.team: must be at most 1023 bytes long in UTF-8, not 1024",
        ),
        (
            f"{LABELLED}          {LONGEST_NAME}x: a\n",
            (
                f"7: subscriptions[0].scale_sets[0].labels.{LONGEST_NAME}x: must be letters, digits and underscores,"
                f' at most 505 of them, not "{"x" * 59}…"'
            ),
        ),
        (
            LABELLED + "".join(f"          label{number}: a\n" for number in range(41)),
            "6: subscriptions[0].scale_sets[0].labels: must be at most 40 labels, not 41: a series has room for 63",
        ),
        (
            f"{TAGGED}        - team\n        - {'x' * 508}\n",
            (
                "6: subscriptions[0].discovery.tag_labels[1]: must be the name of a tag, at most 507 characters long,"
                f' not "{"x" * 59}…"'
            ),
        ),
        (
            TAGGED + "".join(f"        - tag{number}\n" for number in range(41)),
            "4: subscriptions[0].discovery.tag_labels: must be at most 40 labels, not 41: a series has room for 63",
        ),
    ],
)
def test_a_label_that_some_prometheus_would_refuse_is_refused_with_its_line(
    written: Write, text: str, fault: str
) -> None:
    """Azure Managed Prometheus drops a whole scrape for one such label."""
    assert faults_of(written(text.lstrip("\n"))) == [f"config.yaml:{fault}"]


def test_a_file_that_cannot_be_read_is_no_fault_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "config.yaml")
    with pytest.raises(IsADirectoryError):
        load(tmp_path)


def test_faults_bear_the_path_that_the_user_gave(written: Write) -> None:
    written("a: 1\n" + SMALLEST)
    assert faults_of(Path("../") / Path.cwd().name / "config.yaml") == [
        f"../{Path.cwd().name}/config.yaml:1: a: is not known"
    ]


keys = st.sampled_from(
    sorted({key for section in SECTIONS.values() for key in section.model_fields} | {"x", "", "\x07"})
)
scalars = st.sampled_from(
    [None, True, 7, 0.5, ID, "5m", "300", "(", "client_secret", "http://x", "{}", "a\nb", "…"]
)
documents = st.recursive(
    scalars | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=6),
    max_leaves=40,
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config") / "config.yaml"


@given(
    st.text()
    | st.text(alphabet="ab:-[]{}\"'\\&*!?#|>%@ \n\t~<,U0F")
    | documents.map(lambda document: yaml.safe_dump(document, allow_unicode=True))
)
@settings(deadline=None)
@example('"\\UFFFFFFFF"')
@example('"\\ud800": 1')
@example("[" * 100_000 + "]" * 100_000)
@example("&a [*a]")
@pytest.mark.parametrize("loader", [yaml.CBaseLoader, yaml.BaseLoader], ids=["libyaml", "without libyaml"])
def test_any_text_is_a_configuration_or_has_faults_of_one_line(
    scratch: Path, loader: type, text: str
) -> None:
    scratch.write_text(text, errors="replace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("exporter.document._LOADER", loader)
        try:
            load(scratch)
            faults: tuple[str, ...] = ()
        except ConfigError as error:
            faults = error.faults or ("an error without faults",)
    for fault in faults:
        assert fault.startswith(str(scratch))
        assert fault.isprintable()
        assert "Input" not in fault, "pydantic's words"


DURATION = st.from_regex(r"\A[1-9][0-9]{0,2}(ms|s|m|h)\Z")
NAME = st.from_regex(r"\A[-A-Za-z0-9_.()]{0,20}[-A-Za-z0-9_()]\Z")
SPOKEN = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=8)
DISCOVERY: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "refresh": DURATION,
        "resource_groups": st.lists(NAME.map(re.escape), max_size=2),
        "tags": st.dictionaries(SPOKEN, SPOKEN, max_size=2),
        "only_automatic_upgrade": st.booleans(),
    },
)
SCALE_SET: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"resource_group": NAME, "name": NAME},
    optional={"interval": DURATION, "labels": st.dictionaries(st.just("team"), SPOKEN)},
)
SUBSCRIPTION: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"id": st.uuids().map(str), "discovery": DISCOVERY},
    optional={
        "scale_sets": st.lists(
            SCALE_SET,
            max_size=3,
            unique_by=lambda each: (each["resource_group"].lower(), each["name"].lower()),
        )
    },
)
POLLING: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "max_age": DURATION,
        "budget_share": st.floats(0.01, 1.0),
        "concurrency": st.integers(1, 500),
    },
)
VALID: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"subscriptions": st.lists(SUBSCRIPTION, min_size=1, max_size=2, unique_by=lambda each: each["id"])},
    optional={"cloud": st.sampled_from(["public", "usgovernment", "china"]), "polling": POLLING},
)


@given(VALID)
@settings(deadline=None, max_examples=50)
def test_whatever_is_loaded_is_dumped_so_that_it_loads_again(scratch: Path, document: dict[str, Any]) -> None:
    scratch.write_text(yaml.safe_dump(document, allow_unicode=True))
    config = load(scratch)
    assert [each.id for each in config.subscriptions] == [each["id"] for each in document["subscriptions"]]
    scratch.write_text(config.dump())
    assert load(scratch) == config


# What is shown of it


def test_a_dump_has_the_defaults_filled_in(written: Write) -> None:
    assert (
        load(written(SMALLEST)).dump()
        == f"""\
cloud: public
credential:
  kind: default
polling:
  interval: 5m
  active_interval: 1m
  timeout: 30s
  max_age: 1h
  concurrency: 64
  budget_share: 0.5
subscriptions:
- id: {ID}
  scale_sets: []
  discovery:
    refresh: 15m
    resource_groups: []
    tags: {{}}
    only_automatic_upgrade: true
    tag_labels: []
"""
    )


@pytest.mark.parametrize(
    "text",
    [
        WHOLE,
        SMALLEST,
        f"cloud: {{endpoint: 'http://127.0.0.1:1', audience: 'https://a/', authority: 'https://b'}}\n{SMALLEST}",
        "credential: {kind: client_secret, tenant_id: t, client_id: c, client_secret_file: /run/s}\n"
        + SMALLEST,
        WHOLE.replace("env: prod", "'on': 'null', a: '7', b: 'é: #'"),
    ],
    ids=["whole", "smallest", "custom cloud", "client secret", "texts that YAML could mistake"],
)
def test_a_dump_loads_again(written: Write, text: str) -> None:
    config = load(written(text))
    assert load(written(config.dump())) == config


EXAMPLE = Path(__file__).parents[1] / "config.example.yaml"


def test_the_example_loads() -> None:
    config = load(EXAMPLE)
    assert config.polling == Polling()
    assert len(config.named_scale_sets()) == 2


@pytest.mark.parametrize("section", SECTIONS.values(), ids=lambda section: section.__name__)
def test_the_example_mentions_every_setting(section: type[Section]) -> None:
    text = EXAMPLE.read_text()
    assert [key for key in section.model_fields if not re.search(rf"\b{key}: ?", text)] == []


@pytest.mark.parametrize(
    ("tag", "label"), [("env", "tag_env"), ("cost-center", "tag_cost_center"), ("Équipe 7", "tag__quipe_7")]
)
def test_a_tag_becomes_a_label(tag: str, label: str) -> None:
    assert tag_label(tag) == label
