"""Which scale sets there are: identity, resource ids, the difference of two sets of them, and shards.

Pure. Knows nothing of histories, polls or metrics.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256


class Source(Enum):
    """How we came to know a scale set."""

    NAMED = "named"
    DISCOVERED = "discovered"


def resource_id(subscription_id: str, resource_group: str, name: str) -> str:
    """Return the ARM resource id of a scale set, spelled as the arguments are."""
    return (
        f"/subscriptions/{subscription_id}/resourceGroups/{resource_group}"
        f"/providers/Microsoft.Compute/virtualMachineScaleSets/{name}"
    )


@dataclass(frozen=True, slots=True)
class ScaleSet:
    """One virtual machine scale set: our target.

    Identity is in lower case, because ARM compares names without case and replies in mixed case. The other fields
    keep the spelling of the configuration or the discovery.
    """

    subscription_id: str
    resource_group: str
    name: str
    interval: float
    """Seconds between two polls while it is at rest, as configured."""
    source: Source = Source.NAMED
    location: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    """Further labels of ``scale_set_info``: (``label_team``, ``payments``), (``tag_env``, ``prod``), ..."""
    identity: tuple[str, str, str] = field(init=False)
    """Subscription id, resource group and name in lower case."""
    id: str = field(init=False)
    """The resource id in lower case."""

    def __post_init__(self) -> None:
        identity = (self.subscription_id.lower(), self.resource_group.lower(), self.name.lower())
        object.__setattr__(self, "identity", identity)
        object.__setattr__(self, "id", resource_id(*identity).lower())


@dataclass(frozen=True, slots=True)
class Difference:
    """What leads from one set of scale sets to another."""

    gone: tuple[ScaleSet, ...]
    changed: tuple[ScaleSet, ...]
    """In both, but with another interval, label, location or spelling; as they are now."""
    new: tuple[ScaleSet, ...]

    def parts(self, size: int) -> Iterator["Difference"]:
        """Yield the same in parts that bear up to ``size`` of each; at least one part."""
        for start in range(0, max(1, *map(len, (self.gone, self.changed, self.new))), size):
            these = slice(start, start + size)
            yield Difference(self.gone[these], self.changed[these], self.new[these])


def difference(before: Iterable[ScaleSet], after: Iterable[ScaleSet]) -> Difference:
    """Compare two sets of scale sets by identity."""
    old = {scale_set.id: scale_set for scale_set in before}
    now = {scale_set.id: scale_set for scale_set in after}
    return Difference(
        gone=tuple(scale_set for key, scale_set in old.items() if key not in now),
        changed=tuple(scale_set for key, scale_set in now.items() if key in old and old[key] != scale_set),
        new=tuple(scale_set for key, scale_set in now.items() if key not in old),
    )


@dataclass(frozen=True, slots=True)
class Shard:
    """Which part of all scale sets is polled here; by default all of them."""

    number: int = 0
    total: int = 1

    def holds(self, scale_set: ScaleSet) -> bool:
        """Whether a scale set is of this part."""
        return self.total == 1 or shard_of(scale_set.id, self.total) == self.number


def shard_of(scale_set_id: str, total_shards: int) -> int:
    """Return the shard, 0 to ``total_shards`` - 1, that polls the scale set of this (folded) id.

    Rendezvous hashing: of all shards the one with the greatest SHA-256 of ``<shard>:<id>`` wins, so one shard
    more or less moves no scale set between the others. Same on every platform, for ever.
    """
    return max(range(total_shards), key=lambda shard: sha256(f"{shard}:{scale_set_id}".encode()).digest())
