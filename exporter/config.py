"""The configuration: its typed model, and how a YAML file becomes one or else the list of all its faults.

Knows nothing of Azure's answers, schedules or metrics, and opens no file but the one it is asked to load.
"""

import re
from collections.abc import Collection, Hashable, Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Literal, TypeAlias, TypeVar, get_args
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    PlainSerializer,
    PlainValidator,
)
from pydantic_core import ErrorDetails

from exporter.azure.clouds import CLOUDS, Cloud
from exporter.document import Document, Fault, Location, Yaml, shown
from exporter.duration import A_DURATION, format_duration, parse_duration
from exporter.label_limits import MAX_NAME_LENGTH, MAX_OWN_LABELS, MAX_VALUE_BYTES, is_label_value
from exporter.scale_set import ScaleSet
from exporter.settings import ConfigError, File, Section, Text, Truth, in_our_words, must_be, read, validated

__all__ = ["Config", "ConfigError", "load"]

# --- Types of settings: each says in its own words what it must be


_Key = TypeVar("_Key", bound=str)
_Value = TypeVar("_Value", bound=str)
_Labels = TypeVar("_Labels", bound=Collection[str])
LABEL_PREFIX: Final = "label_"
"""Begins the names of labels that the configuration gives a scale set."""
TAG_PREFIX: Final = "tag_"
"""Begins the names of labels that tags in Azure become."""


def _seconds(given: object) -> object:
    seconds = parse_duration(given) if isinstance(given, str) else given
    if seconds == 0:
        raise ValueError("must be longer than 0")
    return seconds


def _pattern(given: object) -> object:
    try:
        return re.compile(given, re.IGNORECASE) if isinstance(given, str) else given
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"must be a regular expression, not {shown(given)}: {error}") from None


def _url(url: str) -> str:
    if "@" in url:
        raise ValueError("must not hold a user name or password")
    if "?" in url or "#" in url:
        raise ValueError("must not have a query or fragment")
    try:
        parts = urlsplit(url)
        scheme, host, _ = parts.scheme, parts.hostname or "", parts.port
    except ValueError:
        scheme, host = "", ""
    if (
        scheme not in ("http", "https")
        or not re.fullmatch(r"[\w.:-]+", host, re.ASCII)
        or re.search(r"\s", url)
    ):
        raise ValueError(f"must be a URL such as https://management.azure.com, not {shown(url)}")
    if scheme == "http" and not _is_loopback(host):
        raise ValueError(
            "must be https, as a token must not travel in clear (http is for loopback hosts only)"
        )
    return url


def _label_value(given: str) -> str:
    if not is_label_value(given):
        raise ValueError(f"must be at most {MAX_VALUE_BYTES} bytes long in UTF-8, not {len(given.encode())}")
    return given


def _not_too_many(labels: _Labels) -> _Labels:
    if len(labels) > MAX_OWN_LABELS:
        raise ValueError(
            f"must be at most {MAX_OWN_LABELS} labels, not {len(labels)}: a series has room for 63"
        )
    return labels


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


Duration = Annotated[
    float, Field(gt=0), must_be(A_DURATION), BeforeValidator(_seconds), PlainSerializer(format_duration)
]
Table = Annotated[Mapping[_Key, _Value], AfterValidator(MappingProxyType), PlainSerializer(dict)]
Pattern = Annotated[
    re.Pattern[str],
    must_be("a regular expression"),
    BeforeValidator(_pattern),
    PlainSerializer(lambda pattern: pattern.pattern),
]
Url = Annotated[Text, AfterValidator(_url)]
BaseUrl = Annotated[Url, AfterValidator(lambda url: url.rstrip("/"))]
SubscriptionId = Annotated[
    str,
    Field(pattern=r"^(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"),
    AfterValidator(str.lower),
    must_be("a UUID such as 00000000-0000-0000-0000-000000000000"),
]
EntraId = Annotated[str, Field(pattern=r"^[0-9A-Za-z.-]+$"), must_be("a UUID or domain name")]
LabelName = Annotated[
    str,
    Field(pattern=r"^[0-9A-Za-z_]+$", max_length=MAX_NAME_LENGTH - len(LABEL_PREFIX)),
    must_be(f"letters, digits and underscores, at most {MAX_NAME_LENGTH - len(LABEL_PREFIX)} of them"),
]
LabelValue = Annotated[Text, AfterValidator(_label_value)]
TagName = Annotated[
    str,
    Field(min_length=1, max_length=MAX_NAME_LENGTH - len(TAG_PREFIX)),
    must_be(f"the name of a tag, at most {MAX_NAME_LENGTH - len(TAG_PREFIX)} characters long"),
]
# https://learn.microsoft.com/azure/azure-resource-manager/management/resource-name-rules
AzureName = Annotated[
    str,
    Field(pattern=r"^[-\w.()]*[-\w()]$", max_length=90),
    must_be('1 to 90 letters, digits, "-", "_", ".", "(" or ")" that do not end with "."'),
]


