"""The garbage collector's policy: garbage is never frozen for good, and what stays is visited once."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from exporter.garbage_collector import GarbageCollector, paused

OLD_OBJECTS = 5000


class Node:
    """An object that may refer to itself, so that only a collection finds it once nothing else refers to it."""

    def __init__(self) -> None:
        self.me: Node | None = None


def cycle() -> weakref.ref[Node]:
    """Make garbage in a cycle that is old already; return a reference that says whether it is still there."""
    node = Node()
    node.me = node
    gc.collect(1)
    gc.collect(1)
    return weakref.ref(node)


def old(number: int) -> list[Node]:
    """Return so many objects that have outlived two collections."""
    made = [Node() for _ in range(number)]
    gc.collect(1)
    gc.collect(1)
    return made


@pytest.fixture
def collector() -> Iterator[GarbageCollector]:
    gc.collect()
    collector = GarbageCollector(OLD_OBJECTS, freezes=2)
    collector.start()
    yield collector
    collector.stop()


def test_full_collections_are_its_own_to_start(collector: GarbageCollector):
    assert gc.get_threshold()[2] > 1_000_000
    assert gc.isenabled(), "young garbage is Python's to find"


def test_it_leaves_the_collector_as_it_found_it():
    before = gc.get_threshold()
    collector = GarbageCollector()
    collector.start()
    collector.stop()
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def test_few_old_objects_are_not_visited(collector: GarbageCollector):
    frozen, garbage = gc.get_freeze_count(), cycle()
    collector.tidy()
    assert gc.get_freeze_count() <= frozen
    assert garbage() is not None


def test_many_old_objects_are_frozen_and_the_garbage_among_them_is_gone(collector: GarbageCollector):
    frozen, garbage, kept = gc.get_freeze_count(), cycle(), old(OLD_OBJECTS + 1)
    collector.tidy()
    assert garbage() is None
    assert gc.get_freeze_count() >= frozen + len(kept)


def test_much_garbage_is_collected_and_nothing_is_frozen(collector: GarbageCollector):
    frozen = gc.get_freeze_count()
    for node in old(OLD_OBJECTS + 1):
        node.me = node
    del node
    collector.tidy()
    assert gc.get_freeze_count() <= frozen
    assert len(gc.get_objects(generation=2)) < OLD_OBJECTS


def test_garbage_that_was_frozen_in_use_is_found_after_so_many_freezes(collector: GarbageCollector):
    in_use = Node()
    in_use.me = in_use
    garbage, kept = weakref.ref(in_use), old(OLD_OBJECTS + 1)
    collector.tidy()
    del in_use
    kept += old(OLD_OBJECTS + 1)
    collector.tidy()
    assert garbage() is not None
    kept += old(OLD_OBJECTS + 1)
    collector.tidy()
    assert garbage() is None


def test_nothing_is_collected_while_it_is_paused():
    assert gc.isenabled()
    with paused():
        assert not gc.isenabled()
    assert gc.isenabled()
