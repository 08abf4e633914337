"""The rules of a host, example by example."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from schedulercommon.balance import progress
from schedulercommon.errors import NameTaken, UnknownVm
from schedulercommon.levels import Level
from schedulercommon.model import Rejection, VmSpec
from schedulercommon.sizing import cpus_needed
from schedulerlocal.core.allocation import resize_cpus
from schedulerlocal.core.cpulist import format_cpulist, parse_cpulist
from schedulerlocal.core.host import Host, Rules
from schedulerlocal.core.machine import Machine, machine_topology
from schedulerlocal.core.memory import choose_nodes
from schedulerlocal.core.planner import plan_deploy, plan_remove, plan_resize
from schedulerlocal.core.state import HostState, Subset, Vm, violations
from schedulerlocal.core.status import deploy_progress, published_status
from schedulerlocal.core.steps import Plan
from schedulerlocal.core.topology import Cpu, Cpus, Topology, exclude

EPYC = machine_topology(
    Machine(sockets=2, cores=64, threads=2, l3_cores=4, numa_distance=32, memory_mib=1_031_752)
)
LAPTOP = machine_topology(Machine(cores=4, threads=2, memory_mib=31_776))
# 2 sockets of 4 cores without siblings, an L3 cache for every 2: {0 1} {2 3} | {4 5} {6 7}
SMALL = machine_topology(
    Machine(sockets=2, cores=4, l3_cores=2, numa_distance=32, memory_mib=8_000)
)


def vm(
    name: str, vcpus: int = 1, level: str = "1", memory_mib: int = 100, runs_at: str | None = None
) -> VmSpec:
    return VmSpec(
        name=name,
        vcpus=vcpus,
        memory_mib=memory_mib,
        level=Fraction(level),
        runs_at=Fraction(runs_at or level),
    )


def with_vms(host: Host, *specs: VmSpec) -> HostState:
    state = HostState(host, {})
    for spec in specs:
        plan = plan_deploy(state, spec)
        assert isinstance(plan, Plan), f"{spec.name}: {plan}"
        state = plan.after
    return state


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

ISOLATED = Rules(smt_isolation=True)


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


# --- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "cpus", "memory_mib", "nodes"),
    [
        ((100, 100, 100, 100), (0,), 100, [(0, 100)]),
        ((100, 100, 100, 100), (3,), 40, [(3, 40)]),
        ((100, 100, 100, 100), (0, 1, 1 + 4), 40, [(1, 40)]),
        ((100, 39, 100, 100), (0, 1, 1 + 4), 40, [(0, 40)]),
        ((50, 80, 100, 100), (0, 1), 100, [(0, 20), (1, 80)]),
        ((10, 80, 40, 500), (0, 1, 2), 100, [(1, 80), (2, 20)]),
        ((0, 100, 100, 100), (0,), 100, [(1, 100)]),
        ((-5, 100, 100, 100), (0,), 150, [(1, 100), (2, 50)]),
        ((0, 0, 60, 100), (0,), 100, [(2, 60), (3, 40)]),
        ((0, 0, 60, 100), (1, 3), 60, [(3, 60)]),
        ((30, 0, 60, 100), (0,), 50, [(0, 30), (2, 20)]),
        ((0, 0, 0, -9), (1,), 50, [(1, 50)]),
        ((0, 10, 0, -9), (0, 1), 50, [(1, 50)]),
    ],
    ids=[
        "its own node",
        "wherever that is",
        "where most of its CPUs are",
        "where there is room",
        "the fewest of its own",
        "not more than needed",
        "the nearest other",
        "the nearest others, never an overdrawn one",
        "the other socket last",
        "its own on both sides before others",
        "its own as far as that goes, then the nearest",
        "over-committed, on its own",
        "over-committed, where there was some",
    ],
)
def test_memory_is_near_its_level(
    free: tuple[int, ...], cpus: Cpus, memory_mib: int, nodes: list[tuple[int, int]]
) -> None:
    # 8 CPUs on 4 nodes, two a socket: CPU n is on node n modulo 4
    rows = {0: (10, 12, 32, 32), 1: (12, 10, 32, 32), 2: (32, 32, 10, 12), 3: (32, 32, 12, 10)}
    topology = Topology(tuple(Cpu(n, n % 4, (), (n,)) for n in range(8)), rows, 4_000, 4_000)
    chosen = choose_nodes(Host(topology), dict(enumerate(free)), cpus, memory_mib)
    assert sorted(chosen) == nodes


@pytest.mark.parametrize(
    ("by_node", "reserved_mib", "split"),
    [
        (None, 0, {0: 4_000, 1: 4_000}),
        (None, 1, {0: 3_999, 1: 4_000}),
        ({0: 2_000, 1: 6_000}, 0, {0: 2_000, 1: 6_000}),
        ({0: 2_000, 1: 6_000}, 800, {0: 1_800, 1: 5_400}),
        ({0: 7_000}, 0, {0: 8_000, 1: 0}),
        ({0: 0, 1: 0}, 0, {0: 4_000, 1: 4_000}),
    ],
)
def test_nodes_share_what_is_allowed(
    by_node: dict[int, int] | None, reserved_mib: int, split: dict[int, int]
) -> None:
    topology = replace(SMALL, node_memory_mib=by_node)
    assert Host(topology, Rules(reserved_memory_mib=reserved_mib)).node_memory_mib == split


def test_a_host_that_keeps_all_its_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="lower SCL_RESERVED_MEMORY_MIB"):
        Host(SMALL, Rules(reserved_memory_mib=8_000))


@pytest.mark.parametrize(
    ("memory_mib", "rules", "free"),
    [
        (8_000, Rules(), None),
        (8_001, Rules(), 8_000),
        (7_872, Rules(vm_overhead_mib=128), None),
        (7_873, Rules(vm_overhead_mib=128), 8_000),
        (7_000, Rules(reserved_memory_mib=1_000), None),
        (7_001, Rules(reserved_memory_mib=1_000), 7_000),
    ],
)
def test_memory_is_one_pool_never_oversubscribed(
    memory_mib: int, rules: Rules, free: int | None
) -> None:
    state = HostState(Host(SMALL, rules), {})
    outcome = plan_deploy(state, vm("a", 1, "64", memory_mib))
    if free is None:
        assert isinstance(outcome, Plan)
        assert outcome.after.free_memory_mib == 0
    else:
        asked = memory_mib + rules.vm_overhead_mib
        assert outcome == Rejection("memory_mib", asked=asked, free=free)
        assert outcome.sentence == (
            f"no room: it needs {asked} more MiB of memory and {free} are free"
        )


def test_a_vm_counts_with_its_boot_maximum() -> None:
    big = replace(vm("a", memory_mib=1_000), max_memory_mib=5_000)
    state = with_vms(Host(SMALL), big)
    assert state.free_memory_mib == 3_000
    less = plan_resize(state, "a", memory_mib=500)
    assert isinstance(less, Plan)
    assert less.after.free_memory_mib == 3_000
    more = plan_resize(state, "a", memory_mib=6_000)
    assert isinstance(more, Plan)
    assert more.after.free_memory_mib == 2_000
    assert more.after.vm("a").spec.max_memory_mib == 6_000
    assert plan_resize(state, "a", memory_mib=8_001) == Rejection("memory_mib", 3_001, 3_000)


def test_memory_stays_where_it_is_when_a_vm_grows() -> None:
    state = with_vms(Host(SMALL), vm("a", memory_mib=1_000))
    assert state.vm("a").memory_nodes == ((0, 1_000),)
    grown = plan_resize(state, "a", memory_mib=3_500)
    assert isinstance(grown, Plan)
    assert grown.after.vm("a").memory_nodes == ((0, 3_500),)
    over = plan_resize(state, "a", memory_mib=4_500)
    assert isinstance(over, Plan)
    assert over.after.vm("a").memory_nodes == ((0, 4_000), (1, 500))
    again = plan_resize(over.after, "a", memory_mib=4_600)
    assert isinstance(again, Plan)
    assert again.after.vm("a").memory_nodes == ((0, 4_000), (1, 600))
    moved = plan_resize(over.after, "a", vcpus=2)
    assert isinstance(moved, Plan)
    assert moved.after.vm("a").memory_nodes == ((0, 4_000), (1, 500))


# --- progress and status -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allocated", "asked", "expected"),
    [
        ((0, 0), (1, 100), 0.0),
        ((0, 0), (1, 150), -50.0),
        ((2, 100), (1, 200), 50.0),
        ((2, 100), (2, 100), 0.0),
        ((2, 200), (0, 100), -60.0),
        ((5, 600), (1, 0), 20.0),
        ((5, 500), (5, 0), -75.0),
        ((10, 1_000), (0, 100), -20.0),
    ],
    ids=[
        "an empty host is ideal, and stays so",
        "an empty host, worse, has no penalty",
        "towards the ideal",
        "no nearer",
        "away from it, times 1 + c/C",
        "too much memory is mended by a CPU",
        "half-full: one and a half times",
        "full: twice",
    ],
)
def test_progress_is_the_published_formula(
    allocated: tuple[int, int], asked: tuple[int, int], expected: float
) -> None:
    found = progress(
        capacity_cpus=10,
        capacity_memory_mib=1_000,
        allocated_cpus=allocated[0],
        allocated_memory_mib=allocated[1],
        gained_cpus=asked[0],
        vm_memory_mib=asked[1],
    )
    assert found == pytest.approx(expected, rel=1e-15)


def test_progress_of_nothing_on_nothing_is_none() -> None:
    nothing = {"allocated_cpus": 0, "allocated_memory_mib": 0, "gained_cpus": 0, "vm_memory_mib": 0}
    assert progress(capacity_cpus=2, capacity_memory_mib=9, **nothing) == 0


def test_progress_answers_for_a_vm_that_does_not_fit() -> None:
    state = with_vms(Host(SMALL), vm("a", 8, "1", 4_000))
    # ideal 1000; now 500; 9000 MiB on 12 CPUs would be 750
    assert deploy_progress(state, 4, 5_000, Fraction(2)) == 250.0
    isolated = with_vms(Host(LAPTOP, ISOLATED), vm("a", 8, "1", 15_888))
    assert deploy_progress(isolated, 4, 1, Fraction(1)) < 0


@pytest.mark.parametrize(
    ("rules", "specs", "status"),
    [
        (
            Rules(),
            [],
            {"cpu": {"avail": 8, "subset": {}}, "mem": {"avail": 31_776, "subset": {}}},
        ),
        (
            Rules(),
            [vm("a", 2, "2", 2_048)],
            {
                "cpu": {
                    "avail": 6,
                    "subset": {"2.0": {"pcap": 2, "palloc": 2, "vavail": 2.0, "vpotential": 12.0}},
                },
                "mem": {
                    "avail": 29_728,
                    "subset": {
                        "1": {"pcap": 2_048, "palloc": 2_048, "vavail": 0, "vpotential": 29_728}
                    },
                },
            },
        ),
        (
            Rules(vm_overhead_mib=128, reserved_memory_mib=1_000),
            [vm("b", 3, "4/3", 1_000), vm("a", 1, "1.1", 2_000)],
            {
                "cpu": {
                    "avail": 4,
                    "subset": {
                        "1.1": {"pcap": 1, "palloc": 1, "vavail": 0.1, "vpotential": 4.4},
                        "4/3": {"pcap": 3, "palloc": 3, "vavail": 1.0, "vpotential": 16 / 3},
                    },
                },
                "mem": {
                    "avail": 27_520,
                    "subset": {
                        "1": {"pcap": 3_256, "palloc": 3_256, "vavail": 0, "vpotential": 27_520}
                    },
                },
            },
        ),
    ],
    ids=["nothing runs", "as documented", "overhead, reserve, odd levels"],
)
def test_the_status_is_the_published_one(
    rules: Rules, specs: list[VmSpec], status: dict[str, object]
) -> None:
    state = with_vms(Host(LAPTOP, rules), *specs)
    assert published_status(state) == status
    assert list(published_status(state)["cpu"]["subset"]) == sorted(
        published_status(state)["cpu"]["subset"]
    )


# --- names, sizes, faults ------------------------------------------------------------------------


def test_a_name_is_of_one_vm() -> None:
    state = with_vms(Host(LAPTOP), vm("a"))
    with pytest.raises(NameTaken, match="another VM is already named 'a'"):
        plan_deploy(state, vm("a", 2, "2"))
    for decide in (plan_remove, plan_resize):
        with pytest.raises(UnknownVm, match="there is no VM named 'b' here"):
            decide(state, "b")
    with pytest.raises(ValueError, match="at least 1 vCPU"):
        plan_resize(state, "a", vcpus=0)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"vcpus": 0}, "at least 1 vCPU"),
        ({"memory_mib": 0}, "at least 1 vCPU and 1 MiB"),
        ({"max_vcpus": 1}, "more than the maximum"),
        ({"max_memory_mib": 99}, "more than the maximum"),
        ({"level": Fraction(1, 2)}, "out of range"),
        ({"level": Fraction(65)}, "out of range"),
        ({"level": Fraction(2000, 1001)}, "too fine"),
        ({"runs_at": Fraction(3)}, "worse level than it bought"),
        ({"runs_at": Fraction(1, 2)}, "worse level than it bought"),
    ],
)
def test_an_impossible_vm_is_never_born(wrong: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(vm("a", 2, "2"), **wrong)  # type: ignore[arg-type]


def test_what_a_policy_gives_is_within_what_was_bought() -> None:
    assert vm("a", 1, "3").runs_at == 3
    assert vm("a", 1, "3", runs_at="2").runs_at == 2


def broken(level: Level, cpus: Cpus, *vms: Vm) -> tuple[Level, Subset]:
    return level, Subset(cpus, vms)


GOOD = Vm(vm("a", 2, "2"), 2, 100, ((0, 100),))


@pytest.mark.parametrize(
    ("subsets", "sentence"),
    [
        ([broken(Fraction(2), (0, 99), GOOD)], "which the host does not have"),
        ([broken(Fraction(2), (0,), GOOD)], "owns 1 CPUs and needs 2"),
        ([broken(Fraction(2), (0, 1, 2), GOOD)], "more than its 2"),
        ([broken(Fraction(2), ())], "has no VM"),
        ([broken(Fraction(2), (0, 1), replace(GOOD, memory_nodes=()))], "do not hold its 100 MiB"),
        ([broken(Fraction(3), (0, 1), GOOD)], "runs at another"),
        (
            [
                broken(Fraction(2), (0, 1), GOOD),
                broken(Fraction(3), (1,), replace(GOOD, spec=vm("b", 1, "3"), vcpus=1)),
            ],
            "CPU 1 is owned twice, by 2.0 and 3.0",
        ),
        ([broken(Fraction(2), (0, 1), GOOD, GOOD)], "there twice"),
        (
            [
                broken(
                    Fraction(2),
                    (0, 1),
                    replace(GOOD, memory_mib=8_002, memory_nodes=((0, 8_002),)),
                )
            ],
            "2 MiB more than the host has",
        ),
    ],
)
def test_a_broken_state_says_what_is_broken(
    subsets: list[tuple[Level, Subset]], sentence: str
) -> None:
    assert any(sentence in found for found in violations(HostState(Host(SMALL), dict(subsets))))


@pytest.mark.parametrize(
    ("text", "cpus", "shown"),
    [
        ("", (), ""),
        ("0", (0,), "0"),
        ("0-3,8", (0, 1, 2, 3, 8), "0-3,8"),
        (" 8,0-1,1-2\n", (0, 1, 2, 8), "0-2,8"),
        ("0,1,,", (0, 1), "0-1"),
        ("5-5", (5,), "5"),
    ],
)
def test_sets_of_cpus_read_and_print_as_the_kernel_does(text: str, cpus: Cpus, shown: str) -> None:
    assert parse_cpulist(text) == cpus
    assert format_cpulist(cpus) == shown


@pytest.mark.parametrize("text", ["a", "3-1", "-1", "1-", "0x1", "1 2", "70000", "٣", "0-3:2/1"])
def test_what_is_no_set_of_cpus_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write like 0-3,8"):
        parse_cpulist(text)


def test_nodes_with_two_distances_are_as_far_apart_as_the_larger() -> None:
    cpus = tuple(Cpu(id=number, node=number, siblings=(), caches=(number,)) for number in (0, 1))
    topology = Topology(cpus, {0: (10, 20), 1: (32, 10)}, 1024, 1024)
    assert topology.distances.tolist() == [[0, 42], [42, 0]]