# --- The model


class CustomCloud(Section):
    """A cloud without a name of its own: Azure Stack Hub, the simulator."""

    endpoint: BaseUrl
    audience: Url
    """Kept to the letter: to some, a final slash matters."""
    authority: BaseUrl


def _cloud(given: object) -> Cloud:
    if isinstance(given, Cloud):
        return given
    if isinstance(given, dict):
        custom = CustomCloud.model_validate(given)
        return Cloud("custom", custom.endpoint, custom.audience, custom.authority)
    if isinstance(given, str) and given in CLOUDS:
        return CLOUDS[given]
    names = ", ".join(CLOUDS)
    raise ValueError(f"must be {names} or a mapping of endpoint, audience and authority, not {shown(given)}")


def _cloud_as_typed(cloud: Cloud) -> str | dict[str, str]:
    if cloud.name in CLOUDS:
        return cloud.name
    return {"endpoint": cloud.endpoint, "audience": cloud.audience, "authority": cloud.authority}


class DefaultCredential(Section):
    """Whatever azure-identity's DefaultAzureCredential finds; the environment steers it."""

    kind: Literal["default"] = "default"


class ManagedIdentity(Section):
    """The identity of the machine, pod or app that we run on."""

    kind: Literal["managed_identity"] = "managed_identity"
    client_id: EntraId | None = None
    """Which user-assigned identity; None: the system-assigned one."""


class WorkloadIdentity(Section):
    """A federated Kubernetes service account. None: what the environment (``AZURE_...``) says."""

    kind: Literal["workload_identity"] = "workload_identity"
    tenant_id: EntraId | None = None
    client_id: EntraId | None = None


class ClientSecret(Section):
    """An app registration with a secret, which stands in a file of its own."""

    kind: Literal["client_secret"] = "client_secret"
    tenant_id: EntraId
    client_id: EntraId
    client_secret_file: File


class ClientCertificate(Section):
    """An app registration with a certificate."""

    kind: Literal["client_certificate"] = "client_certificate"
    tenant_id: EntraId
    client_id: EntraId
    certificate_file: File
    """PEM or PKCS #12, private key included."""
    certificate_password_file: File | None = None
    """None: the private key has no password."""


class AzureCli(Section):
    """Whoever signed in with ``az login``."""

    kind: Literal["azure_cli"] = "azure_cli"
    tenant_id: EntraId | None = None
    """None: the tenant of the active subscription."""


CredentialConfig: TypeAlias = (
    DefaultCredential | ManagedIdentity | WorkloadIdentity | ClientSecret | ClientCertificate | AzureCli
)


class Polling(Section):
    """How often and how hard Azure is asked. Durations in seconds."""

    interval: Duration = 300.0
    """Between two polls of a scale set at rest; stretched where the budget is short."""
    active_interval: Duration = 60.0
    """The same while its latest upgrade is RollingForward or RollingBack."""
    timeout: Duration = 30.0
    """For one poll, retries included."""
    max_age: Duration = 3600.0
    """How long the last good answer is served while polls fail."""
    concurrency: Annotated[int, Field(ge=1, le=1000), must_be("a whole number from 1 to 1000")] = 64
    """Polls in flight, all subscriptions together."""
    budget_share: Annotated[float, Field(gt=0, le=1), must_be("a number above 0, at most 1")] = 0.5
    """Of the calls that Azure grants a subscription, the share that all our shards together may spend."""


