"""The rules of a host, example by example."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from schedulercommon.balance import progress
from schedulercommon.sizing import cpus_needed
from schedulerlocal.core.allocation import resize_cpus
from schedulerlocal.core.cpulist import format_cpulist
from schedulerlocal.core.host import Host, Rules
from schedulerlocal.core.machine import Machine, machine_topology
from schedulerlocal.core.planner import plan_remove
from schedulerlocal.core.state import violations
from schedulerlocal.core.status import deploy_progress, published_status
from schedulerlocal.core.topology import Cpu, Cpus, Topology, exclude
from tests.examplehosts import EPYC, ISOLATED, LAPTOP, SMALL, vm, with_vms

# --- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vcpus", "largest", "level", "cpus"),
    [
        (0, 0, "2", 0),
        (1, 1, "64", 1),
        (7, 3, "1", 7),
        (8, 4, "2", 4),
        (9, 4, "2", 5),
        (9, 8, "3", 8),
        (3, 2, "3/2", 2),
        (4, 2, "4/3", 3),
        (5, 2, "4/3", 4),
        (11, 1, "1.1", 10),
        (12, 1, "1.1", 11),
        (64, 1, "64", 1),
        (65, 1, "64", 2),
        (9_007_199_254_740_993, 1, "1", 9_007_199_254_740_993),
    ],
)
def test_a_level_is_as_large_as_its_vms_call_for(
    vcpus: int, largest: int, level: str, cpus: int
) -> None:
    assert cpus_needed(vcpus, largest, Fraction(level)) == cpus


# --- distances -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [(0, 128, 10), (0, 3, 40), (0, 131, 40), (0, 4, 50), (0, 63, 50), (0, 64, 72), (0, 255, 72)],
    ids=["siblings", "same L3", "its sibling", "same node", "far end", "other socket", "its end"],
)
def test_distances_of_an_epyc(one: int, other: int, distance: int) -> None:
    assert EPYC.distances[one, other] == EPYC.distances[other, one] == distance


@pytest.mark.parametrize(
    ("caches", "other", "distance"),
    [
        ((), (), 20),
        ((1,), (2,), 30),
        ((1,), (1,), 10),
        ((1, 5), (2, 5), 20),
        ((1, 5), (1, 6), 10),
        ((1, 5, 9), (2, 6, 8), 50),
        # the same number at another index is another cache
        ((1, 2), (2, 1), 40),
    ],
)
def test_distances_follow_the_caches(
    caches: tuple[int, ...], other: tuple[int, ...], distance: int
) -> None:
    cpus = (Cpu(3, 0, (), caches), Cpu(9, 1, (), other))
    topology = Topology(cpus, {0: (10, 20), 1: (20, 10)}, 100, 100)
    assert topology.distances.tolist() == [[0, distance], [distance, 0]]


def test_distances_use_the_rows_of_nodes_with_holes_in_their_numbers() -> None:
    cpus = tuple(Cpu(number, node, (), (number,)) for number, node in enumerate((0, 4, 7)))
    rows = {7: (30, 50, 10), 0: (10, 20, 30), 4: (20, 10, 50)}
    topology = Topology(cpus, rows, 100, 100)
    assert topology.distances.tolist() == [[0, 30, 40], [30, 0, 60], [40, 60, 0]]


# --- which CPUs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topology", "own", "others", "size", "cpus"),
    [
        (LAPTOP, (), [], 3, (0, 4, 1)),
        (LAPTOP, (), [(0, 4)], 2, (1, 5)),
        (LAPTOP, (0,), [], 2, (0, 4)),
        (LAPTOP, (0,), [(4,)], 2, (0, 1)),
        (LAPTOP, (0, 4), [(1, 2)], 4, (0, 4, 3, 7)),
        (SMALL, (), [(0,)], 1, (4,)),
        (SMALL, (), [(0,), (4,)], 1, (2,)),
        (SMALL, (), [(0, 1, 2)], 1, (4,)),
        (SMALL, (), [(0, 4)], 3, (2, 3, 1)),
        (SMALL, (2,), [], 4, (2, 3, 0, 1)),
        (SMALL, (0, 1), [(2,)], 3, (0, 1, 3)),
        (SMALL, (0, 1), [(2, 3, 4)], 3, (0, 1, 6)),
        (SMALL, (7,), [(4,), (6,)], 2, (7, 5)),
        (SMALL, (0,), [(1, 2, 3, 4, 5, 6)], 2, (0, 7)),
        (SMALL, (0,), [(1, 2, 3, 4, 5, 6, 7)], 2, None),
        (SMALL, (), [(0, 1, 2, 3, 4, 5, 6, 7)], 1, None),
        (SMALL, (), [(0,)], 8, None),
    ],
    ids=[
        "the first level starts first",
        "a new level starts far away",
        "the sibling is nearest",
        "then the next core, in order",
        "a core once begun is completed",
        "a new level goes to the other socket",
        "between two, a cache nobody uses",
        "three to one, the other socket, first cache",
        "grown around its seed, leaving others' caches last",
        "the same cache, then the socket",
        "nearer in another's cache than on the other socket",
        "of equals on the other socket, the unused cache",
        "only the used cache is left on the socket",
        "the last free one",
        "none is free",
        "none to start from",
        "more than there are",
    ],
)
def test_a_level_grows(
    topology: Topology, own: Cpus, others: list[Cpus], size: int, cpus: Cpus | None
) -> None:
    assert resize_cpus(Host(topology), own, others, size) == cpus


@pytest.mark.parametrize(
    ("own", "others", "size", "cpus"),
    [
        ((0, 1), [], 2, (0, 1)),
        ((0, 1, 4), [], 2, (0, 1)),
        ((4, 0, 1), [], 2, (0, 1)),
        ((3, 0, 1), [], 2, (0, 1)),
        ((1, 0), [], 1, (0,)),
        ((0, 2), [(1,)], 1, (2,)),
        ((2, 0), [(3,)], 1, (0,)),
        ((0, 1, 4, 5), [], 2, (0, 1)),
        ((0, 1, 2, 3, 4, 5), [(6,)], 4, (0, 1, 2, 3)),
        ((6, 2, 7, 1), [], 3, (6, 7, 1)),
        ((0, 1), [], 0, ()),
    ],
    ids=[
        "nothing to give back",
        "the far one goes",
        "however it came",
        "the other cache goes",
        "of equals the last in order",
        "the one in a cache others use",
        "wherever that is",
        "of equal pairs the last",
        "the other socket goes",
        "one of the two that are apart",
        "all of them",
    ],
)
def test_a_level_gives_back(own: Cpus, others: list[Cpus], size: int, cpus: Cpus) -> None:
    assert resize_cpus(Host(SMALL), own, others, size) == cpus


def test_ties_follow_the_order_of_the_list_and_not_the_numbers() -> None:
    shuffled = replace(SMALL, cpus=tuple(reversed(SMALL.cpus)))
    assert resize_cpus(Host(shuffled), (), [], 3) == (7, 6, 5)
    assert resize_cpus(Host(shuffled), (6, 7), [], 1) == (7,)


def test_a_new_level_prefers_an_unused_cache_among_the_farthest() -> None:
    # nodes 0 and 1 are twice as far from each other as from node 2
    rows = {0: (10, 32, 16), 1: (32, 10, 16), 2: (16, 16, 10)}
    places = [(0, 0), (1, 1), (0, 0), (2, 2)]
    cpus = tuple(Cpu(number, node, (), (cache,)) for number, (node, cache) in enumerate(places))
    topology = Topology(cpus, rows, 100, 100)
    # CPUs 2 and 3 are both 52 from the two in use; 2 shares a cache with one of them
    assert (topology.distances[:2].sum(axis=0)[2:] == 52).all()
    assert resize_cpus(Host(topology), (), [(0,), (1,)], 1) == (3,)


def test_distances_of_any_size_are_summed_exactly() -> None:
    # far beyond 32 bits, and apart by 1 only
    far = 1 << 40
    rows = {0: (10, far, far + 1), 1: (far, 10, far), 2: (far + 1, far, 10)}
    cpus = tuple(Cpu(number, node, (), ()) for number, node in enumerate((0, 2, 1)))
    host = Host(Topology(cpus, rows, 100, 100))
    assert resize_cpus(host, (0,), [], 2) == (0, 2)
    assert resize_cpus(host, (), [(0,)], 1) == (1,)


# --- SMT isolation -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("excluded", "sizes", "cpus"),
    [
        ((), [1], (0, 4)),
        ((), [2], (0, 4)),
        ((), [3], (0, 4, 1, 5)),
        ((), [1, 1, 1], (0, 4, 1, 5)),
        ((4,), [1], (0,)),
        ((4,), [2], (0, 1, 5)),
        ((0, 5), [2], (1, 2, 6)),
        ((0, 5, 6, 7), [2], (1, 2)),
    ],
    ids=[
        "half a core is a core",
        "a core",
        "two cores",
        "spare threads are used first",
        "a core of one listed CPU",
        "and a whole one",
        "the next one in order, though half of it would do",
        "two of one",
    ],
)
def test_whole_cores_are_taken(excluded: Cpus, sizes: list[int], cpus: Cpus) -> None:
    topology = exclude(LAPTOP, excluded) if excluded else LAPTOP
    vms = [vm(f"vm{number}", size) for number, size in enumerate(sizes)]
    state = with_vms(Host(topology, ISOLATED), *vms)
    assert state.subsets[Fraction(1)].cpus == cpus
    assert published_status(state)["cpu"]["subset"]["1.0"]["pcap"] == len(cpus)
    assert violations(state) == []


def test_whole_cores_are_given_back_and_progress_counts_them() -> None:
    state = with_vms(Host(LAPTOP, ISOLATED), vm("a"), vm("b", 2))
    assert len(state.subsets[Fraction(1)].cpus) == 4
    assert len(plan_remove(state, "a").after.subsets[Fraction(1)].cpus) == 2
    assert deploy_progress(state, 1, 500, Fraction(1)) == progress(
        capacity_cpus=8,
        capacity_memory_mib=31_776,
        allocated_cpus=4,
        allocated_memory_mib=200,
        vm_memory_mib=500,
        gained_cpus=0,
    )
    assert deploy_progress(state, 1, 500, Fraction(2)) == progress(
        capacity_cpus=8,
        capacity_memory_mib=31_776,
        allocated_cpus=4,
        allocated_memory_mib=200,
        vm_memory_mib=500,
        gained_cpus=2,
    )


def test_every_cpu_in_use_weighs_the_same_on_cores_of_unequal_size() -> None:
    # L3 caches of cores 0 1 | 2 3 in one socket and 4 5 | 6 7 in the other; 4 5 6 have one CPU
    whole = machine_topology(Machine(sockets=2, cores=4, threads=2, l3_cores=2, memory_mib=8_000))
    topology = exclude(whole, (12, 13, 14))
    host = Host(topology, ISOLATED)
    own = (0, 8, 4, 5)
    # two CPUs in either socket: cores 2 and 6 are as near as each other, and the ties decide
    assert resize_cpus(host, own, [(1, 9)], 5) == (*own, 2, 10)
    assert resize_cpus(host, own, [(1, 9, 3, 11)], 5) == (*own, 6)


def test_a_core_in_a_cache_others_use_goes_before_a_smaller_one_elsewhere() -> None:
    # everything is as far from everything, so that only the tie rule speaks
    places = {0: (0, (1,)), 1: (0, (0,)), 2: (1, ()), 3: (1, ()), 4: (0, ())}
    cpus = tuple(Cpu(number, node, other, ()) for number, (node, other) in places.items())
    topology = Topology(cpus, {0: (10, 10), 1: (10, 10)}, 100, 100)
    host = Host(topology, ISOLATED)
    assert resize_cpus(host, (0, 1, 2, 3), [(4,)], 2) == (2, 3)
    assert resize_cpus(host, (0, 1, 2, 3), [], 2) == (0, 1)


def test_nothing_is_lent_between_isolated_cores() -> None:
    state = with_vms(Host(LAPTOP, ISOLATED), vm("a", 1, "2"), vm("b", 1, "3"))
    assert state.reach == {Fraction(2): (0, 4), Fraction(3): (1, 5)}


# --- lending -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("critical_size", "vms", "reach"),
    [
        (6, [("a", 1, "2")], {"2": "0-7"}),
        (0, [("a", 1, "2")], {"2": "0"}),
        (1, [("a", 1, "2")], {"2": "0"}),
        (2, [("a", 1, "2")], {"2": "0-7"}),
        (2, [("a", 1, "2"), ("b", 1, "2")], {"2": "0"}),
        (6, [("a", 1, "1")], {"1": "0"}),
        (6, [("a", 1, "1"), ("b", 1, "2")], {"1": "0", "2": "1-3,5-7"}),
        (6, [("a", 2, "1"), ("b", 1, "2")], {"1": "0,4", "2": "1-3,5-7"}),
        (6, [("a", 1, "2"), ("b", 1, "3")], {"2": "0,2-7", "3": "1-7"}),
        (6, [("a", 1, "1.5")], {"3/2": "0-7"}),
    ],
    ids=[
        "few VMs borrow",
        "0 turns it off",
        "one is not fewer than one",
        "one is fewer than two",
        "two are not",
        "level 1 does not borrow",
        "not beside level 1",
        "nor on it",
        "several borrow the same one",
        "any level above 1 borrows",
    ],
)
def test_free_cpus_are_lent(
    critical_size: int, vms: list[tuple[str, int, str]], reach: dict[str, str]
) -> None:
    state = with_vms(Host(LAPTOP, Rules(critical_size=critical_size)), *[vm(*each) for each in vms])
    assert {level: format_cpulist(cpus) for level, cpus in state.reach.items()} == {
        Fraction(level): cpus for level, cpus in reach.items()
    }


def test_a_vm_on_a_better_level_than_it_bought_uses_that_ones_cpus() -> None:
    state = with_vms(Host(LAPTOP), vm("a", 2, "3", runs_at="1"), vm("b", 1, "1"))
    assert list(state.subsets) == [1]
    assert state.subsets[Fraction(1)].cpus == (0, 4, 1)
    assert state.vm("a").spec.level == 3
    assert state.level_of("a") == 1
