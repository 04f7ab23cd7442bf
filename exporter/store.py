"""A snapshot per scale set, rendered once per poll; a scrape joins bytes.

For each family the store keeps blocks of up to 1,024 scale sets. A block is one ``bytes`` with the lines of all of
them; a poll replaces pieces, and the next scrape re-joins only the blocks in which it did. A scale set that leaves
takes its lines along. Knows nothing of polls or HTTP.
"""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import accumulate, islice

from exporter.families import FAMILIES, POLL_FAMILIES, Family, render, upgrades_differ
from exporter.scale_set import Difference, ScaleSet
from exporter.snapshot import Snapshot, without_history

BLOCK_SIZE = 1024
"""Scale sets a block: small enough to re-join in microseconds, large enough to be written as it is."""


class _Block:
    """The lines that one family has for up to ``BLOCK_SIZE`` scale sets."""

    __slots__ = ("_joined", "_lengths", "_replaced")

    def __init__(self) -> None:
        self._joined = b""
        self._lengths = array("I", [0] * BLOCK_SIZE)
        self._replaced: dict[int, bytes] = {}

    def replace(self, place: int, piece: bytes) -> None:
        self._replaced[place] = piece
        if len(self._replaced) > BLOCK_SIZE // 4:
            self.join()  # where nobody scrapes, pieces must not pile up beside the lines they replace

    def join(self) -> bytes:
        if self._replaced:
            ends = tuple(accumulate(self._lengths))
            pieces: list[bytes] = []
            kept_from = 0
            for place, piece in sorted(self._replaced.items()):
                length = self._lengths[place]
                pieces += (self._joined[kept_from : ends[place] - length], piece)
                kept_from = ends[place]
                self._lengths[place] = len(piece)
            pieces.append(self._joined[kept_from:])
            self._joined = b"".join(pieces)
            self._replaced = {}
        return self._joined


class Store:
    """Holds a snapshot for each scale set of the moment, and their lines of ``families``."""

    def __init__(self, families: tuple[Family, ...] = FAMILIES) -> None:
        self._families = families
        self._snapshots: dict[str, Snapshot] = {}
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self._blocks: list[list[_Block]] = [[] for _ in families]
        self._ageing: set[str] = set()
        """Whose history no poll has confirmed the last time."""
        self.version = 0
        """Goes up with every change of a line."""

    def __len__(self) -> int:
        return len(self._snapshots)

    def __contains__(self, scale_set_id: str) -> bool:
        return scale_set_id in self._snapshots

    def __getitem__(self, scale_set_id: str) -> Snapshot:
        return self._snapshots[scale_set_id]

    def snapshots(self) -> Iterable[Snapshot]:
        """Return all snapshots, in no order that means anything."""
        return self._snapshots.values()

    def apply(self, difference: Difference) -> None:
        """Drop the scale sets that are gone, hold the new ones, give changed ones what is new about them."""
        for scale_set in difference.gone:
            self._drop(scale_set)
        for scale_set in difference.changed:
            self.write(replace(self[scale_set.id], scale_set=scale_set))
        for scale_set in difference.new:
            self._hold(Snapshot(scale_set, scale_set.interval))

    def write(self, snapshot: Snapshot) -> None:
        """Take what a poll made known; ignored for a scale set that the store does not hold (any more)."""
        key = snapshot.scale_set.id
        before = self._snapshots.get(key)
        if before is None:
            return
        self._snapshots[key] = snapshot
        if snapshot.history is not None and (snapshot.failure is not None or snapshot.remembered):
            self._ageing.add(key)
        else:
            self._ageing.discard(key)
        self._render(snapshot, everything=upgrades_differ(before, snapshot))

    def expire(self, now: float, max_age: float, at_most: int) -> bool:
        """Take away good answers more than ``max_age`` seconds old of scale sets whose polls fail, or are yet to end.

        ``now`` is the time of the steady clock. Does so for some of them, and returns whether there may be more.
        """
        ageing = (self._snapshots[key] for key in self._ageing)
        outdated = (
            each
            for each in ageing
            if each.last_success_steady is not None and now - each.last_success_steady > max_age
        )
        some = tuple(islice(outdated, at_most))
        for snapshot in some:
            self.write(without_history(snapshot))
        return len(some) == at_most

    def exposition(self, *, openmetrics: bool = False) -> list[bytes]:
        """Return the lines of all families with their headers, in pieces, as they are at this moment.

        The two formats differ in some of the headers, and in nothing else.
        """
        pieces = []
        for family, blocks in zip(self._families, self._blocks, strict=True):
            pieces.append(family.openmetrics_header if openmetrics else family.header)
            pieces += [block.join() for block in blocks]
        return pieces

    def join(self) -> Iterator[None]:
        """Join what polls have replaced, a family at a time, so that a scrape finds little left to do."""
        for blocks in self._blocks:
            for block in blocks:
                block.join()
            yield

    def _hold(self, snapshot: Snapshot) -> None:
        key = snapshot.scale_set.id
        slot = self._free.pop() if self._free else len(self._slots)
        if slot == len(self._blocks[0]) * BLOCK_SIZE:
            for blocks in self._blocks:
                blocks.append(_Block())
        self._snapshots[key] = snapshot
        self._slots[key] = slot
        self._render(snapshot, everything=True)

    def _drop(self, scale_set: ScaleSet) -> None:
        key = scale_set.id
        del self._snapshots[key]
        self._ageing.discard(key)
        slot = self._slots.pop(key)
        self._free.append(slot)
        self._replace(slot, [b""] * len(self._families))

    def _render(self, snapshot: Snapshot, *, everything: bool) -> None:
        """Render a scale set, or where nothing else can have changed, what each poll changes."""
        families = self._families if everything else POLL_FAMILIES
        self._replace(self._slots[snapshot.scale_set.id], render(families, snapshot))

    def _replace(self, slot: int, pieces: list[bytes]) -> None:
        index, place = divmod(slot, BLOCK_SIZE)
        for blocks, piece in zip(self._blocks, pieces, strict=False):  # POLL_FAMILIES stand first
            blocks[index].replace(place, piece)
        self.version += 1