class NamedScaleSet(Section):
    """A scale set that the configuration names."""

    resource_group: AzureName
    name: AzureName
    interval: Duration | None = None
    """Seconds between two polls at rest; None: ``polling.interval``."""
    labels: Annotated[Table[LabelName, LabelValue], AfterValidator(_not_too_many)] = {}  # noqa: RUF012 - pydantic copies it
    """Become ``label_*`` of ``azure_vmss_os_upgrade_scale_set_info``."""


class Discovery(Section):
    """Which scale sets of a subscription are found: those that meet all of these conditions."""

    refresh: Duration = 900.0
    """Seconds between two searches."""
    resource_groups: tuple[Pattern, ...] = ()
    """One of these matches the whole resource group (``fullmatch``), in any case; empty: every group."""
    tags: Table[Text, Text] = {}  # noqa: RUF012 - pydantic copies it
    """It bears all of these tags with these values."""
    only_automatic_upgrade: Truth = True
    """Azure upgrades it by itself (``enableAutomaticOSUpgrade``)."""
    tag_labels: Annotated[tuple[TagName, ...], AfterValidator(_not_too_many)] = ()
    """Not a condition: the tags that become ``tag_*`` of ``azure_vmss_os_upgrade_scale_set_info``."""


def tag_label(tag: str) -> str:
    """Return the name of the label that a tag becomes: ``tag_cost_center`` for ``cost-center``."""
    return TAG_PREFIX + re.sub(r"[^0-9A-Za-z_]", "_", tag)


class Subscription(Section):
    """Where to look in one subscription."""

    id: SubscriptionId
    """In lower case."""
    scale_sets: tuple[NamedScaleSet, ...] = ()
    """One named here is polled as it says here, even if discovery finds it too."""
    discovery: Discovery | None = None
    """None: only the named ones are polled."""


class Journal(Section):
    """Where upgrades are remembered for longer than Azure does."""

    path: File
    """SQLite database; made when absent."""
    keep: Duration = 63_072_000.0
    """Seconds after which an upgrade is forgotten."""


class Config(Section):
    """The whole configuration."""

    cloud: Annotated[Cloud, PlainValidator(_cloud), PlainSerializer(_cloud_as_typed)] = CLOUDS["public"]
    credential: Annotated[CredentialConfig, Discriminator("kind")] = DefaultCredential()
    polling: Polling = Polling()
    subscriptions: tuple[Subscription, ...] = ()
    journal: Journal | None = None
    """None: a restart knows only what Azure still tells."""

    def named_scale_sets(self) -> tuple[ScaleSet, ...]:
        """Return the scale sets that the configuration names, in its order."""
        return tuple(
            ScaleSet(
                subscription_id=subscription.id,
                resource_group=named.resource_group,
                name=named.name,
                interval=named.interval or self.polling.interval,
                labels=tuple(sorted((LABEL_PREFIX + name, text) for name, text in named.labels.items())),
            )
            for subscription in self.subscriptions
            for named in subscription.scale_sets
        )

    def dump(self) -> str:
        """Return the configuration in force as YAML that loads again, defaults filled in.

        Nothing in it is secret: of secrets the configuration knows only the files.
        """
        settings = self.model_dump(mode="json", exclude_none=True)
        return yaml.dump(settings, Dumper=_DUMPER, sort_keys=False, allow_unicode=True)


# --- From the document to the configuration


SECTIONS: Final[Mapping[Location, type[Section]]] = {
    (): Config,
    ("cloud",): CustomCloud,
    **{("credential", model.model_fields["kind"].default): model for model in get_args(CredentialConfig)},
    ("polling",): Polling,
    ("subscriptions",): Subscription,
    ("subscriptions", "scale_sets"): NamedScaleSet,
    ("subscriptions", "discovery"): Discovery,
    ("journal",): Journal,
}
"""The settings of each mapping in the file, by its path without list indices; a credential's by its kind, too."""
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # libyaml, where it is, takes a fifth of the time
_SENDING_SECRETS: Final = ("client_secret", "client_certificate", "workload_identity")
"""Kinds of credentials that send the authority what others must not see; azure-identity refuses them plain http."""


def load(path: Path) -> Config:
    """Read a configuration file.

    Raises ConfigError with all its faults, each with file, line and path, and OSError where it cannot be read.
    """
    document = read(path)
    return validated(document, path, Config, _said, _contradictions(document))


