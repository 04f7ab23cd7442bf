"""Identity, the difference of two sets, and shards."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.scale_set import Difference, ScaleSet, Shard, difference, resource_id, shard_of

SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"


def scale_set(name: str, group: str = "rg", interval: float = 300.0) -> ScaleSet:
    return ScaleSet(SUBSCRIPTION, group, name, interval)


def test_a_resource_id_is_spelled_as_its_parts_are():
    assert resource_id("S", "Rg-Web", "Web") == (
        "/subscriptions/S/resourceGroups/Rg-Web/providers/Microsoft.Compute/virtualMachineScaleSets/Web"
    )


def test_identity_is_folded_and_the_spelling_is_kept():
    one, other = scale_set("Web", "RG-Web"), scale_set("wEB", "rg-wEB")
    assert (
        one.id
        == other.id
        == (
            f"/subscriptions/{SUBSCRIPTION}/resourcegroups/rg-web"
            "/providers/microsoft.compute/virtualmachinescalesets/web"
        )
    )
    assert one.identity == (SUBSCRIPTION, "rg-web", "web")
    assert (one.name, one.resource_group) == ("Web", "RG-Web")
    assert one != other


def test_the_subscription_is_folded_too():
    assert ScaleSet("ABC", "rg", "web", 300.0).identity == ("abc", "rg", "web")


def test_the_difference_tells_who_is_gone_changed_and_new():
    a, b, c = scale_set("a"), scale_set("b"), scale_set("c")
    slower = scale_set("b", interval=600.0)
    assert difference([a, b], [slower, c]) == Difference(gone=(a,), changed=(slower,), new=(c,))
    assert difference([a, b], [b, a]) == Difference(gone=(), changed=(), new=())


def test_a_difference_comes_in_parts():
    a, b, c = scale_set("a"), scale_set("b"), scale_set("c")
    assert [*Difference((a,), (), (a, b, c)).parts(2)] == [
        Difference((a,), (), (a, b)),
        Difference((), (), (c,)),
    ]
    assert [*Difference((), (), ()).parts(1)] == [Difference((), (), ())]


def test_another_spelling_is_a_change_and_no_other_scale_set():
    assert difference([scale_set("web")], [scale_set("Web")]) == Difference((), (scale_set("Web"),), ())


@pytest.mark.parametrize(
    ("scale_set_id", "of_two", "of_three", "of_ten"),
    [
        ("/subscriptions/s/resourcegroups/rg/providers/microsoft.compute/virtualmachinescalesets/a", 0, 0, 8),
        ("/subscriptions/s/resourcegroups/rg/providers/microsoft.compute/virtualmachinescalesets/b", 1, 1, 3),
        ("/subscriptions/s/resourcegroups/rg/providers/microsoft.compute/virtualmachinescalesets/c", 1, 1, 5),
        ("/subscriptions/s/resourcegroups/rg/providers/microsoft.compute/virtualmachinescalesets/d", 1, 1, 4),
    ],
)
def test_a_scale_set_has_the_same_shard_on_every_platform_for_ever(
    scale_set_id: str, of_two: int, of_three: int, of_ten: int
):
    assert [shard_of(scale_set_id, total) for total in (2, 3, 10)] == [of_two, of_three, of_ten]
    assert shard_of(scale_set_id, 1) == 0


def test_one_shard_more_moves_scale_sets_only_to_itself():
    ids = [scale_set(f"web-{number}").id for number in range(300)]
    moved = [key for key in ids if shard_of(key, 3) != shard_of(key, 4)]
    assert {shard_of(key, 4) for key in moved} == {3}
    assert 40 < len(moved) < 110


@pytest.mark.parametrize("total", [1, 2, 3])
def test_each_scale_set_is_held_by_its_own_shard_and_no_other(total: int):
    for each in (scale_set(f"web-{number}") for number in range(100)):
        holders = [number for number in range(total) if Shard(number, total).holds(each)]
        assert holders == [shard_of(each.id, total)]


def test_the_only_shard_holds_all():
    assert all(Shard().holds(scale_set(f"web-{number}")) for number in range(100))


@given(st.text(), st.integers(1, 40))
def test_a_shard_more_takes_a_scale_set_or_leaves_it_where_it_is(scale_set_id: str, total: int):
    before, after = shard_of(scale_set_id, total), shard_of(scale_set_id, total + 1)
    assert 0 <= before < total
    assert after in {before, total}


@given(st.text(), st.integers(1, 40))
def test_any_scale_set_has_exactly_one_shard(name: str, total: int):
    each = scale_set(name)
    assert [Shard(number, total).holds(each) for number in range(total)].count(True) == 1


def test_shards_are_of_about_one_size():
    sizes = Counter(shard_of(scale_set(f"web-{number}").id, 7) for number in range(7000))
    assert len(sizes) == 7
    assert all(850 < size < 1150 for size in sizes.values())


NAME = st.from_regex(r"\A[-A-Za-z0-9_.()]{0,89}[-A-Za-z0-9_()]\Z")


@given(NAME, NAME, st.randoms(use_true_random=False))
def test_identity_does_not_depend_on_case(group: str, name: str, random: Random):
    def respelled(text: str) -> str:
        return "".join(random.choice((letter.upper(), letter.lower())) for letter in text)

    one, other = scale_set(name, group), scale_set(respelled(name), respelled(group))
    assert (one.id, one.identity) == (other.id, other.identity)
    assert shard_of(one.id, 9) == shard_of(other.id, 9)


@given(NAME, NAME, NAME, NAME)
def test_two_names_never_make_one_id(group: str, name: str, other_group: str, other: str):
    same = (group.lower(), name.lower()) == (other_group.lower(), other.lower())
    assert (scale_set(name, group).id == scale_set(other, other_group).id) is same
