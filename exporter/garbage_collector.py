"""When Python looks for garbage in reference cycles, and in which objects: the only module that decides it.

Theory of operation. A full collection visits every object and stops the event loop for about a microsecond each: a fifth
of a second at 10,000 scale sets. Nearly all of these objects are what is known of the scale sets. They have no cycles and
go by their reference counts, so visiting them is useless. ``gc.freeze`` exempts all objects of the moment from
collections, for good. Hence:

- Python starts no full collections itself. ``tidy`` is called every second, and does nothing until ``OLD_OBJECTS`` have
  grown old. Then it collects, which visits only objects that are not frozen. It freezes what is left if that is more than
  half of them. Otherwise most of it was garbage, and there is room again.
- It collects first because garbage that is frozen is never found again. A poll that fails leaves some.
- What is in use when it is frozen, and becomes garbage in a cycle later, is not found either: it belongs to the polls
  in flight, up to half a megabyte a freeze. So after ``FREEZES`` everything is thawed and visited, the one long stop.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

OLD_OBJECTS = 20_000
"""Objects that have outlived two collections since the last freeze; to collect so many takes about 20 ms."""
FREEZES = 25
"""Freezes after which everything is thawed and visited once. A start with 10,000 scale sets takes 16, and then none for long."""
_NEVER = 2**31 - 1


@contextmanager
def paused() -> Iterator[None]:
    """Look for no garbage until the block ends, as it makes what stays: imports take a tenth less."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class GarbageCollector:
    """Python's garbage collector under this policy, from ``start`` to ``stop``."""

    def __init__(self, old_objects: int = OLD_OBJECTS, freezes: int = FREEZES) -> None:
        self._old_objects = old_objects
        self._freezes = freezes
        self._frozen = 0
        """How often objects were frozen since all were visited."""
        self._thresholds = gc.get_threshold()

    def start(self) -> None:
        """Take full collections over from Python. What exists now is frozen: it is mostly code."""
        self._thresholds = gc.get_threshold()
        gc.set_threshold(*self._thresholds[:2], _NEVER)
        gc.freeze()

    def tidy(self) -> None:
        """Collect the old objects if there are many, and freeze what is left if that is much."""
        if _old() <= self._old_objects:
            return
        if self._frozen >= self._freezes:
            self._frozen = 0
            gc.unfreeze()
        gc.collect()
        if _old() > self._old_objects // 2:
            self._frozen += 1
            gc.freeze()

    def stop(self) -> None:
        """Leave the collector to Python again."""
        gc.unfreeze()
        gc.set_threshold(*self._thresholds)


def _old() -> int:
    """Return how many objects a full collection would visit, the youngest aside. Takes about 10 ns each."""
    return len(gc.get_objects(generation=2))