def _said(detail: ErrorDetails) -> tuple[Location, str]:
    """Return where one of pydantic's faults is, and say it in our words."""
    where, kind, given = detail["loc"], detail["type"], detail["input"]
    if where[:1] != ("credential",):
        return in_our_words(detail, SECTIONS)
    if kind.startswith("union_tag"):
        kinds = ", ".join(str(section[1]) for section in SECTIONS if section[:1] == ("credential",))
        return (*where, "kind"), f"must be one of {kinds}, not {shown(given.get('kind'))}"
    if kind == "extra_forbidden" and any(
        where[-1] in kind.model_fields for kind in get_args(CredentialConfig)
    ):
        what = f"is not for the kind {where[1]}"
    else:
        what = in_our_words(detail, SECTIONS)[1]
    return where[:1] + where[2:], what  # pydantic puts the kind in between


def _contradictions(document: Document) -> Iterator[Fault]:
    """Find what no single setting shows: in the document, as a model is silent while parts of it are at fault."""

    def fault(where: Location, what: str) -> Fault:
        return Fault(document.line(where), where, what)

    first: dict[Hashable, int] = {}
    for where, identity, what in _identities(document.root):
        if identity in first:
            yield fault(where, f"{what}, first on line {first[identity]}")
        first.setdefault(identity, document.line(where))

    kind, authority = (
        _setting(document.root, "credential", "kind"),
        _setting(document.root, "cloud", "authority"),
    )
    if kind in _SENDING_SECRETS and isinstance(authority, str) and authority.lower().startswith("http:"):
        yield fault(("cloud", "authority"), f"must be https, as the kind {kind} sends a secret there")

    given = document.root.get("subscriptions") if isinstance(document.root, dict) else ""
    subscriptions = _mappings(document.root, "subscriptions")
    for index, subscription in subscriptions:
        if subscription.get("discovery", {}) is None:
            yield fault(
                ("subscriptions", index, "discovery"), "is empty; to discover by the defaults, write {}"
            )
    polled = any(
        subscription.get("scale_sets") or "discovery" in subscription for _, subscription in subscriptions
    )
    if not polled and (given is None or (isinstance(given, list) and len(given) == len(subscriptions))):
        yield fault(("subscriptions",), "nothing to poll: no subscription has scale_sets or discovery")


def _identities(root: Yaml) -> Iterator[tuple[Location, Hashable, str]]:
    """Yield what may stand in the file only once: where, what makes it the same, and what to say then."""
    for index, subscription in _mappings(root, "subscriptions"):
        here: Location = ("subscriptions", index)
        if isinstance(subscription_id := subscription.get("id"), str):
            yield (*here, "id"), subscription_id.lower(), "is given twice"
        for number, named in _mappings(subscription, "scale_sets"):
            group, name = named.get("resource_group"), named.get("name")
            if isinstance(group, str) and isinstance(name, str):
                yield (*here, "scale_sets", number), (index, group.lower(), name.lower()), "is given twice"
        discovery = subscription.get("discovery")
        if not isinstance(discovery, dict):
            continue
        tags, labels = discovery.get("tags"), discovery.get("tag_labels")
        for tag in tags if isinstance(tags, dict) else ():
            yield (*here, "discovery", "tags", tag), (index, "tags", tag.lower()), "is given twice"
        for number, label in enumerate(labels if isinstance(labels, list) else ()):
            if isinstance(label, str):
                name = tag_label(label)
                where = (*here, "discovery", "tag_labels", number)
                yield where, (index, "labels", name.lower()), f"gives the label {name} twice"


def _setting(root: Yaml, section: str, key: str) -> Yaml:
    """Return a setting of a section, or None where either is missing or is something else."""
    settings = root.get(section) if isinstance(root, dict) else None
    return settings.get(key) if isinstance(settings, dict) else None


def _mappings(parent: Yaml, key: str) -> list[tuple[int, dict[str, Yaml]]]:
    """Return those members of a list of settings that are mappings, with their places in it."""
    members = parent.get(key) if isinstance(parent, dict) else None
    return [
        (index, member)
        for index, member in enumerate(members if isinstance(members, list) else ())
        if isinstance(member, dict)
    ]
